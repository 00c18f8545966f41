//! Trees that were dumped run again: intact, whole, or not at all.

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use support::{Dumper, Tree, errors, live_with_upstream, thaw, thaw_command, with_each_dumper};

/// 4 processes, 13 threads, 768 MiB.
const CHAIN: [&str; 3] = ["4", "192", "2"];
/// 3 processes, small.
const SMALL: [&str; 3] = ["3", "1", "1"];

fn check_goes_on(tree: &mut Tree, link: &str, before: &mut u64) {
    let answers = tree.ask();
    let sum: u64 = answers.values().map(|answer| answer.counter).sum();
    assert!(answers.values().all(|answer| answer.intact), "memory after {link}: {answers:?}");
    assert!(sum > *before, "counters after {link}: {sum}, before {before}");
    *before = sum;
}

/// The programs that dump and restore in each link, in turn.
const LINKS: [(Dumper, Dumper); 3] =
    [(Dumper::Own, Dumper::Upstream), (Dumper::Own, Dumper::Own), (Dumper::Upstream, Dumper::Own)];

#[test]
fn chain_of_both_programs_keeps_the_tree_going() {
    let name = "chain_of_both_programs_keeps_the_tree_going";
    live_with_upstream(name, |dir: &Path| {
        let mut tree = Tree::start(dir, &CHAIN);
        let threads: usize = tree
            .pids
            .iter()
            .map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).expect("tasks").count())
            .sum();
        assert_eq!((tree.pids.len(), threads), (4, 13));
        let mut counter = 0;
        check_goes_on(&mut tree, "start", &mut counter);
        for (dumper, restorer) in LINKS {
            let images = dir.join("images");
            tree.dump(&images, dumper);
            match restorer {
                Dumper::Own => tree.restore(&images),
                Dumper::Upstream => tree.restore_upstream(&images),
            }
            let link = format!("dump by {dumper:?}, restore by {restorer:?}");
            check_goes_on(&mut tree, &link, &mut counter);
            println!("{link}: the counters are at {counter}");
            std::fs::remove_dir_all(&images).expect("images of this link");
        }
        tree.kill();
    });
}

#[test]
fn killed_restorer_leaves_no_half_restored_task() {
    let name = "killed_restorer_leaves_no_half_restored_task";
    with_each_dumper(name, |dir, dumper| kill_at_moments(dir, dumper, &[]));
}

#[test]
fn killed_restorer_of_a_sibling_leaves_no_half_restored_task() {
    with_each_dumper("killed_restorer_of_a_sibling_leaves_no_half_restored_task", |dir, dumper| {
        kill_at_moments(dir, dumper, &["--restore-sibling"]);
    });
}

fn kill_at_moments(dir: &Path, dumper: Dumper, args: &[&str]) {
    let mut tree = Tree::start(dir, &SMALL);
    let images = dir.join("images");
    tree.dump(&images, dumper);
    let begin = std::time::Instant::now();
    tree.restore(&images);
    let whole = begin.elapsed();
    tree.kill();
    let (mut gone, mut ran) = (0, 0);
    let rounds = 200u32;
    for round in 0..rounds {
        let mut restorer = thaw_command(&images, args).spawn().expect("thaw runs");
        // The moments are spread evenly over the time that a restore takes.
        std::thread::sleep(whole * round / rounds);
        let _ = restorer.kill();
        restorer.wait().expect("thaw can be waited for");
        if tree.settle() {
            ran += 1;
            tree.kill();
        } else {
            gone += 1;
        }
        tree.put_status_back(0);
    }
    println!("{rounds} kills: {gone} trees gone, {ran} whole");
    assert!(gone > 0, "no kill came before the end");
}

#[test]
fn taken_pid_is_an_error_and_everything_is_undone() {
    with_each_dumper("taken_pid_is_an_error_and_everything_is_undone", |dir, dumper| {
        let tree = Tree::start(dir, &SMALL);
        let images = dir.join("images");
        tree.dump(&images, dumper);
        tree.restore(&images);
        // The tree runs, so none of its ids is free.
        assert_eq!(thaw(&images, &[]).code(), Some(1));
        let text = errors(&images.join("thaw.log"));
        assert!(text.contains("in use by process"), "{text}");
        assert_eq!(tree.alive().len(), tree.pids.len(), "the running tree was touched");
        tree.kill();
    });
}

#[test]
fn any_number_of_workers_restores_the_same_tree() {
    with_each_dumper("any_number_of_workers_restores_the_same_tree", |dir, dumper| {
        let mut tree = Tree::start(dir, &["6", "2", "2"]);
        let images = dir.join("images");
        tree.dump(&images, dumper);
        for workers in ["1", "2", "3", "6", "50"] {
            assert!(thaw(&images, &["--workers", workers]).success(), "{workers} workers");
            let answers = tree.ask();
            assert!(answers.values().all(|answer| answer.intact), "{workers} workers");
            tree.kill();
            tree.put_status_back(0);
        }
    });
}

#[test]
fn stopped_on_request_is_stopped_until_continued() {
    with_each_dumper("stopped_on_request_is_stopped_until_continued", |dir, dumper| {
        let mut tree = Tree::start(dir, &SMALL);
        let images = dir.join("images");
        tree.dump(&images, dumper);
        assert!(thaw(&images, &["--leave-stopped"]).success());
        for pid in &tree.pids {
            wait_for_stop(*pid);
        }
        for &pid in &tree.pids {
            kill(Pid::from_raw(pid), Signal::SIGCONT).expect("it exists");
        }
        tree.ask();
        tree.kill();
    });
}

#[test]
fn attached_restore_passes_on_how_the_tree_ended() {
    with_each_dumper("attached_restore_passes_on_how_the_tree_ended", |dir, dumper| {
        let mut tree = Tree::start(dir, &["1", "1", "0"]);
        let images = dir.join("images");
        tree.dump(&images, dumper);
        let mut restorer = std::process::Command::new(env!("CARGO_BIN_EXE_thaw"))
            .args(["restore", "-o", "thaw.log", "-D"])
            .arg(&images)
            .spawn()
            .expect("thaw runs");
        wait_for_process(tree.root());
        tree.ask();
        kill(Pid::from_raw(tree.root()), Signal::SIGTERM).expect("it runs");
        let status = restorer.wait().expect("thaw can be waited for");
        assert_eq!(status.code(), Some(128 + 15));
    });
}

/// The stop takes effect before a process's first instruction, which may not have come yet.
fn wait_for_stop(pid: i32) {
    let begin = std::time::Instant::now();
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it exists");
        let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
        match state {
            Some('T') => return,
            Some('R') => std::thread::yield_now(),
            other => panic!("process {pid} is in state {other:?}"),
        }
        assert!(begin.elapsed().as_secs() < 30, "process {pid} does not stop");
    }
}

/// Waits until a process has its own program again.
fn wait_for_process(pid: i32) {
    let begin = std::time::Instant::now();
    loop {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if maps.contains("/workload") && status.contains("TracerPid:\t0") {
            return;
        }
        assert!(begin.elapsed().as_secs() < 30, "process {pid} does not come");
        std::thread::yield_now();
    }
}
