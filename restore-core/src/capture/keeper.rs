//! Runs a dump in a process of its own, so that killing the one who asked for it harms no tree.
//!
//! For a moment the processes of a tree stand on our code; whoever traces them must live to put
//! them back. A command can be killed at any time. So the work is done by a child in a session of
//! its own, which sees that its parent has gone and undoes what it has done.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::ForkResult;

use crate::remote::spawn::open_pidfd;

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

/// How the process that did the work has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Code(u8),
    /// It was killed by this signal; a tree that it was dumping may be harmed.
    Killed(i32),
}

/// Runs `work` in a child process and waits for it. `work` is given a descriptor that becomes
/// readable when this process has gone; its value is the exit code.
///
/// # Errors
/// [`KeeperError`]; `work` has not run then.
pub fn keep(work: impl FnOnce(OwnedFd) -> u8) -> Result<Ended, KeeperError> {
    let fail = |what| move |errno| KeeperError::Os { what, errno };
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(KeeperError::Threads { threads });
    }
    let own = open_pidfd(nix::unistd::getpid().as_raw()).map_err(fail("open a pidfd"))?;
    // SAFETY: this process has one thread (checked above), so the child is a whole copy of it and
    // may do anything.
    match unsafe { nix::unistd::fork() }.map_err(fail("fork"))? {
        ForkResult::Child => {
            // A session of its own: what is sent to the command's group does not reach it.
            let _ = nix::unistd::setsid();
            std::process::exit(work(own).into());
        }
        ForkResult::Parent { child } => loop {
            match waitpid(child, None) {
                Ok(WaitStatus::Exited(_, code)) => return Ok(Ended::Code(code as u8)),
                Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Ended::Killed(signal as i32)),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(fail("wait for the dump")(errno)),
            }
        },
    }
}
