//! Ways in which a dump or a restore goes wrong, each with its real cause: what is said and by
//! which code, the exit status, and that nothing is left of it.
//!
//! A row says what is expected; what it does stands beside it in the table of its topic. All rows
//! together are docs/failures.md, with what thaw said: `THAW_BLESS=1` writes that file.

#[path = "../support/mod.rs"]
mod support;

mod book;
mod dump;
mod files;
mod gpu;
mod harness;
mod host;
mod images;
mod stops;
mod usage;

use harness::Row;

/// All rows, by topic.
fn topics() -> Vec<(&'static str, Vec<&'static Row>)> {
    vec![
        ("The command line", usage::rows()),
        ("Images", images::rows()),
        ("The host", host::rows()),
        ("Files of the tree", files::rows()),
        ("Trees that cannot be dumped", dump::rows()),
        ("Stops", stops::rows()),
        ("GPUs", gpu::rows()),
    ]
}

/// Fewer rows than this are not what was promised.
const ROWS_MIN: usize = 55;

#[test]
fn page_has_every_way_and_no_other() {
    let topics = topics();
    let rows: Vec<&Row> = topics.iter().flat_map(|(_, rows)| rows.iter().copied()).collect();
    assert!(rows.len() >= ROWS_MIN, "{} rows", rows.len());
    let mut names: Vec<&str> = rows.iter().map(|row| row.name).collect();
    names.sort_unstable();
    let twice: Vec<_> = names.windows(2).filter(|pair| pair[0] == pair[1]).collect();
    assert!(twice.is_empty(), "{twice:?}");
    book::check(&topics);
}

#[test]
fn every_code_is_listed() {
    let page = std::fs::read_to_string(book::docs().join("errors.md")).expect("it is committed");
    for row in topics().iter().flat_map(|(_, rows)| rows) {
        for code in [row.code, row.item].into_iter().filter(|code| !code.is_empty()) {
            let title = format!("### <a id=\"{code}\"></a>{code}\n");
            assert!(page.contains(&title), "{}: {code} is not in docs/errors.md", row.name);
        }
    }
}
