//! Builds one address space: mappings by the target, contents from outside.
//!
//! What a child keeps of its parent is built before the child is born, the rest with all others.

pub(super) mod cow;
mod pages;
pub(super) mod vdso;

use std::sync::Arc;

use criu_image::ImageDir;

use super::StepError;
use super::target::{ADDRESSES_END, Source, Target};
use crate::files::ObjectKey;
use crate::meter::Meter;
use crate::plan::{Fill, HUGE_PAGE_BYTES, Mapping, MemoryPlan};
use pages::{Batch, Others, PagesFile};

/// `arch_prctl` command (asm/prctl.h).
const ARCH_MAP_VDSO_64: u64 = 0x2003;
/// `MADV_COLLAPSE` (asm-generic/mman-common.h, Linux 6.1).
const MADV_COLLAPSE: u64 = 25;
const PAGE_BYTES: u64 = 4096;

/// Which part of an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// What children keep.
    Lent,
    /// Everything else.
    Rest,
}

impl Target {
    /// Builds what children will keep, before they are born.
    pub(super) fn build_lent_memory(
        &mut self,
        images: &ImageDir,
        meter: &mut Meter<'_>,
    ) -> Result<(), StepError> {
        self.shed_parent()?;
        self.map(Part::Lent)?;
        let pid = self.plan.pid;
        let Some((_, live)) = self.live() else {
            return Ok(());
        };
        let lent = &live.memory.lent;
        with_pages(&live.memory, images, |pages| {
            pages.fill(pid, &lent.fills, Others::Later, meter)?;
            pages.patch(pid, &lent.patches, meter)
        })
    }

    /// Builds the rest of the address space.
    pub(super) fn build_memory(
        &mut self,
        images: &ImageDir,
        meter: &mut Meter<'_>,
    ) -> Result<(), StepError> {
        self.shed_parent()?;
        self.map(Part::Rest)?;
        self.make_huge_pages()?;
        let pid = self.plan.pid;
        let Some((leader, live)) = self.live() else {
            return Ok(());
        };
        let process = Arc::clone(leader.process());
        with_pages(&live.memory, images, |pages| {
            pages.fill(pid, &live.memory.fills, Others::Compared(&process), meter)?;
            pages.patch(pid, &live.memory.patches, meter)
        })?;
        self.protect()
    }

