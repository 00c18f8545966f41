//! Random machines of up to 5 saved and 6 present GPUs: what the library says is what brute force
//! says, both ways.
//!
//! Half of the checkpoints are cut out of the host and changed a little, so that matches exist or
//! nearly do; the others are drawn apart from it.

use gpu_kfd::{GpuMatch, Refusal, RefusalReason, Rule, Rules, UserMap, match_gpus};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use proptest::test_runner::Config;

use crate::brute;
use crate::world::{Gpu, NONE, PCIE, World, XGMI};

const SAVED_MAX: usize = 5;
const HERE_MAX: usize = 6;
/// Rules that worlds can break.
const BREAKABLE: [Rule; 7] = [
    Rule::DeviceId,
    Rule::FwVersion,
    Rule::VramSize,
    Rule::IoLinksCount,
    Rule::Links,
    Rule::Hive,
    Rule::Numa,
];

/// How much of what is drawn differs between GPUs.
#[derive(Clone, Copy, Debug)]
enum Mix {
    /// Properties differ, few links.
    Motley,
    /// Equal GPUs, many links.
    Linked,
}

fn gpu(mix: Mix) -> impl Strategy<Value = Gpu> {
    let odds = match mix {
        Mix::Motley => 3,
        Mix::Linked => 20,
    };
    let rare = move |usual: u32, other: u32| prop_oneof![odds => Just(usual), 1 => Just(other)];
    (rare(1, 2), rare(1, 2), rare(2, 1), rare(3, 4), prop_oneof![4 => Just(0_u64), 1 => 1..3_u64])
        .prop_map(|(device, firmware, vram, io_links, hive)| Gpu {
            id: 0,
            device,
            firmware,
            vram_mib: vram.into(),
            io_links,
            hive,
        })
}

fn link(mix: Mix) -> impl Strategy<Value = (u8, u8)> {
    let none = match mix {
        Mix::Motley => 12,
        Mix::Linked => 2,
    };
    prop_oneof![
        none => Just((NONE, NONE)),
        2 => Just((XGMI, XGMI)),
        2 => Just((PCIE, PCIE)),
        1 => Just((XGMI, PCIE)),
        1 => Just((NONE, XGMI)),
        1 => Just((PCIE, NONE)),
    ]
}

fn world(mix: Mix, gpus_max: usize) -> impl Strategy<Value = World> {
    (1..=gpus_max, 0..=3_usize).prop_flat_map(move |(count, cpus)| {
        let ids = subsequence((1..=8_u32).collect::<Vec<_>>(), count).prop_shuffle();
        let pairs = count * (count - 1) / 2;
        let between = vec(link(mix), pairs);
        // Most GPUs are at one CPU.
        let home = vec((any::<Index>(), 0..8_u8), count);
        let more = vec(prop_oneof![9 => Just((NONE, NONE)), 1 => link(mix)], count * cpus);
        (ids, vec(gpu(mix), count), between, home, more).prop_map(
            move |(ids, gpus, between, home, more)| {
                let mut world = World::new(ids.clone(), cpus);
                for (place, (gpu, id)) in gpus.into_iter().zip(ids).enumerate() {
                    world.gpus[place] = Gpu { id, ..gpu };
                }
                let mut set = |a: usize, b: usize, (out, back): (u8, u8)| {
                    world.links[a][b] = out;
                    world.links[b][a] = back;
                };
                let pairs = (0..count).flat_map(|a| (0..a).map(move |b| (a, b)));
                pairs.zip(between).for_each(|((a, b), link)| set(a, b, link));
                for (place, link) in more.into_iter().enumerate() {
                    set(place / cpus, count + place % cpus, link);
                }
                for (gpu, (cpu, kind)) in home.into_iter().enumerate().filter(|_| cpus > 0) {
                    let link = [(PCIE, PCIE), (XGMI, XGMI), (PCIE, NONE)];
                    let link = link[usize::from(kind.saturating_sub(5))];
                    set(gpu, count + cpu.index(cpus), link);
                }
                world
            },
        )
    })
}

