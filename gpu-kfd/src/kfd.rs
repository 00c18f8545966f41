//! The compute driver's device file: one method for each call.
//!
//! [`KfdFd`] passes arguments on and says what came back; it keeps no books of handles or queues,
//! which the driver does. Checkpoint and restore stand in `criu.rs`. A call that points to
//! memory takes slices; addresses that the driver only notes (of a ring, say) are numbers, and
//! belong to the process that makes the calls.
//!
//! The driver takes arguments of any length: it copies what the caller has and takes the rest for
//! zeros. So one layout serves all kernels, and a field that an old kernel does not know is not
//! looked at. Of debugger calls only `RUNTIME_ENABLE` is here.

use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::block::Block;
use crate::error::DeviceError;
use crate::ioctl::{DeviceFile, FileNumber, Local, call, plain, take, with_lent};
use crate::uapi::debug::RuntimeEnableArgs;
use crate::uapi::events::{
    CreateEventArgs, DestroyEventArgs, EventData, ResetEventArgs, SetEventArgs, SmiEventsArgs,
    WaitEventsArgs, wait_result,
};
use crate::uapi::kfd::{
    AcquireVmArgs, AllocMemoryOfGpuArgs, AllocQueueGwsArgs, CreateQueueArgs, DestroyQueueArgs,
    ExportDmabufArgs, FreeMemoryOfGpuArgs, GetAvailableMemoryArgs, GetClockCountersArgs,
    GetDmabufInfoArgs, GetProcessAperturesNewArgs, GetQueueWaveStateArgs, GetTileConfigArgs,
    GetVersionArgs, ImportDmabufArgs, MapMemoryToGpuArgs, ProcessDeviceApertures, SetCuMaskArgs,
    SetMemoryPolicyArgs, SetScratchBackingVaArgs, SetTrapHandlerArgs, UnmapMemoryFromGpuArgs,
    UpdateQueueArgs, ioc,
};
use crate::uapi::svm::{SetXnackModeArgs, SvmArgs, SvmAttribute, svm_op};

/// Where the device is.
pub const KFD_PATH: &str = "/dev/kfd";

/// Most GPUs of a host that are let through: the driver keeps 16 bits for ids; hosts have tens.
const GPUS_MAX: u32 = 1024;

/// Room for tiling registers; no chip has more (`GET_TILE_CONFIG` on gfx7 and gfx8).
const TILES: usize = 32;

/// Room for macro tiling registers.
const MACRO_TILES: usize = 16;

/// An open `/dev/kfd`. The driver's state belongs to the process that makes the calls.
#[derive(Debug)]
pub struct KfdFd<F = Local> {
    pub(crate) file: F,
}

/// How a wait for events ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// What was waited for has happened.
    Complete,
    /// The time is over.
    TimedOut,
    /// An event was destroyed meanwhile, or a GPU was reset.
    Failed,
}

/// Answer of [`KfdFd::tile_config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TileConfig {
    /// Tiling registers.
    pub tiles: Vec<u32>,
    /// Macro tiling registers.
    pub macro_tiles: Vec<u32>,
    /// The other answers.
    pub summary: GetTileConfigArgs,
}

impl KfdFd {
    /// Opens [`KFD_PATH`]. The first open of a process makes the driver's state for it.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Refused`].
    pub fn open() -> Result<Self, DeviceError> {
        Self::open_at(KFD_PATH)
    }

    /// Opens the device at another path.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Refused`].
    pub fn open_at(path: impl AsRef<Path>) -> Result<Self, DeviceError> {
        Ok(Self::of(Local::open(path.as_ref())?))
    }
}

impl AsFd for KfdFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Each method is one call of the driver, named alike, and fails with [`DeviceError::Refused`] as
/// the driver does, or with [`DeviceError::NotMade`] if who should make the call cannot.
impl<F: DeviceFile> KfdFd<F> {
    /// An open device file.
    pub fn of(file: F) -> Self {
        Self { file }
    }

    /// Gives the file back.
    pub fn into_file(self) -> F {
        self.file
    }

    /// Major and minor version of the interface.
    pub fn version(&mut self) -> Result<(u32, u32), DeviceError> {
        let none = GetVersionArgs::default();
        let version = plain(&mut self.file, "GET_VERSION", ioc::GET_VERSION, &none)?;
        Ok((version.major_version, version.minor_version))
    }

