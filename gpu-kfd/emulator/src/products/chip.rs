//! What all GPUs of one product have in common: a record of plain numbers, no behaviour but sums.
//!
//! A [`Chip`] says what the silicon and its board are. What differs from one GPU of a machine to
//! the next (ids, place, firmware) is in [`GpuSpec`](super::GpuSpec).

use std::fmt;

/// Version of the graphics core (GFX IP), as compilers name it: `gfx90a` is 9.0.10.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GfxVersion {
    /// Major version.
    pub major: u32,
    /// Minor version.
    pub minor: u32,
    /// Stepping; one hexadecimal digit in the name.
    pub stepping: u32,
}

impl GfxVersion {
    /// The number in the property `gfx_target_version`: two decimal digits for each part
    /// (kfd_device.c, `gfx_target_version`).
    #[must_use]
    pub const fn target_version(self) -> u32 {
        self.major * 10_000 + self.minor * 100 + self.stepping
    }

    /// A process can choose whether its page faults are retried, whatever others choose: gfx90a and
    /// later of that line (kfd_priv.h, `KFD_SUPPORT_XNACK_PER_PROCESS`).
    #[must_use]
    pub const fn retries_by_process(self) -> bool {
        matches!((self.major, self.minor, self.stepping), (9, 0, 10) | (9, 4 | 5, _))
    }
}

impl fmt::Display for GfxVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "gfx{}{:x}{:x}", self.major, self.minor, self.stepping)
    }
}

/// What the PCI configuration space says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciIdentity {
    /// Vendor; 0x1002 is AMD.
    pub vendor_id: u16,
    /// Device.
    pub device_id: u16,
    /// Vendor of the board.
    pub subsystem_vendor_id: u16,
    /// Board.
    pub subsystem_device_id: u16,
    /// Revision.
    pub revision: u8,
    /// Class code: 0x030000 is a VGA controller, 0x038000 a display controller of another kind.
    pub class: u32,
}

/// The compute units (CUs) and what they have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shader {
    /// Accelerated compute dies (XCCs) that work as this one GPU.
    pub xccs: u32,
    /// Shader arrays in a shader engine.
    pub arrays_per_engine: u32,
    /// Places for CUs in an array, working or not.
    pub cus_per_array: u32,
    /// Working CUs of each shader engine of an XCC, one bit each; every XCC is alike.
    pub engine_masks: &'static [u32],
    /// SIMD units in a CU.
    pub simds_per_cu: u32,
    /// Waves that a SIMD unit holds.
    pub waves_per_simd: u32,
    /// Lanes of a wave.
    pub wave_lanes: u32,
    /// Slots for scratch memory in a CU.
    pub scratch_slots_per_cu: u32,
    /// Local data share of a CU, in KiB.
    pub lds_kib: u32,
    /// Vector registers of a CU, in bytes (`kfd_queue.c`, `kfd_get_vgpr_size_per_cu`).
    pub vgpr_bytes_per_cu: u32,
    /// Channels of the L2 cache of an XCC.
    pub texture_channels: u32,
    /// Render backends, one bit each; 0 for chips that only compute.
    pub render_backends_mask: u32,
    /// RAM of the constant engine in bytes; 0 if there is none.
    pub constant_engine_bytes: u32,
}

impl Shader {
    /// Shader engines of an XCC.
    #[must_use]
    pub const fn engines(&self) -> u32 {
        self.engine_masks.len() as u32
    }

    /// Working CUs of an XCC.
    #[must_use]
    pub fn cus_per_xcc(&self) -> u32 {
        self.engine_masks.iter().map(|mask| mask.count_ones()).sum()
    }

    /// Working CUs of the GPU.
    #[must_use]
    pub fn cus(&self) -> u32 {
        self.cus_per_xcc() * self.xccs
    }

    /// Places for CUs of an XCC: as many processor numbers the driver reserves for a GPU
    /// (kfd_crat.c, `get_and_inc_gpu_processor_id`; it does not count further XCCs).
    #[must_use]
    pub const fn processor_numbers(&self) -> u32 {
        self.engines() * self.arrays_per_engine * self.cus_per_array
    }
}

/// A kind of cache that the GPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheKind {
    /// Level, 1 to 3.
    pub level: u32,
    /// Size in KiB.
    pub kib: u32,
    /// Size of a line in bytes.
    pub line_bytes: u32,
    /// It holds instructions; else data.
    pub instructions: bool,
    /// Neighbouring CUs that share one; matters for level 1 only.
    pub cus_shared: u32,
}

