//! Ctrl-C and its kin while a restore works: they give it up, and everything is undone.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals by which people and programs ask a command to end.
const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// The signals wait here while this exists.
pub(crate) struct Interrupts {
    signals: SignalFd,
    mask: SigSet,
}

impl Interrupts {
    /// From now on such a signal waits. The process must have one thread.
    ///
    /// # Errors
    /// The kernel has no descriptor left.
    pub(crate) fn hold() -> Result<Self, Errno> {
        let ending: SigSet = ENDING.into_iter().collect();
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&ending, flags)?;
        let mut mask = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&ending), Some(&mut mask))?;
        Ok(Self { signals, mask })
    }

    /// Readable when a signal has come.
    ///
    /// # Errors
    /// The kernel has no descriptor left.
    pub(crate) fn descriptor(&self) -> std::io::Result<Arc<OwnedFd>> {
        self.signals.as_fd().try_clone_to_owned().map(Arc::new)
    }

    /// Signals end this process again. Which have come meanwhile is said, and they are forgotten.
    pub(crate) fn release(self) -> Vec<Signal> {
        let mut come = Vec::new();
        while let Ok(Some(info)) = self.signals.read_signal() {
            come.extend(Signal::try_from(info.ssi_signo as i32));
        }
        // It can only fail for a wrong operation.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None);
        come
    }
}
