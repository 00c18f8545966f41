//! The device files of every process: in which order they are restored, with what, and what waits
//! for what.
//!
//! The order inside a process is computed from what the images say: `/dev/kfd` first, since its
//! state takes the render nodes' GPU address spaces; then render nodes, then dma-bufs, each by
//! ascending descriptor; last what another process restores and this one receives. A shared buffer
//! is made by exactly one step: by the KFD state that has it, or else by the first file in the
//! order of processes and steps that has not imported it from another GPU. Edges of the last kind
//! can close a cycle (two GPUs that import from each other through one file each); the plan is
//! refused then, and the steps are named. Pure.

mod buffers;
mod gpus;
mod layout;
mod mappings;
#[cfg(test)]
mod tests;
mod work;

use std::collections::{BTreeMap, BTreeSet};

use criu_image::record::FdTypes;
use criu_image::{Checkpoint, FileId};

pub(crate) use gpus::GpuPlan;
pub(crate) use mappings::{DeviceMap, is_device};
pub(crate) use work::{
    BufferKey, Contents, DevicePlan, GemBuffer, GemSource, KfdState, ReceiveWork, RenderWork,
    Through, Work,
};

use super::{Options, PlanError};
use crate::contract::{DeviceStep, Edge, EdgeReason, Outline, OutlineProcess, StepId};
use crate::host::Host;
use crate::refusal::{Refusal, RefusalKind};
use buffers::Sharing;
use layout::{Layout, Placed};

/// What libhsakmt shared on the machine of the dump (`criu_kfd.shared_mem_size` and `_magic`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HsakmtShared {
    pub(crate) size_bytes: u64,
    pub(crate) magic: u32,
}

/// Most bytes of it that are made; the library's own is a few words.
const SHARED_BYTES_MAX: u64 = 1 << 20;

impl HsakmtShared {
    fn of(checkpoint: &Checkpoint) -> Option<Self> {
        let kfds = checkpoint.gpu.kfds.values().map(|kfd| &kfd.entry);
        let all = kfds.map(|kfd| (kfd.shared_mem_size, kfd.shared_mem_magic));
        let (size_bytes, magic) = all.max()?;
        let sane = (4..=SHARED_BYTES_MAX).contains(&size_bytes);
        sane.then_some(Self { size_bytes, magic })
    }
}

/// What is planned for the device files of a whole tree.
#[derive(Debug, Default)]
pub(crate) struct DevicesPlan {
    /// For each process of the checkpoint, in its order.
    pub(crate) processes: Vec<Vec<DevicePlan>>,
    /// What device mappings lead to.
    pub(crate) map: DeviceMap,
    /// Steps and edges as values to look at.
    pub(crate) outline: Outline,
    pub(crate) hsakmt: Option<HsakmtShared>,
}

/// Plans all device files. What stands against it goes to `refusals`.
///
/// # Errors
/// [`PlanError::Gpus`] if no GPUs here fit.
pub(crate) fn plan(
    checkpoint: &Checkpoint,
    host: &Host,
    options: &Options,
    refusals: &mut Vec<Refusal>,
) -> Result<DevicesPlan, PlanError> {
    let processes = outline_processes(checkpoint);
    let mut plan = DevicesPlan {
        processes: checkpoint.processes.iter().map(|_| Vec::new()).collect(),
        outline: Outline { processes, ..Outline::default() },
        ..DevicesPlan::default()
    };
    strangers(checkpoint, refusals);
    if checkpoint.gpu.is_empty() {
        return Ok(plan);
    }
    let gpus = GpuPlan::new(checkpoint, host, options, refusals)?;
    let layout = Layout::new(checkpoint, refusals);
    let mut sharing = Sharing::new(checkpoint, &gpus, &layout, refusals);
    let builder = work::Builder { checkpoint, gpus: &gpus, layout: &layout, sharing: &sharing };
    for (index, placed) in layout.steps.iter().enumerate() {
        match builder.step(placed, StepId(index)) {
            Ok((device, outline)) => {
                plan.processes[placed.process].push(device);
                plan.outline.steps.push(outline);
            }
            Err(refusal) => refusals.push(refusal),
        }
    }
    if refusals.is_empty() {
        plan.outline.edges = edges(&layout, &sharing, &plan.outline.steps);
        exports(&mut plan);
        gpu_bytes(&mut plan.outline);
    }
    plan.map = DeviceMap::new(checkpoint, &gpus, &layout, &plan.processes);
    plan.hsakmt = HsakmtShared::of(checkpoint);
    plan.outline.gpus = gpus.pairs();
    let mut assumptions = gpus.assumptions.clone();
    assumptions.append(&mut sharing.assumptions);
    plan.outline.assumptions = assumptions;
    Ok(plan)
}

