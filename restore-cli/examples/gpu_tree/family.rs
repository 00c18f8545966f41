//! How processes of the tree begin, and how buffers come from one to another. Sockets are made
//! before the first fork and closed when everything is set up: nothing of them is left then.

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{ForkResult, fork};

use super::layout::Layout;

/// Begins a process; `true` in the new one.
pub(crate) fn begin() -> Result<bool, Errno> {
    // SAFETY: this program never starts a thread, so the child may do anything.
    Ok(matches!(unsafe { fork() }?, ForkResult::Child))
}

/// A pair of sockets for each name, and how many wait at the other end.
#[derive(Debug)]
pub(crate) struct Passing {
    pairs: BTreeMap<String, (OwnedFd, OwnedFd, usize)>,
}

impl Passing {
    pub(crate) fn of(layout: &Layout) -> Result<Self, Errno> {
        let mut pairs = BTreeMap::new();
        for (name, waiting) in layout.names() {
            // One message is taken by one of those who wait.
            let kind = (SockType::SeqPacket, SockFlag::SOCK_CLOEXEC);
            let (a, b) = socketpair(AddressFamily::Unix, kind.0, None, kind.1)?;
            // Out of the way of the numbers that layouts choose.
            let high = |fd: OwnedFd| nix::fcntl::fcntl(&fd, F_HIGH).map(owned);
            pairs.insert(name, (high(a)?, high(b)?, waiting));
        }
        Ok(Self { pairs })
    }

    fn pair(&self, name: &str) -> &(OwnedFd, OwnedFd, usize) {
        &self.pairs[name]
    }

    /// Gives a buffer to everybody who waits for it.
    pub(crate) fn give(&self, name: &str, dmabuf: BorrowedFd<'_>) -> Result<(), Errno> {
        let (socket, _, waiting) = self.pair(name);
        let fds = [dmabuf.as_raw_fd()];
        for _ in 0..*waiting {
            let message = [ControlMessage::ScmRights(&fds)];
            let text = [IoSlice::new(b"b")];
            let none = None::<&()>;
            sendmsg(socket.as_raw_fd(), &text, &message, MsgFlags::empty(), none)?;
        }
        Ok(())
    }

    /// Waits for a buffer.
    pub(crate) fn take(&self, name: &str) -> Result<OwnedFd, Errno> {
        let (_, socket, _) = self.pair(name);
        let (mut byte, mut room) = ([0], nix::cmsg_space!([i32; 1]));
        let mut text = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket.as_raw_fd(), &mut text, Some(&mut room), flags)?;
        for message in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = message {
                return fds.first().map(|&fd| owned(fd)).ok_or(Errno::EBADF);
            }
        }
        Err(Errno::EBADF)
    }
}

/// Lowest number of a descriptor of this program's own.
const HIGH: i32 = 900;
const F_HIGH: nix::fcntl::FcntlArg<'static> = nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(HIGH);

/// Puts a descriptor to the number that a layout asks for.
pub(crate) fn put(file: OwnedFd, number: i32) -> Result<OwnedFd, Errno> {
    if file.as_raw_fd() == number {
        return Ok(file);
    }
    // A number that is taken would be closed by `dup3`: the lowest free one from there is taken.
    let moved = owned(nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(number))?);
    if moved.as_raw_fd() == number { Ok(moved) } else { Err(Errno::EBUSY) }
}

/// A blocked signal of the set, if one comes within the time.
pub(crate) fn wait_for_signal(set: &SigSet, time: &TimeSpec) -> Option<Signal> {
    let none = std::ptr::null_mut();
    // SAFETY: both structures outlive the call, and nothing is asked to be written.
    let number = unsafe { libc::sigtimedwait(set.as_ref(), none, time.as_ref()) };
    Signal::try_from(number).ok()
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: each caller has the number from the kernel, for a descriptor made just now.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
