//! Solves a [`Problem`]: finds values if there are any, and says so if there are none.
//!
//! Depth-first, with what keeps it short:
//! - a choice takes values from the others at once, and what has one value left is chosen too;
//! - after each choice the variables must still be able to have different values (a bipartite
//!   matching, mended rather than made anew);
//! - the variable with the fewest values comes next;
//! - of values that the host cannot tell apart, one stands for all ([`Symmetry`]);
//! - a state of the remaining variables that failed is not entered again, so that saved GPUs that
//!   are alike are not tried in every order.
//!
//! The question is hard in general (it contains subgraph isomorphism), so steps have a limit.

use std::collections::HashSet;

use super::bits::Bits;
use super::problem::Problem;
use super::symmetry::Symmetry;

/// States that are remembered as failed: a few megabytes at most.
const FAILED_MAX: usize = 10_000;
/// Steps for each variable in which the preferred order must lead to an answer.
const FIRST_STEPS_PER_VARIABLE: u64 = 4;
/// A subtree of fewer steps is tried again sooner than it is shown to be like one that failed.
const SYMMETRY_STEPS_MIN: u64 = 8;

/// The limit of steps was reached before an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::matching) struct Exhausted;

/// Steps that may still be taken. A step is one value for one variable, with what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::matching) struct Budget(pub(in crate::matching) u64);

impl Budget {
    fn spend(&mut self) -> Result<(), Exhausted> {
        self.0 = self.0.checked_sub(1).ok_or(Exhausted)?;
        Ok(())
    }
}

/// Values for all variables, or `None` if there are none. Of several solutions it prefers values
/// that `order` has first, without a promise.
///
/// If the way that `order` shows leads nowhere soon, all variables take their values in the same
/// order. Then hives that are alike are filled one after the other, and states come up again.
pub(in crate::matching) fn solve(
    problem: &Problem,
    order: &[Vec<usize>],
    budget: &mut Budget,
) -> Result<Option<Vec<usize>>, Exhausted> {
    let mut first = Budget(budget.0.min(FIRST_STEPS_PER_VARIABLE * problem.variables() as u64));
    let before = first.0;
    let found = run(problem, order, &mut first, Symmetry::new(problem));
    budget.0 -= before - first.0;
    if let Ok(answer) = found {
        return Ok(answer);
    }
    let ascending = vec![(0..problem.values).collect(); problem.variables()];
    run(problem, &ascending, budget, Symmetry::new(problem))
}

/// As [`solve`], without a look at symmetry.
pub(super) fn solve_plainly(
    problem: &Problem,
    order: &[Vec<usize>],
    budget: &mut Budget,
) -> Result<Option<Vec<usize>>, Exhausted> {
    run(problem, order, budget, Symmetry::none(problem))
}

fn run<'a>(
    problem: &'a Problem,
    order: &'a [Vec<usize>],
    budget: &'a mut Budget,
    symmetry: Symmetry<'a>,
) -> Result<Option<Vec<usize>>, Exhausted> {
    let (failed, long) = (HashSet::new(), SYMMETRY_STEPS_MIN);
    Search { problem, order, budget, symmetry, long, failed }.start()
}

struct Search<'a> {
    problem: &'a Problem,
    order: &'a [Vec<usize>],
    budget: &'a mut Budget,
    symmetry: Symmetry<'a>,
    /// Steps from which on a failure took long.
    long: u64,
    failed: HashSet<Vec<Bits>>,
}

#[derive(Clone)]
struct State {
    /// What each variable may still have; of a chosen one, nothing but what it has.
    domains: Vec<Bits>,
    chosen: Vec<Option<usize>>,
    /// Different values for all variables, if the relations are left aside.
    partners: Vec<Option<usize>>,
}

