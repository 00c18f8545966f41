//! One descriptor of a FUSE connection: requests are read from it, and answered on it.
//!
//! A connection has several, made with `FUSE_DEV_IOC_CLONE`; a request is answered on the one that
//! it was read from, since each has its own table of requests in the kernel.

use std::fmt;
use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytemuck::{Pod, bytes_of};
use nix::errno::Errno;
use nix::sys::uio::writev;
use nix::unistd::{read, write};

use super::wire::{IoctlOut, OutHeader};

/// What [`Channel::receive`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// A request of this many bytes.
    Request(usize),
    /// Nothing, on a descriptor that does not wait.
    Nothing,
    /// The connection has ended: it was aborted, or its last mount has gone.
    End,
}

/// A descriptor of `/dev/fuse` that belongs to a connection.
#[derive(Debug)]
pub(crate) struct Channel {
    file: OwnedFd,
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Channel {
    pub(super) fn new(file: OwnedFd) -> Self {
        Self { file }
    }

    /// Reads one request.
    ///
    /// # Errors
    /// `EINVAL` if `buffer` is smaller than the kernel asks for; anything else is a bug as well.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Result<Received, Errno> {
        loop {
            return match read(&self.file, buffer) {
                Ok(length) => Ok(Received::Request(length)),
                // ENOENT: the caller was killed before its request had been read to the end.
                Err(Errno::EINTR | Errno::ENOENT) => continue,
                Err(Errno::EAGAIN) => Ok(Received::Nothing),
                Err(Errno::ENODEV | Errno::ECONNABORTED | Errno::EPERM) => Ok(Received::End),
                Err(error) => Err(error),
            };
        }
    }

    fn send(&self, unique: u64, error: i32, first: &[u8], second: &[u8]) {
        let length = size_of::<OutHeader>() + first.len() + second.len();
        let header = OutHeader { len: length as u32, error, unique };
        // In one piece if it is short, as it nearly always is: the kernel looks up the page of each
        // piece, which costs more than copying.
        let mut short = [0; SHORT_BYTES];
        // A failure means that nobody waits: the connection was aborted, or the caller has gone.
        let _ = if length <= SHORT_BYTES {
            let (head, rest) = short.split_at_mut(size_of::<OutHeader>());
            head.copy_from_slice(bytes_of(&header));
            rest[..first.len()].copy_from_slice(first);
            rest[first.len()..][..second.len()].copy_from_slice(second);
            write(&self.file, &short[..length])
        } else {
            let pieces =
                [IoSlice::new(bytes_of(&header)), IoSlice::new(first), IoSlice::new(second)];
            writev(&self.file, &pieces)
        };
    }
}

/// Longest reply that is put together before it is sent, in bytes.
const SHORT_BYTES: usize = 512;

/// The duty to answer one request. It can be given to another thread and kept for any time.
///
/// Dropped without an answer (a panic, say), it answers `EIO`, so that no caller waits for ever.
#[derive(Debug)]
pub(crate) struct Reply {
    channel: Option<Arc<Channel>>,
    unique: u64,
    observer: Option<Observer>,
}

/// Is told how a call ended: its result, or a negative errno.
struct Observer(Box<dyn FnOnce(i32) + Send>);

impl fmt::Debug for Observer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Observer")
    }
}

impl Reply {
    pub(super) fn new(channel: &Arc<Channel>, unique: u64) -> Self {
        Self { channel: Some(Arc::clone(channel)), unique, observer: None }
    }

    /// Number of the request: what an interrupt of it names.
    pub(crate) fn unique(&self) -> u64 {
        self.unique
    }

    /// Has somebody told, when it is answered, how the call ended.
    pub(crate) fn observe(&mut self, observer: impl FnOnce(i32) + Send + 'static) {
        self.observer = Some(Observer(Box::new(observer)));
    }

    fn send(mut self, error: i32, first: &[u8], second: &[u8]) {
        self.send_result(error, error, first, second);
    }

    fn send_result(&mut self, result: i32, error: i32, first: &[u8], second: &[u8]) {
        if let Some(channel) = self.channel.take() {
            if let Some(Observer(observer)) = self.observer.take() {
                observer(result);
            }
            channel.send(self.unique, error, first, second);
        }
    }

    /// Success without data.
    pub(crate) fn empty(self) {
        self.send(0, &[], &[]);
    }

    /// Success with a structure.
    pub(crate) fn data<T: Pod>(self, data: &T) {
        self.send(0, bytes_of(data), &[]);
    }

    /// Success with bytes.
    pub(crate) fn bytes(self, bytes: &[u8]) {
        self.send(0, bytes, &[]);
    }

    /// Failure.
    pub(crate) fn error(self, error: Errno) {
        self.send(-(error as i32), &[], &[]);
    }

    /// What an `ioctl` returns in the caller (negative: an errno, or [`RESTART`]), and the argument
    /// block, which is copied to the caller in both cases.
    pub(crate) fn ioctl(mut self, result: i32, block: &[u8]) {
        let out = IoctlOut { result, ..IoctlOut::default() };
        self.send_result(result, 0, bytes_of(&out), block);
    }

    /// The request needs no answer (`FORGET`, `INTERRUPT`).
    pub(crate) fn none(mut self) {
        self.channel = None;
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let error = -(Errno::EIO as i32);
        self.send_result(error, error, &[], &[]);
    }
}

/// `-ERESTARTSYS` (`linux/errno.h`): a driver returns it when a signal ended its wait. The kernel
/// makes the call again, or turns it into `EINTR` if the signal has a handler without
/// `SA_RESTART`. Only for a caller that has a signal pending, that is, after an interrupt.
pub(crate) const RESTART: i32 = -512;
