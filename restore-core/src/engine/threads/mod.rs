//! Threads: made by their leader with their ids, then given what only a thread can set itself.

pub(super) mod xstate;

use std::sync::Arc;

use criu_image::Thread;
use criu_image::record::ThreadCoreEntry;

pub use xstate::XstateError;

use super::StepError;
use super::target::Target;
use crate::remote::ring::{CallError, Life, Remote, prepare_slot};
use crate::remote::spawn::CloneArgs;

/// What every thread of a process shares with the others (pthread_create's flags but for TLS and
/// thread-id words, which are set later).
const THREAD_FLAGS: i32 = libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM;

impl Target {
    /// Makes all threads but the leader.
    pub(super) fn build_threads(&mut self) -> Result<(), StepError> {
        let slots = std::mem::take(&mut self.thread_slots);
        let Some((leader, live)) = self.live() else {
            return Ok(());
        };
        let process = Arc::clone(leader.process());
        let ids: Vec<i32> = live.threads.iter().skip(1).map(|t| t.tid as i32).collect();
        for (tid, slot) in ids.iter().zip(&slots) {
            prepare_slot(slot, Life::OfItsProcess);
            let wanted = leader.put("wanted tid", &tid.to_le_bytes(), size_of::<CloneArgs>())?;
            let args = CloneArgs {
                flags: THREAD_FLAGS as u64,
                set_tid: wanted,
                set_tid_size: 1,
                ..CloneArgs::default()
            };
            let args = args.as_bytes();
            let call = [args.as_slice().into(), (args.len() as u64).into()];
            leader.queue_clone("create a thread", libc::SYS_clone3, call, slot)?;
        }
        leader.flush()?;
        self.threads = ids
            .into_iter()
            .zip(slots)
            .map(|(tid, slot)| Remote::new(tid, Arc::clone(&process), slot))
            .collect();
        Ok(())
    }

    /// Queues `step` for every thread, the leader first, with what the images say of it.
    pub(super) fn each_thread(
        &mut self,
        mut step: impl FnMut(&mut Remote, &Thread) -> Result<(), CallError>,
    ) -> Result<(), StepError> {
        let crate::plan::Kind::Live(live) = &self.plan.kind else {
            return Ok(());
        };
        let leader = self.leader.iter_mut();
        for (remote, thread) in leader.chain(&mut self.threads).zip(&live.threads) {
            step(remote, thread)?;
        }
        Ok(())
    }

    /// Has every thread carry out what is queued for it, the leader last.
    pub(super) fn flush(&mut self) -> Result<(), StepError> {
        for remote in self.threads.iter_mut().chain(&mut self.leader) {
            remote.flush()?;
        }
        Ok(())
    }
}

/// Name, scheduling, alternate stack and the addresses that the kernel writes to at a thread's end.
pub(super) fn attributes(remote: &mut Remote, thread: &Thread) -> Result<(), CallError> {
    let core = &thread.core;
    if let Some(mut comm) = core.comm.clone() {
        comm.push(0);
        let args = [libc::PR_SET_NAME.into(), comm.as_slice().into()];
        remote.queue("name", libc::SYS_prctl, args)?;
    }
    let address = thread.regs.clear_tid_addr;
    remote.queue("thread id address", libc::SYS_set_tid_address, [address.into()])?;
    if core.futex_rla != 0 {
        let args = [core.futex_rla.into(), core.futex_rla_len.into()];
        remote.queue("robust futex list", libc::SYS_set_robust_list, args)?;
    }
    if let Some(sas) = &core.sas {
        let mut stack = [0; 24];
        stack[..8].copy_from_slice(&sas.ss_sp.to_le_bytes());
        stack[8..12].copy_from_slice(&sas.ss_flags.to_le_bytes());
        stack[16..].copy_from_slice(&sas.ss_size.to_le_bytes());
        let args = [stack.as_slice().into(), 0u64.into()];
        remote.queue("alternate signal stack", libc::SYS_sigaltstack, args)?;
    }
    scheduling(remote, core)
}

fn scheduling(remote: &mut Remote, core: &ThreadCoreEntry) -> Result<(), CallError> {
    if let Some(policy) = core.sched_policy {
        let priority = core.sched_prio.unwrap_or(0).to_le_bytes();
        let args = [0u64.into(), policy.into(), priority.as_slice().into()];
        remote.queue("scheduling policy", libc::SYS_sched_setscheduler, args)?;
    }
    if let Some(nice) = core.sched_nice {
        let args = [(libc::PRIO_PROCESS as u64).into(), 0u64.into(), nice.into()];
        remote.queue("nice value", libc::SYS_setpriority, args)?;
    }
    Ok(())
}

/// Registers for restartable sequences: the last thing before the thread stops, since the kernel
/// then writes to the thread's own memory.
pub(super) fn rseq(remote: &mut Remote, thread: &Thread) -> Result<(), CallError> {
    let Some(rseq) = &thread.core.rseq_entry else {
        return Ok(());
    };
    if rseq.rseq_abi_pointer == 0 {
        return Ok(());
    }
    let args = [
        rseq.rseq_abi_pointer.into(),
        rseq.rseq_abi_size.into(),
        0u64.into(),
        rseq.signature.into(),
    ];
    remote.queue("restartable sequences", libc::SYS_rseq, args)
}
