//! The compute driver's device file, `/dev/kfd`: requests, queues, memory, apertures.
//!
//! Most fields are input; what the driver answers is said. Interface version 1.18 (Linux 6.18).

use super::criu::CriuArgs;
use super::debug::{DbgTrapArgs, RuntimeEnableArgs};
use super::events::{
    CreateEventArgs, DestroyEventArgs, ResetEventArgs, SetEventArgs, SmiEventsArgs, WaitEventsArgs,
};
use super::svm::{SetXnackModeArgs, SvmArgs};

/// Number of GPUs that [`GetProcessAperturesArgs`] has room for (`NUM_OF_SUPPORTED_GPUS`).
pub const OLD_APERTURES_MAX: usize = 7;

/// Most user-mode queues of one process (`KFD_MAX_NUM_OF_QUEUES_PER_PROCESS`).
pub const QUEUES_MAX: u32 = 1024;

define_layouts! {
    /// Argument of `GET_VERSION`; both are answers.
    struct GetVersionArgs = "struct kfd_ioctl_get_version_args", 8 {
        [0] major_version: u32,
        [4] minor_version: u32,
    }

    /// Argument of `CREATE_QUEUE`.
    ///
    /// Headers before Linux 6.12 end after `ctl_stack_size`.
    struct CreateQueueArgs = "struct kfd_ioctl_create_queue_args", 96 {
        [0] ring_base_address: u64,
        /// User address of the write pointer; an answer only for queues without one.
        [8] write_pointer_address: u64,
        /// User address of the read pointer.
        [16] read_pointer_address: u64,
        /// Answer: mmap offset of the doorbell page, plus the doorbell's offset in it from
        /// Vega10 (SOC15) on.
        [24] doorbell_offset: u64,
        /// In bytes; 0 or a power of two.
        [32] ring_size: u32,
        [36] gpu_id: u32,
        /// See [`queue_type`].
        [40] queue_type: u32,
        /// 0 to 100; bits 8 to 15 say which XCC takes PM4 (Linux 6.5).
        [44] queue_percentage: u32,
        /// 0 to 15.
        [48] queue_priority: u32,
        /// Answer.
        [52] queue_id: u32,
        [56] eop_buffer_address: u64,
        [64] eop_buffer_size: u64,
        [72] ctx_save_restore_address: u64,
        [80] ctx_save_restore_size: u32,
        [84] ctl_stack_size: u32,
        /// For `SDMA_BY_ENG_ID`.
        [88] sdma_engine_id: u32,
        [92] _pad: u32,
    }

    /// Argument of `DESTROY_QUEUE`.
    struct DestroyQueueArgs = "struct kfd_ioctl_destroy_queue_args", 8 {
        [0] queue_id: u32,
        [4] _pad: u32,
    }

    /// Argument of `UPDATE_QUEUE`; a ring of address 0 or percentage 0 stops the queue.
    struct UpdateQueueArgs = "struct kfd_ioctl_update_queue_args", 24 {
        [0] ring_base_address: u64,
        [8] queue_id: u32,
        [12] ring_size: u32,
        [16] queue_percentage: u32,
        [20] queue_priority: u32,
    }

    /// Argument of `SET_CU_MASK`; the mask has `num_cu_mask` bits, a multiple of 32.
    struct SetCuMaskArgs = "struct kfd_ioctl_set_cu_mask_args", 16 {
        [0] queue_id: u32,
        [4] num_cu_mask: u32,
        [8] cu_mask_ptr: u64,
    }

    /// Argument of `GET_QUEUE_WAVE_STATE`; the queue must be stopped. Sizes are answers.
    struct GetQueueWaveStateArgs = "struct kfd_ioctl_get_queue_wave_state_args", 24 {
        [0] ctl_stack_address: u64,
        [8] ctl_stack_used_size: u32,
        [12] save_area_used_size: u32,
        [16] queue_id: u32,
        [20] _pad: u32,
    }

    /// Argument of `SET_MEMORY_POLICY`; see [`cache_policy`].
    struct SetMemoryPolicyArgs = "struct kfd_ioctl_set_memory_policy_args", 32 {
        [0] alternate_aperture_base: u64,
        [8] alternate_aperture_size: u64,
        [16] gpu_id: u32,
        [20] default_policy: u32,
        [24] alternate_policy: u32,
        /// Interface 1.18; padding before.
        [28] misc_process_flag: u32,
    }

    /// Argument of `GET_CLOCK_COUNTERS`; all but `gpu_id` are answers. Times in nanoseconds,
    /// frequency in Hz, GPU counter in its own ticks. `gpu_id` 0 gives the clocks of the CPU only.
    struct GetClockCountersArgs = "struct kfd_ioctl_get_clock_counters_args", 40 {
        [0] gpu_clock_counter: u64,
        [8] cpu_clock_counter: u64,
        [16] system_clock_counter: u64,
        [24] system_clock_freq: u64,
        [32] gpu_id: u32,
        [36] _pad: u32,
    }

    /// Address ranges of a GPU in this process; limits are inclusive.
    struct ProcessDeviceApertures = "struct kfd_process_device_apertures", 56 {
        [0] lds_base: u64,
        [8] lds_limit: u64,
        [16] scratch_base: u64,
        [24] scratch_limit: u64,
        [32] gpuvm_base: u64,
        [40] gpuvm_limit: u64,
        [48] gpu_id: u32,
        [52] _pad: u32,
    }

    /// Argument of `GET_PROCESS_APERTURES`, the old form for up to seven GPUs; all are answers.
    struct GetProcessAperturesArgs = "struct kfd_ioctl_get_process_apertures_args", 400 {
        [0] process_apertures: [ProcessDeviceApertures; OLD_APERTURES_MAX],
        [392] num_of_nodes: u32,
        [396] _pad: u32,
    }

    /// Argument of `GET_PROCESS_APERTURES_NEW`.
    struct GetProcessAperturesNewArgs = "struct kfd_ioctl_get_process_apertures_new_args", 16 {
        /// Array of [`ProcessDeviceApertures`] that the driver fills.
        [0] kfd_process_device_apertures_ptr: u64,
        /// Room of the array; 0 asks for the number. Answer: entries filled.
        [8] num_of_nodes: u32,
        [12] _pad: u32,
    }

    /// Argument of `DBG_REGISTER` and `DBG_UNREGISTER`, which the driver refuses since 5.16.
    struct DbgRegisterArgs = "struct kfd_ioctl_dbg_register_args", 8 {
        [0] gpu_id: u32,
        [4] _pad: u32,
    }

    /// Argument of `DBG_ADDRESS_WATCH` and `DBG_WAVE_CONTROL`, likewise refused.
    struct DbgAddressWatchArgs = "struct kfd_ioctl_dbg_address_watch_args", 16 {
        [0] content_ptr: u64,
        [8] gpu_id: u32,
        [12] buf_size_in_bytes: u32,
    }

    /// Argument of `SET_SCRATCH_BACKING_VA`.
    struct SetScratchBackingVaArgs = "struct kfd_ioctl_set_scratch_backing_va_args", 16 {
        [0] va_addr: u64,
        [8] gpu_id: u32,
        [12] _pad: u32,
    }

    /// Argument of `GET_TILE_CONFIG`; counts are room and answer, the rest but `gpu_id` answers.
    struct GetTileConfigArgs = "struct kfd_ioctl_get_tile_config_args", 40 {
        [0] tile_config_ptr: u64,
        [8] macro_tile_config_ptr: u64,
        [16] num_tile_configs: u32,
        [20] num_macro_tile_configs: u32,
        [24] gpu_id: u32,
        [28] gb_addr_config: u32,
        [32] num_banks: u32,
        [36] num_ranks: u32,
    }

    /// Argument of `SET_TRAP_HANDLER`.
    struct SetTrapHandlerArgs = "struct kfd_ioctl_set_trap_handler_args", 24 {
        [0] tba_addr: u64,
        [8] tma_addr: u64,
        [16] gpu_id: u32,
        [20] _pad: u32,
    }

    /// Argument of `ACQUIRE_VM`: the open render node whose GPU address space the process takes.
    struct AcquireVmArgs = "struct kfd_ioctl_acquire_vm_args", 8 {
        [0] drm_fd: u32,
        [4] gpu_id: u32,
    }

    /// Argument of `ALLOC_MEMORY_OF_GPU`; address and size are multiples of the page size.
    struct AllocMemoryOfGpuArgs = "struct kfd_ioctl_alloc_memory_of_gpu_args", 40 {
        [0] va_addr: u64,
        [8] size: u64,
        /// Answer: which process device, and the number in it.
        [16] handle: u64,
        /// Input for `USERPTR`: the user address. Answer: the offset for `mmap`.
        [24] mmap_offset: u64,
        [32] gpu_id: u32,
        /// See [`alloc`].
        [36] flags: u32,
    }

    /// Argument of `FREE_MEMORY_OF_GPU`.
    struct FreeMemoryOfGpuArgs = "struct kfd_ioctl_free_memory_of_gpu_args", 8 {
        [0] handle: u64,
    }

    /// Argument of `AVAILABLE_MEMORY`; `available` is the answer, in bytes.
    struct GetAvailableMemoryArgs = "struct kfd_ioctl_get_available_memory_args", 16 {
        [0] available: u64,
        [8] gpu_id: u32,
        [12] _pad: u32,
    }

    /// Argument of `MAP_MEMORY_TO_GPU`.
    struct MapMemoryToGpuArgs = "struct kfd_ioctl_map_memory_to_gpu_args", 24 {
        [0] handle: u64,
        /// Array of `n_devices` GPU ids (u32).
        [8] device_ids_array_ptr: u64,
        [16] n_devices: u32,
        /// How many are done already; counts up, so that an interrupted call can be made again.
        [20] n_success: u32,
    }

    /// Argument of `UNMAP_MEMORY_FROM_GPU`, as [`MapMemoryToGpuArgs`].
    struct UnmapMemoryFromGpuArgs = "struct kfd_ioctl_unmap_memory_from_gpu_args", 24 {
        [0] handle: u64,
        [8] device_ids_array_ptr: u64,
        [16] n_devices: u32,
        [20] n_success: u32,
    }

    /// Argument of `ALLOC_QUEUE_GWS`; `first_gws` is the answer, always 0.
    struct AllocQueueGwsArgs = "struct kfd_ioctl_alloc_queue_gws_args", 16 {
        [0] queue_id: u32,
        [4] num_gws: u32,
        [8] first_gws: u32,
        [12] _pad: u32,
    }

    /// Argument of `GET_DMABUF_INFO`.
    struct GetDmabufInfoArgs = "struct kfd_ioctl_get_dmabuf_info_args", 32 {
        /// Answer, in bytes.
        [0] size: u64,
        [8] metadata_ptr: u64,
        /// Room for metadata in bytes; answer: its size.
        [16] metadata_size: u32,
        /// Answer.
        [20] gpu_id: u32,
        /// Answer: see [`alloc`].
        [24] flags: u32,
        [28] dmabuf_fd: u32,
    }

    /// Argument of `IMPORT_DMABUF`; `handle` is the answer.
    struct ImportDmabufArgs = "struct kfd_ioctl_import_dmabuf_args", 24 {
        [0] va_addr: u64,
        [8] handle: u64,
        [16] gpu_id: u32,
        [20] dmabuf_fd: u32,
    }

    /// Argument of `EXPORT_DMABUF`; flags are those of `open` (`O_CLOEXEC`, `O_RDWR`), the
    /// descriptor is the answer.
    struct ExportDmabufArgs = "struct kfd_ioctl_export_dmabuf_args", 16 {
        [0] handle: u64,
        [8] flags: u32,
        [12] dmabuf_fd: u32,
    }
}

