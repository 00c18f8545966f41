//! Files that are opened by path: regular ones, directories, devices, `/proc` entries, symlinks.
//!
//! The path must lead to the file of the dump: size and mode are compared where the dump recorded
//! them. Nothing is created or truncated here. Build ids, which upstream also compares, are not.

mod examine;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use criu_image::record::RegFileEntry;
use criu_image::{Checkpoint, FileId, Process, Remap};
use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat, lstat, stat};
use nix::unistd::{Whence, lseek};

pub use examine::{FileFinding, examine};

use super::{FilesError, raw, remap};
use crate::refusal::{Refusal, RefusalKind};

/// `O_*` flags that belong to the making of a file, not to an open file.
const CREATION: i32 = libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_NOCTTY;
/// An open file without a position (`reg_file_entry.pos`).
const NO_POSITION: u64 = u64::MAX;
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;

/// How to open one.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) id: FileId,
    /// Absolute.
    pub(super) path: Vec<u8>,
    pub(super) flags: i32,
    /// Position in bytes, if it has one.
    pub(super) pos: Option<u64>,
    /// Size in bytes that a regular file must have.
    size: Option<u64>,
    mode: Option<u32>,
    /// Whether the path is made to lead to the file while it is opened.
    pub(super) remapped: bool,
    /// Whether the path exists only when the tasks do.
    pub(super) needs_tasks: bool,
}

/// Plans the opening for a descriptor, or with the flags of a mapping.
pub(super) fn plan(
    checkpoint: &Checkpoint,
    id: FileId,
    mapping: Option<u32>,
) -> Result<Plan, Refusal> {
    let refuse = |kind: RefusalKind, what: &str| {
        Refusal::of_tree(kind, what, format!("files.img, file {:#x}", id.0))
    };
    let Some(entry) = checkpoint.reg_file(id) else {
        return Err(refuse(RefusalKind::Undescribed, "file without a path"));
    };
    if entry.ext.unwrap_or(false) {
        return Err(refuse(RefusalKind::ExternalFile, "external file"));
    }
    let path = absolute(entry);
    let needs_tasks = needs_tasks(checkpoint, &path).map_err(|(kind, what)| refuse(kind, &what))?;
    let (remapped, rebuilt) = match checkpoint.remaps.get(&id) {
        Some(Remap::Ghost(ghost)) => {
            remap::check(ghost).map_err(|what| refuse(RefusalKind::Undescribed, what))?;
            (true, true)
        }
        Some(Remap::Linked(_)) => (true, false),
        Some(Remap::Procfs(pid)) if !needs_tasks => {
            return Err(refuse(RefusalKind::DeadProcEntry, &exited(*pid)));
        }
        Some(Remap::Procfs(_)) | None => (false, false),
    };
    let flags = open_flags(mapping.unwrap_or(entry.flags) as i32);
    let has_position = mapping.is_none() && entry.pos != NO_POSITION && flags & libc::O_PATH == 0;
    Ok(Plan {
        id,
        path,
        flags,
        pos: has_position.then_some(entry.pos),
        size: entry.size.filter(|_| !rebuilt),
        mode: entry.mode.filter(|_| !rebuilt),
        remapped,
        needs_tasks,
    })
}

/// Paths in images begin at the root of the mount namespace: with `/`, in old ones with `./`.
pub(super) fn absolute(entry: &RegFileEntry) -> Vec<u8> {
    let name = entry.name.as_slice();
    match name {
        b"." => b"/".to_vec(),
        [b'.', b'/', ..] => name[1..].to_vec(),
        [b'/', ..] => name.to_vec(),
        _ => [b"/", name].concat(),
    }
}

/// Flags with which the file is opened again.
///
/// `O_ASYNC` is left out: given to open, it is recorded without effect, and cannot be set later.
pub(super) fn open_flags(flags: i32) -> i32 {
    let flags = flags & !CREATION & !libc::O_ASYNC;
    // An unnamed temporary file is restored as a deleted one.
    if flags & libc::O_TMPFILE == libc::O_TMPFILE { flags & !libc::O_TMPFILE } else { flags }
}

fn exited(pid: u32) -> String {
    format!("/proc entry of process {pid}, which has exited")
}

