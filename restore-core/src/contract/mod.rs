//! The contract of a restore as code: which steps there are and which order they may have.
//!
//! Pure: no image is read here, no call made. The engine asks it what may go next; a trace is
//! judged by it afterwards.

mod graph;
mod orders;
mod outline;
mod schedule;
#[cfg(test)]
mod tests;
mod trace;

pub use graph::OutlineError;
pub use outline::{DeviceStep, Edge, EdgeReason, Outline, OutlineProcess, StepId, StepKind};
pub use schedule::{Schedule, ScheduleError, Scheduler};
pub use trace::{Checked, Piece, TraceEvent, TraceStage, Violation, check};
