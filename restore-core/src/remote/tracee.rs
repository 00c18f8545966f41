//! A task of a running tree that is stopped, made to carry out calls for us, and let go as it was.
//!
//! It is seized, never attached: no signal is sent to it, and if this process dies the kernel lets
//! it go. What is changed for a call (registers, mask) is remembered before and put back after.
//! The tracer is the calling thread: all steps of a task come from one thread.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::freeze::{FreezeError, OPTION_SYSGOOD, PTRACE_SETSIGMASK, registers, request, xstate};
use super::ring::is_zombie;

/// `PTRACE_GETSIGMASK`, `PTRACE_PEEKSIGINFO` (linux/ptrace.h, Linux 3.11 and 3.10).
const PTRACE_GETSIGMASK: u32 = 0x420a;
const PTRACE_PEEKSIGINFO: u32 = 0x4209;
/// `PTRACE_GET_RSEQ_CONFIGURATION` (linux/ptrace.h, Linux 5.13).
const PTRACE_GET_RSEQ_CONFIGURATION: u32 = 0x420f;
/// Size of the kernel's `siginfo_t`.
const SIGINFO_BYTES: usize = 128;
/// Pending signals read with one request.
const SIGNALS_AT_ONCE: usize = 32;
/// Most pending signals of a queue (`RLIMIT_SIGPENDING` is some ten thousand by default).
const SIGNALS_MAX: usize = 1 << 20;
/// Looks for a stop this often before it sleeps: a running task stops within microseconds.
const LOOKS_BEFORE_SLEEP: u32 = 40;
/// Longest wait for the end of a task that was killed; writing a core file takes seconds.
const END_WAIT_MAX: Duration = Duration::from_secs(10);
/// Longest sleep between two looks; a stop ends it at once where SIGCHLD comes to this thread.
const SLEEP_NS_MAX: i64 = 2_000_000;

/// What a thread has registered for restartable sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Rseq {
    pub(crate) pointer: u64,
    pub(crate) size: u32,
    pub(crate) signature: u32,
    flags: u32,
    pad: u32,
}

/// Why a traced task is not running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// As it was asked to, or because its process is stopped by this signal.
    Asked(Option<i32>),
    /// At the begin or end of a system call.
    Call,
    /// It is about to get this signal.
    Signal(i32),
}

/// A task that this thread traces.
#[derive(Debug)]
pub(crate) struct Tracee {
    tid: i32,
    /// Registers and mask as they were found.
    found: Option<(libc::user_regs_struct, u64)>,
    /// Word to write back before it goes on: a critical section that our code has left.
    section: Option<(u64, u64)>,
    /// Whether registers or mask are other than found.
    changed: bool,
    /// Whether it runs, in our code.
    runs: bool,
    /// A stop signal came while our code ran; it is sent again at the end.
    stop_signal: Option<i32>,
    /// The call that it makes for us.
    call: Option<Call>,
}

/// A call that a task is making for us.
#[derive(Clone, Copy, Debug)]
struct Call {
    what: &'static str,
    entered: bool,
}

impl Tracee {
    /// Starts to trace a task and asks it to stop; [`Tracee::settle`] sees it done.
    ///
    /// # Errors
    /// `ESRCH` if it has gone, `EPERM` if it is traced already or out of reach.
    pub(crate) fn seize(tid: i32) -> Result<Self, FreezeError> {
        request("seize", libc::PTRACE_SEIZE, tid, 0, OPTION_SYSGOOD)?;
        request("interrupt", libc::PTRACE_INTERRUPT, tid, 0, 0)?;
        let (found, section, stop_signal, call) = (None, None, None, None);
        Ok(Self { tid, found, section, changed: false, runs: true, stop_signal, call })
    }

    /// Thread id.
    pub(crate) fn tid(&self) -> i32 {
        self.tid
    }

    /// Whether [`Tracee::settle`] has seen it stop.
    pub(crate) fn is_settled(&self) -> bool {
        self.found.is_some()
    }

    /// Waits until it has stopped, and remembers its state. Returns the signal by which its whole
    /// process had been stopped before.
    pub(crate) fn settle(&mut self, limit: Duration) -> Result<Option<i32>, FreezeError> {
        let what = "stop";
        let group = loop {
            match self.next_stop(what, limit)? {
                Stop::Asked(group) => break group,
                // It was dequeued before the request; it is delivered, and the task stops before
                // it executes anything of its own.
                Stop::Signal(signal) => {
                    request(what, libc::PTRACE_CONT, self.tid, 0, signal as usize)?;
                }
                Stop::Call => request(what, libc::PTRACE_CONT, self.tid, 0, 0)?,
            }
        };
        self.runs = false;
        let mut mask = 0u64;
        let data = &raw mut mask as usize;
        request("read signal mask", PTRACE_GETSIGMASK, self.tid, size_of::<u64>(), data)?;
        self.found = Some((registers(self.tid)?, mask));
        Ok(group)
    }

