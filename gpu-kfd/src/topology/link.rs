//! Kinds of links and of memory, as the kernel numbers them, and what the flags of a link say.
//!
//! A kind that is not known here is no error: it keeps its number.

use std::fmt;

use super::properties::Link;

/// Kind of a link (`CRAT_IOLINK_TYPE_*` in amdkfd `kfd_crat.h`, `HSA_IOLINKTYPE` in libhsakmt).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkType(pub u32);

impl LinkType {
    /// HyperTransport, between sockets.
    pub const HYPER_TRANSPORT: Self = Self(1);
    /// PCI Express.
    pub const PCI_EXPRESS: Self = Self(2);
    /// QPI, between sockets.
    pub const QPI: Self = Self(5);
    /// XGMI, AMD's link between GPUs, and between GPU and CPU on some machines.
    pub const XGMI: Self = Self(11);
}

impl fmt::Display for LinkType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::HYPER_TRANSPORT => formatter.write_str("HyperTransport"),
            Self::PCI_EXPRESS => formatter.write_str("PCIe"),
            Self::QPI => formatter.write_str("QPI"),
            Self::XGMI => formatter.write_str("XGMI"),
            Self(other) => write!(formatter, "link type {other}"),
        }
    }
}

/// Kind of a memory bank (`HSA_MEM_HEAP_TYPE_*` in the kernel's `kfd_sysfs.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeapType(pub u32);

impl HeapType {
    /// System memory.
    pub const SYSTEM: Self = Self(0);
    /// VRAM, all of which a CPU can map.
    pub const FRAME_BUFFER_PUBLIC: Self = Self(1);
    /// VRAM, of which a CPU can map a part or nothing.
    pub const FRAME_BUFFER_PRIVATE: Self = Self(2);

    /// Whether it is memory of a GPU.
    #[must_use]
    pub fn is_vram(self) -> bool {
        matches!(self, Self::FRAME_BUFFER_PUBLIC | Self::FRAME_BUFFER_PRIVATE)
    }
}

/// `CRAT_IOLINK_FLAGS_ENABLED`.
const ENABLED: u32 = 1 << 0;
/// `CRAT_IOLINK_FLAGS_NON_COHERENT`.
const NON_COHERENT: u32 = 1 << 1;
/// `CRAT_IOLINK_FLAGS_NO_ATOMICS_32_BIT`.
const NO_ATOMICS_32_BIT: u32 = 1 << 2;
/// `CRAT_IOLINK_FLAGS_NO_ATOMICS_64_BIT`.
const NO_ATOMICS_64_BIT: u32 = 1 << 3;
/// `CRAT_IOLINK_FLAGS_NO_PEER_TO_PEER_DMA`.
const NO_PEER_TO_PEER_DMA: u32 = 1 << 4;

impl Link {
    /// Whether the link can be used.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.flags & ENABLED != 0
    }

    /// Whether what goes over it is not coherent.
    #[must_use]
    pub fn is_non_coherent(&self) -> bool {
        self.flags & NON_COHERENT != 0
    }

    /// Whether atomics of 32 bits go over it.
    #[must_use]
    pub fn has_atomics_32_bit(&self) -> bool {
        self.flags & NO_ATOMICS_32_BIT == 0
    }

    /// Whether atomics of 64 bits go over it.
    #[must_use]
    pub fn has_atomics_64_bit(&self) -> bool {
        self.flags & NO_ATOMICS_64_BIT == 0
    }

    /// Whether one device can read and write the other's memory over it.
    #[must_use]
    pub fn has_peer_to_peer_dma(&self) -> bool {
        self.flags & NO_PEER_TO_PEER_DMA == 0
    }
}
