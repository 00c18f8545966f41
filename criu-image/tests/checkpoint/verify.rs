//! A whole directory checked: one damage is one finding, and every damage is found.

use std::path::Path;

use criu_image::record::{
    BpfmapDataEntry, BpfmapFileEntry, CriuKfd, CriuRenderNode, DrmBoEntry, ExtFileEntry, FdTypes,
    FileEntry, InetSkEntry, InventoryEntry, KfdBoEntry, MntEntry, PluginsEntry, PstreeEntry,
    RegFileEntry, ScmEntry, SkPacketEntry, ThawGpuEntry, TtyDataEntry, TtyFileEntry, TtyInfoEntry,
    UnixSkEntry,
};
use criu_image::{
    ImageBuilder, ImageKind, ImageReader, pack_kfd_private, unpack_kfd_private, verify,
};
use prost::Message;

use crate::draft::{CHILD, Draft, PROGRAM, ROOT, framed, head};

/// All findings of a draft that was changed, as text.
fn findings(change: impl FnOnce(&mut Draft)) -> Vec<String> {
    let mut draft = Draft::new();
    change(&mut draft);
    let dir = tempfile::tempdir().expect("a folder");
    draft.write(dir.path());
    verify(dir.path()).expect("a folder").iter().map(ToString::to_string).collect()
}

/// Checks that there are these findings and no others; each has these words.
#[track_caller]
fn check(change: impl FnOnce(&mut Draft), expected: &[&str]) {
    let found = findings(change);
    let same = found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, words)| found.contains(words));
    assert!(same, "expected: {expected:#?}\n   found: {found:#?}");
}

#[test]
fn good_checkpoint_has_no_findings() {
    check(|_| {}, &[]);
}

#[test]
fn every_damage_is_found() {
    check(
        |draft| {
            draft.edit_task(ROOT, |task| task.comm = vec![b'x'; 16]);
            draft.edit_all("files.img", |files: &mut Vec<FileEntry>| files[0].id = 77);
            draft.files.remove("pages-3.img");
            draft.files.insert("what.img".to_owned(), Vec::new());
            draft.files.get_mut("fifo-data.img").expect("it").pop();
            draft.put("cgroup.img", &[RegFileEntry::default()]);
        },
        &[
            "what.img is an image of unknown kind",
            "file 0x4d lacks the part of its kind, or its id differs",
            "core-10.img, byte 8: a name of 16 bytes is no thread's",
            "fifo-data.img is cut",
            "pages-3.img is missing",
            // The program's entry has another id now; the other process is left out.
            "mm-30.img, byte 8: program 0x1 is no regular file",
            "cgroup.img, byte 13: CgroupEntry.sets has wire type 0",
        ],
    );
}

/// What a damage hides is not reported as missing.
#[test]
fn one_damage_is_one_finding() {
    let cut = |name: &'static str| {
        move |draft: &mut Draft| assert!(draft.files.get_mut(name).expect("it").pop().is_some())
    };
    for name in [
        "pstree.img",
        "core-10.img",
        "core-11.img",
        "core-30.img",
        "mm-10.img",
        "ids-30.img",
        "fs-30.img",
        "files.img",
        "fdinfo-1.img",
        "memfd.img",
        "remap-fpath.img",
        "ghost-file-2.img",
        "pipes-data.img",
        "pagemap-10.img",
        "pagemap-shmem-77.img",
        "seccomp.img",
        "inventory.img",
        "pages-1.img",
    ] {
        let found = findings(cut(name));
        assert_eq!(found.len(), 1, "{name}: {found:#?}");
        assert!(found[0].contains(name), "{name}: {found:#?}");
    }
}

#[test]
fn several_findings_of_one_image_are_all_told() {
    let two = |draft: &mut Draft| {
        draft.edit_all("fdinfo-1.img", |table: &mut Vec<criu_image::record::FdinfoEntry>| {
            table.iter_mut().for_each(|entry| entry.id += 1000);
        });
    };
    check(two, &["file 0x3eb of descriptor 1 is unknown", "file 0x3ec of descriptor 0 is unknown"]);
}

