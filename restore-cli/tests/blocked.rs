//! A program does not notice that it was checkpointed: what it was blocked in goes on, with the
//! time that was left.

mod support;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitPidFlag, waitpid};
use support::{Dumper, Tree, live};

/// How long the calls wait, and when in it the dump comes.
const WAIT: Duration = Duration::from_secs(4);
const DUMPED_AFTER: Duration = Duration::from_millis(1500);
/// Calls, and the parent that waits for them.
const LINES: usize = 12;
/// How much earlier or later than due a call may return: less than what had passed at the dump, so
/// that a call that begins anew is found.
const SLACK: Duration = Duration::from_millis(1200);

/// Waits until all have said how their call ended; when the last of them did.
fn lines(status: &Path) -> (Vec<String>, Duration) {
    let begin = Instant::now();
    loop {
        while waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL))
            .is_ok_and(|status| status.pid().is_some())
        {}
        let text = fs::read_to_string(status).unwrap_or_default();
        if text.lines().count() == LINES {
            return (text.lines().map(str::to_owned).collect(), begin.elapsed());
        }
        assert!(begin.elapsed() < 3 * WAIT, "after {:?}: {text}", begin.elapsed());
        std::thread::sleep(Duration::from_millis(5)); // it is time that is waited for here
    }
}

fn start(dir: &Path) -> (Tree, std::path::PathBuf) {
    let status = dir.join("status");
    let seconds = WAIT.as_secs().to_string();
    let args = [status.to_str().expect("a plain path"), &seconds];
    let tree = Tree::start_program(dir, "blocked", &args);
    assert_eq!(tree.pids.len(), LINES, "a parent and a child for each call");
    std::thread::sleep(DUMPED_AFTER); // it is time that is measured here
    (tree, status)
}

fn check(status: &Path, what: &str) {
    let (lines, after) = lines(status);
    let bad: Vec<&String> = lines.iter().filter(|line| !line.contains(" ok ")).collect();
    assert!(bad.is_empty(), "{what}: {bad:?}");
    let left = WAIT - DUMPED_AFTER;
    assert!(after < left + SLACK && after + SLACK > left, "{what}: {after:?}, left was {left:?}");
    println!("{what}: all calls ended after {after:?}; {left:?} were left");
}

#[test]
fn blocked_calls_go_on_after_a_restore_with_the_time_that_was_left() {
    let name = "blocked_calls_go_on_after_a_restore_with_the_time_that_was_left";
    live(name, |dir: &Path| {
        let (tree, status) = start(dir);
        let images = dir.join("images");
        tree.dump(&images, Dumper::Own);
        assert_eq!(fs::read_to_string(&status).expect("it was made"), "", "none has noticed");
        // Longer than what was left: only time in the call counts.
        std::thread::sleep(WAIT - DUMPED_AFTER);
        tree.restore(&images);
        // Absolute times have passed meanwhile; these calls end at once, as they should.
        check(&status, "restored");
        tree.kill();
    });
}

#[test]
fn blocked_calls_go_on_in_a_tree_that_is_left_running() {
    live("blocked_calls_go_on_in_a_tree_that_is_left_running", |dir: &Path| {
        let (tree, status) = start(dir);
        let images = dir.join("images");
        fs::create_dir(&images).expect("a folder");
        assert!(tree.dump_command(&images, &["-R"]).status().expect("thaw runs").success());
        check(&status, "left running");
        tree.kill();
    });
}
