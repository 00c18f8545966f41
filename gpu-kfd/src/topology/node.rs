//! One node: a CPU, a GPU or both, and what its properties say together.

use std::fmt;

use super::link::{HeapType, LinkType};
use super::properties::{Cache, Link, MemoryBank, NodeProperties};

/// Identifier of a GPU on this host, as the driver makes it from PCI address, device and memory
/// size: a hash of 16 bits (`kfd_generate_gpu_id` in amdkfd `kfd_topology.c`), never 0. It is
/// another one when the card moves to another slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostGpuId(pub u32);

impl fmt::Display for HostGpuId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#06x}", self.0)
    }
}

/// One node. [`Default`] is a CPU without properties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Number of the node, which links name.
    pub index: u32,
    /// Which GPU it is; `None` for a CPU.
    pub gpu_id: Option<HostGpuId>,
    /// Name of the chip, in lower case; empty for a CPU, `ip discovery` for newer chips.
    pub name: String,
    /// What kind of processor it is.
    pub properties: NodeProperties,
    /// Its memory.
    pub memory_banks: Vec<MemoryBank>,
    /// Its caches. The driver lists those of GPUs only.
    pub caches: Vec<Cache>,
    /// Direct links to other nodes, hidden ones included.
    pub io_links: Vec<Link>,
    /// Links through a CPU: to CPUs of other sockets, and to GPUs whose memory can be reached
    /// by PCIe.
    pub p2p_links: Vec<Link>,
}

impl Node {
    /// The bank of VRAM. The driver makes one, of all the memory; if there are more it is the
    /// first. `None` for a CPU and for an APU without memory of its own.
    #[must_use]
    pub fn vram(&self) -> Option<&MemoryBank> {
        self.memory_banks.iter().find(|bank| bank.heap_type.is_vram())
    }

    /// Whether a CPU can map all of its VRAM (a "large BAR").
    #[must_use]
    pub fn is_vram_public(&self) -> bool {
        self.vram().is_some_and(|bank| bank.heap_type == HeapType::FRAME_BUFFER_PUBLIC)
    }

    /// Where its device sits on the PCI bus; `None` for a CPU.
    #[must_use]
    pub fn pci_address(&self) -> Option<PciAddress> {
        let NodeProperties { domain, location_id, .. } = self.properties;
        self.gpu_id.map(|_| PciAddress { domain, location_id })
    }

    /// The instruction set, such as `gfx90a`; `None` for a CPU and for kernels that do not tell.
    #[must_use]
    pub fn isa(&self) -> Option<Isa> {
        Some(Isa(self.properties.gfx_target_version)).filter(|isa| isa.0 != 0)
    }

    /// Direct links of one kind.
    pub fn links_of(&self, link_type: LinkType) -> impl Iterator<Item = &Link> {
        self.io_links.iter().filter(move |link| link.link_type == link_type)
    }
}

/// A PCI address, shown as `0000:c1:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// Domain.
    pub domain: u32,
    /// Bus << 8 | device << 3 | function. The driver adds the number of the partition of a GPU
    /// that is partitioned, so that its partitions look like functions.
    pub location_id: u32,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (domain, at) = (self.domain, self.location_id);
        let (bus, device, function) = (at >> 8 & 0xff, at >> 3 & 0x1f, at & 7);
        write!(formatter, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

/// An instruction set, as `gfx_target_version` gives it, shown as LLVM names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isa(pub u32);

impl fmt::Display for Isa {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, step) = (self.0 / 10_000, self.0 / 100 % 100, self.0 % 100);
        write!(formatter, "gfx{major}{minor:x}{step:x}")
    }
}

#[cfg(test)]
mod tests {
    use super::{Isa, PciAddress};

    #[test]
    fn isa_has_hexadecimal_steps() {
        let names = [90_010, 90_402, 110_501, 100_300].map(|version| Isa(version).to_string());
        assert_eq!(names, ["gfx90a", "gfx942", "gfx1151", "gfx1030"]);
    }

    #[test]
    fn pci_address_is_shown_as_lspci_does() {
        assert_eq!(PciAddress { domain: 0, location_id: 0x050b }.to_string(), "0000:05:01.3");
        assert_eq!(PciAddress { domain: 1, location_id: 0x7500 }.to_string(), "0001:75:00.0");
    }
}
