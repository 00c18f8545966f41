//! One payload: checked against the schema, then decoded; and what limits it has.
//!
//! Everything that reads records goes through here, whether it holds an image whole or streams it.

use std::path::Path;

use prost::Message;

use crate::error::ImageError;
use crate::{schema, wire};

/// Longest record accepted. The largest real ones are `mm` records: a process may have
/// 2^20 mappings (`vm.max_map_count` is rarely above) of about 60 bytes each.
pub const RECORD_BYTES_MAX: u64 = 128 << 20;

/// Largest image file that is read whole.
pub const IMAGE_BYTES_MAX: u64 = 1 << 30;

/// A message of the schema; all of [`record`](crate::record) are.
pub trait Record: Message + Default + sealed::Sealed {
    /// Name in the schema.
    const NAME: &'static str;
    // Its place in the table of messages, found when this is compiled: there may be a million
    // records in one image.
    #[doc(hidden)]
    const INDEX: usize = schema::message_index(Self::NAME);
}

mod sealed {
    /// Only this crate knows which messages the schema has.
    pub trait Sealed {}
}

macro_rules! records {
    ($($name:ident)*) => {
        $(
            impl sealed::Sealed for crate::record::$name {}
            impl Record for crate::record::$name { const NAME: &'static str = stringify!($name); }
        )*
    };
}

schema::for_each_record!(records);

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
    decode_checked(file, offset_bytes, payload)
}

/// The same, but what the schema does not know is left out.
pub(crate) fn decode_known<R: Record>(
    file: &str,
    offset_bytes: u64,
    payload: &[u8],
) -> Result<R, ImageError> {
    wire::check_known(R::INDEX, payload).map_err(|fault| wire_error(file, offset_bytes, fault))?;
    decode_checked(file, offset_bytes, payload)
}

fn decode_checked<R: Record>(
    file: &str,
    offset_bytes: u64,
    payload: &[u8],
) -> Result<R, ImageError> {
    R::decode(payload).map_err(|_| ImageError::Contradiction {
        file: file.to_owned(),
        offset_bytes,
        reason: format!("{} cannot be decoded", R::NAME),
    })
}

/// Checks the payload of one record, which begins at `offset_bytes` of `file`.
pub(crate) fn check(
    file: &str,
    offset_bytes: u64,
    message: usize,
    payload: &[u8],
) -> Result<(), ImageError> {
    wire::check(message, payload).map_err(|fault| wire_error(file, offset_bytes, fault))
}

/// A fault in a payload that begins at `offset_bytes` of `file`.
#[cold]
pub(crate) fn wire_error(file: &str, offset_bytes: u64, (at, source): wire::Fault) -> ImageError {
    ImageError::Wire { file: file.to_owned(), offset_bytes: offset_bytes + at as u64, source }
}
