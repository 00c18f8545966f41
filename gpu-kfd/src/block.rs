//! The argument of a device call with all that it points to, movable between address spaces.
//!
//! A [`Block`] is one run of bytes: the argument, then each array that it (or another array) points
//! to. It records where pointers stand, and whoever makes the call patches them for the address at
//! which the bytes lie there. A pointer is only ever made from a slice, so that it cannot dangle.

use std::marker::PhantomData;

use bytemuck::Pod;

/// Alignment of the argument and of every array: what the widest field needs.
const ALIGN_BYTES: usize = 8;

/// An argument and the arrays that it points to.
///
/// ```
/// use std::mem::offset_of;
/// use gpu_kfd::{Block, uapi::kfd::MapMemoryToGpuArgs};
///
/// let gpu_ids = [0x1234_u32, 0x5678];
/// let n_devices = gpu_ids.len() as u32;
/// let mut block = Block::new(&MapMemoryToGpuArgs { handle: 7, n_devices, ..Default::default() });
/// block.array(offset_of!(MapMemoryToGpuArgs, device_ids_array_ptr), &gpu_ids);
/// // Whoever holds the bytes at 0x10000 has the array after the argument.
/// let bytes = block.relocate(0x1_0000);
/// assert_eq!(bytes[8..16], 0x1_0018_u64.to_le_bytes());
/// ```
#[derive(Clone, Debug)]
pub struct Block {
    /// In words, so that the start is aligned.
    words: Vec<u64>,
    argument_bytes: usize,
    pointers: Vec<Pointer>,
}

/// A pointer field and what it points to, as byte offsets in the block.
#[derive(Clone, Copy, Debug)]
struct Pointer {
    at: usize,
    to: usize,
}

/// An array in a block; of use only with the block that made it.
#[derive(Debug)]
pub struct Part<T> {
    at: usize,
    count: usize,
    of: PhantomData<T>,
}

impl<T> Part<T> {
    /// Where in the block a field of an element lies.
    ///
    /// # Panics
    ///
    /// If there is no such element or field.
    #[must_use]
    pub fn field(&self, index: usize, offset_bytes: usize) -> usize {
        assert!(index < self.count && offset_bytes < size_of::<T>());
        self.at + index * size_of::<T>() + offset_bytes
    }
}

impl Block {
    /// A block with this argument; its pointers are set by [`Block::array`].
    #[must_use]
    pub fn new<A: Pod>(argument: &A) -> Self {
        Self::with_tail::<A, u8>(argument, &[])
    }

    /// An argument that ends in an array of variable length.
    #[must_use]
    pub fn with_tail<A: Pod, T: Pod>(argument: &A, tail: &[T]) -> Self {
        let argument_bytes = size_of::<A>() + size_of_val(tail);
        let mut block = Self { words: Vec::new(), argument_bytes, pointers: Vec::new() };
        block.append(&[bytemuck::bytes_of(argument), bytemuck::cast_slice(tail)]);
        block
    }

    /// Puts an array into the block and lets the pointer at a byte offset point to it.
    ///
    /// An empty array leaves a null pointer.
    ///
    /// # Panics
    ///
    /// If no pointer can be there: it is not aligned, or not within the block.
    pub fn array<T: Pod>(&mut self, pointer_at: usize, elements: &[T]) -> Part<T> {
        assert!(pointer_at.is_multiple_of(8) && pointer_at + 8 <= self.len_bytes());
        let at = self.append(&[bytemuck::cast_slice(elements)]);
        if !elements.is_empty() {
            self.pointers.push(Pointer { at: pointer_at, to: at });
        }
        Part { at, count: elements.len(), of: PhantomData }
    }

    fn append(&mut self, pieces: &[&[u8]]) -> usize {
        let (at, mut next) = (self.len_bytes(), self.len_bytes());
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.words.resize((at + len).div_ceil(ALIGN_BYTES), 0);
        for piece in pieces {
            self.bytes_mut()[next..next + piece.len()].copy_from_slice(piece);
            next += piece.len();
        }
        at
    }

    /// The argument as it is now.
    ///
    /// # Panics
    ///
    /// If it is larger than the block's argument.
    #[must_use]
    pub fn argument<A: Pod>(&self) -> A {
        assert!(size_of::<A>() <= self.argument_bytes);
        bytemuck::pod_read_unaligned(&self.bytes()[..size_of::<A>()])
    }

