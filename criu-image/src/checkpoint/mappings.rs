//! One address space: its mappings are in order, and pages lie in them.
//!
//! What a mapping refers to (a file, shared memory) is checked where that is known.

use std::iter::Peekable;
use std::slice::Iter;

use super::model::PageRun;
use super::{contradiction, vma_status};
use crate::error::ImageError;
use crate::record::{MmEntry, VmaEntry};

pub(super) const PAGE_BYTES: u64 = 4096;
/// End of user addresses on x86-64 with five page-table levels.
pub(super) const ADDRESSES_END: u64 = 1 << 56;
/// The vsyscall page, which the kernel maps above all user addresses.
const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;

/// Every bit of a mapping's status that CRIU 4.2 writes (`image.h`).
const STATUS_BITS: u32 = vma_status::REGULAR
    | vma_status::STACK
    | vma_status::VSYSCALL
    | vma_status::VDSO
    | vma_status::HEAP
    | vma_status::FILE_PRIVATE
    | vma_status::FILE_SHARED
    | vma_status::ANON_SHARED
    | vma_status::ANON_PRIVATE
    | vma_status::SYSVIPC
    | vma_status::SOCKET
    | vma_status::VVAR
    | vma_status::AIORING
    | vma_status::MEMFD
    | vma_status::SHSTK
    | vma_status::GUARD
    | vma_status::UPROBES
    | vma_status::EXT_PLUGIN;

/// Checks that mappings are sorted ranges of pages without overlap, and that guarded ranges come
/// after them and lie within them.
pub(super) fn check(file: &str, mm: &MmEntry) -> Result<(), ImageError> {
    let fail = |vma: &VmaEntry, reason: &str| {
        let reason = format!("mapping {:#x}-{:#x} {reason}", vma.start, vma.end);
        Err(contradiction(file, 8, reason))
    };
    let mut last_end = 0;
    let mut guarded: Option<Mapped> = None;
    for vma in &mm.vmas {
        let vsyscall = vma.status & vma_status::VSYSCALL != 0;
        if vma.start >= vma.end || (vma.start | vma.end) % PAGE_BYTES != 0 {
            return fail(vma, "is no range of pages");
        }
        if vma.end > ADDRESSES_END && !(vsyscall && vma.start == VSYSCALL) {
            return fail(vma, "lies outside user addresses");
        }
        if vma.status & !STATUS_BITS != 0 {
            return fail(vma, &format!("has the unknown status {:#x}", vma.status));
        }
        if vma.status & vma_status::GUARD != 0 {
            // The first one starts over at the lowest address.
            if guarded.is_none() {
                last_end = 0;
            }
            let mapped = guarded.get_or_insert_with(|| Mapped::new(mm));
            let len_bytes = vma.end - vma.start;
            let range = PageRun { start: vma.start, len_bytes, offset_bytes: 0 };
            if vma.start < last_end || mapped.fault(&range).is_some() {
                return fail(vma, "is guarded, but not in order within mappings");
            }
        } else if guarded.is_some() {
            return fail(vma, "comes after guarded ranges");
        } else if vma.start < last_end {
            return fail(vma, "overlaps the one before it");
        } else if vma.pgoff.checked_add(vma.end - vma.start).is_none() {
            return fail(vma, &format!("begins at {:#x} of what it maps", vma.pgoff));
        }
        last_end = vma.end;
    }
    Ok(())
}

/// Finds pages outside all mappings. Ranges are asked for in ascending order, so that each mapping
/// is looked at once.
pub(super) struct Mapped<'a> {
    vmas: Peekable<Iter<'a, VmaEntry>>,
}

impl<'a> Mapped<'a> {
    pub(super) fn new(mm: &'a MmEntry) -> Self {
        Self { vmas: mm.vmas.iter().peekable() }
    }

    /// What is wrong with a range of pages: the first page that lies in no mapping.
    pub(super) fn fault(&mut self, run: &PageRun) -> Option<String> {
        let end = run.start + run.len_bytes;
        let mut at = run.start;
        while at < end {
            let is_behind = |vma: &VmaEntry| vma.end <= at || vma.status & vma_status::GUARD != 0;
            while self.vmas.next_if(|vma| is_behind(vma)).is_some() {}
            match self.vmas.peek() {
                Some(vma) if vma.start <= at => at = end.min(vma.end),
                _ => return Some(format!("page {at:#x} lies in no mapping")),
            }
        }
        None
    }
}
