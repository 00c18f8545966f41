//! The pages of one address space: found by a scan, read from outside, written in order.
//!
//! Saved are the pages that a process has of its own: not those that are the file's, not those that
//! it never touched, and not those that hold only zeros where nothing else would show. They are
//! read in pieces that stay in the processor's cache until they have been summed and written.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{channel, sync_channel};
use std::time::Duration;

use criu_image::record::{PagemapEntry, PagemapHead};
use criu_image::{ImageBuilder, ImageKind};
use nix::errno::Errno;

use super::super::facts::Facts;
use super::super::proc::smaps::Vma;
use super::super::raw::{self, PageRegion, Wanted};
use super::super::staging::{Folder, Staged};
use super::super::steps::Steps;
use super::super::task::restart::Patch;
use super::super::{DumpError, proc};
use super::{is_saved, shows_file};
use crate::meter::Meter;

pub(crate) const PAGE_BYTES: u64 = 4096;
/// Page categories of PAGEMAP_SCAN (linux/fs.h, Linux 6.7; GUARD 6.15).
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_ZERO_PAGE: u64 = 1 << 5;
const IS_GUARD: u64 = 1 << 8;
/// Regions fetched with one scan.
const REGIONS_AT_ONCE: usize = 4096;
/// `PE_PRESENT` (CRIU 4.2, `pagemap.h`).
const PE_PRESENT: u32 = 4;
/// Bytes read, summed and written at a time: what the second-level cache holds of most processors.
const PIECE_BYTES: usize = 256 << 10;
/// Buffers that go round between the thread that reads and the one that writes.
const BUFFERS: usize = 4;
/// Memory from which a second thread is worth its while: starting one takes as long as 100 KiB.
const TWO_THREADS_BYTES: u64 = 8 << 20;
/// Ranges in one `process_vm_readv` (`UIO_MAXIOV`).
const RANGES_MAX: usize = 1024;

/// A run of pages to save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    start: u64,
    end: u64,
    /// Zeros need not be saved: nothing else would be there.
    zeros_out: bool,
    /// Only the memory file of `/proc` can read it.
    by_force: bool,
}

/// Pages of a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// Those that were looked at.
    pub scanned: u64,
    /// Those that were saved: the others hold only zeros.
    pub written: u64,
    /// Time that was spent to write them, of all threads together.
    pub writing: Duration,
}

impl std::iter::Sum for PageCounts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, one| Self {
            scanned: sum.scanned + one.scanned,
            written: sum.written + one.written,
            writing: sum.writing + one.writing,
        })
    }
}

fn whole(vmas: &[Vma]) -> (u64, u64) {
    let user = || vmas.iter().filter(|vma| vma.name != b"[vsyscall]");
    let start = user().map(|vma| vma.start).min().unwrap_or(0);
    (start, user().map(|vma| vma.end).max().unwrap_or(start))
}

fn scan(pid: i32, range: (u64, u64), wanted: Wanted) -> Result<Vec<PageRegion>, DumpError> {
    let path = proc::path(pid, "pagemap");
    let pagemap = File::open(&path).map_err(|source| DumpError::Read { path, source })?;
    let mut found = Vec::new();
    let mut regions = vec![PageRegion::default(); REGIONS_AT_ONCE];
    let (mut at, end) = range;
    while at < end {
        let (count, walked) = raw::scan_pages(&pagemap, (at, end), wanted, &mut regions)
            .map_err(|errno| DumpError::Os { what: "scan the pages", pid, errno })?;
        found.extend(&regions[..count]);
        // Where the list was full, the kernel may say an earlier end than that of its last entry.
        let next = regions[..count].last().map_or(walked, |last| last.end.max(walked));
        if next <= at {
            break;
        }
        at = next;
    }
    Ok(found)
}

/// What a scan finds of a process: pages to save, and ranges that are guarded.
#[derive(Debug, Default)]
pub(crate) struct Found {
    runs: Vec<Run>,
    pub(crate) guards: Vec<(u64, u64)>,
}

