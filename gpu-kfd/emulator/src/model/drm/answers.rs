//! Who says what a GPU is when a program asks: the model knows only what is in use.

use std::fmt::Debug;

use bytemuck::bytes_of;
use nix::errno::Errno;

use gpu_kfd::uapi::info::{
    HeapInfo, Info, InfoDevice, InfoHwIp, InfoVramGtt, MemoryInfo, family, query,
};
use gpu_kfd::uapi::submit::hw_ip;

use crate::model::memory::GpuConfig;
use crate::model::vm::{HOLE_END, HOLE_START, PAGE_BYTES, VA_END, VA_FIRST, VA_RESERVED_TOP_BYTES};

/// Kinds of engines (`AMDGPU_HW_IP_NUM`).
pub(super) const ENGINE_KINDS: u32 = hw_ip::VPE + 1;

/// Register `GB_ADDR_CONFIG` of the GFX9 family, as an offset in words: what libdrm reads.
const GB_ADDR_CONFIG: u32 = 0x263e;
/// Its value on GFX9.0a.
const GB_ADDR_CONFIG_VALUE: u32 = 0x2a11_0042;

/// What an answer needs of the running node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InfoState {
    /// Bytes of video memory in use.
    pub vram_used_bytes: u64,
    /// Bytes of it in the part that the host can map.
    pub vram_public_used_bytes: u64,
    /// Bytes of system memory that the GPU can map.
    pub gtt_bytes: u64,
    /// Bytes of them in use.
    pub gtt_used_bytes: u64,
    /// Counter of the GPU's clock, 100 MHz.
    pub clock: u64,
}

/// What a GPU answers to `DRM_IOCTL_AMDGPU_INFO`.
pub trait InfoSource: Debug + Send + Sync {
    /// The whole answer to a query; the model copies as much as the caller has room for, and has
    /// checked instances and places of registers.
    ///
    /// # Errors
    /// `EINVAL` for a query, engine or firmware that this GPU does not know; `EFAULT` for a
    /// register that programs may not read.
    fn answer_info(&self, info: &Info, state: &InfoState) -> Result<Vec<u8>, Errno>;
}

/// A plain GPU of the GFX9 family with compute and SDMA engines: who answers if nobody else does.
#[derive(Clone, Debug)]
pub(crate) struct PlainGpu(pub(crate) GpuConfig);

impl PlainGpu {
    fn engine(kind: u32) -> Result<InfoHwIp, Errno> {
        let engine = |start_alignment, size_alignment, rings| InfoHwIp {
            hw_ip_version_major: 9,
            ib_start_alignment: start_alignment,
            ib_size_alignment: size_alignment,
            available_rings: rings,
            ..InfoHwIp::default()
        };
        match kind {
            hw_ip::COMPUTE => Ok(engine(32, 32, 0xf)),
            hw_ip::DMA => Ok(engine(256, 4, 0x3)),
            kind if kind < ENGINE_KINDS => Ok(InfoHwIp::default()),
            _ => Err(Errno::EINVAL),
        }
    }

    fn device() -> InfoDevice {
        InfoDevice {
            family: family::AI,
            num_shader_engines: 1,
            num_shader_arrays_per_engine: 1,
            virtual_address_offset: VA_FIRST,
            virtual_address_max: HOLE_START,
            virtual_address_alignment: PAGE_BYTES as u32,
            gart_page_size: PAGE_BYTES as u32,
            high_va_offset: HOLE_END,
            high_va_max: HOLE_END | (VA_END - VA_RESERVED_TOP_BYTES),
            wave_front_size: 64,
            ..InfoDevice::default()
        }
    }
}

fn heap(total_heap_size: u64, heap_usage: u64) -> HeapInfo {
    let usable_heap_size = total_heap_size;
    let max_allocation = total_heap_size / 4 * 3;
    HeapInfo { total_heap_size, usable_heap_size, heap_usage, max_allocation }
}

impl InfoSource for PlainGpu {
    fn answer_info(&self, info: &Info, state: &InfoState) -> Result<Vec<u8>, Errno> {
        let [first, second, ..] = info.operands;
        let config = &self.0;
        Ok(match info.query {
            query::ACCEL_WORKING => bytes_of(&1u32).to_vec(),
            query::HW_IP_INFO => bytes_of(&Self::engine(first)?).to_vec(),
            query::HW_IP_COUNT => {
                let has_rings = Self::engine(first)?.available_rings != 0;
                bytes_of(&u32::from(has_rings)).to_vec()
            }
            query::TIMESTAMP => bytes_of(&state.clock).to_vec(),
            query::VRAM_USAGE => bytes_of(&state.vram_used_bytes).to_vec(),
            query::VIS_VRAM_USAGE => bytes_of(&state.vram_public_used_bytes).to_vec(),
            query::GTT_USAGE => bytes_of(&state.gtt_used_bytes).to_vec(),
            query::VRAM_GTT => bytes_of(&InfoVramGtt {
                vram_size: config.vram_bytes,
                vram_cpu_accessible_size: config.vram_visible_bytes,
                gtt_size: state.gtt_bytes,
            })
            .to_vec(),
            query::MEMORY => bytes_of(&MemoryInfo {
                vram: heap(config.vram_bytes, state.vram_used_bytes),
                cpu_accessible_vram: heap(config.vram_visible_bytes, state.vram_public_used_bytes),
                gtt: heap(state.gtt_bytes, state.gtt_used_bytes),
            })
            .to_vec(),
            query::READ_MMR_REG if (first, second) == (GB_ADDR_CONFIG, 1) => {
                bytes_of(&GB_ADDR_CONFIG_VALUE).to_vec()
            }
            query::READ_MMR_REG => return Err(Errno::EFAULT),
            query::DEV_INFO => bytes_of(&Self::device()).to_vec(),
            _ => return Err(Errno::EINVAL),
        })
    }
}
