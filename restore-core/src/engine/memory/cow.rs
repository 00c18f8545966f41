//! Copy-on-write sharing between parent and child, found again.
//!
//! A fork shares its parent's pages until one of them writes. The images hold both copies, so
//! pages that are still the same are found by comparing them: then the child is cloned from the
//! parent's finished memory and only what differs is written. It is done mapping by mapping, and
//! only where a sample shows that pages are the same: comparing all would cost more than it saves.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use criu_image::ImageDir;

use crate::engine::{RestoreError, Stage, StepError};
use crate::files::ObjectKey;
use crate::plan::{Fill, Kept, Kind, Lent, Mapping, MemoryPlan, ProcessPlan};
use crate::stop::{Stop, Stopped};

const PAGE_BYTES: u64 = 4096;
/// Pages of a mapping that are compared before all of it is.
const SAMPLE: u64 = 16;
/// Mappings with fewer pages than this are compared at once.
const SMALL_PAGES: u64 = 64;
/// Piece in which pages are read for comparison.
const COMPARE_BYTES: u64 = 256 << 10;
/// Mappings that are shared or special are never inherited.
const PLAIN: u32 =
    (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_GROWSDOWN | libc::MAP_NORESERVE) as u32;

/// Pages of parents and children that were compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::engine) struct Compared {
    /// All of them.
    pub(in crate::engine) pages: u64,
    /// Those that are the same in both, and are not written again.
    pub(in crate::engine) same: u64,
}

/// Why pages were not compared.
enum Trouble {
    Step(StepError),
    Stopped(Stopped),
}

impl From<StepError> for Trouble {
    fn from(error: StepError) -> Self {
        Self::Step(error)
    }
}

impl From<Stopped> for Trouble {
    fn from(stopped: Stopped) -> Self {
        Self::Stopped(stopped)
    }
}

/// Decides for every process what it inherits, and who must therefore be filled before it clones.
pub(in crate::engine) fn decide(
    processes: &mut [ProcessPlan],
    images: &ImageDir,
    stop: &Stop,
) -> Result<Compared, RestoreError> {
    let mut findings = Vec::new();
    let mut compared = Compared::default();
    for (index, process) in processes.iter().enumerate() {
        let (Some(parent), Kind::Live(child)) = (process.member.parent, &process.kind) else {
            continue;
        };
        let Kind::Live(above) = &processes[parent].kind else {
            continue;
        };
        let (Some(ours), Some(theirs)) = (child.memory.pages, above.memory.pages) else {
            continue;
        };
        let share = || {
            let mut pair = Pair::open(images, theirs, ours)?;
            let shared = pair.share(&above.memory, &child.memory, stop)?;
            Ok((shared, pair.compared_pages))
        };
        let (shared, pages) = share().map_err(|trouble| match trouble {
            Trouble::Stopped(stopped) => stopped.into(),
            Trouble::Step(source) => {
                RestoreError::Step { pid: process.pid, stage: Stage::Prepare, source }
            }
        })?;
        compared.pages += pages;
        compared.same +=
            shared.same.iter().map(|(start, end)| end - start).sum::<u64>() / PAGE_BYTES;
        if !shared.kept.is_empty() {
            findings.push((index, parent, shared));
        }
    }
    let mut lent: Vec<(usize, Vec<u64>)> = Vec::new();
    for (index, parent, shared) in findings {
        lent.push((parent, shared.kept.iter().map(|kept| kept.start).collect()));
        if let Kind::Live(live) = &mut processes[index].kind {
            shared.apply(&mut live.memory);
        }
    }
    for (parent, starts) in lent {
        if let Kind::Live(live) = &mut processes[parent].kind {
            lend(&mut live.memory, &starts);
        }
    }
    for index in 1..processes.len() {
        // Parents come before their children, helpers' children excepted: those have no memory yet.
        let mut above = processes[index].member.parent;
        while let Some(parent) = above {
            processes[index].born_full |= processes[parent].lends();
            above = processes[parent].member.parent;
        }
    }
    Ok(compared)
}

