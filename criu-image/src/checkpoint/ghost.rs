//! Files whose path is gone: how each is reached, and where the contents of deleted ones are.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::contradiction;
use super::load::Loader;
use super::model::{Checkpoint, DataSpan, FileId, Ghost, Remap};
use crate::error::ImageError;
use crate::image::format::COMMON_MAGIC;
use crate::kind::ImageKind;
use crate::payload::{Record, decode};
use crate::record::{GhostChunkEntry, GhostFileEntry, RemapFilePathEntry, RemapType};

/// Both magic numbers.
const HEAD_BYTES: u64 = 8;
/// Longest record of a ghost image: attributes and, for a symbolic link, its target.
const RECORD_BYTES_MAX: u64 = 64 << 10;
/// Most extents of sparse files that are kept in memory, over all files: several paths may be
/// remapped to one ghost, whose extents are then kept for each.
const EXTENTS_MAX: usize = 1 << 20;
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;

const REMAP: &str = "remap-fpath.img";

pub(super) fn load(loader: &mut Loader, checkpoint: &mut Checkpoint) -> Result<(), ImageError> {
    let mut extents_left = EXTENTS_MAX;
    for (at, entry) in loader.records::<RemapFilePathEntry>(ImageKind::RemapFpath)? {
        let id = FileId(entry.orig_id);
        if !checkpoint.files.contains_key(&id) && loader.findings.is_sure_of(ImageKind::Files) {
            let reason = format!("file {:#x} is unknown", id.0);
            loader.findings.report(contradiction(REMAP, at, reason))?;
        }
        let remap = remap(loader, checkpoint, at, &entry, extents_left);
        let Some(remap) = loader.findings.check(remap)? else { continue };
        if let Remap::Ghost(ghost) = &remap {
            extents_left = extents_left.saturating_sub(ghost.extents.len());
        }
        if checkpoint.remaps.insert(id, remap).is_some() {
            let reason = format!("file {:#x} occurs twice", id.0);
            loader.findings.report(contradiction(REMAP, at, reason))?;
        }
    }
    Ok(())
}

fn remap(
    loader: &mut Loader,
    checkpoint: &Checkpoint,
    at: u64,
    entry: &RemapFilePathEntry,
    extents_left: usize,
) -> Result<Remap, ImageError> {
    Ok(match entry.remap_type() {
        RemapType::Linked => {
            let link = FileId(entry.remap_id);
            let is_other = link != FileId(entry.orig_id) && checkpoint.reg_file(link).is_some();
            if !is_other && loader.findings.is_sure_of(ImageKind::Files) {
                let reason = format!("link {:#x} is no other regular file", link.0);
                return Err(contradiction(REMAP, at, reason));
            }
            Remap::Linked(link)
        }
        RemapType::Ghost => Remap::Ghost(ghost(loader, entry.remap_id, extents_left)?),
        RemapType::Procfs => Remap::Procfs(entry.remap_id),
    })
}

fn ghost(loader: &mut Loader, id: u32, extents_max: usize) -> Result<Ghost, ImageError> {
    let name = ImageKind::GhostFile.file_name(u64::from(id));
    let image = Sparse::open(loader, id, &name)?;
    let (entry, mut at) = image.record::<GhostFileEntry>(HEAD_BYTES)?;
    let mut extents = Vec::new();
    if entry.chunks.unwrap_or(false) {
        let Some(size) = entry.size else {
            return Err(contradiction(name, HEAD_BYTES, "a file in chunks has no size"));
        };
        let mut last_end = 0;
        while at < image.len_bytes {
            let begin = at;
            let (chunk, data) = image.record::<GhostChunkEntry>(at)?;
            let end = chunk.off.checked_add(chunk.len).filter(|&end| end <= size);
            let Some(end) = end.filter(|_| chunk.len != 0 && chunk.off >= last_end) else {
                let reason = format!("chunk at {:#x} is empty or out of place", chunk.off);
                return Err(contradiction(name, begin, reason));
            };
            if extents.len() == extents_max {
                let reason = format!("more than {EXTENTS_MAX} chunks in all ghost files");
                return Err(contradiction(name, begin, reason));
            }
            last_end = end;
            image.need(data, chunk.len)?;
            let span = DataSpan { offset_bytes: data, len_bytes: chunk.len };
            extents.push((chunk.off, span));
            at = data + chunk.len;
        }
    } else if entry.mode & S_IFMT == S_IFREG {
        let len_bytes = image.len_bytes - at;
        extents.push((0, DataSpan { offset_bytes: at, len_bytes }));
    } else if at != image.len_bytes {
        return Err(contradiction(name, at, "contents of what is no regular file"));
    }
    Ok(Ghost { id, entry, extents })
}

/// A ghost image: small records between contents that are not read.
struct Sparse {
    name: String,
    file: File,
    len_bytes: u64,
}

impl Sparse {
    fn open(loader: &mut Loader, id: u32, name: &str) -> Result<Self, ImageError> {
        let id = u64::from(id);
        let len_bytes = loader.size_of(ImageKind::GhostFile, id, REMAP)?;
        let fail = |source| ImageError::Read { file: name.to_owned(), source };
        if let Some(sum) = loader.dir.sum(name) {
            // Records stand anywhere between contents, so all of it is looked at.
            let mut raw = loader.dir.raw(name).map_err(fail)?;
            (0..sum.blocks.len()).try_for_each(|i| raw.block(i).map(drop)).map_err(fail)?;
        }
        let file = File::open(loader.dir.path().join(name)).map_err(fail)?;
        let image = Self { name: name.to_owned(), file, len_bytes };
        for (at, expected) in [(0, COMMON_MAGIC), (4, ImageKind::GhostFile.magic())] {
            let found = image.word(at)?;
            if found != expected {
                return Err(ImageError::Magic { file: name.to_owned(), found, expected });
            }
        }
        Ok(image)
    }

    fn need(&self, offset_bytes: u64, len_bytes: u64) -> Result<(), ImageError> {
        let left = self.len_bytes.saturating_sub(offset_bytes);
        if len_bytes > left {
            let needed_bytes = len_bytes - left;
            return Err(ImageError::Cut { file: self.name.clone(), offset_bytes, needed_bytes });
        }
        Ok(())
    }

    fn word(&self, at: u64) -> Result<u32, ImageError> {
        self.need(at, 4)?;
        let mut bytes = [0; 4];
        self.read(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), ImageError> {
        let fail = |source| ImageError::Read { file: self.name.clone(), source };
        self.file.read_exact_at(bytes, at).map_err(fail)
    }

    /// The record at `at`, and where what follows it begins.
    fn record<R: Record>(&self, at: u64) -> Result<(R, u64), ImageError> {
        let len_bytes = u64::from(self.word(at)?);
        if len_bytes > RECORD_BYTES_MAX {
            return Err(ImageError::RecordTooLong {
                file: self.name.clone(),
                offset_bytes: at,
                len_bytes,
                limit_bytes: RECORD_BYTES_MAX,
            });
        }
        self.need(at + 4, len_bytes)?;
        let mut payload = vec![0; len_bytes as usize];
        self.read(at + 4, &mut payload)?;
        Ok((decode(&self.name, at + 4, &payload)?, at + 4 + len_bytes))
    }
}
