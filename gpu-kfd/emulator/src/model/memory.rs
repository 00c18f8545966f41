//! GPUs and their buffer objects: who has how much memory, and where its pages are.
//!
//! A buffer has an identity of its own; handles of files, KFD handles, mappings and dma-bufs refer
//! to it and hold one reference each. The last one gives the pages back. Offsets of pages are never
//! given out twice: a stale offset shows zeros, not the memory of somebody else.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::Inconsistent;
use super::vm::{PAGE_BYTES, Segment};
use super::world::{BufferId, GpuIndex, PagesAt, SpaceId, Store, World};

/// Offsets stay below this, so that buffers and doorbells cannot meet in one number.
const OFFSET_END: u64 = 1 << 61;

/// What the model must know of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuConfig {
    /// Identifier in the topology and in KFD calls; unique in the node, not 0, 16 bits.
    pub gpu_id: u32,
    /// Minor of its render node; unique in the node.
    pub render_minor: u32,
    /// Device memory in bytes.
    pub vram_bytes: u64,
    /// The part of it that the host can map, in bytes; all of it on a machine with a large BAR.
    pub vram_visible_bytes: u64,
    /// SDMA queues that user processes may have.
    pub sdma_queues_max: u32,
    /// SDMA queues over XGMI that user processes may have.
    pub sdma_xgmi_queues_max: u32,
    /// Compute queues that all user processes may have together.
    pub compute_queues_max: u32,
    /// Register `GB_ADDR_CONFIG`, which programs may read.
    pub gb_addr_config: u32,
    /// XGMI hive; 0 for none.
    pub hive_id: u64,
    /// First offset at which its buffers can be mapped: whole pages, from
    /// [`GpuConfig::OFFSET_FIRST`] on. Where two nodes differ in it, an offset that was kept from
    /// one to the other shows itself.
    pub offset_first: u64,
    /// Retry of page faults can be chosen for each process (GFX9.0a and GFX9.4.x).
    pub xnack: bool,
}

impl GpuConfig {
    /// Lowest offset that a GPU gives out (`DRM_FILE_PAGE_OFFSET_START` of `drm_vma_manager.h`).
    pub const OFFSET_FIRST: u64 = 1 << 32;
}

/// A GPU of the node.
#[derive(Clone, Debug)]
pub(crate) struct Gpu {
    pub(crate) config: GpuConfig,
    pub(crate) vram_used_bytes: u64,
    offset_next: u64,
}

/// What a buffer is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Device memory.
    Vram,
    /// System memory that the driver allocated.
    Gtt,
    /// Memory of a process.
    User { space: SpaceId, address: u64 },
    /// The doorbell pages of a process on a GPU.
    Doorbell,
    /// The register page of a GPU that user space may see.
    Registers,
}

/// A buffer object.
#[derive(Clone, Debug)]
pub(crate) struct Buffer {
    pub(crate) gpu: GpuIndex,
    pub(crate) kind: Kind,
    pub(crate) size_bytes: u64,
    /// Where its pages are, and what `mmap` takes; meaningless for `Kind::User`.
    pub(crate) at: PagesAt,
    /// `AMDGPU_GEM_CREATE_*`.
    pub(crate) gem_flags: u64,
    pub(crate) alignment: u64,
    /// `AMDGPU_GEM_DOMAIN_*`.
    pub(crate) domains: u64,
    /// A note of the owner, and what it says of the note and of the layout.
    pub(crate) metadata: Vec<u8>,
    pub(crate) metadata_flags: u64,
    pub(crate) tiling_info: u64,
    /// What `mmap` takes on the render nodes of other GPUs that have imported it.
    import_offsets: BTreeMap<GpuIndex, u64>,
    refs: u32,
}

/// What a new buffer shall be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewBuffer {
    pub(crate) kind: Kind,
    pub(crate) size_bytes: u64,
    pub(crate) gem_flags: u64,
    pub(crate) alignment: u64,
    pub(crate) domains: u64,
}

/// All memory of the node.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pub(crate) gpus: Vec<Gpu>,
    buffers: BTreeMap<BufferId, Buffer>,
    system_bytes: u64,
    system_used_bytes: u64,
    last: u64,
}

impl Memory {
    pub(crate) fn new(configs: Vec<GpuConfig>, system_bytes: u64) -> Self {
        let gpus = configs
            .into_iter()
            .map(|config| Gpu { vram_used_bytes: 0, offset_next: config.offset_first, config })
            .collect();
        Self { gpus, buffers: BTreeMap::new(), system_bytes, system_used_bytes: 0, last: 0 }
    }

