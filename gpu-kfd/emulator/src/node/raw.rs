//! System calls that nix lacks, as safe functions.
//!
//! Only what the kernel checks itself: a wrong descriptor or number gives an errno, never anything
//! worse. Memory that a call writes is borrowed for the call.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bytemuck::Pod;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, fstat};

use super::fuse::wire::{BackingMap, device};

/// Makes `clone`, a fresh open of `/dev/fuse`, one more descriptor of the connection of `of`.
pub(crate) fn fuse_clone(clone: BorrowedFd<'_>, of: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut number = of.as_raw_fd() as u32;
    device_ioctl(clone, device::CLONE, &mut number).map(drop)
}

/// Makes a file known to a FUSE connection for passthrough; gives its id there.
pub(crate) fn fuse_backing_open(
    connection: BorrowedFd<'_>,
    file: BorrowedFd<'_>,
) -> Result<i32, Errno> {
    let mut map = BackingMap { fd: file.as_raw_fd(), ..BackingMap::default() };
    device_ioctl(connection, device::BACKING_OPEN, &mut map)
}

/// An `ioctl` whose request number holds the size of its argument.
pub(crate) fn device_ioctl<T: Pod>(
    file: BorrowedFd<'_>,
    request: u32,
    argument: &mut T,
) -> Result<i32, Errno> {
    // Bits 16 to 29 of a request number are the size (`asm-generic/ioctl.h`).
    assert_eq!((request >> 16 & 0x3fff) as usize, size_of::<T>(), "{request:#x}");
    // SAFETY: the callee reads or writes as many bytes as the request number says, which the
    // assertion above compares with `T`. Any bytes are a valid `T`, which outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request.into(), &raw mut *argument) };
    Errno::result(result)
}

/// Takes the descriptor that a system call returned.
fn owned(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let number = Errno::result(result)? as RawFd;
    // SAFETY: only the functions below call this, with the result of a system call that makes a
    // descriptor: it is new, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A pidfd of a thread (Linux 6.9): readable as soon as that thread has ended.
pub(crate) fn pidfd_of_thread(tid: i32) -> Result<OwnedFd, Errno> {
    /// `PIDFD_THREAD` of `linux/pidfd.h`.
    const THREAD: libc::c_uint = libc::O_EXCL as libc::c_uint;
    pidfd_open(tid, THREAD)
}

/// A pidfd of a process, by the id of its leading thread: readable once all its threads have ended.
pub(crate) fn pidfd_of_process(pid: i32) -> Result<OwnedFd, Errno> {
    pidfd_open(pid, 0)
}

fn pidfd_open(id: i32, flags: libc::c_uint) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open takes two numbers and touches no memory of ours.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, id, flags) })
}

/// A descriptor of another process, as one of ours.
pub(crate) fn pidfd_getfd(pidfd: BorrowedFd<'_>, number: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_getfd takes three numbers and touches no memory of ours.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), number, 0) })
}

/// Whether two threads have the same address space (`kcmp`).
pub(crate) fn share_memory(one: i32, other: i32) -> bool {
    /// `KCMP_VM` of `linux/kcmp.h`.
    const VM: libc::c_int = 1;
    // SAFETY: with KCMP_VM, kcmp takes two thread ids and no addresses.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, VM, 0, 0) == 0 }
}

/// Whether the pid namespace `levels` above that of a thread is the one with this identity
/// (device and inode number of its file in `/proc`).
pub(crate) fn is_in_pid_namespace(tid: i32, namespace: (u64, u64), levels: usize) -> bool {
    /// `NS_GET_PARENT` of `linux/nsfs.h`: `_IO(0xb7, 2)`.
    const GET_PARENT: libc::Ioctl = 0xb702;
    let Ok(file) = File::open(format!("/proc/{tid}/ns/pid")) else {
        return false;
    };
    let mut found = OwnedFd::from(file);
    for _ in 0..levels {
        // SAFETY: NS_GET_PARENT has no argument and returns a new descriptor.
        let parent = unsafe { libc::ioctl(found.as_raw_fd(), GET_PARENT) };
        let Ok(parent) = owned(parent.into()) else {
            return false;
        };
        found = parent;
    }
    fstat(&found).is_ok_and(|found| (found.st_dev, found.st_ino) == namespace)
}

/// The device number of the file system that a file lies in, as the kernel has it in memory: no
/// file system is asked.
pub(crate) fn device_of(file: BorrowedFd<'_>) -> Result<(u32, u32), Errno> {
    device_at(file, c"")
}

/// The same for the file at a path.
pub(crate) fn device_of_path(path: &CStr) -> Result<(u32, u32), Errno> {
    device_at(AT_FDCWD, path)
}

fn device_at(file: BorrowedFd<'_>, path: &CStr) -> Result<(u32, u32), Errno> {
    let mut found = MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: the path ends with a zero and outlives the call; statx writes one `struct statx`,
    // which `found` has room for.
    let result =
        unsafe { libc::statx(file.as_raw_fd(), path.as_ptr(), flags, 0, found.as_mut_ptr()) };
    Errno::result(result)?;
    // SAFETY: statx is plain numbers, and it was zeroed before the kernel wrote to it.
    let found = unsafe { found.assume_init() };
    Ok((found.stx_dev_major, found.stx_dev_minor))
}

