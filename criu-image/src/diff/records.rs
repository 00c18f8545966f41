//! Records field by field, straight from their payloads.
//!
//! Records and messages in lists are matched by the field that names them; those without one by
//! their place. What follows a record is compared as bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use super::{Difference, Sink};
use crate::error::ImageError;
use crate::image::ImageReader;
use crate::json::{self, Item, Items, Printer, Value};
use crate::payload::{IMAGE_BYTES_MAX, file_size, wire_error};
use crate::schema::{self, Count, Field, Kind, Message};
use crate::wire;

/// Fields that name a record among others. A message that is not listed is named by its place.
const NAMES: &[(&str, &str)] = &[
    ("CgSetEntry", "id"),
    ("CgroupPropEntry", "name"),
    ("DrmBoEntry", "handle"),
    ("DrmVmEntry", "addr"),
    ("EventpollTfdEntry", "tfd"),
    ("FdinfoEntry", "fd"),
    ("FileEntry", "id"),
    ("KfdBoEntry", "addr"),
    ("KfdDeviceEntry", "gpu_id"),
    ("MemfdInodeEntry", "inode_id"),
    ("MntEntry", "mnt_id"),
    ("NetDeviceEntry", "ifindex"),
    ("PagemapEntry", "vaddr"),
    ("PipeDataEntry", "pipe_id"),
    ("PosixTimerEntry", "it_id"),
    ("PstreeEntry", "pid"),
    ("RegFileEntry", "id"),
    ("RemapFilePathEntry", "orig_id"),
    ("TtyDataEntry", "tty_id"),
    ("TtyInfoEntry", "id"),
    ("UnixSkEntry", "id"),
    ("VmaEntry", "start"),
];

/// A record of an image, and the data that follows it.
struct Whole {
    message: usize,
    payload: Vec<u8>,
    ordered: bool,
    data: Vec<u8>,
}

/// Compares two images of one kind.
pub(super) fn images(
    first: &Path,
    second: &Path,
    name: &str,
    each: &mut Sink<'_>,
) -> Result<bool, ImageError> {
    for path in [first, second] {
        let len_bytes = file_size(path, name)?;
        if len_bytes > IMAGE_BYTES_MAX {
            let (file, offset_bytes, limit_bytes) = (name.to_owned(), 0, IMAGE_BYTES_MAX);
            return Err(ImageError::RecordTooLong { file, offset_bytes, len_bytes, limit_bytes });
        }
    }
    let mut images = [ImageReader::open_any(first)?, ImageReader::open_any(second)?];
    let [ours, theirs] = [images[0].magic_name(), images[1].magic_name()];
    let mut walk = Walk { file: name, each };
    if ours != theirs {
        return Ok(walk.tell("magic", Some(ours.to_owned()), Some(theirs.to_owned())));
    }
    let [ours, theirs] = images.each_mut().map(records);
    let (ours, theirs) = (by_name(ours?), by_name(theirs?));
    Ok(walk.pairs(&ours, &theirs))
}

/// All records of an image, checked.
fn records(image: &mut ImageReader<File>) -> Result<Vec<Whole>, ImageError> {
    let mut records: Vec<Whole> = Vec::new();
    loop {
        let mut data = Vec::new();
        let follows = image.copy_data(&mut data)?;
        match records.last_mut() {
            Some(last) => last.data = data,
            None if follows > 0 => {
                records.push(Whole { message: 0, payload: Vec::new(), ordered: true, data });
            }
            None => {}
        }
        let Some(message) = image.format().message(image.index()) else { return Ok(records) };
        let Some(frame) = image.frame()? else { return Ok(records) };
        let payload = image.payload(frame).to_vec();
        let ordered = wire::check_known(message, &payload)
            .map_err(|fault| wire_error(image.name(), frame.offset, fault))?;
        image.end_of(frame)?;
        records.push(Whole { message, payload, ordered, data: Vec::new() });
    }
}

/// Records by name. Those that have the same one, or none, are told apart by a number.
fn by_name(records: Vec<Whole>) -> BTreeMap<(String, usize), Whole> {
    let mut named = BTreeMap::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for record in records {
        let message = schema::message(record.message);
        let items = items(&record.payload, record.ordered);
        let name = name_of(message, &items).unwrap_or_else(|| "entry".to_owned());
        let number = seen.entry(name.clone()).or_default();
        named.insert((name, *number), record);
        *number += 1;
    }
    named
}

fn items(payload: &[u8], ordered: bool) -> Vec<Item<'_>> {
    let mut items: Vec<Item<'_>> = Items::new(payload).collect();
    if !ordered {
        items.sort_by_key(|item| item.0);
    }
    items
}

