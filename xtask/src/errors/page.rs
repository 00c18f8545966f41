//! The list as Markdown: areas in their order, codes by name.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::areas::{self, AREAS, Area};
use super::{Entry, Meaning};

const HEAD: &str = "\
<!-- @generated from the source by `cargo xtask errors` -->
# Errors

Every error of `thaw` has a code. It stays what it is from version to version, while texts may
change: look for codes, not for words. Each is listed here with what it means, the form of its text
where it has one, and what can be done about it.

The exit status is that of the area. It is 5 instead if something was left that could not be undone,
which is said then: processes that could not be ended, or a tree that may not be as it was.
";

pub(super) fn render(entries: &BTreeMap<String, Entry>) -> String {
    let mut page = HEAD.to_owned();
    page.push_str("\n| area | what it is about | exit status |\n|---|---|---|\n");
    let is_used = |area: &&Area| entries.keys().any(|code| is_of(code, area));
    for area in AREAS.iter().filter(is_used) {
        let Area { name, title, status } = area;
        let _ = writeln!(page, "| [{name}](#{name}) | {title} | {status} |");
    }
    for area in AREAS.iter().filter(is_used) {
        let _ =
            writeln!(page, "\n## {}\n\n{}. Exit status {}.", area.name, area.title, area.status);
        for entry in entries.values().filter(|entry| is_of(&entry.code, area)) {
            describe(entry, &mut page);
        }
    }
    page
}

fn is_of(code: &str, area: &Area) -> bool {
    areas::of(code).is_some_and(|other| other.name == area.name)
}

fn describe(entry: &Entry, page: &mut String) {
    let code = &entry.code;
    let _ = writeln!(page, "\n### <a id=\"{code}\"></a>{code}");
    for Meaning { doc, form, errnos } in &entry.meanings {
        let only = match errnos.is_empty() {
            true => String::new(),
            false => format!(" The kernel says {}.", any_of(errnos)),
        };
        let _ = writeln!(page, "\n{doc}{only}");
        if let Some(form) = form {
            let _ = writeln!(page, "\n    {form}");
        }
    }
    for help in &entry.help {
        let when = help.when.as_ref().map(|when| format!(" ({when})")).unwrap_or_default();
        let _ = writeln!(page, "\nWhat to do{when}: {}.", help.text);
    }
    if let Some(status) = areas::status_of(code) {
        let _ = writeln!(page, "\nExit status {status}.");
    }
}

fn any_of(errnos: &[String]) -> String {
    match errnos.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}
