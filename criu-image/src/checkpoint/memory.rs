//! Address spaces and their contents: mappings in order, every page in a mapping and in a file.

use std::collections::{BTreeMap, BTreeSet};

use super::load::Loader;
use super::model::{Checkpoint, PageRun, PageStore};
use super::{contradiction, vma_status};
use crate::error::ImageError;
use crate::kind::ImageKind;
use crate::record::{MmEntry, PagemapEntry, PagemapHead, VmaEntry};
use crate::wire::WireError;

const PAGE_BYTES: u64 = 4096;
/// End of user addresses on x86-64 with five page-table levels.
const ADDRESSES_END: u64 = 1 << 56;
/// The vsyscall page, which the kernel maps above all user addresses.
const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;

/// `PE_PARENT`, `PE_LAZY`, `PE_PRESENT` (CRIU 4.2, `pagemap.h`).
const PE_PARENT: u32 = 1;
const PE_LAZY: u32 = 2;
const PE_PRESENT: u32 = 4;

/// Checks all address spaces and reads where their contents are.
pub(super) fn load(loader: &mut Loader, checkpoint: &mut Checkpoint) -> Result<(), ImageError> {
    let mut pages_used = BTreeSet::new();
    for process in &mut checkpoint.processes {
        let pid = process.pid;
        let Some(body) = &mut process.body else {
            continue;
        };
        check_vmas(&format!("mm-{pid}.img"), &body.mm)?;
        let owner = format!("process {pid}");
        let image = loader.need(ImageKind::Pagemap, Some(u64::from(pid)), &owner)?;
        let file = image.name().to_owned();
        body.pages = page_store(loader, image, &mut pages_used)?;
        check_pages_mapped(&file, &body.pages, &body.mm)?;
    }
    let known = shmem_sizes(checkpoint);
    for shmid in loader.ids(ImageKind::ShmemPagemap) {
        let Some(&size) = known.get(&shmid) else {
            continue;
        }; // reported as having no owner
        let image = loader.need(ImageKind::ShmemPagemap, Some(shmid), "shared memory")?;
        let file = image.name().to_owned();
        let store = page_store(loader, image, &mut pages_used)?;
        let end = store.runs.last().map_or(0, |run| run.start + run.len_bytes);
        if size.is_some_and(|size| end > size.next_multiple_of(PAGE_BYTES)) {
            let reason = format!("contents up to {end:#x} exceed the size of the shared memory");
            return Err(contradiction(file, 8, reason));
        }
        checkpoint.shmems.insert(shmid, store);
    }
    Ok(())
}

/// Shared memories that a file or a mapping refers to, with their size in bytes where it is known.
fn shmem_sizes(checkpoint: &Checkpoint) -> BTreeMap<u64, Option<u64>> {
    let mut sizes: BTreeMap<u64, Option<u64>> = checkpoint
        .memfds
        .values()
        .map(|memfd| (u64::from(memfd.shmid), Some(memfd.size)))
        .collect();
    for body in checkpoint.processes.iter().filter_map(|process| process.body.as_ref()) {
        for vma in body.mm.vmas.iter().filter(|vma| vma.status & vma_status::ANON_SHARED != 0) {
            sizes.entry(vma.shmid).or_insert(None);
        }
    }
    sizes
}

fn check_vmas(file: &str, mm: &MmEntry) -> Result<(), ImageError> {
    let fail = |vma: &VmaEntry, reason: &str| {
        let reason = format!("mapping {:#x}-{:#x} {reason}", vma.start, vma.end);
        Err(contradiction(file, 8, reason))
    };
    let mut last_end = 0;
    let mut guards = false;
    for vma in &mm.vmas {
        let vsyscall = vma.status & vma_status::VSYSCALL != 0;
        if vma.start >= vma.end || (vma.start | vma.end) % PAGE_BYTES != 0 {
            return fail(vma, "is no range of pages");
        }
        if vma.end > ADDRESSES_END && !(vsyscall && vma.start == VSYSCALL) {
            return fail(vma, "lies outside user addresses");
        }
        if vma.status & vma_status::GUARD != 0 {
            guards = true;
            continue;
        }
        if guards {
            return fail(vma, "comes after guarded ranges");
        }
        if vma.start < last_end {
            return fail(vma, "overlaps the one before it");
        }
        last_end = vma.end;
    }
    Ok(())
}

