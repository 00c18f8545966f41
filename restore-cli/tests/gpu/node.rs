//! What happens inside a node: parts, described by JSON, done one after the other in one node.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::give_up;
use super::support::comes_about;
use super::support::eye::{Eye, all_pids, next_pid, reap};

/// Holds the parts in the run that is inside.
const PARTS: &str = "THAW_TEST_PARTS";
/// Ids of trees begin here, out of the way of what a node and a restore need for themselves.
const TREE_PIDS: u32 = 400;
/// Ids of what restores.
pub(super) const RESTORER_PIDS: u32 = 4000;
/// Longest wait for a tree to be ready, to answer, or to end.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest that all parts of one node may take, in seconds.
const BATCH_MAX: &str = "250";
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
    /// A tree is restored, asked, and dumped again.
    RestoreAndDump { images: PathBuf, args: Vec<String>, again: PathBuf },
    /// A tree of this layout is started, and dumped once under each of these rules for faults, each
    /// time with a folder for images of its own, after which it goes on (`-R` is for the caller to
    /// say); what comes of each is a result. Then it is ended.
    DumpsUnder { images: PathBuf, layout: Vec<String>, args: Vec<String>, faults: Vec<String> },
    /// A tree is restored under each of these rules for faults, ended if it lives; what comes of
    /// each is a result.
    RestoresUnder { images: PathBuf, args: Vec<String>, faults: Vec<String> },
    /// A tree is restored again and again, given up at another event each time, until that is too
    /// late; what comes of each is a result.
    GivesUp { images: PathBuf },
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
            Self::RestoreAndDump { images, args, again } => {
                let what = "restore and dump";
                json!({ "do": what, "images": images, "args": args, "again": again })
            }
            Self::DumpsUnder { images, layout, args, faults } => {
                let what = "dumps under";
                json!({ "do": what, "images": images, "layout": layout, "args": args,
                    "faults": faults })
            }
            Self::RestoresUnder { images, args, faults } => {
                json!({ "do": "restores under", "images": images, "args": args, "faults": faults })
            }
            Self::GivesUp { images } => json!({ "do": "give up", "images": images }),
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
    /// What is there that should not be: processes, mounts, memory of GPUs, images of a dump that
    /// failed.
    pub(crate) left: Vec<String>,
    /// Calls that the rules for faults have changed.
    pub(crate) hits: u64,
    /// When thaw ran, in nanoseconds of the monotonic clock.
    pub(crate) ran: (u64, u64),
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
            left: list("left").iter().map(ToString::to_string).collect(),
            hits: value["hits"].as_u64().unwrap_or(0),
            ran: (value["ran"][0].as_u64().unwrap_or(0), value["ran"][1].as_u64().unwrap_or(0)),
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
        .args(["--kill-after=5", BATCH_MAX, env!("CARGO_BIN_EXE_thaw"), "node", "run"])
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
    let mut inside = Inside { dir: path(&order["dir"]), eye: Eye::on_node(&[]) };
    for part in order["parts"].as_array().expect("a list") {
        let images = path(&part["images"]);
        let strings = |name: &str| -> Vec<String> {
            let list = part[name].as_array().expect("a list").iter();
            list.map(|text| text.as_str().expect("a text").to_owned()).collect()
        };
        let results = match part["do"].as_str() {
            Some("dump") => vec![inside.dump(&images, &strings("layout"), &strings("args"))],
            Some("restore") => vec![inside.restore(&images, &strings("args"), "")],
            Some("again") => {
                vec![inside.again(&images, &strings("args"), &path(&part["again"]), true)]
            }
            Some("restore and dump") => {
                vec![inside.again(&images, &strings("args"), &path(&part["again"]), false)]
            }
            Some("dumps under") => {
                let (layout, args) = (strings("layout"), strings("args"));
                inside.dumps_under(&images, &layout, &args, &strings("faults"))
            }
            Some("give up") => give_up::sweep(&mut inside, &images),
            _ => {
                let args = strings("args");
                let faults = strings("faults");
                faults.iter().map(|rules| inside.restore(&images, &args, rules)).collect()
            }
        };
        let mut file = fs::File::options();
        let file = file.append(true).create(true).open(inside.dir.join("results"));
        let mut file = file.expect("a file of results");
        for result in results {
            writeln!(file, "{result}").expect("room");
        }
    }
}

