//! `CRIU_OP`: the driver's checkpoint and restore: arguments, buckets, records of private data.
//!
//! Needs interface 1.7 (Linux 5.18), for contents of GTT buffers 1.8. The private records are
//! internal to the driver (`kfd_priv.h`, version 1): they are passed through untouched by whoever
//! restores, and are here so that an image can be checked and an emulated driver can write them.
//!
//! Private data is: [`ProcessPrivate`]; then [`DevicePrivate`] for each GPU; then [`BoPrivate`] for
//! each buffer object; then the objects, each beginning with its [`object`] type: queues
//! ([`QueuePrivate`], `mqd_size` bytes, `ctl_stack_size` bytes), events ([`EventPrivate`]), ranges
//! ([`SvmRangePrivate`], attributes; how many follows from the process's number of GPUs).

/// Version of the private data that is known here (`KFD_CRIU_PRIV_VERSION`).
pub const PRIVATE_VERSION: u32 = 1;

/// GPUs that [`BoPrivate`] has room for (`MAX_GPU_INSTANCE`).
pub const MAPPED_GPUS_MAX: usize = 64;

/// A [`BoBucket::dmabuf_fd`] that is none (`KFD_INVALID_FD`).
pub const NO_FD: u32 = 0xffff_ffff;

define_layouts! {
    /// Argument of `CRIU_OP`.
    struct CriuArgs = "struct kfd_ioctl_criu_args", 56 {
        /// Array of `num_devices` [`DeviceBucket`]; CHECKPOINT fills, RESTORE reads.
        [0] devices: u64,
        /// Array of `num_bos` [`BoBucket`]; CHECKPOINT fills, RESTORE reads and fills.
        [8] bos: u64,
        /// `priv_data_size` bytes; CHECKPOINT fills, RESTORE reads.
        [16] priv_data: u64,
        /// Answer of PROCESS_INFO, input of the others.
        [24] priv_data_size: u64,
        /// Answer of PROCESS_INFO, input of the others.
        [32] num_devices: u32,
        /// Answer of PROCESS_INFO, input of the others.
        [36] num_bos: u32,
        /// Answer of PROCESS_INFO, input of the others.
        [40] num_objects: u32,
        /// Answer of PROCESS_INFO: pid of the process in its own pid namespace. Input of RESUME:
        /// pid in the caller's.
        [44] pid: u32,
        /// See [`op`].
        [48] op: u32,
        [52] _pad: u32,
    }

    /// A GPU of the process.
    struct DeviceBucket = "struct kfd_criu_device_bucket", 16 {
        /// Id that the process has seen since it first ran.
        [0] user_gpu_id: u32,
        /// Id on this host.
        [4] actual_gpu_id: u32,
        /// RESTORE: an open render node of that GPU, not used for anything before.
        [8] drm_fd: u32,
        [12] _pad: u32,
    }

    /// A buffer object of the process.
    struct BoBucket = "struct kfd_criu_bo_bucket", 48 {
        [0] addr: u64,
        /// In bytes.
        [8] size: u64,
        /// For `mmap`, at the time of the checkpoint.
        [16] offset: u64,
        /// Answer of RESTORE: for `mmap` now.
        [24] restored_offset: u64,
        /// The user GPU id.
        [32] gpu_id: u32,
        /// See [`alloc`](super::kfd::alloc).
        [36] alloc_flags: u32,
        /// Answer for VRAM and GTT: a dma-buf of its contents; else [`NO_FD`].
        [40] dmabuf_fd: u32,
        [44] _pad: u32,
    }

    /// Private: the process.
    struct ProcessPrivate = "", 8 {
        /// [`PRIVATE_VERSION`].
        [0] version: u32,
        /// 1 if GPU page faults are retried.
        [4] xnack_mode: u32,
    }

    /// Private: a GPU.
    struct DevicePrivate = "", 8 {
        [0] _reserved: u64,
    }

    /// Private: a buffer object.
    struct BoPrivate = "", 272 {
        /// Of a `USERPTR` object.
        [0] user_addr: u64,
        /// Number of the object within its process and GPU.
        [8] idr_handle: u32,
        /// User ids of the GPUs that map it; 0 ends the list.
        [12] mapped_gpuids: [u32; MAPPED_GPUS_MAX],
        [268] _pad: u32,
    }

    /// Private: a queue; its MQD and control stack follow.
    struct QueuePrivate = "", 120 {
        /// [`object::QUEUE`].
        [0] object_type: u32,
        [4] _pad0: u32,
        [8] q_address: u64,
        /// In bytes.
        [16] q_size: u64,
        [24] read_ptr_addr: u64,
        [32] write_ptr_addr: u64,
        [40] doorbell_off: u64,
        [48] eop_ring_buffer_address: u64,
        [56] ctx_save_restore_area_address: u64,
        /// The user GPU id.
        [64] gpu_id: u32,
        /// See [`queue_kind`]: the driver's own numbering.
        [68] kind: u32,
        /// 0 PM4, 1 AQL.
        [72] format: u32,
        [76] q_id: u32,
        [80] priority: u32,
        [84] q_percent: u32,
        [88] doorbell_id: u32,
        /// 1 if the queue has global wave sync.
        [92] gws: u32,
        [96] sdma_id: u32,
        [100] eop_ring_buffer_size: u32,
        [104] ctx_save_restore_area_size: u32,
        [108] ctl_stack_size: u32,
        [112] mqd_size: u32,
        [116] _pad1: u32,
    }

    /// Private: an event.
    struct EventPrivate = "", 64 {
        /// [`object::EVENT`].
        [0] object_type: u32,
        [4] _pad: u32,
        /// Handle of the page of slots, in the record of one event only (the first).
        [8] user_handle: u64,
        [16] event_id: u32,
        [20] auto_reset: u32,
        /// See [`event`](super::events::event).
        [24] kind: u32,
        [28] signaled: u32,
        /// As in [`EventData`](super::events::EventData).
        [32] payload: [u64; 4],
    }

    /// Private: a range of shared virtual memory; its attributes follow.
    struct SvmRangePrivate = "", 24 {
        /// [`object::SVM_RANGE`].
        [0] object_type: u32,
        [4] _pad: u32,
        /// Number of the first page, not an address.
        [8] start_addr: u64,
        /// In pages.
        [16] size: u64,
    }
}

