//! Shared virtual memory: ranges with attributes, recorded as the driver would keep them.
//!
//! Facts of `kfd_svm.c` (Linux 6.12). Addresses here are page numbers, as there. Engines reach the
//! memory of a range that their GPU has access to; nothing ever migrates. What the driver learns
//! from the memory map (a range ends when its memory is unmapped) cannot be seen here.

use std::collections::{BTreeMap, VecDeque};

use nix::errno::Errno;

use gpu_kfd::uapi::criu::{SvmRangePrivate, object};
use gpu_kfd::uapi::svm::{SvmAttribute, svm_attr, svm_flag, svm_location};

use super::memory::Gpu;
use super::process::ProcessDevice;
use super::vm::PAGE_BYTES;
use super::world::GpuIndex;

/// Most ranges of a process; each takes some hundred bytes.
const RANGES_MAX: usize = 1 << 16;

/// Migration size of a new range, as a power of two of pages (`amdgpu_svm_default_granularity`).
const GRANULARITY_DEFAULT: u32 = 9;
const GRANULARITY_MAX: u32 = 0x3f;

/// Attributes of a range in private data that do not belong to a GPU.
const ATTRIBUTES_OF_RANGE: usize = 4;

/// A bit for each GPU of the node.
type GpuBits = u64;

/// Attributes of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attributes {
    preferred: u32,
    prefetch: u32,
    granularity: u32,
    flags: u32,
    access: GpuBits,
    in_place: GpuBits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    last: u64,
    attributes: Attributes,
    /// Is in the page tables of a GPU.
    mapped: bool,
}

/// What of a process the attributes depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting<'a> {
    pub(crate) devices: &'a [ProcessDevice],
    /// Largest range that is made at once, in pages; a power of two.
    pub(crate) range_pages_max: u64,
    pub(crate) xnack: bool,
}

impl Setting<'_> {
    /// All GPUs of the node: every one here can share memory.
    fn supported(&self) -> GpuBits {
        self.devices.iter().fold(0, |bits, device| bits | bit(device.gpu))
    }

    fn bit_of(&self, user_gpu_id: u32) -> Option<GpuBits> {
        let device = self.devices.iter().find(|device| device.user_gpu_id == user_gpu_id)?;
        Some(bit(device.gpu))
    }

    fn defaults(&self) -> Attributes {
        Attributes {
            preferred: svm_location::UNDEFINED,
            prefetch: svm_location::UNDEFINED,
            granularity: GRANULARITY_DEFAULT,
            flags: svm_flag::HOST_ACCESS | svm_flag::COHERENT,
            access: if self.xnack { self.supported() } else { 0 },
            in_place: 0,
        }
    }

    /// Checks what shall be set.
    ///
    /// # Errors
    /// `EINVAL` for an unknown attribute or GPU.
    pub(crate) fn check(&self, wanted: &[SvmAttribute]) -> Result<(), Errno> {
        for attribute in wanted {
            let value = attribute.value;
            let no_gpu = match attribute.kind {
                svm_attr::PREFERRED_LOC => {
                    [svm_location::SYSMEM, svm_location::UNDEFINED].contains(&value)
                }
                svm_attr::PREFETCH_LOC => value == svm_location::SYSMEM,
                svm_attr::ACCESS | svm_attr::ACCESS_IN_PLACE | svm_attr::NO_ACCESS => false,
                svm_attr::SET_FLAGS | svm_attr::CLR_FLAGS | svm_attr::GRANULARITY => true,
                _ => return Err(Errno::EINVAL),
            };
            if !no_gpu && self.bit_of(value).is_none() {
                return Err(Errno::EINVAL);
            }
        }
        Ok(())
    }
}

fn bit(gpu: GpuIndex) -> GpuBits {
    1 << (gpu.0 % 64)
}

/// Largest range that the driver makes at once: a 32nd of the smallest GPU's memory, between 2 MiB
/// and 1 GiB, a power of two (`svm_range_set_max_pages`).
pub(crate) fn range_pages_max(gpus: &[Gpu]) -> u64 {
    let pages = gpus.iter().map(|gpu| (gpu.config.vram_bytes >> 17).clamp(1 << 9, 1 << 18));
    let smallest = pages.min().unwrap_or(1 << 9);
    1 << smallest.ilog2()
}

impl Attributes {
    fn apply(&mut self, setting: &Setting<'_>, wanted: &[SvmAttribute]) {
        for attribute in wanted {
            let value = attribute.value;
            let gpu = setting.bit_of(value).unwrap_or(0);
            match attribute.kind {
                svm_attr::PREFERRED_LOC => self.preferred = value,
                svm_attr::PREFETCH_LOC => self.prefetch = value,
                svm_attr::ACCESS => {
                    self.access |= gpu;
                    self.in_place &= !gpu;
                }
                svm_attr::ACCESS_IN_PLACE => {
                    self.access &= !gpu;
                    self.in_place |= gpu;
                }
                svm_attr::NO_ACCESS => {
                    self.access &= !gpu;
                    self.in_place &= !gpu;
                }
                svm_attr::SET_FLAGS => self.flags |= value,
                svm_attr::CLR_FLAGS => self.flags &= !value,
                svm_attr::GRANULARITY => self.granularity = value.min(GRANULARITY_MAX),
                _ => {}
            }
        }
    }

