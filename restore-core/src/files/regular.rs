//! Files that are opened by path: regular ones, directories, devices, `/proc` entries, symlinks.
//!
//! The path must lead to the file of the dump: size and mode are compared where the dump recorded
//! them. Nothing is created or truncated here.

use std::os::fd::OwnedFd;

use criu_image::record::RegFileEntry;
use criu_image::{Checkpoint, FileId, Remap};
use nix::errno::Errno;
use nix::sys::stat::{FileStat, fstat};
use nix::unistd::{Whence, lseek};

use super::{FilesError, raw, remap};
use crate::refusal::Refusal;

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
}

/// Plans the opening for a descriptor, or with the flags of a mapping.
pub(super) fn plan(
    checkpoint: &Checkpoint,
    id: FileId,
    mapping: Option<u32>,
) -> Result<Plan, Refusal> {
    let place = || format!("files.img, file {:#x}", id.0);
    let Some(entry) = checkpoint.reg_file(id) else {
        return Err(Refusal::of_tree("file without a path", place()));
    };
    if entry.ext.unwrap_or(false) {
        return Err(Refusal::of_tree("external file", place()));
    }
    if let Some(Remap::Procfs(pid)) = checkpoint.remaps.get(&id) {
        let what = format!("/proc entry of process {pid}, which has exited");
        return Err(Refusal::of_tree(what, place()));
    }
    let flags = open_flags(mapping.unwrap_or(entry.flags) as i32);
    let has_position = mapping.is_none() && entry.pos != NO_POSITION && flags & libc::O_PATH == 0;
    let remapped = checkpoint.remaps.contains_key(&id);
    Ok(Plan {
        id,
        path: absolute(entry),
        flags,
        pos: has_position.then_some(entry.pos),
        size: entry.size.filter(|_| !remapped),
        mode: entry.mode.filter(|_| !remapped),
        remapped,
    })
}

/// Paths in images are relative to the root of the mount namespace, with or without a slash.
pub(super) fn absolute(entry: &RegFileEntry) -> Vec<u8> {
    let name = entry.name.strip_prefix(b".").unwrap_or(&entry.name);
    match name.first() {
        Some(b'/') => name.to_vec(),
        _ => [b"/", name].concat(),
    }
}

fn open_flags(flags: i32) -> i32 {
    let flags = flags & !CREATION;
    // An unnamed temporary file is restored as a deleted one.
    if flags & libc::O_TMPFILE == libc::O_TMPFILE { flags & !libc::O_TMPFILE } else { flags }
}

/// Whether the path is `/proc/<pid>` of a process of the tree, and so exists only with it.
pub(super) fn needs_tasks(plan: &Plan, checkpoint: &Checkpoint) -> bool {
    let Some(rest) = plan.path.strip_prefix(b"/proc/") else {
        return false;
    };
    let digits = rest.split(|&byte| byte == b'/').next().unwrap_or(rest);
    let pid = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u32>().ok());
    pid.is_some_and(|pid| checkpoint.processes.iter().any(|process| process.pid == pid))
}

/// Opens, positions and compares.
pub(super) fn open(plan: &Plan, remaps: &mut remap::Names) -> Result<OwnedFd, FilesError> {
    let fd = match plan.remapped {
        true => remaps.with_path(plan.id, &plan.path, |path| open_path(plan, path))?,
        false => open_path(plan, &plan.path)?,
    };
    if let Some(pos) = plan.pos {
        lseek(&fd, pos as i64, Whence::SeekSet).map_err(|errno| failed(plan, "seek", errno))?;
    }
    Ok(fd)
}

pub(super) fn failed(plan: &Plan, call: &'static str, errno: Errno) -> FilesError {
    let path = String::from_utf8_lossy(&plan.path).into_owned();
    FilesError::Path { call, path, id: plan.id.0, errno }
}

fn open_path(plan: &Plan, path: &[u8]) -> Result<OwnedFd, FilesError> {
    let fd = raw::open(path, plan.flags).map_err(|errno| failed(plan, "open", errno))?;
    if plan.size.is_some() || plan.mode.is_some() {
        let here = fstat(&fd).map_err(|errno| failed(plan, "stat", errno))?;
        compare(plan, &here)?;
    }
    Ok(fd)
}

fn compare(plan: &Plan, here: &FileStat) -> Result<(), FilesError> {
    let path = || String::from_utf8_lossy(&plan.path).into_owned();
    let is_regular = here.st_mode & S_IFMT == S_IFREG;
    if let Some(saved) = plan.size.filter(|&size| is_regular && size != here.st_size as u64) {
        return Err(FilesError::Size { path: path(), here: here.st_size as u64, saved });
    }
    if let Some(saved) = plan.mode.filter(|&mode| mode != here.st_mode) {
        let (here, saved) = (u64::from(here.st_mode), u64::from(saved));
        return Err(FilesError::Changed { path: path(), property: "mode", here, saved });
    }
    Ok(())
}
