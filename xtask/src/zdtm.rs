//! Writes `docs/zdtm.md`: which of CRIU's own tests pass with us, and why others do not.
//!
//! Input are tables of results (tab separated: test, flavour, result, seconds, attempts, reason),
//! one for each pair of programs that dump and restore, one of the tests whose dump must fail, and
//! the list of tests that upstream passes, one a line.

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

/// `zdtm-report --restores TABLE --dumps TABLE --both TABLE --refusals TABLE UPSTREAM`.
pub(crate) fn report(mut parser: lexopt::Parser) -> Result<(), String> {
    use lexopt::prelude::*;
    let mut tables: BTreeMap<&'static str, PathBuf> = BTreeMap::new();
    let mut upstream = None;
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        let name = match arg {
            Long("restores") => "restores",
            Long("dumps") => "dumps",
            Long("both") => "both",
            Long("refusals") => "refusals",
            Value(path) if upstream.is_none() => {
                upstream = Some(PathBuf::from(path));
                continue;
            }
            other => return Err(other.unexpected().to_string()),
        };
        let path = parser.value().map_err(|error| error.to_string())?;
        tables.insert(name, path.into());
    }
    let read = |path: &PathBuf| {
        fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let table = |name: &str| -> Result<Vec<Row>, String> {
        let path = tables.get(name).ok_or_else(|| format!("--{name} is missing"))?;
        Ok(parse(&read(path)?))
    };
    let upstream = upstream.ok_or("the list of what upstream passes is missing")?;
    let expected = read(&upstream)?.lines().filter(|line| !line.trim().is_empty()).count();
    let results = Results {
        expected,
        restores: without_checks(table("restores")?),
        dumps: without_checks(table("dumps")?),
        both: without_checks(table("both")?),
        refusals: table("refusals")?,
    };
    fs::create_dir_all("docs").map_err(|error| error.to_string())?;
    fs::write("docs/zdtm.md", render(&results)).map_err(|error| error.to_string())
}

/// All tables.
struct Results {
    /// Tests that upstream passes, checks of dumps that must fail included.
    expected: usize,
    /// Upstream's dump, our restore.
    restores: Vec<Row>,
    /// Our dump, upstream's restore.
    dumps: Vec<Row>,
    /// Our dump, our restore.
    both: Vec<Row>,
    /// Our dump of what must be refused.
    refusals: Vec<Row>,
}

fn without_checks(rows: Vec<Row>) -> Vec<Row> {
    rows.into_iter().filter(|row| !DUMP_CHECKS.contains(&row.test.as_str())).collect()
}

fn parse(table: &str) -> Vec<Row> {
    let rows = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [test, _, result, _, _, reason] = fields[..] else {
            return None;
        };
        let test = test.trim_start_matches("zdtm/").trim_start_matches("static/").to_owned();
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

fn render(results: &Results) -> String {
    let upstream = results.expected;
    let restored = upstream - DUMP_CHECKS.len();
    let passed = |rows: &[Row]| rows.iter().filter(|row| row.passed).count();
    let refused = passed(&results.refusals);
    let mut text = format!(
        "# CRIU's test-suite (ZDTM), host flavour\n\n\
         Written by `cargo xtask zdtm-report`. Upstream (CRIU 4.2) passes {upstream} tests here;\n\
         {restored} of them restore something, the others check that a dump fails.\n\n\
         | dump | restore | tried | pass |\n|---|---|---:|---:|\n\
         | upstream's | ours | {} | {} |\n\
         | ours | upstream's | {} | {} |\n\
         | ours | ours | {} | {} |\n\n\
         Our dump refuses {refused} of the {} programs whose dump must fail, and leaves them\n\
         running.\n",
        results.restores.len(),
        passed(&results.restores),
        results.dumps.len(),
        passed(&results.dumps),
        results.both.len(),
        passed(&results.both),
        DUMP_CHECKS.len(),
    );
    section(&mut text, "Upstream's dump, our restore", &results.restores);
    section(&mut text, "Our dump, upstream's restore", &results.dumps);
    section(&mut text, "Our dump, our restore", &results.both);
    section(&mut text, "Dumps that must fail", &results.refusals);
    text
}

/// One table: the names that pass, and the others by their reason.
fn section(text: &mut String, title: &str, rows: &[Row]) {
    let names: Vec<&str> =
        rows.iter().filter(|row| row.passed).map(|row| row.test.as_str()).collect();
    let _ = writeln!(text, "\n## {title}\n\n{} pass:\n", names.len());
    for line in names.chunks(8) {
        let _ = writeln!(text, "{}", line.join(" "));
    }
    let mut causes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.passed) {
        causes.entry(&row.reason).or_default().push(&row.test);
    }
    if causes.is_empty() {
        return;
    }
    let mut causes: Vec<_> = causes.into_iter().collect();
    causes.sort_by_key(|(_, tests)| std::cmp::Reverse(tests.len()));
    text.push_str("\n| does not pass, for one reason | tests | which |\n|---|---:|---|\n");
    for (reason, tests) in causes {
        let _ = writeln!(text, "| {reason} | {} | {} |", tests.len(), tests.join(" "));
    }
}

#[cfg(test)]
mod tests {
    use super::{cause, parse, without_checks};

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
        assert_eq!(parse(table).len(), 2);
        assert_eq!(without_checks(parse(table)).len(), 1);
    }
}
