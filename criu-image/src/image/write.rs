//! Writes an image record by record, and refuses what no reader would understand.
//!
//! The type of each record and the length of the data after it are checked here, so that a file
//! that was finished is one that reads back.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::data::{Follow, MESSAGE_ALIGN_BYTES, SEMAPHORES_ALIGN_BYTES, padding};
use super::format::{Format, Layout};
use crate::kind::ImageKind;
use crate::payload::{RECORD_BYTES_MAX, Record};
use crate::record::IpcMsg;

/// Why an image was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The kernel would not let us write.
    #[error("the image cannot be written")]
    Write(#[from] io::Error),
    /// A file of this name or kind has no records.
    #[error("such a file has no records")]
    NoRecords,
    /// Images of this kind have other records here.
    #[error("{wanted} is no record that {kind} has here")]
    WrongRecord {
        /// Kind of image, as in JSON.
        kind: &'static str,
        /// Record that was to be written.
        wanted: &'static str,
    },
    /// Images of this kind have exactly one record, or one length before their contents.
    #[error("{kind} has one record, and none was written")]
    Empty {
        /// Kind of image, as in JSON.
        kind: &'static str,
    },
    /// A record beyond the limit.
    #[error("a record of {len_bytes} bytes, limit {RECORD_BYTES_MAX}")]
    RecordTooLong {
        /// Its length.
        len_bytes: usize,
    },
    /// The record before says that more data follows it.
    #[error("{missing} byte(s) or message(s) of data are missing")]
    DataMissing {
        /// How much.
        missing: u64,
    },
    /// The record before says that less data follows it.
    #[error("{len_bytes} byte(s) of data where {room_bytes} belong")]
    TooMuchData {
        /// Length of the data.
        len_bytes: u64,
        /// What the record leaves room for.
        room_bytes: u64,
    },
}

impl WriteError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Write(_) => "convert.write",
            Self::NoRecords => "convert.no-records",
            Self::WrongRecord { .. } => "convert.wrong-record",
            Self::Empty { .. } => "convert.empty",
            Self::RecordTooLong { .. } => "convert.record-too-long",
            Self::DataMissing { .. } => "convert.data-missing",
            Self::TooMuchData { .. } => "convert.data-left",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Write(_) => Some("make room, or write to another place"),
            Self::NoRecords => Some("name a kind of image that has records"),
            Self::WrongRecord { .. } => {
                Some("put the entries into the order that such an image has")
            }
            Self::Empty { .. } => Some("give it its entry"),
            Self::DataMissing { .. } => Some("give as much data as the entry says"),
            Self::TooMuchData { .. } => Some("give as much data as the entry says"),
            Self::RecordTooLong { .. } => None,
        }
    }
}

/// What must come before the next record.
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    bytes: u64,
    padding: u64,
    messages: u32,
    /// Any data may follow, up to the end.
    rest: bool,
}

/// An image that is written record by record.
///
/// ```
/// use criu_image::{ImageKind, ImageReader, ImageWriter, record};
/// let entry = record::PipeDataEntry { pipe_id: 7, bytes: 5, size: None };
/// let mut image = ImageWriter::new(Vec::new(), ImageKind::PipesData)?;
/// image.record(&entry)?;
/// image.data(b"hello")?;
/// let bytes = image.finish()?;
///
/// let mut image = ImageReader::new(&bytes[..], "pipes-data.img")?;
/// let (_, read) = image.next_record::<record::PipeDataEntry>()?.expect("a record");
/// let mut data = Vec::new();
/// image.copy_data(&mut data)?;
/// assert_eq!((read, &data[..]), (entry, &b"hello"[..]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ImageWriter<W: Write> {
    out: BufWriter<W>,
    format: &'static Format,
    /// Records written so far.
    index: u64,
    /// What follows the last of them, and how much of it is missing.
    follow: Follow,
    owed: Owed,
}

impl ImageWriter<File> {
    /// Creates or empties a file, whose name says what is written.
    ///
    /// # Errors
    /// [`WriteError::NoRecords`] if the name is that of no image with records;
    /// [`WriteError::Write`].
    pub fn create(path: impl AsRef<Path>) -> Result<Self, WriteError> {
        let path = path.as_ref();
        let kind = path.file_name().and_then(ImageKind::of_name).ok_or(WriteError::NoRecords)?.0;
        let format = Format::of_kind(kind).ok_or(WriteError::NoRecords)?;
        Self::start(File::create(path)?, format)
    }
}

impl<W: Write> ImageWriter<W> {
    /// Begins an image of this kind.
    ///
    /// # Errors
    /// [`WriteError::NoRecords`] if such images are raw; [`WriteError::Write`].
    pub fn new(out: W, kind: ImageKind) -> Result<Self, WriteError> {
        Self::start(out, Format::of_kind(kind).ok_or(WriteError::NoRecords)?)
    }

    pub(crate) fn start(out: W, format: &'static Format) -> Result<Self, WriteError> {
        let mut out = BufWriter::with_capacity(64 << 10, out);
        if !format.is_gpu() {
            for word in format.family().into_iter().chain([format.magic]) {
                out.write_all(&word.to_le_bytes())?;
            }
        }
        let rest = format.layout == Layout::Opaque;
        let owed = Owed { rest, ..Owed::default() };
        Ok(Self { out, format, index: 0, follow: Follow::Nothing, owed })
    }

