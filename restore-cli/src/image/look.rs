//! `x`, `verify`, `diff`: whole directories of images, as text or JSON.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use criu_image::{Difference, View, ViewKind, json_string};

use super::{FAILED, Failure};
use crate::BAD_IMAGES;

/// The view with this name.
pub(super) fn kind(name: &str) -> Result<ViewKind, String> {
    let found = ViewKind::NAMES.iter().find(|(known, _)| *known == name);
    found.map(|&(_, kind)| kind).ok_or_else(|| {
        let names = ViewKind::NAMES.map(|(name, _)| name).join(", ");
        format!("it is one of {names}")
    })
}

pub(super) fn explore(dir: &Path, kind: ViewKind, json: bool) -> Result<(), Failure> {
    let view = View::open(dir, kind).map_err(|error| Failure::new(&error))?;
    let mut out = BufWriter::new(io::stdout().lock());
    let result = match json {
        false => view.write_text(&mut out),
        true => write!(out, "{{\"format\": \"thaw image x\", \"version\": 1, \"rows\": ")
            .and_then(|()| view.write_json(&mut out))
            .and_then(|()| writeln!(out, "}}")),
    };
    written(result.and_then(|()| out.flush()))
}

/// Whoever reads may have seen enough.
fn written(result: io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure { code: FAILED, text: None },
        _ => Failure::new(&error),
    })
}

/// Prints every finding; those that are no damage are marked.
pub(super) fn verify(dir: &Path, json: bool) -> Result<(), Failure> {
    let findings = criu_image::verify(dir).map_err(|error| Failure::new(&error))?;
    let mut list = List::new(json, "verify", "findings");
    for finding in &findings {
        let text = crate::log::chain(finding);
        let damage = finding.is_damage();
        let mark = if damage { "" } else { "note: " };
        let (code, said) = (finding.code(), json_string(text.as_bytes()));
        let item = format!("{{\"code\": \"{code}\", \"damage\": {damage}, \"text\": {said}}}");
        list.line(&format!("{mark}{text}"), &item);
    }
    written(list.end())?;
    match findings.iter().any(criu_image::ImageError::is_damage) {
        true => Err(Failure { code: BAD_IMAGES, text: None }),
        false => Ok(()),
    }
}

/// Prints every difference.
pub(super) fn diff(first: &Path, second: &Path, json: bool) -> Result<(), Failure> {
    let mut list = List::new(json, "diff", "differences");
    let mut differs = false;
    let compared = criu_image::diff(first, second, &mut |difference| {
        differs = true;
        list.line(&text_of(&difference), &json_of(&difference))
    });
    let ended = written(list.end());
    compared.map_err(|error| Failure::new(&error))?;
    ended?;
    if differs { Err(Failure { code: FAILED, text: None }) } else { Ok(()) }
}

fn text_of(difference: &Difference) -> String {
    let Difference { file, place, first, second } = difference;
    let place = if place.is_empty() { String::new() } else { format!(" {place}:") };
    match (first, second) {
        (Some(first), Some(second)) => format!("{file}:{place} {first} -> {second}"),
        (Some(first), None) => format!("{file}:{place} only in the first: {first}"),
        (None, second) => {
            let second = second.as_deref().unwrap_or_default();
            format!("{file}:{place} only in the second: {second}")
        }
    }
}

fn json_of(difference: &Difference) -> String {
    let text = |text: &str| json_string(text.as_bytes());
    let side = |side: &Option<String>| side.as_deref().map_or_else(|| "null".to_owned(), text);
    format!(
        "{{\"file\": {}, \"place\": {}, \"first\": {}, \"second\": {}}}",
        text(&difference.file),
        text(&difference.place),
        side(&difference.first),
        side(&difference.second)
    )
}

/// Lines of text, or JSON: an object with a list of objects, a line for each. An error is kept for
/// the end.
struct List {
    out: BufWriter<io::StdoutLock<'static>>,
    json: bool,
    result: io::Result<()>,
    separator: &'static str,
}

impl List {
    fn new(json: bool, command: &str, name: &str) -> Self {
        let mut out = BufWriter::new(io::stdout().lock());
        let result = match json {
            false => Ok(()),
            true => {
                let format = format!("\"format\": \"thaw image {command}\", \"version\": 1");
                write!(out, "{{{format}, \"{name}\": ")
            }
        };
        Self { out, json, result, separator: "[\n" }
    }

    /// Writes an element; `false` if there is no use in more.
    fn line(&mut self, text: &str, json: &str) -> bool {
        if self.result.is_ok() {
            self.result = match self.json {
                true => write!(self.out, "{}    {json}", self.separator),
                false => writeln!(self.out, "{text}"),
            };
            self.separator = ",\n";
        }
        self.result.is_ok()
    }

    fn end(mut self) -> io::Result<()> {
        self.result?;
        if self.json {
            let end = if self.separator == ",\n" { "\n]}" } else { "[]}" };
            writeln!(self.out, "{end}")?;
        }
        self.out.flush()
    }
}
