//! Makes the first task of a tree, and sees to it that nothing of a failed tree is left.
//!
//! The root is forked from this process straight into the stub; every other task is cloned by
//! its own parent's stub. Whoever is made is recorded as a pidfd, and killed and reaped through it
//! unless the restore succeeds.

use std::arch::asm;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::region::Slot;
use super::ring::{CallError, Life, Remote, prepare_slot};

/// `clone_args` of the kernel (linux/sched.h, 88 bytes since Linux 5.7).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CloneArgs {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
}

const _: () = assert!(size_of::<CloneArgs>() == 88);

impl CloneArgs {
    /// The bytes that the kernel reads.
    pub(crate) fn as_bytes(&self) -> [u8; 88] {
        let words = [
            self.flags,
            self.pidfd,
            self.child_tid,
            self.parent_tid,
            self.exit_signal,
            self.stack,
            self.stack_size,
            self.tls,
            self.set_tid,
            self.set_tid_size,
            self.cgroup,
        ];
        let mut bytes = [0; 88];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// `CLONE_CLEAR_SIGHAND` (linux/sched.h, Linux 5.5).
pub(crate) const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;

/// Forks this process into the stub on `slot` with the wanted pid.
///
/// The calling thread must be the one that lives as long as the restore does: the child dies with
/// it. With a pidfd of this process, the child becomes
/// a child of our own parent instead, and watches us through it.
///
/// # Errors
/// The kernel's error: `EEXIST` if the pid is taken, `EPERM` without CAP_CHECKPOINT_RESTORE.
pub(crate) fn spawn_root(
    slot: Slot,
    pid: i32,
    sibling_of: Option<&OwnedFd>,
) -> Result<Remote, Errno> {
    let life = match sibling_of {
        None => Life::Tied { parent: nix::unistd::getpid().as_raw() },
        Some(restorer) => Life::Watching { restorer: restorer.as_raw_fd() },
    };
    prepare_slot(&slot, life);
    let mut pidfd: i32 = -1;
    let set_tid = [pid];
    let (relation, exit_signal) = match sibling_of.is_some() {
        true => (libc::CLONE_PARENT as u64, 0), // the kernel takes our own exit signal
        false => (0, libc::SIGCHLD as u64),
    };
    let args = CloneArgs {
        flags: CLONE_CLEAR_SIGHAND | libc::CLONE_PIDFD as u64 | relation,
        pidfd: &raw mut pidfd as u64,
        exit_signal,
        set_tid: set_tid.as_ptr() as u64,
        set_tid_size: 1,
        ..CloneArgs::default()
    };
    // SAFETY: `args` points to `pidfd` and `set_tid`, which outlive the call; no CLONE_VM.
    unsafe { clone_into_stub(&args, &slot) }?;
    // SAFETY: on success the kernel has stored a new descriptor, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Remote::new(pid, Arc::new(pidfd), slot))
}

/// Clones this process into the stub on `slot` and returns the child's pid.
///
/// # Safety
/// What `args` points to is valid for the call, and the child has an address space of its own.
unsafe fn clone_into_stub(args: &CloneArgs, slot: &Slot) -> Result<i32, Errno> {
    // A task without a stack must never be given a signal. glibc unblocks its own two when it
    // starts a thread, so this is the place.
    let mask = swap_signal_mask(u64::MAX);
    let ret: i64;
    // SAFETY: without CLONE_VM (the caller's promise) the child has a copy of this address space;
    // it executes nothing but the jump below and the stub, which uses neither stack nor any memory
    // but the shared slot. r12 is declared as changed.
    unsafe {
        asm!(
            "mov r12, {slot}",
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "jmp {entry}",
            "2:",
            slot = in(reg) slot.address(),
            entry = in(reg) slot.entry(),
            inlateout("rax") libc::SYS_clone3 => ret,
            in("rdi") std::ptr::from_ref(args),
            in("rsi") size_of::<CloneArgs>(),
            out("r12") _,
            out("rcx") _,
            out("r11") _,
        );
    }
    swap_signal_mask(mask);
    if ret < 0 {
        return Err(Errno::from_raw(-ret as i32));
    }
    Ok(ret as i32)
}

/// A process that kills the tree if this one dies before it disarms the guard.
///
/// The tree's tasks die with us while they are traced, but they are let go one after the other.
/// Only with the guard is there one moment before which all die and after which all live: when the
/// guard itself is killed.
#[derive(Debug)]
pub(crate) struct Guard {
    pid: i32,
    pidfd: OwnedFd,
    /// The memory that it runs on.
    slot: Option<Slot>,
}

impl Guard {
    /// Starts the guard of these processes.
    ///
    /// It waits for our end and then sends SIGKILL to each; its calls are posted before it exists,
    /// so it needs nobody.
    pub(crate) fn start(slot: Slot, brood: &Brood) -> Result<Self, GuardError> {
        let own = Arc::new(open_pidfd(nix::unistd::getpid().as_raw())?);
        prepare_slot(&slot, Life::OfItsProcess);
        let mut pidfd: i32 = -1;
        let args = CloneArgs {
            flags: CLONE_CLEAR_SIGHAND | libc::CLONE_PIDFD as u64,
            pidfd: &raw mut pidfd as u64,
            exit_signal: libc::SIGCHLD as u64,
            ..CloneArgs::default()
        };
        let mut remote = Remote::new(0, Arc::clone(&own), slot);
        let mut wait = [0; 8]; // struct pollfd: descriptor, POLLIN
        wait[..4].copy_from_slice(&own.as_raw_fd().to_le_bytes());
        wait[4] = libc::POLLIN as u8;
        let forever = (-1i64).into();
        remote.queue("guard", libc::SYS_poll, [wait.as_slice().into(), 1u64.into(), forever])?;
        for (_, process) in &brood.processes {
            let (fd, signal) = (process.as_raw_fd().into(), libc::SIGKILL.into());
            let call = [fd, signal, 0u64.into(), 0u64.into()];
            remote.queue_may_fail("guard", libc::SYS_pidfd_send_signal, call)?;
        }
        remote.queue("guard", libc::SYS_exit_group, [0u64.into()])?;
        remote.post_last();
        // SAFETY: `args` points to `pidfd`, which outlives the call; no CLONE_VM.
        let pid = unsafe { clone_into_stub(&args, remote.slot()) }?;
        // SAFETY: on success the kernel has stored a new descriptor, which nobody else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Self { pid, pidfd, slot: Some(remote.into_slot()) })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Ends it and gives its slot back, for another one with another id.
    pub(crate) fn retire(mut self) -> Slot {
        let slot = self.slot.take().expect("only this takes it, and consumes the guard");
        drop(self);
        slot
    }
}

impl Drop for Guard {
    /// Ends the guard: from here on the tree lives on its own.
    fn drop(&mut self) {
        send_kill(&self.pidfd);
        let _ = wait_exit(&self.pidfd, GUARD_WAIT_MAX)
            && reap_one(self.pid, &self.pidfd, GUARD_WAIT_MAX);
    }
}

/// How long a killed guard may take to be gone; it has no memory of its own.
const GUARD_WAIT_MAX: Duration = Duration::from_secs(10);

/// Why a guard could not be started.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The kernel would not make it.
    #[error("clone of the guard: {0}")]
    Clone(#[from] Errno),
    /// Its calls could not be written down.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl GuardError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Clone(_) => "restore.guard",
            Self::Call(error) => error.code(),
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Clone(_) => Some("raise the limit of processes (ulimit -u, pids.max)"),
            Self::Call(error) => error.help(),
        }
    }
}

fn send_kill(pidfd: &OwnedFd) {
    // SAFETY: pidfd_send_signal takes a descriptor, which we own, and integers.
    unsafe {
        let none = std::ptr::null::<u8>();
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, none, 0);
    }
}

