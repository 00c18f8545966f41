//! How far the work is: bars on a terminal, now and then a line elsewhere, JSON lines for programs.
//!
//! It is only told; nothing that is done waits for whoever looks.

mod bars;
mod descriptor;
mod inherited;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use indicatif::ProgressDrawTarget;
use serde_json::json;

use crate::report::{Outcome, Report, Verb};
use crate::screen::{Screen, size, time};
use bars::{Bars, Look};
pub(crate) use descriptor::Descriptor;

/// Version of the JSON lines.
const VERSION: u32 = 1;
/// What takes less time is over before anybody has read about it.
const QUIET: Duration = Duration::from_millis(250);
/// How often a line is written where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(5);

/// Stands for memory that is no process's own.
pub(crate) const SHARED: i32 = 0;

/// Bytes of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bytes {
    pub(crate) memory: u64,
    pub(crate) gpu: u64,
}

impl Bytes {
    fn sum(self) -> u64 {
        self.memory + self.gpu
    }
}

/// Who is told, and what has been told.
pub(crate) struct Progress {
    verb: Verb,
    begin: Instant,
    screen: Screen,
    /// Whether people are told at all.
    shown: bool,
    bars: Option<Bars>,
    line_due: Duration,
    descriptor: Option<Descriptor>,
    expected: BTreeMap<i32, Bytes>,
    done: BTreeMap<i32, Bytes>,
    /// The stage that is under way.
    stage: &'static str,
}

impl Progress {
    /// Nobody has been told yet.
    pub(crate) fn new(
        verb: Verb,
        screen: Screen,
        shown: bool,
        mut descriptor: Option<Descriptor>,
    ) -> Self {
        if let Some(descriptor) = &mut descriptor {
            descriptor.line(&json!({
                "format": "thaw progress", "version": VERSION, "command": verb.name(),
            }));
        }
        Self {
            verb,
            begin: Instant::now(),
            screen,
            shown,
            bars: None,
            line_due: LINE_PERIOD,
            descriptor,
            expected: BTreeMap::new(),
            done: BTreeMap::new(),
            stage: "read images",
        }
    }

    /// A stage begins.
    pub(crate) fn begins(&mut self, stage: &'static str) {
        self.stage = stage;
        self.look();
    }

    /// A stage has ended.
    pub(crate) fn ended(&mut self, stage: &'static str, took: Duration) {
        self.tell(&json!({ "stage": stage, "ns": took.as_nanos() as u64 }));
        self.look();
    }

    /// How much there is to do for a process.
    pub(crate) fn expect(&mut self, pid: i32, bytes: Bytes) {
        self.expected.insert(pid, bytes);
        self.tell(&json!({
            "process": pid, "expected_memory_bytes": bytes.memory, "expected_gpu_bytes": bytes.gpu,
        }));
    }

    /// How much of a process is to be done and was said.
    pub(crate) fn expected(&self) -> &BTreeMap<i32, Bytes> {
        &self.expected
    }

    /// How much of it is done.
    pub(crate) fn done(&mut self, pid: i32, bytes: Bytes) {
        self.done.insert(pid, bytes);
        self.tell(&json!({
            "process": pid, "memory_bytes": bytes.memory, "gpu_bytes": bytes.gpu,
        }));
        self.look();
    }

    /// All is over: takes away what was on the screen and says the last word to programs.
    pub(crate) fn conclude(&mut self, report: &Report) {
        self.bars = None;
        self.shown = false;
        let code = report.error.as_ref().map(|error| error.code);
        self.tell(&match report.outcome {
            Outcome::Done => json!({
                "outcome": "done", "exit_code": 0, "root": report.root, "ns": report.ns,
            }),
            Outcome::Failed => json!({
                "outcome": "failed", "exit_code": report.exit_code, "code": code, "ns": report.ns,
            }),
        });
    }

    fn tell(&mut self, line: &serde_json::Value) {
        if let Some(descriptor) = &mut self.descriptor {
            descriptor.line(line);
        }
    }

    /// Shows where it stands, if it is time to.
    fn look(&mut self) {
        let elapsed = self.begin.elapsed();
        if !self.shown || elapsed < QUIET {
            return;
        }
        if Screen::is_watched() {
            let look =
                Look { colors: self.screen.has_colors_on_err(), width: self.screen.err_width };
            let target = ProgressDrawTarget::stderr();
            let bars =
                self.bars.get_or_insert_with(|| Bars::new(self.verb, &self.expected, look, target));
            bars.show(self.stage, elapsed, &self.done, &self.expected);
        } else if elapsed >= self.line_due {
            self.line_due = elapsed + LINE_PERIOD;
            let (done, expected) = (size(total(&self.done)), size(total(&self.expected)));
            eprintln!(
                "thaw: {}: {}, {done} of {expected} after {}",
                self.verb.name(),
                self.stage,
                time(elapsed)
            );
        }
    }
}

fn total(of: &BTreeMap<i32, Bytes>) -> u64 {
    of.values().map(|bytes| bytes.sum()).sum()
}
