//! Whether every device mapping of the tree shows a buffer that is saved.
//!
//! A restore leads a mapping to its buffer by device and offset. One that shows anything else (the
//! event page of an APU, a buffer whose last handle has gone) would show somebody else's memory.

use std::collections::BTreeMap;

use gpu_kfd::DeviceKind;

use super::super::facts::Facts;
use crate::refusal::{Refusal, RefusalKind};

/// A device as a process has it: its pid, and `None` for the KFD, else the minor number.
type Device = (i32, Option<u32>);

/// Ranges of offsets that are buffers of what a process has open, by device.
#[derive(Debug, Default)]
pub(super) struct Shown {
    ranges: BTreeMap<(Device, u64), u64>,
}

impl Shown {
    /// Notes a buffer.
    pub(super) fn add(&mut self, device: Device, offset_bytes: u64, size_bytes: u64) {
        let end = offset_bytes.saturating_add(size_bytes);
        let known = self.ranges.entry((device, offset_bytes)).or_default();
        *known = end.max(*known);
    }

    /// The first offset of a range that no buffer has.
    fn hole(&self, device: Device, (start, end): (u64, u64)) -> Option<u64> {
        let mut at = start;
        while at < end {
            let before = self.ranges.range((device, 0)..=(device, at)).next_back();
            match before {
                Some((_, &range_end)) if range_end > at => at = range_end,
                _ => return Some(at),
            }
        }
        None
    }

    /// Every mapping of these processes that shows something else.
    pub(super) fn refuse(&self, facts: &[Facts]) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        for facts in facts {
            for (at, vma) in facts.vmas.iter().enumerate() {
                let minor = match facts.device_at(at) {
                    Some(DeviceKind::Kfd) => None,
                    Some(DeviceKind::Render { minor }) => Some(minor),
                    // Of a dma-buf: the file table has refused it.
                    Some(DeviceKind::DmaBuf) | None => continue,
                };
                let range = (vma.offset_bytes, vma.offset_bytes + vma.len_bytes());
                let Some(hole) = self.hole((facts.pid, minor), range) else { continue };
                let name = String::from_utf8_lossy(&vma.name);
                let what = format!("device mapping of what is no buffer (offset {hole:#x})");
                let place = format!("mapping {:#x}-{:#x} {name}", vma.start, vma.end);
                refusals.push(Refusal::new(RefusalKind::GpuMapping, what, place, facts.pid as u32));
            }
        }
        refusals
    }
}

#[cfg(test)]
mod tests {
    use super::Shown;

    fn check(minor: Option<u32>, range: (u64, u64), expected: Option<u64>) {
        let mut shown = Shown::default();
        shown.add((7, Some(128)), 0x1000, 0x2000);
        shown.add((7, Some(128)), 0x3000, 0x1000);
        shown.add((7, Some(129)), 0x5000, 0x1000);
        shown.add((7, None), 0x7000, 0x1000);
        assert_eq!(shown.hole((7, minor), range), expected, "{minor:?} {range:x?}");
        assert_eq!(shown.hole((8, minor), range), Some(range.0), "another process has nothing");
    }

    #[test]
    fn mapping_must_lie_in_buffers_of_its_own_device() {
        check(Some(128), (0x1000, 0x3000), None);
        check(Some(128), (0x2000, 0x4000), None);
        check(Some(128), (0x2000, 0x5000), Some(0x4000));
        check(Some(128), (0, 0x2000), Some(0));
        check(Some(129), (0x1000, 0x2000), Some(0x1000));
        check(None, (0x7000, 0x8000), None);
        check(None, (0x6fff, 0x8000), Some(0x6fff));
        check(Some(127), (0x1000, 0x2000), Some(0x1000));
    }
}
