//! KFD buffers: every success, and every errno that a caller is promised.

use gpu_kfd::uapi::kfd::{
    AcquireVmArgs, AllocMemoryOfGpuArgs, ExportDmabufArgs, FreeMemoryOfGpuArgs,
    GetAvailableMemoryArgs, GetDmabufInfoArgs, GetProcessAperturesNewArgs, GetVersionArgs,
    ImportDmabufArgs, MapMemoryToGpuArgs, ProcessDeviceApertures, UnmapMemoryFromGpuArgs, alloc,
    ioc,
};
use kfd_emulator::{Caller, DeviceNode, FileId, World};
use nix::errno::Errno;

use crate::bench::{Bench, SCRATCH, SYSTEM_BYTES, VRAM_BYTES, buffer_of, gpu_id};

const MIB: u64 = 1 << 20;
const VA: u64 = 0x10_0000_0000;

/// A process that has both GPUs' address spaces.
struct Ready {
    bench: Bench,
    caller: Caller,
    kfd: FileId,
}

fn ready() -> Ready {
    let mut bench = Bench::new(2);
    let caller = bench.client(100);
    let kfd = bench.kfd(&caller);
    for gpu in 0..2 {
        let render = bench.render(&caller, gpu);
        let drm_fd = bench.fd(&caller, render) as u32;
        let mut args = AcquireVmArgs { drm_fd, gpu_id: gpu_id(gpu) };
        assert_eq!(bench.call(&caller, kfd, ioc::ACQUIRE_VM, &mut args), Ok(0));
    }
    Ready { bench, caller, kfd }
}

impl Ready {
    fn call<T: bytemuck::Pod>(&mut self, request: u32, args: &mut T) -> Result<i32, Errno> {
        self.bench.call(&self.caller, self.kfd, request, args)
    }

    fn alloc(&mut self, gpu: usize, va: u64, size: u64, flags: u32) -> Result<u64, Errno> {
        let mut args = AllocMemoryOfGpuArgs {
            va_addr: va,
            size,
            gpu_id: gpu_id(gpu),
            flags,
            ..Default::default()
        };
        self.call(ioc::ALLOC_MEMORY_OF_GPU, &mut args).map(|_| args.handle)
    }

    fn free(&mut self, handle: u64) -> Result<i32, Errno> {
        self.call(ioc::FREE_MEMORY_OF_GPU, &mut FreeMemoryOfGpuArgs { handle })
    }

    fn map(&mut self, handle: u64, gpus: &[usize]) -> (Result<i32, Errno>, u32) {
        let ids: Vec<u32> = gpus.iter().map(|gpu| gpu_id(*gpu)).collect();
        let device_ids_array_ptr = self.bench.scratch(&self.caller, &ids);
        let n_devices = ids.len() as u32;
        let mut args = MapMemoryToGpuArgs { handle, device_ids_array_ptr, n_devices, n_success: 0 };
        (self.call(ioc::MAP_MEMORY_TO_GPU, &mut args), args.n_success)
    }

    fn unmap(&mut self, handle: u64, gpus: &[usize]) -> (Result<i32, Errno>, u32) {
        let ids: Vec<u32> = gpus.iter().map(|gpu| gpu_id(*gpu)).collect();
        let device_ids_array_ptr = self.bench.scratch(&self.caller, &ids);
        let n_devices = ids.len() as u32;
        let mut args =
            UnmapMemoryFromGpuArgs { handle, device_ids_array_ptr, n_devices, n_success: 0 };
        (self.call(ioc::UNMAP_MEMORY_FROM_GPU, &mut args), args.n_success)
    }

    fn available(&mut self, gpu: usize) -> u64 {
        let mut args = GetAvailableMemoryArgs { gpu_id: gpu_id(gpu), ..Default::default() };
        self.call(ioc::AVAILABLE_MEMORY, &mut args).expect("the GPU is known");
        args.available
    }
}

#[test]
fn version_has_the_checkpoint_calls() {
    let mut ready = ready();
    let mut args = GetVersionArgs::default();
    assert_eq!(ready.call(ioc::GET_VERSION, &mut args), Ok(0));
    assert!((args.major_version, args.minor_version) >= (1, 8));
}

#[test]
fn calls_of_older_programs_are_understood() {
    let mut ready = ready();
    let shorter = gpu_kfd::uapi::with_argument_bytes(ioc::GET_VERSION, 4);
    let mut major = 0u32;
    assert_eq!(ready.call(shorter, &mut major), Ok(0));
    assert_eq!(major, 1);
}

