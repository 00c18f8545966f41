//! The panel of the order: each begin and each end of a device file has a column of its own.

use std::collections::BTreeMap;

use restore_core::{StepId, TraceEvent, TraceStage};

use super::super::format::Trace;
use super::canvas::Canvas;
use super::lanes::{Frame, Scale, device_bar, edge_title, lane};

/// Device files with the columns of their begins and ends.
pub(crate) struct Order<'a> {
    bars: Vec<(&'a TraceEvent, usize, usize)>,
    columns: usize,
}

impl<'a> Order<'a> {
    pub(crate) fn new(trace: &'a Trace) -> Self {
        let device = |event: &&TraceEvent| event.stage == TraceStage::Device;
        let events: Vec<&TraceEvent> = trace.events.iter().filter(device).collect();
        // An end comes before a begin of the same time; what took no time ends a column later.
        let begin = |event: &TraceEvent| (event.begin_ns, 1);
        let end = |event: &TraceEvent| match event.end_ns > event.begin_ns {
            true => (event.end_ns, 0),
            false => (event.end_ns, 2),
        };
        let moments = events.iter().flat_map(|event| [(begin(event), ()), (end(event), ())]);
        let moments: BTreeMap<(u64, u8), ()> = moments.collect();
        let columns: BTreeMap<(u64, u8), usize> =
            moments.into_keys().enumerate().map(|(column, moment)| (moment, column)).collect();
        let bar = |event: &'a TraceEvent| (event, columns[&begin(event)], columns[&end(event)]);
        let bars: Vec<_> = events.into_iter().map(bar).collect();
        Self { columns: columns.len().saturating_sub(1), bars }
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
        let mut places: BTreeMap<StepId, (f64, f64, f64)> = BTreeMap::new();
        for &(event, begin, end) in &self.bars {
            let Some(&lane) = lanes.get(&event.pid) else { continue };
            let (from, to) = (x(begin), x(end));
            device_bar(canvas, trace, event, (from, to), top(lane) + scale.pad, scale);
            if let Some(step) = event.step {
                places.insert(step, (from, to, top(lane) + height / 2.0));
            }
        }
        for edge in &trace.outline.edges {
            if let (Some(from), Some(to)) = (places.get(&edge.from), places.get(&edge.to)) {
                let title = edge_title(&trace.outline, edge);
                canvas.arrow((from.1 - 2.0, from.2), (to.0, to.2), &title);
            }
        }
        top(processes.len())
    }
}
