//! Why a restore fails: of a step of one process, of a whole restore, and what was left.

use std::fmt;
use std::path::PathBuf;

use criu_image::{ManifestError, damage};
use gpu_kfd::DeviceError;
use nix::errno::Errno;

use super::devices::copy::CopyError;
use super::threads::XstateError;
use super::worker::Stage;
use crate::contract::{ScheduleError, StepId};
use crate::files::{FilesError, OpenError};
use crate::remote::freeze::FreezeError;
use crate::remote::ring::CallError;
use crate::remote::spawn::GuardError;
use crate::stop::Stopped;

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

impl StepError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Call(error) => error.code(),
            Self::Freeze(error) => error.code(),
            Self::Pidfd { .. } => "restore.pidfd",
            Self::PagesFile { source, .. } => {
                damage(source).map_or("restore.pages-file", ManifestError::code)
            }
            Self::Fill { errno: Errno::ENOMEM, .. } => "restore.no-memory",
            Self::Fill { .. } => "restore.memory",
            Self::NotEnded { .. } => "restore.not-ended",
            Self::TimerId { .. } => "restore.timer-id",
            Self::OomScore { .. } => "restore.oom-score",
            Self::Xstate { source, .. } => source.code(),
            Self::Device(error) => error.code(),
            Self::Handle { .. } => "restore.gpu-handle",
            Self::NotShown { .. } => "restore.gpu-mapping",
            Self::Duplicate { .. } => "restore.descriptors",
            Self::Stop { .. } => "restore.stop",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Call(error) => error.help(),
            Self::Freeze(error) => error.help(),
            Self::Pidfd { .. } => Some("raise the limit of open files (ulimit -n)"),
            Self::PagesFile { .. } => {
                Some("copy the image again from where the dump wrote it, or dump again")
            }
            Self::Fill { errno: Errno::ENOMEM, .. } => {
                Some("free memory, or raise the limit of the control group")
            }
            Self::Fill { .. } => {
                Some("look whether the pages image is whole, and memory is free (kernel's log)")
            }
            Self::NotEnded { .. } => Some("look whether the machine is overloaded"),
            Self::TimerId { .. } => Some("use Linux 6.15 or newer, which lets timers have any id"),
            Self::OomScore { .. } => Some("run as root, or with CAP_SYS_RESOURCE"),
            Self::Xstate { source, .. } => source.help(),
            Self::Device(error) => error.help(),
            Self::Handle { .. } => {
                Some("report it: buffers get their handles by the order in which they are made")
            }
            Self::NotShown { .. } => Some("dump when the program does not map that buffer"),
            Self::Duplicate { .. } => Some("raise the limit of open files (ulimit -n)"),
            Self::Stop { .. } => None,
        }
    }
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
    #[error("id {id}, which the tree needs, is in use by {user}")]
    IdTaken {
        /// The process or thread id.
        id: i32,
        /// Who has it.
        user: IdUser,
    },
    /// The root could not be made.
    #[error("cannot create process {pid}: {errno}{}", root_advised(*.errno))]
    Root {
        /// The root's pid.
        pid: i32,
        /// The kernel's error.
        errno: Errno,
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
    /// The caller gave the restore up (`Options::abort`) before the tree was let go. It can be
    /// started again as it was.
    #[error("the restore was given up")]
    Cancelled,
    /// The restore took longer than the caller allows (`Options::timeout`). It can be started again
    /// as it was, with more time; the last events before tell what it waited for.
    #[error("the restore did not end within {seconds} s")]
    Timeout {
        /// The limit.
        seconds: u64,
    },
    /// A worker ended without a word; a bug.
    #[error("a worker thread ended unexpectedly")]
    WorkerLost,
}

