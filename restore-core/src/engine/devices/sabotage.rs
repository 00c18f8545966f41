//! An engine that is broken on purpose, in the ways that the contract forbids.
//!
//! Whoever judges restores (`check` on a trace, the comparison of end states) must notice. Tests
//! ask for it by a hidden option; nothing else does.

use std::collections::VecDeque;

use super::copy::CopyJob;
use crate::contract::{Outline, Schedule, ScheduleError, Scheduler, StepId, StepKind};

/// What is broken.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Two render nodes of one process are restored in the wrong order.
    OrderIgnored,
    /// The first step that waits for a buffer does not, and makes one of its own.
    EdgeIgnored,
    /// What one worker has done changes what the next one does.
    StateLeaked,
}

/// Says which step goes next.
pub(in crate::engine) enum Chooser {
    Legal(Scheduler),
    /// A list that nobody has checked; one at a time.
    Broken(VecDeque<StepId>, bool),
}

impl Chooser {
    pub(in crate::engine) fn new(
        outline: &Outline,
        schedule: Schedule,
        sabotage: Option<Sabotage>,
    ) -> Result<Self, ScheduleError> {
        let mut legal = Scheduler::new(outline, schedule)?;
        let broken: fn(&Outline, &mut [StepId]) = match sabotage {
            None | Some(Sabotage::StateLeaked) => return Ok(Self::Legal(legal)),
            Some(Sabotage::OrderIgnored) => swap_render_nodes,
            Some(Sabotage::EdgeIgnored) => ignore_edge,
        };
        let mut order = Vec::new();
        while !legal.is_done() {
            for step in legal.start() {
                order.push(step);
                legal.finished(step);
            }
        }
        broken(outline, &mut order);
        Ok(Self::Broken(order.into(), false))
    }

    pub(in crate::engine) fn start(&mut self) -> Vec<StepId> {
        match self {
            Self::Legal(scheduler) => scheduler.start(),
            Self::Broken(_, true) => Vec::new(),
            Self::Broken(order, running) => {
                *running = !order.is_empty();
                order.pop_front().into_iter().collect()
            }
        }
    }

    pub(in crate::engine) fn finished(&mut self, step: StepId) {
        match self {
            Self::Legal(scheduler) => scheduler.finished(step),
            Self::Broken(_, running) => *running = false,
        }
    }

    pub(in crate::engine) fn is_done(&self) -> bool {
        match self {
            Self::Legal(scheduler) => scheduler.is_done(),
            Self::Broken(order, running) => order.is_empty() && !running,
        }
    }
}

fn swap_render_nodes(outline: &Outline, order: &mut [StepId]) {
    let is_render = |step: StepId| outline.step(step).kind == StepKind::Render;
    let numbers = 1..outline.steps.len();
    let pair = numbers
        .map(|second| (StepId(second - 1), StepId(second)))
        .find(|&(a, b)| is_render(a) && is_render(b) && outline.step(a).pid == outline.step(b).pid);
    let at = |wanted| order.iter().position(|&step| step == wanted);
    if let Some((Some(first), Some(second))) = pair.map(|(a, b)| (at(a), at(b))) {
        order.swap(first, second);
    }
}

/// The step moves before the one that it waits for, with what comes before it in its process.
fn ignore_edge(outline: &Outline, order: &mut [StepId]) {
    let Some(edge) = outline.edges.first() else { return };
    let early =
        |step: &StepId| outline.step(*step).pid == outline.step(edge.to).pid && step.0 <= edge.to.0;
    order.sort_by_key(|step| !early(step)); // stable: the rest stays as it is
}

/// Contents as the step before would have had them, if they have the same size.
pub(in crate::engine) fn leak(last: &mut Option<CopyJob>, copies: &mut [CopyJob]) {
    if let Some(first) = copies.first_mut() {
        let own = first.clone();
        if let Some(before) = last.replace(own) {
            first.take_contents_of(&before);
        }
    }
}
