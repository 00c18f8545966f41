//! JSON to records: an object becomes the bytes of a message, straight away.
//!
//! Names may come in any order; fields are written in the order of their numbers, as CRIU does.
//! Nothing is passed over: a name that the schema does not have, a field that is there twice, one
//! that is missing, a number that does not fit are errors.

use std::io::Read;

use prost::Message as _;

use super::base64::Decoder;
use super::parse::{Number, Parser};
use super::{JsonError, quoted, show};
use crate::gpu::private;
use crate::payload::Record;
use crate::record::KfdPrivate;
use crate::schema::{self, Count, Field, Kind, Message, Show};
use crate::wire::DEPTH_MAX;

/// A message that is being written.
pub(crate) struct Open {
    message: &'static Message,
    begin: usize,
    spans: usize,
    seen: u64,
    ordered: bool,
    last: u32,
    guess: usize,
}

/// Fields that are tried before a name is read: few messages leave out more of them at once.
const GUESSES: usize = 4;

/// Where a field with this number stands in `out`.
#[derive(Clone, Copy, Debug)]
struct Span {
    number: u32,
    begin: usize,
    end: usize,
}

/// Makes payloads. One is used for all records of an image.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    /// The payload.
    pub(crate) out: Vec<u8>,
    /// The name that was read last.
    pub(crate) name: Vec<u8>,
    text: Vec<u8>,
    spans: Vec<Span>,
    depth: usize,
}

impl Encoder {
    /// Reads an object as the message with this index and appends its bytes.
    pub(crate) fn message<R: Read>(
        &mut self,
        parser: &mut Parser<R>,
        index: usize,
    ) -> Result<(), JsonError> {
        let mut open = self.open(parser, index)?;
        let mut first = true;
        self.usual_fields(parser, &mut open, &mut first)?;
        while parser.next_key(&mut first, &mut self.name)? {
            self.field(parser, &mut open)?;
        }
        self.close(parser.offset(), &open)
    }

    /// Reads fields as long as they come as nearly always: in the order of the schema.
    #[inline]
    pub(crate) fn usual_fields<R: Read>(
        &mut self,
        parser: &mut Parser<R>,
        open: &mut Open,
        first: &mut bool,
    ) -> Result<(), JsonError> {
        loop {
            let mut next = open.message.fields[open.guess..].iter().take(GUESSES);
            let found = next.position(|field| parser.next_key_is(first, field.name));
            let Some(found) = found else { return Ok(()) };
            self.known(parser, open, open.guess + found)?;
        }
    }

