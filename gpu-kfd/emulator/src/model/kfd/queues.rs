//! Calls about queues, and what eviction and checkpoints do with them.
//!
//! The order of checks is that of `kfd_chardev.c` and `kfd_process_queue_manager.c` (Linux 6.12).
//! Two things are refused that the driver takes: rings in PM4, which no engine here understands,
//! and control stacks of more than 1 MiB. One is taken that newer drivers refuse: since 6.13 a ring
//! must be one whole mapping and each pointer have a page of its own; libhsakmt 5.2 does not know
//! that, so here they must be mapped.

use std::collections::BTreeSet;

use nix::errno::Errno;

use gpu_kfd::uapi::kfd::{
    AllocQueueGwsArgs, CreateQueueArgs, DestroyQueueArgs, GetQueueWaveStateArgs, SetCuMaskArgs,
    UpdateQueueArgs, queue_limit, queue_type,
};

use crate::model::queues::{
    CTL_STACK_BYTES_MAX, CU_MASK_WORDS, DOORBELL_SILENT, Numbers, QUEUES_ON_GPU_MAX, Queue,
    QueueKind, QueueRecord, RING_BYTES_MIN, SdmaQueues, Shape, sdma_engines,
};
use crate::model::world::{GpuIndex, SpaceId, World};
use crate::model::{Call, Model, write_array};

/// End of what `access_ok` lets through: the user's half of 47-bit addresses.
const USER_END: u64 = 0x7fff_ffff_f000;

/// Size of the buffer for end-of-pipe events on GFX9 (`kfd_queue_ctx_save_restore_size`).
const EOP_BYTES: u64 = 4096;

/// Bits of `queue_percentage` that are a percentage; the next eight name a partition.
const PERCENT_MASK: u32 = 0xff;

/// What a process asks a queue to be limited to.
struct Share {
    percent: u32,
    priority: u32,
    ring_va: u64,
    ring_bytes: u32,
}

/// `access_ok`.
fn is_user(address: u64, len_bytes: u64) -> bool {
    address.checked_add(len_bytes).is_some_and(|end| end <= USER_END)
}

impl Share {
    /// # Errors
    /// `EINVAL`, `EFAULT`, in the driver's order.
    fn check(percentage: u32, priority: u32, ring_va: u64, ring_bytes: u32) -> Result<Self, Errno> {
        let percent = percentage & PERCENT_MASK;
        if percent > queue_limit::PERCENTAGE || priority > queue_limit::PRIORITY {
            return Err(Errno::EINVAL);
        }
        if ring_va != 0 && !is_user(ring_va, 8) {
            return Err(Errno::EFAULT);
        }
        if ring_bytes != 0 && !ring_bytes.is_power_of_two() {
            return Err(Errno::EINVAL);
        }
        Ok(Self { percent, priority, ring_va, ring_bytes: ring_bytes.max(RING_BYTES_MIN) })
    }
}

/// What is known of a queue before its GPU is.
fn shape_of(args: &mut CreateQueueArgs) -> Result<Shape, Errno> {
    let (percentage, priority) = (args.queue_percentage, args.queue_priority);
    let share = Share::check(percentage, priority, args.ring_base_address, args.ring_size)?;
    args.ring_size = share.ring_bytes;
    let pointers = [args.read_pointer_address, args.write_pointer_address];
    let areas = [args.eop_buffer_address, args.ctx_save_restore_address];
    let set_areas = areas.iter().filter(|area| **area != 0);
    if !pointers.iter().chain(set_areas).all(|address| is_user(*address, 4)) {
        return Err(Errno::EFAULT);
    }
    let kind = match args.queue_type {
        queue_type::COMPUTE_AQL => QueueKind::Aql,
        queue_type::SDMA | queue_type::SDMA_BY_ENG_ID => QueueKind::Sdma,
        queue_type::SDMA_XGMI => QueueKind::SdmaXgmi,
        // The driver says ENOTSUPP, a number that user space has no name for, to unknown types.
        _ => return Err(Errno::EOPNOTSUPP),
    };
    Ok(Shape {
        gpu: GpuIndex(0),
        kind,
        ring_va: share.ring_va,
        ring_bytes: share.ring_bytes,
        read_pointer_va: args.read_pointer_address,
        write_pointer_va: args.write_pointer_address,
        percent: share.percent,
        priority: share.priority,
        eop: (args.eop_buffer_address, args.eop_buffer_size as u32),
        save_area: (args.ctx_save_restore_address, args.ctx_save_restore_size),
        ctl_stack_bytes: args.ctl_stack_size,
    })
}