    /// General registers as they were found.
    pub(crate) fn registers(&self) -> &libc::user_regs_struct {
        &self.found.as_ref().expect("a task is settled before it is read").0
    }

    /// Mask of blocked signals as it was found.
    pub(crate) fn signal_mask(&self) -> u64 {
        self.found.as_ref().expect("a task is settled before it is read").1
    }

    /// The XSAVE area as this host lays it out.
    pub(crate) fn xstate(&self) -> Result<Vec<u8>, FreezeError> {
        xstate(self.tid)
    }

    /// Its registration for restartable sequences; nothing where the kernel knows none.
    pub(crate) fn rseq(&self) -> Result<Rseq, FreezeError> {
        let mut rseq = Rseq::default();
        let (size, data) = (size_of::<Rseq>(), &raw mut rseq as usize);
        match request("rseq", PTRACE_GET_RSEQ_CONFIGURATION, self.tid, size, data) {
            Err(FreezeError::Refused { errno: Errno::EIO | Errno::EINVAL, .. }) => Ok(rseq),
            other => other.map(|()| rseq),
        }
    }

    /// Remembers a word of its memory that running our code clears.
    pub(crate) fn keep_word(&mut self, address: u64, word: u64) {
        self.section = Some((address, word));
    }

    /// Pending signals as `siginfo_t`, of the thread or (`shared`) of its process.
    pub(crate) fn pending_signals(&self, shared: bool) -> Result<Vec<Vec<u8>>, FreezeError> {
        #[repr(C)]
        struct PeekArgs {
            offset: u64,
            flags: u32,
            count: i32,
        }
        let what = "read pending signals";
        let mut signals = Vec::new();
        let mut buffer = vec![0u8; SIGNALS_AT_ONCE * SIGINFO_BYTES];
        while signals.len() < SIGNALS_MAX {
            let args = PeekArgs {
                offset: signals.len() as u64,
                flags: u32::from(shared),
                count: SIGNALS_AT_ONCE as i32,
            };
            // SAFETY: the request reads `args` and writes at most `count` structures of
            // SIGINFO_BYTES to `buffer`, which has room for them; both outlive the call.
            let count = unsafe {
                libc::ptrace(PTRACE_PEEKSIGINFO, self.tid, &raw const args, buffer.as_mut_ptr())
            };
            if count < 0 {
                return Err(FreezeError::Refused { what, tid: self.tid, errno: Errno::last() });
            }
            let got = buffer.chunks(SIGINFO_BYTES).take(count as usize);
            signals.extend(got.map(<[u8]>::to_vec));
            if (count as usize) < SIGNALS_AT_ONCE {
                break;
            }
        }
        Ok(signals)
    }

    fn set_registers(&mut self, regs: &libc::user_regs_struct) -> Result<(), FreezeError> {
        if !self.changed {
            self.changed = true;
            self.set_mask(u64::MAX)?;
        }
        let data = std::ptr::from_ref(regs) as usize;
        request("set registers", libc::PTRACE_SETREGS, self.tid, 0, data)
    }

    fn set_mask(&self, mask: u64) -> Result<(), FreezeError> {
        let data = &raw const mask as usize;
        request("set signal mask", PTRACE_SETSIGMASK, self.tid, size_of::<u64>(), data)
    }

    /// Has the stopped task begin a system call by the `syscall` instruction at `instruction`.
    /// [`Tracee::enter_call`] and [`Tracee::finish_call`] go on with it: so the calls of many tasks
    /// are under way at once.
    ///
    /// # Errors
    /// What stands in the way of the call.
    pub(crate) fn start_call(
        &mut self,
        what: &'static str,
        instruction: u64,
        nr: i64,
        args: [u64; 6],
    ) -> Result<(), FreezeError> {
        let mut regs = *self.registers();
        regs.rip = instruction;
        regs.rax = nr as u64;
        regs.orig_rax = u64::MAX; // no call of its own is to be restarted
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        self.set_registers(&regs)?;
        request(what, libc::PTRACE_SYSCALL, self.tid, 0, 0)?;
        self.call = Some(Call { what, entered: false });
        Ok(())
    }

