//! Files opened by path: as they were, and only if they are what they were.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use criu_image::record::{RegFileEntry, VmaEntry};
use criu_image::{FileId, vma_status};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::super::{FilesError, ObjectKey, mapping_key, regular};
use super::{Images, flags, position, read, shown};

#[test]
fn has_its_flags_and_position_and_is_not_made_anew() {
    let mut images = Images::new();
    let path = images.file("log", "contents");
    let made = libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC;
    let kept = libc::O_RDWR | libc::O_APPEND | libc::O_NONBLOCK;
    let id = images.reg_with(&path, made | kept, |file| file.pos = 3);
    let opened = images.open();
    let fd = opened.fd(id);
    assert_eq!(flags(fd) & (libc::O_ACCMODE | made | kept), kept);
    assert_eq!(position(fd), 3);
    assert_eq!(read(fd).unwrap(), b"tents");
    assert_eq!(shown(fd), path);
    let own = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(own, libc::FD_CLOEXEC);
}

#[test]
fn each_entry_is_an_open_file_of_its_own() {
    let mut images = Images::new();
    let path = images.file("data", "0123456789");
    let first = images.reg_with(&path, libc::O_RDONLY, |file| file.pos = 1);
    let second = images.reg_with(&path, libc::O_RDONLY, |file| file.pos = 5);
    let opened = images.open();
    assert_eq!(read(opened.fd(first)).unwrap(), b"123456789");
    assert_eq!(read(opened.fd(second)).unwrap(), b"56789");
}

fn sized(path: &Path, size: u64) -> impl FnOnce(&mut RegFileEntry) {
    let mode = fs::metadata(path).unwrap().permissions().mode();
    move |file| {
        file.size = Some(size);
        file.mode = Some(mode);
    }
}

#[test]
fn another_size_is_an_error_with_both_sizes() {
    let mut images = Images::new();
    let path = images.file("data", "four");
    images.reg_with(&path, libc::O_RDONLY, sized(&path, 4));
    images.open();
    images.reg_with(&path, libc::O_RDONLY, sized(&path, 5));
    let error = images.try_open().unwrap_err();
    assert!(matches!(error, FilesError::Size { here: 4, saved: 5, .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("4 bytes") && text.contains("put the file of the dump back"), "{text}");
}

#[test]
fn another_mode_is_an_error() {
    let mut images = Images::new();
    let path = images.file("data", "four");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    images.reg_with(&path, libc::O_RDONLY, |file| file.mode = Some(0o100_600));
    let error = images.try_open().unwrap_err();
    assert!(error.to_string().contains("mode 0o100640, the checkpoint 0o100600"), "{error}");
}

#[test]
fn a_fifo_in_the_place_of_a_file_is_an_error_and_not_a_wait() {
    let mut images = Images::new();
    let path = images.path("data");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    images.reg_with(&path, libc::O_RDONLY, |file| file.mode = Some(0o100_700));
    assert!(matches!(images.try_open(), Err(FilesError::Changed { .. })));
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let mut images = Images::new();
    images.reg("/nowhere/at/all", libc::O_RDONLY);
    let text = images.try_open().unwrap_err().to_string();
    for part in ["open", "/nowhere/at/all", "file 0x2", "ENOENT", "at the dump"] {
        assert!(text.contains(part), "{text} lacks {part}");
    }
}

#[test]
fn symbolic_links_directories_and_devices_open() {
    let mut images = Images::new();
    let link = images.path("link");
    symlink("nowhere", &link).unwrap();
    let no_position = |file: &mut RegFileEntry| file.pos = u64::MAX;
    let of_link = libc::O_PATH | libc::O_NOFOLLOW;
    let link_id = images.reg_with(&link, of_link, |file| file.mode = Some(0o120_777));
    let dir = images.files.path().to_owned();
    let dir_id = images.reg(&dir, libc::O_RDONLY | libc::O_DIRECTORY);
    let null_id = images.reg_with("/dev/null", libc::O_RDWR, no_position);
    let opened = images.open();
    assert_eq!(shown(opened.fd(link_id)), link);
    assert_eq!(flags(opened.fd(link_id)) & libc::O_PATH, libc::O_PATH);
    assert_eq!(shown(opened.fd(dir_id)), dir);
    assert_eq!(shown(opened.fd(null_id)), Path::new("/dev/null"));
}

#[test]
fn what_cannot_seek_has_position_zero() {
    let mut images = Images::new();
    let path = images.path("fifo");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    images.reg(&path, libc::O_RDWR);
    images.open();
    images.reg_with(&path, libc::O_RDWR, |file| file.pos = 7);
    assert!(images.try_open().unwrap_err().to_string().contains("seek"));
}

#[test]
fn names_begin_at_the_root() {
    let check = |name: &str, expected: &str| {
        let entry = RegFileEntry { name: name.into(), ..Default::default() };
        assert_eq!(regular::absolute(&entry), expected.as_bytes(), "{name}");
    };
    check("/", "/");
    check(".", "/");
    check("/a/b", "/a/b");
    check("./a/b", "/a/b");
    check("a", "/a");
    check(".hidden", "/.hidden");
    check("/.hidden", "/.hidden");
}

fn vma(file: FileId, status: u32, prot: i32, fdflags: Option<i32>) -> VmaEntry {
    VmaEntry {
        start: 0x10000,
        end: 0x11000,
        shmid: file.0.into(),
        status,
        prot: prot as u32,
        fdflags: fdflags.map(|flags| flags as u32),
        ..Default::default()
    }
}

#[test]
fn a_mapping_has_access_flags_of_its_own() {
    let mut images = Images::new();
    let path = images.file("data", "0123");
    let id = images.reg_with(&path, libc::O_RDONLY, |file| file.pos = 2);
    let shared = vma_status::FILE_SHARED;
    images.body().mm.vmas = vec![vma(id, shared, libc::PROT_READ, Some(libc::O_RDWR))];
    let opened = images.open();
    assert_eq!(flags(opened.fd(id)) & libc::O_ACCMODE, libc::O_RDONLY);
    assert_eq!(flags(opened.mapped(id, libc::O_RDWR)) & libc::O_ACCMODE, libc::O_RDWR);
    assert_eq!(position(opened.mapped(id, libc::O_RDWR)), 0);
}

#[test]
fn a_mapping_without_recorded_flags_gets_those_it_needs() {
    use vma_status::{ANON_SHARED, FILE_PRIVATE, FILE_SHARED, VDSO};
    let mut images = Images::new();
    let path = images.file("data", "0123");
    let file = images.reg(&path, libc::O_RDONLY);
    let write = libc::PROT_READ | libc::PROT_WRITE;
    let check = |vma: VmaEntry, expected: Option<ObjectKey>| {
        assert_eq!(mapping_key(&vma, &images.checkpoint).unwrap(), expected);
    };
    let of = |flags: i32| {
        let flags = flags as u32;
        Some(ObjectKey::Mapping { file, flags })
    };
    check(vma(file, FILE_SHARED, write, None), of(libc::O_RDWR));
    check(vma(file, FILE_PRIVATE, write, None), of(libc::O_RDONLY));
    check(vma(file, FILE_SHARED, libc::PROT_READ, None), of(libc::O_RDONLY));
    check(vma(file, 0, write, None), None);
    check(vma(file, VDSO | FILE_PRIVATE, write, None), None);
    check(vma(FileId(77), ANON_SHARED, write, None), Some(ObjectKey::Shmem(77)));
}