    /// Makes a queue; the answers are filled in.
    pub fn create_queue(
        &mut self,
        queue: &CreateQueueArgs,
    ) -> Result<CreateQueueArgs, DeviceError> {
        plain(&mut self.file, "CREATE_QUEUE", ioc::CREATE_QUEUE, queue)
    }

    /// Ends a queue.
    pub fn destroy_queue(&mut self, queue_id: u32) -> Result<(), DeviceError> {
        let queue = DestroyQueueArgs { queue_id, ..Default::default() };
        plain(&mut self.file, "DESTROY_QUEUE", ioc::DESTROY_QUEUE, &queue).map(drop)
    }

    /// Changes ring, share and priority of a queue.
    pub fn update_queue(&mut self, queue: &UpdateQueueArgs) -> Result<(), DeviceError> {
        plain(&mut self.file, "UPDATE_QUEUE", ioc::UPDATE_QUEUE, queue).map(drop)
    }

    /// Says which compute units a queue may use: a bit for each.
    pub fn set_cu_mask(&mut self, queue_id: u32, mask: &[u32]) -> Result<(), DeviceError> {
        let num_cu_mask = mask.len() as u32 * u32::BITS;
        let mut block = Block::new(&SetCuMaskArgs { queue_id, num_cu_mask, cu_mask_ptr: 0 });
        block.array(offset_of!(SetCuMaskArgs, cu_mask_ptr), mask);
        call(&mut self.file, "SET_CU_MASK", ioc::SET_CU_MASK, &mut block).map(drop)
    }

    /// Saves the control stack of a stopped queue to an address, and tells the sizes.
    pub fn queue_wave_state(
        &mut self,
        queue_id: u32,
        ctl_stack_address: u64,
    ) -> Result<GetQueueWaveStateArgs, DeviceError> {
        let state = GetQueueWaveStateArgs { queue_id, ctl_stack_address, ..Default::default() };
        plain(&mut self.file, "GET_QUEUE_WAVE_STATE", ioc::GET_QUEUE_WAVE_STATE, &state)
    }

    /// Lets a queue use global wave sync.
    pub fn alloc_queue_gws(&mut self, queue_id: u32, num_gws: u32) -> Result<u32, DeviceError> {
        let gws = AllocQueueGwsArgs { queue_id, num_gws, ..Default::default() };
        Ok(plain(&mut self.file, "ALLOC_QUEUE_GWS", ioc::ALLOC_QUEUE_GWS, &gws)?.first_gws)
    }

    /// Sets the caching of an address range on old chips.
    pub fn set_memory_policy(&mut self, policy: &SetMemoryPolicyArgs) -> Result<(), DeviceError> {
        plain(&mut self.file, "SET_MEMORY_POLICY", ioc::SET_MEMORY_POLICY, policy).map(drop)
    }

    /// Clocks of a GPU and of the host; GPU id 0 for the host's only.
    pub fn clock_counters(&mut self, gpu_id: u32) -> Result<GetClockCountersArgs, DeviceError> {
        let clocks = GetClockCountersArgs { gpu_id, ..Default::default() };
        plain(&mut self.file, "GET_CLOCK_COUNTERS", ioc::GET_CLOCK_COUNTERS, &clocks)
    }

    /// Address ranges of all GPUs in the process.
    pub fn process_apertures(&mut self) -> Result<Vec<ProcessDeviceApertures>, DeviceError> {
        const OPERATION: &str = "GET_PROCESS_APERTURES_NEW";
        let none = GetProcessAperturesNewArgs::default();
        let request = ioc::GET_PROCESS_APERTURES_NEW;
        let count = plain(&mut self.file, OPERATION, request, &none)?.num_of_nodes;
        self.limit(OPERATION, "GPUs", count.into(), GPUS_MAX.into())?;
        if count == 0 {
            return Ok(Vec::new());
        }
        let room = vec![ProcessDeviceApertures::default(); count as usize];
        let mut block = Block::new(&GetProcessAperturesNewArgs { num_of_nodes: count, ..none });
        let pointer = offset_of!(GetProcessAperturesNewArgs, kfd_process_device_apertures_ptr);
        let part = block.array(pointer, &room);
        call(&mut self.file, OPERATION, request, &mut block)?;
        let filled = block.argument::<GetProcessAperturesNewArgs>().num_of_nodes.min(count);
        Ok(block.elements(&part)[..filled as usize].to_vec())
    }

