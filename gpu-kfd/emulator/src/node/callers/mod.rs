//! Who calls: from the thread id in a request to the address space that the driver knows.
//!
//! A request names the calling thread. The driver's state belongs to address spaces, as in the KFD,
//! whose processes are found by `mm`. What is known of a thread is kept, and looked at again at
//! each call, since it may have become wrong in two ways: the thread ended and its number was given
//! to another (a pidfd of the thread tells), or it executed another program (a mark in memory
//! tells). The caller waits for us meanwhile, so it can do neither while we look.
//!
//! Several processes may share one space (`vfork`, `CLONE_VM`): `kcmp` tells. A space ends when its
//! last user exits or executes something. Exits are events of pidfds; for the rest
//! [`Callers::look`] is called when a file is closed (`exec` closes files), and now and then.

mod space;
mod status;

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam::queue::SegQueue;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use space::Mark;
pub(crate) use space::{Space, read_memory, write_memory};
use status::Status;

use super::raw;
use crate::model::SpaceId;

/// Most threads that are kept; the oldest are forgotten, and found again when they call. Each
/// holds a descriptor, and a process may have 1024 without asking for more.
const THREADS_MAX: usize = 256;
/// Set in the number of an epoll event that is about a process, not a thread.
const PROCESS: u64 = 1 << 32;

/// Whose call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) space: SpaceId,
    pub(crate) tid: i32,
    /// Its process.
    pub(crate) pid: i32,
}

#[derive(Debug)]
struct Thread {
    pidfd: OwnedFd,
    pid: i32,
    space: Arc<Space>,
}

#[derive(Debug)]
struct Process {
    pidfd: OwnedFd,
    space: Arc<Space>,
}

#[derive(Debug, Default)]
struct State {
    last_space: u64,
    threads: HashMap<i32, Arc<Thread>>,
    /// In the order in which they came, for forgetting; may name threads that have gone.
    order: VecDeque<i32>,
    processes: HashMap<i32, Process>,
    spaces: HashMap<SpaceId, Arc<Space>>,
}

/// All clients that are known.
pub(crate) struct Callers {
    state: Mutex<State>,
    events: Epoll,
    /// Spaces that ended, each once, until somebody takes them.
    ended: SegQueue<SpaceId>,
}

impl Callers {
    /// # Errors
    /// `EMFILE`.
    pub(crate) fn new() -> Result<Self, Errno> {
        let events = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { state: Mutex::default(), events, ended: SegQueue::new() })
    }

    /// A space that has ended and was not taken before. The driver must hear of it before it
    /// hears of anything that was found out later.
    pub(crate) fn take_ended(&self) -> Option<SpaceId> {
        self.ended.pop()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose call a request of this thread is. The thread must wait for the answer.
    ///
    /// # Errors
    /// `ESRCH` for a thread that our pid namespace does not show; `EMFILE` if there are more
    /// processes than descriptors for them (two each).
    pub(crate) fn identify(&self, tid: i32) -> Result<Identity, Errno> {
        if tid <= 0 {
            return Err(Errno::ESRCH);
        }
        let known = self.state().threads.get(&tid).map(Arc::clone);
        if let Some(thread) = known
            && !has_ended(&thread.pidfd)
            && thread.space.still_holds(tid)
        {
            return Ok(Identity { space: thread.space.id(), tid, pid: thread.pid });
        }
        match self.identify_anew(tid) {
            // Remembered threads hold descriptors that can be had again.
            Err(Errno::EMFILE) => {
                self.state().forget_threads();
                self.identify_anew(tid)
            }
            identified => identified,
        }
    }

    fn identify_anew(&self, tid: i32) -> Result<Identity, Errno> {
        let pidfd = raw::pidfd_of_thread(tid)?;
        let pid = Status::read(tid)?.tgid;
        let mut state = self.state();
        let found = self.space_of(&mut state, tid, pid);
        let space = found?;
        self.watch(&pidfd, tid as u64)?;
        let id = space.id();
        state.remember(tid, Thread { pidfd, pid, space });
        Ok(Identity { space: id, tid, pid })
    }

    /// The space of a thread: that of its process, one shared with another process, or a new one.
    fn space_of(&self, state: &mut State, tid: i32, pid: i32) -> Result<Arc<Space>, Errno> {
        let mark = Mark::of(tid)?;
        if let Some(process) = state.processes.get(&pid) {
            let space = Arc::clone(&process.space);
            if !has_ended(&process.pidfd) && space.is_alive() && space.shows(mark) {
                space.mark_again(mark);
                return Ok(space);
            }
            state.forget_process(pid);
        }
        state.look(&self.ended);
        let space = match state.shared(tid, mark)? {
            Some(space) => space,
            None => {
                state.last_space += 1;
                let space = Arc::new(Space::of(SpaceId(state.last_space), tid, mark)?);
                state.spaces.insert(space.id(), Arc::clone(&space));
                space
            }
        };
        let pidfd = raw::pidfd_of_process(pid)?;
        self.watch(&pidfd, PROCESS | pid as u64)?;
        state.processes.insert(pid, Process { pidfd, space: Arc::clone(&space) });
        Ok(space)
    }

    fn watch(&self, pidfd: &OwnedFd, number: u64) -> Result<(), Errno> {
        self.events.add(pidfd, EpollEvent::new(EpollFlags::EPOLLIN, number))
    }

    /// Lets [`Callers::wait`] return when `file` is readable, too.
    ///
    /// # Errors
    /// Those of `epoll_ctl`.
    pub(crate) fn also_wait_for(&self, file: impl AsFd) -> Result<(), Errno> {
        self.events.add(file, EpollEvent::new(EpollFlags::EPOLLIN, u64::MAX))
    }

    /// Sleeps until something ends or the other file is readable, and looks after what ended.
    ///
    /// # Errors
    /// Those of `epoll_wait`.
    pub(crate) fn wait(&self, limit: EpollTimeout) -> Result<(), Errno> {
        let mut events = [EpollEvent::empty(); 16];
        let count = match self.events.wait(&mut events, limit) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        let mut state = self.state();
        for event in &events[..count] {
            let number = (event.data() & !PROCESS) as i32;
            match event.data() {
                u64::MAX => {}
                data if data & PROCESS != 0 => state.process_event(number),
                _ => state.thread_event(number),
            }
        }
        state.look(&self.ended);
        Ok(())
    }

    /// Looks for spaces that have ended.
    pub(crate) fn look(&self) {
        self.state().look(&self.ended);
    }

    /// Whether there is any client to look after.
    pub(crate) fn has_spaces(&self) -> bool {
        !self.state().spaces.is_empty()
    }

    /// A space that has not ended.
    pub(crate) fn space(&self, id: SpaceId) -> Option<Arc<Space>> {
        self.state().spaces.get(&id).map(Arc::clone)
    }

    /// Whether a caller has the capability to checkpoint.
    ///
    /// # Errors
    /// `ESRCH` if it has gone.
    pub(crate) fn can_checkpoint(&self, caller: &Identity) -> Result<bool, Errno> {
        status::can_checkpoint(caller.tid)
    }

    /// Id of a process of a space in its own pid namespace.
    pub(crate) fn own_pid(&self, id: SpaceId) -> Option<u32> {
        self.a_process_in(id).and_then(|pid| Status::read(pid).ok()).map(|status| status.own_pid())
    }

    /// The thread that traces the leading thread of a space's process; 0 if none does.
    pub(crate) fn tracer_of(&self, id: SpaceId) -> i32 {
        let status = self.a_process_in(id).and_then(|pid| Status::read(pid).ok());
        status.map_or(0, |status| status.tracer)
    }

    fn a_process_in(&self, id: SpaceId) -> Option<i32> {
        let state = self.state();
        let processes = state.processes.iter().filter(|(_, found)| found.space.id() == id);
        processes.map(|(pid, _)| *pid).min()
    }

    /// The space of a process by its id as the caller sees it, if the process is a client.
    ///
    /// The process is visible to the caller if its own pid namespace is the caller's or lies
    /// within.
    pub(crate) fn space_of_pid(&self, caller: &Identity, pid: i32) -> Option<SpaceId> {
        let depth = Status::read(caller.tid).ok()?.ids.len();
        let namespace = status::pid_namespace(caller.tid).ok()?;
        let known: Vec<(i32, SpaceId)> = {
            let state = self.state();
            state.processes.iter().map(|(pid, found)| (*pid, found.space.id())).collect()
        };
        let found = known.into_iter().find(|(candidate, _)| {
            let Ok(status) = Status::read(*candidate) else { return false };
            status.ids.get(depth - 1) == Some(&pid)
                && raw::is_in_pid_namespace(*candidate, namespace, status.ids.len() - depth)
        });
        found.map(|(_, space)| space)
    }
}

