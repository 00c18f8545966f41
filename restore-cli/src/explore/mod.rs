//! Whether every legal order ends in the same state: orders are run, and what they end in is
//! compared byte for byte.
//!
//! How an order is run, and what the state is, is the caller's matter.

pub(crate) mod command;

use std::collections::BTreeSet;
use std::fmt;

use restore_core::{Outline, StepId};

/// Different states that are kept, with the order that led to them; more are only counted.
const STATES_MAX: usize = 8;
/// Failures that are kept; more are only counted.
const FAILURES_MAX: usize = 8;
/// Seeds that are tried for each order that is wanted: small trees give the same order often.
const TRIES: u64 = 16;
/// Longest piece of a line of a state that is shown, in characters.
const SHOWN_MAX: usize = 160;

/// Which orders are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// All of them.
    All,
    /// So many different ones (or as many as there are), from this seed on.
    Sample {
        /// Number of orders.
        count: usize,
        /// The first seed.
        seed: u64,
    },
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Orders that were run.
    pub(crate) orders: usize,
    /// The first state of each kind, and how many orders ended in it.
    pub(crate) states: Vec<Reached>,
    /// Orders that ended in a state of none of these kinds.
    pub(crate) other_states: usize,
    /// Orders that did not end well, and why.
    pub(crate) failures: Vec<(Vec<StepId>, String)>,
    /// Number of all of those.
    pub(crate) failed: usize,
}

/// A state, and who reached it.
#[derive(Debug)]
pub(crate) struct Reached {
    /// The first order that did.
    pub(crate) order: Vec<StepId>,
    /// The state.
    pub(crate) state: Vec<u8>,
    /// How many orders did.
    pub(crate) orders: usize,
}

impl Found {
    /// Every order ended well, and all in the same state.
    pub(crate) fn is_one(&self) -> bool {
        self.failed == 0 && self.other_states == 0 && self.states.len() <= 1
    }

    fn note(&mut self, order: Vec<StepId>, result: Result<Vec<u8>, String>) {
        self.orders += 1;
        match result {
            Ok(state) => {
                if let Some(reached) = self.states.iter_mut().find(|it| it.state == state) {
                    reached.orders += 1;
                } else if self.states.len() < STATES_MAX {
                    self.states.push(Reached { order, state, orders: 1 });
                } else {
                    self.other_states += 1;
                }
            }
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < FAILURES_MAX {
                    self.failures.push((order, error));
                }
            }
        }
    }
}

/// Runs orders, one after the other. `run` carries one out from a fresh beginning and returns the
/// state it ends in, or why it did not; `Err` of `run` does not stop the others.
pub(crate) fn explore(
    outline: &Outline,
    which: Which,
    mut run: impl FnMut(&[StepId]) -> Result<Vec<u8>, String>,
) -> Found {
    let mut found = Found::default();
    for order in orders(outline, which) {
        let result = run(&order);
        found.note(order, result);
    }
    found
}

fn orders(outline: &Outline, which: Which) -> Box<dyn Iterator<Item = Vec<StepId>>> {
    match which {
        Which::All => Box::new(outline.orders()),
        Which::Sample { count, seed } => {
            let outline = outline.clone();
            let mut seen = BTreeSet::new();
            let tries = (count as u64).saturating_mul(TRIES);
            let sampled =
                (0..tries).map(move |index| outline.sample_order(seed.wrapping_add(index)));
            let fresh = sampled.flatten().filter(move |order| seen.insert(order.clone()));
            Box::new(fresh.take(count))
        }
    }
}

/// What was found, in words, with steps by their labels.
pub(crate) struct Report<'a> {
    /// Whose orders these are.
    pub(crate) outline: &'a Outline,
    /// What was found.
    pub(crate) found: &'a Found,
}

impl Report<'_> {
    /// The same for programs.
    pub(crate) fn json(&self) -> serde_json::Value {
        let labels = |order: &[StepId]| -> Vec<String> {
            order.iter().map(|&step| self.outline.label(step)).collect()
        };
        let found = self.found;
        let states = found.states.iter().map(|reached| {
            serde_json::json!({ "orders": reached.orders, "first_order": labels(&reached.order) })
        });
        let failures = found
            .failures
            .iter()
            .map(|(order, error)| serde_json::json!({ "order": labels(order), "error": error }));
        serde_json::json!({
            "format": "thaw explore",
            "version": 1,
            "one_state": found.is_one(),
            "orders": found.orders,
            // More than a number can hold is left out.
            "legal_orders": self.outline.count_orders().and_then(|count| u64::try_from(count).ok()),
            "states": states.collect::<Vec<_>>(),
            "other_states": found.other_states,
            "failed": found.failed,
            "failures": failures.collect::<Vec<_>>(),
        })
    }

    fn labels(&self, order: &[StepId]) -> String {
        let labels: Vec<String> = order.iter().map(|&step| self.outline.label(step)).collect();
        labels.join(" ")
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = self.found;
        let legal = match self.outline.count_orders() {
            Some(count) => format!("{count} legal order(s)"),
            None => "more legal orders than can be counted".to_owned(),
        };
        let states = found.states.len();
        let more = if found.other_states > 0 { " or more" } else { "" };
        writeln!(to, "{} of {legal} run: {states}{more} end state(s)", found.orders)?;
        if let [first, others @ ..] = found.states.as_slice()
            && !others.is_empty()
        {
            writeln!(to, "{} order(s) end like {}", first.orders, self.labels(&first.order))?;
            for other in others {
                let labels = self.labels(&other.order);
                writeln!(to, "{} order(s) end like {labels}, which differs:", other.orders)?;
                write_difference(to, &first.state, &other.state)?;
            }
            if found.other_states > 0 {
                writeln!(to, "{} order(s) end differently again", found.other_states)?;
            }
        }
        if found.failed > 0 {
            writeln!(to, "{} order(s) failed:", found.failed)?;
        }
        for (order, error) in &found.failures {
            writeln!(to, "  {}: {error}", self.labels(order))?;
        }
        Ok(())
    }
}

/// The first line in which two states differ.
fn write_difference(to: &mut fmt::Formatter<'_>, a: &[u8], b: &[u8]) -> fmt::Result {
    let (mut a, mut b) = (a.split(|&byte| byte == b'\n'), b.split(|&byte| byte == b'\n'));
    let mut number = 0;
    loop {
        number += 1;
        match (a.next(), b.next()) {
            (None, None) => return Ok(()),
            (a, b) if a == b => {}
            (a, b) => {
                writeln!(to, "  line {number}")?;
                writeln!(to, "    first: {}", shown(a, b))?;
                return writeln!(to, "    other: {}", shown(b, a));
            }
        }
    }
}

/// A line, from where it begins to differ if it is long.
fn shown(line: Option<&[u8]>, other: Option<&[u8]>) -> String {
    let Some(line) = line else { return "(no such line)".to_owned() };
    let other = other.unwrap_or_default();
    let same = line.iter().zip(other).take_while(|(a, b)| a == b).count();
    let from = if line.len() > SHOWN_MAX { same.saturating_sub(SHOWN_MAX / 2) } else { 0 };
    let text = line[from..].escape_ascii().to_string();
    let mut cut: String = text.chars().take(SHOWN_MAX).collect();
    if cut.len() < text.len() {
        cut.push_str("...");
    }
    if from > 0 { format!("...{cut}") } else { cut }
}

#[cfg(test)]
mod tests;