define_numbers! {
    /// What kind of engine a queue feeds, and in which language.
    mod queue_type: u32 = "KFD_IOC_QUEUE_TYPE_" {
        /// PM4 packets.
        COMPUTE = 0;
        SDMA = 1;
        COMPUTE_AQL = 2;
        /// An SDMA engine that is wired to the links between GPUs.
        SDMA_XGMI = 3;
        /// An SDMA engine of the caller's choice (Linux 6.12).
        SDMA_BY_ENG_ID = 4;
    }

    /// Limits of a queue's share.
    mod queue_limit: u32 = "KFD_MAX_QUEUE_" {
        PERCENTAGE = 100;
        PRIORITY = 15;
    }

    /// Flags of `ALLOC_MEMORY_OF_GPU`: kind of memory (exactly one of the first five) and access.
    mod alloc: u32 = "KFD_IOC_ALLOC_MEM_FLAGS_" {
        VRAM = 1 << 0;
        /// System memory that the driver allocates.
        GTT = 1 << 1;
        /// Memory of the process.
        USERPTR = 1 << 2;
        /// The process's page of doorbells.
        DOORBELL = 1 << 3;
        /// The page of remapped registers (flushing of the host data path).
        MMIO_REMAP = 1 << 4;
        WRITABLE = 1 << 31;
        EXECUTABLE = 1 << 30;
        /// VRAM that the host can map.
        PUBLIC = 1 << 29;
        NO_SUBSTITUTE = 1 << 28;
        /// Mapped twice in a row, as an AQL ring of old chips needs it.
        AQL_QUEUE_MEM = 1 << 27;
        COHERENT = 1 << 26;
        UNCACHED = 1 << 25;
        /// Linux 6.7.
        EXT_COHERENT = 1 << 24;
        /// Linux 6.10; older copies say `CONTIGUOUS_BEST_EFFORT`.
        CONTIGUOUS = 1 << 23;
    }

    /// Policies of `SET_MEMORY_POLICY`.
    mod cache_policy: u32 = "KFD_IOC_CACHE_POLICY_" {
        COHERENT = 0;
        NONCOHERENT = 1;
    }

    /// Registers in the remapped page: byte offsets.
    mod mmio_remap: u32 = "KFD_MMIO_REMAP_" {
        HDP_MEM_FLUSH_CNTL = 0;
        HDP_REG_FLUSH_CNTL = 4;
    }
}

