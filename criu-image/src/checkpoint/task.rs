//! What one `core-*.img` says, checked by itself: sizes and ranges that the kernel has.
//!
//! References to other images are checked where those are read.

use std::collections::BTreeSet;

use super::contradiction;
use crate::error::ImageError;
use crate::record::{
    CredsEntry, ItimerEntry, PosixTimerEntry, SignalQueueEntry, TaskCoreEntry, TaskTimersEntry,
    ThreadCoreEntry, ThreadInfoX86, UserX86XsaveEntry,
};

/// Signal actions that CRIU saves: 64 signals without SIGKILL and SIGSTOP.
const SIGACTIONS: usize = 62;
/// Size of the kernel's `siginfo_t`.
const SIGINFO_BYTES: usize = 128;
/// Highest signal number (`SIGRTMAX`).
const SIGNAL_MAX: u32 = 64;
/// Resource limits of Linux (`RLIM_NLIMITS`).
const RLIMITS: usize = 16;
/// Most supplementary groups (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;
/// Words of a capability set (`CR_CAP_SIZE` of CRIU 4.2).
const CAPABILITY_WORDS: usize = 2;
/// Thread-local segments of a thread (`GDT_ENTRY_TLS_ENTRIES`).
const TLS_SEGMENTS: usize = 3;
/// Longest thread name (`TASK_COMM_LEN` without the final zero).
const COMM_BYTES_MAX: usize = 15;
const USEC_PER_SEC: u64 = 1_000_000;
const NSEC_PER_SEC: u64 = 1_000_000_000;

/// Where the record of a core image begins: it has one, after both magic numbers.
const AT: u64 = 8;

/// Checks the part that a process has once.
pub(super) fn check_task(file: &str, task: &TaskCoreEntry) -> Result<(), ImageError> {
    let fail = |reason: String| Err(contradiction(file, AT, reason));
    if !task.sigactions.is_empty() && task.sigactions.len() != SIGACTIONS {
        return fail(format!("{} signal actions are not {SIGACTIONS}", task.sigactions.len()));
    }
    let limits = task.rlimits.iter().flat_map(|limits| &limits.rlimits);
    if limits.clone().count() > RLIMITS {
        return fail(format!("more than {RLIMITS} resource limits"));
    }
    if let Some(limit) = limits.clone().find(|limit| limit.cur > limit.max) {
        return fail(format!(
            "resource limit {:#x} exceeds its maximum {:#x}",
            limit.cur, limit.max
        ));
    }
    check_comm(file, &task.comm)?;
    if let Some(timers) = &task.timers {
        check_timers(file, timers)?;
    }
    check_queue(file, task.signals_s.as_ref())
}

fn check_comm(file: &str, comm: &[u8]) -> Result<(), ImageError> {
    if comm.len() > COMM_BYTES_MAX || comm.contains(&0) {
        let reason = format!("a name of {} bytes is no thread's", comm.len());
        return Err(contradiction(file, AT, reason));
    }
    Ok(())
}

fn check_timers(file: &str, timers: &TaskTimersEntry) -> Result<(), ImageError> {
    let sane = |timer: &ItimerEntry| timer.iusec.max(timer.vusec) < USEC_PER_SEC;
    if ![&timers.real, &timers.virt, &timers.prof].into_iter().all(sane) {
        return Err(contradiction(file, AT, "an interval timer with a million microseconds"));
    }
    let mut ids = BTreeSet::new();
    for timer in &timers.posix {
        let PosixTimerEntry { it_id, si_signo, insec, vnsec, .. } = *timer;
        if !ids.insert(it_id) {
            return Err(contradiction(file, AT, format!("timer {it_id} occurs twice")));
        }
        if insec.max(vnsec) >= NSEC_PER_SEC || si_signo > SIGNAL_MAX {
            let reason = format!("timer {it_id} has a time or signal that does not exist");
            return Err(contradiction(file, AT, reason));
        }
    }
    Ok(())
}

fn check_queue(file: &str, queue: Option<&SignalQueueEntry>) -> Result<(), ImageError> {
    for signal in queue.iter().flat_map(|queue| &queue.signals) {
        let number = signal.siginfo.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        if signal.siginfo.len() != SIGINFO_BYTES || !(1..=SIGNAL_MAX).contains(&number) {
            let len = signal.siginfo.len();
            let reason = format!("pending signal {number} of {len} bytes is no signal");
            return Err(contradiction(file, AT, reason));
        }
    }
    Ok(())
}

/// Checks the parts that every thread has.
pub(super) fn check_thread(
    file: &str,
    regs: &ThreadInfoX86,
    core: &ThreadCoreEntry,
) -> Result<(), ImageError> {
    let fail = |reason: &str| Err(contradiction(file, AT, reason));
    check_queue(file, core.signals_p.as_ref())?;
    if let Some(comm) = &core.comm {
        check_comm(file, comm)?;
    }
    if let Some(creds) = &core.creds {
        check_creds(file, creds)?;
    }
    if regs.tls.len() > TLS_SEGMENTS {
        return fail("more thread-local segments than a thread has");
    }
    if regs.fpregs.st_space.len() != 32 || regs.fpregs.xmm_space.len() != 64 {
        return fail("floating-point registers have the wrong size");
    }
    match &regs.fpregs.xsave {
        Some(xsave) => check_xsave(file, xsave),
        None => Ok(()),
    }
}

fn check_creds(file: &str, creds: &CredsEntry) -> Result<(), ImageError> {
    if creds.groups.len() > GROUPS_MAX {
        let reason = format!("{} groups, limit {GROUPS_MAX}", creds.groups.len());
        return Err(contradiction(file, AT, reason));
    }
    let sets = [&creds.cap_inh, &creds.cap_prm, &creds.cap_eff, &creds.cap_bnd, &creds.cap_amb];
    if let Some(set) = sets.into_iter().find(|set| set.len() > CAPABILITY_WORDS) {
        let reason = format!("a capability set of {} words, limit {CAPABILITY_WORDS}", set.len());
        return Err(contradiction(file, AT, reason));
    }
    Ok(())
}

/// A component is whole or absent. Sizes are those of the XSAVE area (Intel SDM volume 1, 13.5),
/// where the MPX status is padded to 64 bytes and PKRU to 8.
fn check_xsave(file: &str, xsave: &UserX86XsaveEntry) -> Result<(), ImageError> {
    let lens = [
        ("ymmh_space", xsave.ymmh_space.len(), 64),
        ("bndreg_state", xsave.bndreg_state.len(), 8),
        ("bndcsr_state", xsave.bndcsr_state.len(), 8),
        ("opmask_reg", xsave.opmask_reg.len(), 8),
        ("zmm_upper", xsave.zmm_upper.len(), 64),
        ("hi16_zmm", xsave.hi16_zmm.len(), 128),
        ("pkru", xsave.pkru.len(), 2),
    ];
    for (name, len, whole) in lens {
        if len != 0 && len != whole {
            let reason = format!("vector state {name} has {len} words of {whole}");
            return Err(contradiction(file, AT, reason));
        }
    }
    Ok(())
}
