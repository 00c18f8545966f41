//! `thaw image` as scripts call it: crit's commands, options, words and exit codes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Images, and crit's JSON of them, that the library is tested with.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../criu-image/tests/fixtures").join(name)
}

fn run(args: &[&str], input: &[u8]) -> Output {
    let mut thaw = Command::new(env!("CARGO_BIN_EXE_thaw"));
    thaw.arg("image").args(args).stdin(Stdio::piped());
    let mut child = thaw.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("thaw runs");
    // It may end before it has read all, which is no failure of this test.
    let _ = child.stdin.take().expect("it is piped").write_all(input);
    child.wait_with_output().expect("it ends")
}

fn path(path: &Path) -> &str {
    path.to_str().expect("paths of this test are UTF-8")
}

/// What is printed by a command that succeeds.
#[track_caller]
fn printed(args: &[&str], input: &[u8]) -> String {
    let output = run(args, input);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it is ASCII")
}

/// What is said by a command that fails with this code.
#[track_caller]
fn failed(args: &[&str], input: &[u8], code: i32) -> String {
    let output = run(args, input);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr).expect("it is ASCII")
}

fn some_image() -> PathBuf {
    let folder = fixture("crit-json/pstree");
    let mut images: Vec<PathBuf> = fs::read_dir(folder)
        .expect("fixtures")
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "img"))
        .collect();
    images.sort();
    images.swap_remove(0)
}

fn json_of(image: &Path, suffix: &str) -> String {
    fs::read_to_string(format!("{}.{suffix}", image.display())).expect("it is there")
}

#[test]
fn standard_input_and_output_are_the_default() {
    let image = some_image();
    let bytes = fs::read(&image).expect("it is there");
    let (plain, readable) = (json_of(&image, "json"), json_of(&image, "pretty.json"));
    assert_eq!(printed(&["decode"], &bytes), plain.clone() + "\n");
    assert_eq!(printed(&["decode", "--pretty"], &bytes), readable.clone() + "\n");
    assert_eq!(printed(&["decode", "-i", path(&image)], b""), plain.clone() + "\n");
    assert_eq!(printed(&["show", path(&image)], b""), readable + "\n");
    let encoded = run(&["encode"], plain.as_bytes());
    assert!(encoded.status.success() && encoded.stdout == bytes);
}

#[test]
fn long_options_of_both_crits_are_taken() {
    let dir = tempfile::tempdir().expect("a folder");
    let image = some_image();
    let plain = json_of(&image, "json");
    for (input, output) in [("-i", "-o"), ("--in", "--out"), ("--input", "--output")] {
        let (json, again) = (dir.path().join("json"), dir.path().join("img"));
        printed(&["decode", input, path(&image), output, path(&json)], b"");
        // No line break in a file, as with crit.
        assert_eq!(fs::read_to_string(&json).expect("it is there"), plain);
        printed(&["encode", input, path(&json), output, path(&again)], b"");
        assert_eq!(fs::read(&again).expect("it is there"), fs::read(&image).expect("it"));
    }
}

#[test]
fn info_tells_kind_and_count() {
    let image = fixture("others/sk-queues.img");
    let expected = "{\n    \"magic\": \"SK_QUEUES\",\n    \"count\": 6\n}\n";
    assert_eq!(printed(&["info", path(&image)], b""), expected);
    let dir = tempfile::tempdir().expect("a folder");
    let pages = dir.path().join("pages-1.img");
    fs::write(&pages, [1; 4096]).expect("room");
    let expected = "{\n    \"raw\": \"memory contents\",\n    \"bytes\": 4096\n}\n";
    assert_eq!(printed(&["info", path(&pages)], b""), expected);
}

#[test]
fn payloads_are_left_out_on_request() {
    let image = fixture("others/sk-queues.img");
    assert!(printed(&["show", path(&image)], b"").contains("\"extra\": \""));
    let short = printed(&["show", path(&image), "--nopl"], b"");
    assert!(short.contains("\"extra\": \"... <"), "{short}");
    assert_eq!(printed(&["show", "--nopl", path(&image)], b""), short);
}

#[test]
fn files_of_the_plugin_are_known_by_name() {
    let image = fixture("gpu-tree/amdgpu-renderD-21.img");
    let json = printed(&["decode", "-i", path(&image)], b"");
    assert!(json.starts_with("{\"magic\": \"AMDGPU_RENDER_NODE\", "), "{json}");
    let bytes = fs::read(&image).expect("it is there");
    assert_eq!(printed(&["decode", "--name", "amdgpu-renderD-21.img"], &bytes), json);
    failed(&["decode"], &bytes, 1);
    assert_eq!(run(&["encode"], json.as_bytes()).stdout, bytes);
}

/// Programs that call crit look for these words.
#[test]
fn words_of_crit_are_kept() {
    let text = failed(&["decode"], b"\x7fELF and so on", 1);
    assert!(text.starts_with("Unknown magic 0x464c457f.\nMaybe you are feeding me"), "{text}");
    let image = fs::read(some_image()).expect("it is there");
    let text = failed(&["encode"], &image, 1);
    assert!(text.starts_with("Cannot read JSON.\nMaybe you are feeding me"), "{text}");
}

#[test]
fn failures_are_told_with_their_place() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("core-1.img");
    let whole = fs::read(fixture("gpu-tree/core-28866.img")).expect("it is there");
    fs::write(&file, &whole[..100]).expect("room");
    let text = failed(&["decode", "-i", path(&file)], b"", 1);
    assert!(text.contains("core-1.img is cut: ") && text.contains("at byte 12"), "{text}");
    failed(&["decode", "-i", path(&dir.path().join("none"))], b"", 1);
    let text = failed(&["encode"], b"{\"magic\": \"FS\", \"entries\": [{}]}", 1);
    let place = "standard input: byte 30: FsEntry.cwd_id is missing";
    assert!(text.contains(place), "{text}");
}