/// Moves the mappings that hold these addresses, and their pages, to what is built first.
fn lend(memory: &mut MemoryPlan, addresses: &[u64]) {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for &address in addresses {
        let index = memory.mappings.partition_point(|mapping| mapping.end() <= address);
        if let Some(mapping) = memory.mappings.get(index)
            && memory.lent.mappings.insert(mapping.start)
        {
            ranges.push((mapping.start, mapping.end()));
        }
    }
    ranges.sort_unstable();
    let Lent { fills, patches, .. } = &mut memory.lent;
    fills.extend(within(&memory.fills, &ranges));
    patches.extend(within(&memory.patches, &ranges));
    memory.fills = without(&memory.fills, &ranges);
    memory.patches = without(&memory.patches, &ranges);
    memory.dense.retain(|block| {
        let end = block.start + block.len_bytes;
        !ranges.iter().any(|&(start, range_end)| block.start < range_end && start < end)
    });
}

/// The parts of `fills` that lie in `ranges` (ascending).
fn within(fills: &[Fill], ranges: &[(u64, u64)]) -> Vec<Fill> {
    let mut found = Vec::new();
    for fill in fills {
        let end = fill.start + fill.len_bytes;
        let first = ranges.partition_point(|&(_, range_end)| range_end <= fill.start);
        for &(start, range_end) in ranges[first..].iter().take_while(|&&(start, _)| start < end) {
            let (from, to) = (start.max(fill.start), range_end.min(end));
            found.push(Fill {
                start: from,
                len_bytes: to - from,
                offset_bytes: fill.offset_bytes + (from - fill.start),
            });
        }
    }
    found
}

/// What a child takes over.
#[derive(Debug, Default)]
struct Shared {
    kept: Vec<Kept>,
    /// Pages that the parent has and the child has not.
    drops: Vec<(u64, u64)>,
    /// Pages that are the same in both: not to be written again.
    same: Vec<(u64, u64)>,
}

impl Shared {
    fn apply(self, memory: &mut MemoryPlan) {
        memory.fills = without(&memory.fills, &self.same);
        memory.patches = without(&memory.patches, &self.same);
        // A huge page would be a copy of all that is shared.
        memory.dense.retain(|block| {
            let end = block.start + block.len_bytes;
            !self.kept.iter().any(|k| block.start < k.start + k.len_bytes && k.start < end)
        });
        memory.kept = self.kept;
        memory.drops = self.drops;
    }
}

/// Cuts `same` (ascending) out of `fills`, which stay in file order.
fn without(fills: &[Fill], same: &[(u64, u64)]) -> Vec<Fill> {
    let mut rest = Vec::new();
    for fill in fills {
        let (mut at, end) = (fill.start, fill.start + fill.len_bytes);
        let first = same.partition_point(|&(_, same_end)| same_end <= at);
        let piece = |from: u64, to: u64| Fill {
            start: from,
            len_bytes: to - from,
            offset_bytes: fill.offset_bytes + (from - fill.start),
        };
        for &(start, same_end) in same[first..].iter().take_while(|&&(start, _)| start < end) {
            if start > at {
                rest.push(piece(at, start));
            }
            at = same_end.max(at);
        }
        if at < end {
            rest.push(piece(at, end));
        }
    }
    rest
}

/// All runs of an address space in address order.
fn runs(memory: &MemoryPlan) -> Vec<Fill> {
    let mut runs: Vec<Fill> = memory.fills.iter().chain(&memory.patches).copied().collect();
    runs.sort_unstable_by_key(|run| run.start);
    runs
}

/// A range that both have pages in, with its place in either pages file.
#[derive(Clone, Copy, Debug)]
struct Overlap {
    start: u64,
    len_bytes: u64,
    theirs: u64,
    ours: u64,
}

fn overlaps(theirs: &[Fill], ours: &[Fill], start: u64, end: u64) -> Vec<Overlap> {
    let mut found = Vec::new();
    let mut i = theirs.partition_point(|run| run.start + run.len_bytes <= start);
    let mut j = ours.partition_point(|run| run.start + run.len_bytes <= start);
    while let (Some(a), Some(b)) = (theirs.get(i), ours.get(j)) {
        let from = a.start.max(b.start).max(start);
        let (a_end, b_end) = (a.start + a.len_bytes, b.start + b.len_bytes);
        let to = a_end.min(b_end).min(end);
        if from >= end {
            break;
        }
        if from < to {
            found.push(Overlap {
                start: from,
                len_bytes: to - from,
                theirs: a.offset_bytes + (from - a.start),
                ours: b.offset_bytes + (from - b.start),
            });
        }
        if a_end <= b_end { i += 1 } else { j += 1 }
    }
    found
}

