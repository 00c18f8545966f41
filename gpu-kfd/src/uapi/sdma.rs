//! Packets of the SDMA engine, version 4 (gfx9: Vega 10 to MI300), both ways.
//!
//! Our own copies are encoded with [`Packet::encode`]; an emulated engine reads rings with
//! [`Packet::decode`]. Only packets that runtimes put into user queues are here. The layouts are
//! those of `vega10_sdma_pkt_open.h` in amdgpu. Words are 32 bits, little-endian; addresses are GPU
//! virtual addresses; sizes and counts in the packets are one less than what they mean.

/// Most bytes that one linear copy or fill moves on every engine of version 4: the count has 22
/// bits. That of version 4.4 (gfx90a, gfx942) has 30, and packets are decoded with 30.
///
/// The kernel's own buffer moves use the same limit on all of them (`sdma_v4_0.c` and
/// `sdma_v4_4_2.c`, `copy_max_bytes`).
pub const TRANSFER_BYTES_MAX: u64 = 1 << 22;

const COUNT_MASK: u32 = 0x3fff_ffff;

/// Most data words of one write packet: the count has 20 bits.
pub const WRITE_WORDS_MAX: usize = 1 << 20;

/// Words of a linear copy.
pub const COPY_WORDS: usize = 7;

/// Flag of a copy to two places, which is not known here.
const BROADCAST: u32 = 1 << 27;

/// A no-op of one word, to fill an indirect buffer up.
pub const NOP: u32 = 0;

mod op {
    pub(super) const NOP: u32 = 0;
    pub(super) const COPY: u32 = 1;
    pub(super) const WRITE: u32 = 2;
    pub(super) const INDIRECT: u32 = 4;
    pub(super) const FENCE: u32 = 5;
    pub(super) const TRAP: u32 = 6;
    pub(super) const POLL_REGMEM: u32 = 8;
    pub(super) const COND_EXE: u32 = 9;
    pub(super) const ATOMIC: u32 = 10;
    pub(super) const CONST_FILL: u32 = 11;
    pub(super) const TIMESTAMP: u32 = 13;
    pub(super) const SRBM_WRITE: u32 = 14;
}

/// One packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Packet {
    /// Nothing, and `skipped` words after it that the engine does not look at (up to 16383).
    Nop {
        /// Words after the header.
        skipped: u32,
    },
    /// Copies bytes that lie in a row.
    CopyLinear {
        /// From where.
        source: u64,
        /// To where.
        destination: u64,
        /// How many, 1 to [`TRANSFER_BYTES_MAX`] (decoded: to 2^30).
        bytes: u64,
    },
    /// Writes the words that follow.
    Write {
        /// To where; a multiple of 4.
        destination: u64,
        /// What, 1 to [`WRITE_WORDS_MAX`] words.
        words: Vec<u32>,
    },
    /// Fills memory with one value again and again.
    Fill {
        /// From where.
        destination: u64,
        /// The value.
        value: u32,
        /// How much of the value is used.
        unit: FillUnit,
        /// How many bytes, 1 to [`TRANSFER_BYTES_MAX`] (decoded: to 2^30).
        bytes: u64,
    },
    /// Writes a word when all before it is done.
    Fence {
        /// To where; a multiple of 4.
        address: u64,
        /// What.
        value: u32,
    },
    /// Interrupts the host; the driver looks for signalled events.
    Trap {
        /// 28 bits for the driver, such as an event's id.
        context: u32,
    },
    /// Goes on in another buffer, then comes back.
    Indirect {
        /// Where the packets are; a multiple of 32.
        address: u64,
        /// How many words.
        words: u32,
    },
    /// Waits until a value in memory satisfies a comparison.
    PollMemory {
        /// Where; a multiple of 4.
        address: u64,
        /// How `value & mask` must be to `reference`.
        condition: Condition,
        /// The other side.
        reference: u32,
        /// Bits that count.
        mask: u32,
        /// Pause between two looks, in engine clocks (16 bits).
        interval: u32,
        /// How often to look; 0xfff for ever.
        retries: u32,
    },
    /// Flushes the path from host to device memory, and waits until it is done.
    FlushHost {
        /// Bits that say done.
        mask: u32,
        /// Their value.
        reference: u32,
    },
    /// Skips words if a word in memory is not the reference.
    Conditional {
        /// Where; a multiple of 4.
        address: u64,
        /// What lets the words be executed.
        reference: u32,
        /// How many words (14 bits).
        words: u32,
    },
    /// Changes memory in one step.
    Atomic {
        /// Which change: see [`atomic`].
        operation: u32,
        /// Where; a multiple of 4 or 8.
        address: u64,
        /// Operand.
        source: u64,
        /// What to compare with.
        compare: u64,
        /// Repeats until the comparison holds.
        repeats: bool,
    },
    /// Writes the GPU's clock, 64 bits.
    Timestamp {
        /// To where; a multiple of 8.
        address: u64,
    },
    /// Writes a register.
    WriteRegister {
        /// Register offset in words (18 bits).
        register: u32,
        /// What.
        value: u32,
        /// Which bytes of it (4 bits).
        byte_mask: u32,
    },
}

