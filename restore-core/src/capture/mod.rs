//! Captures a running process tree into images that upstream's restore and ours accept.
//!
//! The same machinery as a restore, read backwards: the tree is stopped (`tree`), read from
//! outside (`facts`, `proc`), refused if something cannot be captured (`identity`, `files`,
//! `memory`), asked for what only it can say (`ask`), written (`task`, `files`, `memory`,
//! `staging`), and let go. Until the images are in place, everything that was done to the tree is
//! undone when something fails.

mod ask;
mod error;
mod facts;
mod files;
mod gpu;
mod groups;
mod identity;
mod keeper;
mod memory;
mod proc;
pub(crate) mod raw;
mod staging;
mod steps;
mod task;
mod tree;
mod write;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use error::{DumpError, DumpFailure, UndoError};
pub use gpu::UnpauseError;
pub use keeper::{Ended, KeeperError, keep};
pub use memory::pages::PageCounts;
pub use steps::Mishap;

use crate::dumped::{DumpEvent, DumpPhase, Dumped};
use crate::summary::{ProcessSummary, Times};
use staging::Staging;
use steps::Steps;
use tree::Tree;

/// Largest deleted file that is saved unless the caller says otherwise, in bytes (CRIU 4.2's).
pub const GHOST_LIMIT_BYTES: u64 = 1 << 20;

/// What becomes of a tree that was dumped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leave {
    /// It is killed: it lives on in its images.
    #[default]
    Killed,
    /// It goes on.
    Running,
    /// It is stopped, as by SIGSTOP.
    Stopped,
}

/// What the caller may choose.
#[derive(Debug)]
pub struct DumpOptions {
    /// Pid of the root.
    pub root: i32,
    /// Directory for the images; it must exist and hold none.
    pub images: PathBuf,
    /// What becomes of the tree.
    pub leave: Leave,
    /// The root may be in a session of others (`--shell-job`).
    pub shell_job: bool,
    /// Files whose name is gone may be given a link beside it (`--link-remap`).
    pub link_remap: bool,
    /// Largest deleted file that is saved, in bytes (`--ghost-limit`).
    pub ghost_limit_bytes: u64,
    /// Leave control groups out (`--manage-cgroups=ignore`).
    pub ignore_cgroups: bool,
    /// Folder of the control group that holds the tree, to be frozen until all of it is held
    /// (`--freeze-cgroup`); otherwise that is done if the tree has a group of its own.
    pub freeze_group: Option<PathBuf>,
    /// Longest time for all of it.
    pub timeout: Option<Duration>,
    /// Most worker threads; 0 for as many as there are processors.
    pub workers_max: usize,
    /// What is to go wrong on purpose, for tests.
    pub mishap: Option<Mishap>,
    /// Readable when the dump is to be given up.
    pub abort: Option<OwnedFd>,
}

impl DumpOptions {
    /// The defaults for a tree and a directory.
    pub fn new(root: i32, images: impl Into<PathBuf>) -> Self {
        Self {
            root,
            images: images.into(),
            leave: Leave::default(),
            shell_job: false,
            link_remap: false,
            ghost_limit_bytes: GHOST_LIMIT_BYTES,
            ignore_cgroups: false,
            freeze_group: None,
            timeout: None,
            workers_max: 0,
            mishap: None,
            abort: None,
        }
    }
}

/// Dumps a tree.
///
/// The calling thread traces the tree, so it must live until this returns. If the process ends
/// before that, the kernel lets the tree go; [`keep`] makes sure that it is never let go half-way.
///
/// # Errors
/// [`DumpFailure`]; the tree goes on as it was, and no image is in place.
pub fn dump(
    mut options: DumpOptions,
    observe: &mut dyn FnMut(DumpEvent),
) -> Result<Dumped, Box<DumpFailure>> {
    let steps = Steps::new(options.mishap, options.timeout, options.abort.take());
    let mut tree = Tree::default();
    let result = carry_out(&options, &mut tree, &steps, observe);
    result.map_err(|error| {
        let undo = tree.release().err();
        Box::new(DumpFailure { error, undo, steps: steps.taken() })
    })
}

