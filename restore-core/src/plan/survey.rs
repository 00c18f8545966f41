//! Everything about a restore on a host at once: all that stands against it, and what it would
//! take.
//!
//! Where [`RestorePlan::new`](super::RestorePlan::new) ends with the first kind of finding, this
//! goes on, and leaves out only what follows from a finding. Pure, but for the comparison of the
//! vdso.

use std::collections::BTreeMap;

use criu_image::Checkpoint;
use gpu_kfd::{GpuId, HostGpuId};

use super::devices::{DevicePlan, DevicesPlan, GemSource, Work};
use super::{
    HostMismatch, MemoryPlan, Options, PROCESSES_MAX, PlanError, Role, TreeError, check_vdso,
    devices, hole, memory, place, refuse, tree,
};
use crate::contract::{Outline, Scheduler};
use crate::engine::{RestoreError, vdso_difference};
use crate::files;
use crate::host::Host;
use crate::remote::region::{SlotSize, region_bytes};

/// What a restore of a checkpoint on a host comes to.
#[derive(Debug, Default)]
pub struct Survey {
    /// What stands against it.
    pub findings: Vec<PlanError>,
    /// Every id that a task of the tree takes.
    pub ids: BTreeMap<i32, IdUse>,
    /// What each saved GPU becomes; empty if there is no match.
    pub gpus: Vec<GpuNeed>,
    /// Private and shared memory that was saved, in bytes. What relatives share is counted with
    /// each.
    pub memory_bytes: u64,
    /// Buffers of GPUs in system memory, in bytes.
    pub gpu_system_bytes: u64,
    /// Highest descriptor of any process.
    pub fd_max: Option<u32>,
    /// What had to be taken for granted.
    pub assumptions: Vec<String>,
    /// By pid; of processes with a vdso.
    memories: Vec<(i32, MemoryPlan)>,
}

/// What an id is needed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdUse {
    /// A process.
    Process,
    /// A thread of this process.
    Thread(i32),
    /// A session or process group whose leader has gone.
    Leader,
}

/// A GPU of this host that stands for a saved one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuNeed {
    /// As the machine of the dump knew it.
    pub saved: GpuId,
    /// As this one does.
    pub here: HostGpuId,
    /// Its own memory that buffers need, in bytes.
    pub vram_bytes: u64,
}

impl Survey {
    /// Looks at everything that a plan is made of.
    #[must_use]
    pub fn of(checkpoint: &Checkpoint, host: &Host, options: &Options) -> Self {
        let mut survey = Self::default();
        let mut refusals = refuse::collect(checkpoint, options);
        let members = survey.tree(checkpoint, options);
        let planned = devices::plan(checkpoint, host, options, &mut refusals);
        let devices = planned.map_err(|error| survey.findings.push(error)).ok();
        if let Err(list) = files::plan(checkpoint, &files::needs(checkpoint)) {
            refusals.extend(list);
        }
        let map = devices.as_ref().map(|devices| &devices.map);
        for process in &checkpoint.processes {
            let Some(body) = &process.body else { continue };
            let plan = memory::plan(checkpoint, map, process.pid, body, &mut refusals);
            survey.memories.push((process.pid as i32, plan));
        }
        if let Some(devices) = devices {
            if refusals.is_empty()
                && let Err(error) = Scheduler::new(&devices.outline, options.schedule.clone())
            {
                survey.findings.push(error.into());
            }
            survey.gpus(&devices, host);
        }
        if !refusals.is_empty() {
            survey.findings.push(PlanError::Refused(refusals));
        }
        survey.host(checkpoint, host, members);
        survey.sizes(checkpoint);
        survey
    }

    /// Compares the vdso of every process with this host's, byte for byte. One of another size is
    /// among the findings already.
    ///
    /// # Errors
    /// [`RestoreError::Vdso`], or that an image cannot be read.
    pub fn compare_vdso(&self, checkpoint: &Checkpoint, host: &Host) -> Result<(), RestoreError> {
        let Some(here) = &host.vdso else { return Ok(()) };
        let same_size = |memory: &&(i32, MemoryPlan)| {
            memory.1.vdso.is_some_and(|(_, len_bytes)| len_bytes == here.len_bytes)
        };
        for (pid, memory) in self.memories.iter().filter(same_size) {
            vdso_difference(*pid, memory, here, &checkpoint.images)?;
        }
        Ok(())
    }

