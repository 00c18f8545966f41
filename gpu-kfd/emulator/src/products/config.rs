//! What to build: a product, how many GPUs, and what differs from what is sold.
//!
//! Everything that a configuration can get wrong is found here, before anything is built.

use std::collections::{BTreeMap, BTreeSet};

use super::catalogue::Product;
use super::chip::{Firmware, Vram};
use super::identity;
use super::topology::{CpuSpec, GpuSpec, Hive, PciAddress, Topology};

/// Most GPUs of any product.
pub const GPUS_MAX: u32 = 8;
/// Most CPU nodes: as many as two EPYC sockets with four NUMA domains each show.
const CPU_NODES_MAX: u32 = 8;
/// Most cores of a CPU node.
const CORES_MAX: u32 = 1024;
/// Most memory, of a GPU or of a CPU node: far more than any product has.
const MEMORY_BYTES_MAX: u64 = 1 << 44;
const PAGE_BYTES: u64 = 4096;
/// KFD's ids have 16 bits (kfd_priv.h, `KFD_GPU_ID_HASH_WIDTH`); mmap offsets depend on it.
const GPU_ID_MAX: u32 = 0xffff;
/// Minor numbers of render nodes (drm_drv.c).
const RENDER_MINORS: std::ops::RangeInclusive<u32> = 128..=191;

/// Why a configuration makes no machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The product has not that many GPUs, or none is asked for.
    #[error("{product} has 1 to {gpus_max} GPUs, not {gpus}")]
    GpuCount {
        /// Name of the product.
        product: &'static str,
        /// GPUs asked for.
        gpus: u32,
        /// Most GPUs.
        gpus_max: u32,
    },
    /// Something is said of a GPU that is not there.
    #[error("there is no GPU {index}: the machine has {gpus}, counted from 0")]
    NoSuchGpu {
        /// Number of the GPU.
        index: u32,
        /// GPUs asked for.
        gpus: u32,
    },
    /// A number of CPU nodes that no machine has.
    #[error("a machine has 1 to {CPU_NODES_MAX} CPU nodes, not {nodes}")]
    CpuNodeCount {
        /// CPU nodes asked for.
        nodes: u32,
    },
    /// A number of cores that no CPU has.
    #[error("a CPU node has 1 to {CORES_MAX} cores, not {cores}")]
    CoreCount {
        /// Cores asked for.
        cores: u32,
    },
    /// A GPU is to be at a CPU node that is not there.
    #[error("GPU {index} cannot be at CPU node {node}: the machine has {nodes}, counted from 0")]
    NoSuchCpuNode {
        /// Number of the GPU.
        index: u32,
        /// CPU node asked for.
        node: u32,
        /// CPU nodes of the machine.
        nodes: u32,
    },
    /// A size of memory that cannot be.
    #[error("{bytes} bytes of memory are not whole pages from 1 to {MEMORY_BYTES_MAX} bytes")]
    MemorySize {
        /// Bytes asked for.
        bytes: u64,
    },
    /// More memory is visible to the host than there is.
    #[error("GPU {index} cannot show {public_bytes} bytes of {bytes} bytes of video memory")]
    PublicVram {
        /// Number of the GPU.
        index: u32,
        /// Bytes that the host is to see.
        public_bytes: u64,
        /// All bytes.
        bytes: u64,
    },
    /// A KFD id out of range.
    #[error("GPU {index} cannot have the id {gpu_id}: ids are 1 to {GPU_ID_MAX}")]
    GpuId {
        /// Number of the GPU.
        index: u32,
        /// Id asked for.
        gpu_id: u32,
    },
    /// Two GPUs are to have one KFD id.
    #[error("GPU {index} cannot have the id {gpu_id}: another GPU has it")]
    GpuIdTaken {
        /// Number of the second GPU.
        index: u32,
        /// Id asked for.
        gpu_id: u32,
    },
    /// A minor number that no render node has.
    #[error("GPU {index} cannot be renderD{minor}: minor numbers are 128 to 191")]
    RenderMinor {
        /// Number of the GPU.
        index: u32,
        /// Minor asked for.
        minor: u32,
    },
    /// Two GPUs are to have one minor number.
    #[error("GPU {index} cannot be renderD{minor}: another GPU is")]
    RenderMinorTaken {
        /// Number of the second GPU.
        index: u32,
        /// Minor asked for.
        minor: u32,
    },
}

