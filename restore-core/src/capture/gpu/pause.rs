//! Processes whose queues we have stopped, and the promise that they go on.
//!
//! Asking the driver what a process has (`PROCESS_INFO`) stops its queues, and only `UNPAUSE`
//! starts them again, once for each stop; nothing does if we die. So whoever is stopped stands here
//! from that moment on.

use gpu_kfd::{DeviceError, KfdFd, ProcessInfo};

use super::super::proc::stat::Stat;

/// The queues of a process could not be started again.
#[derive(Debug, thiserror::Error)]
#[error("the GPU queues of process {pid} stay stopped")]
pub struct UnpauseError {
    /// The process.
    pub pid: u32,
    /// Why.
    #[source]
    pub source: Box<DeviceError>,
}

impl UnpauseError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        "undo.queues"
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        Some("end the process: nothing but the driver's own UNPAUSE starts its queues again")
    }
}

/// All that are stopped, each with an open file of its own.
#[derive(Debug, Default)]
pub(crate) struct Paused {
    stopped: Vec<Stopped>,
}

#[derive(Debug)]
struct Stopped {
    pid: u32,
    kfd: KfdFd,
}

impl Paused {
    /// Stops the queues of a file's process, and counts what there is.
    ///
    /// It must not be stopped already: the driver counts stops, but forgets at the first `UNPAUSE`
    /// that there is another (amdkfd `kfd_chardev.c`, Linux 6.18).
    pub(super) fn stop(&mut self, mut kfd: KfdFd) -> Result<ProcessInfo, DeviceError> {
        let info = kfd.process_info()?;
        self.stopped.push(Stopped { pid: info.pid, kfd });
        Ok(info)
    }

    /// The file through which the process was stopped that was stopped last.
    pub(super) fn last(&mut self) -> &mut KfdFd {
        &mut self.stopped.last_mut().expect("called after a stop").kfd
    }

    /// Lets the one go on that was stopped last; its file is given back.
    pub(super) fn start_last(&mut self) -> Result<Option<KfdFd>, UnpauseError> {
        let Some(mut last) = self.stopped.pop() else { return Ok(None) };
        match last.kfd.unpause() {
            Ok(()) => Ok(Some(last.kfd)),
            Err(error) => {
                let (pid, source) = (last.pid, Box::new(error));
                self.stopped.push(last);
                Err(UnpauseError { pid, source })
            }
        }
    }

    /// Lets all go on. The thread must still trace them. Who could not be stays here.
    ///
    /// # Errors
    /// The first failure; the others were tried all the same.
    pub(crate) fn start_all(&mut self) -> Result<(), UnpauseError> {
        let mut result = Ok(());
        let mut left = Vec::new();
        for mut stopped in self.stopped.drain(..).rev() {
            if let Err(error) = stopped.kfd.unpause() {
                if has_ended(stopped.pid) {
                    continue; // it took its queues along
                }
                let (pid, source) = (stopped.pid, Box::new(error));
                result = result.and(Err(UnpauseError { pid, source }));
                left.push(stopped);
            }
        }
        left.reverse();
        self.stopped = left;
        result
    }

    /// The processes have ended: there is nothing that could go on.
    pub(crate) fn forget(&mut self) {
        self.stopped.clear();
    }
}

/// Whether a process is dead, however much of it is left.
fn has_ended(pid: u32) -> bool {
    Stat::of(pid as i32).map_or(true, |stat| stat.is_zombie())
}

impl Drop for Paused {
    fn drop(&mut self) {
        // Whoever should have said what failed has gone; better late than never.
        let _ = self.start_all();
    }
}
