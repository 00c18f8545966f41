//! Images of a directory, for views: leniently, and each only when a view asks for it.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::ImageError;
use crate::image::ImageReader;
use crate::kind::ImageKind;
use crate::payload::Record;
use crate::record::PstreeEntry;

/// Most processes that are listed: as many as a restorer takes, four times.
const PROCESSES_MAX: usize = 1 << 16;

pub(super) struct Source {
    dir: PathBuf,
}

impl Source {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// An image that may be absent.
    pub(super) fn find(
        &self,
        kind: ImageKind,
        id: u64,
    ) -> Result<Option<ImageReader<File>>, ImageError> {
        let path = self.dir.join(kind.file_name(id));
        match path.try_exists() {
            Ok(false) => Ok(None),
            _ => ImageReader::open(path).map(|image| Some(image.lenient())),
        }
    }

    /// An image that a view cannot do without.
    pub(super) fn need(
        &self,
        kind: ImageKind,
        id: u64,
        needed_for: impl Fn() -> String,
    ) -> Result<ImageReader<File>, ImageError> {
        let missing = || ImageError::Missing { file: kind.file_name(id), needed_for: needed_for() };
        self.find(kind, id)?.ok_or_else(missing)
    }

    /// The first record of an image of a process, if the process has such an image.
    pub(super) fn first<R: Record>(
        &self,
        kind: ImageKind,
        id: u32,
    ) -> Result<Option<R>, ImageError> {
        let Some(mut image) = self.find(kind, id.into())? else { return Ok(None) };
        let Some((_, record)) = image.next_record()? else {
            let file = kind.file_name(id.into());
            return Err(ImageError::Count { file, found: 0, expected: "at least one" });
        };
        Ok(Some(record))
    }

    /// All records of an image that may be absent.
    pub(super) fn all<R: Record>(&self, kind: ImageKind, id: u32) -> Result<Vec<R>, ImageError> {
        let Some(image) = self.find(kind, id.into())? else { return Ok(Vec::new()) };
        image.records().map(|record| record.map(|(_, record)| record)).collect()
    }

    /// All records of a file that has no kind any more (CRIU before 3.0); none if it is absent.
    pub(super) fn all_of_old<R: Record>(&self, name: &str) -> Result<Vec<R>, ImageError> {
        let path = self.dir.join(name);
        if !path.is_file() {
            return Ok(Vec::new());
        }
        let image = ImageReader::open_any(path)?.lenient();
        image.records().map(|record| record.map(|(_, record)| record)).collect()
    }

    /// All entries of `pstree.img`, the first of each process: an id that comes again is damage,
    /// and would show the same images again.
    pub(super) fn processes(&self) -> Result<Vec<PstreeEntry>, ImageError> {
        let image = self.need(ImageKind::Pstree, 0, || "every checkpoint has one".to_owned())?;
        let mut entries: Vec<PstreeEntry> = Vec::new();
        let mut seen = BTreeSet::new();
        for record in image.records::<PstreeEntry>() {
            let (offset_bytes, entry) = record?;
            if !seen.insert(entry.pid) {
                continue;
            }
            if entries.len() == PROCESSES_MAX {
                let reason = format!("more than {PROCESSES_MAX} processes");
                let file = ImageKind::Pstree.file_name(0);
                return Err(ImageError::Contradiction { file, offset_bytes, reason });
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}
