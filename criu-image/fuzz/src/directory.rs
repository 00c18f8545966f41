//! Any bytes as a directory of images: opened, verified, looked at, compared with itself.
//!
//! The input is a list of files: a byte that chooses the name, three for the length, the contents.

use std::fs;
use std::io;
use std::path::Path;

use criu_image::{Checkpoint, MANIFEST_NAME, Memory, View, ViewKind, checksum, diff, verify};

/// Names that images refer to each other by. A process 1 with a thread 2 and a child 3.
const NAMES: [&str; 50] = [
    "inventory.img",
    "pstree.img",
    "core-1.img",
    "core-2.img",
    "core-3.img",
    "ids-1.img",
    "ids-3.img",
    "mm-1.img",
    "mm-3.img",
    "fs-1.img",
    "fs-3.img",
    "fdinfo-1.img",
    "fdinfo-2.img",
    "files.img",
    "pagemap-1.img",
    "pagemap-3.img",
    "pagemap-shmem-1.img",
    "pages-1.img",
    "pages-2.img",
    "pages-3.img",
    "remap-fpath.img",
    "ghost-file-1.img",
    "ghost-file-2.img",
    "memfd.img",
    "pipes-data.img",
    "fifo-data.img",
    "seccomp.img",
    "cgroup.img",
    "tty-info.img",
    "tty-data.img",
    "sk-queues.img",
    "tcp-stream-1.img",
    "ipcns-shm-1.img",
    "ipcns-msg-1.img",
    "ipcns-sem-1.img",
    "mountpoints-1.img",
    "bpfmap-data.img",
    "timens-0.img",
    "stats-dump",
    "amdgpu-kfd-1.img",
    "amdgpu-kfd-2.img",
    "amdgpu-renderD-3.img",
    "amdgpu-dmabuf_4.img",
    "amdgpu-pages-1-0001.img",
    "amdgpu-drm-pages-3-128-0000.img",
    "netns-1.img",
    "reg-files.img",
    "unknown.img",
    "thaw-gpu.img",
    MANIFEST_NAME,
];

pub(crate) fn run(input: &[u8]) {
    let dir = tempfile::Builder::new().tempdir_in(memory()).expect("room for a folder");
    unpack(input, dir.path());
    let findings = verify(dir.path()).expect("it can be listed");
    // What is accepted has no damage but in what a restorer does not look at.
    if let Err(error) = Checkpoint::open(dir.path()) {
        assert!(!findings.is_empty(), "{error}");
    }
    for (_, kind) in ViewKind::NAMES {
        if let Ok(view) = View::open(dir.path(), kind) {
            view.write_text(io::sink()).expect("it takes all");
            view.write_json(io::sink()).expect("it takes all");
        }
    }
    if let Ok(memory) = Memory::of_process(dir.path(), 1) {
        let _ = memory.pages().take_while(Result::is_ok).count();
    }
    let mut count = 0;
    let each = &mut |_| {
        count += 1;
        count < 1000
    };
    let compared = diff(dir.path(), dir.path(), each);
    assert!(compared.is_err() || count == 0, "a directory does not differ from itself");
}

/// Where files are in memory, if there is such a place.
fn memory() -> &'static Path {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { shm } else { Path::new("/tmp") }
}

fn unpack(mut input: &[u8], dir: &Path) {
    while let Some((&[name, a, b, c], rest)) = input.split_first_chunk::<4>() {
        let len = u32::from_le_bytes([a, b, c, 0]) as usize;
        let (contents, rest) = rest.split_at(len.min(rest.len()));
        let name = NAMES[usize::from(name) % NAMES.len()];
        let mut contents = contents.to_vec();
        if name == MANIFEST_NAME {
            end_manifest(&mut contents);
        }
        fs::write(dir.join(name), contents).expect("room for a file");
        input = rest;
    }
}

/// Adds the last line, which no fuzzer will guess: the checksum of all others.
fn end_manifest(text: &mut Vec<u8>) {
    let end = checksum(text);
    text.extend(format!("end {end:032x}\n").bytes());
}
