//! What only a process itself can say, asked by calls that it makes for us.
//!
//! Each thread stands on the stub for a moment: the leader maps the shared region by a `syscall`
//! instruction that is mapped anyway (nothing of the process is overwritten), all threads carry
//! out one batch that was posted before, stop again, and the leader unmaps the region. Then they
//! are as they were found. This is the only time in a dump when they are not.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use super::facts::Facts;
use super::steps::Steps;
use super::tree::{Member, STOP_WAIT_MAX};
use super::{DumpError, proc, raw};
use crate::plan::find_between;
use crate::remote::freeze::FreezeError;
use crate::remote::region::{Region, SlotSize, region_bytes};
use crate::remote::ring::Remote;
use crate::remote::spawn::open_pidfd;
use crate::remote::tracee::Tracee;

/// Signals with an action of their own.
const SIGNALS: i32 = 64;
/// Size of the kernel's `struct sigaction`, `struct itimerval`, `stack_t`.
const SIGACTION_BYTES: usize = 32;
const ITIMER_BYTES: usize = 32;
const STACK_BYTES: usize = 24;
/// `PR_GET_TID_ADDRESS` (linux/prctl.h, Linux 3.5).
const PR_GET_TID_ADDRESS: u64 = 40;
/// `MEMBARRIER_CMD_GET_REGISTRATIONS` (linux/membarrier.h, Linux 6.3).
const MEMBARRIER_GET_REGISTRATIONS: u64 = 1 << 9;
/// How often a thread that does not answer is looked at.
const NUDGE_PERIOD: Duration = Duration::from_millis(20);
/// Timers asked for with one batch.
const TIMERS_AT_ONCE: usize = 80;
/// What errors call the call that maps the region.
const MAP: &str = "map the region";
/// Largest mapping that is searched for a `syscall` instruction.
const CODE_BYTES_MAX: u64 = 64 << 20;

/// What a thread said.
#[derive(Clone, Debug, Default)]
pub(crate) struct AskedThread {
    /// `stack_t`: address, flags, size.
    pub(crate) stack: (u64, u32, u64),
    pub(crate) tid_address: u64,
    pub(crate) pdeath_signal: u32,
    pub(crate) secure_bits: u32,
}

/// What a process said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// `struct sigaction` as the kernel has it (handler, flags, restorer, mask), for all signals
    /// but SIGKILL and SIGSTOP.
    pub(crate) actions: Vec<[u64; 4]>,
    /// Interval and value in seconds and microseconds, of the three interval timers.
    pub(crate) itimers: [[u64; 4]; 3],
    pub(crate) brk: u64,
    pub(crate) dumpable: i32,
    pub(crate) subreaper: bool,
    pub(crate) membarriers: u32,
    /// Of each POSIX timer, interval and value in seconds and nanoseconds, and its overrun.
    pub(crate) timers: Vec<([u64; 4], u32)>,
    pub(crate) threads: Vec<AskedThread>,
}

/// A process that has our region mapped.
#[derive(Debug)]
struct Seat {
    place: usize,
    instruction: u64,
    base: u64,
    len_bytes: u64,
    is_mapped: bool,
    remotes: Vec<Remote>,
    questions: Vec<Questions>,
}

/// Asks every process of the tree; `facts` are those of the members that are no zombies.
///
/// # Errors
/// What stands in the way. The processes are put back as they were in either case, unless they
/// have ended.
pub(crate) fn all(
    members: &mut [Member],
    facts: &[Facts],
    steps: &Steps,
) -> Result<Vec<Asked>, DumpError> {
    let live: Vec<usize> = (0..members.len()).filter(|&at| !members[at].is_zombie()).collect();
    let sizes: Vec<u64> = facts.iter().map(|facts| region_bytes(slots(facts)) as u64).collect();
    let mut base = free_place(facts, sizes.iter().sum())?;
    let mut seats = Vec::new();
    for ((&place, facts), len_bytes) in live.iter().zip(facts).zip(sizes) {
        let instruction = instruction(facts, steps)?;
        let (is_mapped, remotes, questions) = (false, Vec::new(), Vec::new());
        seats.push(Seat { place, instruction, base, len_bytes, is_mapped, remotes, questions });
        base += len_bytes;
    }
    let asked = converse(&mut seats, members, facts, steps);
    // Put back whatever happened; the first error is the one that counts.
    let left = leave(&mut seats, members).map_err(DumpError::from);
    asked.and_then(|asked| left.map(|()| asked))
}

