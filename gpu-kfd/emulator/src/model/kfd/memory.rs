//! Buffers of the KFD: allocate, map to GPUs, unmap, free.
//!
//! The order of checks, and so the errno of a call that is wrong in several ways, is that of
//! `kfd_chardev.c` and `amdgpu_amdkfd_gpuvm.c` (Linux 6.12).

use std::collections::BTreeSet;

use nix::errno::Errno;

use gpu_kfd::uapi::amdgpu::{create, domain, vm_page};
use gpu_kfd::uapi::kfd::{
    AllocMemoryOfGpuArgs, FreeMemoryOfGpuArgs, GetAvailableMemoryArgs, MapMemoryToGpuArgs,
    UnmapMemoryFromGpuArgs, alloc,
};

use crate::model::memory::{Kind, Memory, NewBuffer};
use crate::model::process::{DOORBELL_BYTES, KfdBo, Process};
use crate::model::vm::{Mapping, Owner, PAGE_BYTES};
use crate::model::world::{BufferId, GpuIndex, SpaceId};
use crate::model::{Call, Model, read_array};

/// Most GPUs that one call may name; nodes have far fewer.
const DEVICES_MAX: u64 = 64;

/// The driver keeps device memory in units of 2 MiB when it says what is available.
const AVAILABLE_UNIT_BYTES: u64 = 2 << 20;

/// Identifier and number that a KFD handle is made of.
pub(super) fn handle_parts(handle: u64) -> (u32, u32) {
    ((handle >> 32) as u32, handle as u32)
}

/// What `AMDGPU_GEM_CREATE_*` flags a KFD buffer has, and in which domain it lives.
fn gem_view(flags: u32) -> (u64, u64) {
    if flags & alloc::VRAM != 0 {
        let access = match flags & alloc::PUBLIC {
            0 => create::NO_CPU_ACCESS,
            _ => create::CPU_ACCESS_REQUIRED,
        };
        return (access | create::VRAM_WIPE_ON_RELEASE, domain::VRAM);
    }
    if flags & alloc::GTT != 0 { (0, domain::GTT) } else { (0, domain::CPU) }
}

impl Model {
    pub(super) fn alloc_memory_of_gpu(
        &mut self,
        call: &mut Call<'_>,
        args: &mut AllocMemoryOfGpuArgs,
    ) -> Result<i32, Errno> {
        if args.size == 0 {
            return Err(Errno::EINVAL);
        }
        let space = call.caller.space;
        self.refuse_ranges(space, args)?;
        let device = self.process(space)?.device(args.gpu_id).ok_or(Errno::EINVAL)?;
        let gpu = device.gpu;
        let config = &self.memory.gpu(gpu).config;
        let large_bar = config.vram_visible_bytes >= config.vram_bytes;
        let visible = alloc::PUBLIC | alloc::VRAM;
        if args.flags & visible == visible && !large_bar {
            return Err(Errno::EINVAL);
        }
        self.bound(space, args.gpu_id, Errno::ENODEV)?;
        let wanted = Wanted { va: args.va_addr, size_bytes: args.size, flags: args.flags };
        let (buffer, number) = self.add_bo(space, gpu, wanted, args.mmap_offset, None)?;
        args.handle = u64::from(args.gpu_id) << 32 | u64::from(number);
        args.mmap_offset = self.memory.buffer(buffer).at.offset;
        Ok(0)
    }

    /// Buffers may not stand where a shared virtual memory range is registered.
    fn refuse_ranges(&mut self, space: SpaceId, args: &AllocMemoryOfGpuArgs) -> Result<(), Errno> {
        let ranges = &self.process(space)?.ranges;
        let without_va = args.va_addr == 0 && args.flags & alloc::VRAM != 0;
        if !without_va && ranges.overlaps(args.va_addr, args.size) {
            return Err(Errno::EADDRINUSE);
        }
        if args.flags & alloc::USERPTR != 0 && ranges.overlaps(args.mmap_offset, args.size) {
            return Err(Errno::EADDRINUSE);
        }
        Ok(())
    }

    /// Makes a buffer and its KFD handle: the lowest free number, or `number`.
    ///
    /// # Errors
    /// Those of `kfd_ioctl_alloc_memory_of_gpu`; `ENOMEM` if `number` is taken.
    pub(super) fn add_bo(
        &mut self,
        space: SpaceId,
        gpu: GpuIndex,
        wanted: Wanted,
        user_address: u64,
        number: Option<u32>,
    ) -> Result<(BufferId, u32), Errno> {
        let process = self.processes.get_mut(&space).ok_or(Errno::ESRCH)?;
        let buffer = make_buffer(&mut self.memory, process, gpu, wanted, user_address)?;
        let bo = KfdBo {
            buffer,
            va: wanted.va,
            size_bytes: wanted.size_bytes,
            flags: wanted.flags,
            mapped: BTreeSet::new(),
            imported: false,
        };
        let bos = &mut process.on_mut(gpu).bos;
        let inserted = match number {
            None => bos.insert(bo).map_err(|_| Errno::EFAULT),
            Some(number) => bos.insert_at(number, bo).map(|()| number).map_err(|_| Errno::ENOMEM),
        };
        match inserted {
            Ok(number) => Ok((buffer, number)),
            Err(errno) => {
                self.memory.forget_new(buffer);
                Err(errno)
            }
        }
    }

