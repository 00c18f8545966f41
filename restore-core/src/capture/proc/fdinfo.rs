//! `/proc/<pid>/fdinfo/<fd>`: state of one descriptor and of the file behind it.

use super::{read, unexpected};
use crate::capture::DumpError;

/// One watch of an epoll instance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Watch {
    pub(crate) fd: u32,
    pub(crate) events: u32,
    pub(crate) data: u64,
    pub(crate) pos: u64,
    pub(crate) inode: u64,
    pub(crate) dev: u32,
}

/// What the lines say; those of kinds that a file is not are 0 or empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FdInfo {
    pub(crate) pos: u64,
    /// `O_*`, with `O_CLOEXEC` of the descriptor.
    pub(crate) flags: u32,
    pub(crate) mnt_id: i32,
    /// Lines that begin with `lock:`.
    pub(crate) locks: usize,
    pub(crate) eventfd_count: u64,
    pub(crate) eventfd_semaphore: bool,
    pub(crate) sigmask: u64,
    pub(crate) watches: Vec<Watch>,
    pub(crate) clock: u32,
    pub(crate) ticks: u64,
    pub(crate) settime_flags: u32,
    /// Seconds and nanoseconds until the next expiration, and between expirations.
    pub(crate) timer_value: (u64, u64),
    pub(crate) timer_interval: (u64, u64),
    /// Process of a pidfd: -1 if it has gone.
    pub(crate) pid: i32,
    /// Its id in each namespace, outermost first; empty if it has gone.
    pub(crate) pids: Vec<i32>,
}

impl FdInfo {
    /// Of a descriptor.
    pub(crate) fn of(pid: i32, fd: i32) -> Result<Self, DumpError> {
        let name = format!("fdinfo/{fd}");
        let bytes = read(pid, &name)?;
        parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| unexpected(pid, &name))
    }

    /// Flags of the open file.
    pub(crate) fn file_flags(&self) -> u32 {
        self.flags & !(libc::O_CLOEXEC as u32)
    }

    /// Whether the descriptor is closed by `execve`.
    pub(crate) fn close_on_exec(&self) -> bool {
        self.flags & libc::O_CLOEXEC as u32 != 0
    }
}

fn parse(text: &str) -> Option<FdInfo> {
    let mut info = FdInfo::default();
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        match key.trim() {
            "pos" => info.pos = value.parse::<i64>().ok()? as u64,
            "flags" => info.flags = u32::from_str_radix(value, 8).ok()?,
            "mnt_id" => info.mnt_id = value.parse().ok()?,
            "lock" => info.locks += 1,
            "eventfd-count" => info.eventfd_count = hex(value)?,
            "eventfd-semaphore" => info.eventfd_semaphore = value != "0",
            "sigmask" => info.sigmask = hex(value)?,
            "tfd" => info.watches.push(watch(value)?),
            "clockid" => info.clock = value.parse().ok()?,
            "ticks" => info.ticks = value.parse().ok()?,
            "settime flags" => info.settime_flags = u32::from_str_radix(value, 8).ok()?,
            "it_value" => info.timer_value = time(value)?,
            "it_interval" => info.timer_interval = time(value)?,
            "Pid" => info.pid = value.parse().ok()?,
            "NSpid" => {
                info.pids = value.split_whitespace().filter_map(|id| id.parse().ok()).collect();
            }
            _ => {}
        }
    }
    Some(info)
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// `N events: X data: X  pos:N ino:X sdev:X`
fn watch(text: &str) -> Option<Watch> {
    let text = text.replace(':', " ");
    let mut words = text.split_whitespace();
    let mut watch = Watch { fd: words.next()?.parse().ok()?, ..Watch::default() };
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        match key {
            "events" => watch.events = hex(value)? as u32,
            "data" => watch.data = hex(value)?,
            "pos" => watch.pos = value.parse::<i64>().ok()? as u64,
            "ino" => watch.inode = hex(value)?,
            "sdev" => watch.dev = hex(value)? as u32,
            _ => {}
        }
    }
    Some(watch)
}

/// `(seconds, nanoseconds)`
fn time(text: &str) -> Option<(u64, u64)> {
    let (seconds, nanoseconds) = text.trim_matches(['(', ')']).split_once(',')?;
    Some((seconds.trim().parse().ok()?, nanoseconds.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{Watch, parse};

    #[test]
    fn lines_of_every_kind_are_read() {
        let info = parse(
            "pos:\t5\nflags:\t02100002\nmnt_id:\t27\nino:\t55\nlock:\t1: POSIX\neventfd-count:  a\n\
             sigmask:\t0000000008000000\nclockid: 1\nticks: 2\nsettime flags: 01\n\
             it_value: (49, 50)\nit_interval: (60, 0)\nPid:\t7\nNSpid:\t7\t1\n\
             tfd:       10 events:       19 data:                b  pos:0 ino:178cf sdev:f\n",
        );
        let info = info.expect("it is whole");
        assert_eq!((info.pos, info.file_flags(), info.mnt_id), (5, 0o100_002, 27));
        assert!(info.close_on_exec() && info.locks == 1);
        assert_eq!((info.eventfd_count, info.sigmask), (10, 1 << 27));
        assert_eq!((info.clock, info.ticks, info.settime_flags), (1, 2, 1));
        assert_eq!((info.timer_value, info.timer_interval), ((49, 50), (60, 0)));
        assert_eq!((info.pid, info.pids), (7, vec![7, 1]));
        let watch = Watch { fd: 10, events: 0x19, data: 11, pos: 0, inode: 0x178cf, dev: 15 };
        assert_eq!(info.watches, [watch]);
    }
}
