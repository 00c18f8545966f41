//! `bench restore`: our restore and upstream's on the same images, alternating, in one run.
//!
//! Machines are noisy, so each of our runs is paired with the one of upstream beside it, and what
//! counts is the median of the ratios. `/run` is a tmpfs in a mount namespace of our own: upstream
//! keeps what it found out about the kernel there, and its probing is not to be counted.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lexopt::prelude::*;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::{command, peers};

/// Pairs of runs of each case, unless the command says otherwise.
const RUNS: usize = 15;

/// Name, arguments of the workload, processes.
const CASES: [(&str, &[&str], usize); 4] = [
    ("small", &["1", "1", "0"], 1),
    ("tree", &["3", "256", "3"], 3),
    ("twenty", &["20", "1", "0"], 20),
    ("vmas", &["vmas", "10000"], 1),
];

/// One run: wall time and the largest resident set of the restorer.
#[derive(Clone, Copy, Debug)]
struct Run {
    time: Duration,
    peak_kib: u64,
}

/// `bench restore [--runs N] [--case NAME]`.
pub(crate) fn run(mut parser: lexopt::Parser) -> Result<(), String> {
    let mut runs = RUNS;
    let mut only = None;
    let mut what = None;
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        match arg {
            Long("runs") => {
                let value = parser.value().map_err(|error| error.to_string())?;
                runs = value.to_string_lossy().parse().map_err(|_| "--runs takes a number")?;
            }
            Long("case") => {
                let value = parser.value().map_err(|error| error.to_string())?;
                only = Some(value.to_string_lossy().into_owned());
            }
            Value(name) => what = Some(name),
            other => return Err(other.unexpected().to_string()),
        }
    }
    if what.as_deref() != Some("restore".as_ref()) {
        return Err("bench what? (restore)".to_owned());
    }
    let build = ["build", "--release", "--locked", "-p", "restore-cli", "--bins", "--examples"];
    command::run(&mut command::cargo(&build))?;
    let criu = peers::fetch()?;
    own_run_folder()?;
    let root = command::root();
    let thaw = root.join("target/release/thaw");
    let mut table = String::from(
        "case     runs  criu ms (min)   thaw ms (min)   ratio   criu peak MiB   thaw peak MiB\n",
    );
    let mut json = String::from("[");
    for (name, args, processes) in CASES {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let pairs = case(&root, name, args, processes, &criu, &thaw, runs)?;
        describe(name, &pairs, &mut table, &mut json);
    }
    print!("{table}");
    json.push_str("\n]\n");
    let folder = root.join("target/bench");
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    fs::write(folder.join("restore.json"), json).map_err(|error| error.to_string())
}

fn own_run_folder() -> Result<(), String> {
    let none: Option<&str> = None;
    let setup = || -> nix::Result<()> {
        nix::sys::prctl::set_child_subreaper(true)?;
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none)
    };
    setup().map_err(|errno| format!("a mount namespace with /run on tmpfs: {errno} (needs root)"))
}

fn case(
    root: &Path,
    name: &str,
    args: &[&str],
    processes: usize,
    criu: &Path,
    thaw: &Path,
    runs: usize,
) -> Result<Vec<(Run, Run)>, String> {
    let folder = root.join("target/bench").join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|error| error.to_string())?;
    }
    let images = folder.join("images");
    fs::create_dir_all(&images).map_err(|error| error.to_string())?;
    let tree = start(root, &folder, args, processes)?;
    let dump = Command::new(criu)
        .args(["dump", "-v0", "-o", "dump.log", "-t", &tree[0].to_string(), "-D"])
        .arg(&images)
        .status()
        .map_err(|error| error.to_string())?;
    if !dump.success() {
        return Err(format!("criu dump of {name}: {dump}"));
    }
    reap(&tree);
    for entry in fs::read_dir(&images).into_iter().flatten().flatten() {
        // So that both find the images in the page cache.
        let file = fs::File::open(entry.path()).map_err(|error| error.to_string())?;
        let _ = std::io::copy(&mut std::io::BufReader::new(file), &mut std::io::sink());
    }
    let mut pairs = Vec::new();
    for round in 0..=runs {
        let theirs = restore(criu, &images, &tree)?;
        let ours = restore(thaw, &images, &tree)?;
        if round > 0 {
            pairs.push((theirs, ours)); // the first pair warms up
        }
    }
    Ok(pairs)
}

