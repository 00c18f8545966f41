//! Signal actions and pending signals.
//!
//! All signals are blocked in a target, so what is queued here waits until the saved masks are set
//! with the final registers.

use criu_image::Thread;
use criu_image::record::SignalQueueEntry;

use super::StepError;
use super::target::Target;
use crate::remote::ring::{CallError, Remote};

/// Size of the kernel's signal set in bytes.
const SIGSET_BYTES: u64 = 8;

impl Target {
    /// Sets every signal action and queues the process's pending signals.
    pub(super) fn set_signals(&mut self) -> Result<(), StepError> {
        let pid = self.plan.pid;
        let Some((leader, live)) = self.live() else {
            return Ok(());
        };
        let settable =
            (1..=64).filter(|&signal| signal != libc::SIGKILL && signal != libc::SIGSTOP);
        for (signal, action) in settable.zip(&live.task.sigactions) {
            let mut bytes = [0; 32];
            let words = [action.sigaction, action.flags, action.restorer, action.mask];
            for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
                chunk.copy_from_slice(&word.to_le_bytes());
            }
            let args = [signal.into(), bytes.as_slice().into(), 0u64.into(), SIGSET_BYTES.into()];
            leader.queue("signal action", libc::SYS_rt_sigaction, args)?;
        }
        if let Some(queue) = &live.task.signals_s {
            for (signal, info) in pending(queue) {
                let args = [pid.into(), signal.into(), info.into()];
                leader.queue("pending signal", libc::SYS_rt_sigqueueinfo, args)?;
            }
        }
        self.each_thread(|remote, thread| thread_pending(pid, remote, thread))
    }
}

fn thread_pending(pid: i32, remote: &mut Remote, thread: &Thread) -> Result<(), CallError> {
    let Some(queue) = &thread.core.signals_p else {
        return Ok(());
    };
    for (signal, info) in pending(queue) {
        let args = [pid.into(), thread.tid.into(), signal.into(), info.into()];
        remote.queue("pending signal", libc::SYS_rt_tgsigqueueinfo, args)?;
    }
    Ok(())
}

/// Signal number and `siginfo` of each queued signal. The number is the first word of it.
fn pending(queue: &SignalQueueEntry) -> impl Iterator<Item = (i32, &[u8])> {
    queue.signals.iter().filter_map(|entry| {
        let info = entry.siginfo.as_slice();
        Some((i32::from_le_bytes(*info.first_chunk()?), info))
    })
}
