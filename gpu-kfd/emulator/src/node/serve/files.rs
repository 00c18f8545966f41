//! Which files the node has, and what they look like to `stat`.
//!
//! Every number says what it stands for, so there is no table: a node id and an inode number are
//! made from the file and taken apart again. The inode number of a device file holds the device
//! number that a real one would have, under a mark; the preload library reads it there.

use nix::errno::Errno;

use crate::model::{BufferId, DeviceNode, GpuIndex};
use crate::node::fuse::wire::{Attr, ROOT_ID};
use crate::products::{DRM_MAJOR, KFD_MAJOR};

/// Upper half of the inode number of a device file ("KFDN"); the lower half is major and minor.
pub(crate) const INODE_DEVICE: u64 = 0x4b46_444e;
/// Upper half of the inode number of a dma-buf ("KFDB"); the lower half is the buffer's number.
const INODE_DMA_BUF: u64 = 0x4b46_4442;
/// Minor numbers take 20 bits of a device number, as in the kernel.
const MINOR_BITS: u32 = 20;

const KFD_ID: u64 = 2;
const RENDER_ID_FIRST: u64 = 0x100;
const DMA_BUF_ID_FIRST: u64 = 1 << 32;

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_666;

/// The device files of a node: `/dev/kfd` and one render node for each GPU.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// Minor number of the render node of each GPU.
    minors: Vec<u32>,
}

impl Files {
    pub(crate) fn new(minors: Vec<u32>) -> Self {
        Self { minors }
    }

    pub(crate) fn minors(&self) -> &[u32] {
        &self.minors
    }

    /// The file of a name in the root folder.
    pub(crate) fn by_name(&self, name: &[u8]) -> Option<DeviceNode> {
        let name = std::str::from_utf8(name).ok()?;
        if name == "kfd" {
            return Some(DeviceNode::Kfd);
        }
        if let Some(number) = name.strip_prefix("dmabuf:") {
            let number: u32 = plain_number(number)?;
            return Some(DeviceNode::DmaBuf(BufferId(number.into())));
        }
        let minor = plain_number(name.strip_prefix("renderD")?)?;
        let index = self.minors.iter().position(|known| *known == minor)?;
        Some(DeviceNode::Render(GpuIndex(index as u8)))
    }

    /// The file of a node id, if it is not the root.
    pub(crate) fn by_id(&self, id: u64) -> Option<DeviceNode> {
        if id == KFD_ID {
            return Some(DeviceNode::Kfd);
        }
        if let Some(number) = id.checked_sub(DMA_BUF_ID_FIRST) {
            return Some(DeviceNode::DmaBuf(BufferId(number)));
        }
        let index = id.checked_sub(RENDER_ID_FIRST)?;
        self.minors.get(index as usize)?;
        Some(DeviceNode::Render(GpuIndex(index as u8)))
    }

    /// Minor number of a file; 0 for `/dev/kfd` and dma-bufs.
    pub(crate) fn minor(&self, node: DeviceNode) -> u32 {
        match node {
            DeviceNode::Render(gpu) => self.minors[usize::from(gpu.0)],
            DeviceNode::Kfd | DeviceNode::DmaBuf(_) => 0,
        }
    }

    fn inode(&self, node: DeviceNode) -> u64 {
        let device =
            |major: u32, minor: u32| INODE_DEVICE << 32 | u64::from(major << MINOR_BITS | minor);
        match node {
            DeviceNode::Kfd => device(KFD_MAJOR, 0),
            DeviceNode::Render(_) => device(DRM_MAJOR, self.minor(node)),
            DeviceNode::DmaBuf(buffer) => INODE_DMA_BUF << 32 | buffer.0,
        }
    }

    /// What `stat` shows. A device file has no size, a dma-buf that of its buffer.
    pub(crate) fn attributes(&self, node: DeviceNode, size: u64) -> Attr {
        Attr {
            ino: self.inode(node),
            size,
            blocks: size.div_ceil(512),
            mode: FILE,
            nlink: 1,
            blksize: 4096,
            ..Attr::default()
        }
    }

