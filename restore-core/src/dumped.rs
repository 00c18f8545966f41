//! What a dump tells while it goes on, and afterwards.

use std::time::Duration;

use crate::capture::PageCounts;
use crate::summary::{ProcessBytes, ProcessSummary};

/// A tree that was dumped.
#[derive(Clone, Debug)]
pub struct Dumped {
    /// Processes, zombies included.
    pub processes: usize,
    /// Threads.
    pub threads: usize,
    /// Bytes of all images.
    pub bytes: u64,
    /// From the first thread stopped until the last: how long the tree took to come to rest.
    pub freezing: Duration,
    /// From the first thread stopped until the tree went on or was killed.
    pub frozen: Duration,
    /// Steps that were taken.
    pub steps: u32,
    /// All processes, parents before their children.
    pub tree: Vec<ProcessSummary>,
    /// How long each phase took, in the order in which they were done.
    pub phases: Vec<(DumpPhase, Duration)>,
    /// While private memory was found, read and written.
    pub saving: Duration,
    /// Pages of private memory.
    pub pages: PageCounts,
    /// Pages of shared memory and memory files.
    pub shared: PageCounts,
    /// Bytes that GPU buffers hold; memory that several have counts once.
    pub gpu_bytes: u64,
}

/// A part of a dump that ends before the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DumpPhase {
    /// The tree comes to rest; ends with [`DumpEvent::Frozen`].
    Freeze,
    /// It is read from outside, GPU queues are stopped; ends with [`DumpEvent::Read`].
    Read,
    /// Processes are asked what only they can say; ends with [`DumpEvent::Asked`].
    Ask,
    /// Memory, contents of buffers and records are written; ends with [`DumpEvent::Written`].
    Write,
    /// Images are synced and put in place; ends with [`DumpEvent::Placed`].
    Place,
    /// The tree is killed after that, or goes on before it.
    LetGo,
}

impl DumpPhase {
    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Freeze => "freeze",
            Self::Read => "read",
            Self::Ask => "ask",
            Self::Write => "write",
            Self::Place => "place",
            Self::LetGo => "let go",
        }
    }
}

/// What a dump reports while it goes on.
#[derive(Clone, Debug)]
pub enum DumpEvent {
    /// The tree has come to rest.
    Frozen {
        /// Processes, zombies included.
        processes: usize,
        /// Threads.
        threads: usize,
    },
    /// Everything was read from outside, and nothing stands against the dump.
    Read,
    /// GPU queues are stopped, and what the drivers have is known.
    Gpus {
        /// Processes with state in the KFD.
        processes: usize,
        /// Device files.
        files: usize,
        /// Buffers.
        buffers: usize,
    },
    /// Every process has been asked, and is as it was found.
    Asked,
    /// The pages of all processes have been found: what will be read is known.
    Expected {
        /// Of each process that has memory: its own pages, also those that will turn out to hold
        /// only zeros and are not written, and contents of its GPU buffers.
        processes: Vec<ProcessBytes>,
        /// Of shared memory and memory files, about: what is a hole is not known yet.
        shared_bytes: u64,
    },
    /// So much of a process has been read and written by now. It comes at most every 50 ms of each
    /// worker. In the end it is what [`DumpEvent::Expected`] said.
    Saved(ProcessBytes),
    /// So much of shared memory has been read and written by now.
    SavedShared {
        /// Bytes of it.
        bytes: u64,
    },
    /// All images are written, beside their place.
    Written {
        /// Their size.
        bytes: u64,
    },
    /// All images are synced and in place.
    Placed,
}