/// How much of a fill's value is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillUnit {
    /// The lowest byte.
    Byte,
    /// The lowest two bytes.
    Half,
    /// All four; the low two bits of the count are ignored.
    Word,
}

impl FillUnit {
    /// Size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Byte => 1,
            Self::Half => 2,
            Self::Word => 4,
        }
    }
}

/// Comparisons of [`Packet::PollMemory`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Holds at once.
    Always,
    /// Less than the reference.
    Less,
    /// At most the reference.
    LessOrEqual,
    /// The reference itself.
    Equal,
    /// Anything but the reference.
    NotEqual,
    /// At least the reference.
    GreaterOrEqual,
    /// More than the reference.
    Greater,
}

impl Condition {
    const ALL: [Self; 7] = [
        Self::Always,
        Self::Less,
        Self::LessOrEqual,
        Self::Equal,
        Self::NotEqual,
        Self::GreaterOrEqual,
        Self::Greater,
    ];

    /// Whether it holds; `masked` is the value after the mask.
    #[must_use]
    pub const fn holds(self, masked: u32, reference: u32) -> bool {
        match self {
            Self::Always => true,
            Self::Less => masked < reference,
            Self::LessOrEqual => masked <= reference,
            Self::Equal => masked == reference,
            Self::NotEqual => masked != reference,
            Self::GreaterOrEqual => masked >= reference,
            Self::Greater => masked > reference,
        }
    }
}

/// Numbers of atomic operations (the texture cache's `TC_OP_ATOMIC_*_RTN`) that runtimes use.
pub mod atomic {
    /// Stores, 32 bits.
    pub const SWAP_32: u32 = 0x07;
    /// Compares and stores, 32 bits.
    pub const COMPARE_SWAP_32: u32 = 0x08;
    /// Adds, 32 bits.
    pub const ADD_32: u32 = 0x0f;
    /// Subtracts, 32 bits.
    pub const SUBTRACT_32: u32 = 0x10;
    /// Stores, 64 bits.
    pub const SWAP_64: u32 = 0x27;
    /// Compares and stores, 64 bits.
    pub const COMPARE_SWAP_64: u32 = 0x28;
    /// Adds, 64 bits.
    pub const ADD_64: u32 = 0x2f;
    /// Subtracts, 64 bits.
    pub const SUBTRACT_64: u32 = 0x30;
}

/// Why words are no packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No packet that is known here.
    #[error("SDMA packet {header:#010x} has unknown operation {operation}.{sub_operation}")]
    Unknown {
        /// First word.
        header: u32,
        /// Bits 0 to 7.
        operation: u32,
        /// Bits 8 to 15.
        sub_operation: u32,
    },
    /// The packet is longer than what is there.
    #[error(
        "SDMA packet with header {header:#010x} has {needed} words, but only {available} are there"
    )]
    Short {
        /// First word.
        header: u32,
        /// Words that the packet has.
        needed: usize,
        /// Words that are there.
        available: usize,
    },
}

