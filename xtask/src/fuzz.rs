//! `fuzz`: hostile input for images and for the emulated driver, coverage guided, one process at a
//! time, at low priority.
//!
//! libFuzzer drives the targets of `criu-image/fuzz` and `gpu-kfd/emulator/fuzz`. The compiler's
//! coverage passes are stable, so no other toolchain is needed; there is no address sanitizer,
//! since what is fuzzed has no unsafe code.
//! What is new is kept below `target`, and merged into the committed corpus on request.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lexopt::prelude::*;

use crate::command;

/// Where a target is: the package that has it, and the package's folder.
#[derive(Clone, Copy, Debug)]
struct Home {
    package: &'static str,
    folder: &'static str,
}

const IMAGES: Home = Home { package: "criu-image-fuzz", folder: "criu-image/fuzz" };
const DRIVER: Home = Home { package: "kfd-emulator-fuzz", folder: "gpu-kfd/emulator/fuzz" };
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Names the target to the program.
const TARGET: &str = "THAW_FUZZ_TARGET";
/// All targets; a test compares those of images with their package.
const TARGETS: [(&str, Home); 6] = [
    ("image", IMAGES),
    ("typed", IMAGES),
    ("json", IMAGES),
    ("gpu", IMAGES),
    ("directory", IMAGES),
    ("calls", DRIVER),
];

/// What an input may have: this size, this much memory, this time.
const INPUT_BYTES_MAX: u32 = 1 << 20;
const MEMORY_MIB_MAX: u32 = 256;
const INPUT_SECONDS_MAX: u32 = 20;
/// Largest input that is merged into the committed corpus: it is replayed by each test run.
const KEPT_BYTES_MAX: u64 = 4096;

/// Passes that tell the fuzzer which code ran and what was compared.
const COVERAGE: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Clink-dead-code",
];

/// What `fuzz` was asked for.
struct Options {
    seconds: u32,
    target: Option<String>,
    merge: bool,
}

