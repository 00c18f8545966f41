//! The system calls of a dump that `nix` does not wrap as they are needed here.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// Fetches a descriptor of another process: the same open file.
pub(crate) fn pidfd_getfd(process: &OwnedFd, fd: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_getfd takes three integers.
    let got = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) } as i32;
    Errno::result(got)?;
    // SAFETY: the kernel has just returned this descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(got) })
}

/// Opens a path of bytes, close-on-exec.
pub(crate) fn open(path: &[u8], flags: i32) -> Result<OwnedFd, Errno> {
    let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `path` is terminated and outlives the call.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC | libc::O_NOCTTY, 0) };
    Errno::result(fd)?;
    // SAFETY: open has just returned this descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Opens what is behind a descriptor again, as a new open file of ours.
pub(crate) fn reopen(fd: &OwnedFd, flags: i32) -> Result<OwnedFd, Errno> {
    open(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_bytes(), flags)
}

/// What `kcmp` compares (linux/kcmp.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shared {
    /// An open file, by descriptor.
    File,
    /// The address space.
    Memory,
    /// The descriptor table.
    Files,
    /// Working directory, root, umask.
    Places,
    /// Signal actions.
    Actions,
}

/// Order of two kernel objects: of two tasks, or of two descriptors of theirs.
pub(crate) fn kcmp(
    what: Shared,
    (pid_a, fd_a): (i32, i32),
    (pid_b, fd_b): (i32, i32),
) -> Result<std::cmp::Ordering, Errno> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let kind = match what {
        Shared::File => 0,
        Shared::Memory => 1,
        Shared::Files => 2,
        Shared::Places => 3,
        Shared::Actions => 4,
    };
    // SAFETY: these kinds of kcmp take integers only.
    let ret = unsafe { libc::syscall(libc::SYS_kcmp, pid_a, pid_b, kind, fd_a, fd_b) };
    match ret {
        0 => Ok(Equal),
        1 => Ok(Less),
        2 => Ok(Greater),
        3 => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::last()),
    }
}

/// Who is sent a file's signals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    /// `F_OWNER_TID`, `F_OWNER_PID`, `F_OWNER_PGRP`.
    pub(crate) kind: u32,
    pub(crate) pid: i32,
    pub(crate) uid: u32,
    pub(crate) euid: u32,
    pub(crate) signal: u32,
}

/// Reads the owner of a file. Files opened with `O_PATH` have none.
pub(crate) fn owner(fd: &OwnedFd) -> Result<Owner, Errno> {
    /// `F_GETOWN_EX`, `F_GETOWNER_UIDS`, `F_GETSIG` (asm-generic/fcntl.h).
    const F_GETOWN_EX: i32 = 16;
    const F_GETOWNER_UIDS: i32 = 17;
    const F_GETSIG: i32 = 11;
    let fd = fd.as_raw_fd();
    let mut owner = [0i32; 2];
    // SAFETY: `owner` has the layout of `struct f_owner_ex`, two ints, and outlives the call.
    Errno::result(unsafe { libc::fcntl(fd, F_GETOWN_EX, owner.as_mut_ptr()) })?;
    if owner[1] == 0 {
        // SAFETY: fcntl without an argument.
        let signal = Errno::result(unsafe { libc::fcntl(fd, F_GETSIG) })?;
        return Ok(Owner { signal: signal as u32, ..Owner::default() });
    }
    let mut ids = [0u32; 2];
    // SAFETY: the call writes two 32-bit ids; `ids` has room for them and outlives it.
    Errno::result(unsafe { libc::fcntl(fd, F_GETOWNER_UIDS, ids.as_mut_ptr()) })?;
    // SAFETY: fcntl without an argument.
    let signal = Errno::result(unsafe { libc::fcntl(fd, F_GETSIG) })?;
    let [kind, pid] = owner;
    Ok(Owner { kind: kind as u32, pid, uid: ids[0], euid: ids[1], signal: signal as u32 })
}

/// Copies what is in a pipe to another one without taking it out.
pub(crate) fn tee(from: &OwnedFd, to: &OwnedFd, len_bytes: usize) -> Result<usize, Errno> {
    let flags = libc::SPLICE_F_NONBLOCK;
    // SAFETY: tee takes descriptors and integers.
    let ret = unsafe { libc::tee(from.as_raw_fd(), to.as_raw_fd(), len_bytes, flags) };
    Errno::result(ret).map(|copied| copied as usize)
}

/// Bytes that wait in a pipe.
pub(crate) fn bytes_waiting(fd: &OwnedFd) -> Result<usize, Errno> {
    let mut count: i32 = 0;
    // SAFETY: FIONREAD writes one int, which outlives the call.
    let ret = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut count) };
    Errno::result(ret).map(|_| count as usize)
}

/// The type of the file system of a descriptor (statfs(2)).
pub(crate) fn filesystem(fd: &OwnedFd) -> Result<i64, Errno> {
    nix::sys::statfs::fstatfs(fd).map(|stat| stat.filesystem_type().0)
}

