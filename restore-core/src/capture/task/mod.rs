//! The records of a process and its threads: registers, signals, timers, credentials.

pub(crate) mod restart;
mod xstate;

pub(crate) use xstate::Layout;

use criu_image::record::{
    CoreEntry, CredsEntry, ItimerEntry, PosixTimerEntry, RlimitEntry, RseqEntry, SaEntry,
    SiginfoEntry, SignalQueueEntry, TaskCoreEntry, TaskRlimitsEntry, TaskTimersEntry,
    ThreadCoreEntry, ThreadInfoX86, ThreadSasEntry, UserDescT, UserX86RegsEntry, UserX86RegsMode,
    core_entry::March,
};

use super::DumpError;
use super::ask::{Asked, AskedThread};
use super::facts::{Facts, ThreadFacts};
use super::groups::Sets;
use super::memory::word_at;
use super::proc::Timer;
use super::steps::Steps;
use super::tree::Member;
use crate::refusal::{Refusal, RefusalKind};
use crate::remote::tracee::{Rseq, Tracee};
use criu_image::record::UserX86FpregsEntry;
use criu_image::task_state;

/// Code segment of a thread in 32-bit mode (asm/segment.h).
const COMPAT_CS: u64 = 0x23;
const TRAP: u8 = libc::SIGTRAP as u8;
/// First of the three thread-local segments of the GDT, as upstream numbers them.
const TLS_FIRST: u32 = 12;
const TLS_SEGMENTS: u32 = 3;
/// `rseq_cs` is the second 64-bit word of `struct rseq` (linux/rseq.h).
const RSEQ_SECTION_BYTES: u64 = 8;

/// What ptrace says of a stopped thread, in the form of the images.
#[derive(Debug)]
pub(crate) struct Machine {
    /// As they will be in the images: those of a thread that is in no call.
    regs: libc::user_regs_struct,
    /// What they need in its memory.
    patch: Option<restart::Patch>,
    mask: u64,
    fpregs: UserX86FpregsEntry,
    rseq: Rseq,
    rseq_section: u64,
    pending: Vec<Vec<u8>>,
    /// Pending signals of the process; only of the leader.
    shared_pending: Vec<Vec<u8>>,
}

impl Machine {
    /// Bytes that its registers need in its memory.
    pub(crate) fn patch(&self) -> Option<restart::Patch> {
        self.patch
    }

    /// Why the thread cannot be captured, if it cannot.
    pub(crate) fn refuse(&self, pid: i32, tid: i32) -> Option<Refusal> {
        let (kind, what) = if self.regs.cs == COMPAT_CS {
            (RefusalKind::Compat, "32-bit thread")
        } else if self.pending.iter().chain(&self.shared_pending).any(|info| is(info, TRAP)) {
            let what = "pending SIGTRAP, which a restore by criu would take for one of its own";
            (RefusalKind::PendingTrap, what)
        } else {
            return None;
        };
        Some(Refusal::new(kind, what, format!("thread {tid}"), pid as u32))
    }
}

fn is(info: &[u8], signal: u8) -> bool {
    info.first() == Some(&signal)
}

/// Reads the state of every thread of a process while it is as it was found.
pub(crate) fn machines(
    member: &mut Member,
    layout: &Layout,
    steps: &Steps,
) -> Result<Vec<Machine>, DumpError> {
    let pid = member.pid;
    let mut machines = Vec::new();
    let mut stops = false;
    for (index, thread) in member.threads.iter_mut().enumerate() {
        steps.next("read the registers of a thread")?;
        let rseq = thread.rseq()?;
        let mut rseq_section = 0;
        if rseq.pointer != 0 {
            let at = rseq.pointer + RSEQ_SECTION_BYTES;
            rseq_section = word_at(pid, at).unwrap_or(0);
            if rseq_section != 0 {
                thread.keep_word(at, rseq_section);
            }
        }
        let tid = thread.tid();
        let fpregs = xstate::read(&thread.xstate()?, layout)
            .map_err(|components| DumpError::Xstate { tid, components })?;
        machines.push(Machine {
            regs: *thread.registers(),
            patch: None,
            mask: thread.signal_mask(),
            fpregs,
            rseq,
            rseq_section,
            pending: without_stop(thread.pending_signals(false)?, &mut stops),
            shared_pending: without_stop(shared(index, thread)?, &mut stops),
        });
    }
    rewind_calls(pid, member, &mut machines);
    if stops {
        member.stopped_by = member.stopped_by.or(Some(libc::SIGSTOP));
    }
    Ok(machines)
}

