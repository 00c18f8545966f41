//! What buffers are: how they were made, where they are mapped, what stands on them.

use bytemuck::Zeroable;
use gpu_kfd::uapi::amdgpu::{
    GemCreateIn, GemListHandles, GemListHandlesEntry, GemMetadata, GemOp, GemVmEntry, create,
    domain, gem_op, ioc, list_flag, metadata_op,
};
use gpu_kfd::uapi::with_argument_bytes;
use kfd_emulator::World;
use nix::errno::Errno;

use super::{PAGE, Ready, VA, ready};
use crate::bench::SCRATCH;

fn read<T: bytemuck::Pod>(ready: &mut Ready, count: usize) -> Vec<T> {
    let mut array = vec![T::zeroed(); count];
    let space = ready.caller.space;
    let bytes = bytemuck::cast_slice_mut(&mut array);
    ready.bench.world.read_user(space, SCRATCH, bytes).expect("scratch is mapped");
    array
}

fn operation(ready: &mut Ready, handle: u32, op: u32, value: u64) -> Result<i32, Errno> {
    ready.call(ioc::GEM_OP, &mut GemOp { handle, op, value, ..Default::default() })
}

#[test]
fn create_info_is_what_was_asked_for_with_what_the_driver_adds() {
    let mut ready = ready();
    let flags = create::CPU_ACCESS_REQUIRED | create::CPU_GTT_USWC;
    let mut args = GemCreateIn {
        bo_size: 5000,
        alignment: 0x10000,
        domains: domain::VRAM,
        domain_flags: flags,
    };
    assert_eq!(ready.call(ioc::GEM_CREATE, &mut args), Ok(0));
    assert_eq!(operation(&mut ready, 1, gem_op::GET_GEM_CREATE_INFO, SCRATCH), Ok(0));
    let info = read::<GemCreateIn>(&mut ready, 1)[0];
    assert_eq!((info.bo_size, info.alignment, info.domains), (8192, 0x10000, domain::VRAM));
    let added = create::VRAM_CLEARED | create::VRAM_WIPE_ON_RELEASE;
    assert_eq!(info.domain_flags, create::CPU_GTT_USWC | added);
    assert_eq!(operation(&mut ready, 1, gem_op::GET_GEM_CREATE_INFO, 0x10), Err(Errno::EFAULT));
}

#[test]
fn operations_are_checked() {
    let mut ready = ready();
    let handle = ready.page();
    assert_eq!(operation(&mut ready, handle, 3, 0), Err(Errno::EINVAL));
    assert_eq!(operation(&mut ready, 9, gem_op::SET_PLACEMENT, 0), Err(Errno::ENOENT));
    let mut args = GemOp { handle: 9, _padding: 1, ..Default::default() };
    assert_eq!(ready.call(ioc::GEM_OP, &mut args), Err(Errno::EINVAL));
    // Older headers end before the number of entries.
    let shorter = with_argument_bytes(ioc::GEM_OP, 16);
    let mut args = [u64::from(handle) | u64::from(gem_op::SET_PLACEMENT) << 32, domain::GTT];
    assert_eq!(ready.call(shorter, &mut args), Ok(0));
}

#[test]
fn placement_is_a_wish() {
    let mut ready = ready();
    let handle = ready.create(PAGE, domain::VRAM, 0).expect("there is room");
    let wish = domain::GTT | domain::GDS;
    assert_eq!(operation(&mut ready, handle, gem_op::SET_PLACEMENT, wish), Ok(0));
    assert_eq!(operation(&mut ready, handle, gem_op::GET_GEM_CREATE_INFO, SCRATCH), Ok(0));
    assert_eq!(read::<GemCreateIn>(&mut ready, 1)[0].domains, domain::GTT);
    let user = ready.user(SCRATCH, PAGE).expect("scratch is mapped");
    let placed = operation(&mut ready, user, gem_op::SET_PLACEMENT, domain::GTT);
    assert_eq!(placed, Err(Errno::EPERM));
}

#[test]
fn placement_of_what_a_peer_maps_or_another_gpu_lent_is_refused() {
    let mut ready = ready();
    let handle = ready.create(PAGE, domain::VRAM, 0).expect("there is room");
    let token = ready.export(handle).expect("it can be exported");
    let (file, fd) = (ready.file, ready.open_token(token));
    ready.file = ready.bench.render(&ready.caller, 1);
    let import = ready.import(fd).expect("a dma-buf");
    let into_vram = operation(&mut ready, import, gem_op::SET_PLACEMENT, domain::VRAM);
    assert_eq!(into_vram, Err(Errno::EINVAL));
    assert_eq!(operation(&mut ready, import, gem_op::SET_PLACEMENT, domain::GTT), Ok(0));
    assert_eq!(ready.map(import, VA, PAGE), Ok(0));
    ready.file = file;
    let placed = operation(&mut ready, handle, gem_op::SET_PLACEMENT, domain::GTT);
    assert_eq!(placed, Err(Errno::EINVAL));
}

