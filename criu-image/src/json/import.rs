//! JSON to a whole image: its head, its entries, and the data that belongs to each.
//!
//! Where `magic` stands first and `extra` last, as both tools write them, nothing is held in memory
//! but one record. In any other order, what comes too early is kept.

use std::io::{Read, Write};

use super::JsonError;
use super::base64::Decoder;
use super::encode::{Encoder, Open};
use super::parse::{HELD_BYTES_MAX, Number, Parser};
use crate::image::data::Follow;
use crate::image::format::{Format, Layout};
use crate::image::{ImageWriter, WriteError};
use crate::payload::Record;
use crate::record::IpcMsg;

/// Data of this size is held until its entry ends, in case a field stands after it.
const HELD_DATA_BYTES: usize = 1 << 20;

/// Writes the image that JSON describes, entry by entry.
///
/// It takes the JSON of CRIU's image tool in either form, with numbers also as text (`"0x10"`).
/// What would be lost is refused: unknown names, numbers that do not fit, data of another length
/// than its entry says.
///
/// # Errors
/// [`JsonError`] says where and why; what comes before has been written by then.
pub fn encode_json(json: impl Read, out: impl Write) -> Result<(), JsonError> {
    let mut parser = Parser::new(json, 0);
    if !parser.begins_like_json().map_err(JsonError::Input)? {
        return Err(JsonError::NotJson);
    }
    let mut out = Some(out);
    let mut kept: Option<(u64, Vec<u8>)> = None;
    let mut format: Option<&'static Format> = None;
    let mut done = false;
    parser.take(b'{', "an object")?;
    let mut name = Vec::new();
    let mut first = true;
    while parser.next_key(&mut first, &mut name)? {
        match (&name[..], format) {
            (b"magic", None) => {
                parser.string(&mut name)?;
                format = Some(Format::of_name(&name).ok_or_else(|| JsonError::UnknownName {
                    name: String::from_utf8_lossy(&name).into_owned(),
                })?);
            }
            (b"entries", Some(format)) if !done && kept.is_none() => {
                let out = out.take().expect("entries are written once");
                entries(&mut parser, format, out)?;
                done = true;
            }
            (b"entries", None) if kept.is_none() => {
                parser.peek()?;
                let (offset, mut text) = (parser.offset(), Vec::new());
                parser.keep(&mut text)?;
                kept = Some((offset, text));
            }
            _ => return Err(parser.syntax("\"magic\" and \"entries\", each once")),
        }
    }
    parser.end()?;
    match (done, format, kept, out) {
        (true, ..) => Ok(()),
        (false, Some(format), Some((offset, text)), Some(out)) => {
            entries(&mut Parser::new(&text[..], offset), format, out)
        }
        _ => Err(parser.syntax("\"magic\" and \"entries\"")),
    }
}

fn entries<R: Read, W: Write>(
    parser: &mut Parser<R>,
    format: &'static Format,
    out: W,
) -> Result<(), JsonError> {
    let writer = ImageWriter::start(out, format).map_err(|source| entry_error(0, source))?;
    let mut import = Import { writer, encoder: Encoder::default(), index: 0 };
    parser.take(b'[', "a list of entries")?;
    let mut first = true;
    while parser.next_item(&mut first)? {
        match format.layout {
            Layout::Opaque | Layout::GpuPages => import.opaque(parser)?,
            _ => import.entry(parser)?,
        }
        import.index += 1;
    }
    let index = import.index;
    import.writer.finish().map(|_| ()).map_err(|source| entry_error(index, source))
}

fn entry_error(index: u64, source: WriteError) -> JsonError {
    match source {
        WriteError::Write(source) => JsonError::Output(source),
        source => JsonError::Entry { index, source },
    }
}

/// Data that came before it could be written.
enum Held {
    Nothing,
    /// Decoded.
    Bytes(Vec<u8>),
    /// As it is written, and where it begins.
    Text(u64, Vec<u8>),
    /// Record and data are written; nothing may follow.
    Written,
}

struct Import<W: Write> {
    writer: ImageWriter<W>,
    encoder: Encoder,
    index: u64,
}