    /// Begins a message; its object must come next.
    pub(crate) fn open<R: Read>(
        &mut self,
        parser: &mut Parser<R>,
        index: usize,
    ) -> Result<Open, JsonError> {
        let message = schema::message(index);
        parser.take(b'{', "an object")?;
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(fault(parser.offset(), message.name, "", "messages are nested too deeply"));
        }
        Ok(Open {
            message,
            begin: self.out.len(),
            spans: self.spans.len(),
            seen: 0,
            ordered: true,
            last: 0,
            guess: 0,
        })
    }

    /// Whether every field that must be there has come.
    pub(crate) fn is_complete(open: &Open) -> bool {
        open.message.required & !open.seen == 0
    }

    /// Reads the value of the field whose name was read last.
    pub(crate) fn field<R: Read>(
        &mut self,
        parser: &mut Parser<R>,
        open: &mut Open,
    ) -> Result<(), JsonError> {
        let message = open.message;
        if let Some(position) = position(message, &self.name, open.guess) {
            return self.known(parser, open, position);
        }
        let begin = self.out.len();
        let number = self.unknown_number(parser, message)?;
        self.unknown(parser, message, number)?;
        self.is_written(open, number, begin);
        Ok(())
    }

    /// Reads the value of a field of the schema.
    #[inline]
    fn known<R: Read>(
        &mut self,
        parser: &mut Parser<R>,
        open: &mut Open,
        position: usize,
    ) -> Result<(), JsonError> {
        let message = open.message;
        let field = &message.fields[position];
        if open.seen >> position & 1 != 0 {
            return Err(fault(parser.offset(), message.name, field.name, "is there twice"));
        }
        open.seen |= 1 << position;
        open.guess = position + 1;
        let begin = self.out.len();
        self.values(parser, message, field)?;
        self.is_written(open, field.number, begin);
        Ok(())
    }

    #[inline]
    fn is_written(&mut self, open: &mut Open, number: u32, begin: usize) {
        open.ordered &= number > open.last;
        open.last = number;
        self.spans.push(Span { number, begin, end: self.out.len() });
    }

    /// Ends a message: everything that must be there is, in order.
    pub(crate) fn close(&mut self, offset: u64, open: &Open) -> Result<(), JsonError> {
        self.depth -= 1;
        let missing = open.message.required & !open.seen;
        if missing != 0 {
            let field = open.message.fields[missing.trailing_zeros() as usize].name;
            return Err(fault(offset, open.message.name, field, "is missing"));
        }
        if !open.ordered {
            let unordered = self.out[open.begin..].to_vec();
            let mut spans = self.spans[open.spans..].to_vec();
            spans.sort_by_key(|span| span.number);
            if let Some(pair) = spans.windows(2).find(|pair| pair[0].number == pair[1].number) {
                let number = pair[0].number.to_string();
                return Err(fault(offset, open.message.name, &number, "is there twice"));
            }
            self.out.truncate(open.begin);
            for span in spans {
                let range = span.begin - open.begin..span.end - open.begin;
                self.out.extend_from_slice(&unordered[range]);
            }
        }
        self.spans.truncate(open.spans);
        Ok(())
    }

    fn values<R: Read>(
        &mut self,
        parser: &mut Parser<R>,
        message: &'static Message,
        field: &'static Field,
    ) -> Result<(), JsonError> {
        if field.count != Count::Repeated {
            return self.value(parser, message, field);
        }
        parser.take(b'[', "a list")?;
        let mut first = true;
        while parser.next_item(&mut first)? {
            if field.show == Show::Ip && parser.peek()? == b'"' {
                self.address(parser, message, field)?;
            } else {
                self.value(parser, message, field)?;
            }
        }
        Ok(())
    }

    /// Words from text: an address, or a number as any other.
    fn address<R: Read>(
        &mut self,
        parser: &mut Parser<R>,
        message: &'static Message,
        field: &'static Field,
    ) -> Result<(), JsonError> {
        parser.string(&mut self.text)?;
        let words = show::to_address(&self.text)
            .or_else(|| Some(vec![u32::try_from(show::integer(&self.text)?).ok()?]))
            .ok_or_else(|| fault(parser.offset(), message.name, field.name, "is no address"))?;
        for word in words {
            self.varint(u64::from(field.number) << 3);
            self.varint(u64::from(word));
        }
        Ok(())
    }

    #[inline]
    fn value<R: Read>(
        &mut self,
        parser: &mut Parser<R>,
        message: &'static Message,
        field: &'static Field,
    ) -> Result<(), JsonError> {
        let wire_type = match field.kind {
            Kind::Text | Kind::Bytes | Kind::Message(_) => 2,
            Kind::Fixed64 => 1,
            _ => 0,
        };
        self.varint(u64::from(field.number) << 3 | wire_type);
        match field.kind {
            Kind::Message(index) => self.nested(parser, usize::from(index)),
            Kind::Text => {
                parser.string(&mut self.text)?;
                self.delimited_text();
                Ok(())
            }
            Kind::Bytes => self.bytes(parser, message, field),
            _ => self.scalar(parser, message, field),
        }
    }

    #[inline]
    fn scalar<R: Read>(
        &mut self,
        parser: &mut Parser<R>,
        message: &'static Message,
        field: &'static Field,
    ) -> Result<(), JsonError> {
        let value = match parser.peek()? {
            b'0'..=b'9' | b'-' => {
                let Number { negative, magnitude } = parser.number()?;
                if negative { -i128::from(magnitude) } else { i128::from(magnitude) }
            }
            b'"' => {
                parser.string(&mut self.text)?;
                let value = number_of(field, &self.text);
                value.ok_or_else(|| {
                    fault(parser.offset(), message.name, field.name, "has no such value")
                })?
            }
            b't' | b'f' => i128::from(parser.truth()?),
            _ => return Err(fault(parser.offset(), message.name, field.name, "must be a number")),
        };
        let bits = bits_of(field.kind, value).ok_or_else(|| {
            fault(parser.offset(), message.name, field.name, "cannot hold the value")
        })?;
        match field.kind {
            Kind::Fixed64 => self.out.extend_from_slice(&bits.to_le_bytes()),
            _ => self.varint(bits),
        }
        Ok(())
    }

    fn bytes<R: Read>(
        &mut self,
        parser: &mut Parser<R>,
        message: &'static Message,
        field: &'static Field,
    ) -> Result<(), JsonError> {
        match field.show {
            Show::Private if parser.peek()? == b'{' => {
                let mut inner = Self { depth: self.depth, ..Self::default() };
                inner.message(parser, KfdPrivate::INDEX)?;
                let data = KfdPrivate::decode(&inner.out[..]).unwrap_or_default();
                self.text = private::pack(&data).ok_or_else(|| {
                    fault(
                        parser.offset(),
                        message.name,
                        field.name,
                        "holds more than the driver can take",
                    )
                })?;
            }
            Show::Quoted => {
                parser.string(&mut self.text)?;
                self.text = quoted::decode(&self.text);
            }
            _ => {
                let mut decoder = Decoder::default();
                let text = &mut self.text;
                text.clear();
                parser.pieces(&mut |piece| {
                    text.extend(piece.iter().filter_map(|&char| decoder.add(char)));
                    Ok(())
                })?;
                if !decoder.is_whole() {
                    return Err(fault(parser.offset(), message.name, field.name, "is cut base64"));
                }
            }
        }
        self.delimited_text();
        Ok(())
    }

    /// A message within one: its length is known when it is written, and nearly always is one byte.
    fn nested<R: Read>(&mut self, parser: &mut Parser<R>, index: usize) -> Result<(), JsonError> {
        self.out.push(0);
        let begin = self.out.len();
        let name = std::mem::take(&mut self.name);
        self.message(parser, index)?;
        self.name = name;
        let end = self.out.len();
        let len = end - begin;
        self.varint(len as u64);
        // The length stands behind the message now; it belongs before it.
        if self.out.len() - end == 1 {
            self.out[begin - 1] = len as u8;
            self.out.truncate(end);
        } else {
            let bytes = self.out.len() - end;
            self.out[begin - 1..].rotate_right(bytes);
            self.out.remove(begin - 1 + bytes);
        }
        Ok(())
    }

    fn delimited_text(&mut self) {
        self.varint(self.text.len() as u64);
        self.out.extend_from_slice(&self.text);
    }

    #[inline]
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    /// The name as the number of a field that the schema does not have.
    fn unknown_number<R: Read>(
        &self,
        parser: &Parser<R>,
        message: &'static Message,
    ) -> Result<u32, JsonError> {
        let text = std::str::from_utf8(&self.name).unwrap_or_default();
        let number = text.parse().ok().filter(|number| (1..1 << 29).contains(number));
        match number {
            Some(number) if message.fields.iter().all(|field| field.number != number) => Ok(number),
            _ => {
                let name = String::from_utf8_lossy(&self.name);
                Err(fault(parser.offset(), message.name, &name, "is no field of this message"))
            }
        }
    }

    /// The value of such a field, or a list of several.
    fn unknown<R: Read>(
        &mut self,
        parser: &mut Parser<R>,
        message: &'static Message,
        number: u32,
    ) -> Result<(), JsonError> {
        if parser.peek()? != b'[' {
            return self.unknown_value(parser, message, number);
        }
        parser.take(b'[', "a list")?;
        let mut first = true;
        while parser.next_item(&mut first)? {
            self.unknown_value(parser, message, number)?;
        }
        Ok(())
    }

    fn unknown_value<R: Read>(
        &mut self,
        parser: &mut Parser<R>,
        message: &'static Message,
        number: u32,
    ) -> Result<(), JsonError> {
        let tag = u64::from(number) << 3;
        let bad = |parser: &Parser<R>, reason| {
            fault(parser.offset(), message.name, &number.to_string(), reason)
        };
        match parser.peek()? {
            b'"' => {
                let mut decoder = Decoder::default();
                parser.string(&mut self.text)?;
                self.text = self.text.iter().filter_map(|&char| decoder.add(char)).collect();
                if !decoder.is_whole() {
                    return Err(bad(parser, "is cut base64"));
                }
                self.varint(tag | 2);
                self.delimited_text();
            }
            b'{' => {
                parser.take(b'{', "an object")?;
                if !parser.next_key(&mut true, &mut self.text)? {
                    return Err(bad(parser, "has no value"));
                }
                let Number { negative, magnitude } = parser.number()?;
                match (&self.text[..], u32::try_from(magnitude)) {
                    (b"fixed64", _) if !negative => {
                        self.varint(tag | 1);
                        self.out.extend_from_slice(&magnitude.to_le_bytes());
                    }
                    (b"fixed32", Ok(value)) if !negative => {
                        self.varint(tag | 5);
                        self.out.extend_from_slice(&value.to_le_bytes());
                    }
                    _ => return Err(bad(parser, "must be fixed64 or fixed32")),
                }
                parser.take(b'}', "the end of the object")?;
            }
            _ => {
                let Number { negative, magnitude } = parser.number()?;
                if negative {
                    return Err(bad(parser, "cannot hold the value"));
                }
                self.varint(tag);
                self.varint(magnitude);
            }
        }
        Ok(())
    }
}

