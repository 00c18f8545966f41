//! Rules of the house that no compiler checks. Each finding names file, line and what to do.
//!
//! It reads what git knows and what it would take in; it changes nothing.

mod exit_codes;
mod source;
mod unsafety;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{command, errors};

const CODE_LINES_MAX: usize = 500;
const COLUMNS_MAX: usize = 100;
/// Source files directly in one folder.
const FILES_IN_FOLDER_MAX: usize = 12;
const BANNED_NAMES: [&str; 5] = ["util", "common", "helpers", "misc", "types"];
const BANNED_CODE: [&str; 4] = ["todo!", "unimplemented!", "dbg!", "#[ignore"];
/// Stands in the first line of a file that a program wrote.
const GENERATED: &str = "@generated";

type Findings = Vec<String>;

/// A text file with what the rules ask of it.
struct File {
    path: String,
    text: String,
    /// Lines without comments and contents of strings; empty if it is not Rust.
    code: Vec<String>,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") { source::code_lines(text) } else { Vec::new() };
        Self { path: path.to_owned(), text: text.to_owned(), code }
    }

    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

fn at(path: &str, line: usize, text: &str) -> String {
    format!("{path}:{line}: {text}")
}

/// Checks all files and prints every finding.
pub(crate) fn run() -> Result<(), String> {
    let args = ["ls-files", "-co", "--exclude-standard"];
    let listing = command::output(Command::new("git").args(args))?;
    // What is deleted but not committed cannot be read, nor can what is not text.
    let files: Vec<File> = listing
        .lines()
        .filter_map(|path| Some(File::new(path, &fs::read_to_string(path).ok()?)))
        .collect();
    let findings = check(&files);
    for finding in &findings {
        eprintln!("{finding}");
    }
    match findings.len() {
        0 => Ok(()),
        count => Err(format!("{count} finding(s)")),
    }
}

fn check(files: &[File]) -> Findings {
    let mut findings = Findings::new();
    for file in files {
        check_words(file, &mut findings);
        if file.path.ends_with("Cargo.toml") {
            check_manifest(file, &mut findings);
        }
        if file.is_rust() {
            check_source(file, &mut findings);
            unsafety::check_comments(file, &mut findings);
        }
    }
    check_folders(files, &mut findings);
    check_modules(files, &mut findings);
    unsafety::check_lists(files, &mut findings);
    exit_codes::check(files, &mut findings);
    check_errors(files, &mut findings);
    findings
}

/// The list of errors is what the source says. A code that is gone is a line less in it, which a
/// reader of the change sees.
fn check_errors(files: &[File], findings: &mut Findings) {
    let sources = files.iter().filter(|file| errors::is_source(&file.path));
    let page = errors::page(sources.map(|file| (file.path.as_str(), file.text.as_str())));
    match page {
        Err(faults) => findings.extend(faults),
        Ok(page) => {
            let file = files.iter().find(|file| file.path == errors::PAGE);
            let written = file.map_or("", |file| &file.text);
            if written != page {
                let mut lines = written.lines().zip(page.lines());
                let line = lines.position(|(old, new)| old != new).map_or(1, |line| line + 1);
                let text = "is not what the source says: run `cargo xtask errors`";
                findings.push(at(errors::PAGE, line, text));
            }
        }
    }
}

fn check_source(file: &File, findings: &mut Findings) {
    let first = file.text.lines().next().unwrap_or_default();
    if first.contains(GENERATED) {
        return;
    }
    if !first.starts_with("//!") {
        let text = "begin with `//!` and say why the file exists";
        findings.push(at(&file.path, 1, text));
    }
    let name = Path::new(&file.path).file_stem().unwrap_or_default();
    if BANNED_NAMES.iter().any(|banned| name == *banned) {
        findings.push(at(&file.path, 1, "name the noun that the file is about"));
    }
    let length = code_length(&file.code);
    if length > CODE_LINES_MAX {
        let text = format!("{length} lines of code, limit {CODE_LINES_MAX}");
        findings.push(at(&file.path, 1, &text));
    }
    for (index, line) in file.text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX {
            let text = format!("{columns} columns, limit {COLUMNS_MAX}");
            findings.push(at(&file.path, index + 1, &text));
        }
    }
    for (index, code) in file.code.iter().enumerate() {
        if let Some(word) = BANNED_CODE.iter().find(|word| code.contains(*word)) {
            let text = format!("{word} has no place here");
            findings.push(at(&file.path, index + 1, &text));
        }
    }
}

