//! Everything that a checkpoint says about one process.

use std::collections::BTreeMap;
use std::path::Path;

use criu_image::record::{
    CoreEntry, CredsEntry, FdinfoEntry, FileEntry, SiginfoEntry, TaskKobjIdsEntry, TaskTimersEntry,
};
use criu_image::{
    GpuRow, ImageError, ImageKind, MappingRow, ProcessMappings, ProcessRuns, vma_status,
};

use super::overview::{self, Shown, all, first};

const PAGE_BYTES: u64 = 4096;
/// An open file without a position.
const NO_POSITION: u64 = u64::MAX;

/// A process in detail.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Detail {
    pub(super) shown: Shown,
    pub(super) exe: Option<String>,
    pub(super) cwd: Option<String>,
    pub(super) root: Option<String>,
    pub(super) creds: Option<CredsEntry>,
    pub(super) threads: Vec<ThreadShown>,
    pub(super) memory: Vec<(Kind, Amount)>,
    pub(super) descriptors: Vec<Descriptor>,
    pub(super) signals: Signals,
    pub(super) timers: Vec<Timer>,
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ThreadShown {
    pub(super) tid: u32,
    pub(super) name: String,
    /// Where it goes on.
    pub(super) instruction: Option<u64>,
    /// Signals that it holds back.
    pub(super) blocked: Vec<u32>,
}

/// What memory is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Heap,
    Stack,
    Anonymous,
    SharedAnonymous,
    PrivateFile,
    SharedFile,
    Gpu,
    Other,
}

impl Kind {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Heap => "heap",
            Self::Stack => "stack",
            Self::Anonymous => "anonymous",
            Self::SharedAnonymous => "shared anonymous",
            Self::PrivateFile => "private files",
            Self::SharedFile => "shared files",
            Self::Gpu => "device",
            Self::Other => "vdso and other",
        }
    }

    fn of(mapping: &MappingRow) -> Self {
        use vma_status::{
            ANON_PRIVATE, ANON_SHARED, EXT_PLUGIN, FILE_PRIVATE, FILE_SHARED, HEAP, MEMFD, STACK,
            SYSVIPC,
        };
        let has = |bits: u32| mapping.status & bits != 0;
        match () {
            () if has(EXT_PLUGIN) => Self::Gpu,
            () if has(HEAP) => Self::Heap,
            // Not every dump marks them; those that grow down are shown as stacks all the same.
            () if has(STACK) || mapping.what.starts_with(b"[stack") => Self::Stack,
            () if has(FILE_PRIVATE) => Self::PrivateFile,
            () if has(FILE_SHARED | MEMFD) => Self::SharedFile,
            () if has(ANON_SHARED | SYSVIPC) => Self::SharedAnonymous,
            () if has(ANON_PRIVATE) => Self::Anonymous,
            () => Self::Other,
        }
    }
}

/// How much of it there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) mappings: u64,
    pub(super) mapped_bytes: u64,
    /// Pages that are in the images.
    pub(super) saved_bytes: u64,
}

/// A descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Descriptor {
    pub(super) fd: u32,
    pub(super) kind: String,
    pub(super) file: String,
    /// How it was opened, such as `rw nonblock cloexec`.
    pub(super) flags: String,
    pub(super) position: Option<u64>,
}

/// Signals of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Signals {
    /// Those that have a function.
    pub(super) caught: Vec<u32>,
    pub(super) ignored: Vec<u32>,
    /// Sent and not delivered, to the process or to a thread.
    pub(super) pending: Vec<u32>,
}

/// A timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Timer {
    pub(super) name: String,
    /// Time that is left, and the interval; in nanoseconds.
    pub(super) left_ns: u64,
    pub(super) interval_ns: u64,
}

