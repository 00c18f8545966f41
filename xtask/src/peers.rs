//! Fetches the programs that we compare with: Debian's current criu, with all that it needs.
//!
//! Nothing is installed. The packages come from the newest suite of the archive that this machine
//! is already configured to use, are unpacked under `target/peers`, and run through their own
//! loader, since they are newer than the system's libraries.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;

/// Suites that may have a criu new enough for current kernels, newest first.
const SUITES: [&str; 3] = ["sid", "forky", "testing"];
/// criu before this cannot restore on kernels from about 6.13.
const VERSION_MIN: (u32, u32) = (4, 2);

/// Starts criu with its own loader and libraries; everything is found from the script's place.
const WRAPPER: &str = r#"#!/bin/sh
root="$(dirname "$(readlink -f "$0")")/root"
libraries="$root/usr/lib/x86_64-linux-gnu:$root/lib/x86_64-linux-gnu:$root/usr/lib/criu"
exec "$root/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" --library-path "$libraries" \
    "$root/usr/sbin/criu" "$@"
"#;

/// Fetches what is not there yet, and returns the path of the criu wrapper.
pub(crate) fn fetch() -> Result<PathBuf, String> {
    let dir = command::root().join("target/peers");
    let wrapper = dir.join("criu");
    if version(&wrapper).is_ok_and(|version| version >= VERSION_MIN) {
        return Ok(wrapper);
    }
    let archive = archive()?;
    let mut failures = Vec::new();
    for suite in SUITES {
        match fetch_suite(&dir, &archive, suite) {
            Ok(()) => return Ok(wrapper),
            Err(error) => failures.push(format!("{suite}: {error}")),
        }
    }
    Err(format!("no criu from 4.2 on could be fetched ({})", failures.join("; ")))
}

/// The archive that the machine's own package sources name.
fn archive() -> Result<String, String> {
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        texts.push(fs::read_to_string(entry.path()).unwrap_or_default());
    }
    let words = texts.iter().flat_map(|text| text.lines());
    words
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace)
        .find(|word| word.contains("://") && word.trim_end_matches('/').ends_with("/debian"))
        .map(str::to_owned)
        .ok_or_else(|| "the package sources of this machine name no Debian archive".to_owned())
}

fn fetch_suite(dir: &Path, archive: &str, suite: &str) -> Result<(), String> {
    let io = |error: std::io::Error| error.to_string();
    let apt = dir.join("apt");
    for folder in ["state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(apt.join(folder)).map_err(io)?;
    }
    fs::write(apt.join("status"), "").map_err(io)?;
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let source = format!("deb [signed-by={keyring}] {archive} {suite} main\n");
    fs::write(apt.join("sources.list"), source).map_err(io)?;
    command::output(apt_get(&apt).arg("update"))?;
    let packages = ["install", "-y", "--download-only", "--no-install-recommends", "criu"];
    command::output(apt_get(&apt).args(packages))?;
    let root = dir.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).map_err(io)?;
    }
    fs::create_dir_all(&root).map_err(io)?;
    for entry in fs::read_dir(apt.join("cache/archives")).map_err(io)? {
        let package = entry.map_err(io)?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            command::output(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&root))?;
        }
    }
    let wrapper = dir.join("criu");
    fs::write(&wrapper, WRAPPER).map_err(io)?;
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).map_err(io)?;
    fs::remove_dir_all(&apt).map_err(io)?;
    let (major, minor) = version(&wrapper)?;
    if (major, minor) < VERSION_MIN {
        return Err(format!("criu {major}.{minor} is too old"));
    }
    Ok(())
}

/// apt-get with a state of its own: it neither reads nor changes the system's.
fn apt_get(apt: &Path) -> Command {
    let mut command = Command::new("apt-get");
    let path = |name: &str| apt.join(name).display().to_string();
    for (key, value) in [
        ("Dir::State", path("state")),
        ("Dir::State::status", path("status")),
        ("Dir::Cache", path("cache")),
        ("Dir::Etc::sourcelist", path("sources.list")),
        ("Dir::Etc::sourceparts", "-".to_owned()),
        ("APT::Architecture", "amd64".to_owned()),
        ("Acquire::Languages", "none".to_owned()),
        ("APT::Sandbox::User", "root".to_owned()),
    ] {
        command.arg("-o").arg(format!("{key}={value}"));
    }
    command
}

/// Major and minor version that the program says it has.
fn version(wrapper: &Path) -> Result<(u32, u32), String> {
    let text = command::output(Command::new(wrapper).arg("--version"))?;
    let word = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let mut parts = word.unwrap_or_default().split('.').map(|part| part.parse().unwrap_or(0));
    Ok((parts.next().unwrap_or(0), parts.next().unwrap_or(0)))
}
