//! A client of the KFD: one for each address space that has opened `/dev/kfd`.
//!
//! It outlives its descriptors and ends with its address space, as in the driver.

use std::collections::BTreeSet;

use super::events::Events;
use super::file::Files;
use super::handles::Handles;
use super::memory::Memory;
use super::queues::Queues;
use super::svm::Ranges;
use super::world::{BufferId, FileId, GpuIndex, PagesAt, SpaceId, Store, World};

/// Numbers of KFD buffers on one GPU, as `kfd_process.c` gives them out: from 0.
const KFD_HANDLE_END: u32 = i32::MAX as u32;

/// Doorbell pages of one process on one GPU: 1024 slots of 8 bytes (GFX9).
pub(crate) const DOORBELL_BYTES: u64 = 8192;

/// A buffer of the KFD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KfdBo {
    pub(crate) buffer: BufferId,
    /// GPU virtual address; the same on every GPU that it is mapped to. 0 for none.
    pub(crate) va: u64,
    pub(crate) size_bytes: u64,
    /// `KFD_IOC_ALLOC_MEM_FLAGS_*`.
    pub(crate) flags: u32,
    pub(crate) mapped: BTreeSet<GpuIndex>,
    /// Came in through `AMDKFD_IOC_IMPORT_DMABUF`.
    pub(crate) imported: bool,
}

/// What a process has on one GPU.
#[derive(Clone, Debug)]
pub(crate) struct ProcessDevice {
    pub(crate) gpu: GpuIndex,
    /// The identifier that this process knows the GPU by: that of the checkpointed process after a
    /// restore, else the GPU's own.
    pub(crate) user_gpu_id: u32,
    /// The render node whose address space it took over.
    pub(crate) render: Option<FileId>,
    pub(crate) bos: Handles<KfdBo>,
    /// `tba` and `tma` of `AMDKFD_IOC_SET_TRAP_HANDLER`.
    pub(crate) trap_handler: (u64, u64),
    pub(crate) scratch_va: u64,
}

/// A KFD process.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) space: SpaceId,
    /// Small number, unique in the node's life; part of the offsets of its doorbells.
    pub(crate) number: u32,
    /// One for each GPU, in order.
    pub(crate) devices: Vec<ProcessDevice>,
    pub(crate) events: Events,
    pub(crate) queues: Queues,
    pub(crate) ranges: Ranges,
    pub(crate) xnack: bool,
    /// Debugger runtime enabled (`AMDKFD_IOC_RUNTIME_ENABLE`).
    pub(crate) runtime_enabled: bool,
    pub(crate) criu: CriuState,
}

/// Where a process stands between checkpoint and restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CriuState {
    /// `PROCESS_INFO` has stopped its queues, `UNPAUSE` has not come yet.
    pub(crate) paused: bool,
    /// `RESTORE` has come as far as buffers, `RESUME` has not come yet.
    pub(crate) restored: bool,
}

impl Process {
    pub(crate) fn new(space: SpaceId, number: u32, memory: &Memory) -> Self {
        let devices = memory.gpus.iter().enumerate().map(|(index, gpu)| ProcessDevice {
            gpu: GpuIndex(index as u8),
            user_gpu_id: gpu.config.gpu_id,
            render: None,
            bos: Handles::new(0, KFD_HANDLE_END),
            trap_handler: (0, 0),
            scratch_va: 0,
        });
        Self {
            space,
            number,
            devices: devices.collect(),
            events: Events::default(),
            queues: Queues::new(memory.gpus.len()),
            ranges: Ranges::default(),
            xnack: false,
            runtime_enabled: false,
            criu: CriuState::default(),
        }
    }

    /// The device that the process knows by this identifier.
    pub(crate) fn device(&self, user_gpu_id: u32) -> Option<&ProcessDevice> {
        self.devices.iter().find(|device| device.user_gpu_id == user_gpu_id)
    }

    pub(crate) fn device_mut(&mut self, user_gpu_id: u32) -> Option<&mut ProcessDevice> {
        self.devices.iter_mut().find(|device| device.user_gpu_id == user_gpu_id)
    }

    pub(crate) fn on(&self, gpu: GpuIndex) -> &ProcessDevice {
        &self.devices[usize::from(gpu.0)]
    }

    pub(crate) fn on_mut(&mut self, gpu: GpuIndex) -> &mut ProcessDevice {
        &mut self.devices[usize::from(gpu.0)]
    }

    /// Where its doorbells on a GPU are, and what `mmap` of `/dev/kfd` takes.
    ///
    /// The driver's offset has the type in bits 62 and 63 and the GPU's identifier from bit 46 on;
    /// a file of ours must stay below bit 63 and tells processes apart by their number.
    pub(crate) fn doorbells_at(&self, memory: &Memory, gpu: GpuIndex) -> PagesAt {
        let gpu_id = u64::from(memory.gpu(gpu).config.gpu_id & 0xffff);
        let offset = 1 << 62 | gpu_id << 46 | u64::from(self.number) << 32;
        PagesAt { store: Store::Kfd, offset }
    }

    /// The register page of a GPU.
    pub(crate) fn registers_at(memory: &Memory, gpu: GpuIndex) -> PagesAt {
        let gpu_id = u64::from(memory.gpu(gpu).config.gpu_id & 0xffff);
        PagesAt { store: Store::Kfd, offset: gpu_id << 46 }
    }

    /// The event page of a process that does not bring its own (`KFD_MMAP_TYPE_EVENTS`).
    pub(crate) fn event_page_at(&self) -> PagesAt {
        PagesAt { store: Store::Kfd, offset: 1 << 61 | u64::from(self.number) << 32 }
    }

    /// Gives everything back that it holds.
    pub(crate) fn tear_down(
        mut self,
        memory: &mut Memory,
        files: &mut Files,
        world: &mut dyn World,
    ) {
        for device in &self.devices {
            let Some(render) = device.render else { continue };
            if let Some(file) = files.render_mut(render) {
                file.vm.drop_kfd();
            }
            files.give_back(memory, world, render);
        }
        for device in &mut self.devices {
            for (_, bo) in device.bos.take() {
                memory.release(world, bo.buffer);
            }
        }
        for device in &self.devices {
            world.discard_pages(self.doorbells_at(memory, device.gpu), DOORBELL_BYTES);
        }
        world.discard_pages(self.event_page_at(), super::events::PAGE_BYTES);
    }
}
