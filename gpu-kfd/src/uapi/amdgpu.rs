//! The calls of amdgpu's render nodes: buffer objects and their GPU mappings.
//!
//! Submission stands in [`submit`](super::submit), queries in [`info`](super::info).

use super::drm::COMMAND_BASE;
use super::info::Info;
use super::submit::{BoListIn, CsIn, CtxIn, FenceToHandleIn, SchedIn, WaitCsIn, WaitFencesIn};

define_layouts! {
    /// Argument of `GEM_CREATE`.
    struct GemCreateIn = "union drm_amdgpu_gem_create", 32 {
        /// In bytes.
        [0] bo_size "in.bo_size": u64,
        /// In bytes.
        [8] alignment "in.alignment": u64,
        /// See [`domain`].
        [16] domains "in.domains": u64,
        /// See [`create`].
        [24] domain_flags "in.domain_flags": u64,
    }

    /// Answer of `GEM_CREATE`.
    struct GemCreateOut = "union drm_amdgpu_gem_create", 32 {
        [0] handle "out.handle": u32,
        [4] _pad: [u32; 7],
    }

    /// Argument of `GEM_MMAP`.
    struct GemMmapIn = "union drm_amdgpu_gem_mmap", 8 {
        [0] handle "in.handle": u32,
        [4] _pad: u32,
    }

    /// Answer of `GEM_MMAP`: an offset for `mmap`, not an address.
    struct GemMmapOut = "union drm_amdgpu_gem_mmap", 8 {
        [0] addr_ptr "out.addr_ptr": u64,
    }

    /// Argument of `GEM_METADATA`.
    struct GemMetadata = "struct drm_amdgpu_gem_metadata", 288 {
        [0] handle: u32,
        /// See [`metadata_op`].
        [4] op: u32,
        [8] flags "data.flags": u64,
        [16] tiling_info "data.tiling_info": u64,
        [24] data_size_bytes "data.data_size_bytes": u32,
        [28] data "data.data": [u32; 64],
        [284] _pad: u32,
    }

    /// Argument of `GEM_WAIT_IDLE`.
    struct GemWaitIdleIn = "union drm_amdgpu_gem_wait_idle", 16 {
        [0] handle "in.handle": u32,
        [4] flags "in.flags": u32,
        /// Absolute, monotonic clock, in nanoseconds; 0 asks only, `u64::MAX` waits for ever.
        [8] timeout "in.timeout": u64,
    }

    /// Answer of `GEM_WAIT_IDLE`.
    struct GemWaitIdleOut = "union drm_amdgpu_gem_wait_idle", 16 {
        /// Not 0: still busy.
        [0] status "out.status": u32,
        [4] domain "out.domain": u32,
        [8] _pad: u64,
    }

    /// Argument of `GEM_VA`; headers before Linux 6.16 end after `map_size`.
    struct GemVa = "struct drm_amdgpu_gem_va", 64 {
        [0] handle: u32,
        [4] _pad: u32,
        /// See [`va_op`].
        [8] operation: u32,
        /// See [`vm_page`].
        [12] flags: u32,
        [16] va_address: u64,
        [24] offset_in_bo: u64,
        /// In bytes.
        [32] map_size: u64,
        [40] vm_timeline_point: u64,
        [48] vm_timeline_syncobj_out: u32,
        [52] num_syncobj_handles: u32,
        [56] input_fence_syncobj_handles: u64,
    }

    /// Argument of `GEM_OP`; headers before `GET_MAPPING_INFO` end after `value`.
    struct GemOp = "struct drm_amdgpu_gem_op", 24 {
        [0] handle: u32,
        /// See [`gem_op`].
        [4] op: u32,
        /// Input or answer by operation: address of a [`GemCreateIn`], domains, or address of an
        /// array of [`GemVmEntry`].
        [8] value: u64,
        /// Room in the array; answer: entries that there are. More than the room: nothing or a
        /// part was written, ask again with more room.
        [16] num_entries: u32,
        [20] _padding: u32,
    }

    /// A GPU mapping of an object.
    struct GemVmEntry = "struct drm_amdgpu_gem_vm_entry", 32 {
        [0] addr: u64,
        /// In bytes.
        [8] size: u64,
        [16] offset: u64,
        /// See [`vm_page`].
        [24] flags: u64,
    }

    /// Argument of `GEM_USERPTR`.
    struct GemUserptr = "struct drm_amdgpu_gem_userptr", 24 {
        [0] addr: u64,
        [8] size: u64,
        /// See [`userptr`].
        [16] flags: u32,
        /// Answer.
        [20] handle: u32,
    }

    /// Argument of `GEM_LIST_HANDLES`.
    struct GemListHandles = "struct drm_amdgpu_gem_list_handles", 16 {
        /// Array of [`GemListHandlesEntry`].
        [0] entries: u64,
        /// Room in the array; answer: entries that there are. More than the room: ask again.
        [8] num_entries: u32,
        [12] _padding: u32,
    }

    /// An object of the open file.
    struct GemListHandlesEntry = "struct drm_amdgpu_gem_list_handles_entry", 40 {
        [0] gem_handle: u32,
        /// See [`list_flag`].
        [4] flags: u32,
        /// In bytes.
        [8] size: u64,
        /// See [`domain`].
        [16] preferred_domains: u64,
        /// See [`create`].
        [24] alloc_flags: u64,
        /// In pages, although the header says bytes (`amdgpu_gem.c`); what
        /// `GET_GEM_CREATE_INFO` answers is in bytes.
        [32] alignment: u64,
    }

    /// Argument of `VM`.
    struct VmIn = "union drm_amdgpu_vm", 8 {
        /// See [`vm_op`].
        [0] op "in.op": u32,
        [4] flags "in.flags": u32,
    }
}

