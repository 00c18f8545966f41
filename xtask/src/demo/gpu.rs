//! Two processes on two GPUs die on one machine and go on on another.
//!
//! Each machine is an emulated node; what happens there is done by this program again, as the
//! node's command. The second node has other GPU ids and render nodes, and holds the last call of
//! the restore up for a moment, so that it can be seen that queues stand still until then.

use std::collections::BTreeMap;
use std::fs;
use std::io::IoSliceMut;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use serde_json::Value;

use crate::command;
use crate::gpu_tree::{self, living, next_pid, wait_until};

/// Which part the run inside a node is.
const PART: &str = "XTASK_DEMO_PART";
/// The tree: two processes, each with /dev/kfd and two render nodes, memory on both GPUs, and a
/// queue on each that copies and raises events all the time.
const LAYOUT: [&str; 2] = [
    "fork:1 kfd render:0 render:1 vram:0:8M vram:1:4M gtt:0:1M queue:0:256K queue:1:256K",
    "kfd render:0 render:1 vram:0:4M vram:1:8M gtt:1:1M queue:0:256K queue:1:256K",
];
/// The second machine: its seed, ids and minors differ; RESUME takes a while.
const RESUME_MS: u64 = 60;
const ELSEWHERE: [&str; 8] =
    ["--seed", "7", "--gpu-ids", "4711,4712", "--minors", "133,131", "--fault", "CRIU_RESUME=60ms"];

type Result<T> = std::result::Result<T, String>;

/// The part of a run that is inside a node.
pub(super) fn inside() -> Option<Result<()>> {
    let part = std::env::var(PART).ok()?;
    let demo = Demo::new();
    Some(match part.as_str() {
        "first" => demo.first(),
        _ => demo.second(),
    })
}

/// Both machines, one after the other.
pub(super) fn run() -> Result<()> {
    println!("Building thaw and a program that uses GPUs ...");
    super::build()?;
    let demo = Demo::new();
    let _ = fs::remove_dir_all(&demo.folder);
    fs::create_dir_all(&demo.images).map_err(|error| error.to_string())?;
    println!("\nMachine A: two emulated MI250X GPUs (thaw node run --gpus 2)");
    demo.node(&[], "first")?;
    println!("\nMachine B: the same, but GPUs with other ids and render nodes");
    demo.node(&ELSEWHERE, "second")?;
    println!(
        "\nThe picture of who restored what when: {}",
        demo.folder.join("restore.svg").display()
    );
    println!("All of it as a page: {}", demo.folder.join("restore.html").display());
    println!("The images: {} (thaw show -D, thaw image x)", demo.images.display());
    Ok(())
}

