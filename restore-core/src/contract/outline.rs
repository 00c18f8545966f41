//! The device steps of a restore as values to look at: what a dry run prints, a trace begins with,
//! and a schedule chooses from.
//!
//! An outline knows no image and no target. It says which steps there are, which must wait for
//! which, and nothing of how they are done.

use gpu_kfd::{GpuId, HostGpuId};

/// Number of a step: its place in [`Outline::steps`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepId(pub usize);

/// What a step restores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepKind {
    /// An open `/dev/kfd` with the state of its process.
    Kfd,
    /// An open render node with its buffers.
    Render,
    /// A descriptor of a shared buffer.
    DmaBuf,
    /// A device file that another process restores: its descriptor is received.
    Receive,
}

impl StepKind {
    /// Name for people and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kfd => "kfd",
            Self::Render => "render",
            Self::DmaBuf => "dma-buf",
            Self::Receive => "receive",
        }
    }
}

/// One device file of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStep {
    /// The process.
    pub pid: i32,
    /// Place among the steps of its process, from 0: they are done in this order, one at a time.
    pub position: usize,
    /// What is restored.
    pub kind: StepKind,
    /// Id of the open file in the images.
    pub file: u32,
    /// Descriptors of the process that refer to it, ascending; none if only mappings do.
    pub fds: Vec<i32>,
    /// Device path on this host; for a dma-buf a name of the buffer.
    pub path: String,
    /// The GPU: as saved and here; `None` for `/dev/kfd`.
    pub gpu: Option<(GpuId, HostGpuId)>,
    /// Buffers that the step makes or imports.
    pub buffers: usize,
    /// Bytes of contents that are copied into buffers that it makes.
    pub content_bytes: u64,
}

/// Why a step waits for another one of another process, or of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EdgeReason {
    /// It imports a buffer that the other one makes; the number of the memory.
    Buffer(u64),
    /// It receives the descriptor of a file that the other one opens; the id of the file.
    Descriptor(u32),
}

/// A step must have ended before another one begins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// What must have ended.
    pub from: StepId,
    /// What waits.
    pub to: StepId,
    /// Why.
    pub reason: EdgeReason,
}

/// A process of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutlineProcess {
    /// Its pid.
    pub pid: i32,
    /// Its parent's pid; 0 for the root.
    pub ppid: i32,
    /// Bytes of ordinary memory that are filled.
    pub memory_bytes: u64,
    /// Bytes of GPU memory that are filled.
    pub gpu_bytes: u64,
}

/// All device steps of a restore. Steps of one process follow each other by `position`; edges may
/// lead either way between processes, and a [`Scheduler`](super::Scheduler) refuses a cycle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// Parents before children.
    pub processes: Vec<OutlineProcess>,
    /// Grouped by process in the order of `processes`, each group in the order of `position`.
    pub steps: Vec<DeviceStep>,
    /// What waits for what beyond the order inside each process; sorted.
    pub edges: Vec<Edge>,
    /// Which GPU of this host each saved GPU becomes.
    pub gpus: Vec<(GpuId, HostGpuId)>,
    /// What the images do not say and was taken for granted, in words.
    pub assumptions: Vec<String>,
}

impl Outline {
    /// The step with a number.
    pub fn step(&self, id: StepId) -> &DeviceStep {
        &self.steps[id.0]
    }

    /// What must have ended before a step begins: the one before it in its process, and the
    /// sources of its edges.
    pub fn before(&self, id: StepId) -> impl Iterator<Item = StepId> + '_ {
        let in_process = (self.step(id).position > 0).then(|| StepId(id.0 - 1));
        let edges = self.edges.iter().filter(move |edge| edge.to == id).map(|edge| edge.from);
        in_process.into_iter().chain(edges)
    }

    /// A short name as in papers: `P` and `C` do not scale, so it is the pid and the position,
    /// counted from 1: `28866.1`.
    pub fn label(&self, id: StepId) -> String {
        let step = self.step(id);
        format!("{}.{}", step.pid, step.position + 1)
    }
}
