//! A thread that reads requests and hands them on.
//!
//! Waking a thread that sleeps, on another processor, costs more than a whole call. So if several
//! threads call, a reader that has answered looks again for a short while before it sleeps, and
//! lets others run between two looks: the next call mostly comes at once. A single caller is better
//! served by a reader that sleeps: both then stay on one processor. It looks on a second descriptor
//! that never waits, since `O_NONBLOCK` belongs to the open file.

use std::sync::Arc;
use std::thread::yield_now;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::channel::{Channel, Received, Reply};
use super::connection::{Connection, READ_BUFFER_BYTES};
use super::request::Request;

/// Reads the requests of a connection.
#[derive(Debug)]
pub(crate) struct Reader {
    waiting: Arc<Channel>,
    looking: Arc<Channel>,
    spin: Duration,
}

impl Reader {
    /// A reader that looks for `spin` after a request before it sleeps, if callers take turns.
    ///
    /// # Errors
    /// `EMFILE`.
    pub(crate) fn new(connection: &Connection, spin: Duration) -> Result<Self, Errno> {
        Ok(Self { waiting: connection.channel(true)?, looking: connection.channel(false)?, spin })
    }

    /// Hands every request to `handle`, until the connection ends.
    ///
    /// # Errors
    /// Reading failed in a way that only a bug can cause.
    pub(crate) fn run(&self, handle: impl Fn(Request<'_>, Reply)) -> Result<(), Errno> {
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        let mut last_caller = 0;
        let mut spin = Duration::ZERO;
        loop {
            let (received, channel) = self.next(spin, &mut buffer)?;
            let Received::Request(length) = received else {
                return Ok(());
            };
            match Request::parse(&buffer[..length]) {
                Ok(request) => {
                    let caller = request.header.pid;
                    spin = if caller == last_caller { Duration::ZERO } else { self.spin };
                    last_caller = caller;
                    let reply = Reply::new(channel, request.header.unique);
                    handle(request, reply);
                }
                Err((Some(header), error)) => Reply::new(channel, header.unique).error(error),
                Err((None, error)) => return Err(error),
            }
        }
    }

    /// The next request, and the descriptor that it came from.
    fn next(&self, spin: Duration, buffer: &mut [u8]) -> Result<(Received, &Arc<Channel>), Errno> {
        if !spin.is_zero() {
            let begin = Instant::now();
            while begin.elapsed() < spin {
                match self.looking.receive(buffer)? {
                    Received::Nothing => yield_now(),
                    other => return Ok((other, &self.looking)),
                }
            }
        }
        Ok((self.waiting.receive(buffer)?, &self.waiting))
    }
}
