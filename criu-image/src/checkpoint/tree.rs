//! The process tree: one root, parents before children, every id once, every task with its images.

use std::collections::{BTreeMap, BTreeSet};

use super::load::Loader;
use super::model::{Body, PageStore, Process, Thread};
use super::task::{check_task, check_thread};
use super::{contradiction, task_state};
use crate::error::ImageError;
use crate::kind::ImageKind;
use crate::reader::Image;
use crate::record;

/// Largest process or thread id (`PID_MAX_LIMIT` of the kernel).
const PID_MAX: u32 = 1 << 22;
/// Most words of an auxiliary vector; kernels have fewer than 64.
const AUXV_WORDS_MAX: usize = 128;

const ARCHITECTURE: &str = "an architecture other than x86-64";
const PSTREE: &str = "pstree.img";

/// Images that belong to a process; whose they are is not known if it was damaged.
pub(super) const OWNED: [ImageKind; 8] = [
    ImageKind::Core,
    ImageKind::Ids,
    ImageKind::Mm,
    ImageKind::Fs,
    ImageKind::Pagemap,
    ImageKind::Fdinfo,
    ImageKind::Pages,
    ImageKind::ShmemPagemap,
];

/// Reads all processes. Memory contents (`PageStore`) follow later.
pub(super) fn load(loader: &mut Loader) -> Result<Vec<Process>, ImageError> {
    let image = loader.need(ImageKind::Pstree, None, "every checkpoint has one")?;
    let entries = loader.all_of::<record::PstreeEntry>(ImageKind::Pstree, image)?;
    if !loader.findings.is_sure_of(ImageKind::Pstree) {
        loader.findings.doubt(&OWNED);
    }
    let mut index_of: BTreeMap<u32, usize> = BTreeMap::new();
    let mut tids: BTreeSet<u32> = BTreeSet::new();
    let mut processes = Vec::with_capacity(entries.len());
    for (index, (at, entry)) in entries.into_iter().enumerate() {
        let parent = parent_of(index, at, &entry, &index_of);
        let parent = loader.findings.check(parent)?.flatten();
        index_of.insert(entry.pid, index);
        let process = claim(&mut tids, at, entry.pid)
            .and_then(|()| process(loader, at, &entry, parent, &mut tids));
        match loader.findings.check(process)?.flatten() {
            Some(process) => processes.push(process),
            None => loader.findings.doubt(&OWNED),
        }
    }
    if processes.is_empty() && loader.findings.is_sure_of(ImageKind::Core) {
        let (file, expected) = (PSTREE.to_owned(), "at least one");
        return Err(ImageError::Count { file, found: 0, expected });
    }
    if processes.first().is_some_and(|root| root.ppid == 0 && root.body.is_none()) {
        loader.findings.report(contradiction(PSTREE, 8, "the root has exited"))?;
    }
    Ok(processes)
}

/// Takes an id before anything is read for it: a list that repeats one id costs nothing.
fn claim(tids: &mut BTreeSet<u32>, at: u64, id: u32) -> Result<(), ImageError> {
    if id == 0 || id > PID_MAX {
        return Err(contradiction(PSTREE, at, format!("{id} is no process or thread id")));
    }
    if !tids.insert(id) {
        return Err(contradiction(PSTREE, at, format!("id {id} is taken twice")));
    }
    Ok(())
}

