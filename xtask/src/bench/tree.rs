//! The trees of a bench: started, ended, and found again.

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::Options;
use crate::command;

/// A load: name, arguments of the workload, processes.
pub(super) struct Case(
    pub(super) &'static str,
    pub(super) &'static [&'static str],
    pub(super) usize,
);

/// The cases that were asked for.
pub(super) fn chosen<'a>(cases: &'a [Case], options: &Options) -> Result<Vec<&'a Case>, String> {
    let chosen = |case: &&Case| options.case.as_ref().is_none_or(|name| name == case.0);
    let found: Vec<&Case> = cases.iter().filter(chosen).collect();
    if found.is_empty() {
        let names: Vec<&str> = cases.iter().map(|case| case.0).collect();
        return Err(format!("no such case; there are {}", names.join(", ")));
    }
    Ok(found)
}

/// Builds what is measured.
pub(crate) fn build() -> Result<(), String> {
    let mut build = command::cargo(&["build", "--release", "--locked"]);
    command::run(build.args(["--package", "restore-cli", "--bins", "--examples"]))
}

/// Makes this process the parent of all orphans below it, with a `/run` of its own.
pub(super) fn prepare() -> nix::Result<()> {
    let none: Option<&str> = None;
    nix::sys::prctl::set_child_subreaper(true)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none)
}

/// Starts the workload that was built in a folder, and returns its pids when all of it is ready.
pub(crate) fn start(folder: &Path, status: &Path, args: &[&str]) -> Result<Vec<i32>, String> {
    let mut workload = Command::new(folder.join("examples/workload"));
    workload.arg(status).args(args).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = workload.stderr(Stdio::null()).spawn().map_err(|error| error.to_string())?;
    let mut stdout = child.stdout.take().expect("it is piped");
    // The end of the output is the sign: every process has closed it.
    io::copy(&mut stdout.by_ref(), &mut io::sink()).map_err(|error| error.to_string())?;
    Ok(session(child.id() as i32))
}

/// A failure with the errors in the log of what failed: upstream prints none of them.
pub(super) fn explained(failure: &str, log: &Path) -> String {
    let log = fs::read_to_string(log).unwrap_or_default();
    let errors = log.lines().filter(|line| line.contains("Error"));
    errors.fold(failure.to_owned(), |text, line| format!("{text}\n  {line}"))
}

/// All processes of a session, its leader first and the others in order.
pub(crate) fn session(leader: i32) -> Vec<i32> {
    let mut pids: Vec<i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields = stat.rsplit(')').next().unwrap_or_default();
            fields.split_whitespace().nth(3).is_some_and(|id| id.parse() == Ok(leader))
        })
        .collect();
    pids.sort_by_key(|&pid| (pid != leader, pid));
    pids
}

/// Ends what there is of a tree.
pub(crate) fn end(tree: &[i32]) -> Result<(), String> {
    for &pid in session(tree[0]).iter().filter(|pid| tree.contains(pid)) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL); // it may have just ended
    }
    reap(tree)
}

/// Collects a tree that ends, parents first: as a subreaper we get the children of the dead.
pub(crate) fn reap(tree: &[i32]) -> Result<(), String> {
    for &pid in tree {
        let pid = Pid::from_raw(pid);
        while waitpid(pid, Some(WaitPidFlag::__WALL)) == Err(Errno::EINTR) {}
        if kill(pid, None) != Err(Errno::ESRCH) {
            return Err(format!("process {pid} does not end"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::explained;
    use std::path::Path;

    #[test]
    fn failure_is_reported_with_the_errors_of_its_log() {
        let log = std::env::temp_dir().join(format!("xtask-explained-{}", std::process::id()));
        std::fs::write(&log, "Warn  a\nError (b.c:1): c\n").expect("the log can be written");
        let text = explained("dump: exit status: 1", &log);
        std::fs::remove_file(&log).expect("it is there");
        assert_eq!(text, "dump: exit status: 1\n  Error (b.c:1): c");
        assert_eq!(explained("restore: 2", Path::new("/no/such/log")), "restore: 2");
    }
}