define_numbers! {
    /// Where an object may live.
    mod domain: u64 = "AMDGPU_GEM_DOMAIN_" {
        /// System memory that the GPU cannot see.
        CPU = 0x1;
        /// System memory.
        GTT = 0x2;
        VRAM = 0x4;
        GDS = 0x8;
        GWS = 0x10;
        OA = 0x20;
        DOORBELL = 0x40;
        MMIO_REMAP = 0x80;
    }

    /// Flags of an object.
    mod create: u64 = "AMDGPU_GEM_CREATE_" {
        CPU_ACCESS_REQUIRED = 1 << 0;
        NO_CPU_ACCESS = 1 << 1;
        CPU_GTT_USWC = 1 << 2;
        VRAM_CLEARED = 1 << 3;
        VRAM_CONTIGUOUS = 1 << 5;
        VM_ALWAYS_VALID = 1 << 6;
        EXPLICIT_SYNC = 1 << 7;
        CP_MQD_GFX9 = 1 << 8;
        VRAM_WIPE_ON_RELEASE = 1 << 9;
        ENCRYPTED = 1 << 10;
        PREEMPTIBLE = 1 << 11;
        DISCARDABLE = 1 << 12;
        COHERENT = 1 << 13;
        UNCACHED = 1 << 14;
        EXT_COHERENT = 1 << 15;
        GFX12_DCC = 1 << 16;
    }

    /// Operations of `GEM_METADATA`.
    mod metadata_op: u32 = "AMDGPU_GEM_METADATA_OP_" {
        SET_METADATA = 1;
        GET_METADATA = 2;
    }

    /// Operations of `GEM_OP`.
    mod gem_op: u32 = "AMDGPU_GEM_OP_" {
        GET_GEM_CREATE_INFO = 0;
        SET_PLACEMENT = 1;
        GET_MAPPING_INFO = 2;
    }

    /// Flags of `GEM_USERPTR`.
    mod userptr: u32 = "AMDGPU_GEM_USERPTR_" {
        READONLY = 1 << 0;
        ANONONLY = 1 << 1;
        VALIDATE = 1 << 2;
        REGISTER = 1 << 3;
    }

    /// Flags of a listed object.
    mod list_flag: u32 = "AMDGPU_GEM_LIST_HANDLES_FLAG_" {
        IS_IMPORT = 1 << 0;
    }

    /// Operations of `GEM_VA`.
    mod va_op: u32 = "AMDGPU_VA_OP_" {
        MAP = 1;
        UNMAP = 2;
        CLEAR = 3;
        REPLACE = 4;
    }

    /// Flags of a GPU mapping.
    mod vm_page: u32 = "AMDGPU_VM_PAGE_" {
        READABLE = 1 << 1;
        WRITEABLE = 1 << 2;
        EXECUTABLE = 1 << 3;
        PRT = 1 << 4;
        NOALLOC = 1 << 9;
    }

    /// Caching of a GPU mapping, beside [`vm_page`].
    mod vm_mtype: u32 = "AMDGPU_VM_MTYPE_" {
        MASK = 0xf << 5;
        DEFAULT = 0 << 5;
        NC = 1 << 5;
        WC = 2 << 5;
        CC = 3 << 5;
        UC = 4 << 5;
        RW = 5 << 5;
    }

    /// A flag of `GEM_VA` that is no property of the mapping.
    mod vm_delay: u32 = "AMDGPU_VM_DELAY_" {
        /// Page tables may be written later.
        UPDATE = 1 << 0;
    }

    /// Operations of `VM`.
    mod vm_op: u32 = "AMDGPU_VM_OP_" {
        RESERVE_VMID = 1;
        UNRESERVE_VMID = 2;
    }
}

