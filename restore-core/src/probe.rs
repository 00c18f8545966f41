//! Whether this kernel lets us do what dumps and restores are made of: each is tried on ourselves.
//!
//! Trying beats asking: a configuration may not be readable, a capability may count only within a
//! user namespace, a filter of a container may forbid a call that the kernel has. Nothing is
//! changed: calls are made in a way in which they cannot succeed, or do nothing. What cannot be
//! tried so is not here.

use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid};

use crate::capture::raw;

/// `PR_SET_MM_MAP_SIZE` (linux/prctl.h), an operation of `PR_SET_MM`.
const PR_SET_MM_MAP_SIZE: u64 = 15;
/// `PTRACE_GET_RSEQ_CONFIGURATION` (linux/ptrace.h, Linux 5.13).
const PTRACE_GET_RSEQ_CONFIGURATION: u32 = 0x420f;
/// `struct ptrace_rseq_configuration`.
const RSEQ_CONFIGURATION_BYTES: usize = 24;

/// The kernel's answer; `Ok` if it can be done.
pub type Answer = Result<(), Errno>;

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probes {
    /// `clone3` with a chosen id (Linux 5.5; CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN).
    pub choose_id: Answer,
    /// `prctl(PR_SET_MM)` with a whole layout (CONFIG_CHECKPOINT_RESTORE).
    pub set_layout: Answer,
    /// `process_vm_writev` (CONFIG_CROSS_MEMORY_ATTACH).
    pub write_memory: Answer,
    /// `process_vm_readv`.
    pub read_memory: Answer,
    /// `PAGEMAP_SCAN` of `/proc/self/pagemap` (Linux 6.7).
    pub scan_pages: Answer,
    /// `kcmp` (CONFIG_KCMP).
    pub compare: Answer,
    /// `pidfd_open` and `pidfd_getfd` (Linux 5.6).
    pub fetch_descriptor: Answer,
    /// Opening what is below `/proc/self/map_files` (CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN).
    pub open_mapped: Answer,
    /// `ptrace` of a child of ours.
    pub trace: Answer,
    /// `PTRACE_GET_RSEQ_CONFIGURATION` of that child (CONFIG_RSEQ).
    pub rseq: Answer,
}

impl Probes {
    /// Tries everything. There must be one thread only, for it starts a child, which has ended when
    /// this returns.
    pub fn run() -> Self {
        let (trace, rseq) = trace_child();
        Self {
            choose_id: choose_id(),
            set_layout: set_layout(),
            write_memory: write_memory(),
            read_memory: read_memory(),
            scan_pages: scan_pages(),
            compare: compare(),
            fetch_descriptor: fetch_descriptor(),
            open_mapped: open_mapped(),
            trace,
            rseq,
        }
    }
}

/// Asks for an id that is taken, our own: the kernel looks at the right to choose one first.
fn choose_id() -> Answer {
    let own = getpid().as_raw();
    // `struct clone_args` up to `set_tid_size` (linux/sched.h, Linux 5.5).
    let mut args = [0_u64; 10];
    args[4] = libc::SIGCHLD as u64;
    (args[8], args[9]) = (&raw const own as u64, 1);
    // SAFETY: `args` has the layout of the structure and points to one id; both outlive the call. A
    // child would have a copy of this address space, and would end at once.
    let child = unsafe { libc::syscall(libc::SYS_clone3, args.as_ptr(), size_of_val(&args)) };
    match child {
        // SAFETY: it takes an integer and does not return.
        0 => unsafe { libc::_exit(0) },
        -1 if Errno::last() == Errno::EEXIST => Ok(()),
        -1 => Err(Errno::last()),
        child => {
            let _ = waitpid(Pid::from_raw(child as i32), Some(WaitPidFlag::__WALL)); // a copy of us
            Ok(())
        }
    }
}

/// Asks how long the description of a layout is.
fn set_layout() -> Answer {
    let (mut len, mm) = (0_u32, u64::from(libc::PR_SET_MM as u32));
    // SAFETY: this operation writes one 32-bit word to `len`, which outlives the call.
    let ret = unsafe {
        libc::syscall(libc::SYS_prctl, mm, PR_SET_MM_MAP_SIZE, &raw mut len as u64, 0_u64, 0_u64)
    };
    Errno::result(ret).map(drop)
}

fn remote(byte: &u8) -> [RemoteIoVec; 1] {
    [RemoteIoVec { base: std::ptr::from_ref(byte) as usize, len: 1 }]
}

