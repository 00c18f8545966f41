//! Which of several matches is taken: the one that changes least, and always the same one.
//!
//! In the order of the checkpoint each saved GPU takes the best of the GPUs that still allow a
//! match: the one with its own id; else the one in its own place (the third saved, the third here)
//! unless that has the id of another saved GPU; else the first that has no saved GPU's id; else
//! the first at all. So where every GPU can stay as it was, it does. CPU nodes follow by the same
//! rule.

use super::side::Side;
use super::solver::{Bits, Budget, Exhausted, Problem, solve};

/// For each variable of a problem of these two sides, the values from best to worst.
pub(super) fn order(saved: &Side, here: &Side) -> Vec<Vec<usize>> {
    let ids = |side: &Side| side.gpus.iter().map(|gpu| gpu.id).collect::<Vec<_>>();
    let gpus = ranking(&ids(saved), &ids(here), 0);
    let cpus = ranking(&saved.cpus, &here.cpus, here.gpus.len());
    gpus.into_iter().chain(cpus).collect()
}

fn ranking(saved: &[u32], here: &[u32], first: usize) -> Vec<Vec<usize>> {
    let of = |(place, own): (usize, &u32)| {
        let mut values: Vec<usize> = (0..here.len()).collect();
        values.sort_by_key(|&value| {
            let id = here[value];
            (id != *own, saved.contains(&id), value != place, value)
        });
        values.into_iter().map(|value| first + value).collect()
    };
    saved.iter().enumerate().map(of).collect()
}

/// The best solution, or `None` if there is none. If the steps run out once a solution is known,
/// it is the best one that is known.
pub(super) fn best(
    problem: &Problem,
    order: &[Vec<usize>],
    budget: &mut Budget,
) -> Result<Option<Vec<usize>>, Exhausted> {
    let mut problem = problem.clone();
    problem.narrow();
    let Some(mut found) = solve(&problem, order, budget)? else {
        return Ok(None);
    };
    for (variable, values) in order.iter().enumerate().take(problem.variables()) {
        for &value in values {
            if !problem.domains[variable].has(value) {
                continue;
            }
            if found[variable] == value {
                break;
            }
            let mut narrower = problem.clone();
            narrower.domains[variable] = Bits::single(value);
            match solve(&narrower, order, budget) {
                Ok(Some(better)) => {
                    found = better;
                    break;
                }
                Ok(None) => {}
                Err(Exhausted) => return Ok(Some(found)),
            }
        }
        problem.domains[variable] = Bits::single(found[variable]);
    }
    Ok(Some(found))
}
