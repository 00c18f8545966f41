//! Every image below some directories as JSON and back, both ways, and each directory verified:
//! `cargo run --release -p criu-image --example roundtrip -- DIR...`
//!
//! It prints a table by kind of image, and every difference and finding.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use criu_image::{
    ImageKind, ImageReader, JsonError, JsonOptions, decode_json, encode_json, verify,
};

/// What was seen of one kind of image.
#[derive(Default)]
struct Count {
    files: u64,
    bytes: u64,
    differences: u64,
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
                Ok((magic, bytes, same)) => {
                    let count = counts.entry(magic).or_default();
                    count.files += 1;
                    count.bytes += bytes;
                    count.differences += u64::from(!same);
                    if !same {
                        println!("{}: differs", path.display());
                    }
                }
                Err(error) => {
                    println!("{}: {error}", path.display());
                    counts.entry("not read").or_default().files += 1;
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
    println!("| kind | files | bytes | differences |\n|---|---:|---:|---:|");
    let mut sum = Count::default();
    for (magic, Count { files, bytes, differences }) in counts {
        println!("| {magic} | {files} | {bytes} | {differences} |");
        sum.files += files;
        sum.bytes += bytes;
        sum.differences += differences;
    }
    println!("| all | {} | {} | {} |\n", sum.files, sum.bytes, sum.differences);
    println!("{raw} raw images passed over; {directories} directories, {findings} findings");
    if sum.differences == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Kind and size of an image, and whether both forms of its JSON give it back.
fn round_trip(path: &Path) -> Result<(&'static str, u64, bool), JsonError> {
    let bytes = std::fs::read(path).map_err(JsonError::Input)?;
    let mut same = true;
    let mut magic = "";
    for readable in [false, true] {
        let mut image = ImageReader::open(path)?;
        magic = image.magic_name();
        let mut json = Vec::new();
        let options = JsonOptions { readable, payloads: true, line_break: false };
        decode_json(&mut image, &mut json, options)?;
        let mut again = Vec::new();
        encode_json(&json[..], &mut again)?;
        same &= again == bytes;
    }
    Ok((magic, bytes.len() as u64, same))
}
