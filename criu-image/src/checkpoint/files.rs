//! Open files and descriptor tables: every reference leads to an entry of the right kind.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::contradiction;
use super::load::Loader;
use super::model::{Checkpoint, FileId};
use crate::error::ImageError;
use crate::kind::ImageKind;
use crate::record::{FdTypes, FdinfoEntry, FileEntry};

/// Highest descriptor (`NR_OPEN_MAX`-like bound: `fs.nr_open` cannot exceed 2^31 - 64).
const FD_MAX: u32 = 1 << 30;

/// Most open files of a checkpoint. A record takes far more room in memory than in the image, so
/// the size of the image is no bound; this is what a process may open by default (`fs.nr_open`).
const FILES_MAX: usize = 1 << 20;
const NSEC_PER_SEC: u64 = 1_000_000_000;

const FILES: &str = "files.img";

pub(super) fn load(loader: &mut Loader) -> Result<BTreeMap<FileId, FileEntry>, ImageError> {
    let mut files = BTreeMap::new();
    let Some(mut image) = loader.find(ImageKind::Files, None)? else {
        return Ok(files);
    };
    loop {
        let (at, entry) = match image.next::<FileEntry>() {
            Ok(Some(record)) => record,
            Ok(None) => return Ok(files),
            Err(error) => {
                loader.findings.report(error)?;
                loader.findings.doubt(&[ImageKind::Files]);
                return Ok(files);
            }
        };
        let id = FileId(entry.id);
        if files.len() == FILES_MAX {
            return Err(contradiction(FILES, at, format!("more than {FILES_MAX} open files")));
        }
        if let Some(reason) = fault(&entry) {
            loader.findings.report(contradiction(FILES, at, reason))?;
        }
        loader.file_at.insert(id, at);
        match files.entry(id) {
            Entry::Vacant(place) => drop(place.insert(entry)),
            Entry::Occupied(mut other) => {
                if let Some(whole) = tun_with_path(other.get(), &entry) {
                    other.insert(whole);
                    continue;
                }
                let reason = format!("file {:#x} occurs twice", id.0);
                loader.findings.report(contradiction(FILES, at, reason))?;
            }
        }
    }
}

/// The path of a TUN device is an entry of its own with the same id (CRIU 4.2, `tun.c`): both are
/// one file, whose entry has both parts.
fn tun_with_path(a: &FileEntry, b: &FileEntry) -> Option<FileEntry> {
    let (path, tun) = if a.r#type() == FdTypes::Reg { (a, b) } else { (b, a) };
    let is_pair = path.r#type() == FdTypes::Reg && tun.r#type() == FdTypes::Tunf;
    (is_pair && tun.reg.is_none()).then(|| FileEntry { reg: path.reg.clone(), ..tun.clone() })
}

/// What is wrong with an entry by itself.
fn fault(entry: &FileEntry) -> Option<String> {
    let id = entry.id;
    if inner_id(entry) != Some(id) {
        return Some(format!("file {id:#x} lacks the part of its kind, or its id differs"));
    }
    if parts(entry) != 1 {
        return Some(format!("file {id:#x} has parts of several kinds"));
    }
    part_fault(entry).map(|reason| format!("file {id:#x}: {reason}"))
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

/// How many of the parts, one for each kind, an entry has.
fn parts(entry: &FileEntry) -> usize {
    let present = [
        entry.reg.is_some(),
        entry.isk.is_some(),
        entry.nsf.is_some(),
        entry.psk.is_some(),
        entry.nlsk.is_some(),
        entry.efd.is_some(),
        entry.epfd.is_some(),
        entry.sgfd.is_some(),
        entry.tunf.is_some(),
        entry.tfd.is_some(),
        entry.ify.is_some(),
        entry.ffy.is_some(),
        entry.ext.is_some(),
        entry.usk.is_some(),
        entry.fifo.is_some(),
        entry.pipe.is_some(),
        entry.tty.is_some(),
        entry.memfd.is_some(),
        entry.bpf.is_some(),
        entry.pidfd.is_some(),
    ];
    present.into_iter().filter(|&part| part).count()
}

/// What an entry says that no file of its kind can have.
fn part_fault(entry: &FileEntry) -> Option<&'static str> {
    let timer = entry.tfd.as_ref()?;
    (timer.vnsec.max(timer.insec) >= NSEC_PER_SEC)
        .then_some("a timer with a thousand million nanoseconds")
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
        let image = loader.find(ImageKind::Fdinfo, Some(u64::from(id)));
        let Some(image) = loader.findings.check(image)?.flatten() else {
            checkpoint.fd_tables.insert(id, Vec::new());
            continue;
        };
        let file = image.name().to_owned();
        let mut table = Vec::new();
        let mut seen = BTreeSet::new();
        for (at, entry) in loader.all_of::<FdinfoEntry>(ImageKind::Fdinfo, image)? {
            if !seen.insert(entry.fd) || entry.fd > FD_MAX {
                let reason = format!("descriptor {} occurs twice or is none", entry.fd);
                loader.findings.report(contradiction(&file, at, reason))?;
            }
            match checkpoint.files.get(&FileId(entry.id)) {
                Some(open) if open.r#type == entry.r#type => table.push(entry),
                None if !loader.findings.is_sure_of(ImageKind::Files) => {}
                found => {
                    let what = if found.is_some() { "of another kind" } else { "unknown" };
                    let reason =
                        format!("file {:#x} of descriptor {} is {what}", entry.id, entry.fd);
                    loader.findings.report(contradiction(&file, at, reason))?;
                }
            }
        }
        table.sort_by_key(|entry| entry.fd);
        checkpoint.fd_tables.insert(id, table);
    }
    Ok(())
}

