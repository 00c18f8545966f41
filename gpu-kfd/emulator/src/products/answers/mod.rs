//! What the driver answers when it is asked about a GPU.
//!
//! `device` and `engines` and `memory` answer the DRM call `INFO`. All are computed from a
//! [`GpuSpec`] and, where an answer changes while the node runs, an [`InfoState`]. They follow
//! amdgpu_kms.c (`amdgpu_info_ioctl`) of Linux 6.18.

mod device;
mod engines;
mod memory;

use bytemuck::bytes_of;
use gpu_kfd::uapi::info::{Info, InfoGds, query};
use nix::errno::Errno;

use super::topology::GpuSpec;
use crate::model::{InfoSource, InfoState};

/// Register GB_ADDR_CONFIG in words from the start of the register space (gc_9_0_offset.h).
const GB_ADDR_CONFIG: u32 = 0x263e;
/// Most registers that one query may ask for.
const REGISTERS_MAX: u32 = 128;

impl InfoSource for GpuSpec {
    fn answer_info(&self, info: &Info, state: &InfoState) -> Result<Vec<u8>, Errno> {
        let [first, second, third, _] = info.operands;
        let answer = match info.query {
            query::ACCEL_WORKING => bytes_of(&1u32).to_vec(),
            query::HW_IP_INFO => bytes_of(&self.engine_info(first)?).to_vec(),
            query::HW_IP_COUNT => bytes_of(&self.engine_count(first)?).to_vec(),
            query::TIMESTAMP => bytes_of(&state.clock).to_vec(),
            query::FW_VERSION => bytes_of(&self.firmware_info(first, third)?).to_vec(),
            query::VRAM_USAGE => bytes_of(&state.vram_used_bytes).to_vec(),
            query::VIS_VRAM_USAGE => bytes_of(&state.vram_public_used_bytes).to_vec(),
            query::GTT_USAGE => bytes_of(&state.gtt_used_bytes).to_vec(),
            query::NUM_BYTES_MOVED | query::NUM_EVICTIONS | query::NUM_VRAM_CPU_PAGE_FAULTS => {
                bytes_of(&0u64).to_vec()
            }
            query::VRAM_LOST_COUNTER => bytes_of(&0u32).to_vec(),
            query::GDS_CONFIG => bytes_of(&self.gds_info()).to_vec(),
            query::VRAM_GTT => bytes_of(&self.vram_gtt(state)).to_vec(),
            query::MEMORY => bytes_of(&self.memory_info(state)).to_vec(),
            query::READ_MMR_REG => self.registers(first, second)?,
            query::DEV_INFO => bytes_of(&self.device_info()).to_vec(),
            _ => return Err(Errno::EINVAL),
        };
        Ok(answer)
    }
}

impl GpuSpec {
    /// Ticks of the GPU's clock in a second, for all three kinds of chips (soc15.c,
    /// `soc15_get_xclk`).
    pub const CLOCK_HZ: u64 = 100_000_000;

    /// Registers that everybody may read; of those only one has a value here.
    fn registers(&self, first: u32, count: u32) -> Result<Vec<u8>, Errno> {
        if count == 0 || count > REGISTERS_MAX {
            return Err(Errno::EINVAL);
        }
        match (first, count) {
            (GB_ADDR_CONFIG, 1) => Ok(bytes_of(&self.chip.gb_addr_config).to_vec()),
            _ => Err(Errno::EFAULT),
        }
    }

    /// Global data share: these chips have none that programs may use, only sync resources.
    fn gds_info(&self) -> InfoGds {
        InfoGds {
            gws_per_gfx_partition: self.chip.gws,
            gws_per_compute_partition: self.chip.gws,
            ..InfoGds::default()
        }
    }
}

#[cfg(test)]
mod tests;