/// What an offset for `mmap` of `/dev/kfd` means: kind in bits 62 and 63, GPU id from bit 46.
///
/// Internal to the driver (`kfd_priv.h`), but saved in checkpoints. An emulated node cannot use the
/// top bits and has offsets of its own: treat those of a running driver as opaque.
pub mod mmap {
    /// Bit of the kind.
    pub const TYPE_SHIFT: u32 = 62;
    /// The kind's bits.
    pub const TYPE_MASK: u64 = 3 << TYPE_SHIFT;
    /// A process's page of doorbells.
    pub const DOORBELL: u64 = 3 << TYPE_SHIFT;
    /// The page of event slots.
    pub const EVENTS: u64 = 2 << TYPE_SHIFT;
    /// Memory for the wave trap handler.
    pub const RESERVED_MEM: u64 = 1 << TYPE_SHIFT;
    /// The page of remapped registers.
    pub const MMIO: u64 = 0;
    /// Lowest bit of the GPU id.
    pub const GPU_ID_SHIFT: u32 = 46;
    /// The GPU id's bits; an id has 16.
    pub const GPU_ID_MASK: u64 = 0xffff << GPU_ID_SHIFT;

    /// The GPU id in an offset.
    #[must_use]
    pub const fn gpu_id(offset: u64) -> u32 {
        ((offset & GPU_ID_MASK) >> GPU_ID_SHIFT) as u32
    }

