//! `demo`: what the project does, shown to someone who has just checked it out.
//!
//! Two processes that keep two GPUs busy are checkpointed, killed, and brought back on a machine
//! whose GPUs have other ids (`gpu`). The GPUs are emulated, which needs FUSE with passthrough;
//! where that is missing the same is shown with a tree that uses no GPU (`tree`).

mod gpu;
mod tree;

use crate::command;

/// Shows it.
pub(crate) fn run() -> Result<(), String> {
    if let Some(part) = gpu::inside() {
        return part;
    }
    if tree::is_inside() {
        return tree::run();
    }
    if !nix::unistd::geteuid().is_root() {
        return Err("the demo needs root: only root may choose process ids".to_owned());
    }
    match missing() {
        None => gpu::run(),
        Some(reason) => {
            println!("No emulated GPUs on this machine: {reason}. A tree without GPUs, then.\n");
            tree::run()
        }
    }
}

/// Builds thaw and the programs that are checkpointed.
fn build() -> Result<(), String> {
    let mut build = command::cargo(&["build", "--profile", "quick", "--locked"]);
    command::run(build.args(["--package", "restore-cli", "--bins", "--examples"]))
}

/// Why there can be no emulated node here.
fn missing() -> Option<String> {
    if !std::path::Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse".to_owned());
    }
    let release = nix::sys::utsname::uname().ok()?.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    (version < (6, 9)).then(|| format!("Linux {release} has no FUSE passthrough (6.9 has)"))
}
