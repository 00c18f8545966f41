//! Interval timers and POSIX timers, armed with the time that was left.

use criu_image::record::{ItimerEntry, PosixTimerEntry};

use super::StepError;
use super::target::Target;
use crate::remote::ring::{CallError, Remote};

/// `PR_TIMER_CREATE_RESTORE_IDS` (linux/prctl.h, Linux 6.15): `timer_create` takes the id that
/// the caller wants.
const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
/// Ids tried one after the other where the kernel cannot be told which one is wanted.
const TIMER_IDS_TRIED_MAX: u32 = 100_000;
/// Size of `struct sigevent`.
const SIGEVENT_BYTES: usize = 64;

impl Target {
    /// Creates the POSIX timers and arms all timers.
    pub(super) fn set_timers(&mut self) -> Result<(), StepError> {
        let pid = self.plan.pid;
        let Some((leader, live)) = self.live() else {
            return Ok(());
        };
        let Some(timers) = &live.task.timers else {
            return Ok(());
        };
        create_all(leader, pid, &timers.posix)?;
        for timer in &timers.posix {
            arm(leader, timer)?;
        }
        for (which, timer) in [&timers.real, &timers.virt, &timers.prof].into_iter().enumerate() {
            interval_timer(leader, which as u64, timer)?;
        }
        Ok(())
    }
}

fn create_all(leader: &mut Remote, pid: i32, timers: &[PosixTimerEntry]) -> Result<(), StepError> {
    if timers.is_empty() {
        return Ok(());
    }
    let what = "choose timer ids";
    let on = [PR_TIMER_CREATE_RESTORE_IDS.into(), 1u64.into()];
    let chooses = leader.try_call(what, libc::SYS_prctl, on)?.is_ok();
    for timer in timers {
        match chooses {
            true => drop(create(leader, timer, timer.it_id)?),
            false => create_by_counting(leader, pid, timer)?,
        }
    }
    if chooses {
        let off = [PR_TIMER_CREATE_RESTORE_IDS.into(), 0u64.into()];
        leader.call(what, libc::SYS_prctl, off)?;
    }
    Ok(())
}

/// Before Linux 6.15 ids count upwards in each process: the ones in between are made and deleted.
fn create_by_counting(
    leader: &mut Remote,
    pid: i32,
    timer: &PosixTimerEntry,
) -> Result<(), StepError> {
    for _ in 0..TIMER_IDS_TRIED_MAX {
        let id = create(leader, timer, 0)?;
        if id == timer.it_id {
            return Ok(());
        }
        leader.queue("delete a timer", libc::SYS_timer_delete, [id.into()])?;
    }
    Err(StepError::TimerId { pid, id: timer.it_id })
}

fn create(leader: &mut Remote, timer: &PosixTimerEntry, wanted: u32) -> Result<u32, CallError> {
    let mut event = [0; SIGEVENT_BYTES];
    event[..8].copy_from_slice(&timer.sival_ptr.to_le_bytes());
    event[8..12].copy_from_slice(&timer.si_signo.to_le_bytes());
    event[12..16].copy_from_slice(&timer.it_sigev_notify.to_le_bytes());
    event[16..20].copy_from_slice(&timer.notify_thread_id.unwrap_or(0).to_le_bytes());
    let what = "create a timer";
    let id = leader.put(what, &wanted.to_le_bytes(), SIGEVENT_BYTES)?;
    let args = [timer.clock_id.into(), event.as_slice().into(), id.into()];
    leader.call(what, libc::SYS_timer_create, args)?;
    let made = leader.read_back(id, size_of::<u32>());
    Ok(u32::from_le_bytes(made.try_into().expect("four bytes were asked for")))
}

fn arm(leader: &mut Remote, timer: &PosixTimerEntry) -> Result<(), CallError> {
    let mut value = [0; 32];
    let words = [timer.isec, timer.insec, timer.vsec, timer.vnsec];
    for (chunk, word) in value.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    let args = [timer.it_id.into(), 0u64.into(), value.as_slice().into(), 0u64.into()];
    leader.queue("arm a timer", libc::SYS_timer_settime, args)
}

fn interval_timer(leader: &mut Remote, which: u64, timer: &ItimerEntry) -> Result<(), CallError> {
    let words = [timer.isec, timer.iusec, timer.vsec, timer.vusec];
    if words == [0; 4] {
        return Ok(());
    }
    let mut value = [0; 32];
    for (chunk, word) in value.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    let args = [which.into(), value.as_slice().into(), 0u64.into()];
    leader.queue("arm an interval timer", libc::SYS_setitimer, args)
}