impl State {
    fn remember(&mut self, tid: i32, thread: Thread) {
        if self.threads.insert(tid, Arc::new(thread)).is_none() {
            self.order.push_back(tid);
        }
        while self.threads.len() > THREADS_MAX {
            match self.order.pop_front() {
                Some(oldest) => self.threads.remove(&oldest),
                None => return,
            };
        }
        if self.order.len() > 4 * THREADS_MAX {
            self.order.retain(|tid| self.threads.contains_key(tid));
        }
    }

    fn forget_threads(&mut self) {
        self.threads.clear();
        self.order.clear();
    }

    fn thread_event(&mut self, tid: i32) {
        // The number may have been given to another thread since.
        if self.threads.get(&tid).is_some_and(|thread| has_ended(&thread.pidfd)) {
            self.threads.remove(&tid);
        }
    }

    fn process_event(&mut self, pid: i32) {
        if self.processes.get(&pid).is_some_and(|process| has_ended(&process.pidfd)) {
            self.forget_process(pid);
        }
    }

    fn forget_process(&mut self, pid: i32) {
        self.processes.remove(&pid);
        self.threads.retain(|_, thread| thread.pid != pid);
    }

    /// Takes out the spaces that nobody uses any more.
    fn look(&mut self, gone: &SegQueue<SpaceId>) {
        let dead: Vec<SpaceId> = self
            .spaces
            .values()
            .filter(|space| !space.is_alive())
            .map(|space| space.id())
            .collect();
        for id in dead {
            if let Some(space) = self.spaces.remove(&id) {
                space.end();
            }
            let left = self.processes.iter().filter(|(_, process)| process.space.id() == id);
            let left: Vec<i32> = left.map(|(pid, _)| *pid).collect();
            left.into_iter().for_each(|pid| self.forget_process(pid));
            gone.push(id);
        }
    }

    /// A known space that a thread of an unknown process is in.
    fn shared(&self, tid: i32, mark: Option<Mark>) -> Result<Option<Arc<Space>>, Errno> {
        for (pid, process) in &self.processes {
            let space = &process.space;
            if !space.shows(mark) {
                continue;
            }
            let threads = match status::threads_of(*pid) {
                Err(Errno::ESRCH) => continue,
                threads => threads?,
            };
            // The process may itself have executed something since it was last seen, and its
            // leading thread may have ended before the others.
            let shares = |other: &i32| space.still_holds(*other) && raw::share_memory(tid, *other);
            if threads.iter().any(shares) {
                return Ok(Some(Arc::clone(space)));
            }
        }
        Ok(None)
    }
}

/// Whether what a pidfd stands for has ended.
fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO) != Ok(0)
}
