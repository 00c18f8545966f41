//! Control groups: which of them the threads of a tree are in, as sets that images number.
//!
//! Groups are named, not captured: that they exist, and what they limit, stays the host's matter.
//! A restore by criu moves the tree into them; ours wants them left out.

pub(super) mod freezer;

use std::collections::BTreeMap;

use criu_image::record::{CgControllerEntry, CgMemberEntry, CgSetEntry, CgroupEntry};

use super::facts::Facts;
use super::{DumpError, DumpOptions, identity};

/// Number of the dumper's own set, which images do not list.
pub(crate) const OWN_SET: u32 = 1;

/// The sets of a tree, by what `/proc` says of a thread's groups.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    numbers: BTreeMap<Vec<u8>, u32>,
}

impl Sets {
    /// Those of a tree, unless they are to be left out.
    ///
    /// # Errors
    /// The dumper's own groups cannot be read.
    pub(crate) fn of(facts: &[Facts], options: &DumpOptions) -> Result<Self, DumpError> {
        let mut sets = Self::default();
        if options.ignore_cgroups {
            return Ok(sets);
        }
        let own = std::process::id() as i32;
        let own = identity::groups(own, own)?;
        for groups in facts.iter().flat_map(|f| &f.threads).map(|thread| &thread.groups) {
            let next = OWN_SET + 1 + sets.numbers.len() as u32;
            if *groups != own && !sets.numbers.contains_key(groups) {
                sets.numbers.insert(groups.clone(), next);
            }
        }
        Ok(sets)
    }

    /// Number of a thread's set.
    pub(crate) fn number(&self, groups: &[u8]) -> u32 {
        self.numbers.get(groups).copied().unwrap_or(OWN_SET)
    }

    /// The image, if there are sets to list.
    pub(crate) fn record(&self) -> Option<CgroupEntry> {
        let any = self.numbers.keys().next()?;
        let set = |(groups, &id): (&Vec<u8>, &u32)| {
            let member = |(name, path)| CgMemberEntry { name, path, cgns_prefix: None };
            CgSetEntry { id, ctls: hierarchies(groups).map(member).collect() }
        };
        let mut sets: Vec<CgSetEntry> = self.numbers.iter().map(set).collect();
        sets.sort_by_key(|set| set.id);
        // All threads are in the same hierarchies, if in different groups of them.
        let controllers = hierarchies(any).map(|(names, _)| CgControllerEntry {
            cnames: names.split(|&byte| byte == b',').map(<[u8]>::to_vec).collect(),
            ..CgControllerEntry::default()
        });
        Some(CgroupEntry { sets, controllers: controllers.collect() })
    }
}

/// Names of controllers and path of the group, of each line `id:names:path`. The unified hierarchy
/// has no name.
fn hierarchies(groups: &[u8]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + '_ {
    groups.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut parts = line.splitn(3, |&byte| byte == b':').skip(1);
        Some((parts.next()?.to_vec(), parts.next()?.to_vec()))
    })
}

#[cfg(test)]
mod tests {
    use super::Sets;

    #[test]
    fn groups_of_all_hierarchies_are_listed() {
        let mut sets = Sets::default();
        assert!(sets.record().is_none());
        let groups = b"2:cpu,cpuacct:/a\n1:name=systemd:/b:c\n0::/d\n";
        sets.numbers.insert(groups.to_vec(), 2);
        assert_eq!((sets.number(groups), sets.number(b"0::/\n")), (2, 1));
        let record = sets.record().expect("a set");
        let members: Vec<_> =
            record.sets[0].ctls.iter().map(|c| (c.name.as_slice(), c.path.as_slice())).collect();
        let expected: [(&[u8], &[u8]); 3] =
            [(b"cpu,cpuacct", b"/a"), (b"name=systemd", b"/b:c"), (b"", b"/d")];
        assert_eq!(members, expected);
        assert_eq!(record.controllers[0].cnames, [b"cpu".to_vec(), b"cpuacct".to_vec()]);
        assert_eq!(record.controllers[2].cnames, [b"".to_vec()]);
    }
}
