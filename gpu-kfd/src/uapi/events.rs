//! Events of the compute driver: what is waited for, and what a wait tells.

define_layouts! {
    /// Argument of `CREATE_EVENT`.
    struct CreateEventArgs = "struct kfd_ioctl_create_event_args", 32 {
        /// Input: handle of a buffer object that shall be the page of slots, or 0; only the first
        /// call of a process may give one. Answer: the page's offset for `mmap`.
        [0] event_page_offset: u64,
        /// Answer for `SIGNAL` events: what the GPU puts into its interrupt.
        [8] event_trigger_data: u32,
        /// See [`event`].
        [12] event_type: u32,
        /// Not 0: one wait takes the signal away.
        [16] auto_reset: u32,
        /// For some types only.
        [20] node_id: u32,
        /// Answer.
        [24] event_id: u32,
        /// Answer for `SIGNAL` events: index of the slot in the page.
        [28] event_slot_index: u32,
    }

    /// Argument of `DESTROY_EVENT`.
    struct DestroyEventArgs = "struct kfd_ioctl_destroy_event_args", 8 {
        [0] event_id: u32,
        [4] _pad: u32,
    }

    /// Argument of `SET_EVENT`.
    struct SetEventArgs = "struct kfd_ioctl_set_event_args", 8 {
        [0] event_id: u32,
        [4] _pad: u32,
    }

    /// Argument of `RESET_EVENT`.
    struct ResetEventArgs = "struct kfd_ioctl_reset_event_args", 8 {
        [0] event_id: u32,
        [4] _pad: u32,
    }

    /// One event of a wait: which, and what happened.
    struct EventData = "struct kfd_event_data", 48 {
        /// Answer, by the event's type: [`MemoryExceptionData`], [`HwExceptionData`], or
        /// [`SignalEventData`] (input and answer).
        [0] payload "memory_exception_data": [u64; 4],
        /// For future types.
        [32] kfd_event_data_ext: u64,
        [40] event_id: u32,
        [44] _pad: u32,
    }

    /// What a GPU page fault was.
    struct MemoryExceptionFailure = "struct kfd_memory_exception_failure", 16 {
        [0] not_present "NotPresent": u32,
        [4] read_only "ReadOnly": u32,
        [8] no_execute "NoExecute": u32,
        /// The address is only near the fault.
        [12] imprecise: u32,
    }

    /// Payload of a `MEMORY` event.
    struct MemoryExceptionData = "struct kfd_hsa_memory_exception_data", 32 {
        [0] failure: MemoryExceptionFailure,
        [16] va: u64,
        [24] gpu_id: u32,
        /// See [`memory_error`].
        [28] error_type "ErrorType": u32,
    }

    /// Payload of an `HW_EXCEPTION` event.
    struct HwExceptionData = "struct kfd_hsa_hw_exception_data", 16 {
        [0] reset_type: u32,
        [4] reset_cause: u32,
        [8] memory_lost: u32,
        [12] gpu_id: u32,
    }

    /// Payload of a `SIGNAL` event (interface 1.14): the age that the caller has seen; the answer
    /// is the newest. 0 asks for no ages.
    struct SignalEventData = "struct kfd_hsa_signal_event_data", 8 {
        [0] last_event_age: u64,
    }

    /// Argument of `WAIT_EVENTS`.
    struct WaitEventsArgs = "struct kfd_ioctl_wait_events_args", 24 {
        /// Array of [`EventData`].
        [0] events_ptr: u64,
        [8] num_events: u32,
        /// Not 0: wait for all of them.
        [12] wait_for_all: u32,
        /// In milliseconds; 0 asks only, `u32::MAX` waits for ever.
        [16] timeout: u32,
        /// Answer: see [`wait_result`].
        [20] wait_result: u32,
    }

    /// Argument of `SMI_EVENTS`; `anon_fd` is the answer.
    struct SmiEventsArgs = "struct kfd_ioctl_smi_events_args", 8 {
        [0] gpuid: u32,
        [4] anon_fd: u32,
    }
}

define_numbers! {
    /// Types of events.
    mod event: u32 = "KFD_IOC_EVENT_" {
        SIGNAL = 0;
        NODECHANGE = 1;
        DEVICESTATECHANGE = 2;
        HW_EXCEPTION = 3;
        SYSTEM_EVENT = 4;
        DEBUG_EVENT = 5;
        PROFILE_EVENT = 6;
        QUEUE_EVENT = 7;
        MEMORY = 8;
    }

    /// How a wait ended.
    mod wait_result: u32 = "KFD_IOC_WAIT_RESULT_" {
        COMPLETE = 0;
        TIMEOUT = 1;
        FAIL = 2;
    }

    /// Most signal events of a process; also the number of slots in the page.
    mod signal_event: u32 = "KFD_SIGNAL_EVENT_" {
        LIMIT = 4096;
    }

    /// What a GPU reset was.
    mod hw_exception: u32 = "KFD_HW_EXCEPTION_" {
        WHOLE_GPU_RESET = 0;
        PER_ENGINE_RESET = 1;
        GPU_HANG = 0;
        ECC = 1;
    }

    /// Kinds of memory errors.
    mod memory_error: u32 = "KFD_MEM_ERR_" {
        NO_RAS = 0;
        SRAM_ECC = 1;
        POISON_CONSUMED = 2;
        GPU_HANG = 3;
    }

    /// System events that a descriptor of `SMI_EVENTS` can deliver; bit `event - 1` of the mask
    /// that is written to it.
    mod smi_event: u32 = "KFD_SMI_EVENT_" {
        VMFAULT = 1;
        THERMAL_THROTTLE = 2;
        GPU_PRE_RESET = 3;
        GPU_POST_RESET = 4;
        MIGRATE_START = 5;
        MIGRATE_END = 6;
        PAGE_FAULT_START = 7;
        PAGE_FAULT_END = 8;
        QUEUE_EVICTION = 9;
        QUEUE_RESTORE = 10;
        UNMAP_FROM_GPU = 11;
        PROCESS_START = 12;
        PROCESS_END = 13;
        /// Not an event: events of all processes.
        ALL_PROCESS = 64;
    }
}

/// Size of a slot in the page of events, in bytes.
pub const SLOT_BYTES: usize = 8;

/// What a slot holds that nobody has signalled (`UNSIGNALED_EVENT_SLOT`, `kfd_events.c`).
pub const SLOT_UNSIGNALED: u64 = u64::MAX;

/// A wait that does not end by itself (`KFD_EVENT_TIMEOUT_INFINITE`).
pub const TIMEOUT_NONE: u32 = u32::MAX;
