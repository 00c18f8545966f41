//! Who is sent a signal when a file becomes ready (`F_SETOWN`, `F_SETSIG`, `O_ASYNC`).
//!
//! Set when all tasks and threads exist and are in their groups, since an owner may be any of
//! those. An owner outside the tree is refused: its number may be a stranger's by now.

use std::os::fd::OwnedFd;

use criu_image::record::{FileEntry, FownEntry};
use criu_image::{Checkpoint, FileId};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{FilesError, raw};
use crate::refusal::{Refusal, RefusalKind};

/// `F_OWNER_TID`, `F_OWNER_PID`, `F_OWNER_PGRP` (asm-generic/fcntl.h).
const OWNER_TID: u32 = 0;
const OWNER_PID: u32 = 1;
const OWNER_PGRP: u32 = 2;

/// What is to be set on one open file.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    fown: FownEntry,
    asynchronous: bool,
}

/// The owner of a file that has an owner, a signal or asynchronous notification.
pub(super) fn plan(checkpoint: &Checkpoint, entry: &FileEntry) -> Result<Option<Plan>, Refusal> {
    // A fifo's owner stands with its path.
    let path = entry.fifo.as_ref().map(|fifo| FileId(fifo.regf_id.unwrap_or(fifo.id)));
    let path = path.and_then(|id| checkpoint.reg_file(id));
    let found = None
        .or(path.map(|e| (&e.fown, e.flags)))
        .or(entry.reg.as_ref().map(|e| (&e.fown, e.flags)))
        .or(entry.pipe.as_ref().map(|e| (&e.fown, e.flags)))
        .or(entry.efd.as_ref().map(|e| (&e.fown, e.flags)))
        .or(entry.epfd.as_ref().map(|e| (&e.fown, e.flags)))
        .or(entry.sgfd.as_ref().map(|e| (&e.fown, e.flags)))
        .or(entry.tfd.as_ref().map(|e| (&e.fown, e.flags)))
        .or(entry.memfd.as_ref().map(|e| (&e.fown, e.flags)))
        .or(entry.pidfd.as_ref().map(|e| (&e.fown, e.flags)));
    let Some((fown, flags)) = found else {
        return Ok(None);
    };
    let asynchronous = flags as i32 & libc::O_ASYNC != 0;
    if fown.signum == 0 && fown.pid == 0 && !asynchronous {
        return Ok(None);
    }
    if fown.pid != 0 && !in_tree(checkpoint, fown) {
        let what = format!("signals of a file to {}, outside the tree", fown.pid as i32);
        let place = format!("files.img, file {:#x}", entry.id);
        return Err(Refusal::of_tree(RefusalKind::StrangeOwner, what, place));
    }
    Ok(Some(Plan { fown: *fown, asynchronous }))
}

fn in_tree(checkpoint: &Checkpoint, fown: &FownEntry) -> bool {
    let id = fown.pid;
    checkpoint.processes.iter().any(|process| {
        let mut threads = process.body.iter().flat_map(|body| &body.threads);
        match fown.pid_type {
            OWNER_TID => process.pid == id || threads.any(|thread| thread.tid == id),
            OWNER_PID => process.pid == id,
            OWNER_PGRP => process.pgid == id,
            _ => false,
        }
    })
}

impl Plan {
    /// Sets it on an open file; the owner exists by now.
    pub(super) fn set(&self, fd: &OwnedFd) -> Result<(), FilesError> {
        let fown = &self.fown;
        let fail = |call| {
            move |errno: Errno| {
                let what = format!("the owner {} of a file", fown.pid as i32);
                FilesError::Object { call, what, errno }
            }
        };
        if fown.signum != 0 {
            raw::set_signal(fd, fown.signum).map_err(fail("fcntl(F_SETSIG)"))?;
        }
        if fown.pid != 0 {
            let owner = (fown.pid_type, fown.pid as i32);
            raw::set_owner(fd, owner, (fown.uid, fown.euid)).map_err(fail("fcntl(F_SETOWN_EX)"))?;
        }
        if self.asynchronous {
            let now = fcntl(fd, FcntlArg::F_GETFL).map_err(fail("fcntl(F_GETFL)"))?;
            let flags = OFlag::from_bits_retain(now | libc::O_ASYNC);
            fcntl(fd, FcntlArg::F_SETFL(flags)).map_err(fail("fcntl(F_SETFL)"))?;
        }
        Ok(())
    }
}
