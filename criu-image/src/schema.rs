//! What the schema says of messages, as constants: fields, how they are written, how shown.
//!
//! `build.rs` makes the tables. Everything that is not generated from the schema goes by them:
//! the check before typed decoding, and the way to JSON and back.

/// How a field is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Uint32,
    /// Zigzag.
    Sint32,
    /// Negative values are written with their sign extended to 64 bits.
    Int32,
    Uint64,
    /// Zigzag.
    Sint64,
    /// Two's complement.
    Int64,
    Bool,
    Fixed64,
    /// A path or a name: bytes, nearly always UTF-8.
    Text,
    Bytes,
    /// Index into [`ENUMS`].
    Enum(u16),
    /// Index into [`MESSAGES`].
    Message(u16),
}

/// How often a field may occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    Required,
    Optional,
    Repeated,
}

/// How readable JSON shows a field; `schema/conversions.txt` says which is shown how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    Plain,
    Hex,
    Flags(Flags),
    Names(Names),
    Kdev,
    Odev,
    Ip,
    Quoted,
    Private,
}

/// Sets of flags with names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flags {
    Prot,
    Map,
    Vma,
    Open,
    Seal,
    Page,
}

/// Sets of values with names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    TaskState,
    SocketFamily,
    SocketType,
    SocketProto,
    SocketState,
}

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) count: Count,
    pub(crate) show: Show,
}

/// One message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: &'static str,
    /// A bit for each of `fields` that must occur.
    pub(crate) required: u64,
    /// In ascending order of number, at most 64.
    pub(crate) fields: &'static [Field],
}

/// One enum.
#[derive(Debug)]
pub(crate) struct Enum {
    name: &'static str,
    pub(crate) values: &'static [(i32, &'static str)],
}

mod table {
    use super::{Count, Enum, Field, Flags, Kind, Message, Names, Show};
    include!(concat!(env!("OUT_DIR"), "/schema_table.rs"));
}

pub(crate) use table::for_each_record;

/// A message by its index.
#[inline]
pub(crate) fn message(index: usize) -> &'static Message {
    &table::MESSAGES[index]
}

/// An enum by its index.
#[inline]
pub(crate) fn enumeration(index: u16) -> &'static Enum {
    &table::ENUMS[usize::from(index)]
}

/// An enum by its name.
pub(crate) fn enumeration_named(name: &str) -> &'static Enum {
    let found = table::ENUMS.iter().find(|item| item.name == name);
    found.expect("only names of the schema are asked for")
}

impl Message {
    /// Position of a field. Fields come in ascending order, so the next one is the first guess; an
    /// optional one that is left out makes it the one after.
    #[inline]
    pub(crate) fn position(&self, number: u32, guess: usize) -> Option<usize> {
        for position in [guess, guess + 1] {
            if self.fields.get(position).is_some_and(|field| field.number == number) {
                return Some(position);
            }
        }
        self.fields.binary_search_by_key(&number, |field| field.number).ok()
    }
}

impl Enum {
    /// Whether the value is one of the schema's.
    pub(crate) fn contains(&self, value: i32) -> bool {
        self.values.iter().any(|&(known, _)| known == value)
    }

    /// Name of a value.
    pub(crate) fn name(&self, value: i32) -> Option<&'static str> {
        self.values.iter().find(|&&(known, _)| known == value).map(|&(_, name)| name)
    }

    /// Value of a name.
    pub(crate) fn value(&self, name: &[u8]) -> Option<i32> {
        self.values.iter().find(|(_, known)| known.as_bytes() == name).map(|&(value, _)| value)
    }
}

/// Index of the message that a prost record type stands for.
pub(crate) const fn message_index(name: &str) -> usize {
    let mut index = 0;
    while index < table::MESSAGES.len() {
        if is_same(table::MESSAGES[index].name.as_bytes(), name.as_bytes()) {
            return index;
        }
        index += 1;
    }
    panic!("every record type has a message in the table")
}

const fn is_same(a: &[u8], b: &[u8]) -> bool {
    let mut index = 0;
    while index < a.len() && index < b.len() && a[index] == b[index] {
        index += 1;
    }
    a.len() == b.len() && index == a.len()
}

#[cfg(test)]
mod tests {
    use super::{Kind, Show, message, message_index, table};

    #[test]
    fn fields_stand_in_ascending_order() {
        for message in table::MESSAGES {
            let numbers: Vec<u32> = message.fields.iter().map(|field| field.number).collect();
            assert!(numbers.is_sorted_by(|a, b| a < b), "{}", message.name);
        }
    }

    #[test]
    fn schema_is_that_of_criu_4_2() {
        // Messages of the images, of the amdgpu plugin, ours for the driver's private data, and
        // those of our own image.
        assert_eq!((table::MESSAGES.len(), table::ENUMS.len()), (155 + 8 + 6 + 2, 15));
        let shown = |wanted: fn(Show) -> bool| {
            let messages = table::MESSAGES.iter().filter(|message| !is_gpu(message.name));
            messages.flat_map(|m| m.fields).filter(|field| wanted(field.show)).count()
        };
        assert_eq!(shown(|show| show == Show::Hex), 75);
        assert_eq!(shown(|show| matches!(show, Show::Flags(_))), 8);
        assert_eq!(shown(|show| matches!(show, Show::Names(_))), 7);
        assert_eq!(shown(|show| show == Show::Ip), 6);
        assert_eq!(shown(|show| matches!(show, Show::Kdev | Show::Odev)), 6);
        assert_eq!(shown(|show| show == Show::Quoted), 1);
    }

    fn is_gpu(name: &str) -> bool {
        ["Kfd", "Drm", "CriuKfd", "CriuRender", "CriuDmabuf", "DevIolink"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    }

    #[test]
    fn paths_are_text_and_contents_are_bytes() {
        let kind = |name: &str, field: &str| {
            let message = message(message_index(name));
            message.fields.iter().find(|f| f.name == field).expect("it has the field").kind
        };
        assert_eq!(kind("RegFileEntry", "name"), Kind::Text);
        assert_eq!(kind("UnixSkEntry", "name"), Kind::Bytes);
        assert_eq!(kind("TtyDataEntry", "data"), Kind::Bytes);
    }
}
