//! One image file: its head, and its records one after the other.
//!
//! Record images are read whole: they are small (the bulk is in `pages-*`, which this never reads).
//! Lengths are checked against what is left before anything is allocated.

use crate::directory::ImageDir;
use crate::error::ImageError;
use crate::image::format::{COMMON_MAGIC, Format};
use crate::kind::ImageKind;
use crate::payload::{RECORD_BYTES_MAX, Record, check, decode};

/// An image in memory, and how far it has been read.
#[derive(Debug)]
pub(crate) struct Image {
    name: String,
    bytes: Vec<u8>,
    at: usize,
}

impl Image {
    /// Reads the file and checks its head.
    pub(crate) fn open(dir: &ImageDir, kind: ImageKind, name: &str) -> Result<Self, ImageError> {
        let bytes = dir.read(name)?;
        let mut image = Self { name: name.to_owned(), bytes, at: 0 };
        image.head(kind)?;
        Ok(image)
    }

    fn head(&mut self, kind: ImageKind) -> Result<(), ImageError> {
        let family = Format::of_kind(kind).map_or(Some(COMMON_MAGIC), Format::family);
        for expected in family.into_iter().chain([kind.magic()]) {
            let found = u32::from_le_bytes(self.take()?);
            if found != expected {
                return Err(ImageError::Magic { file: self.name.clone(), found, expected });
            }
        }
        Ok(())
    }

    /// Offset of the next byte.
    pub(crate) fn at(&self) -> u64 {
        self.at as u64
    }

    /// Bytes that are left.
    pub(crate) fn left(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// File name, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ImageError> {
        self.need(N as u64)?;
        let chunk = self.bytes[self.at..self.at + N].try_into().expect("the length is N");
        self.at += N;
        Ok(chunk)
    }

    fn need(&self, len_bytes: u64) -> Result<(), ImageError> {
        if len_bytes > self.left() {
            return Err(ImageError::Cut {
                file: self.name.clone(),
                offset_bytes: self.at(),
                needed_bytes: len_bytes - self.left(),
            });
        }
        Ok(())
    }

    /// Passes over bytes that are no record (payloads beside records).
    pub(crate) fn skip(&mut self, len_bytes: u64) -> Result<(), ImageError> {
        self.need(len_bytes)?;
        self.at += len_bytes as usize;
        Ok(())
    }

    /// The next record with its offset, or `None` at the end of the file.
    pub(crate) fn next<R: Record>(&mut self) -> Result<Option<(u64, R)>, ImageError> {
        if self.left() == 0 {
            return Ok(None);
        }
        let begin = self.at();
        let len_bytes = self.payload_len()?;
        let payload = &self.bytes[self.at..self.at + len_bytes];
        let record = decode(&self.name, self.at(), payload)?;
        self.at += len_bytes;
        Ok(Some((begin, record)))
    }

    /// Checks the next record against the schema, passes over it, and returns its payload.
    pub(crate) fn pass(&mut self, message: usize) -> Result<&[u8], ImageError> {
        let len_bytes = self.payload_len()?;
        let payload = &self.bytes[self.at..self.at + len_bytes];
        check(&self.name, self.at(), message, payload)?;
        self.at += len_bytes;
        Ok(payload)
    }

    /// Length in bytes of the record that begins here, which is within the file.
    fn payload_len(&mut self) -> Result<usize, ImageError> {
        let offset_bytes = self.at();
        let len_bytes = u64::from(u32::from_le_bytes(self.take()?));
        if len_bytes > RECORD_BYTES_MAX {
            return Err(ImageError::RecordTooLong {
                file: self.name.clone(),
                offset_bytes,
                len_bytes,
                limit_bytes: RECORD_BYTES_MAX,
            });
        }
        self.need(len_bytes)?;
        Ok(len_bytes as usize)
    }

    /// The next record of an image that must have one more.
    pub(crate) fn must_next<R: Record>(&mut self) -> Result<(u64, R), ImageError> {
        self.need(4)?;
        let record = self.next()?;
        Ok(record.expect("four bytes are left, so this is not the end"))
    }

    /// All records up to the end of the file.
    pub(crate) fn all<R: Record>(mut self) -> Result<Vec<(u64, R)>, ImageError> {
        let mut records = Vec::new();
        while let Some(record) = self.next()? {
            records.push(record);
        }
        Ok(records)
    }

    /// The only record of an image that has exactly one.
    pub(crate) fn only<R: Record>(mut self) -> Result<R, ImageError> {
        let Some((_, record)) = self.next()? else {
            return Err(ImageError::Count { file: self.name, found: 0, expected: "exactly one" });
        };
        if self.left() != 0 {
            return Err(ImageError::Count { file: self.name, found: 2, expected: "exactly one" });
        }
        Ok(record)
    }
}
