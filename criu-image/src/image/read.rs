//! Reads an image record by record; what is in memory is one record, whatever the size of the file.
//!
//! Lengths are checked against what is left where that is known, and otherwise memory is taken
//! only as bytes arrive.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use super::data::{Follow, MESSAGE_ALIGN_BYTES, SEMAPHORES_ALIGN_BYTES, padding};
use super::format::{COMMON_MAGIC, Format, Layout, SERVICE_MAGIC};
use super::window::Window;
use crate::error::ImageError;
use crate::kind::ImageKind;
use crate::payload::{RECORD_BYTES_MAX, Record, decode, decode_known, file_size};
use crate::record::IpcMsg;

/// Data is handed on in pieces of at most this size.
const PIECE_BYTES: u64 = 64 << 10;

/// A record as it stands in the file: where its payload begins, and how long it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    pub(crate) offset: u64,
    pub(crate) len: usize,
}

/// An image that is read record by record.
///
/// What is in memory is one record and a window of 64 KiB, whatever the size of the image.
/// [`ImageReader::open`] takes a file, whose name says what it must be; [`ImageReader::new`] takes
/// any stream, and goes by the magic number.
///
/// ```
/// use criu_image::{ImageReader, record};
/// # let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gpu-tree/files.img");
/// let mut image = ImageReader::open(path)?;
/// while let Some((offset, file)) = image.next_record::<record::FileEntry>()? {
///     println!("byte {offset}: file {} of kind {:?}", file.id, file.r#type());
/// }
/// # Ok::<(), criu_image::ImageError>(())
/// ```
#[derive(Debug)]
pub struct ImageReader<R> {
    window: Window<R>,
    name: String,
    /// Size in bytes, if the stream is a file.
    size: Option<u64>,
    format: &'static Format,
    /// Records read so far.
    index: u64,
    /// Data that follows the last record and was not read.
    follow: Follow,
    /// Length that contents of AMD buffers claim to have.
    claimed_bytes: u64,
    lenient: bool,
}

impl ImageReader<File> {
    /// Opens a file and checks its head.
    ///
    /// # Errors
    /// [`ImageError::UnknownKind`] if the name is that of no image with records,
    /// [`ImageError::Magic`] if the file is none, [`ImageError::Unsupported`] if it is no regular
    /// file (a fifo would block), [`ImageError::Read`] from the kernel.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ImageError> {
        let path = path.as_ref();
        let name = path.file_name().unwrap_or(path.as_os_str());
        let shown = name.to_string_lossy().into_owned();
        let format = ImageKind::of_name(name).and_then(|(kind, _)| Format::of_kind(kind));
        let Some(format) = format else {
            return Err(ImageError::UnknownKind { file: shown });
        };
        Self::open_file(path, &shown, Some(format))
    }

    /// Opens a file whatever its name is: the magic number says what it is, and the name only
    /// where there is none (files of the amdgpu plugin).
    ///
    /// # Errors
    /// Those of [`ImageReader::open`], and [`ImageError::UnknownMagic`] with raw images.
    pub fn open_any(path: impl AsRef<Path>) -> Result<Self, ImageError> {
        let path = path.as_ref();
        let name = path.file_name().unwrap_or(path.as_os_str());
        let format = ImageKind::of_name(name).and_then(|(kind, _)| Format::of_kind(kind));
        let format = format.filter(|format| format.is_gpu());
        Self::open_file(path, &name.to_string_lossy(), format)
    }

    fn open_file(
        path: &Path,
        name: &str,
        format: Option<&'static Format>,
    ) -> Result<Self, ImageError> {
        let size = file_size(path, name)?;
        let fail = |source| ImageError::Read { file: name.to_owned(), source };
        let file = File::open(path).map_err(fail)?;
        Self::start(file, name, Some(size), format)
    }
}

impl<R: Read> ImageReader<R> {
    /// Reads the head of an image; its magic number says what it is. `name` is for messages, and
    /// says what it is where there is no number (files of the amdgpu plugin).
    ///
    /// # Errors
    /// [`ImageError::UnknownMagic`] if the number is none of CRIU 4.2's, as with raw images and
    /// with those of the amdgpu plugin; [`ImageError::Cut`]; [`ImageError::Read`].
    pub fn new(input: R, name: &str) -> Result<Self, ImageError> {
        let format = ImageKind::of_name(name.as_ref()).and_then(|(kind, _)| Format::of_kind(kind));
        Self::start(input, name, None, format.filter(|format| format.is_gpu()))
    }

