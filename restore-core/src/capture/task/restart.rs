//! A call that a thread was stopped in: made again after a restore, with the time that was left.
//!
//! The kernel would restart it by itself, with what it remembers of it; a restored thread has only
//! its registers. So the registers of the images are those of a thread about to make the call
//! (as upstream does for calls without a time), with the rest of the time in place of the whole.
//! How long a thread has slept is asked before it is stopped, of its scheduling statistics.

use std::fs;
use std::time::{Duration, Instant};

/// Results by which a call says that it was interrupted (linux/errno.h, not for user space).
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;
const EINTR: i64 = -4;
/// Size of `struct timespec`.
const TIMESPEC_BYTES: usize = 16;
/// How far below the stack pointer the rest of a time is put. The ABI's red zone has 128 bytes.
const BELOW_STACK_BYTES: u64 = 512;
/// Mask of a futex operation without its flags (linux/futex.h).
const FUTEX_COMMAND: i32 = 0x7f;
/// Length of a `syscall` instruction.
const INSTRUCTION_BYTES: u64 = 2;

/// What a thread was doing just before it was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slept {
    /// Call that it slept in.
    pub(crate) nr: i64,
    /// How long it had slept.
    pub(crate) for_how_long: Duration,
    /// When that was.
    pub(crate) seen: Instant,
}

impl Slept {
    /// As if it had been seen to sleep until now.
    pub(crate) fn until_now(&self) -> Self {
        let seen = Instant::now();
        Self { for_how_long: self.for_how_long + (seen - self.seen), seen, ..*self }
    }
}

/// Looks at a thread that may be asleep in a call with a time limit.
pub(crate) fn look(pid: i32, tid: i32) -> Option<Slept> {
    let syscall = fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()?;
    let nr: i64 = syscall.split(' ').next()?.parse().ok()?;
    if !is_timed(nr) {
        return None;
    }
    let then = exec_start(&format!("/proc/{pid}/task/{tid}/sched"))?;
    let now = exec_start("/proc/thread-self/sched")?;
    Some(Slept { nr, for_how_long: now.saturating_sub(then), seen: Instant::now() })
}

/// When a task last ran, by the scheduler's clock: now, for one that runs.
fn exec_start(path: &str) -> Option<Duration> {
    parse_exec_start(&fs::read_to_string(path).ok()?)
}

fn parse_exec_start(text: &str) -> Option<Duration> {
    let line = text.lines().find(|line| line.starts_with("se.exec_start"))?;
    let (milliseconds, nanoseconds) = line.split_once(':')?.1.trim().split_once('.')?;
    let nanoseconds: u64 = nanoseconds.parse().ok()?;
    Some(Duration::from_millis(milliseconds.parse().ok()?) + Duration::from_nanos(nanoseconds))
}

/// Calls with a time limit of which what was left must be worked out.
fn is_timed(nr: i64) -> bool {
    matches!(
        nr,
        libc::SYS_poll
            | libc::SYS_epoll_wait
            | libc::SYS_epoll_pwait
            | libc::SYS_epoll_pwait2
            | libc::SYS_nanosleep
            | libc::SYS_clock_nanosleep
            | libc::SYS_futex
            | libc::SYS_rt_sigtimedwait
            | libc::SYS_semtimedop
    )
}

/// Bytes to be put into a thread's memory in the images: what is left of a time that it gave by a
/// pointer. They lie below its stack pointer, beyond what the ABI lets a function use there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patch {
    pub(crate) address: u64,
    pub(crate) bytes: [u8; TIMESPEC_BYTES],
}

/// What is known of a stopped thread beside its registers.
pub(crate) struct Known<'a> {
    pub(crate) slept: Option<Slept>,
    /// Whether a signal is about to be delivered.
    pub(crate) signal: bool,
    /// Reads a word of its memory.
    pub(crate) word: &'a dyn Fn(u64) -> Option<u64>,
}

/// Changes the registers of an interrupted call to those of one about to be made. The patch must
/// be in its memory then.
pub(crate) fn rewind(regs: &mut libc::user_regs_struct, known: &Known<'_>) -> Option<Patch> {
    let (nr, result) = (regs.orig_rax as i64, regs.rax as i64);
    if nr < 0 {
        return None;
    }
    match result {
        ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => again(regs, nr),
        ERESTART_RESTARTBLOCK | EINTR if !known.signal && is_interrupted(nr, result) => {
            return with_rest(regs, nr, known);
        }
        ERESTART_RESTARTBLOCK => regs.rax = EINTR as u64,
        _ => {}
    }
    None
}

