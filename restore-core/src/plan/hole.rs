//! Finds address space for the shared region: free in the restorer and in every target.

use super::MemoryPlan;

/// Lowest address tried: above what `mmap_min_addr` and non-relocatable programs usually take.
const LOWEST: u64 = 0x1000_0000;
/// End of user addresses on x86-64 with four page-table levels.
const HIGHEST: u64 = 0x7fff_ffff_f000;
/// Kept free around the region: the stack guard gap (256 pages), so that no stack that grows
/// down finds it in its way while the targets are built.
const MARGIN_BYTES: u64 = 1 << 20;

/// Lowest place for `len_bytes` that no mapping of any target nor `own` covers.
pub(super) fn find<'a>(
    targets: impl Iterator<Item = &'a MemoryPlan>,
    own: &[(u64, u64)],
    len_bytes: u64,
) -> Option<u64> {
    let mut taken: Vec<(u64, u64)> = own.to_vec();
    for memory in targets {
        taken.extend(memory.mappings.iter().map(|m| (m.start, m.end())));
        taken.extend(memory.vdso.map(|(start, len)| (start, start + len)));
    }
    find_between(taken, len_bytes)
}

/// Lowest place for `len_bytes` that none of the ranges covers.
pub(crate) fn find_between(mut taken: Vec<(u64, u64)>, len_bytes: u64) -> Option<u64> {
    taken.sort_unstable();
    let needed = len_bytes + 2 * MARGIN_BYTES;
    let mut at = LOWEST;
    for (start, end) in taken {
        if start >= at && start - at >= needed {
            break;
        }
        at = at.max(end);
    }
    let at = at.next_multiple_of(4096);
    (at.checked_add(needed)? <= HIGHEST).then_some(at + MARGIN_BYTES)
}

#[cfg(test)]
mod tests {
    use super::{LOWEST, MARGIN_BYTES, find};

    fn check(own: &[(u64, u64)], len_bytes: u64, expected: Option<u64>) {
        assert_eq!(find(std::iter::empty(), own, len_bytes), expected, "in {own:x?}");
    }

    #[test]
    fn region_lies_in_the_first_gap_that_is_large_enough() {
        let m = MARGIN_BYTES;
        check(&[], 4096, Some(LOWEST + m));
        check(&[(LOWEST, LOWEST + 4096)], 4096, Some(LOWEST + 4096 + m));
        check(&[(LOWEST + 3 * m, LOWEST + 4 * m)], m, Some(LOWEST + m));
        check(&[(LOWEST + 3 * m, LOWEST + 4 * m)], m + 4096, Some(LOWEST + 5 * m));
    }

    #[test]
    fn no_room_is_no_address() {
        check(&[(0, 0x7fff_ffff_f000)], 4096, None);
    }
}