    /// Lets fields and enum values of later versions pass instead of refusing them: for looking
    /// at images, not for restoring from them. What typed records cannot hold is left out.
    pub fn lenient(mut self) -> Self {
        self.lenient = true;
        self
    }

    pub(crate) fn start(
        input: R,
        name: &str,
        size: Option<u64>,
        format: Option<&'static Format>,
    ) -> Result<Self, ImageError> {
        // Any format: it is replaced before anybody sees it.
        let unknown = Format::of_name(b"INVENTORY").expect("the table has it");
        let mut reader = Self {
            window: Window::new(input),
            name: name.to_owned(),
            size,
            format: unknown,
            index: 0,
            follow: Follow::Nothing,
            claimed_bytes: 0,
            lenient: false,
        };
        reader.format = match format {
            Some(format) => reader.expect_head(format).map(|()| format)?,
            None => reader.any_head()?,
        };
        match reader.format.layout {
            Layout::Opaque => reader.follow = Follow::Rest,
            Layout::GpuPages => {
                reader.claimed_bytes = u64::from_le_bytes(reader.take()?);
                reader.follow = Follow::Rest;
            }
            _ => {}
        }
        Ok(reader)
    }

    fn expect_head(&mut self, format: &'static Format) -> Result<(), ImageError> {
        if format.is_gpu() {
            return Ok(()); // their length is part of the record
        }
        for expected in format.family().into_iter().chain([format.magic]) {
            let found = self.word()?;
            if found != expected {
                return Err(ImageError::Magic { file: self.name.clone(), found, expected });
            }
        }
        Ok(())
    }

