//! `docs/errors.md`: every code that an error can have, written from the source.
//!
//! A code stands in the source once, in the function `code` of its error. What it means is the doc
//! comment of the variant, its form the text of the error, and what to do the function `help`. So
//! nothing is written twice, and nothing that an operator sees can be left out of the list.

mod areas;
mod message;
mod page;
mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The list.
pub(crate) const PAGE: &str = "docs/errors.md";
/// Where errors are that an operator can see.
const SOURCES: [&str; 5] = [
    "criu-image/src/",
    "gpu-kfd/src/",
    "gpu-kfd/emulator/src/",
    "restore-core/src/",
    "restore-cli/src/",
];

/// One code.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    code: String,
    /// File and type that have it.
    owner: String,
    meanings: Vec<Meaning>,
    help: Vec<Help>,
}

/// A variant that has a code, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Meaning {
    doc: String,
    /// The text of the error, with names for values.
    form: Option<String>,
    /// The errors of the kernel that it is for, if it is not for all.
    errnos: Vec<String>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Help {
    /// In which case, if not in all.
    when: Option<String>,
    text: String,
}

/// Writes the list.
pub(crate) fn run() -> Result<(), String> {
    let page = of_folder(Path::new(""))?;
    fs::write(PAGE, page).map_err(|error| format!("{PAGE}: {error}"))
}

/// The list as it has to be, from the files below a folder.
fn of_folder(root: &Path) -> Result<String, String> {
    let mut files = Vec::new();
    for folder in SOURCES {
        collect(&root.join(folder), &mut files)?;
    }
    let page = page(files.iter().map(|(path, text)| (path.as_str(), text.as_str())));
    page.map_err(|faults| faults.join("\n"))
}

fn collect(folder: &Path, files: &mut Vec<(String, String)>) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if let Some(path) = path.to_str().filter(|path| path.ends_with(".rs")) {
            files.push((path.to_owned(), fs::read_to_string(path).map_err(fail)?));
        }
    }
    Ok(())
}

/// Whether a file is read for the list.
pub(crate) fn is_source(path: &str) -> bool {
    path.ends_with(".rs") && SOURCES.iter().any(|folder| path.starts_with(folder))
}

/// The list as it has to be, from the files that are read for it.
///
/// # Errors
/// Everything that is wrong with codes, a line for each.
pub(crate) fn page<'a>(
    files: impl Iterator<Item = (&'a str, &'a str)>,
) -> Result<String, Vec<String>> {
    let (mut entries, mut faults) = (Vec::new(), Vec::new());
    for (path, text) in files {
        source::read(path, text, &mut entries, &mut faults);
    }
    let entries = unique(entries, &mut faults);
    entries.values().for_each(|entry| check(entry, &mut faults));
    if faults.is_empty() { Ok(page::render(&entries)) } else { Err(faults) }
}

/// By code. Two arms of one error may have the same code, two errors may not.
fn unique(entries: Vec<Entry>, faults: &mut Vec<String>) -> BTreeMap<String, Entry> {
    let mut all: BTreeMap<String, Entry> = BTreeMap::new();
    for entry in entries {
        let Some(known) = all.get_mut(&entry.code) else {
            all.insert(entry.code.clone(), entry);
            continue;
        };
        if known.owner != entry.owner {
            let Entry { code, owner, .. } = &entry;
            faults.push(format!("{owner}: {code} is the code of {} already", known.owner));
        }
        known.meanings.extend(entry.meanings);
        known.help.extend(entry.help);
    }
    for entry in all.values_mut() {
        let mut seen = Vec::new();
        entry.help.retain(|help| {
            !seen.contains(help) && {
                seen.push(help.clone());
                true
            }
        });
        entry.meanings.sort();
        entry.meanings.dedup();
    }
    all
}

fn check(entry: &Entry, faults: &mut Vec<String>) {
    let Entry { code, owner, .. } = entry;
    if !is_code(code) {
        faults.push(format!("{owner}: {code} is not of the form area.kebab-name"));
    } else if areas::of(code).is_none() {
        faults.push(format!("{owner}: {code} is of no area that xtask/src/errors/areas.rs has"));
    }
    if entry.meanings.iter().any(|meaning| meaning.doc.is_empty()) {
        faults.push(format!("{owner}: {code} has no doc comment that says what it means"));
    }
    for help in &entry.help {
        if help.text.is_empty() || help.text.ends_with('.') {
            faults.push(format!("{owner}: the help of {code} is empty or ends with a full stop"));
        }
    }
}

