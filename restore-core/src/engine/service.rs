//! The restorer's descriptors that targets inherit, lifted above every number that a target uses.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};

use super::RestoreError;
use super::target::{Source, Sources};
use crate::files::{ObjectKey, OpenedFiles};
use crate::plan::ProcessPlan;

/// The restorer's descriptors that targets inherit, above every number that a target uses.
pub(super) struct Service {
    pub(super) objects: BTreeMap<ObjectKey, Source>,
    pub(super) fds_end: i32,
    pub(super) restorer: OwnedFd,
    /// Keeps the lifted descriptors open until the tree has been made.
    _lifted: Vec<OwnedFd>,
}

impl Service {
    pub(super) fn lift(files: &OpenedFiles, fds_end: i32) -> Result<Self, RestoreError> {
        let mut objects = BTreeMap::new();
        let mut lifted = Vec::new();
        for (key, fd) in files.inherited() {
            let up = lift(fd, fds_end)?;
            objects.insert(key, Source::Inherited(up.as_raw_fd()));
            lifted.push(up);
        }
        objects.extend(files.late().map(|(key, number)| (key, Source::Late(number))));
        let own =
            crate::remote::spawn::open_pidfd(nix::unistd::getpid().as_raw()).map_err(|errno| {
                RestoreError::Setup { what: "open a pidfd of the restorer", source: errno.into() }
            })?;
        let restorer = lift(&own, fds_end)?;
        Ok(Self { objects, fds_end, restorer, _lifted: lifted })
    }

    pub(super) fn sources(&self, plan: &ProcessPlan) -> Sources {
        let objects = plan
            .objects()
            .into_iter()
            .map(|key| (key, *self.objects.get(&key).expect("everything needed was opened")))
            .collect();
        Sources { objects, fds_end: self.fds_end, restorer: self.restorer.as_raw_fd() }
    }
}

fn lift(fd: &OwnedFd, from: i32) -> Result<OwnedFd, RestoreError> {
    crate::files::duplicate(fd, from).map_err(|errno| {
        let what = "open as many files as the tree has (see RLIMIT_NOFILE)";
        RestoreError::Setup { what, source: errno.into() }
    })
}
