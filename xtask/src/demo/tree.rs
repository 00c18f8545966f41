//! A process tree without GPUs is checkpointed, killed, brought back, and goes on.
//!
//! Everything happens in a pid namespace of its own, which ends with it, and in `target/demo`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::tree;
use crate::command;

/// Set in the run that is inside the namespace.
const INSIDE: &str = "XTASK_DEMO_INSIDE";
/// Processes, MiB of memory each, counting threads each.
const TREE: [&str; 3] = ["3", "16", "2"];
/// Longest wait for a process to look through its memory and answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// What each process says of itself: how far its threads have counted, and if its memory is whole.
type Answers = BTreeMap<i32, (u64, bool)>;

/// Whether this run is the one inside the namespace.
pub(super) fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Shows it.
pub(super) fn run() -> Result<(), String> {
    if std::env::var_os(INSIDE).is_none() {
        println!("Building thaw and a program to checkpoint ...");
        super::build()?;
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let namespace = ["--fork", "--pid", "--mount-proc", "--kill-child", "--"];
        let mut inside = Command::new("unshare");
        inside.args(namespace).arg(program).arg("demo").env(INSIDE, "1");
        return command::run(&mut inside);
    }
    nix::sys::prctl::set_child_subreaper(true).map_err(|errno| errno.to_string())?;
    let folder = command::root().join("target/demo");
    let _ = fs::remove_dir_all(&folder);
    let images = folder.join("images");
    fs::create_dir_all(&images).map_err(|error| error.to_string())?;
    Demo { thaw: command::quick_folder().join("thaw"), status: folder.join("status"), images }
        .show()
}

struct Demo {
    thaw: PathBuf,
    status: PathBuf,
    images: PathBuf,
}

impl Demo {
    fn show(&self) -> Result<(), String> {
        let pids = tree::start(&command::quick_folder(), &self.status, &TREE)?;
        let [processes, mib, threads] = TREE;
        println!(
            "1. A tree runs: {processes} processes {pids:?}, each with {mib} MiB filled with a \
             pattern of its own\n   and {threads} or more threads that count."
        );
        let before = self.ask(&pids)?;
        println!("   Counted so far: {}", shown(&before));
        let root = pids[0].to_string();
        self.thaw("dump", &["-t", &root])?;
        let log = fs::read_to_string(self.images.join("dump.log")).unwrap_or_default();
        let frozen = log.rsplit_once("frozen for ").and_then(|(_, rest)| rest.split(' ').next());
        println!(
            "2. thaw dump -t {root}: {:.1} MiB of images; the tree stood still for {:.1} ms.",
            size(&self.images) as f64 / f64::from(1 << 20),
            frozen.and_then(|us| us.parse::<f64>().ok()).unwrap_or(0.0) / 1e3,
        );
        tree::reap(&pids)?;
        if let Some(pid) = pids.iter().find(|&&pid| kill(Pid::from_raw(pid), None).is_ok()) {
            return Err(format!("process {pid} is still there"));
        }
        println!("3. The tree was killed: none of its processes exists any more.");
        self.thaw("restore", &["-d"])?;
        println!("4. thaw restore: the same processes run again, {:?}.", tree::session(pids[0]));
        let after = self.ask(&pids)?;
        println!("5. Counted now: {}", shown(&after));
        check(&before, &after)?;
        tree::end(&pids)?;
        println!(
            "   The counters go on from where they were, and all memory is what it was.\n\
             Done. The images are in {}.",
            self.images.display()
        );
        Ok(())
    }

    fn thaw(&self, what: &str, args: &[&str]) -> Result<(), String> {
        let log = format!("{what}.log");
        let mut thaw = Command::new(&self.thaw);
        thaw.args([what, "-v4", "-o", &log, "-D"]).arg(&self.images).args(args);
        command::run(&mut thaw)
    }

    /// Asks every process how it is.
    fn ask(&self, pids: &[i32]) -> Result<Answers, String> {
        let lines = || -> Vec<String> {
            let text = fs::read_to_string(&self.status).unwrap_or_default();
            text.lines().map(str::to_owned).collect()
        };
        let seen = lines().len();
        for &pid in pids {
            let asked = kill(Pid::from_raw(pid), Signal::SIGUSR1);
            asked.map_err(|errno| format!("process {pid}: {errno}"))?;
        }
        let begin = Instant::now();
        while lines().len() < seen + pids.len() {
            if begin.elapsed() > ANSWER_WAIT_MAX {
                return Err("not all processes answer".to_owned());
            }
            std::thread::yield_now();
        }
        let answer = |line: &String| {
            let words: Vec<&str> = line.split(' ').collect();
            let [pid, counter, state] = words[..] else { return None };
            Some((pid.parse().ok()?, (counter.parse().ok()?, state == "intact")))
        };
        let answers: Answers = lines()[seen..].iter().filter_map(answer).collect();
        Ok(answers)
    }
}

fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn shown(answers: &Answers) -> String {
    let each = answers.iter().map(|(pid, (counter, intact))| {
        format!("{pid}: {counter} ({})", if *intact { "memory intact" } else { "DAMAGED" })
    });
    each.collect::<Vec<_>>().join(", ")
}

/// The same processes, none with less, none damaged.
fn check(before: &Answers, after: &Answers) -> Result<(), String> {
    if !before.keys().eq(after.keys()) {
        return Err("not all processes have come back".to_owned());
    }
    for (pid, (counter, intact)) in after {
        if !intact || *counter < before[pid].0 {
            return Err(format!("process {pid} has not come back as it was"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Answers, check};

    #[test]
    fn what_did_not_come_back_as_it_was_is_seen() {
        let answers = |counter, intact| Answers::from([(7, (counter, intact))]);
        let before = answers(10, true);
        assert!(check(&before, &answers(11, true)).is_ok());
        assert!(check(&before, &answers(9, true)).is_err());
        assert!(check(&before, &answers(11, false)).is_err());
        assert!(check(&before, &Answers::new()).is_err());
    }
}