/// A half of a file is worse than none.
#[test]
fn failure_leaves_the_output_as_it_was() {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out");
    fs::write(&out, "before").expect("room");
    let cut = &fs::read(fixture("gpu-tree/files.img")).expect("it is there")[..200];
    failed(&["decode", "-o", path(&out)], cut, 1);
    failed(&["encode", "-o", path(&out)], b"{\"magic\": \"FS\", \"entries\": [{}]}", 1);
    assert_eq!(fs::read_to_string(&out).expect("it is there"), "before");
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1, "nothing else is left");
}

#[test]
fn file_may_be_its_own_output() {
    let dir = tempfile::tempdir().expect("a folder");
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    let image = fs::read(some_image()).expect("it is there");
    fs::write(&file, &image).expect("room");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("it is ours");
    symlink("file", &link).expect("room");
    printed(&["decode", "-i", path(&link), "-o", path(&link)], b"");
    assert_eq!(fs::read_to_string(&file).expect("it"), json_of(&some_image(), "json"));
    printed(&["encode", "-i", path(&file), "-o", path(&link)], b"");
    assert_eq!(fs::read(&file).expect("it is there"), image);
    assert!(link.is_symlink());
    let mode = fs::metadata(&file).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    printed(&["decode", "-i", path(&file), "-o", "/dev/null"], b"");
}

#[test]
fn directory_is_explored_as_by_crit() {
    let dir = fixture("gpu-tree");
    for what in ["ps", "fds", "mems", "rss"] {
        let expected = fs::read_to_string(fixture(&format!("crit-x/{what}.txt")));
        assert_eq!(printed(&["x", path(&dir), what], b""), expected.expect("it is there"));
    }
    assert!(printed(&["x", path(&dir), "gpu", "--json"], b"").contains("\"vram\": 1048576"));
    failed(&["x", path(&dir), "nonsense"], b"", 2);
    failed(&["x", "/nonexistent", "ps"], b"", 1);
}

/// A checkpoint whose bulk is left out of the fixtures.
#[test]
fn verify_prints_a_line_for_each_finding() {
    let dir = fixture("gpu-tree");
    let output = run(&["verify", path(&dir)], b"");
    assert_eq!(output.status.code(), Some(3));
    let text = String::from_utf8(output.stdout).expect("it is ASCII");
    let missing = text.lines().filter(|line| line.contains(" is missing: ")).count();
    assert_eq!((text.lines().count(), missing), (6, 6), "{text}");
    assert!(text.contains("\namdgpu-pages-32-5a02.img is missing: 1048576 bytes"), "{text}");
    let output = run(&["verify", "--json", path(&dir)], b"");
    let json = String::from_utf8(output.stdout).expect("it is ASCII");
    let list: serde_json::Value = json.parse().expect("JSON");
    assert_eq!(list["format"], "thaw image verify");
    assert_eq!(list["findings"].as_array().map(Vec::len), Some(6), "{json}");
    let entry = serde_json::json!({
        "code": "images.missing", "damage": true,
        "text": "pages-1.img is missing: pagemap-28866.img",
    });
    assert_eq!(list["findings"][0], entry);
    failed(&["verify", "/nonexistent"], b"", 1);
}

const NO_DIFFERENCE: &str =
    "{\"format\": \"thaw image diff\", \"version\": 1, \"differences\": []}\n";

#[test]
fn diff_prints_a_line_for_each_difference() {
    let [parent, child] = ["fs-28866.img", "ids-28866.img"].map(|name| {
        let name = format!("gpu-tree/{name}");
        fixture(&name)
    });
    assert_eq!(printed(&["diff", path(&parent), path(&parent)], b""), "");
    assert_eq!(printed(&["diff", "--json", path(&parent), path(&parent)], b""), NO_DIFFERENCE);
    let output = run(&["diff", path(&parent), path(&child)], b"");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, b"fs-28866.img: magic: FS -> IDS\n");
    let output = run(&["diff", "--json", path(&parent), path(&child)], b"");
    let json = String::from_utf8(output.stdout).expect("it is ASCII");
    let entry = r#"{"file": "fs-28866.img", "place": "magic", "first": "FS", "second": "IDS"}"#;
    assert_eq!(json, NO_DIFFERENCE.replace("[]", &format!("[\n    {entry}\n]")));
    failed(&["diff", path(&parent), "/nonexistent"], b"", 1);
}

#[test]
fn wrong_usage_is_told_apart() {
    for args in [
        &[][..],
        &["nonsense"],
        &["decode", "file"],
        &["decode", "--nonsense"],
        &["decode", "-i"],
        &["encode", "--pretty"],
        &["show"],
        &["show", "a", "b"],
        &["info"],
        &["x", "dir"],
        &["verify"],
        &["verify", "a", "b"],
        &["diff", "a"],
        &["diff", "a", "b", "c"],
    ] {
        let text = failed(args, b"", 2);
        assert!(text.contains("Code: usage.") || text.contains("Usage: thaw image"), "{text}");
    }
    assert!(printed(&["--help"], b"").contains("Usage: thaw image [OPTIONS] <COMMAND>"));
}

/// `thaw image show FILE | head` is no failure worth a word.
#[test]
fn closed_output_ends_quietly() {
    let mut thaw = Command::new(env!("CARGO_BIN_EXE_thaw"));
    thaw.args(["image", "show"]).arg(fixture("gpu-tree/core-28866.img"));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = thaw.stdout(writer).stderr(Stdio::piped()).output().expect("thaw runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
