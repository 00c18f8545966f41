//! Files of a directory: names, owners, heads, and every byte accounted for.

use std::fs;
use std::os::unix::fs::symlink;

use criu_image::record::{IpcDescEntry, IpcMsg, IpcMsgEntry, IpcSemEntry, IpcShmEntry, UtsnsEntry};
use criu_image::{Checkpoint, ImageError, ImageKind};

use crate::draft::{Draft, accepted, framed, head, refused};

#[test]
fn what_is_no_image_is_left_alone() {
    accepted(|draft| {
        for name in ["dump.log", "criu.pid", "restore.cropt", "core.txt"] {
            draft.files.insert(name.to_owned(), b"words".to_vec());
        }
    });
}

#[test]
fn unknown_images_are_named() {
    for name in ["what.img", "core-x.img", "core-010.img"] {
        let add = |draft: &mut Draft| {
            draft.files.insert(name.to_owned(), Vec::new());
        };
        refused(add, &format!("{name} is an image of unknown kind"));
    }
}

#[test]
fn images_of_older_versions_are_named() {
    for name in ["vmas-10.img", "reg-files.img", "sigacts-10.img"] {
        let add = |draft: &mut Draft| {
            draft.files.insert(name.to_owned(), head("mm-10.img"));
        };
        refused(add, &format!("{name}: an image of a kind that CRIU 4.2 no longer writes"));
    }
}

#[test]
fn incremental_checkpoints_are_refused_by_name() {
    let add = |draft: &mut Draft| {
        draft.files.insert("parent".to_owned(), Vec::new());
    };
    refused(add, "parent: an incremental checkpoint");
}

#[test]
fn needed_images_are_missed() {
    for (name, words) in [
        ("inventory.img", "inventory.img is missing"),
        ("pstree.img", "pstree.img is missing"),
        ("core-11.img", "core-11.img is missing: thread 11 of process 10"),
        ("core-20.img", "core-20.img is missing: process 20"),
        ("ids-10.img", "ids-10.img is missing"),
        ("mm-30.img", "mm-30.img is missing"),
        ("fs-30.img", "fs-30.img is missing"),
        ("pagemap-30.img", "pagemap-30.img is missing"),
        ("pages-2.img", "pages-2.img is missing: pagemap-shmem-77.img"),
        ("ghost-file-1f.img", "ghost-file-1f.img is missing"),
    ] {
        refused(|draft| assert!(draft.files.remove(name).is_some(), "{name}"), words);
    }
}

#[test]
fn images_of_nobody_are_refused() {
    for (from, name) in [
        ("core-10.img", "core-99.img"),
        ("mm-10.img", "mm-20.img"),
        ("ids-10.img", "ids-11.img"),
        ("fs-10.img", "fs-99.img"),
        ("pagemap-10.img", "pagemap-99.img"),
        ("pagemap-shmem-77.img", "pagemap-shmem-78.img"),
        ("pages-1.img", "pages-9.img"),
        ("fdinfo-1.img", "fdinfo-3.img"),
        ("ghost-file-2.img", "ghost-file-3.img"),
    ] {
        let add = |draft: &mut Draft| {
            draft.files.insert(name.to_owned(), draft.files[from].clone());
        };
        refused(add, &format!("{name} belongs to nothing in this checkpoint"));
    }
}

#[test]
fn both_magic_numbers_are_checked() {
    for at in [0, 4] {
        let change = |draft: &mut Draft| draft.files.get_mut("mm-10.img").expect("it")[at] ^= 1;
        refused(change, "mm-10.img begins with");
    }
    let change = |draft: &mut Draft| draft.files.get_mut("inventory.img").expect("it")[0] ^= 1;
    refused(change, "inventory.img begins with");
}

#[test]
fn lengths_beyond_the_file_or_the_limit_are_refused() {
    let set = |len: u32| {
        move |draft: &mut Draft| {
            let bytes = draft.files.get_mut("files.img").expect("it");
            bytes[8..12].copy_from_slice(&len.to_le_bytes());
        }
    };
    refused(set(u32::MAX), "record at byte 8 of files.img claims 4294967295 bytes");
    refused(set(1 << 20), "files.img is cut");
}

#[test]
fn single_records_stay_single() {
    let double = |draft: &mut Draft| {
        let record = draft.files["mm-10.img"][8..].to_vec();
        draft.files.get_mut("mm-10.img").expect("it").extend(record);
    };
    refused(double, "mm-10.img holds 2 record(s) where exactly one is expected");
    let empty = |draft: &mut Draft| {
        draft.files.insert("fs-10.img".to_owned(), head("fs-10.img"));
    };
    refused(empty, "fs-10.img holds 0 record(s) where exactly one is expected");
}

