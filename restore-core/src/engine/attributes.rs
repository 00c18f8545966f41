//! What else a process is: name, limits, personality and the many switches of `prctl`.

use std::io::Write;

use super::StepError;
use super::target::Target;

/// No audit login uid has been set.
const LOGINUID_UNSET: u32 = u32::MAX;
/// Resources that `task_rlimits_entry` lists, in the kernel's numbering (`RLIM_NLIMITS`).
const RESOURCES: u32 = 16;

impl Target {
    /// What must come before `chroot` and before descriptors are in place: `/proc` files.
    pub(super) fn set_proc_attributes(&mut self, loginuid_here: u32) -> Result<(), StepError> {
        let pid = self.plan.pid;
        let Some((leader, live)) = self.live() else {
            return Ok(());
        };
        if let Some(wanted) = live.task.loginuid.filter(|&uid| uid != loginuid_here) {
            // Only the task itself may write it. Every low descriptor is closed: open gives 0.
            let text = match wanted {
                LOGINUID_UNSET => "-1".to_owned(),
                uid => uid.to_string(),
            };
            let at = (libc::AT_FDCWD as i64).into();
            let path = b"/proc/self/loginuid\0".as_slice();
            let open = [at, path.into(), (libc::O_WRONLY as u64).into()];
            let write = [0u64.into(), text.as_bytes().into(), (text.len() as u64).into()];
            leader.queue("open loginuid", libc::SYS_openat, open)?;
            leader.queue("set loginuid", libc::SYS_write, write)?;
            leader.queue("close loginuid", libc::SYS_close, [0u64.into()])?;
        }
        if let Some(wanted) = live.task.oom_score_adj {
            set_oom_score(pid, wanted)?;
        }
        Ok(())
    }

    /// Switches of the whole process, set by its leader.
    pub(super) fn set_attributes(&mut self) -> Result<(), StepError> {
        let Some((leader, live)) = self.live() else {
            return Ok(());
        };
        let task = &live.task;
        let mut comm = task.comm.clone();
        comm.push(0);
        let name = [libc::PR_SET_NAME.into(), comm.as_slice().into()];
        leader.queue("name", libc::SYS_prctl, name)?;
        leader.queue("personality", libc::SYS_personality, [task.personality.into()])?;
        let subreaper = u64::from(task.child_subreaper.unwrap_or(false));
        let args = [libc::PR_SET_CHILD_SUBREAPER.into(), subreaper.into()];
        leader.queue("child subreaper", libc::SYS_prctl, args)?;
        if live.mm.thp_disabled.unwrap_or(false) {
            let args = [
                libc::PR_SET_THP_DISABLE.into(),
                1u64.into(),
                0u64.into(),
                0u64.into(),
                0u64.into(),
            ];
            leader.queue("no huge pages", libc::SYS_prctl, args)?;
        }
        let registrations = task.membarrier_registration_mask.unwrap_or(0);
        for command in (0..32).map(|bit| 1u32 << bit).filter(|bit| registrations & bit != 0) {
            let args = [command.into(), 0u64.into(), 0u64.into()];
            leader.queue("memory barrier", libc::SYS_membarrier, args)?;
        }
        Ok(())
    }

    /// Resource limits, when nothing of ours needs more than they allow.
    pub(super) fn set_limits(&mut self) -> Result<(), StepError> {
        let Some((leader, live)) = self.live() else {
            return Ok(());
        };
        let Some(limits) = &live.task.rlimits else {
            return Ok(());
        };
        for (resource, limit) in (0..RESOURCES).zip(&limits.rlimits) {
            let value = [limit.cur.to_le_bytes(), limit.max.to_le_bytes()].concat();
            let args = [0u64.into(), resource.into(), value.as_slice().into(), 0u64.into()];
            leader.queue("resource limit", libc::SYS_prlimit64, args)?;
        }
        Ok(())
    }

    /// Whether other processes may look into it; changing credentials resets it, so it comes last.
    pub(super) fn set_dumpable(&mut self) -> Result<(), StepError> {
        let Some((leader, live)) = self.live() else {
            return Ok(());
        };
        // 2 ("root only") cannot be asked for; a change of user ids gives it where the system does.
        if let Some(dumpable @ (0 | 1)) = live.mm.dumpable {
            let args = [libc::PR_SET_DUMPABLE.into(), dumpable.into()];
            leader.queue("dumpable", libc::SYS_prctl, args)?;
        }
        Ok(())
    }
}

fn set_oom_score(pid: i32, wanted: i32) -> Result<(), StepError> {
    let path = format!("/proc/{pid}/oom_score_adj");
    let fail = |source| StepError::OomScore { pid, wanted, source };
    let now = std::fs::read_to_string(&path).map_err(fail)?;
    if now.trim().parse() == Ok(wanted) {
        return Ok(());
    }
    let mut file = std::fs::File::options().write(true).open(&path).map_err(fail)?;
    file.write_all(wanted.to_string().as_bytes()).map_err(fail)
}
