//! Calls that are answered later: parked under a ticket until what they wait for has come.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::world::{FileId, SpaceId, Ticket};
use super::{drm, events};

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The result; the argument block holds what goes back to the caller, also on failure.
    Done(Result<i32, Errno>),
    /// The answer comes from [`take_finished`](super::Model::take_finished).
    Later(Ticket),
}

impl From<Result<i32, Errno>> for Outcome {
    fn from(result: Result<i32, Errno>) -> Self {
        Self::Done(result)
    }
}

/// A parked call that has its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Which call.
    pub ticket: Ticket,
    /// Its result.
    pub result: Result<i32, Errno>,
    /// The argument block as the caller gets it back.
    pub arg: Vec<u8>,
}

/// What a parked call waits for.
#[derive(Clone, Debug)]
pub(crate) enum Wait {
    /// `AMDKFD_IOC_WAIT_EVENTS`.
    Events(events::EventWait),
    /// `DRM_IOCTL_AMDGPU_WAIT_CS` and its kin.
    Fence(drm::FenceWait),
}

/// A call that waits.
#[derive(Clone, Debug)]
pub(crate) struct Parked {
    /// Whose call.
    pub(crate) space: SpaceId,
    /// On which file.
    pub(crate) file: FileId,
    /// The argument block.
    pub(crate) arg: Vec<u8>,
    /// When it gives up, on the clock of `World::now_ns`.
    pub(crate) deadline_ns: Option<u64>,
    /// What for.
    pub(crate) wait: Wait,
}

/// All parked calls, and the answers that nobody has taken yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Calls {
    last: u64,
    pub(crate) parked: BTreeMap<Ticket, Parked>,
    finished: Vec<Finished>,
}

impl Calls {
    /// Parks a call.
    pub(crate) fn park(&mut self, parked: Parked) -> Outcome {
        self.last += 1;
        let ticket = Ticket(self.last);
        self.parked.insert(ticket, parked);
        Outcome::Later(ticket)
    }

    /// Answers a parked call; one that has its answer already is left alone.
    pub(crate) fn finish(&mut self, ticket: Ticket, result: Result<i32, Errno>) {
        if let Some(parked) = self.parked.remove(&ticket) {
            self.finished.push(Finished { ticket, result, arg: parked.arg });
        }
    }

    /// Answers all parked calls that `which` picks.
    pub(crate) fn finish_all(
        &mut self,
        result: Result<i32, Errno>,
        which: impl Fn(&Parked) -> bool,
    ) {
        let tickets: Vec<Ticket> =
            self.parked.iter().filter(|(_, parked)| which(parked)).map(|(id, _)| *id).collect();
        for ticket in tickets {
            self.finish(ticket, result);
        }
    }

    pub(crate) fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    pub(crate) fn next_deadline_ns(&self) -> Option<u64> {
        self.parked.values().filter_map(|parked| parked.deadline_ns).min()
    }
}
