//! Programs inside a node: a command that sees its files, and a run that leaves nothing behind.
//!
//! A run is three processes. The *waiter* is what the caller starts; it lives in the caller's pid
//! namespace and does nothing but pass signals on. The *init* is process 1 of a new one, with a
//! `/proc` of its own: when it ends, the kernel kills whatever is left in there. The command is its
//! child. Waiter and init ask for SIGKILL at the end of whoever started them, so that nothing
//! survives however the caller ends. Both run on in a copy of the caller's memory and make nothing
//! but system calls there, since other threads' locks may have been copied with it.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, pipe};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, Pid, chdir, fork, getpid, getppid, write};

use super::namespace::{PRELOAD, PROGRAMS};
use super::raw;

/// Whether a program gets the preload library, which makes device files look like a driver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preload {
    /// It does: for programs that insist on character devices, and on descriptors from exports.
    Yes,
    /// It does not: for our own, which know an emulated device.
    No,
}

/// A command that will run inside a mount namespace, in the folder of the same path.
pub(super) fn command(
    namespace: &Arc<File>,
    program: impl AsRef<OsStr>,
    preload: Preload,
) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", put_in_front(PROGRAMS, "PATH"));
    if preload == Preload::Yes {
        command.env("LD_PRELOAD", put_in_front(PRELOAD, "LD_PRELOAD"));
    }
    let namespace = Arc::clone(namespace);
    // SAFETY: between fork and exec this makes system calls and nothing else: `raw::current_dir`
    // writes to the stack, and `chdir` takes what it wrote as it is.
    unsafe {
        command.pre_exec(move || {
            let mut buffer = [0; libc::PATH_MAX as usize];
            let folder = raw::current_dir(&mut buffer)?;
            setns(&*namespace, CloneFlags::CLONE_NEWNS)?;
            Ok(chdir(folder)?)
        });
    }
    command
}

fn put_in_front(value: &str, variable: &str) -> OsString {
    let mut all = OsString::from(value);
    if let Some(before) = std::env::var_os(variable).filter(|before| !before.is_empty()) {
        all.push(":");
        all.push(before);
    }
    all
}

/// How a run is done.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Signals that are passed on to the command. The caller must have blocked them in all its
    /// threads, before it started the node; others do to the caller what they always do, which
    /// ends the run if it ends the caller.
    pub pass_on: Vec<Signal>,
}

/// Runs a command in a pid namespace of its own, and waits until nothing of it is left.
///
/// # Errors
/// What `Command::status` fails with; `EPERM` if a namespace is refused.
pub(super) fn run(mut command: Command, options: &RunOptions) -> io::Result<ExitStatus> {
    let (mut result, report) = pipe()?;
    let passed: SigSet = options.pass_on.iter().copied().collect();
    let parts = Parts { parent: getpid(), report: report.as_raw_fd(), passed };
    // SAFETY: between fork and exec this makes system calls and nothing else; `fork` in a process
    // that has one thread, which a child of `fork` is.
    unsafe { command.pre_exec(move || parts.split()) };
    let signals = SignalFd::with_flags(&passed, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut waiter = command.spawn()?;
    drop(report);
    let ended = raw::pidfd_of_process(waiter.id() as i32)?;
    pass_signals_on(&ended, &signals, Pid::from_raw(waiter.id() as i32))?;
    let own = waiter.wait()?;
    let mut status = [0; 4];
    match result.read_exact(&mut status) {
        Ok(()) => Ok(ExitStatus::from_raw(i32::from_ne_bytes(status))),
        // Waiter or init were killed.
        Err(_) => Ok(own),
    }
}

/// Until the waiter has ended.
fn pass_signals_on(ended: &OwnedFd, signals: &SignalFd, waiter: Pid) -> io::Result<()> {
    loop {
        let mut fds = [
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        if fds[0].any().unwrap_or(true) {
            return Ok(());
        }
        while let Some(signal) = signals.read_signal()? {
            // A terminal sends to all of its foreground, the command included.
            let from_terminal = signal.ssi_code == libc::SI_KERNEL;
            if let (false, Ok(signal)) = (from_terminal, Signal::try_from(signal.ssi_signo as i32))
            {
                let _ = kill(waiter, signal);
            }
        }
    }
}

/// What a forked process needs to become waiter, init and command.
#[derive(Clone, Copy)]
struct Parts {
    parent: Pid,
    /// Where the init writes the status of the command. Closed when the command is executed.
    report: RawFd,
    /// Signals that the caller has blocked for itself, which the command must not inherit: most
    /// programs never look at their mask.
    passed: SigSet,
}

impl Parts {
    /// Returns in the process that will execute the command.
    fn split(self) -> io::Result<()> {
        let all = SigSet::all();
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), Some(&mut before))?;
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        if getppid() != self.parent {
            return Err(Errno::ESRCH.into());
        }
        unshare(CloneFlags::CLONE_NEWPID)?;
        let waiter = raw::pidfd_of_process(getpid().as_raw())?;
        // SAFETY: this process was forked itself, so it has one thread.
        if let ForkResult::Parent { child } = unsafe { fork() }? {
            let _ = prctl::set_name(c"kfd-waiter");
            raw::close_all_but(self.report);
            attend(child);
            raw::exit(0);
        }
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        let mut fds = [PollFd::new(waiter.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::ZERO)? != 0 {
            return Err(Errno::ESRCH.into());
        }
        unshare(CloneFlags::CLONE_NEWNS)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some(c"proc"), c"/proc", Some(c"proc"), flags, None::<&CStr>)?;
        // SAFETY: as above.
        if let ForkResult::Parent { child } = unsafe { fork() }? {
            let _ = prctl::set_name(c"kfd-init");
            raw::close_all_but(self.report);
            let status = attend(child);
            let report = raw::borrowed(self.report);
            let _ = write(report, &status.to_ne_bytes());
            raw::exit(0);
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
        sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&self.passed), None)?;
        Ok(())
    }
}

/// Waits for a child, collects all others, and passes signals on to it. All are blocked. Gives its
/// status as `waitpid` does.
fn attend(child: Pid) -> i32 {
    let all = SigSet::all();
    loop {
        let (signal, code) = raw::wait_for_signal(&all);
        if signal == libc::SIGCHLD {
            loop {
                match raw::collect_any() {
                    Some((pid, status)) if pid == child.as_raw() => return status,
                    Some(_) => {}
                    None => break,
                }
            }
        } else if code != libc::SI_KERNEL {
            raw::signal(child.as_raw(), signal);
        }
    }
}
