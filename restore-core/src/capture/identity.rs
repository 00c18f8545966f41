//! What processes share and where they belong: kernel objects and namespaces.
//!
//! A restore makes a tree in the caller's own namespaces, each process with an address space, a
//! descriptor table, a working directory and signal actions of its own. All else is refused.

use std::cmp::Ordering;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;

use criu_image::record::TaskKobjIdsEntry;

use super::facts::Facts;
use super::raw::{self, Shared};
use super::{DumpError, proc};
use crate::refusal::{Refusal, RefusalKind};

/// Namespaces in the numbering of upstream's inventory.
const NAMESPACES: [&str; 8] = ["pid", "net", "ipc", "uts", "time", "mnt", "user", "cgroup"];
/// Ids of the dumper's own objects; those of the tree come after.
const OWN_ID: u32 = 1;
/// `SCHED_DEADLINE` (linux/sched.h).
const SCHED_DEADLINE: u32 = 6;

/// Ids of the dumper's namespaces, which are the tree's too.
pub(crate) fn own() -> TaskKobjIdsEntry {
    let id = |name: &str| {
        let at = NAMESPACES.iter().position(|other| *other == name);
        at.map(|at| at as u32 + 1)
    };
    TaskKobjIdsEntry {
        vm_id: OWN_ID,
        files_id: OWN_ID,
        fs_id: OWN_ID,
        sighand_id: OWN_ID,
        pid_ns_id: id("pid"),
        net_ns_id: id("net"),
        ipc_ns_id: id("ipc"),
        uts_ns_id: id("uts"),
        mnt_ns_id: id("mnt"),
        user_ns_id: id("user"),
        cgroup_ns_id: id("cgroup"),
        time_ns_id: id("time"),
    }
}

/// Ids of the process with this place among the live ones: all its own.
pub(crate) fn of(place: usize) -> TaskKobjIdsEntry {
    let id = OWN_ID + 1 + place as u32;
    TaskKobjIdsEntry { vm_id: id, files_id: id, fs_id: id, sighand_id: id, ..own() }
}

/// Everything of these kinds that cannot be captured.
pub(crate) fn refuse(facts: &[Facts]) -> Result<Vec<Refusal>, DumpError> {
    let mut refusals = Vec::new();
    let own = namespaces(std::process::id() as i32)?;
    for one in facts {
        foreign(one, &facts[0], &own, &mut refusals);
        threads(one, &mut refusals)?;
    }
    shared(facts, &mut refusals)?;
    Ok(refusals)
}

/// Links of `/proc` to a process's namespaces, and what they are called. The last two are those
/// that its children will be in.
const LINKS: [(&str, &str); 10] = [
    ("ns/pid", "pid"),
    ("ns/net", "network"),
    ("ns/ipc", "ipc"),
    ("ns/uts", "uts"),
    ("ns/time", "time"),
    ("ns/mnt", "mount"),
    ("ns/user", "user"),
    ("ns/cgroup", "cgroup"),
    ("ns/time_for_children", "time"),
    ("ns/pid_for_children", "pid"),
];
/// Place of the time namespace in the list.
const TIME: usize = 4;

/// Where the links of a process lead.
pub(crate) type Namespaces = [Vec<u8>; LINKS.len()];

/// The namespaces of a process.
pub(crate) fn namespaces(pid: i32) -> Result<Namespaces, DumpError> {
    let mut found = Namespaces::default();
    for ((entry, _), target) in LINKS.iter().zip(&mut found) {
        let path = proc::path(pid, entry);
        match std::fs::read_link(&path) {
            Ok(link) => *target = link.into_os_string().into_vec(),
            // A kernel without this kind of namespace.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(source) => return Err(DumpError::Read { path, source }),
        }
    }
    Ok(found)
}

/// The control groups of a thread; none where the kernel has none.
pub(crate) fn groups(pid: i32, tid: i32) -> Result<Vec<u8>, DumpError> {
    match proc::read(pid, &format!("task/{tid}/cgroup")) {
        Err(DumpError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Ok(Vec::new())
        }
        groups => groups,
    }
}

fn foreign(facts: &Facts, root: &Facts, own: &Namespaces, refusals: &mut Vec<Refusal>) {
    for (at, (entry, name)) in LINKS.into_iter().enumerate() {
        // A restore by criu gives a tree clocks of its own: they may differ from ours, and are
        // saved, but all of the tree must have the same. Children are made in the same ones.
        let wanted = match name {
            "time" => &root.namespaces[TIME],
            _ => &own[LINKS.iter().position(|(_, other)| *other == name).unwrap_or(at)],
        };
        if facts.namespaces[at] != *wanted {
            let what = format!("{name} namespace of its own");
            refusals.push(Refusal::new(RefusalKind::Namespace, what, entry, facts.pid as u32));
        }
    }
}

fn threads(facts: &Facts, refusals: &mut Vec<Refusal>) -> Result<(), DumpError> {
    let pid = facts.pid;
    let mut refuse = |kind: RefusalKind, what: String, tid: i32| {
        refusals.push(Refusal::new(kind, what, format!("thread {tid}"), pid as u32));
    };
    for thread in &facts.threads {
        let status = &thread.status;
        if status.seccomp != 0 {
            let what = format!("seccomp mode {}", status.seccomp);
            refuse(RefusalKind::Seccomp, what, thread.tid);
        }
        if thread.stat.policy == SCHED_DEADLINE {
            refuse(RefusalKind::Deadline, "deadline scheduling".to_owned(), thread.tid);
        }
        if thread.tid != pid {
            for (what, name) in [(Shared::Files, "descriptor table"), (Shared::Places, "root")] {
                let order = raw::kcmp(what, (pid, 0), (thread.tid, 0))
                    .map_err(|errno| DumpError::Os { what: "compare threads", pid, errno })?;
                if order != Ordering::Equal {
                    let what = format!("{name} of a thread of its own");
                    refuse(RefusalKind::ThreadTable, what, thread.tid);
                }
            }
        }
    }
    Ok(())
}

/// Kernel objects that processes share as `clone` can make them share.
fn shared(facts: &[Facts], refusals: &mut Vec<Refusal>) -> Result<(), DumpError> {
    const KINDS: [(Shared, &str); 4] = [
        (Shared::Memory, "address space"),
        (Shared::Files, "descriptor table"),
        (Shared::Places, "working directory"),
        (Shared::Actions, "signal actions"),
    ];
    for (kind, name) in KINDS {
        // Sorted by the kernel's order, equal ones are neighbours.
        let mut sorted: Vec<i32> = Vec::with_capacity(facts.len());
        for pid in facts.iter().map(|facts| facts.pid) {
            let mut failed = None;
            let found = sorted.binary_search_by(|&other| {
                raw::kcmp(kind, (other, 0), (pid, 0)).unwrap_or_else(|errno| {
                    failed = Some(errno);
                    Ordering::Equal
                })
            });
            if let Some(errno) = failed {
                return Err(DumpError::Os { what: "compare processes", pid, errno });
            }
            match found {
                Err(at) => sorted.insert(at, pid),
                Ok(at) => {
                    let what = format!("{name} shared with process {}", sorted[at]);
                    let (kind, place) = (RefusalKind::Shared, "the process as a whole");
                    refusals.push(Refusal::new(kind, what, place, pid as u32));
                }
            }
        }
    }
    Ok(())
}
