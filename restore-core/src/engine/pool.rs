//! The workers as the coordinator sees them: started before anything else, led by messages.
//!
//! Threads take their ids from the same numbers as the tree's tasks. So all are started first,
//! those that stand on an id of the tree are replaced, and only then does the tree begin.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};

use super::devices::Product;
use super::devices::copiers::Copiers;
use super::devices::copy::Copied;
use super::devices::sabotage::{Chooser, Sabotage, leak};
use super::target::Target;
use super::worker::{self, Order, Report, Surroundings};
use super::{Event, RestoreError, Stage};
use crate::contract::{DeviceStep, Outline, Schedule, StepId, TraceEvent, TraceStage};
use crate::plan::RestorePlan;
use crate::remote::ring::Remote;
use crate::remote::spawn::Brood;
use crate::stop::Stop;
use crate::summary::ProcessBytes;

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

/// A thread that was started and has told its id; it may turn out to be in the way.
pub(in crate::engine) trait Started {
    /// Ends it before it has done anything.
    fn end(self) -> std::thread::Result<()>;
}

impl Started for Hand {
    fn end(self) -> std::thread::Result<()> {
        drop(self.orders);
        self.thread.join()
    }
}

/// Where a new thread tells its id.
#[derive(Clone, Debug)]
pub(in crate::engine) struct Birth(Sender<(usize, i32)>);

impl Birth {
    /// Says that the calling thread is the one with this number.
    pub(super) fn report(&self, number: usize) {
        let _ = self.0.send((number, nix::unistd::gettid().as_raw()));
    }
}

/// Starts threads until `count` of them have ids that are not in `ids`; the others are ended.
pub(in crate::engine) fn start_beside<T: Started>(
    count: usize,
    ids: &BTreeSet<i32>,
    mut start: impl FnMut(usize, Birth) -> Result<T, RestoreError>,
) -> Result<Vec<T>, RestoreError> {
    let (births, born) = unbounded();
    let births = Birth(births);
    let (mut kept, mut waiting) = (Vec::new(), BTreeMap::new());
    // Kept alive until all are found, or the kernel could hand out the same id again.
    let mut rejected = Vec::new();
    let mut started = 0;
    while kept.len() < count {
        while kept.len() + waiting.len() < count {
            waiting.insert(started, start(started, births.clone())?);
            started += 1;
        }
        let Ok((number, tid)) = born.recv() else {
            return Err(RestoreError::WorkerLost);
        };
        let thread = waiting.remove(&number).expect("each thread reports once");
        if !ids.contains(&tid) {
            kept.push(thread);
        } else if rejected.len() < THREADS_TRIED_MAX {
            rejected.push(thread);
        } else {
            return Err(RestoreError::IdTaken { id: tid, user: super::IdUser::of(tid) });
        }
    }
    for thread in rejected {
        thread.end().map_err(|_| RestoreError::WorkerLost)?;
    }
    Ok(kept)
}

/// The worker threads. Dropping it ends them: their order channels close.
#[derive(Debug)]
pub(super) struct Pool {
    hands: Vec<Hand>,
    reports: Receiver<Report>,
    report_to: Sender<Report>,
    /// Which worker owns which target.
    owners: Vec<usize>,
    copiers: Option<Copiers>,
    silence_max: Duration,
    /// Looked at while workers are waited for, but not while the tree is let go.
    stop: Stop,
    /// How much is in place, by process.
    filled: BTreeMap<i32, ProcessBytes>,
}

impl Pool {
    /// Starts `count` workers whose thread ids are not in `ids`.
    pub(super) fn start(
        count: usize,
        ids: &BTreeSet<i32>,
        silence_max: Duration,
        stop: Stop,
        host: &Surroundings,
    ) -> Result<Self, RestoreError> {
        let (report_to, reports) = unbounded();
        let (hands, owners, copiers, filled) = (Vec::new(), Vec::new(), None, BTreeMap::new());
        let mut pool =
            Self { hands, reports, report_to, owners, copiers, silence_max, stop, filled };
        pool.hands = start_beside(count, ids, |worker, birth| pool.spawn(worker, birth, host))?;
        Ok(pool)
    }

