//! `thaw trace check`: the verdict of the contract's judge in words.

use std::fmt::Write;
use std::path::Path;

use restore_core::{Checked, TraceEvent, TraceStage, Violation, check};

use super::format::Trace;

/// The report, and whether the trace is legal.
pub(super) fn report(file: &Path, trace: &Trace) -> (String, bool) {
    let mut text = String::new();
    let verdict = check(&trace.outline, &trace.events);
    match &verdict {
        Ok(checked) => {
            let _ = writeln!(text, "{}: legal", file.display());
            text.push_str(&summary(trace, checked));
        }
        Err(violation) => {
            let _ = writeln!(text, "{}: illegal: {}", file.display(), verdict_text(violation));
            if let Some(rule) = rule(violation.rule) {
                let _ = writeln!(text, "  the rule: {rule}");
            }
            for event in [&violation.first, &violation.second].into_iter().flatten() {
                let _ = writeln!(text, "  {}", line(trace, event));
            }
        }
    }
    if trace.cut {
        text.push_str("  the last line was cut and is left out\n");
    }
    (text, verdict.is_ok())
}

/// The same for programs.
pub(super) fn json(trace: &Trace) -> (String, bool) {
    let verdict = check(&trace.outline, &trace.events);
    let event = |event: &Option<TraceEvent>| {
        event.as_ref().map(|event| super::format::value(&trace.outline, event))
    };
    let mut value = match &verdict {
        Ok(checked) => serde_json::json!({
            "legal": true,
            "complete": checked.complete,
            "failures": checked.failures,
            "steps": checked.steps,
            "workers": checked.workers,
            "overlaps": checked.overlaps,
        }),
        Err(violation) => serde_json::json!({
            "legal": false,
            "rule": violation.rule,
            "text": verdict_text(violation),
            "first": event(&violation.first),
            "second": event(&violation.second),
        }),
    };
    value["format"] = "thaw trace check".into();
    value["version"] = 1.into();
    value["cut"] = trace.cut.into();
    (format!("{value}\n"), verdict.is_ok())
}

/// What is wrong, in a line.
pub(super) fn verdict_text(violation: &Violation) -> String {
    match violation.rule {
        0 => format!("it makes no sense: {}", violation.text),
        _ => violation.to_string(),
    }
}

/// What a legal trace shows, a line for each thing.
fn summary(trace: &Trace, checked: &Checked) -> String {
    let mut text = String::new();
    let (steps, processes) = (trace.outline.steps.len(), trace.outline.processes.len());
    let _ = writeln!(
        text,
        "  {} of {steps} device step(s) done, of {processes} process(es), by {} worker(s)",
        checked.steps, checked.workers
    );
    let pairs = checked.overlaps;
    let _ = writeln!(text, "  {pairs} pair(s) of steps of different processes went on at once");
    text.push_str(&contents(trace));
    let end = match checked.complete {
        true => "every process was released",
        false if checked.failures > 0 => "the restore failed, and nothing was released",
        false => "the trace ends before the restore did",
    };
    let _ = writeln!(text, "  {end}");
    for event in trace.events.iter().filter(|event| event.outcome.is_err()) {
        let _ = writeln!(text, "  {}", line(trace, event));
    }
    text
}

/// How much was copied into buffers, and how fast; nothing if there was nothing.
fn contents(trace: &Trace) -> String {
    let pieces = trace.events.iter().filter(|event| event.piece.is_some());
    let begin = pieces.clone().map(|event| event.begin_ns).min();
    let end = pieces.clone().map(|event| event.end_ns).max();
    let (Some(begin), Some(end)) = (begin, end) else { return String::new() };
    let bytes: u128 =
        pieces.filter_map(|event| event.piece).map(|piece| u128::from(piece.bytes)).sum();
    let (mib, millis) = (bytes as f64 / f64::from(1 << 20), (end - begin) as f64 / 1e6);
    let speed = bytes as f64 / (end - begin).max(1) as f64; // bytes a nanosecond are GB a second
    format!("  {mib:.1} MiB were copied into buffers within {millis:.3} ms ({speed:.2} GB/s)\n")
}

/// One event: what, where, who, when, how.
fn line(trace: &Trace, event: &TraceEvent) -> String {
    let millis = |ns: u64| ns.saturating_sub(trace.begin_ns) as f64 / 1e6;
    let what = match event.step.filter(|step| step.0 < trace.outline.steps.len()) {
        None => format!("{} of {}", event.stage.name(), event.pid),
        Some(id) => {
            let step = trace.outline.step(id);
            let label = trace.outline.label(id);
            let of = if event.stage == TraceStage::Contents { "contents of " } else { "" };
            format!("{of}{label} {} {}", step.kind.name(), step.path)
        }
    };
    let outcome = match &event.outcome {
        Ok(()) => "ok",
        Err(error) => error,
    };
    let (begin, end) = (millis(event.begin_ns), millis(event.end_ns.max(event.begin_ns)));
    format!("{what}, worker {}, {begin:.3} to {end:.3} ms: {outcome}", event.worker)
}

/// The contract's rules, in a line each; the whole is in `docs/contract.md`.
fn rule(number: u8) -> Option<&'static str> {
    let text = match number {
        1 => "the device files of a process are restored in their order, one after the other",
        3 => "no device file is opened before every task of the tree exists",
        4 => "a process has one worker for its life",
        5 => "a step begins after every step that it has an edge from",
        7 => "nothing runs before all of the tree is complete, and nothing if anything failed",
        8 => "devices resume last, once for each process, and their failure is a failure",
        _ => return None,
    };
    Some(text)
}
