//! What happened in a restore, and whether the contract allowed it.
//!
//! The judge knows the outline and the events, nothing of the engine: it would find a broken rule
//! in any restorer's trace. Rule 2 (no order between processes) permits, so no trace can break it.

use std::collections::{BTreeMap, BTreeSet};

use super::graph::{Graph, Wait};
use super::outline::{DeviceStep, Outline, StepId, StepKind};

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TraceStage {
    /// A task, which exists, makes its children.
    Create,
    /// A step of the outline: one device file.
    Device,
    /// Part of what a step's buffers hold is copied, by whoever has time.
    Contents,
    /// Memory, descriptors and the rest of a process; its device steps may lie within.
    Build,
    /// Last attributes and registers; every thread stops for good.
    Freeze,
    /// The GPU queues of a process may run again.
    Resume,
    /// A process is let go.
    Release,
}

impl TraceStage {
    /// All stages, in the order in which a process goes through them.
    pub const ALL: [Self; 7] = [
        Self::Create,
        Self::Build,
        Self::Device,
        Self::Contents,
        Self::Freeze,
        Self::Resume,
        Self::Release,
    ];

    /// Name for people and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Device => "device",
            Self::Contents => "contents",
            Self::Build => "build",
            Self::Freeze => "freeze",
            Self::Resume => "resume",
            Self::Release => "release",
        }
    }

    /// Whether events of this stage belong to a step.
    pub fn has_step(self) -> bool {
        matches!(self, Self::Device | Self::Contents)
    }
}

/// A piece of what a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Minor of the render node here whose GPU has the buffer.
    pub minor: u32,
    /// Its length.
    pub bytes: u64,
}

/// One thing that was done for one process, from its begin to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// What it is about.
    pub stage: TraceStage,
    /// The process.
    pub pid: i32,
    /// The step, if [`TraceStage::has_step`]; of contents, the step that made the buffers.
    pub step: Option<StepId>,
    /// Number of the thread that did it: the process's worker, but anyone for contents and resume.
    pub worker: usize,
    /// Begin, on a monotonic clock that all events share.
    pub begin_ns: u64,
    /// End, on the same clock.
    pub end_ns: u64,
    /// How it went; what failed, in words.
    pub outcome: Result<(), String>,
    /// What was copied, of [`TraceStage::Contents`] only.
    pub piece: Option<Piece>,
}

/// What a legal trace shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Every process was released. If not, the restore failed or its trace ends before.
    pub complete: bool,
    /// Processes that something was done for.
    pub processes: usize,
    /// Device steps that ended well.
    pub steps: usize,
    /// Threads that processes had as workers; who only copied or resumed is not counted.
    pub workers: usize,
    /// Pairs of device steps of different processes that went on at the same time.
    pub overlaps: u64,
    /// Events that failed.
    pub failures: usize,
}

/// A rule was broken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule} is broken: {text}")]
pub struct Violation {
    /// Number of the rule; 0 if the trace or its outline makes no sense at all.
    pub rule: u8,
    /// What should have come first, if it happened.
    pub first: Option<TraceEvent>,
    /// What should have come after it, or should not have happened.
    pub second: Option<TraceEvent>,
    /// What is wrong, with labels and times.
    pub text: String,
}

/// Judges a trace. The order of the events in it does not matter.
///
/// A trace may end before the restore did. What it holds must be legal all the same.
///
/// # Errors
///
/// The first rule that is broken, by number, with the events that show it.
pub fn check(outline: &Outline, events: &[TraceEvent]) -> Result<Checked, Box<Violation>> {
    let graph = Graph::new(outline)
        .map_err(|error| broken(error.rule(), None, None, format!("the plan itself: {error}")))?;
    let mut judge =
        Judge { outline, graph, events, devices: BTreeMap::new(), copied: BTreeMap::new() };
    judge.sense()?;
    judge.collect()?;
    judge.waits(1)?;
    judge.contents()?;
    judge.creation()?;
    judge.workers()?;
    judge.waits(5)?;
    judge.release()?;
    judge.resume()?;
    Ok(judge.summary())
}

