//! `thaw node`: commands inside a node, faults, the log, and every way in which it can end.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use support::live_node;

/// The program of gpu-kfd that keeps GPUs busy, built beside the tests.
fn worker() -> PathBuf {
    let test = std::env::current_exe().expect("the test binary has a path");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    profile.join("examples/gpu_worker")
}

/// `thaw node run` with these options.
fn node(options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thaw"));
    command.args(["node", "run"]).args(options).stdin(Stdio::null());
    command
}

fn output(mut command: Command) -> Output {
    command.output().expect("thaw starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn models_are_listed_for_people_and_for_programs() {
    let list = |options: &[&str]| {
        output({
            let mut command = Command::new(env!("CARGO_BIN_EXE_thaw"));
            command.args(["node", "list-models"]).args(options);
            command
        })
    };
    let table = text(&list(&[]).stdout);
    assert!(table.contains("gfx90a") && table.contains("MI300X"), "{table}");
    let json: serde_json::Value = serde_json::from_slice(&list(&["--json"]).stdout).expect("JSON");
    let names: Vec<&str> = json["models"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|m| m["name"].as_str())
        .collect();
    assert_eq!(names, ["gfx90a", "gfx90a-bridged", "gfx942", "gfx90c"]);
}

#[test]
fn gpus_work_on_nodes_of_every_size() {
    live_node("gpus_work_on_nodes_of_every_size", |_| {
        for (model, gpus) in
            [("gfx90a", 1), ("gfx90a", 2), ("gfx90a", 8), ("gfx942", 4), ("gfx90c", 1)]
        {
            let gpus = gpus.to_string();
            let mut run = node(&["--model", model, "--gpus", &gpus, "--"]);
            run.arg(worker()).arg("once");
            let ran = output(run);
            let said = text(&ran.stdout) + &text(&ran.stderr);
            assert!(ran.status.success(), "{model} {gpus}: {said}");
            assert_eq!(said, format!("{gpus} GPUs copied and signalled, every byte is right\n"));
        }
    });
}

#[test]
fn status_is_that_of_the_command() {
    live_node("status_is_that_of_the_command", |_| {
        let status = |script: &str| {
            let mut run = node(&["--", "sh", "-c"]);
            run.arg(script);
            output(run).status.code()
        };
        assert_eq!(status("exit 42"), Some(42));
        assert_eq!(status("kill -TERM $$"), Some(128 + 15));
        let missing = output(node(&["--", "/no/such/program"]));
        assert_eq!(missing.status.code(), Some(127));
        assert!(text(&missing.stderr).contains("/no/such/program"));
        assert_eq!(output(node(&["--gpus", "9", "--", "true"])).status.code(), Some(2));
    });
}

#[test]
fn faults_hit_the_call_that_they_name_and_no_other() {
    live_node("faults_hit_the_call_that_they_name_and_no_other", |_| {
        let cases = [
            ("OPEN_KFD=ENODEV", "open", "ENODEV"),
            ("OPEN_RENDER@2=EACCES", "open", "EACCES"),
            ("ACQUIRE_VM@2=EBUSY", "ACQUIRE_VM", "EBUSY"),
            ("ALLOC_MEMORY_OF_GPU@3=ENOMEM", "ALLOC_MEMORY_OF_GPU", "ENOMEM"),
            ("CREATE_QUEUE@1=EINVAL", "CREATE_QUEUE", "EINVAL"),
            ("WAIT_EVENTS@4=EIO", "WAIT_EVENTS", "EIO"),
        ];
        for (fault, operation, errno) in cases {
            let mut run = node(&["--gpus", "2", "--fault", fault, "--"]);
            run.arg(worker()).arg("once");
            let ran = output(run);
            let said = text(&ran.stderr);
            assert!(!ran.status.success(), "{fault}: {said}");
            assert!(said.contains(operation) && said.contains(errno), "{fault}: {said}");
        }
        let mut run = node(&["--gpus", "2", "--fault", "ACQUIRE_VM@3=EBUSY", "--"]);
        run.arg(worker()).arg("once");
        assert!(output(run).status.success(), "there is no third call of that kind");
    });
}

#[test]
fn delayed_calls_take_that_long_and_others_do_not() {
    live_node("delayed_calls_take_that_long_and_others_do_not", |dir| {
        let log = dir.join("calls");
        let options = ["--gpus", "2", "--fault", "CREATE_EVENT=40ms", "--log"];
        let mut run = node(&options);
        run.arg(&log).arg("--").arg(worker()).arg("once");
        assert!(output(run).status.success());
        let mut delayed = 0;
        for record in records(&log) {
            let took = record["end_ns"].as_u64().expect("a time")
                - record["begin_ns"].as_u64().expect("a time");
            if record["call"] == "CREATE_EVENT" {
                assert!(took >= 40_000_000, "{record}");
                assert_eq!(record["fault"], true);
                delayed += 1;
            } else {
                assert!(record.get("fault").is_none(), "{record}");
            }
        }
        assert_eq!(delayed, 2);
    });
}

fn records(log: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(log).expect("a log");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON object")).collect()
}

#[test]
fn log_has_every_call_with_who_what_and_how_it_ended() {
    live_node("log_has_every_call_with_who_what_and_how_it_ended", |dir| {
        let log = dir.join("calls");
        let mut run = node(&["--gpus", "2", "--fault", "SET_EVENT=EIO", "--log"]);
        run.arg(&log).arg("--").arg(worker()).arg("once");
        assert!(output(run).status.success());
        let mut calls: BTreeMap<String, usize> = BTreeMap::new();
        for record in records(&log) {
            assert_eq!(record["result"], 0, "{record}");
            assert!(record["pid"].as_i64().is_some_and(|pid| pid > 0), "{record}");
            *calls.entry(record["call"].as_str().expect("a name").to_owned()).or_default() += 1;
        }
        // Per GPU: ring, control page, doorbells, two buffers; and one event page.
        assert_eq!(calls["ALLOC_MEMORY_OF_GPU"], 11);
        assert_eq!((calls["OPEN_KFD"], calls["OPEN_RENDER"], calls["ACQUIRE_VM"]), (1, 2, 2));
        assert_eq!((calls["CREATE_QUEUE"], calls["CREATE_EVENT"], calls["WAIT_EVENTS"]), (2, 2, 6));
        let refused = dir.join("refused");
        let mut run = node(&["--fault", "OPEN_KFD=EMFILE", "--log"]);
        run.arg(&refused).arg("--").arg(worker()).arg("once");
        assert!(!output(run).status.success());
        assert_eq!(records(&refused)[0]["errno"], "EMFILE");
    });
}

/// Collects what has ended, as init must, and gives what is left.
fn others() -> Vec<i32> {
    while let Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) =
        waitpid(None, Some(WaitPidFlag::WNOHANG))
    {}
    processes()
}

