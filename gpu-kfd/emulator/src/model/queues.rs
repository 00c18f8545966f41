//! Queues of a process: what each is, which numbers it holds, what a checkpoint keeps of it.
//!
//! Facts of `kfd_process_queue_manager.c` and `kfd_device_queue_manager.c` (Linux 6.12), for GPUs
//! of the GFX9 family, whose doorbells have 64 bits.

use std::collections::BTreeSet;

use bytemuck::{Pod, Zeroable};
use nix::errno::Errno;

use gpu_kfd::uapi::criu::{QueuePrivate, object, queue_kind};
use gpu_kfd::uapi::kfd::QUEUES_MAX;

use super::engine::{Nested, Position};
use super::handles::Handles;
use super::memory::GpuConfig;
use super::process::ProcessDevice;
use super::world::{GpuIndex, PagesAt};

/// Most queues of one process on one GPU (the limit of the hardware scheduler, `pqm_create_queue`).
pub(crate) const QUEUES_ON_GPU_MAX: usize = 127;

/// Doorbells of a process on a GPU: 8 KiB of 8 bytes each.
const DOORBELLS: u32 = 1024;

/// Second half of the doorbells, where every other queue of an SDMA engine has its own
/// (`KFD_QUEUE_DOORBELL_MIRROR_OFFSET`).
const DOORBELL_MIRROR: u32 = 512;

/// Doorbells that no compute queue gets, in both halves: those of SDMA, interrupts and video
/// (`AMDGPU_DOORBELL_LAYOUT1_FIRST_NON_CP` and `LAST`; the layout of older chips ends at 0x18f).
const DOORBELLS_NOT_COMPUTE: std::ops::RangeInclusive<u32> = 0x100..=0x1e8;

/// First doorbell of the SDMA engines, and how many each has (`amdgpu_doorbell.h`).
const DOORBELL_SDMA: u32 = 0x100;
const DOORBELLS_OF_SDMA_ENGINE: u32 = 10;

/// Queues of one SDMA engine from Vega 20 on; a GPU with fewer has one engine.
const QUEUES_OF_SDMA_ENGINE: u32 = 8;

/// What a slot of the doorbell page holds before it is rung: no position reaches it. (0 is what the
/// first packet of an AQL queue rings with.)
pub(crate) const DOORBELL_SILENT: u64 = u64::MAX;

/// Size of the queue descriptor that a checkpoint keeps ([`Mqd`]), the same for every kind.
pub(crate) const MQD_BYTES: usize = size_of::<Mqd>();

/// Largest control stack; libhsakmt asks for some tens of KiB.
pub(crate) const CTL_STACK_BYTES_MAX: u32 = 1 << 20;

/// Words of a mask of compute units: 1024 bits (`kfd_ioctl_set_cu_mask`).
pub(crate) const CU_MASK_WORDS: usize = 32;

/// What a queue feeds, and in which language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QueueKind {
    Aql,
    Sdma,
    SdmaXgmi,
}

impl QueueKind {
    pub(crate) fn is_sdma(self) -> bool {
        self != Self::Aql
    }

    /// As private data of checkpoints says it: kind and format.
    fn private(self) -> (u32, u32) {
        match self {
            Self::Aql => (queue_kind::COMPUTE, FORMAT_AQL),
            Self::Sdma => (queue_kind::SDMA, FORMAT_PM4),
            Self::SdmaXgmi => (queue_kind::SDMA_XGMI, FORMAT_PM4),
        }
    }

    fn of_private(kind: u32, format: u32) -> Option<Self> {
        match (kind, format) {
            (queue_kind::COMPUTE, FORMAT_AQL) => Some(Self::Aql),
            (queue_kind::SDMA, _) => Some(Self::Sdma),
            (queue_kind::SDMA_XGMI, _) => Some(Self::SdmaXgmi),
            _ => None,
        }
    }
}

const FORMAT_PM4: u32 = 0;
const FORMAT_AQL: u32 = 1;

