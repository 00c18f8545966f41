//! Deleted and moved files: as they were, under the names that they had, and nothing left behind.

use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use criu_image::record::{FdTypes, FifoEntry, GhostFileEntry, Timeval, VmaEntry};
use criu_image::{DataSpan, FileId, Ghost, ImageDir, Remap, vma_status};

use super::super::{ObjectKey, OpenError, remap};
use super::{Images, ROOT, deleted, flags, needs_root, position, read, shown};

use crate::stop::{Stop, Stopped};

const S_IFREG: u32 = 0o100_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFIFO: u32 = 0o010_000;
const S_IFCHR: u32 = 0o020_000;

fn ghost(id: u32, mode: u32) -> Ghost {
    let entry = GhostFileEntry {
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        mode,
        ..Default::default()
    };
    Ghost { id, entry, extents: Vec::new() }
}

/// A regular ghost with one extent, which is the whole image.
fn ghost_with(images: &Images, id: u32, contents: &str) -> Ghost {
    images.image(&format!("ghost-file-{id:x}.img"), contents.as_bytes());
    let mut ghost = ghost(id, S_IFREG | 0o640);
    let len_bytes = contents.len() as u64;
    let span = DataSpan { offset_bytes: 0, len_bytes };
    ghost.extents = vec![(0, span)];
    ghost
}

impl Images {
    fn remap(&mut self, id: FileId, remap: Remap) {
        self.checkpoint.remaps.insert(id, remap);
    }

    fn ghost(&mut self, path: &Path, flags: i32, ghost: Ghost) -> FileId {
        let id = self.reg(path, flags);
        self.remap(id, Remap::Ghost(ghost));
        id
    }
}

#[test]
fn a_deleted_file_whose_contents_were_given_up_is_gone_and_that_is_the_error() {
    let mut images = Images::new();
    let path = images.path("gone");
    let ghost = ghost_with(&images, 5, "contents");
    let id = images.ghost(&path, libc::O_RDWR, ghost);
    let stop = Stop::new(Some(std::time::Duration::ZERO), None);
    let dir = ImageDir::unverified(images.images.path());
    let mut names = remap::Plan::new(&images.checkpoint).begin(&dir, &stop);
    let opened = names.with_path(id, path.as_os_str().as_encoded_bytes(), |_| Ok(()));
    let error = names.explain(opened.expect_err("its time is over"));
    assert!(matches!(error, OpenError::Stopped(Stopped::Timeout { seconds: 0 })), "{error:?}");
    drop(names);
    assert_eq!(images.names(), Vec::<String>::new());
}

#[test]
fn a_deleted_file_has_its_contents_holes_attributes_and_name() {
    let mut images = Images::new();
    let mut ghost = ghost(0x1a, S_IFREG | 0o4641);
    let time = |tv_sec| Timeval { tv_sec, tv_usec: 5 };
    ghost.entry.size = Some(1 << 20);
    (ghost.entry.atim, ghost.entry.mtim) = (Some(time(1000)), Some(time(2000)));
    images.image("ghost-file-1a.img", b"__beginend");
    let span = |offset_bytes, len_bytes| DataSpan { offset_bytes, len_bytes };
    ghost.extents = vec![(0, span(2, 5)), ((1 << 20) - 3, span(7, 3))];
    let path = images.path("gone");
    let id = images.ghost(&path, libc::O_RDWR, ghost);
    images.checkpoint.files.get_mut(&id).unwrap().reg.as_mut().unwrap().pos = 1;
    let opened = images.open();
    let fd = opened.fd(id);
    assert_eq!(shown(fd), deleted(&path));
    assert_eq!(position(fd), 1);
    let file = File::from(fd.try_clone().unwrap());
    let meta = file.metadata().unwrap();
    assert_eq!((meta.len(), meta.mode(), meta.nlink()), (1 << 20, S_IFREG | 0o4641, 0));
    assert_eq!((meta.atime(), meta.mtime(), meta.mtime_nsec()), (1000, 2000, 5000));
    assert!(meta.blocks() * 512 < 1 << 19, "holes are kept: {} blocks", meta.blocks());
    let begin = read(fd).unwrap();
    assert_eq!((&begin[..4], begin[4]), (&b"egin"[..], 0));
    nix::unistd::lseek(fd, -3, nix::unistd::Whence::SeekEnd).unwrap();
    assert_eq!(read(fd).unwrap(), b"end");
    assert_eq!(images.names(), [""; 0]);
}

