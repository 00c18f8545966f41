//! A row of the table and how it is judged: screen, JSON, exit status, and what is left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::book::{self, redact};
use crate::support::eye::{Eye, Seen, next_pid};
use crate::support::skip;

/// Longest that one command may take, in seconds: nothing here has much to do.
const COMMAND_MAX: &str = "60";
/// Ids of trees begin behind this one.
const TREE_PIDS: u32 = 399;
/// Ids of what thaw starts for itself, out of the way of trees.
const RESTORER_PIDS: u32 = 9000;

/// In which state the machine is, as thaw says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Now {
    /// It is only about the command line: nothing is said of a state.
    Unsaid,
    Untouched,
    Undone,
    AsItWas,
    /// Not as it was, which is said so.
    Otherwise(&'static str),
}

/// A way to fail.
#[derive(Debug)]
pub(crate) struct Row {
    /// What is wrong.
    pub(crate) name: &'static str,
    /// What is run.
    pub(crate) command: &'static str,
    pub(crate) exit: i32,
    pub(crate) code: &'static str,
    /// Code of one of several things that stand in the way.
    pub(crate) item: &'static str,
    /// What is said, where it is not the same each time.
    varies: &'static str,
    now: Now,
    /// Whether the report is there as JSON: it comes once the log is open.
    has_json: bool,
    /// Words that people must find on the screen: what, where, what to do.
    says: &'static [&'static str],
}

impl Row {
    pub(crate) const fn restore(
        name: &'static str,
        (exit, code, now): (i32, &'static str, Now),
        says: &'static [&'static str],
    ) -> Self {
        Self {
            name,
            command: "thaw restore -D DIR",
            exit,
            code,
            item: "",
            varies: "",
            now,
            has_json: true,
            says,
        }
    }

    pub(crate) const fn dump(
        name: &'static str,
        (exit, code, now): (i32, &'static str, Now),
        says: &'static [&'static str],
    ) -> Self {
        let row = Self::restore(name, (exit, code, now), says);
        row.command("thaw dump -t PID -D DIR")
    }

    /// A tree that cannot be captured, because of a thing of this kind.
    pub(crate) const fn refused(
        name: &'static str,
        item: &'static str,
        says: &'static [&'static str],
    ) -> Self {
        let row = Self::dump(name, (4, "unsupported.tree", Now::AsItWas), says);
        row.item(item)
    }

    /// It fails before there is a report.
    pub(crate) const fn without_json(self) -> Self {
        Self { has_json: false, ..self }
    }

    /// What is said is one of several things: which process or file is met first is not certain.
    pub(crate) const fn varies(self, said: &'static str) -> Self {
        Self { varies: said, ..self }
    }

    /// Another command line.
    pub(crate) const fn command(self, command: &'static str) -> Self {
        Self { command, ..self }
    }

    /// The code of one of several things.
    pub(crate) const fn item(self, item: &'static str) -> Self {
        Self { item, ..self }
    }
}

/// Where rows are carried out, and what was wrong with them.
pub(crate) struct Scene {
    pub(crate) dir: PathBuf,
    pub(crate) eye: Eye,
    row: Option<&'static Row>,
    /// How often the row has been judged.
    judged: usize,
    wrong: Vec<String>,
}

impl Scene {
    pub(crate) fn new(dir: &Path, eye: Eye) -> Self {
        next_pid(TREE_PIDS);
        Self { dir: dir.to_owned(), eye, row: None, judged: 0, wrong: Vec::new() }
    }

    /// The next row.
    pub(crate) fn begin(&mut self, row: &'static Row) {
        self.end_row();
        println!("{}", row.name);
        self.row = Some(row);
        self.judged = 0;
    }

    fn end_row(&mut self) {
        if let Some(row) = self.row.take()
            && self.judged == 0
        {
            self.wrong.push(format!("{}: it was not run", row.name));
        }
    }

    /// All rows have been carried out.
    pub(crate) fn end(self) {
        let wrong = self.faults();
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    }

    /// What was wrong with them.
    fn faults(mut self) -> Vec<String> {
        self.end_row();
        self.wrong
    }

    /// The row cannot be carried out on this machine.
    pub(crate) fn skip(&mut self, reason: &str) {
        skip(self.row.expect("it has begun").name, reason);
        self.judged += 1;
    }

