//! Upstream's criu, of a suite that is new enough for current kernels.
//!
//! It is newer than the system's libraries, so it runs through its own loader. What is there has
//! been tried: the folder gets its name only after a process was dumped and restored.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::archive::{self, Apt};
use super::remove;
use crate::command;

/// Suites that may have a criu new enough for current kernels, newest first.
pub(super) const SUITES: [&str; 5] = ["sid", "forky", "testing", "trixie-backports", "trixie"];
/// criu before this cannot restore on kernels from about 6.13.
const VERSION_MIN: (u32, u32) = (4, 2);
/// Written last: the version of what is unpacked beside it.
const STAMP: &str = "version";

/// Places below the folder into which the packages are unpacked.
const LOADER: &str = "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";
const LIBRARIES: [&str; 3] = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib/criu"];
const PROGRAM: &str = "usr/sbin/criu";

/// A process to try criu on: no terminal, no files of ours, a session of its own.
const SLEEPER: &str = r#"
for file in /proc/self/fd/*; do
    fd="${file##*/}"
    if [ "$fd" -gt 2 ]; then eval "exec $fd>&-"; fi
done
exec setsid sleep 1000
"#;

/// Fetches what is not there yet, and returns the path of the criu wrapper.
pub(crate) fn fetch() -> Result<PathBuf, String> {
    let peers = command::root().join("target/peers");
    let complete = peers.join("criu");
    if complete.join(STAMP).is_file() {
        return Ok(complete.join("criu"));
    }
    let archive = archive::address()?;
    let fresh = peers.join("criu.partial");
    let mut failures = Vec::new();
    for suite in SUITES {
        eprintln!("xtask: looking for criu in {suite}");
        let fetched = fetch_suite(&fresh, &archive, suite).and_then(|()| {
            remove(&complete)?;
            fs::rename(&fresh, &complete).map_err(|error| error.to_string())
        });
        match fetched {
            Ok(()) => return Ok(complete.join("criu")),
            Err(error) => failures.push(format!("\n  {suite}: {error}")),
        }
    }
    let (major, minor) = VERSION_MIN;
    remove(&fresh)?;
    let failures = failures.concat();
    Err(format!("no criu from {major}.{minor} on could be fetched and tried:{failures}"))
}

/// A command that starts criu at once: the shell of the wrapper takes 3 ms, as much as a quarter
/// of a small restore, and a comparison must not count them.
pub(crate) fn command(criu: &Path) -> Command {
    let root = criu.with_file_name("root");
    let mut command = Command::new(root.join(LOADER));
    let libraries = LIBRARIES.map(|path| root.join(path).display().to_string()).join(":");
    command.arg("--library-path").arg(libraries).arg(root.join(PROGRAM));
    command
}

/// A script that does the same, for those who want one program. It may be moved with its folder.
fn wrapper() -> String {
    let libraries = LIBRARIES.map(|path| format!("$root/{path}")).join(":");
    format!(
        "#!/bin/sh\n\
         root=\"$(dirname \"$(readlink -f \"$0\")\")/root\"\n\
         exec \"$root/{LOADER}\" --library-path \"{libraries}\" \"$root/{PROGRAM}\" \"$@\"\n"
    )
}

/// Unpacks criu of a suite into `folder` and tries it.
fn fetch_suite(folder: &Path, archive: &str, suite: &str) -> Result<(), String> {
    let io = |error: std::io::Error| error.to_string();
    remove(folder)?;
    let root = folder.join("root");
    fs::create_dir_all(&root).map_err(io)?;
    // Nothing counts as installed, so that criu comes with all that it needs.
    let apt = Apt::open(&folder.join("apt"), archive, suite)?;
    apt.get(&["install", "-y", "--download-only", "--no-install-recommends", "criu"])?;
    apt.unpack(&root)?;
    apt.close()?;
    let criu = folder.join("criu");
    fs::write(&criu, wrapper()).map_err(io)?;
    fs::set_permissions(&criu, fs::Permissions::from_mode(0o755)).map_err(io)?;
    let version = version(&criu)?;
    if major_minor(&version) < VERSION_MIN {
        return Err(format!("criu {version} is too old"));
    }
    try_out(&criu, &folder.join("trial"))?;
    fs::write(folder.join(STAMP), format!("{version}\n")).map_err(io)
}

/// The version that the program says it has.
pub(super) fn version(criu: &Path) -> Result<String, String> {
    let text = command::output(Command::new(criu).arg("--version"))?;
    let mut words = text.split_whitespace();
    let version = words.find(|word| word.starts_with(|char: char| char.is_ascii_digit()));
    version.map(str::to_owned).ok_or_else(|| format!("criu states no version: {text}"))
}

/// Major and minor number of a version; what cannot be read counts as old.
fn major_minor(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Dumps and restores a process, as root; others can use criu for little else than its version.
fn try_out(criu: &Path, images: &Path) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    fs::create_dir_all(images).map_err(|error| error.to_string())?;
    // What is restored in the background comes to us when criu ends.
    nix::sys::prctl::set_child_subreaper(true).map_err(|error| error.to_string())?;
    let mut sleeper = Command::new("bash");
    sleeper.args(["-c", SLEEPER]).stdin(Stdio::null()).stdout(Stdio::null());
    let mut sleeper = sleeper.stderr(Stdio::null()).spawn().map_err(|error| error.to_string())?;
    let pid = sleeper.id() as i32;
    let tried = wait_for_sleep(&mut sleeper).and_then(|()| {
        let mut dump = Command::new(criu);
        dump.args(["dump", "-v1", "-o", "dump.log", "-t", &pid.to_string(), "-D"]);
        command::output(dump.arg(images))?;
        sleeper.wait().map_err(|error| error.to_string())?;
        let mut restore = Command::new(criu);
        restore.args(["restore", "-d", "-v1", "-o", "restore.log", "-D"]);
        command::output(restore.arg(images))
    });
    let ended = kill(Pid::from_raw(pid), Signal::SIGKILL)
        .and_then(|()| waitpid(Pid::from_raw(pid), Some(WaitPidFlag::__WALL)));
    let logs = ["dump.log", "restore.log"].map(|name| fs::read_to_string(images.join(name)));
    let error = logs.iter().flatten().flat_map(|log| log.lines()).find(|l| l.contains("Error"));
    tried.map_err(|failure| format!("{failure} {}", error.unwrap_or_default()))?;
    ended.map_err(|errno| format!("the restored process is not there: {errno}"))?;
    remove(images)
}

/// Waits until the sleeper has become a session leader and runs its program.
fn wait_for_sleep(sleeper: &mut Child) -> Result<(), String> {
    let name = format!("/proc/{}/comm", sleeper.id());
    while fs::read_to_string(&name).is_ok_and(|name| name.trim() != "sleep") {
        if let Some(status) = sleeper.try_wait().map_err(|error| error.to_string())? {
            return Err(format!("the process to dump: {status}"));
        }
        std::thread::yield_now();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{VERSION_MIN, major_minor};

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(major_minor("4.10.1"), (4, 10));
        assert!(major_minor("4.10") >= VERSION_MIN && major_minor("4.1.9") < VERSION_MIN);
        assert_eq!(major_minor("v5"), (0, 0));
    }
}