    /// Drops the memory of an ancestor that this process was born with, but for what it keeps.
    fn shed_parent(&mut self) -> Result<(), StepError> {
        if !std::mem::replace(&mut self.plan.born_full, false) {
            return Ok(());
        }
        let Some((leader, live)) = self.live() else {
            return Ok(());
        };
        let region = leader.slot().region();
        let mut keep: Vec<(u64, u64)> =
            live.memory.kept.iter().map(|kept| (kept.start, kept.start + kept.len_bytes)).collect();
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
            let args = [start.into(), (end - start).into(), (libc::MADV_DONTNEED as u64).into()];
            leader.queue("drop pages of the parent", libc::SYS_madvise, args)?;
        }
        for kept in &live.memory.kept {
            if let Some(prot) = kept.prot {
                let args = [kept.start.into(), kept.len_bytes.into(), prot.into()];
                leader.queue("protect kept memory", libc::SYS_mprotect, args)?;
            }
            if let Some(len_bytes) = kept.grown_to_bytes {
                let args =
                    [kept.start.into(), kept.len_bytes.into(), len_bytes.into(), 0u64.into()];
                leader.queue("extend kept memory", libc::SYS_mremap, args)?;
            }
        }
        Ok(())
    }

    /// Takes away the writability that only the fill needed.
    fn protect(&mut self) -> Result<(), StepError> {
        let Some((leader, live)) = self.live() else { return Ok(()) };
        for protect in &live.memory.protects {
            let args = [protect.start.into(), protect.len_bytes.into(), protect.prot.into()];
            leader.queue("protect memory", libc::SYS_mprotect, args)?;
        }
        Ok(())
    }

    fn map(&mut self, part: Part) -> Result<(), StepError> {
        let Self { leader, plan, sources, devices, .. } = self;
        let leader = leader.as_mut().expect("a target is used only after its birth");
        let crate::plan::Kind::Live(live) = &plan.kind else {
            return Ok(());
        };
        let memory = &live.memory;
        if let (Some((start, _)), Part::Rest) = (memory.vdso, part) {
            let args = [ARCH_MAP_VDSO_64.into(), start.into()];
            leader.queue("map the vdso", libc::SYS_arch_prctl, args)?;
        }
        let mut kept = memory.kept.iter().map(|kept| kept.start).peekable();
        let mut wanted: Vec<Mapping> = Vec::new();
        for mapping in &memory.mappings {
            let is_kept = kept.next_if_eq(&mapping.start).is_some();
            let is_lent = memory.lent.mappings.contains(&mapping.start);
            if !is_kept && is_lent == (part == Part::Lent) {
                append(&mut wanted, mapping);
            }
        }
        for mapping in wanted {
            let device = mapping.source.and_then(|key| devices.shown(key));
            let (fd, base) = match mapping.source.map(|key| sources.objects.get(&key)) {
                None => (-1, 0),
                Some(_) if device.is_some() => device.expect("it was just seen"),
                Some(Some(Source::Inherited(fd))) => (*fd, 0),
                Some(None) if matches!(mapping.source, Some(ObjectKey::Buffer { .. })) => {
                    let address = mapping.start;
                    return Err(StepError::NotShown { pid: plan.pid, address });
                }
                Some(_) => unreachable!("what is mapped is opened before the first task"),
            };
            let args = [
                mapping.start.into(),
                mapping.len_bytes.into(),
                mapping.prot.into(),
                (mapping.flags | libc::MAP_FIXED_NOREPLACE as u32).into(),
                fd.into(),
                (base + mapping.offset_bytes).into(),
            ];
            leader.queue("map memory", libc::SYS_mmap, args)?;
        }
        leader.flush()?;
        Ok(())
    }

    /// Blocks that will be filled whole become huge pages first: one page of each is written, and
    /// the kernel is asked to collapse the block. It leaves no advice behind, and a refusal costs
    /// nothing but time.
    fn make_huge_pages(&mut self) -> Result<(), StepError> {
        let pid = self.plan.pid;
        let Some((leader, live)) = self.live() else {
            return Ok(());
        };
        if live.memory.dense.is_empty() {
            return Ok(());
        }
        touch(pid, &live.memory.dense)?;
        for block in &live.memory.dense {
            let args = [block.start.into(), block.len_bytes.into(), MADV_COLLAPSE.into()];
            leader.queue_may_fail("collapse huge pages", libc::SYS_madvise, args)?;
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
            let args = [advice.start.into(), advice.len_bytes.into(), advice.advice.into()];
            leader.queue("advise on memory", libc::SYS_madvise, args)?;
        }
        for &(start, len_bytes) in locks {
            leader.queue("lock memory", libc::SYS_mlock, [start.into(), len_bytes.into()])?;
        }
        Ok(())
    }
}

/// Adds a mapping, joined to the last one where the kernel would join them anyway: they are told
/// apart by `mprotect` later.
fn append(mappings: &mut Vec<Mapping>, next: &Mapping) {
    const APART: u32 = (libc::MAP_GROWSDOWN | libc::MAP_HUGETLB) as u32;
    if let Some(last) = mappings.last_mut()
        && last.end() == next.start
        && (last.prot, last.flags, last.source) == (next.prot, next.flags, next.source)
        && last.flags & APART == 0
        && (next.source.is_none() || last.offset_bytes + last.len_bytes == next.offset_bytes)
    {
        last.len_bytes += next.len_bytes;
        return;
    }
    mappings.push(*next);
}

/// Writes zeros to the first page of each huge page, so that there is something to collapse.
fn touch(pid: i32, dense: &[Fill]) -> Result<(), StepError> {
    static ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];
    let mut batch = Batch::default();
    for block in dense {
        for at in (0..block.len_bytes).step_by(HUGE_PAGE_BYTES as usize) {
            let page = Fill { start: block.start + at, len_bytes: PAGE_BYTES, offset_bytes: 0 };
            if !batch.takes(&page) {
                batch.copy(pid)?;
                batch = Batch::default();
            }
            batch.add(ZEROS.as_ptr(), &page);
        }
    }
    batch.copy(pid)
}

fn with_pages(
    memory: &MemoryPlan,
    images: &ImageDir,
    write: impl FnOnce(&mut PagesFile) -> Result<(), StepError>,
) -> Result<(), StepError> {
    let Some(ObjectKey::Pages(id)) = memory.pages else {
        return Ok(());
    };
    let mut pages = PagesFile::open(images, &format!("pages-{id}.img"))?;
    write(&mut pages)
}
