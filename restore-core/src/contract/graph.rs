//! Which step waits for which, in plain numbers, from an outline that has been checked.
//!
//! Whoever has a [`Graph`] has an outline whose order inside each process is the contract's
//! (rule 1) and whose edges close no cycle (rule 5).

use std::ops::Range;

use super::outline::{EdgeReason, Outline, StepId, StepKind};

/// What an outline breaks. The planner promises that it never does; it is checked all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutlineError {
    /// Steps are not grouped by process, or not numbered by their place in it.
    #[error("step {number} ({label}) does not stand where its process and position put it")]
    Misplaced {
        /// Its place in the outline.
        number: usize,
        /// Its label.
        label: String,
    },
    /// A render node comes before the kfd file of its process.
    #[error("{render} (render) comes before {kfd} (kfd) of the same process")]
    RenderFirst {
        /// Label of the render node's step.
        render: String,
        /// Label of the kfd step.
        kfd: String,
    },
    /// Files of one kind are not in the order of their descriptors.
    #[error(
        "{first} comes before {second} of the same process and kind, but descriptors must ascend"
    )]
    Descending {
        /// Label of the step that comes first.
        first: String,
        /// Label of the step that should.
        second: String,
    },
    /// An edge names a step that does not exist.
    #[error("an edge leads from step {from} to step {to}, but there are {steps} steps")]
    Outside {
        /// Number of the step that it begins at.
        from: usize,
        /// Number of the step that it ends at.
        to: usize,
        /// Number of steps.
        steps: usize,
    },
    /// Steps wait for each other in a circle.
    #[error("a cycle: {}", .labels.join(" waits for "))]
    Cycle {
        /// Their labels, each waiting for the next one; the first is the last.
        labels: Vec<String>,
    },
}

impl OutlineError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Misplaced { .. } => "plan.misplaced",
            Self::RenderFirst { .. } => "plan.render-first",
            Self::Descending { .. } => "plan.descending",
            Self::Outside { .. } => "plan.edge",
            Self::Cycle { .. } => "plan.cycle",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Misplaced { .. } => {
                Some("report it: this is a bug of thaw, unless the outline was edited")
            }
            Self::RenderFirst { .. } => {
                Some("report it: this is a bug of thaw, unless the outline was edited")
            }
            Self::Descending { .. } => {
                Some("report it: this is a bug of thaw, unless the outline was edited")
            }
            Self::Outside { .. } => {
                Some("report it: this is a bug of thaw, unless the outline was edited")
            }
            Self::Cycle { .. } => {
                Some("dump again when the processes do not share buffers both ways")
            }
        }
    }

    /// Number of the contract's rule that is broken.
    pub fn rule(&self) -> u8 {
        match self {
            Self::Misplaced { .. } | Self::RenderFirst { .. } | Self::Descending { .. } => 1,
            Self::Outside { .. } | Self::Cycle { .. } => 5,
        }
    }
}

/// Why a step may not begin before another one has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// It follows it in the same process.
    Process,
    /// An edge says so.
    Edge(EdgeReason),
}

#[derive(Clone, Debug)]
pub(super) struct Graph {
    /// What each step waits for; the step before it in its process first.
    before: Vec<Vec<(usize, Wait)>>,
    /// Which steps wait for it; twice if for two reasons.
    after: Vec<Vec<usize>>,
    /// The steps of each process.
    chains: Vec<Range<usize>>,
}

impl Graph {
    /// Checks an outline.
    pub(super) fn new(outline: &Outline) -> Result<Self, OutlineError> {
        let chains = chains(outline)?;
        for chain in &chains {
            check_chain(outline, chain)?;
        }
        let count = outline.steps.len();
        let mut graph =
            Self { before: vec![Vec::new(); count], after: vec![Vec::new(); count], chains };
        for chain in graph.chains.clone() {
            for step in chain.skip(1) {
                graph.wait(step - 1, step, Wait::Process);
            }
        }
        for edge in &outline.edges {
            let (from, to) = (edge.from.0, edge.to.0);
            if from.max(to) >= count {
                return Err(OutlineError::Outside { from, to, steps: count });
            }
            graph.wait(from, to, Wait::Edge(edge.reason.clone()));
        }
        graph.check_cycles(outline)?;
        Ok(graph)
    }

