//! Timer files, with the time that is left.

use criu_image::record::{FdTypes, FileEntry, TimerfdEntry};

use super::super::facts::Descriptor;
use super::{No, of_type, owner};

pub(super) fn entry(id: u32, descriptor: &Descriptor) -> Result<FileEntry, No> {
    let info = &descriptor.info;
    let ((vsec, vnsec), (isec, insec)) = (info.timer_value, info.timer_interval);
    let tfd = TimerfdEntry {
        id,
        flags: info.file_flags(),
        fown: owner::of(descriptor)?,
        clockid: info.clock,
        ticks: info.ticks,
        settime_flags: info.settime_flags,
        vsec,
        vnsec,
        isec,
        insec,
    };
    Ok(FileEntry { tfd: Some(tfd), ..of_type(FdTypes::Timerfd, id) })
}