/// Starts a workload and returns its pids, the root first, when all of it is ready.
fn start(root: &Path, folder: &Path, args: &[&str], processes: usize) -> Result<Vec<i32>, String> {
    let mut child: Child = Command::new(root.join("target/release/examples/workload"))
        .arg(folder.join("status"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let mut text = String::new();
    let mut stdout = child.stdout.take().expect("it is piped");
    stdout.read_to_string(&mut text).map_err(|error| error.to_string())?;
    let pids = session(child.id() as i32);
    if pids.len() != processes {
        return Err(format!("{} processes are ready, not {processes}", pids.len()));
    }
    Ok(pids)
}

/// All processes of a session, its leader first.
fn session(leader: i32) -> Vec<i32> {
    let mut pids: Vec<i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit(')').next().unwrap_or_default();
            fields.split_whitespace().nth(3) == Some(leader.to_string().as_str())
        })
        .collect();
    pids.sort_by_key(|&pid| (pid != leader, pid));
    pids
}

/// Collects the processes of a tree that has ended; as a subreaper we are the parent of all.
fn reap(tree: &[i32]) {
    for &pid in tree {
        while waitpid(Pid::from_raw(pid), Some(WaitPidFlag::__WALL)) == Err(nix::Error::EINTR) {}
    }
}

fn restore(program: &Path, images: &PathBuf, tree: &[i32]) -> Result<Run, String> {
    let begin = Instant::now();
    let child = Command::new(program)
        .args(["restore", "-d", "-v0", "-o", "restore.log", "-D"])
        .arg(images)
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let peak = wait_with_peak(&child)?;
    let time = begin.elapsed();
    if session(tree[0]).len() != tree.len() {
        return Err(format!("{} restored only a part of the tree", program.display()));
    }
    for &pid in tree {
        kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|error| error.to_string())?;
    }
    reap(tree);
    Ok(Run { time, peak_kib: peak })
}

/// Waits for a child and returns its largest resident set in KiB.
fn wait_with_peak(child: &Child) -> Result<u64, String> {
    let (mut status, pid) = (0, child.id() as i32);
    // SAFETY: the all-zero value of this plain C struct is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: wait4 writes to the two locals only; the child is ours and not waited for elsewhere.
    let ret = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    if ret == pid && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
        return Ok(usage.ru_maxrss as u64);
    }
    Err(format!("restore ended with wait status {status:#x}"))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn describe(name: &str, pairs: &[(Run, Run)], table: &mut String, json: &mut String) {
    let ms = |run: &Run| run.time.as_secs_f64() * 1e3;
    let theirs: Vec<f64> = pairs.iter().map(|(run, _)| ms(run)).collect();
    let ours: Vec<f64> = pairs.iter().map(|(_, run)| ms(run)).collect();
    let ratio = median(theirs.iter().zip(&ours).map(|(a, b)| a / b).collect());
    let least = |values: &[f64]| values.iter().copied().fold(f64::INFINITY, f64::min);
    let peak = |runs: Vec<u64>| runs.into_iter().max().unwrap_or(0) as f64 / 1024.0;
    let their_peak = peak(pairs.iter().map(|(run, _)| run.peak_kib).collect());
    let our_peak = peak(pairs.iter().map(|(_, run)| run.peak_kib).collect());
    let (their_least, our_least) = (least(&theirs), least(&ours));
    let (their_median, our_median) = (median(theirs), median(ours));
    let _ = writeln!(
        table,
        "{name:8} {:4} {their_median:8.1} ({their_least:5.1}) {our_median:8.1} ({our_least:5.1}) \
         {ratio:6.2}x {their_peak:14.1} {our_peak:15.1}",
        pairs.len()
    );
    let _ = write!(
        json,
        "{}\n  {{\"case\": \"{name}\", \"runs\": {}, \"criu_ms\": {their_median:.3}, \
         \"thaw_ms\": {our_median:.3}, \"ratio\": {ratio:.3}, \"criu_peak_mib\": {their_peak:.1}, \
         \"thaw_peak_mib\": {our_peak:.1}}}",
        if json.ends_with('[') { "" } else { "," },
        pairs.len()
    );
}