/// What a queue is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) gpu: GpuIndex,
    pub(crate) kind: QueueKind,
    pub(crate) ring_va: u64,
    /// A power of two of at least 1024.
    pub(crate) ring_bytes: u32,
    pub(crate) read_pointer_va: u64,
    pub(crate) write_pointer_va: u64,
    /// 0 to 100; 0 stops the queue.
    pub(crate) percent: u32,
    pub(crate) priority: u32,
    pub(crate) eop: (u64, u32),
    pub(crate) save_area: (u64, u32),
    pub(crate) ctl_stack_bytes: u32,
}

/// Numbers that a queue holds while it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    /// Slot in the doorbell pages.
    pub(crate) doorbell: u32,
    /// Number among the SDMA queues (or SDMA queues over XGMI) of the GPU; 0 for compute.
    pub(crate) sdma: u32,
}

/// A queue.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) shape: Shape,
    pub(crate) numbers: Numbers,
    /// Where its doorbell is.
    pub(crate) doorbell_at: PagesAt,
    /// Has global wave sync.
    pub(crate) gws: bool,
    pub(crate) cu_mask: [u32; CU_MASK_WORDS],
    pub(crate) state: State,
}

/// How far an engine is with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) position: Position,
    /// Up to where packets are written, in the unit of [`Position::read`].
    pub(crate) write: u64,
    /// What the doorbell held at the last look.
    pub(crate) doorbell_seen: u64,
    /// The write position must be read from memory, as an engine does that is given a queue.
    pub(crate) reload: bool,
    /// A packet could not be carried out: the engine hangs at it for ever.
    pub(crate) halted: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            position: Position::default(),
            write: 0,
            doorbell_seen: DOORBELL_SILENT,
            reload: true,
            halted: false,
        }
    }
}

impl Queue {
    pub(crate) fn new(shape: Shape, numbers: Numbers, doorbells: PagesAt) -> Self {
        let doorbell_at = doorbells.plus(u64::from(numbers.doorbell) * 8);
        let (gws, cu_mask, state) = (false, [u32::MAX; CU_MASK_WORDS], State::default());
        Self { shape, numbers, doorbell_at, gws, cu_mask, state }
    }

    /// Whether its owner lets it run (`QUEUE_IS_ACTIVE`, eviction apart).
    fn is_wanted(&self) -> bool {
        self.shape.ring_va != 0 && self.shape.percent > 0
    }
}

/// The queues of a process.
#[derive(Clone, Debug)]
pub(crate) struct Queues {
    table: Handles<Queue>,
    /// How often each GPU's queues were evicted and not resumed.
    evicted: Vec<u32>,
}