#[test]
fn unknown_fields_are_refused_where_they_stand() {
    let mut at = 0;
    let mut draft = Draft::new();
    let image = draft.files.get_mut("fs-10.img").expect("it");
    let payload = [&image[12..], &[0xf8, 0x7f, 1]].concat();
    at += 12 + payload.len() as u64 - 3;
    image.truncate(8);
    image.extend((payload.len() as u32).to_le_bytes());
    image.extend(payload);
    match draft.open() {
        Err(ImageError::Wire { file, offset_bytes, source }) => {
            assert_eq!((file.as_str(), offset_bytes), ("fs-10.img", at));
            assert!(source.to_string().contains("FsEntry has field 2047"), "{source}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn devices_and_folders_are_not_read_as_images() {
    let dir = tempfile::tempdir().expect("a folder");
    Draft::new().write(dir.path());
    fs::remove_file(dir.path().join("fs-10.img")).expect("it");
    symlink("/dev/zero", dir.path().join("fs-10.img")).expect("a link");
    let error = Checkpoint::open(dir.path()).expect_err("a device");
    assert!(error.to_string().contains("fs-10.img: an image that is no regular file"), "{error}");
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let error = Checkpoint::open("/nowhere/at/all").expect_err("no folder");
    assert!(error.to_string().contains("cannot read /nowhere/at/all"), "{error}");
}

fn count(kind: ImageKind, change: impl FnOnce(&mut Draft)) -> u64 {
    let checkpoint = accepted(change);
    let image = checkpoint.other.iter().find(|image| image.kind == kind);
    image.expect("an image of this kind").records
}

#[test]
fn data_of_ipc_namespaces_is_walked_with_its_padding() {
    let desc = IpcDescEntry::default();
    let sem = framed(&IpcSemEntry { desc, nsems: 3 });
    let put = |draft: &mut Draft| {
        draft.put_extra("ipcns-sem-5.img", &[(sem.clone(), &[0; 8]), (sem.clone(), &[0; 8])]);
    };
    assert_eq!(count(ImageKind::IpcSem, put), 2);
    let cut = |draft: &mut Draft| draft.put_extra("ipcns-sem-5.img", &[(sem.clone(), &[0; 6])]);
    refused(cut, "ipcns-sem-5.img is cut");

    let queue = framed(&IpcMsgEntry { desc, qbytes: 9, qnum: 1 });
    let message = framed(&IpcMsg { mtype: 1, msize: 9 });
    let put = |draft: &mut Draft| {
        draft.put_extra("ipcns-msg-5.img", &[(queue.clone(), b""), (message, &[0; 16])]);
    };
    assert_eq!(count(ImageKind::IpcMsg, put), 1);
    let cut = |draft: &mut Draft| draft.put_extra("ipcns-msg-5.img", &[(queue, b"")]);
    refused(cut, "ipcns-msg-5.img is cut");
}

#[test]
fn segments_of_ipc_namespaces_own_their_pagemaps() {
    let desc = IpcDescEntry { id: 55, ..Default::default() };
    let put = |size: u64| {
        move |draft: &mut Draft| {
            let in_pagemaps = Some(true);
            let segment = IpcShmEntry { desc, size, in_pagemaps, hugetlb_flag: None };
            draft.put("ipcns-shm-5.img", &[segment]);
            draft.put_pages("pagemap-shmem-55.img", 5, &[(0x1000, 1)]);
        }
    };
    assert_eq!(count(ImageKind::IpcShm, put(0x1001)), 1);
    refused(put(0x1000), "exceed the 0x1000 bytes shared");
}

#[test]
fn images_without_a_model_follow_the_schema_too() {
    assert_eq!(
        count(ImageKind::Utsns, |draft| draft.put("utsns-5.img", &[UtsnsEntry::default()])),
        1
    );
    let put = |draft: &mut Draft| {
        let bytes = [head("utsns-5.img"), vec![2, 0, 0, 0, 10, 0]].concat();
        draft.files.insert("utsns-5.img".to_owned(), bytes);
    };
    refused(put, "UtsnsEntry.domainname is missing");
}

/// A kind that no table knows would panic, so every kind of record image is tried once.
#[test]
fn every_kind_of_image_has_a_reader() {
    let names = [
        "apparmor.img",
        "autofs-1.img",
        "binfmt-misc.img",
        "bpfmap-data.img",
        "bpfmap-file.img",
        "cgroup.img",
        "core-9.img",
        "cpuinfo.img",
        "fanotify-mark.img",
        "fdinfo-9.img",
        "filelocks.img",
        "inotify-wd.img",
        "ipcns-msg-1.img",
        "ipcns-sem-1.img",
        "ipcns-shm-1.img",
        "ipcns-var-1.img",
        "irmap-cache",
        "mountpoints-1.img",
        "netdev-1.img",
        "netns-1.img",
        "pidfd.img",
        "pidns-1.img",
        "sk-queues.img",
        "stats-restore",
        "tcp-stream-a.img",
        "timens-0.img",
        "tty-data.img",
        "tty-info.img",
        "userns-1.img",
        "utsns-1.img",
        "tmpfs-1.tar.gz.img",
        "iptables-1.img",
        "amdgpu-dmabuf_1.img",
    ];
    for name in names {
        for bytes in
            [Vec::new(), vec![0; 8], [head_of(name), vec![4, 0, 0, 0, 8, 1, 16, 1]].concat()]
        {
            let mut draft = Draft::new();
            draft.files.insert(name.to_owned(), bytes);
            let _ = draft.open();
        }
    }
}

fn head_of(name: &str) -> Vec<u8> {
    // `stats-restore` is a service image like `stats-dump`.
    head(if name == "stats-restore" { "stats-dump" } else { name })
}
