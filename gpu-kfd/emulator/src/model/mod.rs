//! The driver's state as one value: open files, processes, buffers, queues, events.
//!
//! Pure: no FUSE, no thread, no clock, no system call. What is outside comes through [`World`], so
//! the model runs in any test, and can be broken on purpose.

mod calls;
mod drm;
mod engine;
mod events;
mod file;
mod handles;
mod kfd;
mod memory;
mod process;
mod queues;
mod signals;
mod svm;
mod vm;
mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytemuck::Pod;
use nix::errno::Errno;

use calls::Calls;
pub use calls::{Finished, Outcome};
pub use drm::{InfoSource, InfoState};
pub use engine::BuiltinKernel;
use file::{File, Files, RenderFile};
pub use memory::GpuConfig;
use memory::Memory;
use process::Process;
pub(crate) use vm::{HOLE_END, HOLE_START, VA_END, VA_FIRST, VA_RESERVED_TOP_BYTES};
use vm::{Mapping, Owner};
pub use world::{
    BufferId, Caller, DeviceNode, FileId, GpuIndex, PagesAt, SpaceId, Store, Ticket, World,
};

/// First number that stands for a dma-buf; descriptors are far smaller.
pub const TOKEN_FIRST: u32 = 0x4000_0000;

/// Most processes at one time: their numbers take 14 bits of the offsets of their doorbells.
pub const PROCESSES_MAX: usize = (1 << 14) - 1;

/// What the engines did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Packets that were carried out.
    pub packets: u64,
    /// Bytes that were copied or filled.
    pub bytes: u64,
    /// Packets that could not be carried out, and accesses of jobs where nothing is mapped.
    pub faults: u64,
    /// Work is left that could go on at once (the budget ended first).
    pub more: bool,
    /// There are queues whose doorbells may ring at any time, or packets that wait.
    pub listening: bool,
}

/// The model contradicts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistent {
    /// A buffer has more or fewer references than holders.
    #[error("buffer {} has {held} references, but {counted} holders", buffer.0)]
    References {
        /// Which buffer.
        buffer: BufferId,
        /// References that it has.
        held: u32,
        /// Files, handles, lists and exports that hold it.
        counted: u32,
    },
    /// A GPU mapping shows a buffer that whoever made it does not have.
    #[error("file {} maps at {va:#x} what its owner does not have", file.0)]
    Mapping {
        /// Render node that the address space belongs to.
        file: FileId,
        /// Address of the mapping.
        va: u64,
    },
    /// Memory is counted as used that no buffer has, or the other way round.
    #[error("{used_bytes} bytes are counted as used, but buffers have {held_bytes}")]
    Usage {
        /// What is counted.
        used_bytes: u64,
        /// What buffers have.
        held_bytes: u64,
    },
}

/// The state of the node's driver.
#[derive(Clone, Debug)]
pub struct Model {
    memory: Memory,
    files: Files,
    processes: BTreeMap<SpaceId, Process>,
    calls: Calls,
    engines: engine::Engines,
    /// One for each GPU.
    info_sources: Vec<Arc<dyn InfoSource>>,
}

impl Model {
    /// A node with these GPUs, in this order, and this much system memory for buffers.
    pub fn new(gpus: Vec<GpuConfig>, system_bytes: u64) -> Self {
        let plain = |config: &GpuConfig| Arc::new(drm::PlainGpu(config.clone())) as Arc<_>;
        Self {
            engines: engine::Engines::new(gpus.len()),
            info_sources: gpus.iter().map(plain).collect(),
            memory: Memory::new(gpus, system_bytes),
            files: Files::default(),
            processes: BTreeMap::new(),
            calls: Calls::default(),
        }
    }

    /// Opens a device file.
    ///
    /// # Errors
    /// `ENODEV` for a GPU that is not there, `ENOENT` for a dma-buf that was not exported,
    /// `ENOMEM` if there are too many processes.
    pub fn open(&mut self, caller: &Caller, node: DeviceNode) -> Result<FileId, Errno> {
        match node {
            DeviceNode::Kfd => {
                self.ensure_process(caller.space)?;
                Ok(self.files.open_kfd(caller.space))
            }
            DeviceNode::Render(gpu) if usize::from(gpu.0) < self.memory.gpus.len() => {
                Ok(self.files.open_render(gpu))
            }
            DeviceNode::Render(_) => Err(Errno::ENODEV),
            DeviceNode::DmaBuf(buffer) => {
                self.files.open_dma_buf(&mut self.memory, caller.space, buffer)
            }
        }
    }

    fn ensure_process(&mut self, space: SpaceId) -> Result<(), Errno> {
        if self.processes.contains_key(&space) {
            return Ok(());
        }
        let taken = |number| self.processes.values().any(|process| process.number == number);
        let number = (1..=PROCESSES_MAX as u32).find(|number| !taken(*number));
        let process = Process::new(space, number.ok_or(Errno::ENOMEM)?, &self.memory);
        self.processes.insert(space, process);
        Ok(())
    }