/// Whether this result of this call is one of being stopped.
fn is_interrupted(nr: i64, result: i64) -> bool {
    result == ERESTART_RESTARTBLOCK || is_ended(nr)
}

/// Calls that the kernel does not restart after a stop, though no signal has come (signal(7)).
fn is_ended(nr: i64) -> bool {
    matches!(
        nr,
        libc::SYS_epoll_wait
            | libc::SYS_epoll_pwait
            | libc::SYS_epoll_pwait2
            | libc::SYS_rt_sigtimedwait
            | libc::SYS_semop
            | libc::SYS_semtimedop
            | libc::SYS_io_getevents
    )
}

/// Whether a stopped thread was in a call that the kernel has ended because of the stop. When no
/// signal waits, these calls say `EINTR` for no other reason.
pub(crate) fn ended_by_stop(regs: &libc::user_regs_struct) -> bool {
    regs.rax as i64 == EINTR && is_ended(regs.orig_rax as i64)
}

fn again(regs: &mut libc::user_regs_struct, nr: i64) {
    regs.rax = nr as u64;
    regs.rip -= INSTRUCTION_BYTES;
}

fn with_rest(regs: &mut libc::user_regs_struct, nr: i64, known: &Known<'_>) -> Option<Patch> {
    let slept = known.slept.filter(|slept| slept.nr == nr);
    let slept = slept.map_or(Duration::ZERO, |slept| slept.for_how_long);
    again(regs, nr);
    // What is less than no time is for ever, and stays so; a time that has passed is none.
    let rest = |value: u64| match value as i32 {
        forever @ ..0 => forever as u64,
        limit => (i64::from(limit) - slept.as_millis() as i64).max(0) as u64,
    };
    let pointer = match nr {
        libc::SYS_poll => {
            regs.rdx = rest(regs.rdx);
            return None;
        }
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => {
            regs.r10 = rest(regs.r10);
            return None;
        }
        // The kernel has written the rest where the caller wants it.
        libc::SYS_nanosleep if regs.rsi != 0 => {
            regs.rdi = regs.rsi;
            return None;
        }
        libc::SYS_clock_nanosleep if regs.r10 != 0 => {
            regs.rdx = regs.r10;
            return None;
        }
        libc::SYS_futex if regs.rsi as i32 & FUTEX_COMMAND != libc::FUTEX_WAIT => return None,
        libc::SYS_nanosleep => &mut regs.rdi,
        libc::SYS_clock_nanosleep | libc::SYS_rt_sigtimedwait => &mut regs.rdx,
        libc::SYS_futex | libc::SYS_semtimedop | libc::SYS_epoll_pwait2 => &mut regs.r10,
        _ => return None,
    };
    if *pointer == 0 {
        return None; // for ever
    }
    let seconds = (known.word)(*pointer)?;
    let nanoseconds = (known.word)(*pointer + 8)?;
    let whole = Duration::new(seconds, u32::try_from(nanoseconds).ok()?);
    let left = whole.saturating_sub(slept);
    let address = regs.rsp.checked_sub(BELOW_STACK_BYTES)? / 16 * 16;
    (known.word)(address)?; // it must be memory
    let mut bytes = [0; TIMESPEC_BYTES];
    bytes[..8].copy_from_slice(&left.as_secs().to_le_bytes());
    bytes[8..].copy_from_slice(&u64::from(left.subsec_nanos()).to_le_bytes());
    *pointer = address;
    Some(Patch { address, bytes })
}

