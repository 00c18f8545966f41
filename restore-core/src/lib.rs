//! Restores process trees from CRIU checkpoints.
//!
//! A restore has three steps, each a value that the next one consumes: a
//! [`criu_image::Checkpoint`] (what the images say), a [`RestorePlan`] (what will be done, or the
//! list of all that stands against it), and [`restore`] (all of the tree runs, or nothing of it).
//!
//! ```no_run
//! use restore_core::{Host, Options, RestorePlan, restore};
//!
//! let checkpoint = criu_image::Checkpoint::open("images")?;
//! let plan = RestorePlan::new(checkpoint, &Host::probe()?, Options::default())?;
//! match restore(plan, &mut |event| println!("{event:?}")) {
//!     Ok(tree) => println!("process {} runs", tree.root),
//!     Err(failure) => eprintln!("{}", failure.error),
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Linux on x86-64 only. Choosing process ids takes CAP_CHECKPOINT_RESTORE, most of the rest
//! CAP_SYS_ADMIN.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("restore-core works on x86-64 Linux only");

mod capture;
mod contract;
mod crew;
mod dumped;
mod engine;
mod files;
mod host;
mod meter;
mod place;
mod plan;
mod probe;
mod refusal;
mod remote;
mod stats;
mod stop;
mod summary;

pub use capture::{
    DumpError, DumpFailure, DumpOptions, Ended, GHOST_LIMIT_BYTES, KeeperError, Leave, Mishap,
    PageCounts, UndoError, UnpauseError, dump, keep,
};
pub use contract::{
    Checked, DeviceStep, Edge, EdgeReason, Outline, OutlineError, OutlineProcess, Piece, Schedule,
    ScheduleError, Scheduler, StepId, StepKind, TraceEvent, TraceStage, Violation, check,
};
pub use dumped::{DumpEvent, DumpPhase, Dumped};
#[doc(hidden)]
pub use engine::Sabotage;
pub use engine::{
    CopyError, Event, Failure, GuardError, IdUser, RestoreError, Restored, Stage, StepError,
    XstateError, restore,
};
pub use files::{FileFinding, FilesError, examine as examine_files};
pub use host::{Host, Vdso};
pub use place::Place;
pub use plan::{
    GpuNeed, HostMismatch, IdUse, Options, PROCESSES_MAX, PlanError, RestorePlan, Survey, TreeError,
};
pub use probe::{Answer, Probes};
pub use refusal::{Refusal, RefusalKind};
pub use remote::freeze::FreezeError;
pub use remote::ring::CallError;
pub use stats::write_stats;
pub use summary::{ProcessBytes, ProcessSummary};

/// The guide of the crates, whose examples are tests.
#[cfg(doctest)]
#[doc = include_str!("../../docs/library.md")]
struct Guide;
