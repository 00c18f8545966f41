//! The address space of a GPU: which buffer stands at which virtual address.
//!
//! One belongs to each open of a render node; the KFD takes over that of the open that a process
//! names in `AMDKFD_IOC_ACQUIRE_VM`. An engine that touches an address where nothing is mapped
//! faults; the model knows no page tables below that.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::memory::Memory;
use super::world::{BufferId, GpuIndex, PagesAt, SpaceId, World};

/// Size of a GPU page, and the unit of mappings.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// First address that a program may map: below it the driver catches null pointers
/// (`AMDGPU_VA_RESERVED_BOTTOM`, Linux 6.12).
pub(crate) const VA_FIRST: u64 = 1 << 16;

/// End of GPU virtual addresses: 48 bits (GFX9 has four page-table levels).
pub(crate) const VA_END: u64 = 1 << 48;

/// What the driver keeps for itself below the end: context save areas, sequence numbers, trap
/// handlers (`AMDGPU_VA_RESERVED_TOP`).
pub(crate) const VA_RESERVED_TOP_BYTES: u64 = (2 << 20) + (2 << 20) + (2 << 12);

/// Addresses with the upper half of the bits set name the upper half of the address space; between
/// the halves there is nothing (`AMDGPU_GMC_HOLE_START`, `_END`, `_MASK`).
pub(crate) const HOLE_START: u64 = 0x0000_8000_0000_0000;
pub(crate) const HOLE_END: u64 = 0xffff_8000_0000_0000;

/// Who made a mapping, and takes it away with itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A GEM handle of the file that the address space belongs to.
    Gem(u32),
    /// A buffer of a KFD process, by the GPU and number of its handle.
    Kfd(GpuIndex, u32),
    /// Nobody's memory (`AMDGPU_VM_PAGE_PRT`): reads zeros, swallows writes.
    Hole,
}

/// What a mapping of a [`Owner::Hole`] names in place of a buffer; never given out.
pub(crate) const NO_BUFFER: BufferId = BufferId(0);

/// A range of virtual addresses that shows a part of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) len_bytes: u64,
    pub(crate) buffer: BufferId,
    /// Where in the buffer it begins, in bytes.
    pub(crate) offset: u64,
    /// `AMDGPU_VM_PAGE_*`.
    pub(crate) flags: u64,
    pub(crate) owner: Owner,
}

/// An engine touched an address where nothing is mapped, or not in this way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) va: u64,
}

/// A run of memory that a range of virtual addresses stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    Pages(PagesAt, u64),
    User(SpaceId, u64, u64),
    /// No memory: zeros that cannot be changed.
    Hole(u64),
}

/// The address space of one open render node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vm {
    mappings: BTreeMap<u64, Mapping>,
}

impl Vm {
    /// Maps.
    ///
    /// # Errors
    /// `EINVAL` if anything is not whole pages, leaves the address space, or overlaps.
    pub(crate) fn map(&mut self, va: u64, mapping: Mapping) -> Result<(), Errno> {
        let aligned = |value: u64| value.is_multiple_of(PAGE_BYTES);
        let end = va.checked_add(mapping.len_bytes).ok_or(Errno::EINVAL)?;
        let whole = aligned(va) && aligned(mapping.len_bytes) && aligned(mapping.offset);
        if !whole || mapping.len_bytes == 0 || end > VA_END || self.overlaps(va, end) {
            return Err(Errno::EINVAL);
        }
        self.mappings.insert(va, mapping);
        Ok(())
    }

    /// Takes away the mapping that begins at `va`.
    pub(crate) fn unmap(&mut self, va: u64) -> Option<Mapping> {
        self.mappings.remove(&va)
    }

    /// Takes away all that stands between `va` and `end`; what reaches over the edges is cut.
    pub(crate) fn clear(&mut self, va: u64, end: u64) {
        let touched: Vec<u64> = self.range(va, end).map(|(start, _)| start).collect();
        for start in touched {
            let Some(mapping) = self.mappings.remove(&start) else { continue };
            let mapping_end = start + mapping.len_bytes;
            if start < va {
                self.mappings.insert(start, Mapping { len_bytes: va - start, ..mapping });
            }
            if mapping_end > end {
                let offset = mapping.offset + (end - start);
                let rest = Mapping { len_bytes: mapping_end - end, offset, ..mapping };
                self.mappings.insert(end, rest);
            }
        }
    }

    /// Takes away all mappings of an owner.
    pub(crate) fn drop_owner(&mut self, owner: Owner) {
        self.mappings.retain(|_, mapping| mapping.owner != owner);
    }

    /// A handle has got another number: its mappings stay.
    pub(crate) fn rename_owner(&mut self, from: Owner, to: Owner) {
        for mapping in self.mappings.values_mut().filter(|mapping| mapping.owner == from) {
            mapping.owner = to;
        }
    }

    /// Takes away all mappings of the KFD.
    pub(crate) fn drop_kfd(&mut self) {
        self.mappings.retain(|_, mapping| !matches!(mapping.owner, Owner::Kfd(..)));
    }

    pub(crate) fn get(&self, va: u64) -> Option<&Mapping> {
        self.mappings.get(&va)
    }

