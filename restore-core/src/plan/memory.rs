//! How one address space is put together: what is mapped where, and which pages are filled how.
//!
//! Pages are written from outside (`process_vm_writev`), which needs a writable mapping. A private
//! mapping that has pages of its own and is not writable must have been so once (read-only
//! relocations, `mprotect` of a heap), so it is again until it is filled; the kernel then accounts
//! for it as before (`VM_ACCOUNT`) and keeps it apart from its neighbours. Text is the exception:
//! its pages were put there by a debugger, so ours go through `/proc/<pid>/mem` as well.
//! Pure: records in, steps out.

use std::collections::BTreeSet;

use criu_image::record::VmaEntry;
use criu_image::{Body, Checkpoint, vma_status};

use super::devices::{DeviceMap, is_device};
use crate::files::{self, ObjectKey};
use crate::refusal::{Refusal, RefusalKind};

/// One `mmap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) start: u64,
    pub(crate) len_bytes: u64,
    pub(crate) prot: u32,
    /// `MAP_*` without the fixed-address and lock bits.
    pub(crate) flags: u32,
    /// What is mapped; `None` for anonymous memory.
    pub(crate) source: Option<ObjectKey>,
    pub(crate) offset_bytes: u64,
}

impl Mapping {
    /// First address after it.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.len_bytes
    }
}

/// Bytes of the pages file that belong at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fill {
    pub(crate) start: u64,
    pub(crate) len_bytes: u64,
    pub(crate) offset_bytes: u64,
}

/// Part of the parent's memory that a child keeps from its birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) start: u64,
    pub(crate) len_bytes: u64,
    /// Its protection here, if it is another one there.
    pub(crate) prot: Option<u32>,
    /// Its length here, if it goes on beyond the parent's end.
    pub(crate) grown_to_bytes: Option<u64>,
}

/// One `mprotect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Protect {
    pub(crate) start: u64,
    pub(crate) len_bytes: u64,
    pub(crate) prot: u32,
}

/// One `madvise`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Advice {
    pub(crate) start: u64,
    pub(crate) len_bytes: u64,
    pub(crate) advice: u32,
}

/// Size of a huge page in bytes.
pub(crate) const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// The mappings of which children keep a part, to be complete before they are born.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lent {
    /// First addresses of the mappings.
    pub(crate) mappings: BTreeSet<u64>,
    pub(crate) fills: Vec<Fill>,
    pub(crate) patches: Vec<Fill>,
}

impl MemoryPlan {
    /// Bytes of pages that are written.
    pub(crate) fn fill_bytes(&self) -> u64 {
        let lists = [&self.fills, &self.patches, &self.lent.fills, &self.lent.patches];
        lists.into_iter().flatten().map(|fill| fill.len_bytes).sum()
    }
}

/// Everything that makes one address space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct MemoryPlan {
    /// Lowest address of the vvar and vdso mappings, and their length together.
    pub(crate) vdso: Option<(u64, u64)>,
    /// In ascending address order.
    pub(crate) mappings: Vec<Mapping>,
    /// Pages file that `fills` and `patches` refer to.
    pub(crate) pages: Option<ObjectKey>,
    /// Runs in writable mappings, in file order.
    pub(crate) fills: Vec<Fill>,
    /// Runs in mappings that the process itself cannot write.
    pub(crate) patches: Vec<Fill>,
    /// Mappings that lose their writability after the fill.
    pub(crate) protects: Vec<Protect>,
    /// After the fill: advice may forbid what filling needs.
    pub(crate) advices: Vec<Advice>,
    /// Ranges to `mlock`, after the fill.
    pub(crate) locks: Vec<(u64, u64)>,
    /// What children keep; not in `fills` and `patches`.
    pub(crate) lent: Lent,
    /// Aligned ranges of huge pages that `fills` covers whole.
    pub(crate) dense: Vec<Fill>,
    /// What is kept of the parent's memory, in address order; those mappings are not made anew.
    pub(crate) kept: Vec<Kept>,
    /// Ranges (start, end) of kept memory that only the parent has pages in.
    pub(crate) drops: Vec<(u64, u64)>,
    /// Bytes of vdso code that the pages file holds, to be compared with this host's.
    pub(crate) vdso_pages: Vec<Fill>,
}

/// `MADV_GUARD_INSTALL` (asm-generic/mman-common.h, Linux 6.13).
const MADV_GUARD_INSTALL: u32 = 102;

/// `madvise` numbers that a bit of `vma_entry.madv` may stand for (asm-generic/mman-common.h):
/// RANDOM, SEQUENTIAL, DONTFORK, MERGEABLE, HUGEPAGE, NOHUGEPAGE, DONTDUMP, WIPEONFORK.
const ADVICE_KNOWN: u64 =
    1 << 1 | 1 << 2 | 1 << 10 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 16 | 1 << 18;

/// `MAP_DROPPABLE` (linux/mman.h, Linux 6.11).
const MAP_DROPPABLE: i32 = 8;

