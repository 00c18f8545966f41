//! Hostile input for criu-image. A target takes any bytes; what it states must hold for them.
//!
//! The fuzzer looks for bytes that break a statement, crash, or take too long or too much memory.
//! What it found worth keeping is in `corpus`, and is replayed by the ordinary tests.

mod directory;
mod gpu;
mod image;
mod json;
mod typed;

/// States something about any bytes, and panics if it does not hold.
pub type Target = fn(&[u8]);

/// Every target with its name.
pub const TARGETS: &[(&str, Target)] = &[
    ("image", image::run),
    ("typed", typed::run),
    ("json", json::run),
    ("gpu", gpu::run),
    ("directory", directory::run),
];

use criu_image::{ImageReader, JsonError, JsonOptions, decode_json, encode_json};

const PLAIN: JsonOptions = JsonOptions { readable: false, payloads: true, line_break: false };
const READABLE: JsonOptions = JsonOptions { readable: true, ..PLAIN };

fn to_json(image: &[u8], name: &str, options: JsonOptions) -> Result<Vec<u8>, JsonError> {
    let mut json = Vec::new();
    decode_json(&mut ImageReader::new(image, name)?, &mut json, options)?;
    Ok(json)
}

fn to_image(json: &[u8]) -> Result<Vec<u8>, JsonError> {
    let mut image = Vec::new();
    encode_json(json, &mut image)?;
    Ok(image)
}

/// An image that is read becomes JSON that is read, and that becomes an image which says the same.
/// Numbers may have been written with needless bytes, so the first image may differ.
fn comes_back(image: &[u8], name: &str) {
    let Ok(plain) = to_json(image, name, PLAIN) else { return };
    let again = to_image(&plain).expect("our JSON is read");
    let readable = to_json(image, name, READABLE).expect("it was read before");
    let other = to_image(&readable).expect("our JSON is read");
    assert!(other == again, "both forms say the same");
    let json = to_json(&again, name, PLAIN).expect("our image is read");
    assert!(json == plain, "the image says the same");
}
