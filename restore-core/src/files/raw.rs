//! The few system calls that `nix` does not wrap as they are needed here.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// Opens a path of bytes, close-on-exec.
pub(super) fn open(path: &[u8], flags: i32) -> Result<OwnedFd, Errno> {
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `path` is terminated and outlives the call.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC | libc::O_NOCTTY, 0) };
    Errno::result(fd)?;
    // SAFETY: open has just returned this descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens the object behind a descriptor again, as a new open file.
pub(super) fn reopen(fd: &OwnedFd, flags: i32) -> Result<OwnedFd, Errno> {
    open(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_bytes(), flags)
}

/// Creates shared anonymous memory and returns it as a file.
///
/// A mapping of it then looks as one made by `mmap(MAP_SHARED | MAP_ANONYMOUS)`: it is one.
/// Opening it needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
pub(super) fn anonymous_memory(len_bytes: usize) -> Result<OwnedFd, Errno> {
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let at = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            len_bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    let begin = at as usize;
    let end = begin + len_bytes.next_multiple_of(4096); // mapped, so it is no overflow
    let file = open(format!("/proc/self/map_files/{begin:x}-{end:x}").as_bytes(), libc::O_RDWR);
    // SAFETY: unmaps exactly the mapping made above, to which no reference exists.
    unsafe { libc::munmap(at, len_bytes) };
    file
}

/// Creates a memory file with any flags, huge-page sizes included.
pub(super) fn memfd(name: &[u8], flags: u32) -> Result<OwnedFd, Errno> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `name` is terminated and outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_memfd_create, name.as_ptr(), flags) } as i32;
    Errno::result(fd)?;
    // SAFETY: memfd_create has just returned this descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Creates a timer file for any clock.
pub(super) fn timerfd(clock: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: timerfd_create takes two integers.
    let fd = unsafe { libc::timerfd_create(clock, libc::TFD_CLOEXEC) };
    Errno::result(fd)?;
    // SAFETY: timerfd_create has just returned this descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Arms a timer file.
pub(super) fn timerfd_settime(
    fd: &OwnedFd,
    flags: i32,
    value: &libc::itimerspec,
) -> Result<(), Errno> {
    // SAFETY: `value` is a live structure of the type that the call reads.
    let ret = unsafe { libc::timerfd_settime(fd.as_raw_fd(), flags, value, std::ptr::null_mut()) };
    Errno::result(ret).map(drop)
}

/// Sets the number of expirations that a timer file has still to report (Linux 3.17).
pub(super) fn timerfd_set_ticks(fd: &OwnedFd, ticks: u64) -> Result<(), Errno> {
    /// `_IOW('T', 0, __u64)` (linux/timerfd.h).
    const TFD_IOC_SET_TICKS: libc::c_ulong = 0x4008_5400;
    // SAFETY: the request reads eight bytes at `ticks`, which outlives the call.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), TFD_IOC_SET_TICKS, &raw const ticks) };
    Errno::result(ret).map(drop)
}

/// Names the owner of a file's signals, under the given user ids of this thread.
///
/// `F_SETOWN_EX` records the caller's ids, with which the kernel later checks each signal. Ids are
/// changed for this thread alone (the raw system call) and changed back; so is the attribute of
/// the process that the kernel clears at such a change, and that `/proc/self` depends on.
pub(super) fn set_owner(
    fd: &OwnedFd,
    owner: (u32, i32),
    (uid, euid): (u32, u32),
) -> Result<(), Errno> {
    /// To `setresuid`, "do not change": no id that a file can have recorded.
    const KEEP: u32 = u32::MAX;
    let (own, effective) = (nix::unistd::getuid().as_raw(), nix::unistd::geteuid().as_raw());
    if (uid, euid) == (own, effective) {
        return set_owner_as_is(fd, owner);
    }
    if uid == KEEP || euid == KEEP {
        return Err(Errno::EINVAL);
    }
    let dumpable = nix::sys::prctl::get_dumpable()?;
    // SAFETY: setresuid takes integers; called raw it changes this thread only, and the saved id,
    // which is kept, allows the way back.
    let ret = unsafe { libc::syscall(libc::SYS_setresuid, uid, euid, KEEP) };
    Errno::result(ret)?;
    let set = set_owner_as_is(fd, owner);
    // SAFETY: as above.
    let back = unsafe { libc::syscall(libc::SYS_setresuid, own, effective, KEEP) };
    Errno::result(back)?;
    nix::sys::prctl::set_dumpable(dumpable)?;
    set
}

fn set_owner_as_is(fd: &OwnedFd, (kind, pid): (u32, i32)) -> Result<(), Errno> {
    #[repr(C)]
    struct FileOwner {
        kind: i32,
        pid: i32,
    }
    /// `F_SETOWN_EX` (asm-generic/fcntl.h).
    const F_SETOWN_EX: i32 = 15;
    let kind = kind as i32;
    let owner = FileOwner { kind, pid };
    // SAFETY: `owner` is `struct f_owner_ex` and outlives the call.
    let ret = unsafe { libc::fcntl(fd.as_raw_fd(), F_SETOWN_EX, &raw const owner) };
    Errno::result(ret).map(drop)
}

/// Chooses the signal that a file sends instead of SIGIO.
pub(super) fn set_signal(fd: &OwnedFd, signal: u32) -> Result<(), Errno> {
    /// `F_SETSIG` (asm-generic/fcntl.h).
    const F_SETSIG: i32 = 10;
    // SAFETY: fcntl with an integer argument.
    let ret = unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, signal as i32) };
    Errno::result(ret).map(drop)
}

