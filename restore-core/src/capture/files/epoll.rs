//! Epoll instances and what they watch.
//!
//! The kernel lists a watch by the number that its file had when it was added. The file must still
//! have a number in the process at hand, since that is where it is added again.

use std::collections::BTreeMap;

use criu_image::record::{EventpollFileEntry, EventpollTfdEntry, FdTypes, FileEntry};

use super::super::facts::{Descriptor, Facts};
use super::super::proc::fdinfo::Watch;
use super::super::raw;
use super::{No, of_type, owner};
use crate::refusal::RefusalKind;

pub(super) fn entry(id: u32, facts: &Facts, descriptor: &Descriptor) -> Result<FileEntry, No> {
    let info = &descriptor.info;
    let mut seen: BTreeMap<u32, u32> = BTreeMap::new();
    let mut tfd = Vec::new();
    for watch in &info.watches {
        let nth = seen.entry(watch.fd).or_default();
        tfd.push(watched(facts, descriptor.fd, watch, *nth)?);
        *nth += 1;
    }
    let epfd =
        EventpollFileEntry { id, flags: info.file_flags(), fown: owner::of(descriptor)?, tfd };
    Ok(FileEntry { epfd: Some(epfd), ..of_type(FdTypes::Eventpoll, id) })
}

fn watched(facts: &Facts, epoll_fd: i32, watch: &Watch, nth: u32) -> Result<EventpollTfdEntry, No> {
    let is_it = |d: &&Descriptor| {
        d.held.stat.st_ino == watch.inode
            && raw::is_watched(facts.pid, d.fd, (epoll_fd, watch.fd, nth)) == Ok(true)
    };
    // Where it was added if it is still there; the program may have given it another number.
    let by_number = facts.descriptors.iter().filter(|d| d.fd as u32 == watch.fd).find(is_it);
    let Some(found) = by_number.or_else(|| facts.descriptors.iter().find(is_it)) else {
        let what = format!("epoll watch of descriptor {}, which is closed", watch.fd);
        return Err(No::because(RefusalKind::EpollWatch, what));
    };
    Ok(EventpollTfdEntry {
        id: 0,
        tfd: found.fd as u32,
        events: watch.events,
        data: watch.data,
        dev: Some(watch.dev),
        inode: Some(watch.inode),
        pos: Some(watch.pos),
    })
}
