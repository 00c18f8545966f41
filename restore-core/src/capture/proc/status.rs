//! `/proc/<pid>/status`: identity and attributes of a thread.

use super::{read, unexpected};
use crate::capture::DumpError;

/// The lines that a dump needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) umask: u32,
    pub(crate) tracer: i32,
    /// Real, effective, saved, file system.
    pub(crate) uids: [u32; 4],
    pub(crate) gids: [u32; 4],
    pub(crate) groups: Vec<u32>,
    pub(crate) cap_inh: u64,
    pub(crate) cap_prm: u64,
    pub(crate) cap_eff: u64,
    pub(crate) cap_bnd: u64,
    pub(crate) cap_amb: u64,
    pub(crate) no_new_privs: bool,
    pub(crate) seccomp: u32,
    pub(crate) thp_disabled: bool,
    /// Ids in each pid namespace, outermost first.
    pub(crate) pids: Vec<i32>,
}

impl Status {
    /// Of a thread.
    pub(crate) fn of(pid: i32, tid: i32) -> Result<Self, DumpError> {
        let name = format!("task/{tid}/status");
        let bytes = read(pid, &name)?;
        parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| unexpected(pid, &name))
    }
}

fn parse(text: &str) -> Option<Status> {
    let mut status = Status::default();
    let mut seen = 0;
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        let set = || u64::from_str_radix(value, 16).ok();
        match key {
            "Umask" => status.umask = u32::from_str_radix(value, 8).ok()?,
            "TracerPid" => status.tracer = value.parse().ok()?,
            "Uid" => (status.uids, seen) = (four(value)?, seen + 1),
            "Gid" => (status.gids, seen) = (four(value)?, seen + 1),
            "Groups" => status.groups = all(value)?,
            "NStgid" => status.pids = all(value)?,
            "CapInh" => status.cap_inh = set()?,
            "CapPrm" => status.cap_prm = set()?,
            "CapEff" => (status.cap_eff, seen) = (set()?, seen + 1),
            "CapBnd" => status.cap_bnd = set()?,
            "CapAmb" => status.cap_amb = set()?,
            "NoNewPrivs" => status.no_new_privs = value != "0",
            "Seccomp" => status.seccomp = value.parse().ok()?,
            "THP_enabled" => status.thp_disabled = value == "0",
            _ => {}
        }
    }
    (seen == 3).then_some(status)
}

fn all<T: std::str::FromStr>(text: &str) -> Option<Vec<T>> {
    text.split_whitespace().map(|word| word.parse().ok()).collect()
}

fn four(text: &str) -> Option<[u32; 4]> {
    all(text)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn identity_is_read() {
        let text = "Name:\ta: b\nUmask:\t0027\nTracerPid:\t0\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n\
                    Groups:\t5 77 \nNStgid:\t9\t1\nCapInh:\t0\nCapPrm:\t1ff\nCapEff:\t1ff\n\
                    CapBnd:\t1ff\nCapAmb:\t0\nNoNewPrivs:\t1\nSeccomp:\t2\nTHP_enabled:\t0\n";
        let status = parse(text).expect("it is whole");
        assert_eq!((status.umask, status.uids, status.gids), (0o27, [1, 2, 3, 4], [5, 6, 7, 8]));
        assert_eq!((status.groups, status.pids), (vec![5, 77], vec![9, 1]));
        assert_eq!((status.cap_prm, status.seccomp), (0x1ff, 2));
        assert!(status.no_new_privs && status.thp_disabled);
        assert!(parse("Uid:\t1\t2\t3\n").is_none());
        assert!(parse("").is_none());
    }
}
