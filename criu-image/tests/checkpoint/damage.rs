//! Damaged images: every byte cut, every byte changed, never a panic.

use std::collections::BTreeSet;
use std::fs;

use criu_image::Checkpoint;

use crate::draft::{Draft, framed, head};

/// Files of contents, of which any bytes are good as far as images go.
fn is_pages(name: &str) -> bool {
    name.starts_with("pages-")
}

/// Lengths of the data after each record of an image of the draft.
fn data_lens(name: &str) -> &'static [usize] {
    match name {
        "pipes-data.img" => &[3],
        "fifo-data.img" => &[2],
        "ghost-file-1f.img" => &[8],
        "ghost-file-2.img" => &[0, 4, 2],
        _ => &[],
    }
}

/// Where records with their data end. What is cut there has fewer records, none of them broken;
/// no image says how many there are.
fn boundaries(name: &str, bytes: &[u8]) -> BTreeSet<usize> {
    let mut at = head(name).len();
    let mut ends = BTreeSet::from([at]);
    let mut data_lens = data_lens(name).iter();
    while let Some(len) = bytes[at..].first_chunk() {
        at += 4 + u32::from_le_bytes(*len) as usize + data_lens.next().unwrap_or(&0);
        ends.insert(at);
    }
    ends
}

#[test]
fn a_cut_anywhere_within_a_record_is_an_error() {
    let draft = Draft::new();
    let dir = tempfile::tempdir().expect("a folder");
    draft.write(dir.path());
    let mut cuts = 0;
    for (name, bytes) in draft.files.iter().filter(|(name, _)| !is_pages(name)) {
        let path = dir.path().join(name);
        let ends = boundaries(name, bytes);
        // Raw contents of a deleted file may end anywhere.
        let raw_from = if name == "ghost-file-1f.img" { bytes.len() - 8 } else { bytes.len() };
        for len in 0..bytes.len() {
            fs::write(&path, &bytes[..len]).expect("room");
            let result = Checkpoint::open(dir.path());
            let may_pass = ends.contains(&len) || len >= raw_from;
            assert!(result.is_err() || may_pass, "{name} cut at {len} is accepted");
            cuts += 1;
        }
        fs::write(&path, bytes).expect("room");
    }
    assert!(cuts > 1500, "{cuts} cuts are too few to be all");
    Checkpoint::open(dir.path()).expect("whole again");
}

#[test]
fn a_change_of_any_byte_never_panics() {
    let draft = Draft::new();
    let dir = tempfile::tempdir().expect("a folder");
    draft.write(dir.path());
    let mut refused = 0;
    for (name, bytes) in draft.files.iter().filter(|(name, _)| !is_pages(name)) {
        let path = dir.path().join(name);
        let mut changed = bytes.clone();
        for at in 0..bytes.len() {
            // One bit of each byte, each in turn, and the values that lengths and varints turn on.
            for byte in [bytes[at] ^ 1 << (at % 8), 0, 0x7f, 0x80, 0xff] {
                changed[at] = byte;
                fs::write(&path, &changed).expect("room");
                refused += usize::from(Checkpoint::open(dir.path()).is_err());
            }
            changed[at] = bytes[at];
        }
        fs::write(&path, bytes).expect("room");
    }
    assert!(refused > 1000, "only {refused} changes were noticed");
}

#[test]
fn data_after_the_last_record_is_an_error() {
    let draft = Draft::new();
    for name in draft.files.keys().filter(|name| !is_pages(name) && *name != "ghost-file-1f.img") {
        let mut longer = draft.clone();
        longer.files.get_mut(name).expect("it").push(0);
        assert!(longer.open().is_err(), "{name} with one more byte is accepted");
    }
}

#[test]
fn records_that_claim_much_take_no_memory() {
    // Thousands of repeated ids, each of which would be read as a thread.
    let mut draft = Draft::new();
    let threads = vec![10; 1 << 20];
    draft.put("pstree.img", &[crate::draft::pstree(10, 0, &threads)]);
    assert!(draft.open().is_err());
    // An empty record where a file is expected.
    let mut draft = Draft::new();
    let mut bytes = head("files.img");
    for _ in 0..1000 {
        bytes.extend(framed(&()));
    }
    draft.files.insert("files.img".to_owned(), bytes);
    assert!(draft.open().is_err());
}
