//! One image file: its head, and its records one after the other.
//!
//! Record images are read whole: they are small (the bulk is in `pages-*`, which this never reads).
//! Lengths are checked against what is left before anything is allocated.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use prost::Message;

use crate::directory::ImageDir;
use crate::error::ImageError;
use crate::kind::ImageKind;
use crate::manifest::BLOCK_BYTES;
use crate::wire;

/// `IMG_COMMON_MAGIC` of CRIU: begins every image but the inventory and service files.
pub(crate) const COMMON_MAGIC: u32 = 0x5456_4319;
/// `IMG_SERVICE_MAGIC` of CRIU.
pub(crate) const SERVICE_MAGIC: u32 = 0x5510_5940;

/// Longest record accepted. The largest real ones are `mm` records: a process may have
/// 2^20 mappings (`vm.max_map_count` is rarely above) of about 60 bytes each.
pub const RECORD_BYTES_MAX: u64 = 128 << 20;

/// Largest image file that is read whole.
pub const IMAGE_BYTES_MAX: u64 = 1 << 30;

/// A record type, and the name that the schema has for it.
pub(crate) trait Record: Message + Default {
    /// Name in the schema.
    const NAME: &'static str;
    /// Its place in the table of messages, found when this is compiled: there may be a million
    /// records in one image.
    const INDEX: usize = wire::message_index(Self::NAME);
}

macro_rules! records {
    ($($name:ident)*) => {
        $(impl Record for crate::record::$name { const NAME: &'static str = stringify!($name); })*
    };
}

records! {
    InventoryEntry PstreeEntry CoreEntry TaskKobjIdsEntry MmEntry FsEntry FdinfoEntry FileEntry
    PagemapHead PagemapEntry RemapFilePathEntry GhostFileEntry GhostChunkEntry MemfdInodeEntry
    PipeDataEntry SeccompEntry CgroupEntry SkPacketEntry TcpStreamEntry IpcShmEntry IpcSemEntry
    IpcMsgEntry IpcMsg BpfmapDataEntry
}

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
        let fail = |source| ImageError::Read { file: name.to_owned(), source };
        let path = dir.path().join(name);
        let len_bytes = file_size(&path, name)?;
        let file = File::open(path).map_err(fail)?;
        if len_bytes > IMAGE_BYTES_MAX {
            return Err(ImageError::RecordTooLong {
                file: name.to_owned(),
                offset_bytes: 0,
                len_bytes,
                limit_bytes: IMAGE_BYTES_MAX,
            });
        }
        let mut bytes = Vec::with_capacity(len_bytes as usize);
        file.take(len_bytes).read_to_end(&mut bytes).map_err(fail)?;
        if let Some(sum) = dir.sum(name) {
            for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
                sum.check(name, index, block)?;
            }
        }
        let mut image = Self { name: name.to_owned(), bytes, at: 0 };
        image.head(kind)?;
        Ok(image)
    }

    fn head(&mut self, kind: ImageKind) -> Result<(), ImageError> {
        let family = match kind {
            ImageKind::Inventory => None,
            ImageKind::StatsDump | ImageKind::StatsRestore | ImageKind::IrmapCache => {
                Some(SERVICE_MAGIC)
            }
            _ => Some(COMMON_MAGIC),
        };
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

    /// Checks the next record against the schema without decoding it; `false` at the end.
    pub(crate) fn pass(&mut self, message: usize) -> Result<bool, ImageError> {
        if self.left() == 0 {
            return Ok(false);
        }
        let len_bytes = self.payload_len()?;
        let payload = &self.bytes[self.at..self.at + len_bytes];
        check(&self.name, self.at(), message, payload)?;
        self.at += len_bytes;
        Ok(true)
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

/// Size of a file in bytes. What is no regular file is refused unopened: a fifo would block.
pub(crate) fn file_size(path: &Path, name: &str) -> Result<u64, ImageError> {
    let file = || name.to_owned();
    let metadata =
        std::fs::metadata(path).map_err(|source| ImageError::Read { file: file(), source })?;
    if !metadata.is_file() {
        let feature = "an image that is no regular file";
        return Err(ImageError::Unsupported { file: file(), feature });
    }
    Ok(metadata.len())
}

/// Checks and decodes the payload of one record, which begins at `offset_bytes` of `file`.
pub(crate) fn decode<R: Record>(
    file: &str,
    offset_bytes: u64,
    payload: &[u8],
) -> Result<R, ImageError> {
    check(file, offset_bytes, R::INDEX, payload)?;
    R::decode(payload).map_err(|_| ImageError::Contradiction {
        file: file.to_owned(),
        offset_bytes,
        reason: format!("{} cannot be decoded", R::NAME),
    })
}

/// Checks the payload of one record, which begins at `offset_bytes` of `file`.
fn check(file: &str, offset_bytes: u64, message: usize, payload: &[u8]) -> Result<(), ImageError> {
    wire::check(message, payload).map_err(|(at, source)| ImageError::Wire {
        file: file.to_owned(),
        offset_bytes: offset_bytes + at as u64,
        source,
    })
}
