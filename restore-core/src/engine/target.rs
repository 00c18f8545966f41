//! One process of the tree while it is being restored, and how it makes its children.
//!
//! A target is owned by one worker from its birth to its release. It holds the plan of its process
//! and nothing of any other but the slots of the children that it clones.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use criu_image::ImageDir;
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::StepError;
use super::devices::Devices;
use crate::files::ObjectKey;
use crate::meter::Meter;
use crate::plan::{Group, Kind, LivePlan, ProcessPlan};
use crate::remote::freeze::Stopped;
use crate::remote::region::Slot;
use crate::remote::ring::{Life, Remote, prepare_slot};
use crate::remote::spawn::{CLONE_CLEAR_SIGHAND, CloneArgs, open_pidfd};

/// End of user addresses on x86-64 with four page-table levels.
pub(super) const ADDRESSES_END: u64 = 0x7fff_ffff_f000;

/// Longest wait for a zombie or helper to end: it has nothing left to do but to exit.
const END_WAIT_MAX: Duration = Duration::from_secs(30);

/// Where a target finds an object that the restorer opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Inherited under this number.
    Inherited(i32),
    /// Open in the restorer under this number, fetched with `pidfd_getfd`.
    Late(i32),
}

/// What the restorer's descriptors look like from a target.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    /// The objects of this process.
    pub(super) objects: BTreeMap<ObjectKey, Source>,
    /// First number that no process of the tree uses: everything from here on is ours.
    pub(super) fds_end: i32,
    /// A pidfd of the restorer, inherited.
    pub(super) restorer: i32,
}

/// A child that this target clones.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) index: usize,
    pub(super) pid: i32,
    /// Its slot, until it is born.
    pub(super) slot: Option<Slot>,
    pub(super) before_setsid: bool,
    pub(super) is_zombie: bool,
    pub(super) is_helper: bool,
    /// pidfd, once it is born.
    pub(super) process: Option<Arc<OwnedFd>>,
}

/// A process under restore.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) index: usize,
    pub(super) plan: ProcessPlan,
    pub(super) sources: Sources,
    pub(super) children: Vec<Child>,
    /// Slots of the threads after the leader, until they are made.
    pub(super) thread_slots: Vec<Slot>,
    pub(super) leader: Option<Remote>,
    pub(super) threads: Vec<Remote>,
    /// All threads, once they have stopped for good.
    pub(super) stopped: Vec<Stopped>,
    /// Its device files, as far as they are restored.
    pub(super) devices: Devices,
    /// Whether every task is left stopped at the end.
    pub(super) leave_stopped: bool,
}

impl Target {
    /// The leader of a process that exists.
    pub(super) fn leader(&mut self) -> &mut Remote {
        self.leader.as_mut().expect("a target is used only after its birth")
    }

    /// The leader and the live plan, if this is a live process.
    pub(super) fn live(&mut self) -> Option<(&mut Remote, &LivePlan)> {
        let leader = self.leader.as_mut().expect("a target is used only after its birth");
        match &self.plan.kind {
            Kind::Live(live) => Some((leader, live)),
            Kind::Zombie(_) | Kind::Helper => None,
        }
    }

    /// The descriptor number of an object within this target.
    pub(super) fn source(&self, key: ObjectKey) -> Source {
        *self.sources.objects.get(&key).expect("the plan lists every object of its process")
    }

    /// Just born: empties the address space if this is the root, makes the children in the order
    /// that sessions demand, and returns them.
    pub(super) fn create(
        &mut self,
        images: &ImageDir,
        meter: &mut Meter<'_>,
    ) -> Result<Vec<(usize, Remote)>, StepError> {
        if self.plan.member.parent.is_none() {
            self.shed_restorer()?;
        }
        if self.plan.lends() {
            self.build_lent_memory(images, meter)?;
        }
        let adopts = self.plan.member.adopts;
        let (setsid, group) = (self.plan.member.setsid, self.plan.member.group);
        let leader = self.leader();
        if adopts {
            let (option, on) = (libc::PR_SET_CHILD_SUBREAPER, 1u64);
            leader.queue("adopt helpers' children", libc::SYS_prctl, [option.into(), on.into()])?;
        }
        let mut born = self.clone_children(true)?;
        let leader = self.leader();
        if setsid {
            leader.queue("found the session", libc::SYS_setsid, [])?;
        } else if group == Group::Found {
            leader.queue(
                "found the process group",
                libc::SYS_setpgid,
                [0u64.into(), 0u64.into()],
            )?;
        }
        leader.flush()?;
        born.extend(self.clone_children(false)?);
        Ok(born)
    }

    /// The root is a fork of the restorer: it drops all that it has from us but the shared region
    /// and the descriptors to hand on.
    fn shed_restorer(&mut self) -> Result<(), StepError> {
        let fds_end = self.sources.fds_end;
        let leader = self.leader();
        let region = leader.slot().region();
        let (base, end) = (region.base(), region.base() + region.len_bytes());
        leader.queue("unmap below", libc::SYS_munmap, [0u64.into(), base.into()])?;
        let above = ADDRESSES_END - end;
        leader.queue("unmap above", libc::SYS_munmap, [end.into(), above.into()])?;
        if fds_end > 0 {
            let last = (fds_end - 1) as u64;
            let args = [0u64.into(), last.into(), 0u64.into()];
            leader.queue("close descriptors", libc::SYS_close_range, args)?;
        }
        leader.flush()?;
        Ok(())
    }

