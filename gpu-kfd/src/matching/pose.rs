//! A match as a problem of choice: for each saved point a point of this host, no two the same,
//! such that what is between any two saved points is between the chosen ones as well.
//!
//! Saved GPUs become GPUs and, where NUMA counts, saved CPUs become CPUs. All that lies between
//! points (links, hives, NUMA) is then one kind of thing: a relation of two points.

use std::collections::BTreeMap;

use super::pairwise;
use super::rules::{Rule, Rules};
use super::side::{Rank, Side};
use super::solver::{Bits, FREE, Problem};

/// What is to be between two chosen points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Need {
    out: Rank,
    back: Rank,
    one_hive: bool,
}

/// The problem of matching two sides. Variables are the saved points, values those of this host.
/// `chosen` gives for each saved GPU the one that it must become, if any.
pub(super) fn pose(saved: &Side, here: &Side, rules: Rules, chosen: &[Option<usize>]) -> Problem {
    let gpus = (0..saved.gpus.len()).map(|gpu| {
        let fits = |other: &usize| pairwise::fits(saved, here, rules, gpu, *other);
        let fits = (0..here.gpus.len()).filter(fits);
        fits.filter(|&other| chosen[gpu].is_none_or(|only| only == other)).collect()
    });
    let all_cpus: Bits = (here.gpus.len()..here.points()).collect();
    let cpus = saved.cpus.iter().filter(|_| rules.has(Rule::Numa)).map(|_| all_cpus);
    let domains: Vec<Bits> = gpus.chain(cpus).collect();

    let mut tables = vec![Vec::new()];
    let mut known = BTreeMap::from([(Need::default(), FREE)]);
    let mut relations = Vec::with_capacity(domains.len() * domains.len());
    for first in 0..domains.len() {
        for second in 0..domains.len() {
            let need = need(saved, rules, first, second);
            let relation = *known.entry(need).or_insert_with(|| {
                tables.push(table(here, need));
                // There are 18 needs at most.
                (tables.len() - 1) as u8
            });
            relations.push(relation);
        }
    }
    Problem::new(here.points(), domains, relations, tables)
}

/// What a saved pair of points asks for.
fn need(saved: &Side, rules: Rules, first: usize, second: usize) -> Need {
    let gpus = saved.gpus.len();
    let (out, back) = (saved.rank(first, second), saved.rank(second, first));
    match (first < gpus, second < gpus) {
        (true, true) => {
            let one_hive = rules.has(Rule::Hive)
                && first != second
                && saved.hives[first] == saved.hives[second];
            let ranks = if rules.has(Rule::Links) { (out, back) } else { Default::default() };
            Need { out: ranks.0, back: ranks.1, one_hive }
        }
        (false, false) => Need::default(),
        _ if rules.has(Rule::Links) => Need { out, back, one_hive: false },
        // Then it only counts at which CPU a GPU is.
        (true, false) => Need { out: out.min(Rank::PciExpress), ..Need::default() },
        (false, true) => Need { back: back.min(Rank::PciExpress), ..Need::default() },
    }
}

fn table(here: &Side, need: Need) -> Vec<Bits> {
    let gpus = here.gpus.len();
    let one_hive = |first: usize, second: usize| {
        first < gpus && second < gpus && here.hives[first] == here.hives[second]
    };
    let meets = |first: usize, second: usize| {
        here.rank(first, second) >= need.out
            && here.rank(second, first) >= need.back
            && (!need.one_hive || one_hive(first, second))
    };
    let row = |first| (0..here.points()).filter(|&second| meets(first, second)).collect();
    (0..here.points()).map(row).collect()
}
