//! The rules that compare one saved GPU with one of this host.

use super::rules::{Comparison, Rule, Rules};
use super::saved::GpuProperties;
use super::side::{Rank, Side};

/// What a rule compares; `None` for rules about what is between GPUs.
pub(super) fn value(rule: Rule, of: &GpuProperties) -> Option<u64> {
    let value = match rule {
        Rule::VendorId => of.vendor_id,
        Rule::DeviceId => of.device_id,
        Rule::SimdCount => of.simd_count,
        Rule::ArrayCount => of.array_count,
        Rule::SimdArraysPerEngine => of.simd_arrays_per_engine,
        Rule::CuPerSimdArray => of.cu_per_simd_array,
        Rule::SimdPerCu => of.simd_per_cu,
        Rule::MaxWavesPerSimd => of.max_waves_per_simd,
        Rule::WaveFrontSize => of.wave_front_size,
        Rule::LdsSize => of.lds_size_in_kb,
        Rule::MaxSlotsScratchCu => of.max_slots_scratch_cu,
        Rule::MemBanksCount => of.mem_banks_count,
        Rule::NumSdmaEngines => of.num_sdma_engines,
        Rule::NumSdmaXgmiEngines => of.num_sdma_xgmi_engines,
        Rule::NumSdmaQueuesPerEngine => of.num_sdma_queues_per_engine,
        Rule::NumCpQueues => of.num_cp_queues,
        Rule::VramPublic => u32::from(of.vram_public),
        Rule::Capability => of.capability,
        Rule::VramSize => return Some(of.vram_size),
        Rule::NumGws => of.num_gws,
        Rule::CachesCount => of.caches_count,
        Rule::IoLinksCount => of.io_links_count,
        Rule::FwVersion => of.fw_version,
        Rule::SdmaFwVersion => of.sdma_fw_version,
        Rule::Links | Rule::Hive | Rule::Numa => return None,
    };
    Some(value.into())
}

/// A value as people write it.
pub(super) fn shown(rule: Rule, value: u64) -> String {
    const MIB: u64 = 1 << 20;
    match rule {
        Rule::VendorId | Rule::DeviceId => format!("{value:#06x}"),
        Rule::Capability => format!("{value:#010x}"),
        Rule::VramPublic => if value == 0 { "no" } else { "yes" }.to_owned(),
        Rule::VramSize if value.is_multiple_of(MIB) => format!("{} MiB", value / MIB),
        Rule::VramSize => format!("{value} bytes"),
        Rule::LdsSize => format!("{value} KiB"),
        _ => value.to_string(),
    }
}

/// Whether a pairwise rule holds for a pair of properties.
pub(super) fn holds(rule: Rule, saved: &GpuProperties, here: &GpuProperties) -> bool {
    let (saved, here) = (value(rule, saved), value(rule, here));
    match rule.comparison() {
        Comparison::AtLeast => saved <= here,
        _ => saved == here,
    }
}

/// A saved way from a GPU to a CPU for which the other GPU has none that is not worse, whatever CPU
/// it leads to.
pub(super) fn worse_cpu_link(
    saved: &Side,
    here: &Side,
    gpu: usize,
    other: usize,
) -> Option<(Rank, Rank)> {
    saved.cpu_ranks(gpu).find(|(out, back)| {
        !here
            .cpu_ranks(other)
            .any(|(other_out, other_back)| other_out >= *out && other_back >= *back)
    })
}

/// Whether a saved GPU may become one of this host, as far as the two alone can tell.
pub(super) fn fits(saved: &Side, here: &Side, rules: Rules, gpu: usize, other: usize) -> bool {
    let (mine, its) = (&saved.gpus[gpu].properties, &here.gpus[other].properties);
    let mut pairwise = Rule::ALL.iter().filter(|rule| rule.is_pairwise() && rules.has(**rule));
    pairwise.all(|&rule| holds(rule, mine, its))
        && (!rules.has(Rule::Links) || worse_cpu_link(saved, here, gpu, other).is_none())
}

/// A way to something and back, as people write it.
pub(super) fn shown_way(to: &str, (out, back): (Rank, Rank)) -> String {
    match (out, back) {
        (Rank::None, Rank::None) => format!("none to {to}"),
        (out, Rank::None) => format!("{} to {to}, none back", out.name()),
        (out, back) if out == back => format!("{} to {to}", out.name()),
        (out, back) => format!("{} to {to}, {} back", out.name(), back.name()),
    }
}
