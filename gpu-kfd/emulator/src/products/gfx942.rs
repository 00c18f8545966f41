//! gfx942: MI300X, whole GPUs (SPX, NPS1), fully connected hive of eight.
//!
//! From a captured node of 8 MI300X with two sockets (partitioned as CPX: the numbers of
//! one XCC are times eight here, as the driver does it) and from `rocminfo` of whole ones.
//!
//! libhsakmt 5.2.3 knows such a GPU by `gfx_target_version`. ROCr 5.2.3 does not and leaves it out,
//! here as on hardware, unless `HSA_OVERRIDE_GFX_VERSION=9.0.10` is set.

use gpu_kfd::uapi::info::family;

use super::catalogue::Product;
use super::chip::{
    CacheKind, Chip, Firmware, GfxVersion, PciIdentity, PcieBandwidth, Sdma, Shader, Vram,
    VramKind, XgmiPath,
};

/// One XGMI link in MB/s: 32 GT/s over 16 lanes.
const XGMI_LINK_MBYTES: u32 = 64_000;

/// Order and sizes: as captured for levels 1 to 3 (there a quarter of the level 3, for NPS4).
const CACHES: &[CacheKind] = &[
    CacheKind { level: 1, kib: 32, line_bytes: 128, instructions: false, cus_shared: 1 },
    CacheKind { level: 1, kib: 64, line_bytes: 64, instructions: true, cus_shared: 2 },
    CacheKind { level: 1, kib: 16, line_bytes: 64, instructions: false, cus_shared: 2 },
    CacheKind { level: 2, kib: 4096, line_bytes: 128, instructions: false, cus_shared: 10 },
    CacheKind { level: 3, kib: 262_144, line_bytes: 64, instructions: false, cus_shared: 10 },
];

const CHIP: Chip = Chip {
    marketing_name: "AMD Instinct MI300X",
    kfd_name: "ip discovery",
    gfx: GfxVersion { major: 9, minor: 4, stepping: 2 },
    gc_version: (9, 4, 3),
    sdma_version: (4, 4, 2),
    pci: PciIdentity {
        vendor_id: 0x1002,
        device_id: 0x74a1,
        subsystem_vendor_id: 0x1002,
        subsystem_device_id: 0x74a1,
        revision: 0x00,
        class: 0x12_0000,
    },
    apu: false,
    family: family::AI,
    revision: 1,
    external_revision_base: 0x46,
    shader: Shader {
        xccs: 8,
        arrays_per_engine: 1,
        cus_per_array: 10,
        engine_masks: &[0x3ff, 0x3ff, 0x1ff, 0x1ff],
        simds_per_cu: 4,
        waves_per_simd: 8,
        wave_lanes: 64,
        scratch_slots_per_cu: 32,
        lds_kib: 64,
        vgpr_bytes_per_cu: 0x80000,
        texture_channels: 16,
        render_backends_mask: 0,
        constant_engine_bytes: 0,
    },
    caches: CACHES,
    vram: Vram {
        bytes: 206_141_652_992,
        public_bytes: 206_141_652_992,
        width_bits: 8192,
        clock_mhz: 1300,
        kind: VramKind::Hbm,
    },
    sdma: Sdma { engines: 2, xgmi_engines: 14, queues_per_engine: 8 },
    cp_queues: 24,
    gws: 64,
    compute_rings: 8,
    gfx_rings: 0,
    engine_clock_mhz: 2100,
    capability: 0xac77_a280,
    debug_prop: 0x5e7,
    // gfx_v9_4_3.c, `GOLDEN_GB_ADDR_CONFIG`.
    gb_addr_config: 0x2a11_4042,
    pcie: PcieBandwidth { min_mbytes: 312, max_mbytes: 64_000 },
    firmware: Firmware {
        mec: 177,
        sdma: 24,
        me: 0,
        pfp: 0,
        ce: 0,
        rlc: 76,
        smc: 0x0055_7200,
        sos: 0x0036_013e,
        vcn: 0x0911_8015,
    },
};

/// Eight MI300X.
pub(super) static MI300X: Product = Product {
    name: "gfx942",
    description: "MI300X, whole GPUs, every two joined by XGMI in one hive; two sockets",
    chip: &CHIP,
    gpus_max: 8,
    cpu_nodes: 2,
    cores_per_cpu_node: 96,
    // Below 1 TiB: ROCr 5.2.3 with assertions ends if a pool of memory has more.
    memory_per_cpu_node_bytes: 768 << 30,
    cpu_clock_mhz: 2750,
    buses: &[0x05, 0x27, 0x47, 0x65, 0x85, 0xa7, 0xc7, 0xe5],
    hive_gpus: 8,
    xgmi: Some(all_to_all),
};

fn all_to_all(_: u32, _: u32) -> XgmiPath {
    XgmiPath { hops: 1, min_mbytes: XGMI_LINK_MBYTES, max_mbytes: XGMI_LINK_MBYTES }
}
