//! The machine: CPUs, GPUs, where each is and who it is.
//!
//! A [`Topology`] is always consistent: it is made by [`NodeConfig`](super::NodeConfig), and taking
//! GPUs away is all that can be done to it. Links, caches and sysfs files are computed from it.

use std::fmt;
use std::sync::Arc;

use super::catalogue::Product;
use super::chip::{Chip, Firmware, Vram};
use super::links::{self, NodeLinks};
use super::sysfs::Sysfs;
use crate::model::{GpuConfig, GpuIndex, Model};

/// A CPU (NUMA) node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuSpec {
    /// Number of cores.
    pub cores: u32,
    /// APIC id of the first core.
    pub first_core_id: u32,
    /// System memory.
    pub memory_bytes: u64,
    /// Highest clock.
    pub clock_mhz: u32,
}

/// Where a device is on the PCI buses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PciAddress {
    /// Domain (segment).
    pub domain: u16,
    /// Bus.
    pub bus: u8,
    /// Device, below 32.
    pub device: u8,
    /// Function, below 8.
    pub function: u8,
}

impl PciAddress {
    /// Property `location_id`: bus, device and function in 16 bits.
    #[must_use]
    pub const fn location_id(self) -> u32 {
        (self.bus as u32) << 8 | (self.device as u32) << 3 | self.function as u32
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(out, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

/// The XGMI hive that a GPU belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hive {
    /// Id that all of its GPUs show; not 0.
    pub id: u64,
    /// GPUs in it when the machine started.
    pub gpus: u32,
}

/// Sizes for saving and restoring the waves of a compute queue (kfd_queue.c,
/// `kfd_queue_ctx_save_restore_size`); what libhsakmt computes too. In bytes, for one XCC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContextSave {
    /// Control stack: the argument `ctl_stack_size` of a queue.
    pub control_stack_bytes: u32,
    /// Control stack and saved waves: the argument `ctx_save_restore_size` of a queue.
    pub area_bytes: u32,
    /// What the debugger keeps behind it.
    pub debugger_bytes: u32,
}

/// One GPU of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuSpec {
    /// Number of the GPU in its machine, from 0; stays when others are removed.
    pub index: u32,
    /// The product.
    pub chip: &'static Chip,
    /// KFD's id, 1 to 0xffff.
    pub gpu_id: u32,
    /// Minor number of the render node, 128 to 191.
    pub render_minor: u32,
    /// Where it is on the PCI buses.
    pub pci: PciAddress,
    /// Serial number.
    pub unique_id: u64,
    /// Its hive, if it has XGMI links.
    pub hive: Option<Hive>,
    /// CPU node that its PCIe link ends at.
    pub cpu_node: u32,
    /// Video memory; sizes may differ from the product's.
    pub vram: Vram,
    /// Firmware; may differ from the product's.
    pub firmware: Firmware,
    /// First processor number, property `simd_id_base`.
    pub first_processor: u32,
    /// Highest clock of the machine's CPUs, which GPU nodes show too.
    pub cpu_clock_mhz: u32,
}

impl GpuSpec {
    /// Bytes of doorbells that a process has on this GPU: 1024 queues with 8 bytes each
    /// (kfd_doorbell.c, `kfd_doorbell_process_slice` for chips since gfx9).
    pub const DOORBELL_BYTES: u64 = 1024 * 8;

    /// Most compute queues of all processes on this GPU: more than the hardware has places for, the
    /// firmware takes turns (module parameter `max_num_of_queues_per_device`).
    pub const QUEUES_MAX: u32 = 4096;

    /// Minor number of the primary node (`/dev/dri/card<n>`) that goes with the render node.
    #[must_use]
    pub const fn card_minor(&self) -> u32 {
        self.render_minor - 128
    }

    /// The host can map all video memory.
    #[must_use]
    pub const fn large_bar(&self) -> bool {
        self.vram.public_bytes == self.vram.bytes
    }

    /// Property `simd_count`: SIMD units of all working CUs.
    #[must_use]
    pub fn simd_count(&self) -> u32 {
        self.chip.shader.cus() * self.chip.shader.simds_per_cu
    }