/// Words of small letters and digits with hyphens between, an area before a dot.
fn is_code(code: &str) -> bool {
    let word = |word: &str| {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        !word.is_empty() && word.bytes().all(known)
    };
    match code.split_once('.') {
        Some((area, name)) => word(area) && name.split('-').all(word),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::{PAGE, is_code, of_folder, page};
    use crate::command;

    fn faults(text: &str) -> Vec<String> {
        page([("a/b.rs", text)].into_iter()).expect_err("there is a fault")
    }

    const GOOD: &str = r#"
        /// Why.
        enum A {
            /// It is cut.
            #[error("{file} is cut at {at:#x}: {}", path.display())]
            Cut { file: String, at: u64 },
            /// It is refused.
            #[error("refused: {errno}")]
            Refused { errno: Errno },
            /// Something inside.
            #[error(transparent)]
            Inner(B),
        }
        impl A {
            fn code(&self) -> &'static str {
                match self {
                    Self::Cut { .. } => "images.cut",
                    Self::Refused { errno: Errno::ENOMEM | Errno::ENOSPC, .. } => "device.full",
                    Self::Refused { .. } => "device.call",
                    Self::Inner(inner) => inner.code(),
                }
            }
            fn help(&self) -> Option<&'static str> {
                match self {
                    Self::Cut { .. } => Some("copy it again"),
                    Self::Refused { errno } => advice(*errno),
                    Self::Inner(inner) => inner.help(),
                }
            }
        }
        fn advice(errno: Errno) -> Option<&'static str> {
            match errno {
                Errno::ENOMEM => Some("free memory"),
                Errno::EBUSY => Some("wait"),
                _ => None,
            }
        }
    "#;

    #[test]
    fn a_code_is_listed_with_meaning_form_status_and_help() {
        let page = page([("a/b.rs", GOOD)].into_iter()).expect("all is well");
        for part in [
            "### <a id=\"images.cut\"></a>images.cut\n\nIt is cut.\n",
            "\n    <file> is cut at <at>: <path>\n",
            "\nWhat to do: copy it again.\n",
            "ENOMEM or ENOSPC",
            "What to do (ENOMEM): free memory.",
            "What to do (EBUSY): wait.",
        ] {
            assert!(page.contains(part), "{part}\n{page}");
        }
        let full = page.find("device.full").expect("it is listed");
        assert!(page.find("(EBUSY)").expect("it is listed") < full, "of the general code");
        assert!(!page.contains("inside"), "what is passed on has no code of its own");
    }

    #[test]
    fn a_table_of_codes_and_a_struct_with_one_are_read() {
        let text = r#"
            /// It is off.
            #[error("off")]
            struct Off;
            impl Off { fn code(&self) -> &'static str { "host.off" } }
            const CODES: &[ErrorCode] = &[
                ErrorCode { code: "usage.option", meaning: "No such option.", help: "see --help" },
            ];
        "#;
        let page = page([("a/b.rs", text)].into_iter()).expect("all is well");
        assert!(page.contains("host.off\n\nIt is off.\n\n    off\n"), "{page}");
        assert!(page.contains("usage.option\n\nNo such option.\n\nWhat to do: see --help.\n"));
    }

    #[test]
    fn canaries_are_found() {
        let undocumented = GOOD.replace("/// It is cut.", "");
        assert!(faults(&undocumented)[0].contains("images.cut has no doc comment"));
        let unknown = GOOD.replace("images.cut", "pictures.cut");
        assert!(faults(&unknown)[0].contains("no area"));
        let formless = GOOD.replace("images.cut", "images.Cut");
        assert!(faults(&formless)[0].contains("form"));
        let stopped = GOOD.replace("again\")", "again.\")");
        assert!(faults(&stopped)[0].contains("full stop"));
        let shared =
            format!("{GOOD}{}", GOOD.replace("enum A", "enum C").replace("impl A", "impl C"));
        assert!(faults(&shared)[0].contains("is the code of a/b.rs: A already"));
        let strange = GOOD.replace("Self::Cut { .. } => \"images.cut\"", "_ => \"images.cut\"");
        assert!(faults(&strange)[0].contains("variant"));
    }

    #[test]
    fn codes_of_the_source_are_unique_documented_and_listed() {
        let page = of_folder(&command::root()).expect("every code is a good one");
        let written = std::fs::read_to_string(command::root().join(PAGE)).expect("it is there");
        assert!(page == written, "run `cargo xtask errors`");
        for code in ["images.cut", "host.id-taken", "unsupported.unix-socket", "dump.traced"] {
            assert!(page.contains(&format!("</a>{code}\n")), "{code}");
        }
    }

    #[test]
    fn codes_have_an_area_and_words() {
        assert!(is_code("images.cut") && is_code("host.32-bit"));
        for wrong in ["images", ".cut", "images.", "images.Cut", "images.a--b", "images.a.b"] {
            assert!(!is_code(wrong), "{wrong}");
        }
    }
}
