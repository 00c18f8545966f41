//! Who clones whom, and when, so that sessions and process groups come out as they were.
//!
//! A task inherits its parent's session at birth and can only leave it by founding its own. So a
//! child that belongs to the session that its parent once left must be cloned before the parent's
//! `setsid`. A session or group whose leader has gone needs a helper that takes the leader's
//! pid, founds it, and ends before the tree runs. Pure: pids in, steps out.

use std::collections::{BTreeMap, BTreeSet};

/// What the images say of one process's place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) pid: i32,
    /// Index of the parent; `None` for the root, which comes first.
    pub(crate) parent: Option<usize>,
    pub(crate) pgid: i32,
    pub(crate) sid: i32,
}

/// What a member of the tree is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The process with this index in the checkpoint.
    Process(usize),
    /// Holds a session or a group whose leader has gone; ends before the tree runs.
    Helper,
}

/// How a member comes to its process group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    /// It is born in it, or gets it by `setsid`.
    Inherited,
    /// It founds it.
    Found,
    /// It joins it once all tasks exist.
    Join(i32),
}

/// One task to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) pid: i32,
    pub(crate) role: Role,
    /// Index of the member that clones it.
    pub(crate) parent: Option<usize>,
    /// Whether it calls `setsid`.
    pub(crate) setsid: bool,
    pub(crate) group: Group,
    /// Members that it clones before its `setsid`, in order.
    pub(crate) children_before: Vec<usize>,
    /// Members that it clones afterwards, in order.
    pub(crate) children_after: Vec<usize>,
    /// Adopts what its helpers leave behind: must be a subreaper until they have ended.
    pub(crate) adopts: bool,
    /// Cloned by a helper; the helper's end gives it to its real parent.
    pub(crate) adopted: bool,
}

/// Why a tree cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// The root belongs to a session of others and the caller did not say that it may.
    #[error("process {pid} is in session {sid} whose leader is not in the tree (use --shell-job)")]
    ForeignSession {
        /// The root.
        pid: i32,
        /// Its session.
        sid: i32,
    },
    /// A process belongs to a session that none of its ancestors can hand down.
    #[error("process {pid} is in session {sid}, which its parent {parent} cannot hand down")]
    Session {
        /// The process.
        pid: i32,
        /// Its session.
        sid: i32,
        /// Its parent.
        parent: i32,
    },
    /// A group lies in two sessions.
    #[error("process group {pgid} has members in sessions {sid_a} and {sid_b}")]
    GroupSpansSessions {
        /// The group.
        pgid: i32,
        /// One session.
        sid_a: i32,
        /// The other.
        sid_b: i32,
    },
}

impl TreeError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::ForeignSession { .. } => "tree.foreign-session",
            Self::Session { .. } => "tree.session",
            Self::GroupSpansSessions { .. } => "tree.group",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::ForeignSession { .. } => Some("use --shell-job"),
            Self::Session { .. } => {
                Some("restore the checkpoint with criu, or dump from the session's leader on")
            }
            Self::GroupSpansSessions { .. } => Some("dump again: no kernel has such groups"),
        }
    }
}

/// Plans the creation of the tree. `shell_job` allows the root to stay in a session and group of
/// others, which then become those of the restorer.
pub(crate) fn plan(places: &[Place], shell_job: bool) -> Result<Vec<Member>, TreeError> {
    let mut tree = Tree { places, members: Vec::new(), foreign: None };
    tree.admit_root(shell_job)?;
    tree.members = places.iter().enumerate().map(|(i, place)| tree.member(i, place)).collect();
    tree.hand_down_sessions()?;
    tree.found_groups()?;
    Ok(tree.members)
}

struct Tree<'a> {
    places: &'a [Place],
    members: Vec<Member>,
    /// Session of the root, if its leader is outside.
    foreign: Option<i32>,
}

