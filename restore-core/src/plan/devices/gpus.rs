//! Which GPU of this host each GPU of each process becomes.
//!
//! Processes know GPUs by the ids of the host on which they were started, so two processes of a
//! tree may know one GPU by two ids. What they have in common is the minor number of the render
//! node at the dump: the match is made once, for the machine of the dump, and each process's ids
//! are led back to it by minors.

use std::collections::{BTreeMap, BTreeSet};

use criu_image::record::KfdDeviceEntry;
use criu_image::{Checkpoint, FileId};
use gpu_kfd::{
    GpuId, GpuProperties, HostGpuId, LinkType, SavedCpu, SavedGpu, SavedLink, SavedTopology,
    Topology, UserMap, match_gpus,
};

use super::super::{Options, PlanError};
use crate::host::Host;
use crate::refusal::{Refusal, RefusalKind};

/// A GPU of this host that stands for a saved one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) here: HostGpuId,
    /// Minor number of its render node here.
    pub(crate) minor: u32,
}

/// The match of all GPUs.
#[derive(Debug, Default)]
pub(crate) struct GpuPlan {
    /// By minor number at the dump: id on the machine of the dump, and the GPU here.
    by_minor: BTreeMap<u32, (GpuId, Place)>,
    /// Minor at the dump, by file of the KFD and the id that its process knows.
    known: BTreeMap<(FileId, u32), u32>,
    /// GPUs of this host that no saved one became.
    pub(crate) spare: Vec<Place>,
    pub(crate) assumptions: Vec<String>,
}

impl GpuPlan {
    pub(super) fn new(
        checkpoint: &Checkpoint,
        host: &Host,
        options: &Options,
        refusals: &mut Vec<Refusal>,
    ) -> Result<Self, PlanError> {
        let mut plan = Self::default();
        for (&file, kfd) in &checkpoint.gpu.kfds {
            for device in kfd.entry.device_entries.iter().filter(|device| device.gpu_id != 0) {
                plan.known.insert((file, device.gpu_id), device.drm_render_minor);
            }
        }
        let Some(topology) = &host.gpus else {
            return Err(PlanError::NoGpus);
        };
        let machine = machine(checkpoint, refusals);
        let Some(machine) = machine else {
            plan.by_minors(checkpoint, topology, refusals);
            return Ok(plan);
        };
        let saved = match saved_topology(machine) {
            Ok(saved) => saved,
            Err(error) => {
                let (kind, what) = (RefusalKind::GpuUndescribed, error.to_string());
                refusals.push(Refusal::of_tree(kind, what, "GPUs of the dump"));
                return Ok(plan);
            }
        };
        let map = plan.translated(&options.gpu_map, machine);
        let found =
            match_gpus(&saved, topology, options.gpu_rules, &map).map_err(PlanError::Gpus)?;
        for device in machine.iter().filter(|device| device.gpu_id != 0) {
            let id = GpuId(device.gpu_id);
            let Some(place) = found.host_of(id).and_then(|here| place(topology, here)) else {
                let what = format!("GPU {id} without a GPU here");
                let kind = RefusalKind::GpuAbsent;
                refusals.push(Refusal::of_tree(kind, what, "GPUs of the dump"));
                continue;
            };
            plan.by_minor.insert(device.drm_render_minor, (id, place));
        }
        plan.keep_spare(topology);
        Ok(plan)
    }

    /// There is no topology: render nodes only, dumped by somebody else. Minors are all there is.
    fn by_minors(
        &mut self,
        checkpoint: &Checkpoint,
        topology: &Topology,
        refusals: &mut Vec<Refusal>,
    ) {
        for node in checkpoint.gpu.renders.values() {
            let minor = node.drm_render_minor;
            let here =
                topology.gpus().find(|(_, found)| found.properties.drm_render_minor == minor);
            match here {
                Some((id, _)) => {
                    let place = Place { here: id, minor };
                    self.by_minor.insert(minor, (GpuId(node.gpu_id), place));
                    let text = format!(
                        "renderD{minor} is the same GPU as at the dump: no image describes it"
                    );
                    if !self.assumptions.contains(&text) {
                        self.assumptions.push(text);
                    }
                }
                None => refusals.push(Refusal::of_tree(
                    RefusalKind::GpuAbsent,
                    format!("render node renderD{minor}, which this host has not"),
                    format!("amdgpu-renderD-{}.img", node.id),
                )),
            }
        }
        self.keep_spare(topology);
    }

    fn keep_spare(&mut self, topology: &Topology) {
        let taken: BTreeSet<HostGpuId> =
            self.by_minor.values().map(|(_, place)| place.here).collect();
        let all = topology.gpus().map(|(here, node)| {
            let minor = node.properties.drm_render_minor;
            Place { here, minor }
        });
        self.spare = all.filter(|place| !taken.contains(&place.here)).collect();
    }

    /// The user may name a GPU by the id that a process knows.
    fn translated(&self, map: &UserMap, machine: &[KfdDeviceEntry]) -> UserMap {
        let id_of = |id: GpuId| {
            if machine.iter().any(|device| device.gpu_id == id.0) {
                return id;
            }
            let known = self.known.iter().find(|((_, known), _)| *known == id.0);
            let device = known.and_then(|(_, &minor)| {
                machine.iter().find(|device| device.gpu_id != 0 && device.drm_render_minor == minor)
            });
            device.map_or(id, |device| GpuId(device.gpu_id))
        };
        let pairs = map.pairs().map(|(saved, here)| format!("{}={}", id_of(saved).0, here.0));
        let text = pairs.collect::<Vec<_>>().join(",");
        // Two ids of one GPU would be a contradiction of the user's own; the map as it was says so.
        if text.is_empty() { map.clone() } else { text.parse().unwrap_or_else(|_| map.clone()) }
    }

