//! Device files of GPUs, and mappings of them. What is in them stands in images of their own
//! (`gpu`); the file table only says that they are there.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use criu_image::record::{ExtFileEntry, FdTypes, FileEntry};
use gpu_kfd::DeviceKind;
use nix::sys::stat::FileStat;

use super::super::facts::{Descriptor, Held};
use super::super::raw;
use super::{No, S_IFMT, of_type, owner, regular};
use crate::refusal::RefusalKind;

/// Major number of `/dev/null` and its kin, which every process has open.
const MEMORY_DEVICES: u64 = 1;
/// Type of FUSE file systems (linux/magic.h), as which an emulated node is there.
const FUSE_SUPER_MAGIC: i64 = 0x6573_5546;
const DMA_BUF: &[u8] = b"/dmabuf:";

/// Which device of a GPU a file is, if it is one.
///
/// A device file of an emulated node looks like a regular file, and has to be open to say what it
/// is: what is only held by its path is opened for that.
pub(in crate::capture) fn kind(file: &OwnedFd, stat: &FileStat, link: &[u8]) -> Option<DeviceKind> {
    match stat.st_mode & S_IFMT {
        libc::S_IFCHR if u64::from(libc::major(stat.st_rdev)) != MEMORY_DEVICES => {}
        libc::S_IFREG if raw::filesystem(file) == Ok(FUSE_SUPER_MAGIC) => {}
        _ if link.starts_with(DMA_BUF) => {}
        _ => return None,
    }
    // What cannot be asked is none; as a file of another kind it is refused by name.
    let of = |file: &OwnedFd| DeviceKind::of(file.as_fd()).ok().flatten();
    of(file).or_else(|| match stat.st_mode & S_IFMT {
        libc::S_IFREG => of(&raw::reopen(file, libc::O_RDONLY | libc::O_NONBLOCK).ok()?),
        _ => None,
    })
}

/// An open device file of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::capture) struct DeviceFile {
    pub(in crate::capture) kind: DeviceKind,
    /// Processes that have it, in the order of the tree, each with a descriptor.
    pub(in crate::capture) holders: Vec<(i32, i32)>,
}

impl DeviceFile {
    /// Its lowest descriptor in a process.
    pub(in crate::capture) fn fd_in(&self, pid: i32) -> Option<i32> {
        self.holders.iter().find(|holder| holder.0 == pid).map(|holder| holder.1)
    }
}

/// All of them, by their ids in the images.
pub(in crate::capture) type DeviceFiles = BTreeMap<u32, DeviceFile>;

/// Notes that a process has a device file. Descriptors come in ascending order.
pub(super) fn note(files: &mut DeviceFiles, id: u32, kind: DeviceKind, pid: i32, fd: i32) {
    let file = files.entry(id).or_insert_with(|| DeviceFile { kind, holders: Vec::new() });
    if file.fd_in(pid).is_none() {
        file.holders.push((pid, fd));
    }
}

/// The entry of a descriptor: that it is somebody else's to describe.
pub(super) fn entry(id: u32, descriptor: &Descriptor) -> Result<FileEntry, No> {
    let ext = ExtFileEntry { id, fown: owner::of(descriptor)? };
    Ok(FileEntry { ext: Some(ext), ..of_type(FdTypes::Ext, id) })
}

/// The entry of a mapped device: a path, as a device of hardware has it.
pub(super) fn mapped_entry(id: u32, held: &Held) -> Result<FileEntry, No> {
    if held.device == Some(DeviceKind::DmaBuf) {
        return Err(No::because(RefusalKind::GpuDmabufMapping, "mapping of a dma-buf"));
    }
    let name = held.link.clone();
    let mut reg = regular::describe(id, held, libc::O_RDONLY as u32, name);
    reg.size = None;
    reg.mode = Some(held.stat.st_mode & !S_IFMT | libc::S_IFCHR);
    Ok(FileEntry { reg: Some(reg), ..of_type(FdTypes::Reg, id) })
}