/// Turns interrupted calls into calls that are about to be made.
fn rewind_calls(pid: i32, member: &Member, machines: &mut [Machine]) {
    let shared = machines[0].shared_pending.clone();
    for (thread, machine) in member.threads.iter().zip(machines) {
        let known = restart::Known {
            slept: member.slept.get(&thread.tid()).copied(),
            signal: is_due(&machine.pending, machine.mask) || is_due(&shared, machine.mask),
            word: &|address| word_at(pid, address),
        };
        machine.patch = restart::rewind(&mut machine.regs, &known);
    }
}

/// SIGSTOP is no signal to be queued again, since nothing blocks it: it is a state, which the
/// process is in or about to enter.
fn without_stop(mut pending: Vec<Vec<u8>>, stops: &mut bool) -> Vec<Vec<u8>> {
    let before = pending.len();
    pending.retain(|info| !is(info, libc::SIGSTOP as u8));
    *stops |= pending.len() != before;
    pending
}

fn shared(index: usize, thread: &Tracee) -> Result<Vec<Vec<u8>>, DumpError> {
    if index == 0 { Ok(thread.pending_signals(true)?) } else { Ok(Vec::new()) }
}

/// The core image of each thread, the leader's with the part of the process.
pub(crate) fn entries(
    member: &Member,
    facts: &Facts,
    machines: &[Machine],
    asked: &Asked,
    sets: &Sets,
) -> Vec<(i32, CoreEntry)> {
    let threads = facts.threads.iter().zip(machines).zip(&asked.threads);
    let mut entries: Vec<(i32, CoreEntry)> = threads
        .map(|((thread, machine), asked)| {
            let set = sets.number(&thread.groups);
            (thread.tid, thread_entry(thread, machine, asked, set))
        })
        .collect();
    let leader = &mut entries[0].1;
    leader.tc = Some(task(member, facts, &machines[0], asked));
    if let Some(core) = &mut leader.thread_core {
        core.blk_sigset = None; // it stands in the part of the process
    }
    entries
}

/// The core image of a process that has exited.
pub(crate) fn zombie(member: &Member) -> CoreEntry {
    let task = TaskCoreEntry {
        task_state: task_state::DEAD,
        exit_code: member.stat.exit_code,
        comm: member.stat.comm.clone(),
        ..TaskCoreEntry::default()
    };
    CoreEntry { mtype: March::X8664 as i32, tc: Some(task), ..CoreEntry::default() }
}

fn task(member: &Member, facts: &Facts, leader: &Machine, asked: &Asked) -> TaskCoreEntry {
    let state = match member.stopped_by {
        Some(_) => task_state::STOPPED,
        None => task_state::ALIVE,
    };
    let action = |&[sigaction, flags, restorer, mask]: &[u64; 4]| SaEntry {
        sigaction,
        flags,
        restorer,
        mask,
        compat_sigaction: Some(false),
        mask_extended: None,
    };
    let limits = facts.limits.iter().map(|&(cur, max)| RlimitEntry { cur, max });
    TaskCoreEntry {
        task_state: state,
        exit_code: 0,
        personality: facts.personality,
        flags: facts.stat.flags,
        blk_sigset: leader.mask,
        comm: facts.stat.comm.clone(),
        timers: Some(timers(facts, asked)),
        rlimits: Some(TaskRlimitsEntry { rlimits: limits.collect() }),
        signals_s: Some(queue(&leader.shared_pending)),
        loginuid: facts.loginuid,
        oom_score_adj: Some(facts.oom_score_adj),
        sigactions: asked.actions.iter().map(action).collect(),
        child_subreaper: Some(asked.subreaper),
        stop_signo: member.stopped_by.map(|signal| signal as u32),
        membarrier_registration_mask: Some(asked.membarriers).filter(|&mask| mask != 0),
        ..TaskCoreEntry::default()
    }
}

fn timers(facts: &Facts, asked: &Asked) -> TaskTimersEntry {
    let interval = |[isec, iusec, vsec, vusec]: [u64; 4]| ItimerEntry { isec, iusec, vsec, vusec };
    let [real, virt, prof] = asked.itimers.map(interval);
    let posix = facts.timers.iter().zip(&asked.timers).map(posix_timer).collect();
    TaskTimersEntry { real, virt, prof, posix }
}

fn posix_timer((timer, (value, overrun)): (&Timer, &([u64; 4], u32))) -> PosixTimerEntry {
    let [isec, insec, vsec, vnsec] = *value;
    PosixTimerEntry {
        it_id: timer.id,
        clock_id: timer.clock,
        si_signo: timer.signal,
        it_sigev_notify: timer.notify,
        sival_ptr: timer.value,
        overrun: *overrun,
        isec,
        insec,
        vsec,
        vnsec,
        notify_thread_id: timer.tid,
    }
}