    pub(super) fn free_memory_of_gpu(
        &mut self,
        call: &mut Call<'_>,
        args: &mut FreeMemoryOfGpuArgs,
    ) -> Result<i32, Errno> {
        let (gpu_id, number) = handle_parts(args.handle);
        let process = self.process(call.caller.space)?;
        if process.events.page_handle() == Some(args.handle) {
            return Err(Errno::EPERM);
        }
        let device = process.device_mut(gpu_id).ok_or(Errno::EINVAL)?;
        let bo = device.bos.get(number).ok_or(Errno::EINVAL)?;
        if !bo.mapped.is_empty() {
            return Err(Errno::EBUSY);
        }
        let buffer = bo.buffer;
        device.bos.remove(number);
        self.memory.release(call.world, buffer);
        Ok(0)
    }

    pub(super) fn map_memory_to_gpu(
        &mut self,
        call: &mut Call<'_>,
        args: &mut MapMemoryToGpuArgs,
    ) -> Result<i32, Errno> {
        let space = call.caller.space;
        if args.n_devices == 0 || args.n_success > args.n_devices {
            return Err(Errno::EINVAL);
        }
        let count = u64::from(args.n_devices);
        let address = args.device_ids_array_ptr;
        let ids: Vec<u32> = read_array(call.world, space, address, count, DEVICES_MAX)?;
        let (gpu_id, number) = handle_parts(args.handle);
        let device = self.bound(space, gpu_id, Errno::ENODEV)?;
        let gpu = device.gpu;
        device.bos.get(number).ok_or(Errno::ENOMEM)?;
        for (index, id) in ids.iter().enumerate().skip(args.n_success as usize) {
            let peer = self.bound(space, *id, Errno::ENODEV)?.gpu;
            self.map_bo(space, (gpu, number), peer)?;
            args.n_success = index as u32 + 1;
        }
        Ok(0)
    }

    /// Maps a buffer to a GPU; one that is mapped there already stays as it is.
    pub(super) fn map_bo(
        &mut self,
        space: SpaceId,
        (gpu, number): (GpuIndex, u32),
        peer: GpuIndex,
    ) -> Result<(), Errno> {
        let process = self.processes.get_mut(&space).ok_or(Errno::ESRCH)?;
        let render = process.on(peer).render.ok_or(Errno::ENODEV)?;
        let bo = process.on_mut(gpu).bos.get_mut(number).ok_or(Errno::EINVAL)?;
        if bo.mapped.contains(&peer) {
            return Ok(());
        }
        if bo.va == 0 {
            return Err(Errno::EINVAL);
        }
        let vm = &mut self.files.render_mut(render).ok_or(Errno::ENODEV)?.vm;
        let mut mapped = Vec::new();
        for mapping in mappings(&self.memory, bo, Owner::Kfd(gpu, number)) {
            if let Err(errno) = vm.map(mapping.0, mapping.1) {
                for va in mapped {
                    vm.unmap(va);
                }
                return Err(errno);
            }
            mapped.push(mapping.0);
        }
        bo.mapped.insert(peer);
        Ok(())
    }

    pub(super) fn unmap_memory_from_gpu(
        &mut self,
        call: &mut Call<'_>,
        args: &mut UnmapMemoryFromGpuArgs,
    ) -> Result<i32, Errno> {
        let space = call.caller.space;
        if args.n_devices == 0 || args.n_success > args.n_devices {
            return Err(Errno::EINVAL);
        }
        let count = u64::from(args.n_devices);
        let address = args.device_ids_array_ptr;
        let ids: Vec<u32> = read_array(call.world, space, address, count, DEVICES_MAX)?;
        let (gpu_id, number) = handle_parts(args.handle);
        let device = self.process(space)?.device(gpu_id).ok_or(Errno::EINVAL)?;
        let gpu = device.gpu;
        device.bos.get(number).ok_or(Errno::ENOMEM)?;
        for (index, id) in ids.iter().enumerate().skip(args.n_success as usize) {
            let peer = self.process(space)?.device(*id).ok_or(Errno::EINVAL)?.gpu;
            self.unmap_bo(space, (gpu, number), peer)?;
            args.n_success = index as u32 + 1;
        }
        Ok(0)
    }

