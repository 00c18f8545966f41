//! Engines: what carries out the packets of queues and of jobs.
//!
//! # Turns
//!
//! Every queue that runs and every row of jobs takes turns of [`TURN_BYTES`], packet by packet,
//! until the budget of a call is used up or nobody can go on. A packet costs at least some bytes,
//! so that the budget bounds the number of packets too. What waits is looked at again in every
//! round.
//!
//! # Jobs
//!
//! The calls of render nodes hand a [`Job`] to [`Engines::submit`] and may then ask
//! [`Engines::is_over`] and [`Engines::error_of`] about it. Whenever jobs have ended,
//! `Model::run_queues` calls `Model::fences_advanced` once before it returns: that looks at the
//! parked calls that wait for fences and answers those whose wait is over. `Model::expire` calls
//! `Model::fence_wait_expired` for one whose time is over.

mod aql;
mod code;
mod jobs;
mod kernels;
mod pm4;
mod port;
mod position;
mod sdma;
mod step;
mod turns;

#[cfg(test)]
mod tests;

use nix::errno::Errno;

use super::world::FileId;
use jobs::Jobs;
pub(crate) use jobs::{IndirectBuffer, Job};
pub use kernels::BuiltinKernel;
pub(crate) use position::{Nested, Position};

/// Engines of all GPUs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Engines {
    jobs: Jobs,
    /// Whose turn is first in the next call.
    turn: usize,
}

impl Engines {
    pub(crate) fn new(_gpus: usize) -> Self {
        Self::default()
    }

    /// Takes a job; its context carries it out after all that it was given before.
    ///
    /// # Errors
    /// `ENOMEM` if too many wait, `ECANCELED` if a job of that context has failed (the driver calls
    /// the context guilty).
    pub(crate) fn submit(&mut self, job: Job) -> Result<(), Errno> {
        self.jobs.submit(job)
    }

    /// Whether a job that was taken has ended, well or not. All jobs of a forgotten row that is
    /// idle, and of a file that is closed, count as ended.
    pub(crate) fn is_over(&self, file: FileId, context: u32, sequence: u64) -> bool {
        self.jobs.is_over(file, context, sequence)
    }

    /// What went wrong with a job that has ended: `ETIME` for one with packets that no engine
    /// knows, which hangs a real engine until its time is over.
    pub(crate) fn error_of(&self, file: FileId, context: u32, sequence: u64) -> Option<Errno> {
        self.jobs.error_of(file, context, sequence)
    }

    /// Nobody will add to a row or ask how its jobs ended: it goes with its last job.
    pub(crate) fn forget_row(&mut self, file: FileId, context: u32) {
        self.jobs.forget_row(file, context);
    }

    /// Drops the jobs and the record of a file that has seen its last close.
    pub(crate) fn forget_file(&mut self, file: FileId) {
        self.jobs.forget_file(file);
    }
}
