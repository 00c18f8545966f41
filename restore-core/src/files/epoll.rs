//! Epoll instances and what they watch.
//!
//! The kernel keeps a watch by (open file, descriptor number), so it must be added by a process in
//! which the number stands for that file. A dump writes an instance when it meets it first, with
//! the numbers of the process at hand: that process adds the watches here, and no other, since the
//! same number may stand for another file elsewhere.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use criu_image::record::{FdinfoEntry, FileEntry};
use criu_image::{Checkpoint, FileId, Process};
use nix::sys::epoll::EpollCreateFlags;

use super::{FilesError, set_status_flags};
use crate::refusal::{Refusal, RefusalKind};

/// An epoll instance.
#[derive(Debug)]
pub(super) struct Epoll {
    id: u32,
    flags: u32,
}

impl Epoll {
    pub(super) fn plan(entry: &FileEntry) -> Option<Self> {
        let file = entry.epfd.as_ref()?;
        Some(Self { id: file.id, flags: file.flags })
    }

    pub(super) fn open(&self) -> Result<OwnedFd, FilesError> {
        let what = format!("epoll instance {:#x}", self.id);
        let flags = EpollCreateFlags::EPOLL_CLOEXEC;
        let epoll = nix::sys::epoll::Epoll::new(flags).map_err(|errno| FilesError::Object {
            call: "epoll_create1",
            what: what.clone(),
            errno,
        })?;
        set_status_flags(&epoll.0, self.flags, &what)?;
        Ok(epoll.0)
    }
}

/// One watch, to be added by the process that it was planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpollAdd {
    pub(crate) epoll_fd: u32,
    pub(crate) target_fd: u32,
    pub(crate) events: u32,
    pub(crate) data: u64,
}

fn table<'a>(checkpoint: &'a Checkpoint, process: &Process) -> &'a [FdinfoEntry] {
    let body = process.body.as_ref();
    let table = body.and_then(|body| checkpoint.fd_tables.get(&body.ids.files_id));
    table.map_or(&[], Vec::as_slice)
}

/// The first process, in the order of the dump, that has the instance open.
fn adder(checkpoint: &Checkpoint, id: u32) -> Option<&Process> {
    let mut processes = checkpoint.processes.iter();
    processes.find(|process| table(checkpoint, process).iter().any(|fd| fd.id == id))
}

/// Refuses every watch that cannot be added.
pub(super) fn check(checkpoint: &Checkpoint, entry: &FileEntry) -> Vec<Refusal> {
    let numbers: BTreeSet<u32> = adder(checkpoint, entry.id)
        .into_iter()
        .flat_map(|process| table(checkpoint, process))
        .map(|fd| fd.fd)
        .collect();
    let mut seen = BTreeSet::new();
    let mut refusals = Vec::new();
    for watch in entry.epfd.iter().flat_map(|epoll| &epoll.tfd) {
        let reason = match (numbers.contains(&watch.tfd), seen.insert(watch.tfd)) {
            (false, _) => "which is closed",
            (true, false) => "which it already watches",
            (true, true) => continue,
        };
        let what = format!("epoll watch of descriptor {}, {reason}", watch.tfd);
        let place = format!("files.img, file {:#x}", entry.id);
        refusals.push(Refusal::of_tree(RefusalKind::EpollWatch, what, place));
    }
    refusals
}

/// The watches that `process` adds.
pub(crate) fn epoll_adds(checkpoint: &Checkpoint, process: &Process) -> Vec<EpollAdd> {
    let mut adds = Vec::new();
    let mut seen = BTreeSet::new();
    for entry in table(checkpoint, process) {
        let file = checkpoint.files.get(&FileId(entry.id));
        let Some(epoll) = file.and_then(|file| file.epfd.as_ref()) else {
            continue;
        };
        let first = adder(checkpoint, epoll.id);
        if !seen.insert(entry.id) || first.is_none_or(|first| first.pid != process.pid) {
            continue;
        }
        adds.extend(epoll.tfd.iter().map(|watch| EpollAdd {
            epoll_fd: entry.fd,
            target_fd: watch.tfd,
            events: watch.events,
            data: watch.data,
        }));
    }
    adds
}