fn read_memory() -> Answer {
    let (from, mut to) = (1_u8, [0_u8]);
    let local = &mut [IoSliceMut::new(&mut to)];
    process_vm_readv(getpid(), local, &remote(&from)).map(drop)
}

/// Writes nothing: a length of 0 is refused only where the call is.
fn write_memory() -> Answer {
    let to = [RemoteIoVec { base: 0x1000, len: 0 }];
    process_vm_writev(getpid(), &[IoSlice::new(&[])], &to).map(drop)
}

fn scan_pages() -> Answer {
    let io = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let pagemap = File::open("/proc/self/pagemap").map_err(io)?;
    let here = std::ptr::from_ref(&pagemap) as u64 & !0xfff;
    // PAGE_IS_PRESENT (linux/fs.h, Linux 6.7).
    let wanted = raw::Wanted { all: 1 << 3, inverted: 0, any: 0, report: 1 << 3 };
    let mut regions = [raw::PageRegion::default()];
    raw::scan_pages(&pagemap, (here, here + 0x1000), wanted, &mut regions).map(drop)
}

fn compare() -> Answer {
    let own = getpid().as_raw();
    raw::kcmp(raw::Shared::Memory, (own, 0), (own, 0)).map(drop)
}

fn fetch_descriptor() -> Answer {
    let own = getpid().as_raw();
    // SAFETY: pidfd_open takes two integers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, own, 0) })? as i32;
    // SAFETY: the kernel has just returned this descriptor, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(fd) };
    raw::pidfd_getfd(&pidfd, pidfd.as_raw_fd()).map(drop)
}

fn open_mapped() -> Answer {
    let io = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let mut entries = fs::read_dir("/proc/self/map_files").map_err(io)?;
    match entries.next() {
        Some(entry) => File::open(entry.map_err(io)?.path()).map(drop).map_err(io),
        None => Err(Errno::ENOENT),
    }
}

/// Seizes and stops a child that does nothing, as a restore does with the processes that it makes.
fn trace_child() -> (Answer, Answer) {
    // SAFETY: the child only calls `prctl`, `pause` and `_exit`, which may follow a fork.
    let child = match unsafe { fork() } {
        Ok(ForkResult::Parent { child }) => child,
        // SAFETY: as above; the signal at our death comes to a child of ours.
        Ok(ForkResult::Child) => unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::pause();
            libc::_exit(0)
        },
        Err(errno) => return (Err(errno), Err(errno)),
    };
    let trace = seize(child);
    let rseq = trace.and_then(|()| rseq_of(child));
    let _ = kill(child, Signal::SIGKILL); // it is there until it is waited for
    while !matches!(
        waitpid(child, Some(WaitPidFlag::__WALL)),
        Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD)
    ) {}
    (trace, rseq)
}

fn seize(child: Pid) -> Answer {
    ptrace::seize(child, ptrace::Options::PTRACE_O_EXITKILL)?;
    ptrace::interrupt(child)?;
    waitpid(child, Some(WaitPidFlag::__WALL)).map(drop)
}

fn rseq_of(child: Pid) -> Answer {
    let mut area = [0_u8; RSEQ_CONFIGURATION_BYTES];
    let (request, data) = (PTRACE_GET_RSEQ_CONFIGURATION, area.as_mut_ptr());
    // SAFETY: the request writes at most the length that it is given to `area`, which outlives it.
    let ret = unsafe { libc::ptrace(request, child.as_raw(), RSEQ_CONFIGURATION_BYTES, data) };
    Errno::result(ret).map(drop)
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::Probes;

    #[test]
    fn trying_leaves_no_child() {
        let probes = Probes::run();
        assert_eq!(probes.write_memory, probes.read_memory);
        assert_ne!(probes.choose_id, Err(Errno::EINVAL), "the arguments are understood");
        if let Ok(children) = std::fs::read_to_string("/proc/thread-self/children") {
            assert_eq!(children, "");
        }
    }

    #[test]
    fn choosing_ids_is_allowed_to_whom_the_capabilities_allow_it() {
        let status = std::fs::read_to_string("/proc/self/status").expect("/proc is mounted");
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let held = u64::from_str_radix(line.expect("a line").trim(), 16).expect("hexadecimal");
        // CAP_SYS_ADMIN and CAP_CHECKPOINT_RESTORE (linux/capability.h).
        if held & (1 << 21 | 1 << 40) == 0 {
            assert_eq!(Probes::run().choose_id, Err(Errno::EPERM));
        } else {
            assert_eq!(Probes::run().choose_id, Ok(()));
        }
    }
}