/// Whether a call was given its time by a pointer.
pub(crate) fn points_to_time(regs: &libc::user_regs_struct) -> bool {
    match regs.orig_rax as i64 {
        libc::SYS_rt_sigtimedwait => regs.rdx != 0,
        libc::SYS_semtimedop | libc::SYS_epoll_pwait2 => regs.r10 != 0,
        libc::SYS_io_getevents => regs.r8 != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{EINTR, ERESTART_RESTARTBLOCK, ERESTARTSYS, Known, Patch, Slept, parse_exec_start};
    use std::time::{Duration, Instant};

    fn regs(nr: i64, result: i64) -> libc::user_regs_struct {
        let mut regs = blank();
        regs.orig_rax = nr as u64;
        regs.rax = result as u64;
        regs.rip = 0x1002;
        regs.rdx = 5000;
        regs.r10 = 5000;
        regs
    }

    fn blank() -> libc::user_regs_struct {
        libc::user_regs_struct {
            r15: 0,
            r14: 0,
            r13: 0,
            r12: 0,
            rbp: 0,
            rbx: 0,
            r11: 0,
            r10: 0,
            r9: 0,
            r8: 0,
            rax: 0,
            rcx: 0,
            rdx: 0,
            rsi: 0,
            rdi: 0,
            orig_rax: 0,
            rip: 0,
            cs: 0,
            eflags: 0,
            rsp: 0,
            ss: 0,
            fs_base: 0,
            gs_base: 0,
            ds: 0,
            es: 0,
            fs: 0,
            gs: 0,
        }
    }

    fn rewind(
        regs: &mut libc::user_regs_struct,
        slept: Option<Slept>,
        signal: bool,
    ) -> Option<Patch> {
        super::rewind(
            regs,
            &Known { slept, signal, word: &|at| Some(if at == 5000 { 5 } else { 0 }) },
        )
    }

    fn slept(nr: i64, ms: u64) -> Option<Slept> {
        Some(Slept { nr, for_how_long: Duration::from_millis(ms), seen: Instant::now() })
    }

    #[test]
    fn call_without_a_time_is_made_again() {
        let mut call = regs(libc::SYS_wait4, ERESTARTSYS);
        rewind(&mut call, None, false);
        assert_eq!((call.rip, call.rax), (0x1000, libc::SYS_wait4 as u64));
    }

    #[test]
    fn poll_and_epoll_go_on_with_what_was_left() {
        let mut poll = regs(libc::SYS_poll, ERESTART_RESTARTBLOCK);
        rewind(&mut poll, slept(libc::SYS_poll, 2000), false);
        assert_eq!((poll.rip, poll.rdx), (0x1000, 3000));
        let mut late = regs(libc::SYS_epoll_wait, EINTR);
        rewind(&mut late, slept(libc::SYS_epoll_wait, 9000), false);
        assert_eq!((late.rip, late.r10), (0x1000, 0));
        let mut forever = regs(libc::SYS_epoll_wait, EINTR);
        forever.r10 = u64::from(u32::MAX);
        rewind(&mut forever, slept(libc::SYS_epoll_wait, 9000), false);
        assert_eq!(forever.r10 as i32, -1);
    }

    #[test]
    fn sleep_goes_on_with_the_rest_that_the_kernel_wrote() {
        let mut sleep = regs(libc::SYS_clock_nanosleep, ERESTART_RESTARTBLOCK);
        rewind(&mut sleep, None, false);
        assert_eq!((sleep.rip, sleep.rdx), (0x1000, 5000));
    }

    #[test]
    fn time_given_by_a_pointer_is_put_below_the_stack() {
        let mut wait = regs(libc::SYS_futex, ERESTART_RESTARTBLOCK);
        wait.rsp = 0x7fff_0008;
        let slept = slept(libc::SYS_futex, 1500);
        let patch = rewind(&mut wait, slept, false).expect("a time below the stack");
        assert_eq!((wait.rip, wait.r10), (0x1000, patch.address));
        assert!(patch.address + 16 <= wait.rsp - 128 && patch.address.is_multiple_of(16));
        let words = [3u64, 500_000_000].map(u64::to_le_bytes).concat();
        assert_eq!(patch.bytes.as_slice(), words);
        let mut absolute = regs(libc::SYS_futex, ERESTART_RESTARTBLOCK);
        absolute.rsi = libc::FUTEX_WAIT_BITSET as u64;
        assert_eq!(rewind(&mut absolute, slept, false), None);
        assert_eq!((absolute.rip, absolute.r10), (0x1000, 5000));
    }

    #[test]
    fn call_that_a_signal_interrupts_returns() {
        let mut poll = regs(libc::SYS_poll, ERESTART_RESTARTBLOCK);
        rewind(&mut poll, slept(libc::SYS_poll, 2000), true);
        assert_eq!((poll.rip, poll.rax as i64), (0x1002, EINTR));
        let mut done = regs(libc::SYS_read, 7);
        rewind(&mut done, None, false);
        assert_eq!((done.rip, done.rax), (0x1002, 7));
        let mut none = regs(-1, EINTR);
        rewind(&mut none, None, false);
        assert_eq!(none.rip, 0x1002);
    }

    #[test]
    fn scheduler_clock_is_read() {
        let text = "init (1, #threads: 1)\n---\nse.exec_start      :      1234.000567\n";
        let expected = Duration::from_millis(1234) + Duration::from_nanos(567);
        assert_eq!(parse_exec_start(text), Some(expected));
    }
}
