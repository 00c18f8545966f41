//! Machines to match, small enough to write down: GPUs, CPUs, and what is between any two.
//!
//! A world becomes a checkpoint or a host. Points are the GPUs, from 0, then the CPUs. Nodes are
//! numbered the other way round, CPUs first, as the driver does.

use gpu_kfd::{
    GpuId, GpuProperties, HeapType, HostGpuId, Link, LinkType, MemoryBank, Node, NodeProperties,
    SavedCpu, SavedGpu, SavedLink, SavedTopology, Topology,
};

/// No link, PCIe, XGMI.
pub(crate) const NONE: u8 = 0;
pub(crate) const PCIE: u8 = 1;
pub(crate) const XGMI: u8 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gpu {
    pub(crate) id: u32,
    pub(crate) device: u32,
    pub(crate) firmware: u32,
    pub(crate) vram_mib: u64,
    pub(crate) io_links: u32,
    pub(crate) hive: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct World {
    pub(crate) gpus: Vec<Gpu>,
    pub(crate) cpus: usize,
    /// From each point to each.
    pub(crate) links: Vec<Vec<u8>>,
}

impl World {
    /// Equal GPUs with these ids; no links.
    pub(crate) fn new(ids: impl IntoIterator<Item = u32>, cpus: usize) -> Self {
        let gpu =
            |id| Gpu { id, device: 0x74a1, firmware: 166, vram_mib: 196_592, io_links: 8, hive: 0 };
        let gpus: Vec<Gpu> = ids.into_iter().map(gpu).collect();
        let points = gpus.len() + cpus;
        Self { gpus, cpus, links: vec![vec![NONE; points]; points] }
    }

    /// GPUs as evenly as can be at the CPUs, by PCIe, both ways.
    pub(crate) fn at_cpus(mut self) -> Self {
        let (gpus, cpus) = (self.gpus.len(), self.cpus);
        for gpu in 0..gpus {
            self.join(gpu, gpus + gpu * cpus / gpus, PCIE);
        }
        self
    }

    /// XGMI between all of these GPUs.
    pub(crate) fn hive(mut self, id: u64, gpus: impl IntoIterator<Item = usize>) -> Self {
        let gpus: Vec<usize> = gpus.into_iter().collect();
        for &one in &gpus {
            self.gpus[one].hive = id;
            for &other in gpus.iter().filter(|&&other| other != one) {
                self.join(one, other, XGMI);
            }
        }
        self
    }

    pub(crate) fn join(&mut self, one: usize, other: usize, link: u8) {
        self.links[one][other] = link;
        self.links[other][one] = link;
    }

    /// The same machine with GPUs in another order: the first is the one that was at `order[0]`.
    /// GPUs that `order` leaves out are gone.
    pub(crate) fn in_order(&self, order: &[usize]) -> Self {
        let cpus = self.gpus.len()..self.gpus.len() + self.cpus;
        let points: Vec<usize> = order.iter().copied().chain(cpus).collect();
        let row = |&from: &usize| points.iter().map(|&to| self.links[from][to]).collect();
        Self {
            gpus: order.iter().map(|&gpu| self.gpus[gpu].clone()).collect(),
            cpus: self.cpus,
            links: points.iter().map(row).collect(),
        }
    }

    fn node(&self, point: usize) -> u32 {
        let gpus = self.gpus.len();
        let node = if point < gpus { point + self.cpus } else { point - gpus };
        node as u32
    }

    fn links_from(&self, point: usize) -> impl Iterator<Item = (LinkType, u32)> {
        let types = [LinkType(0), LinkType::PCI_EXPRESS, LinkType::XGMI];
        let links = self.links[point].iter().enumerate();
        let links = links.filter(|&(_, &link)| link != NONE);
        links.map(move |(to, &link)| (types[usize::from(link)], self.node(to)))
    }

    pub(crate) fn saved(&self) -> SavedTopology {
        let links = |point| {
            let links = self.links_from(point);
            links.map(|(link_type, node_to)| SavedLink { link_type, node_to }).collect()
        };
        let gpu = |(point, gpu): (usize, &Gpu)| SavedGpu {
            id: GpuId(gpu.id),
            node: self.node(point),
            properties: GpuProperties {
                device_id: gpu.device,
                fw_version: gpu.firmware,
                vram_size: gpu.vram_mib << 20,
                vram_public: true,
                io_links_count: gpu.io_links,
                hive_id: gpu.hive,
                ..GpuProperties::default()
            },
            links: links(point),
        };
        let cpu = |cpu| {
            let point = self.gpus.len() + cpu;
            SavedCpu { node: self.node(point), links: links(point) }
        };
        let gpus = self.gpus.iter().enumerate().map(gpu).collect();
        SavedTopology::new(gpus, (0..self.cpus).map(cpu).collect()).expect("no contradiction")
    }

    pub(crate) fn host(&self) -> Topology {
        let node = |point: usize| {
            let node_from = self.node(point);
            let link = |(link_type, node_to)| Link {
                link_type,
                node_from,
                node_to,
                flags: 1,
                ..Link::default()
            };
            let io_links = self.links_from(point).map(link).collect();
            Node { index: node_from, io_links, ..Node::default() }
        };
        let gpu = |(point, gpu): (usize, &Gpu)| Node {
            gpu_id: Some(HostGpuId(gpu.id)),
            properties: NodeProperties {
                device_id: gpu.device,
                fw_version: gpu.firmware,
                io_links_count: gpu.io_links,
                hive_id: gpu.hive,
                ..NodeProperties::default()
            },
            memory_banks: vec![MemoryBank {
                heap_type: HeapType::FRAME_BUFFER_PUBLIC,
                size_in_bytes: gpu.vram_mib << 20,
                ..MemoryBank::default()
            }],
            ..node(point)
        };
        let cpus = (self.gpus.len()..self.gpus.len() + self.cpus).map(node);
        let nodes = cpus.chain(self.gpus.iter().enumerate().map(gpu)).collect();
        Topology { nodes, ..Topology::default() }
    }
}
