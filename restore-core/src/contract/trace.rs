//! What happened in a restore, as a trace holds it.

use super::outline::StepId;

/// What a worker did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TraceStage {
    /// A task came to be, with its children.
    Create,
    /// A device step.
    Device,
    /// Contents of buffers that a step made.
    Contents,
    /// Memory, descriptors, threads.
    Build,
    /// The final state, in which the task is stopped.
    Freeze,
    /// GPU queues of a process were started.
    Resume,
    /// A task was let go.
    Release,
}

impl TraceStage {
    /// Name for people and traces.
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Device => "device",
            Self::Contents => "contents",
            Self::Build => "build",
            Self::Freeze => "freeze",
            Self::Resume => "resume",
            Self::Release => "release",
        }
    }
}

/// One thing that was done for one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceEvent {
    /// What.
    pub stage: TraceStage,
    /// The process.
    pub pid: i32,
    /// The device step, if it belongs to one.
    pub step: Option<StepId>,
    /// Who did it: workers first, then those who copy, then the coordinator.
    pub worker: usize,
    /// Begin on the monotonic clock, in nanoseconds.
    pub begin_ns: u64,
    /// End on the same clock.
    pub end_ns: u64,
    /// Whether it succeeded, or the error.
    pub outcome: Result<(), String>,
}