/// Such as `id=5`.
fn name_of(message: &Message, items: &[Item<'_>]) -> Option<String> {
    let (_, name) = NAMES.iter().find(|(known, _)| *known == message.name)?;
    let field = message.fields.iter().find(|field| field.name == *name)?;
    let (_, value) = items.iter().find(|(number, _)| *number == field.number)?;
    Some(format!("{name}={}", text_of(message, field.number, &[*value])?))
}

/// A field as readable JSON on one line.
fn text_of(message: &Message, number: u32, values: &[Value<'_>]) -> Option<String> {
    let mut out = Vec::new();
    let mut printer = Printer::one_line(&mut out);
    json::field(&mut printer, message, number, values);
    printer.finish(false).ok()?;
    String::from_utf8(out).ok()
}

struct Walk<'a, 'b> {
    file: &'a str,
    each: &'a mut Sink<'b>,
}

impl Walk<'_, '_> {
    fn tell(&mut self, place: &str, first: Option<String>, second: Option<String>) -> bool {
        let (file, place) = (self.file.to_owned(), place.to_owned());
        (self.each)(Difference { file, place, first, second })
    }

    fn pairs(
        &mut self,
        ours: &BTreeMap<(String, usize), Whole>,
        theirs: &BTreeMap<(String, usize), Whole>,
    ) -> bool {
        let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        keys.into_iter().all(|key| {
            let place = match key {
                (name, 0) if name != "entry" => name.clone(),
                (name, number) => format!("{name}[{number}]"),
            };
            match (ours.get(key), theirs.get(key)) {
                (Some(ours), Some(theirs)) => self.pair(&place, ours, theirs),
                (ours, theirs) => self.tell(&place, ours.map(whole_text), theirs.map(whole_text)),
            }
        })
    }

    fn pair(&mut self, place: &str, ours: &Whole, theirs: &Whole) -> bool {
        if ours.data != theirs.data {
            let first = (0..).zip(ours.data.iter().zip(&theirs.data)).find(|(_, (a, b))| a != b);
            let at: usize = first.map_or(ours.data.len().min(theirs.data.len()), |(at, _)| at);
            let text = |data: &[u8]| {
                Some(format!("{} bytes of data, differing from byte {at} on", data.len()))
            };
            let place = format!("{place}.extra");
            if !self.tell(&place, text(&ours.data), text(&theirs.data)) {
                return false;
            }
        }
        let message = schema::message(ours.message);
        let ordered = ours.ordered && theirs.ordered;
        self.messages(place, message, [&ours.payload, &theirs.payload], ordered)
    }

    fn messages(
        &mut self,
        place: &str,
        message: &Message,
        payloads: [&[u8]; 2],
        ordered: bool,
    ) -> bool {
        if payloads[0] == payloads[1] {
            return true;
        }
        let [ours, theirs] = payloads.map(|payload| grouped(items(payload, ordered)));
        let numbers: BTreeSet<u32> = ours.keys().chain(theirs.keys()).copied().collect();
        numbers.into_iter().all(|number| {
            let none = Vec::new();
            let values = [&ours, &theirs].map(|side| side.get(&number).unwrap_or(&none));
            let field = message.fields.iter().find(|field| field.number == number);
            let name = field.map_or_else(|| number.to_string(), |field| field.name.to_owned());
            let place = format!("{place}.{name}");
            match field {
                _ if values[0] == values[1] => true,
                Some(Field { kind: Kind::Message(inner), count, .. }) => {
                    let inner = schema::message(usize::from(*inner));
                    self.nested(&place, inner, *count, values, ordered)
                }
                _ => {
                    let text = |values: &Vec<Value<'_>>| {
                        (!values.is_empty()).then(|| text_of(message, number, values)).flatten()
                    };
                    self.tell(&place, text(values[0]), text(values[1]))
                }
            }
        })
    }

    fn nested(
        &mut self,
        place: &str,
        message: &Message,
        count: Count,
        values: [&Vec<Value<'_>>; 2],
        ordered: bool,
    ) -> bool {
        let [ours, theirs] = values.map(|values| named(message, values, ordered));
        let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        keys.into_iter().all(|key| {
            let place = match count {
                Count::Repeated => format!("{place}[{}]", shown_key(key)),
                _ => place.to_owned(),
            };
            match (ours.get(key), theirs.get(key)) {
                (Some(ours), Some(theirs)) => {
                    self.messages(&place, message, [ours, theirs], ordered)
                }
                (ours, theirs) => {
                    let text = |payload: &&[u8]| message_text(message, payload, ordered);
                    self.tell(&place, ours.map(text), theirs.map(text))
                }
            }
        })
    }
}

/// Values of each field.
fn grouped(items: Vec<Item<'_>>) -> BTreeMap<u32, Vec<Value<'_>>> {
    let mut fields: BTreeMap<u32, Vec<Value<'_>>> = BTreeMap::new();
    for (number, value) in items {
        fields.entry(number).or_default().push(value);
    }
    fields
}

/// Messages of a list by name, or by place if they have none.
fn named<'a>(
    message: &Message,
    values: &[Value<'a>],
    ordered: bool,
) -> BTreeMap<(String, usize), &'a [u8]> {
    let mut named = BTreeMap::new();
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for value in values {
        let Value::Bytes(payload) = *value else { continue };
        let name = name_of(message, &items(payload, ordered)).unwrap_or_default();
        let number = seen.entry(name.clone()).or_default();
        named.insert((name, *number), payload);
        *number += 1;
    }
    named
}

fn shown_key((name, number): &(String, usize)) -> String {
    match (name.is_empty(), number) {
        (true, number) => number.to_string(),
        (false, 0) => name.clone(),
        (false, number) => format!("{name}#{number}"),
    }
}

fn whole_text(record: &Whole) -> String {
    if record.payload.is_empty() {
        return format!("{} bytes", record.data.len());
    }
    message_text(schema::message(record.message), &record.payload, record.ordered)
}

fn message_text(message: &Message, payload: &[u8], ordered: bool) -> String {
    let mut out = Vec::new();
    let mut printer = Printer::one_line(&mut out);
    json::message(&mut printer, message, payload, ordered);
    match printer.finish(false) {
        Ok(()) => String::from_utf8(out).unwrap_or_default(),
        Err(_) => String::new(), // memory takes all
    }
}
