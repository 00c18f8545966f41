//! The KFD's device and its topology: `/sys/devices/virtual/kfd/kfd`, linked from `/sys/class/kfd`.
//!
//! Names, order and form of the properties: kfd_topology.c (`node_show`, `mem_show`,
//! `kfd_cache_show`, `iolink_show`) of Linux 6.18.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::super::caches::{self, CacheEntry};
use super::super::links::{Link, NodeLinks};
use super::super::topology::{CpuSpec, GpuSpec, Topology};
use super::{KFD_MAJOR, Sysfs};

const DEVICE: &str = "/sys/devices/virtual/kfd/kfd";
/// `HSA_MEM_HEAP_TYPE_*` (linux/kfd_sysfs.h).
const HEAP_SYSTEM: u32 = 0;
const HEAP_PUBLIC: u32 = 1;
const HEAP_PRIVATE: u32 = 2;

/// Lines `name value`, the form of all property files.
#[derive(Default)]
struct Properties {
    text: String,
}

impl Properties {
    fn line(&mut self, name: &str, value: impl Into<u64>) -> &mut Self {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{name} {}", value.into());
        self
    }
}

/// Adds the device and all nodes.
pub(super) fn add(tree: &mut Sysfs, topology: &Topology) {
    let device = Path::new(DEVICE);
    tree.put_file(device.join("dev"), format!("{KFD_MAJOR}:0\n"));
    tree.put_file(device.join("uevent"), format!("MAJOR={KFD_MAJOR}\nMINOR=0\nDEVNAME=kfd\n"));
    tree.put_link(device.join("subsystem"), "/sys/class/kfd");
    tree.put_link("/sys/class/kfd/kfd", device);
    tree.put_link(format!("/sys/dev/char/{KFD_MAJOR}:0"), device);

    let root = device.join("topology");
    tree.put_file(root.join("generation_id"), format!("{}\n", topology.generation()));
    let mut system = Properties::default();
    // Texts of the firmware's tables, eight and six bytes; these say that there is no such board.
    system.line("platform_oem", u64::from_le_bytes(*b"EMULATED"));
    system.line("platform_id", u64::from_le_bytes(*b"KFDNOD\0\0"));
    system.line("platform_rev", 2u32);
    tree.put_file(root.join("system_properties"), system.text);

    let links = topology.links();
    let cpus = topology.cpus().iter().map(Subject::Cpu);
    let gpus = topology.gpus().iter().map(Subject::Gpu);
    for (node, subject) in cpus.chain(gpus).enumerate() {
        add_node(tree, &root.join(format!("nodes/{node}")), &subject, &links[node]);
    }
}

