//! Live trees for tests: started, dumped by us or by upstream, restored, asked if they are intact.
//!
//! Each live test runs again in a pid and mount namespace of its own, as its init process: the
//! ids of its trees are free, orphans come to it, and whatever goes wrong ends with it. A test that
//! cannot run on this machine says so in the file named by `THAW_SKIPS`.

#![allow(dead_code)] // each test binary uses a part

pub(crate) mod browser;
pub(crate) mod eye;
pub(crate) mod gpu;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Set in the run of a test that is inside its namespace.
const INSIDE: &str = "THAW_TEST_INSIDE";
/// Longest that one live test may take.
const LIMIT_SECONDS: &str = "300";
/// The same where `THAW_LONG_TESTS` asks for all that there is.
const LONG_LIMIT_SECONDS: &str = "7200";
/// Longest wait for a tree to answer.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// Whose dump a test restores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dumper {
    Own,
    Upstream,
}

/// A live test on our own checkpoints, and again on upstream's where there is an upstream.
pub(crate) fn with_each_dumper(name: &str, body: impl Fn(&Path, Dumper)) {
    if std::env::var_os(INSIDE).is_none() && missing().is_none() && criu().is_none() {
        skip(&format!("{name} on upstream's checkpoints"), &no_criu());
    }
    live(name, |dir| {
        let dumpers = [Some(Dumper::Own), criu().map(|_| Dumper::Upstream)];
        for dumper in dumpers.into_iter().flatten() {
            let dir = dir.join(format!("{dumper:?}"));
            fs::create_dir(&dir).expect("a folder");
            println!("on the checkpoint of {dumper:?}");
            body(&dir, dumper);
        }
    });
}

/// A live test that needs upstream.
pub(crate) fn live_with_upstream(name: &str, body: impl FnOnce(&Path)) {
    if std::env::var_os(INSIDE).is_none() && criu().is_none() {
        return skip(name, &no_criu());
    }
    live(name, body);
}

fn no_criu() -> String {
    let reason = std::env::var("THAW_NO_CRIU").unwrap_or_else(|_| "THAW_CRIU is not set".into());
    format!("no upstream criu ({reason})")
}

/// Runs `body` as init of a pid and mount namespace of its own, or skips with a reason.
pub(crate) fn live(name: &str, body: impl FnOnce(&Path)) {
    live_unless(name, missing(), body);
}

/// As [`live`], for what needs an emulated node.
pub(crate) fn live_node(name: &str, body: impl FnOnce(&Path)) {
    live_unless(name, missing().or_else(missing_fuse), body);
}

fn live_unless(name: &str, missing: Option<String>, body: impl FnOnce(&Path)) {
    if std::env::var_os(INSIDE).is_some() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        return body(dir.path());
    }
    if let Some(reason) = missing {
        return skip(name, &reason);
    }
    let test = std::env::current_exe().expect("the test binary has a path");
    let is_long = std::env::var_os("THAW_LONG_TESTS").is_some();
    let limit = if is_long { LONG_LIMIT_SECONDS } else { LIMIT_SECONDS };
    let status = Command::new("timeout")
        .args(["--kill-after=10", limit])
        .args(["unshare", "--fork", "--pid", "--mount-proc", "--kill-child", "--"])
        .arg(test)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .status()
        .expect("timeout and unshare are part of every Debian system");
    assert!(status.success(), "{name} inside its namespace: {status}");
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
    None
}

/// A node needs FUSE that passes mappings through, which came with Linux 6.9.
fn missing_fuse() -> Option<String> {
    let release = nix::sys::utsname::uname().expect("a kernel has a name");
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 9) {
        return Some(format!("Linux {release} has no FUSE passthrough"));
    }
    (!Path::new("/dev/fuse").exists()).then(|| "no /dev/fuse".to_owned())
}

pub(crate) fn skip(name: &str, reason: &str) {
    println!("SKIPPED {name}: {reason}");
    if let Some(path) = std::env::var_os("THAW_SKIPS") {
        let file = File::options().append(true).create(true).open(path);
        let _ = file.and_then(|mut file| writeln!(file, "{name}: {reason}"));
    }
}

fn criu() -> Option<PathBuf> {
    std::env::var_os("THAW_CRIU").map(PathBuf::from)
}

/// Path of a program that is built beside the tests.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the test binary has a path");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
    profile.join("examples").join(name)
}

/// A running tree of workloads.
pub(crate) struct Tree {
    /// The root first.
    pub(crate) pids: Vec<i32>,
    status: PathBuf,
    answered: usize,
}

/// What one process says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) counter: u64,
    pub(crate) intact: bool,
}

impl Tree {
    /// Starts a workload with these arguments and waits until all of it is ready.
    pub(crate) fn start(dir: &Path, args: &[&str]) -> Self {
        Self::start_answering(dir, "workload", args)
    }

    /// Starts any program that answers as workloads do, and waits until all of it is ready.
    pub(crate) fn start_answering(dir: &Path, program: &str, args: &[&str]) -> Self {
        let status = dir.join("status");
        let args = [&[status.to_str().expect("a plain path")], args].concat();
        let tree = Self::start_program(dir, program, &args);
        Self { status: status.clone(), ..tree }
    }

