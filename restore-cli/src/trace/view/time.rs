//! The panel of the time: all stages of every process, to scale.

use std::collections::BTreeMap;

use restore_core::{TraceEvent, TraceStage};

use super::super::format::Trace;
use super::axis::Axis;
use super::canvas::{Anchor, Canvas, text_width};
use super::lanes::{Frame, Scale, device_bar, label, lane};
use super::{data, details, gpu_class, gpu_of};

/// Most bars of contents of one GPU above each other; more at once share the last row.
const ROWS_MAX: usize = 4;

/// Draws the panel; returns where it ends.
pub(super) fn draw(canvas: &mut Canvas, trace: &Trace, frame: &Frame, y: f64) -> f64 {
    let begin = trace.begin_ns;
    let end = trace.events.iter().map(|event| event.end_ns).max().unwrap_or(begin);
    let axis = Axis::new((begin, end), frame.left, frame.right);
    let scale = Scale::new(trace.outline.processes.len());
    let marks = marks(trace);
    let top = y + 30.0;
    // The grid lies below the bars, so lanes must be measured first.
    let mut events: BTreeMap<i32, Vec<&TraceEvent>> = BTreeMap::new();
    for event in &trace.events {
        events.entry(event.pid).or_default().push(event);
    }
    let own = |pid: i32| events.get(&pid).map(Vec::as_slice).unwrap_or_default();
    let rows: Vec<Vec<(&TraceEvent, usize)>> =
        trace.outline.processes.iter().map(|process| pack(trace, own(process.pid))).collect();
    let heights: Vec<f64> = rows.iter().map(|rows| lane_height(rows, scale)).collect();
    let bottom = top + heights.iter().map(|height| height + 4.0).sum::<f64>();
    let mut lane_y = top;
    for (process, height) in trace.outline.processes.iter().zip(&heights) {
        lane(canvas, trace, process, frame, (lane_y, *height));
        lane_y += height + 4.0;
    }
    for (x, text) in axis.ticks() {
        canvas.line((x, top - 4.0), (x, bottom), "grid");
        canvas.text((x, bottom + 14.0), Anchor::Middle, "small dim", &text);
    }
    canvas.text((frame.left - 16.0, bottom + 14.0), Anchor::End, "small dim", "ms");
    draw_marks(canvas, &axis, &marks, (top, bottom));
    let mut lane_y = top;
    for ((process, height), rows) in trace.outline.processes.iter().zip(&heights).zip(&rows) {
        let lane = Lane { events: own(process.pid), y: lane_y, rows };
        lane.draw(canvas, trace, &axis, scale);
        lane_y += height + 4.0;
    }
    bottom + 26.0
}

fn lane_height(rows: &[(&TraceEvent, usize)], scale: Scale) -> f64 {
    let count = rows.iter().map(|(_, row)| row + 1).max().unwrap_or(0);
    2.0 * scale.pad + scale.stage + 2.0 + scale.bar + count as f64 * (scale.contents + 1.0) + 2.0
}

/// The contents of one process: rows for each GPU, as many as it takes for none to overlap.
fn pack<'a>(trace: &Trace, own: &[&'a TraceEvent]) -> Vec<(&'a TraceEvent, usize)> {
    let contents = own.iter().filter(|event| event.stage == TraceStage::Contents);
    let mut events: Vec<&TraceEvent> = contents.copied().collect();
    events.sort_by_cached_key(|event| (gpu_of(trace, event), event.begin_ns, event.worker));
    let mut packed = Vec::new();
    let mut first = 0;
    for of_gpu in events.chunk_by(|a, b| gpu_of(trace, a) == gpu_of(trace, b)) {
        let mut ends: Vec<u64> = Vec::new();
        for event in of_gpu {
            let free = ends.iter().position(|&end| end <= event.begin_ns);
            let row = free.unwrap_or(ends.len()).min(ROWS_MAX - 1);
            if row == ends.len() {
                ends.push(0);
            }
            ends[row] = ends[row].max(event.end_ns);
            packed.push((*event, first + row));
        }
        first += ends.len();
    }
    packed
}

struct Lane<'a> {
    events: &'a [&'a TraceEvent],
    y: f64,
    rows: &'a [(&'a TraceEvent, usize)],
}

impl Lane<'_> {
    fn draw(&self, canvas: &mut Canvas, trace: &Trace, axis: &Axis, scale: Scale) {
        let stage_y = self.y + scale.pad;
        let device_y = stage_y + scale.stage + 2.0;
        let contents_y = device_y + scale.bar + 2.0;
        for event in self.events {
            let (from, to) = (axis.x(event.begin_ns), axis.x(event.end_ns));
            match event.stage {
                TraceStage::Contents => {}
                TraceStage::Device => {
                    device_bar(canvas, trace, event, (from, to), device_y, scale);
                }
                stage => {
                    let class = if event.outcome.is_ok() { stage.name() } else { "failed" };
                    let width = (to - from).max(1.5);
                    let title = details(trace, event);
                    let size = (width, scale.stage);
                    canvas.bar((from, stage_y), size, 2.0, class, &title, &data(trace, event));
                    let small = Scale { font: ("small", 11.0), bar: 0.0, ..scale };
                    if scale.stage >= 12.0 {
                        let names = [stage.name().to_owned()];
                        let middle = stage_y + scale.stage / 2.0;
                        label(canvas, &names, (from, width), middle, small, "ink");
                    }
                }
            }
        }
        for &(event, row) in self.rows {
            let (from, to) = (axis.x(event.begin_ns), axis.x(event.end_ns));
            let class = match event.outcome {
                Ok(()) => gpu_of(trace, event).map_or("kfd", gpu_class),
                Err(_) => "failed",
            };
            let y = contents_y + row as f64 * (scale.contents + 1.0);
            let size = ((to - from - 0.7).max(1.0), scale.contents);
            canvas.bar((from, y), size, 1.0, class, &details(trace, event), &data(trace, event));
        }
    }
}

/// Moments of the whole tree.
fn marks(trace: &Trace) -> Vec<(u64, &'static str)> {
    let of = |stage: TraceStage| trace.events.iter().filter(move |event| event.stage == stage);
    let first = |stage: TraceStage| of(stage).map(|event| event.begin_ns).min();
    let created = of(TraceStage::Create).map(|event| event.end_ns).max();
    let marks = [
        (created, "all tasks exist"),
        (first(TraceStage::Build), "build"),
        (first(TraceStage::Freeze), "freeze"),
        (first(TraceStage::Resume), "queues resume"),
        (first(TraceStage::Release), "release"),
    ];
    marks.into_iter().filter_map(|(moment, name)| Some((moment?, name))).collect()
}

/// Dashed lines with names above, in two rows if they are close; a name without room is left out.
fn draw_marks(canvas: &mut Canvas, axis: &Axis, marks: &[(u64, &str)], (top, bottom): (f64, f64)) {
    let mut ends = [f64::MIN; 2];
    for &(moment, name) in marks {
        let x = axis.x(moment);
        let width = text_width(name, 11.0);
        // Not beyond the picture.
        let begin = (x - width / 2.0).min(axis.right() - width);
        let row = ends.iter().position(|&end| begin > end + 8.0);
        let height = match row {
            Some(row) => {
                ends[row] = begin + width;
                10.0 + row as f64 * 14.0
            }
            None => 4.0,
        };
        canvas.line((x, top - height + 2.0), (x, bottom), "mark");
        if row.is_some() {
            canvas.text((begin, top - height - 1.0), Anchor::Start, "small dim", name);
        }
    }
}
