//! Opens hand-made checkpoints and looks at the descriptors. Split by kind, as the module is.
//!
//! Each checkpoint has an image directory and, beside it, a directory for the files that its
//! paths lead to; both go with the value.

mod anonymous;
mod examine;
mod late;
mod memory;
mod pipe;
mod refusals;
mod regular;
mod remap;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use criu_image::record::{
    FdTypes, FdinfoEntry, FileEntry, FsEntry, InventoryEntry, MmEntry, RegFileEntry, TaskCoreEntry,
    TaskKobjIdsEntry, ThreadCoreEntry, ThreadInfoX86,
};
use criu_image::{Body, Checkpoint, FileId, ImageDir, PageStore, Process, Thread};
use nix::fcntl::{FcntlArg, fcntl};
use nix::unistd::{Whence, lseek};
use tempfile::TempDir;

use super::{FilesError, ObjectKey, OpenError, OpenedFiles, needs, plan};
use crate::refusal::Refusal;
use crate::stop::Stop;

/// File id of `/`, which every process has as program, directory and root.
const ROOT: u32 = 1;
/// Id of the only process, unless a test makes more. No process of a test machine has it.
const PID: u32 = 4_100_000;

/// A checkpoint in the making.
struct Images {
    checkpoint: Checkpoint,
    images: TempDir,
    files: TempDir,
}

impl Images {
    fn new() -> Self {
        Self::of(PID)
    }

    /// With one process of this id.
    fn of(pid: u32) -> Self {
        let images = tempfile::tempdir().expect("a temporary directory");
        let mut new = Self {
            checkpoint: Checkpoint {
                dir: images.path().to_owned(),
                images: ImageDir::unverified(images.path()),
                inventory: InventoryEntry::default(),
                processes: Vec::new(),
                fd_tables: BTreeMap::new(),
                files: BTreeMap::new(),
                remaps: BTreeMap::new(),
                memfds: BTreeMap::new(),
                shmems: BTreeMap::new(),
                pipe_data: BTreeMap::new(),
                fifo_data: BTreeMap::new(),
                gpu: criu_image::GpuImages::default(),
                other: Vec::new(),
            },
            images,
            files: tempfile::tempdir().expect("a temporary directory"),
        };
        let root = reg_entry(ROOT, Path::new("/"), libc::O_RDONLY | libc::O_DIRECTORY);
        new.checkpoint.files.insert(FileId(ROOT), root);
        new.process(pid);
        new
    }

    fn process(&mut self, pid: u32) {
        let ids = TaskKobjIdsEntry { files_id: pid, ..Default::default() };
        let mm = MmEntry { exe_file_id: ROOT, ..Default::default() };
        let fs = FsEntry { cwd_id: ROOT, root_id: ROOT, umask: None };
        self.checkpoint.fd_tables.insert(pid, Vec::new());
        self.checkpoint.processes.push(Process {
            pid,
            ppid: 0,
            pgid: pid,
            sid: pid,
            parent: None,
            task: TaskCoreEntry::default(),
            body: Some(Body {
                ids,
                mm,
                fs,
                threads: vec![thread(pid)],
                pages: PageStore::default(),
            }),
        });
    }

    fn body(&mut self) -> &mut Body {
        self.checkpoint.processes[0].body.as_mut().expect("made so")
    }

    /// Gives the last process a descriptor of the file.
    fn descriptor(&mut self, id: FileId) -> u32 {
        let pid = self.checkpoint.processes.last().expect("made so").pid;
        let table = self.checkpoint.fd_tables.get_mut(&pid).expect("made so");
        let fd = table.len() as u32;
        let r#type = self.checkpoint.files[&id].r#type;
        table.push(FdinfoEntry { id: id.0, flags: 0, r#type, fd, ..Default::default() });
        fd
    }

    /// Adds a file by its type and, given its id, its part; and a descriptor of it.
    fn add(&mut self, kind: FdTypes, part: impl FnOnce(&mut FileEntry, u32)) -> FileId {
        let id = FileId(ROOT + self.checkpoint.files.len() as u32);
        let mut entry = FileEntry { id: id.0, ..Default::default() };
        entry.set_type(kind);
        part(&mut entry, id.0);
        self.checkpoint.files.insert(id, entry);
        self.descriptor(id);
        id
    }

    fn reg(&mut self, path: impl AsRef<Path>, flags: i32) -> FileId {
        self.reg_with(path, flags, |_| ())
    }

    fn reg_with(
        &mut self,
        path: impl AsRef<Path>,
        flags: i32,
        change: impl FnOnce(&mut RegFileEntry),
    ) -> FileId {
        self.add(FdTypes::Reg, |entry, id| {
            *entry = reg_entry(id, path.as_ref(), flags);
            change(entry.reg.as_mut().expect("made so"));
        })
    }

    /// A path that nothing else uses.
    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn file(&self, name: &str, contents: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, contents).expect("a file");
        path
    }

    fn image(&self, name: &str, contents: &[u8]) {
        let mut file = fs::File::create(self.images.path().join(name)).expect("an image");
        file.write_all(contents).expect("an image");
    }

    /// What lies in the directory of the files, by name.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.files.path()).expect("the directory");
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.map(|e| name(e.expect("an entry"))).collect();
        names.sort();
        names
    }