/// Looks for the pages that a process has; those of patches are saved in any case.
///
/// # Errors
/// The scan fails.
pub(crate) fn find(facts: &Facts, patches: &[Patch], steps: &Steps) -> Result<Found, DumpError> {
    steps.next("find the pages of a process")?;
    let mut wanted = Wanted {
        all: IS_FILE | IS_ZERO_PAGE,
        inverted: IS_FILE | IS_ZERO_PAGE,
        any: IS_PRESENT | IS_SWAPPED,
        report: IS_PRESENT | IS_SWAPPED | IS_GUARD,
    };
    let range = whole(&facts.vmas);
    let regions = match scan(facts.pid, range, wanted) {
        // A kernel that has no guarded pages.
        Err(DumpError::Os { errno: Errno::EINVAL, .. }) => {
            wanted.report &= !IS_GUARD;
            scan(facts.pid, range, wanted)?
        }
        regions => regions?,
    };
    let (guards, regions): (Vec<_>, Vec<_>) =
        regions.into_iter().partition(|region| region.categories & IS_GUARD != 0);
    let guards = guards.iter().map(|region| (region.start, region.end)).collect();
    let mut runs = runs(facts, &regions);
    patches.iter().for_each(|patch| cover(&mut runs, patch.address));
    Ok(Found { runs, guards })
}

/// Pages that a process has, by mapping.
fn runs(facts: &Facts, regions: &[PageRegion]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut next = 0;
    let vmas = facts.vmas.iter().enumerate();
    let saved = vmas.filter(|&(at, vma)| is_saved(vma) && facts.device_at(at).is_none());
    for (_, vma) in saved {
        let mut push = |start: u64, end: u64| {
            let zeros_out = !shows_file(vma) && vma.name != b"[vdso]";
            let by_force = vma.prot & libc::PROT_READ as u32 == 0;
            match runs.last_mut() {
                Some(last)
                    if last.end == start
                        && (last.zeros_out, last.by_force) == (zeros_out, by_force) =>
                {
                    last.end = end;
                }
                _ => runs.push(Run { start, end, zeros_out, by_force }),
            }
        };
        // The vdso's pages are the kernel's, and yet saved: a restorer compares them.
        if vma.name == b"[vdso]" {
            push(vma.start, vma.end);
            continue;
        }
        while next < regions.len() && regions[next].end <= vma.start {
            next += 1;
        }
        let mut at = next;
        while let Some(region) = regions.get(at).filter(|region| region.start < vma.end) {
            push(region.start.max(vma.start), region.end.min(vma.end));
            at += 1;
        }
    }
    runs
}

/// Writes a pagemap and its pages file.
pub(crate) struct PageWriter<'a> {
    folder: &'a Folder,
    pagemap: ImageBuilder,
    pagemap_name: String,
    pages: Staged,
    /// The run that may still grow.
    open: Option<(u64, u64)>,
    pub(crate) counts: PageCounts,
}

impl Found {
    /// Bytes that will be looked at.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }
}

impl<'a> PageWriter<'a> {
    pub(crate) fn new(
        folder: &'a Folder,
        kind: ImageKind,
        id: u64,
        pages_id: u32,
    ) -> Result<Self, DumpError> {
        let mut pagemap = ImageBuilder::new(kind);
        pagemap.push(&PagemapHead { pages_id });
        let pages = folder.create(&ImageKind::Pages.file_name(pages_id.into()))?;
        let pagemap_name = kind.file_name(id);
        let counts = PageCounts::default();
        Ok(Self { folder, pagemap, pagemap_name, pages, open: None, counts })
    }

    /// Adds the contents of consecutive pages that begin at `start`; `bytes` are moved about.
    pub(crate) fn add(
        &mut self,
        start: u64,
        bytes: &mut [u8],
        zeros_out: bool,
    ) -> Result<(), DumpError> {
        let kept = self.keep(start, bytes, zeros_out);
        self.pages.write(&bytes[..kept])
    }

    /// Notes which of these pages are saved, and moves them together at the begin of `bytes`;
    /// how many bytes they are.
    fn keep(&mut self, start: u64, bytes: &mut [u8], zeros_out: bool) -> usize {
        let page = PAGE_BYTES as usize;
        self.counts.scanned += (bytes.len() / page) as u64;
        let mut kept = 0;
        for at in (0..bytes.len()).step_by(page) {
            if zeros_out && is_zero(&bytes[at..at + page]) {
                continue;
            }
            if kept != at {
                bytes.copy_within(at..at + page, kept);
            }
            kept += page;
            self.note(start + at as u64);
        }
        self.counts.written += (kept / page) as u64;
        kept
    }

    fn note(&mut self, page: u64) {
        match &mut self.open {
            Some((_, end)) if *end == page => *end += PAGE_BYTES,
            _ => {
                self.close();
                self.open = Some((page, page + PAGE_BYTES));
            }
        }
    }

