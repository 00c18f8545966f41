//! Rules of the house that no compiler checks. Each finding names file, line and what to do.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::command;

const CODE_LINES_MAX: usize = 500;
const COLUMNS_MAX: usize = 100;
const FILES_IN_FOLDER_MAX: usize = 13;
/// Lines above an `unsafe` block within which its SAFETY comment begins.
const SAFETY_LINES: usize = 7;
const BANNED_NAMES: [&str; 5] = ["util.rs", "common.rs", "helpers.rs", "misc.rs", "types.rs"];
const UNSAFE_HEADING: &str = "## Unsafe code";

/// Checks all files that git knows.
pub(crate) fn run() -> Result<(), String> {
    let listing =
        command::output(Command::new("git").args(["ls-files", "-co", "--exclude-standard"]))?;
    let paths: Vec<&str> = listing.lines().filter(|path| Path::new(path).is_file()).collect();
    let architecture = fs::read_to_string("ARCHITECTURE.md").unwrap_or_default();
    let listed = unsafe_files(&architecture);
    let mut findings = Vec::new();
    let mut with_unsafe = BTreeSet::new();
    for path in &paths {
        let Ok(text) = fs::read_to_string(path) else {
            continue;
        };
        check_words(path, &text, &mut findings);
        if path.ends_with(".rs") {
            check_source(path, &text, &mut findings);
            if has_unsafe(&text) {
                with_unsafe.insert((*path).to_owned());
            }
        }
    }
    check_folders(&paths, &mut findings);
    for path in with_unsafe.symmetric_difference(&listed) {
        let what =
            if listed.contains(path) { "listed but has no unsafe code" } else { "not listed" };
        findings.push(format!("{path}:1: unsafe code: {what} in ARCHITECTURE.md"));
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        count => Err(format!("{count} finding(s)")),
    }
}

/// Files in the list under the heading: bullets that begin with a path in backticks.
fn unsafe_files(architecture: &str) -> BTreeSet<String> {
    let section = architecture.split(UNSAFE_HEADING).nth(1).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.strip_prefix("- `")?.split('`').next().map(str::to_owned))
        .collect()
}

/// The code of a line, without its comment and what stands in quotes.
fn code(line: &str) -> String {
    let mut quoted = false;
    let plain: String = line
        .chars()
        .filter(|&c| {
            if c == '"' {
                quoted = !quoted;
            }
            !quoted
        })
        .collect();
    plain.split("//").next().unwrap_or_default().to_owned()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
}

fn has_unsafe(text: &str) -> bool {
    text.lines().any(|line| is_unsafe(&code(line)))
}

fn is_unsafe(code: &str) -> bool {
    words(code).any(|word| word == "unsafe") && !code.trim_start().starts_with("#!")
}

fn check_source(path: &str, text: &str, findings: &mut Vec<String>) {
    let lines: Vec<&str> = text.lines().collect();
    if !text.starts_with("//!") {
        findings.push(format!("{path}:1: begin with `//!` and say why the file exists"));
    }
    let name = Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if BANNED_NAMES.contains(&name) {
        findings.push(format!("{path}:1: name the noun that the file is about"));
    }
    let tests = lines.iter().position(|line| line.trim() == "#[cfg(test)]").unwrap_or(lines.len());
    let code_lines = lines[..tests].iter().filter(|line| !code(line).trim().is_empty()).count();
    if code_lines > CODE_LINES_MAX {
        findings.push(format!("{path}:1: {code_lines} lines of code, limit {CODE_LINES_MAX}"));
    }
    for (index, line) in lines.iter().enumerate() {
        let at = index + 1;
        if line.chars().count() > COLUMNS_MAX {
            findings.push(format!("{path}:{at}: longer than {COLUMNS_MAX} columns"));
        }
        let code = code(line);
        let banned = ["todo!", "unimplemented!", "dbg!", "#[ignore"];
        if let Some(word) = banned.iter().find(|word| code.contains(*word)) {
            findings.push(format!("{path}:{at}: {word} has no place here"));
        }
        let block = is_unsafe(&code) && !code.contains("unsafe extern");
        let above = &lines[index.saturating_sub(SAFETY_LINES)..index];
        if block && !above.iter().any(|line| line.contains("SAFETY") || line.contains("# Safety")) {
            findings.push(format!("{path}:{at}: unsafe code without a SAFETY comment above"));
        }
    }
}

/// What must not stand in any text: paths of one machine and folders outside the repository.
fn check_words(path: &str, text: &str, findings: &mut Vec<String>) {
    let banned = [["..", "/shared"].concat(), ["/wo", "rk/"].concat()];
    for (index, line) in text.lines().enumerate() {
        if let Some(word) = banned.iter().find(|word| line.contains(word.as_str())) {
            findings.push(format!("{path}:{}: {word} means nothing elsewhere", index + 1));
        }
    }
}

fn check_folders(paths: &[&str], findings: &mut Vec<String>) {
    let mut folders: std::collections::BTreeMap<&Path, usize> = std::collections::BTreeMap::new();
    for path in paths.iter().filter(|path| path.ends_with(".rs")) {
        let folder = Path::new(path).parent().unwrap_or(Path::new(""));
        *folders.entry(folder).or_default() += 1;
    }
    for (folder, count) in folders.into_iter().filter(|(_, count)| *count > FILES_IN_FOLDER_MAX) {
        let folder = folder.display();
        findings.push(format!("{folder}:1: {count} source files, limit {FILES_IN_FOLDER_MAX}"));
    }
}

#[cfg(test)]
mod tests {
    use super::{check_source, check_words, unsafe_files};

    fn findings(text: &str) -> Vec<String> {
        let mut findings = Vec::new();
        check_source("a/b.rs", text, &mut findings);
        check_words("a/b.rs", text, &mut findings);
        findings
    }

    #[test]
    fn clean_file_has_no_findings() {
        assert_eq!(findings("//! Why.\nfn f() {}\n"), Vec::<String>::new());
    }

    #[test]
    fn each_rule_finds_its_canary() {
        let long = format!("//! Why.\n// {}\n", "x".repeat(100));
        let many = format!("//! Why.\n{}", "let x = 1;\n".repeat(501));
        let path = ["//! See .", "./shared", "\n"].concat();
        for canary in [
            "fn f() {}\n",
            long.as_str(),
            many.as_str(),
            path.as_str(),
            "//! Why.\nfn f() { todo!() }\n",
            "//! Why.\nfn f() { unsafe { g() } }\n",
        ] {
            assert_eq!(findings(canary).len(), 1, "{canary:.60}");
        }
    }

    #[test]
    fn safety_comment_satisfies_the_rule() {
        let text = "//! Why.\n// SAFETY: g has no preconditions.\nunsafe { g() }\n";
        assert_eq!(findings(text), Vec::<String>::new());
    }

    #[test]
    fn unsafe_list_is_read_from_its_section_only() {
        let text = "## A\n- `x.rs`\n## Unsafe code\n- `a/b.rs`: why\n\n## C\n- `y.rs`\n";
        assert_eq!(unsafe_files(text).into_iter().collect::<Vec<_>>(), ["a/b.rs"]);
    }
}