/// A child that ends at once. The caller collects it.
pub(super) fn exiting_child() -> Result<i32, Errno> {
    // SAFETY: the child makes one call that only ends it; it touches no memory and takes no lock.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: _exit runs no handler and no destructor.
            unsafe { libc::_exit(0) }
        }
        pid => Errno::result(pid),
    }
}

/// A pidfd with flags.
pub(super) fn pidfd_open(pid: i32, flags: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, flags) } as i32;
    Errno::result(fd)?;
    // SAFETY: pidfd_open has just returned this descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A signal file for any set of signals.
pub(super) fn signalfd(mask: u64) -> Result<OwnedFd, Errno> {
    const NONE: i32 = -1;
    let size = size_of::<u64>();
    // SAFETY: signalfd4 reads `size` bytes at `mask`, which outlives the call.
    let fd = unsafe {
        libc::syscall(libc::SYS_signalfd4, NONE, &raw const mask, size, libc::SFD_CLOEXEC)
    } as i32;
    Errno::result(fd)?;
    // SAFETY: signalfd4 has just returned this descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Kind, id and signal of a file's owner.
#[cfg(test)]
pub(super) fn owner(fd: &OwnedFd) -> Result<(i32, i32, i32), Errno> {
    /// `F_GETOWN_EX`, `F_GETSIG` (asm-generic/fcntl.h).
    const F_GETOWN_EX: i32 = 16;
    const F_GETSIG: i32 = 11;
    let mut owner = [0i32; 2];
    // SAFETY: `owner` has the layout of `struct f_owner_ex`, two ints, and outlives the call.
    let ret = unsafe { libc::fcntl(fd.as_raw_fd(), F_GETOWN_EX, owner.as_mut_ptr()) };
    Errno::result(ret)?;
    // SAFETY: fcntl without an argument.
    let signal = Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), F_GETSIG) })?;
    Ok((owner[0], owner[1], signal))
}

/// User ids that a file's owner was named under.
#[cfg(test)]
pub(super) fn owner_ids(fd: &OwnedFd) -> Result<(u32, u32), Errno> {
    /// `F_GETOWNER_UIDS` (asm-generic/fcntl.h).
    const F_GETOWNER_UIDS: i32 = 17;
    let mut ids = [0u32; 2];
    // SAFETY: the call writes two 32-bit ids; `ids` has room for them and outlives it.
    let ret = unsafe { libc::fcntl(fd.as_raw_fd(), F_GETOWNER_UIDS, ids.as_mut_ptr()) };
    Errno::result(ret)?;
    Ok((ids[0], ids[1]))
}

/// Duplicates a descriptor, close-on-exec, to the first free number from `from` on.
pub(crate) fn duplicate(fd: &OwnedFd, from: i32) -> Result<OwnedFd, Errno> {
    let number = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(from))?;
    // SAFETY: fcntl has just returned this new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
