//! gfx90a: MI250X (two dies in a package, each a GPU of its own) and MI210 (one die, PCIe board).
//!
//! The MI210 is as captured on a node of 8 with two sockets and two bridged hives of 4.
//! The MI250X is the same die with 110 CUs, `1002:7408`; its XGMI links are those of
//! Frontier's and LUMI's nodes as their operators publish them.

use gpu_kfd::uapi::info::family;

use super::catalogue::Product;
use super::chip::{
    CacheKind, Chip, Firmware, GfxVersion, PciIdentity, PcieBandwidth, Sdma, Shader, Vram,
    VramKind, XgmiPath,
};

/// One XGMI link in MB/s: 25 GT/s over 16 lanes.
const XGMI_LINK_MBYTES: u32 = 50_000;

/// Order, sizes and sharing: kfd_crat.c, `aldebaran_cache_info`.
const CACHES: &[CacheKind] = &[
    CacheKind { level: 1, kib: 16, line_bytes: 64, instructions: false, cus_shared: 1 },
    CacheKind { level: 1, kib: 32, line_bytes: 64, instructions: true, cus_shared: 2 },
    CacheKind { level: 1, kib: 16, line_bytes: 64, instructions: false, cus_shared: 2 },
    CacheKind { level: 2, kib: 8192, line_bytes: 128, instructions: false, cus_shared: 14 },
];

const SHADER: Shader = Shader {
    xccs: 1,
    arrays_per_engine: 1,
    cus_per_array: 14,
    engine_masks: &[0x1fff; 8],
    simds_per_cu: 4,
    waves_per_simd: 8,
    wave_lanes: 64,
    scratch_slots_per_cu: 32,
    lds_kib: 64,
    vgpr_bytes_per_cu: 0x80000,
    texture_channels: 16,
    render_backends_mask: 0,
    constant_engine_bytes: 0x8000,
};

const MI210_CHIP: Chip = Chip {
    marketing_name: "AMD Instinct MI210",
    kfd_name: "aldebaran",
    gfx: GfxVersion { major: 9, minor: 0, stepping: 10 },
    gc_version: (9, 4, 2),
    sdma_version: (4, 4, 0),
    pci: PciIdentity {
        vendor_id: 0x1002,
        device_id: 0x740f,
        subsystem_vendor_id: 0x1002,
        subsystem_device_id: 0x0c34,
        revision: 0x02,
        class: 0x03_8000,
    },
    apu: false,
    family: family::AI,
    revision: 1,
    external_revision_base: 0x3c,
    shader: SHADER,
    caches: CACHES,
    vram: Vram {
        // 64 GiB without the 16 MiB that the firmware keeps.
        bytes: 68_702_699_520,
        public_bytes: 68_702_699_520,
        width_bits: 4096,
        clock_mhz: 1600,
        kind: VramKind::Hbm,
    },
    sdma: Sdma { engines: 2, xgmi_engines: 3, queues_per_engine: 8 },
    cp_queues: 24,
    gws: 64,
    compute_rings: 8,
    gfx_rings: 0,
    engine_clock_mhz: 1700,
    capability: 0x2c77_a280,
    debug_prop: 0x1d6,
    // gfx_v9_0.c, `gfx_v9_0_gpu_early_init`.
    gb_addr_config: 0x2201_4042,
    pcie: PcieBandwidth { min_mbytes: 312, max_mbytes: 32_000 },
    firmware: Firmware {
        mec: 92,
        sdma: 9,
        me: 0,
        pfp: 0,
        ce: 0,
        rlc: 17,
        smc: 0x0044_5000,
        sos: 0x0027_0082,
        vcn: 0x0210_1019,
    },
};

/// Four MI210 in a bridged hive, two hives.
pub(super) static MI210: Product = Product {
    name: "gfx90a-bridged",
    description: "MI210 boards in bridged XGMI hives of four, one hive for each of two sockets",
    chip: &MI210_CHIP,
    gpus_max: 8,
    cpu_nodes: 2,
    cores_per_cpu_node: 64,
    memory_per_cpu_node_bytes: 256 << 30,
    cpu_clock_mhz: 2450,
    buses: &[0x63, 0x43, 0x03, 0x26, 0xe3, 0xc3, 0x83, 0xa3],
    hive_gpus: 4,
    xgmi: Some(bridged),
};

fn bridged(_: u32, _: u32) -> XgmiPath {
    XgmiPath { hops: 1, min_mbytes: XGMI_LINK_MBYTES, max_mbytes: XGMI_LINK_MBYTES }
}

const MI250X_CHIP: Chip = Chip {
    marketing_name: "AMD Instinct MI250X",
    pci: PciIdentity {
        device_id: 0x7408,
        subsystem_device_id: 0x0b0c,
        revision: 0x00,
        ..MI210_CHIP.pci
    },
    shader: Shader {
        engine_masks: &[0x3fff, 0x3fff, 0x3fff, 0x1fff, 0x3fff, 0x3fff, 0x3fff, 0x1fff],
        ..SHADER
    },
    ..MI210_CHIP
};

/// Four packages of two dies in one hive.
pub(super) static MI250X: Product = Product {
    name: "gfx90a",
    description: "MI250X packages of two GPUs, all in one XGMI hive; one socket",
    chip: &MI250X_CHIP,
    gpus_max: 8,
    cpu_nodes: 1,
    cores_per_cpu_node: 64,
    memory_per_cpu_node_bytes: 512 << 30,
    cpu_clock_mhz: 2000,
    buses: &[0xc1, 0xc6, 0xc9, 0xce, 0xd1, 0xd6, 0xd9, 0xde],
    hive_gpus: 8,
    xgmi: Some(packages),
};

/// Pairs with direct links, lower number first, and how many links there are.
const PACKAGE_LINKS: &[(u32, u32, u32)] = &[
    (0, 1, 4),
    (2, 3, 4),
    (4, 5, 4),
    (6, 7, 4),
    (0, 6, 2),
    (2, 4, 2),
    (0, 2, 1),
    (1, 3, 1),
    (1, 5, 1),
    (3, 7, 1),
    (4, 6, 1),
    (5, 7, 1),
];

/// Links between two GPUs of [`PACKAGE_LINKS`].
fn package_links(one: u32, other: u32) -> u32 {
    let pair = (one.min(other), one.max(other));
    let found = PACKAGE_LINKS.iter().find(|&&(low, high, _)| (low, high) == pair);
    found.map_or(0, |&(_, _, links)| links)
}

/// All others are two hops away, whichever GPUs a machine is built with.
fn packages(one: u32, other: u32) -> XgmiPath {
    match package_links(one, other) {
        0 => XgmiPath { hops: 2, min_mbytes: 0, max_mbytes: 0 },
        links => {
            XgmiPath { hops: 1, min_mbytes: XGMI_LINK_MBYTES, max_mbytes: XGMI_LINK_MBYTES * links }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::package_links;

    #[test]
    fn gpus_without_a_link_have_a_common_neighbour() {
        for (one, other) in (0..8).flat_map(|one| (0..one).map(move |other| (one, other))) {
            let over = |via| package_links(one, via) > 0 && package_links(via, other) > 0;
            let direct = package_links(one, other) > 0;
            assert!(direct || (0..8).any(over), "{one} to {other}");
        }
    }
}