impl Tree<'_> {
    fn admit_root(&mut self, shell_job: bool) -> Result<(), TreeError> {
        let root = self.places[0];
        if root.sid != root.pid {
            if !shell_job {
                return Err(TreeError::ForeignSession { pid: root.pid, sid: root.sid });
            }
            self.foreign = Some(root.sid);
        }
        Ok(())
    }

    fn member(&self, index: usize, place: &Place) -> Member {
        Member {
            pid: place.pid,
            role: Role::Process(index),
            parent: place.parent,
            setsid: place.sid == place.pid,
            group: Group::Inherited,
            children_before: Vec::new(),
            children_after: Vec::new(),
            adopts: false,
            adopted: false,
        }
    }

    /// The session that a process must be born into, if it matters: its own unless it leads one;
    /// for a leader, the one that a descendant needs to inherit through it.
    fn birth_sessions(&self) -> Result<Vec<Option<i32>>, TreeError> {
        let mut birth: Vec<Option<i32>> =
            self.places.iter().map(|place| (place.sid != place.pid).then_some(place.sid)).collect();
        for index in (1..self.places.len()).rev() {
            let (Some(wanted), Some(parent)) = (birth[index], self.places[index].parent) else {
                continue;
            };
            let above = self.places[parent];
            if wanted == above.sid || above.sid != above.pid {
                continue; // handed down as it is, or not at all (a helper is needed)
            }
            if !self.places.iter().any(|p| p.pid == wanted) && Some(wanted) != self.foreign {
                continue; // its leader has gone: a helper founds it
            }
            match birth[parent] {
                None => birth[parent] = Some(wanted),
                Some(other) if other == wanted => {}
                Some(_) => {
                    let Place { pid, sid, .. } = self.places[index];
                    return Err(TreeError::Session { pid, sid, parent: above.pid });
                }
            }
        }
        Ok(birth)
    }

    fn hand_down_sessions(&mut self) -> Result<(), TreeError> {
        let birth = self.birth_sessions()?;
        let mut helpers: BTreeMap<(usize, i32), usize> = BTreeMap::new();
        for index in 1..self.places.len() {
            let Place { pid, sid, parent, .. } = self.places[index];
            let parent = parent.expect("only the root, which comes first, has no parent");
            let above = self.places[parent];
            match birth[index] {
                None => self.members[parent].children_after.push(index),
                Some(wanted) if wanted == above.sid => {
                    self.members[parent].children_after.push(index);
                }
                Some(wanted) if above.sid == above.pid && birth[parent] == Some(wanted) => {
                    self.members[parent].children_before.push(index);
                }
                Some(wanted) if self.places.iter().all(|p| p.pid != wanted) => {
                    let helper =
                        *helpers.entry((parent, wanted)).or_insert_with(|| self.members.len());
                    if helper == self.members.len() {
                        self.add_helper(wanted, parent, true);
                    }
                    self.members[parent].adopts = true;
                    self.members[helper].children_after.push(index);
                    self.members[index].adopted = true;
                    self.members[index].parent = Some(helper);
                }
                Some(_) => {
                    return Err(TreeError::Session { pid, sid, parent: above.pid });
                }
            }
        }
        Ok(())
    }

    fn add_helper(&mut self, pid: i32, parent: usize, setsid: bool) {
        let index = self.members.len();
        self.members.push(Member {
            pid,
            role: Role::Helper,
            parent: Some(parent),
            setsid,
            group: if setsid { Group::Inherited } else { Group::Found },
            children_before: Vec::new(),
            children_after: Vec::new(),
            adopts: false,
            adopted: false,
        });
        self.members[parent].children_after.push(index);
    }

    fn found_groups(&mut self) -> Result<(), TreeError> {
        let mut session_of: BTreeMap<i32, i32> = BTreeMap::new();
        for place in self.places {
            let sid_a = *session_of.entry(place.pgid).or_insert(place.sid);
            if sid_a != place.sid {
                let (pgid, sid_b) = (place.pgid, place.sid);
                return Err(TreeError::GroupSpansSessions { pgid, sid_a, sid_b });
            }
        }
        let mut present: BTreeSet<i32> = self.members.iter().map(|m| m.pid).collect();
        let root = self.places[0];
        let outside =
            (self.foreign.is_some() && !present.contains(&root.pgid)).then_some(root.pgid);
        for (index, place) in self.places.iter().enumerate() {
            if Some(place.pgid) == outside || (place.pgid == place.pid && place.sid == place.pid) {
                continue;
            }
            if place.pgid == place.pid {
                self.members[index].group = Group::Found;
                continue;
            }
            self.members[index].group = Group::Join(place.pgid);
            if present.insert(place.pgid) {
                self.add_helper(place.pgid, index, false);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Group, Member, Place, Role, TreeError, plan};

    fn place(pid: i32, parent: Option<usize>, pgid: i32, sid: i32) -> Place {
        Place { pid, parent, pgid, sid }
    }

    /// Follows the plan as the kernel would and returns (pid, pgid, sid) of every process.
    fn run(members: &[Member]) -> Vec<(i32, i32, i32)> {
        fn go(members: &[Member], at: usize, pgid: i32, sid: i32, out: &mut [(i32, i32, i32)]) {
            let member = &members[at];
            for &child in &member.children_before {
                go(members, child, pgid, sid, out);
            }
            let (pgid, sid) = match member.setsid {
                true => (member.pid, member.pid),
                false => (pgid, sid),
            };
            let pgid = match member.group {
                Group::Inherited => pgid,
                Group::Found => member.pid,
                Group::Join(pgid) => pgid,
            };
            out[at] = (member.pid, pgid, sid);
            for &child in &member.children_after {
                go(members, child, pgid, sid, out);
            }
        }
        let mut out = vec![(0, 0, 0); members.len()];
        go(members, 0, -1, -1, &mut out);
        out
    }

    fn check(places: &[Place]) -> Vec<Member> {
        let members = plan(places, false).expect("tree can be built");
        let got = run(&members);
        for (index, place) in places.iter().enumerate() {
            assert_eq!(got[index], (place.pid, place.pgid, place.sid), "in {places:?}");
        }
        members
    }

    #[test]
    fn child_of_the_session_its_parent_left_is_cloned_before_setsid() {
        let members = check(&[
            place(10, None, 10, 10),
            place(11, Some(0), 11, 11),
            place(12, Some(1), 10, 10),
            place(13, Some(1), 11, 11),
        ]);
        assert_eq!(members[1].children_before, [2]);
        assert_eq!(members[1].children_after, [3]);
    }

    #[test]
    fn session_is_handed_down_through_two_leaders() {
        check(&[
            place(10, None, 10, 10),
            place(11, Some(0), 11, 11),
            place(12, Some(1), 12, 12),
            place(13, Some(2), 10, 10),
        ]);
    }

    #[test]
    fn group_without_a_leader_gets_a_helper() {
        let members = check(&[place(10, None, 10, 10), place(11, Some(0), 99, 10)]);
        assert_eq!((members[2].pid, members[2].role), (99, Role::Helper));
        assert_eq!(members[1].group, Group::Join(99));
    }

    #[test]
    fn session_without_a_leader_gets_a_helper_that_hands_over_its_child() {
        let members = check(&[place(10, None, 10, 10), place(12, Some(0), 11, 11)]);
        assert_eq!((members[2].pid, members[2].setsid), (11, true));
        assert!(members[0].adopts && members[1].adopted);
    }

    #[test]
    fn root_in_a_foreign_session_is_refused_unless_it_is_a_shell_job() {
        let places = [place(10, None, 7, 5), place(11, Some(0), 7, 5)];
        assert_eq!(plan(&places, false), Err(TreeError::ForeignSession { pid: 10, sid: 5 }));
        let members = plan(&places, true).expect("shell job");
        assert!(!members[0].setsid && members[0].group == Group::Inherited);
    }

    #[test]
    fn group_across_sessions_is_refused() {
        let places = [place(10, None, 10, 10), place(11, Some(0), 10, 11)];
        assert!(matches!(plan(&places, false), Err(TreeError::GroupSpansSessions { .. })));
    }

    #[test]
    fn a_session_nobody_can_hand_down_is_refused() {
        let places = [
            place(10, None, 10, 10),
            place(11, Some(0), 11, 11),
            place(12, Some(0), 10, 10),
            place(13, Some(2), 11, 11),
        ];
        let refused = TreeError::Session { pid: 13, sid: 11, parent: 12 };
        assert_eq!(plan(&places, false), Err(refused));
    }
}
