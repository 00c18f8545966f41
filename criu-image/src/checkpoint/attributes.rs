//! Attributes of tasks that point into images of the whole tree: seccomp filters, control groups.
//!
//! Those images stay among the others, which no restorer may drop; here is only whether what
//! points into them points at something.

use std::collections::BTreeSet;

use super::contradiction;
use super::load::Loader;
use super::model::Checkpoint;
use crate::error::ImageError;
use crate::kind::ImageKind;
use crate::record::{CgroupEntry, SeccompEntry, SeccompMode};

/// Where the only record of a core, seccomp or cgroup image begins.
const AT: u64 = 8;

pub(super) fn check(loader: &mut Loader, checkpoint: &Checkpoint) -> Result<(), ImageError> {
    let checked = check_seccomp(loader, checkpoint);
    loader.findings.check(checked)?;
    check_cgroups(loader, checkpoint)
}

fn check_seccomp(loader: &mut Loader, checkpoint: &Checkpoint) -> Result<(), ImageError> {
    let bodies = checkpoint.processes.iter().filter_map(|process| process.body.as_ref());
    let mut filtered = bodies
        .flat_map(|body| &body.threads)
        .filter(|thread| thread.core.seccomp_mode() == SeccompMode::Filter)
        .peekable();
    if filtered.peek().is_none() {
        return Ok(()); // the usual case; the image is not read twice
    }
    let file = ImageKind::Seccomp.file_name(0);
    let Some(image) = loader.peek(ImageKind::Seccomp, None)? else {
        let needed_for = "threads are filtered".to_owned();
        return Err(ImageError::Missing { file, needed_for });
    };
    let filters = image.only::<SeccompEntry>()?.seccomp_filters;
    for (index, filter) in filters.iter().enumerate() {
        // CRIU numbers a chain from its oldest filter, so a chain cannot be a circle.
        if filter.prev.is_some_and(|prev| prev as usize >= index) {
            let reason = format!("filter {index} does not come after the one that it extends");
            loader.findings.report(contradiction(&file, AT, reason))?;
        }
    }
    for thread in filtered {
        let filter = thread.core.seccomp_filter.unwrap_or(0);
        if filter as usize >= filters.len() {
            let reason = format!("filter {filter} is not among the {} saved", filters.len());
            let file = format!("core-{}.img", thread.tid);
            loader.findings.report(contradiction(file, AT, reason))?;
        }
    }
    Ok(())
}

/// Each set is 0 (none), the root's, or one of `cgroup.img`, if that has any.
fn check_cgroups(loader: &mut Loader, checkpoint: &Checkpoint) -> Result<(), ImageError> {
    let root = checkpoint.inventory.root_cg_set;
    let sets = checkpoint.processes.iter().flat_map(|process| {
        let threads = process.body.iter().flat_map(|body| &body.threads);
        let own = (process.pid, process.task.cg_set);
        threads.map(|thread| (thread.tid, thread.core.cg_set)).chain([own])
    });
    let mut elsewhere = sets
        .filter_map(|(tid, set)| Some((tid, set.filter(|&set| set != 0 && Some(set) != root)?)))
        .peekable();
    if elsewhere.peek().is_none() {
        return Ok(());
    }
    let Some(image) = loader.peek(ImageKind::Cgroup, None)? else { return Ok(()) };
    let mut known = BTreeSet::new();
    for (_, entry) in image.all::<CgroupEntry>()? {
        known.extend(entry.sets.iter().map(|set| set.id));
    }
    // An image without sets is that of a dump which did not look at control groups.
    for (tid, set) in elsewhere.filter(|(_, set)| !known.is_empty() && !known.contains(set)) {
        let reason = format!("control group set {set} is not in cgroup.img");
        loader.findings.report(contradiction(format!("core-{tid}.img"), AT, reason))?;
    }
    Ok(())
}
