//! The device behind its lock: calls carried out one at a time, parked ones answered later.
//!
//! The thread that reads requests must never wait for the lock: a call that is being carried out
//! may itself need an answer from it (see `descriptors`). So it puts jobs into a queue and carries
//! them out if the lock is free; if not, whoever holds the lock does so before letting it go. Jobs
//! keep the order in which they were read.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crossbeam::queue::SegQueue;
use nix::errno::Errno;

use super::pump::Pace;
use super::world::{CallWorld, Outside, now_ns};
use crate::model::{
    BufferId, Caller, DeviceNode, FileId, Outcome, Progress, SpaceId, Ticket, World,
};
use crate::node::callers::{Callers, Identity};
use crate::node::device::Device;
use crate::node::fuse::{RESTART, Reply};

/// Most interrupts that are kept for calls which have not been parked yet. An interrupt whose
/// call was answered meanwhile is kept for nothing, so old ones make room.
const EARLY_MAX: usize = 1024;

/// A call on an open file.
pub(crate) struct Call {
    pub(crate) identity: Identity,
    pub(crate) can_checkpoint: bool,
    pub(crate) file: FileId,
    pub(crate) request: u32,
    /// The argument block, as long as the request number says.
    pub(crate) block: Vec<u8>,
    /// How much of it goes back to the caller, in bytes.
    pub(crate) out_bytes: usize,
    pub(crate) reply: Reply,
}

/// Gets what the device answered; made by the thread that reads, called by the one that executes.
pub(crate) type Then<T> = Box<dyn FnOnce(T) + Send>;

/// Something that the device must be asked.
pub(crate) enum Job {
    Open { identity: Identity, node: DeviceNode, then: Then<Result<FileId, Errno>> },
    Call(Call),
    Release { file: FileId, reply: Reply },
    DmaBufBytes { buffer: BufferId, then: Then<Option<u64>> },
    Interrupt { unique: u64 },
    SpaceEnded(SpaceId),
}

/// A call that waits for its answer.
struct Parked {
    reply: Reply,
    out_bytes: usize,
    /// A signal has come to the caller.
    interrupted: bool,
}

struct State {
    device: Box<dyn Device>,
    parked: HashMap<Ticket, Parked>,
    tickets: HashMap<u64, Ticket>,
    /// Interrupts of calls that are still on their way.
    early: VecDeque<u64>,
    pace: Pace,
}

/// The device, its lock, and what waits for it.
pub(crate) struct Engine {
    state: Mutex<State>,
    backlog: SegQueue<Job>,
    outside: Arc<Outside>,
}

impl Engine {
    pub(crate) fn new(device: Box<dyn Device>, outside: Arc<Outside>) -> Self {
        let state = State {
            device,
            parked: HashMap::new(),
            tickets: HashMap::new(),
            early: VecDeque::new(),
            pace: Pace::default(),
        };
        Self { state: Mutex::new(state), backlog: SegQueue::new(), outside }
    }

    /// Has a job done, here if the device is free. Never waits for the lock.
    pub(crate) fn submit(&self, job: Job) {
        self.backlog.push(job);
        self.work_off();
    }

    /// Tells the device of address spaces that have ended.
    pub(crate) fn end_spaces(&self, callers: &Callers) {
        while let Some(space) = callers.take_ended() {
            self.submit(Job::SpaceEnded(space));
        }
    }

    /// Has a call done that may name descriptors; for the thread that does nothing else.
    pub(crate) fn call_and_wait(&self, call: Call) {
        self.with_lock(|state| state.call(&self.outside, call, true));
    }

    /// Ends waits whose time is over, lets the queues run, and says for how long nothing is to do:
    /// until a time of [`now_ns`], or for ever.
    pub(crate) fn run_queues(&self, budget_bytes: u64) -> Pause {
        self.with_lock(|state| {
            state.device.expire(now_ns());
            let mut world =
                CallWorld { outside: &self.outside, identity: None, may_resolve: false };
            let progress = state.device.run_queues(&mut world, budget_bytes);
            state.answer_finished();
            state.pause_after(progress)
        })
    }

    /// Answers all calls that wait, for a node that ends.
    pub(crate) fn abandon(&self) {
        self.with_lock(|state| {
            state.device.abandon_calls();
            state.answer_finished();
            // What the device has forgotten is answered all the same, as a reply is when dropped.
            state.parked.clear();
        });
    }

    fn with_lock<T>(&self, body: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = body(&mut state);
        self.drain(state);
        self.work_off();
        result
    }