impl ConfigError {
    /// Its code, by which `docs/errors.md` lists it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::GpuCount { .. } => "usage.node-gpus",
            Self::NoSuchGpu { .. } => "usage.node-gpu",
            Self::CpuNodeCount { .. } => "usage.node-cpu-nodes",
            Self::CoreCount { .. } => "usage.node-cores",
            Self::NoSuchCpuNode { .. } => "usage.node-cpu-node",
            Self::MemorySize { .. } => "usage.node-memory",
            Self::PublicVram { .. } => "usage.node-visible-vram",
            Self::GpuId { .. } => "usage.node-gpu-id",
            Self::GpuIdTaken { .. } => "usage.node-gpu-id-taken",
            Self::RenderMinor { .. } => "usage.node-minor",
            Self::RenderMinorTaken { .. } => "usage.node-minor-taken",
        }
    }

    /// What can be done about it, where there is something.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::GpuCount { .. } => {
                Some("ask for as many GPUs as the product has (thaw node list-models)")
            }
            Self::NoSuchGpu { .. } => Some("count GPUs from 0"),
            Self::CpuNodeCount { .. } => Some("ask for 1 to 8 CPU nodes"),
            Self::CoreCount { .. } => Some("ask for 1 to 1024 cores"),
            Self::NoSuchCpuNode { .. } => Some("count CPU nodes from 0"),
            Self::MemorySize { .. } => Some("ask for whole pages of 4 KiB, up to 16 TiB"),
            Self::PublicVram { .. } => Some("ask for no more than --vram"),
            Self::GpuId { .. } => Some("give ids from 1 to 65535"),
            Self::GpuIdTaken { .. } => Some("give each GPU an id of its own"),
            Self::RenderMinor { .. } => Some("give minors from 128 to 191"),
            Self::RenderMinorTaken { .. } => Some("give each GPU a minor of its own"),
        }
    }
}

/// What differs from the product at one GPU. What is `None` is as the product, or the driver, has
/// it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GpuKnobs {
    /// KFD's id, 1 to 65535.
    pub gpu_id: Option<u32>,
    /// Minor number of the render node, 128 to 191.
    pub render_minor: Option<u32>,
    /// Video memory in bytes, whole pages. Without `vram_public_bytes` the host sees all of it.
    pub vram_bytes: Option<u64>,
    /// Video memory that the host can map; less than all means a small BAR.
    pub vram_public_bytes: Option<u64>,
    /// Version of the compute firmware (`fw_version`).
    pub mec_firmware: Option<u32>,
    /// Version of the copy engines' firmware (`sdma_fw_version`).
    pub sdma_firmware: Option<u32>,
    /// CPU node that it is plugged in at.
    pub cpu_node: Option<u32>,
}

/// A machine to build.
///
/// The same configuration always makes the same machine. Without knobs, ids are what the driver
/// would give: KFD ids from its hash of place, board and memory, render minors from 128 on, in
/// order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeConfig {
    /// The product.
    pub product: &'static Product,
    /// GPUs, counted before any is removed.
    pub gpus: u32,
    /// Which machine of this product: another seed has other serial numbers and hive ids, and the
    /// boards sit up to 15 PCI buses further (`seed % 16`), which gives them other KFD ids.
    pub seed: u64,
    /// CPU (NUMA) nodes; GPUs are spread over them in order, equally many at each.
    pub cpu_nodes: Option<u32>,
    /// Cores of a CPU node.
    pub cores_per_cpu_node: Option<u32>,
    /// System memory of a CPU node in bytes, whole pages.
    pub memory_per_cpu_node_bytes: Option<u64>,
    /// Render minor of the first GPU; the others follow, past those that knobs ask for.
    pub first_render_minor: u32,
    /// What differs, by number of the GPU.
    pub knobs: BTreeMap<u32, GpuKnobs>,
    /// Numbers of GPUs that are missing. The others are as they would be with it.
    pub removed: BTreeSet<u32>,
}