/// Opens a pidfd of a process that was just made.
pub(crate) fn open_pidfd(pid: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_open takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the kernel returned a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// A descriptor of ours for what a process has open under a number.
///
/// # Errors
/// The kernel's error: `EBADF` if nothing is open there, `EMFILE`, `EPERM` if it may not be traced.
pub(crate) fn fetch_descriptor(process: BorrowedFd<'_>, number: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: pidfd_getfd takes three integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    if fd < 0 {
        return Err(Errno::last());
    }
    // SAFETY: the kernel returned a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sets this thread's mask of blocked signals and returns the one before.
///
/// The C library keeps two signals for itself and never lets them be blocked; a restored thread
/// may have them pending all the same, so the system call is made directly.
pub(crate) fn swap_signal_mask(mask: u64) -> u64 {
    let mut before = 0u64;
    let (new, old) = (&raw const mask, &raw mut before);
    // SAFETY: reads and writes eight bytes each, in locals that outlive the call. With valid
    // arguments it cannot fail.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, new, old, 8) };
    before
}

/// Ends this thread's restartable-sequence registration, so that a fork of it does not write to
/// memory that it no longer has. glibc then falls back to the system call for the CPU number.
pub(crate) fn leave_rseq() {
    let Some((offset, size)) = rseq_area() else { return };
    let thread: usize;
    // SAFETY: reads the thread pointer, which the x86-64 ABI keeps at fs:0.
    unsafe { asm!("mov {}, fs:0", out(reg) thread, options(nostack, readonly)) };
    let area = thread.wrapping_add_signed(offset);
    const SIGNATURE: u32 = 0x5305_3053; // glibc's RSEQ_SIG on x86
    for len in [size.max(32), 32, size.next_multiple_of(32), 64] {
        // SAFETY: unregistering makes the kernel stop using the area; a wrong length is refused.
        let ret = unsafe { libc::syscall(libc::SYS_rseq, area, len, 1, SIGNATURE) };
        if ret == 0 {
            return;
        }
    }
}

/// Where glibc (2.35) keeps each thread's area, from the thread pointer on, and its size.
#[cfg(not(all(target_feature = "crt-static", target_env = "gnu")))]
fn rseq_area() -> Option<(isize, u32)> {
    // SAFETY: `dlsym` with a terminated name; the symbols are glibc's, of the types read.
    unsafe {
        let offset = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr());
        let size = libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr());
        if offset.is_null() || size.is_null() {
            return None;
        }
        Some((*offset.cast::<isize>(), *size.cast::<u32>()))
    }
}

