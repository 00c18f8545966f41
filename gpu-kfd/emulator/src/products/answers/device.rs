//! `DEV_INFO`: the device as a whole.

use gpu_kfd::uapi::info::{InfoDevice, ids_flag, vram_type};

use super::super::chip::{Shader, VramKind};
use super::super::topology::GpuSpec;
use crate::model::{HOLE_END, HOLE_START, VA_END, VA_FIRST, VA_RESERVED_TOP_BYTES};

const PAGE_BYTES: u32 = 4096;
/// A page table entry maps up to 2 MiB (`vm_manager.fragment_size` of gfx9 is 9).
const FRAGMENT_BYTES: u32 = 2 << 20;
/// gfx_v9_0.c, `gfx_v9_0_gpu_early_init` and the chips' own tables.
const GFX_CONTEXTS: u32 = 8;
const VGPRS: u32 = 256;
const GS_TABLE_DEPTH: u32 = 32;
const GS_PRIMITIVE_BUFFER_DEPTH: u32 = 1792;
const GS_WAVES: u32 = 32;
const PCIE_LANES: u32 = 16;

impl GpuSpec {
    /// Answer to `DEV_INFO`.
    #[must_use]
    pub fn device_info(&self) -> InfoDevice {
        let chip = self.chip;
        let shader = &chip.shader;
        let bitmap = cu_bitmap(shader);
        InfoDevice {
            device_id: u32::from(chip.pci.device_id),
            chip_rev: chip.revision,
            external_rev: chip.external_revision_base + chip.revision,
            pci_rev: u32::from(chip.pci.revision),
            family: chip.family,
            num_shader_engines: shader.engines(),
            num_shader_arrays_per_engine: shader.arrays_per_engine,
            gpu_counter_freq: (Self::CLOCK_HZ / 1000) as u32,
            max_engine_clock: u64::from(chip.engine_clock_mhz) * 1000,
            max_memory_clock: u64::from(self.vram.clock_mhz) * 1000,
            cu_active_number: shader.cus(),
            cu_bitmap: bitmap,
            enabled_rb_pipes_mask: shader.render_backends_mask,
            num_rb_pipes: shader.render_backends_mask.count_ones(),
            num_hw_gfx_contexts: GFX_CONTEXTS,
            pcie_gen: pcie_generation(chip.pcie.max_mbytes),
            ids_flags: if chip.apu { ids_flag::FUSION } else { 0 },
            virtual_address_offset: VA_FIRST,
            virtual_address_max: HOLE_START,
            virtual_address_alignment: PAGE_BYTES,
            pte_fragment_size: FRAGMENT_BYTES,
            gart_page_size: PAGE_BYTES,
            ce_ram_size: shader.constant_engine_bytes,
            vram_type: match self.vram.kind {
                VramKind::Hbm => vram_type::HBM,
                VramKind::Ddr4 => vram_type::DDR4,
            },
            vram_bit_width: self.vram.width_bits,
            gc_double_offchip_lds_buf: 1,
            wave_front_size: shader.wave_lanes,
            num_shader_visible_vgprs: VGPRS,
            num_cu_per_sh: shader.cus_per_array,
            num_tcc_blocks: shader.texture_channels,
            gs_vgt_table_depth: GS_TABLE_DEPTH,
            gs_prim_buffer_depth: GS_PRIMITIVE_BUFFER_DEPTH,
            max_gs_waves_per_vgt: GS_WAVES,
            pcie_num_lanes: PCIE_LANES,
            cu_ao_bitmap: bitmap,
            high_va_offset: HOLE_END,
            high_va_max: HOLE_END | (VA_END - VA_RESERVED_TOP_BYTES),
            mall_size: self.last_level_bytes(),
            ..InfoDevice::default()
        }
    }

    /// The cache in front of the memory (level 3), if there is one.
    fn last_level_bytes(&self) -> u64 {
        let last = self.chip.caches.iter().find(|cache| cache.level == 3);
        last.map_or(0, |cache| u64::from(cache.kib) << 10)
    }
}

/// Working CUs in a table of four by four: engines from the fifth on are in the second column
/// (amdgpu_gfx.h, `amdgpu_cu_info`). Only the first XCC is shown.
fn cu_bitmap(shader: &Shader) -> [[u32; 4]; 4] {
    let mut bitmap = [[0; 4]; 4];
    for (engine, mask) in shader.engine_masks.iter().enumerate() {
        bitmap[engine % 4][engine / 4] = *mask;
    }
    bitmap
}

/// Generation of a link of 16 lanes with this speed.
const fn pcie_generation(max_mbytes: u32) -> u32 {
    match max_mbytes {
        64_000.. => 5,
        32_000.. => 4,
        16_000.. => 3,
        _ => 2,
    }
}
