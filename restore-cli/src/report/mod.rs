//! What a dump or a restore did: one value, of which the summary on the screen, the JSON and the
//! page for browsers are made.
//!
//! The shape of the JSON is described in docs/json.md. It has a version, which grows when a
//! reader of the old one would misunderstand the new one.

mod page;
mod problem;
mod summary;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use restore_core::ProcessSummary;
use serde::Serialize;

pub(crate) use problem::Problem;

use crate::output::Output;
use crate::progress::Bytes;
use crate::trace::Trace;

/// Version of the JSON.
const VERSION: u32 = 1;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    Dump,
    Restore,
    Plan,
}

impl Verb {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dump => "dump",
            Self::Restore => "restore",
            Self::Plan => "plan",
        }
    }
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    Done,
    Failed,
}

/// A process of the tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    /// 0 for the root.
    pub(crate) ppid: i32,
    pub(crate) name: String,
    /// 0 of a process that has exited.
    pub(crate) threads: usize,
    /// Memory that was written or read.
    pub(crate) memory_bytes: u64,
    /// Contents of GPU buffers.
    pub(crate) gpu_bytes: u64,
}

impl Process {
    /// The processes of a tree, with bytes of each that are known.
    pub(crate) fn all(tree: &[ProcessSummary], bytes: &BTreeMap<i32, Bytes>) -> Vec<Self> {
        let of = |process: &ProcessSummary| {
            let bytes = bytes.get(&process.pid).copied().unwrap_or_default();
            Self {
                pid: process.pid,
                ppid: process.ppid,
                name: process.name.clone(),
                threads: process.threads,
                memory_bytes: bytes.memory,
                gpu_bytes: bytes.gpu,
            }
        };
        tree.iter().map(of).collect()
    }
}

/// A part of the work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) ns: u64,
}

/// A GPU of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Gpu {
    /// Its id in the checkpoint.
    pub(crate) saved: u32,
    /// The id of the one that stands for it here.
    pub(crate) here: u32,
    /// Processes that have it open.
    pub(crate) processes: usize,
    /// Contents of buffers that were copied to it.
    pub(crate) content_bytes: u64,
}

/// What was done, as far as it came.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    format: &'static str,
    version: u32,
    /// Version and revision of the program.
    thaw: String,
    command: Verb,
    pub(crate) outcome: Outcome,
    pub(crate) exit_code: u8,
    images: PathBuf,
    host: Host,
    /// When it began, in seconds since 1970 (UTC).
    began_unix_s: u64,
    /// How long all of it took.
    pub(crate) ns: u64,
    /// The root of the tree.
    pub(crate) root: Option<i32>,
    pub(crate) processes: Vec<Process>,
    pub(crate) stages: Vec<Stage>,
    /// How long the tree did not run, of a dump.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) frozen_ns: Option<u64>,
    /// Private memory.
    pub(crate) memory_bytes: u64,
    /// Shared memory and memory files.
    pub(crate) shared_bytes: u64,
    /// Contents of GPU buffers.
    pub(crate) gpu_bytes: u64,
    /// All images, of a dump.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image_bytes: Option<u64>,
    pub(crate) gpus: Vec<Gpu>,
    /// What had to be taken for granted, since the images do not say it.
    pub(crate) assumptions: Vec<String>,
    /// What went wrong beside it, and did not matter to the tree.
    pub(crate) warnings: Vec<String>,
    pub(crate) error: Option<Box<Problem>>,
    /// The trace of a restore, line by line as `--trace` writes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Vec<serde_json::Value>>,
    #[serde(skip)]
    picture: Option<Trace>,
    #[serde(skip)]
    start: Instant,
}

/// Where it was done.
#[derive(Debug, Serialize)]
struct Host {
    name: String,
    kernel: String,
}

impl Host {
    fn here() -> Self {
        // A kernel always says its name; what is no text is not worth a failure.
        let names = nix::sys::utsname::uname().ok();
        let text = |of: fn(&nix::sys::utsname::UtsName) -> &OsStr| {
            names.as_ref().map(|names| of(names).to_string_lossy().into_owned()).unwrap_or_default()
        };
        Self { name: text(|names| names.nodename()), kernel: text(|names| names.release()) }
    }
}

impl Report {
    /// Nothing has been done yet.
    pub(crate) fn new(command: Verb, images: &Path, start: Instant) -> Self {
        let began = SystemTime::now() - start.elapsed();
        Self {
            format: "thaw report",
            version: VERSION,
            thaw: crate::version::SHORT.clone(),
            command,
            outcome: Outcome::Failed,
            exit_code: 0,
            images: std::path::absolute(images).unwrap_or_else(|_| images.to_owned()),
            host: Host::here(),
            began_unix_s: began.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            ns: 0,
            root: None,
            processes: Vec::new(),
            stages: Vec::new(),
            frozen_ns: None,
            memory_bytes: 0,
            shared_bytes: 0,
            gpu_bytes: 0,
            image_bytes: None,
            gpus: Vec::new(),
            assumptions: Vec::new(),
            warnings: Vec::new(),
            error: None,
            trace: None,
            picture: None,
            start,
        }
    }

    /// A part of the work has ended.
    pub(crate) fn stage(&mut self, name: &'static str, took: Duration) {
        self.stages.push(Stage { name, ns: took.as_nanos() as u64 });
    }

    /// It is done.
    pub(crate) fn done(&mut self) {
        self.outcome = Outcome::Done;
        self.ns = self.start.elapsed().as_nanos() as u64;
    }

    /// It has failed.
    pub(crate) fn failed(&mut self, problem: Box<Problem>) {
        self.outcome = Outcome::Failed;
        self.exit_code = problem.exit_code;
        self.error = Some(problem);
        self.ns = self.start.elapsed().as_nanos() as u64;
    }

    /// Takes the trace, as lines and as what is drawn.
    pub(crate) fn take_trace(&mut self, lines: Vec<serde_json::Value>, trace: Trace) {
        self.trace = Some(lines);
        self.picture = Some(trace);
    }

    /// All bytes that were moved.
    fn moved_bytes(&self) -> u64 {
        self.memory_bytes + self.shared_bytes + self.gpu_bytes
    }

    /// The report as JSON in a line.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("a report is plain data with keys that are texts")
    }

    /// Writes it to a file: a page if its name says so, else JSON.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let is_page = path.extension().is_some_and(|extension| {
            extension.eq_ignore_ascii_case("html") || extension.eq_ignore_ascii_case("htm")
        });
        let text = match is_page {
            true => page::html(self),
            false => self.json() + "\n",
        };
        let mut file = Output::open(Some(path))?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.finish()
    }

    /// Whether files of these names can be written, before anything is done.
    pub(crate) fn try_paths(paths: &[PathBuf]) -> Result<(), (PathBuf, io::Error)> {
        for path in paths {
            let folder = match path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                _ => Path::new("."),
            };
            let metadata = fs::metadata(folder).map_err(|error| (path.clone(), error))?;
            if !metadata.is_dir() || path.is_dir() {
                return Err((path.clone(), io::ErrorKind::NotADirectory.into()));
            }
        }
        Ok(())
    }
}
