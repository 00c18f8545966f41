//! Memory files and shared anonymous memory: contents, holes, size, seals, access.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use criu_image::record::{FdTypes, MemfdFileEntry, MemfdInodeEntry, VmaEntry};
use criu_image::{FileId, PageRun, PageStore, vma_status};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::super::{ObjectKey, OpenedFiles, memory};
use super::{Images, flags, needs_root, position, shown, skip};

const PAGE: u64 = 4096;
const SEAL: u32 = libc::F_SEAL_SEAL as u32;
const WRITE: u32 = libc::F_SEAL_WRITE as u32;
const FUTURE_WRITE: u32 = libc::F_SEAL_FUTURE_WRITE as u32;
const SIZE: u32 = (libc::F_SEAL_GROW | libc::F_SEAL_SHRINK) as u32;

fn inode(images: &mut Images, name: &str, change: impl FnOnce(&mut MemfdInodeEntry)) {
    let mut inode = MemfdInodeEntry {
        name: name.into(),
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        size: 3 * PAGE + 5,
        shmid: 80,
        inode_id: 1,
        mode: Some(0o100_750),
        ..Default::default()
    };
    change(&mut inode);
    images.checkpoint.memfds.insert(inode.inode_id, inode);
}

/// Pages 1 and 3 have contents, the others are holes.
fn contents(images: &mut Images) {
    let run = |start, offset_bytes| PageRun { start, len_bytes: PAGE, offset_bytes };
    let runs = vec![run(PAGE, 0), run(3 * PAGE, PAGE)];
    let store = PageStore { pages_id: 6, runs };
    images.checkpoint.shmems.insert(80, store);
    images.image("pages-6.img", &[[b'a'; 4096], [b'b'; 4096]].concat());
}

fn memfd(images: &mut Images, flags: i32, pos: u64) -> FileId {
    images.add(FdTypes::Memfd, |entry, id| {
        entry.memfd = Some(MemfdFileEntry {
            id,
            flags: flags as u32,
            pos,
            inode_id: 1,
            ..Default::default()
        });
    })
}

fn map(images: &mut Images, shmid: u64, status: u32, fdflags: Option<i32>, pages: u64) {
    let vma = VmaEntry {
        start: 0x10000,
        end: 0x10000 + pages * PAGE,
        shmid,
        status,
        fdflags: fdflags.map(|flags| flags as u32),
        ..Default::default()
    };
    images.body().mm.vmas.push(vma);
}

fn file(fd: &OwnedFd) -> File {
    File::from(fd.try_clone().unwrap())
}

fn byte(fd: &OwnedFd, at: u64) -> u8 {
    let mut byte = [0xff];
    file(fd).read_exact_at(&mut byte, at).unwrap();
    byte[0]
}

fn seals(fd: &OwnedFd) -> u32 {
    fcntl(fd, FcntlArg::F_GET_SEALS).unwrap() as u32
}

fn check_contents(fd: &OwnedFd) {
    assert_eq!(byte(fd, 0), 0);
    assert_eq!((byte(fd, PAGE), byte(fd, 2 * PAGE - 1)), (b'a', b'a'));
    assert_eq!(byte(fd, 2 * PAGE), 0);
    assert_eq!(byte(fd, 3 * PAGE), b'b');
    let blocks = file(fd).metadata().unwrap().blocks();
    assert_eq!(blocks, 2 * PAGE / 512, "holes are kept");
}

#[test]
fn has_name_size_contents_holes_attributes_and_position() {
    let mut images = Images::new();
    inode(&mut images, "shared", |inode| inode.seals = SEAL);
    contents(&mut images);
    let id = memfd(&mut images, libc::O_RDWR, 4100);
    let opened = images.open();
    let fd = opened.fd(id);
    assert_eq!(shown(fd), Path::new("/memfd:shared (deleted)"));
    let meta = file(fd).metadata().unwrap();
    assert_eq!((meta.len(), meta.mode()), (3 * PAGE + 5, 0o100_750));
    assert_eq!(position(fd), 4100);
    assert_eq!(seals(fd), SEAL);
    check_contents(fd);
}

