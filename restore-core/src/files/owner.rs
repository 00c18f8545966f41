//! Who is sent a signal when a file becomes ready (`F_SETOWN`, `F_SETSIG`, `O_ASYNC`).

use std::os::fd::OwnedFd;

use criu_image::record::{FileEntry, FownEntry};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{FilesError, raw};

/// The owner and status flags of a file that has either an owner or a signal.
pub(super) fn plan(entry: &FileEntry) -> Option<(FownEntry, u32)> {
    let (fown, flags) = None
        .or(entry.reg.as_ref().map(|e| (&e.fown, e.flags)))
        .or(entry.pipe.as_ref().map(|e| (&e.fown, e.flags)))
        .or(entry.efd.as_ref().map(|e| (&e.fown, e.flags)))
        .or(entry.epfd.as_ref().map(|e| (&e.fown, e.flags)))
        .or(entry.sgfd.as_ref().map(|e| (&e.fown, e.flags)))
        .or(entry.tfd.as_ref().map(|e| (&e.fown, e.flags)))
        .or(entry.memfd.as_ref().map(|e| (&e.fown, e.flags)))
        .or(entry.pidfd.as_ref().map(|e| (&e.fown, e.flags)))?;
    (fown.signum != 0 || fown.pid != 0).then(|| (fown.clone(), flags))
}

/// Sets them on an open file; the owner exists by now.
pub(super) fn set(fd: &OwnedFd, fown: &FownEntry, flags: u32) -> Result<(), FilesError> {
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
    if flags as i32 & libc::O_ASYNC != 0 {
        let now = fcntl(fd, FcntlArg::F_GETFL).map_err(fail("fcntl(F_GETFL)"))?;
        let flags = OFlag::from_bits_retain(now | libc::O_ASYNC);
        fcntl(fd, FcntlArg::F_SETFL(flags)).map_err(fail("fcntl(F_SETFL)"))?;
    }
    Ok(())
}