/// `MAP_*` bits that a restored mapping is made with: SHARED, PRIVATE, ANONYMOUS, GROWSDOWN,
/// NORESERVE, HUGETLB and its size, DROPPABLE. LOCKED is applied later.
const FLAGS_KEPT: u32 = (libc::MAP_SHARED
    | libc::MAP_PRIVATE
    | libc::MAP_ANONYMOUS
    | libc::MAP_GROWSDOWN
    | libc::MAP_NORESERVE
    | libc::MAP_HUGETLB
    | MAP_DROPPABLE
    | 0x3f << 26) as u32;

/// Status bits of mappings that are not supported, and what they are.
const UNSUPPORTED: [(u32, RefusalKind, &str); 5] = [
    (vma_status::SYSVIPC, RefusalKind::SysvMemory, "System V shared memory mapping"),
    (vma_status::SOCKET, RefusalKind::PacketSocket, "mapping of a packet socket"),
    (vma_status::AIORING, RefusalKind::AioRing, "asynchronous I/O ring"),
    (vma_status::SHSTK, RefusalKind::ShadowStack, "shadow stack"),
    (vma_status::UPROBES, RefusalKind::Uprobes, "uprobes mapping"),
];

/// Plans one address space; appends what cannot be restored to `refusals`. Without a map of devices
/// it is the plan of all other mappings.
pub(crate) fn plan(
    checkpoint: &Checkpoint,
    devices: Option<&DeviceMap>,
    pid: u32,
    body: &Body,
    refusals: &mut Vec<Refusal>,
) -> MemoryPlan {
    let mut memory = MemoryPlan::default();
    for vma in &body.mm.vmas {
        let unsupported = UNSUPPORTED.iter().find(|(bit, ..)| vma.status & bit != 0);
        if let Some((_, kind, what)) = unsupported {
            let place = format!("mm-{pid}.img, VMA {:#x}-{:#x}", vma.start, vma.end);
            refusals.push(Refusal::new(*kind, *what, place, pid));
            continue;
        }
        let added = match (is_device(vma), devices) {
            (true, Some(devices)) => memory.add_device(checkpoint, devices, pid, vma),
            (true, None) => Ok(()),
            (false, _) => memory.add(checkpoint, pid, vma),
        };
        if let Err(refusal) = added {
            refusals.push(refusal);
        }
    }
    if !body.pages.runs.is_empty() {
        memory.pages = Some(ObjectKey::Pages(body.pages.pages_id));
    }
    memory.open_for_writing(body);
    memory.place_pages(body);
    if !body.mm.thp_disabled.unwrap_or(false) {
        memory.find_dense(body);
    }
    memory
}

fn len(vma: &VmaEntry) -> u64 {
    vma.end - vma.start
}

impl MemoryPlan {
    fn add(&mut self, checkpoint: &Checkpoint, pid: u32, vma: &VmaEntry) -> Result<(), Refusal> {
        if vma.status & vma_status::VSYSCALL != 0 {
            return Ok(());
        }
        if vma.status & (vma_status::VDSO | vma_status::VVAR) != 0 {
            let (start, len_bytes) = self.vdso.unwrap_or((vma.start, 0));
            self.vdso = Some((start.min(vma.start), len_bytes + len(vma)));
            return Ok(());
        }
        if vma.status & vma_status::GUARD != 0 {
            let advice = MADV_GUARD_INSTALL;
            self.advices.push(Advice { start: vma.start, len_bytes: len(vma), advice });
            return Ok(());
        }
        let source = files::mapping_key(vma, checkpoint)?;
        let mut flags = vma.flags & FLAGS_KEPT;
        if source.is_some() {
            flags &= !(libc::MAP_ANONYMOUS as u32);
        } else {
            flags |= libc::MAP_ANONYMOUS as u32;
        }
        self.mappings.push(Mapping {
            start: vma.start,
            len_bytes: len(vma),
            prot: vma.prot,
            flags,
            source,
            offset_bytes: if source.is_some() { vma.pgoff } else { 0 },
        });
        if vma.flags & libc::MAP_LOCKED as u32 != 0 {
            self.locks.push((vma.start, len(vma)));
        }
        self.add_advice(pid, vma)
    }

    /// A mapping of a device, as one mapping for each buffer that it shows.
    fn add_device(
        &mut self,
        checkpoint: &Checkpoint,
        devices: &DeviceMap,
        pid: u32,
        vma: &VmaEntry,
    ) -> Result<(), Refusal> {
        for part in devices.parts(checkpoint, pid, vma)? {
            self.mappings.push(Mapping {
                start: part.start,
                len_bytes: part.len_bytes,
                prot: vma.prot,
                flags: vma.flags & FLAGS_KEPT & !(libc::MAP_ANONYMOUS as u32),
                source: Some(ObjectKey::Buffer {
                    file: part.buffer.file,
                    index: part.buffer.index as u32,
                }),
                offset_bytes: part.offset_bytes,
            });
        }
        if vma.flags & libc::MAP_LOCKED as u32 != 0 {
            self.locks.push((vma.start, len(vma)));
        }
        self.add_advice(pid, vma)
    }