/// Lines of code outside modules that exist for tests only.
fn code_length(code: &[String]) -> usize {
    let mut length = 0;
    let mut in_tests = false;
    for (index, line) in code.iter().enumerate() {
        let next = code.get(index + 1).map_or("", String::as_str);
        if line.trim_end() == "#[cfg(test)]" && next.starts_with("mod ") && next.contains('{') {
            in_tests = true;
        }
        length += usize::from(!in_tests && !line.trim().is_empty());
        if line.trim_end() == "}" {
            in_tests = false;
        }
    }
    length
}

/// What must not stand in any text: paths of one machine and folders outside the repository.
fn check_words(file: &File, findings: &mut Findings) {
    // In pieces, so that this file does not hold what it looks for.
    let banned = [["..", "/shared"].concat(), ["/wo", "rk/"].concat()];
    for (index, line) in file.text.lines().enumerate() {
        if let Some(word) = banned.iter().find(|word| line.contains(word.as_str())) {
            let text = format!("{word} means nothing elsewhere");
            findings.push(at(&file.path, index + 1, &text));
        }
    }
}

/// Every package takes the lints of the workspace.
fn check_manifest(file: &File, findings: &mut Findings) {
    let mut section = "";
    let (mut package, mut lints) = (false, false);
    for line in file.text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        }
        package |= line == "[package]";
        let plain: String = line.split_whitespace().collect();
        lints |= section == "[lints]" && plain == "workspace=true";
        lints |= section.is_empty() && plain == "lints.workspace=true";
    }
    if package && !lints {
        let text = "add `[lints]` with `workspace = true`";
        findings.push(at(&file.path, 1, text));
    }
}

fn check_folders(files: &[File], findings: &mut Findings) {
    let mut folders: BTreeMap<&Path, usize> = BTreeMap::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
        if !folder.iter().any(|part| part == "tests") {
            *folders.entry(folder).or_default() += 1;
        }
    }
    for (folder, count) in folders {
        if count > FILES_IN_FOLDER_MAX {
            let text = format!("{count} source files, limit {FILES_IN_FOLDER_MAX}");
            findings.push(at(&folder.display().to_string(), 1, &text));
        }
    }
}