/// Technology of the video memory: what the driver says in `vram_type` (amdgpu_drm.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VramKind {
    /// High-bandwidth memory.
    Hbm,
    /// A part of the system's DDR4, kept by the firmware for the GPU.
    Ddr4,
}

/// Video memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vram {
    /// All of it.
    pub bytes: u64,
    /// The part that the host can map: all of it on a machine with a large BAR.
    pub public_bytes: u64,
    /// Width of its bus in bits.
    pub width_bits: u32,
    /// Highest clock in MHz.
    pub clock_mhz: u32,
    /// Technology.
    pub kind: VramKind,
}

/// Copy engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sdma {
    /// Engines for everything.
    pub engines: u32,
    /// Engines meant for copies over XGMI.
    pub xgmi_engines: u32,
    /// Queues that user space may have on an engine.
    pub queues_per_engine: u32,
}

/// Versions of the firmware that is loaded; 0 if there is no such part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Firmware {
    /// Micro engine compute: schedules compute queues. Property `fw_version`.
    pub mec: u32,
    /// Copy engines. Property `sdma_fw_version`.
    pub sdma: u32,
    /// Micro engine of the graphics ring.
    pub me: u32,
    /// Prefetch parser of the graphics ring.
    pub pfp: u32,
    /// Constant engine of the graphics ring.
    pub ce: u32,
    /// Run list controller.
    pub rlc: u32,
    /// System management.
    pub smc: u32,
    /// Secure operating system.
    pub sos: u32,
    /// Video core.
    pub vcn: u32,
}

/// Speed of the PCIe link to the host, as the link properties give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PcieBandwidth {
    /// In the slowest state, MB/s.
    pub min_mbytes: u32,
    /// In the fastest state, MB/s.
    pub max_mbytes: u32,
}

/// How two GPUs of a hive reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XgmiPath {
    /// Hops over other GPUs, plus one.
    pub hops: u32,
    /// One link, MB/s; 0 if it is not known (more than one hop).
    pub min_mbytes: u32,
    /// All links between the two, MB/s; 0 if it is not known.
    pub max_mbytes: u32,
}

/// The GPU of a product: chip, board and the firmware it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chip {
    /// What it is sold as.
    pub marketing_name: &'static str,
    /// Name in the node's file `name`: the driver's name of the chip in lower case, or
    /// `ip discovery` for chips that describe themselves.
    pub kfd_name: &'static str,
    /// Graphics core as compilers name it.
    pub gfx: GfxVersion,
    /// Version of the graphics core as the chip itself says, major, minor, revision.
    pub gc_version: (u32, u32, u32),
    /// Version of the copy engines as the chip itself says.
    pub sdma_version: (u32, u32, u32),
    /// What the PCI configuration space says.
    pub pci: PciIdentity,
    /// CPU and GPU on one chip.
    pub apu: bool,
    /// `AMDGPU_FAMILY_*` (amdgpu_drm.h).
    pub family: u32,
    /// Revision of the chip, from 0.
    pub revision: u32,
    /// First external revision of the family member; the revision is added (soc15.c).
    pub external_revision_base: u32,
    /// Compute units.
    pub shader: Shader,
    /// Kinds of caches in the driver's order.
    pub caches: &'static [CacheKind],
    /// Video memory as the product has it.
    pub vram: Vram,
    /// Copy engines.
    pub sdma: Sdma,
    /// Compute queues that the firmware's scheduler can have active.
    pub cp_queues: u32,
    /// Global wave sync resources.
    pub gws: u32,
    /// Rings for compute that the DRM driver offers.
    pub compute_rings: u32,
    /// Rings for graphics that the DRM driver offers.
    pub gfx_rings: u32,
    /// Highest clock of the compute units in MHz.
    pub engine_clock_mhz: u32,
    /// Property `capability` (`HSA_CAP_*`, linux/kfd_sysfs.h).
    pub capability: u32,
    /// Property `debug_prop` (`HSA_DBG_*`, linux/kfd_sysfs.h).
    pub debug_prop: u64,
    /// Register GB_ADDR_CONFIG: how addresses interleave over channels.
    pub gb_addr_config: u32,
    /// PCIe link to the host.
    pub pcie: PcieBandwidth,
    /// Firmware as captured or published for the product.
    pub firmware: Firmware,
}