    /// Makes an event; the answers are filled in.
    pub fn create_event(
        &mut self,
        event: &CreateEventArgs,
    ) -> Result<CreateEventArgs, DeviceError> {
        plain(&mut self.file, "CREATE_EVENT", ioc::CREATE_EVENT, event)
    }

    /// Ends an event.
    pub fn destroy_event(&mut self, event_id: u32) -> Result<(), DeviceError> {
        let event = DestroyEventArgs { event_id, ..Default::default() };
        plain(&mut self.file, "DESTROY_EVENT", ioc::DESTROY_EVENT, &event).map(drop)
    }

    /// Signals an event.
    pub fn set_event(&mut self, event_id: u32) -> Result<(), DeviceError> {
        let event = SetEventArgs { event_id, ..Default::default() };
        plain(&mut self.file, "SET_EVENT", ioc::SET_EVENT, &event).map(drop)
    }

    /// Takes a signal back.
    pub fn reset_event(&mut self, event_id: u32) -> Result<(), DeviceError> {
        let event = ResetEventArgs { event_id, ..Default::default() };
        plain(&mut self.file, "RESET_EVENT", ioc::RESET_EVENT, &event).map(drop)
    }

    /// Waits until one event or all of them are signalled; what happened is in `events` then.
    ///
    /// The time is in milliseconds; `u32::MAX` waits for ever.
    pub fn wait_events(
        &mut self,
        events: &mut [EventData],
        all: bool,
        timeout_ms: u32,
    ) -> Result<Waited, DeviceError> {
        let mut block = Block::new(&WaitEventsArgs {
            num_events: events.len() as u32,
            wait_for_all: all.into(),
            timeout: timeout_ms,
            ..Default::default()
        });
        let part = block.array(offset_of!(WaitEventsArgs, events_ptr), events);
        call(&mut self.file, "WAIT_EVENTS", ioc::WAIT_EVENTS, &mut block)?;
        events.copy_from_slice(block.elements(&part));
        Ok(match block.argument::<WaitEventsArgs>().wait_result {
            wait_result::COMPLETE => Waited::Complete,
            wait_result::TIMEOUT => Waited::TimedOut,
            _ => Waited::Failed,
        })
    }

    /// Opens a stream of system events of a GPU.
    pub fn smi_events(&mut self, gpuid: u32) -> Result<OwnedFd, DeviceError> {
        const OPERATION: &str = "SMI_EVENTS";
        let stream = SmiEventsArgs { gpuid, ..Default::default() };
        let stream = plain(&mut self.file, OPERATION, ioc::SMI_EVENTS, &stream)?;
        take(&mut self.file, OPERATION, stream.anon_fd as i32)
    }

    /// Says where private memory of waves lives.
    pub fn set_scratch_backing_va(&mut self, gpu_id: u32, va_addr: u64) -> Result<(), DeviceError> {
        let scratch = SetScratchBackingVaArgs { gpu_id, va_addr, ..Default::default() };
        let request = ioc::SET_SCRATCH_BACKING_VA;
        plain(&mut self.file, "SET_SCRATCH_BACKING_VA", request, &scratch).map(drop)
    }

    /// Tiling registers of a GPU.
    pub fn tile_config(&mut self, gpu_id: u32) -> Result<TileConfig, DeviceError> {
        let mut block = Block::new(&GetTileConfigArgs {
            gpu_id,
            num_tile_configs: TILES as u32,
            num_macro_tile_configs: MACRO_TILES as u32,
            ..Default::default()
        });
        let tiles = block.array(offset_of!(GetTileConfigArgs, tile_config_ptr), &[0_u32; TILES]);
        let pointer = offset_of!(GetTileConfigArgs, macro_tile_config_ptr);
        let macro_tiles = block.array(pointer, &[0_u32; MACRO_TILES]);
        call(&mut self.file, "GET_TILE_CONFIG", ioc::GET_TILE_CONFIG, &mut block)?;
        let summary: GetTileConfigArgs = block.argument();
        let filled = |room: &[u32], count: u32| room[..room.len().min(count as usize)].to_vec();
        Ok(TileConfig {
            tiles: filled(block.elements(&tiles), summary.num_tile_configs),
            macro_tiles: filled(block.elements(&macro_tiles), summary.num_macro_tile_configs),
            summary,
        })
    }

