//! Descriptors of processes.

use criu_image::record::{FdTypes, FileEntry, PidfdEntry};

use super::super::facts::Descriptor;
use super::{No, of_type, owner};

/// `pidfd_entry.nspid` of a process that has exited and been collected.
const GONE: i32 = -1;
/// What `pidfd_open` takes: `PIDFD_NONBLOCK`, `PIDFD_THREAD` (linux/pidfd.h).
const OPEN_FLAGS: u32 = (libc::O_NONBLOCK | libc::O_EXCL) as u32;

pub(super) fn entry(id: u32, descriptor: &Descriptor) -> Result<FileEntry, No> {
    let info = &descriptor.info;
    let pidfd = PidfdEntry {
        id,
        ino: descriptor.held.stat.st_ino as u32,
        flags: info.file_flags() & OPEN_FLAGS,
        nspid: info.pids.last().copied().filter(|_| info.pid > 0).unwrap_or(GONE),
        fown: owner::of(descriptor)?,
    };
    Ok(FileEntry { pidfd: Some(pidfd), ..of_type(FdTypes::Pidfd, id) })
}
