//! The last things a task is given, by ptrace: it stops in the stub and goes on in its own code.
//!
//! `Seized` (traced, still in the stub, killed if we die) -> `Stopped` -> registers set ->
//! detached. Each step consumes the one before, so a task can neither run half-set nor be let go
//! twice. The tracer is the calling thread: all steps of a task must come from one thread.

use nix::errno::Errno;

use super::region::Region;
use super::stub;

/// `NT_X86_XSTATE` (linux/elf.h).
const NT_X86_XSTATE: usize = 0x202;
/// `PTRACE_SETSIGMASK` (linux/ptrace.h, Linux 3.11).
pub(super) const PTRACE_SETSIGMASK: u32 = 0x420b;
/// `PTRACE_O_EXITKILL` (linux/ptrace.h, Linux 3.8).
const OPTION_EXITKILL: usize = 1 << 20;
/// `PTRACE_O_TRACESYSGOOD`: system-call stops are told apart from signals.
pub(super) const OPTION_SYSGOOD: usize = 1;
/// Largest XSAVE area that is taken (AMX needs 11 KiB; the architecture gives no bound).
const XSTATE_BYTES_MAX: usize = 64 << 10;

/// Why a task could not be given its final state.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// A ptrace request or the wait for its effect failed.
    #[error("{what}: ptrace of task {tid} failed: {errno}")]
    Refused {
        /// What was asked for.
        what: &'static str,
        /// Thread.
        tid: i32,
        /// The kernel's error.
        errno: Errno,
    },
    /// The task stopped for another reason than the one waited for, or ended.
    #[error("{what}: task {tid} has wait status {status:#x}")]
    Unexpected {
        /// What was waited for.
        what: &'static str,
        /// Thread.
        tid: i32,
        /// Status as `wait4` gives it.
        status: i32,
    },
    /// The task did not stop in time.
    #[error("{what}: task {tid} did not stop within {seconds} s")]
    Overdue {
        /// What was waited for.
        what: &'static str,
        /// Thread.
        tid: i32,
        /// The limit.
        seconds: u64,
    },
    /// The task died instead of doing what was waited for.
    #[error("{what}: task {tid} died")]
    Died {
        /// What was waited for.
        what: &'static str,
        /// Thread.
        tid: i32,
    },
    /// A system call made for the task at the very end failed.
    #[error("{what} of task {tid} failed: {errno}")]
    Call {
        /// The call.
        what: &'static str,
        /// Thread.
        tid: i32,
        /// The kernel's error.
        errno: Errno,
    },
}

impl FreezeError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { errno: Errno::EPERM | Errno::EACCES, .. } => "task.trace-denied",
            Self::Refused { .. } => "task.trace",
            Self::Unexpected { .. } => "task.unexpected-stop",
            Self::Overdue { .. } => "task.not-stopped",
            Self::Died { .. } => "task.died-stopping",
            Self::Call { .. } => "task.last-call",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Refused { errno: Errno::EPERM | Errno::EACCES, .. } => {
                Some("run as root, or with CAP_SYS_PTRACE; see kernel.yama.ptrace_scope")
            }
            Self::Unexpected { .. } => Some("keep other tracers and signals away from it"),
            Self::Overdue { .. } => {
                Some("look whether it hangs in the kernel (state D in /proc/PID/status)")
            }
            Self::Died { .. } => Some("look into the kernel's log: it may have run out of memory"),
            Self::Refused { .. } | Self::Call { .. } => None,
        }
    }
}

/// A task that is traced by this thread and dies with it, still executing the stub.
#[derive(Debug)]
pub(crate) struct Seized {
    tid: i32,
}

/// A task that does not run.
#[derive(Debug)]
pub(crate) struct Stopped {
    tid: i32,
}