#[test]
fn names_and_mappings_of_one_deleted_file_are_one_file() {
    let mut images = Images::new();
    let [first, second] = ["first", "second"].map(|name| images.path(name));
    let ghosts = [0, 1, 2].map(|_| ghost_with(&images, 1, "shared"));
    let [a, b, c] = ghosts;
    let a = images.ghost(&first, libc::O_RDWR, a);
    let b = images.ghost(&first, libc::O_RDONLY, b);
    let c = images.ghost(&second, libc::O_WRONLY | libc::O_APPEND, c);
    let vma = VmaEntry {
        start: 0x10000,
        end: 0x11000,
        shmid: a.0.into(),
        status: vma_status::FILE_SHARED,
        fdflags: Some(libc::O_RDWR as u32),
        ..Default::default()
    };
    images.body().mm.vmas = vec![vma];
    let opened = images.open();
    assert_eq!(shown(opened.fd(a)), deleted(&first));
    assert_eq!(shown(opened.fd(c)), deleted(&second));
    assert_eq!(shown(opened.mapped(a, libc::O_RDWR)), deleted(&first));
    nix::unistd::write(opened.fd(c), b" by all").unwrap();
    assert_eq!(read(opened.fd(a)).unwrap(), b"shared by all");
    assert_eq!(read(opened.fd(b)).unwrap(), b"shared by all");
    assert_eq!(flags(opened.fd(c)) & libc::O_APPEND, libc::O_APPEND);
    assert_eq!(images.names(), [""; 0]);
}

