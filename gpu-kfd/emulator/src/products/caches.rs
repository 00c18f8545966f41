//! The caches of a node, one entry for each, as the driver lists them.
//!
//! GPUs: kfd_topology.c, `kfd_fill_cache_non_crat_info`, with its order, its numbers and its maps
//! of siblings. CPUs: the driver lists none where firmware has no table for it (CRAT), and
//! libhsakmt then reads the caches of the host's NUMA node with this number, or fails if the host
//! has no such node. So that a node has any number of CPU nodes on any host, ours list the caches
//! of their first core, as firmware with such a table does.

use super::chip::{CacheKind, Shader};
use super::topology::{CpuSpec, GpuSpec};

/// `HSA_CACHE_TYPE_*` (linux/kfd_sysfs.h).
const DATA: u32 = 1;
const INSTRUCTION: u32 = 2;
const CPU: u32 = 4;
const HSACU: u32 = 8;

/// One cache as `caches/<n>/properties` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// Number of the first CU or core that it serves.
    pub processor_id_low: u32,
    /// Level, 1 to 3.
    pub level: u32,
    /// Size in KiB.
    pub kib: u32,
    /// Size of a line in bytes.
    pub line_bytes: u32,
    /// `HSA_CACHE_TYPE_*` bits.
    pub kind: u32,
    /// Who shares it, one bit for each CU from `processor_id_low` on, 8 to a byte.
    pub siblings: Vec<u8>,
}

/// The caches of a GPU.
pub(super) fn of_gpu(gpu: &GpuSpec) -> Vec<CacheEntry> {
    let shader = &gpu.chip.shader;
    let mut entries = Vec::new();
    // Where counting of the level 1 caches of a kind ended; the later levels begin there.
    for kind in gpu.chip.caches {
        if kind.level == 1 {
            level_one(kind, shader, gpu.first_processor, &mut entries);
        } else {
            entries.push(shared(kind, shader, gpu.first_processor));
        }
    }
    entries
}

fn entry(kind: &CacheKind, processor_id_low: u32, siblings: Vec<u8>) -> CacheEntry {
    CacheEntry {
        processor_id_low,
        level: kind.level,
        kib: kind.kib,
        line_bytes: kind.line_bytes,
        kind: HSACU | if kind.instructions { INSTRUCTION } else { DATA },
        siblings,
    }
}

/// A level 1 cache for each block of `cus_shared` neighbours that has a working CU.
fn level_one(
    kind: &CacheKind,
    shader: &Shader,
    first_processor: u32,
    entries: &mut Vec<CacheEntry>,
) {
    let engines = (0..shader.xccs).flat_map(|_| shader.engine_masks);
    let mut processor = first_processor;
    for mask in engines {
        for block in (0..shader.cus_per_array).step_by(kind.cus_shared as usize) {
            let siblings = mask >> block & ((1 << kind.cus_shared) - 1);
            if siblings != 0 {
                let first = siblings.trailing_zeros();
                let map = (siblings >> first).to_le_bytes().to_vec();
                entries.push(entry(kind, processor + first, map));
            }
            processor += kind.cus_shared.min(shader.cus_per_array - block);
        }
    }
}

/// The cache that all CUs share. Its map has four bytes for each engine. The driver writes the
/// first engine's twice and leaves out the last (`fill_in_l2_l3_pcache`); captured machines show
/// it.
fn shared(kind: &CacheKind, shader: &Shader, first_processor: u32) -> CacheEntry {
    let all = (1 << kind.cus_shared) - 1;
    let first_mask = shader.engine_masks[0] & all;
    let first = first_mask.trailing_zeros();
    let engines = (0..shader.xccs).flat_map(|_| shader.engine_masks).map(|mask| mask & all);
    let masks = std::iter::once(first_mask >> first).chain(engines);
    let count = (shader.xccs * shader.engines()) as usize;
    let siblings = masks.take(count).flat_map(u32::to_le_bytes).collect();
    entry(kind, first_processor + first, siblings)
}

/// The caches of the first core of a CPU node: data, instructions, both, and one for eight cores.
pub(super) fn of_cpu(cpu: &CpuSpec) -> Vec<CacheEntry> {
    let shared_by_eight = ((1u32 << cpu.cores.min(8)) - 1) as u8;
    let kinds = [
        (1, 32, DATA, 1),
        (1, 32, INSTRUCTION, 1),
        (2, 512, DATA | INSTRUCTION, 1),
        (3, 32_768, DATA | INSTRUCTION, shared_by_eight),
    ];
    let entry = |(level, kib, kind, first_siblings)| {
        // CRAT tables have maps of 32 bytes (kfd_crat.h, `CRAT_SIBLINGMAP_SIZE`).
        let mut siblings = vec![0; 32];
        siblings[0] = first_siblings;
        let processor_id_low = cpu.first_core_id;
        CacheEntry { processor_id_low, level, kib, line_bytes: 64, kind: kind | CPU, siblings }
    };
    kinds.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::{of_cpu, of_gpu};
    use crate::products::{NodeConfig, Product};

    fn gpu(product: &str) -> crate::products::GpuSpec {
        let config = NodeConfig::new(Product::by_name(product).expect("a product"), 1);
        config.topology().expect("a good configuration").gpus()[0]
    }

    #[test]
    fn counts_are_those_of_real_machines() {
        let count = |product| of_gpu(&gpu(product)).len();
        // Captured: `caches_count` of an MI210 is 217, of one XCC of an MI300X 80 with two shared.
        assert_eq!(count("gfx90a-bridged"), 217);
        assert_eq!(count("gfx942"), 8 * 78 + 2);
        // 110 CUs, 56 pairs twice, level 2; and 8 CUs, 3 triples twice, level 2.
        assert_eq!(count("gfx90a"), 223);
        assert_eq!(count("gfx90c"), 15);
    }

    #[test]
    fn level_one_caches_count_processors_past_missing_units() {
        let entries = of_gpu(&gpu("gfx90a-bridged"));
        // 13 of 14 places work in each engine: the second engine begins at 14.
        assert_eq!(entries[12].processor_id_low, 0x8000_1000 + 12);
        assert_eq!(entries[13].processor_id_low, 0x8000_1000 + 14);
        // The seventh pair of an engine has one working unit.
        let pairs: Vec<&[u8]> =
            entries[104..111].iter().map(|entry| entry.siblings.as_slice()).collect();
        assert_eq!(pairs[0], [3, 0, 0, 0]);
        assert_eq!(pairs[6], [1, 0, 0, 0]);
    }

    #[test]
    fn shared_cache_has_the_drivers_map() {
        let entries = of_gpu(&gpu("gfx942"));
        let last = entries.last().expect("it has caches");
        assert_eq!((last.level, last.kib, last.siblings.len()), (3, 262_144, 128));
        let masks: Vec<u32> = last
            .siblings
            .chunks_exact(4)
            .map(|bytes| u32::from_le_bytes(bytes.try_into().expect("four bytes")))
            .collect();
        assert_eq!(masks[..6], [0x3ff, 0x3ff, 0x3ff, 0x1ff, 0x1ff, 0x3ff]);
    }

    #[test]
    fn cpus_list_caches_so_that_no_numa_node_of_the_host_is_needed() {
        let config = NodeConfig::new(Product::by_name("gfx942").expect("a product"), 1);
        for cpu in config.topology().expect("a good configuration").cpus() {
            assert!(!of_cpu(cpu).is_empty());
        }
    }
}