/// Checks every reference to a file that is not a descriptor.
pub(super) fn check(loader: &mut Loader, checkpoint: &Checkpoint) -> Result<(), ImageError> {
    if !loader.findings.is_sure_of(ImageKind::Files) {
        return Ok(());
    }
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
                loader.findings.report(contradiction(file, 8, reason))?;
            }
        }
        for vma in body.mm.vmas.iter().filter(|vma| is_file_mapping(vma.status)) {
            let entry =
                u32::try_from(vma.shmid).ok().and_then(|id| checkpoint.files.get(&FileId(id)));
            let memfd = vma.status & super::vma_status::MEMFD != 0;
            if !entry
                .is_some_and(|file| if memfd { file.memfd.is_some() } else { file.reg.is_some() })
            {
                let (start, id) = (vma.start, vma.shmid);
                let what = if memfd { "memory file" } else { "regular file" };
                let reason = format!("the mapping at {start:#x} is of {id:#x}, which is no {what}");
                loader.findings.report(contradiction(format!("mm-{pid}.img"), 8, reason))?;
            }
        }
    }
    check_entries(loader, checkpoint)
}

fn is_file_mapping(status: u32) -> bool {
    use super::vma_status::{FILE_PRIVATE, FILE_SHARED, MEMFD, VDSO, VSYSCALL, VVAR};
    status & (FILE_PRIVATE | FILE_SHARED | MEMFD) != 0 && status & (VDSO | VVAR | VSYSCALL) == 0
}

fn check_entries(loader: &mut Loader, checkpoint: &Checkpoint) -> Result<(), ImageError> {
    for (id, entry) in &checkpoint.files {
        let at = loader.file_at.get(id).copied().unwrap_or_default();
        if let Some(path) = entry.fifo.as_ref().and_then(|fifo| fifo.regf_id)
            && checkpoint.reg_file(FileId(path)).is_none()
        {
            let reason = format!("path {path:#x} of fifo {:#x} is unknown", id.0);
            loader.findings.report(contradiction(FILES, at, reason))?;
        }
        if let Some(memfd) = &entry.memfd
            && !checkpoint.memfds.contains_key(&u64::from(memfd.inode_id))
            && loader.findings.is_sure_of(ImageKind::MemfdInode)
        {
            let reason = format!("inode {} of memory file {:#x} is unknown", memfd.inode_id, id.0);
            loader.findings.report(contradiction(FILES, at, reason))?;
        }
    }
    Ok(())
}

/// Ids of all pipes, and of all fifos.
pub(super) fn pipe_ids(checkpoint: &Checkpoint) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let files = || checkpoint.files.values();
    let pipes = files().filter_map(|file| Some(file.pipe.as_ref()?.pipe_id)).collect();
    let fifos = files().filter_map(|file| Some(file.fifo.as_ref()?.pipe_id)).collect();
    (pipes, fifos)
}
