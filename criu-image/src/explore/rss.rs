//! Saved memory of each process, run by run, and which mappings each run belongs to.

use std::io::{self, Write};
use std::sync::Arc;

use super::label::Labels;
use super::source::Source;
use super::{list, number, text};
use crate::checkpoint::vma_status::{FILE_PRIVATE, FILE_SHARED};
use crate::error::ImageError;
use crate::json::Printer;
use crate::kind::ImageKind;
use crate::record::{MmEntry, PagemapEntry, PagemapHead, VmaEntry};

const PAGE_SHIFT: u32 = 12;

/// Saved memory of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessRuns {
    /// Process id.
    pub pid: u32,
    /// In the order of the image, which is that of addresses.
    pub runs: Vec<RunRow>,
}

/// Consecutive pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRow {
    /// First address.
    pub vaddr: u64,
    /// How many, of 4 KiB each.
    pub pages: u64,
    /// Mappings that the pages belong to.
    pub mappings: Vec<CoveredMapping>,
}

/// A mapping that has saved pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoveredMapping {
    /// First address.
    pub start: u64,
    /// Its size in pages of 4 KiB.
    pub pages: u64,
    /// Path of the mapped file, if one is mapped.
    pub path: Option<Arc<[u8]>>,
    /// The run before belongs to this mapping too.
    pub is_continued: bool,
}

pub(super) fn read(source: &Source) -> Result<Vec<ProcessRuns>, ImageError> {
    let labels = Labels::read(source)?;
    let mut rows = Vec::new();
    for entry in source.processes()? {
        let pid = entry.pid;
        let mut runs = Vec::new();
        let mm = source.first::<MmEntry>(ImageKind::Mm, pid)?;
        // A zombie has neither.
        if let Some(mut image) = source.find(ImageKind::Pagemap, pid.into())? {
            let mut cursor =
                Cursor { vmas: mm.map_or(Vec::new(), |mm| mm.vmas), at: 0, last: None };
            image.next_record::<PagemapHead>()?;
            while let Some((_, entry)) = image.next_record::<PagemapEntry>()? {
                runs.push(cursor.run(&entry, &labels));
            }
        }
        rows.push(ProcessRuns { pid, runs });
    }
    Ok(rows)
}

/// Walks mappings along with the runs.
struct Cursor {
    vmas: Vec<VmaEntry>,
    at: usize,
    /// The mapping that was shown last.
    last: Option<usize>,
}

impl Cursor {
    fn run(&mut self, entry: &PagemapEntry, labels: &Labels) -> RunRow {
        let vaddr = entry.vaddr;
        let pages = entry.nr_pages.unwrap_or(entry.compat_nr_pages.into());
        let end = vaddr.saturating_add(pages.saturating_mul(1 << PAGE_SHIFT));
        while self.vmas.get(self.at).is_some_and(|vma| vma.end <= vaddr) {
            self.at += 1;
        }
        let mut mappings = Vec::new();
        while let Some(vma) = self.vmas.get(self.at).filter(|vma| vma.start < end) {
            let is_file = vma.status & (FILE_PRIVATE | FILE_SHARED) != 0;
            mappings.push(CoveredMapping {
                start: vma.start,
                pages: vma.end.saturating_sub(vma.start) >> PAGE_SHIFT,
                path: is_file.then(|| labels.path(u32::try_from(vma.shmid).unwrap_or(0))),
                is_continued: self.last == Some(self.at),
            });
            self.last = Some(self.at);
            self.at += 1;
        }
        // The next run may belong to the same mapping.
        self.at = self.at.saturating_sub(1);
        RunRow { vaddr, pages, mappings }
    }
}

pub(super) fn write_text(rows: &[ProcessRuns], out: &mut impl Write) -> io::Result<()> {
    for process in rows {
        writeln!(out, "{}", process.pid)?;
        for run in &process.runs {
            let range = format!("\t{:x} / {:<8}", run.vaddr, run.pages);
            write!(out, "{range:<24}")?;
            for mapping in &run.mappings {
                if mapping.is_continued {
                    write!(out, " ~")?;
                } else {
                    write!(out, " {:08x} / {:<8}", mapping.start, mapping.pages)?;
                    if let Some(path) = &mapping.path {
                        out.write_all(b" ")?;
                        out.write_all(path)?;
                    }
                }
                write!(out, "\n\t{:23}", "")?;
            }
            writeln!(out)?;
        }
    }
    Ok(())
}

pub(super) fn write_json<W: Write>(printer: &mut Printer<W>, process: &ProcessRuns) {
    number(printer, "pid", process.pid);
    printer.key("runs");
    list(printer, &process.runs, |printer, run| {
        number(printer, "vaddr", run.vaddr);
        number(printer, "pages", run.pages);
        printer.key("mappings");
        list(printer, &run.mappings, |printer, mapping| {
            number(printer, "start", mapping.start);
            number(printer, "pages", mapping.pages);
            if let Some(path) = &mapping.path {
                text(printer, "path", path);
            }
        });
    });
}
