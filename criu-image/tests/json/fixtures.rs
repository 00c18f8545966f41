//! Images that CRIU 4.2 wrote, with the JSON that its crit made of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use crate::{PLAIN, READABLE, decode, encode, fixtures};

/// Every image of the folder with the two forms of its JSON.
fn images() -> Vec<PathBuf> {
    let mut images = Vec::new();
    for folder in fs::read_dir(fixtures().join("crit-json")).expect("it is there") {
        let folder = folder.expect("a folder").path();
        for file in fs::read_dir(folder).expect("a folder") {
            let path = file.expect("a file").path();
            if path.extension().is_some_and(|extension| extension != "json") {
                images.push(path);
            }
        }
    }
    images.sort();
    images
}

#[test]
fn json_is_crits_byte_for_byte() {
    let mut kinds = BTreeSet::new();
    for path in images() {
        let image = fs::read(&path).expect("it is there");
        for (options, suffix) in [(PLAIN, "json"), (READABLE, "pretty.json")] {
            let expected = fs::read_to_string(format!("{}.{suffix}", path.display()));
            let json = decode(&image, options).expect("a good image");
            assert!(json == expected.expect("it is there"), "{} {suffix}", path.display());
            kinds.insert(json.split('"').nth(3).expect("the magic").to_owned());
        }
    }
    assert_eq!(kinds.len(), 25, "{kinds:?}");
}

#[test]
fn image_comes_back_from_both_forms() {
    for path in images() {
        let image = fs::read(&path).expect("it is there");
        for suffix in ["json", "pretty.json"] {
            let json = fs::read_to_string(format!("{}.{suffix}", path.display()));
            let again = encode(&json.expect("it is there")).expect("JSON of crit");
            assert!(again == image, "{} {suffix}", path.display());
        }
    }
}

#[test]
fn images_without_crits_json_come_back_too() {
    for folder in ["gpu-tree", "others"] {
        for file in fs::read_dir(fixtures().join(folder)).expect("it is there") {
            let path = file.expect("a file").path();
            if !path.display().to_string().contains("amdgpu") {
                crate::round_trip(&fs::read(&path).expect("it is there"));
            }
        }
    }
}