fn queue(pending: &[Vec<u8>]) -> SignalQueueEntry {
    let entry = |info: &Vec<u8>| SiginfoEntry { siginfo: info.clone() };
    SignalQueueEntry { signals: pending.iter().map(entry).collect() }
}

fn thread_entry(
    thread: &ThreadFacts,
    machine: &Machine,
    asked: &AskedThread,
    set: u32,
) -> CoreEntry {
    let (ss_sp, ss_flags, ss_size) = asked.stack;
    let rseq = machine.rseq;
    let stat = &thread.stat;
    let core = ThreadCoreEntry {
        futex_rla: machine_robust(thread.tid).0,
        futex_rla_len: machine_robust(thread.tid).1,
        sched_nice: Some(stat.nice),
        sched_policy: Some(thread.policy),
        sched_prio: Some(stat.rt_priority).filter(|&priority| priority != 0),
        blk_sigset: Some(machine.mask),
        sas: Some(ThreadSasEntry { ss_sp, ss_size, ss_flags }),
        pdeath_sig: Some(asked.pdeath_signal).filter(|&signal| signal != 0),
        signals_p: Some(queue(&machine.pending)),
        creds: Some(creds(thread, asked)),
        comm: Some(stat.comm.clone()),
        rseq_entry: (rseq.pointer != 0).then_some(RseqEntry {
            rseq_abi_pointer: rseq.pointer,
            rseq_abi_size: rseq.size,
            signature: rseq.signature,
            rseq_cs_pointer: Some(machine.rseq_section).filter(|&section| section != 0),
        }),
        cg_set: Some(set),
        ..ThreadCoreEntry::default()
    };
    let segment = |index| UserDescT {
        entry_number: TLS_FIRST + index,
        read_exec_only: true,
        seg_not_present: true,
        ..UserDescT::default()
    };
    let info = ThreadInfoX86 {
        clear_tid_addr: asked.tid_address,
        gpregs: registers(machine),
        fpregs: machine.fpregs.clone(),
        tls: (0..TLS_SEGMENTS).map(segment).collect(),
    };
    CoreEntry {
        mtype: March::X8664 as i32,
        thread_info: Some(info),
        thread_core: Some(core),
        ..CoreEntry::default()
    }
}

/// Address and length of a thread's list of robust futexes.
fn machine_robust(tid: i32) -> (u64, u32) {
    super::raw::robust_list(tid).unwrap_or((0, 0))
}

fn creds(thread: &ThreadFacts, asked: &AskedThread) -> CredsEntry {
    let status = &thread.status;
    let set = |bits: u64| vec![bits as u32, (bits >> 32) as u32];
    let [uid, euid, suid, fsuid] = status.uids;
    let [gid, egid, sgid, fsgid] = status.gids;
    CredsEntry {
        uid,
        gid,
        euid,
        egid,
        suid,
        sgid,
        fsuid,
        fsgid,
        cap_inh: set(status.cap_inh),
        cap_prm: set(status.cap_prm),
        cap_eff: set(status.cap_eff),
        cap_bnd: set(status.cap_bnd),
        cap_amb: set(status.cap_amb),
        secbits: asked.secure_bits,
        groups: status.groups.clone(),
        no_new_privs: status.no_new_privs.then_some(1),
        ..CredsEntry::default()
    }
}

/// Whether one of these signals would be delivered to a thread with this mask.
pub(crate) fn is_due(pending: &[Vec<u8>], mask: u64) -> bool {
    let number = |info: &Vec<u8>| info.first().copied().unwrap_or(0);
    let due = |signal: u8| (1..=64).contains(&signal) && mask >> (signal - 1) & 1 == 0;
    pending.iter().map(number).any(due)
}

fn registers(machine: &Machine) -> UserX86RegsEntry {
    let regs = machine.regs;
    UserX86RegsEntry {
        r15: regs.r15,
        r14: regs.r14,
        r13: regs.r13,
        r12: regs.r12,
        bp: regs.rbp,
        bx: regs.rbx,
        r11: regs.r11,
        r10: regs.r10,
        r9: regs.r9,
        r8: regs.r8,
        ax: regs.rax,
        cx: regs.rcx,
        dx: regs.rdx,
        si: regs.rsi,
        di: regs.rdi,
        orig_ax: regs.orig_rax,
        ip: regs.rip,
        cs: regs.cs,
        flags: regs.eflags,
        sp: regs.rsp,
        ss: regs.ss,
        fs_base: regs.fs_base,
        gs_base: regs.gs_base,
        ds: regs.ds,
        es: regs.es,
        fs: regs.fs,
        gs: regs.gs,
        mode: Some(UserX86RegsMode::Native as i32),
    }
}
