//! Files without a path or a partner: event counters and signal files.

use criu_image::record::{EventfdFileEntry, FdTypes, FileEntry, SignalfdEntry};

use super::super::facts::Descriptor;
use super::{No, of_type, owner};
use crate::refusal::RefusalKind;

pub(super) fn eventfd(id: u32, descriptor: &Descriptor) -> Result<FileEntry, No> {
    let info = &descriptor.info;
    if info.eventfd_semaphore {
        let what = "event counter that is a semaphore";
        return Err(No::because(RefusalKind::SemaphoreCounter, what));
    }
    let efd = EventfdFileEntry {
        id,
        flags: info.file_flags(),
        fown: owner::of(descriptor)?,
        counter: info.eventfd_count,
    };
    Ok(FileEntry { efd: Some(efd), ..of_type(FdTypes::Eventfd, id) })
}

pub(super) fn signalfd(id: u32, descriptor: &Descriptor) -> Result<FileEntry, No> {
    let info = &descriptor.info;
    let sgfd = SignalfdEntry {
        id,
        flags: info.file_flags(),
        fown: owner::of(descriptor)?,
        sigmask: info.sigmask,
    };
    Ok(FileEntry { sgfd: Some(sgfd), ..of_type(FdTypes::Signalfd, id) })
}
