//! What people see when GPUs cannot be matched, word for word.
//!
//! The texts are files in `tests/matching/tables`. `BLESS_TABLES=1 cargo test -p gpu-kfd` writes
//! them; read what changed before it is committed.

use std::fs;
use std::path::Path;

use gpu_kfd::{Detail, Rule, Rules, match_gpus};

use crate::world::{PCIE, World};

fn check(name: &str, columns: u16, detail: Detail, saved: &World, host: &World, rules: Rules) {
    check_map(name, columns, detail, (saved, host), rules, "");
}

fn check_map(
    name: &str,
    columns: u16,
    detail: Detail,
    (saved, host): (&World, &World),
    rules: Rules,
    map: &str,
) {
    let map = map.parse().expect("a map");
    let refusal = match_gpus(&saved.saved(), &host.host(), rules, &map).expect_err("no match");
    let text = refusal.table(detail, columns) + "\n";
    assert!(text.lines().all(|line| line.chars().count() <= usize::from(columns)), "{text}");
    if columns == 100 && detail == Detail::Failing {
        assert_eq!(format!("{refusal}\n"), text);
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/matching/tables");
    let path = folder.join(name).with_extension("txt");
    if std::env::var_os("BLESS_TABLES").is_some() {
        fs::write(&path, &text).expect("a file");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{name} is now:\n{text}");
}

/// Eight GPUs in one hive at two CPUs.
fn eight(first_id: u32) -> World {
    World::new(first_id..first_id + 8, 2).at_cpus().hive(0x5a, 0..8)
}

#[test]
fn older_firmware_everywhere_is_one_row() {
    let (saved, mut host) = (eight(0x1001), eight(0x2001));
    host.gpus.iter_mut().for_each(|gpu| gpu.firmware = 150);
    check("firmware", 100, Detail::Failing, &saved, &host, Rules::all());
}

#[test]
fn other_chip_shows_all_that_differs() {
    let (saved, mut host) = (World::new([0x9c41, 0x9c42], 1), World::new([0x51b3, 0x51b4], 1));
    for gpu in &mut host.gpus {
        (gpu.device, gpu.firmware, gpu.vram_mib, gpu.io_links) = (0x740f, 76, 65_520, 3);
    }
    host.gpus[1].vram_mib = 65_519;
    check("other_chip", 100, Detail::Failing, &saved, &host, Rules::all());
    check("other_chip_120", 120, Detail::Failing, &saved, &host, Rules::all());
    check("other_chip_80", 80, Detail::Failing, &saved, &host, Rules::all());
}

#[test]
fn gpus_that_want_the_same_partner_are_named() {
    let (saved, mut host) = (World::new(1..4, 0), World::new(11..15, 0));
    host.gpus[..3].iter_mut().for_each(|gpu| gpu.vram_mib /= 2);
    let rules = Rules::all().without(Rule::Capability).without(Rule::Numa);
    check("crowd", 100, Detail::Failing, &saved, &host, rules);
}

#[test]
fn hive_that_is_too_large_is_shown() {
    let saved = World::new(0x11..0x15, 0).hive(0x5a, 0..4);
    let host = World::new(0x21..0x25, 0).hive(0x5b, 0..2).hive(0x5c, 2..4);
    check("hive", 100, Detail::Failing, &saved, &host, Rules::all());
}

#[test]
fn cpus_that_have_too_few_gpus_are_shown() {
    let mut saved = World::new(0x11..0x15, 2);
    let host = World::new(0x21..0x25, 2).at_cpus();
    for (gpu, cpu) in [(0, 4), (1, 4), (2, 4), (3, 5)] {
        saved.join(gpu, cpu, PCIE);
    }
    check("numa", 100, Detail::Failing, &saved, &host, Rules::all());
}

#[test]
fn map_that_breaks_rules_is_shown() {
    let (saved, mut host) = (eight(0x1001), eight(0x2001));
    let map = "0x1001=0x2001,0x1002=0x2005";
    check_map("map_numa", 100, Detail::Failing, (&saved, &host), Rules::all(), map);
    host.gpus[4].firmware = 1;
    check_map("map_firmware", 100, Detail::Failing, (&saved, &host), Rules::all(), map);
    let unknown = "0x1001=0x7777";
    check_map("map_unknown", 100, Detail::Failing, (&saved, &host), Rules::all(), unknown);
}

#[test]
fn everything_is_shown_on_demand() {
    let (saved, mut host) = (World::new([0x11], 0), World::new([0x21], 0));
    (host.gpus[0].firmware, host.gpus[0].device) = (1, 0x74b5);
    let rules = Rules::all().without(Rule::DeviceId);
    check("everything", 100, Detail::Everything, &saved, &host, rules);
}

#[test]
fn too_few_gpus_need_no_table() {
    let rules = Rules::all();
    check("fewer", 100, Detail::Failing, &eight(1), &World::new(1..3, 0), rules);
}
