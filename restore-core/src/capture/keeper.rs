//! Runs a dump in a process of its own, so that killing the one who asked for it harms no tree.
//!
//! For a moment the processes of a tree stand on our code; whoever traces them must live to put
//! them back. A command can be killed at any time. So the work is done by a child in a session of
//! its own, which sees that its parent has gone and undoes what it has done.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, pipe2};

use crate::remote::spawn::open_pidfd;

/// Signals by which people and programs ask a command to end.
const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Why the work could not be given to a process of its own.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// This process has threads, which a fork would lose.
    #[error("the process has {threads} threads: a dump must be started by one that has none")]
    Threads {
        /// How many.
        threads: usize,
    },
    /// A system call failed.
    #[error("{what}: {errno}")]
    Os {
        /// What was attempted.
        what: &'static str,
        /// The kernel's error.
        errno: Errno,
    },
}

impl KeeperError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Threads { .. } => "dump.threads",
            Self::Os { .. } => "dump.keeper",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Threads { .. } => Some("call it from a process with one thread"),
            Self::Os { .. } => Some("raise the limit of processes (ulimit -u, pids.max)"),
        }
    }
}

/// How the process that did the work has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Code(u8),
    /// It was killed by this signal; a tree that it was dumping may be harmed.
    Killed(i32),
}

/// Runs `work` in a child process and waits for it. `work` is given a descriptor that becomes
/// readable when this process has gone, or was asked to end by SIGINT, SIGTERM or SIGHUP; its value
/// is the exit code.
///
/// # Errors
/// [`KeeperError`]; `work` has not run then.
pub fn keep(work: impl FnOnce(OwnedFd) -> u8) -> Result<Ended, KeeperError> {
    let fail = |what| move |errno| KeeperError::Os { what, errno };
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(KeeperError::Threads { threads });
    }
    // The end of this process closes the pipe as well as a signal to it does.
    let (abort, lifeline) = pipe2(OFlag::O_CLOEXEC).map_err(fail("make a pipe"))?;
    let ending: SigSet = ENDING.into_iter().collect();
    let mut mask = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ending), Some(&mut mask))
        .map_err(fail("block signals"))?;
    let signals = SignalFd::with_flags(&ending, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
        .map_err(fail("make a signalfd"))?;
    let restore_mask = || sigprocmask(SigmaskHow::SIG_SETMASK, Some(&mask), None);
    // SAFETY: this process has one thread (checked above), so the child is a whole copy of it and
    // may do anything.
    match unsafe { nix::unistd::fork() }.map_err(fail("fork"))? {
        ForkResult::Child => {
            drop((lifeline, signals));
            // It can only fail for a wrong operation.
            let _ = restore_mask();
            // A file that may not be so large is an error of its write, not the end of all.
            let size = SigSet::from(Signal::SIGXFSZ);
            let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&size), None);
            // A session of its own: what is sent to the command's group does not reach it.
            let _ = nix::unistd::setsid();
            std::process::exit(work(abort).into());
        }
        ForkResult::Parent { child } => {
            drop(abort);
            let ended = watch(child, lifeline, &signals);
            let _ = restore_mask();
            ended
        }
    }
}

/// Waits for the child; a signal to this process tells it to give up, and is taken.
fn watch(child: Pid, lifeline: OwnedFd, signals: &SignalFd) -> Result<Ended, KeeperError> {
    let fail = |what| move |errno| KeeperError::Os { what, errno };
    let pidfd = open_pidfd(child.as_raw()).map_err(fail("open a pidfd"))?;
    let mut lifeline = Some(lifeline);
    loop {
        let mut fds = [
            PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(fail("wait for the dump")(errno)),
        }
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        let [has_ended, has_signal] = [is_ready(&fds[0]), is_ready(&fds[1])];
        if has_signal {
            while matches!(signals.read_signal(), Ok(Some(_))) {
                drop(lifeline.take());
            }
        }
        if has_ended {
            return match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, code)) => Ok(Ended::Code(code as u8)),
                Ok(WaitStatus::Signaled(_, signal, _)) => Ok(Ended::Killed(signal as i32)),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(errno) => Err(fail("wait for the dump")(errno)),
            };
        }
    }
}
