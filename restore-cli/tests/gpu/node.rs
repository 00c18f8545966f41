//! What happens inside a node: parts, described by JSON, done one after the other in one node.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Holds the parts in the run that is inside.
const PARTS: &str = "THAW_TEST_PARTS";
/// Ids of trees begin here, out of the way of what a node and a restore need for themselves.
const TREE_PIDS: u32 = 400;
/// Ids of what restores.
const RESTORER_PIDS: u32 = 4000;
/// Longest wait for a tree to be ready, to answer, or to end.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest that one command may take, in seconds.
const COMMAND_MAX: &str = "120";

/// One thing to do on a node.
pub(crate) enum Part {
    /// A tree of this layout is started, asked, and dumped with these arguments.
    Dump { images: PathBuf, layout: Vec<String>, args: Vec<String> },
    /// A tree is restored with these arguments, asked, and ended.
    Restore { images: PathBuf, args: Vec<String> },
    /// A tree is restored, left stopped, and dumped again before it has run.
    Again { images: PathBuf, args: Vec<String>, again: PathBuf },
}

impl Part {
    fn to_json(&self) -> Value {
        match self {
            Self::Dump { images, layout, args } => {
                json!({ "do": "dump", "images": images, "layout": layout, "args": args })
            }
            Self::Restore { images, args } => {
                json!({ "do": "restore", "images": images, "args": args })
            }
            Self::Again { images, args, again } => {
                json!({ "do": "again", "images": images, "args": args, "again": again })
            }
        }
    }
}

/// What came of a part.
#[derive(Debug)]
pub(crate) struct Came {
    /// Exit code of thaw.
    pub(crate) code: i64,
    /// What thaw said on standard error.
    pub(crate) said: String,
    /// What each process answered, by its number in the layout: before a dump, or after a restore.
    pub(crate) answers: Vec<Value>,
    /// Processes of the tree that were there after a dump or restore that failed, or that should
    /// have gone.
    pub(crate) left: Vec<i64>,
}

impl Came {
    fn of(value: &Value) -> Self {
        let list = |name: &str| value[name].as_array().cloned().unwrap_or_default();
        let mut answers = list("answers");
        answers.sort_by_key(|answer| answer["process"].as_u64());
        Self {
            code: value["code"].as_i64().unwrap_or(-1),
            said: value["said"].as_str().unwrap_or_default().to_owned(),
            answers,
            left: list("left").iter().filter_map(Value::as_i64).collect(),
        }
    }
}

/// Does parts on one node with these options.
pub(crate) fn run(options: &[&str], dir: &Path, parts: &[Part]) -> Vec<Came> {
    let results = dir.join("results");
    let _ = fs::remove_file(&results);
    let parts = Value::from(parts.iter().map(Part::to_json).collect::<Vec<_>>());
    let order = json!({ "dir": dir, "parts": parts });
    let output = Command::new("timeout")
        .args(["--kill-after=5", "250", env!("CARGO_BIN_EXE_thaw"), "node", "run"])
        .args(options)
        .arg("--")
        .arg(std::env::current_exe().expect("the test binary has a path"))
        .args(["--exact", "inside_a_node", "--nocapture", "--test-threads=1"])
        .env(PARTS, order.to_string())
        .stdin(Stdio::null())
        .output()
        .expect("timeout is part of every Debian system");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "on the node: {}\n{said}", output.status);
    let text = fs::read_to_string(&results).expect("each part has left its result");
    text.lines().map(|line| Came::of(&serde_json::from_str(line).expect("JSON"))).collect()
}

/// Inside: does what the variable says.
pub(crate) fn carry_out() {
    let Ok(order) = std::env::var(PARTS) else { return };
    let order: Value = serde_json::from_str(&order).expect("JSON");
    let path = |value: &Value| PathBuf::from(value.as_str().expect("a path"));
    nix::sys::prctl::set_child_subreaper(true).expect("it is allowed");
    let inside = Inside { dir: path(&order["dir"]) };
    for part in order["parts"].as_array().expect("a list") {
        let images = path(&part["images"]);
        let strings = |name: &str| -> Vec<String> {
            let list = part[name].as_array().expect("a list").iter();
            list.map(|text| text.as_str().expect("a text").to_owned()).collect()
        };
        let result = match part["do"].as_str() {
            Some("dump") => inside.dump(&images, &strings("layout"), &strings("args")),
            Some("restore") => inside.restore(&images, &strings("args")),
            _ => inside.again(&images, &strings("args"), &path(&part["again"])),
        };
        let results = inside.dir.join("results");
        let before = fs::read_to_string(&results).unwrap_or_default();
        fs::write(&results, format!("{before}{result}\n")).expect("room");
    }
}

struct Inside {
    dir: PathBuf,
}

impl Inside {
    fn status(&self) -> PathBuf {
        self.dir.join("status")
    }

