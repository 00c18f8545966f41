//! All tests, and everything that CI asks for beside them.
//!
//! A test that cannot run on this machine writes a line into the file named by `THAW_SKIPS`;
//! those lines are printed and counted, so that nothing is passed over in silence.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::{command, peers, tidy};

/// Sums over all test binaries.
#[derive(Debug, Default)]
struct Totals {
    passed: usize,
    failed: usize,
}

/// Builds everything and runs every test.
pub(crate) fn test() -> Result<(), String> {
    command::run(&mut command::cargo(&["build", "--release", "--workspace", "--locked"]))?;
    let root = command::root();
    let skips = root.join("target/skips.txt");
    fs::write(&skips, "").map_err(|error| error.to_string())?;
    let mut cargo = command::cargo(&["test", "--release", "--workspace", "--locked"]);
    cargo.arg("--no-fail-fast").env("THAW_SKIPS", &skips);
    cargo.env("THAW_BIN", root.join("target/release/thaw"));
    match peers::fetch() {
        Ok(criu) => drop(cargo.env("THAW_CRIU", criu)),
        Err(error) => drop(cargo.env("THAW_NO_CRIU", error)),
    }
    let mut child = cargo.stdout(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
    let mut totals = Totals::default();
    for line in BufReader::new(child.stdout.take().expect("it is piped")).lines() {
        let line = line.map_err(|error| error.to_string())?;
        println!("{line}");
        totals.add(&line);
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let skipped = fs::read_to_string(&skips).unwrap_or_default();
    let skipped: Vec<&str> = skipped.lines().collect();
    if !skipped.is_empty() {
        println!("\nSkipped on this machine:");
        skipped.iter().for_each(|line| println!("  {line}"));
    }
    // A skipped test returns early, so the harness has counted it as passed.
    let passed = totals.passed.saturating_sub(skipped.len());
    println!("\n{passed} passed, {} failed, {} skipped", totals.failed, skipped.len());
    if status.success() && totals.failed == 0 { Ok(()) } else { Err("tests failed".to_owned()) }
}

impl Totals {
    /// Takes in a line such as `test result: ok. 3 passed; 0 failed; ...`.
    fn add(&mut self, line: &str) {
        let Some(rest) = line.strip_prefix("test result: ") else {
            return;
        };
        let count = |what: &str| {
            let part = rest.split([';', '.']).find(|part| part.trim_end().ends_with(what));
            part.and_then(|part| part.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        self.passed += count("passed");
        self.failed += count("failed");
    }
}

/// Everything: reports all failures, not only the first.
pub(crate) fn ci() -> Result<(), String> {
    let clippy = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    let mut doc = command::cargo(&["doc", "--no-deps", "--workspace", "--locked"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    let results = [
        ("formatting", command::run(&mut command::cargo(&["fmt", "--all", "--check"]))),
        ("clippy", command::run(&mut command::cargo(&clippy))),
        ("documentation", command::run(&mut doc)),
        ("tidy", tidy::run()),
        ("test", test()),
    ];
    let failures: Vec<String> = results
        .into_iter()
        .filter_map(|(name, result)| Some(format!("{name}: {}", result.err()?)))
        .collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n       ")) }
}

#[cfg(test)]
mod tests {
    use super::Totals;

    #[test]
    fn result_lines_are_summed() {
        let mut totals = Totals::default();
        totals.add("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        totals.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured");
        totals.add("test files::regular ... ok");
        assert_eq!((totals.passed, totals.failed), (15, 2));
    }
}