/// A copy of the mount at `path` (below `folder`, with everything mounted below it if `recursive`),
/// attached nowhere: the path of a file that is opened through it begins at its root.
pub(crate) fn detached_copy(
    folder: BorrowedFd<'_>,
    path: &CStr,
    recursive: bool,
) -> Result<OwnedFd, Errno> {
    let recursive = if recursive { libc::AT_RECURSIVE as libc::c_uint } else { 0 };
    let flags = libc::OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint | recursive;
    // SAFETY: `path` ends with a zero and outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_open_tree, folder.as_raw_fd(), path.as_ptr(), flags) };
    owned(result)
}

/// Attaches a detached mount.
pub(crate) fn attach(mount: BorrowedFd<'_>, at: &CStr) -> Result<(), Errno> {
    // SAFETY: both paths end with a zero and outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            at.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(result).map(drop)
}

/// Marks a folder of the layer of an overlay: what lower layers have there is not shown.
pub(crate) fn make_opaque(folder: &Path) -> Result<(), Errno> {
    let path = CString::new(folder.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
    let name = c"trusted.overlay.opaque";
    // SAFETY: path and name end with a zero; the value is one byte, as its length says.
    let result =
        unsafe { libc::setxattr(path.as_ptr(), name.as_ptr(), b"y".as_ptr().cast(), 1, 0) };
    Errno::result(result).map(drop)
}

/// Lowest descriptor that a thread with its own table makes; see [`own_descriptors`].
const OWN_FIRST: RawFd = 64;

/// Gives the calling thread a table of descriptors of its own, without those of its process but for
/// 0, 1 and 2. Threads that it starts share that table.
///
/// Other threads' numbers mean nothing in it. Low ones are taken by a descriptor that nothing can
/// be done with, so that a number which comes from another table by mistake does no harm: using it
/// fails.
pub(crate) fn own_descriptors() -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_FILES)?;
    // SAFETY: the table was copied a moment ago; nothing that this thread can reach owns any of
    // the copies, and the descriptors of other threads are in another table.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) };
    Errno::result(closed)?;
    let blunt = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    loop {
        let next = blunt.try_clone().map_err(|_| Errno::EMFILE)?.into_raw_fd();
        if next + 1 >= OWN_FIRST {
            // It stays open as well, like its copies.
            let _ = blunt.into_raw_fd();
            return Ok(());
        }
    }
}

/// The current folder, as the kernel names it.
///
/// # Errors
/// `ENOENT` if it has been deleted or lies outside the root.
pub(crate) fn current_dir(buffer: &mut [u8]) -> Result<&CStr, Errno> {
    // SAFETY: getcwd writes at most as many bytes as it is told.
    let result = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    let length = Errno::result(result)? as usize;
    let path = CStr::from_bytes_with_nul(&buffer[..length]).map_err(|_| Errno::ENOENT)?;
    // "(unreachable)" is what stands in front of such a folder.
    if path.to_bytes().starts_with(b"/") { Ok(path) } else { Err(Errno::ENOENT) }
}

/// Closes all descriptors from 3 on but one; for a forked process that needs none of them.
pub(crate) fn close_all_but(kept: RawFd) {
    let kept = kept as libc::c_uint;
    let ranges = [(3, kept - 1), (kept + 1, libc::c_uint::MAX)];
    for (first, last) in ranges.into_iter().filter(|(first, last)| first <= last) {
        // SAFETY: the callers, waiter and init of a run, use no other descriptor and drop no value
        // that owns one: they end by `exit`.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}

/// Ends a forked process at once: nothing of its parent's is dropped or flushed.
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: _exit takes a number and does not return.
    unsafe { libc::_exit(code) }
}

/// A descriptor that is known by its number.
pub(crate) fn borrowed<'a>(number: RawFd) -> BorrowedFd<'a> {
    // SAFETY: the only caller, the init of a run, has kept this descriptor open for this purpose,
    // and ends right after.
    unsafe { BorrowedFd::borrow_raw(number) }
}

/// Takes a pending signal of a set, or waits for one; gives its number and where it came from
/// (`si_code`).
pub(crate) fn wait_for_signal(set: &SigSet) -> (i32, i32) {
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: sigwaitinfo reads the set and writes one siginfo_t, which `info` has room for.
        let signal = unsafe { libc::sigwaitinfo(set.as_ref(), info.as_mut_ptr()) };
        if signal > 0 {
            // SAFETY: a siginfo_t is plain numbers, and it was zeroed before.
            return (signal, unsafe { info.assume_init() }.si_code);
        }
    }
}

/// Collects a child that has ended, if there is one: its id and status as `waitpid` has it.
pub(crate) fn collect_any() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: waitpid writes one number, which `status` is.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG | libc::__WALL) };
    (pid > 0).then_some((pid, status))
}

/// Sends a signal by its number, real-time ones included. Nothing happens if the process has ended.
pub(crate) fn signal(pid: i32, signal: i32) {
    // SAFETY: kill takes two numbers and touches no memory of ours.
    unsafe { libc::kill(pid, signal) };
}
