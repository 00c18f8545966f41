//! Memory that is a file: memfds, and shared anonymous memory as upstream writes it.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use criu_image::record::{FdTypes, FileEntry, MemfdFileEntry, MemfdInodeEntry};
use criu_image::{ImageBuilder, ImageKind};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::super::DumpError;
use super::super::facts::{Descriptor, Held};
use super::super::memory::pages::PageCounts;
use super::super::memory::shared;
use super::super::raw;
use super::super::staging::Folder;
use super::super::steps::Steps;
use super::{No, of_type, owner};
use crate::meter::Meter;
use crate::refusal::RefusalKind;

const MEMFD: &[u8] = b"/memfd:";
const DELETED: &[u8] = b" (deleted)";
/// What the kernel calls shared anonymous memory; of huge pages, the second.
const ANONYMOUS: &[u8] = b"/dev/zero (deleted)";
const ANONYMOUS_HUGE: &[u8] = b"/anon_hugepage (deleted)";
/// Name under which it stands in the images.
const ANONYMOUS_NAME: &[u8] = b"/dev/zero";
/// Type of the file system of huge pages (linux/magic.h).
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;
/// `MFD_HUGETLB` and where the page size stands (linux/memfd.h).
const MFD_HUGETLB: u32 = 4;
const HUGE_SHIFT: u32 = 26;
/// Seals of what cannot be sealed.
const UNSEALABLE: u32 = 1;

/// One memory.
#[derive(Debug)]
struct Memory {
    inode: MemfdInodeEntry,
    /// An open file of ours.
    file: OwnedFd,
}

/// All memories of the tree, by device and inode.
#[derive(Debug, Default)]
pub(crate) struct Memories {
    memories: BTreeMap<(u64, u64), Memory>,
}

/// Whether an open or mapped file is memory.
pub(super) fn is_memory(held: &Held) -> bool {
    let link = held.link.as_slice();
    held.stat.st_nlink == 0 && link.starts_with(MEMFD)
        || link == ANONYMOUS
        || link == ANONYMOUS_HUGE
}

/// The entry of a descriptor.
pub(super) fn entry(
    memories: &mut Memories,
    id: u32,
    descriptor: &Descriptor,
) -> Result<FileEntry, No> {
    let inode_id = memories.id_of(&descriptor.held)?;
    let memfd = MemfdFileEntry {
        id,
        flags: descriptor.info.file_flags(),
        pos: descriptor.info.pos,
        fown: owner::of(descriptor)?,
        inode_id,
    };
    Ok(FileEntry { memfd: Some(memfd), ..of_type(FdTypes::Memfd, id) })
}

/// The entry that mappings refer to.
pub(super) fn mapped_entry(memories: &mut Memories, id: u32, held: &Held) -> Result<FileEntry, No> {
    let inode_id = memories.id_of(held)?;
    let memfd = MemfdFileEntry { id, inode_id, ..MemfdFileEntry::default() };
    Ok(FileEntry { memfd: Some(memfd), ..of_type(FdTypes::Memfd, id) })
}

impl Memories {
    fn id_of(&mut self, held: &Held) -> Result<u32, No> {
        let key = (held.stat.st_dev, held.stat.st_ino);
        let next = self.memories.len() as u32 + 1;
        if let Some(known) = self.memories.get(&key) {
            return Ok(known.inode.inode_id as u32);
        }
        let fail = |errno: Errno| {
            let what = format!("memory file that cannot be read ({errno})");
            No::because(RefusalKind::UnreadableFile, what)
        };
        let file = raw::reopen(&held.file, libc::O_RDONLY).map_err(fail)?;
        let link = held.link.as_slice();
        let name = match link.strip_prefix(MEMFD) {
            Some(name) => name.strip_suffix(DELETED).unwrap_or(name),
            None => ANONYMOUS_NAME,
        };
        let huge = raw::filesystem(&file).map_err(fail)? == HUGETLBFS_MAGIC;
        let page_bytes = held.stat.st_blksize as u64;
        let seals = fcntl(&file, FcntlArg::F_GET_SEALS).map_or(UNSEALABLE, |seals| seals as u32);
        let inode = MemfdInodeEntry {
            name: name.to_vec(),
            uid: held.stat.st_uid,
            gid: held.stat.st_gid,
            size: held.stat.st_size as u64,
            shmid: next,
            seals,
            inode_id: next.into(),
            hugetlb_flag: huge.then(|| MFD_HUGETLB | page_bytes.trailing_zeros() << HUGE_SHIFT),
            mode: Some(held.stat.st_mode),
        };
        self.memories.insert(key, Memory { inode, file });
        Ok(next)
    }

    /// Bytes that all of them have, about: those that the kernel has given them.
    pub(super) fn total_bytes(&self) -> u64 {
        let blocks =
            |memory: &Memory| nix::sys::stat::fstat(&memory.file).map_or(0, |s| s.st_blocks);
        self.memories.values().map(blocks).sum::<i64>() as u64 * 512 // stat(2)
    }

    /// Writes the inodes and their contents.
    pub(super) fn write(
        &self,
        folder: &Folder,
        next_pages_id: &mut u32,
        steps: &Steps,
        tell: &mut dyn FnMut(u64),
    ) -> Result<PageCounts, DumpError> {
        let mut counts = PageCounts::default();
        if self.memories.is_empty() {
            return Ok(counts);
        }
        let mut memories: Vec<&Memory> = self.memories.values().collect();
        memories.sort_by_key(|memory| memory.inode.inode_id);
        let mut image = ImageBuilder::new(ImageKind::MemfdInode);
        for Memory { inode, file } in memories {
            image.push(inode);
            let pages_id = *next_pages_id;
            *next_pages_id += 1;
            let (size, shmid, meter) = (inode.size, inode.shmid, &mut Meter::new(tell));
            let saved = shared::save(file, size, shmid, folder, pages_id, steps, meter)?;
            counts = [counts, saved].into_iter().sum();
        }
        folder.put(&ImageKind::MemfdInode.file_name(0), &image.into_bytes())?;
        Ok(counts)
    }
}
