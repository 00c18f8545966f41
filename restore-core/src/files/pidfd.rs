//! Descriptors of processes. Those of the tree are opened when it exists; those of processes that
//! had already gone refer to one that we make and let go, a fresh one for each that was.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use criu_image::Checkpoint;
use criu_image::record::PidfdEntry;
use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::{FilesError, raw};
use crate::refusal::{Refusal, RefusalKind};

/// `pidfd_entry.nspid` of a process that had exited and been collected.
const GONE: i32 = -1;
/// Flags of a pidfd that `pidfd_open` takes: `PIDFD_NONBLOCK`, `PIDFD_THREAD` (linux/pidfd.h).
const OPEN_FLAGS: u32 = (libc::O_NONBLOCK | libc::O_EXCL) as u32;

/// One pidfd.
#[derive(Debug)]
pub(super) struct Plan {
    entry: PidfdEntry,
}

/// Processes that were made to be referred to after their end, by the inode that they stand for.
#[derive(Default)]
pub(super) struct Dead {
    children: BTreeMap<u32, i32>,
}

impl Plan {
    /// Plans a pidfd of a process of the tree, or of one that has gone.
    ///
    /// Threads are made after the descriptors are, so a pidfd of one is refused.
    pub(super) fn new(checkpoint: &Checkpoint, entry: PidfdEntry) -> Result<Self, Refusal> {
        let pid = entry.nspid;
        let mut processes = checkpoint.processes.iter();
        if pid != GONE && !processes.any(|process| i64::from(process.pid) == i64::from(pid)) {
            let what = format!("pidfd of {pid}, a thread or outside the tree");
            let place = format!("files.img, file {:#x}", entry.id);
            return Err(Refusal::of_tree(RefusalKind::StrangePidfd, what, place));
        }
        Ok(Self { entry })
    }

    pub(super) fn open(&self, dead: &mut Dead) -> Result<OwnedFd, FilesError> {
        let flags = self.entry.flags & OPEN_FLAGS;
        let pid = match self.entry.nspid {
            GONE => dead.pid_for(self.entry.ino).map_err(self.fail("fork"))?,
            pid => pid,
        };
        raw::pidfd_open(pid, flags).map_err(self.fail("pidfd_open"))
    }

    fn fail(&self, call: &'static str) -> impl Fn(Errno) -> FilesError {
        let what = format!("pidfd {:#x} of process {}", self.entry.id, self.entry.nspid);
        move |errno| FilesError::Object { call, what: what.clone(), errno }
    }
}

impl Dead {
    /// An exited process that is collected only when all pidfds of it are open.
    fn pid_for(&mut self, ino: u32) -> Result<i32, Errno> {
        if let Some(pid) = self.children.get(&ino) {
            return Ok(*pid);
        }
        let pid = raw::exiting_child()?;
        self.children.insert(ino, pid);
        Ok(pid)
    }
}

impl Drop for Dead {
    fn drop(&mut self) {
        for pid in self.children.values() {
            // It has nothing to do but to exit, so this does not block for long.
            while waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::__WALL)) == Err(Errno::EINTR) {}
        }
    }
}
