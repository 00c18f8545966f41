//! A checkpoint as a whole: who made it, its GPUs, and a row for each process.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use criu_image::record::{CriuKfd, InventoryEntry, MmEntry, PstreeEntry};
use criu_image::{
    GpuRow, ImageError, ImageKind, ImageReader, MANIFEST_NAME, Memory, ProcessFiles, ProcessGpus,
    ProcessMappings, ProcessRow, ProcessRuns, View, ViewKind,
};

/// Longest command line that is read: what Linux lets a program be given at most is 2 MiB.
const COMMAND_BYTES_MAX: u64 = 1 << 21;
const PAGE_BYTES: u64 = 4096;

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overview {
    pub(super) dir: PathBuf,
    /// `thaw` if it has left its manifest.
    pub(super) dumper: &'static str,
    /// When the inventory was written, in seconds since 1970: the last step of a dump.
    pub(super) dumped_s: Option<u64>,
    /// How long the machine had run then, in microseconds, if that was recorded.
    pub(super) uptime_us: Option<u64>,
    /// All files of the directory.
    pub(super) disk_bytes: u64,
    pub(super) gpus: Vec<GpuShown>,
    pub(super) processes: Vec<Shown>,
}

/// A GPU of the checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GpuShown {
    /// The id that a process knows it by; the lowest, if several know it by others.
    pub(super) id: u32,
    pub(super) minor: Option<u32>,
    /// PCI device and memory, where a KFD image describes it.
    pub(super) described: Option<(u32, u64)>,
    /// Its own memory that the tree uses, in bytes.
    pub(super) used_bytes: u64,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    pub(super) row: ProcessRow,
    /// Words of its command line; empty if it was not saved.
    pub(super) command: Vec<String>,
    pub(super) memory_bytes: u64,
    pub(super) descriptors: usize,
    pub(super) gpus: Vec<GpuRow>,
}

impl Shown {
    /// Its name as it called itself.
    pub(super) fn name(&self) -> String {
        String::from_utf8_lossy(&self.row.comm).into_owned()
    }

    /// Its command line, or its name in brackets.
    pub(super) fn title(&self) -> String {
        match self.command.is_empty() {
            true => format!("[{}]", self.name()),
            false => self.command.join(" ").replace(char::is_control, "?"),
        }
    }

    /// Memory of GPUs, in bytes.
    pub(super) fn vram_bytes(&self) -> u64 {
        self.gpus.iter().map(|gpu| gpu.vram_bytes).sum()
    }
}

