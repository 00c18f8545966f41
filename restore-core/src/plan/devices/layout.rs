//! Which process restores which device file, and in which order.

use std::collections::BTreeMap;

use criu_image::{Checkpoint, FileId};

use super::place_of;
use crate::contract::StepKind;
use crate::refusal::{Refusal, RefusalKind};

/// A device file at its place in the order of a process.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    /// Index of the process in the checkpoint.
    pub(super) process: usize,
    pub(super) kind: StepKind,
    pub(super) file: FileId,
    /// Descriptors that refer to it, ascending.
    pub(super) fds: Vec<i32>,
    /// Another process restores it.
    pub(super) received: bool,
}

/// The order of all device files.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// By process, then in the order of the contract.
    pub(super) steps: Vec<Placed>,
    /// The step that restores each file.
    pub(super) home: BTreeMap<FileId, usize>,
}

impl Layout {
    pub(super) fn new(checkpoint: &Checkpoint, refusals: &mut Vec<Refusal>) -> Self {
        let holders = holders(checkpoint);
        let mut owners: BTreeMap<FileId, usize> = BTreeMap::new();
        for (&file, processes) in &holders {
            match owner(checkpoint, file, processes) {
                Ok(owner) => {
                    owners.insert(file, owner);
                }
                Err(refusal) => refusals.push(refusal),
            }
        }
        let mut layout = Self::default();
        for process in 0..checkpoint.processes.len() {
            let mut own: Vec<Placed> = Vec::new();
            for (&file, processes) in &holders {
                let (Some(fds), Some(&owner)) = (processes.get(&process), owners.get(&file)) else {
                    continue;
                };
                let received = owner != process;
                let kind = if received { StepKind::Receive } else { kind_of(checkpoint, file) };
                own.push(Placed { process, kind, file, fds: fds.clone(), received });
            }
            own.sort_by_key(|placed| (placed.kind, placed.fds.first().copied()));
            for placed in own {
                if !placed.received {
                    layout.home.insert(placed.file, layout.steps.len());
                }
                layout.steps.push(placed);
            }
        }
        layout
    }

    /// Files that a process restores itself, in their order.
    pub(super) fn of(&self, process: usize) -> impl Iterator<Item = &Placed> {
        self.steps.iter().filter(move |placed| placed.process == process && !placed.received)
    }
}

/// For each device file the processes that have it, each with its descriptors.
fn holders(checkpoint: &Checkpoint) -> BTreeMap<FileId, BTreeMap<usize, Vec<i32>>> {
    let mut holders: BTreeMap<FileId, BTreeMap<usize, Vec<i32>>> = BTreeMap::new();
    for (index, process) in checkpoint.processes.iter().enumerate() {
        let Some(body) = &process.body else { continue };
        for entry in checkpoint.fd_tables.get(&body.ids.files_id).into_iter().flatten() {
            let file = FileId(entry.id);
            if checkpoint.gpu.has(file) {
                holders.entry(file).or_default().entry(index).or_default().push(entry.fd as i32);
            }
        }
    }
    holders
}

/// KFD state belongs to the address space of one process; other files to the one that our own image
/// names, or else to the first that has them.
fn owner(
    checkpoint: &Checkpoint,
    file: FileId,
    processes: &BTreeMap<usize, Vec<i32>>,
) -> Result<usize, Refusal> {
    let first = *processes.keys().next().expect("only files that somebody has are listed");
    let index = |pid: u32| checkpoint.processes.iter().position(|process| process.pid == pid);
    let state = checkpoint.gpu.state.as_ref();
    let stated = state.and_then(|state| state.files.iter().find(|entry| entry.id == file.0));
    let Some(kfd) = checkpoint.gpu.kfds.get(&file) else {
        let stated = stated.and_then(|entry| index(entry.owner));
        return Ok(stated.filter(|owner| processes.contains_key(owner)).unwrap_or(first));
    };
    let owner = index(kfd.entry.pid);
    owner.filter(|owner| processes.contains_key(owner)).ok_or_else(|| {
        let what = format!("state of process {}, which has not this file", kfd.entry.pid);
        Refusal::of_tree(RefusalKind::GpuUndescribed, what, place_of(checkpoint, file))
    })
}

fn kind_of(checkpoint: &Checkpoint, file: FileId) -> StepKind {
    match () {
        () if checkpoint.gpu.kfds.contains_key(&file) => StepKind::Kfd,
        () if checkpoint.gpu.renders.contains_key(&file) => StepKind::Render,
        () => StepKind::DmaBuf,
    }
}
