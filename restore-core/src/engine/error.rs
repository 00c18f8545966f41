//! Why a restore fails: of a step of one process, of a whole restore, and what was left.

use std::path::PathBuf;

use gpu_kfd::DeviceError;
use nix::errno::Errno;

use super::devices::copy::CopyError;
use super::threads::XstateError;
use super::worker::Stage;
use crate::contract::{ScheduleError, StepId};
use crate::files::FilesError;
use crate::remote::freeze::FreezeError;
use crate::remote::ring::CallError;
use crate::remote::spawn::GuardError;

/// Why one step of one process failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// A system call made by the process.
    #[error(transparent)]
    Call(#[from] CallError),
    /// Its final state could not be set.
    #[error(transparent)]
    Freeze(#[from] FreezeError),
    /// A child that was just made cannot be referred to.
    #[error("cannot open a pidfd of new process {pid}: {errno}")]
    Pidfd {
        /// The child.
        pid: i32,
        /// The kernel's error.
        errno: Errno,
    },
    /// A pages image cannot be read, or is not as the dump wrote it.
    #[error("cannot read {}", path.display())]
    PagesFile {
        /// The image.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// Memory contents could not be written.
    #[error("cannot write memory of process {pid} at {address:#x}: {errno}")]
    Fill {
        /// The process.
        pid: i32,
        /// Where the transfer began.
        address: u64,
        /// The kernel's error; `EFAULT` also means that the pages image is too short.
        errno: Errno,
    },
    /// A zombie or helper did not end.
    #[error("process {pid} did not end within {seconds} s")]
    NotEnded {
        /// The process.
        pid: i32,
        /// The limit.
        seconds: u64,
    },
    /// A POSIX timer id could not be had.
    #[error("process {pid} cannot have a timer with id {id}")]
    TimerId {
        /// The process.
        pid: i32,
        /// The id.
        id: u32,
    },
    /// `oom_score_adj` could not be set.
    #[error(
        "cannot set oom_score_adj of process {pid} to {wanted} (lowering needs CAP_SYS_RESOURCE)"
    )]
    OomScore {
        /// The process.
        pid: i32,
        /// The value.
        wanted: i32,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// Vector state does not fit this processor.
    #[error("thread {tid}")]
    Xstate {
        /// The thread.
        tid: i32,
        /// Why.
        source: XstateError,
    },
    /// A device call.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The driver gave a buffer another handle than it had.
    #[error("{} gave a buffer handle {got}, it had {wanted}", path.display())]
    Handle {
        /// The render node.
        path: PathBuf,
        /// As it was.
        wanted: u32,
        /// As it would be.
        got: u32,
    },
    /// A mapping shows a buffer that the driver does not let a process map.
    #[error(
        "the driver lets nobody map the buffer at {address:#x} of process {pid} (GEM_MMAP: EPERM)"
    )]
    NotShown {
        /// The process.
        pid: i32,
        /// Where it was mapped.
        address: u64,
    },
    /// A descriptor could not be copied.
    #[error("cannot copy a descriptor (see RLIMIT_NOFILE)")]
    Duplicate {
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The stop of a process that was stopped could not be queued.
    #[error("cannot stop process {pid}: {errno}")]
    Stop {
        /// The process.
        pid: i32,
        /// The kernel's error.
        errno: Errno,
    },
}

/// Why a restore failed. Everything was undone unless [`Failure::left`] says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A step of one process.
    #[error("process {pid}, stage {}: {source}", stage.name())]
    Step {
        /// The process.
        pid: i32,
        /// What was under way.
        stage: Stage,
        /// What failed.
        source: StepError,
    },
    /// A device file of one process.
    #[error("process {pid}, device file {label} ({path}): {source}")]
    Device {
        /// The process.
        pid: i32,
        /// Which of its steps, as `thaw plan` names it.
        label: String,
        /// The device.
        path: String,
        /// What failed.
        source: StepError,
    },
    /// The same as a worker sees it: it knows the number of its step, not its name.
    #[doc(hidden)]
    #[error("device step {}: {source}", step.0)]
    DeviceStep {
        /// The step.
        step: StepId,
        /// What failed.
        source: StepError,
    },
    /// The order of device steps is not a legal one; it is checked when the plan is made.
    #[error(transparent)]
    Schedule(ScheduleError),
    /// Contents of buffers.
    #[error("process {pid}, contents of device file {label}: {source}")]
    Contents {
        /// The process.
        pid: i32,
        /// The step that made the buffers.
        label: String,
        /// What failed.
        source: CopyError,
    },
    /// The GPU queues of a process could not be started again.
    #[error("process {pid}: its GPU queues cannot be resumed: {source}")]
    Resume {
        /// The process.
        pid: i32,
        /// The driver's error.
        source: DeviceError,
    },
    /// A device step or a copy did not end in time.
    #[error("{what} did not end within {seconds} s")]
    Overdue {
        /// What was waited for.
        what: String,
        /// The limit.
        seconds: u64,
    },
    /// A file, pipe or other shared object.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// An id that a task needs belongs to somebody else.
    #[error("id {id}, which the tree needs, is in use by another task")]
    IdTaken {
        /// The process or thread id.
        id: i32,
    },
    /// The root could not be made.
    #[error("cannot create process {pid}: {errno} ({help})")]
    Root {
        /// The root's pid.
        pid: i32,
        /// The kernel's error.
        errno: Errno,
        /// What an operator can do.
        help: &'static str,
    },
    /// The restorer itself could not be set up.
    #[error("{what}: {source}")]
    Setup {
        /// What was attempted.
        what: &'static str,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// A vdso of the checkpoint differs from this kernel's although its size is the same.
    #[error("the vdso of process {pid} differs from this kernel's at {address:#x}")]
    Vdso {
        /// The process.
        pid: i32,
        /// First page that differs.
        address: u64,
    },
    /// The guard, which makes the release one moment, could not be started.
    #[error(transparent)]
    Guard(#[from] GuardError),
    /// A worker ended without a word; a bug.
    #[error("a worker thread ended unexpectedly")]
    WorkerLost,
}

/// A failed restore, and what could not be undone.
#[derive(Debug)]
pub struct Failure {
    /// The first error.
    pub error: RestoreError,
    /// Processes that could not be killed and reaped.
    pub left: Vec<i32>,
}
