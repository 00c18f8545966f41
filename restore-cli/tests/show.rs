//! `thaw show` as a program: a tree that was dumped, on one screen and one process at a time.

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{Dumper, Tree, with_each_dumper};

const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../criu-image/tests/fixtures/gpu-tree");

fn show(images: &Path, args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thaw"));
    command.args(["show", "--no-default-config", "-D"]).arg(images).args(args);
    let output = command.output().expect("thaw runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn json(images: &Path, args: &[&str]) -> Value {
    let (code, text, said) = show(images, &[&["--json"], args].concat());
    assert_eq!(code, Some(0), "{said}");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_checkpoint_that_is_not_there_or_lacks_a_process_is_said() {
    let dir = tempfile::tempdir().expect("a folder");
    let (code, _, said) = show(dir.path(), &[]);
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("pstree.img"), "{said}");
    let (code, _, said) = show(FIXTURE.as_ref(), &["--process", "1"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("no process 1"), "{said}");
}

#[test]
fn gpu_memory_has_a_column_for_each_gpu_where_there_is_room() {
    for width in ["40", "80", "160"] {
        let (code, text, said) = show(FIXTURE.as_ref(), &["--width", width]);
        assert_eq!(code, Some(0), "{said}");
        let head = text.lines().find(|line| line.contains("PID")).expect("a head");
        assert_eq!(head.contains("GPU 0x"), width == "160", "{text}");
        let is_path = |line: &str| line.contains("fixtures");
        let most: usize = width.parse().expect("a number");
        let long = text.lines().find(|line| !is_path(line) && line.chars().count() > most);
        assert_eq!(long, None, "{text}");
        assert!(text.contains("of GPU"), "{text}");
    }
}

#[test]
fn a_tree_is_shown_as_it_was() {
    with_each_dumper("a_tree_is_shown_as_it_was", |dir, dumper| {
        let tree = Tree::start(dir, &["3", "1", "1"]);
        let images = dir.join("images");
        tree.dump(&images, dumper);
        let value = json(&images, &[]);
        assert_eq!(value["dumper"], if dumper == Dumper::Own { "thaw" } else { "criu" });
        let processes = value["processes"].as_array().expect("a list");
        assert_eq!(processes.len(), 3);
        for process in processes {
            // All have the command line of the program that forked them.
            let command = process["command"].as_array().expect("words");
            let words: Vec<&str> = command.iter().filter_map(Value::as_str).collect();
            assert!(words[0].ends_with("/workload"), "{process}");
            assert_eq!(words[2..], ["3", "1", "1"], "{process}");
            assert!(process["memory_bytes"].as_u64() > Some(1 << 20), "{process}");
        }
        let root = tree.root().to_string();
        let process = &json(&images, &["--process", &root])["process"];
        let files: Vec<&str> = process["descriptors"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|row| row["file"].as_str())
            .collect();
        let status = dir.join("status").display().to_string();
        assert!(files.contains(&status.as_str()), "{files:?}");
        assert_eq!(process["cwd"].as_str(), dir.to_str(), "{process}");
        let (_, text, _) = show(&images, &["--process", &root, "--width", "80"]);
        for part in ["\nMemory\n", "\nDescriptors (", "\nThreads (", "heap"] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    });
}
