//! Every image below some directories as JSON and back, both ways, and each directory verified:
//! `cargo run --release -p criu-image --example roundtrip -- DIR...`
//!
//! It prints a table by kind of image, and every difference and finding.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use criu_image::{
    ImageKind, ImageReader, JsonError, JsonOptions, count_entries, decode_json, encode_json, verify,
};

/// What was seen of one kind of image.
#[derive(Default)]
struct Count {
    files: u64,
    entries: u64,
    bytes: u64,
    differences: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.files += other.files;
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.differences += other.differences;
    }
}

fn main() -> ExitCode {
    let mut counts: BTreeMap<&'static str, Count> = BTreeMap::new();
    let (mut raw, mut directories, mut findings) = (0, 0, 0);
    let mut folders: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    while let Some(folder) = folders.pop() {
        let mut has_inventory = false;
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
                continue;
            }
            let Some((kind, _)) = path.file_name().and_then(ImageKind::of_name) else { continue };
            has_inventory |= kind == ImageKind::Inventory;
            if ImageReader::open(&path).is_err() && kind.is_raw() {
                raw += 1;
                continue;
            }
            match round_trip(&path) {
                Ok((magic, count)) => {
                    if count.differences > 0 {
                        println!("{}: differs", path.display());
                    }
                    *counts.entry(magic).or_default() += count;
                }
                Err(error) => {
                    println!("{}: {error}", path.display());
                    let unread = Count { files: 1, differences: 1, ..Count::default() };
                    *counts.entry("not read").or_default() += unread;
                }
            }
        }
        if has_inventory {
            directories += 1;
            for finding in verify(&folder).into_iter().flatten() {
                findings += u64::from(finding.is_damage());
                println!("{}: {finding}", folder.display());
            }
        }
    }
    println!("| kind | files | entries | bytes | differences |\n|---|---:|---:|---:|---:|");
    let row = |name: &str, Count { files, entries, bytes, differences }: &Count| {
        println!("| {name} | {files} | {entries} | {bytes} | {differences} |");
    };
    let mut sum = Count::default();
    for (magic, count) in counts {
        row(magic, &count);
        sum += count;
    }
    row("all", &sum);
    println!("{raw} raw images passed over; {directories} directories, {findings} findings");
    if sum.differences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Kind of an image, what is in it, and whether both forms of its JSON give it back.
fn round_trip(path: &Path) -> Result<(&'static str, Count), JsonError> {
    let bytes = std::fs::read(path).map_err(JsonError::Input)?;
    let mut image = ImageReader::open(path)?;
    let magic = image.magic_name();
    let entries = count_entries(&mut image)?.count;
    let mut same = true;
    for readable in [false, true] {
        let mut json = Vec::new();
        let options = JsonOptions { readable, payloads: true, line_break: false };
        decode_json(&mut ImageReader::open(path)?, &mut json, options)?;
        let mut again = Vec::new();
        encode_json(&json[..], &mut again)?;
        same &= again == bytes;
    }
    let (bytes, differences) = (bytes.len() as u64, u64::from(!same));
    Ok((magic, Count { files: 1, entries, bytes, differences }))
}
