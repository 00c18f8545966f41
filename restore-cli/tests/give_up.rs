//! A restore that is given up at any moment before the release: everything is undone, and the same
//! images can be restored afterwards. After that moment it is too late, and the tree runs.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::kill;
use nix::unistd::Pid;
use support::{Tree, example, live};

/// Longest that undoing may take before a test says that nobody looked: the kernel frees memory of
/// killed processes first, and others work on this machine.
const UNDONE_WITHIN: Duration = Duration::from_secs(5);

fn give_up(images: &Path, what: &str, number: u64) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", "60"]).arg(example("give_up"));
    command.arg(images).args([what, &number.to_string()]);
    let Output { status, stdout, stderr } =
        command.stdin(Stdio::null()).output().expect("it is built beside the tests");
    let text = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
    (status.code(), text.into_owned())
}

/// Names in folders that a restore may make files in.
fn names(folders: &[&Path]) -> BTreeSet<PathBuf> {
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("a folder"));
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

/// Processes of this namespace: this one, and whatever has been left.
fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| pid != std::process::id() as i32).collect()
}

fn check_undone(tree: &Tree, what: &str, said: &str) {
    assert_eq!(tree.alive(), Vec::<i32>::new(), "{what}: {said}");
    // What it left to us to collect would be there as well.
    assert_eq!(processes(), Vec::<i32>::new(), "{what}: {said}");
}

/// Gives the restore up at each of its events in turn; the stages in which it was.
fn sweep(tree: &Tree, images: &Path, folders: &[&Path]) -> BTreeSet<String> {
    let before = names(folders);
    let mut stages = BTreeSet::new();
    for number in 0.. {
        let (code, said) = give_up(images, "event", number);
        let what = format!("given up at event {number}");
        assert_eq!(names(folders), before, "{what}: {said}");
        if code == Some(0) {
            // Only what comes after the begin of the release is too late.
            let events: Vec<&str> = said.lines().next().expect("events").split(' ').collect();
            assert!(events[number as usize + 1].contains("release"), "{what}: {said}");
            assert!(events.len() as u64 > number, "{what}: {said}");
            return stages;
        }
        assert_eq!(code, Some(1), "{what}: {said}");
        assert!(!said.contains("release:"), "{what}: {said}");
        check_undone(tree, &what, &said);
        let mut reached = said.split_whitespace().filter(|word| word.starts_with("reached:"));
        stages.insert(reached.next_back().unwrap_or("none").to_owned());
    }
    unreachable!("a restore has an end")
}

#[test]
fn restore_can_be_given_up_at_each_of_its_events() {
    live("restore_can_be_given_up_at_each_of_its_events", |dir| {
        let mut tree = Tree::start(dir, &["3", "1", "2"]);
        let before = tree.ask();
        let images = dir.join("images");
        tree.dump(&images, support::Dumper::Own);
        let stages = sweep(&tree, &images, &[dir, &images, Path::new("/dev/shm")]);
        // Stages that have nothing to do for this tree are left out: nothing comes between.
        for stage in ["none", "reached:devices", "reached:build", "reached:resume"] {
            assert!(stages.contains(stage), "{stages:?}");
        }
        let after = tree.ask();
        for (pid, answer) in &after {
            assert!(answer.intact && answer.counter >= before[pid].counter, "{answer:?}");
        }
        tree.kill();
    });
}

#[test]
fn deleted_files_and_shared_memory_of_a_restore_that_is_given_up_are_gone() {
    let name = "deleted_files_and_shared_memory_of_a_restore_that_is_given_up_are_gone";
    live(name, |dir| {
        let work = dir.join("work");
        fs::create_dir(&work).expect("a folder");
        let tree = Tree::start_program(dir, "everything", &[work.to_str().expect("a plain path")]);
        let images = dir.join("images");
        tree.dump(&images, support::Dumper::Own);
        sweep(&tree, &images, &[dir, &work, &images, Path::new("/dev/shm")]);
        tree.kill();
    });
}

#[test]
fn restore_that_fills_much_memory_is_given_up_at_once() {
    live("restore_that_fills_much_memory_is_given_up_at_once", |dir| {
        let mut tree = Tree::start(dir, &["3", "256", "1"]);
        let images = dir.join("images");
        tree.dump(&images, support::Dumper::Own);
        let (code, said) = give_up(&images, "filled", 1);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("failed: the restore was given up []"), "{said}");
        check_undone(&tree, "filled", &said);
        // The first word comes after 50 ms, when most is still to come; nothing was finished since.
        assert!(!said.contains("build:"), "{said}");
        let after = said.split("after: ").nth(1).and_then(|rest| rest.split(' ').next());
        let after: u64 = after.expect("a time").parse().expect("a number");
        assert!(Duration::from_millis(after) < UNDONE_WITHIN, "{said}");
        let (code, said) = give_up(&images, "filled", u64::MAX);
        assert_eq!(code, Some(0), "{said}");
        assert!(tree.ask().values().all(|answer| answer.intact));
        tree.kill();
    });
}

#[test]
fn restore_ends_when_its_time_is_over() {
    live("restore_ends_when_its_time_is_over", |dir| {
        let mut tree = Tree::start(dir, &["3", "256", "1"]);
        let images = dir.join("images");
        tree.dump(&images, support::Dumper::Own);
        for milliseconds in [0, 1, 20] {
            let begin = Instant::now();
            let (code, said) = give_up(&images, "timeout", milliseconds);
            assert_eq!(code, Some(1), "{said}");
            assert!(said.contains("did not end within 0 s"), "{said}");
            assert!(begin.elapsed() < UNDONE_WITHIN, "{said}");
            check_undone(&tree, "timeout", &said);
        }
        let (code, said) = give_up(&images, "timeout", 60_000);
        assert_eq!(code, Some(0), "{said}");
        assert!(tree.ask().values().all(|answer| answer.intact));
        kill(Pid::from_raw(tree.root()), None).expect("it runs");
        tree.kill();
    });
}
