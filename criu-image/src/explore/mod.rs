//! Views of a checkpoint for people: processes, files, mappings, memory, GPU memory.
//!
//! Each view is read leniently, so that images of later versions can be looked at, and is written
//! as text or as JSON. The text of the first four is that of CRIU's own image tool.

mod fds;
mod gpu;
mod label;
mod mems;
mod ps;
mod rss;
mod source;

use std::io::{self, Write};
use std::path::Path;

use crate::error::ImageError;
use crate::json::Printer;

pub use fds::{DescriptorRow, ProcessFiles};
pub use gpu::{GpuRow, ProcessGpus};
pub use label::FileLabel;
#[cfg(test)]
pub(crate) use label::LABEL_BYTES_MAX;
pub use mems::{MappingRow, ProcessMappings};
pub use ps::ProcessRow;
pub use rss::{CoveredMapping, ProcessRuns, RunRow};

/// What can be seen of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewKind {
    /// The process tree.
    Processes,
    /// Open files of each process.
    Files,
    /// Mappings of each process.
    Mappings,
    /// Saved memory of each process, and which mappings it belongs to.
    Runs,
    /// GPU memory of each process on each device.
    Gpus,
}

impl ViewKind {
    /// Every kind with its name on a command line.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("ps", Self::Processes),
        ("fds", Self::Files),
        ("mems", Self::Mappings),
        ("rss", Self::Runs),
        ("gpu", Self::Gpus),
    ];
}

/// A view of a checkpoint. Strings are bytes, as they are to Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// Parents before children, each followed by its descendants.
    Processes(Vec<ProcessRow>),
    /// In the order of `pstree.img`.
    Files(Vec<ProcessFiles>),
    /// In the order of `pstree.img`.
    Mappings(Vec<ProcessMappings>),
    /// In the order of `pstree.img`.
    Runs(Vec<ProcessRuns>),
    /// Processes that have GPU memory, in the order of `pstree.img`.
    Gpus(Vec<ProcessGpus>),
}

impl View {
    /// Reads what is needed for a view of the checkpoint in a directory.
    ///
    /// # Errors
    /// [`ImageError`] if an image that is needed is missing or damaged.
    ///
    /// # Example
    /// ```
    /// use criu_image::{View, ViewKind};
    /// # let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gpu-tree");
    /// let mut text = Vec::new();
    /// View::open(dir, ViewKind::Processes)?.write_text(&mut text)?;
    /// assert!(text.starts_with(b"    PID   PGID    SID   COMM\n  28866  "));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(dir: impl AsRef<Path>, kind: ViewKind) -> Result<Self, ImageError> {
        let source = source::Source::new(dir.as_ref());
        Ok(match kind {
            ViewKind::Processes => Self::Processes(ps::read(&source)?),
            ViewKind::Files => Self::Files(fds::read(&source)?),
            ViewKind::Mappings => Self::Mappings(mems::read(&source)?),
            ViewKind::Runs => Self::Runs(rss::read(&source)?),
            ViewKind::Gpus => Self::Gpus(gpu::read(&source)?),
        })
    }

    /// Writes it as text.
    ///
    /// # Errors
    /// What `out` says.
    pub fn write_text(&self, out: impl Write) -> io::Result<()> {
        let mut out = io::BufWriter::new(out);
        match self {
            Self::Processes(rows) => ps::write_text(rows, &mut out)?,
            Self::Files(rows) => fds::write_text(rows, &mut out)?,
            Self::Mappings(rows) => mems::write_text(rows, &mut out)?,
            Self::Runs(rows) => rss::write_text(rows, &mut out)?,
            Self::Gpus(rows) => gpu::write_text(rows, &mut out)?,
        }
        out.flush()
    }

    /// Writes it as JSON: a list of processes. Sizes are in bytes; what is not UTF-8 is escaped as
    /// in [`decode_json`](crate::decode_json).
    ///
    /// # Errors
    /// What `out` says.
    pub fn write_json(&self, out: impl Write) -> io::Result<()> {
        let mut printer = Printer::new(out, true);
        match self {
            Self::Processes(rows) => list(&mut printer, rows, ps::write_json),
            Self::Files(rows) => list(&mut printer, rows, fds::write_json),
            Self::Mappings(rows) => list(&mut printer, rows, mems::write_json),
            Self::Runs(rows) => list(&mut printer, rows, rss::write_json),
            Self::Gpus(rows) => list(&mut printer, rows, gpu::write_json),
        }
        printer.finish(true)
    }
}

/// A list of objects, whose fields `write` writes.
fn list<W: Write, T>(
    printer: &mut Printer<W>,
    items: &[T],
    mut write: impl FnMut(&mut Printer<W>, &T),
) {
    printer.open(b'[');
    for item in items {
        printer.item();
        printer.open(b'{');
        write(printer, item);
        printer.close(b'}');
    }
    printer.close(b']');
}

/// A field with a number.
fn number<W: Write>(printer: &mut Printer<W>, name: &str, value: impl Into<u64>) {
    printer.key(name);
    printer.unsigned(value.into());
}

/// A field with text.
fn text<W: Write>(printer: &mut Printer<W>, name: &str, value: &[u8]) {
    printer.key(name);
    printer.text(value);
}
