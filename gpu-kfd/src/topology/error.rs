//! Why a topology could not be read: always the file, and the line where there is one.

use std::io;
use std::path::PathBuf;

use super::HostGpuId;

/// Why a topology could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// A file or a folder could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// A file is longer than any that the driver writes.
    #[error("{} has more than {bytes_max} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// The limit.
        bytes_max: usize,
    },
    /// A file holds no text.
    #[error("{} is not UTF-8", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A line says nothing that can be understood.
    #[error("{}, line {line}: {text:?}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What stands there, at most its first 64 characters.
        text: String,
        /// What is wrong with it.
        problem: LineProblem,
    },
    /// A folder has more entries than any host's.
    #[error("{} has more than {entries_max} entries", path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
        /// The limit.
        entries_max: usize,
    },
    /// Two nodes have the same GPU id; the driver makes them unique.
    #[error("nodes {first} and {second} both have GPU id {id}")]
    SameGpuId {
        /// The id.
        id: HostGpuId,
        /// The node that has it first.
        first: u32,
        /// The other one.
        second: u32,
    },
    /// A GPU came or went while the files were read. Reading again gives the new topology.
    #[error("the topology changed while it was read: generation {before}, then {after}")]
    Changed {
        /// Generation before.
        before: u32,
        /// Generation after.
        after: u32,
    },
}

impl TopologyError {
    /// Its code, by which `docs/errors.md` lists it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "topology.unreadable",
            Self::TooLong { .. } => "topology.too-long",
            Self::NotText { .. } => "topology.not-text",
            Self::Line { .. } => "topology.line",
            Self::TooMany { .. } => "topology.too-many",
            Self::SameGpuId { .. } => "topology.same-gpu-id",
            Self::Changed { .. } => "topology.changed",
        }
    }

    /// What can be done about it, where there is something.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Read { .. } => Some("load the amdgpu driver, and let the container see /sys"),
            Self::TooLong { .. } => Some("check that /sys is the kernel's own"),
            Self::NotText { .. } => Some("check that /sys is the kernel's own"),
            Self::Line { .. } => {
                Some("check that /sys is the kernel's own, or use a kernel from 5.18 to 6.18")
            }
            Self::TooMany { .. } => Some("check that /sys is the kernel's own"),
            Self::SameGpuId { .. } => Some("load the amdgpu driver anew"),
            Self::Changed { .. } => Some("try again: a GPU came or went"),
        }
    }
}

/// What is wrong with a line of a topology file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineProblem {
    /// No blank between a name and a value.
    #[error("not a name and a value")]
    NotAPair,
    /// The value is no decimal number of its width.
    #[error("not a decimal number of {bits} bits")]
    NotANumber {
        /// Width of the property.
        bits: u32,
    },
    /// A sibling map is a list of 0 and 1 with commas between.
    #[error("not a list of 0 and 1")]
    NotAMap,
    /// A name stands in the file twice.
    #[error("stands here twice")]
    Twice,
}
