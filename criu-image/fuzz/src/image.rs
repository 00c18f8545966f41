//! Any bytes as an image: frames, records without types, data, JSON and back.

use std::io;

use criu_image::{ImageReader, JsonOptions, count_entries, decode_json};

use crate::PLAIN;

pub(crate) fn run(input: &[u8]) {
    let open = || ImageReader::new(input, "fuzz.img");
    let Ok(mut image) = open() else { return };
    let count = count_entries(&mut image);
    let mut image = open().expect("it was opened before");
    let options = JsonOptions { payloads: false, ..PLAIN };
    let short = decode_json(&mut image, io::sink(), options);
    let whole = crate::to_json(input, "fuzz.img", PLAIN);
    // What is left out is walked all the same; only padding is not looked at.
    assert!(short.is_ok() || whole.is_err());
    assert!(count.is_ok() || whole.is_err());
    crate::comes_back(input, "fuzz.img");
}