struct Demo {
    folder: PathBuf,
    images: PathBuf,
    thaw: PathBuf,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Demo {
    fn new() -> Self {
        let folder = command::root().join("target/demo");
        let images = folder.join("images");
        Self { images, folder, thaw: command::quick_folder().join("thaw") }
    }

    fn node(&self, options: &[&str], part: &str) -> Result<()> {
        let program = std::env::current_exe().map_err(text)?;
        let mut node = Command::new(&self.thaw);
        node.args(["node", "run", "--gpus", "2"]).args(options).arg("--");
        node.arg(program).arg("demo").env(PART, part).stdin(Stdio::null());
        command::run(&mut node)
    }

    fn first(&self) -> Result<()> {
        next_pid(300)?;
        let root = gpu_tree::start(&command::quick_folder(), &self.status(), &LAYOUT)?;
        let root = root.to_string();
        let before = self.ask()?;
        println!("1. A parent and its child use both GPUs: six device files.");
        before.iter().for_each(Answer::print);
        fs::write(self.folder.join("before"), lines(&before)).map_err(text)?;
        next_pid(2000)?;
        self.run(&["dump", "-t", &root])?;
        let log = fs::read_to_string(self.images.join("dump.log")).unwrap_or_default();
        let frozen = log.rsplit_once("frozen for ").and_then(|(_, rest)| rest.split(' ').next());
        println!(
            "2. thaw dump -t {root}: {:.1} MiB of images; everything stood still for {:.1} ms.",
            size(&self.images) as f64 / f64::from(1 << 20),
            frozen.and_then(|us| us.parse::<f64>().ok()).unwrap_or(0.0) / 1e3,
        );
        match living() {
            none if none.is_empty() => println!("3. Both processes are dead; so is the machine."),
            some => return Err(format!("processes {some:?} are still there")),
        }
        Ok(())
    }

    fn second(&self) -> Result<()> {
        let before = answers(&fs::read_to_string(self.folder.join("before")).map_err(text)?);
        let queues = self.queues()?;
        next_pid(2000)?;
        let trace = self.folder.join("trace.jsonl");
        let mut restore = Command::new(&self.thaw);
        restore.args(["restore", "-d", "-v4", "-o", "restore.log", "--verify", "-D"]);
        restore.arg(&self.images).arg("--trace").arg(&trace).stdin(Stdio::null());
        restore.arg("--report").arg(self.folder.join("restore.html"));
        let mut restore = restore.spawn().map_err(text)?;
        // Until it ends, the queues are looked at again and again.
        let mut looks = Vec::new();
        wait_until("the restore ends", || {
            looks.extend(places(&queues).ok().map(|look| (now_ns(), look)));
            !matches!(restore.try_wait(), Ok(None))
        })?;
        let status = restore.wait().map_err(text)?;
        if !status.success() {
            let log = fs::read_to_string(self.images.join("restore.log")).unwrap_or_default();
            return Err(format!("thaw restore: {status}\n{log}"));
        }
        println!("4. thaw restore: both processes run again, each restored by its own worker:\n");
        self.show(&["trace", "view", "--format", "text"], &trace)?;
        self.show(&["trace", "check"], &trace)?;
        let picture = self.folder.join("restore.svg");
        let picture = picture.to_str().ok_or("a path that is no text")?;
        self.show(&["trace", "view", "-o", picture], &trace)?;
        let looks = while_stopped(&trace, &looks)?;
        println!(
            "\n5. From when all was complete until the driver was told to resume, {} queues did \
             not move ({} looks).",
            queues.len(),
            looks
        );
        let mut after = self.ask()?;
        wait_until("all queues go on", || {
            let goes_on = |(b, a): (&Answer, &Answer)| a.rounds > b.rounds;
            if before.iter().zip(&after).all(goes_on) {
                return true;
            }
            after = self.ask().unwrap_or_default();
            false
        })?;
        check(&before, &after)?;
        println!("6. They go on, with GPU memory intact on all four (process, GPU) pairs:");
        after.iter().for_each(Answer::print);
        for pid in living() {
            kill(Pid::from_raw(pid), Signal::SIGTERM).map_err(text)?;
        }
        wait_until("the tree ends", || living().is_empty())
    }

    fn status(&self) -> PathBuf {
        self.folder.join("status")
    }

    fn run(&self, args: &[&str]) -> Result<()> {
        let log = format!("{}.log", args[0]);
        let mut thaw = Command::new(&self.thaw);
        thaw.args(args).args(["-v4", "-o", &log, "-D"]).arg(&self.images).stdin(Stdio::null());
        command::run(&mut thaw)
    }

    fn show(&self, args: &[&str], trace: &Path) -> Result<()> {
        command::run(Command::new(&self.thaw).args(args).arg(trace))
    }

    /// Asks every process how it is.
    fn ask(&self) -> Result<Vec<Answer>> {
        let count = || fs::read_to_string(self.status()).unwrap_or_default().lines().count();
        let seen = count();
        let pids = living();
        for &pid in &pids {
            kill(Pid::from_raw(pid), Signal::SIGUSR1).map_err(text)?;
        }
        wait_until("all processes answer", || count() >= seen + pids.len())?;
        let status = fs::read_to_string(self.status()).map_err(text)?;
        let new: Vec<&str> = status.lines().skip(seen).collect();
        Ok(answers(&new.join("\n")))
    }

    /// Where each queue notes how far the GPU has read: process and address, from the images.
    fn queues(&self) -> Result<Vec<(i32, u64)>> {
        let mut queues = Vec::new();
        for entry in fs::read_dir(&self.images).map_err(text)?.flatten() {
            if !entry.file_name().to_string_lossy().starts_with("amdgpu-kfd-") {
                continue;
            }
            let mut decode = Command::new(&self.thaw);
            decode.args(["image", "decode", "-i"]).arg(entry.path());
            let image: Value =
                serde_json::from_str(&command::output(&mut decode)?).map_err(text)?;
            let image = &image["entries"][0];
            let pid = image["pid"].as_i64().unwrap_or(0) as i32;
            let list = image["priv_data"]["queues"].as_array().cloned().unwrap_or_default();
            queues.extend(list.iter().filter_map(|q| Some((pid, q["read_ptr_addr"].as_u64()?))));
        }
        Ok(queues)
    }
}

/// What one process says of itself.
#[derive(Clone, Debug)]
struct Answer {
    pid: i64,
    rounds: u64,
    contents: String,
    wrong: Vec<Value>,
    files: Vec<String>,
}

impl Answer {
    fn print(&self) {
        let Self { pid, rounds, contents, wrong, files } = self;
        let state = if wrong.is_empty() { "every byte as it was written" } else { "DAMAGED" };
        println!("   process {pid}: {rounds} rounds of both queues done; {state} (sum {contents})");
        println!("      {}", files.join("  "));
    }
}

fn answers(lines: &str) -> Vec<Answer> {
    let mut found = BTreeMap::new();
    for value in lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let files = value["descriptors"].as_object().into_iter().flatten();
        let device = |(fd, path): (&String, &Value)| {
            let path = path.as_str()?;
            path.starts_with("/dev/k")
                .then_some(())
                .or(path.starts_with("/dev/dri").then_some(()))?;
            Some((fd.parse::<i32>().ok()?, path.to_owned()))
        };
        let mut files: Vec<(i32, String)> = files.filter_map(device).collect();
        files.sort();
        let answer = Answer {
            pid: value["pid"].as_i64().unwrap_or(0),
            rounds: value["rounds"].as_u64().unwrap_or(0),
            contents: value["contents"].as_str().unwrap_or_default().to_owned(),
            wrong: value["wrong"].as_array().cloned().unwrap_or_default(),
            files: files.into_iter().map(|(fd, path)| format!("{fd}: {path}")).collect(),
        };
        found.insert(answer.pid, answer);
    }
    found.into_values().collect()
}

