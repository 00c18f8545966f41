//! Writes `docs/zdtm.md`: which of CRIU's own tests pass with our restore, and why others do not.
//!
//! Input is a table of results (tab separated: test, flavour, result, seconds, attempts, reason)
//! and the list of tests that upstream passes, one a line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// Tests of the suite that check that a dump fails: no restore ever runs (CRIU 4.2, `crfail`).
const DUMP_CHECKS: [&str; 10] = [
    "file_locks00_fail",
    "ghost_holes_large01",
    "ptrace_sig",
    "sigtrap",
    "sk-unix-listen02",
    "sk-unix-listen03",
    "sk-unix-listen04",
    "socket_udp-corked",
    "timens_for_kids",
    "timens_nested",
];

/// One line of the table.
struct Row {
    test: String,
    passed: bool,
    reason: String,
}

/// `zdtm-report TABLE UPSTREAM`.
pub(crate) fn report(mut parser: lexopt::Parser) -> Result<(), String> {
    let mut path = || -> Result<PathBuf, String> {
        parser.value().map(PathBuf::from).map_err(|error| error.to_string())
    };
    let (table, upstream) = (path()?, path()?);
    let read = |path: &PathBuf| {
        fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let rows = parse(&read(&table)?);
    let expected = read(&upstream)?.lines().filter(|line| !line.trim().is_empty()).count();
    fs::create_dir_all("docs").map_err(|error| error.to_string())?;
    fs::write("docs/zdtm.md", render(&rows, expected)).map_err(|error| error.to_string())
}

fn parse(table: &str) -> Vec<Row> {
    let rows = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [test, _, result, _, _, reason] = fields[..] else {
            return None;
        };
        let test = test.trim_start_matches("zdtm/").trim_start_matches("static/").to_owned();
        if DUMP_CHECKS.contains(&test.as_str()) {
            return None;
        }
        Some(Row { test, passed: result == "PASS", reason: cause(reason) })
    });
    rows.collect()
}

/// One refusal, or whatever else the reason ends in, without numbers of one run.
fn cause(reason: &str) -> String {
    let text = reason.rsplit("not supported: ").next().unwrap_or(reason);
    let text = text.split(" ;; ").next().unwrap_or(text);
    let text = text.rsplit("thaw): ").next().unwrap_or(text);
    let text = text.split(" of process").next().unwrap_or(text);
    let mut plain = String::new();
    for word in text.split(' ') {
        let number = word.starts_with("0x") || word.bytes().all(|byte| byte.is_ascii_digit());
        if word.starts_with('(') {
            break;
        }
        if !plain.is_empty() {
            plain.push(' ');
        }
        plain.push_str(if number && !word.is_empty() { "N" } else { word });
    }
    plain
}

fn render(rows: &[Row], upstream: usize) -> String {
    let passed: Vec<&Row> = rows.iter().filter(|row| row.passed).collect();
    let mut text = format!(
        "# CRIU's test-suite (ZDTM), host flavour\n\n\
         Written by `cargo xtask zdtm-report`. The dump is upstream's (CRIU 4.2), the restore\n\
         ours. Upstream itself passes {upstream} tests here; {} of them restore something, the\n\
         others check that a dump fails.\n\n\
         **{} of {} restores pass.** Every other one is refused before any task exists, unless\n\
         the reason says something else.\n\n## Passing\n\n",
        rows.len(),
        passed.len(),
        rows.len()
    );
    let names: Vec<&str> = passed.iter().map(|row| row.test.as_str()).collect();
    for line in names.chunks(8) {
        let _ = writeln!(text, "{}", line.join(" "));
    }
    let mut causes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.passed) {
        causes.entry(&row.reason).or_default().push(&row.test);
    }
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by_key(|(_, tests)| std::cmp::Reverse(tests.len()));
    text.push_str("\n## Not passing\n\n| one reason | tests | which |\n|---|---:|---|\n");
    for (reason, tests) in causes {
        let _ = writeln!(text, "| {reason} | {} | {} |", tests.len(), tests.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{cause, parse};

    #[test]
    fn first_refusal_is_the_cause() {
        let reason = "CRIU restore | thaw): the checkpoint holds 5 thing(s) ;; \
                      thaw): not supported: internet socket (files.img, file 0x7)";
        assert_eq!(cause(reason), "internet socket");
    }

    #[test]
    fn dump_checks_are_no_restores() {
        let table = "head\nzdtm/static/a\th\tPASS\t1\t1\t\n\
                     zdtm/static/sigtrap\th\tPASS\t1\t1\t\n";
        assert_eq!(parse(table).len(), 1);
    }
}
