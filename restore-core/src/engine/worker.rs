//! A worker: the thread that restores the processes that it was given, stage by stage.
//!
//! It owns its targets; it shares nothing with other workers. It hears from the coordinator what
//! may begin, and says what it has done. Every wait inside a stage has a limit, and a target that
//! is killed ends it, so a worker always comes back.

use std::time::Instant;

use criu_image::ImageDir;
use crossbeam::channel::{Receiver, Sender};

use super::target::Target;
use super::{RestoreError, StepError, threads};
use crate::remote::ring::Remote;

/// A part of the restore that all processes finish before any begins the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// All tasks come to be, with their sessions.
    Create,
    /// Memory, descriptors, devices, threads.
    Build,
    /// Signals, timers, limits, credentials, final registers; every task stops for good.
    Freeze,
    /// Every task runs.
    Release,
}

impl Stage {
    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Build => "build",
            Self::Freeze => "freeze",
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
}

/// From the coordinator.
#[derive(Debug)]
pub(super) enum Order {
    /// These processes are yours.
    Adopt(Vec<Target>),
    /// The leader of your target with this index exists.
    Born(usize, Remote),
    /// Begin a stage.
    Begin(Stage),
}

/// To the coordinator.
#[derive(Debug)]
pub(super) enum Report {
    /// A worker's thread runs, with this id.
    Started { worker: usize, tid: i32 },
    /// A process exists and waits for its worker.
    Born { index: usize, leader: Remote },
    /// A process has finished a stage; times on one clock.
    Step { pid: i32, stage: Stage, begin: Instant, end: Instant },
    /// A worker has finished a stage for all its processes.
    Finished { stage: Stage },
    /// A step failed; the worker does nothing more.
    Failed(Box<RestoreError>),
}

/// The thread's life.
pub(super) fn run(orders: &Receiver<Order>, reports: &Sender<Report>, host: &Surroundings) {
    let mut targets: Vec<Target> = Vec::new();
    // A closed channel means that the restore is over, one way or the other.
    for order in orders {
        let result = match order {
            Order::Adopt(given) => {
                targets = given;
                Ok(())
            }
            Order::Born(index, leader) => born(&mut targets, index, leader, host, reports),
            Order::Begin(stage) => begin(&mut targets, stage, host, reports),
        };
        if let Err(error) = result {
            let _ = reports.send(Report::Failed(Box::new(error)));
            return;
        }
    }
}

fn at(pid: i32, stage: Stage) -> impl Fn(StepError) -> RestoreError {
    move |source| RestoreError::Step { pid, stage, source }
}

fn born(
    targets: &mut [Target],
    index: usize,
    leader: Remote,
    host: &Surroundings,
    reports: &Sender<Report>,
) -> Result<(), RestoreError> {
    let target = targets
        .iter_mut()
        .find(|target| target.index == index)
        .expect("the coordinator knows whose target it is");
    target.leader = Some(leader);
    let begin = Instant::now();
    let pid = target.plan.pid;
    for (index, leader) in target.create(&host.images).map_err(at(pid, Stage::Create))? {
        let _ = reports.send(Report::Born { index, leader });
    }
    let _ = reports.send(Report::Step { pid, stage: Stage::Create, begin, end: Instant::now() });
    Ok(())
}

fn begin(
    targets: &mut [Target],
    stage: Stage,
    host: &Surroundings,
    reports: &Sender<Report>,
) -> Result<(), RestoreError> {
    if stage == Stage::Freeze {
        // Zombies and helpers first: a parent waits for them, and may belong to another worker.
        for target in targets.iter_mut() {
            target.end().map_err(at(target.plan.pid, stage))?;
        }
    }
    for target in targets.iter_mut() {
        let begin = Instant::now();
        let pid = target.plan.pid;
        match stage {
            Stage::Create => Ok(()),
            Stage::Build => build(target, host),
            Stage::Freeze => freeze(target, host),
            Stage::Release => target.release(),
        }
        .map_err(at(pid, stage))?;
        let _ = reports.send(Report::Step { pid, stage, begin, end: Instant::now() });
    }
    let _ = reports.send(Report::Finished { stage });
    Ok(())
}

fn build(target: &mut Target, host: &Surroundings) -> Result<(), StepError> {
    target.leader().stop_watching();
    target.join_group()?;
    target.set_proc_attributes(host.loginuid)?;
    target.build_memory(&host.images)?;
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