impl Queues {
    pub(crate) fn new(gpus: usize) -> Self {
        Self { table: Handles::new(0, QUEUES_MAX), evicted: vec![0; gpus] }
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Queue> {
        self.table.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Queue> {
        self.table.get_mut(id)
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<Queue> {
        self.table.remove(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Queue)> {
        self.table.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn on(&self, gpu: GpuIndex) -> impl Iterator<Item = &Queue> {
        self.table.iter().map(|(_, queue)| queue).filter(move |queue| queue.shape.gpu == gpu)
    }

    /// Whether an engine has a queue: wanted, not evicted. A halted one counts.
    pub(crate) fn is_active(&self, queue: &Queue) -> bool {
        queue.is_wanted() && self.evicted[usize::from(queue.shape.gpu.0)] == 0
    }

    /// Whether an engine works on a queue.
    pub(crate) fn runs(&self, queue: &Queue) -> bool {
        self.is_active(queue) && !queue.state.halted
    }

    /// Adds a queue under the lowest free number, or under `id`.
    ///
    /// # Errors
    /// `ENOMEM` if no number is free; `EINVAL` if `id` is out of range, `ENOSPC` if it is taken.
    pub(crate) fn insert(&mut self, queue: Queue, id: Option<u32>) -> Result<u32, Errno> {
        match id {
            None => self.table.insert(queue).map_err(|_| Errno::ENOMEM),
            Some(id) => self.table.insert_at(id, queue).map(|()| id),
        }
    }

    /// Stops the queues of one GPU until they are resumed as often.
    pub(crate) fn evict(&mut self, gpu: GpuIndex) {
        self.evicted[usize::from(gpu.0)] += 1;
    }

    /// Takes back one eviction of a GPU's queues. Engines that get them again read the write
    /// positions from memory.
    pub(crate) fn resume(&mut self, gpu: GpuIndex) {
        let evicted = &mut self.evicted[usize::from(gpu.0)];
        *evicted = evicted.saturating_sub(1);
        if *evicted > 0 {
            return;
        }
        for (_, queue) in self.table.iter_mut().filter(|(_, queue)| queue.shape.gpu == gpu) {
            queue.state.reload = true;
        }
    }

    /// Whether a range of a GPU's addresses holds what a queue there needs to run: the driver keeps
    /// such a buffer mapped (`bo_va->queue_refcount`, Linux 6.12).
    pub(crate) fn need(&self, gpu: GpuIndex, va: u64, len_bytes: u64) -> bool {
        self.on(gpu).any(|queue| {
            let shape = queue.shape;
            let (ring, read, write) =
                (shape.ring_va, shape.read_pointer_va, shape.write_pointer_va);
            let parts = [ring, read, write, shape.eop.0, shape.save_area.0];
            parts.iter().any(|part| *part != 0 && *part >= va && part - va < len_bytes)
        })
    }

    /// The lowest doorbell that a new compute queue may have.
    ///
    /// # Errors
    /// `EBUSY` if none is free.
    pub(crate) fn free_doorbell(&self, gpu: GpuIndex) -> Result<u32, Errno> {
        let taken: BTreeSet<u32> = self.on(gpu).map(|queue| queue.numbers.doorbell).collect();
        let free = |slot: &u32| {
            !DOORBELLS_NOT_COMPUTE.contains(&(slot % DOORBELL_MIRROR)) && !taken.contains(slot)
        };
        (0..DOORBELLS).find(free).ok_or(Errno::EBUSY)
    }

    /// Checks the doorbell that a restored compute queue had.
    ///
    /// # Errors
    /// `EINVAL` if it is out of range, kept free, or taken.
    pub(crate) fn same_doorbell(&self, gpu: GpuIndex, slot: u32) -> Result<u32, Errno> {
        let kept_free = DOORBELLS_NOT_COMPUTE.contains(&(slot % DOORBELL_MIRROR));
        let taken = self.on(gpu).any(|queue| queue.numbers.doorbell == slot);
        if slot >= DOORBELLS || kept_free || taken { Err(Errno::EINVAL) } else { Ok(slot) }
    }

    /// What `CRIU_OP` keeps of them, GPU after GPU.
    pub(crate) fn checkpoint(&self, devices: &[ProcessDevice]) -> Vec<QueueRecord> {
        let of_device = |device: &'_ ProcessDevice| {
            let (gpu, user_gpu_id) = (device.gpu, device.user_gpu_id);
            let queues = self.table.iter().filter(move |(_, queue)| queue.shape.gpu == gpu);
            queues.map(move |(id, queue)| QueueRecord::of(id, queue, user_gpu_id))
        };
        devices.iter().flat_map(of_device).collect()
    }
}

/// SDMA queues of a GPU for user processes, of one kind, and how they lie on engines.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SdmaQueues {
    /// How many.
    pub(crate) count: u32,
    engines: u32,
    engine_first: u32,
}

fn engines_of(queues: u32) -> u32 {
    queues.div_ceil(QUEUES_OF_SDMA_ENGINE)
}

/// SDMA engines of a GPU, those over XGMI included.
pub(crate) fn sdma_engines(config: &GpuConfig) -> u32 {
    engines_of(config.sdma_queues_max) + engines_of(config.sdma_xgmi_queues_max)
}

impl SdmaQueues {
    pub(crate) fn of(config: &GpuConfig, kind: QueueKind) -> Self {
        let plain = engines_of(config.sdma_queues_max);
        match kind {
            QueueKind::SdmaXgmi => {
                let count = config.sdma_xgmi_queues_max;
                Self { count, engines: engines_of(count), engine_first: plain }
            }
            QueueKind::Sdma | QueueKind::Aql => {
                Self { count: config.sdma_queues_max, engines: plain, engine_first: 0 }
            }
        }
    }

    /// The engine that has this queue. Queues lie in turn on the engines.
    pub(crate) fn engine(self, number: u32) -> u32 {
        self.engine_first + number % self.engines.max(1)
    }

    /// The doorbell of a queue, fixed by its engine and its number there.
    pub(crate) fn doorbell(self, number: u32) -> u32 {
        let on_engine = number / self.engines.max(1);
        let first = DOORBELL_SDMA + DOORBELLS_OF_SDMA_ENGINE * self.engine(number);
        first + on_engine % 2 * DOORBELL_MIRROR + on_engine / 2
    }
}

/// What stands in place of the hardware's queue descriptor in private data: the state of a queue
/// of this model.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Mqd {
    magic: u64,
    version: u32,
    halted: u32,
    read: u64,
    done: u64,
    nested_va: u64,
    nested_bytes: u64,
    nested_at: u64,
    is_nested: u64,
    cu_mask: [u32; CU_MASK_WORDS],
    _reserved: [u64; 40],
}

const _: () = assert!(size_of::<Mqd>() == 512);

/// Says that a descriptor is one of ours ("KFDEMMQD").
const MQD_MAGIC: u64 = u64::from_le_bytes(*b"KFDEMMQD");
const MQD_VERSION: u32 = 1;

/// A queue in private data: [`QueuePrivate`], [`MQD_BYTES`] of descriptor, and the control stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueRecord {
    pub(crate) head: QueuePrivate,
    pub(crate) mqd: Vec<u8>,
    /// No wave ever runs here, so it is all zeros.
    pub(crate) ctl_stack: Vec<u8>,
}

impl QueueRecord {
    fn of(id: u32, queue: &Queue, user_gpu_id: u32) -> Self {
        let shape = queue.shape;
        let (kind, format) = shape.kind.private();
        let ctl_stack_size = if shape.kind.is_sdma() { 0 } else { shape.ctl_stack_bytes };
        let head = QueuePrivate {
            object_type: object::QUEUE,
            q_address: shape.ring_va,
            q_size: u64::from(shape.ring_bytes),
            read_ptr_addr: shape.read_pointer_va,
            write_ptr_addr: shape.write_pointer_va,
            eop_ring_buffer_address: shape.eop.0,
            eop_ring_buffer_size: shape.eop.1,
            ctx_save_restore_area_address: shape.save_area.0,
            ctx_save_restore_area_size: shape.save_area.1,
            gpu_id: user_gpu_id,
            kind,
            format,
            q_id: id,
            priority: shape.priority,
            q_percent: shape.percent,
            doorbell_id: queue.numbers.doorbell,
            gws: u32::from(queue.gws),
            sdma_id: queue.numbers.sdma,
            ctl_stack_size,
            mqd_size: MQD_BYTES as u32,
            ..Default::default()
        };
        let position = queue.state.position;
        let nested = position.nested.unwrap_or_default();
        let mqd = Mqd {
            magic: MQD_MAGIC,
            version: MQD_VERSION,
            halted: u32::from(queue.state.halted),
            read: position.read,
            done: position.done,
            nested_va: nested.va,
            nested_bytes: nested.len_bytes,
            nested_at: nested.at,
            is_nested: u64::from(position.nested.is_some()),
            cu_mask: queue.cu_mask,
            _reserved: [0; 40],
        };
        let ctl_stack = vec![0; ctl_stack_size as usize];
        Self { head, mqd: bytemuck::bytes_of(&mqd).to_vec(), ctl_stack }
    }

