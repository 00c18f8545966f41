//! Kernels that the emulated GPU can run without understanding its instructions.
//!
//! A dispatch names a kernel descriptor of 64 bytes in GPU memory. One that begins with
//! [`BuiltinKernel::MAGIC`] names a kernel of this file; a real one never does, since it would ask
//! for half a gigabyte of local memory. Grid and work groups are not looked at: the arguments say
//! it all. Any other descriptor is code that cannot be run, and ends as an illegal instruction
//! does.

use bytemuck::{Pod, Zeroable};

use super::port::Port;
use super::step::{Trouble, part};

/// A kernel that test programs can dispatch. Its arguments are words of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltinKernel {
    /// Copies: destination, source, number of bytes.
    Copy,
    /// Fills with a 32-bit value: destination, value, number of bytes.
    Fill,
    /// Adds 32-bit words of two arrays: destination, left, right, number of bytes (a multiple of
    /// 4).
    Add,
}

/// Arguments of any kernel, as many as it has.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct Arguments([u64; 4]);

impl BuiltinKernel {
    /// How a descriptor begins.
    pub const MAGIC: [u8; 16] = *b"KFD-EMULATOR-1\0\0";

    /// Size of a descriptor in bytes; its address is a multiple of it.
    pub const DESCRIPTOR_BYTES: usize = 64;

    const ALL: [Self; 3] = [Self::Copy, Self::Fill, Self::Add];

    fn name(self) -> &'static [u8] {
        match self {
            Self::Copy => b"copy",
            Self::Fill => b"fill",
            Self::Add => b"add",
        }
    }

    /// Number of arguments, 8 bytes each.
    #[must_use]
    pub const fn arguments(self) -> usize {
        match self {
            Self::Copy | Self::Fill => 3,
            Self::Add => 4,
        }
    }

    /// What a program puts into memory to dispatch it: the magic, and the name in the next 16
    /// bytes.
    #[must_use]
    pub fn descriptor(self) -> [u8; Self::DESCRIPTOR_BYTES] {
        let mut descriptor = [0; Self::DESCRIPTOR_BYTES];
        descriptor[..16].copy_from_slice(&Self::MAGIC);
        descriptor[16..][..self.name().len()].copy_from_slice(self.name());
        descriptor
    }

    /// The kernel that a descriptor names.
    pub(super) fn of(descriptor: &[u8; Self::DESCRIPTOR_BYTES]) -> Option<Self> {
        Self::ALL.into_iter().find(|kernel| kernel.descriptor() == *descriptor)
    }

    /// Carries out a part that begins `done` bytes on. Says how many bytes were moved, and whether
    /// that was the end.
    pub(super) fn run(
        self,
        port: &mut Port<'_>,
        kernarg: u64,
        done: u64,
        budget: u64,
    ) -> Result<(u64, bool), Trouble> {
        let mut arguments = Arguments::zeroed();
        let words = &mut arguments.0[..self.arguments()];
        port.read(kernarg, bytemuck::cast_slice_mut(words))?;
        let [to, first, second, _] = arguments.0.map(|word| word.wrapping_add(done));
        let total = arguments.0[self.arguments() - 1];
        let mut moved = part(total.saturating_sub(done), budget);
        match self {
            Self::Copy => port.copy(to, first, moved)?,
            Self::Fill => {
                let value = (arguments.0[1] as u32).to_le_bytes();
                port.fill(to, &value, moved)?;
            }
            Self::Add => {
                // Two arrays share the buffer.
                moved = part(moved, budget / 2) & !3;
                moved = moved.min(super::port::CHUNK_BYTES / 2);
                port.add(to, [first, second], moved)?;
            }
        }
        let end = done.saturating_add(moved) >= total || moved == 0;
        Ok((moved, end))
    }
}

#[cfg(test)]
mod tests {
    use super::BuiltinKernel;

    #[test]
    fn every_kernel_is_known_by_its_descriptor() {
        for kernel in BuiltinKernel::ALL {
            assert_eq!(BuiltinKernel::of(&kernel.descriptor()), Some(kernel));
        }
        assert_eq!(BuiltinKernel::of(&[0; 64]), None);
    }
}