define_requests! { "DRM_IOCTL_AMDGPU_", b'd';
    /// Makes a buffer object.
    GEM_CREATE = iorw COMMAND_BASE, GemCreateIn;
    /// Its offset for `mmap`.
    GEM_MMAP = iorw COMMAND_BASE + 0x01, GemMmapIn;
    /// Makes, ends or asks a context.
    CTX = iorw COMMAND_BASE + 0x02, CtxIn;
    /// Makes or ends a list of buffer objects.
    BO_LIST = iorw COMMAND_BASE + 0x03, BoListIn;
    /// Submits commands.
    CS = iorw COMMAND_BASE + 0x04, CsIn;
    /// Queries.
    INFO = iow COMMAND_BASE + 0x05, Info;
    /// Tiling and a note of the owner.
    GEM_METADATA = iorw COMMAND_BASE + 0x06, GemMetadata;
    /// Waits until an object is idle.
    GEM_WAIT_IDLE = iorw COMMAND_BASE + 0x07, GemWaitIdleIn;
    /// Maps an object to the GPU's address space.
    GEM_VA = iow COMMAND_BASE + 0x08, GemVa;
    /// Waits for a submission.
    WAIT_CS = iorw COMMAND_BASE + 0x09, WaitCsIn;
    /// Asks or changes an object.
    GEM_OP = iorw COMMAND_BASE + 0x10, GemOp;
    /// Makes an object of the caller's memory.
    GEM_USERPTR = iorw COMMAND_BASE + 0x11, GemUserptr;
    /// Waits for some submissions.
    WAIT_FENCES = iorw COMMAND_BASE + 0x12, WaitFencesIn;
    /// Reserves a VMID.
    VM = iorw COMMAND_BASE + 0x13, VmIn;
    /// A sync object of a submission.
    FENCE_TO_HANDLE = iorw COMMAND_BASE + 0x14, FenceToHandleIn;
    /// Another process's priority.
    SCHED = iow COMMAND_BASE + 0x15, SchedIn;
    /// Lists the open file's objects.
    GEM_LIST_HANDLES = iorw COMMAND_BASE + 0x19, GemListHandles;
}

/// The name of a request of a render node, generic ones included, whatever size it claims.
#[must_use]
pub fn name_of(request: u32) -> Option<&'static str> {
    let request = super::find(REQUESTS, request).or(super::find(super::drm::REQUESTS, request))?;
    Some(request.name)
}
