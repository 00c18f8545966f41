//! Fetches the programs that we compare with: Debian's current criu, with all that it needs.
//!
//! Nothing is installed. The packages come from a newer suite of the archive that this machine is
//! already configured to use, are unpacked under `target/peers`, and run through their own loader,
//! since they are newer than the system's libraries. What is there has been tried: the folder gets
//! its name only after a process was dumped and restored.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::command;

/// Suites that may have a criu new enough for current kernels, newest first.
const SUITES: [&str; 5] = ["sid", "forky", "testing", "trixie-backports", "trixie"];
/// criu before this cannot restore on kernels from about 6.13.
const VERSION_MIN: (u32, u32) = (4, 2);
/// Keys of the archive, as newer and older systems have them.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
];
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

/// Fetches what is not there yet, and says what there is.
pub(crate) fn show() -> Result<(), String> {
    let criu = fetch()?;
    println!("criu {}: {}", version(&criu)?, criu.display());
    Ok(())
}

/// Fetches what is not there yet, and returns the path of the criu wrapper.
pub(crate) fn fetch() -> Result<PathBuf, String> {
    let peers = command::root().join("target/peers");
    let complete = peers.join("criu");
    if complete.join(STAMP).is_file() {
        return Ok(complete.join("criu"));
    }
    for program in ["apt-get", "dpkg-deb"] {
        if !command::exists(program) {
            return Err(format!("criu cannot be fetched: {program} is missing here"));
        }
    }
    let archive = archive()?;
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

/// A command that starts crit, of the same version as criu. It is a Python program, and uses this
/// machine's Python with its protobuf library.
///
/// It is Debian's package: what is called `crit` in Python's package index is another program.
pub(crate) fn crit() -> Result<Vec<String>, String> {
    let folder = command::root().join("target/peers/crit");
    let packages = folder.join("usr/lib/python3/dist-packages");
    let check = |python: &str| {
        let mut import = Command::new(python);
        import.args(["-c", "import crit, pycriu, google.protobuf"]);
        command::output(import.env("PYTHONPATH", &packages))
    };
    if !folder.is_dir() {
        let archive = archive()?;
        let (fresh, apt) = (folder.with_extension("partial"), folder.with_extension("apt"));
        remove(&fresh)?;
        let fetched = SUITES.iter().find_map(|suite| {
            eprintln!("xtask: looking for crit in {suite}");
            let package = download(&apt, &archive, suite, "python3-pycriu").ok()?;
            command::output(Command::new("dpkg-deb").arg("-x").arg(package).arg(&fresh)).ok()
        });
        remove(&apt)?;
        fetched.ok_or("no package python3-pycriu could be fetched")?;
        fs::rename(&fresh, &folder).map_err(|error| error.to_string())?;
    }
    let pythons = ["python3", "/usr/bin/python3"];
    let python = pythons.into_iter().find(|python| check(python).is_ok());
    let python =
        python.ok_or("this machine's Python has no protobuf library (python3-protobuf)")?;
    let path = format!("PYTHONPATH={}", packages.display());
    Ok(["env", &path, python, "-m", "crit"].map(str::to_owned).to_vec())
}

/// Downloads one package without what it needs, and returns where it is.
fn download(apt: &Path, archive: &str, suite: &str, package: &str) -> Result<PathBuf, String> {
    remove(apt)?;
    sources(apt, archive, suite)?;
    apt_get(apt, &["update"])?;
    let mut all = Command::new("apt-get");
    // Only this package: its program is all that is wanted.
    all.current_dir(apt).args(["-c", "apt.conf", "download", package]);
    command::output(&mut all)?;
    let files = fs::read_dir(apt).map_err(|error| error.to_string())?.flatten();
    let mut paths = files.map(|entry| entry.path());
    paths
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .ok_or_else(|| format!("{package} was not downloaded"))
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

/// The archive that the machine's own package sources name.
fn archive() -> Result<String, String> {
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|end| end == "list" || end == "sources") {
            texts.push(fs::read_to_string(path).unwrap_or_default());
        }
    }
    texts
        .iter()
        .find_map(|text| archive_in(text))
        .ok_or_else(|| "the package sources of this machine name no Debian archive".to_owned())
}

