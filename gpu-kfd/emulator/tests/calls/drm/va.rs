//! GPU mappings: flags, addresses, offsets, and what they replace.

use gpu_kfd::uapi::amdgpu::{GemVa, domain, ioc, va_op, vm_delay, vm_mtype, vm_page};
use gpu_kfd::uapi::with_argument_bytes;
use nix::errno::Errno;

use super::{PAGE, Ready, VA, ready};
use crate::bench::SCRATCH;

fn change(ready: &mut Ready, args: GemVa) -> Result<i32, Errno> {
    ready.call(ioc::GEM_VA, &mut { args })
}

fn mapping(handle: u32) -> GemVa {
    let (operation, va_address, map_size) = (va_op::MAP, VA, PAGE);
    GemVa { handle, operation, va_address, map_size, ..Default::default() }
}

#[test]
fn flags_and_operations_that_are_none_are_refused() {
    let mut ready = ready();
    let handle = ready.create(16 * PAGE, domain::GTT, 0).expect("there is room");
    let good = [
        0,
        vm_delay::UPDATE | vm_page::READABLE,
        vm_page::WRITEABLE | vm_page::EXECUTABLE | vm_page::NOALLOC,
        vm_mtype::UC | vm_page::READABLE,
        vm_page::PRT,
        vm_page::PRT | vm_delay::UPDATE,
    ];
    for (index, flags) in good.into_iter().enumerate() {
        let va_address = VA + index as u64 * PAGE;
        let args = GemVa { flags, va_address, ..mapping(handle) };
        assert_eq!(change(&mut ready, args), Ok(0), "{flags:#x}");
    }
    for flags in [1 << 10, vm_page::PRT | vm_page::READABLE] {
        let args = GemVa { flags, ..mapping(handle) };
        assert_eq!(change(&mut ready, args), Err(Errno::EINVAL), "{flags:#x}");
    }
    for operation in [0, 5] {
        let args = GemVa { operation, ..mapping(9) };
        assert_eq!(change(&mut ready, args), Err(Errno::EINVAL), "{operation}");
    }
    assert_eq!(change(&mut ready, mapping(9)), Err(Errno::ENOENT));
}

#[test]
fn addresses_are_checked() {
    let mut ready = ready();
    let handle = ready.create(4 * PAGE, domain::GTT, 0).expect("there is room");
    let at = |va_address| GemVa { va_address, ..mapping(handle) };
    let top = (1 << 48) - (4 << 20) - 2 * PAGE;
    for va in [0, 0xf000, 0x8000_0000_0000, 0xffff_7fff_ffff_f000, VA + 1, 0xffff_ffff_ffff_f000] {
        assert_eq!(change(&mut ready, at(va)), Err(Errno::EINVAL), "{va:#x}");
    }
    assert_eq!(change(&mut ready, at(0xffff_0000_0000_0000 | top)), Err(Errno::EINVAL));
    let last = 0xffff_0000_0000_0000 | (top - PAGE);
    for va in [0x1_0000, 0x7fff_ffff_f000, 0xffff_8000_0000_0000, last] {
        assert_eq!(change(&mut ready, at(va)), Ok(0), "{va:#x}");
        assert_eq!(change(&mut ready, at(va)), Err(Errno::EINVAL), "{va:#x} overlaps itself");
    }
    let sized = |map_size, offset_in_bo| GemVa { map_size, offset_in_bo, ..mapping(handle) };
    for (size, offset) in [
        (0, 0),
        (1, 0),
        (PAGE, 1),
        (5 * PAGE, 0),
        (PAGE, 4 * PAGE),
        (u64::MAX - 0xfff, 0),
        (PAGE, u64::MAX - 0xfff),
    ] {
        let result = change(&mut ready, sized(size, offset));
        assert_eq!(result, Err(Errno::EINVAL), "{size:#x} {offset:#x}");
    }
    assert_eq!(change(&mut ready, sized(PAGE, 3 * PAGE)), Ok(0));
}

#[test]
fn only_the_owner_of_a_mapping_takes_it_away() {
    let mut ready = ready();
    let (first, second) = (ready.page(), ready.page());
    assert_eq!(ready.map(first, VA, PAGE), Ok(0));
    // Whatever size the caller says: the address counts.
    let unmap = |handle| {
        let (operation, map_size) = (va_op::UNMAP, 64 * PAGE);
        GemVa { operation, map_size, ..mapping(handle) }
    };
    assert_eq!(change(&mut ready, unmap(second)), Err(Errno::ENOENT));
    let hole = GemVa { flags: vm_page::PRT, ..unmap(0) };
    assert_eq!(change(&mut ready, hole), Err(Errno::ENOENT));
    assert_eq!(change(&mut ready, unmap(first)), Ok(0));
    assert_eq!(change(&mut ready, unmap(first)), Err(Errno::ENOENT));
    ready.check();
}

