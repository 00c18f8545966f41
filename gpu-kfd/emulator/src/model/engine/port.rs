//! An engine's way to memory: reads, writes, copies and fills at GPU virtual addresses.
//!
//! Where nothing is mapped, a queue's engine stops with a fault after all before it is done. The
//! engine of a job goes on, reads zeros and drops what it writes, as amdgpu lets it by default.

use crate::model::memory::Memory;
use crate::model::svm::Ranges;
use crate::model::vm::{Fault, PAGE_BYTES, Vm};
use crate::model::world::{GpuIndex, SpaceId, World};

/// Most bytes that are in flight at once, and so the size of the only buffer.
pub(super) const CHUNK_BYTES: u64 = 64 << 10;

/// Memory that a process shares with its GPUs without mapping it.
pub(super) struct Shared<'a> {
    pub(super) ranges: &'a Ranges,
    pub(super) space: SpaceId,
    pub(super) gpu: GpuIndex,
}

/// What an engine sees.
pub(super) struct Port<'a> {
    pub(super) vm: &'a Vm,
    pub(super) memory: &'a Memory,
    pub(super) world: &'a mut dyn World,
    /// Of queues; jobs have none.
    pub(super) shared: Option<Shared<'a>>,
    /// What is in flight; grows to [`CHUNK_BYTES`] when it is first needed.
    pub(super) chunk: &'a mut Vec<u8>,
    /// Goes on after a fault.
    pub(super) tolerant: bool,
    /// Faults that it went on after.
    pub(super) faults: u64,
}

/// Cuts a range at page borders: address, and place in the buffer.
fn pages(va: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = va.wrapping_add(done as u64);
        let part = (len - done).min((PAGE_BYTES - at % PAGE_BYTES) as usize);
        let cut = (at, done..done + part);
        done += part;
        (part > 0).then_some(cut)
    })
}

impl Port<'_> {
    /// Reads bytes.
    ///
    /// # Errors
    /// The first address that cannot be read, unless the port is tolerant.
    pub(super) fn read(&mut self, va: u64, into: &mut [u8]) -> Result<(), Fault> {
        if self.vm.read(self.memory, self.world, va, into).is_ok() {
            return Ok(());
        }
        for (at, part) in pages(va, into.len()) {
            let part = &mut into[part];
            let fault = match self.vm.read(self.memory, self.world, at, part) {
                Ok(()) => continue,
                Err(_) if self.read_shared(at, part) => continue,
                Err(_) => Fault { va: at },
            };
            self.go_on_after(fault)?;
            part.fill(0);
        }
        Ok(())
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// The first address that cannot be written, unless the port is tolerant; what lies before it
    /// is written.
    pub(super) fn write(&mut self, va: u64, from: &[u8]) -> Result<(), Fault> {
        if self.vm.write(self.memory, self.world, va, from).is_ok() {
            return Ok(());
        }
        for (at, part) in pages(va, from.len()) {
            let part = &from[part];
            let fault = match self.vm.write(self.memory, self.world, at, part) {
                Ok(()) => continue,
                Err(_) if self.write_shared(at, part) => continue,
                Err(_) => Fault { va: at },
            };
            self.go_on_after(fault)?;
        }
        Ok(())
    }

    fn go_on_after(&mut self, fault: Fault) -> Result<(), Fault> {
        if !self.tolerant {
            return Err(fault);
        }
        self.faults += 1;
        Ok(())
    }

    fn shared_at(&self, va: u64) -> Option<SpaceId> {
        let shared = self.shared.as_ref()?;
        shared.ranges.reaches(shared.gpu, va).then_some(shared.space)
    }

    fn read_shared(&mut self, va: u64, into: &mut [u8]) -> bool {
        let space = self.shared_at(va);
        space.is_some_and(|space| self.world.read_user(space, va, into).is_ok())
    }

    fn write_shared(&mut self, va: u64, from: &[u8]) -> bool {
        let space = self.shared_at(va);
        space.is_some_and(|space| self.world.write_user(space, va, from).is_ok())
    }

    pub(super) fn read_u32(&mut self, va: u64) -> Result<u32, Fault> {
        let mut bytes = [0; 4];
        self.read(va, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn read_u64(&mut self, va: u64) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        self.read(va, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    pub(super) fn write_u32(&mut self, va: u64, value: u32) -> Result<(), Fault> {
        self.write(va, &value.to_le_bytes())
    }

    pub(super) fn write_u64(&mut self, va: u64, value: u64) -> Result<(), Fault> {
        self.write(va, &value.to_le_bytes())
    }

    /// The GPU's clock: 100 MHz on GFX9.
    pub(super) fn clock(&self) -> u64 {
        self.world.now_ns() / 10
    }

    /// Copies up to [`CHUNK_BYTES`].
    pub(super) fn copy(&mut self, to: u64, from: u64, len_bytes: u64) -> Result<(), Fault> {
        self.with_chunk(len_bytes, |port, chunk| {
            port.read(from, chunk)?;
            port.write(to, chunk)
        })
    }

    /// Fills up to [`CHUNK_BYTES`] with a value of up to 4 bytes, again and again.
    pub(super) fn fill(&mut self, to: u64, value: &[u8], len_bytes: u64) -> Result<(), Fault> {
        self.with_chunk(len_bytes, |port, chunk| {
            for place in chunk.chunks_mut(value.len()) {
                place.copy_from_slice(&value[..place.len()]);
            }
            port.write(to, chunk)
        })
    }

    /// Adds 32-bit words of two arrays, up to half a chunk.
    pub(super) fn add(&mut self, to: u64, from: [u64; 2], len_bytes: u64) -> Result<(), Fault> {
        self.with_chunk(len_bytes * 2, |port, chunk| {
            let (left, right) = chunk.split_at_mut(len_bytes as usize);
            port.read(from[0], left)?;
            port.read(from[1], right)?;
            let word = |bytes: &[u8]| bytes.try_into().map_or(0, u32::from_le_bytes);
            for (left, right) in left.chunks_exact_mut(4).zip(right.chunks_exact(4)) {
                let sum = word(left).wrapping_add(word(right));
                left.copy_from_slice(&sum.to_le_bytes());
            }
            port.write(to, left)
        })
    }

    /// Takes the buffer out for as long as the port itself is needed.
    fn with_chunk(
        &mut self,
        len_bytes: u64,
        body: impl FnOnce(&mut Self, &mut [u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut chunk = std::mem::take(self.chunk);
        chunk.resize(CHUNK_BYTES as usize, 0);
        let result = body(self, &mut chunk[..len_bytes as usize]);
        *self.chunk = chunk;
        result
    }
}
