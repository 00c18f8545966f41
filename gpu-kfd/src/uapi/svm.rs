//! Shared virtual memory: attributes of address ranges, and retry of GPU page faults.

define_layouts! {
    /// Head of the argument of `SVM`; `nattr` of [`SvmAttribute`] follow it, and the request's size
    /// covers them.
    struct SvmArgs = "struct kfd_ioctl_svm_args", 24 {
        /// Page-aligned.
        [0] start_addr: u64,
        /// In bytes, page-aligned.
        [8] size: u64,
        /// See [`svm_op`].
        [16] op: u32,
        [20] nattr: u32,
    }

    /// An attribute: type (see [`svm_attr`]) and value.
    struct SvmAttribute = "struct kfd_ioctl_svm_attribute", 8 {
        [0] kind "type": u32,
        [4] value: u32,
    }

    /// Argument of `SET_XNACK_MODE`: 0, 1, or below 0 to ask; the answer is the mode.
    struct SetXnackModeArgs = "struct kfd_ioctl_set_xnack_mode_args", 4 {
        [0] xnack_enabled: i32,
    }
}

define_numbers! {
    /// Operations of `SVM`.
    mod svm_op: u32 = "KFD_IOCTL_SVM_OP_" {
        SET_ATTR = 0;
        GET_ATTR = 1;
    }

    /// Places that are no GPU id.
    mod svm_location: u32 = "KFD_IOCTL_SVM_LOCATION_" {
        SYSMEM = 0;
        UNDEFINED = 0xffff_ffff;
    }

    /// Types of attributes; the value of the first five is a GPU id or a location.
    mod svm_attr: u32 = "KFD_IOCTL_SVM_ATTR_" {
        PREFERRED_LOC = 0;
        PREFETCH_LOC = 1;
        ACCESS = 2;
        ACCESS_IN_PLACE = 3;
        NO_ACCESS = 4;
        SET_FLAGS = 5;
        CLR_FLAGS = 6;
        /// Logarithm to base 2 of the migration size in pages.
        GRANULARITY = 7;
    }

    /// Flags of a range.
    mod svm_flag: u32 = "KFD_IOCTL_SVM_FLAG_" {
        HOST_ACCESS = 1 << 0;
        COHERENT = 1 << 1;
        HIVE_LOCAL = 1 << 2;
        GPU_RO = 1 << 3;
        GPU_EXEC = 1 << 4;
        GPU_READ_MOSTLY = 1 << 5;
        GPU_ALWAYS_MAPPED = 1 << 6;
        /// Linux 6.7.
        EXT_COHERENT = 1 << 7;
    }
}
