//! A thing that a checkpoint holds and that is not restored: named, placed, never dropped.

mod kind;

use std::fmt;

pub use kind::RefusalKind;

/// Processes that one line names; the rest are counted.
const PIDS_SHOWN_MAX: usize = 4;

/// One thing that stands against a restore.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refusal {
    /// What it is.
    pub what: String,
    /// Where in the images it stands.
    pub place: String,
    /// Processes that have it, ascending; empty if it belongs to the tree as a whole.
    pub pids: Vec<u32>,
    /// What the operator can do.
    pub help: &'static str,
    /// Of which kind it is.
    pub kind: RefusalKind,
}

impl Refusal {
    /// Something of one process.
    pub(crate) fn new(
        kind: RefusalKind,
        what: impl Into<String>,
        place: impl Into<String>,
        pid: u32,
    ) -> Self {
        Self::of_tree(kind, what, place).with_pids([pid])
    }

    /// Something of the tree.
    pub(crate) fn of_tree(
        kind: RefusalKind,
        what: impl Into<String>,
        place: impl Into<String>,
    ) -> Self {
        let (what, place) = (what.into(), place.into());
        Self { what, place, pids: Vec::new(), help: kind.help(), kind }
    }

    /// The code of its kind, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        self.kind.code()
    }

    /// Says who has it.
    pub(crate) fn with_pids(mut self, pids: impl IntoIterator<Item = u32>) -> Self {
        self.pids = pids.into_iter().collect();
        self
    }

    /// Says what to do, where more is known than of its kind.
    pub(crate) fn with_help(mut self, help: &'static str) -> Self {
        self.help = help;
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        let shown = &self.pids[..self.pids.len().min(PIDS_SHOWN_MAX)];
        for (index, pid) in shown.iter().enumerate() {
            match (index, self.pids.len()) {
                (0, 1) => write!(f, " of process {pid}")?,
                (0, _) => write!(f, " of processes {pid}")?,
                _ => write!(f, ", {pid}")?,
            }
        }
        if self.pids.len() > shown.len() {
            write!(f, " and {} more", self.pids.len() - shown.len())?;
        }
        write!(f, " ({}): {}", self.place, self.help)
    }
}

#[cfg(test)]
mod tests {
    use super::{Refusal, RefusalKind};

    fn check(pids: &[u32], expected: &str) {
        let refusal =
            Refusal::of_tree(RefusalKind::UnixSocket, "unix socket", "files.img, file 0x9");
        let refusal = refusal.with_pids(pids.iter().copied());
        let help = "close it before the dump, or use criu";
        assert_eq!(refusal.to_string(), format!("{expected}: {help}"));
    }

    #[test]
    fn is_one_line_that_names_what_who_and_where() {
        check(&[], "unix socket (files.img, file 0x9)");
        check(&[7], "unix socket of process 7 (files.img, file 0x9)");
        check(&[7, 8], "unix socket of processes 7, 8 (files.img, file 0x9)");
        check(
            &[1, 2, 3, 4, 5, 6],
            "unix socket of processes 1, 2, 3, 4 and 2 more (files.img, file 0x9)",
        );
        let helped = Refusal::new(RefusalKind::Terminal, "a", "b", 1).with_help("do c");
        assert_eq!(helped.to_string(), "a of process 1 (b): do c");
        assert_eq!(helped.code(), "unsupported.terminal");
    }
}