/// Every step is begun in all processes before it is waited for in the first.
fn converse(
    seats: &mut [Seat],
    members: &mut [Member],
    facts: &[Facts],
    steps: &Steps,
) -> Result<Vec<Asked>, DumpError> {
    for seat in seats.iter_mut() {
        steps.next("map the region in a process")?;
        seat.begin(&mut members[seat.place])?;
    }
    for seat in seats.iter() {
        steps.next("wait for a call to begin")?;
        members[seat.place].threads[0].enter_call(steps.patience(STOP_WAIT_MAX))?;
    }
    for (seat, facts) in seats.iter_mut().zip(facts) {
        seat.take(&mut members[seat.place], facts, steps)?;
    }
    let seats = seats.iter_mut().zip(facts);
    seats.map(|(seat, facts)| seat.hear(&mut members[seat.place], facts, steps)).collect()
}

/// Waits until all threads have stopped, unmaps the regions, and puts every thread back.
fn leave(seats: &mut [Seat], members: &mut [Member]) -> Result<(), FreezeError> {
    let mut result = Ok(());
    let mut note = |outcome: Result<(), FreezeError>| {
        let is_ok = outcome.is_ok();
        if let (Ok(()), Err(error)) = (&result, outcome) {
            result = Err(error);
        }
        is_ok
    };
    for seat in seats.iter() {
        for thread in members[seat.place].threads.iter().filter(|thread| thread.runs()) {
            note(thread.halt());
        }
    }
    for seat in seats.iter_mut() {
        let member = &mut members[seat.place];
        let begun = seat.end_begun(&mut member.threads[0], STOP_WAIT_MAX);
        let mut stopped = note(begun.map(drop));
        for thread in member.threads.iter_mut().filter(|thread| thread.runs()) {
            stopped &= note(thread.halted(STOP_WAIT_MAX));
        }
        if stopped && seat.is_mapped {
            let args = [seat.base, seat.len_bytes, 0, 0, 0, 0];
            let (nr, leader) = (libc::SYS_munmap, &mut member.threads[0]);
            note(leader.start_call("unmap the region", seat.instruction, nr, args));
        }
    }
    for seat in seats.iter() {
        note(members[seat.place].threads[0].enter_call(STOP_WAIT_MAX));
    }
    for seat in seats {
        let member = &mut members[seat.place];
        note(member.threads[0].finish_call(STOP_WAIT_MAX).map(drop));
        for thread in &mut member.threads {
            note(thread.put_back());
        }
    }
    result
}

fn slots(facts: &Facts) -> Vec<SlotSize> {
    let further = facts.threads.iter().skip(1).map(|_| SlotSize::Thread);
    std::iter::once(SlotSize::Leader).chain(further).collect()
}

/// Address space that is free in all processes and here.
fn free_place(facts: &[Facts], len_bytes: u64) -> Result<u64, DumpError> {
    let own = std::process::id() as i32;
    let mut taken: Vec<(u64, u64)> = Vec::new();
    let maps = proc::read(own, "maps")?;
    for line in String::from_utf8_lossy(&maps).lines() {
        let range = line.split(' ').next().and_then(|range| range.split_once('-'));
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        taken.extend(range.and_then(|(start, end)| Some((hex(start)?, hex(end)?))));
    }
    taken.extend(facts.iter().flat_map(|f| &f.vmas).map(|vma| (vma.start, vma.end)));
    find_between(taken, len_bytes).ok_or(DumpError::NoAddressSpace { needed_bytes: len_bytes })
}

/// Finds a `syscall` instruction that the process has mapped: in the vdso, or wherever there is
/// code.
fn instruction(facts: &Facts, steps: &Steps) -> Result<u64, DumpError> {
    steps.next("find a system-call instruction")?;
    let code = |vma: &&super::proc::smaps::Vma| {
        let both = (libc::PROT_READ | libc::PROT_EXEC) as u32;
        vma.prot & both == both && vma.len_bytes() <= CODE_BYTES_MAX
    };
    let vdso = facts.vmas.iter().filter(|vma| vma.name == b"[vdso]");
    let others = facts.vmas.iter().filter(|vma| vma.name != b"[vdso]" && vma.name != b"[vsyscall]");
    for vma in vdso.chain(others).filter(code) {
        let mut bytes = vec![0; vma.len_bytes() as usize];
        let read = raw::read_memory(facts.pid, &mut bytes, &[(vma.start, vma.len_bytes())]);
        bytes.truncate(read.unwrap_or(0));
        if let Some(at) = bytes.windows(2).position(|pair| pair == [0x0f, 0x05]) {
            return Ok(vma.start + at as u64);
        }
    }
    Err(DumpError::NoInstruction { pid: facts.pid })
}

impl Seat {
    /// Begins to map the region in the process.
    fn begin(&mut self, member: &mut Member) -> Result<(), FreezeError> {
        let prot = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let args = [self.base, self.len_bytes, prot as u64, flags as u64, u64::MAX, 0];
        member.threads[0].start_call(MAP, self.instruction, libc::SYS_mmap, args)
    }

