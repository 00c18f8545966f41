//! What differs from run to run, and what stands for it in a snapshot.
//!
//! Where a line breaks may depend on what is redacted in it. So a paragraph with a time or a size
//! in it is joined into one line; that it kept its width was looked at before.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use crate::json;

static TIME: LazyLock<Regex> = LazyLock::new(|| regex(r"[0-9]+(?:\.[0-9]+)? (?:us|ms|s)\b"));
static SIZE: LazyLock<Regex> =
    LazyLock::new(|| regex(r"[0-9]+(?:\.[0-9]+)? (?:bytes|KiB|MiB|GiB)(?:/s)?\b"));
static LOG_TIME: LazyLock<Regex> = LazyLock::new(|| regex(r"(?m)^\([0-9]{2}\.[0-9]{6}\)"));
static VERSION: LazyLock<Regex> = LazyLock::new(|| {
    let number = regex::escape(env!("CARGO_PKG_VERSION"));
    regex(&format!(r"\b{number}(?: \([0-9a-f]{{7,40}}\))?"))
});
/// Processes and threads that are not said to be of the tree.
static OTHER_PID: LazyLock<Regex> = LazyLock::new(|| regex(r"\b40[0-9]{2}\b"));

/// Inodes, addresses and other numbers that nobody chose.
static NUMBER: LazyLock<Regex> = LazyLock::new(|| regex(r"\b(?:0x[0-9a-f]{8,}|[0-9]{6,})\b"));
static DATE: LazyLock<Regex> =
    LazyLock::new(|| regex(r"\b20[0-9]{2}-[0-9]{2}-[0-9]{2}[ T][0-9:]{8}(?: UTC|Z)?"));
/// How much a file takes depends on the file system, and into how many mappings a program is
/// loaded on the linker.
static ON_DISK: LazyLock<Regex> = LazyLock::new(|| regex(r"[0-9.]+ [KM]iB on disk"));
static DISK_BYTES: LazyLock<Regex> = LazyLock::new(|| regex(r#""disk_bytes":[0-9]+"#));
static MAPPINGS: LazyLock<Regex> = LazyLock::new(|| regex(r"[0-9]+( mapping\(s\))"));
/// What aligns columns depends on what was redacted in them.
static GAP: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(\[[A-Z]+\]) {2,}| {2,}(\[[A-Z]+\]|MEMORY |GPU 0x)"));

fn regex(text: &str) -> Regex {
    Regex::new(text).expect("an expression of our own")
}

/// What to put in place of what.
pub(crate) struct Redact {
    /// Places and names, each with what stands for it.
    words: Vec<(String, String)>,
    is_live: bool,
}

impl Redact {
    /// For output that is the same each time but for the version and the folder.
    pub(crate) fn fixed(dir: &Path) -> Self {
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        let thaw = Path::new(env!("CARGO_BIN_EXE_thaw")).parent().expect("a folder");
        let words = vec![
            (thaw.join("examples").display().to_string(), "[EXAMPLES]".to_owned()),
            (dir.display().to_string(), "[DIR]".to_owned()),
            (package.display().to_string(), "[SOURCE]".to_owned()),
        ];
        Self { words, is_live: false }
    }

    /// For output that has times, sizes, and ids of these processes as well.
    pub(crate) fn live(dir: &Path, pids: &[i32]) -> Self {
        let mut redact = Self { is_live: true, ..Self::fixed(dir) };
        let host = nix::sys::utsname::uname().expect("a kernel has a name");
        for (name, word) in [(host.nodename(), "[HOST]"), (host.release(), "[KERNEL]")] {
            let quoted = format!("\"{}\"", name.to_string_lossy());
            redact.words.push((quoted, format!("\"{word}\"")));
        }
        let pid = |(index, pid): (usize, &i32)| (pid.to_string(), format!("PID{}", index + 1));
        redact.words.extend(pids.iter().enumerate().map(pid));
        redact
    }

    /// A whole output.
    pub(crate) fn printed(&self, text: &str) -> String {
        let mut out = String::new();
        let joined = if self.is_live { join(text) } else { text.to_owned() };
        for line in joined.split_inclusive('\n') {
            match line.starts_with('{') && self.is_live {
                true => out.push_str(&json::in_lines(&json::volatile_left_out(line))),
                false => out.push_str(line),
            }
        }
        self.line(&out)
    }

    /// The same of a text whose lines stay as they are.
    pub(crate) fn line(&self, text: &str) -> String {
        let mut text = VERSION.replace_all(text, "[VERSION]").into_owned();
        text = ON_DISK.replace_all(&text, "[SIZE] on disk").into_owned();
        text = DISK_BYTES.replace_all(&text, "\"disk_bytes\":0").into_owned();
        for (word, other) in &self.words {
            text = text.replace(word, other);
        }
        if self.is_live {
            text = LOG_TIME.replace_all(&text, "([TIME])").into_owned();
            text = TIME.replace_all(&text, "[TIME]").into_owned();
            text = SIZE.replace_all(&text, "[SIZE]").into_owned();
            text = OTHER_PID.replace_all(&text, "[ID]").into_owned();
            text = NUMBER.replace_all(&text, "[NUMBER]").into_owned();
            text = MAPPINGS.replace_all(&text, "[COUNT]$1").into_owned();
            text = GAP.replace_all(&text, "$1  $2").into_owned();
            text = DATE.replace_all(&text, "[DATE]").into_owned();
        }
        text.replace('\u{1b}', "\\e")
    }
}

/// Joins lines that are indented as continuations are, if there is a time or a size in them.
fn join(text: &str) -> String {
    let mut paragraphs: Vec<Vec<&str>> = Vec::new();
    for line in text.lines() {
        let is_item = ["- ", "-> ", "`- "].iter().any(|mark| line.trim_start().starts_with(mark));
        let goes_on = line.starts_with("    ") && !line.trim().is_empty() && !is_item;
        match paragraphs.last_mut() {
            Some(paragraph) if goes_on => paragraph.push(line),
            _ => paragraphs.push(vec![line]),
        }
    }
    let mut out = String::new();
    for lines in paragraphs {
        let joined = lines.iter().map(|line| line.trim_start()).collect::<Vec<_>>().join(" ");
        let is_volatile = [&*TIME, &*SIZE, &*NUMBER].iter().any(|regex| regex.is_match(&joined));
        let lead = &lines[0][..lines[0].len() - lines[0].trim_start().len()];
        match is_volatile {
            true => out.push_str(&format!("{lead}{joined}\n")),
            false => lines.iter().for_each(|line| out.push_str(&format!("{line}\n"))),
        }
    }
    match text.ends_with('\n') {
        true => out,
        false => out.trim_end_matches('\n').to_owned(),
    }
}
