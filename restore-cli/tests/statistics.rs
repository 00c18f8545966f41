//! Statistics that a dump and a restore leave, and that they stand in nobody's way.

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::{Dumper, Tree, errors, example, live, thaw, thaw_command};

const SMALL: [&str; 3] = ["2", "1", "1"];

/// What `thaw image show` says of an image.
fn show(image: &Path) -> Value {
    let mut thaw = Command::new(env!("CARGO_BIN_EXE_thaw"));
    let output = thaw.args(["image", "show"]).arg(image).output().expect("thaw runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn verify(images: &Path) {
    let mut thaw = Command::new(env!("CARGO_BIN_EXE_thaw"));
    let output = thaw.args(["image", "verify"]).arg(images).output().expect("thaw runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn restore_leaves_statistics_that_no_later_restore_or_dump_minds() {
    live("restore_leaves_statistics_that_no_later_restore_or_dump_minds", |dir| {
        let tree = Tree::start(dir, &SMALL);
        let (images, again) = (dir.join("images"), dir.join("again"));
        tree.dump(&images, Dumper::Own);
        tree.restore(&images);
        let stats = show(&images.join("stats-restore"));
        let of = |name: &str| stats["entries"][0]["restore"][name].as_u64().expect("a number");
        // Two processes of 1 MiB that are no copies of each other, and what a program has besides.
        assert!((512..5000).contains(&of("pages_restored")), "{stats}");
        assert!(of("pages_compared") >= of("pages_skipped_cow"), "{stats}");
        assert!(of("forking_time") > 0 && of("forking_time") < of("restore_time"), "{stats}");
        verify(&images);
        tree.kill();
        tree.restore(&images);
        fs::create_dir(&again).expect("a folder");
        fs::copy(images.join("stats-restore"), again.join("stats-restore")).expect("room");
        tree.dump(&again, Dumper::Own);
        verify(&again);
        let stats = show(&again.join("stats-dump"));
        let of = |name: &str| stats["entries"][0]["dump"][name].as_u64().expect("a number");
        assert!(of("memwrite_time") > 0 && of("memdump_time") <= of("frozen_time"), "{stats}");
        assert!(of("freezing_time") <= of("frozen_time"), "{stats}");
        tree.restore(&again);
        tree.kill();
    });
}

#[test]
fn statistics_go_to_the_working_directory() {
    live("statistics_go_to_the_working_directory", |dir| {
        let tree = Tree::start(dir, &SMALL);
        let (images, work) = (dir.join("images"), dir.join("work"));
        [&images, &work].iter().for_each(|folder| fs::create_dir(folder).expect("a folder"));
        let option = ["--work-dir", work.to_str().expect("a plain path")];
        let status = tree.dump_command(&images, &option).status().expect("thaw runs");
        assert!(status.success(), "{}", errors(&work.join("dump.log")));
        tree.reap();
        let among = show(&images.join("stats-dump"));
        let beside = show(&work.join("stats-dump"));
        let frozen = |stats: &Value| stats["entries"][0]["dump"]["frozen_time"].as_u64();
        assert!(frozen(&among) < frozen(&beside), "{among} {beside}");
        verify(&images);
        assert!(thaw(&images, &option).success(), "{}", errors(&work.join("thaw.log")));
        assert!(!images.join("stats-restore").exists());
        show(&work.join("stats-restore"));
        tree.kill();
    });
}

#[test]
fn images_that_cannot_be_written_to_are_restored_with_a_warning() {
    live("images_that_cannot_be_written_to_are_restored_with_a_warning", |dir| {
        let mut tree = Tree::start(dir, &SMALL);
        let images = dir.join("images");
        tree.dump(&images, Dumper::Own);
        let mount = |args: &[&str]| {
            let status = Command::new("mount").args(args).arg(&images).status().expect("mount");
            assert!(status.success(), "{status}");
        };
        mount(&["--bind", images.to_str().expect("a plain path")]);
        mount(&["-o", "remount,bind,ro"]);
        let log = dir.join("restore.log");
        let options = ["-o", log.to_str().expect("a plain path")];
        let status = thaw_command(&images, &options).status().expect("thaw runs");
        let text = fs::read_to_string(&log).expect("a log");
        assert!(status.success(), "{text}");
        assert!(text.contains("Warn") && text.contains("no stats-restore in "), "{text}");
        assert!(tree.ask().values().all(|answer| answer.intact));
        tree.kill();
    });
}

#[test]
fn what_a_dump_tells_on_its_way_adds_up() {
    live("what_a_dump_tells_on_its_way_adds_up", |dir| {
        for (size, images) in [("1", "small"), ("64", "large")] {
            let mut tree = Tree::start(dir, &["3", size, "2"]);
            let images = dir.join(images);
            fs::create_dir(&images).expect("a folder");
            let mut command = Command::new(example("dump_progress"));
            command.arg(tree.root().to_string()).arg(&images).stdin(Stdio::null());
            let output = command.output().expect("it is built beside the tests");
            let said =
                String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
            for pid in &tree.pids {
                assert!(said.contains(&format!("pid: {pid}, ppid")), "{said}");
            }
            tree.ask();
            tree.kill();
            fs::remove_file(dir.join("status")).expect("it is there");
        }
    });
}