    /// Sets the second-level trap handler.
    pub fn set_trap_handler(&mut self, handler: &SetTrapHandlerArgs) -> Result<(), DeviceError> {
        plain(&mut self.file, "SET_TRAP_HANDLER", ioc::SET_TRAP_HANDLER, handler).map(drop)
    }

    /// Takes the GPU address space of an open render node for the process; once for each GPU.
    pub fn acquire_vm(&mut self, gpu_id: u32, render: FileNumber) -> Result<(), DeviceError> {
        let vm = AcquireVmArgs { drm_fd: render.0 as u32, gpu_id };
        plain(&mut self.file, "ACQUIRE_VM", ioc::ACQUIRE_VM, &vm).map(drop)
    }

    /// Makes a buffer object; the answers are filled in.
    pub fn alloc_memory(
        &mut self,
        memory: &AllocMemoryOfGpuArgs,
    ) -> Result<AllocMemoryOfGpuArgs, DeviceError> {
        plain(&mut self.file, "ALLOC_MEMORY_OF_GPU", ioc::ALLOC_MEMORY_OF_GPU, memory)
    }

    /// Frees a buffer object that no GPU maps.
    pub fn free_memory(&mut self, handle: u64) -> Result<(), DeviceError> {
        let memory = FreeMemoryOfGpuArgs { handle };
        plain(&mut self.file, "FREE_MEMORY_OF_GPU", ioc::FREE_MEMORY_OF_GPU, &memory).map(drop)
    }

    /// Bytes of VRAM that can still be allocated.
    pub fn available_memory(&mut self, gpu_id: u32) -> Result<u64, DeviceError> {
        let memory = GetAvailableMemoryArgs { gpu_id, ..Default::default() };
        Ok(plain(&mut self.file, "AVAILABLE_MEMORY", ioc::AVAILABLE_MEMORY, &memory)?.available)
    }

    /// Maps a buffer object to GPUs, at the address that it was made with.
    pub fn map_memory(&mut self, handle: u64, gpu_ids: &[u32]) -> Result<(), DeviceError> {
        let n_devices = gpu_ids.len() as u32;
        let mut block = Block::new(&MapMemoryToGpuArgs { handle, n_devices, ..Default::default() });
        block.array(offset_of!(MapMemoryToGpuArgs, device_ids_array_ptr), gpu_ids);
        call(&mut self.file, "MAP_MEMORY_TO_GPU", ioc::MAP_MEMORY_TO_GPU, &mut block).map(drop)
    }

    /// Unmaps a buffer object from GPUs.
    pub fn unmap_memory(&mut self, handle: u64, gpu_ids: &[u32]) -> Result<(), DeviceError> {
        let n_devices = gpu_ids.len() as u32;
        let argument = UnmapMemoryFromGpuArgs { handle, n_devices, ..Default::default() };
        let mut block = Block::new(&argument);
        block.array(offset_of!(UnmapMemoryFromGpuArgs, device_ids_array_ptr), gpu_ids);
        let request = ioc::UNMAP_MEMORY_FROM_GPU;
        call(&mut self.file, "UNMAP_MEMORY_FROM_GPU", request, &mut block).map(drop)
    }

    /// What a dma-buf is; as much of its metadata as `metadata` has room for is copied there.
    pub fn dmabuf_info(
        &mut self,
        dmabuf: BorrowedFd<'_>,
        metadata: &mut [u8],
    ) -> Result<GetDmabufInfoArgs, DeviceError> {
        const OPERATION: &str = "GET_DMABUF_INFO";
        with_lent(&mut self.file, OPERATION, dmabuf, |file, lent| {
            let mut block = Block::new(&GetDmabufInfoArgs {
                metadata_size: metadata.len() as u32,
                dmabuf_fd: lent.0 as u32,
                ..Default::default()
            });
            let part = block.array(offset_of!(GetDmabufInfoArgs, metadata_ptr), metadata);
            call(file, OPERATION, ioc::GET_DMABUF_INFO, &mut block)?;
            metadata.copy_from_slice(block.elements(&part));
            Ok(block.argument())
        })
    }