pub(super) fn request(
    what: &'static str,
    request: u32,
    tid: i32,
    addr: usize,
    data: usize,
) -> Result<(), FreezeError> {
    // SAFETY: every caller, here and in `tracee`, either passes integers, or `data` as the address
    // of a live local of the type and size that the request reads or writes.
    let ret = unsafe { libc::ptrace(request, tid, addr, data) };
    if ret == -1 {
        return Err(FreezeError::Refused { what, tid, errno: Errno::last() });
    }
    Ok(())
}

/// The general registers of a stopped task.
pub(super) fn registers(tid: i32) -> Result<libc::user_regs_struct, FreezeError> {
    // SAFETY: the all-zero value of this plain C struct is valid.
    let mut regs: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    request("read registers", libc::PTRACE_GETREGS, tid, 0, &raw mut regs as usize)?;
    Ok(regs)
}

/// The XSAVE area of a stopped task, as this host lays it out.
pub(super) fn xstate(tid: i32) -> Result<Vec<u8>, FreezeError> {
    let mut area = vec![0; XSTATE_BYTES_MAX];
    let len = regset("read FPU state", libc::PTRACE_GETREGSET, tid, &mut area)?;
    area.truncate(len);
    Ok(area)
}

fn regset(
    what: &'static str,
    request: u32,
    tid: i32,
    area: &mut [u8],
) -> Result<usize, FreezeError> {
    let mut io = libc::iovec { iov_base: area.as_mut_ptr().cast(), iov_len: area.len() };
    // SAFETY: `io` describes `area`, which outlives the call and is writable; the kernel
    // transfers at most `iov_len` bytes and stores how many.
    let ret = unsafe { libc::ptrace(request, tid, NT_X86_XSTATE, &raw mut io) };
    if ret == -1 {
        return Err(FreezeError::Refused { what, tid, errno: Errno::last() });
    }
    Ok(io.iov_len)
}

/// Waits for the next stop of a traced task.
fn wait_stop(what: &'static str, tid: i32) -> Result<i32, FreezeError> {
    let mut status = 0;
    loop {
        // SAFETY: wait4 writes one integer to `status`.
        let ret = unsafe { libc::wait4(tid, &raw mut status, libc::__WALL, std::ptr::null_mut()) };
        if ret == tid {
            break;
        }
        let errno = Errno::last();
        if errno != Errno::EINTR {
            return Err(FreezeError::Refused { what, tid, errno });
        }
    }
    if !libc::WIFSTOPPED(status) {
        return Err(FreezeError::Unexpected { what, tid, status });
    }
    Ok(status)
}

/// The task of this thread's tracees of which something is to be told: a stop, or its end. It is
/// not taken.
fn next_told(what: &'static str, tid: i32) -> Result<i32, FreezeError> {
    let flags = libc::WEXITED | libc::WSTOPPED | libc::WNOWAIT | libc::__WALL | libc::__WNOTHREAD;
    loop {
        // SAFETY: the all-zero value of this plain C struct is valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: waitid writes one `siginfo_t` to `info`, which outlives the call.
        if unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) } == 0 {
            // SAFETY: waitid has filled in the fields that go with SIGCHLD.
            return Ok(unsafe { info.si_pid() });
        }
        let errno = Errno::last();
        if errno != Errno::EINTR {
            return Err(FreezeError::Refused { what, tid, errno });
        }
    }
}

impl Seized {
    /// Starts to trace a task without stopping it.
    pub(crate) fn seize(tid: i32) -> Result<Self, FreezeError> {
        let options = OPTION_EXITKILL | OPTION_SYSGOOD;
        request("seize", libc::PTRACE_SEIZE, tid, 0, options)?;
        Ok(Self { tid })
    }

    /// Asks the task to stop; [`Seized::wait`] sees it done. All threads are asked first and
    /// waited for afterwards, so that they stop at the same time.
    pub(crate) fn interrupt(&self) -> Result<(), FreezeError> {
        request("interrupt", libc::PTRACE_INTERRUPT, self.tid, 0, 0)
    }

