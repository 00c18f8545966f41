//! The workers as the coordinator sees them: started before anything else, led by messages.
//!
//! Threads take their ids from the same numbers as the tree's tasks. So all are started first,
//! those that stand on an id of the tree are replaced, and only then does the tree begin.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded, unbounded};

use super::target::Target;
use super::worker::{self, Order, Report, Surroundings};
use super::{Event, RestoreError, Stage};
use crate::remote::ring::Remote;
use crate::remote::spawn::Brood;

/// Threads started in vain until one has an id that the tree does not need. Ids are handed out
/// in ascending order, so as many can be in the way as the tree has; this is the end of patience.
const THREADS_TRIED_MAX: usize = 10_000;

/// Orders that can wait for one worker: its targets' births and one stage.
const ORDERS_QUEUED_MAX: usize = 1024;

#[derive(Debug)]
struct Hand {
    orders: Sender<Order>,
    thread: JoinHandle<()>,
}

/// The worker threads. Dropping it ends them: their order channels close.
#[derive(Debug)]
pub(super) struct Pool {
    hands: Vec<Hand>,
    reports: Receiver<Report>,
    report_to: Sender<Report>,
    /// Which worker owns which target.
    owners: Vec<usize>,
}

impl Pool {
    /// Starts `count` workers whose thread ids are not in `ids`.
    pub(super) fn start(
        count: usize,
        ids: &BTreeSet<i32>,
        host: &Surroundings,
    ) -> Result<Self, RestoreError> {
        let (report_to, reports) = unbounded();
        let mut pool = Self { hands: Vec::new(), reports, report_to, owners: Vec::new() };
        // Kept alive until all are found, or the kernel could hand out the same id again.
        let mut rejected = Vec::new();
        let mut waiting = BTreeMap::new();
        let mut started = 0;
        while pool.hands.len() < count {
            while pool.hands.len() + waiting.len() < count {
                waiting.insert(started, pool.spawn(started, host)?);
                started += 1;
            }
            let Ok(Report::Started { worker, tid }) = pool.reports.recv() else {
                return Err(RestoreError::WorkerLost);
            };
            let hand = waiting.remove(&worker).expect("each worker reports once");
            if !ids.contains(&tid) {
                pool.hands.push(hand);
            } else if rejected.len() < THREADS_TRIED_MAX {
                rejected.push(hand);
            } else {
                return Err(RestoreError::IdTaken { id: tid });
            }
        }
        for hand in rejected {
            drop(hand.orders);
            hand.thread.join().map_err(|_| RestoreError::WorkerLost)?;
        }
        Ok(pool)
    }

    fn spawn(&self, worker: usize, host: &Surroundings) -> Result<Hand, RestoreError> {
        let (orders, receive) = bounded(ORDERS_QUEUED_MAX);
        let (reports, host) = (self.report_to.clone(), host.clone());
        let thread = std::thread::Builder::new()
            .name(format!("worker {worker}"))
            .spawn(move || {
                let tid = nix::unistd::gettid().as_raw();
                let _ = reports.send(Report::Started { worker, tid });
                worker::run(&receive, &reports, &host);
            })
            .map_err(|source| RestoreError::Setup { what: "start a worker", source })?;
        Ok(Hand { orders, thread })
    }

    /// Deals the targets out, one after the other.
    pub(super) fn adopt(&mut self, targets: Vec<Target>) {
        let count = self.hands.len();
        let mut shares: Vec<Vec<Target>> = (0..count).map(|_| Vec::new()).collect();
        self.owners = (0..targets.len()).map(|index| index % count).collect();
        for (index, target) in targets.into_iter().enumerate() {
            shares[index % count].push(target);
        }
        for (hand, share) in self.hands.iter().zip(shares) {
            let _ = hand.orders.send(Order::Adopt(share));
        }
    }

    /// Hands every new process to its worker until all `count` have made their children.
    pub(super) fn create(
        &mut self,
        root: Remote,
        count: usize,
        brood: &mut Brood,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(), RestoreError> {
        self.deliver(0, root, brood);
        let mut created = 0;
        while created < count {
            match self.reports.recv() {
                Ok(Report::Born { index, leader }) => self.deliver(index, leader, brood),
                Ok(Report::Step { pid, stage, begin, end }) => {
                    created += 1;
                    observe(Event::Step { pid, stage, begin, end });
                }
                Ok(Report::Failed(error)) => {
                    self.take_stragglers(brood);
                    return Err(*error);
                }
                Ok(Report::Started { .. } | Report::Finished { .. }) => {}
                Err(_) => return Err(RestoreError::WorkerLost),
            }
        }
        observe(Event::Reached(Stage::Create));
        Ok(())
    }

    fn deliver(&self, index: usize, leader: Remote, brood: &mut Brood) {
        brood.add(leader.tid(), std::sync::Arc::clone(leader.process()));
        let _ = self.hands[self.owners[index]].orders.send(Order::Born(index, leader));
    }

    /// After a failure: kills what is known, so that nothing more is born, then takes in what was
    /// born meanwhile.
    fn take_stragglers(&mut self, brood: &mut Brood) {
        brood.kill();
        for hand in self.hands.drain(..) {
            drop(hand.orders);
            let _ = hand.thread.join();
        }
        while let Ok(report) = self.reports.try_recv() {
            if let Report::Born { leader, .. } = report {
                brood.add(leader.tid(), std::sync::Arc::clone(leader.process()));
            }
        }
    }

    /// Leads all workers through a stage.
    pub(super) fn stage(
        &self,
        stage: Stage,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(), RestoreError> {
        for hand in &self.hands {
            let _ = hand.orders.send(Order::Begin(stage));
        }
        let mut finished = 0;
        while finished < self.hands.len() {
            match self.reports.recv() {
                Ok(Report::Finished { stage: of }) if of == stage => finished += 1,
                Ok(Report::Step { pid, stage, begin, end }) => {
                    observe(Event::Step { pid, stage, begin, end });
                }
                Ok(Report::Failed(error)) => return Err(*error),
                Ok(Report::Started { .. } | Report::Finished { .. } | Report::Born { .. }) => {}
                Err(_) => return Err(RestoreError::WorkerLost),
            }
        }
        observe(Event::Reached(stage));
        Ok(())
    }
}
