//! The file of a trace: JSON lines. The first is the outline, each further one an event.
//!
//! A line is written whole when its event ends, so the trace of a restore that died can be read up
//! to there; a last line that was cut is left out, with a remark.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use restore_core::{Outline, Piece, StepId, TraceEvent, TraceStage};
use serde::{Deserialize, Serialize};

use super::outline::{Head, OutlineFault, labels};

/// Longest line: the outline of as many processes as a restore makes fits, 200 bytes a step.
const LINE_BYTES_MAX: u64 = 64 << 20;
/// Most events: a restore has some for each process and step, and one for each part of contents.
const EVENTS_MAX: usize = 10_000_000;

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TraceFault {
    /// The file cannot be read.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// There is no first line.
    #[error("it is empty")]
    Empty,
    /// A line is too long.
    #[error("line {line} is longer than {LINE_BYTES_MAX} bytes")]
    Long {
        /// Its number, from 1.
        line: usize,
    },
    /// There are too many events.
    #[error("it has more than {EVENTS_MAX} events")]
    Events,
    /// A line is no JSON of this format.
    #[error("line {line}")]
    Json {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The first line contradicts itself.
    #[error("line 1")]
    Outline(#[source] OutlineFault),
    /// An event names a step that the first line does not.
    #[error("line {line}: there is no step {label}")]
    Step {
        /// Its number, from 1.
        line: usize,
        /// The label.
        label: String,
    },
}

/// A trace that was read.
#[derive(Debug)]
pub(crate) struct Trace {
    pub(crate) outline: Outline,
    /// In the order of the file.
    pub(crate) events: Vec<TraceEvent>,
    /// The last line was cut and is left out.
    pub(crate) cut: bool,
    /// When it begins: times are shown from there.
    pub(crate) begin_ns: u64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Line {
    stage: Stage,
    process: i32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    copied: Option<Copied>,
    worker: usize,
    begin_ns: u64,
    end_ns: u64,
    outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Copied {
    minor: u32,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Stage {
    Create,
    Device,
    Contents,
    Build,
    Freeze,
    Resume,
    Release,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    Failed,
}

/// Writes a trace while things happen.
#[derive(Debug)]
pub(crate) struct TraceWriter {
    to: File,
    outline: Outline,
}

impl TraceWriter {
    /// Makes the file anew and writes the outline.
    pub(crate) fn create(path: &Path, outline: &Outline) -> io::Result<Self> {
        let mut writer = Self { to: File::create(path)?, outline: outline.clone() };
        writer.line(&Head::new(outline))?;
        Ok(writer)
    }

    /// Writes an event; it is in the file when this returns.
    pub(crate) fn event(&mut self, event: &TraceEvent) -> io::Result<()> {
        let line = event_line(&self.outline, event);
        self.line(&line)
    }

    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        self.to.write_all(&bytes)
    }
}

fn event_line(outline: &Outline, event: &TraceEvent) -> Line {
    Line {
        stage: event.stage.into(),
        process: event.pid,
        step: event.step.map(|step| outline.label(step)),
        file: event.step.map(|step| outline.step(step).path.clone()),
        copied: event.piece.map(|Piece { minor, bytes }| Copied { minor, bytes }),
        worker: event.worker,
        begin_ns: event.begin_ns,
        end_ns: event.end_ns,
        outcome: if event.outcome.is_ok() { Outcome::Ok } else { Outcome::Failed },
        error: event.outcome.clone().err(),
    }
}

/// The lines of a trace as values: what [`TraceWriter`] writes.
pub(crate) fn values(outline: &Outline, events: &[TraceEvent]) -> Vec<serde_json::Value> {
    let lines = events.iter().map(|event| value(outline, event));
    std::iter::once(plain(&Head::new(outline))).chain(lines).collect()
}

/// One event as it stands in a line.
pub(super) fn value(outline: &Outline, event: &TraceEvent) -> serde_json::Value {
    plain(&event_line(outline, event))
}

fn plain(line: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(line).expect("a line is plain data with keys that are texts")
}

impl Trace {
    /// One that was not written.
    pub(crate) fn of(outline: Outline, events: Vec<TraceEvent>) -> Self {
        let begin_ns = events.iter().map(|event| event.begin_ns).min().unwrap_or(u64::MAX);
        Self { outline, events, cut: false, begin_ns }
    }

    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, TraceFault> {
        Self::parse(BufReader::new(File::open(path).map_err(TraceFault::Read)?))
    }

    /// Reads what a [`TraceWriter`] wrote.
    pub(crate) fn parse(mut from: impl BufRead) -> Result<Self, TraceFault> {
        let (head, _) = next_line(&mut from, 1)?.ok_or(TraceFault::Empty)?;
        let head: Head =
            serde_json::from_slice(&head).map_err(|source| TraceFault::Json { line: 1, source })?;
        let outline = head.outline().map_err(TraceFault::Outline)?;
        let labels = labels(&outline);
        let mut trace = Self { outline, events: Vec::new(), cut: false, begin_ns: u64::MAX };
        while let Some((bytes, whole)) = next_line(&mut from, trace.events.len() + 2)? {
            let line = trace.events.len() + 2;
            let parsed: Line = match serde_json::from_slice(&bytes) {
                Ok(parsed) => parsed,
                Err(_) if !whole => {
                    trace.cut = true;
                    break;
                }
                Err(source) => return Err(TraceFault::Json { line, source }),
            };
            let step = match &parsed.step {
                None => None,
                Some(label) => match labels.get(label) {
                    Some(&step) => Some(step),
                    None => return Err(TraceFault::Step { line, label: label.clone() }),
                },
            };
            if trace.events.len() == EVENTS_MAX {
                return Err(TraceFault::Events);
            }
            trace.begin_ns = trace.begin_ns.min(parsed.begin_ns);
            trace.events.push(parsed.event(step));
        }
        Ok(trace)
    }
}

impl Line {
    fn event(self, step: Option<StepId>) -> TraceEvent {
        TraceEvent {
            stage: self.stage.into(),
            pid: self.process,
            step,
            worker: self.worker,
            begin_ns: self.begin_ns,
            end_ns: self.end_ns,
            outcome: match self.outcome {
                Outcome::Ok => Ok(()),
                Outcome::Failed => Err(self.error.unwrap_or_default()),
            },
            piece: self.copied.map(|Copied { minor, bytes }| Piece { minor, bytes }),
        }
    }
}

/// The next line, and whether it ends as a line does; nothing at the end.
fn next_line(from: &mut impl BufRead, line: usize) -> Result<Option<(Vec<u8>, bool)>, TraceFault> {
    let mut bytes = Vec::new();
    let mut limited = from.take(LINE_BYTES_MAX);
    let length = limited.read_until(b'\n', &mut bytes).map_err(TraceFault::Read)?;
    if length as u64 == LINE_BYTES_MAX {
        return Err(TraceFault::Long { line });
    }
    let whole = bytes.last() == Some(&b'\n');
    Ok((length > 0).then_some((bytes, whole)))
}

impl From<TraceStage> for Stage {
    fn from(stage: TraceStage) -> Self {
        match stage {
            TraceStage::Create => Self::Create,
            TraceStage::Device => Self::Device,
            TraceStage::Contents => Self::Contents,
            TraceStage::Build => Self::Build,
            TraceStage::Freeze => Self::Freeze,
            TraceStage::Resume => Self::Resume,
            TraceStage::Release => Self::Release,
        }
    }
}

impl From<Stage> for TraceStage {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Create => Self::Create,
            Stage::Device => Self::Device,
            Stage::Contents => Self::Contents,
            Stage::Build => Self::Build,
            Stage::Freeze => Self::Freeze,
            Stage::Resume => Self::Resume,
            Stage::Release => Self::Release,
        }
    }
}
