//! Who has the ids that a tree needs: tasks, and groups and sessions that outlive their leaders.

use std::collections::BTreeMap;
use std::fs;

use restore_core::{IdUse, IdUser, RestoreError};

use super::finding::{Finding, Section};

/// Who has an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Task(IdUser),
    /// A process group, of which this process is a member.
    Group(i32),
    /// A session, alike.
    Session(i32),
}

/// Those of the ids that are taken. What is a task of ours is not: a restore has others.
pub(super) fn holders<'a>(ids: impl Iterator<Item = &'a i32>) -> BTreeMap<i32, Holder> {
    let own = std::process::id() as i32;
    let mut holders = BTreeMap::new();
    let mut left = Vec::new();
    for &id in ids {
        match IdUser::of(id) {
            IdUser::Hidden => left.push(id),
            IdUser::Process { pid, .. } | IdUser::Thread { pid, .. } if pid == own => left.push(id),
            user => drop(holders.insert(id, Holder::Task(user))),
        }
    }
    for (pid, group, session) in groups() {
        for (id, holder) in [(session, Holder::Session(pid)), (group, Holder::Group(pid))] {
            // A process that leads its own is the task that was found above, or ourselves.
            if pid != id && left.binary_search(&id).is_ok() {
                holders.entry(id).or_insert(holder);
            }
        }
    }
    holders
}

/// Process, group and session of every process.
fn groups() -> Vec<(i32, i32, i32)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let of = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(2);
        let mut next = || fields.next()?.parse().ok();
        Some((pid, next()?, next()?))
    };
    pids.filter_map(of).collect()
}

fn said(holder: &Holder) -> String {
    let member = |pid: i32| match IdUser::of(pid) {
        IdUser::Hidden => format!("process {pid}"),
        user => user.to_string(),
    };
    match holder {
        Holder::Task(user) => user.to_string(),
        Holder::Group(pid) => format!("the process group of {}", member(*pid)),
        Holder::Session(pid) => format!("the session of {}", member(*pid)),
    }
}

/// What is said of them.
pub(super) fn section(ids: &BTreeMap<i32, IdUse>, holders: &BTreeMap<i32, Holder>) -> Section {
    let findings = holders.iter().map(|(&id, holder)| {
        let (needed, pids) = match ids.get(&id) {
            Some(IdUse::Thread(pid)) => (format!("a thread of process {pid}"), vec![*pid as u32]),
            Some(IdUse::Leader) => ("a session or process group".to_owned(), Vec::new()),
            Some(IdUse::Process) | None => ("a process".to_owned(), vec![id as u32]),
        };
        let error = RestoreError::IdTaken { id, user: IdUser::Hidden };
        let text = format!("id {id}, needed for {needed}, is {}", said(holder));
        Finding::of(error.code(), text, error.help()).with_pids(pids)
    });
    let found = match holders.len() {
        0 => format!("all {} are free", ids.len()),
        taken => format!("{taken} of {} are taken", ids.len()),
    };
    Section::new("ids", found, findings.collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use restore_core::{IdUse, IdUser};

    use super::{Holder, holders, section};

    #[test]
    fn who_has_an_id_is_named_but_for_ourselves() {
        let parent = nix::unistd::getppid().as_raw();
        let own = std::process::id() as i32;
        let mut ids = [own, parent, 4_194_303];
        ids.sort_unstable();
        let found = holders(ids.iter());
        assert!(!found.contains_key(&4_194_303), "{found:?}");
        let is_parent = |pid: i32| {
            matches!(&found.get(&pid), Some(Holder::Task(
            IdUser::Process { pid, name })) if *pid == parent && !name.is_empty())
        };
        assert!(is_parent(parent), "{found:?}");
        // Our own id is taken only if somebody else is in a group or session of ours.
        assert!(!matches!(found.get(&own), Some(Holder::Task(_))), "{found:?}");
        let ids: BTreeMap<i32, IdUse> = [(parent, IdUse::Thread(7))].into();
        let section = section(&ids, &found);
        let finding = &section.findings[0];
        assert_eq!((finding.code, finding.pids.as_slice()), ("host.id-taken", &[7][..]));
        assert!(finding.text.contains(&format!("is process {parent} (")), "{finding:?}");
    }
}
