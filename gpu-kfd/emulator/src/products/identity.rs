//! Ids that a machine gives its GPUs: KFD gpu ids, serial numbers, hive ids.
//!
//! Gpu ids are computed as the driver does it, so that a captured machine's ids come out. Serial
//! numbers and hive ids are burnt into real boards; here they follow from the seed.

use super::chip::Chip;
use super::topology::PciAddress;

/// The driver's hash for a GPU: CRC-16 (polynomial 0x8005, reflected, initial value 0) of place,
/// board, device, memory and partition (kfd_topology.c, `kfd_generate_gpu_id`). 0 to 0xffff; the
/// caller makes it unique and not 0.
///
/// `partition` is the index of the first XCC, `xccs` how many there are.
fn gpu_hash(pci: PciAddress, chip: &Chip, vram_bytes: u64, partition: u32, xccs: u32) -> u32 {
    let board =
        u32::from(chip.pci.subsystem_vendor_id) | u32::from(chip.pci.subsystem_device_id) << 16;
    let words = [
        u32::from(pci.device) << 3 | u32::from(pci.function),
        board,
        u32::from(pci.domain),
        u32::from(chip.pci.device_id),
        u32::from(pci.bus),
        vram_bytes as u32,
        (vram_bytes >> 32) as u32,
        partition | xccs << 16,
    ];
    let mut crc = 0u16;
    for byte in words.into_iter().flat_map(u32::to_le_bytes) {
        crc ^= u16::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xa001 } else { crc >> 1 };
        }
    }
    u32::from(crc)
}

/// The id that the driver gives a whole GPU when those of `taken` are already there: the hash, or
/// the next number after it that is free and not 0.
pub(super) fn gpu_id(pci: PciAddress, chip: &Chip, vram_bytes: u64, taken: &[u32]) -> u32 {
    let mut id = gpu_hash(pci, chip, vram_bytes, 0, chip.shader.xccs);
    loop {
        id = id.max(1);
        if !taken.contains(&id) {
            return id;
        }
        id = (id + 1) & 0xffff;
    }
}

/// A well-mixed number for each pair of seed and purpose (SplitMix64's finaliser); never 0.
pub(super) fn mixed(seed: u64, purpose: u64) -> u64 {
    let mut bits = seed
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(purpose.wrapping_mul(0xbf58_476d_1ce4_e5b9));
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits ^ bits >> 31).max(1)
}

#[cfg(test)]
mod tests {
    use super::{gpu_hash, gpu_id, mixed};
    use crate::products::Product;
    use crate::products::chip::{Chip, PciIdentity};
    use crate::products::topology::PciAddress;

    const fn at(domain: u16, bus: u8) -> PciAddress {
        PciAddress { domain, bus, device: 0, function: 0 }
    }

    /// An MI308X: the captured machine that shows gpu ids.
    fn mi308x() -> Chip {
        let whole = Product::by_name("gfx942").expect("a product").chip;
        let pci = PciIdentity { device_id: 0x74a2, subsystem_device_id: 0x74a2, ..whole.pci };
        Chip { pci, ..*whole }
    }

    #[test]
    fn gpu_ids_are_those_of_a_captured_machine() {
        // Partitions of one XCC each: domain, bus, number of the partition, VRAM, gpu id.
        let captured = [
            (0, 0x0a, 0, 51_539_607_552, 24248),
            (0, 0x0a, 1, 51_539_607_552, 41657),
            (0, 0x0a, 2, 51_539_607_552, 59065),
            (0, 0x0a, 3, 51_522_830_336, 2236),
            (0, 0x80, 0, 51_539_607_552, 22879),
            (1, 0xc9, 3, 51_522_830_336, 15601),
        ];
        for (domain, bus, partition, vram_bytes, expected) in captured {
            let hash = gpu_hash(at(domain, bus), &mi308x(), vram_bytes, partition, 1);
            assert_eq!(hash, expected, "bus {domain}:{bus:#x}, partition {partition}");
        }
    }

    #[test]
    fn taken_id_is_counted_up_past_zero() {
        let chip = mi308x();
        let id = gpu_id(at(0, 0x0a), &chip, 1 << 30, &[]);
        assert_eq!(gpu_id(at(0, 0x0a), &chip, 1 << 30, &[id, id + 1]), id + 2);
        let all_above: Vec<u32> = (id..=0xffff).collect();
        assert_eq!(gpu_id(at(0, 0x0a), &chip, 1 << 30, &all_above), 1);
    }

    #[test]
    fn mixed_numbers_differ_by_seed_and_purpose() {
        let numbers: std::collections::BTreeSet<u64> =
            (0..64).flat_map(|seed| (0..64).map(move |purpose| mixed(seed, purpose))).collect();
        assert_eq!(numbers.len(), 64 * 64);
        assert!(!numbers.contains(&0));
    }
}
