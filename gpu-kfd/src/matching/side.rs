//! One side of a match, saved or here, in the same form: GPUs and CPUs as numbered points, and the
//! best link of each kind between any two of them.

use std::collections::BTreeMap;

use super::saved::{GpuProperties, SavedLink, SavedTopology};
use crate::topology::{LinkType, Topology};

/// How good the way from one point to another is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Rank {
    #[default]
    None,
    PciExpress,
    Xgmi,
}

impl Rank {
    /// Kinds that GPUs do not have count for nothing, as for CRIU, which does not save them.
    fn of(link_type: LinkType) -> Self {
        match link_type {
            LinkType::PCI_EXPRESS => Self::PciExpress,
            LinkType::XGMI => Self::Xgmi,
            _ => Self::None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::PciExpress => "PCIe",
            Self::Xgmi => "XGMI",
        }
    }
}

/// A GPU of one side.
#[derive(Clone, Debug)]
pub(super) struct Gpu {
    /// Its id on this side.
    pub(super) id: u32,
    pub(super) properties: GpuProperties,
}

/// One side. Points are the GPUs, from 0, and after them the CPU nodes to which GPUs have links.
#[derive(Clone, Debug, Default)]
pub(super) struct Side {
    pub(super) gpus: Vec<Gpu>,
    /// Node numbers.
    pub(super) cpus: Vec<u32>,
    /// Of each GPU, the lowest GPU of its hive.
    pub(super) hives: Vec<usize>,
    /// From each point to each.
    ranks: Vec<Rank>,
}

/// A node before it is known which nodes count.
struct Raw {
    node: u32,
    links: Vec<SavedLink>,
}

impl Side {
    pub(super) fn saved(saved: &SavedTopology) -> Self {
        let raw = |node, links: &[SavedLink]| Raw { node, links: links.to_vec() };
        let gpus = saved.gpus().iter().map(|gpu| {
            let own = Gpu { id: gpu.id.0, properties: gpu.properties.clone() };
            (own, raw(gpu.node, &gpu.links))
        });
        let cpus = saved.cpus().iter().map(|cpu| raw(cpu.node, &cpu.links));
        Self::new(gpus.collect(), cpus.collect())
    }

    /// A host has links through CPUs beside the direct ones. Those between GPUs count, because
    /// older kernels listed them among the direct ones; those to CPUs of other sockets do not.
    pub(super) fn host(host: &Topology) -> Self {
        let is_gpu = |index| host.node(index).is_some_and(|node| node.gpu_id.is_some());
        let raw = |node: &crate::topology::Node| {
            let through = node.p2p_links.iter().filter(|link| is_gpu(link.node_to));
            let through = through.filter(|_| node.gpu_id.is_some());
            let links = node.io_links.iter().chain(through);
            let links =
                links.map(|link| SavedLink { link_type: link.link_type, node_to: link.node_to });
            Raw { node: node.index, links: links.collect() }
        };
        let gpus = host
            .gpus()
            .map(|(id, node)| (Gpu { id: id.0, properties: GpuProperties::of(node) }, raw(node)));
        Self::new(gpus.collect(), host.cpus().map(raw).collect())
    }

    fn new(gpus: Vec<(Gpu, Raw)>, cpus: Vec<Raw>) -> Self {
        let (gpus, raw_gpus): (Vec<Gpu>, Vec<Raw>) = gpus.into_iter().unzip();
        let linked = |cpu: &Raw| raw_gpus.iter().any(|gpu| leads(gpu, cpu.node));
        let cpus: Vec<Raw> = cpus.into_iter().filter(linked).collect();
        let numbers: Vec<u32> = cpus.iter().map(|cpu| cpu.node).collect();
        let points: Vec<Raw> = raw_gpus.into_iter().chain(cpus).collect();
        let place: BTreeMap<u32, usize> =
            points.iter().enumerate().map(|(point, raw)| (raw.node, point)).collect();
        let count = points.len();
        let mut ranks = vec![Rank::None; count * count];
        for (from, raw) in points.iter().enumerate() {
            for link in &raw.links {
                if let Some(&to) = place.get(&link.node_to).filter(|&&to| to != from) {
                    let rank = &mut ranks[from * count + to];
                    *rank = (*rank).max(Rank::of(link.link_type));
                }
            }
        }
        let mut side = Self { gpus, cpus: numbers, hives: Vec::new(), ranks };
        side.hives = side.find_hives();
        side
    }

    /// GPUs and CPUs.
    pub(super) fn points(&self) -> usize {
        self.gpus.len() + self.cpus.len()
    }

    /// The best way from one point to another.
    pub(super) fn rank(&self, from: usize, to: usize) -> Rank {
        self.ranks[from * self.points() + to]
    }

    /// The best ways from a GPU to CPUs, each with the way back.
    pub(super) fn cpu_ranks(&self, gpu: usize) -> impl Iterator<Item = (Rank, Rank)> {
        let cpus = self.gpus.len()..self.points();
        let ways = cpus.map(move |cpu| (self.rank(gpu, cpu), self.rank(cpu, gpu)));
        ways.filter(|&(out, _)| out > Rank::None)
    }

