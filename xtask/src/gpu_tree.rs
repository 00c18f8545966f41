//! The program `gpu_tree` of restore-cli on an emulated node: started, found again, waited for.
//!
//! It runs in the node's pid namespace, where nothing else has its name.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything that a process or a GPU does.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Starts the program that was built in a folder, and returns the root's pid when all processes of
/// the layout are ready. It appends its answers to `status`.
pub(crate) fn start<S: AsRef<std::ffi::OsStr>>(
    folder: &Path,
    status: &Path,
    layout: &[S],
) -> Result<i32, String> {
    let mut tree = Command::new(folder.join("examples/gpu_tree"));
    tree.arg(status).args(layout).current_dir("/");
    let tree = tree.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let tree = tree.map_err(|error| error.to_string())?;
    let root = tree.id() as i32;
    // Its standard output ends when all processes are ready.
    let mut ready = tree.stdout.ok_or("no output")?;
    io::copy(&mut ready, &mut io::sink()).map_err(|error| error.to_string())?;
    Ok(root)
}

/// The next process gets the id after this one: those of a tree stay free elsewhere.
pub(crate) fn next_pid(pid: u32) -> Result<(), String> {
    fs::write("/proc/sys/kernel/ns_last_pid", pid.to_string()).map_err(|error| error.to_string())
}

/// Processes of the tree, ascending, those included that have ended and were not collected.
pub(crate) fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_of_tree = |pid: &i32| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm.trim() == "gpu_tree")
    };
    let mut pids: Vec<i32> = pids.filter(is_of_tree).collect();
    pids.sort_unstable();
    pids
}

/// Those of them that have not ended.
pub(crate) fn living() -> Vec<i32> {
    let is_zombie = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| stat.contains(") Z "))
    };
    pids().into_iter().filter(|pid| !is_zombie(pid)).collect()
}

/// Looks until something is so.
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) -> Result<(), String> {
    let begin = Instant::now();
    while !done() {
        if begin.elapsed() > WAIT_MAX {
            return Err(format!("{what}: not within {} s", WAIT_MAX.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(1)); // between two looks at a condition
    }
    Ok(())
}
