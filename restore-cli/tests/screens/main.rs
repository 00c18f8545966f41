//! What thaw says: each command and option as a snapshot of its output.
//!
//! A script beside this file runs thaw again and again and shows each command line with what it
//! printed; what differs from run to run is redacted. `INSTA_UPDATE=always` takes what is printed
//! now as right, and is for those who have read it.

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use regex::Regex;
use serde_json::Value;
use support::{live, live_node};

/// What differs from run to run, and what stands for it.
const REDACTIONS: [(&str, &str); 18] = [
    (r"\d+\.\d+\.\d+ \([0-9a-f]{7,12}\)", "VERSION"),
    (r"\d+(\.\d+)?([ \u{a0}])(us|ms|s)\b", "TIME"),
    (r#""(ns|began_unix_s|frozen_ns|begin_ns|end_ns)":\d+"#, "\"$1\":0"),
    (r#""trace":\[\{.*"#, "\"trace\":[...]"),
    (r#""dumped_unix_s":\d+"#, "\"dumped_unix_s\":0"),
    (r"\b(took|after|within|for) \d+ us", "$1 TIME"),
    (r"\(\d\d\.\d{6}\)", "(TIME)"),
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d( UTC|Z)", "DATE"),
    (r"Linux \d+\.\d+[^ \],\n]*", "Linux RELEASE"),
    (r#""(kernel|name)":"[^"\n]*""#, "\"$1\":\"NAME\""),
    (r"(\d+(\.\d+)?) (bytes|[KMGT]iB)(/s)?", "SIZE"),
    (r#""(\w*bytes|shared|memory|pages|size)":\d+"#, "\"$1\":0"),
    (r"\b\d+ (bytes of images|steps)\b", "N $1"),
    (r"\b0x[0-9a-f]{6,}\b", "ADDRESS"),
    (r"/tmp/\.tmp\w+", "DIR"),
    (r"\d+ worker\(s\)", "N worker(s)"),
    (r"\d+ mapping\(s\)", "N mapping(s)"),
    // Which thread has which id of a tree is a matter of chance.
    (r"\b20[1-6]\b", "PID"),
];

/// A pid namespace with its `/proc`.
const NAMESPACE: [&str; 5] = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"];

fn redacted(text: &str) -> String {
    let mut text = text.to_owned();
    for (pattern, with) in REDACTIONS {
        let pattern = Regex::new(pattern).expect("a pattern of ours");
        text = pattern.replace_all(&text, with).into_owned();
    }
    // Padding depends on what was redacted.
    let spaces = Regex::new(r"(SIZE|TIME|VERSION|DATE) {2,}").expect("a pattern of ours");
    spaces.replace_all(&text, "$1  ").into_owned()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/screens")
}

/// What a script prints, in a folder.
fn run(script: &str, dir: &Path, is_live: bool) -> String {
    let thaw = Path::new(env!("CARGO_BIN_EXE_thaw"));
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../criu-image/tests/fixtures");
    // The shell is init of a namespace: it collects what a restore leaves to it.
    let output = Command::new("timeout")
        .args(["--kill-after=5", "120"])
        .args(if is_live { &NAMESPACE[..] } else { &[] })
        .arg("sh")
        .arg(folder().join("say.sh"))
        .arg(folder().join(script))
        .current_dir(dir)
        .env("THAW", thaw)
        .env("EXAMPLES", thaw.with_file_name("examples"))
        .env("FIXTURES", fixtures.canonicalize().expect("they are there"))
        .env("SCREENS", folder())
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .output()
        .expect("sh is part of every system");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {}\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn check(name: &str, script: &str, dir: &Path, is_live: bool) {
    let mut text = run(script, dir, is_live).replace(&dir.display().to_string(), "DIR");
    let program = Path::new(env!("CARGO_BIN_EXE_thaw"));
    let examples = program.with_file_name("examples");
    for (place, name) in [(program, "THAW"), (&examples, "EXAMPLES")] {
        text = text.replace(&place.display().to_string(), name);
    }
    let text = redacted(&text);
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.set_snapshot_path(folder().join("snapshots"));
    settings.bind(|| insta::assert_snapshot!(name, text));
}

fn check_here(name: &str, script: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    check(name, script, dir.path(), false);
}

#[test]
fn help() {
    check_here("help", "help.sh");
}

#[test]
fn usage() {
    check_here("usage", "usage.sh");
}

#[test]
fn images() {
    check_here("images", "images.sh");
}

#[test]
fn traces() {
    check_here("traces", "traces.sh");
}

#[test]
fn trees() {
    live("trees", |dir| check("trees", "trees.sh", dir, true));
}

#[test]
fn gpus() {
    live_node("gpus", |dir| check("gpus", "gpus.sh", dir, true));
}

/// Every option of every command is in the command line of a snapshot.
#[test]
fn no_option_is_left_out() {
    let output = Command::new(env!("CARGO_BIN_EXE_thaw")).args(["generate", "options"]).output();
    let list: Value = serde_json::from_slice(&output.expect("thaw runs").stdout).expect("JSON");
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(folder().join("snapshots")).expect("a folder").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("a text");
        for line in text.lines().filter_map(|line| line.strip_prefix("$ ")) {
            // A command inside a node counts too.
            let inside = line.split_once(" THAW ").map(|(_, rest)| format!("thaw {rest}"));
            lines.extend([Some(line.to_owned()), inside].into_iter().flatten());
        }
    }
    let mut missing = BTreeSet::new();
    for command in list["commands"].as_array().expect("a list") {
        let name = command["command"].as_str().expect("a name");
        let own: Vec<&String> = lines.iter().filter(|line| is_of(line, name)).collect();
        for option in command["options"].as_array().expect("a list") {
            let Some(long) = option["long"].as_str() else { continue };
            let everywhere = ["color", "width", "config", "no-default-config", "help", "version"];
            let those = if everywhere.contains(&long) { &lines.iter().collect() } else { &own };
            let short = option["short"].as_str();
            if !those.iter().any(|line| has(line, long, short)) {
                missing.insert(format!("{name} --{long}"));
            }
        }
        if own.is_empty() {
            missing.insert(name.to_owned());
        }
    }
    assert!(missing.is_empty(), "in no snapshot: {missing:#?}");
}

/// Whether a line is one of this command (and not of one below it).
fn is_of(line: &str, command: &str) -> bool {
    let mut words: Vec<&str> = line.split(' ').skip_while(|word| *word != "thaw").collect();
    // Options that every command has may stand before it.
    while words.len() > 2 && ["--width", "--color"].contains(&words[1]) {
        words.drain(1..3);
    }
    let command: Vec<&str> = command.split(' ').collect();
    words.len() >= command.len() && words[..command.len()] == command[..]
}

fn has(line: &str, long: &str, short: Option<&str>) -> bool {
    line.split(' ').any(|word| {
        let name = word.split('=').next().unwrap_or_default();
        name.strip_prefix("--") == Some(long)
            || short.is_some_and(|short| {
                word.strip_prefix('-').is_some_and(|rest| rest.starts_with(short))
            })
    })
}
