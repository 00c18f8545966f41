//! The descriptor of `--progress-fd`: JSON lines for the program that opened it.
//!
//! A line is written only where it does not have to wait: whoever does not read misses lines, and
//! delays nothing.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Longest line: so much is written to a pipe at once or not at all (PIPE_BUF of Linux).
const LINE_BYTES_MAX: usize = 4096;

/// A descriptor that somebody else opened for us.
pub(crate) struct Descriptor {
    fd: Option<OwnedFd>,
}

impl Descriptor {
    /// Takes the descriptor with this number.
    ///
    /// # Errors
    /// It is not open, or not for writing.
    pub(crate) fn take(number: i32) -> io::Result<Self> {
        let fd = super::inherited::copy(number)?;
        let flags = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
        if flags & OFlag::O_ACCMODE == OFlag::O_RDONLY {
            return Err(Errno::EBADF.into());
        }
        Ok(Self { fd: Some(fd) })
    }

    /// Writes a line, if there is room and somebody who reads.
    pub(super) fn line(&mut self, value: &serde_json::Value) {
        let Some(fd) = &self.fd else { return };
        let mut line = value.to_string();
        line.push('\n');
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
        let ready = poll(&mut fds, PollTimeout::ZERO);
        let has_room = fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLOUT));
        if line.len() > LINE_BYTES_MAX || !matches!(ready, Ok(1)) || !has_room {
            return;
        }
        if nix::unistd::write(fd, line.as_bytes()).is_err() {
            self.fd = None;
        }
    }
}