    /// Waits for the call that was begun to map the region; its error is the value.
    fn end_begun(&mut self, leader: &mut Tracee, limit: Duration) -> Result<Errno, FreezeError> {
        if let Some(got) = leader.finish_call(limit)? {
            self.is_mapped = got as u64 == self.base;
            if !self.is_mapped {
                return Ok(Errno::from_raw(-got as i32));
            }
        }
        Ok(Errno::UnknownErrno)
    }

    /// Maps the region here too, posts the questions, and lets every thread run.
    fn take(&mut self, member: &mut Member, facts: &Facts, steps: &Steps) -> Result<(), DumpError> {
        let pid = member.pid;
        steps.next("wait for the region of a process")?;
        let limit = steps.patience(STOP_WAIT_MAX);
        let errno = self.end_begun(&mut member.threads[0], limit)?;
        if !self.is_mapped {
            return Err(DumpError::Os { what: MAP, pid, errno });
        }
        steps.next("map the region of a process here")?;
        let (base, end) = (self.base, self.base + self.len_bytes);
        let path = proc::path(pid, &format!("map_files/{base:x}-{end:x}"));
        let memory = File::options().read(true).write(true).open(&path);
        let memory = memory.map_err(|source| DumpError::Read { path: path.clone(), source })?;
        let (_, slots) = Region::adopt(memory.as_fd(), base, &slots(facts))
            .map_err(|source| DumpError::Read { path, source })?;
        let process =
            open_pidfd(pid).map_err(|errno| DumpError::Os { what: "open a pidfd", pid, errno })?;
        let process = Arc::new(process);
        for (thread, slot) in member.threads.iter().zip(slots) {
            crate::remote::ring::prepare_slot(&slot, crate::remote::ring::Life::OfItsProcess);
            let mut remote = Remote::new(thread.tid(), Arc::clone(&process), slot);
            steps.next("put questions to a thread")?;
            let is_leader = self.remotes.is_empty();
            self.questions.push(Questions::put(&mut remote, is_leader)?);
            remote.start();
            self.remotes.push(remote);
        }
        for (thread, remote) in member.threads.iter_mut().zip(&self.remotes) {
            steps.next("run a thread on the stub")?;
            let slot = remote.slot();
            thread.run(slot.entry(), slot.address())?;
        }
        Ok(())
    }

    /// Waits for the answers of all threads.
    fn hear(
        &mut self,
        member: &mut Member,
        facts: &Facts,
        steps: &Steps,
    ) -> Result<Asked, DumpError> {
        let mut asked = Asked::default();
        for (index, remote) in self.remotes.iter_mut().enumerate() {
            steps.next("hear a thread")?;
            wait(remote, &mut member.threads[index], steps)?;
            let said = self.questions[index].read(remote, &mut asked)?;
            asked.threads.push(said);
        }
        for timers in facts.timers.chunks(TIMERS_AT_ONCE) {
            steps.next("ask for timers")?;
            let (leader, thread) = (&mut self.remotes[0], &mut member.threads[0]);
            asked.timers.extend(ask_timers(leader, thread, timers, steps)?);
        }
        Ok(asked)
    }
}

/// Where the answers of one thread's batch are.
#[derive(Debug)]
struct Questions {
    stack: u64,
    tid_address: u64,
    pdeath_signal: u64,
    secure_bits: usize,
    of_process: Option<OfProcess>,
}

/// The part that only the leader is asked.
#[derive(Debug)]
struct OfProcess {
    actions: u64,
    itimers: u64,
    subreaper: u64,
    brk: usize,
    dumpable: usize,
    membarriers: usize,
}

impl Questions {
    fn put(remote: &mut Remote, is_leader: bool) -> Result<Self, DumpError> {
        let what = "ask a thread";
        let stack = remote.put(what, &[0; STACK_BYTES], 0)?;
        remote.queue(what, libc::SYS_sigaltstack, [0u64.into(), stack.into()])?;
        let tid_address = remote.put(what, &[0; 8], 0)?;
        let args = [PR_GET_TID_ADDRESS.into(), tid_address.into()];
        remote.queue(what, libc::SYS_prctl, args)?;
        let pdeath_signal = remote.put(what, &[0; 4], 0)?;
        let args = [libc::PR_GET_PDEATHSIG.into(), pdeath_signal.into()];
        remote.queue(what, libc::SYS_prctl, args)?;
        let args = [libc::PR_GET_SECUREBITS.into()];
        let secure_bits = remote.ask(what, libc::SYS_prctl, args)?;
        let of_process = if is_leader { Some(OfProcess::put(remote)?) } else { None };
        Ok(Self { stack, tid_address, pdeath_signal, secure_bits, of_process })
    }

