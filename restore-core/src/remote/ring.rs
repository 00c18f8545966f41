//! Calls carried out by a target on our behalf: queued, posted as one batch, results seen.
//!
//! A [`Remote`] is one task of the tree and the only way to make it do anything. Calls are queued
//! without any round trip; a batch goes out when the slot is full, when a result is asked for, or
//! on [`Remote::flush`]. The first call that fails ends the batch and names itself.
//! It never waits for ever: a dead target and an overdue one are errors.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::region::Slot;
use super::stub::{self, OP_FIRST_FROM_LAST, OP_MAY_FAIL, Op};

/// Longest time that one batch may take. The slowest call is a `munmap` or `mlock` of a large
/// range: seconds. A target that is late by this much will not come back.
const BATCH_WAIT_MAX: Duration = Duration::from_secs(120);

/// How often a waiting worker looks whether its target is still alive.
const LIVENESS_PERIOD: Duration = Duration::from_millis(50);

/// Looks at the done word this often before it sleeps: a short batch on another processor is done
/// by then, and where targets outnumber processors the time is not taken from them.
const SPINS_BEFORE_SLEEP: u32 = 100;

/// Why a call in a target did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The kernel refused the call.
    #[error("{what}: system call {nr} of task {tid} failed: {errno}")]
    Refused {
        /// What the call was for.
        what: &'static str,
        /// Thread that made the call.
        tid: i32,
        /// Number in the x86-64 system-call table.
        nr: i64,
        /// The kernel's error.
        errno: Errno,
    },
    /// The target died while calls were outstanding.
    #[error("{what}: task {tid} died")]
    Died {
        /// First call of the batch that was under way.
        what: &'static str,
        /// Thread that made the call.
        tid: i32,
    },
    /// The target did not finish a batch in time.
    #[error("{what}: task {tid} did not answer for {seconds} s")]
    Overdue {
        /// First call of the batch that was under way.
        what: &'static str,
        /// Thread that made the call.
        tid: i32,
        /// The limit that passed.
        seconds: u64,
    },
    /// The arguments of one call exceed the slot.
    #[error("{what}: arguments of {needed_bytes} bytes exceed the limit of {limit_bytes} bytes")]
    TooLarge {
        /// What the call was for.
        what: &'static str,
        /// Size of the arguments.
        needed_bytes: usize,
        /// Room in a slot.
        limit_bytes: usize,
    },
}

impl CallError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused { errno: Errno::ENOMEM, .. } => "task.no-memory",
            Self::Refused { errno: Errno::EEXIST, .. } => "task.id-taken",
            Self::Refused { errno: Errno::EPERM | Errno::EACCES, .. } => "task.denied",
            Self::Refused { .. } => "task.call",
            Self::Died { .. } => "task.died",
            Self::Overdue { .. } => "task.overdue",
            Self::TooLarge { .. } => "task.arguments",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Refused { errno: Errno::ENOMEM, .. } => {
                Some("free memory, or raise the limit of the control group or overcommit")
            }
            Self::Refused { errno: Errno::EEXIST, .. } => {
                Some("end whoever uses the id, or restore in a new pid namespace")
            }
            Self::Refused { errno: Errno::EPERM | Errno::EACCES, .. } => {
                Some("run as root, or with the capabilities that the tree had")
            }
            Self::Died { .. } => Some("look into the kernel's log: it may have run out of memory"),
            Self::Overdue { .. } => {
                Some("look whether the machine is overloaded, or its disk hangs")
            }
            Self::Refused { .. } | Self::TooLarge { .. } => None,
        }
    }
}

/// One argument of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arg<'a> {
    /// A number, address or descriptor.
    N(u64),
    /// Address of a copy of these bytes.
    In(&'a [u8]),
}

impl From<u64> for Arg<'_> {
    fn from(value: u64) -> Self {
        Self::N(value)
    }
}

impl From<i64> for Arg<'_> {
    fn from(value: i64) -> Self {
        Self::N(value as u64)
    }
}

impl From<u32> for Arg<'_> {
    fn from(value: u32) -> Self {
        Self::N(u64::from(value))
    }
}

impl From<i32> for Arg<'_> {
    fn from(value: i32) -> Self {
        Self::N(value as i64 as u64)
    }
}

impl<'a> From<&'a [u8]> for Arg<'a> {
    fn from(value: &'a [u8]) -> Self {
        Self::In(value)
    }
}

/// A task of the tree, and the calls that wait to be carried out by it.
#[derive(Debug)]
pub(crate) struct Remote {
    tid: i32,
    process: Arc<OwnedFd>,
    slot: Slot,
    posted: u32,
    queued: Vec<&'static str>,
    scratch_used: usize,
}