/// Processes that can be seen, but for this one.
fn processes() -> Vec<i32> {
    let own = std::process::id() as i32;
    let entries = fs::read_dir("/proc").expect("proc").flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|pid| *pid != own).collect()
}

/// Small random numbers, the same in each run.
struct Moments(u64);

impl Moments {
    fn next(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

/// Spins, since a moment is what is wanted, not a pause.
fn wait_until(condition: impl Fn() -> bool, what: &str) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::yield_now();
    }
}

fn has_rounds(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|file| file.len() > 0)
}

/// SIGKILL of the node, of the program that uses its GPUs, of both, at random moments of set-up and
/// of work: nothing is left, and the next run starts clean.
#[test]
fn killed_while_gpus_work_nothing_is_left() {
    const ROUNDS: u64 = 200;
    live_node("killed_while_gpus_work_nothing_is_left", |dir| {
        let file = dir.join("rounds");
        let mut moments = Moments(7);
        let mut worked = 0;
        for round in 0..ROUNDS {
            let _ = fs::remove_file(&file);
            let mut run = node(&["--gpus", "2", "--"]);
            run.arg(worker()).arg("busy").arg(&file).stderr(Stdio::null());
            let mut run = run.spawn().expect("thaw starts");
            if moments.next(2) == 0 {
                let moment = Duration::from_micros(moments.next(80_000));
                let begin = Instant::now();
                wait_until(|| begin.elapsed() >= moment, "time passes");
            } else {
                wait_until(|| has_rounds(&file), "GPUs work");
                worked += 1;
            }
            let node = run.id() as i32;
            let newest = processes().into_iter().max();
            let victims: Vec<i32> = match moments.next(3) {
                0 => vec![node],
                1 => newest.into_iter().collect(),
                _ => newest.into_iter().chain([node]).collect(),
            };
            for victim in victims {
                let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
            }
            // A node whose program was killed before it began may not have noticed a victim.
            let _ = kill(Pid::from_raw(node), Signal::SIGKILL);
            run.wait().expect("it ends");
            wait_until(|| others().is_empty(), &format!("round {round} leaves {:?}", others()));
        }
        assert!(worked > ROUNDS / 4, "{worked} of {ROUNDS} came to work");
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        assert!(!mounts.contains("kfd"), "{mounts}");
        let mut run = node(&["--gpus", "2", "--"]);
        run.arg(worker()).arg("once");
        assert!(output(run).status.success(), "the next run starts clean");
    });
}
