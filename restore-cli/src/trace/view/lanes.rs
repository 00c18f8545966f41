//! What both panels share: lanes with names, bars with labels, arrows, and which colour is what.

use restore_core::{Edge, EdgeReason, Outline, OutlineProcess, StepKind, TraceEvent};

use super::super::format::Trace;
use super::canvas::{Anchor, Canvas, text_width};
use super::{MARGIN, bar_names, data, details, gpu_class, gpu_of, letter};

/// From where to where lanes go.
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) right: f64,
}

/// Measures of a lane, smaller if there are many.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    /// Height of bars of device files.
    pub(super) bar: f64,
    /// Height of bars of stages.
    pub(super) stage: f64,
    /// Height of bars of contents.
    pub(super) contents: f64,
    /// Room above and below.
    pub(super) pad: f64,
    /// Class and size of labels.
    pub(super) font: (&'static str, f64),
}

impl Scale {
    pub(super) fn new(lanes: usize) -> Self {
        match lanes {
            0..=8 => Self { bar: 26.0, stage: 13.0, contents: 6.0, pad: 8.0, font: ("b12", 12.0) },
            9..=24 => Self { bar: 18.0, stage: 9.0, contents: 5.0, pad: 5.0, font: ("b10", 10.0) },
            _ => Self { bar: 14.0, stage: 5.0, contents: 3.0, pad: 4.0, font: ("b10", 10.0) },
        }
    }
}

pub(super) fn kind_class(kind: StepKind) -> &'static str {
    match kind {
        StepKind::Kfd => "kfd",
        StepKind::Render => "render",
        StepKind::DmaBuf => "dmabuf",
        StepKind::Receive => "receive",
    }
}

/// The ground of a lane, and who it belongs to.
pub(super) fn lane(
    canvas: &mut Canvas,
    trace: &Trace,
    process: &OutlineProcess,
    frame: &Frame,
    (y, height): (f64, f64),
) {
    canvas.rect((MARGIN, y), (frame.right - MARGIN + 4.0, height), 5.0, "lane");
    let middle = y + height / 2.0;
    let letter = letter(&trace.outline, process.pid);
    let mut name = process.pid.to_string();
    if !letter.is_empty() {
        name = format!("{letter}  {name}");
    }
    let who = match process.ppid {
        0 => "root".to_owned(),
        ppid => format!("child of {ppid}"),
    };
    let x = MARGIN + 10.0;
    if height >= 34.0 {
        canvas.text((x, middle - 2.0), Anchor::Start, "strong ink", &name);
        canvas.text((x, middle + 13.0), Anchor::Start, "small dim", &who);
    } else {
        let size = if height >= 20.0 { "plain" } else { "b10" };
        canvas.text((x, middle + 4.0), Anchor::Start, &format!("{size} ink"), &name);
        if height >= 20.0 {
            let x = x + text_width(&name, 12.0) + 8.0;
            canvas.text((x, middle + 4.0), Anchor::Start, "small dim", &who);
        }
    }
}

/// The bar of a device file.
pub(super) fn device_bar(
    canvas: &mut Canvas,
    trace: &Trace,
    event: &TraceEvent,
    (from, to): (f64, f64),
    y: f64,
    scale: Scale,
) {
    let Some(id) = event.step else { return };
    let class = match event.outcome {
        Ok(()) => kind_class(trace.outline.step(id).kind),
        Err(_) => "failed",
    };
    // Neighbours stay apart, and the shortest is still seen.
    let width = (to - from - 1.0).max(1.5);
    let size = (width, scale.bar);
    canvas.bar((from, y), size, 4.0, class, &details(trace, event), &data(trace, event));
    let strip = if scale.bar > 20.0 { 4.0 } else { 2.0 };
    if let Some(gpu) = gpu_of(trace, event)
        && width > 8.0
    {
        let at = (from + 3.0, y + scale.bar - strip - 2.0);
        canvas.rect(at, (width - 6.0, strip), 1.5, gpu_class(gpu));
    }
    label(canvas, &bar_names(trace, event), (from, width), y + scale.bar / 2.0, scale, "on");
}

/// The longest of some names that fits.
pub(super) fn label(
    canvas: &mut Canvas,
    names: &[String],
    (from, width): (f64, f64),
    middle: f64,
    scale: Scale,
    colour: &str,
) {
    let (font, size) = scale.font;
    let fits = |name: &&String| text_width(name, size) + size * 0.7 <= width;
    if let Some(name) = names.iter().find(fits) {
        let at =
            (from + width / 2.0, middle + size * 0.3 - if scale.bar > 20.0 { 1.0 } else { 0.0 });
        canvas.text(at, Anchor::Middle, &format!("{font} {colour}"), name);
    }
}

/// Why there is an arrow.
pub(super) fn edge_title(outline: &Outline, edge: &Edge) -> String {
    let (from, to) = (outline.label(edge.from), outline.label(edge.to));
    match edge.reason {
        EdgeReason::Buffer(number) => {
            format!("{to} imports buffer {number:#x}, which {from} makes")
        }
        EdgeReason::Descriptor(file) => {
            format!("{to} receives file {file:#x}, which {from} opens")
        }
    }
}