fn outline_processes(checkpoint: &Checkpoint) -> Vec<OutlineProcess> {
    let process = |process: &criu_image::Process| OutlineProcess {
        pid: process.pid as i32,
        ppid: process.ppid as i32,
        memory_bytes: process.body.as_ref().map_or(0, |body| body.pages.total_bytes()),
        gpu_bytes: 0,
    };
    checkpoint.processes.iter().map(process).collect()
}

fn gpu_bytes(outline: &mut Outline) {
    for process in &mut outline.processes {
        let own = outline.steps.iter().filter(|step| step.pid == process.pid);
        process.gpu_bytes = own.map(|step| step.content_bytes).sum();
    }
}

/// External files that no GPU image describes.
fn strangers(checkpoint: &Checkpoint, refusals: &mut Vec<Refusal>) {
    for (id, file) in &checkpoint.files {
        if file.r#type() == FdTypes::Ext && !checkpoint.gpu.has(*id) {
            let place = format!("files.img, file {:#x}", id.0);
            refusals.push(Refusal::of_tree(RefusalKind::PluginFile, "file of a plugin", place));
        }
    }
}

/// What each step waits for beyond the order of its process.
fn edges(layout: &Layout, sharing: &Sharing, steps: &[DeviceStep]) -> Vec<Edge> {
    let mut edges = BTreeSet::new();
    for (index, placed) in layout.steps.iter().enumerate() {
        let to = StepId(index);
        if placed.received {
            let from = StepId(layout.home[&placed.file]);
            edges.insert(Edge { from, to, reason: EdgeReason::Descriptor(placed.file.0) });
            continue;
        }
        for &object in sharing.imports(placed.file) {
            let maker = sharing.maker(object).expect("checked when the sharing was made");
            let from = StepId(layout.home[&maker.file]);
            if from != to {
                edges.insert(Edge { from, to, reason: EdgeReason::Buffer(object) });
            }
        }
    }
    debug_assert_eq!(steps.len(), layout.steps.len());
    edges.into_iter().collect()
}

/// Tells each step what others need of it.
fn exports(plan: &mut DevicesPlan) {
    let mut wanted: BTreeMap<StepId, BTreeSet<EdgeReason>> = BTreeMap::new();
    for edge in &plan.outline.edges {
        wanted.entry(edge.from).or_default().insert(edge.reason.clone());
    }
    for device in plan.processes.iter_mut().flatten() {
        device.exports = wanted.remove(&device.step).unwrap_or_default();
    }
}

/// Where a file is restored, for messages.
fn place_of(checkpoint: &Checkpoint, file: FileId) -> String {
    let kind = match () {
        () if checkpoint.gpu.kfds.contains_key(&file) => "amdgpu-kfd-",
        () if checkpoint.gpu.renders.contains_key(&file) => "amdgpu-renderD-",
        () => "amdgpu-dmabuf_",
    };
    format!("{kind}{}.img", file.0)
}

/// The parts of an outline's step that every kind has.
fn outline_step(checkpoint: &Checkpoint, placed: &Placed, position: usize) -> DeviceStep {
    DeviceStep {
        pid: checkpoint.processes[placed.process].pid as i32,
        position,
        kind: placed.kind,
        file: placed.file.0,
        fds: placed.fds.clone(),
        path: String::new(),
        gpu: None,
        buffers: 0,
        content_bytes: 0,
    }
}
