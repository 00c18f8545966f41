//! A refusal as text for a terminal: a summary, a table, and what was left out.

use std::collections::{BTreeMap, BTreeSet};

use comfy_table::{ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle};

use super::{Detail, Refusal, RefusalReason, RefusalRow, Subject, Verdict};
use crate::matching::rules::Rule;

/// Narrower than this no table is readable.
const COLUMNS_MIN: u16 = 80;
/// Blanks between two columns.
const GAP: u16 = 2;
/// Titles. What stands under the first, third and fourth may be broken between words; the others
/// are names, which people copy and search for.
const HEADER: [&str; 7] =
    ["saved -> here", "property", "saved", "here", "rule", "verdict", "override"];
const BREAKABLE: [usize; 3] = [0, 2, 3];
const PROPERTY: usize = 1;
const OVERRIDE: usize = 6;

/// A row, and how many others say the same of other GPUs.
struct Shared {
    row: RefusalRow,
    others: usize,
}

pub(super) fn render(refusal: &Refusal, detail: Detail, columns: u16) -> String {
    let columns = columns.max(COLUMNS_MIN);
    let rows = share(refusal.rows(detail));
    let mut parts = vec![wrap(&summary(refusal), columns)];
    if !rows.is_empty() {
        parts.push(body(&rows, columns));
    }
    let notes: Vec<String> =
        notes(refusal, detail, &rows).iter().map(|note| wrap(note, columns)).collect();
    if !notes.is_empty() {
        parts.push(notes.join("\n"));
    }
    parts.join("\n\n")
}

fn summary(refusal: &Refusal) -> String {
    let (saved, here) = (refusal.saved.gpus.len(), refusal.here.gpus.len());
    match &refusal.reason {
        RefusalReason::FewerHere { .. } => {
            format!("saved GPUs cannot become GPUs of this host: {}", refusal.reason)
        }
        reason => {
            format!("saved GPUs ({saved}) cannot become GPUs of this host ({here}): {reason}")
        }
    }
}

/// Rows that differ in the GPUs only become one, at the place of the first.
fn share(rows: Vec<RefusalRow>) -> Vec<Shared> {
    let mut shared: Vec<Shared> = Vec::new();
    let mut places = BTreeMap::new();
    for row in rows {
        let kind = match row.subject {
            Subject::Pair(..) => 0,
            Subject::Gpu(_) => 1,
            Subject::Group(_) | Subject::All => {
                shared.push(Shared { row, others: 0 });
                continue;
            }
        };
        let same = (kind, row.rule, row.saved.clone(), row.here.clone(), row.verdict);
        let place = *places.entry(same).or_insert(shared.len());
        match shared.get_mut(place) {
            Some(first) => first.others += 1,
            None => shared.push(Shared { row, others: 0 }),
        }
    }
    shared
}

fn cells(Shared { row, others }: &Shared) -> [String; HEADER.len()] {
    let more = if *others == 0 { String::new() } else { format!(" (+{others})") };
    [
        format!("{}{more}", row.subject),
        row.rule.property().to_owned(),
        row.saved.clone(),
        row.here.clone(),
        row.rule.comparison().to_string(),
        row.verdict.to_string(),
        match row.verdict {
            Verdict::Fails => format!("{}=0", row.rule.variable()),
            Verdict::Holds | Verdict::SwitchedOff => String::new(),
        },
    ]
}

/// The table. If it is too wide the overrides stand below it.
fn body(rows: &[Shared], columns: u16) -> String {
    let rows: Vec<[String; HEADER.len()]> = rows.iter().map(cells).collect();
    let all: Vec<usize> = (0..HEADER.len()).collect();
    let width = |&column: &usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0).max(HEADER[column].len())
    };
    let gaps = usize::from(GAP) * (HEADER.len() - 1);
    if all.iter().map(width).sum::<usize>() + gaps <= usize::from(columns) {
        return arrange(&rows, &all, columns);
    }
    let table = arrange(&rows, &all[..OVERRIDE], columns);
    let mut seen = BTreeSet::new();
    let overrides: Vec<String> = rows
        .iter()
        .filter(|row| !row[OVERRIDE].is_empty() && seen.insert(&row[OVERRIDE]))
        .map(|row| format!("{}: {}", row[PROPERTY], row[OVERRIDE]))
        .collect();
    match overrides.as_slice() {
        [] => table,
        lines => format!("{table}\n\noverride\n{}", lines.join("\n")),
    }
}

fn arrange(rows: &[[String; HEADER.len()]], shown: &[usize], columns: u16) -> String {
    let mut table = Table::new();
    let line = LineStyle::none().fill('-').junction('-');
    table.load_style(TableStyle::new().header_separator(line));
    table.set_content_arrangement(ContentArrangement::Dynamic).set_width(columns);
    table.set_header(shown.iter().map(|&column| HEADER[column]));
    for row in rows {
        table.add_row(shown.iter().map(|&column| row[column].as_str()));
    }
    for (place, column) in table.column_iter_mut().enumerate() {
        // One blank of the gap is the table's own.
        column.set_padding((0, if place + 1 < shown.len() { GAP - 1 } else { 0 }));
        if !BREAKABLE.contains(&shown[place]) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    table.trim_fmt()
}

fn notes(refusal: &Refusal, detail: Detail, rows: &[Shared]) -> Vec<String> {
    let mut notes = Vec::new();
    if rows.iter().any(|row| row.others > 0) {
        notes.push("(+n): for n others it is the same".to_owned());
    }
    if detail == Detail::Failing && !refusal.pairs.is_empty() {
        notes.push("what holds is left out".to_owned());
    }
    let off: Vec<&str> = refusal.rules.switched_off().map(Rule::property).collect();
    if !off.is_empty() {
        notes.push(format!("switched off: {}", off.join(" ")));
    }
    notes
}

/// Breaks a line between words.
fn wrap(text: &str, columns: u16) -> String {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.len() + 1 + word.len() > usize::from(columns) {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    lines.push(line);
    lines.join("\n")
}