/// The same of a program that is linked statically, where no symbol can be looked up.
#[cfg(all(target_feature = "crt-static", target_env = "gnu"))]
fn rseq_area() -> Option<(isize, u32)> {
    unsafe extern "C" {
        static __rseq_offset: isize;
        static __rseq_size: u32;
    }
    // SAFETY: glibc defines both with these types (sys/rseq.h) and never writes to them again.
    unsafe { Some((__rseq_offset, __rseq_size)) }
}

/// Every process that this restore has made, to be killed and reaped unless it succeeds.
#[derive(Debug, Default)]
pub(crate) struct Brood {
    processes: Vec<(i32, Arc<OwnedFd>)>,
    /// A process that is our parent's child, and its to collect.
    siblings: Vec<i32>,
}

impl Brood {
    /// Records a process.
    pub(crate) fn add(&mut self, pid: i32, pidfd: Arc<OwnedFd>) {
        self.processes.push((pid, pidfd));
    }

    /// Records that a process is not ours to collect.
    pub(crate) fn add_sibling(&mut self, pid: i32) {
        self.siblings.push(pid);
    }

    /// Gives up the responsibility: the tree runs.
    pub(crate) fn release(&mut self) {
        self.processes.clear();
    }

    /// Kills every recorded process.
    pub(crate) fn kill(&self) {
        self.processes.iter().for_each(|(_, pidfd)| send_kill(pidfd));
    }

    /// Waits until every recorded process is gone and reaped, for at most `limit`.
    ///
    /// The caller is a child subreaper, so orphans of the tree become its children.
    /// Returns the pids that are still there.
    pub(crate) fn reap(&mut self, limit: Duration) -> Vec<i32> {
        let begin = Instant::now();
        let mut left = Vec::new();
        for (pid, pidfd) in std::mem::take(&mut self.processes) {
            let rest = limit.saturating_sub(begin.elapsed());
            let ours = !self.siblings.contains(&pid);
            if !wait_exit(&pidfd, rest) || (ours && !reap_one(pid, &pidfd, rest)) {
                left.push(pid);
            }
        }
        left
    }
}

impl Drop for Brood {
    fn drop(&mut self) {
        self.kill();
    }
}

fn wait_exit(pidfd: &OwnedFd, limit: Duration) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    matches!(nix::poll::poll(&mut fds, limit), Ok(1))
}

/// Collects an exited process. Until its dead parent has passed it on to us it is nobody's to
/// collect (`ECHILD`), so the wait ends with the process's own end: when signal 0 finds it no more.
fn reap_one(pid: i32, pidfd: &OwnedFd, limit: Duration) -> bool {
    use nix::sys::wait::{Id, WaitPidFlag, waitid};
    let begin = Instant::now();
    loop {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
        match waitid(Id::PIDFd(pidfd.as_fd()), flags) {
            Ok(status) if status.pid().is_some() => return true,
            Ok(_) | Err(Errno::ECHILD | Errno::EINTR) => {}
            Err(_) => return false,
        }
        if nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
            return true;
        }
        if begin.elapsed() > limit {
            return false;
        }
        std::thread::yield_now();
    }
}
