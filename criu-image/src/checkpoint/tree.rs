//! The process tree: one root, parents before children, every id once, every task with its images.

use std::collections::{BTreeMap, BTreeSet};

use super::load::Loader;
use super::model::{Body, PageStore, Process, Thread};
use super::{contradiction, task_state};
use crate::error::ImageError;
use crate::kind::ImageKind;
use crate::record;

/// Largest process or thread id (`PID_MAX_LIMIT` of the kernel).
const PID_MAX: u32 = 1 << 22;
/// Signal actions that CRIU saves: 64 signals without SIGKILL and SIGSTOP.
const SIGACTIONS: usize = 62;
/// Size of the kernel's `siginfo_t`.
const SIGINFO_BYTES: usize = 128;
/// Most words of an auxiliary vector; kernels have fewer than 64.
const AUXV_WORDS_MAX: usize = 128;
/// Most supplementary groups (`NGROUPS_MAX`).
const GROUPS_MAX: usize = 65_536;

const PSTREE: &str = "pstree.img";

/// Reads all processes. Memory contents (`PageStore`) follow later.
pub(super) fn load(loader: &mut Loader) -> Result<Vec<Process>, ImageError> {
    let image = loader.need(ImageKind::Pstree, None, "every checkpoint has one")?;
    let entries = image.all::<record::PstreeEntry>()?;
    let mut index_of: BTreeMap<u32, usize> = BTreeMap::new();
    let mut tids: BTreeSet<u32> = BTreeSet::new();
    let mut processes = Vec::with_capacity(entries.len());
    for (index, (at, entry)) in entries.into_iter().enumerate() {
        let parent = parent_of(index, at, &entry, &index_of)?;
        let process = process(loader, at, &entry, parent)?;
        let own = [entry.pid];
        let ids = match &process.body {
            Some(body) => body.threads.iter().map(|thread| thread.tid).collect(),
            None => own.to_vec(),
        };
        for id in ids {
            if !tids.insert(id) {
                return Err(contradiction(PSTREE, at, format!("id {id} is taken twice")));
            }
        }
        index_of.insert(entry.pid, index);
        processes.push(process);
    }
    if processes.is_empty() {
        let (file, expected) = (PSTREE.to_owned(), "at least one");
        return Err(ImageError::Count { file, found: 0, expected });
    }
    if processes[0].body.is_none() {
        return Err(contradiction(PSTREE, 8, "the root has exited"));
    }
    Ok(processes)
}

fn parent_of(
    index: usize,
    at: u64,
    entry: &record::PstreeEntry,
    index_of: &BTreeMap<u32, usize>,
) -> Result<Option<usize>, ImageError> {
    let (pid, ppid) = (entry.pid, entry.ppid);
    for id in [pid, entry.pgid, entry.sid] {
        if id == 0 || id > PID_MAX {
            return Err(contradiction(PSTREE, at, format!("id {id} of process {pid} is no id")));
        }
    }
    match (index, index_of.get(&ppid)) {
        (0, _) if ppid == 0 => Ok(None),
        (0, _) => Err(contradiction(PSTREE, at, format!("root {pid} has parent {ppid}"))),
        (_, None) if ppid == 0 => Err(contradiction(PSTREE, at, format!("{pid} is a second root"))),
        (_, None) => {
            let reason = format!("parent {ppid} of process {pid} does not come before it");
            Err(contradiction(PSTREE, at, reason))
        }
        (_, Some(&parent)) => Ok(Some(parent)),
    }
}

fn process(
    loader: &mut Loader,
    at: u64,
    entry: &record::PstreeEntry,
    parent: Option<usize>,
) -> Result<Process, ImageError> {
    let pid = entry.pid;
    let id = Some(u64::from(pid));
    let image = loader.need(ImageKind::Core, id, &format!("process {pid}"))?;
    let file = image.name().to_owned();
    let core: record::CoreEntry = image.only()?;
    let Some(task) = core.tc.clone() else {
        return Err(contradiction(file, 8, "the part of a process (tc) is missing"));
    };
    check_task(&file, &task)?;
    let body = match task.task_state {
        task_state::DEAD | task_state::ZOMBIE => None,
        task_state::ALIVE | task_state::STOPPED => Some(body(loader, at, entry, core)?),
        other => {
            return Err(contradiction(file, 8, format!("task state {other} is unknown")));
        }
    };
    let record::PstreeEntry { ppid, pgid, sid, .. } = *entry;
    Ok(Process { pid, ppid, pgid, sid, parent, task, body })
}