    /// Waits until the first thread of a process has stopped, when all its others have.
    ///
    /// If the process is killed meanwhile, the kernel tells of the end of this thread only when
    /// that of all others has been taken, and theirs is told to this thread alone. So the wait ends
    /// with whatever is told first; tracees that have been waited for have nothing to tell but
    /// their end.
    pub(crate) fn wait_first(self) -> Result<Stopped, FreezeError> {
        match next_told("stop", self.tid)? {
            tid if tid == self.tid => self.wait(),
            tid => Err(FreezeError::Died { what: "stop", tid }),
        }
    }

    /// Waits until the task has stopped. Not for the first thread of several, see
    /// [`Seized::wait_first`].
    pub(crate) fn wait(self) -> Result<Stopped, FreezeError> {
        let status = wait_stop("stop", self.tid)?;
        let event = status >> 16;
        if event != libc::PTRACE_EVENT_STOP {
            return Err(FreezeError::Unexpected { what: "stop", tid: self.tid, status });
        }
        Ok(Stopped { tid: self.tid })
    }
}

impl Stopped {
    /// Thread id.
    pub(crate) fn tid(&self) -> i32 {
        self.tid
    }

    /// Sets the general registers, segment bases included.
    pub(crate) fn set_registers(&self, regs: &libc::user_regs_struct) -> Result<(), FreezeError> {
        let data = std::ptr::from_ref(regs) as usize;
        request("set registers", libc::PTRACE_SETREGS, self.tid, 0, data)
    }

    /// Sets the mask of blocked signals.
    pub(crate) fn set_signal_mask(&self, mask: u64) -> Result<(), FreezeError> {
        let data = &raw const mask as usize;
        request("set signal mask", PTRACE_SETSIGMASK, self.tid, size_of::<u64>(), data)
    }

    /// Reads the XSAVE area as this host lays it out.
    pub(crate) fn xstate(&self) -> Result<Vec<u8>, FreezeError> {
        xstate(self.tid)
    }

    /// Replaces the XSAVE area; its size is the one that [`Stopped::xstate`] returned.
    pub(crate) fn set_xstate(&self, area: &mut [u8]) -> Result<(), FreezeError> {
        regset("set FPU state", libc::PTRACE_SETREGSET, self.tid, area).map(|_| ())
    }

    /// Has the task unmap the shared region, the code that it stands on included: the call is
    /// made by the stub's own instruction and caught before anything is fetched after it.
    pub(crate) fn unmap_region(&self, region: &Region) -> Result<(), FreezeError> {
        let what = "unmap of the restorer's region";
        let mut regs = registers(self.tid)?;
        regs.rip = region.base() + stub::syscall_offset_bytes();
        regs.rax = libc::SYS_munmap as u64;
        regs.orig_rax = u64::MAX;
        regs.rdi = region.base();
        regs.rsi = region.len_bytes();
        self.set_registers(&regs)?;
        for _ in 0..2 {
            request(what, libc::PTRACE_SYSCALL, self.tid, 0, 0)?;
            let status = wait_stop(what, self.tid)?;
            if libc::WSTOPSIG(status) != libc::SIGTRAP | 0x80 {
                return Err(FreezeError::Unexpected { what, tid: self.tid, status });
            }
        }
        let ret = registers(self.tid)?.rax as i64;
        if ret != 0 {
            let errno = Errno::from_raw(-ret as i32);
            return Err(FreezeError::Call { what, tid: self.tid, errno });
        }
        Ok(())
    }

    /// Writes to the stopped task's memory, whatever the protection of its pages.
    pub(crate) fn write_word(&self, address: u64, word: u64) -> Result<(), FreezeError> {
        request("write memory", libc::PTRACE_POKEDATA, self.tid, address as usize, word as usize)
    }

    /// Lets the task run on its own; from here on it is no longer ours.
    pub(crate) fn release(self) -> Result<(), FreezeError> {
        request("detach", libc::PTRACE_DETACH, self.tid, 0, 0)
    }
}