    /// How many mappings there are.
    pub(crate) fn len(&self) -> usize {
        self.mappings.len()
    }

    /// All mappings in ascending order of addresses.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &Mapping)> {
        self.mappings.iter().map(|(va, mapping)| (*va, mapping))
    }

    fn range(&self, va: u64, end: u64) -> impl Iterator<Item = (u64, &Mapping)> {
        let before = self.mappings.range(..va).next_back();
        let first = before.filter(|(start, mapping)| **start + mapping.len_bytes > va);
        first.into_iter().chain(self.mappings.range(va..end.max(va))).map(|(va, map)| (*va, map))
    }

    /// Whether anything is mapped between two addresses.
    pub(crate) fn overlaps(&self, va: u64, end: u64) -> bool {
        self.range(va, end).next().is_some()
    }

    /// The memory behind a range.
    ///
    /// # Errors
    /// The first address without a mapping.
    pub(crate) fn segments(
        &self,
        memory: &Memory,
        va: u64,
        len_bytes: u64,
    ) -> Result<Vec<Segment>, Fault> {
        let end = va.checked_add(len_bytes).ok_or(Fault { va })?;
        let mut at = va;
        let mut segments = Vec::new();
        while at < end {
            let (start, mapping) = self.range(at, at + 1).next().ok_or(Fault { va: at })?;
            let inside = at - start;
            let len = (mapping.len_bytes - inside).min(end - at);
            segments.push(match mapping.owner {
                Owner::Hole => Segment::Hole(len),
                _ => memory.segment(mapping.buffer, mapping.offset + inside, len),
            });
            at += len;
        }
        Ok(segments)
    }

    /// Reads as an engine does.
    pub(crate) fn read(
        &self,
        memory: &Memory,
        world: &mut dyn World,
        va: u64,
        into: &mut [u8],
    ) -> Result<(), Fault> {
        let mut rest = into;
        let mut at = va;
        for segment in self.segments(memory, va, rest.len() as u64)? {
            let (part, after) = rest.split_at_mut(segment.len_bytes() as usize);
            segment.read(world, part).map_err(|_| Fault { va: at })?;
            at += segment.len_bytes();
            rest = after;
        }
        Ok(())
    }

    /// Writes as an engine does.
    pub(crate) fn write(
        &self,
        memory: &Memory,
        world: &mut dyn World,
        va: u64,
        from: &[u8],
    ) -> Result<(), Fault> {
        let mut rest = from;
        let mut at = va;
        for segment in self.segments(memory, va, rest.len() as u64)? {
            let (part, after) = rest.split_at(segment.len_bytes() as usize);
            segment.write(world, part).map_err(|_| Fault { va: at })?;
            at += segment.len_bytes();
            rest = after;
        }
        Ok(())
    }
}

impl Segment {
    pub(crate) fn len_bytes(&self) -> u64 {
        match *self {
            Self::Pages(_, len) | Self::User(_, _, len) | Self::Hole(len) => len,
        }
    }

    fn read(&self, world: &mut dyn World, into: &mut [u8]) -> Result<(), Errno> {
        match *self {
            Self::Pages(at, _) => world.read_pages(at, into),
            Self::Hole(_) => into.fill(0),
            Self::User(space, address, _) => world.read_user(space, address, into)?,
        }
        Ok(())
    }

    fn write(&self, world: &mut dyn World, from: &[u8]) -> Result<(), Errno> {
        match *self {
            Self::Pages(at, _) => world.write_pages(at, from),
            Self::Hole(_) => {}
            Self::User(space, address, _) => world.write_user(space, address, from)?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::{Mapping, Owner, Vm};
    use crate::model::world::BufferId;

    fn mapping(pages: u64) -> Mapping {
        let len_bytes = pages * 4096;
        Mapping { len_bytes, buffer: BufferId(1), offset: 0, flags: 0, owner: Owner::Gem(1) }
    }

    #[test]
    fn overlap_and_broken_pages_are_refused() {
        let mut vm = Vm::default();
        assert_eq!(vm.map(0x10000, mapping(4)), Ok(()));
        for (va, pages) in [(0x10000, 1), (0x13000, 1), (0xf000, 2), (0xf000, 9), (0x20001, 1)] {
            assert_eq!(vm.map(va, mapping(pages)), Err(Errno::EINVAL), "{va:#x} {pages}");
        }
        assert_eq!(vm.map(0x14000, mapping(1)), Ok(()));
        assert_eq!(vm.map(0xf000, mapping(1)), Ok(()));
        assert_eq!(vm.map((1 << 48) - 4096, mapping(2)), Err(Errno::EINVAL));
    }

    #[test]
    fn clear_cuts_what_reaches_over_its_edges() {
        let mut vm = Vm::default();
        vm.map(0x10000, mapping(8)).expect("room");
        vm.clear(0x12000, 0x14000);
        let left: Vec<_> = vm.iter().map(|(va, map)| (va, map.len_bytes, map.offset)).collect();
        assert_eq!(left, [(0x10000, 0x2000, 0), (0x14000, 0x4000, 0x4000)]);
    }
}