    /// What the queue is made with, for the GPU that it is restored on.
    ///
    /// # Errors
    /// `EINVAL` for a kind or sizes that no queue has.
    pub(crate) fn shape(&self, gpu: GpuIndex) -> Result<Shape, Errno> {
        let head = &self.head;
        let ring_bytes = u32::try_from(head.q_size).map_err(|_| Errno::EINVAL)?;
        let kind = QueueKind::of_private(head.kind, head.format).ok_or(Errno::EINVAL)?;
        if !ring_bytes.is_power_of_two() || ring_bytes < RING_BYTES_MIN {
            return Err(Errno::EINVAL);
        }
        if head.ctl_stack_size as usize != self.ctl_stack.len()
            || head.ctl_stack_size > CTL_STACK_BYTES_MAX
        {
            return Err(Errno::EINVAL);
        }
        Ok(Shape {
            gpu,
            kind,
            ring_va: head.q_address,
            ring_bytes,
            read_pointer_va: head.read_ptr_addr,
            write_pointer_va: head.write_ptr_addr,
            percent: head.q_percent,
            priority: head.priority,
            eop: (head.eop_ring_buffer_address, head.eop_ring_buffer_size),
            save_area: (head.ctx_save_restore_area_address, head.ctx_save_restore_area_size),
            ctl_stack_bytes: head.ctl_stack_size,
        })
    }