    fn read(&self, remote: &Remote, asked: &mut Asked) -> Result<AskedThread, DumpError> {
        if let Some(questions) = &self.of_process {
            questions.read(remote, asked);
        }
        let stack = words(&remote.read_back(self.stack, STACK_BYTES));
        let four = remote.read_back(self.pdeath_signal, 4);
        let number = |bytes: Vec<u8>| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        Ok(AskedThread {
            stack: (stack[0], stack[1] as u32, stack[2]),
            tid_address: words(&remote.read_back(self.tid_address, 8))[0],
            pdeath_signal: number(four),
            secure_bits: remote.answer(self.secure_bits).unwrap_or(0) as u32,
        })
    }
}

impl OfProcess {
    fn put(remote: &mut Remote) -> Result<Self, DumpError> {
        let what = "ask a process";
        let size = 8u64; // of the kernel's signal set
        let settable = || (1..=SIGNALS).filter(|&s| s != libc::SIGKILL && s != libc::SIGSTOP);
        let room = vec![0; settable().count() * SIGACTION_BYTES];
        let actions = remote.put(what, &room, 0)?;
        for (index, signal) in settable().enumerate() {
            let at = actions + (index * SIGACTION_BYTES) as u64;
            let args = [signal.into(), 0u64.into(), at.into(), size.into()];
            remote.queue(what, libc::SYS_rt_sigaction, args)?;
        }
        let itimers = remote.put(what, &[0; 3 * ITIMER_BYTES], 0)?;
        for which in 0..3u64 {
            let at = itimers + which * ITIMER_BYTES as u64;
            remote.queue(what, libc::SYS_getitimer, [which.into(), at.into()])?;
        }
        let subreaper = remote.put(what, &[0; 4], 0)?;
        let args = [libc::PR_GET_CHILD_SUBREAPER.into(), subreaper.into()];
        remote.queue(what, libc::SYS_prctl, args)?;
        let brk = remote.ask(what, libc::SYS_brk, [0u64.into()])?;
        let dumpable = remote.ask(what, libc::SYS_prctl, [libc::PR_GET_DUMPABLE.into()])?;
        let args = [MEMBARRIER_GET_REGISTRATIONS.into(), 0u64.into(), 0u64.into()];
        let membarriers = remote.ask(what, libc::SYS_membarrier, args)?;
        Ok(Self { actions, itimers, subreaper, brk, dumpable, membarriers })
    }

    fn read(&self, remote: &Remote, asked: &mut Asked) {
        let four = |words: &[u64]| [words[0], words[1], words[2], words[3]];
        let count = (SIGNALS - 2) as usize;
        let actions = words(&remote.read_back(self.actions, count * SIGACTION_BYTES));
        asked.actions = actions.chunks(4).map(four).collect();
        let itimers = words(&remote.read_back(self.itimers, 3 * ITIMER_BYTES));
        for (timer, words) in asked.itimers.iter_mut().zip(itimers.chunks(4)) {
            *timer = four(words);
        }
        asked.subreaper = remote.read_back(self.subreaper, 4) != [0; 4];
        asked.brk = remote.answer(self.brk).unwrap_or(0) as u64;
        asked.dumpable = remote.answer(self.dumpable).unwrap_or(0) as i32;
        asked.membarriers = remote.answer(self.membarriers).unwrap_or(0) as u32;
    }
}

/// Waits for the batch that was posted to a thread, and keeps it running.
fn wait(remote: &mut Remote, thread: &mut Tracee, steps: &Steps) -> Result<(), DumpError> {
    while !remote.is_done_within(NUDGE_PERIOD) {
        steps.look()?;
        thread.nudge()?;
    }
    Ok(remote.finish()?)
}

fn ask_timers(
    leader: &mut Remote,
    thread: &mut Tracee,
    timers: &[proc::Timer],
    steps: &Steps,
) -> Result<Vec<([u64; 4], u32)>, DumpError> {
    let what = "ask for timers";
    let room = leader.put(what, &vec![0; timers.len() * ITIMER_BYTES], 0)?;
    let mut overruns = Vec::new();
    for (index, timer) in timers.iter().enumerate() {
        let at = room + (index * ITIMER_BYTES) as u64;
        leader.queue(what, libc::SYS_timer_gettime, [timer.id.into(), at.into()])?;
        overruns.push(leader.ask(what, libc::SYS_timer_getoverrun, [timer.id.into()])?);
    }
    leader.start();
    wait(leader, thread, steps)?;
    let values = words(&leader.read_back(room, timers.len() * ITIMER_BYTES));
    let values = values.chunks(4).map(|words| [words[0], words[1], words[2], words[3]]);
    let overruns = overruns.iter().map(|&at| leader.answer(at).unwrap_or(0) as u32);
    Ok(values.zip(overruns).collect())
}

fn words(bytes: &[u8]) -> Vec<u64> {
    let words = bytes.chunks_exact(8);
    words.map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect()
}