    /// Entries of the root folder: inode number and name. dma-bufs are not listed.
    pub(crate) fn list(&self) -> Vec<(u64, String)> {
        let gpus = (0..self.minors.len()).map(|index| DeviceNode::Render(GpuIndex(index as u8)));
        let nodes = std::iter::once(DeviceNode::Kfd).chain(gpus);
        nodes.map(|node| (self.inode(node), self.name(node))).collect()
    }

    /// The name of a file in the root folder.
    pub(crate) fn name(&self, node: DeviceNode) -> String {
        match node {
            DeviceNode::Kfd => "kfd".to_owned(),
            DeviceNode::Render(_) => format!("renderD{}", self.minor(node)),
            DeviceNode::DmaBuf(buffer) => format!("dmabuf:{}", buffer.0),
        }
    }
}

/// The node id of a file.
///
/// # Errors
/// `ENOENT` for a buffer whose number is too large to be a dma-buf's: tokens have 30 bits for it.
pub(crate) fn id_of(node: DeviceNode) -> Result<u64, Errno> {
    match node {
        DeviceNode::Kfd => Ok(KFD_ID),
        DeviceNode::Render(gpu) => Ok(RENDER_ID_FIRST + u64::from(gpu.0)),
        DeviceNode::DmaBuf(buffer) if buffer.0 < 1 << 30 => Ok(DMA_BUF_ID_FIRST + buffer.0),
        DeviceNode::DmaBuf(_) => Err(Errno::ENOENT),
    }
}

/// What `stat` shows of the root folder.
pub(crate) fn root_attributes() -> Attr {
    Attr { ino: ROOT_ID, mode: DIRECTORY, nlink: 2, blksize: 4096, ..Attr::default() }
}

/// A number as `Display` writes it: no sign, no zeros in front, so that a file has one name.
fn plain_number(text: &str) -> Option<u32> {
    let number = text.parse::<u32>().ok()?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::{BufferId, DeviceNode, Files, GpuIndex, id_of};

    fn files() -> Files {
        Files::new(vec![128, 131])
    }

    #[test]
    fn names_and_numbers_lead_to_the_same_file() {
        for (name, node) in [
            ("kfd", DeviceNode::Kfd),
            ("renderD128", DeviceNode::Render(GpuIndex(0))),
            ("renderD131", DeviceNode::Render(GpuIndex(1))),
            ("dmabuf:0", DeviceNode::DmaBuf(BufferId(0))),
            ("dmabuf:7", DeviceNode::DmaBuf(BufferId(7))),
        ] {
            assert_eq!(files().by_name(name.as_bytes()), Some(node), "{name}");
            let id = id_of(node).expect("small numbers");
            assert_eq!(files().by_id(id), Some(node), "{name}");
        }
    }

    #[test]
    fn other_names_are_no_files() {
        for name in [
            "",
            "kf",
            "kfd0",
            "renderD",
            "renderD129",
            "renderD0128",
            "renderD+128",
            "dmabuf:",
            "dmabuf:-1",
            "dmabuf:07",
            "dmabuf:4294967296",
            "card0",
            ".",
        ] {
            assert_eq!(files().by_name(name.as_bytes()), None, "{name}");
        }
        for id in [0, 1, 3, 0xff, 0x102, (1 << 32) - 1] {
            assert_eq!(files().by_id(id), None, "{id:#x}");
        }
        assert!(id_of(DeviceNode::DmaBuf(BufferId(1 << 30))).is_err());
    }

    #[test]
    fn inode_numbers_say_which_device_it_stands_for() {
        let inode = |node| files().attributes(node, 0).ino;
        assert_eq!(inode(DeviceNode::Kfd), 0x4b46_444e << 32 | 510 << 20);
        assert_eq!(inode(DeviceNode::Render(GpuIndex(1))), 0x4b46_444e << 32 | 226 << 20 | 131);
    }
}
