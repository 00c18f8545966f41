//! `bench restore`: our restore and upstream's on the same images.
//!
//! `/run` is a tmpfs in a mount namespace of our own: upstream keeps what it found out about the
//! kernel there, and its probing is not to be counted. Both find the images in the page cache. In
//! the pair that warms up, the restored tree is asked whether its memory is intact.

use std::fs::{self, File};
use std::io::{self};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::child::{self, Run};
use super::tree::{Case, build, chosen, end, explained, prepare, reap, session, start};
use super::{Comparison, Options};
use crate::{command, peers};

const CASES: [Case; 4] = [
    Case("small", &["1", "1", "0"], 1),
    Case("tree", &["3", "256", "3"], 3),
    Case("twenty", &["20", "1", "0"], 20),
    Case("vmas", &["vmas", "10000"], 1),
];
/// Longest wait for a process to look through its memory and answer.
const ANSWER_MS_MAX: u16 = 30_000;

/// Runs the chosen cases.
pub(super) fn compare(options: &Options) -> Result<Vec<Comparison>, String> {
    let cases = chosen(&CASES, options)?;
    build()?;
    let criu = peers::fetch()?;
    let thaw = options.thaw.clone().unwrap_or_else(|| command::release_folder().join("thaw"));
    let (theirs, ours) = (|| peers::command(&criu), || Command::new(&thaw));
    prepare().map_err(|errno| format!("/run of our own: {errno} (needs root)"))?;
    let compared = cases.into_iter().map(|case| {
        eprintln!("xtask: {} runs of {}", options.runs, case.0);
        let bench = Bench::set_up(case, &criu).map_err(|error| format!("{}: {error}", case.0))?;
        super::alternate(case.0, options.runs, bench.restorer(theirs), bench.restorer(ours))
            .map_err(|error| format!("{}: {error}", case.0))
    });
    compared.collect()
}

/// A dumped tree. Whatever is left of it ends with this value.
struct Bench {
    images: PathBuf,
    /// Where processes write their answers.
    status: PathBuf,
    /// Its pids, the root first.
    tree: Vec<i32>,
}

impl Bench {
    /// Starts a workload and dumps it with upstream.
    fn set_up(case: &Case, criu: &Path) -> Result<Self, String> {
        let Case(name, args, processes) = *case;
        let folder = command::root().join("target/bench").join(name);
        let images = folder.join("images");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&images).map_err(|error| error.to_string())?;
        let status = folder.join("status");
        let tree = start(&command::release_folder(), &status, args)?;
        let bench = Self { images, status, tree };
        if bench.tree.len() != processes {
            return Err(format!("{} of {processes} processes are ready", bench.tree.len()));
        }
        let mut dump = peers::command(criu);
        dump.args(["dump", "-v1", "-o", "dump.log", "-t", &bench.tree[0].to_string(), "-D"]);
        let dumped = command::output(dump.arg(&bench.images));
        dumped.map_err(|failure| explained(&failure, &bench.images.join("dump.log")))?;
        reap(&bench.tree)?;
        read_all(&bench.images).map_err(|error| error.to_string())?;
        Ok(bench)
    }

    /// One run of a program: restore, look, end the tree.
    fn restorer(&self, program: impl Fn() -> Command) -> impl FnMut() -> Result<Run, String> {
        let mut asked = false;
        move || {
            let mut restore = program();
            restore.args(["restore", "-d", "-v0", "-o", "restore.log", "-D"]);
            let run = child::measure(restore.arg(&self.images))
                .map_err(|failure| explained(&failure, &self.images.join("restore.log")))?;
            let restored = session(self.tree[0]);
            if restored != self.tree {
                let name = restore.get_program().display();
                return Err(format!("{name}: restored {restored:?}, not {:?}", self.tree));
            }
            if !std::mem::replace(&mut asked, true) {
                let asked = self.ask();
                asked.map_err(|error| format!("{}: {error}", restore.get_program().display()))?;
            }
            end(&self.tree)?;
            Ok(run)
        }
    }

    /// Asks every process of the restored tree whether its memory is intact.
    fn ask(&self) -> Result<(), String> {
        let watch = Inotify::init(InitFlags::IN_CLOEXEC).map_err(|errno| errno.to_string())?;
        watch
            .add_watch(&self.status, AddWatchFlags::IN_MODIFY)
            .map_err(|errno| errno.to_string())?;
        for &pid in &self.tree {
            let asked = kill(Pid::from_raw(pid), Signal::SIGUSR1);
            asked.map_err(|errno| format!("asking process {pid}: {errno}"))?;
        }
        let text = loop {
            let text = fs::read_to_string(&self.status).map_err(|error| error.to_string())?;
            if text.lines().count() >= self.tree.len() {
                break text;
            }
            let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(ANSWER_MS_MAX)) {
                Ok(1) => drop(watch.read_events()),
                _ => return Err(format!("not all processes answer: {text}")),
            }
        };
        if let Some(line) = text.lines().find(|line| !line.ends_with(" intact")) {
            return Err(format!("memory is not intact: {line}"));
        }
        // A restore insists on the size that the file had at the dump.
        fs::write(&self.status, "").map_err(|error| error.to_string())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = end(&self.tree);
    }
}

/// So that both sides find the images in the page cache.
fn read_all(images: &Path) -> io::Result<()> {
    for entry in fs::read_dir(images)? {
        io::copy(&mut File::open(entry?.path())?, &mut io::sink())?;
    }
    Ok(())
}
