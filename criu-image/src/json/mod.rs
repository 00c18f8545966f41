//! Images as JSON and back: the JSON of CRIU's own image tool, byte for byte where that is right.
//!
//! `print` and `parse` know JSON and nothing of images; `decode` and `encode` take one record to
//! JSON and back; `export` and `import` do so with a whole image. The rest is how single values
//! look. Memory holds one record at a time.

mod base64;
mod decode;
mod encode;
mod export;
mod import;
mod items;
mod parse;
mod print;
pub(crate) mod quoted;
mod show;

use std::io;

use crate::error::ImageError;
use crate::image::WriteError;

pub(crate) use decode::{field, message};
pub(crate) use items::{Item, Items, Value};
#[cfg(test)]
pub(crate) use parse::HELD_BYTES_MAX;
pub(crate) use print::Printer;

pub use export::{ImageCount, JsonOptions, count_entries, decode_json};
pub use import::encode_json;

/// A JSON string of any bytes, with its quotes: ASCII, and what is not UTF-8 as in
/// [`decode_json`].
///
/// ```
/// assert_eq!(criu_image::json_string(b"/tmp/\"x\"\xff"), r#""/tmp/\"x\"\udcff""#);
/// ```
pub fn json_string(text: &[u8]) -> String {
    let mut out = Vec::new();
    let mut printer = Printer::one_line(&mut out);
    printer.text(text);
    match printer.finish(false) {
        Ok(()) => String::from_utf8(out).unwrap_or_default(),
        Err(_) => String::new(), // memory takes all
    }
}

/// Why an image did not become JSON, or JSON no image.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The image is damaged.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The result could not be written.
    #[error("the result cannot be written")]
    Output(#[source] io::Error),
    /// JSON could not be read.
    #[error("JSON cannot be read")]
    Input(#[source] io::Error),
    /// This does not even begin as JSON does; perhaps it is an image.
    #[error("this is not JSON")]
    NotJson,
    /// This is no JSON, or not such as images have.
    #[error("byte {offset}: {expected} is expected")]
    Syntax {
        /// Where.
        offset: u64,
        /// What was expected there.
        expected: &'static str,
    },
    /// A value that does not fit its field, or a field that does not fit its message.
    #[error("byte {offset}: {message}.{field} {reason}")]
    Value {
        /// Where, within a few bytes.
        offset: u64,
        /// Message of the schema.
        message: &'static str,
        /// Its field.
        field: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// No image has this `magic`.
    #[error("no image has the magic {name:?}")]
    UnknownName {
        /// The name.
        name: String,
    },
    /// The entries are not those of such an image.
    #[error("entry {index}: {source}")]
    Entry {
        /// Which, counted from 0.
        index: u64,
        /// What is wrong.
        source: WriteError,
    },
}

impl JsonError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Image(error) => error.code(),
            Self::Output(_) => "convert.output",
            Self::Input(_) => "convert.input",
            Self::NotJson => "convert.not-json",
            Self::Syntax { .. } => "convert.syntax",
            Self::Value { .. } => "convert.value",
            Self::UnknownName { .. } => "convert.unknown-magic",
            Self::Entry { source, .. } => source.code(),
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Image(error) => error.help(),
            Self::Output(_) => Some("make room, or write to another place"),
            Self::Input(_) => Some("check the path, and that this user may read it"),
            Self::NotJson => {
                Some("give the JSON that decode writes: an image is no input of encode")
            }
            Self::Syntax { .. } => Some("correct the JSON at that byte"),
            Self::Value { .. } => Some("correct the value at that byte"),
            Self::UnknownName { .. } => Some("give the magic that decode writes for such an image"),
            Self::Entry { source, .. } => source.help(),
        }
    }
}
