//! Each rule for itself: what it refuses, what it lets pass, and that its switch, and no other,
//! lets the rest pass.

use std::collections::BTreeSet;

use gpu_kfd::{
    Comparison, Detail, GpuId, GpuMatch, HeapType, HostGpuId, Link, LinkType, Node, Refusal,
    RefusalReason, Rule, Rules, SavedTopology, Subject, Topology, UserMap, Verdict, match_gpus,
};

use crate::world::{NONE, PCIE, World, XGMI};

fn find(saved: &World, host: &World, rules: Rules, map: &str) -> Result<GpuMatch, Box<Refusal>> {
    match_gpus(&saved.saved(), &host.host(), rules, &map.parse().expect("a map"))
}

fn refused(saved: &World, host: &World, rules: Rules) -> Box<Refusal> {
    find(saved, host, rules, "").expect_err("no match")
}

/// Rules that fail in the rows of a refusal.
fn failing(refusal: &Refusal) -> BTreeSet<Rule> {
    let rows = refusal.rows(Detail::Failing);
    assert!(rows.iter().all(|row| row.verdict == Verdict::Fails));
    rows.iter().map(|row| row.rule).collect()
}

/// Makes the property that a rule compares larger by the least that can be.
fn raise(rule: Rule, node: &mut Node) {
    let properties = &mut node.properties;
    let property = match rule {
        Rule::VendorId => &mut properties.vendor_id,
        Rule::DeviceId => &mut properties.device_id,
        Rule::SimdCount => &mut properties.simd_count,
        Rule::ArrayCount => &mut properties.array_count,
        Rule::SimdArraysPerEngine => &mut properties.simd_arrays_per_engine,
        Rule::CuPerSimdArray => &mut properties.cu_per_simd_array,
        Rule::SimdPerCu => &mut properties.simd_per_cu,
        Rule::MaxWavesPerSimd => &mut properties.max_waves_per_simd,
        Rule::WaveFrontSize => &mut properties.wave_front_size,
        Rule::LdsSize => &mut properties.lds_size_in_kb,
        Rule::MaxSlotsScratchCu => &mut properties.max_slots_scratch_cu,
        Rule::MemBanksCount => &mut properties.mem_banks_count,
        Rule::NumSdmaEngines => &mut properties.num_sdma_engines,
        Rule::NumSdmaXgmiEngines => &mut properties.num_sdma_xgmi_engines,
        Rule::NumSdmaQueuesPerEngine => &mut properties.num_sdma_queues_per_engine,
        Rule::NumCpQueues => &mut properties.num_cp_queues,
        Rule::Capability => &mut properties.capability,
        Rule::NumGws => &mut properties.num_gws,
        Rule::CachesCount => &mut properties.caches_count,
        Rule::IoLinksCount => &mut properties.io_links_count,
        Rule::FwVersion => &mut properties.fw_version,
        Rule::SdmaFwVersion => &mut properties.sdma_fw_version,
        Rule::VramSize => return node.memory_banks[0].size_in_bytes += 1,
        Rule::VramPublic => {
            node.memory_banks[0].heap_type = HeapType::FRAME_BUFFER_PRIVATE;
            return;
        }
        Rule::Links | Rule::Hive | Rule::Numa => panic!("{rule:?} compares no property"),
    };
    *property += 1;
}

/// One GPU saved on the first host: does the other take it?
fn one(from: &Topology, to: &Topology, rules: Rules) -> Result<GpuMatch, Box<Refusal>> {
    let saved = SavedTopology::of_host(from).expect("one GPU");
    match_gpus(&saved, to, rules, &UserMap::default())
}

#[test]
fn each_property_is_compared_by_its_rule_and_by_no_other() {
    let usual = World::new([7], 0).host();
    for &rule in Rule::ALL.iter().filter(|rule| rule.is_pairwise()) {
        let mut raised = usual.clone();
        raise(rule, &mut raised.nodes[0]);
        let check_refused = |from: &Topology, to: &Topology| {
            let refusal = one(from, to, Rules::all()).expect_err("they differ");
            let reason = RefusalReason::NoPartner { saved: vec![GpuId(7)], here: vec![] };
            assert_eq!(*refusal.reason(), reason);
            assert_eq!(failing(&refusal), BTreeSet::from([rule]));
            assert!(one(from, to, Rules::all().without(rule)).is_ok(), "{rule:?} is switched off");
            let others = Rule::ALL.iter().filter(|other| **other != rule);
            let others = others.fold(Rules::all(), |rules, &other| rules.without(other));
            assert!(one(from, to, others).is_err(), "{rule:?} alone");
        };
        check_refused(&raised, &usual);
        match rule.comparison() {
            Comparison::AtLeast => assert!(one(&usual, &raised, Rules::all()).is_ok(), "{rule:?}"),
            _ => check_refused(&usual, &raised),
        }
    }
}