    /// Puts the saved state into a new queue.
    ///
    /// # Errors
    /// `EINVAL` if the descriptor is not one of this model, or contradicts itself.
    pub(crate) fn put_state(&self, queue: &mut Queue) -> Result<(), Errno> {
        if self.mqd.len() != MQD_BYTES || self.head.mqd_size as usize != MQD_BYTES {
            return Err(Errno::EINVAL);
        }
        let mqd: Mqd = bytemuck::pod_read_unaligned(&self.mqd);
        let known = mqd.magic == MQD_MAGIC && mqd.version == MQD_VERSION;
        if !known || mqd.halted > 1 || mqd.is_nested > 1 || mqd.nested_at > mqd.nested_bytes {
            return Err(Errno::EINVAL);
        }
        let nested = Nested { va: mqd.nested_va, len_bytes: mqd.nested_bytes, at: mqd.nested_at };
        let nested = (mqd.is_nested == 1).then_some(nested);
        queue.state.position = Position { read: mqd.read, done: mqd.done, nested };
        queue.state.halted = mqd.halted == 1;
        queue.cu_mask = mqd.cu_mask;
        Ok(())
    }
}

/// Smallest ring; a smaller one is made this large (`KFD_MIN_QUEUE_RING_SIZE`).
pub(crate) const RING_BYTES_MIN: u32 = 1024;

#[cfg(test)]
mod tests {
    use super::{DOORBELLS_NOT_COMPUTE, QueueKind, SdmaQueues};
    use crate::model::memory::GpuConfig;

    fn config(sdma: u32, xgmi: u32) -> GpuConfig {
        GpuConfig {
            gpu_id: 1,
            render_minor: 128,
            vram_bytes: 0,
            vram_visible_bytes: 0,
            sdma_queues_max: sdma,
            sdma_xgmi_queues_max: xgmi,
            compute_queues_max: 24,
            gb_addr_config: 0x2a11_0042,
            offset_first: GpuConfig::OFFSET_FIRST,
            hive_id: 0,
            xnack: true,
        }
    }

    #[test]
    fn sdma_queues_have_doorbells_of_their_own_below_the_page_end() {
        for (sdma, xgmi) in [(16, 24), (16, 112), (2, 0)] {
            let config = config(sdma, xgmi);
            let mut slots = Vec::new();
            for kind in [QueueKind::Sdma, QueueKind::SdmaXgmi] {
                let queues = SdmaQueues::of(&config, kind);
                slots.extend((0..queues.count).map(|number| queues.doorbell(number)));
            }
            let count = slots.len();
            slots.sort_unstable();
            slots.dedup();
            assert_eq!(slots.len(), count);
            assert!(slots.iter().all(|slot| DOORBELLS_NOT_COMPUTE.contains(&(slot % 512))));
        }
    }

    #[test]
    fn numbers_of_the_first_engines_are_those_of_the_driver() {
        let queues = SdmaQueues::of(&config(16, 24), QueueKind::Sdma);
        let doorbells: Vec<u32> = (0..4).map(|number| queues.doorbell(number)).collect();
        assert_eq!(doorbells, [0x100, 0x10a, 0x300, 0x30a]);
        let xgmi = SdmaQueues::of(&config(16, 24), QueueKind::SdmaXgmi);
        assert_eq!((xgmi.engine(0), xgmi.doorbell(0)), (2, 0x114));
    }
}
