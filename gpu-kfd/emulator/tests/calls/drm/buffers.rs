//! Buffers: made, mapped by the host, and gone.

use gpu_kfd::uapi::amdgpu::{GemCreateIn, GemUserptr, create, domain, ioc, userptr};
use kfd_emulator::{GpuIndex, PagesAt, Store, World};
use nix::errno::Errno;

use super::{PAGE, ready};
use crate::bench::{SCRATCH, SYSTEM_BYTES, VRAM_BYTES};

const MIB: u64 = 1 << 20;

#[test]
fn handles_begin_at_one_and_the_lowest_is_used_again() {
    let mut ready = ready();
    assert_eq!([ready.page(), ready.page(), ready.page()], [1, 2, 3]);
    assert_eq!(ready.close(2), Ok(0));
    assert_eq!(ready.page(), 2);
    ready.check();
}

#[test]
fn sizes_are_rounded_to_pages_and_offsets_never_come_twice() {
    let mut ready = ready();
    let handle = ready.create(28 * 3, domain::GTT, 0).expect("there is room");
    let first = ready.mmap(handle).expect("it can be mapped");
    assert!(first.is_multiple_of(PAGE));
    let at = PagesAt { store: Store::Gpu(GpuIndex(0)), offset: first };
    ready.bench.world.write_pages(at, &[1; 4096]);
    assert_eq!(ready.close(handle), Ok(0));
    assert_eq!(ready.bench.world.pages_held(), 0);
    let again = ready.page();
    assert_ne!(ready.mmap(again), Ok(first));
}

#[test]
fn flags_and_domains_that_are_none_are_refused() {
    let mut ready = ready();
    let settable = [
        create::CPU_ACCESS_REQUIRED,
        create::NO_CPU_ACCESS,
        create::CPU_GTT_USWC,
        create::VM_ALWAYS_VALID,
        create::EXPLICIT_SYNC,
        create::VRAM_WIPE_ON_RELEASE,
        create::DISCARDABLE,
        create::COHERENT,
        create::UNCACHED,
    ];
    for flag in settable {
        assert!(ready.create(PAGE, domain::VRAM, flag).is_ok(), "{flag:#x}");
    }
    let refused = [
        create::VRAM_CONTIGUOUS,
        create::CP_MQD_GFX9,
        create::PREEMPTIBLE,
        create::ENCRYPTED,
        1 << 4,
        1 << 40,
    ];
    for flag in refused {
        assert_eq!(ready.create(PAGE, domain::VRAM, flag), Err(Errno::EINVAL), "{flag:#x}");
    }
    let absent = [
        domain::GDS,
        domain::GWS,
        domain::OA,
        domain::DOORBELL,
        domain::MMIO_REMAP,
        1 << 8,
        1 << 32,
    ];
    for domains in absent {
        assert_eq!(ready.create(PAGE, domains, 0), Err(Errno::EINVAL), "{domains:#x}");
    }
    assert!(ready.create(PAGE, domain::CPU, 0).is_ok());
    assert!(ready.create(PAGE, domain::VRAM | domain::GTT, 0).is_ok());
    ready.check();
}

#[test]
fn size_of_nothing_and_of_everything_is_refused() {
    let mut ready = ready();
    assert_eq!(ready.create(0, domain::GTT, 0), Err(Errno::EINVAL));
    assert_eq!(ready.create(u64::MAX, domain::GTT, 0), Err(Errno::ENOMEM));
    assert_eq!(ready.create(SYSTEM_BYTES + 1, domain::GTT, 0), Err(Errno::ENOMEM));
    assert_eq!(ready.create(VRAM_BYTES + 1, domain::VRAM, 0), Err(Errno::ENOMEM));
    assert_eq!(ready.bench.model.buffers(), 0);
}

#[test]
fn alignment_of_device_memory_is_a_power_of_two() {
    let mut ready = ready();
    let mut make = |alignment, domains| {
        let mut args = GemCreateIn { bo_size: PAGE, alignment, domains, domain_flags: 0 };
        ready.call(ioc::GEM_CREATE, &mut args)
    };
    assert_eq!(make(0x10000, domain::VRAM), Ok(0));
    assert_eq!(make(1, domain::VRAM), Ok(0));
    assert_eq!(make(3 * PAGE, domain::VRAM), Err(Errno::EINVAL));
    assert_eq!(make(3 * PAGE, domain::GTT), Ok(0));
    assert_eq!(make(1 << 31, domain::GTT), Err(Errno::EINVAL), "negative as the driver sees it");
}

#[test]
fn what_finds_no_room_in_device_memory_lies_in_system_memory() {
    let mut ready = ready();
    ready.create(VRAM_BYTES, domain::VRAM, 0).expect("it fits");
    let handle = ready.create(MIB, domain::VRAM, 0).expect("system memory is left");
    assert!(ready.mmap(handle).is_ok());
    assert_eq!(ready.create(SYSTEM_BYTES, domain::VRAM, 0), Err(Errno::ENOMEM));
    ready.check();
}

#[test]
fn host_cannot_map_what_it_shall_not() {
    let mut ready = ready();
    assert_eq!(ready.mmap(1), Err(Errno::ENOENT));
    let hidden = ready.create(PAGE, domain::VRAM, create::NO_CPU_ACCESS).expect("there is room");
    assert_eq!(ready.mmap(hidden), Err(Errno::EPERM));
    let user = ready.user(SCRATCH, PAGE).expect("scratch is mapped");
    assert_eq!(ready.mmap(user), Err(Errno::EPERM));
}

#[test]
fn memory_of_a_process_is_checked_in_the_drivers_order() {
    let mut ready = ready();
    let mut make = |addr, size, flags| {
        ready.call(ioc::GEM_USERPTR, &mut GemUserptr { addr, size, flags, handle: 0 })
    };
    let registered = userptr::ANONONLY | userptr::REGISTER;
    assert_eq!(make(SCRATCH + 8, PAGE, registered), Err(Errno::EINVAL));
    assert_eq!(make(SCRATCH, PAGE + 1, registered), Err(Errno::EINVAL));
    assert_eq!(make(SCRATCH, PAGE, 1 << 4), Err(Errno::EINVAL));
    assert_eq!(make(SCRATCH, PAGE, userptr::ANONONLY), Err(Errno::EACCES));
    assert_eq!(make(SCRATCH, PAGE, userptr::READONLY), Ok(0));
    assert_eq!(make(SCRATCH, 0, registered), Err(Errno::EINVAL));
    assert_eq!(make(SCRATCH, SYSTEM_BYTES + PAGE, registered), Err(Errno::ENOMEM));
    let validated = registered | userptr::VALIDATE;
    assert_eq!(make(SCRATCH, PAGE, validated), Ok(0));
    assert_eq!(make(0x10_0000, PAGE, validated), Err(Errno::EFAULT));
    assert_eq!(make(!0xfff, PAGE, validated), Err(Errno::EFAULT));
    ready.check();
}

#[test]
fn last_close_of_a_file_gives_its_buffers_back() {
    let mut ready = ready();
    ready.page();
    ready.create(MIB, domain::VRAM, 0).expect("there is room");
    ready.bench.model.release(&mut ready.bench.world, ready.file);
    assert_eq!(ready.bench.model.buffers(), 0);
    ready.check();
}