impl<W: Write> Import<W> {
    fn check<T>(&self, result: Result<T, WriteError>) -> Result<T, JsonError> {
        result.map_err(|source| entry_error(self.index, source))
    }

    fn entry<R: Read>(&mut self, parser: &mut Parser<R>) -> Result<(), JsonError> {
        let message = self.writer.expects().filter(|_| self.writer.messages_owed() == 0);
        let Some(message) = message else {
            return Err(parser.syntax("the messages of the queue before"));
        };
        self.encoder.out.clear();
        let mut open = self.encoder.open(parser, message)?;
        let mut held = Held::Nothing;
        let mut first = true;
        self.encoder.usual_fields(parser, &mut open, &mut first)?;
        while parser.next_key(&mut first, &mut self.encoder.name)? {
            let is_extra = self.encoder.name == b"extra";
            match held {
                Held::Written => return Err(parser.syntax("\"extra\" after all else")),
                Held::Nothing if is_extra => held = self.hold(parser, &open)?,
                _ if is_extra => return Err(parser.syntax("\"extra\" once")),
                _ => self.encoder.field(parser, &mut open)?,
            }
        }
        if matches!(held, Held::Written) {
            return Ok(());
        }
        self.encoder.close(parser.offset(), &open)?;
        self.write_record()?;
        match held {
            Held::Nothing | Held::Written => Ok(()),
            Held::Bytes(bytes) => {
                let written = self.writer.data(&bytes);
                self.check(written)
            }
            Held::Text(offset, text) => self.data(&mut Parser::new(&text[..], offset)),
        }
    }

    fn write_record(&mut self) -> Result<(), JsonError> {
        let written = self.writer.payload(&self.encoder.out);
        self.check(written)
    }

    /// Takes the data of an entry. Much of it is not held, if the record is complete by then.
    fn hold<R: Read>(&mut self, parser: &mut Parser<R>, open: &Open) -> Result<Held, JsonError> {
        parser.peek()?;
        let offset = parser.offset();
        if parser.peek()? != b'"' {
            let mut text = Vec::new();
            parser.keep(&mut text)?;
            return Ok(Held::Text(offset, text));
        }
        let mut bytes = Vec::new();
        let mut decoder = Decoder::default();
        let mut written = false;
        let can_write = Encoder::is_complete(open);
        let encoder = &mut self.encoder;
        let (writer, index) = (&mut self.writer, self.index);
        let expects = |expected| JsonError::Syntax { offset, expected };
        parser.pieces(&mut |piece| {
            bytes.extend(piece.iter().filter_map(|&char| decoder.add(char)));
            if bytes.len() < HELD_DATA_BYTES {
                return Ok(());
            }
            if !can_write {
                return match bytes.len() {
                    ..HELD_BYTES_MAX => Ok(()),
                    _ => Err(expects("\"extra\" after all else")),
                };
            }
            if !written {
                encoder.close(offset, open)?;
                writer.payload(&encoder.out).map_err(|source| entry_error(index, source))?;
                written = true;
            }
            let taken = writer.data(&bytes).map_err(|source| entry_error(index, source));
            bytes.clear();
            taken
        })?;
        if !decoder.is_whole() {
            return Err(expects("base64 that is not cut"));
        }
        if written {
            let taken = self.writer.data(&bytes);
            self.check(taken)?;
            return Ok(Held::Written);
        }
        Ok(Held::Bytes(bytes))
    }

    /// Data that is no single string, after its record was written.
    fn data<R: Read>(&mut self, parser: &mut Parser<R>) -> Result<(), JsonError> {
        match self.writer.follows() {
            Follow::Tcp { inq_len, outq_len } => self.tcp(parser, inq_len, outq_len)?,
            Follow::Semaphores { .. } => self.semaphores(parser)?,
            Follow::Messages { .. } => self.messages(parser)?,
            Follow::Nothing => return Err(parser.syntax("no \"extra\" in such an image")),
            Follow::Bytes { .. } | Follow::Rest => return Err(parser.syntax("a string of base64")),
        }
        parser.end()
    }

