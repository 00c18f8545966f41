//! How work is given to an engine through a render node: contexts, lists of buffer objects,
//! submissions, waits.

define_layouts! {
    /// Argument of `CTX`.
    struct CtxIn = "union drm_amdgpu_ctx", 16 {
        /// See [`ctx_op`].
        [0] op "in.op": u32,
        [4] flags "in.flags": u32,
        [8] ctx_id "in.ctx_id": u32,
        /// 0 is normal; above needs `CAP_SYS_NICE`.
        [12] priority "in.priority": i32,
    }

    /// Answer of `CTX` to `ALLOC_CTX`.
    struct CtxAllocOut = "union drm_amdgpu_ctx", 16 {
        [0] ctx_id "out.alloc.ctx_id": u32,
        [4] _pad: [u32; 3],
    }

    /// Answer of `CTX` to `QUERY_STATE` and `QUERY_STATE2`.
    struct CtxStateOut = "union drm_amdgpu_ctx", 16 {
        /// `QUERY_STATE2`: see [`ctx_state`].
        [0] flags "out.state.flags": u64,
        [8] hangs "out.state.hangs": u32,
        [12] reset_status "out.state.reset_status": u32,
    }

    /// Argument of `BO_LIST`.
    struct BoListIn = "union drm_amdgpu_bo_list", 24 {
        /// See [`bo_list_op`].
        [0] operation "in.operation": u32,
        [4] list_handle "in.list_handle": u32,
        [8] bo_number "in.bo_number": u32,
        /// Size of an entry, in bytes.
        [12] bo_info_size "in.bo_info_size": u32,
        /// Array of [`BoListEntry`].
        [16] bo_info_ptr "in.bo_info_ptr": u64,
    }

    /// Answer of `BO_LIST`.
    struct BoListOut = "union drm_amdgpu_bo_list", 24 {
        [0] list_handle "out.list_handle": u32,
        [4] _pad: [u32; 5],
    }

    /// An object of a list.
    struct BoListEntry = "struct drm_amdgpu_bo_list_entry", 8 {
        [0] bo_handle: u32,
        [4] bo_priority: u32,
    }

    /// Argument of `CS`.
    struct CsIn = "union drm_amdgpu_cs", 24 {
        [0] ctx_id "in.ctx_id": u32,
        [4] bo_list_handle "in.bo_list_handle": u32,
        [8] num_chunks "in.num_chunks": u32,
        [12] flags "in.flags": u32,
        /// Array of addresses (u64), each of a [`CsChunk`].
        [16] chunks "in.chunks": u64,
    }

    /// Answer of `CS`: the submission's number on its ring.
    struct CsOut = "union drm_amdgpu_cs", 24 {
        [0] handle "out.handle": u64,
        [8] _pad: [u64; 2],
    }

    /// A part of a submission.
    struct CsChunk = "struct drm_amdgpu_cs_chunk", 16 {
        /// See [`chunk_id`].
        [0] chunk_id: u32,
        /// In 32-bit words.
        [4] length_dw: u32,
        /// Address of the chunk's own struct.
        [8] chunk_data: u64,
    }

    /// Chunk `IB`: commands in GPU memory.
    struct CsChunkIb = "struct drm_amdgpu_cs_chunk_ib", 32 {
        [0] _pad: u32,
        [4] flags: u32,
        [8] va_start: u64,
        [16] ib_bytes: u32,
        /// See [`hw_ip`].
        [20] ip_type: u32,
        [24] ip_instance: u32,
        [28] ring: u32,
    }

    /// Chunk `DEPENDENCIES` and `SCHEDULED_DEPENDENCIES`: an array of these.
    struct CsChunkDep = "struct drm_amdgpu_cs_chunk_dep", 24 {
        [0] ip_type: u32,
        [4] ip_instance: u32,
        [8] ring: u32,
        [12] ctx_id: u32,
        [16] handle: u64,
    }

    /// Chunk `FENCE`: where in an object the submission's number is written.
    struct CsChunkFence = "struct drm_amdgpu_cs_chunk_fence", 8 {
        [0] handle: u32,
        /// In bytes.
        [4] offset: u32,
    }

    /// Chunk `SYNCOBJ_IN` and `SYNCOBJ_OUT`: an array of these.
    struct CsChunkSem = "struct drm_amdgpu_cs_chunk_sem", 4 {
        [0] handle: u32,
    }

    /// Chunk `SYNCOBJ_TIMELINE_*`: an array of these.
    struct CsChunkSyncobj = "struct drm_amdgpu_cs_chunk_syncobj", 16 {
        [0] handle: u32,
        [4] flags: u32,
        [8] point: u64,
    }

    /// Argument of `WAIT_CS`.
    struct WaitCsIn = "union drm_amdgpu_wait_cs", 32 {
        /// From [`CsOut`].
        [0] handle "in.handle": u64,
        /// Absolute, monotonic clock, in nanoseconds; `u64::MAX` waits for ever.
        [8] timeout "in.timeout": u64,
        [16] ip_type "in.ip_type": u32,
        [20] ip_instance "in.ip_instance": u32,
        [24] ring "in.ring": u32,
        [28] ctx_id "in.ctx_id": u32,
    }

    /// Answer of `WAIT_CS`.
    struct WaitCsOut = "union drm_amdgpu_wait_cs", 32 {
        /// Not 0: still busy.
        [0] status "out.status": u64,
        [8] _pad: [u64; 3],
    }

    /// A submission to wait for.
    struct Fence = "struct drm_amdgpu_fence", 24 {
        [0] ctx_id: u32,
        [4] ip_type: u32,
        [8] ip_instance: u32,
        [12] ring: u32,
        [16] seq_no: u64,
    }

    /// Argument of `WAIT_FENCES`.
    struct WaitFencesIn = "union drm_amdgpu_wait_fences", 24 {
        /// Array of [`Fence`].
        [0] fences "in.fences": u64,
        [8] fence_count "in.fence_count": u32,
        [12] wait_all "in.wait_all": u32,
        /// Absolute, monotonic clock.
        [16] timeout_ns "in.timeout_ns": u64,
    }

    /// Answer of `WAIT_FENCES`.
    struct WaitFencesOut = "union drm_amdgpu_wait_fences", 24 {
        /// 0: timed out.
        [0] status "out.status": u32,
        [4] first_signaled "out.first_signaled": u32,
        [8] _pad: [u64; 2],
    }

    /// Argument of `FENCE_TO_HANDLE`; the answer is a u32 in its place.
    struct FenceToHandleIn = "union drm_amdgpu_fence_to_handle", 32 {
        [0] fence "in.fence": Fence,
        /// 0 sync object, 1 its descriptor, 2 sync file.
        [24] what "in.what": u32,
        [28] _pad: u32,
    }

    /// Argument of `SCHED`.
    struct SchedIn = "union drm_amdgpu_sched", 16 {
        [0] op "in.op": u32,
        [4] fd "in.fd": u32,
        [8] priority "in.priority": i32,
        [12] ctx_id "in.ctx_id": u32,
    }
}

