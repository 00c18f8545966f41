//! Which values a problem cannot tell apart: if one of them fails, the others need no trial.
//!
//! Look at the values that open variables may still have, and let σ be a permutation of them that
//! keeps the domain of each open variable and all tables. If a variable could have the value σ(v),
//! then, carried back by σ, it could have v. So once v has failed, σ(v) fails too. A swap of two
//! values is seen at once; other permutations (a swap of two hives, say) are looked for by the same
//! search that matches.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;

use super::bits::Bits;
use super::problem::Problem;
use super::search::{Budget, solve_plainly};

/// Steps that a look for a permutation may take for each value. Where the host is symmetric the
/// first way down finds it, or nearly; what takes longer is not worth it.
const STEPS_PER_VALUE: u64 = 4;

/// Looks that may find nothing before no more are taken, and what a look that finds something gives
/// back: most machines are symmetric, and on one that is not the looks would be in vain.
const LOOKS: u32 = 32;
const LOOKS_FOR_A_FIND: u32 = 8;

/// Kinds of pairs of values: two points of a host differ in three ranks each way and in whether
/// they are in one hive, which makes 18, and 0 is left out.
const KINDS_MAX: usize = 19;

/// What is known of a problem's symmetry.
pub(super) struct Symmetry<'a> {
    problem: &'a Problem,
    is_used: bool,
    /// Looks that are left.
    looks: Cell<u32>,
    /// A number for each value, equal for values that can be swapped.
    twins: OnceCell<Vec<usize>>,
    /// The problem of mapping the host onto itself.
    host: OnceCell<Problem>,
}

impl<'a> Symmetry<'a> {
    pub(super) fn new(problem: &'a Problem) -> Self {
        let (twins, host) = (OnceCell::new(), OnceCell::new());
        Self { problem, is_used: true, looks: Cell::new(LOOKS), twins, host }
    }

    /// One that finds nothing.
    pub(super) fn none(problem: &'a Problem) -> Self {
        Self { is_used: false, ..Self::new(problem) }
    }

    /// Whether two values can be swapped, everything else left alone.
    pub(super) fn is_twin(&self, one: usize, other: usize) -> bool {
        self.is_used && {
            let twins = self.twins.get_or_init(|| twins(self.host()));
            twins[one] == twins[other]
        }
    }

    /// Whether some permutation takes one value to the other. `open` is what each open variable may
    /// still have. `false` also if finding out would take long.
    pub(super) fn is_image(
        &self,
        from: usize,
        to: usize,
        open: &[Bits],
        budget: &mut Budget,
    ) -> bool {
        let Some(looks) = self.looks.get().checked_sub(1).filter(|_| self.is_used) else {
            return false;
        };
        let host = self.host();
        let columns = columns(host.values, open);
        let values: Vec<usize> =
            (0..host.values).filter(|&value| columns[value] != Bits::default()).collect();
        // What σ cannot change of a value: who may have it, and how many others are to it what.
        let face = |value: usize| {
            let mut counts = [0_u16; KINDS_MAX];
            for &other in values.iter().filter(|&&other| other != value) {
                counts[usize::from(host.relation(value, other))] += 1;
            }
            (columns[value], counts)
        };
        let faces: Vec<_> = (0..host.values).map(face).collect();
        if faces[from] != faces[to] {
            return false;
        }
        let domain = |&value: &usize| {
            let alike = values.iter().copied().filter(|&other| faces[value] == faces[other]);
            alike.filter(|&other| value != from || other == to).collect()
        };
        let domains = values.iter().map(domain).collect();
        // A value stays what it is if it can.
        let order: Vec<Vec<usize>> = values
            .iter()
            .map(|&value| std::iter::once(value).chain(values.iter().copied()).collect())
            .collect();
        let steps = budget.0.min(STEPS_PER_VALUE * values.len() as u64);
        let mut own = Budget(steps);
        let problem = host.part(&values, domains);
        let found = matches!(solve_plainly(&problem, &order, &mut own), Ok(Some(_)));
        budget.0 -= steps - own.0;
        self.looks.set(if found { looks + LOOKS_FOR_A_FIND } else { looks });
        found
    }

    fn host(&self) -> &Problem {
        self.host.get_or_init(|| onto_itself(self.problem))
    }
}

/// For each value the variables that may have it.
fn columns(values: usize, domains: &[Bits]) -> Vec<Bits> {
    let column = |value| (0..domains.len()).filter(|&var| domains[var].has(value)).collect();
    (0..values).map(column).collect()
}