impl Model {
    pub(super) fn create_queue(
        &mut self,
        call: &mut Call<'_>,
        args: &mut CreateQueueArgs,
    ) -> Result<i32, Errno> {
        let space = call.caller.space;
        let mut shape = shape_of(args)?;
        shape.gpu = self.bound(space, args.gpu_id, Errno::ESRCH)?.gpu;
        let mut engine = None;
        if args.queue_type == queue_type::SDMA_BY_ENG_ID {
            let config = &self.memory.gpu(shape.gpu).config;
            if args.sdma_engine_id >= sdma_engines(config) {
                return Err(Errno::EINVAL);
            }
            if args.sdma_engine_id >= SdmaQueues::of(config, QueueKind::SdmaXgmi).engine(0) {
                shape.kind = QueueKind::SdmaXgmi;
            }
            engine = Some(args.sdma_engine_id);
        }
        self.check_buffers(space, &shape, args.eop_buffer_size)?;
        self.check_counts(space, &shape)?;
        let numbers = match shape.kind.is_sdma() {
            true => self.free_sdma(&shape, engine)?,
            false => {
                let doorbell = self.process(space)?.queues.free_doorbell(shape.gpu)?;
                Numbers { doorbell, sdma: 0 }
            }
        };
        if shape.ctl_stack_bytes > CTL_STACK_BYTES_MAX {
            return Err(Errno::ENOMEM);
        }
        let doorbells = self.processes[&space].doorbells_at(&self.memory, shape.gpu);
        let queue = Queue::new(shape, numbers, doorbells);
        call.world.write_pages(queue.doorbell_at, &DOORBELL_SILENT.to_le_bytes());
        args.doorbell_offset = queue.doorbell_at.offset;
        args.queue_id = self.process(space)?.queues.insert(queue, None)?;
        Ok(0)
    }

