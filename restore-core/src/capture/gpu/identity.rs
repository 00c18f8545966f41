//! Which buffers are the same memory.
//!
//! A handle is a number of one open file and says nothing. But one open render node gives an object
//! that it is handed as a dma-buf the same handle each time, so a file of our own tells objects of
//! a GPU apart; and a dma-buf that is there already is the same file, also where another GPU's
//! render node has imported it (`drm_prime.c`, Linux 6.12). All dma-bufs are held meanwhile, so
//! that no number can be given out again.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};

use gpu_kfd::{DeviceError, RenderNode};
use nix::errno::Errno;
use nix::sys::stat::fstat;

/// Numbers of memory, given out from 1.
#[derive(Debug, Default)]
pub(super) struct Identities {
    /// A render node of ours for each GPU, by minor, with the number of each handle in it. What it
    /// holds goes with it.
    nodes: BTreeMap<u32, (RenderNode, BTreeMap<u32, u64>)>,
    /// By device and inode of a dma-buf.
    dmabufs: BTreeMap<(u64, u64), u64>,
    last: u64,
}

impl Identities {
    /// The number of memory that no dma-buf can be had of: nobody else has it.
    pub(super) fn fresh(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// The number of a buffer of a GPU.
    pub(super) fn of_buffer(
        &mut self,
        minor: u32,
        dmabuf: BorrowedFd<'_>,
    ) -> Result<u64, DeviceError> {
        let key = key(dmabuf)?;
        let (node, _) = match self.nodes.entry(minor) {
            std::collections::btree_map::Entry::Occupied(node) => node.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                place.insert((RenderNode::open(minor)?, BTreeMap::new()))
            }
        };
        let handle = node.prime_import(dmabuf)?;
        let by_handle = self.nodes[&minor].1.get(&handle).copied();
        let number = by_handle.or_else(|| self.dmabufs.get(&key).copied());
        let number = number.unwrap_or_else(|| self.fresh());
        self.dmabufs.insert(key, number);
        if let Some((_, handles)) = self.nodes.get_mut(&minor) {
            handles.insert(handle, number);
        }
        Ok(number)
    }

    /// The number of the memory behind a dma-buf, if any buffer that was seen is the same.
    pub(super) fn of_dmabuf(&mut self, dmabuf: BorrowedFd<'_>) -> Result<Option<u64>, DeviceError> {
        if let Some(&number) = self.dmabufs.get(&key(dmabuf)?) {
            return Ok(Some(number));
        }
        for (node, handles) in self.nodes.values_mut() {
            // A GPU that cannot reach the memory refuses it; then it is none of its own.
            let Ok(handle) = node.prime_import(dmabuf) else { continue };
            match handles.get(&handle) {
                Some(&number) => return Ok(Some(number)),
                None => node.gem_close(handle)?,
            }
        }
        Ok(None)
    }
}

fn key(dmabuf: BorrowedFd<'_>) -> Result<(u64, u64), DeviceError> {
    let stat = fstat(dmabuf.as_fd()).map_err(|errno: Errno| DeviceError::Refused {
        operation: "fstat",
        path: "dma-buf".into(),
        errno,
    })?;
    Ok((stat.st_dev, stat.st_ino))
}