/// A part of a host in any order, some of its links made worse or better.
fn part(host: World) -> impl Strategy<Value = World> {
    let count = host.gpus.len();
    let order = subsequence((0..count).collect::<Vec<_>>(), 1..=count.min(SAVED_MAX));
    let ids = subsequence((1..=8_u32).collect::<Vec<_>>(), count).prop_shuffle();
    let worse = vec((any::<Index>(), any::<Index>(), any::<bool>()), 0..4);
    (order.prop_shuffle(), ids, any::<bool>(), worse).prop_map(
        move |(order, ids, new_ids, worse)| {
            let mut saved = host.in_order(&order);
            if new_ids {
                saved.gpus.iter_mut().zip(ids).for_each(|(gpu, id)| gpu.id = id);
            }
            let points = saved.links.len();
            for (from, to, is_worse) in worse {
                let (from, to) = (from.index(points), to.index(points));
                let link = &mut saved.links[from][to];
                *link = if is_worse { link.saturating_sub(1) } else { (*link + 1).min(XGMI) };
                saved.links[from][from] = NONE;
            }
            saved
        },
    )
}

fn worlds() -> impl Strategy<Value = (World, World)> {
    let mix = select([Mix::Motley, Mix::Linked].as_slice());
    mix.prop_flat_map(|mix| {
        let apart = (world(mix, SAVED_MAX), world(mix, HERE_MAX));
        let planted = world(mix, HERE_MAX).prop_flat_map(|host| (part(host.clone()), Just(host)));
        prop_oneof![apart, planted]
    })
}

fn rules() -> impl Strategy<Value = Rules> {
    let off = subsequence(BREAKABLE.as_slice(), 0..=BREAKABLE.len());
    let off = prop_oneof![2 => Just(Vec::new()), 1 => off];
    off.prop_map(|off| off.into_iter().fold(Rules::all(), Rules::without))
}

fn places(saved: &World, host: &World, found: &GpuMatch) -> Vec<usize> {
    let place = |&id: &u32| {
        let here = found.host_of(gpu_kfd::GpuId(id)).expect("every saved GPU has one");
        host.gpus.iter().position(|gpu| gpu.id == here.0).expect("it is one of the host's")
    };
    saved.gpus.iter().map(|gpu| place(&gpu.id)).collect()
}

/// A reason says what brute force says, too.
fn check_reason(
    refusal: &Refusal,
    saved: &World,
    host: &World,
    chosen: &[Option<usize>],
) -> Result<(), TestCaseError> {
    let exists = |rules| !brute::all(saved, host, rules, chosen).is_empty();
    let between = [Rule::Links, Rule::Hive, Rule::Numa];
    match refusal.reason() {
        RefusalReason::FewerHere { .. } => prop_assert!(saved.gpus.len() > host.gpus.len()),
        RefusalReason::NoPartner { saved: crowd, here: room } => {
            prop_assert!(room.len() < crowd.len());
            // Each row fails, and its pair is one of the crowd's.
            for row in refusal.rows(gpu_kfd::Detail::Failing) {
                let gpu_kfd::Subject::Pair(gpu, other) = row.subject else {
                    return Err(TestCaseError::fail("a row without a pair"));
                };
                prop_assert!(crowd.contains(&gpu), "{gpu} is not of the crowd: {other}");
            }
        }
        RefusalReason::Apart { ways_out } => {
            let smallest = ways_out.first().map_or(0, Vec::len);
            prop_assert!(smallest > 0);
            for mask in 1_u32..8 {
                let set: Vec<Rule> = (0..3)
                    .filter(|place| mask >> place & 1 == 1)
                    .map(|place| between[place])
                    .collect();
                let in_use = set.iter().all(|&rule| refusal.rules().has(rule));
                let fewer = set.iter().fold(refusal.rules(), |rules, &rule| rules.without(rule));
                let helps = in_use && exists(fewer);
                let is_way = ways_out.contains(&set);
                prop_assert_eq!(is_way, helps && set.len() == smallest, "{:?}", set);
                prop_assert!(!helps || set.len() >= smallest);
            }
            prop_assert!(!refusal.rows(gpu_kfd::Detail::Failing).is_empty());
        }
        other => return Err(TestCaseError::fail(format!("unexpected: {other}"))),
    }
    Ok(())
}