/// Found by the fuzzer: the size of such a mapping was computed.
#[test]
fn shared_mapping_that_ends_before_it_begins_is_left_out() {
    let change = |draft: &mut Draft| {
        draft.edit("mm-10.img", |mm: &mut criu_image::record::MmEntry| {
            let shared = &mut mm.vmas[2];
            (shared.start, shared.end) = (shared.end, shared.start);
        });
    };
    check(change, &["mm-10.img, byte 8: mapping 0x602000-0x600000 is no range of pages"]);
}

#[test]
fn findings_are_bounded() {
    let many = |draft: &mut Draft| {
        draft.edit_all("files.img", |files: &mut Vec<FileEntry>| {
            let first = files[0].clone();
            files.extend((0..2000).map(|_| first.clone()));
        });
    };
    assert_eq!(findings(many).len(), 1000);
}

#[test]
fn images_of_other_versions_are_told_apart_from_damage() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut draft = Draft::new();
    draft.files.insert("vmas-10.img".to_owned(), Vec::new());
    draft.write(dir.path());
    let found = verify(dir.path()).expect("a folder");
    assert_eq!(found.len(), 1);
    assert!(!found[0].is_damage(), "{}", found[0]);
    assert!(verify(dir.path().join("none")).is_err());
}

#[test]
fn terminals_are_known() {
    let tty = |tty_info_id| FileEntry {
        r#type: FdTypes::Tty as i32,
        id: 50,
        tty: Some(TtyFileEntry { id: 50, tty_info_id, ..Default::default() }),
        ..Default::default()
    };
    let with = |id: u32, data: u32| {
        move |draft: &mut Draft| {
            draft.edit_all("files.img", |files: &mut Vec<FileEntry>| files.push(tty(id)));
            draft.put("tty-info.img", &[TtyInfoEntry { id: 1, ..Default::default() }]);
            draft.put("tty-data.img", &[TtyDataEntry { tty_id: data, data: vec![1] }]);
        }
    };
    check(with(1, 1), &[]);
    check(with(2, 1), &["files.img, byte 8: terminal 0x2 of file 0x32 is unknown"]);
    check(with(1, 3), &["tty-data.img, byte 8: terminal 0x3 is unknown"]);
}