/// What a node is.
enum Subject<'a> {
    Cpu(&'a CpuSpec),
    Gpu(&'a GpuSpec),
}

fn add_node(tree: &mut Sysfs, folder: &Path, subject: &Subject<'_>, links: &NodeLinks) {
    let (gpu_id, name, caches, bank) = match subject {
        Subject::Cpu(cpu) => (0, "", caches::of_cpu(cpu), cpu_bank(cpu)),
        Subject::Gpu(gpu) => (gpu.gpu_id, gpu.chip.kfd_name, caches::of_gpu(gpu), gpu_bank(gpu)),
    };
    let counts = [
        ("mem_banks_count", 1),
        ("caches_count", caches.len() as u32),
        ("io_links_count", links.io.len() as u32),
        ("p2p_links_count", links.p2p.len() as u32),
    ];
    let properties = match subject {
        Subject::Cpu(cpu) => cpu_properties(cpu, counts),
        Subject::Gpu(gpu) => gpu_properties(gpu, counts),
    };
    tree.put_file(folder.join("gpu_id"), format!("{gpu_id}\n"));
    tree.put_file(folder.join("name"), format!("{name}\n"));
    tree.put_file(folder.join("properties"), properties.text);
    add_each(tree, folder.join("mem_banks"), vec![bank]);
    add_each(tree, folder.join("caches"), caches.iter().map(cache).collect());
    add_each(tree, folder.join("io_links"), links.io.iter().map(link).collect());
    add_each(tree, folder.join("p2p_links"), links.p2p.iter().map(link).collect());
}

/// A folder with a numbered folder for each of `items`, with its properties.
fn add_each(tree: &mut Sysfs, folder: PathBuf, items: Vec<Properties>) {
    tree.put_dir(&folder);
    for (number, item) in items.into_iter().enumerate() {
        tree.put_file(folder.join(format!("{number}/properties")), item.text);
    }
}

fn cpu_properties(cpu: &CpuSpec, counts: [(&str, u32); 4]) -> Properties {
    let mut out = Properties::default();
    out.line("cpu_cores_count", cpu.cores).line("simd_count", 0u32);
    for (name, count) in counts {
        out.line(name, count);
    }
    out.line("cpu_core_id_base", cpu.first_core_id);
    for name in [
        "simd_id_base",
        "max_waves_per_simd",
        "lds_size_in_kb",
        "gds_size_in_kb",
        "num_gws",
        "wave_front_size",
        "array_count",
        "simd_arrays_per_engine",
        "cu_per_simd_array",
        "simd_per_cu",
        "max_slots_scratch_cu",
        "gfx_target_version",
        "vendor_id",
        "device_id",
        "location_id",
        "domain",
        "drm_render_minor",
        "hive_id",
        "num_sdma_engines",
        "num_sdma_xgmi_engines",
        "num_sdma_queues_per_engine",
        "num_cp_queues",
    ] {
        out.line(name, 0u32);
    }
    out.line("max_engine_clk_ccompute", cpu.clock_mhz);
    out
}

fn gpu_properties(gpu: &GpuSpec, counts: [(&str, u32); 4]) -> Properties {
    let chip = gpu.chip;
    let shader = &chip.shader;
    let mut out = Properties::default();
    out.line("cpu_cores_count", 0u32).line("simd_count", gpu.simd_count());
    for (name, count) in counts {
        out.line(name, count);
    }
    out.line("cpu_core_id_base", 0u32)
        .line("simd_id_base", gpu.first_processor)
        .line("max_waves_per_simd", shader.waves_per_simd)
        .line("lds_size_in_kb", shader.lds_kib)
        .line("gds_size_in_kb", 0u32)
        .line("num_gws", chip.gws)
        .line("wave_front_size", shader.wave_lanes)
        .line("array_count", shader.arrays_per_engine * shader.engines() * shader.xccs)
        .line("simd_arrays_per_engine", shader.arrays_per_engine)
        .line("cu_per_simd_array", shader.cus_per_array)
        .line("simd_per_cu", shader.simds_per_cu)
        .line("max_slots_scratch_cu", shader.scratch_slots_per_cu)
        .line("gfx_target_version", chip.gfx.target_version())
        .line("vendor_id", chip.pci.vendor_id)
        .line("device_id", chip.pci.device_id)
        .line("location_id", gpu.pci.location_id())
        .line("domain", gpu.pci.domain)
        .line("drm_render_minor", gpu.render_minor)
        .line("hive_id", gpu.hive.map_or(0, |hive| hive.id))
        .line("num_sdma_engines", chip.sdma.engines)
        .line("num_sdma_xgmi_engines", chip.sdma.xgmi_engines)
        .line("num_sdma_queues_per_engine", chip.sdma.queues_per_engine)
        .line("num_cp_queues", chip.cp_queues)
        .line("max_engine_clk_fcompute", chip.engine_clock_mhz)
        .line("local_mem_size", 0u32)
        .line("fw_version", gpu.firmware.mec)
        .line("capability", chip.capability)
        .line("capability2", 0u32)
        .line("debug_prop", chip.debug_prop)
        .line("sdma_fw_version", gpu.firmware.sdma)
        .line("unique_id", gpu.unique_id)
        .line("num_xcc", shader.xccs)
        .line("max_engine_clk_ccompute", gpu.cpu_clock_mhz);
    out
}

fn cpu_bank(cpu: &CpuSpec) -> Properties {
    bank(HEAP_SYSTEM, cpu.memory_bytes, 64, 3200)
}

/// Video memory is one bank: public if the host sees all of it, else private (kfd_crat.c).
fn gpu_bank(gpu: &GpuSpec) -> Properties {
    let heap = if gpu.large_bar() { HEAP_PUBLIC } else { HEAP_PRIVATE };
    bank(heap, gpu.vram.bytes, gpu.vram.width_bits, gpu.vram.clock_mhz)
}

fn bank(heap: u32, bytes: u64, width_bits: u32, clock_mhz: u32) -> Properties {
    let mut out = Properties::default();
    out.line("heap_type", heap)
        .line("size_in_bytes", bytes)
        .line("flags", 0u32)
        .line("width", width_bits)
        .line("mem_clk_max", clock_mhz);
    out
}

fn cache(cache: &CacheEntry) -> Properties {
    let mut out = Properties::default();
    out.line("processor_id_low", cache.processor_id_low)
        .line("level", cache.level)
        .line("size", cache.kib)
        .line("cache_line_size", cache.line_bytes)
        .line("cache_lines_per_tag", 0u32)
        .line("association", 0u32)
        .line("latency", 0u32)
        .line("type", cache.kind);
    let bits = cache.siblings.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1));
    let map: Vec<&str> = bits.map(|bit| if bit == 1 { "1" } else { "0" }).collect();
    let _ = writeln!(out.text, "sibling_map {}", map.join(","));
    out
}

fn link(link: &Link) -> Properties {
    let mut out = Properties::default();
    out.line("type", link.kind as u32)
        .line("version_major", 0u32)
        .line("version_minor", 0u32)
        .line("node_from", link.node_from)
        .line("node_to", link.node_to)
        .line("weight", link.weight)
        .line("min_latency", 0u32)
        .line("max_latency", 0u32)
        .line("min_bandwidth", link.min_mbytes)
        .line("max_bandwidth", link.max_mbytes)
        .line("recommended_transfer_size", 0u32)
        .line("recommended_sdma_engine_id_mask", link.engines_mask)
        .line("flags", link.flags);
    out
}