    /// Starts any of the programs that are built beside the tests.
    #[expect(clippy::zombie_processes)] // `reap` collects it with the rest of the tree
    pub(crate) fn start_program(dir: &Path, program: &str, args: &[&str]) -> Self {
        // Not ours: if that is a file, its position moves whenever a test says something.
        let errors = dir.join(format!("{program}-errors"));
        let stderr = File::create(&errors).expect("room");
        let mut child = Command::new(example(program))
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .expect("the workload is built beside the tests");
        let mut text = String::new();
        // The end of the output is the sign: every process has closed it.
        let mut stdout = child.stdout.take().expect("it is piped");
        stdout.read_to_string(&mut text).expect("a pipe can be read");
        let pids = family(child.id() as i32);
        let said = fs::read_to_string(&errors).unwrap_or_default();
        assert!(!pids.is_empty(), "the program ended: {text}{said}");
        Self { pids, status: PathBuf::new(), answered: 0 }
    }

    /// After a restorer was killed: waits until the whole tree answers (`true`) or is gone.
    /// Anything else that lasts is a half-restored tree.
    pub(crate) fn settle(&mut self) -> bool {
        let begin = Instant::now();
        for &pid in &self.pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGUSR1);
        }
        loop {
            let flags = WaitPidFlag::WNOHANG | WaitPidFlag::__WALL;
            while waitpid(None, Some(flags)).is_ok_and(|s| s != WaitStatus::StillAlive) {}
            let text = fs::read_to_string(&self.status).expect("the status file");
            let alive = self.alive();
            let answers = text.lines().count() - self.answered;
            if alive.is_empty() {
                self.answered += answers;
                return false;
            }
            if answers == self.pids.len() && alive.len() == answers {
                self.answered += answers;
                return true;
            }
            let late = begin.elapsed() > ANSWER_WAIT_MAX;
            assert!(!late, "half restored: {alive:?} live, {answers} answers");
            std::thread::yield_now();
        }
    }

    /// Gives the status file the contents that it had at the dump: a restore insists on its size.
    pub(crate) fn put_status_back(&mut self, answered: usize) {
        self.answered = answered;
        let text = fs::read_to_string(&self.status).expect("the status file");
        let kept: String = text.lines().take(self.answered).map(|l| format!("{l}\n")).collect();
        fs::write(&self.status, kept).expect("the status file");
    }

    pub(crate) fn root(&self) -> i32 {
        self.pids[0]
    }

    /// Asks every process how it is.
    pub(crate) fn ask(&mut self) -> BTreeMap<i32, Answer> {
        let watch = Inotify::init(InitFlags::IN_CLOEXEC).expect("inotify");
        watch.add_watch(&self.status, AddWatchFlags::IN_MODIFY).expect("a watch");
        for &pid in &self.pids {
            kill(Pid::from_raw(pid), Signal::SIGUSR1).expect("every process of the tree lives");
        }
        let expected = self.answered + self.pids.len();
        let begin = Instant::now();
        let lines = loop {
            let text = fs::read_to_string(&self.status).expect("the status file");
            let lines: Vec<String> = text.lines().map(str::to_owned).collect();
            if lines.len() >= expected {
                break lines;
            }
            let left = ANSWER_WAIT_MAX.saturating_sub(begin.elapsed());
            assert!(!left.is_zero(), "{} of {expected} answers", lines.len());
            let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
            let left = PollTimeout::try_from(left).expect("30 s fit");
            if poll(&mut fds, left) == Ok(1) {
                watch.read_events().expect("an event");
            }
        };
        let answers = lines[self.answered..].iter().map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let counter = fields[1].parse().expect("a counter");
            let answer = Answer { counter, intact: fields[2] == "intact" };
            (fields[0].parse().expect("a pid"), answer)
        });
        let answers: BTreeMap<i32, Answer> = answers.collect();
        assert_eq!(answers.keys().copied().collect::<Vec<_>>(), sorted(&self.pids));
        self.answered = expected;
        answers
    }

    /// Dumps the tree, which ends it, and collects what is left of it.
    pub(crate) fn dump(&self, images: &Path, dumper: Dumper) {
        match dumper {
            Dumper::Own => {
                fs::create_dir_all(images).expect("a folder for the images");
                let status = self.dump_command(images, &[]).status().expect("thaw runs");
                let log = images.join("dump.log");
                assert!(status.success(), "thaw dump: {status}: {}", errors(&log));
                self.reap();
            }
            Dumper::Upstream => self.dump_upstream(images),
        }
    }

    /// `thaw dump` with further arguments.
    pub(crate) fn dump_command(&self, images: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_thaw"));
        command.args(["dump", "-v4", "-o", "dump.log", "-t", &self.root().to_string(), "-D"]);
        command.arg(images).args(args).stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn dump_upstream(&self, images: &Path) {
        fs::create_dir_all(images).expect("a folder for the images");
        let criu = criu().expect("checked before the test began");
        let status = Command::new(criu)
            .args(["dump", "-v4", "-o", "dump.log", "-t", &self.root().to_string(), "-D"])
            .arg(images)
            .stdin(Stdio::null())
            .status()
            .expect("criu runs");
        let log = images.join("dump.log");
        assert!(status.success(), "criu dump: {status}: {}", errors(&log));
        self.reap();
    }

    /// Restores with upstream's criu.
    pub(crate) fn restore_upstream(&self, images: &Path) {
        let criu = criu().expect("checked before the test began");
        let status = Command::new(criu)
            .args(["restore", "-d", "-v4", "-o", "restore.log", "-D"])
            .arg(images)
            .stdin(Stdio::null())
            .status()
            .expect("criu runs");
        let log = images.join("restore.log");
        assert!(status.success(), "criu restore: {status}: {}", errors(&log));
    }

    /// Restores with us, and expects it to succeed.
    pub(crate) fn restore(&self, images: &Path) {
        let status = thaw(images, &[]);
        assert!(status.success(), "thaw: {status}: {}", errors(&images.join("thaw.log")));
    }

    pub(crate) fn kill(&self) {
        for &pid in &self.pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        self.reap();
    }

    /// As init we are the parent of every orphan; nothing of the tree may be left afterwards.
    pub(crate) fn reap(&self) {
        for &pid in &self.pids {
            loop {
                match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::__WALL)) {
                    Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => break,
                    Err(Errno::ECHILD) => {
                        // Still the child of a dying parent: collect that one first.
                        if kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
                            break;
                        }
                        let _ = waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG));
                    }
                    Ok(_) | Err(_) => {}
                }
            }
        }
    }

    /// Whether every process of the tree runs (or sleeps, or stands still).
    pub(crate) fn alive_and_no_zombies(&self) -> bool {
        let runs = |pid: &i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with(['Z', 'X']))
                && !stat.is_empty()
        };
        self.pids.iter().all(runs)
    }

    /// Gives one process away, as a tree of its own.
    pub(crate) fn split_off(&mut self, pid: i32) -> Self {
        self.pids.retain(|&other| other != pid);
        Self { pids: vec![pid], status: self.status.clone(), answered: self.answered }
    }

    /// Waits until nothing traces the tree any more.
    pub(crate) fn wait_until_untraced(&self) {
        let begin = Instant::now();
        let traced = |pid: &i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains("TracerPid:") && !status.contains("TracerPid:\t0\n")
        };
        while self.pids.iter().any(traced) {
            assert!(begin.elapsed() < ANSWER_WAIT_MAX, "the tree is still traced");
            std::thread::yield_now();
        }
    }

    /// Pids of the tree that exist.
    pub(crate) fn alive(&self) -> Vec<i32> {
        let exists = |pid: &&i32| kill(Pid::from_raw(**pid), None).is_ok();
        self.pids.iter().filter(exists).copied().collect()
    }
}

