//! gfx90c: Ryzen 4000 with integrated graphics ("Renoir"), an APU.
//!
//! CPU and GPU are two nodes of the topology, although one chip: since Linux 5.4 the driver never
//! puts this GPU on the CPU's node (kfd_topology.c, `kfd_assign_gpu`), and `rocminfo` of such
//! machines shows node 0 and node 1. What makes it an APU is `AMDGPU_IDS_FLAGS_FUSION` and video
//! memory that is a piece of system memory. Numbers: `rocminfo` and properties that users of a
//! Ryzen 7 4800U published; caches from kfd_crat.c, `renoir_cache_info`.

use gpu_kfd::uapi::info::family;

use super::catalogue::Product;
use super::chip::{
    CacheKind, Chip, Firmware, GfxVersion, PciIdentity, PcieBandwidth, Sdma, Shader, Vram, VramKind,
};

const CACHES: &[CacheKind] = &[
    CacheKind { level: 1, kib: 16, line_bytes: 64, instructions: false, cus_shared: 1 },
    CacheKind { level: 1, kib: 32, line_bytes: 64, instructions: true, cus_shared: 3 },
    CacheKind { level: 1, kib: 16, line_bytes: 64, instructions: false, cus_shared: 3 },
    CacheKind { level: 2, kib: 1024, line_bytes: 64, instructions: false, cus_shared: 8 },
];

const CHIP: Chip = Chip {
    marketing_name: "AMD Radeon Graphics",
    kfd_name: "renoir",
    gfx: GfxVersion { major: 9, minor: 0, stepping: 12 },
    gc_version: (9, 3, 0),
    sdma_version: (4, 1, 2),
    pci: PciIdentity {
        vendor_id: 0x1002,
        device_id: 0x1636,
        subsystem_vendor_id: 0x17aa,
        subsystem_device_id: 0x5081,
        revision: 0xc1,
        class: 0x03_0000,
    },
    apu: true,
    family: family::RV,
    revision: 0,
    external_revision_base: 0x91,
    shader: Shader {
        xccs: 1,
        arrays_per_engine: 1,
        cus_per_array: 8,
        engine_masks: &[0xff],
        simds_per_cu: 4,
        waves_per_simd: 10,
        wave_lanes: 64,
        scratch_slots_per_cu: 32,
        lds_kib: 64,
        vgpr_bytes_per_cu: 0x40000,
        texture_channels: 4,
        render_backends_mask: 0x3,
        constant_engine_bytes: 0x8000,
    },
    caches: CACHES,
    vram: Vram {
        bytes: 512 << 20,
        public_bytes: 512 << 20,
        width_bits: 128,
        clock_mhz: 1600,
        kind: VramKind::Ddr4,
    },
    sdma: Sdma { engines: 1, xgmi_engines: 0, queues_per_engine: 2 },
    cp_queues: 24,
    gws: 64,
    compute_rings: 8,
    gfx_rings: 1,
    engine_clock_mhz: 1750,
    // Debugging, watch points, doorbells of 64 bits, SVM; no ECC (kfd_topology.c,
    // `kfd_topology_set_capabilities`).
    capability: 0x2803_a280,
    debug_prop: 0x1d6,
    // gfx_v9_0.c, `gfx_v9_0_gpu_early_init`.
    gb_addr_config: 0x2201_0042,
    pcie: PcieBandwidth { min_mbytes: 312, max_mbytes: 16_000 },
    firmware: Firmware {
        mec: 468,
        sdma: 40,
        me: 166,
        pfp: 194,
        ce: 80,
        rlc: 60,
        smc: 0x0037_3b00,
        sos: 0,
        vcn: 0x0510_e01c,
    },
};

/// One Ryzen 7 4800U.
pub(super) static RENOIR: Product = Product {
    name: "gfx90c",
    description: "Ryzen 7 4800U with integrated graphics (an APU); one GPU without XGMI",
    chip: &CHIP,
    gpus_max: 1,
    cpu_nodes: 1,
    cores_per_cpu_node: 16,
    memory_per_cpu_node_bytes: 32 << 30,
    cpu_clock_mhz: 1800,
    buses: &[0x03],
    hive_gpus: 0,
    xgmi: None,
};
