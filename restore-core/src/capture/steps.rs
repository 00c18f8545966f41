//! The steps of a dump as the outside can influence them: aborted, out of time, or made to fail.
//!
//! Every call site that can fail passes here first. So whoever waits for us can give up between
//! any two steps, and a test can let the capture fail at each of them in turn.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::{DumpError, proc};

/// What goes wrong on purpose at one step, so that tests can go through all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mishap {
    /// The step with this number fails.
    Fail {
        /// Its number, from 0.
        step: u32,
    },
    /// Before the step with this number a process is killed; the step begins when it is dead.
    Kill {
        /// Its number, from 0.
        step: u32,
        /// The process.
        pid: i32,
    },
}

/// What may end a dump early. Borrowed by all its threads.
#[derive(Debug)]
pub(crate) struct Steps {
    taken: AtomicU32,
    mishap: Option<Mishap>,
    deadline: Option<(Instant, Duration)>,
    /// Readable when whoever started the dump has gone.
    abort: Option<OwnedFd>,
}

impl Steps {
    pub(crate) fn new(
        mishap: Option<Mishap>,
        timeout: Option<Duration>,
        abort: Option<OwnedFd>,
    ) -> Self {
        let deadline = timeout.map(|limit| (Instant::now() + limit, limit));
        Self { taken: AtomicU32::new(0), mishap, deadline, abort }
    }

    /// Before a step; `what` names it.
    ///
    /// # Errors
    /// [`DumpError::Aborted`], [`DumpError::Timeout`], or the injected one.
    pub(crate) fn next(&self, what: &'static str) -> Result<(), DumpError> {
        let number = self.taken.fetch_add(1, Ordering::Relaxed);
        match self.mishap {
            Some(Mishap::Fail { step }) if step == number => {
                return Err(DumpError::Injected { step, what });
            }
            Some(Mishap::Kill { step, pid }) if step == number => kill(pid),
            _ => {}
        }
        self.look()
    }

    /// Within a long step.
    pub(crate) fn look(&self) -> Result<(), DumpError> {
        if let Some((deadline, limit)) = self.deadline
            && Instant::now() > deadline
        {
            return Err(DumpError::Timeout { seconds: limit.as_secs() });
        }
        if let Some(abort) = &self.abort {
            let mut fds = [PollFd::new(abort.as_fd(), PollFlags::POLLIN)];
            if matches!(nix::poll::poll(&mut fds, PollTimeout::ZERO), Ok(1)) {
                return Err(DumpError::Aborted);
            }
        }
        Ok(())
    }

    /// How long a task may take to stop: what is left of the time, at most `most`.
    pub(crate) fn patience(&self, most: Duration) -> Duration {
        let left = |(deadline, _): (Instant, _)| deadline.saturating_duration_since(Instant::now());
        self.deadline.map_or(most, |deadline| left(deadline).min(most))
    }

    /// Steps taken so far.
    pub(crate) fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// Kills a process and waits until it is dead.
fn kill(pid: i32) {
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL);
    while proc::stat::Stat::of(pid).is_ok_and(|stat| !stat.is_zombie()) {
        std::thread::yield_now();
    }
}