/// Position of the field with this name. Names nearly always come in order.
#[inline]
fn position(message: &Message, name: &[u8], guess: usize) -> Option<usize> {
    let is = |field: &Field| field.name.as_bytes() == name;
    let later = message.fields[guess..].iter().position(is).map(|position| guess + position);
    later.or_else(|| message.fields[..guess].iter().position(is))
}

/// A number from text: hexadecimal and the like, or what readable JSON shows in its place.
fn number_of(field: &Field, text: &[u8]) -> Option<i128> {
    let shown = match (field.kind, field.show) {
        (Kind::Enum(index), _) => schema::enumeration(index).value(text).map(i128::from),
        (Kind::Bool, _) => return None,
        (_, Show::Flags(set)) => return show::to_flags(set, text).map(i128::from),
        (_, Show::Names(set)) => return show::to_name(set, text).map(i128::from),
        (_, Show::Kdev) => show::to_kdev(text).map(i128::from),
        (_, Show::Odev) => show::to_odev(text).map(i128::from),
        _ => None,
    };
    shown.or_else(|| show::integer(text))
}

/// What stands in the payload for a value, if the field can hold it.
#[inline]
fn bits_of(kind: Kind, value: i128) -> Option<u64> {
    let zigzag = |value: i64| (value << 1 ^ value >> 63) as u64;
    match kind {
        Kind::Uint32 => u32::try_from(value).ok().map(u64::from),
        Kind::Uint64 | Kind::Fixed64 => u64::try_from(value).ok(),
        Kind::Int32 | Kind::Enum(_) => {
            i32::try_from(value).ok().map(|value| i64::from(value) as u64)
        }
        Kind::Int64 => i64::try_from(value).ok().map(|value| value as u64),
        Kind::Sint32 => i32::try_from(value).ok().map(|value| zigzag(i64::from(value))),
        Kind::Sint64 => i64::try_from(value).ok().map(zigzag),
        Kind::Bool => (0..=1).contains(&value).then_some(value as u64),
        Kind::Text | Kind::Bytes | Kind::Message(_) => None,
    }
}

#[cold]
fn fault(offset: u64, message: &'static str, field: &str, reason: &'static str) -> JsonError {
    JsonError::Value { offset, message, field: field.to_owned(), reason }
}
