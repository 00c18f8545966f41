//! Links between the nodes, as the driver finds them when it adds one GPU after the other.
//!
//! `io_links` are direct: CPU to CPU, GPU to its CPU over PCIe, GPU to GPU over XGMI. `p2p_links`
//! are indirect: over the other socket, or over PCIe between GPUs of different hives. Order,
//! weights, flags and even the engine masks that the driver forgets to set are those of kfd_crat.c
//! and kfd_topology.c of Linux 6.18; a captured node with 8 MI210 has the same.

use super::catalogue::Product;
use super::chip::XgmiPath;
use super::topology::{GpuSpec, Topology};

/// The firmware's distance between two sockets (ACPI SLIT) on the captured machines.
const SOCKETS_WEIGHT: u32 = 32;
/// kfd_crat.c, `kfd_parse_subtype_iolink`.
const PCIE_WEIGHT: u32 = 20;
/// kfd_crat.c, `KFD_CRAT_XGMI_WEIGHT`, for each hop.
const XGMI_WEIGHT: u32 = 15;

/// `CRAT_IOLINK_FLAGS_*`, `HSA_IOLINK_FLAGS` (linux/kfd_sysfs.h).
const ENABLED: u32 = 1;
const NON_COHERENT: u32 = 2;

/// Engine that is best for each pair in a hive of eight (kfd_topology.c, `rec_sdma_eng_map`):
/// row from, column to.
const BEST_ENGINE: [[u32; 8]; 8] = [
    [0, 14, 12, 2, 4, 8, 10, 6],
    [14, 0, 2, 10, 8, 4, 6, 12],
    [10, 2, 0, 12, 14, 6, 4, 8],
    [2, 12, 10, 0, 6, 14, 8, 4],
    [4, 8, 14, 6, 0, 10, 12, 2],
    [8, 4, 6, 14, 12, 0, 2, 10],
    [10, 6, 4, 8, 12, 2, 0, 14],
    [6, 12, 8, 4, 2, 10, 14, 0],
];

/// What a link is made of: `HSA_IOLINKTYPE_*` numbers (linux/kfd_sysfs.h, hsakmttypes.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum LinkKind {
    /// Between AMD CPUs.
    HyperTransport = 1,
    /// PCIe, or over PCIe and CPUs.
    Pcie = 2,
    /// Between GPUs of a hive.
    Xgmi = 11,
}

/// A link in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it is made of.
    pub kind: LinkKind,
    /// Node that it belongs to.
    pub node_from: u32,
    /// Node that it leads to.
    pub node_to: u32,
    /// Distance; a smaller one is nearer.
    pub weight: u32,
    /// MB/s; 0 if not known.
    pub min_mbytes: u32,
    /// MB/s; 0 if not known.
    pub max_mbytes: u32,
    /// Copy engines that the driver recommends, one bit each.
    pub engines_mask: u32,
    /// 1: enabled; 2: not coherent.
    pub flags: u32,
}

/// The links of one node, in the driver's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLinks {
    /// Direct links.
    pub io: Vec<Link>,
    /// Indirect links.
    pub p2p: Vec<Link>,
}

/// The links of every node of `topology`.
pub(super) fn of(topology: &Topology) -> Vec<NodeLinks> {
    let cpus = topology.cpus().len() as u32;
    let mut nodes: Vec<NodeLinks> = (0..cpus).map(|node| between_sockets(node, cpus)).collect();
    for (place, gpu) in topology.gpus().iter().enumerate() {
        nodes.push(NodeLinks::default());
        let node = cpus + place as u32;
        add_pcie(&mut nodes, node, gpu);
        for (other_place, other) in topology.gpus()[..place].iter().enumerate() {
            add_xgmi(
                &mut nodes,
                topology.product(),
                (node, gpu),
                (cpus + other_place as u32, other),
            );
        }
        add_over_sockets(&mut nodes, cpus, node, gpu);
        for (other_place, other) in topology.gpus()[..place].iter().enumerate() {
            add_between_hives(&mut nodes, (node, gpu), (cpus + other_place as u32, other));
        }
    }
    nodes
}

fn between_sockets(node: u32, cpus: u32) -> NodeLinks {
    let link = |node_to| Link {
        kind: LinkKind::HyperTransport,
        node_from: node,
        node_to,
        weight: SOCKETS_WEIGHT,
        min_mbytes: 0,
        max_mbytes: 0,
        engines_mask: 0,
        flags: 0,
    };
    let io = (0..cpus).filter(|&other| other != node).map(link).collect();
    NodeLinks { io, p2p: Vec::new() }
}

