//! Whether there is memory for what was saved: of the host, of our control groups, of each GPU.

use std::fs;
use std::path::{Path, PathBuf};

use restore_core::{GpuNeed, Survey};

use super::codes;
use super::facts::Facts;
use super::finding::{Finding, Section, Weight};
use crate::screen::size;

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Available {
    /// `MemAvailable`.
    pub(super) memory_bytes: u64,
    /// `SwapFree`.
    pub(super) swap_bytes: u64,
    /// The control group that may use the least, and how much.
    pub(super) group: Option<(PathBuf, u64)>,
    /// Most descriptors of a process.
    pub(super) descriptors: u64,
}

impl Available {
    pub(super) fn look() -> Self {
        let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.trim_end_matches(" kB").trim().parse::<u64>().ok());
            kib.unwrap_or(0) << 10
        };
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        Self {
            memory_bytes: field("MemAvailable:"),
            swap_bytes: field("SwapFree:"),
            group: group(),
            descriptors: limit.map_or(u64::MAX, |(_, hard)| hard),
        }
    }
}

/// The tightest limit from our group up. What the page cache holds can be had back.
fn group() -> Option<(PathBuf, u64)> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = Path::new("/sys/fs/cgroup");
    let own = root.join(own);
    let above = own.ancestors().take_while(|path| path.starts_with(root));
    above.filter_map(left_of).min_by_key(|(_, left)| *left)
}

fn left_of(group: &Path) -> Option<(PathBuf, u64)> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    let most: u64 = read("memory.max")?.trim().parse().ok()?;
    let used: u64 = read("memory.current")?.trim().parse().ok()?;
    let stat = read("memory.stat").unwrap_or_default();
    let cache = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok());
    let used = used.saturating_sub(cache.unwrap_or(0));
    Some((group.to_owned(), most.saturating_sub(used)))
}

/// What is said of memory.
pub(super) fn section(survey: &Survey, here: &Available) -> Section {
    let needed = survey.memory_bytes + survey.gpu_system_bytes;
    let mut findings = Vec::new();
    if needed > here.memory_bytes {
        let text = format!(
            "{} were saved, {} are available, and {} of swap",
            size(needed),
            size(here.memory_bytes),
            size(here.swap_bytes)
        );
        let fits = needed <= here.memory_bytes.saturating_add(here.swap_bytes);
        let weight = if fits { Weight::Note } else { Weight::Blocks };
        findings.push(Finding::own(codes::MEMORY, text).with_weight(weight));
    }
    if let Some((group, left)) = here.group.as_ref().filter(|(_, left)| needed > *left) {
        let text = format!(
            "{} were saved, {} may use {} more",
            size(needed),
            group.display(),
            size(*left)
        );
        findings.push(Finding::own(codes::GROUP_MEMORY, text));
    }
    let mut found = format!("{} needed, {} available", size(needed), size(here.memory_bytes));
    if survey.gpu_system_bytes > 0 {
        found.push_str(&format!(" ({} of it for GPUs)", size(survey.gpu_system_bytes)));
    }
    Section::new("memory", found, findings)
}

/// What is said of descriptors.
pub(super) fn descriptors(survey: &Survey, here: &Available) -> Section {
    let Some(highest) = survey.fd_max else {
        return Section::new("descriptors", "none", Vec::new());
    };
    let found = format!("the highest is {highest}");
    let mut findings = Vec::new();
    if u64::from(highest) >= here.descriptors {
        let text = format!("descriptor {highest} is needed, the limit is {}", here.descriptors);
        findings.push(Finding::own(codes::DESCRIPTORS, text));
    }
    Section::new("descriptors", found, findings)
}

/// What is said of each GPU that a saved one becomes.
pub(super) fn gpus(survey: &Survey, facts: &Facts) -> Vec<Section> {
    survey.gpus.iter().map(|need| gpu(need, facts)).collect()
}

fn gpu(need: &GpuNeed, facts: &Facts) -> Section {
    let GpuNeed { saved, here, vram_bytes } = *need;
    let known = facts.gpus.iter().flatten().find(|gpu| gpu.id == here.0);
    let free = known.and_then(|gpu| gpu.free_bytes);
    let model =
        known.map_or(String::new(), |gpu| format!(" ({}, renderD{})", gpu.model, gpu.minor));
    let needs = format!("{saved} becomes {here}{model}: {} needed", size(vram_bytes));
    match free {
        Some(free) => {
            let mut findings = Vec::new();
            if vram_bytes > free {
                let text = format!(
                    "GPU {here} has {} free, buffers of {saved} need {}",
                    size(free),
                    size(vram_bytes)
                );
                findings.push(Finding::own(codes::VRAM, text));
            }
            Section::new("GPU", format!("{needs}, {} free", size(free)), findings)
        }
        None => {
            let text = format!("how much of GPU {here} is free is not known");
            let finding = Finding::own(codes::GPU_MEMORY, text).with_weight(Weight::Note);
            Section::new("GPU", needs, vec![finding])
        }
    }
}

#[cfg(test)]
mod tests {
    use gpu_kfd::{GpuId, HostGpuId};
    use restore_core::{GpuNeed, Survey};

    use super::{Available, descriptors, gpus, section};
    use crate::check::facts::example;
    use crate::check::finding::Weight;

    fn survey(memory_bytes: u64, vram_bytes: u64) -> Survey {
        let gpus = vec![GpuNeed { saved: GpuId(0xa000), here: HostGpuId(0x1267), vram_bytes }];
        let mut survey = Survey::default();
        (survey.memory_bytes, survey.gpu_system_bytes) = (memory_bytes, 1 << 20);
        (survey.gpus, survey.fd_max) = (gpus, Some(9));
        survey
    }

    #[test]
    fn memory_is_enough_or_swapped_or_short() {
        let here = Available {
            memory_bytes: 4 << 30,
            swap_bytes: 2 << 30,
            group: Some(("/sys/fs/cgroup/a".into(), 8 << 30)),
            descriptors: 10,
        };
        let weight = |gib: u64, here: &Available| section(&survey(gib << 30, 0), here).weight();
        assert_eq!(weight(3, &here), None);
        assert_eq!(weight(5, &here), Some(Weight::Note));
        assert_eq!(weight(7, &here), Some(Weight::Blocks));
        let tight = Available { group: Some(("/sys/fs/cgroup/a".into(), 1 << 30)), ..here.clone() };
        let short = section(&survey(2 << 30, 0), &tight);
        assert_eq!(short.findings[0].code, "host.group-memory");
        assert_eq!(descriptors(&survey(0, 0), &here).findings, []);
        let few = Available { descriptors: 9, ..here };
        assert_eq!(descriptors(&survey(0, 0), &few).findings[0].code, "host.descriptors");
    }

    #[test]
    fn a_gpu_without_room_stands_in_the_way_and_an_unknown_one_does_not() {
        let mut facts = example::host();
        assert_eq!(gpus(&survey(0, 1 << 30), &facts)[0].weight(), None);
        let short = &gpus(&survey(0, 61 << 30), &facts)[0];
        assert_eq!((short.weight(), short.findings[0].code), (Some(Weight::Blocks), "host.vram"));
        facts.gpus = Ok(Vec::new());
        assert_eq!(gpus(&survey(0, 1), &facts)[0].weight(), Some(Weight::Note));
    }

    #[test]
    fn this_host_has_memory() {
        let here = Available::look();
        assert!(here.memory_bytes > 1 << 20 && here.descriptors > 2, "{here:?}");
    }
}