impl Search<'_> {
    fn start(&mut self) -> Result<Option<Vec<usize>>, Exhausted> {
        let variables = self.problem.variables();
        let mut state = State {
            domains: self.problem.domains.clone(),
            chosen: vec![None; variables],
            partners: vec![None; variables],
        };
        let single = |variable: &usize| state.domains[*variable].len() == 1;
        let single: Vec<(usize, usize)> = (0..variables)
            .filter(single)
            .filter_map(|variable| Some((variable, state.domains[variable].first()?)))
            .collect();
        if state.choose(self.problem, single) { self.descend(&state) } else { Ok(None) }
    }

    fn descend(&mut self, state: &State) -> Result<Option<Vec<usize>>, Exhausted> {
        let Some(variable) = self.next_variable(state) else {
            return Ok(Some(state.chosen.iter().flatten().copied().collect()));
        };
        let key = state.remaining();
        if self.failed.contains(&key) {
            return Ok(None);
        }
        // Values that fail, and whether finding that out took long.
        let mut refuted: Vec<(usize, bool)> = Vec::new();
        for &value in &self.order[variable] {
            if !state.domains[variable].has(value) {
                continue;
            }
            if self.is_like(&refuted, value, &key) {
                refuted.push((value, false));
                continue;
            }
            let before = self.budget.0;
            self.budget.spend()?;
            let mut next = state.clone();
            if next.choose(self.problem, vec![(variable, value)])
                && let Some(solution) = self.descend(&next)?
            {
                return Ok(Some(solution));
            }
            refuted.push((value, before - self.budget.0 >= self.long));
        }
        if self.failed.len() < FAILED_MAX {
            self.failed.insert(key);
        }
        Ok(None)
    }

    /// Whether a value must fail because one that failed is like it.
    fn is_like(&mut self, refuted: &[(usize, bool)], value: usize, open: &[Bits]) -> bool {
        refuted.iter().any(|&(other, _)| self.symmetry.is_twin(other, value))
            || refuted.iter().any(|&(other, long)| {
                long && self.symmetry.is_image(other, value, open, self.budget)
            })
    }

    /// The one with the fewest values left, of these the one that has to do with most others.
    fn next_variable(&self, state: &State) -> Option<usize> {
        let open = (0..self.problem.variables()).filter(|&var| state.chosen[var].is_none());
        open.min_by_key(|&var| (state.domains[var].len(), usize::MAX - self.problem.degree(var)))
    }
}

impl State {
    /// Gives values to variables and draws what follows. `false` if it leads nowhere.
    fn choose(&mut self, problem: &Problem, mut waiting: Vec<(usize, usize)>) -> bool {
        while let Some((variable, value)) = waiting.pop() {
            if !self.domains[variable].has(value) {
                return false;
            }
            self.domains[variable] = Bits::single(value);
            if self.chosen[variable].replace(value).is_some() {
                continue;
            }
            for other in 0..problem.variables() {
                if other == variable {
                    continue;
                }
                let mut rest = self.domains[other];
                rest.remove(value);
                if let Some(allowed) = problem.allowed(variable, value, other) {
                    rest = rest.intersection(allowed);
                }
                if rest == self.domains[other] {
                    continue;
                }
                self.domains[other] = rest;
                match (rest.len(), rest.first()) {
                    (1, Some(only)) => waiting.push((other, only)),
                    (0, _) => return false,
                    _ => {}
                }
            }
        }
        distinct(&self.domains, &mut self.partners)
    }

    /// What the variables that are open may have: all that the rest of the search depends on.
    fn remaining(&self) -> Vec<Bits> {
        let open = |(domain, chosen): (&Bits, &Option<usize>)| {
            if chosen.is_none() { *domain } else { Bits::default() }
        };
        self.domains.iter().zip(&self.chosen).map(open).collect()
    }
}

/// Finds different values for all variables (a maximum bipartite matching); starts from what
/// `partners` has. `false` if there are none; then `partners` has as many as there can be.
pub(in crate::matching) fn distinct(domains: &[Bits], partners: &mut [Option<usize>]) -> bool {
    let mut holders = vec![None; super::bits::BITS];
    for (variable, partner) in partners.iter_mut().enumerate() {
        *partner = partner.filter(|&value| domains[variable].has(value));
        if let Some(value) = *partner {
            holders[value] = Some(variable);
        }
    }
    let mut all = true;
    for variable in 0..domains.len() {
        if partners[variable].is_none() {
            let mut seen = Bits::default();
            all &= augment(domains, partners, &mut holders, variable, &mut seen);
        }
    }
    all
}