/// PCIe between a GPU and its CPU. The CPU sees a link only if it can map all video memory.
fn add_pcie(nodes: &mut [NodeLinks], node: u32, gpu: &GpuSpec) {
    let up = Link {
        kind: LinkKind::Pcie,
        node_from: node,
        node_to: gpu.cpu_node,
        weight: PCIE_WEIGHT,
        min_mbytes: gpu.chip.pcie.min_mbytes,
        max_mbytes: gpu.chip.pcie.max_mbytes,
        engines_mask: low_bits(gpu.chip.sdma.engines),
        flags: ENABLED,
    };
    nodes[node as usize].io.push(up);
    if gpu.large_bar() {
        let flags = ENABLED | NON_COHERENT;
        let down = Link { node_from: gpu.cpu_node, node_to: node, flags, ..up };
        nodes[gpu.cpu_node as usize].io.push(down);
    } else {
        // The engines are set only together with those of the way back.
        nodes[node as usize].io[0].engines_mask = 0;
    }
}

/// XGMI between a new GPU and one that is there, if they are in one hive.
fn add_xgmi(
    nodes: &mut [NodeLinks],
    product: &Product,
    (node, gpu): (u32, &GpuSpec),
    (other_node, other): (u32, &GpuSpec),
) {
    let Some(path) = product.xgmi.filter(|_| gpu.hive.is_some() && gpu.hive == other.hive) else {
        return;
    };
    let XgmiPath { hops, min_mbytes, max_mbytes } = path(gpu.index, other.index);
    let link = |(node_from, from): (u32, &GpuSpec), (node_to, to): (u32, &GpuSpec)| Link {
        kind: LinkKind::Xgmi,
        node_from,
        node_to,
        weight: XGMI_WEIGHT * hops,
        min_mbytes,
        max_mbytes,
        engines_mask: xgmi_engines(product, from, to),
        flags: ENABLED,
    };
    nodes[node as usize].io.push(link((node, gpu), (other_node, other)));
    nodes[other_node as usize].io.push(link((other_node, other), (node, gpu)));
}

/// Engines that the driver recommends from one GPU of a hive to another: the best one if it knows
/// (eight GPUs with at least six engines for XGMI), else all that are for XGMI.
fn xgmi_engines(product: &Product, from: &GpuSpec, to: &GpuSpec) -> u32 {
    let sdma = from.chip.sdma;
    let plain = low_bits(sdma.engines);
    let all = low_bits(sdma.xgmi_engines) << sdma.engines;
    let hive_gpus = from.hive.map_or(0, |hive| hive.gpus);
    if hive_gpus != 8 || sdma.xgmi_engines < 6 {
        return all;
    }
    let place = |gpu: &GpuSpec| (gpu.index % product.hive_gpus) as usize;
    let shift = u32::from(sdma.xgmi_engines == 6);
    match 1 << (BEST_ENGINE[place(from)][place(to)] >> shift) {
        engine if engine & plain != 0 => all,
        engine => engine,
    }
}

const fn low_bits(count: u32) -> u32 {
    (1 << count) - 1
}

/// A GPU and the CPUs that it is not plugged in at: PCIe and the way between the sockets.
fn add_over_sockets(nodes: &mut [NodeLinks], cpus: u32, node: u32, gpu: &GpuSpec) {
    for cpu in (0..cpus).filter(|&cpu| cpu != gpu.cpu_node) {
        let up = Link {
            kind: LinkKind::Pcie,
            node_from: node,
            node_to: cpu,
            weight: PCIE_WEIGHT + SOCKETS_WEIGHT,
            min_mbytes: 0,
            max_mbytes: 0,
            engines_mask: 0,
            flags: ENABLED,
        };
        nodes[node as usize].p2p.push(up);
        if gpu.large_bar() {
            let flags = ENABLED | NON_COHERENT;
            let down = Link { node_from: cpu, node_to: node, flags, ..up };
            nodes[cpu as usize].p2p.push(down);
        }
    }
}

/// PCIe between GPUs that no hive joins. A way to a GPU is there if its memory is all visible.
fn add_between_hives(
    nodes: &mut [NodeLinks],
    (node, gpu): (u32, &GpuSpec),
    (other_node, other): (u32, &GpuSpec),
) {
    if gpu.hive.is_some() && gpu.hive == other.hive {
        return;
    }
    let both_ways = gpu.large_bar() && other.large_bar();
    let same_socket = gpu.cpu_node == other.cpu_node;
    let link = |node_from, node_to, to: &GpuSpec, engines_mask| Link {
        kind: LinkKind::Pcie,
        node_from,
        node_to,
        weight: 2 * PCIE_WEIGHT + if same_socket { 0 } else { SOCKETS_WEIGHT },
        min_mbytes: if same_socket { to.chip.pcie.min_mbytes } else { 0 },
        max_mbytes: if same_socket { to.chip.pcie.max_mbytes } else { 0 },
        engines_mask,
        flags: if both_ways { ENABLED | NON_COHERENT } else { ENABLED },
    };
    // The link is a copy of the PCIe link of the GPU that it leads to; the new GPU's has no engines
    // yet at that time.
    if gpu.large_bar() {
        nodes[other_node as usize].p2p.push(link(other_node, node, gpu, 0));
    }
    if other.large_bar() {
        let engines = low_bits(other.chip.sdma.engines);
        nodes[node as usize].p2p.push(link(node, other_node, other, engines));
    }
}

