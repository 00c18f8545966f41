//! The picture of a trace: one SVG file that needs nothing else, for light and dark screens.
//!
//! Two panels with a lane for each process. The upper one shows the order of device files: each
//! begin and each end is a column, so that what was at the same time is seen however short it was.
//! The lower one shows all stages, to scale.

mod axis;
mod canvas;
mod lanes;
pub(super) mod order;
mod time;

use restore_core::{StepKind, TraceEvent, TraceStage, check};

use super::check::verdict_text;
use super::format::Trace;
use super::{letter, short_name};
use canvas::{Anchor, Canvas};
use lanes::{Frame, kind_class};

/// Classes of GPUs, by their place in the outline.
const GPU_CLASSES: [&str; 8] = ["g0", "g1", "g2", "g3", "g4", "g5", "g6", "g7"];
/// Room left and right of the lanes, for their names and for the last tick.
const LEFT: f64 = 172.0;
const RIGHT: f64 = 28.0;
const MARGIN: f64 = 24.0;
/// Most steps whose order is spelt out under the title.
const SPELT_MAX: usize = 16;
/// Fewest and most pixels across.
const WIDTHS: (f64, f64) = (1240.0, 2600.0);
/// Pixels for each column of the order, if there is room.
const COLUMN: f64 = 9.0;

/// Draws a trace.
pub(crate) fn svg(trace: &Trace) -> String {
    let order = order::Order::new(trace);
    let columns = order.columns() as f64 * COLUMN;
    let width = (LEFT + columns + RIGHT).clamp(WIDTHS.0, WIDTHS.1);
    let frame = Frame { left: LEFT, right: width - RIGHT };
    let mut canvas = Canvas::new(width);
    let mut y = title(&mut canvas, trace);
    y = legend(&mut canvas, trace, &frame, y);
    if order.columns() > 0 {
        y = section(&mut canvas, y, "Order", "not to scale: a column for each begin and each end");
        canvas.begin_group("order");
        y = order.draw(&mut canvas, trace, &frame, y) + MARGIN;
        canvas.end_group();
    }
    y = section(&mut canvas, y, "Time", "to scale");
    canvas.begin_group("time");
    y = time::draw(&mut canvas, trace, &frame, y);
    canvas.end_group();
    y = failures(&mut canvas, trace, y);
    for assumption in &trace.outline.assumptions {
        y += 18.0;
        canvas.text((MARGIN, y), Anchor::Start, "small dim", &format!("Assumed: {assumption}"));
    }
    canvas.finish(y + MARGIN)
}