    /// Something beside the command was not as it should be.
    pub(crate) fn note(&mut self, fault: impl Into<String>) {
        let name = self.row.map_or("", |row| row.name);
        self.wrong.push(format!("{name}: {}", fault.into()));
    }

    /// Runs thaw, which must fail as the row says and change nothing.
    pub(crate) fn fails(&mut self, mut command: Command) {
        let before = self.eye.look();
        next_pid(RESTORER_PIDS);
        let output = command.current_dir(&self.dir).output().expect("timeout is everywhere");
        self.judge(&output, &before);
    }

    /// Judges what has been run since `before`.
    pub(crate) fn judge(&mut self, output: &Output, before: &Seen) {
        let row = self.row.expect("it has begun");
        self.judged += 1;
        let mut wrong = Vec::new();
        let said = read(row, output, &mut wrong);
        let changed = self.eye.changed(before);
        wrong.extend(changed.iter().map(|text| format!("not as before: {text}")));
        let text = match row.varies {
            "" => redact(&said.0, &self.dir),
            text => text.to_owned(),
        };
        let said = (text, redact(&said.1, &self.dir));
        wrong.extend(book::record(row, said));
        if !wrong.is_empty() {
            let (wrong, screen) = (wrong.join("\n  "), String::from_utf8_lossy(&output.stderr));
            self.wrong.push(format!("{}:\n  {wrong}\n{screen}", row.name));
        }
    }
}

/// `thaw` with these arguments, by a command that may take rights or limits away.
pub(crate) fn thaw(through: &[&str], args: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--foreground", "--kill-after=5", COMMAND_MAX]).args(through);
    command.arg(env!("CARGO_BIN_EXE_thaw")).args(args).arg("--no-default-config");
    command.stdin(Stdio::null()).env_remove("NO_COLOR").env("LC_ALL", "C");
    command
}

/// Runs something that prepares a row.
pub(crate) fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}: {said}", output.status);
}

/// What was said, and what to do; differences from the row are added to `wrong`.
fn read(row: &Row, output: &Output, wrong: &mut Vec<String>) -> book::Said {
    let (screen, printed) =
        (String::from_utf8_lossy(&output.stderr), String::from_utf8_lossy(&output.stdout));
    if output.status.code() != Some(row.exit) {
        wrong.push(format!("{}, not {}", output.status, row.exit));
    }
    let on_one_line = screen.replace('\n', " "); // a table breaks its lines
    for word in row.says.iter().filter(|word| !on_one_line.contains(**word)) {
        wrong.push(format!("does not say {word:?}"));
    }
    if screen.contains("panicked") || screen.contains('\u{1b}') {
        wrong.push("the screen has what does not belong there".to_owned());
    }
    if row.now == Now::Unsaid {
        return read_usage(row, &screen, wrong);
    }
    let (_, words) = row.command.split_once("thaw ").expect("a command of ours");
    let verb = words.split(' ').next().unwrap_or_default();
    let lead = format!("thaw: {verb} failed: ");
    let first = screen.lines().find_map(|line| line.strip_prefix(&lead));
    let first = first.unwrap_or_else(|| {
        wrong.push(format!("no line begins with {lead:?}"));
        ""
    });
    let part = |name: &str| screen.lines().find_map(|line| line.strip_prefix(name));
    let now = part("  now   ").unwrap_or_default();
    if !now.contains(state(row.now)) {
        wrong.push(format!("the state is {now:?}, not {:?}", row.now));
    }
    let code = format!("{} (docs/errors.md)", row.code);
    if part("  code  ") != Some(&code) {
        wrong.push(format!("the code is {:?}, not {code:?}", part("  code  ")));
    }
    if !row.has_json {
        let help = part("  do    ").unwrap_or_default();
        if help.is_empty() || !printed.is_empty() {
            wrong.push(format!("help is {help:?}, printed was {printed:?}"));
        }
        let why = part("  why   ").unwrap_or_default();
        return (format!("{first}: {why}"), help.to_owned());
    }
    let error = &serde_json::from_str::<Value>(&printed).unwrap_or_default()["error"];
    let told = [&error["code"], &error["exit_code"]];
    if told != [&Value::from(row.code), &Value::from(row.exit)] {
        wrong.push(format!("JSON has {told:?}: {error}"));
    }
    if error["state"] != now {
        wrong.push(format!("JSON has state {}", error["state"]));
    }
    let help = error["help"].as_str().unwrap_or_default().to_owned();
    if help.is_empty() {
        wrong.push("nobody says what to do".to_owned());
    }
    if !screen.contains(&help) {
        wrong.push(format!("the screen does not say {help:?}"));
    }
    let mut items = error["items"].as_array().into_iter().flatten();
    if row.item.is_empty() {
        return (said_of(error), help);
    }
    match items.find(|item| item["code"] == row.item) {
        Some(item) => (item["text"].as_str().unwrap_or_default().to_owned(), help),
        None => {
            wrong.push(format!("no item is {}: {}", row.item, error["items"]));
            (first.to_owned(), help)
        }
    }
}