    /// Whether setting changes nothing. A prefetch always counts as a change.
    fn are(&self, setting: &Setting<'_>, wanted: &[SvmAttribute]) -> bool {
        let mut after = *self;
        after.apply(setting, wanted);
        after == *self && wanted.iter().all(|wanted| wanted.kind != svm_attr::PREFETCH_LOC)
    }

    /// Whether the driver puts such a range into page tables at once.
    fn map_at_once(&self, xnack: bool) -> bool {
        let always = self.flags & svm_flag::GPU_ALWAYS_MAPPED != 0;
        self.in_place != 0 || self.access != 0 && (!xnack || always)
    }
}

/// A range in private data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RangeRecord {
    pub(crate) head: SvmRangePrivate,
    /// As many as [`Ranges::attributes_saved`] says.
    pub(crate) attributes: Vec<SvmAttribute>,
}

/// The ranges of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranges {
    /// By first page.
    table: BTreeMap<u64, Range>,
    /// Records of a restore that are not applied before the process is resumed.
    waiting: VecDeque<RangeRecord>,
}

impl Ranges {
    /// Whether any range touches these addresses (in bytes).
    pub(crate) fn overlaps(&self, start: u64, len_bytes: u64) -> bool {
        let last = start.saturating_add(len_bytes.saturating_sub(1)) / PAGE_BYTES;
        self.touching(start / PAGE_BYTES, last).next().is_some()
    }

    /// Whether a GPU may reach an address (in bytes) by way of a range.
    pub(crate) fn reaches(&self, gpu: GpuIndex, address: u64) -> bool {
        let page = address / PAGE_BYTES;
        let mut found = self.touching(page, page);
        found.next().is_some_and(|(_, range)| {
            (range.attributes.access | range.attributes.in_place) & bit(gpu) != 0
        })
    }

    fn touching(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, &Range)> {
        let before = self.table.range(..first).next_back();
        let before = before.filter(|(_, range)| range.last >= first);
        let inside = self.table.range(first..=last.max(first));
        before.into_iter().chain(inside).map(|(first, range)| (*first, range))
    }

    /// Sets attributes of pages `first` to `last`: ranges there are cut where only a part changes,
    /// gaps get new ranges.
    ///
    /// # Errors
    /// `ENOMEM` if there would be too many ranges; nothing has changed then.
    pub(crate) fn set(
        &mut self,
        setting: &Setting<'_>,
        first: u64,
        last: u64,
        wanted: &[SvmAttribute],
    ) -> Result<(), Errno> {
        let found: Vec<(u64, Range)> =
            self.touching(first, last).map(|(start, range)| (start, *range)).collect();
        let pieces = (last - first) / setting.range_pages_max + 2 * found.len() as u64 + 2;
        if self.table.len() as u64 + pieces > RANGES_MAX as u64 {
            return Err(Errno::ENOMEM);
        }
        let mut at = first;
        for (start, range) in found {
            if start > at {
                self.add(setting, at, start - 1, wanted);
            }
            at = range.last.saturating_add(1);
            if !(range.mapped && range.attributes.are(setting, wanted)) {
                self.change(setting, (start, range), (first, last), wanted);
            }
        }
        if at <= last {
            self.add(setting, at, last, wanted);
        }
        Ok(())
    }

    /// Changes the part of a range that lies between two pages.
    fn change(
        &mut self,
        setting: &Setting<'_>,
        (start, range): (u64, Range),
        (first, last): (u64, u64),
        wanted: &[SvmAttribute],
    ) {
        if start < first {
            self.table.insert(start, Range { last: first - 1, ..range });
        }
        if range.last > last {
            self.table.insert(last + 1, range);
        }
        let mut attributes = range.attributes;
        attributes.apply(setting, wanted);
        let mapped = range.mapped || attributes.map_at_once(setting.xnack);
        let part = Range { last: range.last.min(last), attributes, mapped };
        self.table.insert(start.max(first), part);
    }

    /// Makes ranges in a gap, none across a border of the largest size.
    fn add(&mut self, setting: &Setting<'_>, first: u64, last: u64, wanted: &[SvmAttribute]) {
        let mut attributes = setting.defaults();
        attributes.apply(setting, wanted);
        let mapped = attributes.map_at_once(setting.xnack);
        let size = setting.range_pages_max;
        let mut at = first;
        while at <= last {
            let end = last.min((at / size + 1) * size - 1);
            self.table.insert(at, Range { last: end, attributes, mapped });
            at = end + 1;
        }
    }