/// Gives a variable a value, if need be one whose holder takes another.
fn augment(
    domains: &[Bits],
    partners: &mut [Option<usize>],
    holders: &mut [Option<usize>],
    variable: usize,
    seen: &mut Bits,
) -> bool {
    while let Some(value) = domains[variable].without(seen).first() {
        seen.insert(value);
        let free = match holders[value] {
            None => true,
            Some(holder) => augment(domains, partners, holders, holder, seen),
        };
        if free {
            holders[value] = Some(variable);
            partners[variable] = Some(value);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::Config;

    use super::super::symmetry::Symmetry;
    use super::{Bits, Budget, Problem, Search};

    /// Tables over values that lie in blocks: in one block, in blocks of one parity, and a few
    /// pairs of any kind.
    fn problem() -> impl Strategy<Value = Problem> {
        let blocks = vec(1..4_usize, 1..4);
        (blocks, 1..6_usize).prop_flat_map(|(blocks, variables)| {
            let block: Vec<usize> =
                (0..blocks.len()).flat_map(|block| vec![block; blocks[block]]).collect();
            let values = block.len();
            let extra = vec(any::<prop::sample::Index>(), 0..6);
            let domains = vec(prop_oneof![3 => Just(0_u8), 1 => 1..4_u8], variables);
            let relations = vec(prop_oneof![2 => Just(0_u8), 3 => 1..4_u8], variables * variables);
            (Just(block), extra, domains, relations).prop_map(
                move |(block, extra, domains, relations)| {
                    let extra: HashSet<usize> =
                        extra.iter().map(|pair| pair.index(values * values)).collect();
                    let table = |holds: &dyn Fn(usize, usize) -> bool| -> Vec<Bits> {
                        (0..values)
                            .map(|a| (0..values).filter(|&b| holds(a, b)).collect())
                            .collect()
                    };
                    let has = |a: usize, b: usize| {
                        extra.contains(&(a * values + b)) || extra.contains(&(b * values + a))
                    };
                    let tables = vec![
                        Vec::new(),
                        table(&|a, b| block[a] == block[b]),
                        table(&|a, b| block[a] % 2 == block[b] % 2),
                        table(&|a, b| block[a] == block[b] || has(a, b)),
                    ];
                    let domain = |&kind: &u8| {
                        let not = usize::from(kind);
                        (0..values).filter(|&value| kind == 0 || block[value] + 1 != not).collect()
                    };
                    let domains: Vec<Bits> = domains.iter().map(domain).collect();
                    // A relation is the same from both ends.
                    let count = domains.len();
                    let relation = |at: usize| {
                        relations
                            [(at / count).max(at % count) * count + (at / count).min(at % count)]
                    };
                    let relations = (0..count * count).map(relation).collect();
                    Problem::new(values, domains, relations, tables)
                },
            )
        })
    }

    /// Tries everything.
    fn is_solvable(problem: &Problem, start: &mut Vec<usize>) -> bool {
        let variable = start.len();
        if variable == problem.variables() {
            return true;
        }
        problem.domains[variable].iter().any(|value| {
            let allowed = |(other, &taken): (usize, &usize)| {
                let table = problem.allowed(other, taken, variable);
                taken != value && table.is_none_or(|table| table.has(value))
            };
            start.iter().enumerate().all(allowed) && {
                start.push(value);
                let solvable = is_solvable(problem, start);
                start.pop();
                solvable
            }
        })
    }

    fn check(problem: &Problem, symmetry: Symmetry<'_>) -> Result<(), TestCaseError> {
        let order = vec![(0..problem.values).collect(); problem.variables()];
        let mut budget = Budget(1_000_000);
        // Symmetry is looked for after every failure, however short.
        let (failed, long) = (HashSet::new(), 0);
        let mut search =
            Search { problem, order: &order, budget: &mut budget, symmetry, long, failed };
        let solution = search.start().expect("a small problem");
        prop_assert_eq!(solution.is_some(), is_solvable(problem, &mut Vec::new()));
        let Some(values) = solution else { return Ok(()) };
        for (variable, &value) in values.iter().enumerate() {
            prop_assert!(problem.domains[variable].has(value));
            for (other, &taken) in values.iter().enumerate().filter(|&(other, _)| other != variable)
            {
                let table = problem.allowed(variable, value, other);
                prop_assert!(taken != value && table.is_none_or(|table| table.has(taken)));
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(2000) })]

        #[test]
        fn solution_is_found_if_there_is_one_with_and_without_symmetry(problem in problem()) {
            check(&problem, Symmetry::new(&problem))?;
            check(&problem, Symmetry::none(&problem))?;
            let mut narrow = problem.clone();
            narrow.narrow();
            check(&narrow, Symmetry::new(&narrow))?;
            let solvable = |problem| is_solvable(problem, &mut Vec::new());
            prop_assert_eq!(solvable(&narrow), solvable(&problem));
        }
    }
}