#[test]
fn everything_is_in_the_long_list_with_its_verdict() {
    let usual = World::new([7], 0).host();
    let mut other = usual.clone();
    raise(Rule::FwVersion, &mut other.nodes[0]);
    raise(Rule::SimdCount, &mut other.nodes[0]);
    let rules = Rules::all().without(Rule::SimdCount);
    let refusal = one(&other, &usual, rules).expect_err("firmware is older here");
    let rows = refusal.rows(Detail::Everything);
    assert_eq!(rows.len(), Rule::ALL.iter().filter(|rule| rule.is_pairwise()).count());
    for row in rows {
        assert_eq!(row.subject, Subject::Pair(GpuId(7), HostGpuId(7)));
        let expected = match row.rule {
            Rule::FwVersion => Verdict::Fails,
            Rule::SimdCount => Verdict::SwitchedOff,
            _ => Verdict::Holds,
        };
        assert_eq!(row.verdict, expected, "{:?}", row.rule);
    }
    assert_eq!(failing(&refusal), BTreeSet::from([Rule::FwVersion]));
}

#[test]
fn fewer_saved_gpus_than_here_match_and_more_do_not() {
    let host = World::new(100..108, 2).at_cpus().hive(9, 0..8);
    let saved = World::new(200..202, 1).at_cpus().hive(5, 0..2);
    let found = find(&saved, &host, Rules::all(), "").expect("a match");
    assert_eq!(found.gpus(), [(GpuId(200), HostGpuId(100)), (GpuId(201), HostGpuId(101))]);
    assert_eq!(found.cpus(), [(0, 0)]);
    assert_eq!((found.host_of(GpuId(201)), found.host_of(GpuId(9))), (Some(HostGpuId(101)), None));
    let refusal = refused(&host, &saved, Rules::none());
    assert_eq!(*refusal.reason(), RefusalReason::FewerHere { saved: 8, here: 2 });
    let nothing = World::new([], 0);
    assert!(find(&nothing, &nothing, Rules::all(), "").expect("nothing to do").gpus().is_empty());
}

#[test]
fn gpus_keep_their_ids_or_else_their_places() {
    let check = |saved: &[u32], host: &[u32], expected: &[u32]| {
        let (saved, host) =
            (World::new(saved.iter().copied(), 0), World::new(host.iter().copied(), 0));
        let found = find(&saved, &host, Rules::all(), "").expect("a match");
        let here: Vec<u32> = found.gpus().iter().map(|(_, here)| here.0).collect();
        assert_eq!(here, expected);
        let is_identity = saved.gpus.iter().zip(expected).all(|(gpu, &here)| gpu.id == here);
        assert_eq!(found.is_identity(), is_identity);
    };
    check(&[1, 2, 3], &[1, 2, 3], &[1, 2, 3]);
    check(&[3, 1], &[1, 2, 3], &[3, 1]);
    check(&[7, 8, 9], &[1, 2, 3], &[1, 2, 3]);
    // One card was replaced: the others keep their ids.
    check(&[1, 2, 3, 4], &[1, 9, 3, 4], &[1, 9, 3, 4]);
    check(&[1, 2, 3, 4], &[2, 3, 4, 9], &[9, 2, 3, 4]);
    check(&[5, 1], &[1, 2, 3], &[2, 1]);
}

#[test]
fn links_are_kept_or_made_better() {
    let pair = |ids: [u32; 2], out: u8, back: u8| {
        let mut world = World::new(ids, 0);
        world.links[0][1] = out;
        world.links[1][0] = back;
        world
    };
    let cases = [
        // What was saved, what is here, whether it does.
        ((NONE, NONE), (NONE, NONE), true),
        ((NONE, NONE), (XGMI, XGMI), true),
        ((PCIE, PCIE), (PCIE, PCIE), true),
        ((PCIE, PCIE), (XGMI, XGMI), true),
        ((XGMI, XGMI), (PCIE, PCIE), false),
        ((PCIE, PCIE), (NONE, NONE), false),
        ((PCIE, PCIE), (PCIE, NONE), false),
        ((PCIE, NONE), (PCIE, PCIE), true),
        // The GPUs can change places.
        ((PCIE, NONE), (NONE, PCIE), true),
        ((XGMI, PCIE), (PCIE, XGMI), true),
    ];
    for ((out, back), (out_here, back_here), does) in cases {
        let (saved, host) = (pair([1, 2], out, back), pair([3, 4], out_here, back_here));
        let rules = Rules::all().without(Rule::Hive);
        let found = find(&saved, &host, rules, "");
        assert_eq!(found.is_ok(), does, "{out} {back} to {out_here} {back_here}");
        if let Err(refusal) = found {
            let ways_out = vec![vec![Rule::Links]];
            assert_eq!(*refusal.reason(), RefusalReason::Apart { ways_out });
            assert_eq!(failing(&refusal), BTreeSet::from([Rule::Links]));
            assert!(find(&saved, &host, rules.without(Rule::Links), "").is_ok());
        }
    }
}