#[test]
fn packets_belong_to_sockets_and_carry_known_files() {
    let with = |id_for: u32, right: u32| {
        move |draft: &mut Draft| {
            let usk = UnixSkEntry { id: 50, ..Default::default() };
            let socket = FileEntry {
                r#type: FdTypes::Unixsk as i32,
                id: 50,
                usk: Some(usk),
                ..Default::default()
            };
            draft.edit_all("files.img", |files: &mut Vec<FileEntry>| files.push(socket));
            let scm = vec![ScmEntry { r#type: 1, rights: vec![right] }];
            let packet = SkPacketEntry { id_for, length: 2, scm };
            draft.put_extra("sk-queues.img", &[(framed(&packet), b"ab")]);
        }
    };
    check(with(50, PROGRAM), &[]);
    check(with(51, PROGRAM), &["socket 0x33 is no unix socket of files.img"]);
    check(with(50, 999), &["file 0x3e7 on its way in a packet is unknown"]);
}

#[test]
fn connections_have_their_streams() {
    let with = |state: u32, stream: Option<&'static str>, tcp_close: bool| {
        move |draft: &mut Draft| {
            let isk = InetSkEntry { id: 50, ino: 0xabc, proto: 6, state, ..Default::default() };
            let socket = FileEntry {
                r#type: FdTypes::Inetsk as i32,
                id: 50,
                isk: Some(isk),
                ..Default::default()
            };
            draft.edit_all("files.img", |files: &mut Vec<FileEntry>| files.push(socket));
            draft.edit("inventory.img", |inventory: &mut InventoryEntry| {
                inventory.tcp_close = Some(tcp_close);
            });
            if let Some(name) = stream {
                draft.put(name, &[criu_image::record::TcpStreamEntry::default()]);
            }
        }
    };
    check(with(1, Some("tcp-stream-abc.img"), false), &[]);
    check(with(10, None, false), &[]);
    check(with(1, None, true), &[]);
    check(with(1, None, false), &["tcp-stream-abc.img is missing: socket 0x32 of files.img"]);
    check(
        with(10, Some("tcp-stream-abd.img"), false),
        &["tcp-stream-abd.img belongs to nothing in this checkpoint"],
    );
}

#[test]
fn maps_and_mounts_are_known() {
    let with = |map: u32, mount: i32| {
        move |draft: &mut Draft| {
            let bpf = BpfmapFileEntry { id: 50, map_id: 7, ..Default::default() };
            let file = FileEntry {
                r#type: FdTypes::Bpfmap as i32,
                id: 50,
                bpf: Some(bpf),
                ..Default::default()
            };
            draft.edit_all("files.img", |files: &mut Vec<FileEntry>| {
                files.push(file);
                files[0].reg.as_mut().expect("a path").mnt_id = Some(mount);
            });
            let data = BpfmapDataEntry { map_id: map, ..Default::default() };
            draft.put("bpfmap-data.img", &[data]);
            draft.put("mountpoints-9.img", &[MntEntry { mnt_id: 3, ..Default::default() }]);
        }
    };
    check(with(7, 3), &[]);
    check(with(7, -1), &[]);
    check(with(8, 3), &["bpfmap-data.img, byte 8: map 0x8 is no open file"]);
    check(with(7, 4), &["mount 4 of file 0x1 is unknown"]);
}

/// The checkpoint with GPUs, whose contents are left out of the fixtures, with contents made up.
pub(crate) fn gpu_tree(dir: &Path) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gpu-tree");
    for file in std::fs::read_dir(fixtures).expect("fixtures") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), dir.join(file.file_name())).expect("room");
    }
    let sized = |name: &str, len: u64| {
        std::fs::File::create(dir.join(name)).and_then(|file| file.set_len(len)).expect("room");
    };
    for (name, pid) in [("pages-1.img", 28866), ("pages-2.img", 28870)] {
        sized(name, total_of(dir, pid));
    }
    for id in [19, 32] {
        sized(&format!("amdgpu-pages-{id}-5a01.img"), 8 + (1 << 20) + (32 << 10));
        sized(&format!("amdgpu-pages-{id}-5a02.img"), 8 + (1 << 20));
    }
}

fn total_of(dir: &Path, pid: u32) -> u64 {
    let mut image = ImageReader::open(dir.join(format!("pagemap-{pid}.img"))).expect("an image");
    image.next_record::<criu_image::record::PagemapHead>().expect("a head");
    let entries = image.records::<criu_image::record::PagemapEntry>();
    entries.map(|entry| entry.expect("an entry").1.nr_pages.unwrap_or(0) * 4096).sum()
}

/// Checks the checkpoint with GPUs after a change of its KFD file.
#[track_caller]
fn check_kfd(change: impl FnOnce(&Path, &mut CriuKfd), expected: &[&str]) {
    let dir = tempfile::tempdir().expect("a folder");
    gpu_tree(dir.path());
    let path = dir.path().join("amdgpu-kfd-19.img");
    let mut image = ImageReader::open(&path).expect("an image");
    let (_, mut kfd) = image.next_record::<CriuKfd>().expect("a record").expect("a record");
    change(dir.path(), &mut kfd);
    let payload = kfd.encode_to_vec();
    let bytes = [&(payload.len() as u64).to_le_bytes()[..], &payload].concat();
    std::fs::write(path, bytes).expect("room");
    let found: Vec<String> =
        verify(dir.path()).expect("a folder").iter().map(ToString::to_string).collect();
    let same = found.len() == expected.len()
        && found.iter().zip(expected).all(|(found, words)| found.contains(words));
    assert!(same, "expected: {expected:#?}\n   found: {found:#?}");
}

#[test]
fn checkpoint_with_gpus_has_no_findings() {
    check_kfd(|_, _| {}, &[]);
}

