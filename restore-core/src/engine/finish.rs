//! The end of a restore: from a target in the stub to a task in its own code.
//!
//! A process is frozen as a whole: traced (so that it dies with us), given its credentials,
//! stopped, rid of the shared region, and given its registers. It runs again only at the release.

use criu_image::Thread;
use criu_image::record::UserX86RegsEntry;

use super::target::Target;
use super::threads::xstate;
use super::{StepError, credentials, threads};
use crate::plan::Kind;
use crate::remote::freeze::{Seized, Stopped};

/// A stopped process of the images (`task_core_entry.task_state`, CRIU's `TASK_STOPPED`).
const TASK_STOPPED: u32 = 3;

impl Target {
    /// Everything up to the point from which only the release is missing.
    pub(super) fn freeze(&mut self, bounding_here: u64) -> Result<(), StepError> {
        if !matches!(self.plan.kind, Kind::Live(_)) {
            return Ok(());
        }
        let mut seized = Vec::new();
        for remote in self.leader.iter().chain(&self.threads) {
            seized.push(Seized::seize(remote.tid())?);
        }
        self.each_thread(|remote, thread| {
            credentials::set(remote, thread, bounding_here)?;
            threads::rseq(remote, thread)
        })?;
        // Any thread's change of ids resets what the leader sets for the whole address space.
        for remote in &mut self.threads {
            remote.flush()?;
        }
        self.set_dumpable()?;
        self.flush()?;
        for task in &seized {
            task.interrupt()?;
        }
        // The first thread comes last: if the process is killed, the kernel tells of its end only
        // when that of all others has been seen.
        let others = seized.split_off(1).into_iter().map(Seized::wait);
        let others = others.collect::<Result<Vec<_>, _>>()?;
        for first in seized {
            self.stopped.push(first.wait_first()?);
        }
        self.stopped.extend(others);
        self.set_final_state()
    }

    fn set_final_state(&mut self) -> Result<(), StepError> {
        let leader = self.leader.take().expect("a live process has a leader");
        // Not the first thread unless it is the only one: its end would not be told, see above.
        let last = self.stopped.last().expect("the leader is among them");
        last.unmap_region(leader.slot().region())?;
        // Slots of memory that no task of this process has any more.
        drop(leader);
        self.threads.clear();
        let Kind::Live(live) = &self.plan.kind else {
            return Ok(());
        };
        for (index, (task, thread)) in self.stopped.iter().zip(&live.threads).enumerate() {
            set_thread_state(task, thread)?;
            let mask = match (index, thread.core.blk_sigset) {
                (_, Some(mask)) => mask,
                (0, None) => live.task.blk_sigset,
                (_, None) => 0,
            };
            task.set_signal_mask(mask)?;
        }
        Ok(())
    }

    /// Lets the process run, or stay stopped if it was.
    pub(super) fn release(&mut self) -> Result<(), StepError> {
        let Kind::Live(live) = &self.plan.kind else {
            return Ok(());
        };
        let was_stopped = live.task.task_state == TASK_STOPPED;
        if was_stopped || self.leave_stopped {
            let signal = match live.task.stop_signo {
                Some(signal) if was_stopped && signal != 0 => signal as i32,
                _ => libc::SIGSTOP,
            };
            stop_after_release(self.plan.pid, signal)?;
        }
        for task in self.stopped.drain(..).rev() {
            task.release()?;
        }
        Ok(())
    }
}

fn set_thread_state(task: &Stopped, thread: &Thread) -> Result<(), StepError> {
    let tid = task.tid();
    let mut area = task.xstate()?;
    xstate::fill(&mut area, &thread.regs.fpregs)
        .map_err(|source| StepError::Xstate { tid, source })?;
    task.set_xstate(&mut area)?;
    task.set_registers(&registers(&thread.regs.gpregs))?;
    if let Some(rseq) = &thread.core.rseq_entry
        && let Some(section) = rseq.rseq_cs_pointer.filter(|&section| section != 0)
    {
        // `rseq_cs` is the second 64-bit word of `struct rseq` (linux/rseq.h).
        task.write_word(rseq.rseq_abi_pointer + 8, section)?;
    }
    Ok(())
}

/// The dump has already undone an interrupted system call, so none is to be restarted.
fn registers(saved: &UserX86RegsEntry) -> libc::user_regs_struct {
    libc::user_regs_struct {
        r15: saved.r15,
        r14: saved.r14,
        r13: saved.r13,
        r12: saved.r12,
        rbp: saved.bp,
        rbx: saved.bx,
        r11: saved.r11,
        r10: saved.r10,
        r9: saved.r9,
        r8: saved.r8,
        rax: saved.ax,
        rcx: saved.cx,
        rdx: saved.dx,
        rsi: saved.si,
        rdi: saved.di,
        orig_rax: u64::MAX,
        rip: saved.ip,
        cs: saved.cs,
        eflags: saved.flags,
        rsp: saved.sp,
        ss: saved.ss,
        fs_base: saved.fs_base,
        gs_base: saved.gs_base,
        ds: saved.ds,
        es: saved.es,
        fs: saved.fs,
        gs: saved.gs,
    }
}

/// Queues the stop before the process is let go: it takes effect before its first instruction.
fn stop_after_release(pid: i32, signal: i32) -> Result<(), StepError> {
    let signal =
        nix::sys::signal::Signal::try_from(signal).unwrap_or(nix::sys::signal::Signal::SIGSTOP);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal)
        .map_err(|errno| StepError::Stop { pid, errno })
}