    /// Writes a record.
    ///
    /// # Errors
    /// [`WriteError::WrongRecord`], [`WriteError::DataMissing`] if the record before is not
    /// followed by all its data, [`WriteError::RecordTooLong`], [`WriteError::Write`].
    pub fn record<T: Record>(&mut self, record: &T) -> Result<(), WriteError> {
        if self.expects() != Some(T::INDEX) {
            return Err(WriteError::WrongRecord { kind: self.format.name, wanted: T::NAME });
        }
        self.payload(&record.encode_to_vec())
    }

    /// Writes data that belongs to the record before: all of it, or piece by piece. Padding is
    /// added where the format has it.
    ///
    /// # Errors
    /// [`WriteError::TooMuchData`] if the record says that there is less; [`WriteError::Write`].
    pub fn data(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let len_bytes = bytes.len() as u64;
        if !self.owed.rest {
            let room_bytes = self.owed.bytes;
            if len_bytes > room_bytes {
                return Err(WriteError::TooMuchData { len_bytes, room_bytes });
            }
            self.owed.bytes -= len_bytes;
        }
        self.out.write_all(bytes)?;
        self.pad()
    }

    /// Ends the image and gives back what it was written to.
    ///
    /// # Errors
    /// [`WriteError::DataMissing`]; [`WriteError::Empty`]; [`WriteError::Write`].
    pub fn finish(mut self) -> Result<W, WriteError> {
        self.complete()?;
        if self.format.is_gpu() && self.index == 0 {
            return Err(WriteError::Empty { kind: self.format.name });
        }
        self.out.flush()?;
        self.out.into_inner().map_err(|error| WriteError::Write(error.into_error()))
    }

    /// What this image consists of.
    pub(crate) fn format(&self) -> &'static Format {
        self.format
    }

    /// Message of the record that must come next.
    pub(crate) fn expects(&self) -> Option<usize> {
        match self.owed.messages {
            0 => self.format.message(self.index),
            _ => Some(IpcMsg::INDEX),
        }
    }

    /// What follows the record written last.
    pub(crate) fn follows(&self) -> Follow {
        self.follow
    }

    /// Messages that the record before still asks for.
    pub(crate) fn messages_owed(&self) -> u32 {
        self.owed.messages
    }

    /// Writes a record whose payload is what [`expects`](Self::expects) says, encoded.
    pub(crate) fn payload(&mut self, payload: &[u8]) -> Result<(), WriteError> {
        let len_bytes = payload.len();
        if len_bytes as u64 > RECORD_BYTES_MAX {
            return Err(WriteError::RecordTooLong { len_bytes });
        }
        let inner = self.owed.messages > 0 && self.owed.bytes == 0;
        if !inner {
            self.complete()?;
        }
        if let Layout::Gpu(_) = self.format.layout {
            if self.index > 0 {
                return Err(WriteError::WrongRecord { kind: self.format.name, wanted: "second" });
            }
            self.out.write_all(&(len_bytes as u64).to_le_bytes())?;
        } else {
            self.out.write_all(&(len_bytes as u32).to_le_bytes())?;
        }
        self.out.write_all(payload)?;
        if inner {
            let message = <IpcMsg as prost::Message>::decode(payload);
            let bytes = message.map_or(0, |message| message.msize.into());
            self.owed.bytes = bytes;
            self.owed.padding = padding(bytes, MESSAGE_ALIGN_BYTES);
            self.owed.messages -= 1;
            return self.pad();
        }
        self.owe(payload)?;
        self.index += 1;
        self.pad()
    }

    /// Writes the length before contents of AMD buffers.
    pub(crate) fn claimed_bytes(&mut self, len: u64) -> Result<(), WriteError> {
        self.owed.rest = true;
        self.index += 1;
        Ok(self.out.write_all(&len.to_le_bytes())?)
    }

    /// Remembers what must follow a record.
    fn owe(&mut self, payload: &[u8]) -> Result<(), WriteError> {
        let follow = Follow::of(self.format, self.index, payload);
        self.follow = follow.map_err(|error| WriteError::Write(io::Error::other(error)))?;
        self.owed = match self.follow {
            Follow::Nothing => Owed::default(),
            Follow::Bytes { len, align_bytes } => {
                Owed { bytes: len, padding: padding(len, align_bytes), ..Owed::default() }
            }
            Follow::Tcp { inq_len, outq_len } => {
                Owed { bytes: inq_len + outq_len, ..Owed::default() }
            }
            Follow::Semaphores { count } => {
                let bytes = count * 2;
                let padding = padding(bytes, SEMAPHORES_ALIGN_BYTES);
                Owed { bytes, padding, ..Owed::default() }
            }
            Follow::Messages { count } => Owed { messages: count, ..Owed::default() },
            Follow::Rest => Owed { rest: true, ..Owed::default() },
        };
        Ok(())
    }

    fn pad(&mut self) -> Result<(), WriteError> {
        if self.owed.bytes == 0 && self.owed.padding > 0 {
            let zeros = [0; 8];
            self.out.write_all(&zeros[..self.owed.padding as usize])?;
            self.owed.padding = 0;
        }
        Ok(())
    }

    fn complete(&self) -> Result<(), WriteError> {
        match self.owed.bytes.max(u64::from(self.owed.messages)) {
            0 => Ok(()),
            missing => Err(WriteError::DataMissing { missing }),
        }
    }
}
