//! A trace in the format of Chrome's trace viewer, which Perfetto opens too.
//!
//! Facts: "Trace Event Format" (Google, 2016): complete events `X` with times in microseconds,
//! metadata `M`, flows `s` and `f` for arrows. Slices of one thread must nest, so what the pool
//! copies has threads of its own.

use std::collections::BTreeMap;

use restore_core::{EdgeReason, StepId, TraceEvent, TraceStage};
use serde_json::{Value, json};

use super::format::Trace;
use super::{begin_ns, short_name};

/// Threads that copy contents have numbers from here: fewer workers than that are ever started.
const POOL: usize = 1_000_000;

/// The whole file.
pub(super) fn json(trace: &Trace) -> String {
    let mut events = Vec::new();
    for (index, process) in trace.outline.processes.iter().enumerate() {
        let pid = process.pid;
        let parent = if process.ppid == 0 {
            "root".to_owned()
        } else {
            format!("child of {}", process.ppid)
        };
        let name = format!("process {pid} ({parent})");
        events.push(json!({"ph": "M", "name": "process_name", "pid": pid, "args": {"name": name}}));
        let sort = json!({"ph": "M", "name": "process_sort_index", "pid": pid,
            "args": {"sort_index": index}});
        events.push(sort);
    }
    let mut threads: Vec<(i32, usize)> = trace.events.iter().map(|e| (e.pid, thread(e))).collect();
    threads.sort_unstable();
    threads.dedup();
    for (pid, tid) in threads {
        let name = match tid.checked_sub(POOL) {
            None => format!("worker {tid}"),
            Some(tid) => format!("contents, thread {tid}"),
        };
        events.push(json!({"ph": "M", "name": "thread_name", "pid": pid, "tid": tid,
            "args": {"name": name}}));
    }
    let begin = begin_ns(trace);
    events.extend(trace.events.iter().map(|event| slice(trace, event, begin)));
    events.extend(flows(trace, begin));
    let document = json!({"displayTimeUnit": "ms", "traceEvents": events});
    format!("{document}\n")
}

fn thread(event: &TraceEvent) -> usize {
    match event.stage {
        TraceStage::Contents => POOL.saturating_add(event.worker),
        _ => event.worker,
    }
}

fn micros(ns: u64, begin: u64) -> f64 {
    ns.saturating_sub(begin) as f64 / 1e3
}

fn slice(trace: &Trace, event: &TraceEvent, begin: u64) -> Value {
    let mut name = short_name(&trace.outline, event);
    let mut args = json!({"worker": event.worker});
    if let Some(id) = event.step {
        let step = trace.outline.step(id);
        if event.stage == TraceStage::Contents {
            name = format!("contents of {name}");
        } else {
            name = format!("{name} {}", step.kind.name());
        }
        args["step"] = json!(trace.outline.label(id));
        args["file"] = json!(step.path);
        args["buffers"] = json!(step.buffers);
        args["content_bytes"] = json!(step.content_bytes);
    }
    if let Some(piece) = event.piece {
        args["render_minor"] = json!(piece.minor);
        args["bytes"] = json!(piece.bytes);
    }
    if let Err(error) = &event.outcome {
        name = format!("{name} FAILED");
        args["error"] = json!(error);
    }
    json!({"ph": "X", "name": name, "cat": event.stage.name(), "pid": event.pid,
        "tid": thread(event), "ts": micros(event.begin_ns, begin),
        "dur": micros(event.end_ns, event.begin_ns), "args": args})
}

/// An arrow for each edge whose ends both happened.
fn flows(trace: &Trace, begin: u64) -> Vec<Value> {
    let device = trace.events.iter().filter(|event| event.stage == TraceStage::Device);
    let device: BTreeMap<StepId, &TraceEvent> =
        device.filter_map(|event| Some((event.step?, event))).collect();
    let mut flows = Vec::new();
    for (id, edge) in trace.outline.edges.iter().enumerate() {
        let (Some(from), Some(to)) = (device.get(&edge.from), device.get(&edge.to)) else {
            continue;
        };
        let name = match edge.reason {
            EdgeReason::Buffer(number) => format!("buffer {number}"),
            EdgeReason::Descriptor(file) => format!("file {file}"),
        };
        // An arrow begins inside the slice that it leaves, so just before its end.
        let left = from.end_ns.saturating_sub(1).max(from.begin_ns);
        flows.push(json!({"ph": "s", "id": id, "name": name, "cat": "edge", "pid": from.pid,
            "tid": thread(from), "ts": micros(left, begin)}));
        flows.push(json!({"ph": "f", "bp": "e", "id": id, "name": name, "cat": "edge",
            "pid": to.pid, "tid": thread(to), "ts": micros(to.begin_ns, begin)}));
    }
    flows
}