/// Reads a process; none if the checkpoint does not have it.
pub(super) fn read(dir: &Path, pid: u32) -> Result<Option<Detail>, ImageError> {
    let Some(entry) = overview::entry(dir, pid)? else { return Ok(None) };
    let shown = overview::rows(dir)?.into_iter().find(|one| one.row.pid == pid);
    let Some(shown) = shown else { return Ok(None) };
    let cores = cores(dir, &entry.threads, pid)?;
    let task = cores.first().and_then(|(_, core)| core.tc.clone());
    let leader = cores.first().and_then(|(_, core)| core.thread_core.clone());
    let files = overview::files(dir)?.into_iter().find(|of| of.pid == pid);
    let mappings = overview::mappings(dir)?.into_iter().find(|of| of.pid == pid);
    let runs = overview::runs(dir)?.into_iter().find(|of| of.pid == pid);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let exe = mappings.as_ref().and_then(|of| of.exe.as_ref()).map(|exe| text(exe));
    let place = |label: &Option<criu_image::FileLabel>| Some(text(&label.as_ref()?.text));
    let timers = task.as_ref().and_then(|task| task.timers.as_ref());
    Ok(Some(Detail {
        exe,
        cwd: files.as_ref().and_then(|of| place(&of.cwd)),
        root: files.as_ref().and_then(|of| place(&of.root)),
        creds: leader.and_then(|core| core.creds),
        threads: cores.iter().map(|(tid, core)| thread(*tid, core, &shown)).collect(),
        memory: memory(mappings.as_ref(), runs.as_ref()),
        descriptors: descriptors(dir, pid, files.as_ref())?,
        signals: signals(&cores),
        timers: timers.map(self::timers).unwrap_or_default(),
        shown,
    }))
}

fn cores(dir: &Path, tids: &[u32], pid: u32) -> Result<Vec<(u32, CoreEntry)>, ImageError> {
    let mut cores = Vec::new();
    let others = tids.iter().copied().filter(|&tid| tid != pid);
    for tid in [pid].into_iter().chain(others) {
        if let Some(core) = first::<CoreEntry>(dir, ImageKind::Core, tid.into())? {
            cores.push((tid, core));
        }
    }
    Ok(cores)
}

fn thread(tid: u32, core: &CoreEntry, shown: &Shown) -> ThreadShown {
    let part = core.thread_core.as_ref();
    let own = part.and_then(|part| part.comm.as_ref());
    let name = own.map_or_else(|| shown.name(), |comm| String::from_utf8_lossy(comm).into_owned());
    let of_task = core.tc.as_ref().map(|task| task.blk_sigset);
    let blocked = part.and_then(|part| part.blk_sigset).or(of_task).unwrap_or(0);
    ThreadShown {
        tid,
        name: name.trim_end_matches('\0').to_owned(),
        instruction: core.thread_info.as_ref().map(|info| info.gpregs.ip),
        blocked: members(blocked),
    }
}

/// Signals of a mask.
fn members(mask: u64) -> Vec<u32> {
    (1..=64).filter(|signal| mask >> (signal - 1) & 1 != 0).collect()
}

fn memory(mappings: Option<&ProcessMappings>, runs: Option<&ProcessRuns>) -> Vec<(Kind, Amount)> {
    let Some(mappings) = mappings else { return Vec::new() };
    let mut amounts: BTreeMap<Kind, Amount> = BTreeMap::new();
    for mapping in &mappings.mappings {
        let amount = amounts.entry(Kind::of(mapping)).or_default();
        amount.mappings += 1;
        amount.mapped_bytes += mapping.end.saturating_sub(mapping.start);
    }
    // Both are in the order of addresses.
    let mut at = 0;
    for run in runs.iter().flat_map(|runs| &runs.runs) {
        let (mut start, end) = (run.vaddr, run.vaddr.saturating_add(run.pages * PAGE_BYTES));
        while start < end {
            let all = &mappings.mappings;
            while all.get(at).is_some_and(|mapping| mapping.end <= start) {
                at += 1;
            }
            let (kind, until) = match all.get(at) {
                Some(mapping) if mapping.start <= start => (Kind::of(mapping), mapping.end),
                Some(mapping) => (Kind::Other, mapping.start),
                None => (Kind::Other, end),
            };
            let until = until.min(end);
            amounts.entry(kind).or_default().saved_bytes += until - start;
            start = until;
        }
    }
    amounts.into_iter().collect()
}