define_numbers! {
    /// Operations of `CRIU_OP`.
    mod op: u32 = "KFD_CRIU_OP_" {
        /// Stops the queues and counts what there is.
        PROCESS_INFO = 0;
        /// Saves a stopped process.
        CHECKPOINT = 1;
        /// Lets the queues of a stopped process go on.
        UNPAUSE = 2;
        /// Rebuilds a process, stopped.
        RESTORE = 3;
        /// Starts a restored process.
        RESUME = 4;
    }
}

/// Types of objects in private data.
pub mod object {
    /// [`QueuePrivate`](super::QueuePrivate).
    pub const QUEUE: u32 = 0;
    /// [`EventPrivate`](super::EventPrivate).
    pub const EVENT: u32 = 1;
    /// [`SvmRangePrivate`](super::SvmRangePrivate).
    pub const SVM_RANGE: u32 = 2;
}

/// Kinds of queues in private data (`enum kfd_queue_type`): not those of `CREATE_QUEUE`.
pub mod queue_kind {
    /// Compute, PM4 or AQL.
    pub const COMPUTE: u32 = 0;
    /// SDMA.
    pub const SDMA: u32 = 1;
    /// SDMA over XGMI.
    ///
    /// These two are 3 and 4 in drivers without debug queues (after 6.18), under the same version
    /// of private data: such a queue does not survive a change between the two.
    pub const SDMA_XGMI: u32 = 4;
    /// An SDMA engine of the process's choice.
    pub const SDMA_BY_ENG_ID: u32 = 5;
}
