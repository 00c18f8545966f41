//! Good checkpoints: every part arrives in its place, from our own images and from CRIU's.

use std::fs;
use std::path::{Path, PathBuf};

use criu_image::{Checkpoint, DataSpan, FileId, ImageKind, PageRun, Remap};

use crate::draft::{
    CHILD, DELETED, Draft, LINK, LINKED, PROGRAM, ROOT, SPARSE, THREAD, ZOMBIE, accepted,
};
use crate::verify::gpu_tree;

fn fixtures(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder)
}

#[test]
fn processes_threads_and_zombies_stand_in_their_places() {
    let checkpoint = accepted(|_| {});
    let pids: Vec<u32> = checkpoint.processes.iter().map(|process| process.pid).collect();
    assert_eq!(pids, [ROOT, ZOMBIE, CHILD]);
    let parents: Vec<_> = checkpoint.processes.iter().map(|process| process.parent).collect();
    assert_eq!(parents, [None, Some(0), Some(0)]);
    let [root, zombie, _] = &checkpoint.processes[..] else { panic!("three processes") };
    assert!(zombie.is_zombie() && !root.is_zombie());
    let body = root.body.as_ref().expect("the root lives");
    let tids: Vec<u32> = body.threads.iter().map(|thread| thread.tid).collect();
    assert_eq!(tids, [ROOT, THREAD]);
    assert_eq!(root.task.comm, b"draft");
}

#[test]
fn the_leader_comes_first_wherever_the_tree_has_it() {
    let checkpoint = accepted(|draft| {
        draft.edit("pstree.img", |root: &mut criu_image::record::PstreeEntry| {
            root.threads.reverse();
        });
    });
    let body = checkpoint.processes[0].body.as_ref().expect("the root lives");
    assert_eq!(body.threads[0].tid, ROOT);
}

#[test]
fn descriptors_are_sorted_and_files_found() {
    let checkpoint = accepted(|_| {});
    let fds: Vec<u32> = checkpoint.fd_tables[&1].iter().map(|entry| entry.fd).collect();
    assert_eq!(fds, [0, 1]);
    let program = checkpoint.reg_file(FileId(PROGRAM)).expect("a regular file");
    assert_eq!(program.name, b"/bin/program");
    assert!(checkpoint.reg_file(FileId(crate::draft::PIPE)).is_none());
    assert!(checkpoint.reg_file(FileId(404)).is_none());
}

#[test]
fn page_runs_lie_one_after_the_other_in_the_pages_file() {
    let checkpoint = accepted(|_| {});
    let body = checkpoint.processes[0].body.as_ref().expect("the root lives");
    let expected = [
        PageRun { start: 0x40_0000, len_bytes: 0x1000, offset_bytes: 0 },
        PageRun { start: 0x50_0000, len_bytes: 0x2000, offset_bytes: 0x1000 },
    ];
    assert_eq!(body.pages.runs, expected);
    assert_eq!(body.pages.total_bytes(), 0x3000);
    let pages = checkpoint.pages_path(body.pages.pages_id);
    assert_eq!(pages, checkpoint.dir.join("pages-1.img"));
    assert_eq!(checkpoint.shmems.keys().collect::<Vec<_>>(), [&77, &99]);
}

#[test]
fn data_beside_records_is_found_in_the_file() {
    let draft = Draft::new();
    let checkpoint = draft.open().expect("a good checkpoint");
    let bytes = |file: &str, span: DataSpan| {
        let begin = span.offset_bytes as usize;
        draft.files[file][begin..begin + span.len_bytes as usize].to_vec()
    };
    assert_eq!(bytes("pipes-data.img", checkpoint.pipe_data[&7].data), b"abc");
    assert_eq!(checkpoint.pipe_data[&7].capacity_bytes, Some(4096));
    assert_eq!(bytes("fifo-data.img", checkpoint.fifo_data[&8].data), b"de");
    let Remap::Ghost(ghost) = &checkpoint.remaps[&FileId(DELETED)] else { panic!("a ghost") };
    assert_eq!(ghost.id, 0x1f);
    assert_eq!(bytes("ghost-file-1f.img", ghost.extents[0].1), b"contents");
    let Remap::Ghost(sparse) = &checkpoint.remaps[&FileId(SPARSE)] else { panic!("a ghost") };
    let extents: Vec<_> = sparse
        .extents
        .iter()
        .map(|&(offset, span)| (offset, bytes("ghost-file-2.img", span)))
        .collect();
    assert_eq!(extents, [(10, b"four".to_vec()), (50, b"to".to_vec())]);
    let Remap::Linked(link) = checkpoint.remaps[&FileId(LINKED)] else { panic!("a link") };
    assert_eq!(link, FileId(LINK));
}

#[test]
fn a_process_without_descriptors_has_an_empty_table() {
    let checkpoint = accepted(|draft| {
        draft.files.remove("fdinfo-2.img");
    });
    assert!(checkpoint.fd_tables[&2].is_empty());
}

#[test]
fn images_of_criu_with_gpu_state_open() {
    let dir = tempfile::tempdir().expect("a folder");
    gpu_tree(dir.path());
    let checkpoint = Checkpoint::open(dir.path()).expect("images of CRIU 4.2");
    let tree: Vec<_> = checkpoint.processes.iter().map(|p| (p.pid, p.ppid)).collect();
    assert_eq!(tree, [(28866, 0), (28870, 28866)]);
    let of = |kind| checkpoint.other.iter().filter(move |image| image.kind == kind);
    assert_eq!(of(ImageKind::AmdgpuKfd).count(), 2);
    assert_eq!(of(ImageKind::AmdgpuRender).count(), 4);
    let sizes: Vec<u64> = of(ImageKind::AmdgpuPages).map(|image| image.size_bytes).collect();
    assert_eq!(sizes.iter().sum::<u64>(), 2 * (1_081_352 + 1_048_584));
}

#[test]
fn images_of_other_kinds_are_walked_and_counted() {
    let expected = [
        ("cgroup.img", 1),
        ("filelocks.img", 4),
        ("netdev-9.img", 1),
        ("netns-9.img", 1),
        ("seccomp.img", 3),
        ("sk-queues.img", 6),
        ("stats-dump", 1),
        ("tcp-stream-33c36.img", 1),
        ("timens-0.img", 1),
        ("tty-data.img", 2),
        ("tty-info.img", 3),
    ];
    let checkpoint = accepted(|draft| {
        for (name, _) in expected {
            let bytes = fs::read(fixtures("others").join(name)).expect("a fixture");
            draft.files.insert(name.to_owned(), bytes);
        }
    });
    let mut found: Vec<_> = checkpoint
        .other
        .iter()
        .map(|image| (image.file.to_str().expect("ASCII"), image.records))
        .collect();
    found.sort_unstable();
    assert_eq!(found, expected);
}
