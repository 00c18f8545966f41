//! Stops a process tree: every thread of every process, found again and again until none is new.
//!
//! A process that runs can make threads and children while it is looked at; one that is stopped
//! cannot. So each level is stopped as a whole before its children are listed, and the end is a
//! look at the whole tree that finds nothing new.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::errno::Errno;

use super::gpu::Paused;
use super::proc::{self, stat::Stat};
use super::steps::Steps;
use super::task::{self, restart, restart::Slept};
use super::{DumpError, Leave, UndoError, memory};
use crate::remote::freeze::FreezeError;
use crate::remote::tracee::Tracee;

/// Longest wait for a task to stop. One in an uninterruptible call cannot; NFS takes seconds.
pub(crate) const STOP_WAIT_MAX: Duration = Duration::from_secs(10);
/// Rounds of looking for new tasks. A tree that outruns this many forks without end.
const ROUNDS_MAX: usize = 1000;

/// One process of the tree.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) pid: i32,
    /// Place of the parent in the tree; `None` for the root.
    pub(crate) parent: Option<usize>,
    /// As read when it had been stopped.
    pub(crate) stat: Stat,
    /// All threads, the leader first; none of a zombie.
    pub(crate) threads: Vec<Tracee>,
    /// Signal that had stopped it before we did.
    pub(crate) stopped_by: Option<i32>,
    /// Threads that slept in a call with a time limit, by thread id.
    pub(crate) slept: BTreeMap<i32, Slept>,
}

impl Member {
    /// Whether it has exited.
    pub(crate) fn is_zombie(&self) -> bool {
        self.threads.is_empty()
    }
}

/// A tree of which nothing runs, parents before children.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) members: Vec<Member>,
    /// Members whose GPU queues were stopped. They go on before their threads do.
    pub(crate) paused: Paused,
}

impl Tree {
    /// Stops the tree of `root`.
    ///
    /// # Errors
    /// What stands in the way; whatever was stopped is in `self` all the same, to be let go.
    pub(crate) fn freeze(&mut self, root: i32, steps: &Steps) -> Result<(), DumpError> {
        self.stop(&[(root, None)], steps)?;
        let Some(first) = self.members.first() else {
            return Err(DumpError::NoProcess { pid: root });
        };
        if first.is_zombie() {
            return Err(DumpError::NoProcess { pid: root });
        }
        for _ in 0..ROUNDS_MAX {
            let fresh = self.fresh_children()?;
            if fresh.is_empty() {
                return Ok(());
            }
            self.stop(&fresh, steps)?;
        }
        Err(DumpError::Restless { rounds: ROUNDS_MAX })
    }

    /// Children that are not in the tree yet, with the place of their parent.
    fn fresh_children(&self) -> Result<Vec<(i32, Option<usize>)>, DumpError> {
        let known: std::collections::BTreeSet<i32> = self.members.iter().map(|m| m.pid).collect();
        let mut fresh = Vec::new();
        for (index, member) in self.members.iter().enumerate().filter(|(_, m)| !m.is_zombie()) {
            let children = proc::children(member.pid)?;
            let new = children.into_iter().filter(|child| !known.contains(child));
            fresh.extend(new.map(|child| (child, Some(index))));
        }
        Ok(fresh)
    }

