//! `thaw check`: what a host can do, and everything at once that stands in the way of a checkpoint.

mod support;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use support::gpu::{GpuTree, in_node};
use support::{Dumper, Tree, errors, live, thaw_command};

const SMALL: [&str; 3] = ["3", "1", "1"];

/// Exit code and standard output.
fn check(args: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thaw"));
    let output = command.args(["check", "--no-default-config"]).args(args).output();
    let output = output.expect("thaw runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.is_empty(), "{said}");
    (output.status.code(), String::from_utf8(output.stdout).expect("text"))
}

/// The same of a checkpoint, as a value.
fn check_images(images: &Path, args: &[&str]) -> (Option<i32>, Value) {
    let images = images.to_str().expect("a plain path");
    let (code, text) = check(&[&["-D", images, "--json"], args].concat());
    (code, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// Weight and code of each finding.
fn codes(value: &Value) -> Vec<(String, String)> {
    let sections = value["sections"].as_array().expect("a list");
    let findings = sections.iter().flat_map(|section| section["findings"].as_array().expect("one"));
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut codes: Vec<_> = findings.map(|it| (text(&it["weight"]), text(&it["code"]))).collect();
    codes.retain(|(weight, _)| weight != "note");
    codes
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(weight, code)| ((*weight).to_owned(), (*code).to_owned())).collect()
}

#[test]
fn what_a_host_can_do_decides_the_exit_code() {
    let (code, text) = check(&["--json"]);
    let value: Value = serde_json::from_str(&text).expect("one object");
    let works = |what: &str| value["works"][what].as_bool().expect("said");
    assert_eq!(code, Some(if works("dump") && works("restore") { 0 } else { 4 }), "{text}");
    let (again, text) = check(&["--width", "60"]);
    assert_eq!(again, code);
    assert!(text.starts_with("This host: Linux "), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
}

#[test]
fn directory_without_images_is_damage() {
    let dir = tempfile::tempdir().expect("a folder");
    let (code, value) = check_images(dir.path(), &[]);
    assert_eq!((code, &value["takes"]), (Some(3), &Value::Bool(false)), "{value}");
    assert!(codes(&value).iter().all(|(weight, _)| weight == "damage"), "{value}");
}

/// A process in a session of its own that has this file open, dumped; its id.
fn dumped_with(file: &Path, images: &Path) -> i32 {
    let mut command = Command::new("setsid");
    command.args(["sleep", "1000"]).current_dir("/").stdin(File::open(file).expect("it is there"));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
    let pid = child.id() as i32;
    let comm = format!("/proc/{pid}/comm");
    // What is dumped is the program, not the shell's way to it.
    while fs::read_to_string(&comm).expect("it lives") != "sleep\n" {
        std::thread::yield_now();
    }
    fs::create_dir(images).expect("a folder");
    let mut dump = Command::new(env!("CARGO_BIN_EXE_thaw"));
    dump.args(["dump", "-o", "dump.log", "-t", &pid.to_string(), "-D"]).arg(images);
    let status = dump.stdin(Stdio::null()).stderr(Stdio::null()).status().expect("thaw runs");
    assert!(status.success(), "{status}: {}", errors(&images.join("dump.log")));
    child.wait().expect("the dump has ended it");
    pid
}

#[test]
fn everything_in_the_way_is_told_at_once_and_nothing_is_changed() {
    let name = "everything_in_the_way_is_told_at_once_and_nothing_is_changed";
    live(name, |dir| {
        let (file, images) = (dir.join("input"), dir.join("images"));
        fs::write(&file, "as it was").expect("room");
        let root = dumped_with(&file, &images);
        let good = ["--manage-cgroups=ignore"];
        let (code, value) = check_images(&images, &good);
        assert_eq!((code, codes(&value)), (Some(0), Vec::new()), "{value}");
        assert_eq!(value["root"], root);

        // Somebody has the root's id, and the file is another one.
        fs::write("/proc/sys/kernel/ns_last_pid", (root - 1).to_string()).expect("root may");
        let mut sleeper = Command::new("sleep").arg("1000").spawn().expect("it starts");
        assert_eq!(sleeper.id() as i32, root, "ids are handed out in turn");
        fs::write(&file, "another").expect("room");
        let (code, value) = check_images(&images, &good);
        let both = pairs(&[("blocks", "host.id-taken"), ("blocks", "files.size")]);
        assert_eq!((code, codes(&value)), (Some(4), both), "{value}");
        let taken = format!("id {root}, needed for a process, is process {root} (");
        assert!(value.to_string().contains(&taken), "{value}");
        fs::remove_file(&file).expect("it is there");
        let (_, value) = check_images(&images, &good);
        let both = pairs(&[("blocks", "host.id-taken"), ("blocks", "files.missing")]);
        assert_eq!(codes(&value), both, "{value}");
        let (_, text) = check(&["-D", images.to_str().expect("plain"), "--manage-cgroups=ignore"]);
        assert!(text.ends_with("2 things stand in the way\n"), "{text}");

        // What was checked is not changed, and the process comes back.
        sleeper.kill().expect("it is ours");
        sleeper.wait().expect("it is ours");
        fs::write(&file, "as it was").expect("room");
        let (code, value) = check_images(&images, &good);
        assert_eq!((code, codes(&value)), (Some(0), Vec::new()), "{value}");
        let restored = thaw_command(&images, &good).status().expect("thaw runs");
        assert!(restored.success(), "{}", errors(&images.join("thaw.log")));
        assert_eq!(fs::read_to_string(format!("/proc/{root}/comm")).expect("it runs"), "sleep\n");
        kill(Pid::from_raw(root), Signal::SIGKILL).expect("it runs");
    });
}

#[test]
fn damage_is_told_with_whatever_else_there_is() {
    live("damage_is_told_with_whatever_else_there_is", |dir| {
        let tree = Tree::start(dir, &SMALL);
        let images = dir.join("images");
        tree.dump(&images, Dumper::Own);
        let pages = images.join("pages-1.img");
        let mut bytes = fs::read(&pages).expect("the pages");
        bytes[5000] ^= 4;
        fs::write(&pages, bytes).expect("room");
        fs::remove_file(dir.join("status")).expect("it is there");
        let (code, value) = check_images(&images, &["--manage-cgroups=ignore"]);
        let both = pairs(&[("damage", "manifest.damaged"), ("blocks", "files.missing")]);
        assert_eq!((code, codes(&value)), (Some(3), both), "{value}");
    });
}

const NODE: [&str; 4] = ["--gpus", "1", "--vram", "1G"];
const LARGE: [&str; 1] = ["kfd render:0 vram:0:600M"];

#[test]
fn gpus_are_matched_and_their_memory_is_counted() {
    in_node("gpus_are_matched_and_their_memory_is_counted", &NODE, |dir| {
        let (code, text) = check(&[]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.contains("GPUs      works"), "{text}");
        let tree = GpuTree::start(dir, &LARGE);
        let images = dir.join("images");
        let status = tree.dump_command(&images, &[]).status().expect("thaw runs");
        assert!(status.success(), "{}", errors(&images.join("dump.log")));
        tree.tree.reap();
        let (code, value) = check_images(&images, &["--manage-cgroups=ignore"]);
        assert_eq!((code, codes(&value)), (Some(0), Vec::new()), "{value}");
        let gpu = &value["needs"]["gpus"][0];
        assert!(gpu["vram_bytes"].as_u64().expect("a number") >= 600 << 20, "{value}");

        // Somebody else takes the memory, and its ids are others.
        fs::write("/proc/sys/kernel/ns_last_pid", "20000").expect("root may");
        let other = dir.join("other");
        fs::create_dir(&other).expect("a folder");
        let other = GpuTree::start(&other, &LARGE);
        let (code, value) = check_images(&images, &["--manage-cgroups=ignore"]);
        let short = pairs(&[("blocks", "host.vram")]);
        assert_eq!((code, codes(&value)), (Some(4), short), "{value}");
        other.kill();

        let args = ["--manage-cgroups=ignore", "--gpu-map", "0x1=0x2"];
        let (code, value) = check_images(&images, &args);
        let unknown = pairs(&[("blocks", "gpu.unknown-saved")]);
        assert_eq!((code, codes(&value)), (Some(4), unknown), "{value}");
    });
}

#[test]
fn a_host_without_gpus_has_no_match() {
    in_node("a_host_without_gpus_has_no_match", &NODE, |dir| {
        let tree = GpuTree::start(dir, &["kfd render:0 vram:0:64K"]);
        let images = dir.join("images");
        let status = tree.dump_command(&images, &[]).status().expect("thaw runs");
        assert!(status.success(), "{}", errors(&images.join("dump.log")));
        tree.tree.reap();
        // Another product: of the same number, with other properties.
        let mut other = Command::new(env!("CARGO_BIN_EXE_thaw"));
        other.args(["node", "run", "--model", "gfx942", "--", env!("CARGO_BIN_EXE_thaw"), "check"]);
        other.args(["--manage-cgroups=ignore", "--json", "-D"]).arg(&images);
        let output = other.output().expect("thaw runs");
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(4), "{text}");
        let value: Value = serde_json::from_str(&text).expect("one object");
        assert!(
            codes(&value).contains(&("blocks".to_owned(), "gpu.no-partner".to_owned())),
            "{text}"
        );
        assert!(text.contains("saved -> here"), "the table of what does not fit: {text}");
    });
}