    pub(crate) fn gpu(&self, gpu: GpuIndex) -> &Gpu {
        &self.gpus[usize::from(gpu.0)]
    }

    fn gpu_mut(&mut self, gpu: GpuIndex) -> &mut Gpu {
        &mut self.gpus[usize::from(gpu.0)]
    }

    /// Makes a buffer with one reference. Sizes are rounded up to whole pages.
    ///
    /// # Errors
    /// `ENOMEM` if a limit would be exceeded, `EINVAL` for a size of 0.
    pub(crate) fn create(&mut self, gpu: GpuIndex, new: NewBuffer) -> Result<BufferId, Errno> {
        let size_bytes =
            new.size_bytes.checked_next_multiple_of(PAGE_BYTES).ok_or(Errno::ENOMEM)?;
        if size_bytes == 0 {
            return Err(Errno::EINVAL);
        }
        self.charge(gpu, new.kind, size_bytes)?;
        match self.reserve_offset(gpu, size_bytes) {
            Ok(offset) => {
                let at = PagesAt { store: Store::Gpu(gpu), offset };
                Ok(self.add(gpu, new, size_bytes, at))
            }
            Err(errno) => {
                self.uncharge(gpu, new.kind, size_bytes);
                Err(errno)
            }
        }
    }

    fn reserve_offset(&mut self, gpu: GpuIndex, size_bytes: u64) -> Result<u64, Errno> {
        let state = self.gpu_mut(gpu);
        let offset = state.offset_next;
        // A page stays free behind each, so that running over an end does not meet the next.
        let next = offset.checked_add(size_bytes + PAGE_BYTES).filter(|next| *next < OFFSET_END);
        state.offset_next = next.ok_or(Errno::ENOMEM)?;
        Ok(offset)
    }

    /// What `mmap` of a render node of `gpu` takes for a buffer.
    ///
    /// An import from another GPU has an offset of its own there. The driver's mapping of it ends
    /// in `SIGBUS`; ours shows zeros.
    ///
    /// # Errors
    /// `ENOMEM` if the offsets of a GPU are used up.
    pub(crate) fn mmap_offset(&mut self, gpu: GpuIndex, id: BufferId) -> Result<u64, Errno> {
        let buffer = self.buffer(id);
        if buffer.gpu == gpu {
            return Ok(buffer.at.offset);
        }
        if let Some(offset) = buffer.import_offsets.get(&gpu) {
            return Ok(*offset);
        }
        let offset = self.reserve_offset(gpu, buffer.size_bytes)?;
        if let Some(buffer) = self.buffer_mut(id) {
            buffer.import_offsets.insert(gpu, offset);
        }
        Ok(offset)
    }

    /// Makes a buffer over pages that belong to something else (doorbells, registers).
    pub(crate) fn create_at(&mut self, gpu: GpuIndex, new: NewBuffer, at: PagesAt) -> BufferId {
        self.add(gpu, new, new.size_bytes, at)
    }

    fn add(&mut self, gpu: GpuIndex, new: NewBuffer, size_bytes: u64, at: PagesAt) -> BufferId {
        self.last += 1;
        let id = BufferId(self.last);
        let NewBuffer { kind, gem_flags, alignment, domains, .. } = new;
        let buffer = Buffer {
            gpu,
            kind,
            size_bytes,
            at,
            gem_flags,
            alignment,
            domains,
            metadata: Vec::new(),
            metadata_flags: 0,
            tiling_info: 0,
            import_offsets: BTreeMap::new(),
            refs: 1,
        };
        self.buffers.insert(id, buffer);
        id
    }