fn carry_out(
    options: &DumpOptions,
    tree: &mut Tree,
    steps: &Steps,
    observe: &mut dyn FnMut(DumpEvent),
) -> Result<Dumped, DumpError> {
    check_proc()?;
    let mut staging = Staging::begin(&options.images)?;
    raise_descriptor_limit();
    let _signals = ChildSignals::block();
    let begin = Instant::now();
    let mut phases = Times::begin();
    let group = groups::freezer::Frozen::group_of(options.root, options.freeze_group.as_deref())?;
    tree.freeze(options.root, steps)?;
    if let Some(group) = &group {
        group.thaw(); // every thread is held by us now
    }
    let freezing = begin.elapsed();
    let processes = tree.members.len();
    let threads = tree.members.iter().map(|member| member.threads.len()).sum();
    phases.note(DumpPhase::Freeze);
    observe(DumpEvent::Frozen { processes, threads });
    let summary = summary(tree);
    let times = write::Times { begin, freezing };
    let written = write::all(options, tree, staging.folder(), steps, times, &mut |event| {
        match event {
            DumpEvent::Read => phases.note(DumpPhase::Read),
            DumpEvent::Asked => phases.note(DumpPhase::Ask),
            _ => {}
        }
        observe(event);
    });
    // If one has died, that explains any error, and spoils what was read without one.
    tree.check_held()?;
    let written = written?;
    let bytes = staging.total_bytes();
    phases.note(DumpPhase::Write);
    observe(DumpEvent::Written { bytes });
    steps.next("let the tree go, or put the images in place")?;
    drop(group);
    let frozen = match options.leave {
        Leave::Killed => {
            staging.commit(steps)?;
            phases.note(DumpPhase::Place);
            observe(DumpEvent::Placed);
            tree.conclude(options.leave)?;
            phases.note(DumpPhase::LetGo);
            begin.elapsed()
        }
        Leave::Running | Leave::Stopped => {
            tree.conclude(options.leave)?;
            let frozen = begin.elapsed();
            phases.note(DumpPhase::LetGo);
            staging.commit(steps)?;
            phases.note(DumpPhase::Place);
            observe(DumpEvent::Placed);
            frozen
        }
    };
    written.links.keep();
    Ok(Dumped {
        processes,
        threads,
        bytes,
        freezing,
        frozen,
        steps: steps.taken(),
        tree: summary,
        phases: phases.parts,
        saving: written.figures.saving,
        pages: written.figures.pages,
        shared: written.figures.shared,
        gpu_bytes: written.gpu_bytes,
    })
}

fn summary(tree: &Tree) -> Vec<ProcessSummary> {
    let of = |member: &tree::Member| ProcessSummary {
        pid: member.pid,
        ppid: member.parent.map_or(0, |at| tree.members[at].pid),
        name: String::from_utf8_lossy(&member.stat.comm).into_owned(),
        threads: member.threads.len(),
    };
    tree.members.iter().map(of).collect()
}

/// Pids of another namespace would lead us to processes that were not meant.
fn check_proc() -> Result<(), DumpError> {
    let own = std::fs::read_link("/proc/self").map_err(|_| DumpError::NoProc)?;
    let is_ours = own.as_os_str() == std::process::id().to_string().as_str();
    is_ours.then_some(()).ok_or(DumpError::NoProc)
}

/// A tree may have more descriptors than we may have by default.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// SIGCHLD is waited for, not delivered, while tasks are traced.
struct ChildSignals {
    before: u64,
}

impl ChildSignals {
    fn block() -> Self {
        let before = crate::remote::spawn::swap_signal_mask(u64::MAX);
        Self { before }
    }
}

impl Drop for ChildSignals {
    fn drop(&mut self) {
        crate::remote::spawn::swap_signal_mask(self.before);
    }
}
