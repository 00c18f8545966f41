//! Every knob, and everything that a configuration can get wrong.

use std::collections::BTreeSet;

use super::{ConfigError, GpuKnobs, NodeConfig};
use crate::products::{GpuSpec, Product, Topology};

fn config(product: &str, gpus: u32) -> NodeConfig {
    NodeConfig::new(Product::by_name(product).expect("a product"), gpus)
}

fn built(config: &NodeConfig) -> Topology {
    config.topology().expect("a good configuration")
}

fn check_refused(turn: impl FnOnce(&mut NodeConfig), expected: ConfigError) {
    let mut config = config("gfx90a", 2);
    turn(&mut config);
    assert_eq!(config.topology(), Err(expected));
}

/// Every product with every number of GPUs.
fn all() -> impl Iterator<Item = Topology> {
    Product::all().iter().flat_map(|product| {
        (1..=product.gpus_max).map(|gpus| built(&NodeConfig::new(product, gpus)))
    })
}

#[test]
fn ids_minors_places_and_serial_numbers_are_unique() {
    for topology in all() {
        let distinct = |of: fn(&GpuSpec) -> u64| {
            let values: BTreeSet<u64> = topology.gpus().iter().map(of).collect();
            assert_eq!(values.len(), topology.gpus().len(), "{}", topology.product().name);
        };
        distinct(|gpu| u64::from(gpu.gpu_id));
        distinct(|gpu| u64::from(gpu.render_minor));
        distinct(|gpu| u64::from(gpu.pci.location_id()));
        distinct(|gpu| u64::from(gpu.first_processor));
        distinct(|gpu| gpu.unique_id);
        assert!(topology.gpus().iter().all(|gpu| (1..=0xffff).contains(&gpu.gpu_id)));
    }
}

#[test]
fn hives_have_as_many_gpus_as_they_say() {
    for topology in all() {
        for gpu in topology.gpus() {
            let Some(hive) = gpu.hive else {
                let size = topology.product().hive_gpus;
                assert!(size == 0 || topology.gpus().len() as u32 % size == 1);
                continue;
            };
            let members = topology.gpus().iter().filter(|other| other.hive == gpu.hive);
            assert_eq!(members.count() as u32, hive.gpus);
            assert!(hive.gpus > 1 && hive.id != 0);
        }
    }
}

#[test]
fn bridged_hives_are_on_a_socket_each() {
    let topology = built(&config("gfx90a-bridged", 8));
    let nodes: Vec<u32> = topology.gpus().iter().map(|gpu| gpu.cpu_node).collect();
    assert_eq!(nodes, [0, 0, 0, 0, 1, 1, 1, 1]);
    let hives: BTreeSet<_> =
        topology.gpus().iter().map(|gpu| gpu.hive.map(|hive| hive.id)).collect();
    assert_eq!(hives.len(), 2);
}

#[test]
fn every_knob_is_seen_at_its_gpu_only() {
    let plain = built(&config("gfx942", 3));
    let mut turned = config("gfx942", 3);
    *turned.gpu(1) = GpuKnobs {
        gpu_id: Some(0x5a02),
        render_minor: Some(140),
        vram_bytes: Some(32 << 30),
        vram_public_bytes: Some(256 << 20),
        mec_firmware: Some(1),
        sdma_firmware: Some(2),
        cpu_node: Some(1),
    };
    let turned = built(&turned);
    let gpu = turned.gpus()[1];
    assert_eq!((gpu.gpu_id, gpu.render_minor, gpu.cpu_node), (0x5a02, 140, 1));
    assert_eq!((gpu.vram.bytes, gpu.vram.public_bytes), (32 << 30, 256 << 20));
    assert_eq!((gpu.firmware.mec, gpu.firmware.sdma), (1, 2));
    assert!(!gpu.large_bar());
    assert_eq!((turned.gpus()[0], turned.gpus()[2]), (plain.gpus()[0], plain.gpus()[2]));
}

#[test]
fn every_gpu_can_be_turned_at_once() {
    let mut config = config("gfx90a", 4);
    config.every_gpu(|knobs| knobs.vram_bytes = Some(1 << 30));
    let topology = built(&config);
    assert!(topology.gpus().iter().all(|gpu| gpu.vram.bytes == 1 << 30 && gpu.large_bar()));
}

#[test]
fn cpu_nodes_are_as_asked_for() {
    let mut config = config("gfx90a", 8);
    config.cpu_nodes = Some(4);
    config.cores_per_cpu_node = Some(6);
    config.memory_per_cpu_node_bytes = Some(4 << 30);
    let topology = built(&config);
    let first_cores: Vec<u32> = topology.cpus().iter().map(|cpu| cpu.first_core_id).collect();
    assert_eq!(first_cores, [0, 8, 16, 24]);
    assert!(topology.cpus().iter().all(|cpu| cpu.cores == 6));
    assert_eq!((topology.memory_bytes(), topology.gtt_bytes()), (16 << 30, 8 << 30));
    let nodes: Vec<u32> = topology.gpus().iter().map(|gpu| gpu.cpu_node).collect();
    assert_eq!(nodes, [0, 0, 1, 1, 2, 2, 3, 3]);
}