/// The problem whose solutions are the permutations of values that keep domains and tables.
fn onto_itself(problem: &Problem) -> Problem {
    let count = problem.values;
    // Alike are values that the same variables may have.
    let columns = columns(count, &problem.domains);
    let alike = |value: usize| -> Bits {
        (0..count).filter(|&other| columns[value] == columns[other]).collect()
    };
    let domains = (0..count).map(alike).collect();
    // Pairs of values are alike if they are in the same tables, seen from both ends.
    let mut known: BTreeMap<Vec<(bool, bool)>, u8> = BTreeMap::new();
    let mut relations = Vec::with_capacity(count * count);
    for first in 0..count {
        for second in 0..count {
            let tables = problem.tables().iter();
            let kind = tables.map(|t| (t[first].has(second), t[second].has(first))).collect();
            let next = known.len() + 1;
            let relation = *known.entry(kind).or_insert(next as u8);
            assert!(usize::from(relation) < KINDS_MAX, "tables of more kinds than matches have");
            relations.push(relation);
        }
    }
    let mut tables = vec![vec![Bits::default(); count]; known.len() + 1];
    for first in 0..count {
        for second in (0..count).filter(|&second| second != first) {
            let relation = relations[first * count + second];
            tables[usize::from(relation)][first].insert(second);
        }
    }
    Problem::new(count, domains, relations, tables)
}

/// For each value the lowest one with which it can be swapped, everything else left alone.
fn twins(host: &Problem) -> Vec<usize> {
    let swappable = |a: usize, b: usize| {
        let mut others = (0..host.values).filter(|&other| other != a && other != b);
        host.domains[a].has(b)
            && host.relation(a, b) == host.relation(b, a)
            && others.all(|other| host.relation(a, other) == host.relation(b, other))
    };
    // It is an equivalence, so the first that fits is the lowest of its class.
    (0..host.values)
        .map(|value| (0..value).find(|&first| swappable(first, value)).unwrap_or(value))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::bits::Bits;
    use super::super::problem::Problem;
    use super::super::search::Budget;
    use super::Symmetry;

    /// Hives of three points each, one variable that may have any value, and one that may not
    /// have the last.
    fn hives(count: usize) -> Problem {
        let values = 3 * count;
        let hive = |value: usize| (value / 3 * 3..value / 3 * 3 + 3).collect::<Bits>();
        let all: Bits = (0..values).collect();
        let table = (0..values).map(hive).collect();
        let domains = vec![all, all.without(&Bits::single(values - 1))];
        Problem::new(values, domains, vec![0, 1, 1, 0], vec![Vec::new(), table])
    }

    #[test]
    fn members_of_a_hive_can_be_swapped_and_hives_as_a_whole() {
        let problem = hives(3);
        let symmetry = Symmetry::new(&problem);
        // What the second variable may still have, once the first has a value.
        let image = |from, to, rest: &[usize]| {
            let open = [Bits::default(), rest.iter().copied().collect()];
            symmetry.is_image(from, to, &open, &mut Budget(1000))
        };
        assert!(symmetry.is_twin(0, 1) && symmetry.is_twin(1, 2) && symmetry.is_twin(6, 7));
        assert!(!symmetry.is_twin(0, 3));
        // The last value has a domain of its own, and so its hive is unlike the others.
        assert!(!symmetry.is_twin(7, 8));
        let all: Vec<usize> = (0..9).collect();
        assert!(image(0, 3, &all) && image(2, 7, &all));
        assert!(image(0, 3, &all[..8]) && !image(0, 6, &all[..8]) && !image(7, 8, &all[..8]));
        // Two hives of which one value each is gone are alike, whichever value it is.
        assert!(image(1, 3, &[1, 2, 3, 5, 6, 7, 8]) && !image(1, 6, &[1, 2, 3, 5, 6, 7, 8]));
    }

    #[test]
    fn symmetry_is_not_looked_for_beyond_the_budget() {
        let problem = hives(3);
        let open = &problem.domains;
        let mut budget = Budget(2);
        assert!(!Symmetry::new(&problem).is_image(0, 3, open, &mut budget));
        assert_eq!(budget, Budget(0));
        let none = Symmetry::none(&problem);
        assert!(!none.is_twin(0, 1) && !none.is_image(0, 3, open, &mut Budget(99)));
    }
}
