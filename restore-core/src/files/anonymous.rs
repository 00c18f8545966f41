//! Files without a path or a partner: event counters and signal files.
//!
//! Whether a counter counts as a semaphore (`EFD_SEMAPHORE`) is not in the images.

use std::os::fd::OwnedFd;

use criu_image::record::FileEntry;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{FilesError, set_status_flags};

/// An event counter.
#[derive(Debug)]
pub(super) struct Eventfd {
    id: u32,
    flags: u32,
    counter: u64,
}

impl Eventfd {
    pub(super) fn plan(entry: &FileEntry) -> Option<Self> {
        let file = entry.efd.as_ref()?;
        Some(Self { id: file.id, flags: file.flags, counter: file.counter })
    }

    pub(super) fn open(&self) -> Result<OwnedFd, FilesError> {
        let what = format!("event counter {:#x}", self.id);
        let fail = |errno: Errno| FilesError::Object { call: "eventfd", what: what.clone(), errno };
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_value_and_flags(0, flags).map_err(fail)?;
        if self.counter != 0 {
            event.write(self.counter).map_err(fail)?;
        }
        let fd = OwnedFd::from(event);
        set_status_flags(&fd, self.flags, &what)?;
        Ok(fd)
    }
}

/// A signal file.
#[derive(Debug)]
pub(super) struct Signalfd {
    id: u32,
    flags: u32,
    mask: u64,
}

impl Signalfd {
    pub(super) fn plan(entry: &FileEntry) -> Option<Self> {
        let file = entry.sgfd.as_ref()?;
        Some(Self { id: file.id, flags: file.flags, mask: file.sigmask })
    }

    pub(super) fn open(&self) -> Result<OwnedFd, FilesError> {
        let what = format!("signal file {:#x}", self.id);
        let fail =
            |errno: Errno| FilesError::Object { call: "signalfd", what: what.clone(), errno };
        let fd = super::raw::signalfd(self.mask).map_err(fail)?;
        set_status_flags(&fd, self.flags, &what)?;
        Ok(fd)
    }
}