    fn add_advice(&mut self, pid: u32, vma: &VmaEntry) -> Result<(), Refusal> {
        let bits = vma.madv.unwrap_or(0);
        if bits & !ADVICE_KNOWN != 0 {
            let what = format!("madvise bits {:#x}", bits & !ADVICE_KNOWN);
            let place = format!("mm-{pid}.img, VMA {:#x}-{:#x}", vma.start, vma.end);
            return Err(Refusal::new(RefusalKind::MemoryAdvice, what, place, pid));
        }
        for advice in (0..64).filter(|bit| bits >> bit & 1 != 0) {
            self.advices.push(Advice { start: vma.start, len_bytes: len(vma), advice });
        }
        Ok(())
    }

    /// Finds the blocks of private anonymous memory that can be huge pages.
    fn find_dense(&mut self, body: &Body) {
        const NOT_PLAIN: u32 = (libc::MAP_SHARED | libc::MAP_GROWSDOWN | libc::MAP_HUGETLB) as u32;
        let no_huge_page = 1 << libc::MADV_NOHUGEPAGE;
        let unwilling: BTreeSet<u64> = body
            .mm
            .vmas
            .iter()
            .filter(|vma| vma.madv.unwrap_or(0) & no_huge_page != 0)
            .map(|vma| vma.start)
            .collect();
        let mut fills: Vec<Fill> = self.fills.clone();
        fills.sort_unstable_by_key(|fill| fill.start);
        for mapping in &self.mappings {
            let plain = mapping.source.is_none() && mapping.flags & NOT_PLAIN == 0;
            if !plain || mapping.len_bytes < HUGE_PAGE_BYTES || unwilling.contains(&mapping.start) {
                continue;
            }
            let first = fills.partition_point(|fill| fill.start + fill.len_bytes <= mapping.start);
            for fill in fills[first..].iter().take_while(|fill| fill.start < mapping.end()) {
                let from = fill.start.max(mapping.start).next_multiple_of(HUGE_PAGE_BYTES);
                let to = (fill.start + fill.len_bytes).min(mapping.end());
                let to = to / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
                if from < to {
                    let offset_bytes = fill.offset_bytes + (from - fill.start);
                    self.dense.push(Fill { start: from, len_bytes: to - from, offset_bytes });
                }
            }
        }
    }

    /// Makes what was once written writable until it is filled.
    fn open_for_writing(&mut self, body: &Body) {
        const SHARED_OR_EXECUTABLE: (u32, u32) = (libc::MAP_SHARED as u32, libc::PROT_EXEC as u32);
        const WRITE: u32 = libc::PROT_WRITE as u32;
        let runs = &body.pages.runs;
        for mapping in &mut self.mappings {
            let (start, end, prot) = (mapping.start, mapping.end(), mapping.prot);
            let (shared, executable) = SHARED_OR_EXECUTABLE;
            if prot & (WRITE | executable) != 0 || mapping.flags & shared != 0 {
                continue;
            }
            let first = runs.partition_point(|run| run.start + run.len_bytes <= start);
            if runs.get(first).is_some_and(|run| run.start < end) {
                mapping.prot |= libc::PROT_READ as u32 | WRITE;
                self.protects.push(Protect { start, len_bytes: end - start, prot });
            }
        }
    }

    /// Cuts the page runs at mapping borders where the way to write them changes.
    fn place_pages(&mut self, body: &Body) {
        let mut next = 0;
        for run in &body.pages.runs {
            let mut at = run.start;
            let run_end = run.start + run.len_bytes;
            while at < run_end {
                while next < self.mappings.len() && self.mappings[next].end() <= at {
                    next += 1;
                }
                let (end, writable) = match self.mappings.get(next) {
                    Some(m) if m.start <= at => {
                        (run_end.min(m.end()), Some(m.prot & libc::PROT_WRITE as u32 != 0))
                    }
                    Some(m) => (run_end.min(m.start), None),
                    None => (run_end, None),
                };
                let offset_bytes = run.offset_bytes + (at - run.start);
                let fill = Fill { start: at, len_bytes: end - at, offset_bytes };
                match writable {
                    Some(true) => push_merged(&mut self.fills, fill),
                    Some(false) => push_merged(&mut self.patches, fill),
                    // The only pages that no mapping of ours holds.
                    None => push_merged(&mut self.vdso_pages, fill),
                }
                at = end;
            }
        }
    }
}

fn push_merged(fills: &mut Vec<Fill>, fill: Fill) {
    if let Some(last) = fills.last_mut()
        && last.start + last.len_bytes == fill.start
        && last.offset_bytes + last.len_bytes == fill.offset_bytes
    {
        last.len_bytes += fill.len_bytes;
        return;
    }
    fills.push(fill);
}