    fn clone_children(&mut self, before_setsid: bool) -> Result<Vec<(usize, Remote)>, StepError> {
        let parent = self.plan.pid;
        let leader = self.leader.as_mut().expect("a target is used only after its birth");
        for child in self.children.iter().filter(|child| child.before_setsid == before_setsid) {
            let slot = child.slot.as_ref().expect("each child is born once");
            prepare_slot(slot, Life::Tied { parent });
            let wanted = child.pid.to_le_bytes();
            let wanted = leader.put("wanted pid", &wanted, size_of::<CloneArgs>())?;
            let args = CloneArgs {
                flags: CLONE_CLEAR_SIGHAND,
                exit_signal: libc::SIGCHLD as u64,
                set_tid: wanted,
                set_tid_size: 1,
                ..CloneArgs::default()
            };
            let args = args.as_bytes();
            let call = [args.as_slice().into(), (args.len() as u64).into()];
            leader.queue_clone("create a child", libc::SYS_clone3, call, slot)?;
        }
        leader.flush()?;
        let mut born = Vec::new();
        for child in self.children.iter_mut().filter(|c| c.before_setsid == before_setsid) {
            let slot = child.slot.take().expect("each child is born once");
            let pidfd = open_pidfd(child.pid)
                .map_err(|errno| StepError::Pidfd { pid: child.pid, errno })?;
            let pidfd = Arc::new(pidfd);
            child.process = Some(Arc::clone(&pidfd));
            born.push((child.index, Remote::new(child.pid, pidfd, slot)));
        }
        Ok(born)
    }

    /// Joins the process group that was planned; all groups exist by now.
    pub(super) fn join_group(&mut self) -> Result<(), StepError> {
        let (group, adopted) = (self.plan.member.group, self.plan.member.adopted);
        let leader = self.leader();
        if let Group::Join(pgid) = group {
            let args = [0u64.into(), pgid.into()];
            leader.queue("join the process group", libc::SYS_setpgid, args)?;
        }
        if adopted {
            // The helper that made it is about to end, and must not take it along.
            let args = [libc::PR_SET_PDEATHSIG.into(), 0u64.into()];
            leader.queue("leave the helper", libc::SYS_prctl, args)?;
        }
        Ok(())
    }

    /// Ends a zombie or a helper as it ended, or is to end.
    pub(super) fn end(&mut self) -> Result<(), StepError> {
        let status = match &self.plan.kind {
            Kind::Live(_) => return Ok(()),
            Kind::Zombie(task) => task.exit_code,
            Kind::Helper => 0,
        };
        self.reap_helpers()?;
        let comm = match &self.plan.kind {
            Kind::Zombie(task) => Some(task.comm.clone()),
            _ => None,
        };
        let pid = self.plan.pid;
        let leader = self.leader();
        if let Some(mut comm) = comm {
            comm.push(0);
            let args = [libc::PR_SET_NAME.into(), comm.as_slice().into()];
            leader.queue("name", libc::SYS_prctl, args)?;
        }
        let signal = status & 0x7f;
        if signal == 0 {
            let code = status >> 8 & 0xff;
            leader.queue("exit", libc::SYS_exit_group, [code.into()])?;
        } else {
            let no_core = [0u8; 16];
            let core = [libc::RLIMIT_CORE.into(), no_core.as_slice().into()];
            leader.queue("no core file", libc::SYS_setrlimit, core)?;
            leader.queue("die", libc::SYS_kill, [pid.into(), signal.into()])?;
            let none = [0u8; 8];
            let how = [
                (libc::SIG_SETMASK as u64).into(),
                none.as_slice().into(),
                0u64.into(),
                8u64.into(),
            ];
            leader.queue("die", libc::SYS_rt_sigprocmask, how)?;
        }
        leader.post_last();
        let process = Arc::clone(leader.process());
        wait_end(pid, &process)
    }

    /// Collects the helpers among the children, and waits until the zombies are dead.
    pub(super) fn reap_helpers(&mut self) -> Result<(), StepError> {
        let leader = self.leader.as_mut().expect("a target is used only after its birth");
        let mut any = false;
        for child in &self.children {
            let process = child.process.as_ref().expect("all children are born");
            if child.is_zombie {
                wait_end(child.pid, process)?;
                any = true;
            }
            if child.is_helper {
                wait_end(child.pid, process)?;
                let args = [child.pid.into(), 0u64.into(), 0u64.into(), 0u64.into()];
                leader.queue("collect a helper", libc::SYS_wait4, args)?;
                any = true;
            }
        }
        if any {
            let set = (1u64 << (libc::SIGCHLD - 1)).to_le_bytes();
            let now = [0u8; 16];
            let args = [set.as_slice().into(), 0u64.into(), now.as_slice().into(), 8u64.into()];
            leader.queue_may_fail("take SIGCHLD", libc::SYS_rt_sigtimedwait, args)?;
        }
        Ok(())
    }
}

fn wait_end(pid: i32, process: &OwnedFd) -> Result<(), StepError> {
    let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(END_WAIT_MAX).unwrap_or(PollTimeout::MAX);
    match nix::poll::poll(&mut fds, limit) {
        Ok(1) => Ok(()),
        _ => Err(StepError::NotEnded { pid, seconds: END_WAIT_MAX.as_secs() }),
    }
}
