//! Contents through a mapping of the render node.

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};

use super::{BoContents, ContentsError};
use crate::bo::BoMapping;
use crate::error::DeviceError;
use crate::ioctl::DeviceFile;
use crate::render::RenderNode;
use crate::uapi::info::{InfoVramGtt, query};

/// Whether the host can map all of a GPU's VRAM.
///
/// # Errors
///
/// [`DeviceError::Refused`].
pub fn host_sees_vram<F: DeviceFile>(node: &mut RenderNode<F>) -> Result<bool, DeviceError> {
    let memory: InfoVramGtt = node.info(query::VRAM_GTT, [0; 4])?;
    Ok(memory.vram_cpu_accessible_size >= memory.vram_size)
}

/// A buffer that is mapped into this process while this exists.
#[derive(Debug)]
pub struct HostContents<'node> {
    node: &'node mut RenderNode,
    handle: u32,
    mapping: BoMapping,
    threads: NonZeroUsize,
}

impl<'node> HostContents<'node> {
    /// Maps the buffer of a dma-buf through an open render node; large copies use up to so many
    /// threads.
    ///
    /// # Errors
    ///
    /// [`ContentsError::Device`]: `EPERM` if the host must not map it; [`ContentsError::Size`];
    /// [`ContentsError::Bo`].
    pub fn map(
        node: &'node mut RenderNode,
        dmabuf: BorrowedFd<'_>,
        threads: NonZeroUsize,
    ) -> Result<Self, ContentsError> {
        let size_bytes = size_of_dmabuf(dmabuf)?;
        let handle = node.prime_import(dmabuf)?;
        match Self::map_object(node, handle, size_bytes) {
            Ok(mapping) => Ok(Self { node, handle, mapping, threads }),
            Err(error) => {
                let _ = node.gem_close(handle); // the first error is told
                Err(error)
            }
        }
    }

    fn map_object(
        node: &mut RenderNode,
        handle: u32,
        size_bytes: u64,
    ) -> Result<BoMapping, ContentsError> {
        let offset = node.gem_mmap(handle)?;
        Ok(BoMapping::map(node.as_fd(), node.file.path(), offset, size_bytes)?)
    }
}

/// A dma-buf's size is that of its file (Linux 3.13).
pub(super) fn size_of_dmabuf(dmabuf: BorrowedFd<'_>) -> Result<u64, ContentsError> {
    use nix::unistd::{Whence, lseek};
    let size = lseek(dmabuf, 0, Whence::SeekEnd).and_then(|size| {
        lseek(dmabuf, 0, Whence::SeekSet)?;
        Ok(size)
    });
    Ok(size.map_err(|errno| ContentsError::Size(errno.into()))? as u64)
}

impl BoContents for HostContents<'_> {
    fn size_bytes(&self) -> u64 {
        self.mapping.size_bytes()
    }

    fn expect_write(&mut self, offset_bytes: u64, len_bytes: u64) {
        self.mapping.populate(offset_bytes, len_bytes);
    }

    fn read(&mut self, offset_bytes: u64, into: &mut [u8]) -> Result<(), ContentsError> {
        Ok(self.mapping.read_parallel(offset_bytes, into, self.threads)?)
    }

    fn write(&mut self, offset_bytes: u64, from: &[u8]) -> Result<(), ContentsError> {
        Ok(self.mapping.write_parallel(offset_bytes, from, self.threads)?)
    }
}

impl Drop for HostContents<'_> {
    fn drop(&mut self) {
        // A handle that is not given back goes with the open file; nothing to tell anybody.
        let _ = self.node.gem_close(self.handle);
    }
}
