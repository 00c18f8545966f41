//! Descriptors that this program was started with, by their numbers.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

/// A copy of an open descriptor, of our own.
///
/// # Errors
/// There is none with this number.
pub(super) fn copy(number: i32) -> io::Result<OwnedFd> {
    // Not fcntl, which would want a descriptor that is known to be open.
    std::fs::symlink_metadata(format!("/proc/self/fd/{number}"))?;
    // SAFETY: the number is that of an open descriptor (its link in /proc was there a line above),
    // and this program has one thread, which closes nothing before the copy is made.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    borrowed.try_clone_to_owned()
}