fn page_store(
    loader: &mut Loader,
    mut image: crate::reader::Image,
    pages_used: &mut BTreeSet<u32>,
) -> Result<PageStore, ImageError> {
    let file = image.name().to_owned();
    let Some((_, head)) = image.next::<PagemapHead>()? else {
        return Err(ImageError::Count { file, found: 0, expected: "at least one" });
    };
    let pages_id = head.pages_id;
    if !pages_used.insert(pages_id) {
        let reason = format!("pages-{pages_id}.img belongs to another pagemap too");
        return Err(contradiction(file, 8, reason));
    }
    let mut store = PageStore { pages_id, runs: Vec::new() };
    let mut offset_bytes = 0;
    let mut last_end = 0;
    while let Some((at, entry)) = next_entry(&mut image)? {
        let Some(run) = page_run(&file, at, &entry, last_end, offset_bytes)? else {
            continue;
        };
        last_end = run.start + run.len_bytes;
        offset_bytes += run.len_bytes;
        store.runs.push(run);
    }
    let size = loader.size_of(ImageKind::Pages, u64::from(pages_id), &file)?;
    if size != offset_bytes {
        let reason =
            format!("{offset_bytes} bytes of pages are listed, pages-{pages_id}.img has {size}");
        return Err(contradiction(file, image.at(), reason));
    }
    Ok(store)
}

/// CRIU 4.3 says of compressed pages in fields that 4.2 does not have; to pass over them would be
/// to restore compressed bytes.
fn next_entry(image: &mut crate::reader::Image) -> Result<Option<(u64, PagemapEntry)>, ImageError> {
    image.next().map_err(|error| match error {
        ImageError::Wire { file, source: WireError::UnknownField { .. }, .. } => {
            let feature = "a pagemap with compressed pages or other news of CRIU after 4.2";
            ImageError::Unsupported { file, feature }
        }
        other => other,
    })
}

fn page_run(
    file: &str,
    at: u64,
    entry: &PagemapEntry,
    last_end: u64,
    offset_bytes: u64,
) -> Result<Option<PageRun>, ImageError> {
    let fail = |reason: String| Err(contradiction(file, at, reason));
    let flags = entry.flags.unwrap_or(PE_PRESENT);
    if entry.in_parent.unwrap_or(false) || flags & PE_PARENT != 0 {
        let feature = "an incremental checkpoint (pages in a parent image)";
        return Err(ImageError::Unsupported { file: file.to_owned(), feature });
    }
    if flags & !(PE_LAZY | PE_PRESENT) != 0 {
        return fail(format!("page flags {flags:#x} are unknown"));
    }
    let count = entry.nr_pages.unwrap_or(u64::from(entry.compat_nr_pages));
    let start = entry.vaddr;
    let len_bytes = count.checked_mul(PAGE_BYTES).filter(|&len| len != 0);
    let end = len_bytes.and_then(|len| start.checked_add(len));
    let (Some(len_bytes), Some(end)) = (len_bytes, end.filter(|&end| end <= ADDRESSES_END)) else {
        return fail(format!("{count} pages at {start:#x} are no range"));
    };
    if !start.is_multiple_of(PAGE_BYTES) || start < last_end {
        return fail(format!("pages {start:#x}-{end:#x} are out of order"));
    }
    if flags & PE_PRESENT == 0 {
        let feature = "memory that another server holds (lazy pages)";
        return Err(ImageError::Unsupported { file: file.to_owned(), feature });
    }
    Ok(Some(PageRun { start, len_bytes, offset_bytes }))
}

fn check_pages_mapped(file: &str, pages: &PageStore, mm: &MmEntry) -> Result<(), ImageError> {
    let mut vmas = mm.vmas.iter().filter(|vma| vma.status & vma_status::GUARD == 0).peekable();
    for run in &pages.runs {
        let end = run.start + run.len_bytes;
        let mut at = run.start;
        while at < end {
            while vmas.peek().is_some_and(|vma| vma.end <= at) {
                vmas.next();
            }
            match vmas.peek() {
                Some(vma) if vma.start <= at => at = end.min(vma.end),
                _ => {
                    let reason = format!("page {at:#x} lies in no mapping");
                    return Err(contradiction(file, 8, reason));
                }
            }
        }
    }
    Ok(())
}
