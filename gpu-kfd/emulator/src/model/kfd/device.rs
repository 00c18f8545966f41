//! Calls about the GPUs as such: version, apertures, clocks, address spaces, handlers.

use nix::errno::Errno;

use gpu_kfd::uapi::debug::RuntimeEnableArgs;
use gpu_kfd::uapi::kfd::{
    AcquireVmArgs, GetClockCountersArgs, GetProcessAperturesArgs, GetProcessAperturesNewArgs,
    GetTileConfigArgs, GetVersionArgs, ProcessDeviceApertures, SetMemoryPolicyArgs,
    SetScratchBackingVaArgs, SetTrapHandlerArgs, cache_policy,
};

use super::VERSION;
use crate::model::process::{Process, ProcessDevice};
use crate::model::vm::VA_FIRST;
use crate::model::world::{FileId, GpuIndex, SpaceId};
use crate::model::{Call, Model, write_array};

/// Addresses of GFX9 (`kfd_flat_memory.c`): local data and scratch beyond the 47-bit user space.
const LDS_BASE: u64 = 0x1_0000_0000_0000;
const SCRATCH_BASE: u64 = 0x2_0000_0000_0000;
const APERTURE_LAST: u64 = 0xffff_ffff;
const GPUVM_LIMIT: u64 = 0x7fff_ffff_ffff;
/// Elements of the fixed array of the older call (`NUM_OF_SUPPORTED_GPUS`).
const APERTURES_OLD: usize = 7;
/// Frequency of the clocks in Hz, as `kfd_ioctl_get_clock_counters` states it.
const CLOCK_HZ: u64 = 1_000_000_000;
/// Registers of tile modes that the driver shows; GFX9 has none, and they read as zero.
const TILE_MODES: u32 = 32;
const MACRO_TILE_MODES: u32 = 16;

fn apertures(gpu_id: u32) -> ProcessDeviceApertures {
    ProcessDeviceApertures {
        lds_base: LDS_BASE,
        lds_limit: LDS_BASE | APERTURE_LAST,
        scratch_base: SCRATCH_BASE,
        scratch_limit: SCRATCH_BASE | APERTURE_LAST,
        gpuvm_base: VA_FIRST,
        gpuvm_limit: GPUVM_LIMIT,
        gpu_id,
        ..Default::default()
    }
}

impl Model {
    pub(super) fn get_version(&mut self, args: &mut GetVersionArgs) -> Result<i32, Errno> {
        (args.major_version, args.minor_version) = VERSION;
        Ok(0)
    }

    /// A device of the caller that has an address space on its GPU.
    ///
    /// # Errors
    /// `EINVAL` for an identifier that the process does not know, `unbound` if it has acquired no
    /// address space there (the driver's calls differ in that errno).
    pub(super) fn bound(
        &mut self,
        space: SpaceId,
        user_gpu_id: u32,
        unbound: Errno,
    ) -> Result<&mut ProcessDevice, Errno> {
        let device = self.process(space)?.device_mut(user_gpu_id).ok_or(Errno::EINVAL)?;
        if device.render.is_none() { Err(unbound) } else { Ok(device) }
    }

    pub(super) fn set_memory_policy(
        &mut self,
        call: &mut Call<'_>,
        args: &mut SetMemoryPolicyArgs,
    ) -> Result<i32, Errno> {
        let known = [cache_policy::COHERENT, cache_policy::NONCOHERENT];
        if !known.contains(&args.default_policy) || !known.contains(&args.alternate_policy) {
            return Err(Errno::EINVAL);
        }
        self.bound(call.caller.space, args.gpu_id, Errno::ESRCH)?;
        Ok(0)
    }

    pub(super) fn get_clock_counters(
        &mut self,
        call: &mut Call<'_>,
        args: &mut GetClockCountersArgs,
    ) -> Result<i32, Errno> {
        let now_ns = call.world.now_ns();
        let is_gpu = self.process(call.caller.space)?.device(args.gpu_id).is_some();
        // GFX9's reference clock has 100 MHz.
        args.gpu_clock_counter = if is_gpu { now_ns / 10 } else { 0 };
        args.cpu_clock_counter = now_ns;
        args.system_clock_counter = now_ns;
        args.system_clock_freq = CLOCK_HZ;
        Ok(0)
    }

    /// The driver answers with the GPUs' own identifiers here, not with those of a checkpoint.
    fn all_apertures(&mut self, space: SpaceId) -> Result<Vec<ProcessDeviceApertures>, Errno> {
        self.process(space)?;
        Ok(self.memory.gpus.iter().map(|gpu| apertures(gpu.config.gpu_id)).collect())
    }

