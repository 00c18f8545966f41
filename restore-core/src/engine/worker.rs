//! A worker: the thread that restores the processes that it was given, stage by stage.
//!
//! It owns its targets; it shares nothing with other workers. It hears from the coordinator what
//! may begin, and says what it has done. Every wait inside a stage has a limit, and a target that
//! is killed ends it, so a worker always comes back.

use criu_image::ImageDir;
use crossbeam::channel::{Receiver, Sender};

use super::devices::Product;
use super::devices::copy::CopyJob;
use super::target::Target;
use super::{RestoreError, StepError, now_ns, threads};
use crate::contract::{StepId, TraceEvent, TraceStage};
use crate::meter::Meter;
use crate::remote::ring::Remote;

/// A part of the restore that all processes finish before any begins the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Images are compared, shared objects are opened, workers started. No task exists yet.
    Prepare,
    /// All tasks come to be, with their sessions.
    Create,
    /// Device files, each by its process.
    Devices,
    /// Memory, descriptors, device mappings, threads.
    Build,
    /// Signals, timers, limits, credentials, final registers; every task stops for good.
    Freeze,
    /// The last of what GPU buffers hold arrives.
    Contents,
    /// GPU queues run again.
    Resume,
    /// Every task runs.
    Release,
}

impl Stage {
    /// All stages in their order; each begins when the one before it has ended for all processes.
    pub const ALL: [Self; 8] = [
        Self::Prepare,
        Self::Create,
        Self::Devices,
        Self::Build,
        Self::Freeze,
        Self::Contents,
        Self::Resume,
        Self::Release,
    ];

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Create => "create",
            Self::Devices => "devices",
            Self::Build => "build",
            Self::Freeze => "freeze",
            Self::Contents => "contents",
            Self::Resume => "resume",
            Self::Release => "release",
        }
    }
}

/// What of this host a worker needs to know.
#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    /// Directory of the images.
    pub(super) images: ImageDir,
    /// Audit login uid of the restorer.
    pub(super) loginuid: u32,
    /// Capabilities in the restorer's bounding set.
    pub(super) bounding: u64,
    /// For tests: see `sabotage`.
    pub(super) ignores_edges: bool,
}

/// From the coordinator.
#[derive(Debug)]
pub(super) enum Order {
    /// You are the worker with this number, and these processes are yours.
    Adopt(usize, Vec<Target>),
    /// The leader of your target with this index exists.
    Born(usize, Remote),
    /// Restore the device file of this step, of your target with this index. What it needs of other
    /// steps comes along.
    Device { index: usize, step: StepId, given: Vec<Product> },
    /// Do your part of a stage: build, freeze or release.
    Begin(Stage),
}

/// To the coordinator.
#[derive(Debug)]
pub(super) enum Report {
    /// A process has made all its children.
    Created,
    /// A process exists and waits for its worker.
    Born { index: usize, leader: Remote },
    /// Something was done, or failed.
    Event(TraceEvent),
    /// So many more bytes of a process's memory are in place.
    Filled { pid: i32, bytes: u64 },
    /// A device step has ended.
    Device { step: StepId, products: Vec<Product>, copies: Vec<CopyJob> },
    /// A worker has finished a stage for all its processes.
    Finished { stage: Stage },
    /// A step failed; the worker does nothing more.
    Failed(Box<RestoreError>),
}

/// The thread's life.
pub(super) fn run(orders: &Receiver<Order>, reports: &Sender<Report>, host: &Surroundings) {
    let mut tell = Tell { worker: 0, reports };
    let mut targets: Vec<Target> = Vec::new();
    // A closed channel means that the restore is over, one way or the other.
    for order in orders {
        let result = match order {
            Order::Adopt(worker, given) => {
                tell.worker = worker;
                targets = given;
                Ok(())
            }
            Order::Born(index, leader) => born(&mut targets, index, leader, host, &tell),
            Order::Device { index, step, given } => {
                device(&mut targets, index, (step, given), host, &tell)
            }
            Order::Begin(stage) => begin(&mut targets, stage, host, &tell),
        };
        if let Err(error) = result {
            let _ = reports.send(Report::Failed(Box::new(error)));
            return;
        }
    }
}

/// How a worker speaks to the coordinator.
struct Tell<'a> {
    worker: usize,
    reports: &'a Sender<Report>,
}