    /// What the device model must know of this GPU.
    #[must_use]
    pub fn config(&self) -> GpuConfig {
        let sdma = self.chip.sdma;
        GpuConfig {
            gpu_id: self.gpu_id,
            render_minor: self.render_minor,
            vram_bytes: self.vram.bytes,
            vram_visible_bytes: self.vram.public_bytes,
            sdma_queues_max: sdma.engines * sdma.queues_per_engine,
            sdma_xgmi_queues_max: sdma.xgmi_engines * sdma.queues_per_engine,
            compute_queues_max: Self::QUEUES_MAX,
            gb_addr_config: self.chip.gb_addr_config,
            // 4096 places, 2 MiB apart: another machine has others.
            offset_first: GpuConfig::OFFSET_FIRST + ((self.unique_id & 0xfff) << 21),
            hive_id: self.hive.map_or(0, |hive| hive.id),
            xnack: self.chip.gfx.retries_by_process(),
        }
    }

    /// Sizes for saving and restoring the waves of a compute queue.
    #[must_use]
    pub fn context_save(&self) -> ContextSave {
        const SGPR_BYTES: u32 = 0x4000;
        const LDS_BYTES: u32 = 0x1_0000;
        const HARDWARE_REGISTER_BYTES: u32 = 0x1000;
        const HEADER_BYTES: u32 = 40;
        const PAGE_BYTES: u32 = 4096;
        let shader = &self.chip.shader;
        let cus = shader.cus_per_xcc();
        let waves = (cus * 40).min(shader.engines() * 512);
        let per_cu = shader.vgpr_bytes_per_cu + SGPR_BYTES + LDS_BYTES + HARDWARE_REGISTER_BYTES;
        let control_stack_bytes = (HEADER_BYTES + waves * 8 + 8).next_multiple_of(PAGE_BYTES);
        ContextSave {
            control_stack_bytes,
            area_bytes: control_stack_bytes + (cus * per_cu).next_multiple_of(PAGE_BYTES),
            debugger_bytes: (waves * 32).next_multiple_of(64),
        }
    }
}

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    pub(super) product: &'static Product,
    pub(super) cpus: Vec<CpuSpec>,
    pub(super) gpus: Vec<GpuSpec>,
    pub(super) generation: u32,
}