    /// Makes a buffer object of a dma-buf, and gives its handle.
    pub fn import_dmabuf(
        &mut self,
        dmabuf: BorrowedFd<'_>,
        gpu_id: u32,
        va_addr: u64,
    ) -> Result<u64, DeviceError> {
        const OPERATION: &str = "IMPORT_DMABUF";
        with_lent(&mut self.file, OPERATION, dmabuf, |file, lent| {
            let dmabuf_fd = lent.0 as u32;
            let argument = ImportDmabufArgs { va_addr, gpu_id, dmabuf_fd, handle: 0 };
            Ok(plain(file, OPERATION, ioc::IMPORT_DMABUF, &argument)?.handle)
        })
    }

    /// Makes a dma-buf of a buffer object; flags as of `open`.
    pub fn export_dmabuf(&mut self, handle: u64, flags: u32) -> Result<OwnedFd, DeviceError> {
        const OPERATION: &str = "EXPORT_DMABUF";
        let argument = ExportDmabufArgs { handle, flags, ..Default::default() };
        let answer = plain(&mut self.file, OPERATION, ioc::EXPORT_DMABUF, &argument)?;
        take(&mut self.file, OPERATION, answer.dmabuf_fd as i32)
    }

    /// Sets attributes of a range of shared virtual memory.
    pub fn svm_set(
        &mut self,
        start_addr: u64,
        size: u64,
        attributes: &[SvmAttribute],
    ) -> Result<(), DeviceError> {
        self.svm("SVM SET_ATTR", start_addr, size, svm_op::SET_ATTR, attributes).map(drop)
    }

    /// Asks for attributes of a range; their values are filled in.
    pub fn svm_get(
        &mut self,
        start_addr: u64,
        size: u64,
        attributes: &mut [SvmAttribute],
    ) -> Result<(), DeviceError> {
        let block = self.svm("SVM GET_ATTR", start_addr, size, svm_op::GET_ATTR, attributes)?;
        attributes.copy_from_slice(block.tail::<SvmArgs, SvmAttribute>());
        Ok(())
    }

    fn svm(
        &mut self,
        operation: &'static str,
        start_addr: u64,
        size: u64,
        op: u32,
        attributes: &[SvmAttribute],
    ) -> Result<Block, DeviceError> {
        // The request has 14 bits for the size of the argument.
        let limit = ((1 << 14) - 1 - size_of::<SvmArgs>()) / size_of::<SvmAttribute>();
        self.limit(operation, "attributes", attributes.len() as u64, limit as u64)?;
        let nattr = attributes.len() as u32;
        let mut block = Block::with_tail(&SvmArgs { start_addr, size, op, nattr }, attributes);
        call(&mut self.file, operation, ioc::SVM, &mut block)?;
        Ok(block)
    }

    /// Whether GPU page faults are retried; `None` only asks.
    pub fn xnack_mode(&mut self, set: Option<bool>) -> Result<bool, DeviceError> {
        let xnack_enabled = set.map_or(-1, i32::from);
        let mode = SetXnackModeArgs { xnack_enabled };
        let mode = plain(&mut self.file, "SET_XNACK_MODE", ioc::SET_XNACK_MODE, &mode)?;
        Ok(mode.xnack_enabled != 0)
    }

    /// Tells the debugger interface that a runtime is there, or goes.
    pub fn runtime_enable(
        &mut self,
        runtime: &RuntimeEnableArgs,
    ) -> Result<RuntimeEnableArgs, DeviceError> {
        plain(&mut self.file, "RUNTIME_ENABLE", ioc::RUNTIME_ENABLE, runtime)
    }

    /// Refuses more of something than can be.
    pub(crate) fn limit(
        &self,
        operation: &'static str,
        what: &'static str,
        count: u64,
        limit: u64,
    ) -> Result<(), DeviceError> {
        if count <= limit {
            return Ok(());
        }
        let path = self.file.path().to_owned();
        Err(DeviceError::TooMany { operation, path, what, count, limit })
    }
}