impl Tell<'_> {
    /// Does something for a process, and reports when it was and how it ended.
    fn timed<T>(
        &self,
        stage: TraceStage,
        (pid, step): (i32, Option<StepId>),
        what: impl FnOnce() -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let begin_ns = now_ns();
        let result = what();
        let outcome = result.as_ref().map(drop).map_err(ToString::to_string);
        let (worker, end_ns) = (self.worker, now_ns());
        let event = TraceEvent { stage, pid, step, worker, begin_ns, end_ns, outcome, piece: None };
        let _ = self.reports.send(Report::Event(event));
        result
    }

    /// Does something that fills memory of a process.
    fn metered<T>(&self, pid: i32, what: impl FnOnce(&mut Meter<'_>) -> T) -> T {
        let mut say = |bytes| {
            let _ = self.reports.send(Report::Filled { pid, bytes });
        };
        what(&mut Meter::new(&mut say))
    }
}

fn at(pid: i32, stage: Stage) -> impl Fn(StepError) -> RestoreError {
    move |source| RestoreError::Step { pid, stage, source }
}

fn find(targets: &mut [Target], index: usize) -> &mut Target {
    let mut own = targets.iter_mut();
    own.find(|target| target.index == index).expect("the coordinator knows whose target it is")
}

fn born(
    targets: &mut [Target],
    index: usize,
    leader: Remote,
    host: &Surroundings,
    tell: &Tell<'_>,
) -> Result<(), RestoreError> {
    let target = find(targets, index);
    target.leader = Some(leader);
    let pid = target.plan.pid;
    let children = tell.timed(TraceStage::Create, (pid, None), || {
        tell.metered(pid, |meter| target.create(&host.images, meter))
    });
    for (index, leader) in children.map_err(at(pid, Stage::Create))? {
        let _ = tell.reports.send(Report::Born { index, leader });
    }
    let _ = tell.reports.send(Report::Created);
    Ok(())
}

fn device(
    targets: &mut [Target],
    index: usize,
    (step, given): (StepId, Vec<Product>),
    host: &Surroundings,
    tell: &Tell<'_>,
) -> Result<(), RestoreError> {
    let target = find(targets, index);
    let pid = target.plan.pid;
    let done = tell.timed(TraceStage::Device, (pid, Some(step)), || {
        target.restore_device(step, given, host.ignores_edges)
    });
    // The coordinator knows what the step is called.
    let done = done.map_err(|source| RestoreError::DeviceStep { step, source })?;
    let _ =
        tell.reports.send(Report::Device { step, products: done.products, copies: done.copies });
    Ok(())
}

fn begin(
    targets: &mut [Target],
    stage: Stage,
    host: &Surroundings,
    tell: &Tell<'_>,
) -> Result<(), RestoreError> {
    if stage == Stage::Freeze {
        // Zombies and helpers first: a parent waits for them, and may belong to another worker.
        for target in targets.iter_mut() {
            target.end().map_err(at(target.plan.pid, stage))?;
        }
    }
    for target in targets.iter_mut() {
        let pid = target.plan.pid;
        let done = match stage {
            Stage::Build => tell.timed(TraceStage::Build, (pid, None), || {
                tell.metered(pid, |meter| build(target, host, meter))
            }),
            Stage::Freeze => tell.timed(TraceStage::Freeze, (pid, None), || freeze(target, host)),
            Stage::Release => tell.timed(TraceStage::Release, (pid, None), || target.release()),
            other => unreachable!("the coordinator leads the stage {}", other.name()),
        };
        done.map_err(at(pid, stage))?;
    }
    let _ = tell.reports.send(Report::Finished { stage });
    Ok(())
}

fn build(target: &mut Target, host: &Surroundings, meter: &mut Meter<'_>) -> Result<(), StepError> {
    target.leader().stop_watching();
    target.join_group()?;
    target.set_proc_attributes(host.loginuid)?;
    target.build_memory(&host.images, meter)?;
    target.advise()?;
    target.build_descriptors()?;
    target.build_places()?;
    target.build_threads()
}

fn freeze(target: &mut Target, host: &Surroundings) -> Result<(), StepError> {
    if target.live().is_none() {
        return Ok(());
    }
    target.reap_helpers()?;
    target.set_attributes()?;
    target.each_thread(threads::attributes)?;
    target.set_signals()?;
    target.set_timers()?;
    target.set_limits()?;
    target.freeze(host.bounding)
}
