//! Small numbers for things, the lowest free one first, as the kernel's `idr` gives them out.

use std::collections::BTreeMap;

use nix::errno::Errno;

/// A table from small numbers to values.
#[derive(Clone, Debug)]
pub(crate) struct Handles<T> {
    first: u32,
    limit: u32,
    table: BTreeMap<u32, T>,
}

impl<T> Handles<T> {
    /// Numbers from `first` up to but not including `limit`.
    pub(crate) fn new(first: u32, limit: u32) -> Self {
        Self { first, limit, table: BTreeMap::new() }
    }

    /// Takes the lowest free number.
    ///
    /// # Errors
    /// `ENOSPC` if none is free.
    pub(crate) fn insert(&mut self, value: T) -> Result<u32, Errno> {
        let mut free = self.first;
        // Numbers are dense but for holes, so the walk ends at the first hole.
        for number in self.table.range(self.first..).map(|(number, _)| *number) {
            if number != free {
                break;
            }
            free += 1;
        }
        if free >= self.limit {
            return Err(Errno::ENOSPC);
        }
        self.table.insert(free, value);
        Ok(free)
    }

    /// Takes this number.
    ///
    /// # Errors
    /// `ENOSPC` if it is taken (what `idr_alloc` gives for a range of one), `EINVAL` if it is out
    /// of range.
    pub(crate) fn insert_at(&mut self, number: u32, value: T) -> Result<(), Errno> {
        if number < self.first || number >= self.limit {
            return Err(Errno::EINVAL);
        }
        if self.table.contains_key(&number) {
            return Err(Errno::ENOSPC);
        }
        self.table.insert(number, value);
        Ok(())
    }

    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        self.table.get(&number)
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        self.table.get_mut(&number)
    }

    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        self.table.remove(&number)
    }

    /// In ascending order of numbers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.table.iter().map(|(number, value)| (*number, value))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.table.iter_mut().map(|(number, value)| (*number, value))
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Empties the table.
    pub(crate) fn take(&mut self) -> BTreeMap<u32, T> {
        std::mem::take(&mut self.table)
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::Handles;

    #[test]
    fn lowest_free_number_is_taken() {
        let mut handles = Handles::new(1, 4);
        assert_eq!([(); 3].map(|()| handles.insert(())), [Ok(1), Ok(2), Ok(3)]);
        assert_eq!(handles.insert(()), Err(Errno::ENOSPC));
        handles.remove(2);
        assert_eq!(handles.insert(()), Ok(2));
    }

    #[test]
    fn number_that_is_asked_for_is_given_once() {
        let mut handles = Handles::new(1, 4);
        assert_eq!(handles.insert_at(2, ()), Ok(()));
        assert_eq!(handles.insert_at(2, ()), Err(Errno::ENOSPC));
        assert_eq!(handles.insert_at(4, ()), Err(Errno::EINVAL));
        assert_eq!((handles.insert(()), handles.insert(())), (Ok(1), Ok(3)));
    }
}