/// The image is ours; a restorer relies on it.
#[test]
fn state_of_the_tree_agrees_with_images_of_the_plugin() {
    let with = |version: u32| {
        move |dir: &Path, _: &mut CriuKfd| {
            let state = ThawGpuEntry { version, ..Default::default() };
            let image = ImageBuilder::of_one(ImageKind::ThawGpu, &state);
            std::fs::write(dir.join("thaw-gpu.img"), image).expect("room");
        }
    };
    check_kfd(with(1), &["thaw-gpu.img, byte 8: file 0x13 is not listed"]);
    check_kfd(
        with(2),
        &["thaw-gpu.img: GPU state of another version of thaw is not supported yet"],
    );
}

#[test]
fn counts_of_the_kfd_file_are_checked() {
    check_kfd(
        |_, kfd| kfd.num_of_bos += 1,
        &["14 buffers are claimed, 13 are there", "private data is cut: 8 more byte(s)"],
    );
    check_kfd(|_, kfd| kfd.num_of_cpus += 1, &["4 devices are claimed, 3 are there"]);
    check_kfd(
        |_, kfd| kfd.num_of_objects += 1,
        &["private data is cut: 4 more byte(s) are needed at byte 3864"],
    );
    check_kfd(
        |_, kfd| kfd.bo_entries[0].gpu_id = 0x77,
        &["amdgpu-kfd-19.img, byte 8: GPU 0x77 of a buffer is unknown"],
    );
}

#[test]
fn private_data_is_held_against_the_devices() {
    let change = |_: &Path, kfd: &mut CriuKfd| {
        let mut private = unpack_kfd_private(kfd).expect("version 1");
        private.queues[1].gpu_id = 0x77;
        kfd.priv_data = pack_kfd_private(&private).expect("it fits");
    };
    check_kfd(change, &["GPU 0x77 of a queue in the private data is unknown"]);
    let change = |_: &Path, kfd: &mut CriuKfd| kfd.priv_data[0] = 2;
    check_kfd(change, &["private data of another version of the driver is not supported yet"]);
}

#[test]
fn contents_of_gpu_buffers_have_the_size_of_the_buffers() {
    let grow = |_: &Path, kfd: &mut CriuKfd| {
        let bo: &mut KfdBoEntry =
            kfd.bo_entries.iter_mut().find(|bo| bo.alloc_flags & 1 != 0).expect("VRAM");
        bo.size += 4096;
    };
    check_kfd(grow, &["bytes of buffers are listed, it has 1081344"]);
    let remove = |dir: &Path, _: &mut CriuKfd| {
        std::fs::remove_file(dir.join("amdgpu-pages-19-5a02.img")).expect("it is there");
    };
    check_kfd(remove, &["amdgpu-pages-19-5a02.img is missing: 1048576 bytes of buffers"]);
    let add = |dir: &Path, _: &mut CriuKfd| {
        std::fs::write(dir.join("amdgpu-pages-20-5a02.img"), [0; 8]).expect("room");
    };
    check_kfd(add, &["amdgpu-pages-20-5a02.img belongs to nothing in this checkpoint"]);
}

/// CRIU's plugin writes a file for each GPU of a KFD file, with nothing but its head then.
#[test]
fn gpu_without_saved_buffers_may_have_a_file_of_contents() {
    let with = |contents: Option<&'static [u8]>| {
        move |dir: &Path, kfd: &mut CriuKfd| {
            for bo in kfd.bo_entries.iter_mut().filter(|bo| bo.gpu_id == 0x5a02) {
                bo.alloc_flags &= !3;
            }
            let path = dir.join("amdgpu-pages-19-5a02.img");
            match contents {
                Some(bytes) => std::fs::write(path, bytes).expect("room"),
                None => std::fs::remove_file(path).expect("it is there"),
            }
        }
    };
    check_kfd(with(Some(&[0; 8])), &[]);
    check_kfd(with(None), &[]);
    check_kfd(with(Some(&[0; 9])), &["0 bytes of buffers are listed, it has 1"]);
}