    fn work_off(&self) {
        loop {
            // Against each other: "the queue is empty" of one thread, "the lock is taken" of
            // another. One of both sees what the other did.
            fence(Ordering::SeqCst);
            if self.backlog.is_empty() {
                return;
            }
            match self.state.try_lock() {
                Ok(state) => self.drain(state),
                Err(TryLockError::Poisoned(poisoned)) => self.drain(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => return,
            }
        }
    }

    fn drain(&self, mut state: MutexGuard<'_, State>) {
        while let Some(job) = self.backlog.pop() {
            state.run(&self.outside, job);
        }
        if state.must_wake_pump() {
            self.outside.control.wake_pump();
        }
    }
}

/// For how long the queues need nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Not at all.
    None,
    /// Until this time of [`now_ns`].
    Until(u64),
    /// Until something is called.
    Forever,
}

impl State {
    fn run(&mut self, outside: &Outside, job: Job) {
        let mut world = CallWorld { outside, identity: None, may_resolve: false };
        match job {
            Job::Call(call) => return self.call(outside, call, false),
            Job::Open { identity, node, then } => {
                let caller = caller(&identity, false);
                let mut world = CallWorld { identity: Some(identity), ..world };
                then(self.device.open(&mut world, &caller, node));
            }
            Job::Release { file, reply } => {
                self.device.release(&mut world, file);
                reply.empty();
            }
            Job::DmaBufBytes { buffer, then } => then(self.device.dma_buf_bytes(buffer)),
            Job::Interrupt { unique } => self.interrupt(&mut world, unique),
            Job::SpaceEnded(space) => self.device.space_ended(&mut world, space),
        }
        self.answer_finished();
    }

    fn call(&mut self, outside: &Outside, call: Call, may_resolve: bool) {
        let Call { identity, can_checkpoint, file, request, mut block, out_bytes, reply } = call;
        if outside.control.is_stopping() {
            return reply.error(Errno::ENODEV);
        }
        let caller = caller(&identity, can_checkpoint);
        let mut world = CallWorld { outside, identity: Some(identity), may_resolve };
        let outcome = self.device.ioctl(&mut world, &caller, file, request, &mut block);
        let unique = reply.unique();
        let early = self.early.iter().position(|early| *early == unique);
        if let Some(index) = early {
            self.early.remove(index);
        }
        match outcome {
            Outcome::Done(result) => reply.ioctl(returned(result), &block[..out_bytes]),
            Outcome::Later(ticket) => {
                self.pace.expect_work();
                self.parked.insert(ticket, Parked { reply, out_bytes, interrupted: false });
                self.tickets.insert(unique, ticket);
                if early.is_some() {
                    self.interrupt(&mut world, unique);
                }
            }
        }
        self.answer_finished();
    }

    /// A signal came to a caller. Its call may be parked, not yet carried out, or answered already.
    fn interrupt(&mut self, world: &mut dyn World, unique: u64) {
        let Some(ticket) = self.tickets.get(&unique) else {
            if self.early.len() == EARLY_MAX {
                self.early.pop_front();
            }
            return self.early.push_back(unique);
        };
        if let Some(parked) = self.parked.get_mut(ticket) {
            parked.interrupted = true;
        }
        self.device.interrupt(world, *ticket);
    }

    fn answer_finished(&mut self) {
        for finished in self.device.take_finished() {
            let Some(Parked { reply, out_bytes, interrupted }) =
                self.parked.remove(&finished.ticket)
            else {
                continue;
            };
            self.tickets.remove(&reply.unique());
            let result = match finished.result {
                Err(Errno::EINTR) if interrupted => RESTART,
                result => returned(result),
            };
            reply.ioctl(result, finished.arg.get(..out_bytes).unwrap_or(&finished.arg));
        }
    }

    fn pause_after(&mut self, progress: Progress) -> Pause {
        let now = now_ns();
        let pause = self.pace.after(progress, now);
        let deadline = self.device.next_deadline_ns();
        let pause = match (pause, deadline) {
            (Pause::Until(time), Some(deadline)) => Pause::Until(time.min(deadline)),
            (Pause::Forever, Some(deadline)) => Pause::Until(deadline),
            (pause, _) => pause,
        };
        self.pace.planned = pause;
        pause
    }

    /// Whether something has come that the pause of the pump is too long for.
    fn must_wake_pump(&mut self) -> bool {
        let deadline = self.device.next_deadline_ns();
        let missed = !self.pace.listening && self.device.has_queues();
        let late = match self.pace.planned {
            Pause::None => false,
            Pause::Until(time) => {
                let due = deadline.is_some_and(|deadline| deadline < time);
                missed || due || self.pace.expected && self.pace.listening
            }
            Pause::Forever => missed || deadline.is_some(),
        };
        if late {
            // Once is enough.
            self.pace.planned = Pause::None;
        }
        late
    }
}

fn caller(identity: &Identity, can_checkpoint: bool) -> Caller {
    Caller { space: identity.space, pid: identity.pid, can_checkpoint }
}

fn returned(result: Result<i32, Errno>) -> i32 {
    result.unwrap_or_else(|error| -(error as i32))
}