impl RestoreError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Step { source, .. } => source.code(),
            Self::Device { source, .. } => source.code(),
            Self::DeviceStep { source, .. } => source.code(),
            Self::Schedule(error) => error.code(),
            Self::Contents { source, .. } => source.code(),
            Self::Resume { .. } => "restore.gpu-resume",
            Self::Overdue { .. } => "restore.overdue",
            Self::Files(error) => error.code(),
            Self::IdTaken { .. } => "host.id-taken",
            Self::Root { errno: Errno::EPERM, .. } => "host.no-privilege",
            Self::Root { .. } => "restore.root",
            Self::Setup { .. } => "restore.setup",
            Self::Vdso { .. } => "host.vdso",
            Self::Guard(error) => error.code(),
            Self::Cancelled => "restore.cancelled",
            Self::Timeout { .. } => "restore.timeout",
            Self::WorkerLost => "restore.worker-lost",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Step { source, .. } => source.help(),
            Self::Device { source, .. } => source.help(),
            Self::DeviceStep { source, .. } => source.help(),
            Self::Schedule(error) => error.help(),
            Self::Contents { source, .. } => source.help(),
            Self::Resume { .. } => {
                Some("look into the kernel's log: the GPU may be short of queues, or reset")
            }
            Self::Overdue { .. } => Some("look whether a GPU or a disk hangs (kernel's log)"),
            Self::Files(error) => error.help(),
            Self::IdTaken { .. } => Some(
                "end it, or restore in a new pid namespace (unshare --pid --fork --mount-proc)",
            ),
            Self::Root { errno, .. } => root_advice(*errno),
            Self::Setup { .. } => Some("raise the limits that it names, or free memory"),
            Self::Vdso { .. } => Some("restore on the kernel of the dump"),
            Self::Guard(error) => error.help(),
            Self::Cancelled => Some("give the same command again when the tree is wanted"),
            Self::Timeout { .. } => Some("allow more with --timeout, or none"),
            Self::WorkerLost => Some("report it: this is a bug of thaw"),
        }
    }
}

impl From<Stopped> for RestoreError {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Cancelled => Self::Cancelled,
            Stopped::Timeout { seconds } => Self::Timeout { seconds },
        }
    }
}

impl From<OpenError> for RestoreError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Files(error) => error.into(),
            OpenError::Stopped(stopped) => stopped.into(),
        }
    }
}

/// What helps where the root could not be made.
fn root_advice(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::EPERM => Some("choosing a pid needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN"),
        Errno::EINVAL => Some("the pid may be beyond kernel.pid_max: raise that"),
        Errno::EAGAIN => Some("raise the limit of processes (ulimit -u, pids.max)"),
        Errno::ENOMEM => Some("free memory"),
        _ => None,
    }
}

/// The same as the end of a text.
fn root_advised(errno: Errno) -> String {
    root_advice(errno).map_or_else(String::new, |advice| format!(" ({advice})"))
}

/// Who has an id that a tree needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdUser {
    /// The process with this pid.
    Process {
        /// The pid.
        pid: i32,
        /// Its name, as in `/proc/<pid>/comm`.
        name: String,
    },
    /// A thread of this process.
    Thread {
        /// Pid of the process.
        pid: i32,
        /// The process's name.
        name: String,
    },
    /// Nobody whom `/proc` shows: a process group or session whose leader has gone has it, or
    /// another pid namespace's `/proc` is mounted.
    Hidden,
}

impl IdUser {
    /// Looks who has an id now.
    pub fn of(id: i32) -> Self {
        let read = |path: String| std::fs::read(path).ok();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
        let status = read(format!("/proc/{id}/status")).map(text).unwrap_or_default();
        let pid = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
        let name = |pid: i32| read(format!("/proc/{pid}/comm")).map(text).unwrap_or_default();
        match pid {
            Some(pid) if pid == id => Self::Process { pid, name: name(pid) },
            Some(pid) => Self::Thread { pid, name: name(pid) },
            None => Self::Hidden,
        }
    }
}

impl fmt::Display for IdUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, name } => write!(f, "process {pid} ({name})"),
            Self::Thread { pid, name } => write!(f, "a thread of process {pid} ({name})"),
            Self::Hidden => f.write_str("a process group, a session, or a task that is hidden"),
        }
    }
}

/// A failed restore, and what could not be undone.
#[derive(Debug)]
pub struct Failure {
    /// The first error.
    pub error: RestoreError,
    /// Processes that could not be killed and reaped.
    pub left: Vec<i32>,
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::{IdUser, RestoreError};

    #[test]
    fn who_has_an_id_is_named() {
        let pid = std::process::id() as i32;
        let tid = nix::unistd::gettid().as_raw();
        let name = std::fs::read_to_string("/proc/self/comm").expect("/proc is there");
        let own = IdUser::of(pid).to_string();
        assert_eq!(own, format!("process {pid} ({})", name.trim_end()));
        // Each test has a thread of its own.
        let thread = IdUser::of(tid).to_string();
        assert_eq!(thread, format!("a thread of process {pid} ({})", name.trim_end()));
        assert_eq!(IdUser::of(i32::MAX), IdUser::Hidden);
    }

    #[test]
    fn lack_of_privilege_to_choose_a_pid_has_a_code_and_help() {
        let error = RestoreError::Root { pid: 7, errno: Errno::EPERM };
        assert_eq!(error.code(), "host.no-privilege");
        assert!(error.help().is_some_and(|help| error.to_string().contains(help)), "{error}");
        assert_eq!(RestoreError::Root { pid: 7, errno: Errno::EIO }.code(), "restore.root");
    }
}
