//! The debugger interface (Linux 6.5): only what a runtime calls at its start, and the head of
//! `DBG_TRAP`.
//!
//! A process under a debugger of this kind is not checkpointed by the driver, so the operations'
//! own arguments are left as numbers.

define_layouts! {
    /// Argument of `RUNTIME_ENABLE`.
    struct RuntimeEnableArgs = "struct kfd_ioctl_runtime_enable_args", 16 {
        /// Address of the runtime's loader list for debuggers.
        [0] r_debug: u64,
        /// See [`runtime_mode`]; 0 disables.
        [8] mode_mask: u32,
        /// Answer.
        [12] capabilities_mask: u32,
    }

    /// What a debugger learns of a runtime.
    struct RuntimeInfo = "struct kfd_runtime_info", 16 {
        [0] r_debug: u64,
        [8] runtime_state: u32,
        [12] ttmp_setup: u32,
    }

    /// Argument of `DBG_TRAP`.
    struct DbgTrapArgs = "struct kfd_ioctl_dbg_trap_args", 32 {
        /// The process that is debugged.
        [0] pid: u32,
        /// See [`trap_op`].
        [4] op: u32,
        /// By operation: up to 24 bytes.
        [8] operands "enable": [u64; 3],
    }
}

define_numbers! {
    /// Bits of `RUNTIME_ENABLE`'s mode.
    mod runtime_mode: u32 = "KFD_RUNTIME_ENABLE_MODE_" {
        ENABLE_MASK = 1;
        TTMP_SAVE_MASK = 2;
    }

    /// Operations of `DBG_TRAP`.
    mod trap_op: u32 = "KFD_IOC_DBG_TRAP_" {
        ENABLE = 0;
        DISABLE = 1;
        SEND_RUNTIME_EVENT = 2;
        SET_EXCEPTIONS_ENABLED = 3;
        SET_WAVE_LAUNCH_OVERRIDE = 4;
        SET_WAVE_LAUNCH_MODE = 5;
        SUSPEND_QUEUES = 6;
        RESUME_QUEUES = 7;
        SET_NODE_ADDRESS_WATCH = 8;
        CLEAR_NODE_ADDRESS_WATCH = 9;
        SET_FLAGS = 10;
        QUERY_DEBUG_EVENT = 11;
        QUERY_EXCEPTION_INFO = 12;
        GET_QUEUE_SNAPSHOT = 13;
        GET_DEVICE_SNAPSHOT = 14;
    }
}