    /// GPUs are in one hive if XGMI joins them, both ways, over any number of GPUs, or if the
    /// driver gave them the same hive.
    fn find_hives(&self) -> Vec<usize> {
        let count = self.gpus.len();
        let joined = |a: usize, b: usize| {
            let id = self.gpus[a].properties.hive_id;
            let xgmi = self.rank(a, b) == Rank::Xgmi && self.rank(b, a) == Rank::Xgmi;
            xgmi || id != 0 && id == self.gpus[b].properties.hive_id
        };
        let mut hives: Vec<usize> = (0..count).collect();
        for first in 0..count {
            if hives[first] != first {
                continue;
            }
            let mut waiting = vec![first];
            while let Some(gpu) = waiting.pop() {
                for (other, hive) in hives.iter_mut().enumerate().skip(first + 1) {
                    if *hive == other && joined(gpu, other) {
                        *hive = first;
                        waiting.push(other);
                    }
                }
            }
        }
        hives
    }

    /// Members of each hive of two GPUs and more.
    pub(super) fn hive_members(&self) -> Vec<Vec<usize>> {
        let mut hives: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (gpu, &hive) in self.hives.iter().enumerate() {
            hives.entry(hive).or_default().push(gpu);
        }
        hives.into_values().filter(|members| members.len() > 1).collect()
    }
}

/// Whether a node has a link that counts to another.
fn leads(from: &Raw, to: u32) -> bool {
    from.links.iter().any(|link| link.node_to == to && Rank::of(link.link_type) > Rank::None)
}

#[cfg(test)]
mod tests {
    use super::{Rank, Side};
    use crate::topology::{HostGpuId, Link, LinkType, Node, NodeProperties, Topology};

    fn link(link_type: LinkType, node_from: u32, node_to: u32) -> Link {
        Link { link_type, node_from, node_to, ..Link::default() }
    }

    fn gpu(index: u32, hive_id: u64, io_links: Vec<Link>, p2p_links: Vec<Link>) -> Node {
        let properties = NodeProperties { hive_id, ..NodeProperties::default() };
        let gpu_id = Some(HostGpuId(100 + index));
        Node { index, gpu_id, properties, io_links, p2p_links, ..Node::default() }
    }

    fn cpu(index: u32, io_links: Vec<Link>, p2p_links: Vec<Link>) -> Node {
        Node { index, io_links, p2p_links, ..Node::default() }
    }

    #[test]
    fn hives_come_of_links_both_ways_and_of_ids() {
        let xgmi = |from, to| link(LinkType::XGMI, from, to);
        let nodes = vec![
            gpu(0, 0, vec![xgmi(0, 1)], vec![]),
            gpu(1, 0, vec![xgmi(1, 0), xgmi(1, 2)], vec![]),
            gpu(2, 0, vec![xgmi(2, 1), xgmi(2, 3), xgmi(2, 9)], vec![]),
            gpu(3, 5, vec![], vec![]),
            gpu(4, 0, vec![link(LinkType::PCI_EXPRESS, 4, 0)], vec![]),
            gpu(5, 5, vec![], vec![]),
        ];
        let side = Side::host(&Topology { nodes, ..Topology::default() });
        // 2 to 3 leads one way only; 9 is hidden.
        assert_eq!(side.hives, [0, 0, 0, 3, 4, 3]);
        assert_eq!(side.hive_members(), [vec![0, 1, 2], vec![3, 5]]);
    }

    #[test]
    fn links_through_cpus_count_between_gpus_only() {
        let pcie = |from, to| link(LinkType::PCI_EXPRESS, from, to);
        let nodes = vec![
            cpu(0, vec![link(LinkType::HYPER_TRANSPORT, 0, 1), pcie(0, 2)], vec![pcie(0, 3)]),
            cpu(1, vec![link(LinkType::HYPER_TRANSPORT, 1, 0)], vec![pcie(1, 2)]),
            gpu(2, 0, vec![pcie(2, 0), link(LinkType(4), 2, 3)], vec![pcie(2, 1), pcie(2, 3)]),
            gpu(3, 0, vec![link(LinkType::XGMI, 3, 0), pcie(3, 0)], vec![]),
            cpu(4, vec![], vec![]),
        ];
        let side = Side::host(&Topology { nodes, ..Topology::default() });
        // CPU 1 is behind CPU 0, CPU 4 has no links.
        assert_eq!(side.cpus, [0]);
        let ranks = |from| (0..3).map(move |to| (from, to)).collect::<Vec<_>>();
        let ranks = |from| ranks(from).iter().map(|&(a, b)| side.rank(a, b)).collect::<Vec<_>>();
        assert_eq!(ranks(0), [Rank::None, Rank::PciExpress, Rank::PciExpress]);
        assert_eq!(ranks(1), [Rank::None, Rank::None, Rank::Xgmi]);
        assert_eq!(ranks(2), [Rank::PciExpress, Rank::None, Rank::None]);
        assert_eq!(side.cpu_ranks(1).collect::<Vec<_>>(), [(Rank::Xgmi, Rank::None)]);
    }
}