struct Judge<'a> {
    outline: &'a Outline,
    graph: Graph,
    events: &'a [TraceEvent],
    /// The event of each step that began.
    devices: BTreeMap<usize, &'a TraceEvent>,
    /// Steps whose contents were copied, or some of them, and how many bytes.
    copied: BTreeMap<usize, u64>,
}

impl<'a> Judge<'a> {
    fn of(&self, stage: TraceStage) -> impl Iterator<Item = &'a TraceEvent> + use<'a> {
        self.events.iter().filter(move |event| event.stage == stage)
    }

    /// What no contract needs to say: events have an end after their begin, and name what exists.
    fn sense(&self) -> Result<(), Box<Violation>> {
        let pids: BTreeSet<i32> =
            self.outline.processes.iter().map(|process| process.pid).collect();
        for event in self.events {
            let step = event.step.map(|step| self.outline.steps.get(step.0));
            let fault = match step {
                _ if event.end_ns < event.begin_ns => "ends before it begins",
                _ if !pids.contains(&event.pid) => "is of a process that the plan does not have",
                Some(None) => "is of a step that the plan does not have",
                Some(Some(step)) if step.pid != event.pid => "is of a step of another process",
                step if step.is_some() != event.stage.has_step() => "does not fit its stage",
                _ if event.piece.is_some() != (event.stage == TraceStage::Contents) => {
                    "does not fit its stage"
                }
                _ => continue,
            };
            return Err(broken(0, None, Some(event), format!("{} {fault}", self.name(event))));
        }
        Ok(())
    }

    /// Each step happens once: nothing is tried again.
    fn collect(&mut self) -> Result<(), Box<Violation>> {
        for event in self.of(TraceStage::Device) {
            let step = event.step.expect("it makes sense").0;
            if let Some(first) = self.devices.insert(step, event) {
                let text = format!("{} happened twice", self.name(event));
                return Err(broken(1, Some(first), Some(event), text));
            }
        }
        for event in self.of(TraceStage::Contents).filter(|event| event.outcome.is_ok()) {
            let step = event.step.expect("it makes sense").0;
            let bytes = event.piece.map_or(0, |piece| piece.bytes);
            let sum = self.copied.entry(step).or_default();
            *sum = sum.saturating_add(bytes);
        }
        Ok(())
    }

    /// Rules 1 and 5: what a step waits for has ended well before it begins.
    fn waits(&self, rule: u8) -> Result<(), Box<Violation>> {
        for (&step, event) in &self.devices {
            for (from, why) in self.graph.before(step) {
                if rule == if *why == Wait::Process { 1 } else { 5 } {
                    self.after(rule, *from, event)?;
                }
            }
        }
        Ok(())
    }

    /// Whether a step had ended well when an event began.
    fn after(&self, rule: u8, step: usize, event: &TraceEvent) -> Result<(), Box<Violation>> {
        let first = self.devices.get(&step).copied();
        let name = self.step_name(step);
        let text = match first {
            None => format!("{} began, but {name} never did", self.name(event)),
            Some(first) if first.outcome.is_err() => {
                format!("{} began, but {name} had failed", self.name(event))
            }
            Some(first) => return self.ordered(rule, first, event),
        };
        Err(broken(rule, first, Some(event), text))
    }

    /// One event has ended when the other one begins.
    fn ordered(
        &self,
        rule: u8,
        first: &TraceEvent,
        then: &TraceEvent,
    ) -> Result<(), Box<Violation>> {
        if first.end_ns <= then.begin_ns {
            return Ok(());
        }
        let micros = (first.end_ns - then.begin_ns) as f64 / 1e3;
        let (early, late) = (self.name(then), self.name(first));
        let text = format!("{early} began {micros:.3} us before {late} ended");
        Err(broken(rule, Some(first), Some(then), text))
    }

    /// Rule 1 for contents: there are buffers to fill when the step that makes them has ended.
    fn contents(&self) -> Result<(), Box<Violation>> {
        for event in self.of(TraceStage::Contents) {
            self.after(1, event.step.expect("it makes sense").0, event)?;
        }
        Ok(())
    }

