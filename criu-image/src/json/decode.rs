//! Records to JSON, straight from the bytes of a payload that was checked.
//!
//! Fields come out in the order of their numbers, which is how CRIU writes them. What the schema
//! does not know is kept: an enum value as its number, a field under its number.

use std::io::Write;

use prost::Message as _;

use super::items::{Item, Items, Value};
use super::print::Printer;
use super::{quoted, show};
use crate::gpu::private;
use crate::payload::Record;
use crate::record::{CriuKfd, KfdPrivate};
use crate::schema::{self, Count, Field, Kind, Message, Show};

/// Writes a message.
///
/// `ordered` says that the fields of every message within stand in ascending order.
pub(crate) fn message<W: Write>(
    printer: &mut Printer<W>,
    message: &Message,
    payload: &[u8],
    ordered: bool,
) {
    printer.open(b'{');
    let mut decoder = Decoder { printer, ordered, private: None, scratch: String::new() };
    decoder.fields(message, payload, false);
    printer.close(b'}');
}

/// Writes the values of one field: a list if it may have several.
pub(crate) fn field<W: Write>(
    printer: &mut Printer<W>,
    message: &Message,
    number: u32,
    values: &[Value<'_>],
) {
    let mut decoder = Decoder { printer, ordered: false, private: None, scratch: String::new() };
    let mut items = values.iter().map(|value| (number, *value));
    let Some((_, first)) = items.next() else { return };
    match message.position(number, 0).map(|position| &message.fields[position]) {
        Some(field) if field.count == Count::Repeated => {
            decoder.list(field, first, &mut items, false);
        }
        Some(field) => decoder.value(field, first, false),
        None => decoder.unknown_values(values),
    }
}

/// Writes the fields of a message into the object that is open.
pub(crate) fn fields<W: Write>(
    printer: &mut Printer<W>,
    index: usize,
    payload: &[u8],
    ordered: bool,
) {
    let scratch = String::new();
    // The only record with data of the driver within; what cannot be taken apart stays bytes.
    let private = (index == CriuKfd::INDEX)
        .then(|| private::unpack(&CriuKfd::decode(payload).ok()?).ok())
        .flatten()
        .map(|private| private.encode_to_vec());
    let mut decoder = Decoder { printer, ordered, private: private.as_deref(), scratch };
    decoder.fields(schema::message(index), payload, false);
}

struct Decoder<'a, W> {
    printer: &'a mut Printer<W>,
    ordered: bool,
    /// The private data of a KFD file as a message of its own.
    private: Option<&'a [u8]>,
    /// Text of one value.
    scratch: String,
}

