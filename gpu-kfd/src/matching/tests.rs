//! Large and symmetric machines: an answer comes within a known number of steps.
//!
//! The limits below are about twice what the search takes. Steps are counted, not time, so that a
//! slow machine fails nothing.

use super::side::Side;
use super::solver::Budget;
use super::{GpuMatch, Refusal, RefusalReason, Rule, Rules, UserMap, match_sides};
use crate::topology::{HostGpuId, Link, LinkType, Node, NodeProperties, Topology};

/// Equal GPUs, each hive at one CPU node: `hives` gives the size of each and its CPU.
fn machine(hives: &[(usize, u32)], first_id: u32) -> Topology {
    let cpus = hives.iter().map(|&(_, cpu)| cpu + 1).max().unwrap_or(0);
    let cpu = |index| Node { index, ..Node::default() };
    let mut nodes: Vec<Node> = (0..cpus).map(cpu).collect();
    for (hive, &(size, cpu)) in hives.iter().enumerate() {
        let start = nodes.len() as u32;
        let members = start..start + size as u32;
        for index in members.clone() {
            let link = |link_type, node_to| Link {
                link_type,
                node_from: index,
                node_to,
                ..Link::default()
            };
            let xgmi = members.clone().filter(|&peer| peer != index);
            let xgmi = xgmi.map(|peer| link(LinkType::XGMI, peer));
            let io_links = xgmi.chain([link(LinkType::PCI_EXPRESS, cpu)]).collect();
            nodes[cpu as usize].io_links.push(Link {
                link_type: LinkType::PCI_EXPRESS,
                node_from: cpu,
                node_to: index,
                ..Link::default()
            });
            let hive_id = if size > 1 { hive as u64 + 1 } else { 0 };
            nodes.push(Node {
                index,
                gpu_id: Some(HostGpuId(first_id + index)),
                properties: NodeProperties { hive_id, ..NodeProperties::default() },
                io_links,
                ..Node::default()
            });
        }
    }
    Topology { nodes, ..Topology::default() }
}

/// Numbers that look random, the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        // Knuth's constants for a linear congruential generator, whose upper bits are good.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// The same machine, its GPUs shuffled in a way that `seed` decides.
fn shuffled(mut machine: Topology, seed: u64) -> Topology {
    let cpus = machine.cpus().count();
    let gpus = machine.nodes.len() - cpus;
    let mut random = Random(seed);
    for left in (1..gpus).rev() {
        machine.nodes.swap(cpus + left, cpus + random.below(left as u64 + 1) as usize);
    }
    machine
}

/// The answer, and the steps that it took.
fn answer(
    saved: &Topology,
    host: &Topology,
    rules: Rules,
) -> (Result<GpuMatch, Box<Refusal>>, u64) {
    let limit = super::STEPS_MAX;
    let mut budget = Budget(limit);
    let map = UserMap::default();
    let found = match_sides(&Side::host(saved), &Side::host(host), rules, &map, &mut budget);
    (found, limit - budget.0)
}

fn check_found(saved: &Topology, host: &Topology, steps_max: u64) -> GpuMatch {
    let (found, steps) = answer(saved, host, Rules::all());
    println!("found in {steps} steps");
    assert!(steps <= steps_max, "{steps} steps");
    found.expect("a match")
}

fn check_refused(saved: &Topology, host: &Topology, steps_max: u64) -> RefusalReason {
    let (found, steps) = answer(saved, host, Rules::all());
    println!("refused in {steps} steps");
    assert!(steps <= steps_max, "{steps} steps");
    found.expect_err("no match").reason().clone()
}

/// 64 GPUs in 8 hives at 2 CPUs.
fn large() -> Vec<(usize, u32)> {
    (0..8).map(|hive| (8, hive / 4)).collect()
}

#[test]
fn eight_gpus_of_one_hive_keep_their_places() {
    let host = machine(&[(8, 0)], 100);
    assert!(check_found(&host, &host, 20).is_identity());
    let saved = machine(&[(8, 0)], 500);
    let found = check_found(&saved, &host, 20);
    let in_order = found.gpus().iter().all(|(saved, here)| saved.0 - 400 == here.0);
    assert!(in_order, "{found:?}");
}

#[test]
fn sixty_four_gpus_in_hives_keep_their_places() {
    let host = machine(&large(), 100);
    let found = check_found(&host, &host, 150);
    assert!(found.is_identity());
    assert_eq!(found.cpus(), [(0, 0), (1, 1)]);
}

