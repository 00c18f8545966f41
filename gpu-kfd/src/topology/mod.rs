//! The topology that the KFD shows in sysfs: one folder for each node, CPUs included.
//!
//! Layout and names are those of amdkfd's `kfd_topology.c`: `generation_id`, `system_properties`,
//! and for each `nodes/<n>` the files `gpu_id` (0 for a node without a GPU), `name` and
//! `properties` beside the folders `mem_banks`, `caches`, `io_links` and `p2p_links` of numbered
//! entries.
//!
//! A host without the driver has no such folder, which is an empty topology and no error. A GPU
//! that a device cgroup hides from this process (as in a container) keeps its folder, whose files
//! answer `EPERM`: such nodes are listed apart, and links to them lead nowhere.

mod error;
mod link;
mod node;
mod properties;
mod sysfs;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

pub use error::{LineProblem, TopologyError};
pub use link::{HeapType, LinkType};
pub use node::{HostGpuId, Isa, Node, PciAddress};
pub use properties::{Cache, Link, MemoryBank, NodeProperties, SystemProperties};
use sysfs::{Disk, Source};

/// Most nodes that are read. The driver numbers them with 32 bits; real hosts have tens.
pub const NODES_MAX: usize = 1024;
/// Most memory banks of a node. The driver makes one.
pub const BANKS_MAX: usize = 64;
/// Most caches of a node. An MI300X, the largest seen, has 626.
pub const CACHES_MAX: usize = 16 << 10;
/// Most links of a node in one of its two folders: one to every other node.
pub const LINKS_MAX: usize = NODES_MAX;

/// All nodes of a host. [`Default`] is that of a host without the driver.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// Counts up whenever a GPU comes or goes.
    pub generation: u32,
    /// Who made the platform's tables.
    pub system: SystemProperties,
    /// Nodes that this process may see, in ascending order of their numbers.
    pub nodes: Vec<Node>,
    /// Numbers of the nodes that a device cgroup hides, ascending.
    pub hidden: Vec<u32>,
}

/// What is read of a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Everything,
    NoCaches,
}

impl Topology {
    /// Where the driver puts it.
    pub const SYSFS: &str = "/sys/class/kfd/kfd/topology";

    /// Reads a topology below `root` ([`Topology::SYSFS`] on a host with the driver).
    ///
    /// # Errors
    /// [`TopologyError`]; a `root` without nodes is an empty topology. After
    /// [`TopologyError::Changed`] it is worth reading again.
    pub fn read(root: impl AsRef<Path>) -> Result<Self, TopologyError> {
        read(&Disk, root.as_ref(), Depth::Everything)
    }

    /// Like [`Topology::read`], but [`Node::caches`] stay empty. Matching GPUs needs none of them,
    /// and on eight MI300X they are 5008 of some 5140 files.
    ///
    /// # Errors
    /// As [`Topology::read`].
    pub fn read_without_caches(root: impl AsRef<Path>) -> Result<Self, TopologyError> {
        read(&Disk, root.as_ref(), Depth::NoCaches)
    }

    /// The nodes that are GPUs, with their ids.
    pub fn gpus(&self) -> impl Iterator<Item = (HostGpuId, &Node)> {
        self.nodes.iter().filter_map(|node| Some((node.gpu_id?, node)))
    }

    /// The nodes that are CPUs only.
    pub fn cpus(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.gpu_id.is_none())
    }

    /// The node of a number; `None` if there is none or it is hidden.
    #[must_use]
    pub fn node(&self, index: u32) -> Option<&Node> {
        self.nodes.iter().find(|node| node.index == index)
    }

    /// The node of a GPU.
    #[must_use]
    pub fn gpu(&self, id: HostGpuId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.gpu_id == Some(id))
    }

    /// The link to the CPU that is nearest to a node: its NUMA link. Only direct links count; the
    /// driver makes one for each GPU.
    #[must_use]
    pub fn numa_link<'node>(&self, node: &'node Node) -> Option<&'node Link> {
        let to_cpu = |link: &&Link| self.node(link.node_to).is_some_and(|to| to.gpu_id.is_none());
        node.io_links.iter().filter(to_cpu).min_by_key(|link| link.weight)
    }
}

fn read(source: &impl Source, root: &Path, depth: Depth) -> Result<Topology, TopologyError> {
    let nodes = root.join("nodes");
    let folders = match sysfs::numbered(source, &nodes, NODES_MAX) {
        Ok(folders) => folders,
        Err(error) if sysfs::is_missing(&error, &nodes) => return Ok(Topology::default()),
        Err(error) => return Err(error),
    };
    let generation = sysfs::single(source, &root.join("generation_id"))?;
    let mut topology = Topology {
        generation,
        system: sysfs::record(source, &root.join("system_properties"))?,
        ..Topology::default()
    };
    for (index, folder) in folders {
        match read_node(source, index, &folder, depth) {
            Ok(node) => topology.nodes.push(node),
            Err(error) if sysfs::is_hidden(&error) => topology.hidden.push(index),
            Err(error) => return Err(explain(source, root, generation, error)),
        }
    }
    let after = sysfs::single(source, &root.join("generation_id"))?;
    if after != generation {
        return Err(TopologyError::Changed { before: generation, after });
    }
    check_ids(&topology)?;
    Ok(topology)
}

/// A GPU that goes takes its files along: then the change is the error, not the missing file.
fn explain(source: &impl Source, root: &Path, before: u32, error: TopologyError) -> TopologyError {
    match sysfs::single(source, &root.join("generation_id")) {
        Ok(after) if after != before => TopologyError::Changed { before, after },
        _ => error,
    }
}

fn read_node(
    source: &impl Source,
    index: u32,
    folder: &Path,
    depth: Depth,
) -> Result<Node, TopologyError> {
    let gpu_id = sysfs::single(source, &folder.join("gpu_id"))?;
    let caches = match depth {
        Depth::Everything => sysfs::records(source, &folder.join("caches"), CACHES_MAX)?,
        Depth::NoCaches => Vec::new(),
    };
    // Older kernels have no links through CPUs.
    let p2p = folder.join("p2p_links");
    let p2p_links = match sysfs::records(source, &p2p, LINKS_MAX) {
        Err(error) if sysfs::is_missing(&error, &p2p) => Vec::new(),
        other => other?,
    };
    Ok(Node {
        index,
        gpu_id: Some(HostGpuId(gpu_id)).filter(|id| id.0 != 0),
        name: sysfs::text(source, &folder.join("name"))?.trim().to_owned(),
        properties: sysfs::record(source, &folder.join("properties"))?,
        memory_banks: sysfs::records(source, &folder.join("mem_banks"), BANKS_MAX)?,
        caches,
        io_links: sysfs::records(source, &folder.join("io_links"), LINKS_MAX)?,
        p2p_links,
    })
}

fn check_ids(topology: &Topology) -> Result<(), TopologyError> {
    let mut seen = BTreeMap::new();
    for (id, node) in topology.gpus() {
        if let Some(first) = seen.insert(id, node.index) {
            return Err(TopologyError::SameGpuId { id, first, second: node.index });
        }
    }
    Ok(())
}