pub(super) struct Inside {
    dir: PathBuf,
    pub(super) eye: Eye,
}

impl Inside {
    fn status(&self) -> PathBuf {
        self.dir.join("status")
    }

    /// Starts a tree, waits until it is ready, and gives the pids of its processes.
    fn start(&self, layout: &[String]) -> Vec<i32> {
        next_pid(TREE_PIDS);
        let test = std::env::current_exe().expect("the test binary has a path");
        let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
        let mut tree = Command::new(profile.join("examples/gpu_tree"));
        tree.arg(self.status()).args(layout).current_dir("/");
        // Its standard output ends when all processes are ready.
        let tree = tree.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts");
        assert_eq!(tree.wait_with_output_end(), "", "the tree says nothing when all is well");
        let pids = tree_pids();
        assert_eq!(pids.len(), layout.len(), "all processes of the layout are there");
        pids
    }

    fn dump(&mut self, images: &Path, layout: &[String], args: &[String]) -> Value {
        let before = self.eye.look();
        let pids = self.start(layout);
        let answers = self.ask(&pids);
        let (code, said, ran) = self.thaw_dump(images, args, pids[0]);
        let gone = code == 0 && !args.iter().any(|arg| arg == "-R");
        let answers = if gone { answers } else { self.ask(&pids) };
        if !gone {
            self.end(&pids);
        }
        let left = self.eye.left(&before);
        json!({ "code": code, "said": said, "answers": answers, "left": left, "ran": ran })
    }

    fn thaw_dump(&self, images: &Path, args: &[String], root: i32) -> (i64, String, [u64; 2]) {
        fs::create_dir_all(images).expect("room");
        next_pid(RESTORER_PIDS);
        let mut args = args.to_vec();
        let (root, images) = (root.to_string(), images.display().to_string());
        args.extend(["-t".to_owned(), root, "-D".to_owned(), images]);
        let result = thaw("dump", &args);
        reap();
        result
    }

    /// One tree, dumped under one rule after the other for as long as it is there.
    fn dumps_under(
        &mut self,
        images: &Path,
        layout: &[String],
        args: &[String],
        faults: &[String],
    ) -> Vec<Value> {
        let pids = self.start(layout);
        let mut results = Vec::new();
        for (number, rules) in faults.iter().enumerate() {
            let images = images.join(number.to_string());
            let before = self.eye.look();
            self.eye.set_faults(rules);
            let (code, said, ran) = self.thaw_dump(&images, args, pids[0]);
            let hits = self.eye.set_faults("");
            let mut left = Vec::new();
            if code != 0 {
                let found = fs::read_dir(&images).expect("the folder stays").flatten();
                left.extend(found.map(|entry| entry.path().display().to_string()));
            }
            left.extend(self.eye.left(&before));
            let answers = self.ask_until_rounds_grow(&pids);
            results.push(json!({ "code": code, "said": said, "answers": answers, "left": left,
                "hits": hits, "ran": ran }));
        }
        self.end(&pids);
        results
    }

    /// What all say when each queue has done work since this was called.
    fn ask_until_rounds_grow(&self, pids: &[i32]) -> Vec<Value> {
        let rounds = |answers: &[Value]| -> Vec<u64> {
            answers.iter().filter_map(|answer| answer["rounds"].as_u64()).collect()
        };
        let mut answers = self.ask(pids);
        let first = rounds(&answers);
        wait_until("rounds go on", || {
            answers = self.ask(pids);
            let is_broken = answers.iter().any(|answer| answer["wrong"] != json!([]));
            let now = rounds(&answers);
            let mut busy = first.iter().zip(now).filter(|(first, _)| **first > 0);
            is_broken || busy.all(|(first, now)| now > *first)
        });
        answers
    }