/// Reads a checkpoint.
pub(super) fn read(dir: &Path) -> Result<Overview, ImageError> {
    let processes = rows(dir)?;
    let inventory = first::<InventoryEntry>(dir, ImageKind::Inventory, 0)?;
    let written = fs::metadata(dir.join(ImageKind::Inventory.file_name(0)))
        .and_then(|metadata| metadata.modified());
    Ok(Overview {
        dir: dir.to_owned(),
        dumper: if dir.join(MANIFEST_NAME).exists() { "thaw" } else { "criu" },
        dumped_s: written.ok().map(seconds),
        uptime_us: inventory.and_then(|inventory| inventory.dump_uptime),
        disk_bytes: disk_bytes(dir),
        gpus: gpus(dir, &processes)?,
        processes,
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.filter_map(|entry| entry.metadata().ok()).filter(|it| it.is_file());
    // A file with several names counts once; what is a hole takes no room.
    let files: BTreeMap<(u64, u64), u64> =
        files.map(|it| ((it.dev(), it.ino()), it.blocks() * 512)).collect();
    files.values().sum()
}

/// A view, by process.
fn by_pid<T>(rows: Vec<T>, pid: impl Fn(&T) -> u32) -> BTreeMap<u32, T> {
    rows.into_iter().map(|row| (pid(&row), row)).collect()
}

pub(super) fn rows(dir: &Path) -> Result<Vec<Shown>, ImageError> {
    let View::Processes(tree) = View::open(dir, ViewKind::Processes)? else {
        unreachable!("a view is of the kind that was asked for")
    };
    let mut files = by_pid(files(dir)?, |row| row.pid);
    let mut runs = by_pid(runs(dir)?, |row| row.pid);
    let mut gpus = by_pid(process_gpus(dir)?, |row| row.pid);
    let shown = |row: ProcessRow| {
        let pid = row.pid;
        let runs = runs.remove(&pid).map(|of| of.runs).unwrap_or_default();
        Ok(Shown {
            command: command(dir, pid)?,
            memory_bytes: runs.iter().map(|run| run.pages.saturating_mul(PAGE_BYTES)).sum(),
            descriptors: files.remove(&pid).map_or(0, |of| of.descriptors.len()),
            gpus: gpus.remove(&pid).map(|of| of.gpus).unwrap_or_default(),
            row,
        })
    };
    tree.into_iter().map(shown).collect()
}

pub(super) fn files(dir: &Path) -> Result<Vec<ProcessFiles>, ImageError> {
    match View::open(dir, ViewKind::Files)? {
        View::Files(rows) => Ok(rows),
        _ => unreachable!("a view is of the kind that was asked for"),
    }
}

pub(super) fn mappings(dir: &Path) -> Result<Vec<ProcessMappings>, ImageError> {
    match View::open(dir, ViewKind::Mappings)? {
        View::Mappings(rows) => Ok(rows),
        _ => unreachable!("a view is of the kind that was asked for"),
    }
}

pub(super) fn runs(dir: &Path) -> Result<Vec<ProcessRuns>, ImageError> {
    match View::open(dir, ViewKind::Runs)? {
        View::Runs(rows) => Ok(rows),
        _ => unreachable!("a view is of the kind that was asked for"),
    }
}

fn process_gpus(dir: &Path) -> Result<Vec<ProcessGpus>, ImageError> {
    match View::open(dir, ViewKind::Gpus)? {
        View::Gpus(rows) => Ok(rows),
        _ => unreachable!("a view is of the kind that was asked for"),
    }
}

/// All records of an image that may be absent.
pub(super) fn all<R: criu_image::Record>(
    dir: &Path,
    kind: ImageKind,
    id: u64,
) -> Result<Vec<R>, ImageError> {
    let path = dir.join(kind.file_name(id));
    if !path.exists() {
        return Ok(Vec::new());
    }
    let image = ImageReader::open(path)?.lenient();
    image.records().map(|record| record.map(|(_, record)| record)).collect()
}

/// The first record of an image that may be absent.
pub(super) fn first<R: criu_image::Record>(
    dir: &Path,
    kind: ImageKind,
    id: u64,
) -> Result<Option<R>, ImageError> {
    let path = dir.join(kind.file_name(id));
    if !path.exists() {
        return Ok(None);
    }
    Ok(ImageReader::open(path)?.lenient().next_record()?.map(|(_, record)| record))
}

/// The words that a program was given, from its saved stack. What was not saved is not known.
fn command(dir: &Path, pid: u32) -> Result<Vec<String>, ImageError> {
    let Some(mm) = first::<MmEntry>(dir, ImageKind::Mm, pid.into())? else { return Ok(Vec::new()) };
    let len = mm.mm_arg_end.saturating_sub(mm.mm_arg_start).min(COMMAND_BYTES_MAX);
    // Pages may be missing where somebody looks at a part of a checkpoint.
    let Ok(memory) = Memory::of_process(dir, pid) else { return Ok(Vec::new()) };
    let mut bytes = vec![0; len as usize];
    match memory.read(mm.mm_arg_start, &mut bytes) {
        Ok(read) if read == bytes.len() && read > 0 => {}
        _ => return Ok(Vec::new()),
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.trim_end_matches('\0').split('\0').map(str::to_owned).collect())
}

/// The GPUs that processes use, by render node where that is known: processes may know one by
/// different ids.
fn gpus(dir: &Path, processes: &[Shown]) -> Result<Vec<GpuShown>, ImageError> {
    let mut described = BTreeMap::new();
    for (kind, id) in images(dir) {
        if kind != ImageKind::AmdgpuKfd {
            continue;
        }
        if let Some(kfd) = first::<CriuKfd>(dir, kind, id)? {
            let gpus = kfd.device_entries.into_iter().filter(|device| device.gpu_id != 0);
            described.extend(gpus.map(|gpu| (gpu.gpu_id, (gpu.device_id, gpu.vram_size))));
        }
    }
    let mut shown: BTreeMap<(Option<u32>, u32), GpuShown> = BTreeMap::new();
    for gpu in processes.iter().flat_map(|process| &process.gpus) {
        let key = (gpu.render_minor, if gpu.render_minor.is_some() { 0 } else { gpu.gpu_id });
        let all = shown.entry(key).or_insert(GpuShown {
            id: gpu.gpu_id,
            minor: gpu.render_minor,
            described: None,
            used_bytes: 0,
        });
        all.id = all.id.min(gpu.gpu_id);
        all.described = all.described.or(described.get(&gpu.gpu_id).copied());
        all.used_bytes += gpu.vram_bytes;
    }
    Ok(shown.into_values().collect())
}

/// Images of a directory.
fn images(dir: &Path) -> Vec<(ImageKind, u64)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let images = entries.filter_map(|entry| {
        let (kind, id) = ImageKind::of_name(&entry.file_name())?;
        Some((kind, id.unwrap_or(0)))
    });
    images.collect()
}

/// The entry of a process in `pstree.img`.
pub(super) fn entry(dir: &Path, pid: u32) -> Result<Option<PstreeEntry>, ImageError> {
    let entries = all::<PstreeEntry>(dir, ImageKind::Pstree, 0)?;
    Ok(entries.into_iter().find(|entry| entry.pid == pid))
}

/// What a PCI device is called by who sells it; the table of the emulated models, of which the
/// images have only numbers.
pub(super) fn product(device_id: u32) -> Option<&'static str> {
    const PRODUCTS: [(u32, &str); 5] = [
        (0x7408, "MI250X"),
        (0x740c, "MI250X"),
        (0x740f, "MI210"),
        (0x74a0, "MI300A"),
        (0x74a1, "MI300X"),
    ];
    PRODUCTS.iter().find(|(id, _)| *id == device_id).map(|(_, name)| *name)
}

/// A time in UTC, as `2026-11-30 23:59:58 UTC`.
pub(super) fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01, in eras of 400 years (the proleptic Gregorian calendar).
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) =
        (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::{date, product, read};

    /// Two processes of a GPU program, dumped by criu, without their pages.
    const FIXTURE: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../criu-image/tests/fixtures/gpu-tree");

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(4_107_542_400), "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn checkpoint_without_pages_can_be_looked_at() {
        let overview = read(FIXTURE.as_ref()).expect("records are whole");
        assert_eq!(overview.dumper, "criu");
        let pids: Vec<u32> = overview.processes.iter().map(|process| process.row.pid).collect();
        assert_eq!(pids, [28866, 28870]);
        assert_eq!(overview.gpus.len(), 2);
        let used: u64 = overview.gpus.iter().map(|gpu| gpu.used_bytes).sum();
        let of_processes: u64 = overview.processes.iter().map(|one| one.vram_bytes()).sum();
        assert!(used > 0 && used == of_processes, "{overview:?}");
        let described = overview.gpus[0].described.expect("the KFD image tells");
        assert!(product(described.0).is_some() && described.1 > 0, "{described:x?}");
    }
}
