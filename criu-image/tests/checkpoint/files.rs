//! Open files: every reference leads to an entry of the right kind.

use criu_image::FileId;
use criu_image::record::{
    FdTypes, FdinfoEntry, FileEntry, FsEntry, GhostChunkEntry, GhostFileEntry, MemfdInodeEntry,
    MmEntry, PipeDataEntry, RegFileEntry, RemapFilePathEntry, RemapType, TunfileEntry,
};

use crate::draft::{
    DELETED, Draft, FIFO_PATH, LINKED, MEMFD, PIPE, TIMERFD, accepted, fdinfo, file, framed,
    refused, remap,
};

fn files(edit: impl FnOnce(&mut Vec<FileEntry>)) -> impl FnOnce(&mut Draft) {
    move |draft| draft.edit_all("files.img", edit)
}

/// Position of a file in `files.img`; ids count from 1.
fn at(id: u32) -> usize {
    id as usize - 1
}

/// CRIU writes the path of a TUN device as an entry of its own, with the same id.
#[test]
fn tun_device_has_its_path_beside_it() {
    let tun = FileEntry {
        r#type: FdTypes::Tunf as i32,
        id: 50,
        tunf: Some(TunfileEntry { id: 50, ..Default::default() }),
        ..Default::default()
    };
    let reg = RegFileEntry { id: 50, name: b"/dev/net/tun".to_vec(), ..Default::default() };
    let path = FileEntry {
        r#type: FdTypes::Reg as i32,
        id: 50,
        reg: Some(reg.clone()),
        ..Default::default()
    };
    for entries in [[path.clone(), tun.clone()], [tun.clone(), path.clone()]] {
        let checkpoint = accepted(|draft| {
            draft.edit_all("files.img", |files: &mut Vec<FileEntry>| files.extend(entries));
        });
        let file = &checkpoint.files[&FileId(50)];
        assert_eq!((file.r#type(), &file.reg), (FdTypes::Tunf, &Some(reg.clone())));
    }
    for entries in [vec![tun.clone(), tun.clone()], vec![path.clone(), tun, path]] {
        let twice = |draft: &mut Draft| {
            draft.edit_all("files.img", |files: &mut Vec<FileEntry>| files.extend(entries));
        };
        refused(twice, "file 0x32 occurs twice");
    }
}

#[test]
fn entries_have_the_part_of_their_kind_and_no_other() {
    refused(files(|files| files[0].reg = None), "file 0x1 lacks the part of its kind");
    refused(files(|files| files[0].id = 99), "file 0x63 lacks the part of its kind, or its id");
    let kind = |files: &mut Vec<FileEntry>| files[0].r#type = FdTypes::Pipe as i32;
    refused(files(kind), "file 0x1 lacks the part of its kind");
    let both = |files: &mut Vec<FileEntry>| files[0].pipe = files[at(PIPE)].pipe;
    refused(files(both), "file 0x1 has parts of several kinds");
    refused(files(|files| files.push(file(50, FdTypes::Und))), "file 0x32 lacks the part");
}

#[test]
fn file_ids_are_unique() {
    refused(files(|files| files.push(files[0].clone())), "file 0x1 occurs twice");
}

#[test]
fn timer_files_hold_times_that_exist() {
    let late = |files: &mut Vec<FileEntry>| {
        files[at(TIMERFD)].tfd.as_mut().expect("a timer").vnsec = 1_000_000_000;
    };
    refused(files(late), "file 0x9: a timer with a thousand million nanoseconds");
}

#[test]
fn descriptors_lead_to_files_of_their_kind() {
    let table =
        |entries: Vec<FdinfoEntry>| move |draft: &mut Draft| draft.put("fdinfo-1.img", &entries);
    let pipe = fdinfo(1, PIPE, FdTypes::Pipe);
    refused(table(vec![pipe.clone(), pipe]), "descriptor 1 occurs twice");
    let unknown = fdinfo(1, 99, FdTypes::Pipe);
    refused(table(vec![unknown]), "fdinfo-1.img, byte 8: file 0x63 of descriptor 1 is unknown");
    let other = fdinfo(1, PIPE, FdTypes::Reg);
    refused(table(vec![other]), "file 0x3 of descriptor 1 is of another kind");
    refused(
        table(vec![fdinfo(1 << 31, PIPE, FdTypes::Pipe)]),
        "descriptor 2147483648 occurs twice",
    );
}

#[test]
fn folders_and_programs_are_regular_files() {
    let fs = |edit: fn(&mut FsEntry)| move |draft: &mut Draft| draft.edit("fs-10.img", edit);
    refused(fs(|fs| fs.cwd_id = 99), "working directory 0x63 is no regular file of files.img");
    refused(fs(|fs| fs.root_id = PIPE), "root directory 0x3 is no regular file of files.img");
    let change = |draft: &mut Draft| {
        draft.edit("mm-30.img", |mm: &mut MmEntry| mm.exe_file_id = 99);
    };
    refused(change, "mm-30.img, byte 8: program 0x63 is no regular file of files.img");
}

#[test]
fn mapped_files_are_known() {
    let map = |id: u64| {
        move |draft: &mut Draft| {
            draft.edit("mm-10.img", |mm: &mut MmEntry| mm.vmas[0].shmid = id);
        }
    };
    refused(map(99), "the mapping at 0x400000 is of 0x63, which is no regular file");
    refused(map(u64::from(PIPE)), "which is no regular file");
    refused(map(1 << 32 | 1), "which is no regular file");
    let memfd = |id: u32| {
        move |draft: &mut Draft| {
            draft.edit("mm-10.img", |mm: &mut MmEntry| {
                mm.vmas[0].status |= criu_image::vma_status::MEMFD;
                mm.vmas[0].shmid = u64::from(id);
            });
        }
    };
    accepted(memfd(MEMFD));
    refused(memfd(PIPE), "which is no memory file");
}

#[test]
fn memory_files_have_an_inode_of_their_own() {
    let change = |draft: &mut Draft| {
        draft.edit("memfd.img", |inode: &mut MemfdInodeEntry| inode.inode_id = 2);
    };
    refused(change, "inode 1 of memory file 0x6 is unknown");
    let again = |edit: fn(&mut MemfdInodeEntry)| {
        move |draft: &mut Draft| {
            draft.edit_all("memfd.img", |inodes: &mut Vec<MemfdInodeEntry>| {
                let mut second = inodes[0].clone();
                edit(&mut second);
                inodes.push(second);
            });
        }
    };
    refused(again(|inode| inode.shmid = 5), "inode 1 occurs twice");
    refused(again(|inode| inode.inode_id = 5), "contents 99 belong to two memory files");
}

#[test]
fn fifos_have_a_path() {
    let change = |files: &mut Vec<FileEntry>| {
        files.retain(|file| file.id != FIFO_PATH);
    };
    refused(files(change), "path 0x5 of fifo 0x4 is unknown");
}

#[test]
fn kept_bytes_belong_to_a_pipe_and_fit_it() {
    let with = |pipe_id: u32, bytes: u32, size: Option<u32>| {
        move |draft: &mut Draft| {
            let data = framed(&PipeDataEntry { pipe_id, bytes, size });
            draft.put_extra("pipes-data.img", &[(data, b"abc")]);
        }
    };
    refused(with(99, 3, None), "pipes-data.img, byte 8: pipe 0x63 is no open file");
    refused(with(8, 3, None), "pipe 0x8 is no open file"); // a fifo's
    refused(with(7, 3, Some(2)), "pipe 0x7 holds more than its size");
    refused(with(7, 4, None), "pipes-data.img is cut: 1 more byte(s) are needed");
    refused(with(7, 2, None), "pipes-data.img is cut");
    let twice = |draft: &mut Draft| {
        let data = framed(&PipeDataEntry { pipe_id: 7, bytes: 0, size: None });
        draft.put_extra("pipes-data.img", &[(data.clone(), b""), (data, b"")]);
    };
    refused(twice, "pipe 0x7 occurs twice");
}

#[test]
fn remaps_lead_from_a_file_to_another() {
    let with = |entries: Vec<RemapFilePathEntry>| {
        move |draft: &mut Draft| {
            draft.edit_all("remap-fpath.img", |remaps: &mut Vec<RemapFilePathEntry>| {
                remaps.extend(entries);
            });
        }
    };
    let words = "remap-fpath.img, byte";
    refused(with(vec![remap(99, 5, RemapType::Procfs)]), words);
    refused(with(vec![remap(99, 5, RemapType::Procfs)]), "file 0x63 is unknown");
    refused(with(vec![remap(DELETED, 5, RemapType::Procfs)]), "file 0x7 occurs twice");
    refused(with(vec![remap(1, 99, RemapType::Linked)]), "link 0x63 is no other regular file");
    refused(with(vec![remap(1, PIPE, RemapType::Linked)]), "link 0x3 is no other regular file");
    refused(with(vec![remap(1, 1, RemapType::Linked)]), "link 0x1 is no other regular file");
    let checkpoint = accepted(with(vec![remap(1, 5, RemapType::Procfs)]));
    assert!(matches!(checkpoint.remaps[&FileId(1)], criu_image::Remap::Procfs(5)));
    assert!(matches!(checkpoint.remaps[&FileId(LINKED)], criu_image::Remap::Linked(_)));
}

#[test]
fn ghosts_hold_what_their_kind_can() {
    let fifo = |data: &'static [u8]| {
        move |draft: &mut Draft| {
            let entry = framed(&GhostFileEntry { mode: 0o010_644, ..Default::default() });
            draft.put_extra("ghost-file-1f.img", &[(entry, data)]);
        }
    };
    accepted(fifo(b""));
    refused(fifo(b"x"), "contents of what is no regular file");
}

#[test]
fn chunks_of_sparse_ghosts_lie_in_order_within_the_file() {
    let with = |size: Option<u64>, chunks: &[(u64, u64)]| {
        let chunks = chunks.to_vec();
        move |draft: &mut Draft| {
            let chunk = |&(off, len): &(u64, u64)| {
                let mut bytes = framed(&GhostChunkEntry { len, off });
                bytes.extend(vec![0; len.min(64) as usize]);
                bytes
            };
            let mode = 0o100_644;
            let entry = GhostFileEntry { mode, chunks: Some(true), size, ..Default::default() };
            let mut parts: Vec<(Vec<u8>, &[u8])> = vec![(framed(&entry), b"")];
            parts.extend(chunks.iter().map(|part| (chunk(part), &b""[..])));
            draft.put_extra("ghost-file-2.img", &parts);
        }
    };
    accepted(with(Some(20), &[(0, 8), (8, 2), (16, 4)]));
    refused(with(None, &[]), "a file in chunks has no size");
    refused(with(Some(20), &[(16, 5)]), "chunk at 0x10 is empty or out of place");
    refused(with(Some(20), &[(8, 4), (0, 4)]), "chunk at 0x0 is empty or out of place");
    refused(with(Some(20), &[(0, 4), (2, 4)]), "chunk at 0x2 is empty or out of place");
    refused(with(Some(20), &[(0, 0)]), "chunk at 0x0 is empty or out of place");
    refused(with(Some(20), &[(u64::MAX, 2)]), "is empty or out of place");
    refused(with(Some(100), &[(0, 65)]), "ghost-file-2.img is cut: 1 more byte(s)");
}
