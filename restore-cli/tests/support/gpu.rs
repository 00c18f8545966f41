//! Trees of GPU processes for tests: the program `gpu_tree`, on an emulated node.
//!
//! A test of this kind runs a third time, inside a node, as the node's command. So it sees device
//! files as a program does, and whatever it starts ends with the node.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Tree, live_node};

/// Set in the run of a test that is inside a node.
const INSIDE_NODE: &str = "THAW_TEST_INSIDE_NODE";
/// Longest wait for a tree to answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);

/// Runs `body` inside a node that `thaw node run` makes with these options, or skips with a reason.
pub(crate) fn in_node(name: &str, options: &[&str], body: impl FnOnce(&Path)) {
    if let Some(dir) = std::env::var_os(INSIDE_NODE) {
        return body(Path::new(&dir));
    }
    live_node(name, |dir| {
        let output = node_command(name, options, dir).output().expect("thaw starts");
        report(&output);
        assert!(output.status.success(), "{name} inside a node: {}", output.status);
    });
}

/// A node whose command is this test again; it gets a folder.
pub(crate) fn node_command(name: &str, options: &[&str], dir: &Path) -> Command {
    let test = std::env::current_exe().expect("the test binary has a path");
    let mut node = Command::new(env!("CARGO_BIN_EXE_thaw"));
    node.args(["node", "run"]).args(options).arg("--").arg(test);
    node.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    node.env(INSIDE_NODE, dir).stdin(Stdio::null());
    node
}

/// Whether this is the run inside a node.
pub(crate) fn is_inside_node() -> bool {
    std::env::var_os(INSIDE_NODE).is_some()
}

fn report(output: &Output) {
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
}

/// What one process says of itself; see the head of `gpu_tree`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GpuAnswer {
    pub(crate) process: usize,
    pub(crate) pid: i32,
    pub(crate) rounds: u64,
    pub(crate) wrong: Vec<String>,
    pub(crate) contents: String,
    pub(crate) shared: BTreeMap<String, Vec<u64>>,
    /// Numbers of its descriptors.
    pub(crate) descriptors: Vec<i32>,
}

/// A running `gpu_tree`.
pub(crate) struct GpuTree {
    pub(crate) tree: Tree,
    status: PathBuf,
    answered: usize,
}

impl GpuTree {
    /// Starts a tree of processes as these texts say, and waits until all of it is ready.
    pub(crate) fn start(dir: &Path, processes: &[&str]) -> Self {
        let status = dir.join("status");
        let args = [&[status.to_str().expect("a plain path")], processes].concat();
        let tree = Tree::start_program(dir, "gpu_tree", &args);
        assert_eq!(tree.pids.len(), processes.len(), "not all processes came up: {processes:?}");
        Self { tree, status, answered: 0 }
    }

    /// Asks all processes one after the other, in the order of their numbers: of those that share a
    /// buffer the last one sees what all have written.
    pub(crate) fn ask(&mut self) -> Vec<GpuAnswer> {
        let mut answers: Vec<GpuAnswer> = Vec::new();
        for pid in self.tree.pids.clone() {
            answers.push(self.ask_one(pid));
        }
        answers.sort_by_key(|answer| answer.process);
        answers
    }

    /// Gives the status file the contents that it had at the dump: a restore insists on its size.
    pub(crate) fn put_status_back(&mut self, answered: usize) {
        let text = fs::read_to_string(&self.status).expect("the status file");
        let kept: String = text.split_inclusive('\n').take(answered).collect();
        fs::write(&self.status, kept).expect("the status file");
        self.answered = answered;
    }

    /// How many answers there are.
    pub(crate) fn answered(&self) -> usize {
        self.answered
    }

    fn ask_one(&mut self, pid: i32) -> GpuAnswer {
        kill(Pid::from_raw(pid), Signal::SIGUSR1).expect("every process of the tree lives");
        let begin = Instant::now();
        let line = loop {
            let text = fs::read_to_string(&self.status).expect("the status file");
            if let Some((line, true)) = text.split_inclusive('\n').nth(self.answered).map(whole) {
                break line.to_owned();
            }
            assert!(begin.elapsed() < ANSWER_WAIT_MAX, "process {pid} does not answer");
            std::thread::sleep(Duration::from_millis(2));
        };
        self.answered += 1;
        let answer = parse(&line);
        assert_eq!(answer.pid, pid, "{line}");
        answer
    }

    /// Asks, and expects that everything is as it was and that queues went on since `before`.
    pub(crate) fn check(&mut self, before: &[GpuAnswer], what: &str) -> Vec<GpuAnswer> {
        let after = self.ask();
        for (before, after) in before.iter().zip(&after) {
            assert_eq!(after.wrong, Vec::<String>::new(), "{what}: process {}", after.process);
            assert_eq!(after.contents, before.contents, "{what}: process {}", after.process);
            assert_eq!(after.descriptors, before.descriptors, "{what}: process {}", after.process);
            let is_busy = before.rounds > 0;
            assert!(!is_busy || after.rounds > before.rounds, "{what}: {before:?} {after:?}");
        }
        after
    }

    /// Waits until each process with a queue has finished rounds, and gives what it says then.
    pub(crate) fn settle(&mut self) -> Vec<GpuAnswer> {
        let begin = Instant::now();
        let mut before = self.ask();
        loop {
            let after = self.ask();
            let went_on = |(one, two): (&GpuAnswer, &GpuAnswer)| two.rounds >= one.rounds;
            assert!(before.iter().zip(&after).all(went_on));
            if after.iter().zip(&before).all(|(now, then)| now.rounds == 0 || then.rounds > 0) {
                assert!(after.iter().all(|answer| answer.wrong.is_empty()), "{after:?}");
                return after;
            }
            assert!(begin.elapsed() < ANSWER_WAIT_MAX, "{after:?}");
            before = after;
        }
    }

    /// `thaw dump` with further arguments; the log is in the image directory.
    pub(crate) fn dump_command(&self, images: &Path, args: &[&str]) -> Command {
        fs::create_dir_all(images).expect("a folder");
        self.tree.dump_command(images, args)
    }

    pub(crate) fn kill(&self) {
        self.tree.kill();
    }
}

fn whole(line: &str) -> (&str, bool) {
    (line, line.ends_with('\n'))
}

fn parse(line: &str) -> GpuAnswer {
    let value: serde_json::Value = serde_json::from_str(line).expect("a JSON object");
    let number = |name: &str| value[name].as_u64().unwrap_or_else(|| panic!("{name} in {line}"));
    let object = |name: &str| value[name].as_object().unwrap_or_else(|| panic!("{name} in {line}"));
    let counts = |counts: &serde_json::Value| {
        counts.as_array().expect("a list").iter().filter_map(serde_json::Value::as_u64).collect()
    };
    let wrong = value["wrong"].as_array().expect("a list");
    let mut descriptors: Vec<i32> =
        object("descriptors").keys().map(|number| number.parse().expect("a number")).collect();
    descriptors.sort_unstable();
    GpuAnswer {
        process: number("process") as usize,
        pid: number("pid") as i32,
        rounds: number("rounds"),
        wrong: wrong.iter().map(|text| text.to_string()).collect(),
        contents: value["contents"].as_str().expect("a text").to_owned(),
        shared: object("shared").iter().map(|(name, list)| (name.clone(), counts(list))).collect(),
        descriptors,
    }
}