fn number(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whether the path is in `/proc/<pid>` of a process of the tree, and so exists only with it. The
/// error says what of a process does not exist in time.
fn needs_tasks(checkpoint: &Checkpoint, path: &[u8]) -> Result<bool, (RefusalKind, String)> {
    let Some(rest) = path.strip_prefix(b"/proc/") else {
        return Ok(false);
    };
    let mut parts = rest.split(|&byte| byte == b'/');
    let Some(pid) = parts.next().and_then(number) else {
        return Ok(false);
    };
    let has_thread = |process: &Process| {
        let mut threads = process.body.iter().flat_map(|body| &body.threads);
        threads.any(|thread| thread.tid == pid)
    };
    if !checkpoint.processes.iter().any(|process| process.pid == pid) {
        // One remap stands for all files of its process.
        let dead = |remap: &Remap| matches!(remap, Remap::Procfs(dead) if *dead == pid);
        if checkpoint.remaps.values().any(dead) {
            return Err((RefusalKind::DeadProcEntry, exited(pid)));
        }
        if checkpoint.processes.iter().any(has_thread) {
            return Err((RefusalKind::ThreadProcEntry, format!("/proc entry of thread {pid}")));
        }
        return Ok(false);
    }
    let mut rest: Vec<&[u8]> = parts.collect();
    if let [b"task", tid, ..] = rest.as_slice() {
        if number(tid) != Some(pid) {
            let what = format!("/proc entry of a thread of process {pid}");
            return Err((RefusalKind::ThreadProcEntry, what));
        }
        rest.drain(..2);
    }
    match rest.as_slice() {
        [b"fd" | b"fdinfo" | b"map_files", _, ..] => {
            let what = format!("/proc entry of a descriptor or mapping of process {pid}");
            Err((RefusalKind::ThreadProcEntry, what))
        }
        _ => Ok(true),
    }
}

/// Opens, positions and compares.
pub(super) fn open(plan: &Plan, remaps: &mut remap::Names) -> Result<OwnedFd, FilesError> {
    let fd = match plan.remapped {
        true => remaps.with_path(plan.id, &plan.path, |path| open_path(plan, path))?,
        false => open_path(plan, &plan.path)?,
    };
    let Some(pos) = plan.pos else { return Ok(fd) };
    match lseek(&fd, pos as i64, Whence::SeekSet) {
        // What cannot seek is dumped with position 0.
        Err(Errno::ESPIPE) if pos == 0 => Ok(fd),
        Err(errno) => Err(failed(plan, "seek", errno)),
        Ok(_) => Ok(fd),
    }
}

pub(super) fn failed(plan: &Plan, call: &'static str, errno: Errno) -> FilesError {
    let path = String::from_utf8_lossy(&plan.path).into_owned();
    FilesError::Path { call, path, id: plan.id.0, errno }
}

/// Opens a path that leads to the file and compares.
pub(super) fn open_path(plan: &Plan, path: &[u8]) -> Result<OwnedFd, FilesError> {
    expect_kind(plan, path)?;
    let fd = raw::open(path, plan.flags).map_err(|errno| failed(plan, "open", errno))?;
    if plan.size.is_some() || plan.mode.is_some() {
        let here = fstat(&fd).map_err(|errno| failed(plan, "stat", errno))?;
        compare(plan, &here)?;
    }
    Ok(fd)
}

/// Compares the kind before opening: to open a fifo or device in the place of a file would wait, or
/// do what devices do.
pub(super) fn expect_kind(plan: &Plan, path: &[u8]) -> Result<(), FilesError> {
    let Some(saved) = plan.mode else {
        return Ok(());
    };
    let path = OsStr::from_bytes(path);
    let here = match plan.flags & libc::O_NOFOLLOW {
        0 => stat(path),
        _ => lstat(path),
    };
    let here = here.map_err(|errno| failed(plan, "stat", errno))?;
    match here.st_mode & S_IFMT == saved & S_IFMT {
        true => Ok(()),
        false => Err(changed(plan, here.st_mode, saved)),
    }
}

fn changed(plan: &Plan, here: u32, saved: u32) -> FilesError {
    FilesError::Changed {
        path: String::from_utf8_lossy(&plan.path).into_owned(),
        property: "mode",
        here: here.into(),
        saved: saved.into(),
    }
}

fn compare(plan: &Plan, here: &FileStat) -> Result<(), FilesError> {
    let is_regular = here.st_mode & S_IFMT == S_IFREG;
    let size = plan.size.filter(|_| is_regular);
    if let Some(saved) = size.filter(|&size| size != here.st_size as u64) {
        return Err(FilesError::Size {
            path: String::from_utf8_lossy(&plan.path).into_owned(),
            here: here.st_size as u64,
            saved,
        });
    }
    match plan.mode.filter(|&mode| mode != here.st_mode) {
        Some(saved) => Err(changed(plan, here.st_mode, saved)),
        None => Ok(()),
    }
}
