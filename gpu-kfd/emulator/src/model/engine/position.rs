//! How far an engine is in a stream of packets: all that must be kept to go on after an eviction.

/// Packets in a buffer that the stream points to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nested {
    pub(crate) va: u64,
    pub(crate) len_bytes: u64,
    /// How much of it is carried out, in bytes.
    pub(crate) at: u64,
}

/// A place in a stream. The packet there may be carried out in part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// In the stream's own unit: bytes for SDMA, packets for AQL. Never wraps.
    pub(crate) read: u64,
    /// How much of the packet is done: bytes that it moved, or looks at a value that it waits for.
    pub(crate) done: u64,
    /// The engine is in this buffer, and comes back to the stream after it.
    pub(crate) nested: Option<Nested>,
}