#[test]
fn pcie_between_gpus_may_be_listed_through_cpus_here() {
    let mut saved = World::new([1, 2], 1).at_cpus();
    saved.join(0, 1, PCIE);
    let plain = World::new([3, 4], 1).at_cpus();
    assert!(find(&saved, &plain, Rules::all(), "").is_err());
    let mut host = plain.host();
    for (from, to) in [(1, 2), (2, 1)] {
        let link_type = LinkType::PCI_EXPRESS;
        let link = Link { link_type, node_from: from, node_to: to, ..Link::default() };
        host.nodes[from as usize].p2p_links.push(link);
    }
    let found = match_gpus(&saved.saved(), &host, Rules::all(), &UserMap::default());
    assert_eq!(found.expect("a match").gpus().len(), 2);
}

#[test]
fn link_to_a_cpu_is_kept_even_if_numa_does_not_count() {
    let mut saved = World::new([1], 1);
    saved.join(0, 1, XGMI);
    let host = World::new([1], 1).at_cpus();
    for rules in [Rules::all(), Rules::all().without(Rule::Numa)] {
        let refusal = refused(&saved, &host, rules);
        let reason = RefusalReason::NoPartner { saved: vec![GpuId(1)], here: vec![] };
        assert_eq!(*refusal.reason(), reason);
        let rows = refusal.rows(Detail::Failing);
        let [row] = rows.as_slice() else { panic!("{rows:?}") };
        assert_eq!((row.saved.as_str(), row.here.as_str()), ("XGMI to CPU", "PCIe to CPU"));
        assert_eq!(row.rule, Rule::Links);
    }
    let found = find(&saved, &host, Rules::all().without(Rule::Links), "").expect("a match");
    assert_eq!(found.cpus(), [(0, 0)]);
    assert!(find(&host, &saved, Rules::all(), "").is_ok());
}

#[test]
fn hive_goes_into_one_hive_and_several_may_share_one() {
    let host = |sizes: &[usize]| {
        let count = sizes.iter().sum::<usize>() as u32;
        let mut world = World::new(100..100 + count, 0);
        let mut start = 0;
        for (hive, size) in sizes.iter().enumerate() {
            world = world.hive(hive as u64 + 1, start..start + size);
            start += size;
        }
        world
    };
    let refusal = refused(&host(&[3]), &host(&[2, 2]), Rules::all());
    let ways_out = vec![vec![Rule::Links, Rule::Hive]];
    assert_eq!(*refusal.reason(), RefusalReason::Apart { ways_out });
    assert_eq!(failing(&refusal), BTreeSet::from([Rule::Links, Rule::Hive]));
    let neither = Rules::all().without(Rule::Links).without(Rule::Hive);
    assert!(find(&host(&[3]), &host(&[2, 2]), neither, "").is_ok());
    assert!(find(&host(&[2, 2]), &host(&[4]), Rules::all(), "").is_ok());
    assert!(find(&host(&[2, 3]), &host(&[3, 2]), Rules::all(), "").is_ok());
    // Each fits alone, both do not.
    assert!(find(&host(&[3]), &host(&[4, 2]), Rules::all(), "").is_ok());
    let refusal = refused(&host(&[3, 3]), &host(&[4, 2]), Rules::all());
    let rows = refusal.rows(Detail::Failing);
    assert!(rows.iter().any(|row| {
        row.rule == Rule::Hive
            && row.subject == Subject::All
            && row.saved == "hives of 3 + 3"
            && row.here == "hives of 4 + 2"
    }));
}

#[test]
fn hive_without_links_is_one_by_its_id() {
    let with_ids = |hives: [u64; 2]| {
        let mut world = World::new([1, 2], 0);
        world.gpus.iter_mut().zip(hives).for_each(|(gpu, hive)| gpu.hive = hive);
        world
    };
    let refusal = refused(&with_ids([5, 5]), &with_ids([5, 6]), Rules::all());
    let ways_out = vec![vec![Rule::Hive]];
    assert_eq!(*refusal.reason(), RefusalReason::Apart { ways_out });
    assert!(find(&with_ids([5, 5]), &with_ids([8, 8]), Rules::all(), "").is_ok());
    assert!(find(&with_ids([5, 6]), &with_ids([0, 0]), Rules::all(), "").is_ok());
}