impl Remote {
    /// A task that executes the stub on `slot`; `process` is a pidfd of its process.
    pub(crate) fn new(tid: i32, process: Arc<OwnedFd>, slot: Slot) -> Self {
        Self { tid, process, slot, posted: 0, queued: Vec::new(), scratch_used: 0 }
    }

    /// Thread id (equals the process id for a leader).
    pub(crate) fn tid(&self) -> i32 {
        self.tid
    }

    /// pidfd of the process.
    pub(crate) fn process(&self) -> &Arc<OwnedFd> {
        &self.process
    }

    /// The task's memory.
    pub(crate) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Gives the task's memory back; the task must have ended.
    pub(crate) fn into_slot(self) -> Slot {
        self.slot
    }

    /// A guard has taken over: the task no longer looks whether the restorer lives.
    pub(crate) fn stop_watching(&mut self) {
        // SAFETY: an aligned word of the mapped head, which only this side writes once the task
        // exists; the stub reads it as a single word.
        unsafe { (&raw mut (*self.slot.head()).start).write_volatile(0) };
    }

    /// Queues a call whose failure ends the batch.
    pub(crate) fn queue<const N: usize>(
        &mut self,
        what: &'static str,
        nr: i64,
        args: [Arg<'_>; N],
    ) -> Result<(), CallError> {
        self.push(what, nr, &args, 0, 0)
    }

    /// Queues a call that may fail.
    pub(crate) fn queue_may_fail<const N: usize>(
        &mut self,
        what: &'static str,
        nr: i64,
        args: [Arg<'_>; N],
    ) -> Result<(), CallError> {
        self.push(what, nr, &args, OP_MAY_FAIL, 0)
    }

    /// Queues a call and waits for its result; everything queued before goes with it.
    pub(crate) fn call<const N: usize>(
        &mut self,
        what: &'static str,
        nr: i64,
        args: [Arg<'_>; N],
    ) -> Result<i64, CallError> {
        self.push(what, nr, &args, 0, 0)?;
        let index = self.queued.len() - 1;
        self.flush()?;
        Ok(self.result(index))
    }

    /// Like [`Remote::call`], but gives a refusal as a value.
    pub(crate) fn try_call<const N: usize>(
        &mut self,
        what: &'static str,
        nr: i64,
        args: [Arg<'_>; N],
    ) -> Result<Result<i64, Errno>, CallError> {
        self.push(what, nr, &args, OP_MAY_FAIL, 0)?;
        let index = self.queued.len() - 1;
        self.flush()?;
        let ret = self.result(index);
        Ok(match errno_of(ret) {
            Some(errno) => Err(errno),
            None => Ok(ret),
        })
    }

    /// Queues a call that may fail and whose result will be asked for with [`Remote::answer`]. It
    /// must fit into the batch, or the answers before are lost: a slot has room for at least 50.
    pub(crate) fn ask<const N: usize>(
        &mut self,
        what: &'static str,
        nr: i64,
        args: [Arg<'_>; N],
    ) -> Result<usize, CallError> {
        self.push(what, nr, &args, OP_MAY_FAIL, 0)?;
        Ok(self.queued.len() - 1)
    }

    /// Result of a call of the batch that was carried out last.
    pub(crate) fn answer(&self, index: usize) -> Result<i64, Errno> {
        let ret = self.result(index);
        errno_of(ret).map_or(Ok(ret), Err)
    }

    /// Queues a call that makes a new task, which starts on `child`.
    pub(crate) fn queue_clone<const N: usize>(
        &mut self,
        what: &'static str,
        nr: i64,
        args: [Arg<'_>; N],
        child: &Slot,
    ) -> Result<(), CallError> {
        self.push(what, nr, &args, 0, child.address())
    }

    /// Puts bytes into scratch that a later call of the same batch refers to. The pair
    /// (`put`, the call) must fit: `room_bytes` is what the call's own arguments need.
    pub(crate) fn put(
        &mut self,
        what: &'static str,
        bytes: &[u8],
        room_bytes: usize,
    ) -> Result<u64, CallError> {
        self.make_room(what, 1, padded(bytes.len()) + room_bytes)?;
        Ok(self.store(bytes))
    }

    /// Puts bytes into scratch that depend on the address at which they will lie; the call that
    /// refers to them comes next.
    pub(crate) fn put_with<'bytes>(
        &mut self,
        what: &'static str,
        len_bytes: usize,
        bytes: impl FnOnce(u64) -> &'bytes [u8],
    ) -> Result<u64, CallError> {
        self.make_room(what, 1, padded(len_bytes))?;
        let address = self.slot.scratch_address() + self.scratch_used as u64;
        let bytes = bytes(address);
        assert_eq!(bytes.len(), len_bytes);
        Ok(self.store(bytes))
    }

    /// Reads scratch at an address that [`Remote::put`] returned, after the batch is done.
    pub(crate) fn read_back(&self, address: u64, len: usize) -> Vec<u8> {
        self.slot.get((address - self.slot.scratch_address()) as usize, len)
    }

    fn push(
        &mut self,
        what: &'static str,
        nr: i64,
        args: &[Arg<'_>],
        flags: u32,
        child_slot: u64,
    ) -> Result<(), CallError> {
        if flags & OP_FIRST_FROM_LAST == 0 {
            self.make_room(what, 1, arg_bytes(args))?;
        }
        let mut op = Op { nr: nr as u32, flags, child_slot, ..Op::default() };
        for (slot, arg) in op.args.iter_mut().zip(args) {
            *slot = match *arg {
                Arg::N(value) => value,
                Arg::In(bytes) => self.store(bytes),
            };
        }
        let at = self.slot.op(self.queued.len());
        // SAFETY: `op()` asserts the index; the slot is ours on this side, and the target reads
        // it only after `post` has raised the batch number.
        unsafe { at.write(op) };
        self.queued.push(what);
        Ok(())
    }

    fn store(&mut self, bytes: &[u8]) -> u64 {
        let at = self.slot.put(self.scratch_used, bytes);
        self.scratch_used += padded(bytes.len());
        at
    }

    fn make_room(&mut self, what: &'static str, ops: usize, bytes: usize) -> Result<(), CallError> {
        let limit_bytes = self.slot.scratch_bytes();
        if bytes > limit_bytes {
            return Err(CallError::TooLarge { what, needed_bytes: bytes, limit_bytes });
        }
        let full = self.queued.len() + ops > self.slot.ops_max();
        if full || self.scratch_used + bytes > limit_bytes {
            self.flush()?;
        }
        Ok(())
    }

    /// Carries out everything queued.
    ///
    /// # Errors
    /// The first call that failed, a target that died, or one that is overdue.
    pub(crate) fn flush(&mut self) -> Result<(), CallError> {
        if self.queued.is_empty() {
            return Ok(());
        }
        self.post();
        self.finish()
    }

    /// Posts everything queued; [`Remote::finish`] waits for it. The task may begin to run later.
    pub(crate) fn start(&mut self) {
        if !self.queued.is_empty() {
            self.post();
        }
    }

    /// Whether the batch that was posted is done, waiting for at most `limit`.
    pub(crate) fn is_done_within(&self, limit: Duration) -> bool {
        let done = self.word(4);
        for _ in 0..SPINS_BEFORE_SLEEP {
            if done.load(Ordering::Acquire) == self.posted {
                return true;
            }
            std::hint::spin_loop();
        }
        let begin = Instant::now();
        loop {
            let seen = done.load(Ordering::Acquire);
            if seen == self.posted {
                return true;
            }
            let left = limit.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return false;
            }
            futex_wait(done, seen, left);
        }
    }

    /// Waits for the batch that was posted.
    ///
    /// # Errors
    /// See [`Remote::flush`].
    pub(crate) fn finish(&mut self) -> Result<(), CallError> {
        if self.queued.is_empty() {
            return Ok(());
        }
        self.wait()?;
        let count = self.queued.len();
        let completed = self.completed();
        let failed = (completed < count).then(|| self.refused(completed));
        self.queued.clear();
        self.scratch_used = 0;
        failed.map_or(Ok(()), Err)
    }

    /// Posts everything queued without waiting: for a batch that its task does not survive.
    pub(crate) fn post_last(&mut self) {
        if !self.queued.is_empty() {
            self.post();
            self.queued.clear();
        }
    }

    fn refused(&self, index: usize) -> CallError {
        // SAFETY: the batch is finished, so the target no longer writes to the slot.
        let op = unsafe { self.slot.op(index).read() };
        let errno = errno_of(op.ret).unwrap_or(Errno::UnknownErrno);
        CallError::Refused { what: self.queued[index], tid: self.tid, nr: op.nr.into(), errno }
    }

    fn result(&self, index: usize) -> i64 {
        // SAFETY: as in `refused`: called after `wait` has seen the batch finished.
        unsafe { self.slot.op(index).read().ret }
    }

    fn completed(&self) -> usize {
        // SAFETY: as in `refused`; the field is a plain word of the mapped head.
        unsafe { (&raw const (*self.slot.head()).completed).read_volatile() as usize }
    }

    fn word(&self, offset_bytes: usize) -> &AtomicU32 {
        debug_assert!(offset_bytes == 0 || offset_bytes == 4);
        // SAFETY: `posted` (0) and `done` (4) are aligned words of the slot's head, mapped as long
        // as the slot lives, and both sides access them as single words only.
        unsafe { AtomicU32::from_ptr(self.slot.head().cast::<u32>().byte_add(offset_bytes)) }
    }

    fn post(&mut self) {
        self.posted = self.posted.wrapping_add(1);
        // SAFETY: the target is idle (the batch before was waited for), so the head is ours.
        unsafe { (&raw mut (*self.slot.head()).count).write_volatile(self.queued.len() as u32) };
        let word = self.word(0);
        word.store(self.posted, Ordering::Release);
        futex_wake(word);
    }

    fn wait(&self) -> Result<(), CallError> {
        let done = self.word(4);
        for _ in 0..SPINS_BEFORE_SLEEP {
            if done.load(Ordering::Acquire) == self.posted {
                return Ok(());
            }
            std::hint::spin_loop();
        }
        let what = self.queued[0];
        let begin = Instant::now();
        loop {
            let seen = done.load(Ordering::Acquire);
            if seen == self.posted {
                return Ok(());
            }
            futex_wait(done, seen, LIVENESS_PERIOD);
            if done.load(Ordering::Acquire) == self.posted {
                return Ok(());
            }
            if has_exited(self.process.as_fd()) || is_zombie(self.tid) {
                return Err(CallError::Died { what, tid: self.tid });
            }
            if begin.elapsed() > BATCH_WAIT_MAX {
                let seconds = BATCH_WAIT_MAX.as_secs();
                return Err(CallError::Overdue { what, tid: self.tid, seconds });
            }
        }
    }
}

/// What ends a task when the restorer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// The death of its parent, which has this pid.
    Tied { parent: i32 },
    /// What it sees of the restorer through this pidfd, until [`Remote::stop_watching`].
    Watching { restorer: i32 },
    /// The end of its process, or of its work.
    OfItsProcess,
}

/// Writes a new task's slot head before the task exists.
pub(crate) fn prepare_slot(slot: &Slot, life: Life) {
    let head = stub::SlotHead {
        posted: 0,
        done: 0,
        count: 0,
        completed: 0,
        start: match life {
            Life::Tied { .. } => stub::START_TIED,
            Life::Watching { .. } => stub::START_WATCHING,
            Life::OfItsProcess => 0,
        },
        parent: match life {
            Life::Tied { parent } => parent as u32,
            _ => 0,
        },
        watched: match life {
            Life::Watching { restorer } => [restorer, i32::from(libc::POLLIN)],
            _ => [0; 2],
        },
        pad: [0; 2],
        period: [0, stub::WATCH_PERIOD_NS],
    };
    // SAFETY: the slot is mapped writable and no task runs on it yet.
    unsafe { slot.head().write(head) };
}

/// Whether a task has ended and waits to be collected; it stays so. The kernel tells of the end of
/// a process (by its pidfd, and by `wait4` for its first thread) only when all other threads have
/// been collected, which those of a tracer wait for.
pub(super) fn is_zombie(tid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{tid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X']))
}

/// Whether the process of this pidfd has exited (it may still have to be reaped).
pub(crate) fn has_exited(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(pidfd, PollFlags::POLLIN)];
    matches!(nix::poll::poll(&mut fds, PollTimeout::ZERO), Ok(1))
}

fn errno_of(ret: i64) -> Option<Errno> {
    (-4095..0).contains(&ret).then(|| Errno::from_raw(-ret as i32))
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(16)
}

fn arg_bytes(args: &[Arg<'_>]) -> usize {
    let size = |arg: &Arg<'_>| match arg {
        Arg::In(bytes) => padded(bytes.len()),
        Arg::N(_) => 0,
    };
    args.iter().map(size).sum()
}

fn futex_wake(word: &AtomicU32) {
    // SAFETY: FUTEX_WAKE only uses the address as a key; the reference keeps it mapped.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

fn futex_wait(word: &AtomicU32, seen: u32, limit: Duration) {
    let limit = libc::timespec { tv_sec: 0, tv_nsec: i64::from(limit.subsec_nanos()) };
    // SAFETY: FUTEX_WAIT reads the word, which the reference keeps mapped, and `limit`, which
    // outlives the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, seen, &limit) };
}
