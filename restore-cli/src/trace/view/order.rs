//! The panel of the order: each begin and each end of a device file has a column of its own.

use std::collections::BTreeMap;

use restore_core::{StepId, TraceEvent, TraceStage};

use super::super::format::Trace;
use super::canvas::Canvas;
use super::lanes::{Frame, Scale, device_bar, edge_title, lane};

/// What happens at a moment, in the order in which it is put if the time is the same.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    End,
    Begin,
    /// Of what took no time: it still ends a column later.
    LateEnd,
}

/// More arrows than this would cover what lies below.
const EDGES_BOLD_MAX: usize = 12;

/// Device files with the columns of their begins and ends.
pub(crate) struct Order<'a> {
    bars: Vec<(&'a TraceEvent, usize, usize)>,
    columns: usize,
}

impl<'a> Order<'a> {
    pub(crate) fn new(trace: &'a Trace) -> Self {
        let device = |event: &&TraceEvent| event.stage == TraceStage::Device;
        let events: Vec<&TraceEvent> = trace.events.iter().filter(device).collect();
        let mut moments: Vec<(u64, Change, usize)> = Vec::new();
        for (index, event) in events.iter().enumerate() {
            let late = event.end_ns <= event.begin_ns;
            let end = if late { Change::LateEnd } else { Change::End };
            moments.extend([(event.begin_ns, Change::Begin, index), (event.end_ns, end, index)]);
        }
        moments.sort_unstable();
        let mut bars: Vec<(&TraceEvent, usize, usize)> =
            events.iter().map(|&event| (event, 0, 0)).collect();
        let mut columns = 0;
        let mut last: Option<(u64, Change)> = None;
        for &(time, change, index) in &moments {
            // What begins after an end is to the right of it without a gap.
            let goes_on =
                last.is_some_and(|(_, before)| before == Change::End) && change == Change::Begin;
            if last.is_some_and(|before| before != (time, change)) && !goes_on {
                columns += 1;
            }
            last = Some((time, change));
            match change {
                Change::Begin => bars[index].1 = columns,
                Change::End | Change::LateEnd => bars[index].2 = columns,
            }
        }
        Self { bars, columns }
    }

    /// Number of columns; 0 without device files.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// The bars: event, column of its begin, column of its end.
    pub(crate) fn bars(&self) -> &[(&'a TraceEvent, usize, usize)] {
        &self.bars
    }

    /// Draws the panel; returns where it ends.
    pub(super) fn draw(&self, canvas: &mut Canvas, trace: &Trace, frame: &Frame, y: f64) -> f64 {
        let processes = &trace.outline.processes;
        let scale = Scale::new(processes.len());
        let height = scale.bar + 2.0 * scale.pad;
        let step = (frame.right - frame.left) / self.columns.max(1) as f64;
        let x = |column: usize| frame.left + column as f64 * step;
        let top = |index: usize| y + index as f64 * (height + 4.0);
        let lanes: BTreeMap<i32, usize> =
            processes.iter().enumerate().map(|(index, process)| (process.pid, index)).collect();
        for (index, process) in processes.iter().enumerate() {
            lane(canvas, trace, process, frame, (top(index), height));
        }
        let bars: Vec<Bar<'_>> = self
            .bars
            .iter()
            .filter_map(|&(event, begin, end)| {
                let y = top(*lanes.get(&event.pid)?) + scale.pad;
                Some(Bar { event, from: x(begin), to: x(end), y })
            })
            .collect();
        // Below the bars, so that every name can be read.
        arrows(canvas, trace, &bars, scale);
        for bar in &bars {
            device_bar(canvas, trace, bar.event, (bar.from, bar.to), bar.y, scale);
        }
        top(processes.len())
    }
}

struct Bar<'a> {
    event: &'a TraceEvent,
    from: f64,
    to: f64,
    y: f64,
}

/// An arrow for each edge: from the end of what is waited for to the begin of what waits.
fn arrows(canvas: &mut Canvas, trace: &Trace, bars: &[Bar<'_>], scale: Scale) {
    let places: BTreeMap<StepId, &Bar<'_>> =
        bars.iter().filter_map(|bar| Some((bar.event.step?, bar))).collect();
    let many = trace.outline.edges.len() > EDGES_BOLD_MAX;
    let class = if many { "edge faint" } else { "edge" };
    for edge in &trace.outline.edges {
        let (Some(from), Some(to)) = (places.get(&edge.from), places.get(&edge.to)) else {
            continue;
        };
        let (mut from_y, mut to_y) = (from.y + scale.bar, to.y);
        if to.y < from.y {
            (from_y, to_y) = (from.y, to.y + scale.bar);
        }
        // A little inside, so that ends that meet the next bar are told apart from it.
        let inset = |bar: &Bar<'_>| ((bar.to - bar.from) / 2.0).min(7.0);
        let ends = ((from.to - inset(from), from_y), (to.from + inset(to), to_y));
        canvas.arrow(ends.0, ends.1, class, &edge_title(&trace.outline, edge));
    }
}
