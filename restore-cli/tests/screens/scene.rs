//! A scene: command lines, carried out one after the other by a shell, with everything that they
//! print, as one text that is compared with a snapshot.
//!
//! The lines stand in the snapshot as a person would type them. `PID1` in a line is the first
//! process of the tree, and so on.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::json;
use crate::redact::Redact;

/// Ids of processes of trees begin behind this: all have four digits, and so has what stands for
/// them.
const TREE_PIDS: i32 = 4000;

/// What has been done, and in which place.
pub(crate) struct Scene {
    dir: PathBuf,
    /// Lives as long as the scene, if the folder is its own.
    _own: Option<TempDir>,
    redact: Redact,
    pids: Vec<i32>,
    text: String,
}

impl Scene {
    /// Commands whose output is the same each time. They find the images of the library's tests in
    /// `fixtures`, and what was recorded for these tests in `inputs`.
    pub(crate) fn fixed() -> Self {
        let own = tempfile::tempdir().expect("a folder");
        let scene = Self::new(own.path(), Redact::fixed(own.path()), Vec::new());
        Self { _own: Some(own), ..scene }
    }

    /// Commands that work on live processes, or depend on the host: times and sizes differ.
    pub(crate) fn live(dir: &Path, pids: &[i32]) -> Self {
        let mut pids = pids.to_vec();
        pids.sort_unstable();
        Self::new(dir, Redact::live(dir, &pids), pids)
    }

    fn new(dir: &Path, redact: Redact, pids: Vec<i32>) -> Self {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (name, place) in [
            ("fixtures", package.join("../criu-image/tests/fixtures")),
            ("inputs", package.join("tests/screens/inputs")),
        ] {
            let link = dir.join(name);
            if !link.is_symlink() {
                symlink(place.canonicalize().expect("it is committed"), link).expect("room");
            }
        }
        Self { dir: dir.to_owned(), _own: None, redact, pids, text: String::new() }
    }

    /// A folder below that of the scene.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let folder = self.dir.join(name);
        fs::create_dir_all(&folder).expect("room");
        folder
    }

    /// Carries out a line and notes what it prints.
    pub(crate) fn run(&mut self, line: &str) -> &mut Self {
        let Output { status, stdout, stderr } = self.output(line);
        let ended = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (None, signal) => format!("killed by signal {}", signal.unwrap_or(0)),
        };
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(&format!("$ {line}\n{ended}\n"));
        let width = width(line);
        for (name, bytes) in [("standard output", stdout), ("standard error", stderr)] {
            let text = String::from_utf8(bytes).expect("what is printed is UTF-8");
            if !text.is_empty() {
                assert_no_needless_width(&text, width, line);
                let text = self.redact.printed(&text);
                self.section(name, &text);
            }
        }
        self
    }

    /// Carries out a line that prepares something; it must succeed and is not noted.
    pub(crate) fn prepare(&mut self, line: &str) -> &mut Self {
        let output = self.output(line);
        assert!(output.status.success(), "{line}: {output:?}");
        self
    }

    /// Both streams of a line that must succeed, as they are.
    pub(crate) fn printed(&self, line: &str) -> String {
        let Output { status, stdout, stderr } = self.output(line);
        let text = [stdout, stderr].concat();
        let text = String::from_utf8(text).expect("what is printed is UTF-8");
        assert!(status.success(), "{line}: {status}: {text}");
        text
    }

    fn output(&self, line: &str) -> Output {
        let mut typed = line.to_owned();
        for (index, pid) in self.pids.iter().enumerate() {
            typed = typed.replace(&format!("PID{}", index + 1), &pid.to_string());
        }
        let thaw = Path::new(env!("CARGO_BIN_EXE_thaw")).parent().expect("a folder");
        let path = format!("{0}:{0}/examples:/usr/sbin:/usr/bin:/sbin:/bin", thaw.display());
        // One that hangs is ended: nothing here takes long.
        let mut shell = Command::new("timeout");
        shell.args(["--kill-after=1", "60", "sh", "-c", &typed]).current_dir(&self.dir);
        shell.env_clear().env("PATH", path).env("TERM", "xterm-256color").stdin(Stdio::null());
        shell.output().expect("a shell is part of every system")
    }

    /// Notes a file of text.
    pub(crate) fn file(&mut self, name: &str) -> &mut Self {
        let text = fs::read_to_string(self.dir.join(name)).expect("it was written");
        let text = self.redact.printed(&text);
        self.section(name, &text);
        self
    }

    /// Notes the lines of a file in their alphabetic order, each once: workers write them, or their
    /// number depends on how fast they are.
    pub(crate) fn lines(&mut self, name: &str) -> &mut Self {
        let text = fs::read_to_string(self.dir.join(name)).expect("it was written");
        let text = self.redact.line(&json::volatile_left_out(&text));
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        lines.dedup();
        let text = lines.join("\n") + "\n";
        self.section(&format!("{name}, sorted"), &text);
        self
    }

    fn section(&mut self, name: &str, text: &str) {
        self.text.push_str(&format!("--- {name}\n{text}"));
        if !text.ends_with('\n') {
            self.text.push_str("\n[no line end]\n");
        }
    }

    /// Compares all of it with what is committed.
    #[track_caller]
    pub(crate) fn shot(&self, name: &str) {
        let mut settings = insta::Settings::clone_current();
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name, self.text));
    }
}

/// The next process has the first of the ids that stand for those of trees. Only in a namespace of
/// its own.
pub(crate) fn next_is_pid1() {
    fs::write("/proc/sys/kernel/ns_last_pid", TREE_PIDS.to_string()).expect("root may");
}

/// `--width` of a line.
fn width(line: &str) -> Option<usize> {
    let mut words = line.split_whitespace();
    words.find(|word| *word == "--width")?;
    words.next()?.parse().ok().filter(|width| *width >= 40)
}

/// Lines may be wider than asked for only where a word, such as a path, is: words are not broken.
#[track_caller]
fn assert_no_needless_width(text: &str, width: Option<usize>, line: &str) {
    let Some(width) = width else { return };
    // These lines are clap's, or JSON, or the table of GPUs that do not match.
    let is_ours = |line: &&str| {
        !["{", "Usage: ", "error: ", "0x", "saved -> "].iter().any(|it| line.starts_with(it))
    };
    for printed in text.lines().filter(is_ours) {
        let plain = json::without_colors(printed);
        let widest = plain.split_whitespace().map(|word| word.chars().count()).max().unwrap_or(0);
        let indent = plain.chars().take_while(|char| *char == ' ').count();
        let is_fit = plain.chars().count() <= width || indent + widest > width;
        assert!(is_fit, "{line}: more than {width} columns: {plain}");
    }
}
