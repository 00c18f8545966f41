//! Contents without records: raw images byte by byte, and memory page by page.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{Difference, Sink};
use crate::error::ImageError;
use crate::kind::ImageKind;
use crate::pages::{Memory, PAGE_BYTES};
use crate::payload::file_size;

const PIECE_BYTES: usize = 64 << 10;

/// Says where two files first differ, and whether their sizes do.
pub(super) fn files(
    first: &Path,
    second: &Path,
    name: &str,
    each: &mut Sink<'_>,
) -> Result<bool, ImageError> {
    let fail = |source| ImageError::Read { file: name.to_owned(), source };
    let sizes = [file_size(first, name)?, file_size(second, name)?];
    let mut readers = [File::open(first).map_err(fail)?, File::open(second).map_err(fail)?];
    let mut pieces = [vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]];
    let mut at = 0;
    let mut differs_at = None;
    while differs_at.is_none() && at < sizes[0].min(sizes[1]) {
        let left = usize::try_from(sizes[0].min(sizes[1]) - at).unwrap_or(usize::MAX);
        let len = left.min(PIECE_BYTES);
        for (reader, piece) in readers.iter_mut().zip(&mut pieces) {
            reader.read_exact(&mut piece[..len]).map_err(fail)?;
        }
        let same = pieces[0][..len].iter().zip(&pieces[1][..len]).take_while(|(a, b)| a == b);
        let same = same.count();
        differs_at = (same < len).then_some(at + same as u64);
        at += len as u64;
    }
    let mut goes_on = true;
    if let Some(at) = differs_at {
        let bytes = pieces.map(|piece| Some(format!("{:#04x}", piece[at as usize % PIECE_BYTES])));
        let [first, second] = bytes;
        let (file, place) = (name.to_owned(), format!("byte {at}"));
        goes_on = each(Difference { file, place, first, second });
    }
    if sizes[0] != sizes[1] && goes_on {
        let [first, second] = sizes.map(|size| Some(format!("{size} bytes")));
        let (file, place) = (name.to_owned(), "size".to_owned());
        goes_on = each(Difference { file, place, first, second });
    }
    Ok(goes_on)
}

/// Compares the memory of every process and every shared memory that both sides have.
pub(super) fn memories(
    first: &Path,
    second: &Path,
    ours: &BTreeSet<OsString>,
    theirs: &BTreeSet<OsString>,
    each: &mut Sink<'_>,
) -> Result<bool, ImageError> {
    for name in ours.intersection(theirs) {
        let goes_on = match ImageKind::of_name(name) {
            Some((ImageKind::Pagemap, Some(pid))) => {
                let pid = u32::try_from(pid).unwrap_or(u32::MAX);
                let of = |dir| Memory::of_process(dir, pid);
                memory(&format!("memory of process {pid}"), &of(first)?, &of(second)?, each)?
            }
            Some((ImageKind::ShmemPagemap, Some(shmid))) => {
                let of = |dir| Memory::of_shared(dir, shmid);
                memory(&format!("shared memory {shmid}"), &of(first)?, &of(second)?, each)?
            }
            _ => true,
        };
        if !goes_on {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Hands on runs of pages that are there on both sides and differ; which pages are there is said
/// by the pagemaps.
fn memory(
    file: &str,
    first: &Memory,
    second: &Memory,
    each: &mut Sink<'_>,
) -> Result<bool, ImageError> {
    let mut run: Option<(u64, u64)> = None;
    let mut tell = |(start, end): (u64, u64)| {
        let pages = Some(format!("{} page(s)", (end - start) / PAGE_BYTES as u64));
        let place = format!("{start:#x}-{end:#x}");
        let (first, second) = (pages.clone(), pages);
        each(Difference { file: file.to_owned(), place, first, second })
    };
    for page in first.pages() {
        let (address, ours) = page?;
        let mut theirs = [0; PAGE_BYTES];
        let is_there = second.read(address, &mut theirs)? == PAGE_BYTES;
        if !is_there || ours == theirs {
            continue;
        }
        let end = address + PAGE_BYTES as u64;
        run = match run {
            Some((start, last)) if last == address => Some((start, end)),
            Some(whole) => {
                if !tell(whole) {
                    return Ok(false);
                }
                Some((address, end))
            }
            None => Some((address, end)),
        };
    }
    Ok(run.is_none_or(tell))
}