    fn dump(&self, images: &Path, layout: &[String], args: &[String]) -> Value {
        next_pid(TREE_PIDS);
        let test = std::env::current_exe().expect("the test binary has a path");
        let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
        let mut tree = Command::new(profile.join("examples/gpu_tree"));
        tree.arg(self.status()).args(layout).current_dir("/");
        // Its standard output ends when all processes are ready.
        let output = tree.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts");
        let root = output.id() as i32;
        let output = output.wait_with_output_end();
        assert_eq!(output, "", "the tree says nothing when all is well");
        let pids = tree_pids();
        let answers = self.ask(&pids);
        fs::create_dir_all(images).expect("room");
        next_pid(RESTORER_PIDS);
        let root = root.to_string();
        let mut args = args.to_vec();
        args.extend(["-t".to_owned(), root, "-D".to_owned(), images.display().to_string()]);
        let (code, said) = thaw("dump", &args);
        reap();
        let gone = code == 0 && !args.iter().any(|arg| arg == "-R");
        let left = tree_pids();
        let answers = if gone { answers } else { self.ask(&pids) };
        if !gone {
            self.end(&pids);
        }
        let left = if gone { left } else { tree_pids() };
        json!({ "code": code, "said": said, "answers": answers, "left": left })
    }

    fn restore(&self, images: &Path, args: &[String]) -> Value {
        next_pid(RESTORER_PIDS);
        let mut all = vec!["-d".to_owned(), "-D".to_owned(), images.display().to_string()];
        all.extend(args.iter().cloned());
        let (code, said) = thaw("restore", &all);
        reap();
        if code != 0 {
            let left = tree_pids();
            return json!({ "code": code, "said": said, "answers": [], "left": left });
        }
        let pids = tree_pids();
        let answers = self.ask(&pids);
        self.end(&pids);
        json!({ "code": code, "said": said, "answers": answers, "left": tree_pids() })
    }

    fn again(&self, images: &Path, args: &[String], again: &Path) -> Value {
        next_pid(RESTORER_PIDS);
        let mut all = vec!["-d".to_owned(), "-s".to_owned(), "-D".to_owned()];
        all.push(images.display().to_string());
        all.extend(args.iter().cloned());
        let (code, said) = thaw("restore", &all);
        if code != 0 {
            let left = tree_pids();
            return json!({ "code": code, "said": said, "answers": [], "left": left });
        }
        fs::create_dir_all(again).expect("room");
        let root = tree_pids().first().copied().expect("the tree is there").to_string();
        let args = ["-t".to_owned(), root, "-D".to_owned(), again.display().to_string()];
        let (code, said) = thaw("dump", &args);
        reap();
        json!({ "code": code, "said": said, "answers": [], "left": tree_pids() })
    }

    /// Asks every process how it is, and waits for all answers.
    fn ask(&self, pids: &[i32]) -> Vec<Value> {
        let lines = || -> Vec<String> {
            let text = fs::read_to_string(self.status()).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        };
        let seen = lines().len();
        for &pid in pids {
            kill(Pid::from_raw(pid), Signal::SIGUSR1).expect("it is there");
        }
        wait_until("all processes answer", || lines().len() >= seen + pids.len());
        let answers = lines();
        answers[seen..].iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn end(&self, pids: &[i32]) {
        for &pid in pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        wait_until("the tree ends", || {
            reap();
            tree_pids().is_empty()
        });
    }
}

/// What a program says until it closes its standard output.
trait OutputEnd {
    fn wait_with_output_end(self) -> String;
}

impl OutputEnd for std::process::Child {
    fn wait_with_output_end(mut self) -> String {
        use std::io::Read;
        let mut text = String::new();
        let output = self.stdout.take().expect("it was piped");
        let mut output = output;
        output.read_to_string(&mut text).expect("text");
        text
    }
}

/// The next process gets the id after this one.
fn next_pid(pid: u32) {
    fs::write("/proc/sys/kernel/ns_last_pid", pid.to_string()).expect("root may choose ids");
}

/// Runs thaw; its exit code and what it said.
fn thaw(command: &str, args: &[String]) -> (i64, String) {
    let output = Command::new("timeout")
        .args(["--kill-after=5", COMMAND_MAX, env!("CARGO_BIN_EXE_thaw"), command])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("timeout is part of every Debian system");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().map_or(-1, i64::from), said)
}

/// Processes of the tree, ascending.
fn tree_pids() -> Vec<i32> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").expect("it is mounted").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let state = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if comm.trim() == "gpu_tree" && !state.contains(") Z ") {
            pids.push(pid);
        }
    }
    pids.sort_unstable();
    pids
}

/// Collects what has ended: orphans of the tree come to us.
fn reap() {
    let flags = Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL);
    while waitpid(None, flags).is_ok_and(|status| status.pid().is_some()) {}
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < WAIT_MAX, "{what}: not within {WAIT_MAX:?}");
        std::thread::sleep(Duration::from_millis(1)); // between two looks at a condition
    }
}