fn parent_of(
    index: usize,
    at: u64,
    entry: &record::PstreeEntry,
    index_of: &BTreeMap<u32, usize>,
) -> Result<Option<usize>, ImageError> {
    let (pid, ppid) = (entry.pid, entry.ppid);
    for id in [entry.pgid, entry.sid] {
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
    tids: &mut BTreeSet<u32>,
) -> Result<Option<Process>, ImageError> {
    let pid = entry.pid;
    let id = Some(u64::from(pid));
    let image = loader.need(ImageKind::Core, id, &format!("process {pid}"))?;
    let file = image.name().to_owned();
    let mut core = core_of(image)?;
    let Some(task) = core.tc.take() else {
        return Err(contradiction(file, 8, "the part of a process (tc) is missing"));
    };
    check_task(&file, &task)?;
    let body = match task.task_state {
        task_state::DEAD | task_state::ZOMBIE => None,
        task_state::ALIVE | task_state::STOPPED => {
            if task.sigactions.is_empty() {
                let feature =
                    "a checkpoint with signal actions in files of their own (CRIU before 3.0)";
                return Err(ImageError::Unsupported { file, feature });
            }
            match body(loader, at, entry, core, tids)? {
                Some(body) => Some(body),
                None => return Ok(None),
            }
        }
        other => {
            return Err(contradiction(file, 8, format!("task state {other} is unknown")));
        }
    };
    let record::PstreeEntry { ppid, pgid, sid, .. } = *entry;
    Ok(Some(Process { pid, ppid, pgid, sid, parent, task, body }))
}

fn body(
    loader: &mut Loader,
    at: u64,
    entry: &record::PstreeEntry,
    leader: record::CoreEntry,
    tids: &mut BTreeSet<u32>,
) -> Result<Option<Body>, ImageError> {
    let pid = entry.pid;
    let owner = format!("process {pid}");
    let leader = thread(pid, leader);
    let mut threads = vec![loader.findings.check(leader)?];
    if !entry.threads.is_empty() && !entry.threads.contains(&pid) {
        let reason = format!("{pid} is not among its own threads");
        loader.findings.report(contradiction(PSTREE, at, reason))?;
    }
    if entry.threads.iter().filter(|&&tid| tid == pid).count() > 1 {
        let reason = format!("id {pid} is taken twice");
        loader.findings.report(contradiction(PSTREE, at, reason))?;
    }
    for &tid in entry.threads.iter().filter(|&&tid| tid != pid) {
        let thread = claim(tids, at, tid).and_then(|()| {
            let needed_for = format!("thread {tid} of process {pid}");
            let image = loader.need(ImageKind::Core, Some(u64::from(tid)), &needed_for)?;
            thread(tid, core_of(image)?)
        });
        threads.push(loader.findings.check(thread)?);
    }
    let mm: Option<record::MmEntry> = loader.one(ImageKind::Mm, pid, &owner)?;
    if let Some(mm) = mm.as_ref().filter(|mm| mm.mm_saved_auxv.len() > AUXV_WORDS_MAX) {
        let reason = format!("auxiliary vector of {} words", mm.mm_saved_auxv.len());
        loader.findings.report(contradiction(format!("mm-{pid}.img"), 8, reason))?;
    }
    let ids = loader.one(ImageKind::Ids, pid, &owner)?;
    let fs = loader.one(ImageKind::Fs, pid, &owner)?;
    let threads: Option<Vec<Thread>> = threads.into_iter().collect();
    // A part that is damaged was reported; the process is left out then.
    let (Some(ids), Some(mm), Some(fs), Some(threads)) = (ids, mm, fs, threads) else {
        return Ok(None);
    };
    Ok(Some(Body { ids, mm, fs, threads, pages: PageStore::default() }))
}

/// The record of a core image, which must be of this architecture.
fn core_of(image: Image) -> Result<record::CoreEntry, ImageError> {
    let file = image.name().to_owned();
    let core: record::CoreEntry = image.only()?;
    if core.mtype != record::core_entry::March::X8664 as i32 {
        return Err(ImageError::Unsupported { file, feature: ARCHITECTURE });
    }
    if has_foreign_registers(&core) {
        return Err(contradiction(file, 8, "registers of another architecture"));
    }
    Ok(core)
}

fn has_foreign_registers(core: &record::CoreEntry) -> bool {
    core.ti_arm.is_some()
        || core.ti_aarch64.is_some()
        || core.ti_ppc64.is_some()
        || core.ti_s390.is_some()
        || core.ti_mips.is_some()
        || core.ti_loongarch64.is_some()
        || core.ti_riscv64.is_some()
}

fn thread(tid: u32, core: record::CoreEntry) -> Result<Thread, ImageError> {
    let file = format!("core-{tid}.img");
    let fail = |reason: &str| Err(contradiction(file.clone(), 8, reason));
    if core.tc.is_some() {
        return fail("a thread has the part of a process (tc)");
    }
    let Some(regs) = core.thread_info else {
        return fail("registers are missing");
    };
    let Some(part) = core.thread_core else {
        return fail("the part of a thread is missing");
    };
    check_thread(&file, &regs, &part)?;
    Ok(Thread { tid, regs, core: part })
}
