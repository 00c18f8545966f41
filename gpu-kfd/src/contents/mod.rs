//! What a buffer object holds, whichever way it is reached.
//!
//! [`HostContents`] copies through a mapping. It is the way for memory that the host sees: system
//! memory, and VRAM if all of it lies in the PCI window ([`host_sees_vram`]). Reading VRAM through
//! the window is slow on real GPUs (uncached), writing is not. [`SdmaEngine::attach`] gives
//! [`SdmaContents`], for any memory: the GPU's copy engine moves it through a buffer of ours.
//! [`ContentsAccess`] chooses between them. All work on a dma-buf, which is what the driver gives
//! for a buffer that is saved or restored.

mod access;
mod host;
mod packets;
mod sdma;

pub use access::{ContentsAccess, Purpose};
pub use host::{HostContents, host_sees_vram};
pub use sdma::{BOUNCE_BYTES_DEFAULT, SdmaContents, SdmaEngine};

use crate::bo::BoError;
use crate::error::DeviceError;

/// The bytes of a buffer object.
pub trait BoContents {
    /// Size in bytes.
    fn size_bytes(&self) -> u64;

    /// Says that a range will be written: what must be set up for that is done in one go. It is a
    /// hint, and may do nothing.
    fn expect_write(&mut self, _offset_bytes: u64, _len_bytes: u64) {}

    /// Copies out of the buffer.
    ///
    /// # Errors
    ///
    /// [`ContentsError`]; after [`BoError::Bounds`] nothing was copied.
    fn read(&mut self, offset_bytes: u64, into: &mut [u8]) -> Result<(), ContentsError>;

    /// Copies into the buffer.
    ///
    /// # Errors
    ///
    /// [`ContentsError`]; after [`BoError::Bounds`] nothing was copied.
    fn write(&mut self, offset_bytes: u64, from: &[u8]) -> Result<(), ContentsError>;
}

/// Why contents could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// A device call failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A mapping or a copy failed.
    #[error(transparent)]
    Bo(#[from] BoError),
    /// The dma-buf does not tell its size.
    #[error("the dma-buf does not tell its size")]
    Size(#[source] std::io::Error),
    /// The GPU has no copy engine that takes work through the render node.
    #[error("{} has no copy engine: reach its memory through a mapping", path.display())]
    NoEngine {
        /// The render node.
        path: std::path::PathBuf,
    },
    /// The buffer does not fit into the GPU's address space beside ours.
    #[error("a buffer of {size_bytes:#x} bytes exceeds the {room_bytes:#x} of GPU addresses")]
    Addresses {
        /// Size of the buffer.
        size_bytes: u64,
        /// Room for it.
        room_bytes: u64,
    },
    /// The copy engine did not finish.
    #[error(
        "the copy engine of {} did not copy {len_bytes} bytes in {seconds} s: \
         look into the kernel's log, and reset the GPU",
        path.display()
    )]
    Hang {
        /// The render node.
        path: std::path::PathBuf,
        /// What it was to copy.
        len_bytes: usize,
        /// The time that it had.
        seconds: u64,
    },
}

impl ContentsError {
    /// Its code, by which `docs/errors.md` lists it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Device(error) => error.code(),
            Self::Bo(error) => error.code(),
            Self::Size(_) => "device.size",
            Self::NoEngine { .. } => "device.no-engine",
            Self::Addresses { .. } => "device.addresses",
            Self::Hang { .. } => "device.hang",
        }
    }

    /// What can be done about it, where there is something.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Device(error) => error.help(),
            Self::Bo(error) => error.help(),
            Self::NoEngine { .. } => Some("reach its memory through a mapping"),
            Self::Hang { .. } => Some("look into the kernel's log, and reset the GPU"),
            Self::Size(_) | Self::Addresses { .. } => None,
        }
    }
}