/// `fuzz [TARGET] [--seconds N] [--merge]`.
pub(crate) fn run(parser: lexopt::Parser) -> Result<(), String> {
    let options = parse(parser).map_err(|error| error.to_string())?;
    let chosen =
        TARGETS.iter().filter(|(name, _)| options.target.as_deref().is_none_or(|t| t == *name));
    let mut lines = Vec::new();
    for (target, home) in chosen {
        let program = build(home.package)?;
        let folders = Folders::of(target, home)?;
        if options.merge {
            merge(&program, target, &folders)?;
            continue;
        }
        eprintln!("xtask: {target} for {} s", options.seconds);
        lines.push(fuzz(&program, target, &folders, options.seconds)?);
    }
    lines.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn parse(mut parser: lexopt::Parser) -> Result<Options, lexopt::Error> {
    let mut options = Options { seconds: 60, target: None, merge: false };
    while let Some(arg) = parser.next()? {
        match arg {
            Long("seconds") => options.seconds = parser.value()?.parse()?,
            Long("merge") => options.merge = true,
            Value(target) if options.target.is_none() => options.target = Some(target.string()?),
            other => return Err(other.unexpected()),
        }
    }
    let names = TARGETS.map(|(name, _)| name);
    if options.target.as_ref().is_some_and(|target| !names.contains(&target.as_str())) {
        return Err(format!("no such target; there are {}", names.join(", ")).into());
    }
    Ok(options)
}

/// Builds the program with coverage, and with the checks of a debug build.
fn build(package: &str) -> Result<PathBuf, String> {
    let folder = command::root().join("target/fuzz");
    let mut cargo = command::cargo(&["build", "--release", "--locked", "--package", package]);
    cargo.args(["--features", "libfuzzer", "--target", TRIPLE, "--target-dir"]).arg(&folder);
    cargo.env("RUSTFLAGS", COVERAGE.join(" "));
    cargo.env("CARGO_PROFILE_RELEASE_LTO", "off");
    cargo.env("CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS", "true");
    cargo.env("CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS", "true");
    command::run(&mut cargo)?;
    Ok(folder.join(TRIPLE).join("release").join(package))
}

/// Inputs of one target.
struct Folders {
    /// Committed.
    kept: PathBuf,
    /// Of this machine.
    fresh: PathBuf,
    /// What broke a statement.
    artifacts: PathBuf,
}

impl Folders {
    fn of(target: &str, home: &Home) -> Result<Self, String> {
        let root = command::root();
        let folders = Self {
            kept: root.join(home.folder).join("corpus").join(target),
            fresh: root.join("target/fuzz/corpus").join(target),
            artifacts: root.join("target/fuzz/artifacts").join(target),
        };
        for folder in [&folders.kept, &folders.fresh, &folders.artifacts] {
            fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        Ok(folders)
    }
}

/// The program for one target, at the lowest priority.
fn fuzzer(program: &Path, target: &str) -> Command {
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(program).env(TARGET, target);
    command.args([format!("-max_len={INPUT_BYTES_MAX}"), "-verbosity=1".to_owned()]);
    command.arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"));
    command.arg(format!("-malloc_limit_mb={MEMORY_MIB_MAX}"));
    command.arg(format!("-timeout={INPUT_SECONDS_MAX}"));
    command
}

/// Runs one target and says how many inputs there were.
fn fuzz(program: &Path, target: &str, folders: &Folders, seconds: u32) -> Result<String, String> {
    let log = folders.fresh.with_extension("log");
    let mut command = fuzzer(program, target);
    command.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1");
    command.arg(format!("-artifact_prefix={}/", folders.artifacts.display()));
    command.arg(&folders.fresh).arg(&folders.kept);
    let file = fs::File::create(&log).map_err(|error| error.to_string())?;
    let status = command.stderr(file).status().map_err(|error| error.to_string())?;
    let text = fs::read_to_string(&log).map_err(|error| error.to_string())?;
    if !status.success() {
        let last = text.lines().rev().take(15).collect::<Vec<_>>();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        return Err(format!("{target}: {status}; {} says more\n{last}", log.display()));
    }
    let stat = |name: &str| {
        let mut lines =
            text.lines().filter_map(|line| line.strip_prefix("stat::")?.split_once(':'));
        lines.find(|(known, _)| *known == name).map_or("?", |(_, value)| value.trim()).to_owned()
    };
    let (inputs, peak) = (stat("number_of_executed_units"), stat("peak_rss_mb"));
    Ok(format!("{target}: {seconds} s, {inputs} inputs, peak {peak} MiB, nothing found"))
}

/// Adds to the committed corpus what covers more, as few and small inputs as will do.
fn merge(program: &Path, target: &str, folders: &Folders) -> Result<(), String> {
    let small = folders.fresh.with_extension("small");
    let io = |error: std::io::Error| format!("{target}: {error}");
    if small.is_dir() {
        fs::remove_dir_all(&small).map_err(io)?;
    }
    fs::create_dir_all(&small).map_err(io)?;
    for folder in [&folders.kept, &folders.fresh] {
        for file in fs::read_dir(folder).map_err(io)? {
            let path = file.map_err(io)?.path();
            if fs::metadata(&path).map_err(io)?.len() <= KEPT_BYTES_MAX {
                fs::copy(&path, small.join(path.file_name().unwrap_or_default())).map_err(io)?;
            }
        }
    }
    let merged = folders.fresh.with_extension("merged");
    if merged.is_dir() {
        fs::remove_dir_all(&merged).map_err(io)?;
    }
    fs::create_dir_all(&merged).map_err(io)?;
    let mut command = fuzzer(program, target);
    command::run(command.arg("-merge=1").arg(&merged).arg(&small))?;
    fs::remove_dir_all(&folders.kept).map_err(io)?;
    fs::create_dir_all(&folders.kept).map_err(io)?;
    for file in fs::read_dir(&merged).map_err(io)? {
        let path = file.map_err(io)?.path();
        let to = folders.kept.join(path.file_name().unwrap_or_default());
        fs::copy(&path, to).map_err(io)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{IMAGES, TARGETS};

    #[test]
    fn targets_are_those_of_the_package() {
        let source = include_str!("../../criu-image/fuzz/src/lib.rs");
        let list = source.split("TARGETS:").nth(1).and_then(|rest| rest.split("];").next());
        let names: Vec<&str> = list.unwrap_or_default().split('"').skip(1).step_by(2).collect();
        let here = TARGETS.iter().filter(|(_, home)| home.package == IMAGES.package);
        assert_eq!(names, here.map(|(name, _)| *name).collect::<Vec<_>>());
    }
}
