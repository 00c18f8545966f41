//! Who has which memory, and who is to make it in a restore.

use std::collections::BTreeMap;

use super::kfd::KfdFile;
use super::render::RenderFile;
use crate::refusal::{Refusal, RefusalKind};

/// A handle that is none (CRIU 4.2's plugin).
const NO_HANDLE: u32 = 0xffff_ffff;
/// Handles that stand for memory of the KFD which only a dma-buf shows: above all that a driver
/// gives out, so that none is one of a render node's (`i32::MAX` is the limit of the kernel's).
const MADE_UP_HANDLE: u32 = 0x8000_0000;

/// A buffer: its file, and its place in it.
type Key = (u32, usize);

/// A buffer of a render node.
#[derive(Clone, Copy, Debug)]
struct Gem {
    key: Key,
    handle: u32,
}

/// All memory by its number.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    numbers: BTreeMap<Key, u64>,
    /// Memory that the KFD has made, and for which process.
    kfds: BTreeMap<u64, i32>,
    /// Buffers of render nodes, in the order in which they were seen.
    gems: BTreeMap<u64, Vec<Gem>>,
}

impl Sharing {
    /// Notes a buffer of the KFD. The driver restores each with memory of its own.
    pub(super) fn add_kfd(&mut self, kfd: &KfdFile, index: usize, number: u64) -> Option<Refusal> {
        self.numbers.insert((kfd.id, index), number);
        let before = self.kfds.insert(number, kfd.owner)?;
        let what = match before == kfd.owner {
            true => format!("buffer {index} of the KFD, which process {before} has twice,"),
            false => {
                format!("buffer {index} of the KFD, which is one memory with process {before}'s,")
            }
        };
        let place = format!("/dev/kfd, file {:#x}", kfd.id);
        Some(Refusal::new(RefusalKind::GpuSharedBuffer, what, place, kfd.owner as u32))
    }

    /// Notes a buffer of a render node.
    pub(super) fn add_gem(&mut self, render: &RenderFile, index: usize, number: u64) {
        let key = (render.id, index);
        self.numbers.insert(key, number);
        let handle = render.buffers[index].entry.gem_handle;
        self.gems.entry(number).or_default().push(Gem { key, handle });
    }

    /// The number of a buffer's memory.
    pub(super) fn number(&self, file: u32, index: usize) -> u64 {
        self.numbers[&(file, index)]
    }

    /// Whether another buffer makes the memory of this one of a render node.
    pub(super) fn is_import(&self, file: u32, index: usize) -> bool {
        let number = self.number(file, index);
        let first = self.gems.get(&number).and_then(|gems| gems.first());
        self.kfds.contains_key(&number) || first.is_none_or(|gem| gem.key != (file, index))
    }

    pub(super) fn is_of_kfd(&self, number: u64) -> bool {
        self.kfds.contains_key(&number)
    }

    /// The handle that upstream's images know memory by. They have no other name for what is
    /// shared: one that is nowhere shared needs none, and must not look like another's.
    pub(super) fn upstream_handle(&self, number: u64, needs_one: bool) -> u32 {
        match self.gems.get(&number).and_then(|gems| gems.first()) {
            Some(gem) => gem.handle,
            None if needs_one => MADE_UP_HANDLE | number as u32,
            None => NO_HANDLE,
        }
    }
}