#[test]
fn sixty_four_gpus_in_hives_match_in_any_order() {
    let host = machine(&large(), 100);
    for seed in 0..10 {
        check_found(&shuffled(machine(&large(), 1000), seed), &host, 300);
    }
}

#[test]
fn part_of_a_large_machine_matches() {
    let host = machine(&large(), 100);
    let saved: Vec<(usize, u32)> = (0..8).map(|hive| (7, hive % 2)).collect();
    check_found(&machine(&saved, 1000), &host, 150);
    let saved: Vec<(usize, u32)> = (0..16).map(|hive| (3, hive % 2)).collect();
    check_found(&machine(&saved, 1000), &host, 150);
}

#[test]
fn hive_that_is_too_large_is_refused_at_once() {
    let host = machine(&large(), 100);
    let apart = |reason| assert!(matches!(reason, RefusalReason::Apart { .. }), "{reason:?}");
    apart(check_refused(&machine(&[(9, 0)], 1000), &host, 10));
    let mut saved = large();
    (saved[0].0, saved[1].0) = (9, 7);
    apart(check_refused(&machine(&saved, 1000), &host, 10));
    saved.reverse();
    apart(check_refused(&machine(&saved, 1000), &host, 10));
}

#[test]
fn cpus_that_are_too_crowded_are_refused_soon() {
    let host = machine(&large(), 100);
    let saved: Vec<(usize, u32)> = (0..8).map(|hive| (8, u32::from(hive >= 5))).collect();
    let reason = check_refused(&machine(&saved, 1000), &host, 10);
    let RefusalReason::Apart { ways_out } = reason else { panic!("{reason:?}") };
    assert_eq!(ways_out, [[Rule::Numa]]);
}

#[test]
fn hives_that_do_not_pack_are_refused_soon() {
    let host = machine(&large(), 100);
    // Two hives of three find room in each of eight hives of eight; the seventeenth does not.
    let saved: Vec<(usize, u32)> = (0..17).map(|_| (3, 0)).collect();
    let host_at_one: Vec<(usize, u32)> = (0..8).map(|_| (8, 0)).collect();
    let reason = check_refused(&machine(&saved, 1000), &machine(&host_at_one, 100), 40_000);
    assert!(matches!(reason, RefusalReason::Apart { .. }), "{reason:?}");
    let found = check_found(&machine(&saved[1..], 1000), &machine(&host_at_one, 100), 250);
    assert_eq!(found.gpus().len(), 48);
    let reason = check_refused(&machine(&saved, 1000), &host, 10);
    assert!(matches!(reason, RefusalReason::Apart { .. }), "{reason:?}");
}

/// `count` GPUs at one CPU, any two with XGMI between them with a chance of `per_mille`.
fn irregular(count: usize, per_mille: u64, seed: u64) -> Topology {
    let mut machine = machine(&vec![(1, 0); count], 100);
    let mut random = Random(seed);
    for one in 1..=count {
        for other in 1..one {
            if random.below(1000) < per_mille {
                for (from, to) in [(one, other), (other, one)] {
                    machine.nodes[from].io_links.push(Link {
                        link_type: LinkType::XGMI,
                        node_from: from as u32,
                        node_to: to as u32,
                        ..Link::default()
                    });
                }
            }
        }
    }
    machine
}

#[test]
fn irregular_links_are_found_again_under_other_ids_and_in_another_order() {
    for per_mille in [50, 100, 300, 500, 800] {
        // Most steps go into showing that a GPU cannot have a place that it would rather have.
        for (count, kept, steps_max) in [(8, 8, 100), (16, 14, 50_000), (64, 64, 50)] {
            let host = irregular(count, per_mille, per_mille);
            let mut saved = shuffled(host.clone(), 7);
            saved.nodes.truncate(1 + kept);
            for id in saved.nodes.iter_mut().filter_map(|node| node.gpu_id.as_mut()) {
                id.0 += 1000;
            }
            let found = check_found(&saved, &host, steps_max);
            assert_eq!(found.gpus().len(), kept);
        }
    }
}

#[test]
fn search_that_takes_too_long_says_so() {
    let host = irregular(16, 500, 1);
    let mut saved = shuffled(host.clone(), 3);
    saved.nodes.truncate(12);
    let (saved, host) = (Side::host(&saved), Side::host(&host));
    for steps in [0, 1] {
        let map = UserMap::default();
        let found = match_sides(&saved, &host, Rules::all(), &map, &mut Budget(steps));
        let refusal = found.expect_err("no time to find one");
        assert_eq!(*refusal.reason(), RefusalReason::Undecided { steps });
        assert!(refusal.to_string().contains("decides it"), "{refusal}");
    }
}
