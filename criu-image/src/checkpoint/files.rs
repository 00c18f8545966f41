//! Open files and descriptor tables: every reference leads to an entry of the right kind.

use std::collections::{BTreeMap, BTreeSet};

use super::contradiction;
use super::load::Loader;
use super::model::{Checkpoint, FileId};
use crate::error::ImageError;
use crate::kind::ImageKind;
use crate::record::{FdTypes, FdinfoEntry, FileEntry};

/// Highest descriptor (`NR_OPEN_MAX`-like bound: `fs.nr_open` cannot exceed 2^31 - 64).
const FD_MAX: u32 = 1 << 30;

const FILES: &str = "files.img";

pub(super) fn load(loader: &mut Loader) -> Result<BTreeMap<FileId, FileEntry>, ImageError> {
    let mut files = BTreeMap::new();
    for (at, entry) in loader.records::<FileEntry>(ImageKind::Files)? {
        let id = FileId(entry.id);
        if inner_id(&entry) != Some(entry.id) {
            let reason = format!("file {:#x} lacks the part of its kind, or its id differs", id.0);
            return Err(contradiction(FILES, at, reason));
        }
        if files.insert(id, entry).is_some() {
            return Err(contradiction(FILES, at, format!("file {:#x} occurs twice", id.0)));
        }
    }
    Ok(files)
}

/// Id in the part that the entry's type says it has.
fn inner_id(entry: &FileEntry) -> Option<u32> {
    match entry.r#type() {
        FdTypes::Reg => entry.reg.as_ref().map(|e| e.id),
        FdTypes::Pipe => entry.pipe.as_ref().map(|e| e.id),
        FdTypes::Fifo => entry.fifo.as_ref().map(|e| e.id),
        FdTypes::Inetsk => entry.isk.as_ref().map(|e| e.id),
        FdTypes::Unixsk => entry.usk.as_ref().map(|e| e.id),
        FdTypes::Eventfd => entry.efd.as_ref().map(|e| e.id),
        FdTypes::Eventpoll => entry.epfd.as_ref().map(|e| e.id),
        FdTypes::Inotify => entry.ify.as_ref().map(|e| e.id),
        FdTypes::Signalfd => entry.sgfd.as_ref().map(|e| e.id),
        FdTypes::Packetsk => entry.psk.as_ref().map(|e| e.id),
        FdTypes::Tty => entry.tty.as_ref().map(|e| e.id),
        FdTypes::Fanotify => entry.ffy.as_ref().map(|e| e.id),
        FdTypes::Netlinksk => entry.nlsk.as_ref().map(|e| e.id),
        FdTypes::Ns => entry.nsf.as_ref().map(|e| e.id),
        FdTypes::Tunf => entry.tunf.as_ref().map(|e| e.id),
        FdTypes::Ext => entry.ext.as_ref().map(|e| e.id),
        FdTypes::Timerfd => entry.tfd.as_ref().map(|e| e.id),
        FdTypes::Memfd => entry.memfd.as_ref().map(|e| e.id),
        FdTypes::Bpfmap => entry.bpf.as_ref().map(|e| e.id),
        FdTypes::Pidfd => entry.pidfd.as_ref().map(|e| e.id),
        FdTypes::Und | FdTypes::CtlTty | FdTypes::AutofsPipe => None,
    }
}

