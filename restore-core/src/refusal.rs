//! A thing that a checkpoint holds and that is not restored: named, placed, never dropped.

use std::fmt;

/// One thing that stands against a restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it is.
    pub what: String,
    /// Where in the images it stands.
    pub place: String,
    /// Process that has it; `None` if it belongs to the tree as a whole or to several.
    pub pid: Option<u32>,
}

impl Refusal {
    /// Something of one process.
    pub(crate) fn new(what: impl Into<String>, place: impl Into<String>, pid: u32) -> Self {
        Self { what: what.into(), place: place.into(), pid: Some(pid) }
    }

    /// Something of the tree.
    pub(crate) fn of_tree(what: impl Into<String>, place: impl Into<String>) -> Self {
        Self { what: what.into(), place: place.into(), pid: None }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "{} of process {pid} ({})", self.what, self.place),
            None => write!(f, "{} ({})", self.what, self.place),
        }
    }
}
