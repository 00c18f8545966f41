//! Which revision of the source this is, for `thaw --version`. Without git it is not said.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=THAW_REVISION");
    let chosen = std::env::var("THAW_REVISION").ok().filter(|revision| !revision.is_empty());
    let revision = chosen.or_else(|| {
        // When HEAD or its branch moves, this is looked at again.
        for name in ["HEAD", "logs/HEAD"] {
            let path = git(&["rev-parse", "--git-path", name])?;
            if Path::new(&path).exists() {
                println!("cargo::rerun-if-changed={path}");
            }
        }
        git(&["rev-parse", "--short=10", "HEAD"])
    });
    println!("cargo::rustc-env=THAW_REVISION={}", revision.unwrap_or_default());
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}