/// What it is, and the verdict; returns where to go on.
fn title(canvas: &mut Canvas, trace: &Trace) -> f64 {
    let outline = &trace.outline;
    let title = format!(
        "Restore of {}: {}, {}",
        counted(outline.processes.len(), "process", "processes"),
        counted(outline.steps.len(), "device file", "device files"),
        counted(outline.gpus.len(), "GPU", "GPUs"),
    );
    canvas.text((MARGIN, 40.0), Anchor::Start, "title ink", &title);
    let mut device: Vec<&TraceEvent> =
        trace.events.iter().filter(|event| event.stage == TraceStage::Device).collect();
    device.sort_by_key(|event| (event.begin_ns, event.end_ns, event.step));
    let mut y = 64.0;
    if (1..=SPELT_MAX).contains(&device.len()) {
        let labelled = !letter(outline, outline.processes[0].pid).is_empty();
        let name = |event: &&TraceEvent| match (labelled, event.step) {
            (false, Some(step)) => outline.label(step),
            _ => short_name(outline, event),
        };
        let names: Vec<String> = device.iter().map(name).collect();
        let of = match outline.count_orders() {
            _ if device.len() < outline.steps.len() => String::new(),
            Some(1) => ", the only legal order".to_owned(),
            Some(count) => format!(", one of {count} legal orders"),
            None => ", one of very many legal orders".to_owned(),
        };
        let text = format!("Begun in the order {}{of}", names.join(" "));
        canvas.text((MARGIN, y), Anchor::Start, "plain dim", &text);
        y += 22.0;
    }
    let (class, text) = match check(outline, &trace.events) {
        Ok(checked) if checked.complete => ("good", "Legal under the contract".to_owned()),
        Ok(checked) if checked.failures > 0 => {
            ("warn", "Failed, legally: nothing was released".to_owned())
        }
        Ok(_) => ("warn", "Legal so far: the trace ends before the restore did".to_owned()),
        Err(violation) => ("bad", format!("Illegal: {}", verdict_text(&violation))),
    };
    canvas.circle((MARGIN + 5.0, y - 4.0), 5.0, class);
    canvas.text((MARGIN + 18.0, y), Anchor::Start, &format!("strong {class}"), &text);
    y + 14.0
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// The meaning of colours: kinds that there are, and GPUs.
fn legend(canvas: &mut Canvas, trace: &Trace, frame: &Frame, y: f64) -> f64 {
    let outline = &trace.outline;
    let kinds = [StepKind::Kfd, StepKind::Render, StepKind::DmaBuf, StepKind::Receive];
    let kinds = kinds.into_iter().filter(|kind| outline.steps.iter().any(|it| it.kind == *kind));
    let mut entries: Vec<(&str, String)> =
        kinds.map(|kind| (kind_class(kind), kind.name().to_owned())).collect();
    for (index, (saved, here)) in outline.gpus.iter().enumerate() {
        entries.push((gpu_class(index), format!("GPU {index} (saved {saved}, here {here})")));
    }
    let (mut x, mut y) = (MARGIN, y + 16.0);
    for (class, text) in entries {
        let width = canvas::text_width(&text, 12.0) + 40.0;
        if x + width > frame.right && x > MARGIN {
            (x, y) = (MARGIN, y + 20.0);
        }
        canvas.rect((x, y - 10.0), (14.0, 12.0), 3.0, class);
        canvas.text((x + 20.0, y), Anchor::Start, "plain ink", &text);
        x += width;
    }
    y + 12.0
}

fn section(canvas: &mut Canvas, y: f64, name: &str, more: &str) -> f64 {
    let y = y + 26.0;
    canvas.text((MARGIN, y), Anchor::Start, "head ink", name);
    let x = MARGIN + canvas::text_width(name, 16.0) + 14.0;
    canvas.text((x, y), Anchor::Start, "small dim", more);
    y + 12.0
}

/// What failed, in words.
fn failures(canvas: &mut Canvas, trace: &Trace, mut y: f64) -> f64 {
    let failed =
        trace.events.iter().filter_map(|event| Some((event, event.outcome.as_ref().err()?)));
    for (event, error) in failed {
        let mut name = match event.step {
            Some(step) => trace.outline.label(step),
            None => format!("process {}", event.pid),
        };
        if !matches!(event.stage, TraceStage::Device) {
            name = format!("{} of {name}", event.stage.name());
        }
        y += 20.0;
        canvas.text((MARGIN, y), Anchor::Start, "plain bad", &format!("Failed: {name}: {error}"));
    }
    y
}

/// All about an event, for a pointer that rests on it.
fn details(trace: &Trace, event: &TraceEvent) -> String {
    let begin = trace.begin_ns;
    let millis = |ns: u64| ns.saturating_sub(begin) as f64 / 1e6;
    let mut text = String::new();
    if let Some(id) = event.step {
        let step = trace.outline.step(id);
        text = format!("{} {} {}", trace.outline.label(id), step.kind.name(), step.path);
        if let Some((saved, here)) = step.gpu {
            text = format!("{text}\nGPU saved {saved}, here {here}");
        }
        text =
            format!("{text}\n{} buffers, {} bytes of contents", step.buffers, step.content_bytes);
        text.push('\n');
    }
    if let Some(piece) = event.piece {
        let took_ns = event.end_ns.saturating_sub(event.begin_ns).max(1);
        let speed = piece.bytes as f64 / took_ns as f64; // bytes a nanosecond are GB a second
        let (bytes, minor) = (piece.bytes, piece.minor);
        text = format!("{text}{bytes} bytes to the GPU of renderD{minor}, {speed:.1} GB/s\n");
    }
    let (stage, pid, worker) = (event.stage.name(), event.pid, event.worker);
    let (from, to) = (millis(event.begin_ns), millis(event.end_ns));
    let took = to - from;
    text = format!("{text}{stage} of process {pid} by worker {worker}");
    text = format!("{text}\n{from:.3} to {to:.3} ms ({took:.3} ms)");
    match &event.outcome {
        Ok(()) => text,
        Err(error) => format!("{text}\nfailed: {error}"),
    }
}

/// The event of a bar, for programs that read the picture: as the trace has it.
fn data(trace: &Trace, event: &TraceEvent) -> String {
    let mut data = format!(
        " data-stage=\"{}\" data-process=\"{}\" data-worker=\"{}\" data-begin-ns=\"{}\" \
         data-end-ns=\"{}\" data-outcome=\"{}\"",
        event.stage.name(),
        event.pid,
        event.worker,
        event.begin_ns,
        event.end_ns,
        if event.outcome.is_ok() { "ok" } else { "failed" },
    );
    if let Some(step) = event.step {
        data.push_str(&format!(" data-step=\"{}\"", trace.outline.label(step)));
    }
    data
}

/// Names for a bar, the longest first.
fn bar_names(trace: &Trace, event: &TraceEvent) -> Vec<String> {
    let Some(id) = event.step else { return vec![event.stage.name().to_owned()] };
    let step = trace.outline.step(id);
    let (short, kind) = (short_name(&trace.outline, event), step.kind.name());
    let mut names = Vec::new();
    if let Some(index) = gpu_of(trace, event) {
        names.push(format!("{short} {kind}, GPU {index}"));
    }
    names.push(format!("{short} {kind}"));
    names.push(short);
    names.push((step.position + 1).to_string());
    names
}

/// The place of an event's GPU in the outline, if it is known.
fn gpu_of(trace: &Trace, event: &TraceEvent) -> Option<usize> {
    let outline = &trace.outline;
    let (_, here) = match event.piece {
        None => outline.step(event.step?).gpu?,
        Some(piece) => {
            // The outline knows GPUs by their ids; which has this minor is told by render nodes.
            let path = format!("/dev/dri/renderD{}", piece.minor);
            outline.steps.iter().find(|step| step.path == path && step.gpu.is_some())?.gpu?
        }
    };
    outline.gpus.iter().position(|(_, other)| *other == here)
}

fn gpu_class(gpu: usize) -> &'static str {
    GPU_CLASSES[gpu % GPU_CLASSES.len()]
}
