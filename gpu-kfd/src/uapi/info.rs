//! Queries of a render node: what `INFO` can be asked, and its answers.

define_layouts! {
    /// Argument of `INFO`.
    struct Info = "struct drm_amdgpu_info", 32 {
        /// Where the answer goes.
        [0] return_pointer: u64,
        /// Room there in bytes; a longer answer is cut.
        [8] return_size: u32,
        /// See [`query`].
        [12] query: u32,
        /// By query: engine and instance; firmware, instance, index; or register offset in words,
        /// count, instance, flags.
        [16] operands "read_mmr_reg": [u32; 4],
    }

    /// Answer to `GDS_CONFIG`.
    struct InfoGds = "struct drm_amdgpu_info_gds", 32 {
        [0] gds_gfx_partition_size: u32,
        [4] compute_partition_size: u32,
        [8] gds_total_size: u32,
        [12] gws_per_gfx_partition: u32,
        [16] gws_per_compute_partition: u32,
        [20] oa_per_gfx_partition: u32,
        [24] oa_per_compute_partition: u32,
        [28] _pad: u32,
    }

    /// Answer to `VRAM_GTT`, in bytes.
    struct InfoVramGtt = "struct drm_amdgpu_info_vram_gtt", 24 {
        [0] vram_size: u64,
        [8] vram_cpu_accessible_size: u64,
        [16] gtt_size: u64,
    }

    /// One kind of memory, in bytes.
    struct HeapInfo = "struct drm_amdgpu_heap_info", 32 {
        [0] total_heap_size: u64,
        [8] usable_heap_size: u64,
        [16] heap_usage: u64,
        [24] max_allocation: u64,
    }

    /// Answer to `MEMORY`.
    struct MemoryInfo = "struct drm_amdgpu_memory_info", 96 {
        [0] vram: HeapInfo,
        [32] cpu_accessible_vram: HeapInfo,
        [64] gtt: HeapInfo,
    }

    /// Answer to `FW_VERSION`.
    struct InfoFirmware = "struct drm_amdgpu_info_firmware", 8 {
        [0] ver: u32,
        [4] feature: u32,
    }

    /// Answer to `VBIOS`; texts are padded with NUL.
    struct InfoVbios = "struct drm_amdgpu_info_vbios", 200 {
        [0] name: [u8; 64],
        [64] vbios_pn: [u8; 64],
        [128] version: u32,
        [132] _pad: u32,
        [136] vbios_ver_str: [u8; 32],
        [168] date: [u8; 32],
    }

    /// Answer to `DEV_INFO`; clocks in kHz. Older headers end earlier.
    struct InfoDevice = "struct drm_amdgpu_info_device", 440 {
        [0] device_id: u32,
        [4] chip_rev: u32,
        [8] external_rev: u32,
        [12] pci_rev: u32,
        /// See [`family`].
        [16] family: u32,
        [20] num_shader_engines: u32,
        [24] num_shader_arrays_per_engine: u32,
        [28] gpu_counter_freq: u32,
        [32] max_engine_clock: u64,
        [40] max_memory_clock: u64,
        [48] cu_active_number: u32,
        [52] cu_ao_mask: u32,
        /// Active compute units by shader engine and array.
        [56] cu_bitmap: [[u32; 4]; 4],
        [120] enabled_rb_pipes_mask: u32,
        [124] num_rb_pipes: u32,
        [128] num_hw_gfx_contexts: u32,
        [132] pcie_gen: u32,
        [136] ids_flags: u64,
        [144] virtual_address_offset: u64,
        [152] virtual_address_max: u64,
        /// In bytes.
        [160] virtual_address_alignment: u32,
        [164] pte_fragment_size: u32,
        [168] gart_page_size: u32,
        [172] ce_ram_size: u32,
        /// See [`vram_type`].
        [176] vram_type: u32,
        [180] vram_bit_width: u32,
        [184] vce_harvest_config: u32,
        [188] gc_double_offchip_lds_buf: u32,
        [192] prim_buf_gpu_addr: u64,
        [200] pos_buf_gpu_addr: u64,
        [208] cntl_sb_buf_gpu_addr: u64,
        [216] param_buf_gpu_addr: u64,
        [224] prim_buf_size: u32,
        [228] pos_buf_size: u32,
        [232] cntl_sb_buf_size: u32,
        [236] param_buf_size: u32,
        [240] wave_front_size: u32,
        [244] num_shader_visible_vgprs: u32,
        [248] num_cu_per_sh: u32,
        [252] num_tcc_blocks: u32,
        [256] gs_vgt_table_depth: u32,
        [260] gs_prim_buffer_depth: u32,
        [264] max_gs_waves_per_vgt: u32,
        /// `_pad1` before Linux 6.3.
        [268] pcie_num_lanes: u32,
        [272] cu_ao_bitmap: [[u32; 4]; 4],
        [336] high_va_offset: u64,
        [344] high_va_max: u64,
        [352] pa_sc_tile_steering_override: u32,
        [356] _pad0: u32,
        [360] tcc_disabled_mask: u64,
        [368] min_engine_clock: u64,
        [376] min_memory_clock: u64,
        [384] tcp_cache_size: u32,
        [388] num_sqc_per_wgp: u32,
        [392] sqc_data_cache_size: u32,
        [396] sqc_inst_cache_size: u32,
        [400] gl1c_cache_size: u32,
        [404] gl2c_cache_size: u32,
        [408] mall_size: u64,
        [416] enabled_rb_pipes_mask_hi: u32,
        [420] shadow_size: u32,
        [424] shadow_alignment: u32,
        [428] csa_size: u32,
        [432] csa_alignment: u32,
        [436] userq_ip_mask: u32,
    }

    /// Answer to `HW_IP_INFO`. Older headers end earlier.
    struct InfoHwIp = "struct drm_amdgpu_info_hw_ip", 40 {
        [0] hw_ip_version_major: u32,
        [4] hw_ip_version_minor: u32,
        [8] capabilities_flags: u64,
        /// In bytes.
        [16] ib_start_alignment: u32,
        /// In bytes.
        [20] ib_size_alignment: u32,
        /// A bit for each ring.
        [24] available_rings: u32,
        /// Major in bits 16 to 23, minor in 8 to 15, revision in 0 to 7.
        [28] ip_discovery_version: u32,
        [32] userq_num_slots: u32,
        [36] _pad: u32,
    }

    /// Answer to `NUM_HANDLES`.
    struct InfoNumHandles = "struct drm_amdgpu_info_num_handles", 8 {
        [0] uvd_max_handles: u32,
        [4] uvd_used_handles: u32,
    }
}

