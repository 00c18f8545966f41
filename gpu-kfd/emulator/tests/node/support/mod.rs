//! Live nodes for tests: each test runs again in a pid and mount namespace of its own with a time
//! limit, so that whatever goes wrong ends with it. What a machine cannot run is printed as
//! skipped.

#![allow(dead_code)] // each test binary uses a part

pub(crate) mod calls;
pub(crate) mod client;
pub(crate) mod process;
pub(crate) mod stub;

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kfd_emulator::{Node, NodeFiles, StartError};
use stub::{Record, Stub};

/// Set in the run of a test that is inside its namespace.
const INSIDE: &str = "KFD_TEST_INSIDE";
/// Longest that one live test may take.
const LIMIT_SECONDS: &str = "120";
/// Longest wait for something that must happen.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(20);

/// Runs `body` as init of a pid and mount namespace of its own, or skips with a reason.
pub(crate) fn live(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    if let Some(reason) = missing() {
        return skip(name, &reason);
    }
    let status = inside(name).status().expect("timeout and unshare are part of every Debian");
    assert!(status.success(), "{name} inside its namespace: {status}");
}

/// This test binary, as init of namespaces of its own, running one test.
fn inside(name: &str) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=5", LIMIT_SECONDS])
        .args(["unshare", "--fork", "--pid", "--mount-proc", "--kill-child", "--"])
        .arg(std::env::current_exe().expect("the test binary has a path"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::null());
    command
}

/// Why live tests cannot run here.
fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let mut namespace = Command::new("unshare");
    namespace.args(["--fork", "--pid", "--mount-proc", "true"]).stderr(Stdio::null());
    if !namespace.status().is_ok_and(|status| status.success()) {
        return Some("cannot make a pid namespace".to_owned());
    }
    match Node::start(files(1), Box::new(Stub::new(&Record::default()))) {
        Err(StartError::Mount(error)) => Some(error.to_string()),
        // Anything else is for the test to say.
        _ => None,
    }
}

pub(crate) fn skip(name: &str, reason: &str) {
    println!("SKIPPED {name}: {reason}");
    if let Some(path) = std::env::var_os("THAW_SKIPS") {
        let file = File::options().append(true).create(true).open(path);
        let _ = file.and_then(|mut file| writeln!(file, "{name}: {reason}"));
    }
}

/// A node with so many GPUs, from `renderD128` on, and nothing in `/sys`.
pub(crate) fn files(gpus: u32) -> NodeFiles {
    NodeFiles { render_minors: (128..128 + gpus).collect(), ..NodeFiles::default() }
}

/// A node with one GPU and a stub for a driver, and what the stub notes.
pub(crate) fn node() -> (Node, Record) {
    node_with(1)
}

pub(crate) fn node_with(gpus: u32) -> (Node, Record) {
    let record = Record::default();
    let node = Node::start(files(gpus), Box::new(Stub::new(&record))).expect("a node");
    (node, record)
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < WAIT_MAX, "{what} has not come");
        std::thread::yield_now();
    }
}
