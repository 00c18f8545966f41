//! Packages of the Debian archive that this machine is configured to use.
//!
//! Nothing is installed: `apt-get` gets a state of its own, which neither reads nor changes the
//! system's, and packages are unpacked into a folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::remove;
use crate::command;

/// Keys of the archive, as newer and older systems have them.
const KEYRINGS: [&str; 2] = [
    "/usr/share/keyrings/debian-archive-keyring.pgp",
    "/usr/share/keyrings/debian-archive-keyring.gpg",
];

/// `apt-get` with a state of its own, in a folder.
pub(super) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Reads the lists of a suite; nothing counts as installed.
    pub(super) fn open(folder: &Path, archive: &str, suite: &str) -> Result<Self, String> {
        let io = |error: std::io::Error| error.to_string();
        for path in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(path)).map_err(io)?;
        }
        let keyring = KEYRINGS.iter().find(|path| Path::new(path).is_file());
        let keyring = keyring.ok_or("the keyring of the Debian archive is missing here")?;
        let source = format!("deb [signed-by={keyring}] {archive} {suite} main\n");
        fs::write(folder.join("sources.list"), source).map_err(io)?;
        fs::write(folder.join("status"), "").map_err(io)?;
        configure(folder).map_err(io)?;
        let apt = Self { folder: folder.to_owned() };
        apt.get(&["update"])?;
        Ok(apt)
    }

    /// Runs `apt-get` with these arguments.
    pub(super) fn get(&self, args: &[&str]) -> Result<(), String> {
        let mut command = Command::new("apt-get");
        command.arg("-c").arg(self.folder.join("apt.conf")).args(args);
        command::output(command.current_dir(&self.folder)).map(drop)
    }

    /// Unpacks everything that was fetched.
    pub(super) fn unpack(&self, root: &Path) -> Result<(), String> {
        for folder in [self.folder.join("cache/archives"), self.folder.clone()] {
            for entry in fs::read_dir(folder).map_err(|error| error.to_string())? {
                let package = entry.map_err(|error| error.to_string())?.path();
                if package.extension().is_some_and(|end| end == "deb") {
                    command::output(Command::new("dpkg-deb").arg("-x").arg(&package).arg(root))?;
                }
            }
        }
        Ok(())
    }

    /// Removes the state and the packages.
    pub(super) fn close(self) -> Result<(), String> {
        remove(&self.folder)
    }
}

/// Writes the configuration of a state below `folder`.
fn configure(folder: &Path) -> std::io::Result<()> {
    let path = |name: &str| folder.join(name).display().to_string();
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
    fs::write(folder.join("apt.conf"), lines.concat())
}

/// The archive that the machine's own package sources name.
pub(super) fn address() -> Result<String, String> {
    for program in ["apt-get", "dpkg-deb"] {
        if !command::exists(program) {
            return Err(format!("no package can be fetched: {program} is missing here"));
        }
    }
    let found = sources().iter().find_map(|text| archive_in(text));
    found.ok_or_else(|| "the package sources of this machine name no Debian archive".to_owned())
}

/// The suite of the running system, such as `bookworm`.
pub(super) fn own_suite() -> Result<String, String> {
    let text = fs::read_to_string("/etc/os-release").map_err(|error| error.to_string())?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let name = name.map(|name| name.trim_matches('"').to_owned());
    name.ok_or_else(|| "/etc/os-release names no suite".to_owned())
}

fn sources() -> Vec<String> {
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    for entry in fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|end| end == "list" || end == "sources") {
            texts.push(fs::read_to_string(path).unwrap_or_default());
        }
    }
    texts
}

/// The first address of a Debian archive in a list of sources of either form.
fn archive_in(text: &str) -> Option<String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(str::split_whitespace)
        .find(|word| word.contains("://") && word.trim_end_matches('/').ends_with("/debian"))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::archive_in;

    #[test]
    fn archive_is_found_in_both_forms() {
        let list = "# deb http://a/debian x\ndeb [signed-by=/k] http://b/debian sid main\n";
        let sources = "Types: deb\nURIs: http://c/debian/\nSuites: bookworm\n";
        assert_eq!(archive_in(list).as_deref(), Some("http://b/debian"));
        assert_eq!(archive_in(sources).as_deref(), Some("http://c/debian/"));
        assert_eq!(archive_in("URIs: http://c/debian-security\n"), None);
    }
}