define_numbers! {
    /// Operations of `CTX`.
    mod ctx_op: u32 = "AMDGPU_CTX_OP_" {
        ALLOC_CTX = 1;
        FREE_CTX = 2;
        QUERY_STATE = 3;
        QUERY_STATE2 = 4;
        GET_STABLE_PSTATE = 5;
        SET_STABLE_PSTATE = 6;
    }

    /// What befell a context.
    mod ctx_state: u64 = "AMDGPU_CTX_QUERY2_FLAGS_" {
        RESET = 1 << 0;
        VRAMLOST = 1 << 1;
        GUILTY = 1 << 2;
        RAS_CE = 1 << 3;
        RAS_UE = 1 << 4;
        RESET_IN_PROGRESS = 1 << 5;
    }

    /// Operations of `BO_LIST`.
    mod bo_list_op: u32 = "AMDGPU_BO_LIST_OP_" {
        CREATE = 0;
        DESTROY = 1;
        UPDATE = 2;
    }

    /// Engines.
    mod hw_ip: u32 = "AMDGPU_HW_IP_" {
        GFX = 0;
        COMPUTE = 1;
        /// SDMA.
        DMA = 2;
        UVD = 3;
        VCE = 4;
        UVD_ENC = 5;
        VCN_DEC = 6;
        VCN_ENC = 7;
        VCN_JPEG = 8;
        VPE = 9;
    }

    /// Kinds of chunks.
    mod chunk_id: u32 = "AMDGPU_CHUNK_ID_" {
        IB = 0x01;
        FENCE = 0x02;
        DEPENDENCIES = 0x03;
        SYNCOBJ_IN = 0x04;
        SYNCOBJ_OUT = 0x05;
        /// A list of objects in place of a handle of one.
        BO_HANDLES = 0x06;
        SCHEDULED_DEPENDENCIES = 0x07;
        SYNCOBJ_TIMELINE_WAIT = 0x08;
        SYNCOBJ_TIMELINE_SIGNAL = 0x09;
        CP_GFX_SHADOW = 0x0a;
    }
}