#[test]
fn missing_gpu_leaves_the_others_as_they_are() {
    let whole = built(&config("gfx90a", 4));
    let mut config = config("gfx90a", 4);
    config.removed = BTreeSet::from([1]);
    let without = built(&config);
    let kept: Vec<GpuSpec> =
        [0, 2, 3].iter().filter_map(|&index| whole.gpu_by_index(index).copied()).collect();
    assert_eq!(without.gpus(), kept);
    assert_eq!(without.node_of(whole.gpus()[2].gpu_id), Some(2));
    assert_eq!(without.generation(), whole.generation() + 1);
}

#[test]
fn another_seed_is_another_machine_with_the_same_boards() {
    let first = built(&config("gfx942", 8));
    let mut config = config("gfx942", 8);
    config.seed = 5;
    let second = built(&config);
    assert_eq!(second, built(&config), "the same seed makes the same machine");
    for (one, other) in first.gpus().iter().zip(second.gpus()) {
        assert_ne!(one.gpu_id, other.gpu_id);
        assert_ne!(one.unique_id, other.unique_id);
        assert_ne!(one.hive, other.hive);
        assert_eq!((one.chip, one.render_minor), (other.chip, other.render_minor));
    }
}

#[test]
fn default_minors_and_ids_step_aside_for_those_asked_for() {
    let plain = built(&config("gfx90a", 2));
    let mut config = config("gfx90a", 2);
    config.gpu(1).gpu_id = Some(plain.gpus()[0].gpu_id);
    config.gpu(1).render_minor = Some(128);
    let gpus = built(&config).gpus().to_vec();
    assert_eq!((gpus[0].gpu_id, gpus[1].gpu_id), (gpus[1].gpu_id + 1, plain.gpus()[0].gpu_id));
    assert_eq!((gpus[0].render_minor, gpus[1].render_minor), (129, 128));
}

#[test]
fn what_cannot_be_built_is_refused_by_name() {
    let count = |gpus| ConfigError::GpuCount { product: "gfx90a", gpus, gpus_max: 8 };
    check_refused(|config| config.gpus = 0, count(0));
    check_refused(|config| config.gpus = 9, count(9));
    let no_gpu = ConfigError::NoSuchGpu { index: 2, gpus: 2 };
    check_refused(|config| config.gpu(2).gpu_id = Some(1), no_gpu);
    check_refused(|config| config.removed = BTreeSet::from([2]), no_gpu);
    check_refused(|config| config.cpu_nodes = Some(0), ConfigError::CpuNodeCount { nodes: 0 });
    check_refused(|config| config.cpu_nodes = Some(9), ConfigError::CpuNodeCount { nodes: 9 });
    let cores = ConfigError::CoreCount { cores: 0 };
    check_refused(|config| config.cores_per_cpu_node = Some(0), cores);
    let no_node = ConfigError::NoSuchCpuNode { index: 1, node: 1, nodes: 1 };
    check_refused(|config| config.gpu(1).cpu_node = Some(1), no_node);
    let memory = |bytes| ConfigError::MemorySize { bytes };
    check_refused(|config| config.gpu(0).vram_bytes = Some(0), memory(0));
    check_refused(|config| config.gpu(0).vram_bytes = Some(4097), memory(4097));
    check_refused(|config| config.gpu(0).vram_bytes = Some(1 << 45), memory(1 << 45));
    check_refused(|config| config.memory_per_cpu_node_bytes = Some(1), memory(1));
}

#[test]
fn ids_minors_and_visible_memory_are_refused_by_name() {
    let public = ConfigError::PublicVram { index: 0, public_bytes: 8192, bytes: 4096 };
    check_refused(
        |config| {
            config.gpu(0).vram_bytes = Some(4096);
            config.gpu(0).vram_public_bytes = Some(8192);
        },
        public,
    );
    let id = |gpu_id| ConfigError::GpuId { index: 1, gpu_id };
    check_refused(|config| config.gpu(1).gpu_id = Some(0), id(0));
    check_refused(|config| config.gpu(1).gpu_id = Some(0x1_0000), id(0x1_0000));
    let twice = ConfigError::GpuIdTaken { index: 1, gpu_id: 7 };
    check_refused(|config| config.every_gpu(|knobs| knobs.gpu_id = Some(7)), twice);
    let minor = |minor| ConfigError::RenderMinor { index: 1, minor };
    check_refused(|config| config.gpu(1).render_minor = Some(127), minor(127));
    check_refused(|config| config.first_render_minor = 191, minor(192));
    let twice = ConfigError::RenderMinorTaken { index: 1, minor: 150 };
    check_refused(|config| config.every_gpu(|knobs| knobs.render_minor = Some(150)), twice);
}