    /// Waits until the call that was begun has been entered.
    pub(crate) fn enter_call(&mut self, limit: Duration) -> Result<(), FreezeError> {
        if let Some(Call { what, entered: false }) = self.call {
            self.reach_call_stop(what, limit)?;
            request(what, libc::PTRACE_SYSCALL, self.tid, 0, 0)?;
            self.call = Some(Call { what, entered: true });
        }
        Ok(())
    }

    /// Waits until the call that was begun has ended; what it returned, if one was begun.
    pub(crate) fn finish_call(&mut self, limit: Duration) -> Result<Option<i64>, FreezeError> {
        self.enter_call(limit)?;
        let Some(Call { what, .. }) = self.call else { return Ok(None) };
        self.reach_call_stop(what, limit)?;
        self.call = None;
        Ok(Some(registers(self.tid)?.rax as i64))
    }

    /// Waits for the begin or end of a call; whatever else stops the task comes first.
    fn reach_call_stop(&mut self, what: &'static str, limit: Duration) -> Result<(), FreezeError> {
        loop {
            match self.next_stop(what, limit)? {
                Stop::Call => return Ok(()),
                Stop::Signal(signal) => self.stop_signal = Some(signal),
                Stop::Asked(_) => {}
            }
            request(what, libc::PTRACE_SYSCALL, self.tid, 0, 0)?;
        }
    }

    /// Lets the task run our code at `entry` with `slot` in the register that it looks for it in.
    pub(crate) fn run(&mut self, entry: u64, slot: u64) -> Result<(), FreezeError> {
        let mut regs = *self.registers();
        regs.rip = entry;
        regs.r12 = slot;
        regs.orig_rax = u64::MAX;
        self.set_registers(&regs)?;
        self.runs = true;
        request("run the stub", libc::PTRACE_CONT, self.tid, 0, 0)
    }

    /// Asks the task to stop running our code; [`Tracee::halted`] sees it done.
    pub(crate) fn halt(&self) -> Result<(), FreezeError> {
        request("interrupt", libc::PTRACE_INTERRUPT, self.tid, 0, 0)
    }

    /// Waits until the task has stopped running our code.
    pub(crate) fn halted(&mut self, limit: Duration) -> Result<(), FreezeError> {
        let what = "halt";
        loop {
            match self.next_stop(what, limit)? {
                Stop::Asked(_) => break,
                Stop::Signal(signal) => {
                    self.stop_signal = Some(signal);
                    request(what, libc::PTRACE_CONT, self.tid, 0, 0)?;
                }
                Stop::Call => request(what, libc::PTRACE_CONT, self.tid, 0, 0)?,
            }
        }
        self.runs = false;
        Ok(())
    }

    /// Whether it is running our code.
    pub(crate) fn runs(&self) -> bool {
        self.runs
    }

    /// If something has stopped the task while it runs our code (only SIGSTOP can), lets it go on.
    ///
    /// # Errors
    /// The task has died, among others.
    pub(crate) fn nudge(&mut self) -> Result<(), FreezeError> {
        let what = "watch";
        if let Some(status) = look(what, self.tid)? {
            match stop_of(what, self.tid, status)? {
                Stop::Signal(signal) => self.stop_signal = Some(signal),
                Stop::Asked(_) | Stop::Call => {}
            }
            return request("go on", libc::PTRACE_CONT, self.tid, 0, 0);
        }
        if is_zombie(self.tid) { Err(FreezeError::Died { what, tid: self.tid }) } else { Ok(()) }
    }

    /// Whether the task stands where we have stopped it. Only its death ends that without us, so
    /// what was read of it before was true.
    pub(crate) fn is_held(&self) -> bool {
        let mut mask = 0u64;
        let data = &raw mut mask as usize;
        request("read signal mask", PTRACE_GETSIGMASK, self.tid, size_of::<u64>(), data).is_ok()
    }

    /// Writes to the stopped task's memory.
    pub(crate) fn write(&self, address: u64, bytes: &[u8; 16]) -> Result<(), FreezeError> {
        for (index, word) in bytes.chunks_exact(8).enumerate() {
            let word = usize::from_le_bytes(word.try_into().expect("eight bytes"));
            let at = address as usize + index * size_of::<usize>();
            request("write memory", libc::PTRACE_POKEDATA, self.tid, at, word)?;
        }
        Ok(())
    }

    /// Has the task go on with other registers than it was found with.
    pub(crate) fn go_on_with(&mut self, regs: libc::user_regs_struct) {
        if let Some(found) = &mut self.found {
            found.0 = regs;
            self.changed = true;
        }
    }

    /// Gives the stopped task back the state that it was found in. One that has gone needs none.
    pub(crate) fn put_back(&mut self) -> Result<(), FreezeError> {
        self.try_put_back().or_else(gone)
    }