    /// Rule 3: parents before children, and every task before the first device file.
    fn creation(&self) -> Result<(), Box<Violation>> {
        let created: BTreeMap<i32, &TraceEvent> =
            self.of(TraceStage::Create).map(|event| (event.pid, event)).collect();
        for process in &self.outline.processes {
            if let Some(child) = created.get(&process.pid)
                && let Some(parent) = created.get(&process.ppid)
                && child.begin_ns < parent.begin_ns
            {
                let (early, late) = (self.name(child), self.name(parent));
                let text = format!("{early} began before {late}, its parent's");
                return Err(broken(3, Some(parent), Some(child), text));
            }
        }
        let Some(device) = self.of(TraceStage::Device).min_by_key(|event| event.begin_ns) else {
            return Ok(());
        };
        for process in &self.outline.processes {
            if created.get(&process.pid).is_none_or(|event| event.outcome.is_err()) {
                let device_name = self.name(device);
                let text = format!("{device_name} began, but process {} is not there", process.pid);
                return Err(broken(3, created.get(&process.pid).copied(), Some(device), text));
            }
        }
        self.of(TraceStage::Create).try_for_each(|create| self.ordered(3, create, device))
    }

    /// Rule 4: a process has one worker for its life.
    fn workers(&self) -> Result<(), Box<Violation>> {
        let mut seen: BTreeMap<i32, &TraceEvent> = BTreeMap::new();
        for event in self.events.iter().filter(|event| !is_apart(event.stage)) {
            let first = *seen.entry(event.pid).or_insert(event);
            if first.worker != event.worker {
                let names = (self.name(first), self.name(event));
                let text = format!(
                    "worker {} did {}, and worker {} did {}",
                    first.worker, names.0, event.worker, names.1
                );
                return Err(broken(4, Some(first), Some(event), text));
            }
        }
        Ok(())
    }

    /// Rule 7: nothing runs before all of the tree is complete, and nothing if anything failed.
    fn release(&self) -> Result<(), Box<Violation>> {
        let Some(released) = self.of(TraceStage::Release).min_by_key(|event| event.begin_ns) else {
            return Ok(());
        };
        if let Some(failed) = self.events.iter().find(|event| event.outcome.is_err()) {
            let rule = if failed.stage == TraceStage::Resume { 8 } else { 7 };
            let text =
                format!("{} happened, but {} failed", self.name(released), self.name(failed));
            return Err(broken(rule, Some(failed), Some(released), text));
        }
        self.complete(7, released)?;
        let others = self.events.iter().filter(|event| event.stage != TraceStage::Release);
        for event in others {
            self.ordered(7, event, released)?;
        }
        self.once(7, TraceStage::Release)
    }

    /// Every step has ended well, and what its buffers hold was copied, whatever the times.
    fn complete(&self, rule: u8, event: &TraceEvent) -> Result<(), Box<Violation>> {
        for (number, step) in self.outline.steps.iter().enumerate() {
            let device = self.devices.get(&number).copied();
            let what = if device.is_none_or(|device| device.outcome.is_err()) {
                "is not restored"
            } else if self.copied.get(&number).copied().unwrap_or(0) < step.content_bytes {
                "lacks contents"
            } else {
                continue;
            };
            let text = format!("{} began, but {} {what}", self.name(event), self.step_name(number));
            return Err(broken(rule, device, Some(event), text));
        }
        Ok(())
    }

