//! The page docs/failures.md: a line for each row, with what thaw said when it was carried out.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::harness::Row;

const HEAD: &str = "\
# Ways to fail

Each of these was brought about by its real cause, by `restore-cli/tests/ways`: a test compares
code, exit status and text, and that nothing was left of it. That test wrote this page
(`THAW_BLESS=1`). Numbers that differ from run to run are N here, the directory of a run is DIR, and
that of programs PROGRAMS. What a code means: [errors.md](errors.md).
";

/// What was said in a row: the first line, and what to do.
pub(crate) type Said = (String, String);

pub(crate) fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace").join("docs")
}

fn is_blessing() -> bool {
    std::env::var_os("THAW_BLESS").is_some()
}

/// Compares what was said in a row with the page, or writes it there. What is wrong is returned.
pub(crate) fn record(row: &Row, said: Said) -> Option<String> {
    let said = (escape(&said.0), escape(&said.1));
    let is_listed = crate::topics().iter().flat_map(|(_, rows)| rows).any(|r| r.name == row.name);
    if is_blessing() && is_listed {
        rewrite(|lines| drop(lines.insert(row.name.to_owned(), said.clone())));
        return None;
    }
    let text = fs::read_to_string(docs().join("failures.md")).unwrap_or_default();
    let written = parse(&text).remove(row.name);
    (written.as_ref() != Some(&said))
        .then(|| format!("said {said:?}, docs/failures.md has {written:?} (THAW_BLESS=1)"))
}

/// Checks that the page is made of these rows.
pub(crate) fn check(topics: &[(&str, Vec<&'static Row>)]) {
    if is_blessing() {
        return rewrite(|_| {});
    }
    let written = fs::read_to_string(docs().join("failures.md")).expect("it is committed");
    let page = page(topics, &parse(&written));
    assert!(page == written, "docs/failures.md is not of these rows: THAW_BLESS=1");
    for row in topics.iter().flat_map(|(_, rows)| rows) {
        let said = parse(&written).remove(row.name);
        assert!(said.is_some_and(|(said, _)| !said.is_empty()), "{} was never run", row.name);
    }
}

/// Several tests write at once, each its own rows.
fn rewrite(change: impl FnOnce(&mut BTreeMap<String, Said>)) {
    let path = docs().join("failures.md");
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = Flock::lock(file.expect("it can be written"), FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .expect("a lock");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("text");
    let mut lines = parse(&text);
    change(&mut lines);
    file.rewind().expect("a file");
    file.set_len(0).expect("a file");
    let page = page(&crate::topics(), &lines);
    file.write_all(page.as_bytes()).expect("room");
}

fn page(topics: &[(&str, Vec<&'static Row>)], lines: &BTreeMap<String, Said>) -> String {
    let mut page = HEAD.to_owned();
    for (title, rows) in topics {
        page += &format!("\n## {title}\n\n");
        page += "| what is wrong | command | exit status | code | what is said | what to do |\n";
        page += "|---|---|---:|---|---|---|\n";
        for row in rows {
            let (said, help) = lines.get(row.name).cloned().unwrap_or_default();
            let item = if row.item.is_empty() { String::new() } else { format!(" {}", row.item) };
            let (name, command, exit, code) = (row.name, row.command, row.exit, row.code);
            page +=
                &format!("| {name} | `{command}` | {exit} | {code}{item} | {said} | {help} |\n");
        }
    }
    page
}

/// What stands in the lines of a page, by the names of their rows.
fn parse(page: &str) -> BTreeMap<String, Said> {
    let mut lines = BTreeMap::new();
    for line in page.lines() {
        let cells = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |"));
        let cells: Vec<&str> = cells.unwrap_or_default().split(" | ").collect();
        if let [name, _, _, _, said, help] = cells[..] {
            lines.insert(name.to_owned(), (said.to_owned(), help.to_owned()));
        }
    }
    lines
}

/// As it can stand in a cell.
fn escape(text: &str) -> String {
    text.trim().replace('|', "\\|").replace('<', "&lt;").replace('\n', " ")
}

/// Numbers that differ from run to run become N, and the directory DIR.
pub(crate) fn redact(text: &str, dir: &Path) -> String {
    let text = text.replace(&*dir.to_string_lossy(), "DIR");
    let programs = crate::support::example("");
    let text = text.replace(&*programs.to_string_lossy(), "PROGRAMS/");
    let mut redacted = String::new();
    let mut word = String::new();
    let mut before = String::new();
    for char in text.chars().chain(['\n']) {
        if char.is_ascii_alphanumeric() {
            word.push(char);
            continue;
        }
        let digits = word.strip_prefix("0x");
        let is_address =
            digits.is_some_and(|hex| hex.len() > 4 && hex.chars().all(|c| c.is_ascii_hexdigit()));
        let is_id = ["process", "task", "session"].contains(&before.as_str());
        let is_number = word.len() > 1 || is_id;
        let is_number = is_number && word.chars().all(|c| c.is_ascii_digit()) && !word.is_empty();
        redacted += if is_address || is_number { "N" } else { &word };
        before = std::mem::take(&mut word);
        redacted.push(char);
    }
    redacted.trim_end().to_owned()
}