fn lines(answers: &[Answer]) -> String {
    let line = |answer: &Answer| {
        let Answer { pid, rounds, contents, wrong, .. } = answer;
        let value = serde_json::json!({
            "pid": pid, "rounds": rounds, "contents": contents, "wrong": wrong, "descriptors": {},
        });
        format!("{value}\n")
    };
    answers.iter().map(line).collect()
}

/// The same processes, with the same contents, and queues that have gone on.
fn check(before: &[Answer], after: &[Answer]) -> Result<()> {
    if before.len() != LAYOUT.len() || after.len() != before.len() {
        return Err("not all processes have come back".to_owned());
    }
    for (before, after) in before.iter().zip(after) {
        let same = before.pid == after.pid && before.contents == after.contents;
        if !same || !after.wrong.is_empty() || after.rounds <= before.rounds {
            return Err(format!("process {} has not come back as it was", before.pid));
        }
    }
    Ok(())
}

/// How many looks were taken from when all contents had arrived until the first queues were
/// resumed, which took at least [`RESUME_MS`]; in that time none may have moved.
fn while_stopped(trace: &Path, looks: &[(u64, Vec<u64>)]) -> Result<usize> {
    let trace = fs::read_to_string(trace).map_err(text)?;
    let events: Vec<Value> =
        trace.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let times = |stage: &'static str, field: &'static str| {
        let of_stage = events.iter().filter(move |event| event["stage"] == stage);
        of_stage.filter_map(move |event| event[field].as_u64())
    };
    let complete = times("contents", "end_ns").chain(times("freeze", "end_ns")).max();
    let resumed = times("resume", "begin_ns").min().map(|begin| begin + RESUME_MS * 1_000_000 / 2);
    let (Some(complete), Some(resumed)) = (complete, resumed) else {
        return Err("the trace lacks a stage".to_owned());
    };
    let within = looks.iter().filter(|(time, _)| (complete..resumed).contains(time));
    let places: Vec<&Vec<u64>> = within.map(|(_, place)| place).collect();
    match places.first() {
        Some(first) if places.iter().all(|place| place == first) => Ok(places.len()),
        Some(_) => Err("a queue moved before it was resumed".to_owned()),
        None => Err("nobody looked at the queues in time".to_owned()),
    }
}

/// The clock of traces.
fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| Duration::from(now).as_nanos() as u64)
}

/// How far each queue has been read, from the memory of its process.
fn places(queues: &[(i32, u64)]) -> Result<Vec<u64>> {
    let place = |&(pid, address): &(i32, u64)| {
        let mut word = [0; 8];
        let remote = [RemoteIoVec { base: address as usize, len: 8 }];
        let mut local = [IoSliceMut::new(&mut word)];
        process_vm_readv(Pid::from_raw(pid), &mut local, &remote).map_err(text)?;
        Ok(u64::from_le_bytes(word))
    };
    queues.iter().map(place).collect()
}

fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::{Answer, check};

    #[test]
    fn what_did_not_come_back_as_it_was_is_seen() {
        let answer = |pid, rounds, contents: &str| Answer {
            pid,
            rounds,
            contents: contents.to_owned(),
            wrong: Vec::new(),
            files: Vec::new(),
        };
        let before = [answer(7, 10, "a"), answer(8, 10, "b")];
        assert!(check(&before, &[answer(7, 11, "a"), answer(8, 12, "b")]).is_ok());
        assert!(check(&before, &[answer(7, 11, "a"), answer(8, 10, "b")]).is_err(), "stands still");
        assert!(check(&before, &[answer(7, 11, "a"), answer(8, 12, "c")]).is_err(), "damaged");
        assert!(check(&before, &[answer(7, 11, "a")]).is_err(), "lost");
    }
}
