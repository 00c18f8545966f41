//! The commands of a copy: pure.

use crate::uapi::sdma::{COPY_WORDS, NOP, Packet, TRANSFER_BYTES_MAX};

/// Commands fill whole units of this many words, with no-ops at the end (SDMA v4 to v6).
pub(super) const UNIT_WORDS: usize = 8;

/// The most bytes that the commands of a copy of so many bytes take.
pub(super) fn command_bytes_max(len_bytes: usize) -> usize {
    let packets = (len_bytes as u64).div_ceil(TRANSFER_BYTES_MAX) as usize;
    (packets * COPY_WORDS).next_multiple_of(UNIT_WORDS) * 4
}

/// Copies bytes between two GPU addresses.
pub(super) fn copy_commands(source: u64, destination: u64, len_bytes: usize) -> Vec<u32> {
    let mut words = Vec::with_capacity(command_bytes_max(len_bytes) / 4);
    let mut done = 0;
    while done < len_bytes as u64 {
        let bytes = TRANSFER_BYTES_MAX.min(len_bytes as u64 - done);
        let (source, destination) = (source + done, destination + done);
        Packet::CopyLinear { source, destination, bytes }.encode(&mut words);
        done += bytes;
    }
    words.resize(words.len().next_multiple_of(UNIT_WORDS), NOP);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the commands copy: source, destination, length, in order.
    fn copies(mut words: &[u32]) -> Vec<(u64, u64, u64)> {
        let mut copies = Vec::new();
        while !words.is_empty() {
            let (packet, length) = Packet::decode(words).unwrap();
            match packet {
                Packet::CopyLinear { source, destination, bytes } => {
                    copies.push((source, destination, bytes));
                }
                other => assert_eq!(other, Packet::Nop { skipped: 0 }),
            }
            words = &words[length..];
        }
        copies
    }

    #[test]
    fn the_packets_of_a_copy_cover_every_byte_once_and_in_order() {
        let limit = TRANSFER_BYTES_MAX as usize;
        for len in [1, 4095, limit - 1, limit, limit + 1, 3 * limit, 9 * limit + 17] {
            let words = copy_commands(0x1_0000_0000, 0x9_0000_0000, len);
            assert_eq!(words.len() % UNIT_WORDS, 0);
            assert!(words.len() * 4 <= command_bytes_max(len));
            let mut done = 0;
            for (source, destination, bytes) in copies(&words) {
                assert_eq!((source, destination), (0x1_0000_0000 + done, 0x9_0000_0000 + done));
                assert!(bytes <= TRANSFER_BYTES_MAX);
                done += bytes;
            }
            assert_eq!(done, len as u64);
        }
    }
}
