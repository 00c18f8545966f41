//! The process tree.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::source::Source;
use super::{number, text};
use crate::error::ImageError;
use crate::json::Printer;
use crate::kind::ImageKind;
use crate::record::{CoreEntry, PstreeEntry};

/// A process of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessRow {
    /// Process id.
    pub pid: u32,
    /// Parent's id; 0 for the root.
    pub ppid: u32,
    /// Process group.
    pub pgid: u32,
    /// Session.
    pub sid: u32,
    /// Thread ids, the process's own among them.
    pub threads: Vec<u32>,
    /// Name; not all are UTF-8.
    pub comm: Vec<u8>,
    /// State, as in [`task_state`](crate::task_state).
    pub state: u32,
    /// Ancestors within the checkpoint.
    pub depth: usize,
}

pub(super) fn read(source: &Source) -> Result<Vec<ProcessRow>, ImageError> {
    let entries = source.processes()?;
    let mut children: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        children.entry(entry.ppid).or_default().push(index);
    }
    let mut rows = Vec::with_capacity(entries.len());
    let mut seen = vec![false; entries.len()];
    // Those whose parent is 0 first; then, if the tree is damaged, whoever was not reached.
    let roots = children.get(&0).cloned().unwrap_or_default();
    for root in roots.into_iter().chain(0..entries.len()) {
        let mut stack = vec![(root, 0)];
        while let Some((index, depth)) = stack.pop() {
            if std::mem::replace(&mut seen[index], true) {
                continue;
            }
            let entry = &entries[index];
            rows.push(row(source, entry, depth)?);
            let below = children.get(&entry.pid).into_iter().flatten().rev();
            stack.extend(below.map(|&child| (child, depth + 1)));
        }
    }
    Ok(rows)
}

fn row(source: &Source, entry: &PstreeEntry, depth: usize) -> Result<ProcessRow, ImageError> {
    let PstreeEntry { pid, ppid, pgid, sid, .. } = *entry;
    let needed_for = || format!("process {pid}");
    let mut image = source.need(ImageKind::Core, pid.into(), needed_for)?;
    let task = image.next_record::<CoreEntry>()?.and_then(|(_, core)| core.tc);
    let (comm, state) = task.map(|task| (task.comm, task.task_state)).unwrap_or_default();
    let threads = entry.threads.clone();
    Ok(ProcessRow { pid, ppid, pgid, sid, threads, comm, state, depth })
}

pub(super) fn write_text(rows: &[ProcessRow], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{:>7}{:>7}{:>7}   COMM", "PID", "PGID", "SID")?;
    for row in rows {
        let indent = 4 * row.depth;
        write!(out, "{:>7}{:>7}{:>7}   {:indent$}", row.pid, row.pgid, row.sid, "")?;
        out.write_all(&row.comm)?;
        writeln!(out)?;
    }
    Ok(())
}

pub(super) fn write_json<W: Write>(printer: &mut Printer<W>, row: &ProcessRow) {
    number(printer, "pid", row.pid);
    number(printer, "ppid", row.ppid);
    number(printer, "pgid", row.pgid);
    number(printer, "sid", row.sid);
    printer.key("threads");
    printer.open(b'[');
    for &tid in &row.threads {
        printer.item();
        printer.unsigned(tid.into());
    }
    printer.close(b']');
    text(printer, "comm", &row.comm);
    number(printer, "state", row.state);
}
