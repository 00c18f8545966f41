//! What a checkpoint says of the GPUs that its processes had, and of the CPUs beside them.
//!
//! It is what the match needs and no more. Whoever reads an image fills it; nothing here knows
//! files or formats.

use std::collections::BTreeSet;
use std::fmt;

#[cfg(doc)]
use crate::topology::NodeProperties;
use crate::topology::{Link, LinkType, Node, Topology};

/// Most GPUs on either side. The driver gives a process at most 64 (`MAX_GPU_INSTANCE` in amdkfd
/// `kfd_priv.h`).
pub const GPUS_MAX: usize = 128;
/// Most CPU nodes with links to GPUs on either side: as many as GPUs, for each has one.
pub const CPUS_MAX: usize = 128;

/// Identifier of a GPU in a checkpoint, as the process knows it: the id that it had on the host on
/// which the process was started. It stays the same however often the process is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuId(pub u32);

impl fmt::Display for GpuId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#06x}", self.0)
    }
}

/// Defines [`GpuProperties`] from the fields that it shares with [`NodeProperties`].
macro_rules! gpu_properties {
    ($($field:ident: $type:ty,)*) => {
        /// Properties of a GPU that rules compare.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
        pub struct GpuProperties {
            $(
                #[doc = concat!("[`NodeProperties::", stringify!($field), "`].")]
                pub $field: $type,
            )*
            /// Whether a CPU can map all of the VRAM.
            pub vram_public: bool,
            /// VRAM in bytes; 0 for an APU without memory of its own.
            pub vram_size: u64,
        }

        impl GpuProperties {
            /// Those of a node of a host.
            #[must_use]
            pub fn of(node: &Node) -> Self {
                Self {
                    $($field: node.properties.$field,)*
                    vram_public: node.is_vram_public(),
                    vram_size: node.vram().map_or(0, |bank| bank.size_in_bytes),
                }
            }
        }
    };
}

gpu_properties! {
    simd_count: u32,
    mem_banks_count: u32,
    caches_count: u32,
    io_links_count: u32,
    max_waves_per_simd: u32,
    lds_size_in_kb: u32,
    num_gws: u32,
    wave_front_size: u32,
    array_count: u32,
    simd_arrays_per_engine: u32,
    cu_per_simd_array: u32,
    simd_per_cu: u32,
    max_slots_scratch_cu: u32,
    vendor_id: u32,
    device_id: u32,
    hive_id: u64,
    num_sdma_engines: u32,
    num_sdma_xgmi_engines: u32,
    num_sdma_queues_per_engine: u32,
    num_cp_queues: u32,
    fw_version: u32,
    capability: u32,
    sdma_fw_version: u32,
}

/// A direct link of a saved node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedLink {
    /// What kind it is. PCIe and XGMI count, others are passed over.
    pub link_type: LinkType,
    /// Number of the node that it leads to. A link to a node that is not saved counts for nothing.
    pub node_to: u32,
}

/// A GPU that a checkpoint has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedGpu {
    /// Its id in the checkpoint.
    pub id: GpuId,
    /// Number of its node on the host where it was saved.
    pub node: u32,
    /// What it is.
    pub properties: GpuProperties,
    /// Its direct links.
    pub links: Vec<SavedLink>,
}

/// A CPU beside the saved GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedCpu {
    /// Number of its node on the host where it was saved.
    pub node: u32,
    /// Its direct links.
    pub links: Vec<SavedLink>,
}

/// Why a saved topology contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SavedTopologyError {
    /// More GPUs than any process can have.
    #[error("{count} saved GPUs, limit {GPUS_MAX}")]
    TooManyGpus {
        /// How many.
        count: usize,
    },
    /// More CPU nodes than any host that is restored.
    #[error("{count} saved CPU nodes, limit {CPUS_MAX}")]
    TooManyCpus {
        /// How many.
        count: usize,
    },
    /// 0 stands for a node without a GPU.
    #[error("saved GPU of node {node} has id 0")]
    NoId {
        /// Its node.
        node: u32,
    },
    /// Two GPUs have one id.
    #[error("saved GPU id {id} stands for two GPUs")]
    SameId {
        /// The id.
        id: GpuId,
    },
    /// Two nodes have one number.
    #[error("saved node {node} stands there twice")]
    SameNode {
        /// The number.
        node: u32,
    },
}

