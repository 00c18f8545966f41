//! Which capabilities a checkpoint needs that others do without.
//!
//! A restore gives each thing back as it was; what is as the restorer has it takes no right.

use criu_image::{Checkpoint, Process, Remap};
use nix::sys::resource::{Resource, getrlimit};

use super::facts::{self, Capability};

/// What the restorer has itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) login_uid: u32,
    pub(super) oom_score: i32,
    pub(super) nice: i32,
    /// Hard limits, by their numbers.
    pub(super) limits: [u64; 16],
}

impl Own {
    pub(super) fn look() -> Self {
        let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<i64>().ok();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let nice = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let nice = nice.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(16));
        Self {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            login_uid: number("/proc/self/loginuid").map_or(u32::MAX, |uid| uid as u32),
            oom_score: number("/proc/self/oom_score_adj").unwrap_or(0) as i32,
            nice: nice.and_then(|text| text.parse().ok()).unwrap_or(0),
            limits: hard_limits(&limits),
        }
    }
}

/// `/proc/<pid>/limits` has them in an order of its own; these names have the numbers of the
/// kernel.
fn hard_limits(text: &str) -> [u64; 16] {
    const NAMES: [&str; 16] = [
        "Max cpu time",
        "Max file size",
        "Max data size",
        "Max stack size",
        "Max core file size",
        "Max resident set",
        "Max processes",
        "Max open files",
        "Max locked memory",
        "Max address space",
        "Max file locks",
        "Max pending signals",
        "Max msgqueue size",
        "Max nice priority",
        "Max realtime priority",
        "Max realtime timeout",
    ];
    NAMES.map(|name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let hard = line.and_then(|rest| rest.split_whitespace().nth(1));
        hard.and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
    })
}

/// Capabilities that the checkpoint needs beyond those that each needs, and for what.
pub(super) fn needed(checkpoint: &Checkpoint, own: &Own) -> Vec<(Capability, String)> {
    let mut needed = Vec::new();
    let mut add = |capability: Capability, why: &str, pids: Vec<u32>| {
        if let Some(first) = pids.first() {
            let others = match pids.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            needed.push((capability, format!("{why} of process {first}{others}")));
        }
    };
    let all = |test: &dyn Fn(&Process) -> bool| -> Vec<u32> {
        let processes = checkpoint.processes.iter().filter(|process| test(process));
        processes.map(|process| process.pid).collect()
    };
    add(facts::SETUID, "another user", all(&|process| has_other_user(process, own)));
    add(facts::SYS_RESOURCE, "raised limits", all(&|process| raises_limits(process, own)));
    let lowers =
        |process: &Process| process.task.oom_score_adj.is_some_and(|score| score < own.oom_score);
    add(facts::SYS_RESOURCE, "a lower OOM score", all(&lowers));
    add(facts::SYS_NICE, "the priority", all(&|process| has_priority(process, own)));
    let logs_in = |process: &Process| {
        process.task.loginuid.is_some_and(|uid| uid != own.login_uid && own.login_uid != u32::MAX)
    };
    add(facts::AUDIT_CONTROL, "another login uid", all(&logs_in));
    add(facts::IPC_LOCK, "locked memory", all(&locks));
    let others = |remap: &&Remap| match remap {
        Remap::Ghost(ghost) => (ghost.entry.uid, ghost.entry.gid) != (own.uid, own.gid),
        _ => false,
    };
    if checkpoint.remaps.values().any(|remap| others(&remap)) {
        needed.push((facts::CHOWN, "deleted files that others owned".to_owned()));
        needed.push((facts::FOWNER, "deleted files that others owned".to_owned()));
    }
    needed
}

fn has_other_user(process: &Process, own: &Own) -> bool {
    let threads = process.body.iter().flat_map(|body| &body.threads);
    let mut creds = threads.filter_map(|thread| thread.core.creds.as_ref());
    creds.any(|creds| {
        [creds.uid, creds.euid, creds.suid, creds.fsuid].iter().any(|&uid| uid != own.uid)
    })
}

fn raises_limits(process: &Process, own: &Own) -> bool {
    let limits = process.task.rlimits.iter().flat_map(|limits| &limits.rlimits);
    limits.zip(own.limits).any(|(limit, hard)| limit.max > hard)
}

fn has_priority(process: &Process, own: &Own) -> bool {
    /// `SCHED_FIFO` and `SCHED_RR` (linux/sched.h).
    const REAL_TIME: [u32; 2] = [1, 2];
    let mut threads = process.body.iter().flat_map(|body| &body.threads);
    threads.any(|thread| {
        let policy = thread.core.sched_policy.unwrap_or(0);
        REAL_TIME.contains(&policy) || thread.core.sched_nice.unwrap_or(0) < own.nice
    })
}

/// Beyond what may be locked without the right, it is needed.
fn locks(process: &Process) -> bool {
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap_or((0, 0));
    let vmas = process.body.iter().flat_map(|body| &body.mm.vmas);
    let locked = vmas.filter(|vma| vma.flags & libc::MAP_LOCKED as u32 != 0);
    locked.map(|vma| vma.end - vma.start).sum::<u64>() > soft
}

#[cfg(test)]
mod tests {
    use super::{Own, hard_limits};

    #[test]
    fn own_limits_are_read_by_name() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max open files            1024                 4096                 files\n\
                    Max locked memory         8388608              unlimited            bytes\n";
        let limits = hard_limits(text);
        assert_eq!((limits[7], limits[8], limits[0]), (4096, u64::MAX, u64::MAX));
        let own = Own::look();
        assert_eq!(own.uid, nix::unistd::geteuid().as_raw());
        assert!((-20..=19).contains(&own.nice) && (-1000..=1000).contains(&own.oom_score));
    }
}