    /// Answers what attributes pages `first` to `last` have: of locations the common one, of GPUs
    /// the least access, of flags those that all or none have, the smallest granularity.
    ///
    /// # Errors
    /// `EINVAL` for an attribute that cannot be asked for, or an unknown GPU.
    pub(crate) fn get(
        &self,
        setting: &Setting<'_>,
        first: u64,
        last: u64,
        asked: &mut [SvmAttribute],
    ) -> Result<(), Errno> {
        let can_be_asked = [
            svm_attr::PREFERRED_LOC,
            svm_attr::PREFETCH_LOC,
            svm_attr::ACCESS,
            svm_attr::SET_FLAGS,
            svm_attr::CLR_FLAGS,
            svm_attr::GRANULARITY,
        ];
        if !asked.iter().all(|asked| can_be_asked.contains(&asked.kind)) {
            return Err(Errno::EINVAL);
        }
        let found: Vec<Attributes> =
            self.touching(first, last).map(|(_, range)| range.attributes).collect();
        let found = if found.is_empty() { vec![setting.defaults()] } else { found };
        for attribute in asked {
            match attribute.kind {
                svm_attr::PREFERRED_LOC => attribute.value = common(&found, |one| one.preferred),
                svm_attr::PREFETCH_LOC => attribute.value = common(&found, |one| one.prefetch),
                svm_attr::SET_FLAGS => {
                    attribute.value = found.iter().fold(u32::MAX, |all, one| all & one.flags);
                }
                svm_attr::CLR_FLAGS => {
                    attribute.value = !found.iter().fold(0, |any, one| any | one.flags);
                }
                svm_attr::GRANULARITY => {
                    let smallest = found.iter().map(|one| one.granularity).min();
                    attribute.value = smallest.unwrap_or(GRANULARITY_DEFAULT);
                }
                _ => {
                    let gpu = setting.bit_of(attribute.value).ok_or(Errno::EINVAL)?;
                    let all = |which: fn(&Attributes) -> GpuBits| {
                        found.iter().all(|one| which(one) & gpu != 0)
                    };
                    attribute.kind = if all(|one| one.access) {
                        svm_attr::ACCESS
                    } else if all(|one| one.in_place) {
                        svm_attr::ACCESS_IN_PLACE
                    } else {
                        svm_attr::NO_ACCESS
                    };
                }
            }
        }
        Ok(())
    }

    /// Attributes of one range in private data, on a node of so many GPUs.
    pub(crate) fn attributes_saved(gpus: usize) -> usize {
        ATTRIBUTES_OF_RANGE + gpus
    }

    /// What `CRIU_OP` keeps of them, in ascending order of addresses. The driver writes page
    /// numbers where the layout says addresses.
    pub(crate) fn checkpoint(&self, setting: &Setting<'_>) -> Vec<RangeRecord> {
        let record =
            |(first, range): (&u64, &Range)| {
                let head = SvmRangePrivate {
                    object_type: object::SVM_RANGE,
                    start_addr: *first,
                    size: range.last - first + 1,
                    ..Default::default()
                };
                let of_range = [
                    svm_attr::PREFERRED_LOC,
                    svm_attr::PREFETCH_LOC,
                    svm_attr::SET_FLAGS,
                    svm_attr::GRANULARITY,
                ];
                let mut attributes: Vec<SvmAttribute> =
                    of_range.iter().map(|kind| SvmAttribute { kind: *kind, value: 0 }).collect();
                attributes.extend(setting.devices.iter().map(|device| SvmAttribute {
                    kind: svm_attr::ACCESS,
                    value: device.user_gpu_id,
                }));
                self.get(setting, *first, range.last, &mut attributes)
                    .expect("only known attributes and GPUs are asked for");
                RangeRecord { head, attributes }
            };
        self.table.iter().map(record).collect()
    }

    /// Keeps a record until the process is resumed.
    ///
    /// # Errors
    /// `ENOMEM` if there are too many.
    pub(crate) fn restore(&mut self, record: RangeRecord) -> Result<(), Errno> {
        if self.waiting.len() >= RANGES_MAX {
            return Err(Errno::ENOMEM);
        }
        self.waiting.push_back(record);
        Ok(())
    }

    /// The next record that waits for the process to be resumed.
    pub(crate) fn next_waiting(&mut self) -> Option<RangeRecord> {
        self.waiting.pop_front()
    }
}

/// What all have, or that it is not defined.
fn common(found: &[Attributes], which: impl Fn(&Attributes) -> u32) -> u32 {
    let mut all = found.iter().map(which);
    let first = all.next().unwrap_or(svm_location::UNDEFINED);
    if all.all(|other| other == first) { first } else { svm_location::UNDEFINED }
}

impl RangeRecord {
    /// What is set when the process is resumed: a prefetch that is not defined is left out, and all
    /// flags that are not saved are cleared (`kfd_criu_resume_svm`).
    pub(crate) fn to_set(&self) -> Vec<SvmAttribute> {
        let mut last_first = self.attributes.iter().rev();
        let flags = last_first.find(|one| one.kind == svm_attr::SET_FLAGS);
        let flags = flags.map_or(u32::MAX, |one| one.value);
        let undefined = |one: &SvmAttribute| {
            one.kind == svm_attr::PREFETCH_LOC && one.value == svm_location::UNDEFINED
        };
        let mut set = self.attributes.clone();
        set.retain(|one| !undefined(one));
        set.push(SvmAttribute { kind: svm_attr::CLR_FLAGS, value: !flags });
        set
    }
}
