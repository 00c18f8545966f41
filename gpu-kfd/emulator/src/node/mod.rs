//! A node that runs: its device files are served by threads of this process, in a mount namespace
//! of their own.

mod callers;
mod device;
mod fuse;
mod namespace;
mod raw;
mod run;
mod serve;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use crossbeam::channel::bounded;
use crossbeam::sync::Parker;
use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};

pub use device::Device;
pub use fuse::MountError;
pub use namespace::NamespaceError;
pub use run::{Preload, RunOptions};
use serve::{Control, Files, Plan, Resolver, Watch, keep};

use crate::call_log::CallLog;
use crate::fault::Faults;
use crate::products::{GPUS_MAX, Sysfs, Topology};

/// Why a node could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// More GPUs than there are minor numbers, or two with the same.
    #[error("{0} render nodes are not between 1 and {GPUS_MAX} different ones")]
    Gpus(usize),
    /// `/proc` shows another pid namespace than ours, or nothing.
    #[error("/proc does not show this process; mount the one of this pid namespace")]
    Proc,
    /// The device files cannot be served.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The namespace could not be set up.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The system refused something that it has for everybody.
    #[error("the node could not be set up")]
    System(#[source] Errno),
    /// A thread that serves ended at once.
    #[error("the node failed while it was set up: {0}")]
    Failed(String),
}

impl StartError {
    /// Its code, by which `docs/errors.md` lists it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Gpus(_) => "node.gpus",
            Self::Proc => "node.proc",
            Self::Mount(error) => error.code(),
            Self::Namespace(error) => error.code(),
            Self::Thread(_) => "node.thread",
            Self::System(_) => "node.system",
            Self::Failed(_) => "node.failed",
        }
    }

    /// What can be done about it, where there is something.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Gpus(_) => Some("ask for 1 to 8 GPUs with different minors"),
            Self::Proc => Some("mount the /proc of this pid namespace"),
            Self::Mount(error) => error.help(),
            Self::Namespace(error) => error.help(),
            Self::Thread(_) => Some("raise the limit of processes (ulimit -u)"),
            Self::System(_) => Some("run as root, or with CAP_SYS_ADMIN"),
            Self::Failed(_) => None,
        }
    }
}

/// What a node shows.
#[derive(Clone, Debug, Default)]
pub struct NodeFiles {
    /// Minor number of the render node of each GPU, in the order of the driver's.
    pub render_minors: Vec<u32>,
    /// The topology and whatever else is shown in `/sys`.
    pub sysfs: Sysfs,
}

impl NodeFiles {
    /// What a machine shows.
    #[must_use]
    pub fn of(topology: &Topology) -> Self {
        let render_minors = topology.gpus().iter().map(|gpu| gpu.render_minor).collect();
        Self { render_minors, sysfs: topology.sysfs() }
    }
}

/// A node that runs. It ends when this is dropped: calls that wait are answered with `ENODEV`,
/// later ones fail, and clients can do with the files nothing but close them.
#[derive(Debug)]
pub struct Node {
    control: Arc<Control>,
    keeper: Option<JoinHandle<()>>,
    resolver: Option<JoinHandle<()>>,
    namespace: Arc<File>,
}

impl Node {
    /// Starts a node whose device files `device` answers.
    ///
    /// # Errors
    /// What is missing: root, FUSE with passthrough (Linux 6.9), overlayfs, `/proc`.
    pub fn start(files: NodeFiles, device: Box<dyn Device>) -> Result<Self, StartError> {
        Self::start_watched(files, device, Faults::default(), None)
    }

    /// Starts a node whose calls fail or are late on purpose, and are noted.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub fn start_watched(
        files: NodeFiles,
        device: Box<dyn Device>,
        faults: Faults,
        log: Option<CallLog>,
    ) -> Result<Self, StartError> {
        let minors = files.render_minors;
        let different: std::collections::BTreeSet<u32> = minors.iter().copied().collect();
        if minors.is_empty() || minors.len() > GPUS_MAX as usize || different.len() != minors.len()
        {
            return Err(StartError::Gpus(minors.len()));
        }
        let own = std::fs::read_link("/proc/self").map_err(|_| StartError::Proc)?;
        if own.as_os_str() != std::process::id().to_string().as_str() {
            return Err(StartError::Proc);
        }
        let parker = Parker::new();
        let control = Arc::new(Control::new(parker.unparker().clone()));
        let (resolver, resolver_thread) = Resolver::start().map_err(StartError::Thread)?;
        let plan = Plan {
            device,
            files: Files::new(minors),
            sysfs: files.sysfs,
            resolver,
            control: Arc::clone(&control),
            parker,
            watch: Watch::new(faults, log),
        };
        let (ready, started) = bounded(1);
        let keeper = Builder::new()
            .name("kfd-keeper".into())
            .spawn(move || keep(plan, &ready))
            .map_err(StartError::Thread)?;
        let tid = match started.recv() {
            Ok(Ok(tid)) => tid,
            other => {
                // Both end by themselves: nothing serves.
                let _ = keeper.join();
                let _ = resolver_thread.join();
                let failure = control.failure().unwrap_or_else(|| "for no reason".into());
                return Err(other.map_or(StartError::Failed(failure), |result| {
                    result.expect_err("success was matched above")
                }));
            }
        };
        let (keeper, resolver) = (Some(keeper), Some(resolver_thread));
        let namespace = File::open(format!("/proc/self/task/{tid}/ns/mnt"));
        let namespace = namespace.map_err(|_| StartError::Proc);
        // From here on an error drops the node, which ends it.
        match namespace {
            Ok(namespace) => {
                let namespace = Arc::new(namespace);
                Ok(Self { control, keeper, resolver, namespace })
            }
            Err(error) => {
                control.stop();
                let _ = keeper.map(JoinHandle::join);
                let _ = resolver.map(JoinHandle::join);
                Err(error)
            }
        }
    }

    /// Why the node has ended by itself, if it has.
    pub fn failure(&self) -> Option<String> {
        self.control.failure()
    }

    /// A command that will see the node's files, in the current folder's namesake. What it leaves
    /// behind lives on; see [`Node::run`].
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>, preload: Preload) -> Command {
        run::command(&self.namespace, program, preload)
    }

    /// Runs a command of [`Node::command`] in a pid namespace of its own, with a `/proc` of its
    /// own, and waits for it. When it ends, everything that it started is killed; when the calling
    /// thread or this process ends in any way, all of it is.
    ///
    /// # Errors
    /// What starting a command fails with; `EPERM` if a namespace is refused.
    pub fn run(&self, command: Command, options: &RunOptions) -> io::Result<ExitStatus> {
        run::run(command, options)
    }

    /// Runs `body` in a thread of this process that sees the node's files.
    ///
    /// # Errors
    /// The thread could not be started or could not enter.
    ///
    /// # Panics
    /// If `body` does.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let inside = || -> io::Result<T> {
                unshare(CloneFlags::CLONE_FS)?;
                let folder = std::env::current_dir()?;
                setns(&*self.namespace, CloneFlags::CLONE_NEWNS)?;
                std::env::set_current_dir(folder)?;
                Ok(body())
            };
            let thread = Builder::new().name("kfd-client".into()).spawn_scoped(scope, inside)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.control.stop();
        // What goes wrong in them is noted in `control`.
        let _ = self.keeper.take().map(JoinHandle::join);
        let _ = self.resolver.take().map(JoinHandle::join);
    }
}