    /// What an engine will touch must be mapped on its GPU.
    fn check_buffers(&self, space: SpaceId, shape: &Shape, eop_bytes: u64) -> Result<(), Errno> {
        let mapped = |va, len| self.is_mapped(space, shape.gpu, va, len);
        let ring = mapped(shape.ring_va, u64::from(shape.ring_bytes));
        if !mapped(shape.write_pointer_va, 8) || !mapped(shape.read_pointer_va, 8) || !ring {
            return Err(Errno::EINVAL);
        }
        if shape.kind.is_sdma() {
            return Ok(());
        }
        if shape.eop.0 != 0 && (eop_bytes != EOP_BYTES || !mapped(shape.eop.0, EOP_BYTES)) {
            return Err(Errno::EINVAL);
        }
        let ranges = &self.processes[&space].ranges;
        let (area, len) = (shape.save_area.0, u64::from(shape.save_area.1));
        if area != 0 && !mapped(area, len) && !ranges.overlaps(area, len) {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }

    /// Whether all of a range is mapped in a process's address space on a GPU.
    fn is_mapped(&self, space: SpaceId, gpu: GpuIndex, va: u64, len_bytes: u64) -> bool {
        let render = self.processes[&space].on(gpu).render;
        let file = render.and_then(|render| self.files.render(render));
        file.is_some_and(|file| file.vm.segments(&self.memory, va, len_bytes).is_ok())
    }

    /// # Errors
    /// `ENOSPC` if the process has too many queues on the GPU, `EPERM` if all have too many compute
    /// queues (the driver counts those of any kind; SDMA queues run out first).
    fn check_counts(&mut self, space: SpaceId, shape: &Shape) -> Result<(), Errno> {
        let gpu = shape.gpu;
        if self.process(space)?.queues.on(gpu).count() >= QUEUES_ON_GPU_MAX {
            return Err(Errno::ENOSPC);
        }
        let queues = self.processes.values().flat_map(|process| process.queues.on(gpu));
        let compute = queues.filter(|queue| !queue.shape.kind.is_sdma()).count();
        let limit = self.memory.gpu(gpu).config.compute_queues_max as usize;
        if !shape.kind.is_sdma() && compute >= limit { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Numbers of the SDMA queues of a kind that are taken on a GPU, by whomever.
    fn taken_sdma(&self, gpu: GpuIndex, kind: QueueKind) -> BTreeSet<u32> {
        let queues = self.processes.values().flat_map(|process| process.queues.on(gpu));
        let of_kind = queues.filter(|queue| queue.shape.kind == kind);
        of_kind.map(|queue| queue.numbers.sdma).collect()
    }

    /// The lowest free SDMA queue, of one engine if it is named.
    ///
    /// # Errors
    /// `ENOMEM` if none is free.
    fn free_sdma(&self, shape: &Shape, engine: Option<u32>) -> Result<Numbers, Errno> {
        let queues = SdmaQueues::of(&self.memory.gpu(shape.gpu).config, shape.kind);
        let taken = self.taken_sdma(shape.gpu, shape.kind);
        let fits = |number: &u32| {
            let here = engine.is_none_or(|engine| queues.engine(*number) == engine);
            here && !taken.contains(number)
        };
        let sdma = (0..queues.count).find(fits).ok_or(Errno::ENOMEM)?;
        Ok(Numbers { doorbell: queues.doorbell(sdma), sdma })
    }

    pub(super) fn destroy_queue(
        &mut self,
        call: &mut Call<'_>,
        args: &mut DestroyQueueArgs,
    ) -> Result<i32, Errno> {
        let queues = &mut self.process(call.caller.space)?.queues;
        queues.remove(args.queue_id).ok_or(Errno::EINVAL)?;
        Ok(0)
    }

    pub(super) fn update_queue(
        &mut self,
        call: &mut Call<'_>,
        args: &mut UpdateQueueArgs,
    ) -> Result<i32, Errno> {
        let space = call.caller.space;
        let (percentage, priority) = (args.queue_percentage, args.queue_priority);
        let share = Share::check(percentage, priority, args.ring_base_address, args.ring_size)?;
        args.ring_size = share.ring_bytes;
        let queue = self.process(space)?.queues.get(args.queue_id).ok_or(Errno::EFAULT)?;
        let shape = queue.shape;
        let moved = (shape.ring_va, shape.ring_bytes) != (share.ring_va, share.ring_bytes);
        let len = u64::from(share.ring_bytes);
        if share.ring_va != 0 && moved && !self.is_mapped(space, shape.gpu, share.ring_va, len) {
            return Err(Errno::EFAULT);
        }
        let queue = self.process(space)?.queues.get_mut(args.queue_id).ok_or(Errno::EFAULT)?;
        queue.shape.ring_va = share.ring_va;
        queue.shape.ring_bytes = share.ring_bytes;
        queue.shape.percent = share.percent;
        queue.shape.priority = share.priority;
        // The driver takes the queue from its engine and gives it back.
        queue.state.reload = true;
        Ok(0)
    }

    /// Notes the mask; no wave ever runs.
    pub(super) fn set_cu_mask(
        &mut self,
        call: &mut Call<'_>,
        args: &mut SetCuMaskArgs,
    ) -> Result<i32, Errno> {
        if args.num_cu_mask == 0 || !args.num_cu_mask.is_multiple_of(32) {
            return Err(Errno::EINVAL);
        }
        let words = CU_MASK_WORDS.min(args.num_cu_mask as usize / 32);
        let mut mask = [0; CU_MASK_WORDS];
        let bytes = bytemuck::cast_slice_mut(&mut mask[..words]);
        call.world.read_user(call.caller.space, args.cu_mask_ptr, bytes)?;
        let queues = &mut self.process(call.caller.space)?.queues;
        queues.get_mut(args.queue_id).ok_or(Errno::EFAULT)?.cu_mask = mask;
        Ok(0)
    }

    /// The state of waves that never were: the control stack is empty, so its head says that it
    /// begins at its end.
    pub(super) fn get_queue_wave_state(
        &mut self,
        call: &mut Call<'_>,
        args: &mut GetQueueWaveStateArgs,
    ) -> Result<i32, Errno> {
        let queues = &self.process(call.caller.space)?.queues;
        let queue = queues.get(args.queue_id).ok_or(Errno::EFAULT)?;
        if queue.shape.kind.is_sdma() || queues.is_active(queue) {
            return Err(Errno::EINVAL);
        }
        let end = queue.shape.ctl_stack_bytes;
        let (control_stack, wave_state) = ([end, 0], [end, 0]);
        let head = [control_stack, wave_state].concat();
        write_array(call.world, call.caller.space, args.ctl_stack_address, &head)?;
        args.ctl_stack_used_size = 0;
        args.save_area_used_size = 0;
        Ok(0)
    }

    /// One queue of a process on each GPU may have global wave sync; 0 waves give it back.
    pub(super) fn alloc_queue_gws(
        &mut self,
        call: &mut Call<'_>,
        args: &mut AllocQueueGwsArgs,
    ) -> Result<i32, Errno> {
        let queues = &mut self.process(call.caller.space)?.queues;
        let gpu = queues.get(args.queue_id).ok_or(Errno::EINVAL)?.shape.gpu;
        let wanted = args.num_gws != 0;
        match queues.on(gpu).any(|queue| queue.gws) {
            true if wanted => return Err(Errno::EBUSY),
            false if !wanted => return Err(Errno::EINVAL),
            _ => {}
        }
        queues.get_mut(args.queue_id).ok_or(Errno::EINVAL)?.gws = wanted;
        args.first_gws = 0;
        Ok(0)
    }

    /// Stops all queues of a process, until [`resume_queues`](Self::resume_queues) has been called
    /// as often. What an engine has begun stays as it is.
    pub(in crate::model) fn evict_queues(&mut self, space: SpaceId) {
        if let Some(process) = self.processes.get_mut(&space) {
            process.devices.iter().for_each(|device| process.queues.evict(device.gpu));
        }
    }

    /// Takes back one eviction. With the last one the engines read the write positions from memory
    /// and go on.
    pub(in crate::model) fn resume_queues(&mut self, space: SpaceId) {
        if let Some(process) = self.processes.get_mut(&space) {
            process.devices.iter().for_each(|device| process.queues.resume(device.gpu));
        }
    }

    /// Makes a queue as a record of a checkpoint says, under its old numbers. The caller has
    /// evicted the process's queues, so it does not run yet.
    ///
    /// # Errors
    /// As the driver's `kfd_criu_restore_queue`: `EINVAL` for a GPU, kind, size, number or doorbell
    /// that cannot be, and for a descriptor that is not of this model; `ENOSPC` if the number is
    /// taken or the GPU full for this process, `EPERM` if it is full for all; `EBUSY` if the SDMA
    /// queue is somebody's, `ENOMEM` if all are; `EBUSY` for a second queue with global wave sync.
    pub(in crate::model) fn restore_queue(
        &mut self,
        world: &mut dyn World,
        space: SpaceId,
        record: &QueueRecord,
    ) -> Result<(), Errno> {
        let gpu = self.process(space)?.device(record.head.gpu_id).ok_or(Errno::EINVAL)?.gpu;
        let shape = record.shape(gpu)?;
        let queues = &self.process(space)?.queues;
        if queues.get(record.head.q_id).is_some() {
            return Err(Errno::ENOSPC);
        }
        self.check_counts(space, &shape)?;
        let numbers = match shape.kind.is_sdma() {
            true => self.same_sdma(&shape, record)?,
            false => {
                let queues = &self.process(space)?.queues;
                let doorbell = queues.same_doorbell(gpu, record.head.doorbell_id)?;
                Numbers { doorbell, sdma: 0 }
            }
        };
        let doorbells = self.processes[&space].doorbells_at(&self.memory, gpu);
        let mut queue = Queue::new(shape, numbers, doorbells);
        record.put_state(&mut queue)?;
        let queues = &mut self.process(space)?.queues;
        if record.head.gws != 0 {
            if queues.on(gpu).any(|queue| queue.gws) {
                return Err(Errno::EBUSY);
            }
            queue.gws = true;
        }
        world.write_pages(queue.doorbell_at, &DOORBELL_SILENT.to_le_bytes());
        queues.insert(queue, Some(record.head.q_id))?;
        Ok(())
    }

    /// The SDMA queue that a restored queue had.
    fn same_sdma(&self, shape: &Shape, record: &QueueRecord) -> Result<Numbers, Errno> {
        let queues = SdmaQueues::of(&self.memory.gpu(shape.gpu).config, shape.kind);
        let taken = self.taken_sdma(shape.gpu, shape.kind);
        let sdma = record.head.sdma_id;
        if taken.len() >= queues.count as usize {
            return Err(Errno::ENOMEM);
        }
        if sdma >= queues.count {
            return Err(Errno::EINVAL);
        }
        if taken.contains(&sdma) {
            return Err(Errno::EBUSY);
        }
        let doorbell = queues.doorbell(sdma);
        if doorbell != record.head.doorbell_id {
            return Err(Errno::EINVAL);
        }
        Ok(Numbers { doorbell, sdma })
    }
}