#[test]
fn unknown_call_is_no_call() {
    let mut ready = ready();
    let unknown = ioc::GET_VERSION | 0xff;
    assert_eq!(ready.call(unknown, &mut 0u64), Err(Errno::ENOTTY));
}

#[test]
fn file_of_another_process_is_refused() {
    let mut ready = ready();
    let child = ready.bench.client(101);
    let mut args = GetVersionArgs::default();
    let result = ready.bench.call(&child, ready.kfd, ioc::GET_VERSION, &mut args);
    assert_eq!(result, Err(Errno::EBADF));
}

#[test]
fn apertures_name_every_gpu() {
    let mut ready = ready();
    let mut args = GetProcessAperturesNewArgs::default();
    assert_eq!(ready.call(ioc::GET_PROCESS_APERTURES_NEW, &mut args), Ok(0));
    assert_eq!(args.num_of_nodes, 2);
    args.kfd_process_device_apertures_ptr = SCRATCH;
    assert_eq!(ready.call(ioc::GET_PROCESS_APERTURES_NEW, &mut args), Ok(0));
    let mut bytes = [0; 2 * size_of::<ProcessDeviceApertures>()];
    let space = ready.caller.space;
    ready.bench.world.read_user(space, SCRATCH, &mut bytes).expect("it was written");
    let apertures: &[ProcessDeviceApertures] = bytemuck::cast_slice(&bytes);
    assert_eq!([apertures[0].gpu_id, apertures[1].gpu_id], [gpu_id(0), gpu_id(1)]);
    assert_eq!(apertures[0].gpuvm_limit, (1 << 47) - 1); // libhsakmt 5.2 compares for equality
    args.kfd_process_device_apertures_ptr = 8;
    let result = ready.call(ioc::GET_PROCESS_APERTURES_NEW, &mut args);
    assert_eq!(result, Err(Errno::EFAULT));
}

#[test]
fn acquire_vm_takes_one_file_once() {
    let mut bench = Bench::new(2);
    let caller = bench.client(100);
    let kfd = bench.kfd(&caller);
    let (first, second) = (bench.render(&caller, 0), bench.render(&caller, 0));
    let (first, second) = (bench.fd(&caller, first), bench.fd(&caller, second));
    let mut acquire = |fd: i32, gpu_id: u32| {
        let mut args = AcquireVmArgs { drm_fd: fd as u32, gpu_id };
        bench.call(&caller, kfd, ioc::ACQUIRE_VM, &mut args)
    };
    assert_eq!(acquire(99, gpu_id(0)), Err(Errno::EINVAL)); // no such descriptor
    assert_eq!(acquire(first, 5), Err(Errno::EINVAL)); // no such GPU
    assert_eq!(acquire(first, gpu_id(1)), Err(Errno::EINVAL)); // a file of the other GPU
    assert_eq!(acquire(first, gpu_id(0)), Ok(0));
    assert_eq!(acquire(first, gpu_id(0)), Ok(0)); // the same again
    assert_eq!(acquire(second, gpu_id(0)), Err(Errno::EBUSY));
}

#[test]
fn address_space_of_another_process_cannot_be_acquired() {
    let mut bench = Bench::new(1);
    let (parent, child) = (bench.client(100), bench.client(101));
    let render = bench.render(&parent, 0);
    for (caller, expected) in [(parent, Ok(0)), (child, Err(Errno::EINVAL))] {
        let kfd = bench.kfd(&caller);
        let drm_fd = bench.fd(&caller, render) as u32;
        let mut args = AcquireVmArgs { drm_fd, gpu_id: gpu_id(0) };
        assert_eq!(bench.call(&caller, kfd, ioc::ACQUIRE_VM, &mut args), expected);
    }
}

#[test]
fn allocation_checks_in_the_drivers_order() {
    let mut ready = ready();
    assert_eq!(ready.alloc(0, VA, 0, alloc::VRAM), Err(Errno::EINVAL));
    assert_eq!(ready.alloc(7, VA, 4096, alloc::VRAM), Err(Errno::EINVAL));
    assert_eq!(ready.alloc(0, VA, 4096, alloc::WRITABLE), Err(Errno::EINVAL)); // no memory type
    assert_eq!(ready.alloc(0, VA, 4096, alloc::USERPTR), Err(Errno::EINVAL)); // no address
    assert_eq!(ready.alloc(0, VA, 4096, alloc::DOORBELL), Err(Errno::EINVAL)); // wrong size
    assert_eq!(ready.alloc(0, VA, 8192, alloc::MMIO_REMAP), Err(Errno::EINVAL)); // wrong size
    assert_eq!(ready.alloc(0, VA, VRAM_BYTES + 4096, alloc::VRAM), Err(Errno::ENOMEM));
    assert_eq!(ready.alloc(0, VA, SYSTEM_BYTES + 4096, alloc::GTT), Err(Errno::ENOMEM));
    assert_eq!(ready.available(0), VRAM_BYTES, "refusals take nothing");
}

