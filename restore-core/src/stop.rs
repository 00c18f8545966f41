//! What may end a restore early: its caller gives it up, or its time is over.
//!
//! Both are facts of the outside: a descriptor that is readable and stays so, and the clock. So
//! whoever has a copy looks for himself, and nothing that changes is shared. Whether it is still
//! time to stop is not known here: the coordinator no longer looks once it lets the tree go.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

/// How often a wait is interrupted for a look. An operator does not notice it, and at 50 looks a
/// second it costs nothing that could be measured.
const LOOK_PERIOD: Duration = Duration::from_millis(20);
/// The same where nothing can stop a restore: waits that are longer are not known.
const NO_PERIOD: Duration = Duration::from_secs(3600);

/// What may end a restore early.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    deadline: Option<(Instant, Duration)>,
    abort: Option<Arc<OwnedFd>>,
}

/// Why a restore has ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It was given up.
    Cancelled,
    /// Its time is over.
    Timeout {
        /// How long it was allowed to take.
        seconds: u64,
    },
}

impl Stop {
    /// The time begins now.
    pub(crate) fn new(timeout: Option<Duration>, abort: Option<Arc<OwnedFd>>) -> Self {
        let now = Instant::now();
        // What lies beyond the clock's end never comes.
        let deadline = timeout.and_then(|limit| Some((now.checked_add(limit)?, limit)));
        Self { deadline, abort }
    }

    /// Whether to go on.
    ///
    /// # Errors
    /// [`Stopped`], from the first moment on and for ever.
    pub(crate) fn look(&self) -> Result<(), Stopped> {
        if let Some(abort) = &self.abort {
            let mut fds = [PollFd::new(abort.as_fd(), PollFlags::POLLIN)];
            if matches!(nix::poll::poll(&mut fds, PollTimeout::ZERO), Ok(1)) {
                return Err(Stopped::Cancelled);
            }
        }
        match self.deadline {
            Some((deadline, limit)) if Instant::now() >= deadline => {
                Err(Stopped::Timeout { seconds: limit.as_secs() })
            }
            _ => Ok(()),
        }
    }

    /// Longest wait between two looks.
    pub(crate) fn period(&self) -> Duration {
        match (self.deadline, &self.abort) {
            (None, None) => NO_PERIOD,
            _ => LOOK_PERIOD,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Stop, Stopped};
    use std::io::Write;
    use std::sync::Arc;
    use std::time::Duration;

    #[test]
    fn what_is_readable_and_stays_so_stops_for_ever() {
        let (abort, mut from) = std::io::pipe().expect("a pipe");
        let stop = Stop::new(None, Some(Arc::new(abort.into())));
        assert_eq!(stop.look(), Ok(()));
        from.write_all(b"!").expect("room");
        let other = stop.clone();
        assert_eq!((stop.look(), other.look()), (Err(Stopped::Cancelled), other.look()));
    }

    #[test]
    fn time_is_over_at_once_or_never() {
        let over = Stopped::Timeout { seconds: 0 };
        assert_eq!(Stop::new(Some(Duration::ZERO), None).look(), Err(over));
        assert_eq!(Stop::new(Some(Duration::MAX), None).look(), Ok(()));
        assert_eq!(Stop::default().look(), Ok(()));
    }
}
