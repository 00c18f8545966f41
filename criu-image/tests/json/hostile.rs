//! Input that wants to crash, to hang, or to take all memory.

use std::io::{self, Read};

use criu_image::record::{CgroupDirEntry, SkPacketEntry};
use criu_image::{ImageReader, JsonError, decode_json, encode_json};
use prost::Message;

use crate::{PLAIN, decode, encode, fixtures, framed, framed_bytes, image, refused};

/// Every prefix of every image: an error, or a whole image of fewer records.
#[test]
fn cut_images_are_errors_or_whole() {
    for folder in ["others", "crit-json/files", "crit-json/tcp_stream", "crit-json/ghost_file"] {
        for file in std::fs::read_dir(fixtures().join(folder)).expect("it is there") {
            let path = file.expect("a file").path();
            if path.extension().is_some_and(|extension| extension == "json") {
                continue;
            }
            let whole = std::fs::read(&path).expect("it is there");
            for len in 0..whole.len() {
                if let Ok(json) = decode(&whole[..len], PLAIN) {
                    assert_eq!(encode(&json).expect("JSON of ours"), whole[..len]);
                }
            }
        }
    }
}

/// Flips each byte: whatever is still an image comes back as it is.
#[test]
fn changed_images_are_errors_or_come_back() {
    let whole = std::fs::read(fixtures().join("others/sk-queues.img")).expect("it is there");
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[at] ^= 1 << bit;
            let Ok(json) = decode(&changed, PLAIN) else { continue };
            // A number may have been written with needless bytes; its meaning stays.
            let again = encode(&json).expect("JSON of ours");
            assert_eq!(decode(&again, PLAIN).expect("an image of ours"), json);
        }
    }
}

#[test]
fn claimed_lengths_take_no_memory() {
    let entry = SkPacketEntry { id_for: 1, length: u32::MAX, ..Default::default() };
    let bytes = image(0x5626_4026, &[&framed(&entry), b"abc"]);
    let error = decode(&bytes, PLAIN).expect_err("it is cut").to_string();
    assert!(error.contains("4294967292 more byte(s) are needed"), "{error}");
}

#[test]
fn messages_nested_without_end_are_refused_both_ways() {
    let mut dir = CgroupDirEntry::default();
    let mut json = r#"{"dir_name": ""}"#.to_owned();
    for _ in 0..90 {
        dir = CgroupDirEntry { children: vec![dir], ..Default::default() };
        json = format!(r#"{{"dir_name": "", "children": [{json}]}}"#);
    }
    let controller = [&[18][..], &framed_varint(&dir.encode_to_vec())].concat();
    let cgroup = [&[18][..], &framed_varint(&controller)].concat();
    let error = decode(&image(0x5938_3330, &[&framed_bytes(&cgroup)]), PLAIN);
    assert!(error.expect_err("too deep").to_string().contains("more than 64 deep"));
    let json =
        format!(r#"{{"magic": "CGROUP", "entries": [{{"controllers": [{{"dirs": [{json}]}}]}}]}}"#);
    refused(&json, "messages are nested too deeply");
    refused(&"[".repeat(100_000), "");
    refused(&format!("{{\"entries\": {}", "[".repeat(100_000)), "");
}

fn framed_varint(payload: &[u8]) -> Vec<u8> {
    let mut len = payload.len();
    let mut out = Vec::new();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    [&out, payload].concat()
}

/// Fields in another order than that of their numbers, as no program writes them.
#[test]
fn fields_in_any_order_are_shown_in_theirs() {
    let bytes = image(0x5711_3925, &[&framed_bytes(&[184, 1, 7, 16, 2, 8, 1])]);
    let json = decode(&bytes, PLAIN).expect("it has all fields");
    let entry = r#"{"cur": 1, "max": 2, "23": 7}"#;
    assert_eq!(json, format!(r#"{{"magic": "RLIMIT", "entries": [{entry}]}}"#));
}

/// Found by the fuzzer: such a list was shown, and was gone after the next time.
#[test]
fn packed_list_without_elements_is_no_field() {
    let entry = |threads: &[u8]| [&[8, 1, 16, 0, 24, 1, 32, 1][..], threads].concat();
    let json = |threads: &[u8]| {
        let bytes = image(0x5027_3030, &[&framed_bytes(&entry(threads))]);
        decode(&bytes, PLAIN).expect("it has all fields")
    };
    assert_eq!(json(&[42, 0]), json(&[]));
    assert_eq!(json(&[42, 0, 42, 0]), json(&[]));
    assert_eq!(json(&[42, 0, 42, 2, 5, 6, 42, 0, 40, 7]), json(&[40, 5, 40, 6, 40, 7]));
}

#[test]
fn padding_that_is_not_zero_is_refused() {
    let ids = r#""key": 1, "uid": 1, "gid": 1, "cuid": 1, "cgid": 1, "mode": 1, "id": 1"#;
    let entry = format!(r#"{{"desc": {{{ids}}}, "nsems": 1, "extra": [7]}}"#);
    let json = format!(r#"{{"magic": "IPCNS_SEM", "entries": [{entry}]}}"#);
    let mut bytes = encode(&json).expect("good JSON");
    assert_eq!(decode(&bytes, PLAIN).expect("a good image"), json);
    *bytes.last_mut().expect("it is not empty") = 1;
    let error = decode(&bytes, PLAIN).expect_err("it would be lost").to_string();
    assert!(error.ends_with("padding is not zero"), "{error}");
}

#[test]
fn image_is_no_json() {
    let image = std::fs::read(fixtures().join("others/cgroup.img")).expect("it is there");
    assert!(matches!(encode_json(&image[..], io::sink()), Err(JsonError::NotJson)));
    refused("", "more is expected");
    refused("{", "");
    refused("\"x\"", "not JSON");
}

#[test]
fn raw_image_is_told_by_its_number() {
    let error = decode(b"\x7fELF raw memory", PLAIN).expect_err("it is raw").to_string();
    assert_eq!(error, "test.img begins with 0x464c457f, which no image with records does");
}

/// A number of another family before the kind's own.
#[test]
fn both_numbers_of_the_head_are_checked() {
    for (first, second) in
        [(0x5510_5940u32, 0x5711_3925u32), (0x5456_4319, 0x5709_3306), (0x5456_4319, 0x5831_3116)]
    {
        let bytes = [first.to_le_bytes(), second.to_le_bytes()].concat();
        let error = decode(&bytes, PLAIN).expect_err("they do not belong together").to_string();
        assert!(error.contains(&format!("begins with {first:#x}")), "{error}");
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("gone"))
    }
}

impl io::Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::Error::other("full"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn failures_of_input_and_output_are_told() {
    assert!(ImageReader::new(Broken, "test.img").is_err());
    assert!(matches!(encode_json(Broken, io::sink()), Err(JsonError::Input(_))));
    let bytes = image(0x5711_3925, &[]);
    let mut reader = ImageReader::new(&bytes[..], "test.img").expect("an image");
    assert!(matches!(decode_json(&mut reader, Broken, PLAIN), Err(JsonError::Output(_))));
    let json = r#"{"magic": "RLIMIT", "entries": [{"cur": 1, "max": 2}]}"#;
    assert!(matches!(encode_json(json.as_bytes(), Broken), Err(JsonError::Output(_))));
}