    fn tcp<R: Read>(
        &mut self,
        parser: &mut Parser<R>,
        inq_len: u64,
        outq_len: u64,
    ) -> Result<(), JsonError> {
        let mut queues = [None, None];
        parser.take(b'{', "an object")?;
        let mut first = true;
        while parser.next_key(&mut first, &mut self.encoder.name)? {
            let queue = match &self.encoder.name[..] {
                b"inq" => &mut queues[0],
                b"outq" => &mut queues[1],
                _ => return Err(parser.syntax("inq and outq")),
            };
            *queue = Some(base64(parser)?);
        }
        for (queue, len) in queues.into_iter().zip([inq_len, outq_len]) {
            let Some(bytes) = queue.filter(|bytes| bytes.len() as u64 == len) else {
                return Err(parser.syntax("inq and outq of the lengths that the entry says"));
            };
            let written = self.writer.data(&bytes);
            self.check(written)?;
        }
        Ok(())
    }

    fn semaphores<R: Read>(&mut self, parser: &mut Parser<R>) -> Result<(), JsonError> {
        parser.take(b'[', "a list")?;
        let mut first = true;
        while parser.next_item(&mut first)? {
            let Number { negative, magnitude } = parser.number()?;
            let Ok(value) = u16::try_from(magnitude) else {
                return Err(parser.syntax("a value of 16 bits"));
            };
            if negative {
                return Err(parser.syntax("a value that is not negative"));
            }
            let written = self.writer.data(&value.to_le_bytes());
            self.check(written)?;
        }
        Ok(())
    }

    fn messages<R: Read>(&mut self, parser: &mut Parser<R>) -> Result<(), JsonError> {
        parser.take(b'[', "a list")?;
        let mut first = true;
        while parser.next_item(&mut first)? {
            if self.writer.messages_owed() == 0 {
                return Err(parser.syntax("as many messages as the entry says"));
            }
            self.encoder.out.clear();
            self.encoder.message(parser, IpcMsg::INDEX)?;
            self.write_record()?;
            if !parser.next_item(&mut first)? {
                return Err(parser.syntax("the data of the message"));
            }
            let bytes = base64(parser)?;
            let written = self.writer.data(&bytes);
            self.check(written)?;
        }
        Ok(())
    }

    /// The only entry of an image without records.
    fn opaque<R: Read>(&mut self, parser: &mut Parser<R>) -> Result<(), JsonError> {
        let mut size = None;
        let is_pages = self.writer.format().layout == Layout::GpuPages;
        parser.take(b'{', "an object")?;
        let mut first = true;
        let mut data = false;
        while parser.next_key(&mut first, &mut self.encoder.name)? {
            match &self.encoder.name[..] {
                _ if data || self.index > 0 => return Err(parser.syntax("one entry, data last")),
                b"size" if is_pages && size.is_none() => {
                    let Number { magnitude, .. } = parser.number()?;
                    size = Some(magnitude);
                    let written = self.writer.claimed_bytes(magnitude);
                    self.check(written)?;
                }
                b"extra" if size.is_some() || !is_pages => {
                    data = true;
                    self.stream(parser)?;
                }
                _ if is_pages => return Err(parser.syntax("size, then extra")),
                _ => return Err(parser.syntax("extra")),
            }
        }
        if data { Ok(()) } else { Err(parser.syntax("extra")) }
    }

    fn stream<R: Read>(&mut self, parser: &mut Parser<R>) -> Result<(), JsonError> {
        let mut decoder = Decoder::default();
        let mut bytes = Vec::new();
        let (writer, index) = (&mut self.writer, self.index);
        parser.pieces(&mut |piece| {
            bytes.clear();
            bytes.extend(piece.iter().filter_map(|&char| decoder.add(char)));
            writer.data(&bytes).map_err(|source| entry_error(index, source))
        })?;
        if decoder.is_whole() { Ok(()) } else { Err(parser.syntax("base64 that is not cut")) }
    }
}

fn base64<R: Read>(parser: &mut Parser<R>) -> Result<Vec<u8>, JsonError> {
    let mut decoder = Decoder::default();
    let mut bytes = Vec::new();
    parser.string(&mut bytes)?;
    let bytes = bytes.iter().filter_map(|&char| decoder.add(char)).collect();
    if decoder.is_whole() { Ok(bytes) } else { Err(parser.syntax("base64 that is not cut")) }
}