    fn try_open(&self) -> Result<OpenedFiles, FilesError> {
        let plan = plan(&self.checkpoint, &needs(&self.checkpoint)).expect("nothing is refused");
        let opened = plan.open(&ImageDir::unverified(self.images.path()), &Stop::default());
        opened.map_err(|error| match error {
            OpenError::Files(error) => error,
            OpenError::Stopped(stopped) => panic!("{stopped:?} though nothing can stop it"),
        })
    }

    fn open(&self) -> OpenedFiles {
        self.try_open().expect("everything opens")
    }

    fn refusals(&self) -> Vec<Refusal> {
        plan(&self.checkpoint, &needs(&self.checkpoint)).expect_err("something is refused")
    }

    /// Checks that exactly these things are refused, in any order.
    fn check_refused(&self, expected: &[&str]) {
        let refusals = self.refusals();
        let mut found: Vec<&str> = refusals.iter().map(|r| r.what.as_str()).collect();
        let mut expected = expected.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }
}

fn reg_entry(id: u32, path: &Path, flags: i32) -> FileEntry {
    let mut entry = FileEntry {
        id,
        reg: Some(RegFileEntry {
            id,
            flags: flags as u32,
            name: path.as_os_str().as_bytes().to_vec(),
            ..Default::default()
        }),
        ..Default::default()
    };
    entry.set_type(FdTypes::Reg);
    entry
}

fn thread(tid: u32) -> Thread {
    Thread { tid, regs: ThreadInfoX86::default(), core: ThreadCoreEntry::default() }
}

impl OpenedFiles {
    fn fd(&self, id: FileId) -> &OwnedFd {
        &self.fds[&ObjectKey::File(id)]
    }

    fn mapped(&self, file: FileId, flags: i32) -> &OwnedFd {
        let flags = flags as u32;
        &self.fds[&ObjectKey::Mapping { file, flags }]
    }

    fn late_fd(&self, id: FileId) -> &OwnedFd {
        &self.places[&ObjectKey::File(id)]
    }
}

/// Status flags and access mode.
fn flags(fd: &OwnedFd) -> i32 {
    fcntl(fd, FcntlArg::F_GETFL).expect("an open descriptor")
}

fn position(fd: &OwnedFd) -> i64 {
    lseek(fd, 0, Whence::SeekCur).expect("a descriptor with a position")
}

/// The path that the kernel shows for a descriptor.
fn shown(fd: &OwnedFd) -> PathBuf {
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).expect("/proc is mounted")
}

fn deleted(path: &Path) -> PathBuf {
    PathBuf::from(format!("{} (deleted)", path.display()))
}

fn field(fd: &OwnedFd, name: &str) -> String {
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = fs::read_to_string(path).expect("/proc is mounted");
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.expect("the field is there").trim().to_owned()
}

/// Reads what is there, up to 1 KiB, in one call.
fn read(fd: &OwnedFd) -> nix::Result<Vec<u8>> {
    let mut buffer = [0; 1024];
    let len = nix::unistd::read(fd, &mut buffer)?;
    Ok(buffer[..len].to_vec())
}

/// Whether the test is to leave since it needs root; says so to whoever counts the skips.
pub(crate) fn needs_root(test: &str) -> bool {
    !nix::unistd::geteuid().is_root() && skip(test, "it needs root")
}

pub(crate) fn skip(test: &str, reason: &str) -> bool {
    println!("SKIPPED {test}: {reason}");
    if let Some(path) = std::env::var_os("THAW_SKIPS") {
        let mut options = fs::File::options();
        let mut file = options.append(true).create(true).open(path).expect("the list of skips");
        writeln!(file, "{test}: {reason}").expect("the list of skips");
    }
    true
}