#[test]
fn each_entry_is_an_open_file_of_its_own() {
    let mut images = Images::new();
    inode(&mut images, "shared", |_| ());
    contents(&mut images);
    let ids = [
        memfd(&mut images, libc::O_RDWR | libc::O_NONBLOCK, 1),
        memfd(&mut images, libc::O_RDWR | libc::O_APPEND | libc::O_TRUNC, 2),
        memfd(&mut images, libc::O_RDONLY, 3),
    ];
    let opened = images.open();
    let [first, second, third] = ids.map(|id| opened.fd(id));
    let kept = libc::O_ACCMODE | libc::O_APPEND | libc::O_NONBLOCK;
    assert_eq!(flags(first) & kept, libc::O_RDWR | libc::O_NONBLOCK);
    assert_eq!(flags(second) & kept, libc::O_RDWR | libc::O_APPEND);
    assert_eq!(flags(third) & kept, libc::O_RDONLY);
    assert_eq!([first, second, third].map(position), [1, 2, 3]);
    let inode = |fd| file(fd).metadata().unwrap().ino();
    assert!(inode(first) == inode(second) && inode(second) == inode(third));
    check_contents(third);
}

#[test]
fn a_mapping_is_opened_beside_the_descriptor() {
    let mut images = Images::new();
    inode(&mut images, "shared", |_| ());
    let id = memfd(&mut images, libc::O_RDONLY, 9);
    map(&mut images, id.0.into(), vma_status::MEMFD, Some(libc::O_RDWR), 1);
    let opened = images.open();
    assert_eq!(flags(opened.fd(id)) & libc::O_ACCMODE, libc::O_RDONLY);
    assert_eq!(flags(opened.mapped(id, libc::O_RDWR)) & libc::O_ACCMODE, libc::O_RDWR);
    assert_eq!(position(opened.fd(id)), 9);
}

fn sealed(wanted: u32) -> (OpenedFiles, FileId) {
    let mut images = Images::new();
    inode(&mut images, "sealed", |inode| inode.seals = wanted);
    contents(&mut images);
    let id = memfd(&mut images, libc::O_RDWR, 0);
    (images.open(), id)
}

#[test]
fn seals_are_there_and_do_not_hinder_the_contents() {
    for wanted in [0, SIZE, WRITE | SIZE | SEAL, WRITE | FUTURE_WRITE | SEAL] {
        let (opened, id) = sealed(wanted);
        assert_eq!(seals(opened.fd(id)), wanted, "{wanted:#x}");
        check_contents(opened.fd(id));
        opened.arm_timers().unwrap();
        assert_eq!(seals(opened.fd(id)), wanted, "{wanted:#x}");
    }
}

#[test]
fn a_seal_on_future_writing_waits_until_all_is_mapped() {
    let (opened, id) = sealed(FUTURE_WRITE | SIZE | SEAL);
    let fd = opened.fd(id);
    assert_eq!(seals(fd), SIZE);
    assert_eq!(file(fd).write_at(b"x", 0).unwrap(), 1, "as a mapping may be made");
    opened.arm_timers().unwrap();
    assert_eq!(seals(fd), FUTURE_WRITE | SIZE | SEAL);
    let error = file(fd).write_at(b"x", 0).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::EPERM as i32));
}