    fn close(&mut self) {
        if let Some((start, end)) = self.open.take() {
            let pages = (end - start) / PAGE_BYTES;
            self.pagemap.push(&PagemapEntry {
                vaddr: start,
                compat_nr_pages: pages as u32,
                in_parent: None,
                flags: Some(PE_PRESENT),
                nr_pages: Some(pages),
            });
        }
    }

    /// Both files are complete.
    pub(crate) fn finish(mut self) -> Result<PageCounts, DumpError> {
        self.close();
        self.folder.put(&self.pagemap_name, &self.pagemap.into_bytes())?;
        self.counts.writing += self.pages.writing();
        self.folder.finish(self.pages);
        Ok(self.counts)
    }
}

fn is_zero(page: &[u8]) -> bool {
    // Most pages differ from zero in their first words.
    let (head, rest) = page.split_at(64);
    head.iter().all(|&byte| byte == 0) && rest.chunks(256).all(|c| c.iter().all(|&b| b == 0))
}

/// Saves the private memory of one process.
pub(crate) fn save(
    pid: i32,
    found: &Found,
    patches: &[Patch],
    mut writer: PageWriter<'_>,
    room: &mut Room,
    steps: &Steps,
    meter: &mut Meter<'_>,
) -> Result<PageCounts, DumpError> {
    let mut pieces = Pieces { runs: &found.runs, at: 0 };
    let mut copy = |piece: Vec<Run>, writer: &mut PageWriter<'_>, buffer: &mut Vec<u8>| {
        steps.next("copy pages")?;
        buffer.resize(PIECE_BYTES, 0);
        let len_bytes = piece.iter().map(|run| run.end - run.start).sum();
        let kept = copy(pid, piece, patches, buffer, writer)?;
        meter.add(len_bytes);
        Ok(kept)
    };
    if room.spare_processor && found.total_bytes() >= TWO_THREADS_BYTES {
        in_two_threads(pieces, &mut writer, copy)?;
    } else {
        pieces.try_for_each(|piece| {
            let kept = copy(piece, &mut writer, &mut room.buffer)?;
            writer.pages.write(&room.buffer[..kept])
        })?;
    }
    writer.finish()
}

/// What a worker has for saving memory.
#[derive(Debug, Default)]
pub(crate) struct Room {
    buffer: Vec<u8>,
    /// Fewer processes wait to be saved than there are workers.
    pub(crate) spare_processor: bool,
}

/// Has a thread of its own write what this one reads and sums. Writing takes two thirds of the
/// time, and the kernel lets only one thread write to a file.
fn in_two_threads(
    pieces: Pieces<'_>,
    writer: &mut PageWriter<'_>,
    mut copy: impl FnMut(Vec<Run>, &mut PageWriter<'_>, &mut Vec<u8>) -> Result<usize, DumpError>,
) -> Result<(), DumpError> {
    let mut out = writer.pages.another()?;
    let (to_write, written) = (sync_channel::<(Vec<u8>, usize)>(BUFFERS), channel());
    let ((to_write, waiting), (back, buffers)) = (to_write, written);
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || -> Result<Duration, DumpError> {
            for (buffer, len) in waiting {
                out.write(&buffer[..len])?;
                let _ = back.send(buffer); // to be filled again, if there is more
            }
            Ok(out.writing())
        });
        let read = || -> Result<(), DumpError> {
            let new = (0..BUFFERS).map(|_| Vec::new());
            for (piece, mut buffer) in pieces.zip(new.chain(buffers)) {
                let kept = copy(piece, writer, &mut buffer)?;
                writer.pages.sum(&buffer[..kept]);
                if to_write.send((buffer, kept)).is_err() {
                    break; // writing has failed, which is said below
                }
            }
            Ok(())
        };
        let read = read();
        drop(to_write);
        let wrote = thread.join().map_err(|_| DumpError::WorkerLost)?;
        read?;
        writer.counts.writing += wrote?;
        Ok(())
    })
}

/// Runs cut into pieces that are read at once.
struct Pieces<'a> {
    runs: &'a [Run],
    /// Bytes of the first run that are done.
    at: u64,
}

