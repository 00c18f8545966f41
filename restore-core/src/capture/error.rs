//! Why a dump fails, and what was left: the tree goes on as it was unless something here says
//! otherwise.

use std::io::ErrorKind;
use std::path::PathBuf;

use gpu_kfd::{ContentsError, DeviceError, TopologyError};
use nix::errno::Errno;

use super::gpu::UnpauseError;
use crate::refusal::Refusal;
use crate::remote::freeze::FreezeError;
use crate::remote::ring::CallError;

/// Why a tree was not dumped. It goes on as it was, and there are no images.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DumpError {
    /// The tree holds things that are not captured; it was not changed.
    #[error("the tree holds {} thing(s) that cannot be captured", .0.len())]
    Refused(Vec<Refusal>),
    /// There is no such process, or it has exited.
    #[error("there is no process {pid} that runs")]
    NoProcess {
        /// The pid asked for.
        pid: i32,
    },
    /// The root is in a session of others.
    #[error("process {pid} is in session {sid}, whose leader is not in the tree (use --shell-job)")]
    ForeignSession {
        /// The root.
        pid: i32,
        /// Its session.
        sid: i32,
    },
    /// A process is in a session or group whose leader is outside of its pid namespace: there it
    /// has no number that images could hold.
    #[error("the session or group of process {pid} is led from outside of its pid namespace")]
    OutsideSession {
        /// The process.
        pid: i32,
    },
    /// `/proc` is that of another pid namespace, or nothing is mounted there.
    #[error("/proc does not show this pid namespace")]
    NoProc,
    /// A process is traced by another program.
    #[error("process {pid} is traced by process {tracer}: end the tracer first")]
    Traced {
        /// The process.
        pid: i32,
        /// Who traces it.
        tracer: i32,
    },
    /// The first thread of a process has ended, others have not.
    #[error("the first thread of process {pid} has ended while others run")]
    LeaderGone {
        /// The process.
        pid: i32,
    },
    /// A process was killed while it was dumped.
    #[error("process {pid} was killed while it was dumped")]
    Died {
        /// The process.
        pid: i32,
    },
    /// The control group that the caller names cannot be frozen.
    #[error("{} is no control group of version 2 that can be frozen", group.display())]
    NoFreezer {
        /// Its folder.
        group: PathBuf,
    },
    /// The tree is frozen, together with others or by a group around its own.
    #[error("control group {} is frozen: thaw it, or name it (--freeze-cgroup)", group.display())]
    Frozen {
        /// Its folder.
        group: PathBuf,
    },
    /// New tasks appeared again and again.
    #[error("the tree did not come to rest in {rounds} rounds")]
    Restless {
        /// How often it was looked at.
        rounds: usize,
    },
    /// The image directory holds images.
    #[error("{} is there already: dump into a directory without images", path.display())]
    Occupied {
        /// The first image found.
        path: PathBuf,
    },
    /// Something could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// A file of `/proc` does not look as it should.
    #[error("{} has contents that are not understood", path.display())]
    Unexpected {
        /// The file.
        path: PathBuf,
    },
    /// Something could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// A system call on a process failed.
    #[error("cannot {what} of process {pid}: {errno}")]
    Os {
        /// What was attempted.
        what: &'static str,
        /// The process.
        pid: i32,
        /// The kernel's error.
        errno: Errno,
    },
    /// A descriptor could not be looked at.
    #[error("cannot look at descriptor {fd} of process {pid}: {errno}")]
    Descriptor {
        /// The process.
        pid: i32,
        /// The descriptor.
        fd: i32,
        /// The kernel's error.
        errno: Errno,
    },
    /// Memory could not be read.
    #[error("cannot read memory of process {pid} at {address:#x}: {errno}")]
    Memory {
        /// The process.
        pid: i32,
        /// Where the transfer began.
        address: u64,
        /// The kernel's error.
        errno: Errno,
    },
    /// Shared memory could not be read.
    #[error("cannot read shared memory {shmid}: {errno}")]
    Shared {
        /// Its number in the images.
        shmid: u32,
        /// The kernel's error.
        errno: Errno,
    },
    /// The contents of a pipe could not be copied.
    #[error("cannot copy the contents of pipe {pipe_id:#x}: {errno}")]
    Pipe {
        /// Its number in the images.
        pipe_id: u32,
        /// The kernel's error.
        errno: Errno,
    },
    /// A deleted file could not be read.
    #[error("cannot read deleted file {id}: {errno}")]
    Ghost {
        /// Its number in the images.
        id: u32,
        /// The kernel's error.
        errno: Errno,
    },
    /// A call on a device file failed.
    #[error("cannot capture GPU state of process {pid}")]
    Device {
        /// The process.
        pid: i32,
        /// Which call on which device, and why.
        source: Box<DeviceError>,
    },
    /// Contents of a buffer could not be read.
    #[error("cannot copy buffers of process {pid} to {image}")]
    Contents {
        /// The process.
        pid: i32,
        /// The image.
        image: String,
        /// Why.
        source: Box<ContentsError>,
    },
    /// The GPUs of this host could not be listed.
    #[error("cannot read the topology of the GPUs")]
    Topology {
        /// Why.
        source: Box<TopologyError>,
    },
    /// A process has a GPU that this host does not show.
    #[error("process {pid} has GPU {gpu_id:#x}, which is not in the topology of this host")]
    UnknownGpu {
        /// The process.
        pid: i32,
        /// The id by which it knows the GPU.
        gpu_id: u32,
    },
    /// Queues that were stopped could not be started again.
    #[error(transparent)]
    Unpause(#[from] UnpauseError),
    /// A thread uses processor state that the images have no place for.
    #[error("thread {tid} uses processor state {components:#x}, which images cannot hold")]
    Xstate {
        /// The thread.
        tid: i32,
        /// XSAVE components.
        components: u64,
    },
    /// No address range is free in all processes.
    #[error("no {needed_bytes} bytes of address space are free in all processes")]
    NoAddressSpace {
        /// Size of the shared region.
        needed_bytes: u64,
    },
    /// A process has no `syscall` instruction mapped.
    #[error("process {pid} has no system-call instruction mapped")]
    NoInstruction {
        /// The process.
        pid: i32,
    },
    /// Tracing a task failed.
    #[error(transparent)]
    Trace(#[from] FreezeError),
    /// A question to a process was not answered.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It took longer than the caller allows.
    #[error("the dump did not end within {seconds} s")]
    Timeout {
        /// The limit.
        seconds: u64,
    },
    /// It was interrupted by a signal, or whoever started it has gone.
    #[error("given up: it was interrupted, or whoever asked for it has gone")]
    Aborted,
    /// A step failed because a test wanted it to.
    #[error("step {step} ({what}) fails on purpose")]
    Injected {
        /// Its number.
        step: u32,
        /// What it is.
        what: &'static str,
    },
    /// A thread of ours ended without a word; a bug.
    #[error("a worker thread ended unexpectedly")]
    WorkerLost,
}

impl DumpError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(_) => "unsupported.tree",
            Self::NoProcess { .. } => "dump.no-process",
            Self::ForeignSession { .. } => "dump.foreign-session",
            Self::OutsideSession { .. } => "dump.outside-session",
            Self::NoProc => "dump.no-proc",
            Self::Traced { .. } => "dump.traced",
            Self::LeaderGone { .. } => "dump.leader-gone",
            Self::Died { .. } => "dump.died",
            Self::NoFreezer { .. } => "dump.no-freezer",
            Self::Frozen { .. } => "dump.frozen",
            Self::Restless { .. } => "dump.restless",
            Self::Occupied { .. } => "dump.occupied",
            Self::Read { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                "dump.denied"
            }
            Self::Read { source, .. } if is_descriptors(source) => "dump.descriptors",
            Self::Read { .. } => "dump.unreadable",
            Self::Unexpected { .. } => "dump.not-understood",
            Self::Write { source, .. } if source.kind() == ErrorKind::StorageFull => {
                "dump.no-space"
            }
            Self::Write { .. } => "dump.write",
            Self::Os { errno: Errno::EPERM | Errno::EACCES, .. } => "dump.denied",
            Self::Os { .. } => "dump.call",
            Self::Descriptor { .. } => "dump.descriptor",
            Self::Memory { .. } => "dump.memory",
            Self::Shared { .. } => "dump.shared-memory",
            Self::Pipe { .. } => "dump.pipe",
            Self::Ghost { .. } => "dump.deleted-file",
            Self::Device { source, .. } => source.code(),
            Self::Contents { source, .. } => source.code(),
            Self::Topology { source, .. } => source.code(),
            Self::UnknownGpu { .. } => "dump.unknown-gpu",
            Self::Unpause(error) => error.code(),
            Self::Xstate { .. } => "dump.processor-state",
            Self::NoAddressSpace { .. } => "dump.address-space",
            Self::NoInstruction { .. } => "dump.no-syscall",
            Self::Trace(error) => error.code(),
            Self::Call(error) => error.code(),
            Self::Timeout { .. } => "dump.timeout",
            Self::Aborted => "dump.aborted",
            Self::Injected { .. } => "dump.injected",
            Self::WorkerLost => "dump.worker-lost",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Refused(_) => Some("see what is said of each of them"),
            Self::NoProcess { .. } => {
                Some("name a process that runs, by its pid in this pid namespace")
            }
            Self::ForeignSession { .. } => Some("use --shell-job"),
            Self::OutsideSession { .. } => {
                Some("start it in a session of its own (setsid) inside the namespace")
            }
            Self::NoProc => Some("mount that of this namespace: mount -t proc proc /proc"),
            Self::Traced { .. } => Some("end the tracer first"),
            Self::LeaderGone { .. } => Some("wait until the others have ended"),
            Self::Died { .. } => Some("look into the kernel's log: it may have run out of memory"),
            Self::NoFreezer { .. } => Some("name the folder of a group that has cgroup.freeze"),
            Self::Frozen { .. } => Some("thaw it, or name it (--freeze-cgroup)"),
            Self::Restless { .. } => {
                Some("name the control group of the tree with --freeze-cgroup")
            }
            Self::Occupied { .. } => Some("dump into a directory without images"),
            Self::Read { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
                Some("run as root, or with CAP_SYS_PTRACE and CAP_SYS_ADMIN")
            }
            Self::Read { source, .. } if is_descriptors(source) => {
                Some("raise the limit of open files (ulimit -n)")
            }
            Self::Unexpected { .. } => Some("report it, with the version of the kernel"),
            Self::Write { source, .. } if source.kind() == ErrorKind::StorageFull => {
                Some("make room in the file system of the images, or dump to another")
            }
            Self::Write { source, .. } if source.kind() == ErrorKind::FileTooLarge => {
                Some("raise the limit of file sizes (ulimit -f)")
            }
            Self::Write { .. } => {
                Some("check that the directory is there, and that this user may write to it")
            }
            Self::Os { errno: Errno::EPERM | Errno::EACCES, .. } => {
                Some("run as root, or with CAP_SYS_PTRACE and CAP_SYS_ADMIN")
            }
            Self::Device { source, .. } => source.help(),
            Self::Contents { source, .. } => source.help(),
            Self::Topology { source, .. } => source.help(),
            Self::UnknownGpu { .. } => Some("let the container see all of the tree's GPUs"),
            Self::Unpause(error) => error.help(),
            Self::Xstate { .. } => {
                Some("have the program not use it, for instance by another build")
            }
            Self::NoAddressSpace { .. } => {
                Some("dump fewer processes at a time: they leave too little in common")
            }
            Self::NoInstruction { .. } => Some("run the program with a vdso"),
            Self::Trace(error) => error.help(),
            Self::Call(error) => error.help(),
            Self::Timeout { .. } => Some("allow more with --timeout, or none"),
            Self::Aborted => Some("start it again when it is wanted"),
            Self::WorkerLost => Some("report it: this is a bug of thaw"),
            Self::Read { .. }
            | Self::Os { .. }
            | Self::Descriptor { .. }
            | Self::Memory { .. }
            | Self::Shared { .. }
            | Self::Pipe { .. }
            | Self::Ghost { .. }
            | Self::Injected { .. } => None,
        }
    }
}

/// Whether a call failed since no descriptor was left.
fn is_descriptors(error: &std::io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE))
}

/// Why a tree is not as it was before the dump.
#[derive(Debug, thiserror::Error)]
pub enum UndoError {
    /// A task could not be let go.
    #[error(transparent)]
    Trace(#[from] FreezeError),
    /// Queues that were stopped could not be started again.
    #[error(transparent)]
    Queues(#[from] UnpauseError),
}

impl UndoError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Trace(_) => "undo.task",
            Self::Queues(error) => error.code(),
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Trace(_) => Some("continue what is stopped (kill -CONT), and look at it"),
            Self::Queues(error) => error.help(),
        }
    }
}

/// A failed dump.
#[derive(Debug)]
pub struct DumpFailure {
    /// The first error.
    pub error: DumpError,
    /// What went wrong while the tree was let go, if something did: it may not be as it was.
    pub undo: Option<UndoError>,
    /// Steps that were taken.
    pub steps: u32,
}