define_numbers! {
    /// What `INFO` can be asked; answers are u32 or u64 where no struct is named above.
    mod query: u32 = "AMDGPU_INFO_" {
        ACCEL_WORKING = 0x00;
        CRTC_FROM_ID = 0x01;
        HW_IP_INFO = 0x02;
        HW_IP_COUNT = 0x03;
        TIMESTAMP = 0x05;
        FW_VERSION = 0x0e;
        NUM_BYTES_MOVED = 0x0f;
        VRAM_USAGE = 0x10;
        GTT_USAGE = 0x11;
        GDS_CONFIG = 0x13;
        VRAM_GTT = 0x14;
        READ_MMR_REG = 0x15;
        DEV_INFO = 0x16;
        VIS_VRAM_USAGE = 0x17;
        NUM_EVICTIONS = 0x18;
        MEMORY = 0x19;
        VCE_CLOCK_TABLE = 0x1a;
        VBIOS = 0x1b;
        NUM_HANDLES = 0x1c;
        SENSOR = 0x1d;
        NUM_VRAM_CPU_PAGE_FAULTS = 0x1e;
        VRAM_LOST_COUNTER = 0x1f;
        RAS_ENABLED_FEATURES = 0x20;
        VIDEO_CAPS = 0x21;
        MAX_IBS = 0x22;
        GPUVM_FAULT = 0x23;
        UQ_FW_AREAS = 0x24;
    }

    /// Firmwares that `FW_VERSION` tells.
    mod firmware: u32 = "AMDGPU_INFO_FW_" {
        VCE = 0x1;
        UVD = 0x2;
        GMC = 0x03;
        GFX_ME = 0x04;
        GFX_PFP = 0x05;
        GFX_CE = 0x06;
        GFX_RLC = 0x07;
        GFX_MEC = 0x08;
        SMC = 0x0a;
        SDMA = 0x0b;
        SOS = 0x0c;
        ASD = 0x0d;
        VCN = 0x0e;
        TA = 0x13;
        TOC = 0x15;
        MES_KIQ = 0x19;
        MES = 0x1a;
        IMU = 0x1b;
    }

    /// Kinds of `VBIOS` queries.
    mod vbios: u32 = "AMDGPU_INFO_VBIOS_" {
        SIZE = 1;
        IMAGE = 2;
        INFO = 3;
    }

    /// Sensors, in MHz, m°C, percent, W, mV.
    mod sensor: u32 = "AMDGPU_INFO_SENSOR_" {
        GFX_SCLK = 0x1;
        GFX_MCLK = 0x2;
        GPU_TEMP = 0x3;
        GPU_LOAD = 0x4;
        GPU_AVG_POWER = 0x5;
        VDDNB = 0x6;
        VDDGFX = 0x7;
        STABLE_PSTATE_GFX_SCLK = 0x8;
        STABLE_PSTATE_GFX_MCLK = 0x9;
        PEAK_PSTATE_GFX_SCLK = 0xa;
        PEAK_PSTATE_GFX_MCLK = 0xb;
        GPU_INPUT_POWER = 0xc;
    }

    /// Bits of `ids_flags`.
    mod ids_flag: u64 = "AMDGPU_IDS_FLAGS_" {
        /// An APU.
        FUSION = 0x01;
        PREEMPTION = 0x02;
        TMZ = 0x04;
        CONFORMANT_TRUNC_COORD = 0x08;
        GANG_SUBMIT = 0x10;
    }

    /// Kinds of VRAM.
    mod vram_type: u32 = "AMDGPU_VRAM_TYPE_" {
        UNKNOWN = 0;
        GDDR1 = 1;
        DDR2 = 2;
        GDDR3 = 3;
        GDDR4 = 4;
        GDDR5 = 5;
        HBM = 6;
        DDR3 = 7;
        DDR4 = 8;
        GDDR6 = 9;
        DDR5 = 10;
        LPDDR4 = 11;
        LPDDR5 = 12;
        HBM3E = 13;
    }

    /// Families of chips.
    mod family: u32 = "AMDGPU_FAMILY_" {
        UNKNOWN = 0;
        SI = 110;
        CI = 120;
        KV = 125;
        VI = 130;
        CZ = 135;
        /// Vega 10 to MI300.
        AI = 141;
        RV = 142;
        NV = 143;
        VGH = 144;
        GC_11_0_0 = 145;
        YC = 146;
        GC_11_0_1 = 148;
        GC_10_3_6 = 149;
        GC_11_5_0 = 150;
        GC_10_3_7 = 151;
        GC_12_0_0 = 152;
    }
}