/// A source file that no module names is compiled by nobody, and goes out of date unseen.
fn check_modules(files: &[File], findings: &mut Findings) {
    const ROOTS: [&str; 3] = ["main.rs", "lib.rs", "mod.rs"];
    for file in files.iter().filter(|file| file.is_rust() && file.path.contains("/src/")) {
        let (folder, name) = file.path.rsplit_once('/').expect("it is in a folder");
        // A module that is a folder is named by the folder around it.
        let (folder, module) = match (name, folder.rsplit_once('/')) {
            ("mod.rs", Some(place)) => place,
            ("main.rs" | "lib.rs", _) => continue,
            _ => (folder, name.trim_end_matches(".rs")),
        };
        let named = format!("mod {module};");
        let roots = ROOTS.map(|root| format!("{folder}/{root}"));
        let is_parent = |path: &String| roots.contains(path) || *path == format!("{folder}.rs");
        let parents = files.iter().filter(|parent| is_parent(&parent.path));
        let mut lines = parents.flat_map(|parent| &parent.code);
        if !lines.any(|line| line.trim_end().ends_with(&named)) {
            findings.push(at(&file.path, 1, &format!("no module says `{named}`")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        File, Findings, check_folders, check_manifest, check_modules, check_source, check_words,
    };

    fn source(path: &str, text: &str) -> Findings {
        let mut findings = Findings::new();
        let file = File::new(path, text);
        check_source(&file, &mut findings);
        check_words(&file, &mut findings);
        findings
    }

    #[test]
    fn clean_files_have_no_findings() {
        let tests =
            format!("//! Why.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "    f();\n".repeat(600));
        let comments = format!("//! Why.\n{}", "// A word.\n\n".repeat(600));
        for text in [
            "//! Why.\nfn f() {}\n",
            "//! Why.\n// A todo!() in prose.\nlet a = \"todo!()\";\n",
            tests.as_str(),
            comments.as_str(),
        ] {
            assert_eq!(source("a/b.rs", text), Findings::new(), "{text:.60}");
        }
        assert_eq!(source("a/b.rs", "// @generated\ntodo!()\n"), Findings::new());
    }

    #[test]
    fn each_rule_finds_its_canary() {
        let long = format!("//! Why.\n// {}\n", "x".repeat(100));
        let many = format!("//! Why.\n{}", "let x = 1;\n".repeat(501));
        let after = format!("//! Why.\n#[cfg(test)]\nmod a {{\n}}\n{}", "f();\n".repeat(501));
        let outside = ["//! See .", "./shared", "\n"].concat();
        let machine = ["//! See /wo", "rk/", "here\n"].concat();
        for canary in [
            "fn f() {}\n",
            long.as_str(),
            many.as_str(),
            after.as_str(),
            outside.as_str(),
            machine.as_str(),
            "//! Why.\nfn f() { todo!() }\n",
            "//! Why.\nfn f() { unimplemented!() }\n",
            "//! Why.\nfn f() { dbg!(1); }\n",
            "//! Why.\n#[ignore = \"slow\"]\nfn f() {}\n",
        ] {
            assert_eq!(source("a/b.rs", canary).len(), 1, "{canary:.60}");
        }
        assert_eq!(source("a/util.rs", "//! Why.\n").len(), 1);
        assert_eq!(
            source("a/b.rs", "//! Why.\n\ndbg!(1);\n"),
            ["a/b.rs:3: dbg! has no place here"]
        );
    }

    #[test]
    fn every_source_file_is_named_by_a_module() {
        let orphans = |more: &[(&str, &str)]| -> Findings {
            let known = [
                ("a/src/lib.rs", "//! A.\npub(crate) mod b;\nmod c; // it is\n"),
                ("a/src/b.rs", "//! B.\nmod g;\n"),
                ("a/src/b/g.rs", ""),
                ("a/src/c/mod.rs", "//! C.\nmod d;\n"),
                ("a/src/c/d.rs", ""),
                ("a/examples/e.rs", ""),
            ];
            let all = known.iter().chain(more);
            let files: Vec<File> = all.map(|(path, text)| File::new(path, text)).collect();
            let mut findings = Findings::new();
            check_modules(&files, &mut findings);
            findings
        };
        assert_eq!(orphans(&[]), Findings::new());
        // A file that was moved and stayed, and a folder that nobody names.
        assert_eq!(orphans(&[("a/src/c/b.rs", "")]), ["a/src/c/b.rs:1: no module says `mod b;`"]);
        assert_eq!(orphans(&[("a/src/f/mod.rs", "")]).len(), 1);
    }

    #[test]
    fn folders_are_counted_without_tests() {
        let folder = |name: &str, count: usize| -> Findings {
            let path = |index| format!("{name}/f{index}.rs");
            let files: Vec<File> = (0..count).map(|i| File::new(&path(i), "")).collect();
            let mut findings = Findings::new();
            check_folders(&files, &mut findings);
            findings
        };
        assert_eq!(folder("a/src", 12), Findings::new());
        assert_eq!(folder("a/tests/b", 13), Findings::new());
        assert_eq!(folder("a/src", 13).len(), 1);
    }

    #[test]
    fn packages_use_the_lints_of_the_workspace() {
        let manifest = |text: &str| {
            let mut findings = Findings::new();
            check_manifest(&File::new("a/Cargo.toml", text), &mut findings);
            findings.len()
        };
        assert_eq!(manifest("[package]\n[lints]\nworkspace = true\n"), 0);
        assert_eq!(manifest("[workspace]\n"), 0);
        assert_eq!(manifest("[package]\nname = \"a\"\n"), 1);
        assert_eq!(manifest("[package]\nworkspace = true\n[lints]\n"), 1);
    }
}
