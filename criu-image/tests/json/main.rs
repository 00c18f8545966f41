//! Images as JSON: equal to crit's where crit is right, and always the same image again.

#![allow(missing_docs)]

mod defects;
mod fixtures;
mod gpu;
mod hostile;
mod input;
mod stream;

use std::path::{Path, PathBuf};

use criu_image::{ImageReader, JsonError, JsonOptions, decode_json, encode_json};
use prost::Message;

pub(crate) const PLAIN: JsonOptions =
    JsonOptions { readable: false, payloads: true, line_break: false };
pub(crate) const READABLE: JsonOptions = JsonOptions { readable: true, ..PLAIN };
pub(crate) const NO_PAYLOADS: JsonOptions = JsonOptions { payloads: false, ..PLAIN };

pub(crate) const COMMON: u32 = 0x5456_4319;

pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

pub(crate) fn decode(image: &[u8], options: JsonOptions) -> Result<String, JsonError> {
    let mut json = Vec::new();
    decode_json(&mut ImageReader::new(image, "test.img")?, &mut json, options)?;
    Ok(String::from_utf8(json).expect("JSON is ASCII"))
}

pub(crate) fn encode(json: &str) -> Result<Vec<u8>, JsonError> {
    let mut image = Vec::new();
    encode_json(json.as_bytes(), &mut image)?;
    Ok(image)
}

/// An image: its head, then these parts one after the other.
pub(crate) fn image(magic: u32, parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = [COMMON.to_le_bytes(), magic.to_le_bytes()].concat();
    parts.iter().for_each(|part| bytes.extend_from_slice(part));
    bytes
}

/// Length and payload of a record.
pub(crate) fn framed(record: &impl Message) -> Vec<u8> {
    framed_bytes(&record.encode_to_vec())
}

pub(crate) fn framed_bytes(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_le_bytes(), payload].concat()
}

/// Checks what an image is as JSON, and that either form gives the image back.
#[track_caller]
pub(crate) fn check(image: &[u8], plain: &str) {
    assert_eq!(decode(image, PLAIN).expect("a good image"), plain);
    round_trip(image);
}

#[track_caller]
pub(crate) fn round_trip(image: &[u8]) {
    for options in [PLAIN, READABLE] {
        let json = decode(image, options).expect("a good image");
        assert_eq!(encode(&json).expect("JSON of ours"), image, "{json}");
    }
}

/// The error of JSON that is refused.
#[track_caller]
pub(crate) fn refused(json: &str, words: &str) {
    let error = encode(json).map(|_| ()).expect_err(json).to_string();
    assert!(error.contains(words), "expected: {words}\n   found: {error}\n{json}");
}
