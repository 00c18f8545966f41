//! A checkpoint with a manifest: damage that the format cannot show is found, and told once.

use std::fs;
use std::path::Path;
use std::process::Command;

use criu_image::{FileSum, MANIFEST_NAME, Manifest, verify};

use crate::draft::{Draft, head};
use crate::verify::gpu_tree;

/// Writes the manifest that the dump of these images would have left.
fn write_manifest(dir: &Path) {
    let mut manifest = Manifest::default();
    for entry in fs::read_dir(dir).expect("a folder") {
        let entry = entry.expect("a file");
        let bytes = fs::read(entry.path()).expect("it is there");
        let name = entry.file_name().to_string_lossy().into_owned();
        manifest.files.insert(name, FileSum::of(&bytes));
    }
    fs::write(dir.join(MANIFEST_NAME), manifest.to_text()).expect("room");
}

#[track_caller]
fn check_with_manifest(change: impl FnOnce(&Path), expected: &[&str]) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut draft = Draft::new();
    draft.files.insert("stats-dump".to_owned(), head("stats-dump"));
    draft.write(dir.path());
    write_manifest(dir.path());
    change(dir.path());
    let found = verify(dir.path()).expect("a folder");
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, expected);
}

#[test]
fn manifest_finds_missing_added_and_cut_files_once() {
    check_with_manifest(|_| {}, &[]);
    let remove = |name: &'static str| {
        move |dir: &Path| fs::remove_file(dir.join(name)).expect("it is there")
    };
    check_with_manifest(remove("stats-dump"), &[]);
    for name in ["core-30.img", "files.img", "pagemap-10.img", "pages-1.img", "pstree.img"] {
        let finding = format!("{name} is missing: thaw-manifest lists it");
        check_with_manifest(remove(name), &[&finding]);
    }
    let write = |name: &'static str, bytes: &'static [u8]| {
        move |dir: &Path| fs::write(dir.join(name), bytes).expect("room")
    };
    let finding = "core-7.img is none of the files that thaw-manifest lists";
    check_with_manifest(write("core-7.img", b""), &[finding]);
    check_with_manifest(write("dump.log", b"words"), &[]);
    // What a restore has left beside the images.
    let statistics = head("stats-dump");
    check_with_manifest(|dir| fs::write(dir.join("stats-restore"), statistics).expect("room"), &[]);
    check_with_manifest(
        write("pages-1.img", b""),
        &["pages-1.img has 0 bytes, the dump wrote 12288"],
    );
    check_with_manifest(write(MANIFEST_NAME, b""), &["thaw-manifest, line 1: it is empty"]);
}

/// A folder or a fifo in the place of an image is told, and not waited for.
#[test]
fn manifest_finds_what_is_no_regular_file() {
    let replace = |dir: &Path| {
        fs::remove_file(dir.join("pages-1.img")).expect("it is there");
        let made = Command::new("mkfifo").arg(dir.join("pages-1.img")).status();
        assert!(made.expect("mkfifo is there").success());
    };
    check_with_manifest(replace, &["pages-1.img is no regular file"]);
}

/// The format alone cannot tell: most bits of memory and of numbers may be anything.
#[track_caller]
fn check_flips(dir: &Path, per_file: usize) {
    assert!(verify(dir).expect("a folder").is_empty());
    let mut flips = 0;
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("a file").path();
        let name = path.file_name().expect("it has one").to_string_lossy().into_owned();
        let whole = fs::read(&path).expect("it is there");
        for at in (0..whole.len()).step_by((whole.len() / per_file).max(1)) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, &bytes).expect("room");
            let found = verify(dir).expect("a folder");
            let [finding] = &found[..] else { panic!("{name}, byte {at}: {found:#?}") };
            assert!(finding.file() == name && finding.is_damage(), "{finding}");
            flips += 1;
        }
        fs::write(&path, &whole).expect("room");
    }
    assert!(flips > 15 * per_file, "{flips}");
}

#[test]
fn manifest_finds_every_flipped_bit_once() {
    let dir = tempfile::tempdir().expect("a folder");
    Draft::new().write(dir.path());
    write_manifest(dir.path());
    check_flips(dir.path(), 16);
}

#[test]
fn manifest_finds_every_flipped_bit_of_gpu_images_once() {
    let dir = tempfile::tempdir().expect("a folder");
    gpu_tree(dir.path());
    write_manifest(dir.path());
    check_flips(dir.path(), 2);
}
