//! One step of an engine: what it may cost, and how it ends.

use crate::model::vm::Fault;

use super::port::CHUNK_BYTES;

/// What a packet costs at least, in bytes: bounds the packets of a call by the same budget.
pub(super) const PACKET_COST_BYTES: u64 = 64;

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// So many bytes were moved; the packet may not be over.
    Moved(u64),
    /// The packet is over, and so many bytes were moved.
    Packet(u64),
    /// The packet is over, interrupts the host with this number, and so many bytes were moved.
    Interrupt(u32, u64),
    /// The packet waits for something in memory.
    Waits,
    /// There is no packet.
    Idle,
}

/// Why an engine cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It touched an address where nothing is mapped.
    Fault(Fault),
    /// No engine knows such a packet.
    Packet,
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// How many of `left` bytes a step may move when `budget` is left: whole words, not more than the
/// buffer holds, and something in any case.
pub(super) fn part(left: u64, budget: u64) -> u64 {
    left.min(budget.clamp(PACKET_COST_BYTES, CHUNK_BYTES) & !3)
}