fn check(
    saved: &World,
    host: &World,
    rules: Rules,
    chosen: &[Option<usize>],
) -> Result<(), TestCaseError> {
    let pairs = saved.gpus.iter().zip(chosen);
    let pairs = pairs.filter_map(|(gpu, &at)| Some(format!("{}={}", gpu.id, host.gpus[at?].id)));
    let map: UserMap = pairs.collect::<Vec<_>>().join(",").parse().expect("a map");
    let allowed = brute::all(saved, host, rules, chosen);
    match match_gpus(&saved.saved(), &host.host(), rules, &map) {
        Ok(found) => {
            let places = places(saved, host, &found);
            prop_assert!(allowed.contains(&places), "no match: {:?}", places);
            prop_assert_eq!(Some(places), brute::best(saved, host, &allowed));
        }
        Err(refusal) => {
            prop_assert_eq!(allowed.first(), None, "refused:\n{}", refusal);
            check_reason(&refusal, saved, host, chosen)?;
            let wide = refusal.table(gpu_kfd::Detail::Everything, 100);
            prop_assert!(wide.lines().all(|line| line.chars().count() <= 100), "{}", wide);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(3000) })]

    #[test]
    fn match_is_found_if_and_only_if_brute_force_finds_one(
        (saved, host) in worlds(),
        rules in rules(),
    ) {
        check(&saved, &host, rules, &vec![None; saved.gpus.len()])?;
    }
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::with_cases(1000) })]

    #[test]
    fn map_is_obeyed_and_checked(
        (saved, host) in worlds(),
        rules in rules(),
        order in Just((0..HERE_MAX).collect::<Vec<_>>()).prop_shuffle(),
        keep in vec(any::<bool>(), SAVED_MAX),
    ) {
        let chosen: Vec<Option<usize>> = (0..saved.gpus.len())
            .map(|gpu| Some(order[gpu]).filter(|&at| keep[gpu] && at < host.gpus.len()))
            .collect();
        check(&saved, &host, rules, &chosen)?;
    }

    #[test]
    fn any_map_is_taken_if_no_rule_is_to_hold(
        (saved, host) in worlds(),
        order in Just((0..HERE_MAX).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let order: Vec<usize> = order.into_iter().filter(|&at| at < host.gpus.len()).collect();
        let chosen: Vec<Option<usize>> =
            (0..saved.gpus.len()).map(|gpu| order.get(gpu).copied()).collect();
        check(&saved, &host, Rules::none(), &chosen)?;
        let found = brute::all(&saved, &host, Rules::none(), &chosen).len();
        prop_assert_eq!(found, usize::from(saved.gpus.len() <= order.len()));
    }

    #[test]
    fn host_matches_itself_gpu_for_gpu(host in world(Mix::Linked, HERE_MAX)) {
        let topology = host.host();
        let saved = gpu_kfd::SavedTopology::of_host(&topology).expect("small enough");
        let found = match_gpus(&saved, &topology, Rules::all(), &UserMap::default());
        prop_assert!(found.expect("the host itself").is_identity());
    }
}

/// Both answers occur often enough for the tests above to mean something.
#[test]
fn random_worlds_match_now_and_then() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut found, mut alone, mut apart) = (0, 0, 0);
    for _ in 0..1000 {
        let (saved, host) = worlds().new_tree(&mut runner).expect("a world").current();
        match match_gpus(&saved.saved(), &host.host(), Rules::all(), &UserMap::default()) {
            Ok(_) => found += 1,
            Err(refusal) => match refusal.reason() {
                RefusalReason::Apart { .. } => apart += 1,
                _ => alone += 1,
            },
        }
    }
    println!("found {found}, refused for GPUs alone {alone}, for what is between {apart}");
    assert!(found >= 100 && alone >= 100 && apart >= 100);
}
