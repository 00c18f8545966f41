//! Processes that share or copy the memory of this one.

use std::os::fd::AsRawFd;

use nix::sched::{CloneFlags, clone};
use nix::sys::signal::Signal;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use super::calls::raw;

/// What `who` says in a child that `fork` made: its memory is a copy.
pub(crate) fn who_in_fork(file: &impl AsRawFd) -> ([u64; 3], Pid) {
    let file = file.as_raw_fd();
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    // SAFETY: the child makes system calls and ends.
    match unsafe { fork() }.expect("a child") {
        ForkResult::Child => {
            let mut block = [0; 3];
            // SAFETY: the request number was made from the type of the block.
            let result = unsafe { raw::who(file, &raw mut block) };
            let bytes: &[u8] = &block.map(u64::to_ne_bytes).concat();
            let written = nix::unistd::write(&writer, bytes);
            // SAFETY: ends the process.
            unsafe { libc::_exit(i32::from(result.is_err() || written.is_err())) }
        }
        ForkResult::Parent { child } => {
            drop(writer);
            let mut bytes = [0; 24];
            std::io::Read::read_exact(&mut reader, &mut bytes).expect("the child answers");
            waitpid(child, None).expect("it ends");
            let word = |index: usize| {
                u64::from_ne_bytes(bytes[8 * index..][..8].try_into().expect("8 bytes"))
            };
            ([word(0), word(1), word(2)], child)
        }
    }
}

/// What `who` says in a child that shares our memory, while we wait for its end.
pub(crate) fn who_in_vfork(file: &impl AsRawFd) -> [u64; 3] {
    let file = file.as_raw_fd();
    let mut block = [0; 3];
    let mut stack = vec![0; 64 << 10];
    let body = || {
        // SAFETY: the request number was made from the type of the block.
        let result = unsafe { raw::who(file, &raw mut block) };
        isize::from(result.is_err())
    };
    let flags = CloneFlags::CLONE_VM | CloneFlags::CLONE_VFORK;
    // SAFETY: the stack is large enough, and with CLONE_VFORK this thread sleeps until the child
    // has ended, so that nothing is used by both at a time.
    let child = unsafe { clone(Box::new(body), &mut stack, flags, Some(Signal::SIGCHLD as i32)) };
    waitpid(child.expect("a child"), None).expect("it ends");
    block
}

/// A process that shares our memory and sleeps until it is killed.
pub(crate) fn sleeper_in_our_memory() -> Pid {
    extern "C" fn sleep(_: *mut libc::c_void) -> libc::c_int {
        loop {
            // SAFETY: pause takes nothing.
            unsafe { libc::pause() };
        }
    }
    let stack: &'static mut [u128] = Box::leak(vec![0; 4 << 10].into_boxed_slice());
    let top = stack.as_mut_ptr_range().end.cast();
    let flags = libc::CLONE_VM | libc::SIGCHLD;
    // SAFETY: the stack is never freed, and the child uses nothing else of ours.
    let child = unsafe { libc::clone(sleep, top, flags, std::ptr::null_mut()) };
    assert!(child > 0, "a child");
    Pid::from_raw(child)
}