fn descriptors(
    dir: &Path,
    pid: u32,
    files: Option<&criu_image::ProcessFiles>,
) -> Result<Vec<Descriptor>, ImageError> {
    let Some(files) = files else { return Ok(Vec::new()) };
    let entries = all::<FileEntry>(dir, ImageKind::Files, 0)?;
    let entries: BTreeMap<u32, FileEntry> = entries.into_iter().map(|it| (it.id, it)).collect();
    let ids = first::<TaskKobjIdsEntry>(dir, ImageKind::Ids, pid.into())?;
    let table = match ids {
        Some(ids) => all::<FdinfoEntry>(dir, ImageKind::Fdinfo, ids.files_id.into())?,
        None => Vec::new(),
    };
    let closes: BTreeMap<u32, bool> =
        table.iter().map(|entry| (entry.fd, entry.flags & 1 != 0)).collect();
    let mut rows: Vec<Descriptor> = files
        .descriptors
        .iter()
        .map(|row| {
            let entry = entries.get(&row.file.id);
            let mut flags = entry.and_then(open_flags).map(flag_words).unwrap_or_default();
            if closes.get(&row.fd) == Some(&true) {
                flags.push("cloexec");
            }
            let position = entry.and_then(|entry| entry.reg.as_ref()).map(|reg| reg.pos);
            Descriptor {
                fd: row.fd,
                kind: row.file.kind.to_lowercase(),
                file: String::from_utf8_lossy(&row.file.text).into_owned(),
                flags: flags.join(" "),
                position: position.filter(|&position| position != NO_POSITION),
            }
        })
        .collect();
    rows.sort_by_key(|row| row.fd);
    Ok(rows)
}

/// Flags of an open file, of whatever kind.
fn open_flags(entry: &FileEntry) -> Option<u32> {
    let kinds = [
        entry.reg.as_ref().map(|it| it.flags),
        entry.pipe.as_ref().map(|it| it.flags),
        entry.isk.as_ref().map(|it| it.flags),
        entry.usk.as_ref().map(|it| it.flags),
        entry.efd.as_ref().map(|it| it.flags),
        entry.epfd.as_ref().map(|it| it.flags),
        entry.sgfd.as_ref().map(|it| it.flags),
        entry.tfd.as_ref().map(|it| it.flags),
        entry.memfd.as_ref().map(|it| it.flags),
        entry.pidfd.as_ref().map(|it| it.flags),
        entry.tty.as_ref().map(|it| it.flags),
    ];
    kinds.into_iter().flatten().next()
}

fn flag_words(flags: u32) -> Vec<&'static str> {
    const NAMES: [(i32, &str); 5] = [
        (libc::O_APPEND, "append"),
        (libc::O_NONBLOCK, "nonblock"),
        (libc::O_DIRECT, "direct"),
        (libc::O_PATH, "path"),
        (libc::O_DIRECTORY, "directory"),
    ];
    let flags = flags as i32;
    let access = match flags & libc::O_ACCMODE {
        libc::O_RDONLY => "r",
        libc::O_WRONLY => "w",
        _ => "rw",
    };
    let others = NAMES.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name);
    [access].into_iter().chain(others).collect()
}

/// Number of a signal that waits, the first word of its `siginfo_t`.
fn signal_of(info: &SiginfoEntry) -> Option<u32> {
    let word = info.siginfo.get(..4)?.try_into().ok()?;
    Some(u32::from_le_bytes(word))
}