/// Reads the descriptor table of every process.
pub(super) fn tables(loader: &mut Loader, checkpoint: &mut Checkpoint) -> Result<(), ImageError> {
    for process in &checkpoint.processes {
        let Some(body) = &process.body else { continue };
        let id = body.ids.files_id;
        if checkpoint.fd_tables.contains_key(&id) {
            continue; // shared
        }
        // A process without descriptors has no image: CRIU writes none for an empty table.
        let Some(image) = loader.find(ImageKind::Fdinfo, Some(u64::from(id)))? else {
            checkpoint.fd_tables.insert(id, Vec::new());
            continue;
        };
        let file = image.name().to_owned();
        let mut table = Vec::new();
        let mut seen = BTreeSet::new();
        for (at, entry) in image.all::<FdinfoEntry>()? {
            if !seen.insert(entry.fd) || entry.fd > FD_MAX {
                let reason = format!("descriptor {} occurs twice or is none", entry.fd);
                return Err(contradiction(file, at, reason));
            }
            match checkpoint.files.get(&FileId(entry.id)) {
                Some(open) if open.r#type == entry.r#type => table.push(entry),
                found => {
                    let what = if found.is_some() { "of another kind" } else { "unknown" };
                    let reason =
                        format!("file {:#x} of descriptor {} is {what}", entry.id, entry.fd);
                    return Err(contradiction(file, at, reason));
                }
            }
        }
        table.sort_by_key(|entry| entry.fd);
        checkpoint.fd_tables.insert(id, table);
    }
    Ok(())
}

/// Checks every reference to a file that is not a descriptor.
pub(super) fn check(checkpoint: &Checkpoint) -> Result<(), ImageError> {
    for process in &checkpoint.processes {
        let pid = process.pid;
        let Some(body) = &process.body else { continue };
        for (file, what, id) in [
            (format!("fs-{pid}.img"), "working directory", body.fs.cwd_id),
            (format!("fs-{pid}.img"), "root directory", body.fs.root_id),
            (format!("mm-{pid}.img"), "program", body.mm.exe_file_id),
        ] {
            if checkpoint.reg_file(FileId(id)).is_none() {
                let reason = format!("{what} {id:#x} is no regular file of files.img");
                return Err(contradiction(file, 8, reason));
            }
        }
        for vma in body.mm.vmas.iter().filter(|vma| is_file_mapping(vma.status)) {
            let known =
                u32::try_from(vma.shmid).is_ok_and(|id| checkpoint.files.contains_key(&FileId(id)));
            if !known {
                let (start, id) = (vma.start, vma.shmid);
                let reason = format!("file {id:#x} of the mapping at {start:#x} is unknown");
                return Err(contradiction(format!("mm-{pid}.img"), 8, reason));
            }
        }
    }
    check_entries(checkpoint)
}

fn is_file_mapping(status: u32) -> bool {
    use super::vma_status::{FILE_PRIVATE, FILE_SHARED, MEMFD, VDSO, VSYSCALL, VVAR};
    status & (FILE_PRIVATE | FILE_SHARED | MEMFD) != 0 && status & (VDSO | VVAR | VSYSCALL) == 0
}

fn check_entries(checkpoint: &Checkpoint) -> Result<(), ImageError> {
    let mut pipes = BTreeSet::new();
    let mut fifos = BTreeSet::new();
    for (id, entry) in &checkpoint.files {
        pipes.extend(entry.pipe.as_ref().map(|pipe| pipe.pipe_id));
        if let Some(fifo) = &entry.fifo {
            fifos.insert(fifo.pipe_id);
            let path = FileId(fifo.regf_id.unwrap_or(fifo.id));
            if checkpoint.reg_file(path).is_none() && fifo.regf_id.is_some() {
                let reason = format!("path {:#x} of fifo {:#x} is unknown", path.0, id.0);
                return Err(contradiction(FILES, 8, reason));
            }
        }
        if let Some(memfd) = &entry.memfd
            && !checkpoint.memfds.contains_key(&u64::from(memfd.inode_id))
        {
            let reason = format!("inode {} of memory file {:#x} is unknown", memfd.inode_id, id.0);
            return Err(contradiction(FILES, 8, reason));
        }
    }
    for (file, data, known) in [
        ("pipes-data.img", &checkpoint.pipe_data, &pipes),
        ("fifo-data.img", &checkpoint.fifo_data, &fifos),
    ] {
        if let Some(id) = data.keys().find(|id| !known.contains(id)) {
            return Err(contradiction(file, 8, format!("pipe {id:#x} is no open file")));
        }
    }
    Ok(())
}