/// All GPUs of a checkpoint, in its order, with the CPUs beside them; checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedTopology {
    gpus: Vec<SavedGpu>,
    cpus: Vec<SavedCpu>,
}

impl SavedTopology {
    /// Takes what a checkpoint says.
    ///
    /// # Errors
    /// [`SavedTopologyError`], if ids or node numbers are not unique or a limit is exceeded.
    pub fn new(gpus: Vec<SavedGpu>, cpus: Vec<SavedCpu>) -> Result<Self, SavedTopologyError> {
        if gpus.len() > GPUS_MAX {
            return Err(SavedTopologyError::TooManyGpus { count: gpus.len() });
        }
        if cpus.len() > CPUS_MAX {
            return Err(SavedTopologyError::TooManyCpus { count: cpus.len() });
        }
        let (mut ids, mut nodes) = (BTreeSet::new(), BTreeSet::new());
        for &SavedGpu { id, node, .. } in &gpus {
            if id.0 == 0 {
                return Err(SavedTopologyError::NoId { node });
            }
            if !ids.insert(id) {
                return Err(SavedTopologyError::SameId { id });
            }
        }
        let numbers = gpus.iter().map(|gpu| gpu.node).chain(cpus.iter().map(|cpu| cpu.node));
        for node in numbers {
            if !nodes.insert(node) {
                return Err(SavedTopologyError::SameNode { node });
            }
        }
        Ok(Self { gpus, cpus })
    }

    /// What a checkpoint of a process that was started on this host says of it.
    ///
    /// # Errors
    /// [`SavedTopologyError`], if the host has more GPUs or CPU nodes than the limits.
    pub fn of_host(host: &Topology) -> Result<Self, SavedTopologyError> {
        let links = |node: &Node| {
            let link = |link: &Link| SavedLink { link_type: link.link_type, node_to: link.node_to };
            node.io_links.iter().map(link).collect()
        };
        let gpus = host.gpus().map(|(id, node)| SavedGpu {
            id: GpuId(id.0),
            node: node.index,
            properties: GpuProperties::of(node),
            links: links(node),
        });
        let cpus = host.cpus().map(|node| SavedCpu { node: node.index, links: links(node) });
        Self::new(gpus.collect(), cpus.collect())
    }

    /// The GPUs, in the order of the checkpoint.
    #[must_use]
    pub fn gpus(&self) -> &[SavedGpu] {
        &self.gpus
    }

    /// The CPUs, in the order of the checkpoint.
    #[must_use]
    pub fn cpus(&self) -> &[SavedCpu] {
        &self.cpus
    }
}

#[cfg(test)]
mod tests {
    use super::{
        CPUS_MAX, GPUS_MAX, GpuId, GpuProperties, SavedCpu, SavedGpu, SavedTopology,
        SavedTopologyError as Error,
    };

    fn gpu(id: u32, node: u32) -> SavedGpu {
        SavedGpu { id: GpuId(id), node, properties: GpuProperties::default(), links: Vec::new() }
    }

    fn cpu(node: u32) -> SavedCpu {
        SavedCpu { node, links: Vec::new() }
    }

    #[test]
    fn ids_and_nodes_are_unique_and_limits_hold() {
        let check = |gpus: Vec<SavedGpu>, cpus: Vec<SavedCpu>| SavedTopology::new(gpus, cpus);
        assert!(check(vec![gpu(1, 1), gpu(2, 2)], vec![cpu(0)]).is_ok());
        assert_eq!(check(vec![gpu(0, 1)], vec![]), Err(Error::NoId { node: 1 }));
        let same = check(vec![gpu(1, 1), gpu(1, 2)], vec![]);
        assert_eq!(same, Err(Error::SameId { id: GpuId(1) }));
        let same = check(vec![gpu(1, 1), gpu(2, 2)], vec![cpu(2)]);
        assert_eq!(same, Err(Error::SameNode { node: 2 }));
        let many = (1..=GPUS_MAX as u32 + 1).map(|id| gpu(id, id)).collect();
        assert_eq!(check(many, vec![]), Err(Error::TooManyGpus { count: GPUS_MAX + 1 }));
        let many = (0..=CPUS_MAX as u32).map(cpu).collect();
        assert_eq!(check(vec![], many), Err(Error::TooManyCpus { count: CPUS_MAX + 1 }));
    }
}