impl NodeConfig {
    /// A machine of this product with `gpus` GPUs, everything as the product has it.
    #[must_use]
    pub fn new(product: &'static Product, gpus: u32) -> Self {
        Self {
            product,
            gpus,
            seed: 0,
            cpu_nodes: None,
            cores_per_cpu_node: None,
            memory_per_cpu_node_bytes: None,
            first_render_minor: *RENDER_MINORS.start(),
            knobs: BTreeMap::new(),
            removed: BTreeSet::new(),
        }
    }

    /// The knobs of one GPU, to turn them.
    pub fn gpu(&mut self, index: u32) -> &mut GpuKnobs {
        self.knobs.entry(index).or_default()
    }

    /// Turns a knob of every GPU.
    pub fn every_gpu(&mut self, mut turn: impl FnMut(&mut GpuKnobs)) {
        for index in 0..self.gpus.min(GPUS_MAX) {
            turn(self.gpu(index));
        }
    }

    /// Builds the machine.
    ///
    /// # Errors
    /// [`ConfigError`]: the first thing that is wrong, by GPU.
    pub fn topology(&self) -> Result<Topology, ConfigError> {
        let product = self.product;
        if self.gpus == 0 || self.gpus > product.gpus_max.min(GPUS_MAX) {
            let (product, gpus_max) = (product.name, product.gpus_max);
            return Err(ConfigError::GpuCount { product, gpus: self.gpus, gpus_max });
        }
        let mentioned = self.knobs.keys().chain(&self.removed);
        if let Some(&index) = mentioned.into_iter().find(|&&index| index >= self.gpus) {
            return Err(ConfigError::NoSuchGpu { index, gpus: self.gpus });
        }
        let cpus = self.build_cpus()?;
        let mut gpus = Vec::new();
        for index in 0..self.gpus {
            let gpu = self.build_gpu(index, &cpus, &gpus)?;
            gpus.push(gpu);
        }
        let mut topology = Topology { product, cpus, generation: 1 + self.gpus, gpus };
        let removed: Vec<u32> =
            self.removed.iter().map(|&index| topology.gpus[index as usize].gpu_id).collect();
        for gpu_id in removed {
            topology.remove_gpu(gpu_id);
        }
        Ok(topology)
    }

    fn build_cpus(&self) -> Result<Vec<CpuSpec>, ConfigError> {
        let product = self.product;
        let nodes = self.cpu_nodes.unwrap_or(product.cpu_nodes);
        if nodes == 0 || nodes > CPU_NODES_MAX {
            return Err(ConfigError::CpuNodeCount { nodes });
        }
        let cores = self.cores_per_cpu_node.unwrap_or(product.cores_per_cpu_node);
        if cores == 0 || cores > CORES_MAX {
            return Err(ConfigError::CoreCount { cores });
        }
        let memory_bytes =
            self.memory_per_cpu_node_bytes.unwrap_or(product.memory_per_cpu_node_bytes);
        check_memory(memory_bytes)?;
        let cpu = |node| CpuSpec {
            cores,
            // Sockets start at powers of two.
            first_core_id: node * cores.next_power_of_two(),
            memory_bytes,
            clock_mhz: product.cpu_clock_mhz,
        };
        Ok((0..nodes).map(cpu).collect())
    }

    /// Builds the GPU with this number; those before it are in `others`.
    fn build_gpu(
        &self,
        index: u32,
        cpus: &[CpuSpec],
        others: &[GpuSpec],
    ) -> Result<GpuSpec, ConfigError> {
        let product = self.product;
        let knobs = self.knobs.get(&index).copied().unwrap_or_default();
        let vram = build_vram(index, &knobs, product.chip.vram)?;
        let nodes = cpus.len() as u32;
        let cpu_node = knobs.cpu_node.unwrap_or(self.home_node(index, nodes));
        if cpu_node >= nodes {
            return Err(ConfigError::NoSuchCpuNode { index, node: cpu_node, nodes });
        }
        let pci = PciAddress {
            domain: 0,
            bus: product.buses[index as usize] + (self.seed % 16) as u8,
            device: 0,
            function: 0,
        };
        let shipped = product.chip.firmware;
        Ok(GpuSpec {
            index,
            chip: product.chip,
            gpu_id: self.build_gpu_id(index, &knobs, pci, vram, others)?,
            render_minor: self.build_render_minor(index, &knobs, others)?,
            pci,
            unique_id: identity::mixed(self.seed, u64::from(index)),
            hive: self.build_hive(index),
            cpu_node,
            vram,
            firmware: Firmware {
                mec: knobs.mec_firmware.unwrap_or(shipped.mec),
                sdma: knobs.sdma_firmware.unwrap_or(shipped.sdma),
                ..shipped
            },
            // kfd_crat.c, `gpu_processor_id_low`.
            first_processor: 0x8000_1000 + index * product.chip.shader.processor_numbers(),
            cpu_clock_mhz: product.cpu_clock_mhz,
        })
    }

