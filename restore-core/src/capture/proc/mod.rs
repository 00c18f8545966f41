//! What `/proc` says of a process: read from outside, parsed into values, nothing decided.
//!
//! Parsers are apart from reading, so that each is tested on text. Names are bytes.

pub(crate) mod fdinfo;
pub(crate) mod smaps;
pub(crate) mod stat;
pub(crate) mod status;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::DumpError;

/// Room for most entries.
const ENTRY_BYTES: usize = 4096;

/// Path of an entry of a process.
pub(crate) fn path(pid: i32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

/// Reads an entry whole.
pub(crate) fn read(pid: i32, name: &str) -> Result<Vec<u8>, DumpError> {
    let path = path(pid, name);
    whole(&path).map_err(|source| DumpError::Read { path, source })
}

/// Entries have no size to be asked for first: so a dump makes three calls fewer for each.
fn whole(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let mut bytes = vec![0; ENTRY_BYTES];
    let mut len = 0;
    loop {
        match file.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if bytes.len() - len < ENTRY_BYTES / 2 {
            bytes.resize(bytes.len() * 2, 0);
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}

/// Reads an entry that is one number; `radix` is that of the text.
pub(crate) fn number(pid: i32, name: &str, radix: u32) -> Result<i64, DumpError> {
    let bytes = read(pid, name)?;
    let text = String::from_utf8_lossy(&bytes);
    i64::from_str_radix(text.trim(), radix).map_err(|_| unexpected(pid, name))
}

/// An entry that does not look as it should.
pub(crate) fn unexpected(pid: i32, name: &str) -> DumpError {
    DumpError::Unexpected { path: path(pid, name) }
}

/// Thread ids of a process, ascending; an error if it has gone.
pub(crate) fn threads(pid: i32) -> Result<Vec<i32>, DumpError> {
    numbered(path(pid, "task"))
}

/// Numbers that are the names of a directory's entries, ascending.
pub(crate) fn numbered(path: PathBuf) -> Result<Vec<i32>, DumpError> {
    let fail = |source| DumpError::Read { path: path.clone(), source };
    let mut numbers = Vec::new();
    for entry in fs::read_dir(&path).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        numbers.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Children that a process has, whichever of its threads made them.
pub(crate) fn children(pid: i32) -> Result<Vec<i32>, DumpError> {
    let mut children = Vec::new();
    for tid in threads(pid)? {
        let bytes = match read(pid, &format!("task/{tid}/children")) {
            Err(DumpError::Read { source, .. }) if is_gone(&source) => continue,
            other => other?,
        };
        let text = String::from_utf8_lossy(&bytes);
        children.extend(text.split_whitespace().filter_map(|word| word.parse::<i32>().ok()));
    }
    children.sort_unstable();
    Ok(children)
}

/// Whether an error of `/proc` says that the task is no more.
pub(crate) fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// The words of the auxiliary vector, without the pairs of zeros at its end.
pub(crate) fn auxv(pid: i32) -> Result<Vec<u64>, DumpError> {
    let bytes = read(pid, "auxv")?;
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    let pairs = bytes.chunks_exact(16).map(|pair| [word(&pair[..8]), word(&pair[8..])]);
    Ok(pairs.take_while(|pair| pair[0] != 0).flatten().collect())
}

/// One POSIX timer, as `/proc/<pid>/timers` shows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Timer {
    pub(crate) id: u32,
    pub(crate) signal: u32,
    pub(crate) value: u64,
    /// `SIGEV_*`.
    pub(crate) notify: u32,
    /// Thread that gets the signal, for `SIGEV_THREAD_ID`.
    pub(crate) tid: Option<i32>,
    pub(crate) clock: u32,
}

/// The POSIX timers of a process in the order in which they were made: the kernel lists the
/// latest first.
pub(crate) fn timers(pid: i32) -> Result<Vec<Timer>, DumpError> {
    let text = read(pid, "timers")?;
    let timers = parse_timers(&String::from_utf8_lossy(&text));
    let mut timers = timers.ok_or_else(|| unexpected(pid, "timers"))?;
    timers.reverse();
    Ok(timers)
}

fn parse_timers(text: &str) -> Option<Vec<Timer>> {
    let mut timers: Vec<Timer> = Vec::new();
    for line in text.lines() {
        let (key, value) = line.split_once(':')?;
        let value = value.trim();
        if key == "ID" {
            timers.push(Timer { id: value.parse().ok()?, ..Timer::default() });
            continue;
        }
        let timer = timers.last_mut()?;
        match key {
            "signal" => {
                let (signal, pointer) = value.split_once('/')?;
                timer.signal = signal.parse().ok()?;
                timer.value = u64::from_str_radix(pointer.trim_start_matches("0x"), 16).ok()?;
            }
            "notify" => {
                let (kind, target) = value.split_once('/')?;
                let (to, number) = target.split_once('.')?;
                timer.notify = match kind {
                    "signal" => libc::SIGEV_SIGNAL as u32,
                    "none" => libc::SIGEV_NONE as u32,
                    "thread" => libc::SIGEV_THREAD as u32,
                    _ => return None,
                };
                if to == "tid" {
                    timer.notify |= libc::SIGEV_THREAD_ID as u32;
                    timer.tid = Some(number.parse().ok()?);
                }
            }
            "ClockID" => timer.clock = value.parse::<i32>().ok()? as u32,
            _ => {}
        }
    }
    Some(timers)
}

#[cfg(test)]
mod tests {
    use super::{Timer, parse_timers};

    #[test]
    fn timers_are_read_with_their_targets() {
        let text = "ID: 0\nsignal: 40/0000000000000000\nnotify: signal/pid.5\nClockID: 1\n\
                    ID: 3\nsignal: 33/00007f00deadbeef\nnotify: signal/tid.9\nClockID: 0\n";
        let first = Timer { id: 0, signal: 40, clock: 1, ..Timer::default() };
        let second = Timer {
            id: 3,
            signal: 33,
            value: 0x7f00_dead_beef,
            notify: libc::SIGEV_THREAD_ID as u32,
            tid: Some(9),
            clock: 0,
        };
        assert_eq!(parse_timers(text), Some(vec![first, second]));
        assert_eq!(parse_timers(""), Some(vec![]));
        assert_eq!(parse_timers("signal: 40/0\n"), None);
    }
}