    fn unmap_bo(
        &mut self,
        space: SpaceId,
        (gpu, number): (GpuIndex, u32),
        peer: GpuIndex,
    ) -> Result<(), Errno> {
        let process = self.processes.get_mut(&space).ok_or(Errno::ESRCH)?;
        let render = process.on(peer).render.ok_or(Errno::EINVAL)?;
        let bo = process.on(gpu).bos.get(number).ok_or(Errno::EINVAL)?;
        if bo.va != 0 && process.queues.need(peer, bo.va, bo.size_bytes) {
            return Err(Errno::EBUSY);
        }
        let bo = process.on_mut(gpu).bos.get_mut(number).ok_or(Errno::EINVAL)?;
        if !bo.mapped.remove(&peer) {
            return Err(Errno::EINVAL);
        }
        if let Some(file) = self.files.render_mut(render) {
            file.vm.drop_owner(Owner::Kfd(gpu, number));
        }
        Ok(())
    }

    pub(super) fn available_memory(
        &mut self,
        call: &mut Call<'_>,
        args: &mut GetAvailableMemoryArgs,
    ) -> Result<i32, Errno> {
        let process = self.process(call.caller.space)?;
        let gpu = process.device(args.gpu_id).ok_or(Errno::EINVAL)?.gpu;
        let state = self.memory.gpu(gpu);
        let free = state.config.vram_bytes - state.vram_used_bytes;
        args.available = free - free % AVAILABLE_UNIT_BYTES;
        Ok(0)
    }
}

/// What a caller asks a buffer to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) va: u64,
    pub(super) size_bytes: u64,
    /// `KFD_IOC_ALLOC_MEM_FLAGS_*`.
    pub(super) flags: u32,
}

fn make_buffer(
    memory: &mut Memory,
    process: &Process,
    gpu: GpuIndex,
    wanted: Wanted,
    user_address: u64,
) -> Result<BufferId, Errno> {
    let (gem_flags, domains) = gem_view(wanted.flags);
    let new = |kind, size_bytes| NewBuffer {
        kind,
        size_bytes,
        gem_flags,
        alignment: PAGE_BYTES,
        domains,
    };
    // A ring that is mapped twice in a row has its pages once.
    let halves = if wanted.flags & alloc::AQL_QUEUE_MEM != 0 { 2 } else { 1 };
    let size_bytes = wanted.size_bytes / halves;
    let page = if wanted.flags & alloc::DOORBELL != 0 {
        Some((Kind::Doorbell, DOORBELL_BYTES, process.doorbells_at(memory, gpu)))
    } else if wanted.flags & alloc::MMIO_REMAP != 0 {
        Some((Kind::Registers, PAGE_BYTES, Process::registers_at(memory, gpu)))
    } else {
        None
    };
    if page.is_some_and(|(_, len_bytes, _)| wanted.size_bytes != len_bytes) {
        return Err(Errno::EINVAL);
    }
    // As in `amdgpu_amdkfd_gpuvm_alloc_memory_of_gpu`, memory goes before pages of the device.
    if wanted.flags & alloc::VRAM != 0 {
        memory.create(gpu, new(Kind::Vram, size_bytes))
    } else if wanted.flags & alloc::GTT != 0 {
        memory.create(gpu, new(Kind::Gtt, size_bytes))
    } else if wanted.flags & alloc::USERPTR != 0 {
        if user_address == 0 {
            return Err(Errno::EINVAL);
        }
        let kind = Kind::User { space: process.space, address: user_address };
        memory.create(gpu, new(kind, size_bytes))
    } else if let Some((kind, len_bytes, at)) = page {
        Ok(memory.create_at(gpu, new(kind, len_bytes), at))
    } else {
        Err(Errno::EINVAL)
    }
}

/// The mappings that show a buffer at its address: one, or two in a row for an AQL ring.
fn mappings(memory: &Memory, bo: &KfdBo, owner: Owner) -> Vec<(u64, Mapping)> {
    let len_bytes = memory.buffer(bo.buffer).size_bytes;
    let halves = if bo.flags & alloc::AQL_QUEUE_MEM != 0 { 2 } else { 1 };
    let flags = page_flags(bo.flags);
    let one = Mapping { len_bytes, buffer: bo.buffer, offset: 0, flags, owner };
    // Any address may have been named; one that wraps around cannot be mapped.
    (0..halves).map(|half| (bo.va.wrapping_add(half * len_bytes), one)).collect()
}

/// How the GPU may touch a buffer, in flags of GPU mappings (`get_pte_flags`).
fn page_flags(flags: u32) -> u64 {
    let writable = if flags & alloc::WRITABLE != 0 { vm_page::WRITEABLE } else { 0 };
    let executable = if flags & alloc::EXECUTABLE != 0 { vm_page::EXECUTABLE } else { 0 };
    u64::from(vm_page::READABLE | writable | executable)
}
