//! What epoll instances watch.
//!
//! The kernel keeps a watch by (open file, descriptor number). So it is added by a process in
//! which the number stands for that file: the first one that has both.

use criu_image::record::FileEntry;
use criu_image::{Checkpoint, Process};

use crate::refusal::Refusal;

/// One watch, to be added by the process that it was planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EpollAdd {
    pub(crate) epoll_fd: u32,
    pub(crate) target_fd: u32,
    pub(crate) events: u32,
    pub(crate) data: u64,
}

/// The descriptor by which a process has this epoll instance, if it also has `target` open.
fn reaches(checkpoint: &Checkpoint, process: &Process, id: u32, target: u32) -> Option<u32> {
    let table = checkpoint.fd_tables.get(&process.body.as_ref()?.ids.files_id)?;
    table.iter().find(|entry| entry.fd == target)?;
    table.iter().find(|entry| entry.id == id).map(|entry| entry.fd)
}

/// Refuses an instance with a watch that no process can add.
pub(super) fn check(checkpoint: &Checkpoint, entry: &FileEntry) -> Result<(), Refusal> {
    for watch in entry.epfd.iter().flat_map(|epoll| &epoll.tfd) {
        let mut processes = checkpoint.processes.iter();
        if !processes.any(|p| reaches(checkpoint, p, entry.id, watch.tfd).is_some()) {
            let what = format!("epoll watch of descriptor {}, which is closed", watch.tfd);
            let place = format!("files.img, file {:#x}", entry.id);
            return Err(Refusal::of_tree(what, place));
        }
    }
    Ok(())
}

/// The watches that `process` adds.
pub(crate) fn epoll_adds(checkpoint: &Checkpoint, process: &Process) -> Vec<EpollAdd> {
    let Some(body) = &process.body else {
        return Vec::new();
    };
    let mut adds = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for entry in checkpoint.fd_tables.get(&body.ids.files_id).into_iter().flatten() {
        let file = checkpoint.files.get(&criu_image::FileId(entry.id));
        let Some(epoll) = file.and_then(|file| file.epfd.as_ref()) else {
            continue;
        };
        if !seen.insert(entry.id) {
            continue;
        }
        for watch in &epoll.tfd {
            let adder = checkpoint
                .processes
                .iter()
                .find(|p| reaches(checkpoint, p, epoll.id, watch.tfd).is_some());
            if adder.is_some_and(|adder| adder.pid == process.pid) {
                adds.push(EpollAdd {
                    epoll_fd: entry.fd,
                    target_fd: watch.tfd,
                    events: watch.events,
                    data: watch.data,
                });
            }
        }
    }
    adds
}