impl Topology {
    /// The product that it was made from.
    #[must_use]
    pub const fn product(&self) -> &'static Product {
        self.product
    }

    /// The CPU nodes. They are the first nodes of the topology, in this order.
    #[must_use]
    pub fn cpus(&self) -> &[CpuSpec] {
        &self.cpus
    }

    /// The GPUs that are there, in the order of their nodes, which follow the CPUs'.
    #[must_use]
    pub fn gpus(&self) -> &[GpuSpec] {
        &self.gpus
    }

    /// Counts the changes of the topology: `generation_id`. The driver counts 1 for the CPUs, and 1
    /// for every GPU that comes or goes.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// The GPU with this KFD id.
    #[must_use]
    pub fn gpu_by_id(&self, gpu_id: u32) -> Option<&GpuSpec> {
        self.gpus.iter().find(|gpu| gpu.gpu_id == gpu_id)
    }

    /// The GPU with this number in its machine.
    #[must_use]
    pub fn gpu_by_index(&self, index: u32) -> Option<&GpuSpec> {
        self.gpus.iter().find(|gpu| gpu.index == index)
    }

    /// The GPU whose render node has this minor number.
    #[must_use]
    pub fn gpu_by_render_minor(&self, minor: u32) -> Option<&GpuSpec> {
        self.gpus.iter().find(|gpu| gpu.render_minor == minor)
    }

    /// Number of the node of a GPU, given its KFD id. Nodes move up when one before them goes.
    #[must_use]
    pub fn node_of(&self, gpu_id: u32) -> Option<u32> {
        let place = self.gpus.iter().position(|gpu| gpu.gpu_id == gpu_id)?;
        Some((self.cpus.len() + place) as u32)
    }

    /// All system memory in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.cpus.iter().map(|cpu| cpu.memory_bytes).sum()
    }

    /// System memory that a GPU can map: half of it, the driver's default (amdgpu_ttm.c).
    #[must_use]
    pub fn gtt_bytes(&self) -> u64 {
        self.memory_bytes() / 2
    }

    /// Takes the GPU with this KFD id away, as if it had been unplugged: the others keep ids,
    /// minor numbers and places; nodes after it move up. False if there is no such GPU.
    pub fn remove_gpu(&mut self, gpu_id: u32) -> bool {
        let before = self.gpus.len();
        self.gpus.retain(|gpu| gpu.gpu_id != gpu_id);
        let removed = self.gpus.len() < before;
        self.generation += u32::from(removed);
        removed
    }

    /// What the device model must know of the GPUs, in the order of [`Topology::gpus`].
    #[must_use]
    pub fn gpu_configs(&self) -> Vec<GpuConfig> {
        self.gpus.iter().map(GpuSpec::config).collect()
    }

    /// A driver for this machine, as it is when nobody has opened a device file yet.
    #[must_use]
    pub fn model(&self) -> Model {
        let mut model = Model::new(self.gpu_configs(), self.gtt_bytes());
        for (place, gpu) in self.gpus.iter().enumerate() {
            model.set_info_source(GpuIndex(place as u8), Arc::new(*gpu));
        }
        model
    }

    /// The links of every node, in the order of the nodes.
    #[must_use]
    pub fn links(&self) -> Vec<NodeLinks> {
        links::of(self)
    }

    /// What sysfs shows of this machine.
    #[must_use]
    pub fn sysfs(&self) -> Sysfs {
        Sysfs::of(self)
    }
}

#[cfg(test)]
mod tests {
    use super::PciAddress;
    use crate::products::{ContextSave, NodeConfig, Product};

    #[test]
    fn context_save_sizes_are_those_the_thunk_asks_for() {
        let sizes = |product| {
            let config = NodeConfig::new(Product::by_name(product).expect("a product"), 1);
            config.topology().expect("a good configuration").gpus()[0].context_save()
        };
        // 110 CUs: 4096 waves (512 for each of 8 engines), 8 bytes each, with head in whole pages.
        let mi250x = ContextSave {
            control_stack_bytes: 0x9000,
            area_bytes: 0x9000 + 110 * 0x95000,
            debugger_bytes: 4096 * 32,
        };
        assert_eq!(sizes("gfx90a"), mi250x);
        // One XCC of 38 CUs.
        let mi300x = ContextSave {
            control_stack_bytes: 0x3000,
            area_bytes: 0x3000 + 38 * 0x95000,
            debugger_bytes: 1520 * 32,
        };
        assert_eq!(sizes("gfx942"), mi300x);
    }

    #[test]
    fn device_model_gets_sizes_and_ids_of_each_gpu() {
        let mut config = NodeConfig::new(Product::by_name("gfx942").expect("a product"), 2);
        config.gpu(1).vram_bytes = Some(1 << 30);
        let topology = config.topology().expect("a good configuration");
        let configs = topology.gpu_configs();
        for (gpu, config) in topology.gpus().iter().zip(&configs) {
            assert_eq!((gpu.gpu_id, gpu.render_minor), (config.gpu_id, config.render_minor));
            assert_eq!(gpu.vram.bytes, config.vram_visible_bytes);
        }
        assert_eq!((configs[1].vram_bytes, configs[0].hive_id), (1 << 30, configs[1].hive_id));
        assert_eq!((configs[0].sdma_queues_max, configs[0].sdma_xgmi_queues_max), (16, 112));
    }

    #[test]
    fn pci_address_is_printed_as_the_kernel_names_devices() {
        let address = PciAddress { domain: 0, bus: 0xc1, device: 0, function: 0 };
        assert_eq!(address.to_string(), "0000:c1:00.0");
        assert_eq!(address.location_id(), 49_408);
    }
}