    /// Who is to be made, as far as that can be said; the number of tasks with a slot each.
    fn tree(&mut self, checkpoint: &Checkpoint, options: &Options) -> usize {
        let places: Vec<tree::Place> = checkpoint.processes.iter().map(place).collect();
        let mut members = tree::plan(&places, options.shell_job);
        if let Err(error @ TreeError::ForeignSession { .. }) = members {
            self.findings.push(error.into());
            members = tree::plan(&places, true); // what else is wrong with it?
        }
        let helpers: Vec<i32> = match members {
            Ok(members) => {
                let helpers = members.iter().filter(|member| member.role == Role::Helper);
                helpers.map(|member| member.pid).collect()
            }
            Err(error) => {
                self.findings.push(error.into());
                Vec::new()
            }
        };
        let count = places.len() + helpers.len();
        self.ids.extend(helpers.into_iter().map(|pid| (pid, IdUse::Leader)));
        for process in &checkpoint.processes {
            let pid = process.pid as i32;
            let threads = process.body.iter().flat_map(|body| &body.threads);
            self.ids.extend(threads.map(|thread| (thread.tid as i32, IdUse::Thread(pid))));
            self.ids.insert(pid, IdUse::Process);
        }
        count
    }

    fn gpus(&mut self, devices: &DevicesPlan, host: &Host) {
        let Outline { gpus, assumptions, .. } = &devices.outline;
        self.assumptions.clone_from(assumptions);
        let mut needed: BTreeMap<u32, u64> = BTreeMap::new();
        for (minor, in_system, len_bytes) in devices.processes.iter().flatten().flat_map(buffers) {
            match in_system {
                true => self.gpu_system_bytes += len_bytes,
                false => *needed.entry(minor).or_default() += len_bytes,
            }
        }
        let minor = |here: HostGpuId| {
            let node = host.gpus.as_ref()?.gpu(here)?;
            Some(node.properties.drm_render_minor)
        };
        self.gpus = gpus
            .iter()
            .map(|&(saved, here)| {
                let vram_bytes = minor(here).and_then(|minor| needed.get(&minor)).copied();
                GpuNeed { saved, here, vram_bytes: vram_bytes.unwrap_or(0) }
            })
            .collect();
    }

    /// What of the host does not fit.
    fn host(&mut self, checkpoint: &Checkpoint, host: &Host, count: usize) {
        if count > PROCESSES_MAX {
            self.findings.push(PlanError::Host(HostMismatch::Processes { count }));
        }
        // One kernel made them all: the first that differs says it.
        let differs = self.memories.iter().find_map(|(_, memory)| check_vdso(memory, host).err());
        self.findings.extend(differs);
        let bodies = checkpoint.processes.iter().filter_map(|process| process.body.as_ref());
        let threads: usize = bodies.map(|body| body.threads.len() - 1).sum();
        let slots = std::iter::repeat_n(SlotSize::Leader, count)
            .chain(std::iter::repeat_n(SlotSize::Thread, threads))
            .chain([SlotSize::Guard(count)]);
        let needed_bytes = region_bytes(slots);
        let taken = self.memories.iter().map(|(_, memory)| memory);
        if hole::find(taken, &host.own_mappings, needed_bytes as u64).is_none() {
            self.findings.push(PlanError::Host(HostMismatch::AddressSpace { needed_bytes }));
        }
    }

    fn sizes(&mut self, checkpoint: &Checkpoint) {
        let bodies = checkpoint.processes.iter().filter_map(|process| process.body.as_ref());
        let private: u64 = bodies.map(|body| body.pages.total_bytes()).sum();
        let shared: u64 = checkpoint.shmems.values().map(|pages| pages.total_bytes()).sum();
        self.memory_bytes = private + shared;
        let tables = checkpoint
            .processes
            .iter()
            .filter_map(|process| checkpoint.fd_tables.get(&process.body.as_ref()?.ids.files_id));
        self.fd_max = tables.flatten().map(|entry| entry.fd).max();
    }
}

/// What a device file makes: the render node here, whether it is in system memory, and its length.
fn buffers(device: &DevicePlan) -> Vec<(u32, bool, u64)> {
    let contents: Vec<_> = match &device.work {
        Work::Kfd(Some(state)) => {
            state.buffers.iter().filter_map(|buffer| buffer.contents.as_ref()).collect()
        }
        Work::Render(work) => {
            let made = work.buffers.iter().filter_map(|buffer| match &buffer.source {
                GemSource::Make { contents, .. } => contents.as_ref(),
                GemSource::Import(_) => None,
            });
            made.collect()
        }
        Work::Kfd(None) | Work::DmaBuf(_) | Work::Receive(_) => Vec::new(),
    };
    contents.iter().map(|it| (it.minor, it.in_system, it.len_bytes)).collect()
}