    /// What a GPU that a process knows by this id has become.
    pub(super) fn of_kfd(&self, file: FileId, user: u32) -> Option<Place> {
        let minor = self.known.get(&(file, user))?;
        self.of_minor(*minor).map(|(_, place)| place)
    }

    /// What the GPU with this render node at the dump has become, and its id on that machine.
    pub(super) fn of_minor(&self, minor: u32) -> Option<(GpuId, Place)> {
        self.by_minor.get(&minor).copied()
    }

    /// Minor number at the dump of a GPU that a process knows by this id.
    pub(super) fn minor_of(&self, file: FileId, user: u32) -> Option<u32> {
        self.known.get(&(file, user)).copied()
    }

    /// All pairs.
    pub(super) fn pairs(&self) -> Vec<(GpuId, HostGpuId)> {
        self.by_minor.values().map(|(id, place)| (*id, place.here)).collect()
    }
}

fn place(topology: &Topology, here: HostGpuId) -> Option<Place> {
    let minor = topology.gpu(here)?.properties.drm_render_minor;
    Some(Place { here, minor })
}

/// Devices of the machine of the dump: from our own image, or from the first process; the others
/// must not contradict it.
fn machine<'a>(
    checkpoint: &'a Checkpoint,
    refusals: &mut Vec<Refusal>,
) -> Option<&'a [KfdDeviceEntry]> {
    let gpu = &checkpoint.gpu;
    let stated = gpu.state.as_ref().map(|state| state.devices.as_slice());
    let mut kfds = gpu.kfds.iter().filter(|(_, kfd)| kfd.entry.num_of_gpus > 0);
    let machine = stated.filter(|devices| !devices.is_empty());
    let machine = machine.or_else(|| Some(kfds.next()?.1.entry.device_entries.as_slice()))?;
    let what_is = |device: &KfdDeviceEntry| {
        (device.drm_render_minor, device.vendor_id, device.device_id, device.vram_size)
    };
    let here: BTreeSet<_> = machine.iter().filter(|d| d.gpu_id != 0).map(what_is).collect();
    for (file, kfd) in &gpu.kfds {
        for device in kfd.entry.device_entries.iter().filter(|device| device.gpu_id != 0) {
            if !here.contains(&what_is(device)) {
                let what = format!("GPU {:#x} that no other image knows", device.gpu_id);
                let place = format!("amdgpu-kfd-{}.img", file.0);
                refusals.push(Refusal::new(
                    RefusalKind::GpuUndescribed,
                    what,
                    place,
                    kfd.entry.pid,
                ));
            }
        }
    }
    Some(machine)
}

fn saved_topology(
    devices: &[KfdDeviceEntry],
) -> Result<SavedTopology, gpu_kfd::SavedTopologyError> {
    let links = |device: &KfdDeviceEntry| {
        let link = |link: &criu_image::record::DevIolink| SavedLink {
            link_type: LinkType(link.r#type),
            node_to: link.node_to_id,
        };
        device.iolinks.iter().map(link).collect()
    };
    // Upstream writes the last node first; the match prefers to keep the order of nodes.
    let mut devices: Vec<&KfdDeviceEntry> = devices.iter().collect();
    devices.sort_by_key(|device| device.node_id);
    let gpus = devices.iter().filter(|device| device.gpu_id != 0).map(|device| SavedGpu {
        id: GpuId(device.gpu_id),
        node: device.node_id,
        properties: properties(device),
        links: links(device),
    });
    let cpus = devices
        .iter()
        .filter(|device| device.gpu_id == 0)
        .map(|device| SavedCpu { node: device.node_id, links: links(device) });
    SavedTopology::new(gpus.collect(), cpus.collect())
}

fn properties(device: &KfdDeviceEntry) -> GpuProperties {
    GpuProperties {
        simd_count: device.simd_count,
        mem_banks_count: device.mem_banks_count,
        caches_count: device.caches_count,
        io_links_count: device.io_links_count,
        max_waves_per_simd: device.max_waves_per_simd,
        lds_size_in_kb: device.lds_size_in_kb,
        num_gws: device.num_gws,
        wave_front_size: device.wave_front_size,
        array_count: device.array_count,
        simd_arrays_per_engine: device.simd_arrays_per_engine,
        cu_per_simd_array: device.cu_per_simd_array,
        simd_per_cu: device.simd_per_cu,
        max_slots_scratch_cu: device.max_slots_scratch_cu,
        vendor_id: device.vendor_id,
        device_id: device.device_id,
        hive_id: device.hive_id,
        num_sdma_engines: device.num_sdma_engines,
        num_sdma_xgmi_engines: device.num_sdma_xgmi_engines,
        num_sdma_queues_per_engine: device.num_sdma_queues_per_engine,
        num_cp_queues: device.num_cp_queues,
        fw_version: device.fw_version,
        capability: device.capability,
        sdma_fw_version: device.sdma_fw_version,
        vram_public: device.vram_public != 0,
        vram_size: device.vram_size,
    }
}