#[test]
fn allocation_needs_an_address_space() {
    let mut bench = Bench::new(1);
    let caller = bench.client(100);
    let kfd = bench.kfd(&caller);
    let mut args = AllocMemoryOfGpuArgs {
        va_addr: VA,
        size: 4096,
        gpu_id: gpu_id(0),
        flags: alloc::VRAM,
        ..Default::default()
    };
    let result = bench.call(&caller, kfd, ioc::ALLOC_MEMORY_OF_GPU, &mut args);
    assert_eq!(result, Err(Errno::ENODEV));
}

#[test]
fn device_memory_is_counted_and_given_back() {
    let mut ready = ready();
    let handle = ready.alloc(0, VA, VRAM_BYTES / 2, alloc::VRAM).expect("room");
    assert_eq!(handle >> 32, u64::from(gpu_id(0)));
    assert_eq!(ready.available(0), VRAM_BYTES / 2);
    assert_eq!(ready.available(1), VRAM_BYTES);
    let too_much = VRAM_BYTES / 2 + 4096;
    assert_eq!(ready.alloc(0, VA, too_much, alloc::VRAM), Err(Errno::ENOMEM));
    assert_eq!(ready.free(handle), Ok(0));
    assert_eq!(ready.available(0), VRAM_BYTES);
    assert_eq!(ready.free(handle), Err(Errno::EINVAL));
}