const fn low(address: u64) -> u32 {
    address as u32
}

const fn high(address: u64) -> u32 {
    (address >> 32) as u32
}

const fn join(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

impl Packet {
    /// Appends the packet's words.
    ///
    /// # Panics
    ///
    /// If a number has more bits than its field; all limits stand at the fields.
    pub fn encode(&self, into: &mut Vec<u32>) {
        match *self {
            Self::Nop { skipped } => {
                assert!(skipped < 1 << 14);
                into.push(op::NOP | skipped << 16);
                into.extend(std::iter::repeat_n(NOP, skipped as usize));
            }
            Self::CopyLinear { source, destination, bytes } => {
                let count = transfer_count(bytes);
                let (from, to) =
                    ([low(source), high(source)], [low(destination), high(destination)]);
                into.extend([op::COPY, count, 0, from[0], from[1], to[0], to[1]]);
            }
            Self::Write { destination, ref words } => {
                assert!((1..=WRITE_WORDS_MAX).contains(&words.len()));
                let count = words.len() as u32 - 1;
                into.extend([op::WRITE, low(destination), high(destination), count]);
                into.extend(words);
            }
            Self::Fill { destination, value, unit, bytes } => {
                let header = op::CONST_FILL | (unit as u32) << 30;
                let count = transfer_count(bytes);
                into.extend([header, low(destination), high(destination), value, count]);
            }
            Self::Fence { address, value } => {
                into.extend([op::FENCE, low(address), high(address), value]);
            }
            Self::Trap { context } => {
                assert!(context < 1 << 28);
                into.extend([op::TRAP, context]);
            }
            Self::Indirect { address, words } => {
                assert!(words < 1 << 20 && address.is_multiple_of(32));
                into.extend([op::INDIRECT, low(address), high(address), words, 0, 0]);
            }
            Self::PollMemory { .. } | Self::FlushHost { .. } => self.encode_poll(into),
            Self::Conditional { address, reference, words } => {
                assert!(words < 1 << 14);
                into.extend([op::COND_EXE, low(address), high(address), reference, words]);
            }
            Self::Atomic { operation, address, source, compare, repeats } => {
                assert!(operation < 1 << 7);
                let header = op::ATOMIC | u32::from(repeats) << 16 | operation << 25;
                into.extend([header, low(address), high(address), low(source), high(source)]);
                into.extend([low(compare), high(compare), 0]);
            }
            Self::Timestamp { address } => {
                into.extend([op::TIMESTAMP | 2 << 8, low(address), high(address)]);
            }
            Self::WriteRegister { register, value, byte_mask } => {
                assert!(register < 1 << 18 && byte_mask < 1 << 4);
                into.extend([op::SRBM_WRITE | byte_mask << 28, register, value]);
            }
        }
    }

    fn encode_poll(&self, into: &mut Vec<u32>) {
        match *self {
            Self::PollMemory { address, condition, reference, mask, interval, retries } => {
                assert!(interval < 1 << 16 && retries < 1 << 12);
                let header = op::POLL_REGMEM | (condition as u32) << 28 | 1 << 31;
                into.extend([header, low(address), high(address), reference, mask]);
                into.push(interval | retries << 16);
            }
            Self::FlushHost { mask, reference } => {
                let header = op::POLL_REGMEM | 1 << 26 | (Condition::Equal as u32) << 28;
                into.extend([header, 0, 0, reference, mask, 10 | 0xfff << 16]);
            }
            _ => unreachable!("only polls are given here"),
        }
    }

    /// How many words the packet at the start of `words` has; four are enough to tell.
    ///
    /// # Errors
    ///
    /// An unknown operation, or too few words to tell.
    pub fn length(words: &[u32]) -> Result<usize, DecodeError> {
        match words.first() {
            Some(&header) => length_of(header, words),
            None => Err(DecodeError::Short { header: 0, needed: 1, available: 0 }),
        }
    }

    /// Takes the packet at the start of `words`, and says how many words it has.
    ///
    /// # Errors
    ///
    /// An unknown operation, or fewer words than the packet has.
    pub fn decode(words: &[u32]) -> Result<(Self, usize), DecodeError> {
        let length = Self::length(words)?;
        let header = words[0];
        let Some(body) = words.get(1..length) else {
            return Err(DecodeError::Short { header, needed: length, available: words.len() });
        };
        Ok((Self::decode_body(header, body)?, length))
    }

    /// `body` has the length that [`length_of`] gives for the header.
    fn decode_body(header: u32, body: &[u32]) -> Result<Self, DecodeError> {
        let address = |at: usize| join(body[at], body[at + 1]);
        Ok(match header & 0xff {
            op::NOP => Self::Nop { skipped: body.len() as u32 },
            op::COPY => Self::CopyLinear {
                bytes: u64::from(body[0] & COUNT_MASK) + 1,
                source: address(2),
                destination: address(4),
            },
            op::WRITE => Self::Write { destination: address(0), words: body[3..].to_vec() },
            op::CONST_FILL => {
                let unit = match header >> 30 {
                    0 => FillUnit::Byte,
                    1 => FillUnit::Half,
                    2 => FillUnit::Word,
                    _ => return Err(unknown(header)),
                };
                let last = u64::from(body[3] & COUNT_MASK);
                let bytes = (last & !(unit.bytes() - 1)) + unit.bytes();
                Self::Fill { destination: address(0), value: body[2], unit, bytes }
            }
            op::FENCE => Self::Fence { address: address(0), value: body[2] },
            op::TRAP => Self::Trap { context: body[0] & 0x0fff_ffff },
            op::INDIRECT => Self::Indirect { address: address(0), words: body[2] & 0xf_ffff },
            op::POLL_REGMEM => return Self::decode_poll(header, body),
            op::COND_EXE => Self::Conditional {
                address: address(0),
                reference: body[2],
                words: body[3] & 0x3fff,
            },
            op::ATOMIC => Self::Atomic {
                operation: header >> 25,
                repeats: header >> 16 & 1 != 0,
                address: address(0),
                source: address(2),
                compare: address(4),
            },
            op::TIMESTAMP => Self::Timestamp { address: address(0) },
            op::SRBM_WRITE => Self::WriteRegister {
                register: body[0] & 0x3_ffff,
                value: body[1],
                byte_mask: header >> 28,
            },
            _ => return Err(unknown(header)),
        })
    }

    fn decode_poll(header: u32, body: &[u32]) -> Result<Self, DecodeError> {
        let polls_memory = header >> 31 != 0;
        let flushes = header >> 26 & 1 != 0;
        let condition = Condition::ALL.get((header >> 28 & 7) as usize);
        match (condition, polls_memory, flushes) {
            (_, false, true) => Ok(Self::FlushHost { reference: body[2], mask: body[3] }),
            (Some(&condition), true, _) => Ok(Self::PollMemory {
                address: join(body[0], body[1]),
                condition,
                reference: body[2],
                mask: body[3],
                interval: body[4] & 0xffff,
                retries: body[4] >> 16 & 0xfff,
            }),
            _ => Err(unknown(header)),
        }
    }
}

fn transfer_count(bytes: u64) -> u32 {
    assert!((1..=TRANSFER_BYTES_MAX).contains(&bytes), "{bytes} bytes in one packet");
    bytes as u32 - 1
}

fn unknown(header: u32) -> DecodeError {
    DecodeError::Unknown { header, operation: header & 0xff, sub_operation: header >> 8 & 0xff }
}

/// Words of a packet, the header included. A write says its own length in its fourth word.
fn length_of(header: u32, words: &[u32]) -> Result<usize, DecodeError> {
    Ok(match (header & 0xff, header >> 8 & 0xff) {
        (op::NOP, _) => 1 + (header >> 16 & 0x3fff) as usize,
        (op::COPY, 0) if header & BROADCAST == 0 => COPY_WORDS,
        (op::WRITE, 0) => match words.get(3) {
            Some(count) => 5 + (count & 0xf_ffff) as usize,
            None => return Err(DecodeError::Short { header, needed: 5, available: words.len() }),
        },
        (op::INDIRECT | op::POLL_REGMEM, 0) => 6,
        (op::FENCE, _) => 4,
        (op::TRAP, _) => 2,
        (op::COND_EXE | op::CONST_FILL, 0) => 5,
        (op::ATOMIC, _) => 8,
        (op::TIMESTAMP, 1 | 2) | (op::SRBM_WRITE, 0) => 3,
        _ => return Err(unknown(header)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Packet> {
        let (source, destination) = (0x7f12_3456_7000, 0x7f00_0000_1000);
        let unit = FillUnit::Word;
        vec![
            Packet::Nop { skipped: 0 },
            Packet::Nop { skipped: 3 },
            Packet::CopyLinear { source, destination, bytes: TRANSFER_BYTES_MAX },
            Packet::CopyLinear { source, destination, bytes: 1 },
            Packet::Write { destination, words: vec![1, 2, 3] },
            Packet::Fill { destination, value: 0xdead_beef, unit, bytes: 4096 },
            Packet::Fill { destination, value: 7, unit: FillUnit::Byte, bytes: 3 },
            Packet::Fence { address: destination, value: 42 },
            Packet::Trap { context: 0xfff_ffff },
            Packet::Indirect { address: destination, words: 64 },
            Packet::PollMemory {
                address: destination,
                condition: Condition::Equal,
                reference: 1,
                mask: 0xff,
                interval: 4,
                retries: 0xfff,
            },
            Packet::FlushHost { mask: 0x400, reference: 0x400 },
            Packet::Conditional { address: destination, reference: 1, words: 5 },
            Packet::Atomic {
                operation: atomic::ADD_64,
                address: destination,
                source: u64::MAX,
                compare: 9,
                repeats: false,
            },
            Packet::Timestamp { address: destination },
            Packet::WriteRegister { register: 0x1234, value: 1, byte_mask: 0xf },
        ]
    }

    #[test]
    fn every_packet_comes_back_from_its_words() {
        for packet in examples() {
            let mut words = Vec::new();
            packet.encode(&mut words);
            let length = words.len();
            words.push(0xffff_ffff); // what follows is not looked at
            assert_eq!(Packet::decode(&words), Ok((packet, length)));
        }
    }

    #[test]
    fn a_cut_packet_is_refused_at_every_length() {
        for packet in examples() {
            let mut words = Vec::new();
            packet.encode(&mut words);
            for length in 0..words.len() {
                let cut = Packet::decode(&words[..length]);
                assert!(matches!(cut, Err(DecodeError::Short { .. })), "{packet:?} {length}");
            }
        }
    }

    #[test]
    fn the_words_of_a_copy_and_a_fence_are_those_of_the_engine() {
        let mut words = Vec::new();
        let (source, destination) = (0x1_0000_2000, 0x2_0000_3000);
        Packet::CopyLinear { source, destination, bytes: 0x1000 }.encode(&mut words);
        Packet::Fence { address: destination, value: 5 }.encode(&mut words);
        let copy = [0x0000_0001, 0xfff, 0, 0x2000, 1, 0x3000, 2];
        let fence = [0x0000_0005, 0x3000, 2, 5];
        assert_eq!(words, [&copy[..], &fence[..]].concat());
    }

    #[test]
    fn a_fill_by_words_ignores_the_low_bits_of_its_count() {
        for count in [0xffc, 0xfff] {
            let words = [0x8000_000b, 0, 0, 7, count];
            let Ok((Packet::Fill { bytes, .. }, 5)) = Packet::decode(&words) else {
                panic!("{words:x?}");
            };
            assert_eq!(bytes, 0x1000);
        }
    }

    #[test]
    fn no_header_panics() {
        for operation in 0..0x100_u32 {
            for rest in [0, 1, 2, 0x100, 0xff, 0xff_ffff] {
                let _ = Packet::decode(&[operation | rest << 8; 8]);
            }
        }
        for header in [0x0301, 0x0800_0001] {
            assert_eq!(Packet::decode(&[header; 9]), Err(unknown(header)));
        }
    }
}