fn check_task(file: &str, task: &record::TaskCoreEntry) -> Result<(), ImageError> {
    let fail = |reason: String| Err(contradiction(file, 8, reason));
    if !task.sigactions.is_empty() && task.sigactions.len() != SIGACTIONS {
        return fail(format!("{} signal actions are not {SIGACTIONS}", task.sigactions.len()));
    }
    if task.rlimits.as_ref().is_some_and(|limits| limits.rlimits.len() > 16) {
        return fail("more than 16 resource limits".to_owned());
    }
    check_queue(file, task.signals_s.as_ref())
}

fn check_queue(file: &str, queue: Option<&record::SignalQueueEntry>) -> Result<(), ImageError> {
    for signal in queue.iter().flat_map(|queue| &queue.signals) {
        let number = signal.siginfo.first_chunk().map_or(0, |bytes| i32::from_le_bytes(*bytes));
        if signal.siginfo.len() != SIGINFO_BYTES || !(1..=64).contains(&number) {
            let len = signal.siginfo.len();
            let reason = format!("pending signal {number} of {len} bytes is no signal");
            return Err(contradiction(file, 8, reason));
        }
    }
    Ok(())
}

fn body(
    loader: &mut Loader,
    at: u64,
    entry: &record::PstreeEntry,
    leader: record::CoreEntry,
) -> Result<Body, ImageError> {
    let pid = entry.pid;
    let id = Some(u64::from(pid));
    let owner = format!("process {pid}");
    if leader.tc.as_ref().is_some_and(|task| task.sigactions.is_empty()) {
        let feature = "a checkpoint with signal actions in files of their own (CRIU before 3.0)";
        return Err(ImageError::Unsupported { file: format!("core-{pid}.img"), feature });
    }
    let mut threads = vec![thread(pid, leader)?];
    if !entry.threads.is_empty() && !entry.threads.contains(&pid) {
        return Err(contradiction(PSTREE, at, format!("{pid} is not among its own threads")));
    }
    for &tid in entry.threads.iter().filter(|&&tid| tid != pid) {
        if tid == 0 || tid > PID_MAX {
            return Err(contradiction(PSTREE, at, format!("thread id {tid} is no id")));
        }
        let needed_for = format!("thread {tid} of process {pid}");
        let image = loader.need(ImageKind::Core, Some(u64::from(tid)), &needed_for)?;
        threads.push(thread(tid, image.only()?)?);
    }
    let mm: record::MmEntry = loader.need(ImageKind::Mm, id, &owner)?.only()?;
    if mm.mm_saved_auxv.len() > AUXV_WORDS_MAX {
        let reason = format!("auxiliary vector of {} words", mm.mm_saved_auxv.len());
        return Err(contradiction(format!("mm-{pid}.img"), 8, reason));
    }
    Ok(Body {
        ids: loader.need(ImageKind::Ids, id, &owner)?.only()?,
        mm,
        fs: loader.need(ImageKind::Fs, id, &owner)?.only()?,
        threads,
        pages: PageStore::default(),
    })
}

fn thread(tid: u32, core: record::CoreEntry) -> Result<Thread, ImageError> {
    let file = format!("core-{tid}.img");
    let fail = |reason: &str| Err(contradiction(file.clone(), 8, reason));
    if core.mtype != record::core_entry::March::X8664 as i32 {
        let feature = "an architecture other than x86-64";
        return Err(ImageError::Unsupported { file, feature });
    }
    let Some(regs) = core.thread_info else {
        return fail("registers are missing");
    };
    let Some(part) = core.thread_core else {
        return fail("the part of a thread is missing");
    };
    check_queue(&file, part.signals_p.as_ref())?;
    if part.creds.as_ref().is_some_and(|creds| creds.groups.len() > GROUPS_MAX) {
        return fail("more than 65536 groups");
    }
    if regs.fpregs.st_space.len() != 32 || regs.fpregs.xmm_space.len() != 64 {
        return fail("floating-point registers have the wrong size");
    }
    Ok(Thread { tid, regs, core: part })
}