#[cfg(test)]
mod tests {
    use super::{Link, LinkKind, NodeLinks};
    use crate::products::{NodeConfig, Product, Topology};

    fn machine(product: &str, gpus: u32) -> Topology {
        let config = NodeConfig::new(Product::by_name(product).expect("a product"), gpus);
        config.topology().expect("a good configuration")
    }

    fn short(links: &[Link]) -> Vec<(u32, u32, u32, u32)> {
        links
            .iter()
            .map(|link| (link.node_to, link.weight, link.engines_mask, link.flags))
            .collect()
    }

    /// Nodes 0, 4 and 6 of the captured node with 8 MI210.
    #[test]
    fn bridged_hives_are_linked_as_captured() {
        let nodes = machine("gfx90a-bridged", 8).links();
        let cpu = [(1, 32, 0, 0), (2, 20, 3, 3), (3, 20, 3, 3), (4, 20, 3, 3), (5, 20, 3, 3)];
        assert_eq!(short(&nodes[0].io), cpu);
        let far = [(6, 52, 0, 3), (7, 52, 0, 3), (8, 52, 0, 3), (9, 52, 0, 3)];
        assert_eq!(short(&nodes[0].p2p), far);
        let near = [(0, 20, 3, 1), (2, 15, 28, 1), (3, 15, 28, 1), (5, 15, 28, 1)];
        assert_eq!(short(&nodes[4].io), near);
        let far = [(1, 52, 0, 1), (6, 72, 0, 3), (7, 72, 0, 3), (8, 72, 0, 3), (9, 72, 0, 3)];
        assert_eq!(short(&nodes[4].p2p), far);
        let far = [(0, 52, 0, 1), (2, 72, 3, 3), (3, 72, 3, 3), (4, 72, 3, 3), (5, 72, 3, 3)];
        assert_eq!(short(&nodes[6].p2p), far);
        let xgmi = nodes[4].io[1];
        assert_eq!((xgmi.kind, xgmi.min_mbytes, xgmi.max_mbytes), (LinkKind::Xgmi, 50_000, 50_000));
    }

    #[test]
    fn packages_have_four_links_inside() {
        let nodes = machine("gfx90a", 8).links();
        let to = |from: usize, to: u32| {
            let link = nodes[from].io.iter().find(|link| link.node_to == to).expect("a link");
            (link.weight, link.max_mbytes)
        };
        assert_eq!(to(1, 2), (15, 200_000));
        assert_eq!(to(1, 7), (15, 100_000));
        assert_eq!(to(1, 4), (30, 0));
    }

    #[test]
    fn hive_of_eight_mi300x_has_an_engine_for_each_pair() {
        let nodes = machine("gfx942", 8).links();
        let engines: Vec<u32> = nodes[2].io[1..].iter().map(|link| link.engines_mask).collect();
        assert_eq!(engines, [14, 12, 2, 4, 8, 10, 6].map(|engine| 1 << engine));
        let four = machine("gfx942", 4).links();
        assert!(four[2].io[1..].iter().all(|link| link.engines_mask == 0xfffc));
    }

    #[test]
    fn small_bar_has_no_way_from_the_cpu() {
        let mut config = NodeConfig::new(Product::by_name("gfx90a-bridged").expect("a product"), 5);
        config.gpu(0).vram_public_bytes = Some(256 << 20);
        let nodes = config.topology().expect("a good configuration").links();
        let leads_to_it = |node: &NodeLinks| {
            node.io
                .iter()
                .chain(&node.p2p)
                .any(|link| link.node_to == 2 && link.kind == LinkKind::Pcie)
        };
        assert!(!nodes.iter().any(leads_to_it));
        // It still reaches its CPU, and GPU 4 in the other hive, whose memory is visible.
        assert_eq!(short(&nodes[2].io)[0], (0, 20, 0, 1));
        assert_eq!(short(&nodes[2].p2p), [(1, 52, 0, 1), (6, 72, 0, 1)]);
    }

    #[test]
    fn removed_gpu_takes_its_links_along() {
        let mut topology = machine("gfx942", 8);
        let (gone, last) = (topology.gpus()[3].gpu_id, topology.gpus()[7]);
        assert!(topology.remove_gpu(gone));
        assert!(!topology.remove_gpu(gone));
        let nodes = topology.links();
        assert_eq!(nodes.len(), 9);
        assert_eq!(topology.node_of(last.gpu_id), Some(8));
        assert!(nodes.iter().flat_map(|node| &node.io).all(|link| link.node_to < 9));
        // The board is still one of a hive of eight: the best engines stay.
        assert_eq!(nodes[2].io[1].engines_mask, 1 << 14);
    }
}
