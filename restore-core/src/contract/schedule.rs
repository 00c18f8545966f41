//! Which step may go next. A schedule only chooses among the steps that are ready, so it can never
//! make an order that the contract forbids.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::vec::IntoIter;

use super::graph::{Graph, OutlineError, Wait};
use super::outline::{Outline, StepId};

/// How the next step is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Schedule {
    /// Every step begins as soon as it may: processes go on at the same time.
    #[default]
    Concurrent,
    /// One step at a time, the ready one with the smallest number.
    Serial,
    /// One step at a time, a ready one chosen by this seed; every legal order may come.
    Seed(u64),
    /// One step at a time, in this order.
    Order(Vec<StepId>),
}

/// Why there is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The outline itself breaks a rule.
    #[error("the plan breaks rule {}: {}", .0.rule(), .0)]
    Outline(OutlineError),
    /// The order names a step that does not exist.
    #[error("the order names step {number}, but there are {steps} steps")]
    Unknown {
        /// The number.
        number: usize,
        /// Number of steps.
        steps: usize,
    },
    /// The order names a step twice.
    #[error("the order names {label} twice")]
    Twice {
        /// Its label.
        label: String,
    },
    /// The order leaves a step out.
    #[error("the order leaves out {label}")]
    Missing {
        /// Its label.
        label: String,
    },
    /// The order turns two steps of one process around.
    #[error("the order breaks rule 1: {later} stands before {earlier} of the same process")]
    Process {
        /// Label of the step that must have ended.
        earlier: String,
        /// Label of the step that stands before it.
        later: String,
    },
    /// The order turns the ends of an edge around.
    #[error("the order breaks rule 5: {later} stands before {earlier}, which it needs")]
    Edge {
        /// Label of the step that must have ended.
        earlier: String,
        /// Label of the step that stands before it.
        later: String,
    },
}

impl ScheduleError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Outline(error) => error.code(),
            Self::Unknown { .. } => "schedule.unknown-step",
            Self::Twice { .. } => "schedule.twice",
            Self::Missing { .. } => "schedule.missing",
            Self::Process { .. } => "schedule.process-order",
            Self::Edge { .. } => "schedule.edge-order",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Outline(error) => error.help(),
            Self::Unknown { .. } => Some("name steps that thaw plan lists"),
            Self::Twice { .. } => Some("name each step once"),
            Self::Missing { .. } => Some("name every step that thaw plan lists"),
            Self::Process { .. } => Some("keep the steps of a process in the order of thaw plan"),
            Self::Edge { .. } => {
                Some("let each step come after those that thaw plan says it waits for")
            }
        }
    }
}

/// Hands out steps in an order that the contract allows. Each step is handed out once, when all
/// that it waits for has been reported as [`finished`](Scheduler::finished).
///
/// A failed step is not reported: what waits for it then never comes.
#[derive(Clone, Debug)]
pub struct Scheduler {
    graph: Graph,
    choice: Choice,
    /// How much each step still waits for.
    waits: Vec<usize>,
    /// What may begin and has not been handed out.
    ready: BTreeSet<usize>,
    /// What has been handed out and has not ended.
    running: BTreeSet<usize>,
    ended: usize,
}

#[derive(Clone, Debug)]
enum Choice {
    Concurrent,
    Serial,
    Seed(Random),
    Order(Peekable<IntoIter<StepId>>),
}

impl Scheduler {
    /// Checks the outline, and an explicit order against it.
    ///
    /// # Errors
    ///
    /// An outline or an order that the contract forbids, with the steps that show it.
    pub fn new(outline: &Outline, schedule: Schedule) -> Result<Self, ScheduleError> {
        let graph = Graph::new(outline).map_err(ScheduleError::Outline)?;
        let choice = match schedule {
            Schedule::Concurrent => Choice::Concurrent,
            Schedule::Serial => Choice::Serial,
            Schedule::Seed(seed) => Choice::Seed(Random(seed)),
            Schedule::Order(order) => {
                check_order(outline, &graph, &order)?;
                Choice::Order(order.into_iter().peekable())
            }
        };
        let waits = graph.waits();
        let ready = (0..graph.len()).filter(|&step| waits[step] == 0).collect();
        Ok(Self { graph, choice, waits, ready, running: BTreeSet::new(), ended: 0 })
    }

    /// The steps that begin now, ascending. Nothing more comes until one of those handed out has
    /// ended.
    pub fn start(&mut self) -> Vec<StepId> {
        if !self.running.is_empty() && !matches!(self.choice, Choice::Concurrent) {
            return Vec::new();
        }
        let chosen: Vec<usize> = match &mut self.choice {
            Choice::Concurrent => self.ready.iter().copied().collect(),
            Choice::Serial => self.ready.first().copied().into_iter().collect(),
            Choice::Seed(random) => {
                let place = random.below(self.ready.len());
                self.ready.iter().nth(place).copied().into_iter().collect()
            }
            Choice::Order(order) => order.next().map(|step| step.0).into_iter().collect(),
        };
        for &step in &chosen {
            assert!(self.ready.remove(&step), "a step is ready when its turn comes");
            self.running.insert(step);
        }
        chosen.into_iter().map(StepId).collect()
    }

    /// A step has ended well.
    ///
    /// # Panics
    ///
    /// If it was not handed out, or has ended before.
    pub fn finished(&mut self, step: StepId) {
        assert!(self.running.remove(&step.0), "step {} does not run", step.0);
        self.ended += 1;
        for &next in self.graph.after(step.0) {
            self.waits[next] -= 1;
            if self.waits[next] == 0 {
                self.ready.insert(next);
            }
        }
    }

    /// Whether every step has ended.
    pub fn is_done(&self) -> bool {
        self.ended == self.graph.len()
    }
}

/// Whether an order has every step once, and each after what it waits for.
fn check_order(outline: &Outline, graph: &Graph, order: &[StepId]) -> Result<(), ScheduleError> {
    let label = |step: usize| outline.label(StepId(step));
    let mut places = vec![None; graph.len()];
    for (place, &StepId(step)) in order.iter().enumerate() {
        let Some(slot) = places.get_mut(step) else {
            return Err(ScheduleError::Unknown { number: step, steps: graph.len() });
        };
        if slot.replace(place).is_some() {
            return Err(ScheduleError::Twice { label: label(step) });
        }
    }
    if let Some(step) = places.iter().position(Option::is_none) {
        return Err(ScheduleError::Missing { label: label(step) });
    }
    for &StepId(step) in order {
        for (from, why) in graph.before(step) {
            if places[*from] > places[step] {
                let (earlier, later) = (label(*from), label(step));
                return Err(match why {
                    Wait::Process => ScheduleError::Process { earlier, later },
                    Wait::Edge(_) => ScheduleError::Edge { earlier, later },
                });
            }
        }
    }
    Ok(())
}

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers for a seed on every machine and in every
/// version of this program, which a library's default generator does not promise.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    /// A number from 0 up to but without `limit`; 0 if that is 0.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        ((u128::from(mixed) * limit as u128) >> 64) as usize
    }
}