    /// The last close of a file.
    pub fn release(&mut self, world: &mut dyn World, file: FileId) {
        self.calls.finish_all(Err(Errno::EBADF), |parked| parked.file == file);
        self.engines.forget_file(file);
        self.files.release(&mut self.memory, world, file);
        self.fences_advanced();
    }

    /// An address space has ended: its process exited or executed another program.
    pub fn space_ended(&mut self, world: &mut dyn World, space: SpaceId) {
        self.calls.finish_all(Err(Errno::ESRCH), |parked| parked.space == space);
        self.files.drop_exports(&mut self.memory, world, space);
        if let Some(process) = self.processes.remove(&space) {
            process.tear_down(&mut self.memory, &mut self.files, world);
        }
    }

    /// Whether a dma-buf of this buffer can be opened, and its size in bytes.
    pub fn dma_buf_bytes(&self, buffer: BufferId) -> Option<u64> {
        let size = self.memory.find(buffer)?.size_bytes;
        self.files.has_dma_buf(buffer).then_some(size)
    }

    /// The buffer that an open dma-buf stands for.
    pub fn dma_buf_of(&self, file: FileId) -> Option<BufferId> {
        match self.files.get(file) {
            Some(File::DmaBuf(buffer)) => Some(*buffer),
            _ => None,
        }
    }

    /// Whether the KFD knows an address space.
    pub fn has_process(&self, space: SpaceId) -> bool {
        self.processes.contains_key(&space)
    }

    /// Carries out one call. `arg` is the argument block; it goes back to the caller whatever the
    /// result is.
    pub fn ioctl(
        &mut self,
        world: &mut dyn World,
        caller: &Caller,
        file: FileId,
        request: u32,
        arg: &mut [u8],
    ) -> Outcome {
        let call = Call { world, caller: *caller, file, request };
        match self.files.get(file) {
            None => Outcome::Done(Err(Errno::EBADF)),
            Some(File::Kfd(owner)) => {
                let owner = *owner;
                self.kfd(call, owner, arg)
            }
            Some(File::Render(_)) => self.drm(call, arg),
            Some(File::DmaBuf(_)) => Outcome::Done(Err(Errno::ENOTTY)),
        }
    }

    /// Parked calls that have their answer since this was last asked.
    pub fn take_finished(&mut self) -> Vec<Finished> {
        self.calls.take_finished()
    }

    /// A signal came to a caller that waits: its call ends with `EINTR`. The argument block says
    /// what is left of its time.
    pub fn interrupt(&mut self, world: &mut dyn World, ticket: Ticket) {
        self.interrupt_wait(world, ticket);
        self.calls.finish(ticket, Err(Errno::EINTR));
    }

    /// When the next parked call gives up, in nanoseconds of [`World::now_ns`].
    pub fn next_deadline_ns(&self) -> Option<u64> {
        self.calls.next_deadline_ns()
    }

    /// Answers every parked call, for a node that ends.
    pub fn abandon_calls(&mut self) {
        self.calls.finish_all(Err(Errno::ENODEV), |_| true);
    }

    /// Counts every holder of every buffer, and looks whether all else agrees.
    ///
    /// # Errors
    /// [`Inconsistent`], which only a bug in the model can cause.
    pub fn check(&self) -> Result<(), Inconsistent> {
        let mut counted = BTreeMap::new();
        self.files.count_references(&mut counted);
        for process in self.processes.values() {
            for (_, bo) in process.devices.iter().flat_map(|device| device.bos.iter()) {
                *counted.entry(bo.buffer).or_default() += 1;
            }
        }
        self.memory.check_references(&counted)?;
        self.memory.check_usage()?;
        for (id, file) in self.files.render_files() {
            for (va, mapping) in file.vm.iter() {
                if !self.is_owned(file, mapping) {
                    return Err(Inconsistent::Mapping { file: id, va });
                }
            }
        }
        Ok(())
    }

    /// Whether whoever made a mapping still has what it shows.
    fn is_owned(&self, file: &RenderFile, mapping: &Mapping) -> bool {
        match mapping.owner {
            Owner::Hole => true,
            Owner::Gem(handle) => file.buffer_of(handle) == Ok(mapping.buffer),
            Owner::Kfd(gpu, number) => {
                let process = file.compute_of.and_then(|space| self.processes.get(&space));
                let bo = process.and_then(|process| process.on(gpu).bos.get(number));
                bo.is_some_and(|bo| bo.buffer == mapping.buffer)
            }
        }
    }

    /// How many buffers there are.
    pub fn buffers(&self) -> usize {
        self.memory.buffers().count()
    }

    /// The process of a space that is known to have one.
    fn process(&mut self, space: SpaceId) -> Result<&mut Process, Errno> {
        self.processes.get_mut(&space).ok_or(Errno::ESRCH)
    }
}

/// One call on its way through the model.
struct Call<'a> {
    world: &'a mut dyn World,
    caller: Caller,
    file: FileId,
    request: u32,
}

/// The number that an exporting call returns for a buffer, in place of a descriptor.
fn token_of(buffer: BufferId) -> u32 {
    TOKEN_FIRST + buffer.0 as u32
}