#[test]
fn holes_need_no_buffer_and_are_taken_away_alike() {
    let mut ready = ready();
    let hole = GemVa { flags: vm_page::PRT, map_size: 1 << 30, ..mapping(0) };
    assert_eq!(change(&mut ready, hole), Ok(0));
    let handle = ready.page();
    assert_eq!(ready.map(handle, VA, PAGE), Err(Errno::EINVAL));
    let unmap = GemVa { operation: va_op::UNMAP, ..hole };
    assert_eq!(change(&mut ready, unmap), Ok(0));
    assert_eq!(ready.map(handle, VA, PAGE), Ok(0));
}

#[test]
fn replace_and_clear_cut_what_was_there() {
    let mut ready = ready();
    let (first, second) = (ready.create(8 * PAGE, domain::GTT, 0).expect("room"), ready.page());
    assert_eq!(ready.map(first, VA, 8 * PAGE), Ok(0));
    let replace = GemVa { operation: va_op::REPLACE, va_address: VA + PAGE, ..mapping(second) };
    assert_eq!(change(&mut ready, replace), Ok(0));
    let beyond = GemVa { offset_in_bo: PAGE, ..replace };
    assert_eq!(change(&mut ready, beyond), Err(Errno::EINVAL));
    let (operation, va_address) = (va_op::CLEAR, VA + 6 * PAGE);
    let clear = GemVa { operation, va_address, map_size: PAGE, ..mapping(0) };
    assert_eq!(change(&mut ready, clear), Ok(0));
    assert_eq!(change(&mut ready, clear), Ok(0), "nothing there is no error");
    assert_eq!(change(&mut ready, GemVa { map_size: 0, ..clear }), Err(Errno::EINVAL));
    // Three parts of the first are left: pages 0, 2 to 5, and 7.
    assert_eq!(ready.map(second, VA + 6 * PAGE, PAGE), Ok(0));
    for page in [0, 2, 5, 7] {
        assert_eq!(ready.map(second, VA + page * PAGE, PAGE), Err(Errno::EINVAL), "{page}");
    }
    for (page, expected) in [(0, Ok(0)), (2, Ok(0)), (7, Ok(0)), (5, Err(Errno::ENOENT))] {
        let (operation, va_address) = (va_op::UNMAP, VA + page * PAGE);
        let unmap = GemVa { operation, va_address, ..mapping(first) };
        assert_eq!(change(&mut ready, unmap), expected, "{page}");
    }
    ready.check();
}

#[test]
fn mappings_go_with_the_handle() {
    let mut ready = ready();
    let handle = ready.page();
    assert_eq!(ready.map(handle, VA, PAGE), Ok(0));
    assert_eq!(ready.close(handle), Ok(0));
    let other = ready.page();
    assert_eq!(ready.map(other, VA, PAGE), Ok(0));
    ready.check();
}

#[test]
fn sync_objects_are_none_that_exist() {
    let mut ready = ready();
    let handle = ready.page();
    ready.bench.scratch(&ready.caller, &[5u32, 6]);
    let fences = |count, array| GemVa {
        num_syncobj_handles: count,
        input_fence_syncobj_handles: array,
        ..mapping(handle)
    };
    assert_eq!(change(&mut ready, fences(2, SCRATCH)), Err(Errno::ENOENT));
    assert_eq!(change(&mut ready, fences(2, SCRATCH + 8)), Err(Errno::EINVAL));
    assert_eq!(change(&mut ready, fences(1, 0x10)), Err(Errno::EFAULT));
    assert_eq!(change(&mut ready, fences(u32::MAX, SCRATCH)), Err(Errno::ENOMEM));
    let timeline = GemVa { vm_timeline_syncobj_out: 1, ..mapping(handle) };
    assert_eq!(change(&mut ready, timeline), Err(Errno::ENOENT));
    assert_eq!(ready.map(handle, VA, PAGE), Ok(0), "nothing of it was carried out");
}

#[test]
fn calls_of_older_programs_are_understood() {
    let mut ready = ready();
    let handle = ready.page();
    let args = mapping(handle);
    let mut short = [0u64; 5];
    bytemuck::bytes_of_mut(&mut short).copy_from_slice(&bytemuck::bytes_of(&args)[..40]);
    // libdrm builds the number as one with output.
    let request = with_argument_bytes(ioc::GEM_VA, 40) | 1 << 31;
    assert_eq!(ready.call(request, &mut short), Ok(0));
    assert_eq!(ready.map(handle, VA, PAGE), Err(Errno::EINVAL));
}
