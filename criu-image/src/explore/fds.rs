//! Open files of each process.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use super::label::{FileLabel, Labels};
use super::source::Source;
use super::{list, number, text};
use crate::error::ImageError;
use crate::json::Printer;
use crate::kind::ImageKind;
use crate::record::{FdTypes, FdinfoEntry, FsEntry, TaskKobjIdsEntry};

/// What a process has open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessFiles {
    /// Process id.
    pub pid: u32,
    /// In the order of the image; processes that share a table have the same.
    pub descriptors: Arc<[DescriptorRow]>,
    /// Working directory; a zombie has none.
    pub cwd: Option<FileLabel>,
    /// Root directory; a zombie has none.
    pub root: Option<FileLabel>,
}

/// A descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescriptorRow {
    /// Its number.
    pub fd: u32,
    /// What it leads to.
    pub file: FileLabel,
}

pub(super) fn read(source: &Source) -> Result<Vec<ProcessFiles>, ImageError> {
    let labels = Labels::read(source)?;
    let mut tables: BTreeMap<u32, Arc<[DescriptorRow]>> = BTreeMap::new();
    let mut rows = Vec::new();
    for entry in source.processes()? {
        let pid = entry.pid;
        // A zombie has neither ids nor files, and an empty table has no image.
        let ids = source.first::<TaskKobjIdsEntry>(ImageKind::Ids, pid)?;
        let descriptors = match ids.map(|ids| ids.files_id) {
            None => Arc::default(),
            Some(id) => match tables.get(&id) {
                Some(table) => table.clone(),
                None => tables.entry(id).or_insert(table(source, &labels, id)?).clone(),
            },
        };
        let fs = source.first::<FsEntry>(ImageKind::Fs, pid)?;
        let label = |id: u32| labels.label(FdTypes::Reg as i32, id);
        let cwd = fs.as_ref().map(|fs| label(fs.cwd_id));
        let root = fs.as_ref().map(|fs| label(fs.root_id));
        rows.push(ProcessFiles { pid, descriptors, cwd, root });
    }
    Ok(rows)
}

fn table(source: &Source, labels: &Labels, id: u32) -> Result<Arc<[DescriptorRow]>, ImageError> {
    let entries = source.all::<FdinfoEntry>(ImageKind::Fdinfo, id)?;
    let row = |entry: FdinfoEntry| {
        let file = labels.label(entry.r#type, entry.id);
        DescriptorRow { fd: entry.fd, file }
    };
    Ok(entries.into_iter().map(row).collect())
}

pub(super) fn write_text(rows: &[ProcessFiles], out: &mut impl Write) -> io::Result<()> {
    for process in rows {
        writeln!(out, "{}", process.pid)?;
        for DescriptorRow { fd, file } in process.descriptors.iter() {
            write!(out, "\t{fd:>7}: ")?;
            out.write_all(&file.text)?;
            writeln!(out)?;
        }
        for (name, file) in [("cwd", &process.cwd), ("root", &process.root)] {
            let Some(file) = file else { continue };
            write!(out, "\t{name:>7}: ")?;
            out.write_all(&file.text)?;
            writeln!(out)?;
        }
    }
    Ok(())
}

pub(super) fn write_json<W: Write>(printer: &mut Printer<W>, process: &ProcessFiles) {
    number(printer, "pid", process.pid);
    printer.key("fds");
    list(printer, &process.descriptors, |printer, row| {
        number(printer, "fd", row.fd);
        text(printer, "type", row.file.kind.as_bytes());
        number(printer, "id", row.file.id);
        text(printer, "file", &row.file.text);
    });
    for (name, file) in [("cwd", &process.cwd), ("root", &process.root)] {
        if let Some(file) = file {
            text(printer, name, &file.text);
        }
    }
}
