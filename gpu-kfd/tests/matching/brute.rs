//! The rules of a match once more, in the plainest form: every way to give saved GPUs different
//! GPUs of the host is looked at. It shares no code with the library.

use gpu_kfd::{Rule, Rules};

use crate::world::{NONE, World, XGMI};

/// Every match that the rules allow, each as the host's GPU for each saved one.
pub(crate) fn all(
    saved: &World,
    host: &World,
    rules: Rules,
    chosen: &[Option<usize>],
) -> Vec<Vec<usize>> {
    let mut found = Vec::new();
    for choice in injections(saved.gpus.len(), host.gpus.len()) {
        let as_chosen = choice.iter().zip(chosen).all(|(at, only)| only.is_none_or(|o| o == *at));
        if as_chosen && is_allowed(saved, host, rules, &choice) {
            found.push(choice);
        }
    }
    found
}

/// Of these the one that changes least: the first GPU has the best that it has in any of them, then
/// the second, and so on.
pub(crate) fn best(saved: &World, host: &World, matches: &[Vec<usize>]) -> Option<Vec<usize>> {
    let is_saved_id = |id: u32| saved.gpus.iter().any(|gpu| gpu.id == id);
    let cost = |(place, &at): (usize, &usize)| {
        let (own, id) = (saved.gpus[place].id, host.gpus[at].id);
        let class = match (id == own, is_saved_id(id), at == place) {
            (true, _, _) => 0,
            (false, false, true) => 1,
            (false, false, false) => 2,
            (false, true, true) => 3,
            (false, true, false) => 4,
        };
        (class, at)
    };
    let costs = |choice: &&Vec<usize>| choice.iter().enumerate().map(cost).collect::<Vec<_>>();
    matches.iter().min_by_key(costs).cloned()
}

/// Whether the rules allow a match.
pub(crate) fn is_allowed(saved: &World, host: &World, rules: Rules, choice: &[usize]) -> bool {
    let gpus = 0..saved.gpus.len();
    let pairs = || gpus.clone().flat_map(|a| gpus.clone().map(move |b| (a, b)));
    let alone = gpus.clone().all(|gpu| is_alike(saved, host, rules, gpu, choice[gpu]));
    let links = !rules.has(Rule::Links)
        || pairs().all(|(a, b)| saved.links[a][b] <= host.links[choice[a]][choice[b]]);
    let (hives, hives_here) = (hives(saved), hives(host));
    let hive = !rules.has(Rule::Hive)
        || pairs().all(|(a, b)| !hives[a][b] || hives_here[choice[a]][choice[b]]);
    alone && links && hive && (!rules.has(Rule::Numa) || has_cpus(saved, host, rules, choice))
}

fn is_alike(saved: &World, host: &World, rules: Rules, gpu: usize, other: usize) -> bool {
    let (mine, its) = (&saved.gpus[gpu], &host.gpus[other]);
    let links_to_cpus = |world: &World, gpu: usize| -> Vec<(u8, u8)> {
        let cpus = world.gpus.len()..world.links.len();
        let links = cpus.map(|cpu| (world.links[gpu][cpu], world.links[cpu][gpu]));
        links.filter(|&(out, _)| out != NONE).collect()
    };
    let (my_links, its_links) = (links_to_cpus(saved, gpu), links_to_cpus(host, other));
    let covered = |&(out, back): &(u8, u8)| its_links.iter().any(|&(o, b)| o >= out && b >= back);
    (!rules.has(Rule::DeviceId) || mine.device == its.device)
        && (!rules.has(Rule::FwVersion) || mine.firmware <= its.firmware)
        && (!rules.has(Rule::VramSize) || mine.vram_mib <= its.vram_mib)
        && (!rules.has(Rule::IoLinksCount) || mine.io_links <= its.io_links)
        && (!rules.has(Rule::Links) || my_links.iter().all(covered))
}

/// Which GPUs are in one hive, by closing the relation.
fn hives(world: &World) -> Vec<Vec<bool>> {
    let count = world.gpus.len();
    let joined = |a: usize, b: usize| {
        let id = world.gpus[a].hive;
        let xgmi = world.links[a][b] == XGMI && world.links[b][a] == XGMI;
        a != b && (xgmi || id != 0 && id == world.gpus[b].hive)
    };
    let row = |a| (0..count).map(|b| joined(a, b)).collect();
    let mut one: Vec<Vec<bool>> = (0..count).map(row).collect();
    for via in 0..count {
        let reached = one[via].clone();
        for row in one.iter_mut().filter(|row| row[via]) {
            row.iter_mut().zip(&reached).for_each(|(to, &further)| *to |= further);
        }
    }
    one
}

/// Whether CPUs can be found for a choice of GPUs.
fn has_cpus(saved: &World, host: &World, rules: Rules, choice: &[usize]) -> bool {
    let used = |world: &World| -> Vec<usize> {
        let cpus = world.gpus.len()..world.links.len();
        let is_used = |cpu: &usize| (0..world.gpus.len()).any(|gpu| world.links[gpu][*cpu] != NONE);
        cpus.filter(is_used).collect()
    };
    let (cpus, cpus_here) = (used(saved), used(host));
    let fits = |assigned: &Vec<usize>| {
        (0..choice.len()).all(|gpu| {
            cpus.iter().zip(assigned).all(|(&cpu, &place)| {
                let here = cpus_here[place];
                let (out, back) = (saved.links[gpu][cpu], saved.links[cpu][gpu]);
                let out_here = host.links[choice[gpu]][here];
                let back_here = host.links[here][choice[gpu]];
                if rules.has(Rule::Links) {
                    out <= out_here && back <= back_here
                } else {
                    out == NONE || out_here != NONE
                }
            })
        })
    };
    injections(cpus.len(), cpus_here.len()).iter().any(fits)
}

/// Every way to give `from` things different ones of `to`.
fn injections(from: usize, to: usize) -> Vec<Vec<usize>> {
    let mut all = vec![Vec::new()];
    for _ in 0..from {
        all = all
            .into_iter()
            .flat_map(|start: Vec<usize>| {
                let free = (0..to).filter(|at| !start.contains(at)).collect::<Vec<_>>();
                free.into_iter().map(move |at| [start.as_slice(), &[at]].concat())
            })
            .collect();
    }
    all
}

#[test]
fn brute_force_counts_right() {
    assert_eq!(injections(5, 6).len(), 720);
    assert_eq!(injections(0, 3), [Vec::<usize>::new()]);
    assert!(injections(3, 2).is_empty());
}