impl Iterator for Pieces<'_> {
    type Item = Vec<Run>;

    fn next(&mut self) -> Option<Vec<Run>> {
        let (mut piece, mut room) = (Vec::new(), PIECE_BYTES as u64);
        while let Some(run) = self.runs.first().filter(|_| room > 0 && piece.len() < RANGES_MAX) {
            let start = run.start + self.at;
            let end = run.end.min(start + room);
            piece.push(Run { start, end, ..*run });
            room -= end - start;
            self.at += end - start;
            if end == run.end {
                self.runs = &self.runs[1..];
                self.at = 0;
            }
        }
        (!piece.is_empty()).then_some(piece)
    }
}

/// Makes sure that the page of an address is saved, though it may never have been touched.
fn cover(runs: &mut Vec<Run>, address: u64) {
    let start = address / PAGE_BYTES * PAGE_BYTES;
    let at = runs.partition_point(|run| run.end <= start);
    if runs.get(at).is_none_or(|run| run.start > start) {
        let end = start + PAGE_BYTES;
        runs.insert(at, Run { start, end, zeros_out: true, by_force: false });
    }
}

/// Reads a piece and moves what is saved of it together at the begin of the buffer; how many bytes
/// that is.
fn copy(
    pid: i32,
    piece: Vec<Run>,
    patches: &[Patch],
    buffer: &mut [u8],
    writer: &mut PageWriter<'_>,
) -> Result<usize, DumpError> {
    read(pid, &piece, buffer)?;
    let (mut at, mut end) = (0, 0);
    for run in piece {
        let len = (run.end - run.start) as usize;
        let here = |patch: &&Patch| (run.start..run.end).contains(&patch.address);
        for patch in patches.iter().filter(here) {
            let within = at + (patch.address - run.start) as usize;
            buffer[within..within + patch.bytes.len()].copy_from_slice(&patch.bytes);
        }
        let kept = writer.keep(run.start, &mut buffer[at..at + len], run.zeros_out);
        if end != at {
            buffer.copy_within(at..at + kept, end);
        }
        end += kept;
        at += len;
    }
    Ok(end)
}

fn read(pid: i32, batch: &[Run], buffer: &mut [u8]) -> Result<(), DumpError> {
    let total: u64 = batch.iter().map(|run| run.end - run.start).sum();
    let unreadable = |run: &Run, errno| DumpError::Memory { pid, address: run.start, errno };
    if batch.iter().all(|run| !run.by_force) {
        let ranges: Vec<(u64, u64)> =
            batch.iter().map(|run| (run.start, run.end - run.start)).collect();
        match raw::read_memory(pid, &mut buffer[..total as usize], &ranges) {
            Ok(read) if read as u64 == total => return Ok(()),
            Ok(_) | Err(Errno::EFAULT) => {} // some page needs force: again, one by one
            Err(errno) => return Err(unreadable(&batch[0], errno)),
        }
    }
    let path = proc::path(pid, "mem");
    let memory = File::open(&path).map_err(|source| DumpError::Read { path, source })?;
    let mut at = 0;
    for run in batch {
        let len = (run.end - run.start) as usize;
        let read = memory.read_exact_at(&mut buffer[at..at + len], run.start);
        read.map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            unreadable(run, errno)
        })?;
        at += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{PAGE_BYTES, PageWriter, is_zero};
    use crate::capture::staging::Staging;
    use criu_image::ImageKind;

    #[test]
    fn zero_pages_are_left_out_and_runs_joined() {
        let dir = tempfile::tempdir().expect("a folder");
        let staging = Staging::begin(dir.path()).expect("an empty folder");
        let page = PAGE_BYTES as usize;
        let mut writer = PageWriter::new(staging.folder(), ImageKind::Pagemap, 7, 1).expect("room");
        let mut bytes = vec![1; 4 * page];
        bytes[page..2 * page].fill(0);
        writer.add(0x1000, &mut bytes.clone(), true).expect("room");
        writer.add(0x5000, &mut bytes[..page].to_vec(), true).expect("room");
        writer.add(0x8000, &mut bytes[page..2 * page].to_vec(), false).expect("room");
        let counts = writer.finish().expect("room");
        assert_eq!((counts.scanned, counts.written), (6, 5));
    }

    #[test]
    fn one_bit_makes_a_page_not_zero() {
        for at in [0, 63, 64, 319, 320, 4095] {
            let mut page = vec![0; PAGE_BYTES as usize];
            assert!(is_zero(&page));
            page[at] = 1;
            assert!(!is_zero(&page), "byte {at}");
        }
    }
}