impl<W: Write> Decoder<'_, W> {
    fn message(&mut self, index: u16, payload: &[u8], hex: bool) {
        self.printer.open(b'{');
        self.fields(schema::message(usize::from(index)), payload, hex);
        self.printer.close(b'}');
    }

    fn fields(&mut self, message: &Message, payload: &[u8], hex: bool) {
        if self.ordered {
            return self.items(message, Items::new(payload), hex);
        }
        let mut items: Vec<Item<'_>> = Items::new(payload).collect();
        items.sort_by_key(|item| item.0); // stable: elements of a list keep their order
        self.items(message, items.into_iter(), hex);
    }

    fn items<'a>(
        &mut self,
        message: &Message,
        mut items: impl Iterator<Item = Item<'a>>,
        hex: bool,
    ) {
        let mut guess = 0;
        let mut next = items.next();
        while let Some((number, value)) = next {
            let Some(position) = message.position(number, guess) else {
                next = self.unknown(number, value, &mut items);
                continue;
            };
            let field = &message.fields[position];
            guess = position + 1;
            if is_empty_list(field, value) {
                next = items.next();
                continue;
            }
            self.printer.key(field.name);
            if field.count == Count::Repeated {
                next = self.list(field, value, &mut items, hex);
            } else {
                self.value(field, value, hex);
                next = items.next();
            }
        }
    }

    /// Writes all elements, of which there is at least one; returns the item after them.
    fn list<'a>(
        &mut self,
        field: &Field,
        first: Value<'a>,
        items: &mut impl Iterator<Item = Item<'a>>,
        hex: bool,
    ) -> Option<Item<'a>> {
        if field.show == Show::Ip && self.printer.readable() {
            return self.address(field, first, items);
        }
        self.printer.open(b'[');
        let mut next = Some((field.number, first));
        while let Some((number, value)) = next
            && number == field.number
        {
            self.elements(field, value, hex);
            next = items.next();
        }
        self.printer.close(b']');
        next
    }

    /// One element, or those of a packed list.
    fn elements(&mut self, field: &Field, value: Value<'_>, hex: bool) {
        match (field.kind, value) {
            (Kind::Bytes | Kind::Text | Kind::Message(_), _)
            | (_, Value::Varint(_) | Value::Fixed64(_) | Value::Fixed32(_)) => {
                self.printer.item();
                self.value(field, value, hex);
            }
            (kind, Value::Bytes(packed)) => {
                let mut packed = Items::new(packed);
                while !packed.is_empty() {
                    let value = match kind {
                        Kind::Fixed64 => packed.fixed64().map(Value::Fixed64),
                        _ => packed.varint().map(Value::Varint),
                    };
                    let Some(value) = value else { break };
                    self.printer.item();
                    self.value(field, value, hex);
                }
            }
        }
    }

    /// An address in a list of one; words as they are if they are no address.
    fn address<'a>(
        &mut self,
        field: &Field,
        first: Value<'a>,
        items: &mut impl Iterator<Item = Item<'a>>,
    ) -> Option<Item<'a>> {
        let mut words = Vec::new();
        let mut next = Some((field.number, first));
        while let Some((number, value)) = next
            && number == field.number
        {
            match value {
                Value::Bytes(packed) => {
                    let mut packed = Items::new(packed);
                    words.extend(std::iter::from_fn(|| packed.varint()).map(|word| word as u32));
                }
                Value::Varint(word) => words.push(word as u32),
                Value::Fixed64(_) | Value::Fixed32(_) => {}
            }
            next = items.next();
        }
        self.printer.open(b'[');
        if words.len() == 1 || words.len() == 4 {
            self.scratch.clear();
            show::of_address(&words, &mut self.scratch);
            self.printer.item();
            self.printer.plain(&self.scratch);
        } else {
            for &word in &words {
                self.printer.item();
                self.printer.unsigned(u64::from(word));
            }
        }
        self.printer.close(b']');
        next
    }

    #[inline]
    fn value(&mut self, field: &Field, value: Value<'_>, hex: bool) {
        match (field.kind, value) {
            (Kind::Uint32, Value::Varint(value)) => self.uint32(field.show, value as u32, hex),
            (Kind::Uint64, Value::Varint(value)) | (Kind::Fixed64, Value::Fixed64(value)) => {
                self.unsigned(value, hex || field.show == Show::Hex);
            }
            (Kind::Int32, Value::Varint(value)) => self.signed(i64::from(value as i32), hex),
            (Kind::Int64, Value::Varint(value)) => self.signed(value as i64, hex),
            (Kind::Sint32 | Kind::Sint64, Value::Varint(value)) => {
                self.signed((value >> 1) as i64 ^ -((value & 1) as i64), hex);
            }
            (Kind::Bool, Value::Varint(value)) => {
                self.printer.raw(if value != 0 { "true" } else { "false" });
            }
            (Kind::Enum(index), Value::Varint(value)) => {
                match schema::enumeration(index).name(value as i32) {
                    Some(name) => self.printer.plain(name),
                    None => self.printer.signed(i64::from(value as i32)),
                }
            }
            (Kind::Text, Value::Bytes(bytes)) => self.printer.text(bytes),
            (Kind::Bytes, Value::Bytes(bytes)) if field.show == Show::Quoted => {
                self.printer.text(&quoted::encode(bytes));
            }
            (Kind::Bytes, Value::Bytes(bytes)) => match self.private {
                Some(payload) if field.show == Show::Private => {
                    self.printer.open(b'{');
                    let message = schema::message(KfdPrivate::INDEX);
                    self.items(message, Items::new(payload), false);
                    self.printer.close(b'}');
                }
                _ => self.printer.bytes(bytes),
            },
            (Kind::Message(index), Value::Bytes(payload)) => {
                self.message(index, payload, hex || field.show == Show::Hex);
                self.printer.pass_on_if_full();
            }
            // The check has refused any other wire type.
            _ => self.printer.raw("null"),
        }
    }

    #[inline]
    fn unsigned(&mut self, value: u64, hex: bool) {
        if hex && self.printer.readable() {
            self.formatted(format_args!("{value:#x}"));
        } else {
            self.printer.unsigned(value);
        }
    }

    fn signed(&mut self, value: i64, hex: bool) {
        if hex && self.printer.readable() {
            let sign = if value < 0 { "-" } else { "" };
            self.formatted(format_args!("{sign}{:#x}", value.unsigned_abs()));
        } else {
            self.printer.signed(value);
        }
    }

    #[inline]
    fn uint32(&mut self, show: Show, value: u32, hex: bool) {
        if !self.printer.readable() || show == Show::Plain && !hex {
            return self.printer.unsigned(u64::from(value));
        }
        match show {
            Show::Flags(set) if !hex => {
                self.scratch.clear();
                show::of_flags(set, value, &mut self.scratch);
                self.printer.plain(&self.scratch);
            }
            Show::Names(set) if !hex => match show::of_name(set, value) {
                Some(name) => self.printer.plain(name),
                None => self.printer.unsigned(u64::from(value)),
            },
            Show::Kdev | Show::Odev if !hex => {
                let (major, minor) =
                    if show == Show::Kdev { show::of_kdev(value) } else { show::of_odev(value) };
                self.formatted(format_args!("{major}:{minor}"));
            }
            _ => self.formatted(format_args!("{value:#x}")),
        }
    }

    fn formatted(&mut self, text: std::fmt::Arguments<'_>) {
        use std::fmt::Write as _;
        self.scratch.clear();
        self.scratch.write_fmt(text).expect("memory takes all");
        self.printer.plain(&self.scratch);
    }

    /// Writes a field that the schema does not have, under its number; returns the item after it.
    /// A varint is a number, bytes are base64; what else there is says so. Several are a list.
    fn unknown<'a>(
        &mut self,
        number: u32,
        first: Value<'a>,
        items: &mut impl Iterator<Item = Item<'a>>,
    ) -> Option<Item<'a>> {
        let mut values = vec![first];
        let mut next = items.next();
        while let Some((other, value)) = next
            && other == number
        {
            values.push(value);
            next = items.next();
        }
        self.printer.key(itoa::Buffer::new().format(number));
        self.unknown_values(&values);
        next
    }

    fn unknown_values(&mut self, values: &[Value<'_>]) {
        if let [value] = *values {
            return self.unknown_value(value);
        }
        self.printer.open(b'[');
        for &value in values {
            self.printer.item();
            self.unknown_value(value);
        }
        self.printer.close(b']');
    }

    fn unknown_value(&mut self, value: Value<'_>) {
        let (name, number) = match value {
            Value::Varint(value) => return self.printer.unsigned(value),
            Value::Bytes(bytes) => return self.printer.bytes(bytes),
            Value::Fixed64(value) => ("fixed64", value),
            Value::Fixed32(value) => ("fixed32", u64::from(value)),
        };
        self.printer.open(b'{');
        self.printer.key(name);
        self.printer.unsigned(number);
        self.printer.close(b'}');
    }
}

/// Whether this is a packed list without elements: the same as no field.
#[inline]
fn is_empty_list(field: &Field, value: Value<'_>) -> bool {
    let is_packed = !matches!(field.kind, Kind::Text | Kind::Bytes | Kind::Message(_));
    field.count == Count::Repeated && is_packed && value == Value::Bytes(&[])
}
