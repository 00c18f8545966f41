//! What is told of a tree while work goes on and after it: its processes, bytes of each, times.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::contract::Outline;
use crate::plan::{Kind, ProcessPlan};

/// A process of a tree that was dumped or restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSummary {
    /// Its pid.
    pub pid: i32,
    /// Its parent's pid; 0 for the root.
    pub ppid: i32,
    /// Its name (`comm`), what is no UTF-8 replaced.
    pub name: String,
    /// Its threads; none of a process that has exited.
    pub threads: usize,
}

/// Bytes of one process, expected or done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessBytes {
    /// The process.
    pub pid: i32,
    /// Bytes of its own memory.
    pub memory_bytes: u64,
    /// Bytes of its GPU buffers.
    pub gpu_bytes: u64,
}

/// How long each part of the work took, noted when it ends.
#[derive(Debug)]
pub(crate) struct Times<P> {
    last: Instant,
    pub(crate) parts: Vec<(P, Duration)>,
}

impl<P> Times<P> {
    pub(crate) fn begin() -> Self {
        Self { last: Instant::now(), parts: Vec::new() }
    }

    /// This part has ended, and the next one begins.
    pub(crate) fn note(&mut self, part: P) {
        let now = Instant::now();
        self.parts.push((part, now - std::mem::replace(&mut self.last, now)));
    }
}

/// What will be filled, of each process that has memory.
pub(crate) fn to_fill(processes: &[ProcessPlan], outline: &Outline) -> Vec<ProcessBytes> {
    let gpus: BTreeMap<i32, u64> =
        outline.processes.iter().map(|process| (process.pid, process.gpu_bytes)).collect();
    let of = |process: &ProcessPlan| {
        let Kind::Live(live) = &process.kind else { return None };
        let gpu_bytes = gpus.get(&process.pid).copied().unwrap_or(0);
        Some(ProcessBytes { pid: process.pid, memory_bytes: live.memory.fill_bytes(), gpu_bytes })
    };
    processes.iter().filter_map(of).collect()
}

/// The processes of a checkpoint; helpers are gone when the tree runs.
pub(crate) fn summaries(processes: &[ProcessPlan], outline: &Outline) -> Vec<ProcessSummary> {
    let parents: BTreeMap<i32, i32> =
        outline.processes.iter().map(|process| (process.pid, process.ppid)).collect();
    let of = |process: &ProcessPlan| {
        let (task, threads) = match &process.kind {
            Kind::Live(live) => (&live.task, live.threads.len()),
            Kind::Zombie(task) => (&**task, 0),
            Kind::Helper => return None,
        };
        let name = String::from_utf8_lossy(&task.comm).into_owned();
        let ppid = parents.get(&process.pid).copied().unwrap_or(0);
        Some(ProcessSummary { pid: process.pid, ppid, name, threads })
    };
    processes.iter().filter_map(of).collect()
}
