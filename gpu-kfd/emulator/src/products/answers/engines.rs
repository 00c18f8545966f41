//! `HW_IP_INFO`, `HW_IP_COUNT` and `FW_VERSION`: what there is to submit work to, and its firmware.

use gpu_kfd::uapi::info::{InfoFirmware, InfoHwIp, firmware};
use gpu_kfd::uapi::submit::hw_ip;
use nix::errno::Errno;

use super::super::topology::GpuSpec;

/// Kinds of engines that the driver knows (amdgpu_drm.h, `AMDGPU_HW_IP_NUM`).
const ENGINE_KINDS: u32 = 10;
/// Feature version that the driver reports beside the version of gfx9 firmware.
const FEATURE: u32 = 62;

impl GpuSpec {
    /// Answer to `HW_IP_INFO` for a kind of engine (`AMDGPU_HW_IP_*`); all zero for one that this
    /// GPU has not, as the driver answers.
    ///
    /// # Errors
    /// `EINVAL` for a number that is no kind of engine.
    pub fn engine_info(&self, kind: u32) -> Result<InfoHwIp, Errno> {
        let chip = self.chip;
        let (gc, sdma) = (chip.gc_version, chip.sdma_version);
        let graphics = |rings: u32| InfoHwIp {
            hw_ip_version_major: gc.0,
            hw_ip_version_minor: if chip.shader.xccs > 1 { gc.1 } else { 0 },
            ib_start_alignment: 32,
            ib_size_alignment: 32,
            available_rings: (1 << rings) - 1,
            ip_discovery_version: packed(gc),
            ..InfoHwIp::default()
        };
        match kind {
            hw_ip::GFX if chip.gfx_rings == 0 => Ok(InfoHwIp::default()),
            hw_ip::GFX => Ok(graphics(chip.gfx_rings)),
            hw_ip::COMPUTE => Ok(graphics(chip.compute_rings)),
            hw_ip::DMA => Ok(InfoHwIp {
                hw_ip_version_major: sdma.0,
                hw_ip_version_minor: if chip.shader.xccs > 1 { sdma.1 } else { 0 },
                ib_start_alignment: 256,
                ib_size_alignment: 4,
                available_rings: (1 << self.sdma_engines()) - 1,
                ip_discovery_version: packed(sdma),
                ..InfoHwIp::default()
            }),
            kind if kind < ENGINE_KINDS => Ok(InfoHwIp::default()),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Answer to `HW_IP_COUNT`: how many of a kind of engine a program can choose from. Engines for
    /// graphics, compute and copies are one, with rings.
    ///
    /// # Errors
    /// `EINVAL` for a number that is no kind of engine.
    pub fn engine_count(&self, kind: u32) -> Result<u32, Errno> {
        match kind {
            hw_ip::GFX => Ok(u32::from(self.chip.gfx_rings > 0)),
            hw_ip::COMPUTE | hw_ip::DMA => Ok(1),
            kind if kind < ENGINE_KINDS => Ok(0),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Answer to `FW_VERSION` for a firmware (`AMDGPU_INFO_FW_*`); all zero for one that this GPU
    /// has not. `index` counts copy engines, and compute engines of which there are two.
    ///
    /// # Errors
    /// `EINVAL` for an unknown firmware or index.
    pub fn firmware_info(&self, kind: u32, index: u32) -> Result<InfoFirmware, Errno> {
        let versions = &self.firmware;
        let version = match kind {
            firmware::GFX_MEC if index < 2 => versions.mec,
            firmware::SDMA if index < self.sdma_engines() => versions.sdma,
            firmware::GFX_ME => versions.me,
            firmware::GFX_PFP => versions.pfp,
            firmware::GFX_CE => versions.ce,
            firmware::GFX_RLC => versions.rlc,
            firmware::SMC => versions.smc,
            firmware::SOS => versions.sos,
            firmware::VCN => versions.vcn,
            firmware::VCE | firmware::UVD | firmware::GMC | firmware::ASD | firmware::TA => 0,
            _ => return Err(Errno::EINVAL),
        };
        let with_feature = [firmware::GFX_MEC, firmware::SDMA].contains(&kind);
        let feature = if with_feature { FEATURE } else { 0 };
        Ok(InfoFirmware { ver: version, feature })
    }

    /// Copy engines of both kinds.
    fn sdma_engines(&self) -> u32 {
        self.chip.sdma.engines + self.chip.sdma.xgmi_engines
    }
}

/// Major, minor and revision as `ip_discovery_version` packs them.
const fn packed((major, minor, revision): (u32, u32, u32)) -> u32 {
    major << 16 | minor << 8 | revision
}