    /// Images of CRIU before 2.0 begin with the second number. They are read; what is written
    /// begins with both.
    fn any_head(&mut self) -> Result<&'static Format, ImageError> {
        let first = self.word()?;
        let family = [COMMON_MAGIC, SERVICE_MAGIC].contains(&first);
        let found = if family { self.word()? } else { first };
        let Some(format) = Format::of_magic(found) else {
            return Err(ImageError::UnknownMagic { file: self.name.clone(), found });
        };
        match format.family() {
            Some(expected) if family && first != expected => {
                Err(ImageError::Magic { file: self.name.clone(), found: first, expected })
            }
            None if family => {
                let expected = format.magic;
                Err(ImageError::Magic { file: self.name.clone(), found: first, expected })
            }
            _ => Ok(format),
        }
    }

    /// Name of the kind of image in JSON, such as `PAGEMAP`.
    pub fn magic_name(&self) -> &'static str {
        self.format.name
    }

    /// Offset of the next byte.
    pub fn offset(&self) -> u64 {
        self.window.offset()
    }

    /// The next record, checked against the schema, with the offset of its length in the file;
    /// `None` at the end. Data that follows the record before it is passed over.
    ///
    /// In a pagemap the first record is a `PagemapHead` and the others are `PagemapEntry`; in a
    /// ghost file they are `GhostFileEntry` and `GhostChunkEntry`.
    ///
    /// # Errors
    /// [`ImageError::WrongRecord`] if the image holds other records than `T`; [`ImageError::Cut`],
    /// [`ImageError::RecordTooLong`], [`ImageError::Wire`] if the file is damaged or of a later
    /// version; [`ImageError::Read`].
    pub fn next_record<T: Record>(&mut self) -> Result<Option<(u64, T)>, ImageError> {
        let begin = self.pass_data()?;
        if self.format.message(self.index) != Some(T::INDEX) {
            let (file, found) = (self.name.clone(), self.format.name);
            return Err(ImageError::WrongRecord { file, found, wanted: T::NAME });
        }
        let Some(frame) = self.frame()? else { return Ok(None) };
        let payload = self.payload(frame);
        let record = if self.lenient {
            decode_known(&self.name, frame.offset, payload)?
        } else {
            decode(&self.name, frame.offset, payload)?
        };
        self.end_of(frame)?;
        Ok(Some((begin, record)))
    }

    /// All records from here on, each with the offset of its length in the file. It ends after an
    /// error. An image with two types of records is read with
    /// [`next_record`](Self::next_record).
    ///
    /// # Errors
    /// Those of [`next_record`](Self::next_record).
    pub fn records<T: Record>(mut self) -> impl Iterator<Item = Result<(u64, T), ImageError>> {
        let mut ended = false;
        std::iter::from_fn(move || {
            let next = if ended { None } else { self.next_record().transpose() };
            ended = !matches!(next, Some(Ok(_)));
            next
        })
    }

    /// Copies the data that follows the record read last, as it stands in the file: with its
    /// padding and, in a message queue, with the records of the messages. Returns its length in
    /// bytes. A second call gives nothing.
    ///
    /// # Errors
    /// [`ImageError::Cut`] if the file ends before the data does; [`ImageError::Copy`] if `to`
    /// takes no more; [`ImageError::Read`].
    pub fn copy_data(&mut self, to: &mut impl Write) -> Result<u64, ImageError> {
        let begin = self.offset();
        let name = self.name.clone();
        self.data(&mut |piece| {
            to.write_all(piece).map_err(|source| ImageError::Copy { file: name.clone(), source })
        })?;
        Ok(self.offset() - begin)
    }

    /// Passes over data that was not read; returns where the next record begins.
    pub(crate) fn pass_data(&mut self) -> Result<u64, ImageError> {
        self.data(&mut |_| Ok(()))?;
        Ok(self.offset())
    }

    fn data(
        &mut self,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        match self.take_follow() {
            Follow::Nothing => Ok(()),
            Follow::Bytes { len, align_bytes } => {
                self.stream(len, sink)?;
                self.stream(padding(len, align_bytes), sink)
            }
            Follow::Tcp { inq_len, outq_len } => self.stream(inq_len + outq_len, sink),
            Follow::Semaphores { count } => {
                self.stream(count * 2, sink)?;
                self.stream(padding(count * 2, SEMAPHORES_ALIGN_BYTES), sink)
            }
            Follow::Messages { count } => (0..count).try_for_each(|_| self.message(sink)),
            Follow::Rest => self.stream_rest(sink),
        }
    }

    /// One message of a queue, with its record.
    fn message(
        &mut self,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        let frame = self.must_frame()?;
        let payload = self.payload(frame);
        sink(&(frame.len as u32).to_le_bytes())?;
        sink(payload)?;
        let message: IpcMsg = decode(&self.name, frame.offset, payload)?;
        self.window.consume(frame.len);
        let len = u64::from(message.msize);
        self.stream(len + padding(len, MESSAGE_ALIGN_BYTES), sink)
    }

    /// What follows the record read last; nothing afterwards.
    pub(crate) fn take_follow(&mut self) -> Follow {
        std::mem::replace(&mut self.follow, Follow::Nothing)
    }

    /// What this image consists of.
    pub(crate) fn format(&self) -> &'static Format {
        self.format
    }

    /// Records read so far.
    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    /// File name, for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Brings the next record into memory, if there is one.
    pub(crate) fn frame(&mut self) -> Result<Option<Frame>, ImageError> {
        let single = self.format.is_gpu() || self.format.layout == Layout::Opaque;
        // A file of the plugin that ends before its only record does not end well.
        let may_end = !single || self.index > 0 || self.format.message(0).is_none();
        if may_end && self.want(1)? == 0 {
            return Ok(None);
        }
        if single && may_end {
            let reason = "there is more than the record".to_owned();
            return Err(self.contradiction(self.offset(), reason));
        }
        self.must_frame().map(Some)
    }

    /// Brings the next record into memory, which must be there.
    pub(crate) fn must_frame(&mut self) -> Result<Frame, ImageError> {
        let begin = self.offset();
        let len_bytes = match self.format.layout {
            Layout::Gpu(_) => u64::from_le_bytes(self.take()?),
            _ => u64::from(self.word()?),
        };
        if len_bytes > RECORD_BYTES_MAX {
            return Err(ImageError::RecordTooLong {
                file: self.name.clone(),
                offset_bytes: begin,
                len_bytes,
                limit_bytes: RECORD_BYTES_MAX,
            });
        }
        let len = len_bytes as usize;
        self.need(len)?;
        Ok(Frame { offset: self.offset(), len })
    }

    /// The payload of a frame that was brought in last.
    pub(crate) fn payload(&self, frame: Frame) -> &[u8] {
        &self.window.bytes()[..frame.len]
    }

    /// Finds out what follows a record whose payload was checked, and passes over it.
    pub(crate) fn end_of(&mut self, frame: Frame) -> Result<(), ImageError> {
        self.follow = match self.format.layout {
            Layout::Pagemap | Layout::Records(_, super::format::Data::None) => Follow::Nothing,
            _ => Follow::of(self.format, self.index, self.payload(frame)).map_err(|error| {
                self.contradiction(frame.offset, format!("the record cannot be decoded: {error}"))
            })?,
        };
        self.index += 1;
        self.window.consume(frame.len);
        Ok(())
    }

    /// Passes over a frame that belongs to the data of another.
    pub(crate) fn consume(&mut self, frame: Frame) {
        self.window.consume(frame.len);
    }

    /// The length before contents of AMD buffers, which may be anything.
    pub(crate) fn claimed_bytes(&self) -> u64 {
        self.claimed_bytes
    }

    /// Hands on bytes of data.
    pub(crate) fn stream(
        &mut self,
        len: u64,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        self.check_left(len)?;
        let mut left = len;
        while left > 0 {
            let got = self.some(left)?;
            if got == 0 {
                return Err(self.cut(left));
            }
            sink(&self.window.bytes()[..got])?;
            self.window.consume(got);
            left -= got as u64;
        }
        Ok(())
    }

    /// Hands on everything up to the end.
    pub(crate) fn stream_rest(
        &mut self,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        loop {
            let got = self.some(u64::MAX)?;
            if got == 0 {
                return Ok(());
            }
            sink(&self.window.bytes()[..got])?;
            self.window.consume(got);
        }
    }

    /// Passes over padding, which CRIU always writes as zeros.
    pub(crate) fn zeros(&mut self, len: u64) -> Result<(), ImageError> {
        let begin = self.offset();
        let mut other = false;
        self.stream(len, &mut |piece| {
            other |= piece.iter().any(|&byte| byte != 0);
            Ok(())
        })?;
        if other {
            return Err(self.contradiction(begin, "padding is not zero".to_owned()));
        }
        Ok(())
    }

    fn some(&mut self, len_max: u64) -> Result<usize, ImageError> {
        self.window.want_some(len_max.min(PIECE_BYTES)).map_err(|source| self.read_error(source))
    }

    fn want(&mut self, len: usize) -> Result<usize, ImageError> {
        self.window.want(len).map_err(|source| self.read_error(source))
    }

    fn need(&mut self, len: usize) -> Result<(), ImageError> {
        self.check_left(len as u64)?;
        let got = self.want(len)?;
        if got < len { Err(self.cut((len - got) as u64)) } else { Ok(()) }
    }

    /// Refuses what cannot be there before any memory is taken for it.
    fn check_left(&self, len: u64) -> Result<(), ImageError> {
        match self.size.map(|size| size.saturating_sub(self.offset())) {
            Some(left) if len > left => Err(self.cut(len - left)),
            _ => Ok(()),
        }
    }

    fn word(&mut self) -> Result<u32, ImageError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], ImageError> {
        self.need(N)?;
        let bytes = self.window.bytes()[..N].try_into().expect("the length is N");
        self.window.consume(N);
        Ok(bytes)
    }

    fn cut(&self, needed_bytes: u64) -> ImageError {
        ImageError::Cut { file: self.name.clone(), offset_bytes: self.offset(), needed_bytes }
    }

    fn read_error(&self, source: io::Error) -> ImageError {
        ImageError::Read { file: self.name.clone(), source }
    }

    /// An error about this image.
    pub(crate) fn contradiction(&self, offset_bytes: u64, reason: String) -> ImageError {
        ImageError::Contradiction { file: self.name.clone(), offset_bytes, reason }
    }
}