    /// A buffer that a reference is held of.
    pub(crate) fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[&id]
    }

    pub(crate) fn buffer_mut(&mut self, id: BufferId) -> Option<&mut Buffer> {
        self.buffers.get_mut(&id)
    }

    /// A buffer that may be gone.
    pub(crate) fn find(&self, id: BufferId) -> Option<&Buffer> {
        self.buffers.get(&id)
    }

    pub(crate) fn buffers(&self) -> impl Iterator<Item = (BufferId, &Buffer)> {
        self.buffers.iter().map(|(id, buffer)| (*id, buffer))
    }

    /// Takes one more reference.
    pub(crate) fn retain(&mut self, id: BufferId) {
        self.buffers.get_mut(&id).expect("somebody holds a reference").refs += 1;
    }

    /// Gives one reference back, and with the last one the memory.
    pub(crate) fn release(&mut self, world: &mut dyn World, id: BufferId) {
        let buffer = self.buffers.get_mut(&id).expect("somebody holds a reference");
        buffer.refs -= 1;
        if buffer.refs > 0 {
            return;
        }
        let buffer = self.buffers.remove(&id).expect("it was just there");
        if matches!(buffer.kind, Kind::Vram | Kind::Gtt) {
            world.discard_pages(buffer.at, buffer.size_bytes);
        }
        for (gpu, offset) in buffer.import_offsets {
            let at = PagesAt { store: Store::Gpu(gpu), offset };
            world.discard_pages(at, buffer.size_bytes);
        }
        self.uncharge(buffer.gpu, buffer.kind, buffer.size_bytes);
    }

    /// Takes back a buffer that nobody has seen yet.
    pub(crate) fn forget_new(&mut self, id: BufferId) {
        let buffer = self.buffers.remove(&id).expect("it was just made");
        self.uncharge(buffer.gpu, buffer.kind, buffer.size_bytes);
    }

    fn charge(&mut self, gpu: GpuIndex, kind: Kind, size_bytes: u64) -> Result<(), Errno> {
        let (used, limit) = match kind {
            Kind::Vram => {
                let state = self.gpu_mut(gpu);
                (&mut state.vram_used_bytes, state.config.vram_bytes)
            }
            Kind::Gtt | Kind::User { .. } => (&mut self.system_used_bytes, self.system_bytes),
            Kind::Doorbell | Kind::Registers => return Ok(()),
        };
        let sum = used.checked_add(size_bytes).filter(|sum| *sum <= limit);
        *used = sum.ok_or(Errno::ENOMEM)?;
        Ok(())
    }

    fn uncharge(&mut self, gpu: GpuIndex, kind: Kind, size_bytes: u64) {
        match kind {
            Kind::Vram => self.gpu_mut(gpu).vram_used_bytes -= size_bytes,
            Kind::Gtt | Kind::User { .. } => self.system_used_bytes -= size_bytes,
            Kind::Doorbell | Kind::Registers => {}
        }
    }

    /// System memory in bytes that buffers may take in all.
    pub(crate) fn system_bytes(&self) -> u64 {
        self.system_bytes
    }

    /// The memory behind a part of a buffer that a mapping shows.
    pub(crate) fn segment(&self, id: BufferId, offset: u64, len_bytes: u64) -> Segment {
        let buffer = self.buffer(id);
        match buffer.kind {
            // A client may have named any address; what wraps around is not mapped.
            Kind::User { space, address } => {
                Segment::User(space, address.wrapping_add(offset), len_bytes)
            }
            _ => Segment::Pages(buffer.at.plus(offset), len_bytes),
        }
    }

    /// References that somebody counted elsewhere must be those that are held here.
    ///
    /// # Errors
    /// [`Inconsistent::References`] of the first buffer that differs.
    pub(crate) fn check_references(
        &self,
        counted: &BTreeMap<BufferId, u32>,
    ) -> Result<(), Inconsistent> {
        let held = |id| self.find(id).map_or(0, |buffer| buffer.refs);
        for buffer in self.buffers.keys().chain(counted.keys()).copied() {
            let (held, counted) = (held(buffer), counted.get(&buffer).copied().unwrap_or(0));
            if held != counted {
                return Err(Inconsistent::References { buffer, held, counted });
            }
        }
        Ok(())
    }

    /// What is counted as used must be what buffers have.
    ///
    /// # Errors
    /// [`Inconsistent::Usage`].
    pub(crate) fn check_usage(&self) -> Result<(), Inconsistent> {
        let bytes = |of: &dyn Fn(&Buffer) -> bool| -> u64 {
            self.buffers.values().filter(|buffer| of(buffer)).map(|buffer| buffer.size_bytes).sum()
        };
        let check = |used_bytes, held_bytes| match used_bytes == held_bytes {
            true => Ok(()),
            false => Err(Inconsistent::Usage { used_bytes, held_bytes }),
        };
        for (index, gpu) in self.gpus.iter().enumerate() {
            let here = GpuIndex(index as u8);
            let held_bytes = bytes(&|buffer| buffer.gpu == here && buffer.kind == Kind::Vram);
            check(gpu.vram_used_bytes, held_bytes)?;
        }
        let in_system = bytes(&|buffer| matches!(buffer.kind, Kind::Gtt | Kind::User { .. }));
        check(self.system_used_bytes, in_system)
    }
}
