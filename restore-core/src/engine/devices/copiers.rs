//! The threads that copy contents of buffers, as the coordinator sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::copy::{Copied, Copier, CopyJob};
use crate::contract::StepId;
use crate::engine::RestoreError;
use crate::engine::pool::{Started, start_beside};
use crate::plan::RestorePlan;

/// Most copiers: memory moves no faster with more.
const COPIERS_MAX: usize = 8;
/// Longest wait for the pieces that are in hand when the restore is given up: each is 16 MiB.
const LEAVE_WAIT_MAX: Duration = Duration::from_secs(2);

/// The threads, and how much they still have to do. Dropping it ends them.
#[derive(Debug)]
pub(in crate::engine) struct Copiers {
    /// Not bounded: a piece is small, and there are as many as the buffers have 16 MiB.
    /// `None` only while it is being dropped.
    queue: Option<(Sender<CopyJob>, Receiver<Copied>)>,
    /// The other end of it, to take back what nobody has begun.
    waiting: Receiver<CopyJob>,
    /// Pieces of each step.
    outstanding: BTreeMap<StepId, usize>,
    threads: Vec<JoinHandle<()>>,
}

impl Copiers {
    /// Starts as many as there are processors, or as workers if that is less, with thread ids that
    /// the tree does not need.
    pub(in crate::engine) fn start(plan: &RestorePlan, first: usize) -> Result<Self, RestoreError> {
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(COPIERS_MAX);
        let count = match plan.options.workers_max {
            0 => count,
            workers => count.min(workers),
        };
        let (jobs, take) = unbounded::<CopyJob>();
        let (report, done) = unbounded();
        let threads = start_beside(count, &plan.ids, |number, started| {
            let (take, report) = (take.clone(), report.clone());
            let images = plan.images.clone();
            let (bytes, verify) = (plan.options.copy_buffer_bytes, plan.options.verify_contents);
            let (begin, begun) = unbounded();
            let thread = std::thread::Builder::new()
                .name(format!("copier {number}"))
                .spawn(move || {
                    started.report(number);
                    // No word to begin comes if the thread's id stands in the way.
                    if let Ok(number) = begun.recv() {
                        let copier = Copier::new(images, bytes, verify);
                        copier.run(number, &take, &report);
                    }
                })
                .map_err(|source| RestoreError::Setup { what: "start a copier", source })?;
            Ok(Waiting { begin, thread })
        })?;
        let threads = threads.into_iter().enumerate();
        let threads = threads.map(|(number, thread)| thread.begin(first + number)).collect();
        let queue = Some((jobs, done));
        Ok(Self { queue, waiting: take, outstanding: BTreeMap::new(), threads })
    }

    /// How many there are.
    pub(in crate::engine) fn count(&self) -> usize {
        self.threads.len()
    }

    /// Queues contents.
    pub(in crate::engine) fn queue(&mut self, copies: Vec<CopyJob>) {
        for piece in copies.into_iter().flat_map(CopyJob::pieces) {
            *self.outstanding.entry(piece.step).or_default() += 1;
            if let Some((jobs, _)) = &self.queue {
                let _ = jobs.send(piece); // lost copiers are seen when they are waited for
            }
        }
    }

    /// What has been done.
    pub(in crate::engine) fn done(&self) -> Option<&Receiver<Copied>> {
        self.queue.as_ref().map(|(_, done)| done)
    }

    /// Notes that a piece of a step has been done.
    pub(in crate::engine) fn note(&mut self, step: StepId) {
        let left = self.outstanding.get_mut(&step).expect("the piece was queued");
        *left -= 1;
        if *left == 0 {
            self.outstanding.remove(&step);
        }
    }

    /// Steps of which something is left to do.
    pub(in crate::engine) fn outstanding(&self) -> BTreeSet<StepId> {
        self.outstanding.keys().copied().collect()
    }

    /// Whether nothing is left to do.
    pub(in crate::engine) fn is_idle(&self) -> bool {
        self.outstanding.is_empty()
    }
}

impl Drop for Copiers {
    /// Each ends with the piece that it has in hand. One that a driver holds up is left to
    /// end with its call.
    fn drop(&mut self) {
        let Some((jobs, done)) = self.queue.take() else { return };
        self.waiting.try_iter().for_each(drop);
        drop(jobs);
        let deadline = Instant::now() + LEAVE_WAIT_MAX;
        let end = loop {
            match done.recv_deadline(deadline) {
                Ok(_) => {} // nobody waits for this piece any more
                Err(end) => break end,
            }
        };
        for thread in self.threads.drain(..) {
            if end == RecvTimeoutError::Disconnected || thread.is_finished() {
                let _ = thread.join(); // a panic has been told, and its piece is missing
            }
        }
    }
}

/// A copier that waits for the word to begin.
struct Waiting {
    begin: Sender<usize>,
    thread: JoinHandle<()>,
}

impl Waiting {
    fn begin(self, number: usize) -> JoinHandle<()> {
        let _ = self.begin.send(number);
        self.thread
    }
}

impl Started for Waiting {
    fn end(self) -> std::thread::Result<()> {
        drop(self.begin);
        self.thread.join()
    }
}