#[test]
fn gpus_of_one_cpu_stay_together_and_of_two_apart() {
    let at_one = World::new([1, 2], 1).at_cpus();
    let at_two = World::new([3, 4], 2).at_cpus();
    for (saved, host) in [(&at_one, &at_two), (&at_two, &at_one)] {
        let refusal = refused(saved, host, Rules::all());
        let ways_out = vec![vec![Rule::Numa]];
        assert_eq!(*refusal.reason(), RefusalReason::Apart { ways_out });
        assert_eq!(failing(&refusal), BTreeSet::from([Rule::Numa]));
        let found = find(saved, host, Rules::all().without(Rule::Numa), "").expect("a match");
        assert!(found.cpus().is_empty());
    }
    // A host on which the second and third of four GPUs are at one CPU.
    let mut crossed = World::new(10..14, 2);
    for (gpu, cpu) in [(0, 4), (1, 5), (2, 5), (3, 4)] {
        crossed.join(gpu, cpu, PCIE);
    }
    let found = find(&World::new(1..5, 2).at_cpus(), &crossed, Rules::all(), "");
    let found = found.expect("a match");
    let here: Vec<u32> = found.gpus().iter().map(|(_, here)| here.0).collect();
    assert_eq!(here, [10, 13, 12, 11]);
    assert_eq!(found.cpus(), [(0, 0), (1, 1)]);
}

#[test]
fn hidden_gpu_is_not_there() {
    let saved = World::new([1, 2], 1).at_cpus().hive(3, 0..2);
    let mut host = saved.host();
    host.nodes.retain(|node| node.index != 2);
    host.hidden = vec![2];
    let refusal = match_gpus(&saved.saved(), &host, Rules::all(), &UserMap::default());
    let reason = refusal.expect_err("one is hidden").reason().clone();
    assert_eq!(reason, RefusalReason::FewerHere { saved: 2, here: 1 });
    // One that was saved with the other hidden is content: its link leads nowhere.
    let alone = SavedTopology::of_host(&host).expect("one GPU");
    assert_eq!(alone.gpus()[0].links.len(), 2);
    assert!(match_gpus(&alone, &host, Rules::all(), &UserMap::default()).is_ok());
}

#[test]
fn map_is_taken_as_given_and_checked() {
    let mut host = World::new(10..14, 0).hive(1, 0..2).hive(2, 2..4);
    let saved = World::new(1..3, 0).hive(1, 0..2);
    let here = |found: GpuMatch| found.gpus().iter().map(|(_, here)| here.0).collect::<Vec<_>>();
    assert_eq!(here(find(&saved, &host, Rules::all(), "1=13,2=12").expect("a match")), [13, 12]);
    // What the map leaves out is matched around it.
    assert_eq!(here(find(&saved, &host, Rules::all(), "1=12").expect("a match")), [12, 13]);
    assert_eq!(here(find(&saved, &host, Rules::all(), "2=10").expect("a match")), [11, 10]);
    let refusal = find(&saved, &host, Rules::all(), "1=10,2=12").expect_err("two hives");
    let ways_out = vec![vec![Rule::Links, Rule::Hive]];
    assert_eq!(*refusal.reason(), RefusalReason::Apart { ways_out });
    assert_eq!(here(find(&saved, &host, Rules::none(), "1=10,2=12").expect("a match")), [10, 12]);
    host.gpus[3].firmware -= 1;
    let refusal = find(&saved, &host, Rules::all(), "1=13,2=12").expect_err("older firmware");
    let reason = RefusalReason::NoPartner { saved: vec![GpuId(1)], here: vec![] };
    assert_eq!(*refusal.reason(), reason);
    let rows = refusal.rows(Detail::Failing);
    let subjects: Vec<Subject> = rows.into_iter().map(|row| row.subject).collect();
    assert_eq!(subjects, [Subject::Pair(GpuId(1), HostGpuId(13))]);
}

#[test]
fn map_with_ids_that_do_not_exist_is_refused() {
    let world = World::new([1, 2], 0);
    let reason = |map: &str| {
        find(&world, &world, Rules::none(), map).expect_err("no such GPU").reason().clone()
    };
    assert_eq!(reason("0x63=1"), RefusalReason::UnknownSaved { id: GpuId(99) });
    assert_eq!(reason("1=0x63"), RefusalReason::UnknownHere { id: HostGpuId(99) });
}

#[test]
fn host_beyond_the_limits_is_refused() {
    let host = World::new(1..=129, 0);
    let refusal = refused(&World::new([1], 0), &host, Rules::all());
    assert_eq!(*refusal.reason(), RefusalReason::TooManyHere { gpus: 129, cpus: 0 });
}