/// Reads the argument block as a structure, calls, and writes it back.
///
/// A block that is shorter than the structure is taken as if the rest were zero, a longer one keeps
/// its tail: that is how `kfd_ioctl` and `drm_ioctl` treat callers of other versions.
fn with_args<T: Pod>(arg: &mut [u8], body: impl FnOnce(&mut T) -> Result<i32, Errno>) -> Outcome {
    let mut args = T::zeroed();
    let len = arg.len().min(size_of::<T>());
    bytemuck::bytes_of_mut(&mut args)[..len].copy_from_slice(&arg[..len]);
    let result = body(&mut args);
    arg[..len].copy_from_slice(&bytemuck::bytes_of(&args)[..len]);
    Outcome::Done(result)
}

/// Reads an array of structures from client memory.
///
/// # Errors
/// `EFAULT`; `ENOMEM` if it has more than `limit` elements.
fn read_array<T: Pod>(
    world: &mut dyn World,
    space: SpaceId,
    address: u64,
    count: u64,
    limit: u64,
) -> Result<Vec<T>, Errno> {
    if count > limit {
        return Err(Errno::ENOMEM);
    }
    let mut array = vec![T::zeroed(); count as usize];
    world.read_user(space, address, bytemuck::cast_slice_mut(&mut array))?;
    Ok(array)
}

/// Writes an array of structures into client memory.
///
/// # Errors
/// `EFAULT`.
fn write_array<T: Pod>(
    world: &mut dyn World,
    space: SpaceId,
    address: u64,
    array: &[T],
) -> Result<(), Errno> {
    if array.is_empty() {
        return Ok(());
    }
    world.write_user(space, address, bytemuck::cast_slice(array))
}

#[cfg(test)]
mod tests {
    use gpu_kfd::uapi::amdgpu::domain;

    use super::memory::{Kind, NewBuffer};
    use super::vm::{Mapping, Owner};
    use super::{DeviceNode, GpuConfig, GpuIndex, Inconsistent, Model};
    use crate::fake::FakeWorld;

    /// A model with a buffer of one page under handle 1 of a render node, broken by somebody.
    fn broken(how: impl FnOnce(&mut Model, &mut FakeWorld)) -> Result<(), Inconsistent> {
        let config = GpuConfig {
            gpu_id: 1,
            render_minor: 128,
            vram_bytes: 1 << 20,
            vram_visible_bytes: 1 << 20,
            sdma_queues_max: 1,
            sdma_xgmi_queues_max: 0,
            compute_queues_max: 1,
            gb_addr_config: 0x2a11_0042,
            offset_first: GpuConfig::OFFSET_FIRST,
            hive_id: 0,
            xnack: false,
        };
        let (mut model, mut world) = (Model::new(vec![config], 1 << 20), FakeWorld::new());
        let caller = world.add_client(1);
        let file = model.open(&caller, DeviceNode::Render(GpuIndex(0))).expect("it is there");
        let new = NewBuffer {
            kind: Kind::Vram,
            size_bytes: 4096,
            gem_flags: 0,
            alignment: 4096,
            domains: domain::VRAM,
        };
        let buffer = model.memory.create(GpuIndex(0), new).expect("there is room");
        let render = model.files.render_mut(file).expect("a render node");
        assert_eq!(render.add_handle(buffer), Ok(1));
        let owner = Owner::Gem(1);
        let mapping = Mapping { len_bytes: 4096, buffer, offset: 0, flags: 0, owner };
        render.vm.map(0x10000, mapping).expect("nothing is there");
        how(&mut model, &mut world);
        model.check()
    }

    #[test]
    fn model_that_is_right_is_found_right() {
        assert_eq!(broken(|_, _| ()), Ok(()));
    }

    #[test]
    fn reference_without_a_holder_is_found() {
        let result = broken(|model, _| {
            let (buffer, _) = model.memory.buffers().next().expect("there is one");
            model.memory.retain(buffer);
        });
        assert!(matches!(result, Err(Inconsistent::References { held: 2, counted: 1, .. })));
    }

    #[test]
    fn holder_without_a_reference_is_found() {
        let result = broken(|model, world| {
            let (buffer, _) = model.memory.buffers().next().expect("there is one");
            model.memory.release(world, buffer);
        });
        assert!(matches!(result, Err(Inconsistent::References { held: 0, counted: 1, .. })));
    }

    #[test]
    fn mapping_of_what_is_gone_is_found() {
        let result = broken(|model, _| {
            let (id, _) = model.files.render_files().next().expect("there is one");
            let render = model.files.render_mut(id).expect("there is one");
            render.vm.rename_owner(Owner::Gem(1), Owner::Kfd(GpuIndex(0), 0));
        });
        assert!(matches!(result, Err(Inconsistent::Mapping { va: 0x10000, .. })), "{result:?}");
    }

    #[test]
    fn memory_that_nobody_has_is_found() {
        let result = broken(|model, _| model.memory.gpus[0].vram_used_bytes += 4096);
        let expected = Inconsistent::Usage { used_bytes: 8192, held_bytes: 4096 };
        assert_eq!(result, Err(expected));
    }
}
