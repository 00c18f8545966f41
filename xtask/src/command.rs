//! Running other programs, with errors that say which one failed and how.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Root of the workspace.
pub(crate) fn root() -> PathBuf {
    // Asked of cargo at each run: checkouts that share a target folder share this program.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    let here = PathBuf::from(here);
    here.parent().map_or(here.clone(), PathBuf::from)
}

/// The folder where cargo puts what it builds for release.
pub(crate) fn release_folder() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(target).join("release")
}

/// The folder where cargo puts what tests and the demo run.
pub(crate) fn quick_folder() -> PathBuf {
    release_folder().with_file_name("quick")
}

/// Whether a program of this name can be found.
pub(crate) fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Runs a program with its output shown.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("{}: {error}", describe(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", describe(command))) }
}

/// Runs a program and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let result = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("{}: {error}", describe(command)))?;
    if result.status.success() {
        return Ok(String::from_utf8_lossy(&result.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&result.stderr);
    // Some programs mark what went wrong; of others the last line tells most.
    let marked = text.lines().find(|line| line.starts_with("E: "));
    let line = marked.or(text.lines().last()).unwrap_or_default();
    Err(format!("{}: {}: {line}", describe(command), result.status))
}

/// A cargo command.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

fn describe(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args().take(4) {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}
