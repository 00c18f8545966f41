//! All tests, and everything that CI asks for beside them.
//!
//! A test that cannot run on this machine writes a line into the file named by `THAW_SKIPS`;
//! those lines are printed and counted, so that nothing is passed over in silence. The last line
//! of the output is always the count.

use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use crate::{command, peers, tidy};

/// Programs that building and testing need, and what for.
const NEEDED: [(&str, &str); 7] = [
    ("cc", "links every program"),
    ("git", "tells tidy which files there are"),
    ("unshare", "gives live tests a pid namespace"),
    ("timeout", "ends live tests that hang"),
    ("apt-get", "fetches upstream's criu and AMD's libraries"),
    ("dpkg-deb", "unpacks them"),
    ("chromium", "opens the pages of reports"),
];

/// Sums over all test binaries.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl fmt::Display for Totals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Builds everything and runs every test.
pub(crate) fn test() -> ExitCode {
    conclude(Vec::new())
}

/// Everything: reports all failures, not only the first.
pub(crate) fn ci() -> ExitCode {
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    let mut doc = command::cargo(&["doc", "--no-deps", "--workspace", "--locked"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    let results = [
        ("formatting", command::run(&mut command::cargo(&["fmt", "--all", "--check"]))),
        ("clippy", command::run(&mut command::cargo(&clippy))),
        ("documentation", command::run(&mut doc)),
        ("tidy", tidy::run()),
    ];
    let failures = results.into_iter().filter_map(|(name, result)| Some((name, result.err()?)));
    conclude(failures.collect())
}

/// Runs the tests, then prints all failures and the count.
fn conclude(mut failures: Vec<(&'static str, String)>) -> ExitCode {
    let mut totals = Totals::default();
    match all_tests(&mut totals) {
        Ok(()) => {}
        Err(error) => {
            // A build that fails or a test program that crashes counts no test as failed.
            totals.failed = totals.failed.max(1);
            failures.push(("test", error));
        }
    }
    for (name, error) in &failures {
        eprintln!("xtask: {name}: {error}");
    }
    println!("{totals}");
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn all_tests(totals: &mut Totals) -> Result<(), String> {
    for (program, purpose) in NEEDED.iter().filter(|(program, _)| !command::exists(program)) {
        println!("xtask: {program} is missing here: it {purpose}");
    }
    let criu = if nix::unistd::geteuid().is_root() {
        peers::fetch()
    } else {
        Err("only root can checkpoint and restore".to_owned())
    };
    command::run(&mut command::cargo(&["build", "--profile", "quick", "--workspace", "--locked"]))?;
    let skips = command::root().join("target/skips.txt");
    let written = fs::create_dir_all("target").and_then(|()| fs::write(&skips, ""));
    written.map_err(|error| format!("{}: {error}", skips.display()))?;
    let mut cargo = command::cargo(&["test", "--profile", "quick", "--workspace", "--locked"]);
    cargo.arg("--no-fail-fast").env("CARGO_TERM_COLOR", "never").env("THAW_SKIPS", &skips);
    cargo.env("THAW_BIN", command::quick_folder().join("thaw"));
    tell(&mut cargo, "CRIU", criu);
    tell(&mut cargo, "ROCM", peers::fetch_rocm());
    let ended = stream(cargo, totals);
    let skipped = fs::read_to_string(&skips).unwrap_or_default();
    let skipped: Vec<&str> = skipped.lines().collect();
    if !skipped.is_empty() {
        println!("\nSkipped on this machine:");
        skipped.iter().for_each(|line| println!("  {line}"));
        println!();
    }
    // A skipped test returns early, so the harness has counted it as passed.
    totals.passed = totals.passed.saturating_sub(skipped.len());
    totals.skipped += skipped.len();
    ended
}

/// Tells tests where a peer is (`THAW_<name>`), or why there is none (`THAW_NO_<name>`).
fn tell(cargo: &mut Command, name: &str, peer: Result<PathBuf, String>) {
    match peer {
        Ok(path) => cargo.env(format!("THAW_{name}"), path),
        Err(error) => {
            eprintln!("xtask: {error}");
            // One line, since each skipped test repeats it.
            let reason = error.lines().next().unwrap_or_default().trim_end_matches(':');
            cargo.env_remove(format!("THAW_{name}")).env(format!("THAW_NO_{name}"), reason)
        }
    };
}

/// Runs the tests and shows their output while it is read.
fn stream(mut cargo: Command, totals: &mut Totals) -> Result<(), String> {
    // One pipe for both streams: the order of results and of cargo's lines matters.
    let (reader, writer) = std::io::pipe().map_err(|error| error.to_string())?;
    let second = writer.try_clone().map_err(|error| error.to_string())?;
    let child = cargo.stdout(writer).stderr(second).spawn();
    drop(cargo); // it holds the write ends, and we wait for their end
    let mut child = child.map_err(|error| format!("cargo test: {error}"))?;
    let mut results = Results::default();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.map_err(|error| error.to_string())?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        results.add(&line);
    }
    *totals = results.finish();
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("cargo test: {status}")) }
}

/// Results of one test program after the other.
///
/// A live test runs itself again in a namespace, and that run prints a result too: of each
/// program only the last result counts, since it waits for all that it started.
#[derive(Debug, Default)]
struct Results {
    earlier: Totals,
    last: Totals,
}

impl Results {
    fn add(&mut self, line: &str) {
        let words = line.trim_start();
        if words.starts_with("Running ") || words.starts_with("Doc-tests ") {
            self.end_program();
        } else if let Some(counts) = line.strip_prefix("test result: ") {
            self.last = Totals {
                passed: count(counts, "passed"),
                failed: count(counts, "failed"),
                skipped: count(counts, "ignored"),
            };
        }
    }

    fn end_program(&mut self) {
        let last = std::mem::take(&mut self.last);
        self.earlier.passed += last.passed;
        self.earlier.failed += last.failed;
        self.earlier.skipped += last.skipped;
    }

    fn finish(mut self) -> Totals {
        self.end_program();
        self.earlier
    }
}

/// The number before a word in a line such as `ok. 3 passed; 0 failed; 0 ignored; ...`.
fn count(counts: &str, what: &str) -> usize {
    let part = counts.split([';', '.']).find(|part| part.trim_end().ends_with(what));
    part.and_then(|part| part.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::{Results, Totals};

    fn check(output: &str, passed: usize, failed: usize, skipped: usize) {
        let mut results = Results::default();
        output.lines().for_each(|line| results.add(line));
        assert_eq!(results.finish(), Totals { passed, failed, skipped }, "{output}");
    }

    #[test]
    fn results_of_all_programs_are_summed() {
        check(
            "     Running unittests src/lib.rs (target/a)\n\
             test files::regular ... ok\n\
             test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n\
             \x20    Running tests/live.rs (target/b)\n\
             test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured\n\
             \x20  Doc-tests criu_image\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured\n",
            16,
            2,
            1,
        );
    }

    #[test]
    fn run_inside_a_namespace_is_not_counted_twice() {
        check(
            "     Running tests/live.rs (target/b)\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out\n\
             test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n",
            2,
            0,
            0,
        );
    }
}