    pub(super) fn get_process_apertures(
        &mut self,
        call: &mut Call<'_>,
        args: &mut GetProcessAperturesArgs,
    ) -> Result<i32, Errno> {
        let all = self.all_apertures(call.caller.space)?;
        let count = all.len().min(APERTURES_OLD);
        args.process_apertures[..count].copy_from_slice(&all[..count]);
        args.num_of_nodes = count as u32;
        Ok(0)
    }

    pub(super) fn get_process_apertures_new(
        &mut self,
        call: &mut Call<'_>,
        args: &mut GetProcessAperturesNewArgs,
    ) -> Result<i32, Errno> {
        let all = self.all_apertures(call.caller.space)?;
        if args.num_of_nodes == 0 {
            args.num_of_nodes = all.len() as u32;
            return Ok(0);
        }
        let count = all.len().min(args.num_of_nodes as usize);
        args.num_of_nodes = count as u32;
        let address = args.kfd_process_device_apertures_ptr;
        write_array(call.world, call.caller.space, address, &all[..count])?;
        Ok(0)
    }

    pub(super) fn set_scratch_backing_va(
        &mut self,
        call: &mut Call<'_>,
        args: &mut SetScratchBackingVaArgs,
    ) -> Result<i32, Errno> {
        let device = self.bound(call.caller.space, args.gpu_id, Errno::ENODEV)?;
        device.scratch_va = args.va_addr;
        Ok(0)
    }

    pub(super) fn get_tile_config(
        &mut self,
        call: &mut Call<'_>,
        args: &mut GetTileConfigArgs,
    ) -> Result<i32, Errno> {
        let space = call.caller.space;
        let gpu = self.process(space)?.device(args.gpu_id).ok_or(Errno::EINVAL)?.gpu;
        args.gb_addr_config = self.memory.gpu(gpu).config.gb_addr_config;
        args.num_banks = 0;
        args.num_ranks = 0;
        let arrays = [
            (&mut args.num_tile_configs, args.tile_config_ptr, TILE_MODES),
            (&mut args.num_macro_tile_configs, args.macro_tile_config_ptr, MACRO_TILE_MODES),
        ];
        for (count, address, modes) in arrays {
            *count = (*count).min(modes);
            let zeros = vec![0u32; *count as usize];
            if let Err(errno) = write_array(call.world, space, address, &zeros) {
                *count = 0;
                return Err(errno);
            }
        }
        Ok(0)
    }

    pub(super) fn set_trap_handler(
        &mut self,
        call: &mut Call<'_>,
        args: &mut SetTrapHandlerArgs,
    ) -> Result<i32, Errno> {
        let device = self.bound(call.caller.space, args.gpu_id, Errno::ESRCH)?;
        device.trap_handler = (args.tba_addr, args.tma_addr);
        Ok(0)
    }

    /// A debugger's runtime is noted, and nothing more: there is no debugger.
    pub(super) fn runtime_enable(
        &mut self,
        call: &mut Call<'_>,
        args: &mut RuntimeEnableArgs,
    ) -> Result<i32, Errno> {
        let process = self.process(call.caller.space)?;
        let enable = args.mode_mask & 1 != 0;
        if enable && process.runtime_enabled {
            return Err(Errno::EBUSY);
        }
        process.runtime_enabled = enable;
        Ok(0)
    }

    pub(super) fn acquire_vm(
        &mut self,
        call: &mut Call<'_>,
        args: &mut AcquireVmArgs,
    ) -> Result<i32, Errno> {
        let named = call.world.resolve_fd(&call.caller, args.drm_fd as i32);
        let render = named.map_err(|_| Errno::EINVAL)?;
        let process = self.process(call.caller.space)?;
        let device = process.device(args.gpu_id).ok_or(Errno::EINVAL)?;
        if let Some(acquired) = device.render {
            return if acquired == render { Ok(0) } else { Err(Errno::EBUSY) };
        }
        let gpu = device.gpu;
        self.take_over(call.caller.space, gpu, render)?;
        Ok(0)
    }

    /// Makes the address space of an open render node that of a process on its GPU.
    ///
    /// # Errors
    /// `EINVAL` if it is no render node, one of another GPU, or already taken over.
    pub(super) fn take_over(
        &mut self,
        space: SpaceId,
        gpu: GpuIndex,
        render: FileId,
    ) -> Result<(), Errno> {
        let file = self.files.render_mut(render).ok_or(Errno::EINVAL)?;
        if file.gpu != gpu || file.compute_of.is_some() {
            return Err(Errno::EINVAL);
        }
        file.compute_of = Some(space);
        let process: &mut Process = self.process(space)?;
        process.on_mut(gpu).render = Some(render);
        Ok(())
    }
}
