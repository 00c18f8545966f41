//! Client processes: this test binary again, inside a node, playing a role of the test.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use kfd_emulator::{Node, Preload};

pub(crate) const KFD: &str = "/dev/kfd";
pub(crate) const RENDER: &str = "/dev/dri/renderD128";

pub(crate) fn open(path: &str) -> File {
    File::options().read(true).write(true).open(path).unwrap_or_else(|error| {
        panic!("{path}: {error}");
    })
}

/// Says which role this process plays.
const ROLE: &str = "KFD_TEST_ROLE";

/// The role that this process plays, if it is a client.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// A command for a client that plays `role` of the test `test`.
pub(crate) fn command(node: &Node, test: &str, role: &str, preload: Preload) -> Command {
    let own = std::env::current_exe().expect("the test binary has a path");
    as_client(node.command(own, preload), test, role)
}

/// Arguments and environment of a client.
pub(crate) fn as_client(mut command: Command, test: &str, role: &str) -> Command {
    command
        .args(["--exact", test, "--nocapture", "--test-threads=1", "--quiet"])
        .env(ROLE, role)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

/// A client that runs; killed when dropped.
pub(crate) struct Client {
    pub(crate) child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Client {
    pub(crate) fn start(node: &Node, test: &str, role: &str) -> Self {
        Self::of(command(node, test, role, Preload::No))
    }

    pub(crate) fn of(mut command: Command) -> Self {
        let mut child = command.spawn().expect("a client starts");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let orders = child.stdin.take();
        Self { child, orders, answers }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The next line that it says to us; empty at its end.
    pub(crate) fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            let length = self.answers.read_line(&mut line).expect("a pipe can be read");
            // What the test harness prints is not meant for us.
            if length == 0 || line.starts_with("> ") {
                return line.trim_start_matches("> ").trim_end().to_owned();
            }
        }
    }

    /// Sends it a line.
    pub(crate) fn order(&mut self, line: &str) {
        let orders = self.orders.as_mut().expect("its input is open");
        writeln!(orders, "{line}").expect("it reads");
    }

    /// Sends it a line, and gives what it answers.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.order(line);
        self.hear()
    }

    /// Waits until it has ended by itself.
    pub(crate) fn finish(mut self) {
        self.orders = None;
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "a client: {status}");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As a client: says a line to the test.
pub(crate) fn say(line: impl std::fmt::Display) {
    let mut out = std::io::stdout();
    writeln!(out, "> {line}").and_then(|()| out.flush()).expect("the test listens");
}

/// As a client: the next line from the test; none at its end.
pub(crate) fn listen() -> Option<String> {
    let mut line = String::new();
    let length = std::io::stdin().read_line(&mut line).expect("the test speaks");
    (length > 0).then(|| line.trim_end().to_owned())
}