/// The first address of a Debian archive in a list of sources of either form.
fn archive_in(text: &str) -> Option<String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace)
        .find(|word| word.contains("://") && word.trim_end_matches('/').ends_with("/debian"))
        .map(str::to_owned)
}

/// Unpacks criu of a suite into `folder` and tries it.
fn fetch_suite(folder: &Path, archive: &str, suite: &str) -> Result<(), String> {
    let io = |error: std::io::Error| error.to_string();
    remove(folder)?;
    let (apt, root) = (folder.join("apt"), folder.join("root"));
    fs::create_dir_all(&root).map_err(io)?;
    sources(&apt, archive, suite)?;
    apt_get(&apt, &["update"])?;
    apt_get(&apt, &["install", "-y", "--download-only", "--no-install-recommends", "criu"])?;
    for entry in fs::read_dir(apt.join("cache/archives")).map_err(io)? {
        let package = entry.map_err(io)?.path();
        if package.extension().is_some_and(|end| end == "deb") {
            command::output(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&root))?;
        }
    }
    fs::remove_dir_all(&apt).map_err(io)?;
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

/// Makes a folder from which apt-get knows one suite of the archive, and nothing as installed: so
/// a package comes with all that it needs.
fn sources(apt: &Path, archive: &str, suite: &str) -> Result<(), String> {
    let io = |error: std::io::Error| error.to_string();
    for path in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(path)).map_err(io)?;
    }
    let keyring = KEYRINGS.iter().find(|path| Path::new(path).is_file());
    let keyring = keyring.ok_or("the keyring of the Debian archive is missing here")?;
    let source = format!("deb [signed-by={keyring}] {archive} {suite} main\n");
    fs::write(apt.join("sources.list"), source).map_err(io)?;
    fs::write(apt.join("status"), "").map_err(io)?;
    configure(apt).map_err(io)
}

fn remove(path: &Path) -> Result<(), String> {
    let removed = match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.map_err(|error| format!("{}: {error}", path.display()))
}

/// Writes a configuration that gives apt-get a state of its own below `apt`: it neither reads nor
/// changes the system's.
fn configure(apt: &Path) -> std::io::Result<()> {
    let path = |name: &str| apt.join(name).display().to_string();
    let settings = [
        ("Dir::State", path("state")),
        ("Dir::State::status", path("status")),
        ("Dir::Cache", path("cache")),
        ("Dir::Etc::sourcelist", path("sources.list")),
        ("Dir::Etc::sourceparts", "-".to_owned()),
        ("APT::Architecture", "amd64".to_owned()),
        ("APT::Sandbox::User", "root".to_owned()),
        // An archive that cannot be reached is an error, and soon one.
        ("APT::Update::Error-Mode", "any".to_owned()),
        ("Acquire::Languages", "none".to_owned()),
        ("Acquire::Retries", "1".to_owned()),
        ("Acquire::http::Timeout", "20".to_owned()),
    ];
    let lines = settings.map(|(key, value)| format!("{key} \"{value}\";\n"));
    fs::write(apt.join("apt.conf"), lines.concat())
}

fn apt_get(apt: &Path, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new("apt-get");
    command::output(command.arg("-c").arg(apt.join("apt.conf")).args(args))
}

/// The version that the program says it has.
fn version(criu: &Path) -> Result<String, String> {
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
    use super::{VERSION_MIN, archive_in, major_minor};

    #[test]
    fn archive_is_found_in_both_forms() {
        let list = "# deb http://a/debian x\ndeb [signed-by=/k] http://b/debian sid main\n";
        let sources = "Types: deb\nURIs: http://c/debian/\nSuites: bookworm\n";
        assert_eq!(archive_in(list).as_deref(), Some("http://b/debian"));
        assert_eq!(archive_in(sources).as_deref(), Some("http://c/debian/"));
        assert_eq!(archive_in("URIs: http://c/debian-security\n"), None);
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(major_minor("4.10.1"), (4, 10));
        assert!(major_minor("4.10") >= VERSION_MIN && major_minor("4.1.9") < VERSION_MIN);
        assert_eq!(major_minor("v5"), (0, 0));
    }
}
