//! A command that is measured: its wall time and the largest resident set that it had.
//!
//! The standard library reports no resident set, and the one for all children together would mix
//! the two sides of a comparison. So this file waits for the child itself.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A restore that takes longer hangs; a slow one of some gigabytes takes a few seconds.
const RUN_MAX: Duration = Duration::from_secs(60);

/// One run of a command.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) time: Duration,
    pub(super) peak_kib: u64,
}

/// Runs a command to its end, which must be success.
pub(super) fn measure(command: &mut Command) -> Result<Run, String> {
    measure_for(command, RUN_MAX)
}

/// The same with another limit of time.
pub(super) fn measure_for(command: &mut Command, run_max: Duration) -> Result<Run, String> {
    let name = command.get_program().display().to_string();
    let begin = Instant::now();
    let child = command.stdin(Stdio::null()).spawn().map_err(|error| format!("{name}: {error}"))?;
    let pid = child.id() as i32;
    let ended = wait_for_end(pid, run_max).map_err(|error| format!("{name}: {error}"))?;
    if !ended {
        kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|error| error.to_string())?;
    }
    let (status, peak_kib) = wait_with_peak(pid).map_err(|error| format!("{name}: {error}"))?;
    let time = begin.elapsed();
    if !ended {
        return Err(format!("{name}: has not ended after {run_max:?}"));
    }
    if !(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0) {
        return Err(format!("{name}: wait status {status:#x}"));
    }
    Ok(Run { time, peak_kib })
}

/// Whether the child, which stays a zombie, has ended in time.
fn wait_for_end(pid: i32, run_max: Duration) -> io::Result<bool> {
    // SAFETY: the call takes two integers and touches no memory of ours.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows its number.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(run_max).map_err(io::Error::other)?;
    Ok(poll(&mut fds, timeout)? == 1)
}

/// Collects a child and returns its wait status and its largest resident set in KiB.
fn wait_with_peak(pid: i32) -> io::Result<(i32, u64)> {
    let mut status = 0;
    // SAFETY: the struct is plain integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes to the two locals only, whose types are those of the call.
    let ret = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    if ret != pid {
        return Err(io::Error::last_os_error());
    }
    Ok((status, usage.ru_maxrss as u64))
}

#[cfg(test)]
mod tests {
    use super::measure;
    use std::process::Command;

    #[test]
    fn peak_is_that_of_the_command() {
        let small = measure(&mut Command::new("true")).expect("true succeeds");
        let large = measure(Command::new("sh").args(["-c", "a=$(printf %020000000d 1)"]));
        let large = large.expect("sh succeeds");
        assert!(large.peak_kib > small.peak_kib + 10_000, "{small:?} {large:?}");
    }

    #[test]
    fn failure_is_an_error() {
        assert!(measure(&mut Command::new("false")).is_err());
        assert!(measure(&mut Command::new("/no/such/program")).is_err());
    }
}