    fn restore(&mut self, images: &Path, args: &[String], rules: &str) -> Value {
        let before = self.eye.look();
        self.eye.set_faults(rules);
        let (code, mut said, ran) = self.thaw_restore(images, &["-d"], args);
        let hits = self.eye.set_faults("");
        let mut answers = Vec::new();
        let mut left = Vec::new();
        if code == 0 {
            left.extend(self.judge(&mut said));
            let pids = tree_pids();
            answers = self.ask(&pids);
            self.end(&pids);
        }
        left.extend(self.eye.left(&before));
        json!({ "code": code, "said": said, "answers": answers, "left": left, "hits": hits,
            "ran": ran })
    }

    fn thaw_restore(
        &self,
        images: &Path,
        own: &[&str],
        args: &[String],
    ) -> (i64, String, [u64; 2]) {
        next_pid(RESTORER_PIDS);
        let mut all: Vec<String> = own.iter().map(|&arg| arg.to_owned()).collect();
        let trace = self.dir.join("trace");
        for (option, path) in [("-D", images), ("--trace", trace.as_path())] {
            all.extend([option.to_owned(), path.display().to_string()]);
        }
        all.extend(args.iter().cloned());
        let result = thaw("restore", &all);
        reap();
        result
    }

    /// A restore that went well was a legal one.
    fn judge(&self, said: &mut String) -> Option<String> {
        let trace = self.dir.join("trace").display().to_string();
        let (code, report, _) = thaw("trace", &["check".to_owned(), trace.clone()]);
        said.push_str(&report);
        (code != 0).then(|| format!("a trace that is not legal: {trace}"))
    }

    /// Restores, and dumps again: before it has run, or after it was asked.
    fn again(&mut self, images: &Path, args: &[String], again: &Path, stopped: bool) -> Value {
        let before = self.eye.look();
        let own: &[&str] = if stopped { &["-d", "-s"] } else { &["-d"] };
        let (code, mut said, ran) = self.thaw_restore(images, own, args);
        let (mut left, mut answers) = (Vec::new(), Vec::new());
        let mut result = code;
        if code == 0 {
            left.extend(self.judge(&mut said));
            let pids = tree_pids();
            if !stopped {
                answers = self.ask(&pids);
            }
            let (code, more, _) = self.thaw_dump(again, &[], pids[0]);
            said.push_str(&more);
            result = code;
        }
        left.extend(self.eye.left(&before));
        json!({ "code": result, "said": said, "answers": answers, "left": left,
            "ran": ran })
    }

    /// Asks every process how it is, and waits for all answers.
    pub(super) fn ask(&self, pids: &[i32]) -> Vec<Value> {
        let lines = || -> Vec<String> {
            let text = fs::read_to_string(self.status()).unwrap_or_default();
            // A line that is still being written has no end.
            text.split_inclusive('\n').filter(|it| it.ends_with('\n')).map(str::to_owned).collect()
        };
        let seen = lines().len();
        for &pid in pids {
            kill(Pid::from_raw(pid), Signal::SIGUSR1).expect("it is there");
        }
        wait_until("all processes answer", || lines().len() >= seen + pids.len());
        let answers = lines();
        let answers = answers[seen..].iter().map(|line| serde_json::from_str(line));
        let mut answers: Vec<Value> = answers.map(|answer| answer.expect("JSON")).collect();
        answers.sort_by_key(|answer| answer["process"].as_u64());
        answers
    }

    pub(super) fn end(&self, pids: &[i32]) {
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

/// Runs thaw; its exit code, what it said, and when it ran.
fn thaw(command: &str, args: &[String]) -> (i64, String, [u64; 2]) {
    let begin_ns = now_ns();
    let output = Command::new("timeout")
        .args(["--kill-after=5", COMMAND_MAX, env!("CARGO_BIN_EXE_thaw"), command])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("timeout is part of every Debian system");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stderr) + &text(&output.stdout);
    let code = output.status.code().map_or(-1, i64::from);
    (code, said, [begin_ns, now_ns()])
}

/// The clock of the node's log.
fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("Linux has it");
    Duration::from(now).as_nanos() as u64
}

/// Processes of the tree, ascending.
pub(super) fn tree_pids() -> Vec<i32> {
    let comm = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    all_pids().into_iter().filter(|pid| comm(pid).trim() == "gpu_tree").collect()
}

fn wait_until(what: &str, done: impl FnMut() -> bool) {
    assert!(comes_about(WAIT_MAX, done), "{what}: not within {WAIT_MAX:?}");
}