/// Reads the memory of another process into `into`, from several places; stops at the first that
/// cannot be read and returns how many bytes were read.
pub(crate) fn read_memory(pid: i32, into: &mut [u8], from: &[(u64, u64)]) -> Result<usize, Errno> {
    let remote: Vec<libc::iovec> = from
        .iter()
        .map(|&(at, len)| libc::iovec { iov_base: at as *mut _, iov_len: len as usize })
        .collect();
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let count = remote.len() as u64;
    // SAFETY: the local range is `into`, writable for the call; the remote ones are checked by
    // the kernel.
    let ret =
        unsafe { libc::process_vm_readv(pid, &raw const local, 1, remote.as_ptr(), count, 0) };
    Errno::result(ret).map(|read| read as usize)
}

/// A run of pages of the same categories, as PAGEMAP_SCAN gives it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageRegion {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) categories: u64,
}

/// `struct pm_scan_arg` (linux/fs.h, Linux 6.7).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct ScanArgs {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const _: () = assert!(size_of::<ScanArgs>() == 96 && size_of::<PageRegion>() == 24);

/// Which pages a scan looks for (`PAGE_IS_*` bits).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// Bits that a page must have, after those of `inverted` have been flipped.
    pub(crate) all: u64,
    pub(crate) inverted: u64,
    /// Bits of which a page must have one.
    pub(crate) any: u64,
    /// Bits that are reported.
    pub(crate) report: u64,
}

/// Scans a range of another process's pages. Returns how many regions were filled in, and where
/// the scan ended.
pub(crate) fn scan_pages(
    pagemap: &std::fs::File,
    (start, end): (u64, u64),
    wanted: Wanted,
    regions: &mut [PageRegion],
) -> Result<(usize, u64), Errno> {
    /// `_IOWR('f', 16, struct pm_scan_arg)`.
    const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
    let mut args = ScanArgs {
        size: size_of::<ScanArgs>() as u64,
        start,
        end,
        vec: regions.as_mut_ptr() as u64,
        vec_len: regions.len() as u64,
        category_inverted: wanted.inverted,
        category_mask: wanted.all,
        category_anyof_mask: wanted.any,
        return_mask: wanted.report,
        ..ScanArgs::default()
    };
    // SAFETY: `args` is the structure of the request; it points to `regions`, to which the kernel
    // writes at most `vec_len` entries; both outlive the call.
    let ret = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut args) };
    let count = Errno::result(ret)? as usize;
    Ok((count, args.walk_end))
}

/// Address and length in bytes of a thread's list of robust futexes.
pub(crate) fn robust_list(tid: i32) -> Result<(u64, u32), Errno> {
    let (mut head, mut len) = (0u64, 0u64);
    // SAFETY: get_robust_list writes one word to each of two locals, which outlive the call.
    let ret = unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) };
    Errno::result(ret).map(|_| (head, len as u32))
}

/// Address family of a socket.
pub(crate) fn socket_domain(fd: &OwnedFd) -> Result<i32, Errno> {
    let (mut domain, mut len) = (0i32, size_of::<i32>() as libc::socklen_t);
    // SAFETY: the option is one int, and `len` says so; both locals outlive the call.
    let ret = unsafe {
        let (level, option) = (libc::SOL_SOCKET, libc::SO_DOMAIN);
        libc::getsockopt(fd.as_raw_fd(), level, option, (&raw mut domain).cast(), &raw mut len)
    };
    Errno::result(ret).map(|_| domain)
}

/// Whether a descriptor of a process is the file that its epoll instance watches under a number;
/// `nth` counts the watches of the same number, in the order of `/proc`.
pub(crate) fn is_watched(
    pid: i32,
    fd: i32,
    (epoll_fd, number, nth): (i32, u32, u32),
) -> Result<bool, Errno> {
    /// `KCMP_EPOLL_TFD` (linux/kcmp.h, Linux 4.13).
    const KCMP_EPOLL_TFD: i32 = 7;
    let slot = [epoll_fd as u32, number, nth];
    // SAFETY: the call reads `struct kcmp_epoll_slot`, three 32-bit words, at `slot`, which
    // outlives it.
    let ret = unsafe {
        libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_EPOLL_TFD, fd as u64, slot.as_ptr())
    };
    if ret < 0 { Err(Errno::last()) } else { Ok(ret == 0) }
}

/// Scheduling policy of a thread, with `SCHED_RESET_ON_FORK`.
pub(crate) fn scheduling_policy(tid: i32) -> Result<u32, Errno> {
    // SAFETY: sched_getscheduler takes one integer.
    let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, tid) };
    Errno::result(policy).map(|policy| policy as u32)
}

/// Asks the kernel to begin to write a file's pages to the disk. It is a hint: the sync that
/// follows tells of failures.
pub(crate) fn begin_to_sync(file: &std::fs::File) {
    // SAFETY: sync_file_range takes a descriptor and integers.
    unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}