fn signals(cores: &[(u32, CoreEntry)]) -> Signals {
    let task = cores.first().and_then(|(_, core)| core.tc.as_ref());
    let actions = task.map(|task| task.sigactions.as_slice()).unwrap_or_default();
    // SIGKILL and SIGSTOP have no entry (CRIU 4.2, `sigactions`).
    let numbers = (1..=64_u32).filter(|signal| ![9, 19].contains(signal));
    let (mut caught, mut ignored) = (Vec::new(), Vec::new());
    for (signal, action) in numbers.zip(actions) {
        match action.sigaction {
            0 => {}
            1 => ignored.push(signal),
            _ => caught.push(signal),
        }
    }
    let shared = task.and_then(|task| task.signals_s.as_ref());
    let private =
        cores.iter().filter_map(|(_, core)| core.thread_core.as_ref()?.signals_p.as_ref());
    let queues = shared.into_iter().chain(private);
    let pending = queues.flat_map(|queue| &queue.signals).filter_map(signal_of).collect();
    Signals { caught, ignored, pending }
}

fn timers(timers: &TaskTimersEntry) -> Vec<Timer> {
    let named = [("real", &timers.real), ("virtual", &timers.virt), ("profiling", &timers.prof)];
    let interval = named.map(|(name, timer)| Timer {
        name: format!("{name} interval timer"),
        left_ns: nanoseconds(timer.vsec, timer.vusec.saturating_mul(1000)),
        interval_ns: nanoseconds(timer.isec, timer.iusec.saturating_mul(1000)),
    });
    let posix = timers.posix.iter().map(|timer| Timer {
        name: format!("POSIX timer {} (clock {})", timer.it_id, timer.clock_id),
        left_ns: nanoseconds(timer.vsec, timer.vnsec),
        interval_ns: nanoseconds(timer.isec, timer.insec),
    });
    // Those that nobody has armed say nothing, but that a POSIX timer exists does.
    let armed = interval.into_iter().filter(|timer| timer.left_ns > 0 || timer.interval_ns > 0);
    armed.chain(posix).collect()
}

fn nanoseconds(seconds: u64, nanoseconds: u64) -> u64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

impl Detail {
    /// What it has on each GPU.
    pub(super) fn gpus(&self) -> &[GpuRow] {
        &self.shown.gpus
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, flag_words, members, read};

    const FIXTURE: &str =
        concat!(env!("CARGO_MANIFEST_DIR"), "/../criu-image/tests/fixtures/gpu-tree");

    #[test]
    fn a_process_is_read_whole() {
        let detail =
            read(FIXTURE.as_ref(), 28870).expect("records are whole").expect("it is there");
        assert_eq!(detail.shown.row.ppid, 28866);
        assert_eq!(detail.threads[0].tid, 28870);
        assert!(detail.exe.as_deref().is_some_and(|exe| exe.starts_with('/')), "{detail:?}");
        let has = |kind: Kind| detail.memory.iter().any(|(other, _)| *other == kind);
        assert!(has(Kind::Anonymous) && has(Kind::PrivateFile) && has(Kind::Gpu), "{detail:?}");
        let saved: u64 = detail.memory.iter().map(|(_, amount)| amount.saved_bytes).sum();
        assert_eq!(saved, detail.shown.memory_bytes);
        assert!(detail.descriptors.iter().any(|row| row.kind == "ext"), "{detail:?}");
        assert!(detail.descriptors.windows(2).all(|pair| pair[0].fd < pair[1].fd));
        assert_eq!(read(FIXTURE.as_ref(), 1).expect("records are whole"), None);
    }

    #[test]
    fn masks_and_flags_have_names() {
        assert_eq!(members(0b101 | 1 << 63), [1, 3, 64]);
        assert_eq!(flag_words(0o2 | 0o4000).join(" "), "rw nonblock");
        assert_eq!(flag_words(0o1 | 0o2000).join(" "), "w append");
        assert_eq!(flag_words(0).join(" "), "r");
    }
}