#[test]
fn a_file_that_has_taken_the_name_stays() {
    let mut images = Images::new();
    let path = images.file("taken", "new");
    let gone = ghost_with(&images, 1, "old");
    let id = images.ghost(&path, libc::O_RDONLY, gone);
    let opened = images.open();
    assert_eq!(read(opened.fd(id)).unwrap(), b"old");
    assert!(shown(opened.fd(id)).to_string_lossy().ends_with(" (deleted)"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
    assert_eq!(images.names(), ["taken"]);
}

#[test]
fn files_that_look_like_ours_stay() {
    let mut images = Images::new();
    let own = std::process::id();
    let like = [format!(".thaw-{own}-ghost-1-0"), format!(".thaw-{own}-ghost-1-2")];
    like.iter().for_each(|name| drop(images.file(name, "theirs")));
    let path = images.path("gone");
    let gone = ghost_with(&images, 1, "old");
    images.ghost(&path, libc::O_RDONLY, gone);
    drop(images.open());
    assert_eq!(images.names(), like);
    assert_eq!(fs::read_to_string(images.path(&like[0])).unwrap(), "theirs");
}

#[test]
fn a_name_as_long_as_names_can_be_is_no_trouble() {
    let mut images = Images::new();
    let path = images.path(&"n".repeat(255));
    let gone = ghost_with(&images, 1, "old");
    let id = images.ghost(&path, libc::O_RDONLY, gone);
    assert_eq!(shown(images.open().fd(id)), deleted(&path));
}

#[test]
fn directories_that_are_gone_too_come_and_go() {
    let mut images = Images::new();
    let path = images.path("a/b/gone");
    let gone = ghost_with(&images, 1, "old");
    let id = images.ghost(&path, libc::O_RDONLY, gone);
    let opened = images.open();
    assert_eq!(shown(opened.fd(id)), deleted(&path));
    assert_eq!(images.names(), [""; 0]);
}

#[test]
fn a_deleted_directory_and_a_deleted_file_in_it() {
    let mut images = Images::new();
    let (dir, path) = (images.path("dir"), images.path("dir/gone"));
    let gone = ghost_with(&images, 1, "old");
    // The file comes first: its parent must become the directory of the second.
    let file = images.ghost(&path, libc::O_RDONLY, gone);
    let of_dir = libc::O_RDONLY | libc::O_DIRECTORY;
    let dir_id = images.ghost(&dir, of_dir, ghost(2, S_IFDIR | 0o1750));
    images.body().fs.cwd_id = dir_id.0;
    let opened = images.open();
    assert_eq!(shown(opened.fd(file)), deleted(&path));
    assert_eq!(shown(opened.fd(dir_id)), deleted(&dir));
    let meta = File::from(opened.fd(dir_id).try_clone().unwrap()).metadata().unwrap();
    assert_eq!(meta.mode(), S_IFDIR | 0o1750);
    assert_eq!(images.names(), [""; 0]);
}

#[test]
fn a_deleted_directory_whose_name_is_taken() {
    let mut images = Images::new();
    let path = images.path("dir");
    fs::create_dir(&path).unwrap();
    let id = images.ghost(&path, libc::O_RDONLY, ghost(2, S_IFDIR | 0o700));
    let opened = images.open();
    let here = File::from(opened.fd(id).try_clone().unwrap()).metadata().unwrap();
    assert_ne!(here.ino(), fs::metadata(&path).unwrap().ino());
    assert_eq!(images.names(), ["dir"]);
}

#[test]
fn a_deleted_symbolic_link() {
    let mut images = Images::new();
    let path = images.path("link");
    let mut link = ghost(1, S_IFLNK | 0o777);
    link.entry.symlnk_target = Some(b"to/nowhere".to_vec());
    let id = images.ghost(&path, libc::O_PATH | libc::O_NOFOLLOW, link);
    let opened = images.open();
    assert_eq!(shown(opened.fd(id)), deleted(&path));
    let target = nix::fcntl::readlinkat(opened.fd(id), "").unwrap();
    assert_eq!(target, "to/nowhere");
    assert_eq!(images.names(), [""; 0]);
}

#[test]
fn a_deleted_fifo_with_contents_and_two_files() {
    let mut images = Images::new();
    let path = images.path("fifo");
    images.image("fifo-data.img", b"kept");
    let span = DataSpan { offset_bytes: 0, len_bytes: 4 };
    let kept = criu_image::PipeData { capacity_bytes: None, data: span };
    images.checkpoint.fifo_data.insert(9, kept);
    let [reader, writer] = [libc::O_RDONLY, libc::O_WRONLY].map(|flags| {
        let regf = images.ghost(&path, flags, ghost(1, S_IFIFO | 0o600));
        images.checkpoint.fd_tables.values_mut().for_each(|table| drop(table.pop()));
        images.add(FdTypes::Fifo, |entry, id| {
            entry.fifo = Some(FifoEntry { id, pipe_id: 9, regf_id: Some(regf.0) });
        })
    });
    let opened = images.open();
    nix::unistd::write(opened.fd(writer), b" and new").unwrap();
    assert_eq!(read(opened.fd(reader)).unwrap(), b"kept and new");
    assert_eq!(shown(opened.fd(reader)), deleted(&path));
    assert_eq!(images.names(), [""; 0]);
}

#[test]
fn a_deleted_device_node() {
    if needs_root("a_deleted_device_node") {
        return;
    }
    let mut images = Images::new();
    let path = images.path("null");
    let mut node = ghost(1, S_IFCHR | 0o600);
    node.entry.rdev = Some(1 << 8 | 3);
    let id = images.ghost(&path, libc::O_PATH, node);
    let opened = images.open();
    let meta = File::from(opened.fd(id).try_clone().unwrap()).metadata().unwrap();
    assert!(meta.file_type().is_char_device());
    assert_eq!(meta.rdev(), 1 << 8 | 3);
}

#[test]
fn what_was_not_saved_is_refused() {
    let mut images = Images::new();
    let path = images.path("gone");
    for (id, mode) in [S_IFLNK, S_IFCHR, 0].into_iter().enumerate() {
        images.ghost(&path, libc::O_RDONLY, ghost(id as u32, mode));
    }
    images.check_refused(&[
        "deleted symbolic link without a target",
        "deleted device node without a device number",
        "deleted file of unknown kind",
    ]);
}

/// A file with a link that the dump left. Returns the file's id and both paths' names.
fn linked(images: &mut Images, contents: &str) -> FileId {
    let link = images.file("link_remap.5", contents);
    let path = images.path("dir/moved");
    let id = images.reg_with(&path, libc::O_RDWR, |file| file.size = Some(5));
    let link = images.reg(&link, libc::O_RDONLY);
    images.checkpoint.fd_tables.values_mut().for_each(|table| drop(table.pop()));
    images.remap(id, Remap::Linked(link));
    id
}

#[test]
fn a_link_of_the_dump_serves_until_the_tree_runs() {
    let mut images = Images::new();
    let id = linked(&mut images, "12345");
    let opened = images.open();
    assert_eq!(shown(opened.fd(id)), deleted(&images.path("dir/moved")));
    assert_eq!(read(opened.fd(id)).unwrap(), b"12345");
    assert_eq!(images.names(), ["link_remap.5"]);
    drop(opened);
    assert_eq!(images.names(), ["link_remap.5"], "a failed restore can be tried again");
    images.open().finish();
    assert_eq!(images.names(), [""; 0]);
}

#[test]
fn a_link_that_leads_to_another_file_is_an_error() {
    let mut images = Images::new();
    linked(&mut images, "changed");
    let text = images.try_open().unwrap_err().to_string();
    assert!(text.contains("7 bytes, the checkpoint 5"), "{text}");
    assert_eq!(images.names(), ["link_remap.5"]);
    fs::remove_file(images.path("link_remap.5")).unwrap();
    let text = images.try_open().unwrap_err().to_string();
    assert!(text.contains("link_remap.5") && text.contains("ENOENT"), "{text}");
    assert_eq!(images.names(), [""; 0]);
}

#[test]
fn a_failure_at_any_step_leaves_nothing() {
    let whole = |images: &mut Images| {
        let gone = ghost_with(images, 1, "old");
        let path = images.path("a/gone");
        images.ghost(&path, libc::O_RDONLY, gone);
    };
    let check = |name: &str, spoil: &dyn Fn(&mut Images)| {
        let mut images = Images::new();
        whole(&mut images);
        spoil(&mut images);
        assert!(images.try_open().is_err(), "{name}");
        assert_eq!(images.names(), [""; 0], "{name}");
    };
    check("no image", &|images| {
        fs::remove_file(images.images.path().join("ghost-file-1.img")).unwrap();
    });
    check("cut image", &|images| images.image("ghost-file-1.img", b"o"));
    check("the deleted file cannot be opened so", &|images| {
        let path = images.path("a/gone");
        let gone = ghost_with(images, 1, "old");
        images.ghost(&path, libc::O_RDONLY | libc::O_DIRECTORY, gone);
    });
    check("a later file is missing", &|images| {
        let path = images.path("missing");
        images.reg(path, libc::O_RDONLY);
    });
    check("a later image is missing", &|images| {
        let path = images.path("a/b/other");
        images.ghost(&path, libc::O_RDONLY, ghost(2, S_IFREG | 0o600));
    });
}

#[test]
fn ghosts_that_nobody_needs_are_not_rebuilt() {
    let mut images = Images::new();
    let gone = ghost_with(&images, 1, "old");
    let path = images.path("gone");
    images.ghost(&path, libc::O_RDONLY, gone);
    images.checkpoint.fd_tables.values_mut().for_each(Vec::clear);
    fs::remove_file(images.images.path().join("ghost-file-1.img")).unwrap();
    let keys: Vec<ObjectKey> = images.open().inherited().map(|(key, _)| key).collect();
    assert_eq!(keys, [ObjectKey::File(FileId(ROOT))]);
}

#[test]
fn permissions_that_forbid_writing_do_not_matter() {
    let mut images = Images::new();
    let mut gone = ghost_with(&images, 1, "old");
    gone.entry.mode = S_IFREG | 0o400;
    let path = images.path("gone");
    let id = images.ghost(&path, libc::O_RDONLY, gone);
    let file = File::from(images.open().fd(id).try_clone().unwrap());
    assert_eq!(file.metadata().unwrap().permissions().mode(), S_IFREG | 0o400);
}