fn sorted(pids: &[i32]) -> Vec<i32> {
    let mut pids = pids.to_vec();
    pids.sort_unstable();
    pids
}

/// Looks until it is so, and says whether it came about in time. For what has no descriptor that
/// could be waited on: files that others write, mounts, memory of GPUs.
pub(crate) fn comes_about(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    /// Between two looks: the processors belong to whom is waited for.
    const PERIOD: Duration = Duration::from_millis(1);
    let begin = Instant::now();
    while !is_so() {
        if begin.elapsed() > limit {
            return false;
        }
        std::thread::sleep(PERIOD);
    }
    true
}

/// Runs `thaw restore -d` with further arguments.
pub(crate) fn thaw(images: &Path, args: &[&str]) -> ExitStatus {
    thaw_command(images, args).status().expect("thaw runs")
}

pub(crate) fn thaw_command(images: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thaw"));
    command.args(["restore", "-d", "-v4", "-o", "thaw.log", "-D"]).arg(images).args(args);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}

/// A version 2 control group of its own for a tree, if this machine has them.
pub(crate) fn own_group(tree: &Tree) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc");
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    let group = Path::new(line.split(' ').nth(4)?).join(format!("thaw-test-{}", tree.root()));
    fs::create_dir(&group).ok()?;
    for pid in &tree.pids {
        fs::write(group.join("cgroup.procs"), pid.to_string()).ok()?;
    }
    Some(group)
}

/// Lines of a log that speak of an error.
pub(crate) fn errors(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_else(|error| error.to_string());
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("Error")).collect();
    lines.join("\n")
}

/// A process and all its descendants, parents before children.
pub(crate) fn family(root: i32) -> Vec<i32> {
    let mut parents: Vec<(i32, i32)> = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        if let Some(parent) = fields.split_whitespace().nth(1).and_then(|text| text.parse().ok()) {
            parents.push((pid, parent));
        }
    }
    parents.sort_unstable();
    let exists = parents.iter().any(|&(pid, _)| pid == root);
    let mut family: Vec<i32> = exists.then_some(root).into_iter().collect();
    let mut next = 0;
    while let Some(&member) = family.get(next) {
        family.extend(parents.iter().filter(|&&(_, ppid)| ppid == member).map(|&(pid, _)| pid));
        next += 1;
    }
    family
}
