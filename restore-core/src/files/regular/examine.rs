//! Whether the files of a checkpoint are here as they were: looked at before a restore, without
//! one.
//!
//! What a restore would find is found by the same code where opening changes nothing: of regular
//! files and directories. Devices and fifos are looked at only, since to open one can do something.
//! Of deleted files that are rebuilt, the directory must be there and take new names.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use criu_image::{Checkpoint, FileId, Remap};
use nix::errno::Errno;
use nix::sys::stat::{lstat, stat};
use nix::unistd::{AccessFlags, access};

use super::super::{FilesError, ObjectKey, body_needs, needs};
use super::{Plan, absolute, expect_kind, failed, open_path};

/// A file that is not as the checkpoint needs it.
#[derive(Debug)]
pub struct FileFinding {
    /// Why.
    pub error: FilesError,
    /// Its path.
    pub path: Vec<u8>,
    /// Processes that need it, ascending.
    pub pids: Vec<u32>,
}

/// Looks at every file that a descriptor, a mapping or a directory of the tree leads to. What plans
/// refuse is left out.
pub fn examine(checkpoint: &Checkpoint) -> Vec<FileFinding> {
    let mut findings: BTreeMap<FileId, FileFinding> = BTreeMap::new();
    for key in needs(checkpoint) {
        let (id, mapping) = match key {
            ObjectKey::File(id) => (id, None),
            ObjectKey::Mapping { file, flags } => (file, Some(flags)),
            ObjectKey::Shmem(_) | ObjectKey::Pages(_) | ObjectKey::Buffer { .. } => continue,
        };
        let Some(plan) = planned(checkpoint, id, mapping) else { continue };
        if let Err(error) = look(checkpoint, &plan) {
            let path = plan.path;
            findings.entry(id).or_insert(FileFinding { error, path, pids: Vec::new() });
        }
    }
    for process in &checkpoint.processes {
        let keys = process.body.iter().flat_map(|body| body_needs(checkpoint, body));
        let ids: BTreeSet<FileId> = keys.filter_map(file_of).collect();
        for id in ids {
            if let Some(finding) = findings.get_mut(&id) {
                finding.pids.push(process.pid);
            }
        }
    }
    let mut findings: Vec<FileFinding> = findings.into_values().collect();
    for finding in &mut findings {
        finding.pids.sort_unstable();
    }
    findings
}

fn file_of(key: ObjectKey) -> Option<FileId> {
    match key {
        ObjectKey::File(id) | ObjectKey::Mapping { file: id, .. } => Some(id),
        _ => None,
    }
}

/// How a file with a path is opened; none of other kinds, and of what exists only with the tasks.
fn planned(checkpoint: &Checkpoint, id: FileId, mapping: Option<u32>) -> Option<Plan> {
    let entry = checkpoint.files.get(&id)?;
    let id = match &entry.fifo {
        Some(fifo) => FileId(fifo.regf_id.unwrap_or(fifo.id)),
        None => id,
    };
    checkpoint.reg_file(id)?;
    super::plan(checkpoint, id, mapping).ok().filter(|plan| !plan.needs_tasks)
}

fn look(checkpoint: &Checkpoint, plan: &Plan) -> Result<(), FilesError> {
    match checkpoint.remaps.get(&plan.id) {
        // With its directory, if that was deleted too: the first one that is there must take names.
        Some(Remap::Ghost(_)) => takes_names(plan),
        Some(Remap::Linked(link)) => {
            let link = checkpoint.reg_file(*link).map(absolute).unwrap_or_default();
            takes_names(plan)?;
            open(plan, &link)
        }
        Some(Remap::Procfs(_)) | None => open(plan, &plan.path),
    }
}

fn takes_names(plan: &Plan) -> Result<(), FilesError> {
    let path = Path::new(OsStr::from_bytes(&plan.path));
    let mut above = path.ancestors().skip(1).filter(|dir| !dir.as_os_str().is_empty());
    let Some(dir) = above.find(|dir| dir.symlink_metadata().is_ok()) else { return Ok(()) };
    access(dir, AccessFlags::W_OK | AccessFlags::X_OK).map_err(|errno| FilesError::Path {
        call: "creation of names",
        path: dir.display().to_string(),
        id: plan.id.0,
        errno,
    })
}

/// Opens it if that does nothing else.
fn open(plan: &Plan, path: &[u8]) -> Result<(), FilesError> {
    expect_kind(plan, path)?;
    let name = OsStr::from_bytes(path);
    let found = match plan.flags & libc::O_NOFOLLOW {
        0 => stat(name),
        _ => lstat(name),
    };
    let found = found.map_err(|errno| failed(plan, "stat", errno))?;
    match found.st_mode & libc::S_IFMT {
        libc::S_IFREG | libc::S_IFDIR => open_path(plan, path).map(drop),
        _ => accessible(plan, name).map_err(|errno| failed(plan, "open", errno)),
    }
}

fn accessible(plan: &Plan, path: &OsStr) -> Result<(), Errno> {
    let wanted = match plan.flags & (libc::O_PATH | libc::O_ACCMODE) {
        flags if flags & libc::O_PATH != 0 => return Ok(()),
        libc::O_RDWR => AccessFlags::R_OK | AccessFlags::W_OK,
        libc::O_WRONLY => AccessFlags::W_OK,
        _ => AccessFlags::R_OK,
    };
    access(path, wanted)
}
