//! The tree, read back as programs read it: by gpu-kfd's reader, and along libdrm's ways.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Entry, Sysfs};
use crate::products::{NodeConfig, Product, Topology};

/// A node of the topology in sysfs.
const NODES: &str = "/sys/devices/virtual/kfd/kfd/topology/nodes";

fn machine(product: &'static Product, gpus: u32) -> Topology {
    NodeConfig::new(product, gpus).topology().expect("a good configuration")
}

/// Every product with every number of GPUs.
fn all() -> impl Iterator<Item = Topology> {
    let counts =
        |product: &'static Product| (1..=product.gpus_max).map(move |gpus| (product, gpus));
    Product::all()
        .iter()
        .flat_map(move |product| counts(product))
        .map(|(product, gpus)| machine(product, gpus))
}

/// The lines of a property file.
fn properties(tree: &Sysfs, path: impl AsRef<Path>) -> Vec<(String, u64)> {
    let text = tree.file(path.as_ref()).expect("a file");
    let line = |line: &str| {
        let (name, value) = line.split_once(' ').expect("name and value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    std::str::from_utf8(text).expect("text").lines().map(line).collect()
}

fn property(tree: &Sysfs, path: impl AsRef<Path>, name: &str) -> u64 {
    let all = properties(tree, path);
    all.into_iter().find(|(other, _)| other == name).expect("the property is there").1
}

/// Entries of a folder.
fn listing(tree: &Sysfs, folder: impl AsRef<Path>) -> BTreeSet<PathBuf> {
    let folder = folder.as_ref();
    let from = tree.entries.range(folder.to_owned()..).map(|(path, _)| path);
    let inside = from.take_while(|path| path.starts_with(folder));
    inside.filter(|path| path.parent() == Some(folder)).cloned().collect()
}

/// Writes the tree and gives it to gpu-kfd, through the link that the class has.
fn read_back<E: std::fmt::Debug>(
    tree: &Sysfs,
    read: fn(PathBuf) -> Result<gpu_kfd::Topology, E>,
) -> gpu_kfd::Topology {
    let folder = tempfile::tempdir().expect("a folder");
    tree.write_below(folder.path()).expect("a new folder");
    read(folder.path().join("sys/class/kfd/kfd/topology")).expect("a good topology")
}

#[test]
fn reader_of_gpu_kfd_finds_every_gpu_of_every_product() {
    for topology in all() {
        let mut tree = topology.sysfs();
        // Most of the files; the largest machine is read with all of its caches below.
        tree.entries.retain(|path, _| !path.to_string_lossy().contains("/caches/"));
        let read = read_back(&tree, gpu_kfd::Topology::read_without_caches);
        assert_eq!(read.cpus().count(), topology.cpus().len());
        assert_eq!(read.generation, topology.generation());
        let seen: Vec<(u32, u64)> = read
            .gpus()
            .map(|(id, node)| (id.0, u64::from(node.properties.drm_render_minor)))
            .collect();
        let meant: Vec<(u32, u64)> =
            topology.gpus().iter().map(|gpu| (gpu.gpu_id, u64::from(gpu.render_minor))).collect();
        assert_eq!(seen, meant, "{}", topology.product().name);
    }
}

#[test]
fn reader_of_gpu_kfd_understands_everything_of_the_largest_machine() {
    let topology = machine(Product::by_name("gfx942").expect("a product"), 8);
    let read = read_back(&topology.sysfs(), gpu_kfd::Topology::read);
    for (gpu, (id, node)) in topology.gpus().iter().zip(read.gpus()) {
        assert_eq!(id.0, gpu.gpu_id);
        assert_eq!(node.name, "ip discovery");
        assert_eq!(node.caches.len(), 626);
        assert_eq!((node.io_links.len(), node.p2p_links.len()), (8, 1));
        assert!(node.is_vram_public());
        assert_eq!(node.vram().map(|bank| bank.size_in_bytes), Some(gpu.vram.bytes));
        assert_eq!(node.isa().map(|isa| isa.to_string()), Some("gfx942".to_owned()));
        assert_eq!(node.pci_address().map(|pci| pci.to_string()), Some(gpu.pci.to_string()));
        let cpu = read.numa_link(node).map(|link| link.node_to);
        assert_eq!(cpu, Some(gpu.cpu_node));
        assert_eq!(node.properties.hive_id, gpu.hive.map_or(0, |hive| hive.id));
    }
}

#[test]
fn counts_in_properties_are_those_of_the_folders() {
    for topology in all() {
        let tree = topology.sysfs();
        for node in listing(&tree, NODES) {
            for (name, folder) in [
                ("mem_banks_count", "mem_banks"),
                ("caches_count", "caches"),
                ("io_links_count", "io_links"),
                ("p2p_links_count", "p2p_links"),
            ] {
                let count = property(&tree, node.join("properties"), name);
                let folders = listing(&tree, node.join(folder));
                let meant = (0..count).map(|number| node.join(format!("{folder}/{number}")));
                assert_eq!(folders, meant.collect(), "{}", node.display());
            }
        }
    }
}

#[test]
fn direct_links_have_their_way_back() {
    for topology in all() {
        let nodes = topology.links();
        for link in nodes.iter().flat_map(|node| &node.io) {
            let back = nodes[link.node_to as usize].io.iter();
            let same = back.filter(|back| back.node_to == link.node_from);
            let kinds: Vec<_> =
                same.map(|back| (back.kind, back.weight, back.max_mbytes)).collect();
            assert_eq!(kinds, [(link.kind, link.weight, link.max_mbytes)]);
        }
    }
}

#[test]
fn every_node_reaches_every_other_once() {
    for topology in all() {
        for (node, links) in topology.links().iter().enumerate() {
            let mut reached: Vec<u32> =
                links.io.iter().chain(&links.p2p).map(|link| link.node_to).collect();
            reached.sort_unstable();
            let count = (topology.cpus().len() + topology.gpus().len()) as u32;
            let others: Vec<u32> = (0..count).filter(|&other| other != node as u32).collect();
            assert_eq!(reached, others, "node {node} of {}", topology.product().name);
        }
    }
}

#[test]
fn property_files_fit_the_page_that_programs_read() {
    for (path, entry) in machine(Product::by_name("gfx942").expect("a product"), 8).sysfs().iter() {
        if let Entry::File(content) = entry {
            assert!(content.len() < 4096, "{} has {} bytes", path.display(), content.len());
        }
    }
}

#[test]
fn properties_are_those_of_a_captured_mi210() {
    let tree = machine(Product::by_name("gfx90a-bridged").expect("a product"), 8).sysfs();
    let mut lines = properties(&tree, format!("{NODES}/4/properties"));
    // Serial numbers are ours, `capability2` came later than the capture.
    lines.retain(|(name, _)| !["hive_id", "unique_id", "capability2"].contains(&name.as_str()));
    let captured = "cpu_cores_count 0,simd_count 416,mem_banks_count 1,caches_count 217,\
        io_links_count 4,p2p_links_count 5,cpu_core_id_base 0,simd_id_base 2147487968,\
        max_waves_per_simd 8,lds_size_in_kb 64,gds_size_in_kb 0,num_gws 64,wave_front_size 64,\
        array_count 8,simd_arrays_per_engine 1,cu_per_simd_array 14,simd_per_cu 4,\
        max_slots_scratch_cu 32,gfx_target_version 90010,vendor_id 4098,device_id 29711,\
        location_id 768,domain 0,drm_render_minor 130,num_sdma_engines 2,\
        num_sdma_xgmi_engines 3,num_sdma_queues_per_engine 8,num_cp_queues 24,\
        max_engine_clk_fcompute 1700,local_mem_size 0,fw_version 92,capability 746037888,\
        debug_prop 470,sdma_fw_version 9,num_xcc 1,max_engine_clk_ccompute 2450";
    let lines: Vec<String> = lines.iter().map(|(name, value)| format!("{name} {value}")).collect();
    assert_eq!(lines.join(","), captured);
}

#[test]
fn whole_mi300x_counts_all_its_dies() {
    let tree = machine(Product::by_name("gfx942").expect("a product"), 1).sysfs();
    let of = |name| property(&tree, format!("{NODES}/2/properties"), name);
    assert_eq!((of("simd_count"), of("array_count"), of("num_xcc")), (1216, 32, 8));
    assert_eq!((of("caches_count"), of("gfx_target_version")), (626, 90_402));
}

#[test]
fn small_bar_shows_one_private_bank() {
    let mut config = NodeConfig::new(Product::by_name("gfx90a").expect("a product"), 1);
    config.gpu(0).vram_public_bytes = Some(256 << 20);
    let tree = config.topology().expect("a good configuration").sysfs();
    let bank = format!("{NODES}/1/mem_banks/0/properties");
    assert_eq!(property(&tree, &bank, "heap_type"), 2);
    assert_eq!(property(&tree, &bank, "size_in_bytes"), 68_702_699_520);
}

#[test]
fn libdrm_finds_device_and_both_nodes_from_a_device_number() {
    let topology = machine(Product::by_name("gfx90a").expect("a product"), 2);
    let folder = tempfile::tempdir().expect("a folder");
    topology.sysfs().write_below(folder.path()).expect("a new folder");
    let gpu = topology.gpus()[1];
    let device = folder.path().join("sys/dev/char/226:129/device");
    let text = |name: &str| fs::read_to_string(device.join(name)).expect("a file");
    assert_eq!(text("vendor"), "0x1002\n");
    assert_eq!(text("device"), "0x7408\n");
    assert!(text("uevent").contains(&format!("PCI_SLOT_NAME={}\n", gpu.pci)));
    let bus = fs::read_link(device.join("subsystem")).expect("a link");
    assert!(bus.ends_with("bus/pci"));
    let config = fs::read(device.join("config")).expect("a file");
    assert_eq!(config[..4], [0x02, 0x10, 0x08, 0x74]);
    let mut nodes: Vec<_> = fs::read_dir(device.join("drm"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    nodes.sort();
    assert_eq!(nodes, ["card1", "renderD129"]);
    let by_bus = folder.path().join(format!("sys/bus/pci/devices/{}/drm/card1/dev", gpu.pci));
    assert_eq!(fs::read_to_string(by_bus).expect("a file"), "226:1\n");
}

#[test]
fn links_lead_into_the_tree_or_to_the_hosts_folders() {
    let folder = tempfile::tempdir().expect("a folder");
    let tree = machine(Product::by_name("gfx90a").expect("a product"), 2).sysfs();
    tree.write_below(folder.path()).expect("a new folder");
    let links = tree.iter().filter(|(_, entry)| matches!(entry, Entry::Link(_)));
    for (path, _) in links {
        let path = folder.path().join(path.strip_prefix("/").expect("an absolute path"));
        assert!(path.exists(), "{} leads nowhere", path.display());
    }
}

#[test]
fn every_entry_is_below_a_root_that_can_be_laid_over() {
    for topology in all() {
        for (path, _) in topology.sysfs().iter() {
            let below = |root: &&str| path.starts_with(root) || Path::new(root).starts_with(path);
            assert!(Sysfs::ROOTS.iter().any(below), "{}", path.display());
        }
    }
}

#[test]
fn removed_gpu_leaves_no_trace_in_the_tree() {
    let mut topology = machine(Product::by_name("gfx90a").expect("a product"), 3);
    let gone = topology.gpus()[1];
    assert!(topology.remove_gpu(gone.gpu_id));
    let tree = topology.sysfs();
    assert_eq!(tree.get("/sys/class/drm/renderD129"), None);
    assert_eq!(tree.get(format!("/sys/bus/pci/devices/{}", gone.pci)), None);
    assert_eq!(listing(&tree, NODES).len(), 3);
    let generation = tree.file("/sys/devices/virtual/kfd/kfd/topology/generation_id");
    assert_eq!(generation, Some(b"5\n".as_slice()));
}
