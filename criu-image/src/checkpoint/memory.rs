//! Contents of memory: every page belongs to a mapping, and lies in a pages file.

use std::collections::{BTreeMap, BTreeSet};

use super::load::Loader;
use super::mappings::{self, ADDRESSES_END, Mapped, PAGE_BYTES};
use super::model::{Checkpoint, PageRun, PageStore};
use super::{contradiction, vma_status};
use crate::error::ImageError;
use crate::kind::ImageKind;
use crate::reader::Image;
use crate::record::{IpcShmEntry, PagemapEntry, PagemapHead};
use crate::wire::WireError;

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
        let mapped = mappings::check(&format!("mm-{pid}.img"), &body.mm);
        let sorted = loader.findings.check(mapped)?.is_some();
        if !sorted {
            // What follows relies on ranges; whose shared memory is whose is not known then.
            body.mm.vmas.clear();
            loader.findings.doubt(&[ImageKind::ShmemPagemap, ImageKind::Pages]);
        }
        let owner = format!("process {pid}");
        let image = loader.need(ImageKind::Pagemap, Some(u64::from(pid)), &owner);
        let Some(image) = loader.findings.check(image)? else {
            loader.findings.doubt(&[ImageKind::Pages]);
            continue;
        };
        let mut mapped = Mapped::new(&body.mm);
        body.pages = page_store(loader, image, &mut pages_used, |run| {
            // In mappings that are in no order nothing can be found.
            if sorted { mapped.fault(run) } else { None }
        })?;
    }
    let known = shmem_sizes(loader, checkpoint);
    if !loader.findings.is_sure_of(ImageKind::MemfdInode) {
        loader.findings.doubt(&[ImageKind::ShmemPagemap, ImageKind::Pages]);
    }
    for shmid in loader.ids(ImageKind::ShmemPagemap) {
        let Some(&size) = known.get(&shmid) else {
            loader.findings.doubt(&[ImageKind::Pages]);
            continue;
        }; // reported as having no owner
        let image = loader.need(ImageKind::ShmemPagemap, Some(shmid), "shared memory");
        let Some(image) = loader.findings.check(image)? else {
            loader.findings.doubt(&[ImageKind::Pages]);
            continue;
        };
        let store = page_store(loader, image, &mut pages_used, |run| {
            let end = run.start + run.len_bytes;
            let beyond = size.checked_next_multiple_of(PAGE_BYTES).is_some_and(|size| end > size);
            beyond.then(|| format!("contents up to {end:#x} exceed the {size:#x} bytes shared"))
        })?;
        checkpoint.shmems.insert(shmid, store);
    }
    Ok(())
}

/// Sizes in bytes of the shared memories that a file, a mapping or an IPC namespace refers to.
fn shmem_sizes(loader: &mut Loader, checkpoint: &Checkpoint) -> BTreeMap<u64, u64> {
    let mut sizes = BTreeMap::new();
    for body in checkpoint.processes.iter().filter_map(|process| process.body.as_ref()) {
        for vma in body.mm.vmas.iter().filter(|vma| vma.status & vma_status::ANON_SHARED != 0) {
            // CRIU saves what its mappings reach. The sum was checked with the mappings.
            let reach = vma.pgoff.saturating_add(vma.end - vma.start);
            let size: &mut u64 = sizes.entry(vma.shmid).or_default();
            *size = reach.max(*size);
        }
    }
    for id in loader.ids(ImageKind::IpcShm) {
        // Damage to it is found when it is walked.
        let Ok(Some(mut image)) = loader.peek(ImageKind::IpcShm, Some(id)) else {
            loader.findings.doubt(&[ImageKind::ShmemPagemap, ImageKind::Pages]);
            continue;
        };
        while let Ok(Some((_, segment))) = image.next::<IpcShmEntry>() {
            if segment.in_pagemaps != Some(true) {
                break; // contents follow in this image, none is in a pagemap
            }
            sizes.insert(u64::from(segment.desc.id), segment.size);
        }
    }
    for memfd in checkpoint.memfds.values() {
        sizes.insert(u64::from(memfd.shmid), memfd.size);
    }
    sizes
}

fn page_store(
    loader: &mut Loader,
    mut image: Image,
    pages_used: &mut BTreeSet<u32>,
    mut fault: impl FnMut(&PageRun) -> Option<String>,
) -> Result<PageStore, ImageError> {
    let file = image.name().to_owned();
    let head = image.next::<PagemapHead>().and_then(|head| {
        let (file, expected) = (file.clone(), "at least one");
        head.ok_or(ImageError::Count { file, found: 0, expected })
    });
    let Some((_, head)) = loader.findings.check(head)? else {
        loader.findings.doubt(&[ImageKind::Pages]);
        return Ok(PageStore::default());
    };
    let pages_id = head.pages_id;
    if !pages_used.insert(pages_id) {
        let reason = format!("pages-{pages_id}.img belongs to another pagemap too");
        loader.findings.report(contradiction(&file, 8, reason))?;
    }
    let mut store = PageStore { pages_id, runs: Vec::new() };
    let mut offset_bytes = 0;
    let mut last_end = 0;
    let mut whole = true;
    loop {
        let (at, entry) = match image.next::<PagemapEntry>() {
            Ok(Some(record)) => record,
            Ok(None) => break,
            Err(error) => {
                loader.findings.report(of_later_version(error))?;
                whole = false;
                break;
            }
        };
        let run = page_run(&file, at, &entry, last_end, offset_bytes);
        let is_of_other_kind = matches!(run, Err(ImageError::Unsupported { .. }));
        let Some(run) = loader.findings.check(run)? else {
            whole = false;
            if is_of_other_kind {
                break; // as all entries after it will be
            }
            continue;
        };
        if let Some(reason) = fault(&run) {
            loader.findings.report(contradiction(&file, at, reason))?;
        }
        last_end = run.start + run.len_bytes;
        offset_bytes += run.len_bytes;
        store.runs.push(run);
    }
    let size = loader.size_of(ImageKind::Pages, u64::from(pages_id), &file);
    match loader.findings.check(size)? {
        Some(size) if size != offset_bytes && whole => {
            let reason = format!(
                "{offset_bytes} bytes of pages are listed, pages-{pages_id}.img has {size}"
            );
            loader.findings.report(contradiction(&file, image.at(), reason))?;
        }
        _ => {}
    }
    Ok(store)
}

/// CRIU 4.3 says of compressed pages in fields that 4.2 does not have; to pass over them would be
/// to restore compressed bytes.
fn of_later_version(error: ImageError) -> ImageError {
    match error {
        ImageError::Wire {
            file,
            source: WireError::UnknownField { message: "PagemapEntry", .. },
            ..
        } => {
            let feature = "a pagemap with compressed pages or other news of CRIU after 4.2";
            ImageError::Unsupported { file, feature }
        }
        other => other,
    }
}

fn page_run(
    file: &str,
    at: u64,
    entry: &PagemapEntry,
    last_end: u64,
    offset_bytes: u64,
) -> Result<PageRun, ImageError> {
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
    Ok(PageRun { start, len_bytes, offset_bytes })
}
