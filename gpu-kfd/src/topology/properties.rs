//! The records of a topology, with a field for each property that amdkfd's `kfd_topology.c` prints.
//!
//! Fields are named as the driver names the properties. A property that a kernel does not print is
//! 0, as for libhsakmt; a property that is not known here is kept as text and refused nowhere.

use std::collections::BTreeMap;

use super::error::LineProblem;
use super::link::{HeapType, LinkType};
use super::sysfs::{Record, number};

/// Defines a record and how it takes properties in.
macro_rules! record {
    (
        $(#[$meta:meta])*
        $name:ident { $( $(#[$field_meta:meta])* $field:ident: $type:ty = $key:literal, )* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$field_meta])* pub $field: $type, )*
            /// Properties without a field here, as text.
            pub unknown: BTreeMap<String, String>,
        }

        impl Record for $name {
            fn set(&mut self, name: &str, value: &str) -> Result<(), LineProblem> {
                match name {
                    $( $key => self.$field = <$type as Value>::parse(value)?, )*
                    _ => {
                        self.unknown.insert(name.to_owned(), value.to_owned());
                    }
                }
                Ok(())
            }
        }
    };
}

/// How a property's value is read.
trait Value: Sized {
    fn parse(value: &str) -> Result<Self, LineProblem>;
}

impl Value for u32 {
    fn parse(value: &str) -> Result<Self, LineProblem> {
        number(value)
    }
}

impl Value for u64 {
    fn parse(value: &str) -> Result<Self, LineProblem> {
        number(value)
    }
}

impl Value for LinkType {
    fn parse(value: &str) -> Result<Self, LineProblem> {
        number(value).map(Self)
    }
}

impl Value for HeapType {
    fn parse(value: &str) -> Result<Self, LineProblem> {
        number(value).map(Self)
    }
}

impl Value for Vec<bool> {
    fn parse(value: &str) -> Result<Self, LineProblem> {
        let bit = |item| match item {
            "0" => Ok(false),
            "1" => Ok(true),
            _ => Err(LineProblem::NotAMap),
        };
        if value.is_empty() { Ok(Self::new()) } else { value.split(',').map(bit).collect() }
    }
}

record! {
    /// `system_properties`: who made the platform's tables.
    SystemProperties {
        /// OEM table id of the last CPU node, eight characters.
        platform_oem: u64 = "platform_oem",
        /// OEM id of the last CPU node.
        platform_id: u64 = "platform_id",
        /// OEM revision of the last CPU node.
        platform_rev: u64 = "platform_rev",
    }
}

record! {
    /// `nodes/<n>/properties`.
    NodeProperties {
        /// CPU threads; 0 for a discrete GPU.
        cpu_cores_count: u32 = "cpu_cores_count",
        /// SIMD units that are in use; 0 for a CPU.
        simd_count: u32 = "simd_count",
        /// Entries of `mem_banks`.
        mem_banks_count: u32 = "mem_banks_count",
        /// Entries of `caches`.
        caches_count: u32 = "caches_count",
        /// Entries of `io_links`, links to hidden nodes included.
        io_links_count: u32 = "io_links_count",
        /// Entries of `p2p_links` (newer kernels).
        p2p_links_count: u32 = "p2p_links_count",
        /// First APIC id.
        cpu_core_id_base: u32 = "cpu_core_id_base",
        /// First id of a SIMD unit.
        simd_id_base: u32 = "simd_id_base",
        /// Waves that a SIMD unit holds at once.
        max_waves_per_simd: u32 = "max_waves_per_simd",
        /// Local data share of a compute unit, in KiB.
        lds_size_in_kb: u32 = "lds_size_in_kb",
        /// Global data share, in KiB.
        gds_size_in_kb: u32 = "gds_size_in_kb",
        /// Global wave sync entries.
        num_gws: u32 = "num_gws",
        /// Work-items of a wave.
        wave_front_size: u32 = "wave_front_size",
        /// Shader arrays, over all XCCs.
        array_count: u32 = "array_count",
        /// Shader arrays of a shader engine.
        simd_arrays_per_engine: u32 = "simd_arrays_per_engine",
        /// Compute units of a shader array, those that are fused off included.
        cu_per_simd_array: u32 = "cu_per_simd_array",
        /// SIMD units of a compute unit.
        simd_per_cu: u32 = "simd_per_cu",
        /// Waves of a compute unit that may use scratch memory.
        max_slots_scratch_cu: u32 = "max_slots_scratch_cu",
        /// Instruction set: major · 10000 + minor · 100 + step.
        gfx_target_version: u32 = "gfx_target_version",
        /// PCI vendor.
        vendor_id: u32 = "vendor_id",
        /// PCI device.
        device_id: u32 = "device_id",
        /// PCI bus << 8 | device << 3 | function; a partition's number is or-ed into it.
        location_id: u32 = "location_id",
        /// PCI domain.
        domain: u32 = "domain",
        /// `/dev/dri/renderD<n>`; 0 for a CPU.
        drm_render_minor: u32 = "drm_render_minor",
        /// XGMI hive, the same for all its GPUs and for a CPU that XGMI connects; 0 without one.
        hive_id: u64 = "hive_id",
        /// SDMA engines for PCIe.
        num_sdma_engines: u32 = "num_sdma_engines",
        /// SDMA engines for XGMI.
        num_sdma_xgmi_engines: u32 = "num_sdma_xgmi_engines",
        /// Queues of an SDMA engine.
        num_sdma_queues_per_engine: u32 = "num_sdma_queues_per_engine",
        /// Compute queues.
        num_cp_queues: u32 = "num_cp_queues",
        /// Context save area of a queue in bytes (newer kernels).
        cwsr_size: u32 = "cwsr_size",
        /// Control stack of a queue in bytes (newer kernels).
        ctl_stack_size: u32 = "ctl_stack_size",
        /// Highest shader clock in MHz.
        max_engine_clk_fcompute: u32 = "max_engine_clk_fcompute",
        /// Highest CPU clock in MHz.
        max_engine_clk_ccompute: u32 = "max_engine_clk_ccompute",
        /// Always 0; the memory banks have the sizes.
        local_mem_size: u64 = "local_mem_size",
        /// Firmware of the compute micro engine.
        fw_version: u32 = "fw_version",
        /// Capability bits (`HSA_CAP_*`).
        capability: u32 = "capability",
        /// More capability bits (`HSA_CAP2_*`, newer kernels).
        capability2: u32 = "capability2",
        /// Debugger properties (`HSA_DBG_*`, newer kernels).
        debug_prop: u64 = "debug_prop",
        /// Firmware of the SDMA engines.
        sdma_fw_version: u32 = "sdma_fw_version",
        /// Serial number of the chip; 0 where it has none.
        unique_id: u64 = "unique_id",
        /// Accelerator dies (newer kernels).
        num_xcc: u32 = "num_xcc",
    }
}

record! {
    /// `mem_banks/<n>/properties`.
    MemoryBank {
        /// Whose memory it is.
        heap_type: HeapType = "heap_type",
        /// Size in bytes.
        size_in_bytes: u64 = "size_in_bytes",
        /// Flags (`HSA_MEM_FLAGS_*`).
        flags: u32 = "flags",
        /// Width of the bus in bits.
        width: u32 = "width",
        /// Highest clock in MHz.
        mem_clk_max: u32 = "mem_clk_max",
    }
}

record! {
    /// `caches/<n>/properties`.
    Cache {
        /// First processor that uses it.
        processor_id_low: u32 = "processor_id_low",
        /// Level, from 1.
        level: u32 = "level",
        /// Size in KiB.
        size: u32 = "size",
        /// Bytes of a line.
        cache_line_size: u32 = "cache_line_size",
        /// Lines of a tag.
        cache_lines_per_tag: u32 = "cache_lines_per_tag",
        /// Ways.
        association: u32 = "association",
        /// Latency in ns; 0 where it is not known.
        latency: u32 = "latency",
        /// Kind: bit 0 data, 1 instructions, 2 CPU, 3 SIMD.
        cache_type: u32 = "type",
        /// Processors that share it, counted from `processor_id_low`.
        sibling_map: Vec<bool> = "sibling_map",
    }
}

record! {
    /// `io_links/<n>/properties` and `p2p_links/<n>/properties`.
    Link {
        /// What kind of link it is.
        link_type: LinkType = "type",
        /// Major version of the bus.
        version_major: u32 = "version_major",
        /// Minor version of the bus.
        version_minor: u32 = "version_minor",
        /// Node at whose side it is seen.
        node_from: u32 = "node_from",
        /// Node that it leads to.
        node_to: u32 = "node_to",
        /// Distance: 13 to the CPU in the same package, 15 for each XGMI hop, 20 by PCIe; a way
        /// through two sockets adds the distance between them.
        weight: u32 = "weight",
        /// Lowest latency in ns; 0 where it is not known.
        min_latency: u32 = "min_latency",
        /// Highest latency in ns; 0 where it is not known.
        max_latency: u32 = "max_latency",
        /// Lowest bandwidth in MB/s; 0 where it is not known.
        min_bandwidth: u32 = "min_bandwidth",
        /// Highest bandwidth in MB/s; 0 where it is not known.
        max_bandwidth: u32 = "max_bandwidth",
        /// Recommended transfer size in bytes; 0 where there is none.
        recommended_transfer_size: u32 = "recommended_transfer_size",
        /// SDMA engines to prefer for this link (newer kernels).
        recommended_sdma_engine_id_mask: u32 = "recommended_sdma_engine_id_mask",
        /// Flags (`CRAT_IOLINK_FLAGS_*`): [`Link::is_non_coherent`] and its like.
        flags: u32 = "flags",
    }
}
