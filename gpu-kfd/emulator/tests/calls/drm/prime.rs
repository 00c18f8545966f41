//! Buffers that go from file to file.

use gpu_kfd::uapi::amdgpu::{GemListHandles, GemVa, create, domain, ioc as amdgpu, va_op};
use gpu_kfd::uapi::drm::{CLOEXEC, GemChangeHandle, PrimeHandle, ioc};
use kfd_emulator::{DeviceNode, GpuIndex, PagesAt, Store, World};
use nix::errno::Errno;

use super::{PAGE, Ready, VA, ready};
use crate::bench::{SCRATCH, buffer_of};

fn change(ready: &mut Ready, handle: u32, new_handle: u32) -> Result<i32, Errno> {
    ready.call(ioc::GEM_CHANGE_HANDLE, &mut GemChangeHandle { handle, new_handle })
}

#[test]
fn export_is_checked() {
    let mut ready = ready();
    let handle = ready.page();
    let mut args = PrimeHandle { handle, flags: 1, fd: 0 };
    assert_eq!(ready.call(ioc::PRIME_HANDLE_TO_FD, &mut args), Err(Errno::EINVAL));
    let mut args = PrimeHandle { handle: 9, flags: CLOEXEC, fd: 0 };
    assert_eq!(ready.call(ioc::PRIME_HANDLE_TO_FD, &mut args), Err(Errno::ENOENT));
    let user = ready.user(SCRATCH, PAGE).expect("scratch is mapped");
    assert_eq!(ready.export(user), Err(Errno::EPERM));
    let bound = ready.create(PAGE, domain::GTT, create::VM_ALWAYS_VALID).expect("there is room");
    assert_eq!(ready.export(bound), Err(Errno::EPERM));
    assert!(ready.export(handle).is_ok());
    ready.check();
}

#[test]
fn import_is_checked() {
    let mut ready = ready();
    assert_eq!(ready.import(77), Err(Errno::EBADF));
    let fd = ready.bench.fd(&ready.caller, ready.file);
    assert_eq!(ready.import(fd), Err(Errno::EINVAL));
}

#[test]
fn buffer_has_one_handle_in_a_file_however_often_it_comes() {
    let mut ready = ready();
    ready.page();
    let handle = ready.page();
    let token = ready.export(handle).expect("it can be exported");
    let fd = ready.open_token(token);
    assert_eq!(ready.import(fd), Ok(handle));
    ready.become_other(101, 0);
    let node = DeviceNode::DmaBuf(buffer_of(token));
    let file = ready.bench.open(&ready.caller, node).expect("it is open elsewhere");
    let fd = ready.bench.fd(&ready.caller, file);
    assert_eq!([ready.import(fd), ready.import(fd)], [Ok(1), Ok(1)]);
    assert_eq!(ready.export(1), Ok(token), "whoever exports it: it is the same");
    ready.check();
    assert_eq!(ready.close(1), Ok(0));
    assert_eq!(ready.import(fd), Ok(1));
    ready.check();
}

#[test]
fn importer_sees_the_exporters_memory_after_it_is_gone() {
    let mut ready = ready();
    let handle = ready.page();
    let offset = ready.mmap(handle).expect("it can be mapped");
    let at = PagesAt { store: Store::Gpu(GpuIndex(0)), offset };
    ready.bench.world.write_pages(at, b"kept");
    let token = ready.export(handle).expect("it can be exported");
    let (exporter, file) = (ready.caller, ready.file);
    ready.become_other(101, 0);
    let node = DeviceNode::DmaBuf(buffer_of(token));
    let opened = ready.bench.open(&ready.caller, node).expect("it was exported");
    let fd = ready.bench.fd(&ready.caller, opened);
    let import = ready.import(fd).expect("a dma-buf");
    ready.bench.model.release(&mut ready.bench.world, file);
    ready.bench.model.release(&mut ready.bench.world, opened);
    ready.bench.end(&exporter);
    assert_eq!(ready.mmap(import), Ok(offset), "the same GPU has the same offset");
    let mut bytes = [0; 4];
    ready.bench.world.read_pages(at, &mut bytes);
    assert_eq!(&bytes, b"kept");
    ready.check();
    assert_eq!(ready.close(import), Ok(0));
    assert_eq!((ready.bench.model.buffers(), ready.bench.world.pages_held()), (0, 0));
}