    pub(super) fn len(&self) -> usize {
        self.before.len()
    }

    pub(super) fn before(&self, step: usize) -> &[(usize, Wait)] {
        &self.before[step]
    }

    pub(super) fn after(&self, step: usize) -> &[usize] {
        &self.after[step]
    }

    /// The steps of each process, in order; empty for a process without device files.
    pub(super) fn chains(&self) -> &[Range<usize>] {
        &self.chains
    }

    /// For each step, how many waits it has.
    pub(super) fn waits(&self) -> Vec<usize> {
        self.before.iter().map(Vec::len).collect()
    }

    fn wait(&mut self, from: usize, to: usize, why: Wait) {
        self.before[to].push((from, why));
        self.after[from].push(to);
    }

    fn check_cycles(&self, outline: &Outline) -> Result<(), OutlineError> {
        let mut waits = self.waits();
        let mut ready: Vec<usize> = (0..self.len()).filter(|&step| waits[step] == 0).collect();
        while let Some(step) = ready.pop() {
            for &next in &self.after[step] {
                waits[next] -= 1;
                if waits[next] == 0 {
                    ready.push(next);
                }
            }
        }
        let Some(stuck) = waits.iter().position(|&waits| waits > 0) else {
            return Ok(());
        };
        // Each step that is left waits for one that is left: going on leads into a circle.
        let mut path = vec![stuck];
        loop {
            let last = path[path.len() - 1];
            let mut causes = self.before[last].iter().map(|(from, _)| *from);
            let cause = causes.find(|&from| waits[from] > 0).expect("a step that is left waits");
            let seen = path.iter().position(|&step| step == cause);
            path.push(cause);
            if let Some(begin) = seen {
                let circle = path[begin..].iter();
                let labels = circle.map(|&step| outline.label(StepId(step))).collect();
                return Err(OutlineError::Cycle { labels });
            }
        }
    }
}

/// The steps of each process of the outline.
fn chains(outline: &Outline) -> Result<Vec<Range<usize>>, OutlineError> {
    let mut chains = Vec::with_capacity(outline.processes.len());
    let mut next = 0;
    for process in &outline.processes {
        let begin = next;
        while let Some(step) = outline.steps.get(next)
            && step.pid == process.pid
            && step.position == next - begin
        {
            next += 1;
        }
        chains.push(begin..next);
    }
    if next < outline.steps.len() {
        let label = outline.label(StepId(next));
        return Err(OutlineError::Misplaced { number: next, label });
    }
    Ok(chains)
}

/// Rule 1 inside one process: kfd before render nodes, then ascending descriptors. What came from
/// elsewhere (received, imported) may have any descriptor among files of other kinds.
fn check_chain(outline: &Outline, chain: &Range<usize>) -> Result<(), OutlineError> {
    let label = |number: usize| outline.label(StepId(number));
    let is = |number: usize, kind: StepKind| outline.steps[number].kind == kind;
    let kfd = chain.clone().rev().find(|&number| is(number, StepKind::Kfd));
    let render = chain.clone().find(|&number| is(number, StepKind::Render));
    if let (Some(kfd), Some(render)) = (kfd, render)
        && render < kfd
    {
        return Err(OutlineError::RenderFirst { render: label(render), kfd: label(kfd) });
    }
    for kind in [StepKind::Kfd, StepKind::Render, StepKind::DmaBuf, StepKind::Receive] {
        let same = chain.clone().filter(|&number| is(number, kind));
        // Files that only mappings refer to have no descriptor, and any place.
        let first_fd = |number: usize| Some((*outline.steps[number].fds.first()?, number));
        let placed: Vec<(i32, usize)> = same.filter_map(first_fd).collect();
        if let Some(pair) = placed.windows(2).find(|pair| pair[0].0 > pair[1].0) {
            let (first, second) = (label(pair[0].1), label(pair[1].1));
            return Err(OutlineError::Descending { first, second });
        }
    }
    Ok(())
}