    /// Rule 8: devices resume last, once for each process that has any, and before its release.
    fn resume(&self) -> Result<(), Box<Violation>> {
        self.once(8, TraceStage::Resume)?;
        if let Some(first) = self.of(TraceStage::Resume).min_by_key(|event| event.begin_ns) {
            self.complete(8, first)?;
            let late = [TraceStage::Resume, TraceStage::Release];
            for event in self.events.iter().filter(|event| !late.contains(&event.stage)) {
                self.ordered(8, event, first)?;
            }
        }
        let resumed: BTreeSet<i32> = self.of(TraceStage::Resume).map(|event| event.pid).collect();
        let has_kfd: BTreeSet<i32> = self.with_state().collect();
        if let Some(event) = self.of(TraceStage::Resume).find(|event| !has_kfd.contains(&event.pid))
        {
            let text = format!("{} has nothing to resume", self.name(event));
            return Err(broken(8, None, Some(event), text));
        }
        let Some(released) = self.of(TraceStage::Release).next() else {
            return Ok(());
        };
        match has_kfd.difference(&resumed).next() {
            None => Ok(()),
            Some(pid) => {
                let text = format!("{} began, but {pid} did not resume", self.name(released));
                Err(broken(8, None, Some(released), text))
            }
        }
    }

    /// Processes with state in the KFD, which always has buffers.
    fn with_state(&self) -> impl Iterator<Item = i32> {
        let has_state = |step: &&DeviceStep| step.kind == StepKind::Kfd && step.buffers > 0;
        self.outline.steps.iter().filter(has_state).map(|step| step.pid)
    }

    fn once(&self, rule: u8, stage: TraceStage) -> Result<(), Box<Violation>> {
        let mut seen = BTreeMap::new();
        for event in self.of(stage) {
            if let Some(first) = seen.insert(event.pid, event) {
                let text = format!("{} happened twice", self.name(event));
                return Err(broken(rule, Some(first), Some(event), text));
            }
        }
        Ok(())
    }

    fn summary(&self) -> Checked {
        let distinct = |values: BTreeSet<usize>| values.len();
        let released: BTreeSet<i32> = self.of(TraceStage::Release).map(|event| event.pid).collect();
        let steps: Vec<&TraceEvent> = self.devices.values().copied().collect();
        let within = self.graph.chains().iter().map(|chain| {
            let own: Vec<_> = self.devices.range(chain.clone()).map(|(_, event)| *event).collect();
            overlaps(&own)
        });
        let workers = self.events.iter().filter(|event| !is_apart(event.stage));
        Checked {
            complete: released.len() == self.outline.processes.len(),
            processes: self.events.iter().map(|event| event.pid).collect::<BTreeSet<_>>().len(),
            steps: steps.iter().filter(|event| event.outcome.is_ok()).count(),
            workers: distinct(workers.map(|event| event.worker).collect()),
            overlaps: overlaps(&steps) - within.sum::<u64>(),
            failures: self.events.iter().filter(|event| event.outcome.is_err()).count(),
        }
    }

    fn step_name(&self, step: usize) -> String {
        let id = StepId(step);
        format!("{} ({})", self.outline.label(id), self.outline.step(id).kind.name())
    }

    fn name(&self, event: &TraceEvent) -> String {
        let step = event.step.filter(|step| step.0 < self.outline.steps.len());
        match (event.stage, step) {
            (TraceStage::Device, Some(step)) => self.step_name(step.0),
            (stage, Some(step)) => format!("{} of {}", stage.name(), self.step_name(step.0)),
            (stage, None) => format!("{} of {}", stage.name(), event.pid),
        }
    }
}

/// Whether others than the process's worker may do it: anybody copies contents, and queues are
/// resumed by pid.
fn is_apart(stage: TraceStage) -> bool {
    matches!(stage, TraceStage::Contents | TraceStage::Resume)
}

fn broken(
    rule: u8,
    first: Option<&TraceEvent>,
    second: Option<&TraceEvent>,
    text: String,
) -> Box<Violation> {
    Box::new(Violation { rule, first: first.cloned(), second: second.cloned(), text })
}

/// Pairs of events that have a time in common; one without a duration has the next nanosecond.
pub(super) fn overlaps(events: &[&TraceEvent]) -> u64 {
    let end = |event: &TraceEvent| event.end_ns.max(event.begin_ns + 1);
    let mut ends: Vec<u64> = events.iter().map(|event| end(event)).collect();
    ends.sort_unstable();
    let count = events.len() as u64;
    let apart: u64 =
        events.iter().map(|event| ends.partition_point(|&end| end <= event.begin_ns) as u64).sum();
    count * count.saturating_sub(1) / 2 - apart
}