#[test]
fn import_on_another_gpu_has_an_offset_of_its_own_that_shows_nothing() {
    let mut ready = ready();
    let handle = ready.page();
    let offset = ready.mmap(handle).expect("it can be mapped");
    let token = ready.export(handle).expect("it can be exported");
    let fd = ready.open_token(token);
    ready.file = ready.bench.render(&ready.caller, 1);
    let own = ready.page();
    let import = ready.import(fd).expect("a dma-buf");
    let foreign = ready.mmap(import).expect("the driver gives one");
    assert_ne!(Ok(foreign), ready.mmap(own));
    assert_eq!(ready.mmap(import), Ok(foreign));
    let at = |gpu, offset| PagesAt { store: Store::Gpu(GpuIndex(gpu)), offset };
    ready.bench.world.write_pages(at(0, offset), &[1]);
    ready.bench.world.write_pages(at(1, foreign), &[2]);
    let mut byte = [0];
    ready.bench.world.read_pages(at(0, offset), &mut byte);
    assert_eq!(byte, [1]);
    let (caller, file) = (ready.caller, ready.file);
    ready.bench.end(&caller);
    ready.bench.model.release(&mut ready.bench.world, file);
    ready.check();
}

#[test]
fn handle_moves_with_its_mappings() {
    let mut ready = ready();
    let (first, second) = (ready.page(), ready.page());
    assert_eq!(ready.map(first, VA, PAGE), Ok(0));
    assert_eq!(change(&mut ready, first, second), Err(Errno::ENOSPC));
    assert_eq!(change(&mut ready, 9, 10), Err(Errno::ENOENT));
    assert_eq!(change(&mut ready, first, 1 << 31), Err(Errno::EINVAL));
    assert_eq!(change(&mut ready, first, 0), Err(Errno::EINVAL));
    assert_eq!(change(&mut ready, first, first), Ok(0));
    assert_eq!(change(&mut ready, first, 40), Ok(0));
    assert_eq!(ready.mmap(first), Err(Errno::ENOENT));
    assert_eq!(ready.page(), first, "the old number is free");
    let mut unmap = GemVa {
        handle: 40,
        operation: va_op::UNMAP,
        va_address: VA,
        map_size: PAGE,
        ..Default::default()
    };
    assert_eq!(ready.call(amdgpu::GEM_VA, &mut unmap), Ok(0));
    let token = ready.export(40).expect("it can be exported");
    let fd = ready.open_token(token);
    assert_eq!(ready.import(fd), Ok(40));
    ready.check();
    assert_eq!(ready.close(40), Ok(0));
    ready.check();
}

#[test]
fn kfd_buffers_are_not_listed_before_they_are_imported() {
    let mut ready = ready();
    let kfd = ready.bench.kfd(&ready.caller);
    let drm_fd = ready.bench.fd(&ready.caller, ready.file) as u32;
    let mut acquire = gpu_kfd::uapi::kfd::AcquireVmArgs { drm_fd, gpu_id: crate::bench::gpu_id(0) };
    let request = gpu_kfd::uapi::kfd::ioc::ACQUIRE_VM;
    assert_eq!(ready.bench.call(&ready.caller, kfd, request, &mut acquire), Ok(0));
    let mut alloc = gpu_kfd::uapi::kfd::AllocMemoryOfGpuArgs {
        va_addr: VA,
        size: PAGE,
        gpu_id: crate::bench::gpu_id(0),
        flags: gpu_kfd::uapi::kfd::alloc::VRAM | gpu_kfd::uapi::kfd::alloc::WRITABLE,
        ..Default::default()
    };
    let request = gpu_kfd::uapi::kfd::ioc::ALLOC_MEMORY_OF_GPU;
    assert_eq!(ready.bench.call(&ready.caller, kfd, request, &mut alloc), Ok(0));
    let mut args = GemListHandles { entries: SCRATCH, num_entries: 8, _padding: 0 };
    assert_eq!(ready.call(amdgpu::GEM_LIST_HANDLES, &mut args), Ok(0));
    assert_eq!(args.num_entries, 0);
}