#[test]
fn what_was_dumped_as_dev_zero_is_anonymous_memory_again() {
    if needs_root("what_was_dumped_as_dev_zero_is_anonymous_memory_again") {
        return;
    }
    let mut images = Images::new();
    inode(&mut images, "/dev/zero", |inode| inode.size = 4 * PAGE);
    contents(&mut images);
    let id = memfd(&mut images, libc::O_RDONLY, 0);
    map(&mut images, id.0.into(), vma_status::MEMFD, Some(libc::O_RDWR), 4);
    let opened = images.open();
    let mapped = opened.mapped(id, libc::O_RDWR);
    assert_eq!(shown(mapped), Path::new("/dev/zero (deleted)"));
    assert_eq!(file(mapped).metadata().unwrap().len(), 4 * PAGE);
    check_contents(mapped);
}

#[test]
fn memory_that_only_mappings_know_is_as_long_as_they_reach() {
    if needs_root("memory_that_only_mappings_know_is_as_long_as_they_reach") {
        return;
    }
    let mut images = Images::new();
    contents(&mut images);
    map(&mut images, 80, vma_status::ANON_SHARED, None, 5);
    // The shmid of another kind of mapping is the id of a file, here with the same number.
    map(&mut images, 80, 0, None, 900);
    let opened = images.open();
    let fd = &opened.fds[&ObjectKey::Shmem(80)];
    assert_eq!(file(fd).metadata().unwrap().len(), 5 * PAGE);
    check_contents(fd);
}

#[test]
fn a_mapping_beyond_all_memory_is_an_error() {
    let mut images = Images::new();
    map(&mut images, 80, vma_status::ANON_SHARED, None, 1);
    images.body().mm.vmas[0].pgoff = u64::MAX - 5;
    assert!(images.try_open().is_err());
}

#[test]
fn without_privilege_a_memory_file_takes_its_place() {
    let fd = memory::substitute(memory::Id::Shmem(1), 2 * PAGE).unwrap();
    assert_eq!(shown(&fd), Path::new("/memfd:/dev/zero (deleted)"));
    assert_eq!(file(&fd).metadata().unwrap().len(), 2 * PAGE);
}

#[test]
fn contents_longer_than_a_piece_arrive_whole() {
    let mut images = Images::new();
    inode(&mut images, "large", |inode| inode.size = 3 << 20);
    let len_bytes = (2 << 20) + PAGE;
    let run = PageRun { start: PAGE, len_bytes, offset_bytes: 0 };
    let store = PageStore { pages_id: 6, runs: vec![run] };
    images.checkpoint.shmems.insert(80, store);
    let bytes: Vec<u8> = (0..len_bytes).map(|n| (n / PAGE) as u8).collect();
    images.image("pages-6.img", &bytes);
    let id = memfd(&mut images, libc::O_RDWR, 0);
    let opened = images.open();
    let mut found = vec![0; bytes.len()];
    file(opened.fd(id)).read_exact_at(&mut found, PAGE).unwrap();
    assert!(found == bytes);
}

#[test]
fn missing_or_cut_contents_are_an_error() {
    let mut images = Images::new();
    inode(&mut images, "shared", |_| ());
    contents(&mut images);
    memfd(&mut images, libc::O_RDWR, 0);
    images.image("pages-6.img", b"cut");
    let text = images.try_open().unwrap_err().to_string();
    assert!(text.contains("cannot read pages-6.img"), "{text}");
}

#[test]
fn huge_pages_have_their_contents() {
    const NAME: &str = "huge_pages_have_their_contents";
    let free = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    if !free.is_ok_and(|free| free.trim().parse().unwrap_or(0) > 0) && skip(NAME, "no huge page") {
        return;
    }
    let mut images = Images::new();
    let hugetlb = libc::MFD_HUGETLB | 21 << libc::MAP_HUGE_SHIFT;
    inode(&mut images, "huge", |inode| {
        (inode.size, inode.hugetlb_flag, inode.seals) = (2 << 20, Some(hugetlb), SEAL);
    });
    contents(&mut images);
    let id = memfd(&mut images, libc::O_RDWR, 0);
    let opened = images.open();
    assert_eq!((byte(opened.fd(id), PAGE), byte(opened.fd(id), 2 * PAGE)), (b'a', 0));
}
