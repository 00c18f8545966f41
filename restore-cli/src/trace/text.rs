//! The order of device files as text, one line for each process, for terminals.

use std::collections::BTreeMap;

use restore_core::{EdgeReason, Outline, TraceEvent, check};

use super::check::verdict_text;
use super::format::Trace;
use super::view::order::Order;
use super::{letter, short_name};

/// Draws a trace in so many columns.
pub(super) fn picture(trace: &Trace, width: usize) -> String {
    let order = Order::new(trace);
    let outline = &trace.outline;
    let name = |pid: i32| format!("{} {pid}", letter(outline, pid)).trim_start().to_owned();
    let names: Vec<String> = outline.processes.iter().map(|process| name(process.pid)).collect();
    let margin = names.iter().map(|name| name.chars().count()).max().unwrap_or(0) + 2;
    let room = width.saturating_sub(margin).max(1);
    let mut bars: BTreeMap<i32, Vec<(&TraceEvent, usize, usize)>> = BTreeMap::new();
    for &bar in order.bars() {
        bars.entry(bar.0.pid).or_default().push(bar);
    }
    let mut text = String::new();
    for (process, name) in outline.processes.iter().zip(&names) {
        let mut line = Line::new(room);
        for &(event, begin, end) in bars.get(&process.pid).into_iter().flatten() {
            let columns = order.columns().max(1);
            line.bar(outline, event, (begin * room / columns, end * room / columns));
        }
        let line: String = line.cells.iter().collect();
        text.push_str(format!("{name:margin$}{line}").trim_end());
        text.push('\n');
    }
    for edge in &outline.edges {
        let (from, to) = (outline.label(edge.from), outline.label(edge.to));
        let why = match edge.reason {
            EdgeReason::Buffer(number) => format!("buffer {number:#x}"),
            EdgeReason::Descriptor(file) => format!("file {file:#x}"),
        };
        text.push_str(&format!("{from} before {to}: {why}\n"));
    }
    let orders = match outline.count_orders() {
        Some(1) => "1 legal order".to_owned(),
        Some(count) => format!("{count} legal orders"),
        None => "very many legal orders".to_owned(),
    };
    let verdict = match check(outline, &trace.events) {
        Ok(checked) if checked.complete => "legal".to_owned(),
        Ok(checked) if checked.failures > 0 => "failed, and nothing was released".to_owned(),
        Ok(_) => "legal so far".to_owned(),
        Err(violation) => format!("illegal: {}", verdict_text(&violation)),
    };
    text.push_str(&format!("{orders}; this one: {verdict}\n"));
    text
}

struct Line {
    cells: Vec<char>,
}

impl Line {
    fn new(room: usize) -> Self {
        Self { cells: vec![' '; room] }
    }

    /// `├PF1 kfd──┤`, or as much of it as there is room for; `✗` at the end if it failed.
    fn bar(&mut self, outline: &Outline, event: &TraceEvent, (begin, end): (usize, usize)) {
        let begin = begin.min(self.cells.len() - 1);
        let end = end.clamp(begin + 1, self.cells.len());
        let bar = &mut self.cells[begin..end];
        let last = if event.outcome.is_ok() { '┤' } else { '✗' };
        if let [only] = bar {
            *only = if event.outcome.is_ok() { '│' } else { last };
            return;
        }
        bar.fill('─');
        bar[0] = '├';
        bar[end - begin - 1] = last;
        let short = short_name(outline, event);
        let kind = event.step.map_or("", |step| outline.step(step).kind.name());
        let place = event.step.map_or(0, |step| outline.step(step).position + 1);
        let names = [format!("{short} {kind}"), short, place.to_string()];
        let room = bar.len() - 2;
        if let Some(name) = names.iter().find(|name| name.chars().count() <= room) {
            bar[1..].iter_mut().zip(name.chars()).for_each(|(cell, char)| *cell = char);
        }
    }
}
