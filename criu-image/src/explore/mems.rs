//! Mappings of each process.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use super::label::Labels;
use super::source::Source;
use super::{list, number, text};
use crate::checkpoint::vma_status as status;
use crate::error::ImageError;
use crate::json::Printer;
use crate::kind::ImageKind;
use crate::record::{MmEntry, VmaEntry};

/// `MAP_GROWSDOWN`
const GROWS_DOWN: u32 = 0x100;

/// The address space of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessMappings {
    /// Process id.
    pub pid: u32,
    /// Path of the program; a zombie has none.
    pub exe: Option<Arc<[u8]>>,
    /// In the order of the image, which is that of addresses.
    pub mappings: Vec<MappingRow>,
}

/// A mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingRow {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
    /// `PROT_READ`, `PROT_WRITE`, `PROT_EXEC`.
    pub prot: u32,
    /// As in [`vma_status`](crate::vma_status).
    pub status: u32,
    /// What is mapped: a path, or a name such as `shmem[1]`; empty if it is private memory.
    pub what: Arc<[u8]>,
    /// Where in the file it begins, in bytes; 0 if no file is mapped.
    pub offset_bytes: u64,
}

/// Shared memory has no name; it is numbered in the order in which it is first seen.
#[derive(Default)]
struct SharedNumbers(BTreeMap<u64, u64>);

impl SharedNumbers {
    fn number(&mut self, id: u64) -> u64 {
        let next = self.0.len() as u64 + 1;
        *self.0.entry(id).or_insert(next)
    }
}

pub(super) fn read(source: &Source) -> Result<Vec<ProcessMappings>, ImageError> {
    let labels = Labels::read(source)?;
    let mut numbers = SharedNumbers::default();
    let mut rows = Vec::new();
    for entry in source.processes()? {
        let pid = entry.pid;
        let mm = source.first::<MmEntry>(ImageKind::Mm, pid)?;
        let exe = mm.as_ref().map(|mm| labels.path(mm.exe_file_id));
        let vmas = mm.iter().flat_map(|mm| &mm.vmas);
        let mappings = vmas.map(|vma| mapping(vma, &labels, &mut numbers)).collect();
        rows.push(ProcessMappings { pid, exe, mappings });
    }
    Ok(rows)
}

fn mapping(vma: &VmaEntry, labels: &Labels, numbers: &mut SharedNumbers) -> MappingRow {
    let has = |bits: u32| vma.status & bits != 0;
    let mut offset_bytes = 0;
    let mut shared =
        |kind: &str| format!("{kind}[{:x}]", numbers.number(vma.shmid)).into_bytes().into();
    let what = if has(status::SYSVIPC) {
        shared("ips")
    } else if has(status::ANON_SHARED) {
        shared("shmem")
    } else if has(status::SOCKET) {
        shared("packet")
    } else if has(status::FILE_PRIVATE | status::FILE_SHARED) {
        offset_bytes = vma.pgoff;
        u32::try_from(vma.shmid).map_or_else(|_| b"unknown path"[..].into(), |id| labels.path(id))
    } else if has(status::STACK) {
        b"[stack]"[..].into()
    } else if has(status::VSYSCALL) {
        b"[vsyscall]"[..].into()
    } else if has(status::VDSO) {
        b"[vdso]"[..].into()
    } else if vma.flags & GROWS_DOWN != 0 {
        b"[stack?]"[..].into()
    } else {
        Arc::default()
    };
    let VmaEntry { start, end, prot, status, .. } = *vma;
    MappingRow { start, end, prot, status, what, offset_bytes }
}

impl MappingRow {
    /// Protection as in `/proc/<pid>/maps`, such as `r-x`.
    pub fn protection(&self) -> String {
        let letters = [(1, 'r'), (2, 'w'), (4, 'x')];
        letters
            .map(|(bit, letter)| if self.prot & bit != 0 { letter } else { '-' })
            .iter()
            .collect()
    }
}

pub(super) fn write_text(rows: &[ProcessMappings], out: &mut impl Write) -> io::Result<()> {
    for process in rows {
        writeln!(out, "{}", process.pid)?;
        if let Some(exe) = &process.exe {
            write!(out, "\t{:<36}    ", "exe")?;
            out.write_all(exe)?;
            writeln!(out)?;
        }
        for row in &process.mappings {
            let range = format!("{:08x}-{:08x}", row.start, row.end);
            write!(out, "\t{range:<36}{}", row.protection())?;
            if !row.what.is_empty() {
                out.write_all(b" ")?;
                out.write_all(&row.what)?;
            }
            if row.offset_bytes != 0 {
                write!(out, " + {:#x}", row.offset_bytes)?;
            }
            let is_shared = row.status & status::FILE_SHARED != 0 && is_file(row.status);
            let special = row.status & status::REGULAR == 0;
            let marks = [(is_shared, " (s)"), (special, " *")];
            let marks: String = marks.iter().filter(|(is, _)| *is).map(|&(_, mark)| mark).collect();
            writeln!(out, "{marks}")?;
        }
    }
    Ok(())
}

/// Whether the mapping is shown as that of a file.
fn is_file(bits: u32) -> bool {
    bits & (status::SYSVIPC | status::ANON_SHARED | status::SOCKET) == 0
}

pub(super) fn write_json<W: Write>(printer: &mut Printer<W>, process: &ProcessMappings) {
    number(printer, "pid", process.pid);
    if let Some(exe) = &process.exe {
        text(printer, "exe", exe);
    }
    printer.key("mappings");
    list(printer, &process.mappings, |printer, row| {
        number(printer, "start", row.start);
        number(printer, "end", row.end);
        text(printer, "prot", row.protection().as_bytes());
        number(printer, "status", row.status);
        text(printer, "what", &row.what);
        number(printer, "offset", row.offset_bytes);
    });
}