    fn try_put_back(&mut self) -> Result<(), FreezeError> {
        if !std::mem::take(&mut self.changed) {
            return Ok(());
        }
        if let Some((address, word)) = self.section {
            let (at, word) = (address as usize, word as usize);
            request("write memory", libc::PTRACE_POKEDATA, self.tid, at, word)?;
        }
        let (regs, mask) = self.found.expect("a task is settled before it is changed");
        let data = &raw const regs as usize;
        request("set registers", libc::PTRACE_SETREGS, self.tid, 0, data)?;
        self.set_mask(mask)
    }

    /// Lets the stopped task go, unless it has gone by itself. The kernel looks again whether a
    /// call is to be restarted. Its parent learns of its death only from then on: first threads are
    /// let go after all others, or they cannot be.
    pub(crate) fn release(self) -> Result<(), FreezeError> {
        if let Err(error) = request("detach", libc::PTRACE_DETACH, self.tid, 0, 0) {
            return gone(error).and_then(|()| self.collect());
        }
        if let Some(signal) = self.stop_signal {
            let signal = nix::sys::signal::Signal::try_from(signal).ok();
            // It has gone if this fails; then nothing is to be stopped.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.tid), signal);
        }
        Ok(())
    }

    /// Waits for the end of a task that is dying; first threads end after all others.
    pub(crate) fn collect(&self) -> Result<(), FreezeError> {
        match self.next_stop("collect", END_WAIT_MAX) {
            Err(FreezeError::Unexpected { .. } | FreezeError::Died { .. }) => Ok(()),
            other => other.map(drop).or_else(gone),
        }
    }

    fn next_stop(&self, what: &'static str, limit: Duration) -> Result<Stop, FreezeError> {
        let begin = Instant::now();
        let mut looks = 0;
        loop {
            if let Some(status) = look(what, self.tid)? {
                return stop_of(what, self.tid, status);
            }
            looks += 1;
            if looks < LOOKS_BEFORE_SLEEP {
                std::thread::yield_now();
            } else if begin.elapsed() > limit {
                let seconds = limit.as_secs();
                return Err(FreezeError::Overdue { what, tid: self.tid, seconds });
            } else if is_zombie(self.tid) {
                // Its end may have been told meanwhile.
                let status = look(what, self.tid)?;
                let died = Err(FreezeError::Died { what, tid: self.tid });
                return status.map_or(died, |status| stop_of(what, self.tid, status));
            } else {
                sleep_until_child();
            }
        }
    }
}

/// A task that is no more, or runs because it is being killed, needs nothing more.
fn gone(error: FreezeError) -> Result<(), FreezeError> {
    match error {
        FreezeError::Refused { errno: Errno::ESRCH | Errno::ECHILD, .. } => Ok(()),
        other => Err(other),
    }
}

/// Wait status of a traced task, if there is a new one.
fn look(what: &'static str, tid: i32) -> Result<Option<i32>, FreezeError> {
    let mut status = 0;
    let flags = libc::__WALL | libc::WNOHANG;
    // SAFETY: wait4 writes one integer to `status`.
    match unsafe { libc::wait4(tid, &raw mut status, flags, std::ptr::null_mut()) } {
        0 => Ok(None),
        ret if ret == tid => Ok(Some(status)),
        _ => match Errno::last() {
            Errno::EINTR => Ok(None),
            errno => Err(FreezeError::Refused { what, tid, errno }),
        },
    }
}

fn stop_of(what: &'static str, tid: i32, status: i32) -> Result<Stop, FreezeError> {
    if !libc::WIFSTOPPED(status) {
        return Err(FreezeError::Unexpected { what, tid, status });
    }
    let signal = libc::WSTOPSIG(status);
    Ok(match status >> 16 {
        libc::PTRACE_EVENT_STOP => Stop::Asked((signal != libc::SIGTRAP).then_some(signal)),
        _ if signal == libc::SIGTRAP | 0x80 => Stop::Call,
        _ => Stop::Signal(signal),
    })
}

/// Sleeps until a traced task or child changes its state, or a short while.
fn sleep_until_child() {
    let mut set: u64 = 0;
    set |= 1 << (libc::SIGCHLD - 1);
    let limit = libc::timespec { tv_sec: 0, tv_nsec: SLEEP_NS_MAX };
    // SAFETY: reads eight bytes of the set and the time, which outlive the call. Any result means
    // that it is time to look again.
    unsafe {
        let none = std::ptr::null::<u8>();
        libc::syscall(libc::SYS_rt_sigtimedwait, &raw const set, none, &raw const limit, 8);
    }
}
