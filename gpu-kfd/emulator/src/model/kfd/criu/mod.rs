//! `AMDKFD_IOC_CRIU_OP`: checkpoint and restore of a process.
//!
//! A checkpoint is `PROCESS_INFO` (stops the queues and counts), `CHECKPOINT`, `UNPAUSE`; a restore
//! is `RESTORE` in a process that has nothing on its GPUs, later `RESUME` by anybody who may.
//!
//! Restoring is not transactional, as in the driver: what was built before a failure stays until
//! the process ends, and its queues stay stopped. Nothing that a failed call exported stays.

mod checkpoint;
mod restore;

use nix::errno::Errno;

use gpu_kfd::uapi::criu::{CriuArgs, op};

use crate::model::world::SpaceId;
use crate::model::{Call, Model};

impl Model {
    /// # Errors
    /// `EINVAL` for an unknown operation, and those of each.
    pub(super) fn criu_op(
        &mut self,
        call: &mut Call<'_>,
        owner: SpaceId,
        args: &mut CriuArgs,
    ) -> Result<i32, Errno> {
        match args.op {
            op::PROCESS_INFO => self.criu_process_info(call, owner, args),
            op::CHECKPOINT => self.criu_checkpoint(call, owner, args),
            op::UNPAUSE => self.criu_unpause(owner),
            op::RESTORE => self.criu_restore(call, owner, args),
            op::RESUME => self.criu_resume(call, args.pid),
            _ => Err(Errno::EINVAL),
        }
    }

    /// # Errors
    /// `EINVAL` unless `PROCESS_INFO` has stopped the process.
    fn criu_unpause(&mut self, owner: SpaceId) -> Result<i32, Errno> {
        let process = self.process(owner)?;
        if !process.criu.paused {
            return Err(Errno::EINVAL);
        }
        process.criu.paused = false;
        // One eviction less: a second `PROCESS_INFO` had stopped the queues twice.
        self.resume_queues(owner);
        Ok(0)
    }

    /// Starts a restored process. Its shared ranges are set now, since its memory is there now.
    ///
    /// # Errors
    /// `ESRCH` if there is no such process or the KFD does not know it, `EINVAL` if it was not
    /// restored; those of setting the attributes of its ranges.
    fn criu_resume(&mut self, call: &mut Call<'_>, pid: u32) -> Result<i32, Errno> {
        let target = call.world.space_of_pid(&call.caller, pid as i32).ok_or(Errno::ESRCH)?;
        self.process(target)?;
        self.resume_ranges(call.world, target)?;
        let process = self.process(target)?;
        if !process.criu.restored {
            return Err(Errno::EINVAL);
        }
        process.criu.restored = false;
        self.resume_queues(target);
        Ok(0)
    }
}
