//! The GPUs and CPUs of this host as records.

use criu_image::record::{DevIolink, KfdDeviceEntry};
use gpu_kfd::{HostGpuId, Node, Topology};

/// All nodes of the host, GPUs by the ids that they have here.
pub(super) fn of_host(topology: &Topology) -> Vec<KfdDeviceEntry> {
    of_process(topology, |id| Some(id.0))
}

/// The nodes that a process knows; `user_id` is the id by which it knows a GPU. A GPU that the
/// process has not (one that came after it was started, or that is hidden from it) is left out, and
/// so are links to it.
pub(super) fn of_process(
    topology: &Topology,
    user_id: impl Fn(HostGpuId) -> Option<u32>,
) -> Vec<KfdDeviceEntry> {
    let known = |node: &Node| node.gpu_id.is_none_or(|id| user_id(id).is_some());
    let nodes: Vec<&Node> = topology.nodes.iter().filter(|node| known(node)).collect();
    let is_there = |index: u32| nodes.iter().any(|node| node.index == index);
    let entry = |node: &&Node| {
        let links = node.io_links.iter().filter(|link| is_there(link.node_to));
        let iolinks =
            links.map(|link| DevIolink { r#type: link.link_type.0, node_to_id: link.node_to });
        let iolinks = iolinks.collect();
        match node.gpu_id.and_then(&user_id) {
            Some(gpu_id) => KfdDeviceEntry { iolinks, ..gpu(node, gpu_id) },
            None => KfdDeviceEntry {
                node_id: node.index,
                cpu_cores_count: node.properties.cpu_cores_count,
                iolinks,
                ..KfdDeviceEntry::default()
            },
        }
    };
    nodes.iter().map(entry).collect()
}

/// What upstream saves of a GPU; its size of the global data share stays 0 there as well.
fn gpu(node: &Node, gpu_id: u32) -> KfdDeviceEntry {
    let properties = &node.properties;
    KfdDeviceEntry {
        node_id: node.index,
        gpu_id,
        cpu_cores_count: 0,
        simd_count: properties.simd_count,
        mem_banks_count: properties.mem_banks_count,
        caches_count: properties.caches_count,
        io_links_count: properties.io_links_count,
        max_waves_per_simd: properties.max_waves_per_simd,
        lds_size_in_kb: properties.lds_size_in_kb,
        gds_size_in_kb: 0,
        num_gws: properties.num_gws,
        wave_front_size: properties.wave_front_size,
        array_count: properties.array_count,
        simd_arrays_per_engine: properties.simd_arrays_per_engine,
        cu_per_simd_array: properties.cu_per_simd_array,
        simd_per_cu: properties.simd_per_cu,
        max_slots_scratch_cu: properties.max_slots_scratch_cu,
        vendor_id: properties.vendor_id,
        device_id: properties.device_id,
        domain: properties.domain,
        drm_render_minor: properties.drm_render_minor,
        hive_id: properties.hive_id,
        num_sdma_engines: properties.num_sdma_engines,
        num_sdma_xgmi_engines: properties.num_sdma_xgmi_engines,
        num_sdma_queues_per_engine: properties.num_sdma_queues_per_engine,
        num_cp_queues: properties.num_cp_queues,
        fw_version: properties.fw_version,
        capability: properties.capability,
        sdma_fw_version: properties.sdma_fw_version,
        vram_public: node.is_vram_public().into(),
        vram_size: node.vram().map_or(0, |bank| bank.size_in_bytes),
        iolinks: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use gpu_kfd::{HostGpuId, Link, Node, Topology};

    use super::{of_host, of_process};

    /// A CPU and two GPUs, everything linked with everything.
    fn topology() -> Topology {
        let node = |index: u32| {
            let others = (0..3).filter(|other| *other != index);
            let link = |node_to| Link { node_from: index, node_to, ..Link::default() };
            let gpu_id = (index > 0).then_some(HostGpuId(0x100 + index));
            Node { index, gpu_id, io_links: others.map(link).collect(), ..Node::default() }
        };
        Topology { nodes: (0..3).map(node).collect(), ..Topology::default() }
    }

    #[test]
    fn gpu_that_a_process_does_not_know_is_left_out_with_the_links_to_it() {
        let all = of_host(&topology());
        assert_eq!(all.iter().map(|node| node.gpu_id).collect::<Vec<_>>(), [0, 0x101, 0x102]);
        assert!(all.iter().all(|node| node.iolinks.len() == 2));
        let known = |id: HostGpuId| (id.0 == 0x102).then_some(0x77);
        let some = of_process(&topology(), known);
        let found: Vec<_> = some.iter().map(|node| (node.node_id, node.gpu_id)).collect();
        assert_eq!(found, [(0, 0), (2, 0x77)]);
        let links = some.iter().flat_map(|node| &node.iolinks).map(|link| link.node_to_id);
        assert_eq!(links.collect::<Vec<_>>(), [2, 0]);
    }
}