#[test]
fn mappings_are_told_when_there_is_room_for_all() {
    let mut ready = ready();
    let handle = ready.create(4 * PAGE, domain::GTT, 0).expect("there is room");
    let ask = |ready: &mut Ready, num_entries| {
        let (op, value) = (gem_op::GET_MAPPING_INFO, SCRATCH);
        let mut args = GemOp { handle, op, value, num_entries, _padding: 0 };
        ready.call(ioc::GEM_OP, &mut args).map(|_| args.num_entries)
    };
    assert_eq!(ask(&mut ready, 8), Ok(0));
    for index in 0..3 {
        assert_eq!(ready.map(handle, VA + index * 0x10000, 2 * PAGE), Ok(0));
    }
    assert_eq!(ask(&mut ready, 2), Ok(3));
    assert_eq!(read::<GemVmEntry>(&mut ready, 1), [GemVmEntry::zeroed()], "nothing is written");
    assert_eq!(ask(&mut ready, 3), Ok(3));
    let entries = read::<GemVmEntry>(&mut ready, 3);
    let told: Vec<_> = entries.iter().map(|entry| (entry.addr, entry.size, entry.offset)).collect();
    let expected = [0, 1, 2].map(|index| (VA + index * 0x10000, 2 * PAGE, 0));
    assert_eq!(told, expected);
    assert_eq!(entries[0].flags, 0xe);
    assert_eq!(ask(&mut ready, u32::MAX), Err(Errno::ENOMEM));
}

#[test]
fn metadata_comes_back() {
    let mut ready = ready();
    let handle = ready.page();
    let mut args = GemMetadata { handle, ..Zeroable::zeroed() };
    (args.op, args.flags, args.tiling_info) = (metadata_op::SET_METADATA, 7, 9);
    (args.data_size_bytes, args.data) = (256, [0x5a5a_5a5a; 64]);
    assert_eq!(ready.call(ioc::GEM_METADATA, &mut args), Ok(0));
    let mut got = GemMetadata { handle, op: metadata_op::GET_METADATA, ..Zeroable::zeroed() };
    assert_eq!(ready.call(ioc::GEM_METADATA, &mut got), Ok(0));
    assert_eq!((got.flags, got.tiling_info, got.data_size_bytes), (7, 9, 256));
    assert_eq!(got.data, args.data);
    // No note: its flags stay.
    let mut args = GemMetadata { flags: 1, data_size_bytes: 0, ..args };
    assert_eq!(ready.call(ioc::GEM_METADATA, &mut args), Ok(0));
    assert_eq!(ready.call(ioc::GEM_METADATA, &mut got), Ok(0));
    assert_eq!((got.flags, got.data_size_bytes), (7, 0));
}

#[test]
fn metadata_is_checked() {
    let mut ready = ready();
    let handle = ready.page();
    let op = metadata_op::SET_METADATA;
    let mut args = GemMetadata { handle, op, data_size_bytes: 257, ..Zeroable::zeroed() };
    assert_eq!(ready.call(ioc::GEM_METADATA, &mut args), Err(Errno::EINVAL));
    args.handle = 9;
    assert_eq!(ready.call(ioc::GEM_METADATA, &mut args), Err(Errno::ENOENT));
    let mut args = GemMetadata { handle, op: 77, ..Zeroable::zeroed() };
    assert_eq!(ready.call(ioc::GEM_METADATA, &mut args), Ok(0), "an unknown operation is none");
}

#[test]
fn handles_are_listed_when_there_is_room_for_all() {
    let mut ready = ready();
    let list = |ready: &mut Ready, num_entries| {
        let mut args = GemListHandles { entries: SCRATCH, num_entries, _padding: 0 };
        ready.call(ioc::GEM_LIST_HANDLES, &mut args).map(|_| args.num_entries)
    };
    assert_eq!(list(&mut ready, 8), Ok(0));
    let flags = create::CPU_ACCESS_REQUIRED;
    let mut args = GemCreateIn {
        bo_size: PAGE,
        alignment: 0x4000,
        domains: domain::VRAM,
        domain_flags: flags,
    };
    assert_eq!(ready.call(ioc::GEM_CREATE, &mut args), Ok(0));
    ready.user(SCRATCH, PAGE).expect("scratch is mapped");
    assert_eq!(list(&mut ready, 1), Ok(2));
    assert_eq!(list(&mut ready, 8), Ok(2));
    let entries = read::<GemListHandlesEntry>(&mut ready, 2);
    assert_eq!((entries[0].gem_handle, entries[0].size), (1, PAGE));
    assert_eq!(entries[0].preferred_domains, domain::VRAM);
    assert_eq!(entries[0].alignment, 4, "in pages");
    assert_eq!(entries[0].alloc_flags & flags, 0, "that the host maps it is forgotten");
    assert_eq!((entries[1].gem_handle, entries[1].preferred_domains), (2, domain::GTT));
    let mut args = GemListHandles { entries: 0x10, num_entries: 2, _padding: 0 };
    assert_eq!(ready.call(ioc::GEM_LIST_HANDLES, &mut args), Err(Errno::EFAULT));
}

#[test]
fn import_from_another_gpu_is_listed_as_one() {
    let mut ready = ready();
    let handle =
        ready.create(2 * PAGE, domain::VRAM, create::NO_CPU_ACCESS).expect("there is room");
    let token = ready.export(handle).expect("it can be exported");
    let fd = ready.open_token(token);
    ready.file = ready.bench.render(&ready.caller, 1);
    let import = ready.import(fd).expect("a dma-buf");
    let mut args = GemListHandles { entries: SCRATCH, num_entries: 1, _padding: 0 };
    assert_eq!(ready.call(ioc::GEM_LIST_HANDLES, &mut args), Ok(0));
    let entry = read::<GemListHandlesEntry>(&mut ready, 1)[0];
    assert_eq!((entry.gem_handle, entry.flags), (import, list_flag::IS_IMPORT));
    let made = (entry.size, entry.preferred_domains, entry.alloc_flags);
    assert_eq!(made, (2 * PAGE, domain::GTT, 0));
    // It has an offset, which is not the exporter's.
    assert!(ready.mmap(import).is_ok());
    ready.check();
}