/// The pages files of a parent and a child.
struct Pair {
    theirs: (File, PathBuf),
    ours: (File, PathBuf),
    buffers: (Vec<u8>, Vec<u8>),
    compared_pages: u64,
}

impl Pair {
    fn open(images: &ImageDir, theirs: ObjectKey, ours: ObjectKey) -> Result<Self, StepError> {
        let open = |key| {
            let ObjectKey::Pages(id) = key else { unreachable!("pages are kept in pages images") };
            let path = images.path().join(format!("pages-{id}.img"));
            match File::open(&path) {
                Ok(file) => Ok((file, path)),
                Err(source) => Err(StepError::PagesFile { path, source }),
            }
        };
        let (theirs, ours) = (open(theirs)?, open(ours)?);
        Ok(Self { theirs, ours, buffers: (Vec::new(), Vec::new()), compared_pages: 0 })
    }

    fn read(&mut self, overlap: &Overlap) -> Result<(), StepError> {
        let len = overlap.len_bytes as usize;
        self.compared_pages += overlap.len_bytes / PAGE_BYTES;
        self.buffers.0.resize(len, 0);
        self.buffers.1.resize(len, 0);
        for ((file, path), buffer, at) in [
            (&self.theirs, &mut self.buffers.0, overlap.theirs),
            (&self.ours, &mut self.buffers.1, overlap.ours),
        ] {
            file.read_exact_at(buffer, at)
                .map_err(|source| StepError::PagesFile { path: path.clone(), source })?;
        }
        Ok(())
    }

    fn share(
        &mut self,
        above: &MemoryPlan,
        child: &MemoryPlan,
        stop: &Stop,
    ) -> Result<Shared, Trouble> {
        let mut shared = Shared::default();
        let (theirs, ours) = (runs(above), runs(child));
        let covered: Vec<(u64, u64)> =
            ours.iter().map(|run| (run.start, run.start + run.len_bytes)).collect();
        for mapping in &child.mappings {
            let Some(kept) = inheritable(above, mapping) else {
                continue;
            };
            stop.look()?;
            let end = kept.start + kept.len_bytes;
            let overlaps = overlaps(&theirs, &ours, kept.start, end);
            let pages: u64 = overlaps.iter().map(|o| o.len_bytes / PAGE_BYTES).sum();
            if pages >= SMALL_PAGES && !self.any_same(&overlaps, pages)? {
                continue;
            }
            if !self.compare(&overlaps, &mut shared.same, stop)? {
                continue;
            }
            drops(&theirs, &covered, kept.start, end, &mut shared.drops);
            shared.kept.push(kept);
        }
        Ok(shared)
    }

    /// Looks at a few pages, spread over all that both have.
    fn any_same(&mut self, overlaps: &[Overlap], pages: u64) -> Result<bool, StepError> {
        let step = (pages / SAMPLE).max(1);
        let mut next = 0;
        let mut before = 0;
        for overlap in overlaps {
            let count = overlap.len_bytes / PAGE_BYTES;
            while next < before + count {
                let skip = (next - before) * PAGE_BYTES;
                let page = Overlap {
                    start: overlap.start + skip,
                    len_bytes: PAGE_BYTES,
                    theirs: overlap.theirs + skip,
                    ours: overlap.ours + skip,
                };
                self.read(&page)?;
                if self.buffers.0 == self.buffers.1 {
                    return Ok(true);
                }
                next += step;
            }
            before += count;
        }
        Ok(false)
    }

