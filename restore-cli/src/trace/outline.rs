//! An outline as JSON: the first line of a trace, and what `thaw plan --json` prints.
//!
//! Steps go by their labels (`28866.1`), so that a line means something without the others.

use std::collections::BTreeMap;

use gpu_kfd::{GpuId, HostGpuId};
use restore_core::{DeviceStep, Edge, EdgeReason, Outline, OutlineProcess, StepId, StepKind};
use serde::{Deserialize, Serialize};

/// Version of the format: it grows when a reader of the old one would misunderstand the new one.
pub(crate) const VERSION: u32 = 1;
/// Says what the file is.
const MARK: &str = "thaw";

/// Why a text is no outline.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutlineFault {
    /// It is of something else.
    #[error("it does not begin with {{\"trace\":\"{MARK}\"")]
    Mark,
    /// It is of a later version.
    #[error("version {found} of the format, and this program knows {VERSION}")]
    Version {
        /// The version.
        found: u32,
    },
    /// Two steps have one label.
    #[error("step {label} is there twice")]
    Twice {
        /// The label.
        label: String,
    },
    /// A label of a step is not that of its process and position.
    #[error("a step of process {pid} at position {position} is called {label}")]
    Label {
        /// The process.
        pid: i32,
        /// The position.
        position: usize,
        /// The label.
        label: String,
    },
    /// An edge names a step that does not exist.
    #[error("an edge names step {label}, which is not there")]
    Edge {
        /// The label.
        label: String,
    },
}

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Head {
    trace: String,
    version: u32,
    processes: Vec<Process>,
    steps: Vec<Step>,
    edges: Vec<Wait>,
    gpus: Vec<Gpu>,
    assumptions: Vec<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct Process {
    pid: i32,
    ppid: i32,
    memory_bytes: u64,
    gpu_bytes: u64,
}

#[derive(Debug, Deserialize, Serialize)]
struct Step {
    step: String,
    process: i32,
    position: usize,
    kind: Kind,
    file: u32,
    fds: Vec<i32>,
    path: String,
    gpu: Option<Gpu>,
    buffers: usize,
    content_bytes: u64,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Kfd,
    Render,
    DmaBuf,
    Receive,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Gpu {
    saved: u32,
    here: u32,
}

#[derive(Debug, Deserialize, Serialize)]
struct Wait {
    from: String,
    to: String,
    #[serde(flatten)]
    reason: Reason,
}

/// The number of the memory, or the id of the file.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Reason {
    Buffer(u64),
    Descriptor(u32),
}

impl From<(GpuId, HostGpuId)> for Gpu {
    fn from((saved, here): (GpuId, HostGpuId)) -> Self {
        Self { saved: saved.0, here: here.0 }
    }
}

impl From<Gpu> for (GpuId, HostGpuId) {
    fn from(gpu: Gpu) -> Self {
        (GpuId(gpu.saved), HostGpuId(gpu.here))
    }
}

impl Head {
    /// What is written of an outline.
    pub(super) fn new(outline: &Outline) -> Self {
        let processes = outline.processes.iter().map(|process| Process {
            pid: process.pid,
            ppid: process.ppid,
            memory_bytes: process.memory_bytes,
            gpu_bytes: process.gpu_bytes,
        });
        let steps = outline.steps.iter().enumerate().map(|(number, step)| Step {
            step: outline.label(StepId(number)),
            process: step.pid,
            position: step.position,
            kind: Kind::from(step.kind),
            file: step.file,
            fds: step.fds.clone(),
            path: step.path.clone(),
            gpu: step.gpu.map(Gpu::from),
            buffers: step.buffers,
            content_bytes: step.content_bytes,
        });
        let edges = outline.edges.iter().map(|edge| Wait {
            from: outline.label(edge.from),
            to: outline.label(edge.to),
            reason: Reason::from(&edge.reason),
        });
        Self {
            trace: MARK.to_owned(),
            version: VERSION,
            processes: processes.collect(),
            steps: steps.collect(),
            edges: edges.collect(),
            gpus: outline.gpus.iter().copied().map(Gpu::from).collect(),
            assumptions: outline.assumptions.clone(),
        }
    }

    /// What was written, with the labels resolved. Whether the outline obeys the contract is for
    /// its judge to say.
    pub(super) fn outline(self) -> Result<Outline, OutlineFault> {
        if self.trace != MARK {
            return Err(OutlineFault::Mark);
        }
        if self.version != VERSION {
            return Err(OutlineFault::Version { found: self.version });
        }
        let mut outline = Outline {
            gpus: self.gpus.into_iter().map(Into::into).collect(),
            assumptions: self.assumptions,
            ..Outline::default()
        };
        outline.processes.extend(self.processes.into_iter().map(|process| OutlineProcess {
            pid: process.pid,
            ppid: process.ppid,
            memory_bytes: process.memory_bytes,
            gpu_bytes: process.gpu_bytes,
        }));
        for step in self.steps {
            add_step(&mut outline, step)?;
        }
        let labels = labels(&outline);
        for edge in self.edges {
            let find = |label: &str| match labels.get(label) {
                Some(&step) => Ok(step),
                None => Err(OutlineFault::Edge { label: label.to_owned() }),
            };
            let (from, to) = (find(&edge.from)?, find(&edge.to)?);
            outline.edges.push(Edge { from, to, reason: edge.reason.into() });
        }
        if labels.len() < outline.steps.len() {
            let mut all = (0..outline.steps.len()).map(StepId);
            let twice = all.find(|&step| labels[&outline.label(step)] != step);
            let label = twice.map(|step| outline.label(step)).unwrap_or_default();
            return Err(OutlineFault::Twice { label });
        }
        Ok(outline)
    }
}

fn add_step(outline: &mut Outline, step: Step) -> Result<(), OutlineFault> {
    outline.steps.push(DeviceStep {
        pid: step.process,
        position: step.position,
        kind: step.kind.into(),
        file: step.file,
        fds: step.fds,
        path: step.path,
        gpu: step.gpu.map(Into::into),
        buffers: step.buffers,
        content_bytes: step.content_bytes,
    });
    if step.position < usize::MAX && step.step == outline.label(StepId(outline.steps.len() - 1)) {
        return Ok(());
    }
    let (pid, position, label) = (step.process, step.position, step.step);
    Err(OutlineFault::Label { pid, position, label })
}

/// An outline as one line of JSON.
pub(crate) fn json(outline: &Outline) -> serde_json::Result<String> {
    serde_json::to_string(&Head::new(outline))
}

/// The step of each label.
pub(crate) fn labels(outline: &Outline) -> BTreeMap<String, StepId> {
    (0..outline.steps.len()).map(StepId).map(|step| (outline.label(step), step)).collect()
}

impl From<StepKind> for Kind {
    fn from(kind: StepKind) -> Self {
        match kind {
            StepKind::Kfd => Self::Kfd,
            StepKind::Render => Self::Render,
            StepKind::DmaBuf => Self::DmaBuf,
            StepKind::Receive => Self::Receive,
        }
    }
}

impl From<Kind> for StepKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Kfd => Self::Kfd,
            Kind::Render => Self::Render,
            Kind::DmaBuf => Self::DmaBuf,
            Kind::Receive => Self::Receive,
        }
    }
}

impl From<&EdgeReason> for Reason {
    fn from(reason: &EdgeReason) -> Self {
        match *reason {
            EdgeReason::Buffer(number) => Self::Buffer(number),
            EdgeReason::Descriptor(file) => Self::Descriptor(file),
        }
    }
}

impl From<Reason> for EdgeReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Buffer(number) => Self::Buffer(number),
            Reason::Descriptor(file) => Self::Descriptor(file),
        }
    }
}
