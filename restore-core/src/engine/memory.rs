//! Builds one address space: mappings by the target, contents from outside.
//!
//! The pages file is mapped here and handed to `process_vm_writev` without this process ever
//! reading it, so a file that shrinks meanwhile is `EFAULT`, not a crash. What was copied is
//! dropped from our page tables again, which bounds the restorer's memory whatever the tree's size.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memmap2::{Mmap, UncheckedAdvice};
use nix::errno::Errno;

use super::StepError;
use super::target::{ADDRESSES_END, Source, Target};
use crate::files::ObjectKey;
use crate::plan::{Fill, MemoryPlan};

/// Bytes copied before our own view of them is dropped.
const WINDOW_BYTES: u64 = 8 << 20;
/// Most ranges in one call (`UIO_MAXIOV`).
const RANGES_MAX: usize = 1024;
/// Piece in which pages of unwritable mappings are copied.
const PATCH_BYTES: usize = 256 << 10;
/// `arch_prctl` command (asm/prctl.h).
const ARCH_MAP_VDSO_64: u64 = 0x2003;

impl Target {
    /// Maps and fills the whole address space, once.
    pub(super) fn build_memory(&mut self, images: &Path) -> Result<(), StepError> {
        if std::mem::replace(&mut self.has_memory, true) {
            return Ok(());
        }
        self.shed_parent()?;
        self.map()?;
        let pid = self.plan.pid;
        let Some((_, live)) = self.live() else {
            return Ok(());
        };
        if let Some(ObjectKey::Pages(id)) = live.memory.pages {
            let path = images.join(format!("pages-{id}.img"));
            let pages = PagesFile::open(&path).map_err(|source| StepError::PagesFile {
                path: path.clone(),
                source,
            })?;
            pages.fill(pid, &live.memory.fills)?;
            pages.patch(pid, &live.memory.patches)?;
        }
        Ok(())
    }

    /// Drops the memory of an ancestor that this process was born with, but for what it keeps.
    fn shed_parent(&mut self) -> Result<(), StepError> {
        if !self.plan.born_full {
            return Ok(());
        }
        let Some((leader, live)) = self.live() else {
            return Ok(());
        };
        let region = leader.slot().region();
        let mut keep: Vec<(u64, u64)> = live
            .memory
            .kept
            .iter()
            .map(|kept| (kept.start, kept.start + kept.len_bytes))
            .collect();
        keep.push((region.base(), region.base() + region.len_bytes()));
        keep.sort_unstable();
        let mut at = 0;
        for (start, end) in keep.into_iter().chain([(ADDRESSES_END, ADDRESSES_END)]) {
            if at < start {
                let args = [at.into(), (start - at).into()];
                leader.queue("unmap what is the parent's", libc::SYS_munmap, args)?;
            }
            at = end;
        }
        for &(start, end) in &live.memory.drops {
            let args = [
                start.into(),
                (end - start).into(),
                (libc::MADV_DONTNEED as u64).into(),
            ];
            leader.queue("drop pages of the parent", libc::SYS_madvise, args)?;
        }
        for kept in &live.memory.kept {
            if let Some(prot) = kept.prot {
                let args = [kept.start.into(), kept.len_bytes.into(), prot.into()];
                leader.queue("protect kept memory", libc::SYS_mprotect, args)?;
            }
            if let Some(len_bytes) = kept.grown_to_bytes {
                let args = [
                    kept.start.into(),
                    kept.len_bytes.into(),
                    len_bytes.into(),
                    0u64.into(),
                ];
                leader.queue("extend kept memory", libc::SYS_mremap, args)?;
            }
        }
        leader.flush()?;
        Ok(())
    }

    fn map(&mut self) -> Result<(), StepError> {
        let sources = self.sources.clone();
        let Some((leader, live)) = self.live() else {
            return Ok(());
        };
        if let Some((start, _)) = live.memory.vdso {
            let args = [ARCH_MAP_VDSO_64.into(), start.into()];
            leader.queue("map the vdso", libc::SYS_arch_prctl, args)?;
        }
        let mut kept = live.memory.kept.iter().map(|kept| kept.start).peekable();
        for mapping in &live.memory.mappings {
            if kept.next_if_eq(&mapping.start).is_some() {
                continue;
            }
            let fd = match mapping.source {
                None => -1,
                Some(key) => match sources.objects.get(&key) {
                    Some(Source::Inherited(fd)) => *fd,
                    _ => unreachable!("what is mapped is opened before the first task"),
                },
            };
            let args = [
                mapping.start.into(),
                mapping.len_bytes.into(),
                mapping.prot.into(),
                (mapping.flags | libc::MAP_FIXED_NOREPLACE as u32).into(),
                fd.into(),
                mapping.offset_bytes.into(),
            ];
            leader.queue("map memory", libc::SYS_mmap, args)?;
        }
        leader.flush()?;
        Ok(())
    }