    /// The offset of a kind for a GPU.
    #[must_use]
    pub const fn offset(kind: u64, gpu_id: u32) -> u64 {
        kind | ((gpu_id as u64) << GPU_ID_SHIFT) & GPU_ID_MASK
    }
}

define_requests! { "AMDKFD_IOC_", b'K';
    /// Version of the interface.
    GET_VERSION = ior 0x01, GetVersionArgs;
    /// Makes a user-mode queue.
    CREATE_QUEUE = iorw 0x02, CreateQueueArgs;
    /// Ends a queue.
    DESTROY_QUEUE = iorw 0x03, DestroyQueueArgs;
    /// Caching of an address range on old chips.
    SET_MEMORY_POLICY = iow 0x04, SetMemoryPolicyArgs;
    /// Clocks of GPU and CPU at one moment.
    GET_CLOCK_COUNTERS = iorw 0x05, GetClockCountersArgs;
    /// Address ranges of up to seven GPUs.
    GET_PROCESS_APERTURES = ior 0x06, GetProcessAperturesArgs;
    /// Changes ring, share and priority of a queue.
    UPDATE_QUEUE = iow 0x07, UpdateQueueArgs;
    /// Makes an event.
    CREATE_EVENT = iorw 0x08, CreateEventArgs;
    /// Ends an event.
    DESTROY_EVENT = iow 0x09, DestroyEventArgs;
    /// Signals an event.
    SET_EVENT = iow 0x0a, SetEventArgs;
    /// Takes a signal back.
    RESET_EVENT = iow 0x0b, ResetEventArgs;
    /// Waits for one or all of several events.
    WAIT_EVENTS = iorw 0x0c, WaitEventsArgs;
    /// Old debugger interface: refused.
    DBG_REGISTER_DEPRECATED = iow 0x0d, DbgRegisterArgs;
    /// Old debugger interface: refused.
    DBG_UNREGISTER_DEPRECATED = iow 0x0e, DbgRegisterArgs;
    /// Old debugger interface: refused.
    DBG_ADDRESS_WATCH_DEPRECATED = iow 0x0f, DbgAddressWatchArgs;
    /// Old debugger interface: refused.
    DBG_WAVE_CONTROL_DEPRECATED = iow 0x10, DbgAddressWatchArgs;
    /// Where private memory of waves lives.
    SET_SCRATCH_BACKING_VA = iorw 0x11, SetScratchBackingVaArgs;
    /// Tiling registers.
    GET_TILE_CONFIG = iorw 0x12, GetTileConfigArgs;
    /// Second-level trap handler.
    SET_TRAP_HANDLER = iow 0x13, SetTrapHandlerArgs;
    /// Address ranges of all GPUs.
    GET_PROCESS_APERTURES_NEW = iorw 0x14, GetProcessAperturesNewArgs;
    /// Takes the address space of an open render node.
    ACQUIRE_VM = iow 0x15, AcquireVmArgs;
    /// Makes a buffer object.
    ALLOC_MEMORY_OF_GPU = iorw 0x16, AllocMemoryOfGpuArgs;
    /// Frees a buffer object that no GPU maps.
    FREE_MEMORY_OF_GPU = iow 0x17, FreeMemoryOfGpuArgs;
    /// Maps a buffer object to GPUs.
    MAP_MEMORY_TO_GPU = iorw 0x18, MapMemoryToGpuArgs;
    /// Unmaps it.
    UNMAP_MEMORY_FROM_GPU = iorw 0x19, UnmapMemoryFromGpuArgs;
    /// Which compute units a queue may use.
    SET_CU_MASK = iow 0x1a, SetCuMaskArgs;
    /// State of the waves of a stopped queue.
    GET_QUEUE_WAVE_STATE = iorw 0x1b, GetQueueWaveStateArgs;
    /// What a dma-buf is.
    GET_DMABUF_INFO = iorw 0x1c, GetDmabufInfoArgs;
    /// Makes a buffer object of a dma-buf.
    IMPORT_DMABUF = iorw 0x1d, ImportDmabufArgs;
    /// Global wave sync for a queue.
    ALLOC_QUEUE_GWS = iorw 0x1e, AllocQueueGwsArgs;
    /// A descriptor to read system events from.
    SMI_EVENTS = iorw 0x1f, SmiEventsArgs;
    /// Attributes of shared virtual memory.
    SVM = iorw 0x20, SvmArgs;
    /// Whether GPU page faults are retried.
    SET_XNACK_MODE = iorw 0x21, SetXnackModeArgs;
    /// Checkpoint and restore.
    CRIU_OP = iorw 0x22, CriuArgs;
    /// Memory that can still be allocated.
    AVAILABLE_MEMORY = iorw 0x23, GetAvailableMemoryArgs;
    /// A dma-buf of a buffer object.
    EXPORT_DMABUF = iorw 0x24, ExportDmabufArgs;
    /// Tells the debugger interface that a runtime is there.
    RUNTIME_ENABLE = iorw 0x25, RuntimeEnableArgs;
    /// The debugger interface.
    DBG_TRAP = iorw 0x26, DbgTrapArgs;
}

/// The name of a request, whatever size of argument it claims.
#[must_use]
pub fn name_of(request: u32) -> Option<&'static str> {
    Some(super::find(REQUESTS, request)?.name)
}
