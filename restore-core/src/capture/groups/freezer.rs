//! The control group's freezer: stops a tree at one moment, where the group holds nothing else.
//!
//! It only bridges the time until every thread is traced: a tree that forks without end cannot
//! outrun it. It is used where it can be (version 2 of the interface, a group of the tree's own or
//! one that the caller names). The group is thawed as soon as all threads are held, since what is
//! frozen answers nothing; one that was frozen before is frozen again at the end.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::{DumpError, proc};

/// Longest wait for the group to be frozen; after that seizing goes on without.
const FREEZE_WAIT_MAX: Duration = Duration::from_millis(500);

/// A group that is as it was found again when this is dropped.
#[derive(Debug)]
pub(crate) struct Frozen {
    group: PathBuf,
    was_frozen: bool,
}

impl Frozen {
    /// Freezes the group that the caller names, or that of the tree, if it has one of its own.
    ///
    /// # Errors
    /// [`DumpError::NoFreezer`] for a group that the caller names; [`DumpError::Frozen`] if the
    /// tree is frozen already by others, or with others.
    pub(crate) fn group_of(root: i32, named: Option<&Path>) -> Result<Option<Self>, DumpError> {
        let group = match named {
            Some(group) if !group.join("cgroup.freeze").is_file() => {
                return Err(DumpError::NoFreezer { group: group.to_owned() });
            }
            Some(group) => group.to_owned(),
            None => match group(root) {
                Some(group) => group,
                None => return Ok(None),
            },
        };
        let was_frozen = is_set(&group);
        let ours = named.is_some() || holds_only(&group, &tree(root));
        if is_frozen(&group) && !(was_frozen && ours) {
            return Err(DumpError::Frozen { group });
        }
        let mut frozen = None;
        if ours && (was_frozen || switch(&group, "1").is_ok()) {
            let begin = Instant::now();
            while !is_frozen(&group) && begin.elapsed() < FREEZE_WAIT_MAX {
                std::thread::yield_now();
            }
            frozen = Some(Self { group, was_frozen });
        }
        Ok(frozen)
    }

    /// Thaws the group: every thread is held by other means.
    pub(crate) fn thaw(&self) {
        let _ = switch(&self.group, "0");
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _ = switch(&self.group, if self.was_frozen { "1" } else { "0" });
    }
}

fn switch(group: &Path, to: &str) -> std::io::Result<()> {
    fs::write(group.join("cgroup.freeze"), to)
}

/// Whether the group was told to freeze.
fn is_set(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.freeze")).is_ok_and(|text| text.trim() == "1")
}

/// Whether the group is frozen, be it with a group around it.
fn is_frozen(group: &Path) -> bool {
    let events = fs::read_to_string(group.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "frozen 1")
}

/// Folder of a process's group in the unified hierarchy; the root group cannot be frozen.
fn group(pid: i32) -> Option<PathBuf> {
    let groups = proc::read(pid, "cgroup").ok()?;
    let groups = String::from_utf8_lossy(&groups).into_owned();
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    if path.is_empty() || path.starts_with("..") {
        return None;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let folder = mount_of_groups(&mounts)?.join(path);
    folder.is_dir().then_some(folder)
}

/// Where the unified hierarchy is mounted as a whole.
fn mount_of_groups(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut words = mount.split(' ').skip(3);
        let (root, point) = (words.next()?, words.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(point))
    })
}

/// Pids of a tree that runs; it may have changed before they are returned.
fn tree(root: i32) -> BTreeSet<i32> {
    let mut found = BTreeSet::from([root]);
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        let children = proc::children(pid).unwrap_or_default();
        next.extend(children.into_iter().filter(|&child| found.insert(child)));
    }
    found
}

/// Whether every process of the group, and of the groups within, is one of these.
fn holds_only(group: &Path, pids: &BTreeSet<i32>) -> bool {
    let Ok(text) = fs::read_to_string(group.join("cgroup.procs")) else { return false };
    let own = text.lines().all(|line| line.parse().is_ok_and(|pid| pids.contains(&pid)));
    let Ok(entries) = fs::read_dir(group) else { return false };
    let folders = entries.flatten().filter(|entry| entry.path().is_dir());
    own && folders.map(|entry| entry.path()).all(|folder| holds_only(&folder, pids))
}

#[cfg(test)]
mod tests {
    use super::{holds_only, mount_of_groups};
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    #[test]
    fn unified_hierarchy_is_found_among_mounts() {
        let mounts = "25 1 0:22 / /sys rw - sysfs sysfs rw\n\
                      30 25 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      31 25 0:27 /a /sys/fs/part rw - cgroup2 cgroup2 rw\n\
                      32 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(mount_of_groups(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mount_of_groups(""), None);
    }

    #[test]
    fn group_with_a_stranger_is_not_frozen() {
        let dir = tempfile::tempdir().expect("a folder");
        let inner = dir.path().join("inner");
        std::fs::create_dir(&inner).expect("a folder");
        std::fs::write(dir.path().join("cgroup.procs"), "5\n6\n").expect("room");
        std::fs::write(inner.join("cgroup.procs"), "7\n").expect("room");
        assert!(holds_only(dir.path(), &BTreeSet::from([5, 6, 7])));
        assert!(!holds_only(dir.path(), &BTreeSet::from([5, 6])));
        assert!(!holds_only(dir.path(), &BTreeSet::from([5, 7])));
    }
}