    /// Advice and locks; after all children are born, since some advice concerns forks.
    pub(super) fn advise(&mut self) -> Result<(), StepError> {
        let Some((leader, live)) = self.live() else {
            return Ok(());
        };
        let MemoryPlan { advices, locks, .. } = &live.memory;
        for advice in advices {
            let args = [
                advice.start.into(),
                advice.len_bytes.into(),
                advice.advice.into(),
            ];
            leader.queue("advise on memory", libc::SYS_madvise, args)?;
        }
        for &(start, len_bytes) in locks {
            leader.queue(
                "lock memory",
                libc::SYS_mlock,
                [start.into(), len_bytes.into()],
            )?;
        }
        leader.flush()?;
        Ok(())
    }
}

/// A pages image, mapped but never read through the mapping by this process.
struct PagesFile {
    file: File,
    map: Mmap,
}

impl PagesFile {
    fn open(path: &Path) -> std::io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping's bytes are never accessed by this program: only its addresses are
        // given to process_vm_writev (`copy` below), which fails with EFAULT if the file shrinks.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Self { file, map })
    }

    fn fill(&self, pid: i32, fills: &[Fill]) -> Result<(), StepError> {
        let mut batch = Batch::default();
        for fill in fills {
            let mut done = 0;
            while done < fill.len_bytes {
                let len_bytes = (fill.len_bytes - done).min(WINDOW_BYTES);
                let offset_bytes = fill.offset_bytes + done;
                if !batch.takes(offset_bytes, len_bytes) {
                    self.copy(pid, &mut batch)?;
                }
                batch.add(Fill {
                    start: fill.start + done,
                    len_bytes,
                    offset_bytes,
                });
                done += len_bytes;
            }
        }
        self.copy(pid, &mut batch)
    }

    fn copy(&self, pid: i32, batch: &mut Batch) -> Result<(), StepError> {
        if batch.ranges.is_empty() {
            return Ok(());
        }
        let address = batch.ranges[0].iov_base as u64;
        let end = batch.offset_bytes.checked_add(batch.len_bytes);
        if end.is_none_or(|end| end > self.map.len() as u64) {
            return Err(StepError::Fill {
                pid,
                address,
                errno: Errno::EFAULT,
            });
        }
        let local = libc::iovec {
            iov_base: self.map.as_ptr().wrapping_add(batch.offset_bytes as usize) as *mut _,
            iov_len: batch.len_bytes as usize,
        };
        // SAFETY: the local range lies within the mapping (checked above) and is only read; the
        // remote ranges are addresses in another process, which the kernel checks.
        let ret = unsafe {
            let (ranges, count) = (batch.ranges.as_ptr(), batch.ranges.len() as u64);
            libc::process_vm_writev(pid, &raw const local, 1, ranges, count, 0)
        };
        if ret < 0 {
            return Err(StepError::Fill {
                pid,
                address,
                errno: Errno::last(),
            });
        }
        if ret as u64 != batch.len_bytes {
            return Err(StepError::Fill {
                pid,
                address,
                errno: Errno::EFAULT,
            });
        }
        let (offset, len) = (batch.offset_bytes as usize, batch.len_bytes as usize);
        // SAFETY: dropping clean pages of a read-only file mapping changes nothing but residency.
        // It is advice: a refusal costs memory only.
        let _ = unsafe {
            self.map
                .unchecked_advise_range(UncheckedAdvice::DontNeed, offset, len)
        };
        *batch = Batch::default();
        Ok(())
    }

    /// Writes pages of mappings without write permission.
    fn patch(&self, pid: i32, patches: &[Fill]) -> Result<(), StepError> {
        if patches.is_empty() {
            return Ok(());
        }
        let fail = |address: u64| {
            move |error: std::io::Error| StepError::Fill {
                pid,
                address,
                errno: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
            }
        };
        let memory = File::options()
            .write(true)
            .open(format!("/proc/{pid}/mem"))
            .map_err(fail(patches[0].start))?;
        let mut buffer = vec![0; PATCH_BYTES];
        for patch in patches {
            let mut done = 0;
            while done < patch.len_bytes {
                let len = (patch.len_bytes - done).min(PATCH_BYTES as u64) as usize;
                let address = patch.start + done;
                let piece = &mut buffer[..len];
                self.file
                    .read_exact_at(piece, patch.offset_bytes + done)
                    .map_err(fail(address))?;
                memory.write_all_at(piece, address).map_err(fail(address))?;
                done += len as u64;
            }
        }
        Ok(())
    }
}

/// Ranges of a target whose contents lie side by side in the pages file.
#[derive(Default)]
struct Batch {
    offset_bytes: u64,
    len_bytes: u64,
    ranges: Vec<libc::iovec>,
}

impl Batch {
    fn takes(&self, offset_bytes: u64, len_bytes: u64) -> bool {
        self.ranges.is_empty()
            || (self.ranges.len() < RANGES_MAX
                && self.offset_bytes + self.len_bytes == offset_bytes
                && self.len_bytes + len_bytes <= WINDOW_BYTES)
    }

    fn add(&mut self, fill: Fill) {
        if self.ranges.is_empty() {
            self.offset_bytes = fill.offset_bytes;
        }
        self.len_bytes += fill.len_bytes;
        self.ranges.push(libc::iovec {
            iov_base: fill.start as *mut _,
            iov_len: fill.len_bytes as usize,
        });
    }
}
