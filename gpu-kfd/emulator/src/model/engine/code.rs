//! Where an engine reads packets: a ring, or a buffer that a ring or a job points to.

use crate::model::vm::Fault;

use super::port::Port;

/// Words of 32 bits from a place on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) base: u64,
    /// Size of the ring in bytes, a power of two; `None` for a buffer.
    pub(super) ring_bytes: Option<u64>,
    /// Place of the packet, in bytes; in a ring it counts on over the end.
    pub(super) at: u64,
    /// Where the packets end, likewise.
    pub(super) end: u64,
}

impl Code {
    pub(super) fn words_left(&self) -> u64 {
        (self.end - self.at) / 4
    }

    /// Address of a place, and how many bytes are there before the ring's end.
    fn place(&self, at: u64) -> (u64, u64) {
        match self.ring_bytes {
            None => (self.base.wrapping_add(at), u64::MAX),
            Some(size) => (self.base.wrapping_add(at % size), size - at % size),
        }
    }

    /// Reads bytes from `offset` bytes behind the packet's begin on.
    pub(super) fn read(
        &self,
        port: &mut Port<'_>,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), Fault> {
        let (va, before_end) = self.place(self.at + offset);
        let first = into.len().min(usize::try_from(before_end).unwrap_or(usize::MAX));
        let (first, rest) = into.split_at_mut(first);
        port.read(va, first)?;
        if rest.is_empty() { Ok(()) } else { port.read(self.base, rest) }
    }

    /// The packet's first words, as many as there are and fit.
    pub(super) fn peek<'w>(
        &self,
        port: &mut Port<'_>,
        words: &'w mut [u32],
    ) -> Result<&'w [u32], Fault> {
        let count = self.words_left().min(words.len() as u64) as usize;
        let words = &mut words[..count];
        self.read(port, 0, bytemuck::cast_slice_mut(words))?;
        Ok(words)
    }

    /// Copies `len_bytes` from `offset` bytes behind the packet's begin on; up to a chunk, and not
    /// over a ring's end: says how many.
    pub(super) fn copy_out(
        &self,
        port: &mut Port<'_>,
        offset: u64,
        to: u64,
        len_bytes: u64,
    ) -> Result<u64, Fault> {
        let (va, before_end) = self.place(self.at + offset);
        let len_bytes = len_bytes.min(before_end);
        port.copy(to, va, len_bytes)?;
        Ok(len_bytes)
    }
}
