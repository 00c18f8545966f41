//! Packets of compute queues in the Architected Queuing Language, and the signals that they name.
//!
//! Layouts of the HSA runtime specification 1.2 (`hsa.h`) and of AMD's extension
//! (`amd_hsa_signal.h`, `hsa_ext_amd.h`). A packet has [`PACKET_BYTES`]; its first two bytes are
//! written last, because a packet of type `INVALID` stops the engine.

/// Size of every packet.
pub const PACKET_BYTES: usize = 64;

define_layouts! {
    /// Starts a kernel on a grid.
    struct KernelDispatch = "", 64 {
        /// See [`Header`].
        [0] header: u16,
        /// Number of dimensions in bits 0 and 1.
        [2] setup: u16,
        [4] workgroup_size: [u16; 3],
        [10] _pad0: u16,
        [12] grid_size: [u32; 3],
        /// In bytes, for each work item.
        [24] private_segment_size: u32,
        /// In bytes, for each group.
        [28] group_segment_size: u32,
        [32] kernel_object: u64,
        [40] kernarg_address: u64,
        [48] _pad1: u64,
        /// Address of a [`Signal`], or 0.
        [56] completion_signal: u64,
    }

    /// Asks an agent for something.
    struct AgentDispatch = "", 64 {
        /// See [`Header`].
        [0] header: u16,
        [2] kind: u16,
        [4] _pad0: u32,
        [8] return_address: u64,
        [16] arguments: [u64; 4],
        [48] _pad1: u64,
        /// Address of a [`Signal`], or 0.
        [56] completion_signal: u64,
    }

    /// Waits until all (or one) of five signals are 0.
    struct Barrier = "", 64 {
        /// See [`Header`]: `BARRIER_AND` or `BARRIER_OR`.
        [0] header: u16,
        [2] _pad0: u16,
        [4] _pad1: u32,
        /// Addresses of [`Signal`]s, or 0.
        [8] dep_signals: [u64; 5],
        [48] _pad2: u64,
        /// Address of a [`Signal`], or 0.
        [56] completion_signal: u64,
    }

    /// AMD's packet that waits for a value; type `VENDOR_SPECIFIC`.
    struct BarrierValue = "", 64 {
        /// See [`Header`].
        [0] header: u16,
        /// [`FORMAT_BARRIER_VALUE`].
        [2] format: u8,
        [3] _pad0: u8,
        [4] _pad1: u32,
        /// Address of a [`Signal`].
        [8] signal: u64,
        [16] value: i64,
        [24] mask: i64,
        /// 0 equal, 1 not equal, 2 less, 3 at least.
        [32] condition: u32,
        [36] _pad2: u32,
        [40] _pad3: [u64; 2],
        /// Address of a [`Signal`], or 0.
        [56] completion_signal: u64,
    }

    /// A signal in memory that host and GPU share.
    struct Signal = "", 64 {
        /// 0 invalid, 1 a value, -1 a doorbell of 32 bits, -2 one of 64.
        [0] kind: i64,
        /// Value, or address of the doorbell.
        [8] value: i64,
        /// Where to write `event_id` when the value changes: a slot of the page of events; or 0.
        [16] event_mailbox_ptr: u64,
        [24] event_id: u32,
        [28] _pad0: u32,
        /// In GPU clock ticks.
        [32] start_ts: u64,
        /// In GPU clock ticks.
        [40] end_ts: u64,
        [48] queue_ptr: u64,
        [56] _pad1: u64,
    }
}

/// Vendor packet format: a barrier on a value.
pub const FORMAT_BARRIER_VALUE: u8 = 2;

/// Vendor packet format: commands in PM4.
pub const FORMAT_PM4_INDIRECT: u8 = 1;

/// Types of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PacketType {
    /// What it is stands in the third byte.
    VendorSpecific = 0,
    /// Not written yet.
    Invalid = 1,
    /// [`KernelDispatch`].
    KernelDispatch = 2,
    /// [`Barrier`] on all signals.
    BarrierAnd = 3,
    /// [`AgentDispatch`].
    AgentDispatch = 4,
    /// [`Barrier`] on one signal.
    BarrierOr = 5,
}

/// The first two bytes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bits 0 to 7.
    pub kind: PacketType,
    /// Bit 8: starts when all packets before it are done.
    pub barrier: bool,
    /// Bits 9 and 10: 0 none, 1 agent, 2 system.
    pub acquire_scope: u8,
    /// Bits 11 and 12, likewise.
    pub release_scope: u8,
}

impl Header {
    /// As it stands in a packet.
    #[must_use]
    pub const fn bits(self) -> u16 {
        self.kind as u16
            | (self.barrier as u16) << 8
            | (self.acquire_scope as u16 & 3) << 9
            | (self.release_scope as u16 & 3) << 11
    }

    /// Of a packet's first two bytes; `None` for a type that does not exist.
    #[must_use]
    pub const fn of(bits: u16) -> Option<Self> {
        let kind = match bits & 0xff {
            0 => PacketType::VendorSpecific,
            1 => PacketType::Invalid,
            2 => PacketType::KernelDispatch,
            3 => PacketType::BarrierAnd,
            4 => PacketType::AgentDispatch,
            5 => PacketType::BarrierOr,
            _ => return None,
        };
        Some(Self {
            kind,
            barrier: bits >> 8 & 1 != 0,
            acquire_scope: (bits >> 9 & 3) as u8,
            release_scope: (bits >> 11 & 3) as u8,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_header_comes_back_from_its_bits() {
        for bits in 0..1 << 13 {
            if let Some(header) = Header::of(bits) {
                assert_eq!(header.bits(), bits, "{header:?}");
            }
        }
        assert_eq!(Header::of(6), None);
    }
}
