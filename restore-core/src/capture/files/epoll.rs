//! Epoll instances and what they watch.
//!
//! The kernel lists a watch by the number that its file had when it was added. The number must
//! still stand for that file in the process at hand, since that is where it is added again.

use criu_image::record::{EventpollFileEntry, EventpollTfdEntry, FdTypes, FileEntry};

use super::super::facts::{Descriptor, Facts};
use super::super::proc::fdinfo::Watch;
use super::{No, of_type, owner};

pub(super) fn entry(id: u32, facts: &Facts, descriptor: &Descriptor) -> Result<FileEntry, No> {
    let info = &descriptor.info;
    let tfd: Result<Vec<EventpollTfdEntry>, No> =
        info.watches.iter().map(|watch| watched(facts, watch)).collect();
    let epfd = EventpollFileEntry {
        id,
        flags: info.file_flags(),
        fown: owner::of(descriptor)?,
        tfd: tfd?,
    };
    Ok(FileEntry { epfd: Some(epfd), ..of_type(FdTypes::Eventpoll, id) })
}

fn watched(facts: &Facts, watch: &Watch) -> Result<EventpollTfdEntry, No> {
    let is_it = |d: &&Descriptor| d.held.stat.st_ino == watch.inode;
    let mut descriptors = facts.descriptors.iter().filter(is_it);
    let by_number = facts.descriptors.iter().filter(is_it).find(|d| d.fd as u32 == watch.fd);
    // The program may have given the file another number and closed the first.
    let Some(found) = by_number.or_else(|| descriptors.next()) else {
        let what = format!("epoll watch of descriptor {}, which is closed", watch.fd);
        return Err(No::unless(what, "have the program remove watches before it closes files"));
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
