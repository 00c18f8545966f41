//! Timer files: created early, armed at the very end with the time that was left.

use std::os::fd::OwnedFd;

use criu_image::record::{FileEntry, TimerfdEntry};
use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use super::{FilesError, raw, set_status_flags};

/// One timer file.
#[derive(Debug)]
pub(super) struct Plan {
    entry: TimerfdEntry,
}

impl Plan {
    pub(super) fn new(entry: &FileEntry) -> Option<Self> {
        entry.tfd.map(|entry| Self { entry })
    }

    fn fail(&self, call: &'static str) -> impl Fn(Errno) -> FilesError {
        let what = format!("timer file {:#x}", self.entry.id);
        move |errno| FilesError::Object { call, what: what.clone(), errno }
    }

    pub(super) fn open(&self) -> Result<OwnedFd, FilesError> {
        let fd = raw::timerfd(self.entry.clockid as i32).map_err(self.fail("timerfd_create"))?;
        set_status_flags(&fd, self.entry.flags, &format!("timer file {:#x}", self.entry.id))?;
        Ok(fd)
    }

    /// The image holds what was left, for absolute timers too: those get it from now on.
    pub(super) fn arm(&self, fd: &OwnedFd) -> Result<(), FilesError> {
        let entry = &self.entry;
        let interval = timespec(entry.isec, entry.insec);
        let mut value = timespec(entry.vsec, entry.vnsec);
        if entry.ticks != 0 && value.tv_sec == 0 && value.tv_nsec == 0 {
            // Expired and not read: the kernel would go on with the next interval at the read.
            value = interval;
        }
        let armed = value.tv_sec != 0 || value.tv_nsec != 0;
        let absolute = entry.settime_flags as i32 & libc::TFD_TIMER_ABSTIME != 0;
        if armed && absolute {
            let now = clock_gettime(ClockId::from_raw(entry.clockid as i32))
                .map_err(self.fail("clock_gettime"))?;
            // What is no time (more than a second of nanoseconds) is left for the kernel to refuse.
            value.tv_sec = value.tv_sec.saturating_add(now.tv_sec());
            let below_second = (0..1_000_000_000).contains(&value.tv_nsec);
            if below_second {
                value.tv_nsec += now.tv_nsec();
            }
            if below_second && value.tv_nsec >= 1_000_000_000 {
                value.tv_sec = value.tv_sec.saturating_add(1);
                value.tv_nsec -= 1_000_000_000;
            }
        }
        if armed {
            let value = libc::itimerspec { it_interval: interval, it_value: value };
            raw::timerfd_settime(fd, entry.settime_flags as i32, &value)
                .map_err(self.fail("timerfd_settime"))?;
        }
        if entry.ticks != 0 {
            raw::timerfd_set_ticks(fd, entry.ticks).map_err(self.fail("TFD_IOC_SET_TICKS"))?;
        }
        Ok(())
    }
}

fn timespec(seconds: u64, nanoseconds: u64) -> libc::timespec {
    libc::timespec { tv_sec: seconds as i64, tv_nsec: nanoseconds as i64 }
}