#[test]
fn gpu_without_contents_may_have_an_empty_file_of_them() {
    let name = "amdgpu-pages-19-5a02.img";
    let without = |kfd: &mut CriuKfd| {
        kfd.bo_entries.iter_mut().filter(|bo| bo.gpu_id == 0x5a02).for_each(|bo| {
            bo.alloc_flags &= !3;
        });
    };
    let empty = |dir: &Path, kfd: &mut CriuKfd| {
        without(kfd);
        std::fs::write(dir.join(name), [0; 8]).expect("room");
    };
    check_kfd(empty, &[]);
    let absent = |dir: &Path, kfd: &mut CriuKfd| {
        without(kfd);
        std::fs::remove_file(dir.join(name)).expect("it is there");
    };
    check_kfd(absent, &[]);
    let full = |_: &Path, kfd: &mut CriuKfd| without(kfd);
    check_kfd(full, &["amdgpu-pages-19-5a02.img, byte 0: 0 bytes of buffers are listed"]);
}

#[test]
fn files_of_the_plugin_belong_to_external_files() {
    let rename = |dir: &Path, _: &mut CriuKfd| {
        let name = |id: u32| dir.join(format!("amdgpu-renderD-{id}.img"));
        std::fs::rename(name(21), name(99)).expect("room");
    };
    check_kfd(
        rename,
        &[
            "amdgpu-renderD-99.img belongs to nothing in this checkpoint: no external file",
            "amdgpu-renderD-99.img, byte 8: the id in it is 0x15",
            "files.img, byte 8: external file 0x15 has no image of the plugin",
        ],
    );
    let cut = |dir: &Path, _: &mut CriuKfd| {
        std::fs::write(dir.join("amdgpu-renderD-21.img"), [5]).expect("room");
    };
    check_kfd(cut, &["amdgpu-renderD-21.img is cut"]);
}

#[test]
fn contents_of_render_nodes_are_checked() {
    let with = |contents: Option<usize>, is_import: u32| {
        move |draft: &mut Draft| {
            let ext = ExtFileEntry { id: 50, ..Default::default() };
            let file = FileEntry {
                r#type: FdTypes::Ext as i32,
                id: 50,
                ext: Some(ext),
                ..Default::default()
            };
            draft.edit_all("files.img", |files: &mut Vec<FileEntry>| files.push(file));
            draft.edit("inventory.img", |inventory: &mut InventoryEntry| {
                let plugins = vec![b"amdgpu_plugin".to_vec()];
                inventory.plugins_entry = Some(PluginsEntry { plugins });
            });
            let bo = DrmBoEntry { size: 100, is_import, ..Default::default() };
            let node = CriuRenderNode {
                id: 50,
                drm_render_minor: 128,
                num_of_bos: 1,
                bo_entries: vec![bo],
                ..Default::default()
            };
            let payload = node.encode_to_vec();
            let bytes = [&(payload.len() as u64).to_le_bytes()[..], &payload].concat();
            draft.files.insert("amdgpu-renderD-50.img".to_owned(), bytes);
            if let Some(len) = contents {
                let name = "amdgpu-drm-pages-50-128-0000.img".to_owned();
                draft.files.insert(name, vec![0xee; len]);
            }
        }
    };
    // The length before the contents may be anything.
    check(with(Some(108), 0), &[]);
    check(with(None, 1), &[]);
    check(with(Some(108), 1), &[]);
    check(with(None, 0), &["amdgpu-drm-pages-50-128-0000.img is missing: 100 bytes"]);
    check(with(Some(107), 0), &["100 bytes of buffers are listed, it has 99"]);
}

#[test]
fn tree_is_checked_beyond_a_damaged_process() {
    let change = |draft: &mut Draft| {
        draft.edit_all("pstree.img", |entries: &mut Vec<PstreeEntry>| entries[2].ppid = 77);
        draft.files.insert("mm-30.img".to_owned(), head("mm-30.img"));
        assert_eq!(CHILD, 30);
    };
    check(
        change,
        &["parent 77 of process 30 does not come before it", "mm-30.img holds 0 record(s)"],
    );
}