    /// Adds the pages that are the same; whether there are any.
    fn compare(
        &mut self,
        overlaps: &[Overlap],
        same: &mut Vec<(u64, u64)>,
        stop: &Stop,
    ) -> Result<bool, Trouble> {
        let mut any = false;
        for overlap in overlaps {
            let mut done = 0;
            while done < overlap.len_bytes {
                stop.look()?;
                let len_bytes = (overlap.len_bytes - done).min(COMPARE_BYTES);
                let piece = Overlap {
                    start: overlap.start + done,
                    len_bytes,
                    theirs: overlap.theirs + done,
                    ours: overlap.ours + done,
                };
                self.read(&piece)?;
                let pages = self.buffers.0.chunks(PAGE_BYTES as usize);
                let pairs = pages.zip(self.buffers.1.chunks(PAGE_BYTES as usize));
                for (index, _) in pairs.enumerate().filter(|(_, (a, b))| a == b) {
                    let start = piece.start + index as u64 * PAGE_BYTES;
                    push_range(same, start, start + PAGE_BYTES);
                    any = true;
                }
                done += len_bytes;
            }
        }
        Ok(any)
    }
}

/// The part of a child's mapping that it can have from its parent: the mapping must begin within
/// one of the same thing. Where it ends later, it is extended; where earlier, cut.
fn inheritable(above: &MemoryPlan, mapping: &Mapping) -> Option<Kept> {
    let index = above.mappings.partition_point(|theirs| theirs.end() <= mapping.start);
    let theirs = above.mappings.get(index).filter(|theirs| theirs.start <= mapping.start)?;
    let same_place = mapping.source.is_none()
        || mapping.offset_bytes.wrapping_sub(mapping.start)
            == theirs.offset_bytes.wrapping_sub(theirs.start);
    let plain = mapping.flags & !PLAIN == 0 && mapping.flags & libc::MAP_PRIVATE as u32 != 0;
    if !plain || theirs.flags != mapping.flags || theirs.source != mapping.source || !same_place {
        return None;
    }
    let end = theirs.end().min(mapping.end());
    Some(Kept {
        start: mapping.start,
        len_bytes: end - mapping.start,
        prot: (theirs.prot != mapping.prot).then_some(mapping.prot),
        grown_to_bytes: (end < mapping.end()).then_some(mapping.len_bytes),
    })
}

/// Pages of `theirs` in the range that are not `covered` by ours.
fn drops(
    theirs: &[Fill],
    covered: &[(u64, u64)],
    start: u64,
    end: u64,
    drops: &mut Vec<(u64, u64)>,
) {
    let first = theirs.partition_point(|run| run.start + run.len_bytes <= start);
    let here = theirs[first..].iter().take_while(|run| run.start < end);
    let clipped: Vec<Fill> = here
        .map(|run| {
            let from = run.start.max(start);
            let to = (run.start + run.len_bytes).min(end);
            Fill { start: from, len_bytes: to - from, offset_bytes: 0 }
        })
        .collect();
    for fill in without(&clipped, covered) {
        push_range(drops, fill.start, fill.start + fill.len_bytes);
    }
}

fn push_range(ranges: &mut Vec<(u64, u64)>, start: u64, end: u64) {
    match ranges.last_mut() {
        Some(last) if last.1 == start => last.1 = end,
        _ => ranges.push((start, end)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Fill, overlaps, without};

    fn fill(start: u64, len_bytes: u64, offset_bytes: u64) -> Fill {
        Fill { start, len_bytes, offset_bytes }
    }

    #[test]
    fn pages_that_are_the_same_are_cut_out_with_their_offsets() {
        let fills = [fill(10, 10, 100), fill(30, 10, 110)];
        let rest = without(&fills, &[(12, 14), (18, 32)]);
        assert_eq!(rest, [fill(10, 2, 100), fill(14, 4, 104), fill(32, 8, 112)]);
        assert_eq!(without(&fills, &[]), fills);
        assert_eq!(without(&fills, &[(0, 100)]), []);
    }

    #[test]
    fn overlaps_know_both_places() {
        let found = overlaps(&[fill(0, 10, 50)], &[fill(4, 10, 0)], 6, 100);
        assert_eq!(found.len(), 1);
        let one = found[0];
        assert_eq!((one.start, one.len_bytes, one.theirs, one.ours), (6, 4, 56, 2));
    }
}