    /// The array after an argument of type `A`.
    ///
    /// # Panics
    ///
    /// If the tail is no array of `T`.
    #[must_use]
    pub fn tail<A: Pod, T: Pod>(&self) -> &[T] {
        bytemuck::cast_slice(&self.bytes()[size_of::<A>()..self.argument_bytes])
    }

    /// An array as it is now.
    #[must_use]
    pub fn elements<T: Pod>(&self, part: &Part<T>) -> &[T] {
        bytemuck::cast_slice(&self.bytes()[part.at..part.at + part.count * size_of::<T>()])
    }

    /// Size of the argument alone, in bytes: what the request number must say.
    #[must_use]
    pub fn argument_bytes(&self) -> usize {
        self.argument_bytes
    }

    /// Size of the whole, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.words.len() * ALIGN_BYTES
    }

    /// Sets every pointer for a block that lies at `base`, and gives the bytes to put there.
    pub fn relocate(&mut self, base: u64) -> &[u8] {
        for index in 0..self.pointers.len() {
            let Pointer { at, to } = self.pointers[index];
            self.words[at / ALIGN_BYTES] = base + to as u64;
        }
        self.bytes()
    }

    /// Takes the bytes that lie there after the call.
    ///
    /// # Panics
    ///
    /// If they are not as many as [`Block::relocate`] gave.
    pub fn replace(&mut self, bytes: &[u8]) {
        self.bytes_mut().copy_from_slice(bytes);
    }

    /// The argument alone, to begin a call anew with.
    pub(crate) fn save_argument(&self) -> Vec<u8> {
        self.bytes()[..self.argument_bytes].to_vec()
    }

    /// Makes the argument what it was.
    pub(crate) fn restore_argument(&mut self, saved: &[u8]) {
        let argument_bytes = self.argument_bytes;
        self.bytes_mut()[..argument_bytes].copy_from_slice(saved);
    }

    /// Where the block lies in this process, for a call by this process.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u64 {
        self.words.as_mut_ptr()
    }

    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.words)
    }
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use super::*;
    use crate::uapi::submit::{CsChunk, CsIn};
    use crate::uapi::svm::{SvmArgs, SvmAttribute};

    #[test]
    fn every_pointer_follows_the_block_to_where_it_lies() {
        let mut block = Block::new(&CsIn { num_chunks: 2, ..CsIn::default() });
        let addresses = block.array(offset_of!(CsIn, chunks), &[0_u64; 2]);
        for index in 0..2 {
            let chunk = block.array(addresses.field(index, 0), &[CsChunk::default()]);
            let data = [index as u32 + 7; 3];
            block.array(chunk.field(0, offset_of!(CsChunk, chunk_data)), &data);
        }
        for base in [0x7000_0000_0000_u64, 0x1000] {
            let bytes = block.relocate(base).to_vec();
            let word = |address: u64| {
                let at = (address - base) as usize;
                u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
            };
            let chunks = word(base + 16);
            for index in 0..2 {
                let chunk = word(chunks + 8 * index);
                let data = word(chunk + 8);
                assert_eq!(word(data) as u32, index as u32 + 7);
            }
        }
    }

    #[test]
    fn an_empty_array_leaves_a_null_pointer() {
        let mut block = Block::new(&CsIn::default());
        let part = block.array::<u64>(offset_of!(CsIn, chunks), &[]);
        block.relocate(0x1000);
        assert_eq!(block.argument::<CsIn>().chunks, 0);
        assert!(block.elements(&part).is_empty());
    }

    #[test]
    fn a_tail_belongs_to_the_argument() {
        let tail = [SvmAttribute { kind: 1, value: 2 }, SvmAttribute { kind: 3, value: 4 }];
        let mut block = Block::with_tail(&SvmArgs { nattr: 2, ..SvmArgs::default() }, &tail);
        assert_eq!(block.argument_bytes(), 24 + 16);
        let mut bytes = block.relocate(0).to_vec();
        bytes[24..28].copy_from_slice(&9_u32.to_le_bytes());
        block.replace(&bytes);
        assert_eq!(block.tail::<SvmArgs, SvmAttribute>()[0], SvmAttribute { kind: 9, value: 2 });
    }
}
