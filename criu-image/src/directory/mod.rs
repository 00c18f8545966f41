//! The directory of a checkpoint, and its files that hold no records: read in place, verified
//! against the manifest as they are read, where there is one.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

mod listing;

pub use listing::{ImageFile, images_in};

use crate::error::ImageError;
use crate::manifest::{BLOCK_BYTES, FileSum, Manifest, ManifestError};
use crate::payload::{IMAGE_BYTES_MAX, file_size};

/// A directory of images, with the manifest that was found in it.
#[derive(Clone, Debug)]
pub struct ImageDir {
    path: PathBuf,
    manifest: Option<Arc<Manifest>>,
}

impl ImageDir {
    /// Looks for a manifest, and whether the files that it lists are there.
    ///
    /// # Errors
    /// [`ImageError::Manifest`].
    pub fn open(path: &Path) -> Result<Self, ImageError> {
        let manifest = Manifest::open(path).map_err(ImageError::Manifest)?;
        if let Some(manifest) = &manifest {
            manifest.check_names(path).map_err(ImageError::Manifest)?;
        }
        Ok(Self::with(path, manifest))
    }

    /// A directory of which each image is compared with this manifest when it is read.
    pub(crate) fn with(path: &Path, manifest: Option<Manifest>) -> Self {
        Self { path: path.to_owned(), manifest: manifest.map(Arc::new) }
    }

    /// A directory whose files are taken as they are.
    pub fn unverified(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), manifest: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a file must be like.
    pub(crate) fn sum(&self, name: &str) -> Option<&FileSum> {
        self.manifest.as_ref()?.files.get(name)
    }

    /// Length of a file in bytes, which must be that of the manifest.
    pub(crate) fn size_of(&self, name: &str) -> Result<u64, ImageError> {
        let size_bytes = file_size(&self.path.join(name), name)?;
        self.sum(name).map_or(Ok(()), |sum| sum.check_len(name, size_bytes))?;
        Ok(size_bytes)
    }

    /// A whole file, compared with the manifest. Its head may be wrong.
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let fail = |source| ImageError::Read { file: name.to_owned(), source };
        let len_bytes = self.size_of(name)?;
        if len_bytes > IMAGE_BYTES_MAX {
            return Err(ImageError::RecordTooLong {
                file: name.to_owned(),
                offset_bytes: 0,
                len_bytes,
                limit_bytes: IMAGE_BYTES_MAX,
            });
        }
        let file = File::open(self.path.join(name)).map_err(fail)?;
        let mut bytes = Vec::with_capacity(len_bytes as usize);
        file.take(len_bytes).read_to_end(&mut bytes).map_err(fail)?;
        if let Some(sum) = self.sum(name) {
            sum.check_len(name, bytes.len() as u64)?;
            for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
                sum.check(name, index, block)?;
            }
        }
        Ok(bytes)
    }

    /// Opens a file that is read in place.
    ///
    /// # Errors
    /// The kernel's.
    pub fn raw(&self, name: &str) -> io::Result<RawImage> {
        let file = File::open(self.path.join(name))?;
        let sum = self.sum(name).cloned();
        Ok(RawImage { name: name.to_owned(), file, sum, block: None })
    }
}

/// A file without records, or the part of one that is none. Not shared: it keeps the block that
/// was verified last.
#[derive(Debug)]
pub struct RawImage {
    name: String,
    file: File,
    sum: Option<FileSum>,
    block: Option<(usize, Vec<u8>)>,
}

impl RawImage {
    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Blocks that a manifest has checksums of; `None` without one.
    pub fn blocks(&self) -> Option<usize> {
        self.sum.as_ref().map(|sum| sum.blocks.len())
    }

    /// One block, verified. Only where there is a manifest.
    ///
    /// # Errors
    /// The kernel's, or `InvalidData` with a [`ManifestError`].
    pub fn block(&mut self, index: usize) -> io::Result<&[u8]> {
        if self.block.as_ref().is_none_or(|(at, _)| *at != index) {
            let sum = self.sum.as_ref().ok_or(io::ErrorKind::NotFound)?;
            let start = (index * BLOCK_BYTES) as u64;
            let len = sum.len_bytes.saturating_sub(start).min(BLOCK_BYTES as u64);
            let mut bytes = self.block.take().map_or_else(Vec::new, |(_, bytes)| bytes);
            bytes.resize(len as usize, 0);
            self.file.read_exact_at(&mut bytes, start)?;
            sum.check(&self.name, index, &bytes)
                .map_err(|damage| io::Error::new(io::ErrorKind::InvalidData, damage))?;
            self.block = Some((index, bytes));
        }
        Ok(self.block.as_ref().map_or(&[], |(_, bytes)| bytes))
    }

    /// Fills `into` from an offset.
    ///
    /// # Errors
    /// See [`RawImage::block`].
    pub fn read_exact_at(&mut self, into: &mut [u8], offset_bytes: u64) -> io::Result<()> {
        if self.sum.is_none() {
            return self.file.read_exact_at(into, offset_bytes);
        }
        let mut done = 0;
        while done < into.len() {
            let at = offset_bytes + done as u64;
            let (index, within) = (at / BLOCK_BYTES as u64, (at % BLOCK_BYTES as u64) as usize);
            let block = self.block(index as usize)?;
            let rest = block.get(within..).unwrap_or_default();
            let len = rest.len().min(into.len() - done);
            if len == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            into[done..done + len].copy_from_slice(&rest[..len]);
            done += len;
        }
        Ok(())
    }
}

/// The damage behind an error of [`RawImage`], if that is what it is.
pub fn damage(error: &io::Error) -> Option<&ManifestError> {
    error.get_ref()?.downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::{ImageDir, damage};
    use crate::manifest::{BLOCK_BYTES, FileSum, MANIFEST_NAME, Manifest};

    #[test]
    fn raw_file_is_verified_block_by_block_as_it_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let bytes: Vec<u8> = (0..2 * BLOCK_BYTES + 9).map(|at| (at * 7) as u8).collect();
        let path = dir.path().join("pages-1.img");
        std::fs::write(&path, &bytes).expect("room");
        let files = [("pages-1.img".to_owned(), FileSum::of(&bytes))];
        let manifest = Manifest { files: files.into() };
        std::fs::write(dir.path().join(MANIFEST_NAME), manifest.to_text()).expect("room");
        let images = ImageDir::open(dir.path()).expect("whole");
        let mut raw = images.raw("pages-1.img").expect("it is there");
        let mut read = vec![0; BLOCK_BYTES + 2];
        raw.read_exact_at(&mut read, BLOCK_BYTES as u64 - 1).expect("it is whole");
        assert_eq!(read, bytes[BLOCK_BYTES - 1..2 * BLOCK_BYTES + 1]);
        assert!(raw.read_exact_at(&mut read, 2 * BLOCK_BYTES as u64).is_err(), "beyond the end");
        let mut flipped = bytes.clone();
        flipped[BLOCK_BYTES + 3] ^= 1;
        std::fs::write(&path, &flipped).expect("room");
        let mut raw = images.raw("pages-1.img").expect("it is there");
        raw.read_exact_at(&mut read[..4], 0).expect("the first block is whole");
        let error = raw.read_exact_at(&mut read[..4], BLOCK_BYTES as u64).expect_err("damaged");
        assert!(damage(&error).is_some());
    }
}
