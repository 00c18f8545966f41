//! All legal orders of an outline: one after the other, how many there are, or one from a seed.
//!
//! A legal order is a linear extension of the order inside each process and of the edges. An
//! outline that [`Scheduler`](super::Scheduler) refuses has none.

use std::ops::Range;

use super::graph::{Graph, Wait};
use super::outline::{Outline, StepId};
use super::schedule::{Schedule, Scheduler};

/// Most states that a count looks at for processes that share: 16 MiB of numbers.
const STATES_MAX: usize = 1 << 20;

impl Outline {
    /// Every legal order once, in lexicographic order. Takes memory for one order, whatever their
    /// number.
    pub fn orders(&self) -> impl Iterator<Item = Vec<StepId>> + use<> {
        Graph::new(self).ok().map(Orders::new).into_iter().flatten()
    }

    /// The legal order that [`Schedule::Seed`] takes with this seed; nothing if there is none at
    /// all. So what a sample shows can be run again by its seed alone.
    pub fn sample_order(&self, seed: u64) -> Option<Vec<StepId>> {
        let mut scheduler = Scheduler::new(self, Schedule::Seed(seed)).ok()?;
        let mut order = Vec::with_capacity(self.steps.len());
        while let Some(&step) = scheduler.start().first() {
            order.push(step);
            scheduler.finished(step);
        }
        Some(order)
    }

    /// How many legal orders there are. `None` if it is more than a `u128` holds, or if processes
    /// share so much that it would take more than a million states to tell.
    ///
    /// Groups of processes that share nothing are independent: there are `(a + b)! / (a! b!)` ways
    /// to put an order of one and an order of the other together.
    pub fn count_orders(&self) -> Option<u128> {
        let Ok(graph) = Graph::new(self) else {
            return Some(0);
        };
        let (mut ways, mut steps) = (1_u128, 0);
        for group in groups(&graph) {
            let size: usize = group.iter().map(|&chain| graph.chains()[chain].len()).sum();
            steps += size;
            let inside = if group.len() == 1 { 1 } else { count_group(&graph, &group)? };
            ways = ways.checked_mul(inside)?.checked_mul(binomial(steps, size)?)?;
        }
        Some(ways)
    }
}

struct Orders {
    graph: Graph,
    /// How much each step still waits for after `order`.
    waits: Vec<usize>,
    /// How many steps of each process stand in `order`.
    done: Vec<usize>,
    /// Process of each step.
    chain_of: Vec<usize>,
    order: Vec<usize>,
    fresh: bool,
}

impl Orders {
    fn new(graph: Graph) -> Self {
        let chains = graph.chains();
        let (chain_of, done) = (chain_of(chains), vec![0; chains.len()]);
        Self { waits: graph.waits(), done, chain_of, order: Vec::new(), fresh: true, graph }
    }

    /// The smallest step that may come next and is not below a bound.
    fn ready_from(&self, bound: usize) -> Option<usize> {
        let heads = self.graph.chains().iter().zip(&self.done);
        let heads = heads.map(|(chain, done)| (chain.start + done, chain.end));
        let mut ready = heads.filter(|(head, end)| head < end).map(|(head, _)| head);
        ready.find(|&head| head >= bound && self.waits[head] == 0)
    }

    fn push(&mut self, step: usize) {
        self.order.push(step);
        self.done[self.chain_of[step]] += 1;
        for &next in self.graph.after(step) {
            self.waits[next] -= 1;
        }
    }

    fn pop(&mut self) -> Option<usize> {
        let step = self.order.pop()?;
        self.done[self.chain_of[step]] -= 1;
        for &next in self.graph.after(step) {
            self.waits[next] += 1;
        }
        Some(step)
    }
}

impl Iterator for Orders {
    type Item = Vec<StepId>;

    fn next(&mut self) -> Option<Vec<StepId>> {
        if !std::mem::take(&mut self.fresh) {
            // The last step that can be replaced by a greater one.
            let greater = loop {
                let last = self.pop()?;
                if let Some(step) = self.ready_from(last + 1) {
                    break step;
                }
            };
            self.push(greater);
        }
        // Without a cycle some step is always ready, so this is never a dead end.
        while let Some(step) = self.ready_from(0) {
            self.push(step);
        }
        Some(self.order.iter().copied().map(StepId).collect())
    }
}

/// The process of each step, by its place in the outline.
fn chain_of(chains: &[Range<usize>]) -> Vec<usize> {
    let chains = chains.iter().enumerate();
    chains.flat_map(|(index, chain)| chain.clone().map(move |_| index)).collect()
}

/// Processes that edges connect, by their place in the outline.
fn groups(graph: &Graph) -> Vec<Vec<usize>> {
    let chains = graph.chains();
    let chain_of = chain_of(chains);
    let mut group_of: Vec<usize> = (0..chains.len()).collect();
    for step in 0..graph.len() {
        for (from, why) in graph.before(step) {
            if *why == Wait::Process {
                continue;
            }
            let (old, new) = (group_of[chain_of[*from]], group_of[chain_of[step]]);
            if old != new {
                group_of.iter_mut().filter(|group| **group == old).for_each(|group| *group = new);
            }
        }
    }
    let mut groups = vec![Vec::new(); chains.len()];
    for (chain, &group) in group_of.iter().enumerate() {
        groups[group].push(chain);
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// Orders of some processes, by how far each of them is.
fn count_group(graph: &Graph, group: &[usize]) -> Option<u128> {
    let chains: Vec<_> = group.iter().map(|&chain| graph.chains()[chain].clone()).collect();
    // A state is a number with one digit for each process: how many of its steps have ended.
    let mut strides = Vec::with_capacity(chains.len());
    let mut states = 1_usize;
    for chain in &chains {
        strides.push(states);
        states = states.checked_mul(chain.len() + 1).filter(|&states| states <= STATES_MAX)?;
    }
    let digit = |state: usize, chain: usize| state / strides[chain] % (chains[chain].len() + 1);
    let ended = |state: usize, step: usize| {
        let chain = chains.iter().position(|chain| chain.contains(&step));
        chain.is_some_and(|chain| digit(state, chain) > step - chains[chain].start)
    };
    let mut ways = vec![0_u128; states];
    ways[0] = 1;
    for state in 0..states {
        for (chain, steps) in chains.iter().enumerate() {
            let step = steps.start + digit(state, chain);
            if ways[state] > 0
                && step < steps.end
                && graph.before(step).iter().all(|(from, _)| ended(state, *from))
            {
                let next = state + strides[chain];
                ways[next] = ways[next].checked_add(ways[state])?;
            }
        }
    }
    ways.last().copied()
}

/// `n` over `k`; nothing if it does not fit.
fn binomial(n: usize, k: usize) -> Option<u128> {
    let k = k.min(n - k) as u128;
    let n = n as u128;
    let mut value = 1_u128;
    for i in 0..k {
        // Reduced first, so that only the result must fit.
        let divisor = gcd(value, i + 1);
        let rest = (i + 1) / divisor;
        value = (value / divisor).checked_mul((n - i) / rest)?;
    }
    Some(value)
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