/// The error with its cause, without a table.
fn said_of(error: &Value) -> String {
    let text = error["text"].as_str().unwrap_or_default();
    let text: Vec<&str> = text.lines().take_while(|line| !line.contains(" -> ")).collect();
    let text = text.join(" ");
    match error["causes"][0].as_str() {
        Some(cause) if !text.contains(cause) => format!("{}: {cause}", text.trim()),
        _ => text,
    }
}

/// A command line that is wrong: the error, the usage, and the code.
fn read_usage(row: &Row, screen: &str, wrong: &mut Vec<String>) -> book::Said {
    let code = format!("Code: {} (docs/errors.md)", row.code);
    if screen.lines().last() != Some(&code) {
        wrong.push(format!("does not end with {code:?}"));
    }
    let first = screen.lines().next().and_then(|line| line.strip_prefix("error: "));
    let first = first.unwrap_or_else(|| {
        wrong.push("does not begin with the error".to_owned());
        ""
    });
    let leads = ["Help: ", "  tip: ", "For more information, "];
    let help = |lead| screen.lines().find_map(|line| line.strip_prefix(lead));
    let help = leads.into_iter().find_map(help).unwrap_or_default();
    if help.is_empty() {
        wrong.push("nobody says what to do".to_owned());
    }
    let more = screen.lines().nth(1).filter(|_| first.ends_with(':')).unwrap_or_default();
    (format!("{first} {}", more.trim()), help.to_owned())
}

fn state(now: Now) -> &'static str {
    match now {
        Now::Unsaid => "",
        Now::Untouched => "nothing was done",
        Now::Undone => "everything was undone",
        Now::AsItWas => "the tree goes on as it was",
        Now::Otherwise(text) => text,
    }
}

static CANARY: Row = Row::restore("canary", (4, "host.proc", Now::Untouched), &["mount it"]);
static NEVER_RUN: Row = Row::restore("never run", (4, "host.proc", Now::Untouched), &[]);

/// Something that fails otherwise, and leaves something of each kind.
#[test]
fn what_is_left_and_what_is_not_said_is_found() {
    crate::support::live("harness::what_is_left_and_what_is_not_said_is_found", |dir| {
        let mut scene = Scene::new(dir, Eye::on(&[dir]));
        scene.eye.patience = Some(std::time::Duration::ZERO);
        fs::write(dir.join("changed"), "one").expect("room");
        fs::write(dir.join("gone"), "one").expect("room");
        let mut child = Command::new("sleep").arg("600").spawn().expect("it is everywhere");
        let before = scene.eye.look();
        let script = "sleep 600 >/dev/null 2>&1 & mkdir new; echo two >changed; rm gone; \
            mount -t tmpfs tmpfs new; echo 'thaw: restore failed: no' >&2; \
            echo '  now   everything was undone' >&2; \
            echo '  code  dump.died (docs/errors.md)' >&2; exit 1";
        child.kill().expect("it runs");
        child.wait().expect("it is ours");
        let output = Command::new("sh").args(["-c", script]).current_dir(dir).output();
        scene.begin(&CANARY);
        scene.judge(&output.expect("a shell"), &before);
        scene.begin(&NEVER_RUN);
        let pid = format!("process {} is gone", child.id());
        let faults = scene.faults();
        assert_eq!(faults.len(), 2, "{faults:?}");
        for part in [
            "canary:",
            "not 4",
            "mount it",
            "the state is",
            "the code is",
            "JSON has",
            "process ",
            &pid,
            "mounts:",
            "/changed:",
            "/gone: None",
            "/new:",
            "what to do",
        ] {
            assert!(faults[0].contains(part), "{part} in {}", faults[0]);
        }
        assert_eq!(faults[1], "never run: it was not run");
        run("umount", &[&dir.join("new").display().to_string()]);
    });
}
