//! A set of small numbers, copied rather than shared.

/// Numbers that fit: as many GPUs and CPU nodes as a host may have.
pub(super) const BITS: usize = 256;
const WORDS: usize = BITS / 64;

const _: () = assert!(crate::matching::GPUS_MAX + crate::matching::CPUS_MAX <= BITS);

/// A set of numbers below [`BITS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::matching) struct Bits([u64; WORDS]);

impl Bits {
    pub(in crate::matching) fn single(number: usize) -> Self {
        [number].into_iter().collect()
    }

    pub(in crate::matching) fn insert(&mut self, number: usize) {
        self.0[number / 64] |= 1 << (number % 64);
    }

    pub(in crate::matching) fn remove(&mut self, number: usize) {
        self.0[number / 64] &= !(1 << (number % 64));
    }

    pub(in crate::matching) fn has(&self, number: usize) -> bool {
        self.0[number / 64] >> (number % 64) & 1 == 1
    }

    pub(in crate::matching) fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The lowest number.
    pub(in crate::matching) fn first(&self) -> Option<usize> {
        self.iter().next()
    }

    pub(in crate::matching) fn intersection(&self, other: &Self) -> Self {
        let mut both = *self;
        both.0.iter_mut().zip(other.0).for_each(|(word, with)| *word &= with);
        both
    }

    pub(in crate::matching) fn without(&self, other: &Self) -> Self {
        let mut rest = *self;
        rest.0.iter_mut().zip(other.0).for_each(|(word, with)| *word &= !with);
        rest
    }

    /// Ascending.
    pub(in crate::matching) fn iter(&self) -> impl Iterator<Item = usize> + use<> {
        self.0.into_iter().enumerate().flat_map(|(index, mut word)| {
            std::iter::from_fn(move || {
                let bit = word.checked_ilog2().map(|_| word.trailing_zeros() as usize)?;
                word &= word - 1;
                Some(64 * index + bit)
            })
        })
    }
}

impl FromIterator<usize> for Bits {
    fn from_iter<I: IntoIterator<Item = usize>>(numbers: I) -> Self {
        let mut bits = Self::default();
        numbers.into_iter().for_each(|number| bits.insert(number));
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::Bits;

    #[test]
    fn set_holds_what_was_put_in() {
        let mut bits: Bits = [255, 0, 64, 63, 7].into_iter().collect();
        assert_eq!(bits.iter().collect::<Vec<_>>(), [0, 7, 63, 64, 255]);
        assert_eq!((bits.len(), bits.first()), (5, Some(0)));
        bits.remove(0);
        bits.remove(1);
        assert!(!bits.has(0) && bits.has(255));
        let other: Bits = [7, 8, 255].into_iter().collect();
        assert_eq!(bits.intersection(&other).iter().collect::<Vec<_>>(), [7, 255]);
        assert_eq!(bits.without(&other).iter().collect::<Vec<_>>(), [63, 64]);
        assert!(Bits::default().len() == 0 && Bits::default().first().is_none());
    }
}