    fn spawn(
        &self,
        worker: usize,
        birth: Birth,
        host: &Surroundings,
    ) -> Result<Hand, RestoreError> {
        let (orders, receive) = bounded(ORDERS_QUEUED_MAX);
        let (reports, host) = (self.report_to.clone(), host.clone());
        let thread = std::thread::Builder::new()
            .name(format!("worker {worker}"))
            .spawn(move || {
                birth.report(worker);
                let run = || worker::run(&receive, &reports, &host);
                // A panic is a bug; the coordinator must hear of it.
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
                    let _ = reports.send(Report::Failed(Box::new(RestoreError::WorkerLost)));
                }
            })
            .map_err(|source| RestoreError::Setup { what: "start a worker", source })?;
        Ok(Hand { orders, thread })
    }

    /// Starts the threads that copy contents of buffers.
    pub(super) fn start_copiers(&mut self, plan: &RestorePlan) -> Result<(), RestoreError> {
        self.copiers = Some(Copiers::start(plan, self.hands.len())?);
        Ok(())
    }

    /// The number of the coordinator in a trace.
    pub(super) fn coordinator(&self) -> usize {
        self.hands.len() + self.copiers.as_ref().map_or(0, Copiers::count)
    }

    /// Deals the targets out, one after the other.
    pub(super) fn adopt(&mut self, targets: Vec<Target>) {
        let count = self.hands.len();
        let mut shares: Vec<Vec<Target>> = (0..count).map(|_| Vec::new()).collect();
        self.owners = (0..targets.len()).map(|index| index % count).collect();
        for (index, target) in targets.into_iter().enumerate() {
            shares[index % count].push(target);
        }
        for (worker, (hand, share)) in self.hands.iter().zip(shares).enumerate() {
            let _ = hand.orders.send(Order::Adopt(worker, share));
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
            let report = self.listen();
            match report.inspect_err(|_| self.take_stragglers(brood))? {
                Report::Born { index, leader } => self.deliver(index, leader, brood),
                Report::Event(event) => observe(Event::Step(event)),
                Report::Filled { pid, bytes } => observe(self.note_filled(pid, bytes, 0)),
                Report::Created => created += 1,
                Report::Failed(error) => {
                    self.take_stragglers(brood);
                    return Err(*error);
                }
                Report::Device { .. } | Report::Finished { .. } => {}
            }
        }
        Ok(())
    }

    /// The next word of a worker, unless the restore is to be given up.
    fn listen(&self) -> Result<Report, RestoreError> {
        loop {
            self.stop.look()?;
            match self.reports.recv_timeout(self.stop.period()) {
                Ok(report) => return Ok(report),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(RestoreError::WorkerLost),
            }
        }
    }

    /// So much more of a process is in place.
    fn note_filled(&mut self, pid: i32, memory_bytes: u64, gpu_bytes: u64) -> Event {
        let filled = self.filled.entry(pid).or_insert(ProcessBytes { pid, ..Default::default() });
        filled.memory_bytes += memory_bytes;
        filled.gpu_bytes += gpu_bytes;
        Event::Filled(*filled)
    }

    /// How much is in place, of all processes that have anything.
    pub(super) fn filled(&self) -> impl Iterator<Item = &ProcessBytes> {
        self.filled.values()
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
    ///
    /// The release is not given up any more: parts of the tree run already.
    pub(super) fn stage(
        &mut self,
        stage: Stage,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(), RestoreError> {
        self.stop.look()?;
        for hand in &self.hands {
            let _ = hand.orders.send(Order::Begin(stage));
        }
        let mut finished = 0;
        while finished < self.hands.len() {
            let report = match stage {
                Stage::Release => self.reports.recv().map_err(|_| RestoreError::WorkerLost),
                _ => self.listen(),
            };
            match report? {
                Report::Finished { stage: of } if of == stage => finished += 1,
                Report::Event(event) => observe(Event::Step(event)),
                Report::Filled { pid, bytes } => observe(self.note_filled(pid, bytes, 0)),
                Report::Failed(error) => return Err(*error),
                Report::Created
                | Report::Device { .. }
                | Report::Finished { .. }
                | Report::Born { .. } => {}
            }
        }
        Ok(())
    }

    /// Restores all device files, in an order that the schedule chooses and the contract allows.
    /// `targets` says whose each step is.
    pub(super) fn devices(
        &mut self,
        outline: &Outline,
        schedule: (Schedule, Option<Sabotage>),
        targets: &[usize],
        observe: &mut dyn FnMut(Event),
    ) -> Result<(), RestoreError> {
        let (schedule, sabotage) = schedule;
        let scheduler = Chooser::new(outline, schedule, sabotage);
        let mut scheduler = scheduler.map_err(RestoreError::Schedule)?;
        let mut last = None;
        let mut given: BTreeMap<StepId, Vec<Product>> = BTreeMap::new();
        let mut running = BTreeSet::new();
        while !scheduler.is_done() {
            for step in scheduler.start() {
                running.insert(step);
                let index = targets[step.0];
                let given = given.remove(&step).unwrap_or_default();
                let orders = &self.hands[self.owners[index]].orders;
                let _ = orders.send(Order::Device { index, step, given });
            }
            let waits_for = || names(outline, &running);
            let Some(report) = self.hear(outline, waits_for, observe)? else { continue };
            match report {
                Report::Event(event) => observe(Event::Step(event)),
                Report::Filled { pid, bytes } => observe(self.note_filled(pid, bytes, 0)),
                Report::Device { step, products, mut copies } => {
                    if sabotage == Some(Sabotage::StateLeaked) {
                        leak(&mut last, &mut copies);
                    }
                    hand_on(outline, step, products, &mut given)?;
                    if let Some(copiers) = &mut self.copiers {
                        copiers.queue(copies);
                    }
                    running.remove(&step);
                    scheduler.finished(step);
                }
                Report::Failed(error) => return Err(named(*error, outline)),
                Report::Created | Report::Finished { .. } | Report::Born { .. } => {}
            }
        }
        Ok(())
    }

    /// Waits until all contents have arrived.
    pub(super) fn contents(
        &mut self,
        outline: &Outline,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(), RestoreError> {
        while let Some(copiers) = self.copiers.as_ref().filter(|copiers| !copiers.is_idle()) {
            let steps = copiers.outstanding();
            // Workers have nothing left to say but what they have reached.
            let waits_for = || format!("a copy into buffers of {}", names(outline, &steps));
            self.hear(outline, waits_for, observe)?;
        }
        self.copiers = None;
        Ok(())
    }

    /// The next word of a worker; what copiers say is dealt with on the way.
    fn hear(
        &mut self,
        outline: &Outline,
        waits_for: impl Fn() -> String,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Option<Report>, RestoreError> {
        let never = crossbeam::channel::never();
        let copied = self.copiers.as_ref().and_then(Copiers::done).unwrap_or(&never);
        let begin = Instant::now();
        let copied = loop {
            self.stop.look()?;
            crossbeam::select! {
                recv(self.reports) -> report => {
                    return report.map(Some).map_err(|_| RestoreError::WorkerLost);
                }
                recv(copied) -> copied => break copied.map_err(|_| RestoreError::WorkerLost)?,
                default(self.stop.period().min(self.silence_max)) => {}
            }
            if begin.elapsed() >= self.silence_max {
                let seconds = self.silence_max.as_secs();
                return Err(RestoreError::Overdue { what: waits_for(), seconds });
            }
        };
        if let Some(copiers) = &mut self.copiers {
            copiers.note(copied.step);
        }
        let Copied { step, copier, begin_ns, end_ns, piece, result } = copied;
        let pid = outline.step(step).pid;
        let outcome = result.as_ref().map(|&()| ()).map_err(ToString::to_string);
        observe(Event::Step(TraceEvent {
            stage: TraceStage::Contents,
            pid,
            step: Some(step),
            worker: copier,
            begin_ns,
            end_ns,
            outcome,
            piece: Some(piece),
        }));
        let label = outline.label(step);
        result.map_err(|source| RestoreError::Contents { pid, label, source })?;
        observe(self.note_filled(pid, 0, piece.bytes));
        Ok(None)
    }
}

/// Gives what a step has made to those that wait for it.
fn hand_on(
    outline: &Outline,
    from: StepId,
    products: Vec<Product>,
    given: &mut BTreeMap<StepId, Vec<Product>>,
) -> Result<(), RestoreError> {
    for (reason, made) in products {
        let edges = outline.edges.iter();
        for edge in edges.filter(|edge| edge.from == from && edge.reason == reason) {
            let copy = made.try_clone().map_err(|source| {
                let what = "copy a descriptor (see RLIMIT_NOFILE)";
                RestoreError::Setup { what, source }
            })?;
            given.entry(edge.to).or_default().push((reason.clone(), copy));
        }
    }
    Ok(())
}

/// Steps for people.
fn names(outline: &Outline, steps: &BTreeSet<StepId>) -> String {
    let name = |&step: &StepId| {
        let DeviceStep { pid, path, .. } = outline.step(step);
        format!("device file {} ({path}) of process {pid}", outline.label(step))
    };
    steps.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// A worker knows the number of its step, not what it is called.
fn named(error: RestoreError, outline: &Outline) -> RestoreError {
    match error {
        RestoreError::DeviceStep { step, source } => {
            let label = outline.label(step);
            let DeviceStep { pid, path, .. } = outline.step(step).clone();
            RestoreError::Device { pid, label, path, source }
        }
        other => other,
    }
}
