//! A problem: what each variable may have, and what any two may have together.

use super::bits::Bits;

/// The relation of two variables that have nothing to do with each other.
pub(in crate::matching) const FREE: u8 = 0;

/// Variables, values and relations.
#[derive(Clone, Debug)]
pub(in crate::matching) struct Problem {
    /// How many values there are.
    pub(in crate::matching) values: usize,
    /// For each variable the values that it may have.
    pub(in crate::matching) domains: Vec<Bits>,
    /// For each two variables which table holds, or [`FREE`].
    relations: Vec<u8>,
    /// For each value of the first variable the values that the second may have.
    tables: Vec<Vec<Bits>>,
}

impl Problem {
    /// A problem with these relations between any two variables; each is the place of a table. The
    /// table at [`FREE`] is not looked at.
    pub(in crate::matching) fn new(
        values: usize,
        domains: Vec<Bits>,
        relations: Vec<u8>,
        tables: Vec<Vec<Bits>>,
    ) -> Self {
        assert_eq!(relations.len(), domains.len() * domains.len(), "one for each two variables");
        Self { values, domains, relations, tables }
    }

    /// Takes values out that have fewer neighbours of a kind than their variable has. No solution
    /// is lost.
    pub(in crate::matching) fn narrow(&mut self) {
        let room =
            |table: &Vec<Bits>, value: usize| table[value].without(&Bits::single(value)).len();
        for variable in 0..self.variables() {
            let mut wanted = vec![0; self.tables.len()];
            for other in (0..self.variables()).filter(|&other| other != variable) {
                wanted[usize::from(self.relation(variable, other))] += 1;
            }
            let wanted: Vec<(usize, &Vec<Bits>)> = wanted
                .into_iter()
                .zip(&self.tables)
                .skip(1)
                .filter(|(count, _)| *count > 0)
                .collect();
            let has_room =
                |&value: &usize| wanted.iter().all(|&(count, table)| count <= room(table, value));
            let narrowed = self.domains[variable].iter().filter(has_room).collect();
            self.domains[variable] = narrowed;
        }
    }

    /// The problem of some of the variables, with these domains.
    pub(super) fn part(&self, variables: &[usize], domains: Vec<Bits>) -> Self {
        let row =
            |&first: &usize| variables.iter().map(move |&second| self.relation(first, second));
        let relations = variables.iter().flat_map(row).collect();
        Self::new(self.values, domains, relations, self.tables.clone())
    }

    pub(in crate::matching) fn variables(&self) -> usize {
        self.domains.len()
    }

    /// Which table holds between two variables, or [`FREE`].
    pub(super) fn relation(&self, first: usize, second: usize) -> u8 {
        self.relations[first * self.variables() + second]
    }

    /// Which values `second` may have if `first` has `value`; `None` if any.
    pub(super) fn allowed(&self, first: usize, value: usize, second: usize) -> Option<&Bits> {
        match self.relation(first, second) {
            FREE => None,
            relation => Some(&self.tables[usize::from(relation)][value]),
        }
    }

    /// With how many others a variable has to do.
    pub(super) fn degree(&self, variable: usize) -> usize {
        let others = 0..self.variables();
        others.filter(|&other| self.relation(variable, other) != FREE).count()
    }

    /// The tables, [`FREE`]'s left out.
    pub(super) fn tables(&self) -> &[Vec<Bits>] {
        &self.tables[1..]
    }
}