#[test]
fn lowest_handle_is_used_again() {
    let mut ready = ready();
    let handles: Vec<u64> =
        (0..3).map(|n| ready.alloc(0, VA + n * MIB, 4096, alloc::GTT).expect("room")).collect();
    assert_eq!(handles.iter().map(|handle| *handle as u32).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(ready.free(handles[1]), Ok(0));
    assert_eq!(ready.alloc(0, VA, 4096, alloc::GTT).map(|handle| handle as u32), Ok(1));
}

#[test]
fn mapped_buffer_cannot_be_freed() {
    let mut ready = ready();
    let handle = ready.alloc(0, VA, MIB, alloc::VRAM).expect("room");
    assert_eq!(ready.map(handle, &[0, 1]), (Ok(0), 2));
    assert_eq!(ready.map(handle, &[0, 1]), (Ok(0), 2), "mapped already");
    assert_eq!(ready.free(handle), Err(Errno::EBUSY));
    assert_eq!(ready.unmap(handle, &[0]), (Ok(0), 1));
    assert_eq!(ready.free(handle), Err(Errno::EBUSY));
    assert_eq!(ready.unmap(handle, &[0]), (Err(Errno::EINVAL), 0), "not mapped there");
    assert_eq!(ready.unmap(handle, &[1]), (Ok(0), 1));
    assert_eq!(ready.free(handle), Ok(0));
}

#[test]
fn mapping_says_how_far_it_came() {
    let mut ready = ready();
    let handle = ready.alloc(0, VA, MIB, alloc::VRAM).expect("room");
    assert_eq!(ready.map(handle, &[0, 9, 1]), (Err(Errno::EINVAL), 1));
    assert_eq!(ready.map(handle, &[]), (Err(Errno::EINVAL), 0));
    assert_eq!(ready.map(handle + 1, &[0]), (Err(Errno::ENOMEM), 0));
    assert_eq!(ready.unmap(handle + 1, &[0]), (Err(Errno::ENOMEM), 0));
    let other = ready.alloc(1, VA + MIB / 2, MIB, alloc::GTT).expect("room");
    assert_eq!(ready.map(other, &[1, 0]), (Err(Errno::EINVAL), 1), "addresses overlap on GPU 0");
    let mut args =
        MapMemoryToGpuArgs { handle, device_ids_array_ptr: 8, n_devices: 1, n_success: 0 };
    assert_eq!(ready.call(ioc::MAP_MEMORY_TO_GPU, &mut args), Err(Errno::EFAULT));
    args.n_success = 2;
    assert_eq!(ready.call(ioc::MAP_MEMORY_TO_GPU, &mut args), Err(Errno::EINVAL));
}

#[test]
fn exported_buffer_outlives_its_handle() {
    let mut ready = ready();
    let handle = ready.alloc(0, VA, MIB, alloc::VRAM | alloc::PUBLIC).expect("room");
    let mut export = ExportDmabufArgs { handle, ..Default::default() };
    assert_eq!(ready.call(ioc::EXPORT_DMABUF, &mut export), Ok(0));
    let node = DeviceNode::DmaBuf(buffer_of(export.dmabuf_fd));
    let file = ready.bench.open(&ready.caller, node).expect("it was exported");
    let fd = ready.bench.fd(&ready.caller, file) as u32;
    assert_eq!(ready.free(handle), Ok(0));
    assert_eq!(ready.available(0), VRAM_BYTES - 2 * MIB, "in units of 2 MiB");
    let mut info = GetDmabufInfoArgs { dmabuf_fd: fd, ..Default::default() };
    assert_eq!(ready.call(ioc::GET_DMABUF_INFO, &mut info), Ok(0));
    assert_eq!((info.size, info.gpu_id), (MIB, gpu_id(0)));
    assert_eq!(info.flags, alloc::VRAM | alloc::PUBLIC);
    let (va_addr, gpu_id) = (VA, gpu_id(1));
    let mut import = ImportDmabufArgs { va_addr, gpu_id, dmabuf_fd: fd, ..Default::default() };
    assert_eq!(ready.call(ioc::IMPORT_DMABUF, &mut import), Ok(0));
    ready.bench.model.release(&mut ready.bench.world, file);
    assert_eq!(ready.map(import.handle, &[1]), (Ok(0), 1));
    assert_eq!(ready.bench.open(&ready.caller, node), Err(Errno::ENOENT), "nobody has it open");
    assert_eq!(ready.unmap(import.handle, &[1]), (Ok(0), 1));
    assert_eq!(ready.free(import.handle), Ok(0));
    assert_eq!(ready.available(0), VRAM_BYTES);
}

#[test]
fn export_and_import_refuse_what_is_none() {
    let mut ready = ready();
    let mut export = ExportDmabufArgs { handle: 1, ..Default::default() };
    assert_eq!(ready.call(ioc::EXPORT_DMABUF, &mut export), Err(Errno::EINVAL));
    let kfd_fd = ready.bench.fd(&ready.caller, ready.kfd) as u32;
    for (dmabuf_fd, errno) in [(99, Errno::EBADF), (kfd_fd, Errno::EINVAL)] {
        let mut import = ImportDmabufArgs { gpu_id: gpu_id(0), dmabuf_fd, ..Default::default() };
        assert_eq!(ready.call(ioc::IMPORT_DMABUF, &mut import), Err(errno));
    }
}

#[test]
fn end_of_a_process_gives_everything_back() {
    let mut ready = ready();
    let handle = ready.alloc(0, VA, 8 * MIB, alloc::VRAM).expect("room");
    assert_eq!(ready.map(handle, &[0, 1]), (Ok(0), 2));
    let mut export = ExportDmabufArgs { handle, ..Default::default() };
    assert_eq!(ready.call(ioc::EXPORT_DMABUF, &mut export), Ok(0)); // nobody opens it
    ready.bench.end(&ready.caller);
    let other = ready.bench.client(101);
    let kfd = ready.bench.kfd(&other);
    let mut args = GetAvailableMemoryArgs { gpu_id: gpu_id(0), ..Default::default() };
    assert_eq!(ready.bench.call(&other, kfd, ioc::AVAILABLE_MEMORY, &mut args), Ok(0));
    assert_eq!(args.available, VRAM_BYTES);
}

#[test]
fn freed_memory_reads_as_zero_and_its_offset_is_not_used_again() {
    let mut ready = ready();
    let mut args = AllocMemoryOfGpuArgs {
        va_addr: VA,
        size: MIB,
        gpu_id: gpu_id(0),
        flags: alloc::VRAM | alloc::PUBLIC,
        ..Default::default()
    };
    assert_eq!(ready.call(ioc::ALLOC_MEMORY_OF_GPU, &mut args), Ok(0));
    let old = args.mmap_offset;
    let store = kfd_emulator::Store::Gpu(kfd_emulator::GpuIndex(0));
    let at = kfd_emulator::PagesAt { store, offset: old };
    ready.bench.world.write_pages(at, &[0xaa; 4096]);
    assert_eq!(ready.free(args.handle), Ok(0));
    assert_eq!(ready.bench.world.pages_held(), 0);
    assert_eq!(ready.call(ioc::ALLOC_MEMORY_OF_GPU, &mut args), Ok(0));
    assert_ne!(args.mmap_offset, old);
}