    /// The CPU node of a GPU by default: as on the full machine, the first half of the GPUs is at
    /// the first of two nodes and so on.
    fn home_node(&self, index: u32, nodes: u32) -> u32 {
        index * nodes / self.product.gpus_max
    }

    fn build_gpu_id(
        &self,
        index: u32,
        knobs: &GpuKnobs,
        pci: PciAddress,
        vram: Vram,
        others: &[GpuSpec],
    ) -> Result<u32, ConfigError> {
        let mut taken: Vec<u32> = others.iter().map(|gpu| gpu.gpu_id).collect();
        let Some(gpu_id) = knobs.gpu_id else {
            // Ids that are asked for further on are not given away here.
            taken.extend(self.knobs.values().filter_map(|other| other.gpu_id));
            return Ok(identity::gpu_id(pci, self.product.chip, vram.bytes, &taken));
        };
        if gpu_id == 0 || gpu_id > GPU_ID_MAX {
            return Err(ConfigError::GpuId { index, gpu_id });
        }
        if taken.contains(&gpu_id) {
            return Err(ConfigError::GpuIdTaken { index, gpu_id });
        }
        Ok(gpu_id)
    }

    fn build_render_minor(
        &self,
        index: u32,
        knobs: &GpuKnobs,
        others: &[GpuSpec],
    ) -> Result<u32, ConfigError> {
        let taken = |minor| others.iter().any(|gpu| gpu.render_minor == minor);
        let asked = |minor| self.knobs.values().any(|other| other.render_minor == Some(minor));
        let minor = knobs.render_minor.unwrap_or_else(|| {
            let mut minor = self.first_render_minor.saturating_add(index);
            while taken(minor) || asked(minor) {
                minor += 1;
            }
            minor
        });
        if !RENDER_MINORS.contains(&minor) {
            return Err(ConfigError::RenderMinor { index, minor });
        }
        if taken(minor) {
            return Err(ConfigError::RenderMinorTaken { index, minor });
        }
        Ok(minor)
    }

    /// A single GPU has no hive: there is nothing at its XGMI ports. So it is on the machine that
    /// is built with fewer GPUs than a hive has; its hive is as many as there are.
    fn build_hive(&self, index: u32) -> Option<Hive> {
        let size = self.product.hive_gpus;
        if size == 0 {
            return None;
        }
        let number = index / size;
        let gpus = (self.gpus - number * size).min(size);
        let id = identity::mixed(self.seed, 0x4849_5645 + u64::from(number));
        (gpus > 1).then_some(Hive { id, gpus })
    }
}

fn check_memory(bytes: u64) -> Result<(), ConfigError> {
    if bytes == 0 || bytes > MEMORY_BYTES_MAX || !bytes.is_multiple_of(PAGE_BYTES) {
        return Err(ConfigError::MemorySize { bytes });
    }
    Ok(())
}

fn build_vram(index: u32, knobs: &GpuKnobs, product: Vram) -> Result<Vram, ConfigError> {
    let bytes = knobs.vram_bytes.unwrap_or(product.bytes);
    check_memory(bytes)?;
    let public_bytes = knobs.vram_public_bytes.unwrap_or(bytes);
    if public_bytes > bytes {
        return Err(ConfigError::PublicVram { index, public_bytes, bytes });
    }
    if public_bytes > 0 {
        check_memory(public_bytes)?;
    }
    Ok(Vram { bytes, public_bytes, ..product })
}

#[cfg(test)]
mod tests;