    /// Stops these processes as a whole, all at once.
    fn stop(&mut self, pids: &[(i32, Option<usize>)], steps: &Steps) -> Result<(), DumpError> {
        let begin = self.members.len();
        for &(pid, parent) in pids {
            let (stat, threads) = (Stat::default(), Vec::new());
            let slept = BTreeMap::new();
            self.members.push(Member { pid, parent, stat, threads, stopped_by: None, slept });
        }
        for round in 0..=ROUNDS_MAX {
            let mut any = false;
            for member in &mut self.members[begin..] {
                any |= seize_new(member, steps)?;
            }
            if !any {
                break;
            }
            if round == ROUNDS_MAX {
                return Err(DumpError::Restless { rounds: ROUNDS_MAX });
            }
            for member in &mut self.members[begin..] {
                settle_new(member, steps)?;
            }
        }
        let mut index = begin;
        while index < self.members.len() {
            let member = &mut self.members[index];
            match Stat::of(member.pid) {
                Ok(stat) => {
                    member.stat = stat;
                    // The leader comes first; its id is the lowest to be listed only mostly.
                    member.threads.sort_by_key(|thread| thread.tid() != member.pid);
                    if !member.is_zombie() && member.threads[0].tid() != member.pid {
                        let pid = member.pid;
                        let live = member.threads.iter().all(Tracee::is_held);
                        let (gone, died) = (DumpError::LeaderGone { pid }, DumpError::Died { pid });
                        return Err(if live { gone } else { died });
                    }
                    index += 1;
                }
                // Collected by its parent before that was stopped.
                Err(DumpError::Read { source, .. })
                    if proc::is_gone(&source) && member.is_zombie() =>
                {
                    self.members.remove(index);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Checks that every process is held since it was stopped: what was read of one that was killed
    /// meanwhile may have been read of a process that was being taken apart.
    ///
    /// # Errors
    /// [`DumpError::Died`].
    pub(crate) fn check_held(&self) -> Result<(), DumpError> {
        let dead = |member: &&Member| !member.threads.iter().all(Tracee::is_held);
        match self.members.iter().find(dead) {
            Some(member) => Err(DumpError::Died { pid: member.pid }),
            None => Ok(()),
        }
    }

    /// Lets every task go, as it was found. What fails is a task that has gone, or a GPU.
    pub(crate) fn release(&mut self) -> Result<(), UndoError> {
        let mut result = self.paused.start_all().map_err(UndoError::from);
        for member in self.members.iter_mut().rev() {
            let slept = std::mem::take(&mut member.slept);
            for mut thread in member.threads.drain(..).rev() {
                if thread.is_settled() {
                    resume_call(&mut thread, &slept);
                }
                let put_back = thread.put_back();
                let released = put_back.and(thread.release());
                result = result.and(released.map_err(UndoError::from));
            }
        }
        result
    }

    /// Ends the dump as the caller wants it for the tree.
    pub(crate) fn conclude(&mut self, leave: Leave) -> Result<(), DumpError> {
        // A tree that is killed takes its queues along.
        if leave == Leave::Killed {
            self.kill()?;
            self.paused.forget();
            return Ok(());
        }
        // Before any thread of it runs: a program must not see its queues stand still.
        self.paused.start_all()?;
        match leave {
            Leave::Running | Leave::Killed => {}
            Leave::Stopped => {
                for member in self.members.iter().filter(|m| !m.is_zombie()) {
                    send(member.pid, libc::SIGSTOP)?;
                }
            }
        }
        self.release().map_err(|error| match error {
            UndoError::Trace(error) => error.into(),
            UndoError::Queues(error) => error.into(),
        })
    }

    /// Kills the tree, and waits until it is gone but for its exit statuses: who restores it next
    /// needs its ids and its GPU memory. Its parent sees it end, as upstream has it.
    fn kill(&self) -> Result<(), DumpError> {
        let live = || self.members.iter().filter(|member| !member.is_zombie());
        live().map(|member| send(member.pid, libc::SIGKILL)).fold(Ok(()), Result::and)?;
        // One that does not end in time is killed all the same.
        for thread in live().flat_map(|member| member.threads.iter().rev()) {
            let _ = thread.collect();
        }
        Ok(())
    }
}

/// The kernel restarts most calls that our stop has interrupted. Some it ends with `EINTR`, as if a
/// signal had come: those are made again.
fn resume_call(thread: &mut Tracee, slept: &BTreeMap<i32, Slept>) {
    let mut regs = *thread.registers();
    if !restart::ended_by_stop(&regs) {
        return;
    }
    let pending = |shared| thread.pending_signals(shared).unwrap_or_default();
    let mask = thread.signal_mask();
    let due = task::is_due(&pending(false), mask) || task::is_due(&pending(true), mask);
    if due {
        return;
    }
    let tid = thread.tid();
    let slept = slept.get(&tid).map(Slept::until_now);
    let word = |address| memory::word_at(tid, address);
    let patch = restart::rewind(&mut regs, &restart::Known { slept, signal: false, word: &word });
    // Without the rest of its time the call would last too long: then it is `EINTR`.
    let ready = match patch {
        Some(patch) => thread.write(patch.address, &patch.bytes).is_ok(),
        None => !restart::points_to_time(thread.registers()),
    };
    if ready {
        thread.go_on_with(regs);
    }
}

fn send(pid: i32, signal: i32) -> Result<(), DumpError> {
    let signal = nix::sys::signal::Signal::try_from(signal).expect("one of two constants");
    match nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(DumpError::Os { what: "signal", pid, errno }),
    }
}

/// Seizes the threads of a process that are not yet; whether there were any.
fn seize_new(member: &mut Member, steps: &Steps) -> Result<bool, DumpError> {
    let tids = match proc::threads(member.pid) {
        Err(DumpError::Read { source, .. }) if proc::is_gone(&source) => return Ok(false),
        other => other?,
    };
    let mut any = false;
    for tid in tids {
        if member.threads.iter().any(|thread| thread.tid() == tid) {
            continue;
        }
        steps.next("seize a thread")?;
        if let Some(slept) = restart::look(member.pid, tid) {
            member.slept.insert(tid, slept);
        }
        match Tracee::seize(tid) {
            Ok(thread) => {
                member.threads.push(thread);
                any = true;
            }
            // It has gone, or is dead and waits to be collected.
            Err(FreezeError::Refused { errno: Errno::ESRCH, .. }) => {}
            Err(FreezeError::Refused { errno: Errno::EPERM, .. }) if is_dead(member.pid, tid) => {}
            Err(FreezeError::Refused { errno: Errno::EPERM, .. }) => {
                return Err(out_of_reach(member.pid, tid));
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(any)
}

fn is_dead(pid: i32, tid: i32) -> bool {
    Stat::of_thread(pid, tid).map_or(true, |stat| stat.is_zombie())
}

fn out_of_reach(pid: i32, tid: i32) -> DumpError {
    let tracer = proc::status::Status::of(pid, tid).map_or(0, |status| status.tracer);
    match tracer {
        0 => DumpError::Os { what: "take hold", pid, errno: Errno::EPERM },
        tracer => DumpError::Traced { pid, tracer },
    }
}

/// Waits until the threads that were seized have stopped. One that ends meanwhile is dropped: the
/// first thread last, since its end is told after that of all others.
fn settle_new(member: &mut Member, steps: &Steps) -> Result<(), DumpError> {
    for index in (0..member.threads.len()).rev() {
        let thread = &mut member.threads[index];
        if thread.is_settled() {
            continue;
        }
        steps.next("wait for a thread to stop")?;
        match thread.settle(steps.patience(STOP_WAIT_MAX)) {
            Ok(group) => member.stopped_by = member.stopped_by.or(group),
            Err(FreezeError::Unexpected { .. } | FreezeError::Died { .. })
            | Err(FreezeError::Refused { errno: Errno::ESRCH | Errno::ECHILD, .. }) => {
                member.threads.remove(index);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
