//! Shared virtual memory: attributes of ranges, and retry of faults.

use gpu_kfd::uapi::kfd::{AllocMemoryOfGpuArgs, alloc, ioc};
use gpu_kfd::uapi::sdma::Packet;
use gpu_kfd::uapi::svm::{
    SetXnackModeArgs, SvmArgs, SvmAttribute, svm_attr, svm_flag, svm_location, svm_op,
};
use kfd_emulator::{Outcome, World};
use nix::errno::Errno;

use crate::bench::gpu_id;
use crate::rig::{PAGE, Rig};

/// Memory of the process that ranges are made of.
const USER: u64 = 0x4000_0000;
const USER_BYTES: u64 = 64 * PAGE;
const DEFAULT_FLAGS: u32 = svm_flag::HOST_ACCESS | svm_flag::COHERENT;

fn rig(gpus: usize) -> Rig {
    let mut rig = Rig::new(gpus);
    rig.bench.world.map_user(rig.caller.space, USER, USER_BYTES);
    rig
}

fn svm(
    rig: &mut Rig,
    op: u32,
    (start_addr, size): (u64, u64),
    attributes: &mut [(u32, u32)],
) -> Result<(), Errno> {
    let nattr = attributes.len() as u32;
    let args = SvmArgs { start_addr, size, op, nattr };
    let mut arg = bytemuck::bytes_of(&args).to_vec();
    for (kind, value) in attributes.iter() {
        arg.extend(bytemuck::bytes_of(&SvmAttribute { kind: *kind, value: *value }));
    }
    let request = gpu_kfd::uapi::with_argument_bytes(ioc::SVM, arg.len());
    let bench = &mut rig.bench;
    let outcome = bench.model.ioctl(&mut bench.world, &rig.caller, rig.kfd, request, &mut arg);
    for (attribute, bytes) in attributes.iter_mut().zip(arg[24..].chunks_exact(8)) {
        let answer: SvmAttribute = bytemuck::pod_read_unaligned(bytes);
        *attribute = (answer.kind, answer.value);
    }
    match outcome {
        Outcome::Done(result) => result.map(|_| ()),
        Outcome::Later(ticket) => panic!("parked as {ticket:?}"),
    }
}

fn set(rig: &mut Rig, pages: (u64, u64), attributes: &[(u32, u32)]) -> Result<(), Errno> {
    let range = (USER + pages.0 * PAGE, (pages.1 - pages.0) * PAGE);
    svm(rig, svm_op::SET_ATTR, range, &mut attributes.to_vec())
}

fn get(rig: &mut Rig, pages: (u64, u64), kinds: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let range = (USER + pages.0 * PAGE, (pages.1 - pages.0) * PAGE);
    let mut attributes = kinds.to_vec();
    assert_eq!(svm(rig, svm_op::GET_ATTR, range, &mut attributes), Ok(()));
    attributes
}

fn flags(rig: &mut Rig, pages: (u64, u64)) -> (u32, u32) {
    let answer = get(rig, pages, &[(svm_attr::SET_FLAGS, 0), (svm_attr::CLR_FLAGS, 0)]);
    (answer[0].1, answer[1].1)
}

fn access(rig: &mut Rig, pages: (u64, u64), gpu: usize) -> u32 {
    get(rig, pages, &[(svm_attr::ACCESS, gpu_id(gpu))])[0].0
}

#[test]
fn memory_without_a_range_has_the_default_attributes() {
    let mut rig = rig(1);
    let undefined = svm_location::UNDEFINED;
    let asked = [
        (svm_attr::PREFERRED_LOC, 1),
        (svm_attr::PREFETCH_LOC, 1),
        (svm_attr::ACCESS, gpu_id(0)),
        (svm_attr::SET_FLAGS, 1),
        (svm_attr::CLR_FLAGS, 1),
        (svm_attr::GRANULARITY, 1),
    ];
    let answer = [
        (svm_attr::PREFERRED_LOC, undefined),
        (svm_attr::PREFETCH_LOC, undefined),
        (svm_attr::NO_ACCESS, gpu_id(0)),
        (svm_attr::SET_FLAGS, DEFAULT_FLAGS),
        (svm_attr::CLR_FLAGS, !DEFAULT_FLAGS),
        (svm_attr::GRANULARITY, 9),
    ];
    assert_eq!(get(&mut rig, (0, 4), &asked), answer);
}

#[test]
fn what_is_set_is_what_is_answered() {
    let mut rig = rig(2);
    let wanted = [
        (svm_attr::PREFERRED_LOC, gpu_id(1)),
        (svm_attr::PREFETCH_LOC, svm_location::SYSMEM),
        (svm_attr::ACCESS_IN_PLACE, gpu_id(0)),
        (svm_attr::ACCESS, gpu_id(1)),
        (svm_attr::SET_FLAGS, svm_flag::GPU_RO),
        (svm_attr::CLR_FLAGS, svm_flag::COHERENT),
        (svm_attr::GRANULARITY, 200),
    ];
    assert_eq!(set(&mut rig, (2, 6), &wanted), Ok(()));
    assert_eq!(access(&mut rig, (2, 6), 0), svm_attr::ACCESS_IN_PLACE);
    assert_eq!(access(&mut rig, (2, 6), 1), svm_attr::ACCESS);
    let flags_now = svm_flag::HOST_ACCESS | svm_flag::GPU_RO;
    assert_eq!(flags(&mut rig, (2, 6)), (flags_now, !flags_now));
    let asked =
        [(svm_attr::PREFERRED_LOC, 0), (svm_attr::PREFETCH_LOC, 9), (svm_attr::GRANULARITY, 0)];
    let answer = [
        (svm_attr::PREFERRED_LOC, gpu_id(1)),
        (svm_attr::PREFETCH_LOC, svm_location::SYSMEM),
        (svm_attr::GRANULARITY, 0x3f),
    ];
    assert_eq!(get(&mut rig, (2, 6), &asked), answer);
    assert_eq!(set(&mut rig, (2, 6), &[(svm_attr::NO_ACCESS, gpu_id(1))]), Ok(()));
    assert_eq!(access(&mut rig, (2, 6), 1), svm_attr::NO_ACCESS);
}

#[test]
fn part_of_a_range_changes_alone() {
    let mut rig = rig(1);
    let read_only = (svm_attr::SET_FLAGS, svm_flag::GPU_RO);
    let executable = (svm_attr::SET_FLAGS, svm_flag::GPU_EXEC);
    assert_eq!(set(&mut rig, (0, 10), &[read_only]), Ok(()));
    assert_eq!(set(&mut rig, (3, 5), &[executable]), Ok(()));
    let plain = DEFAULT_FLAGS | svm_flag::GPU_RO;
    let both = plain | svm_flag::GPU_EXEC;
    let whole = [((0, 3), plain), ((3, 5), both), ((5, 10), plain), ((0, 10), plain)];
    for (pages, expected) in whole.into_iter().chain([((1, 2), plain), ((7, 9), plain)]) {
        assert_eq!(flags(&mut rig, pages).0, expected, "{pages:?}");
    }
    assert_eq!(flags(&mut rig, (0, 10)).1, !(plain | svm_flag::GPU_EXEC));
}

#[test]
fn answer_for_several_ranges_is_what_they_have_in_common() {
    let mut rig = rig(2);
    let (first, second) = ((svm_attr::ACCESS, gpu_id(0)), (svm_attr::ACCESS, gpu_id(1)));
    let near = |gpu| (svm_attr::PREFERRED_LOC, gpu_id(gpu));
    let fine = |bits| (svm_attr::GRANULARITY, bits);
    assert_eq!(set(&mut rig, (0, 2), &[first, second, near(0), fine(3)]), Ok(()));
    assert_eq!(set(&mut rig, (4, 6), &[second, near(1), fine(5)]), Ok(()));
    assert_eq!(access(&mut rig, (0, 6), 0), svm_attr::NO_ACCESS);
    assert_eq!(access(&mut rig, (0, 6), 1), svm_attr::ACCESS);
    let asked = [near(0), fine(0)];
    let answer = [(svm_attr::PREFERRED_LOC, svm_location::UNDEFINED), fine(3)];
    assert_eq!(get(&mut rig, (0, 6), &asked), answer);
}

#[test]
fn wrong_arguments_are_refused() {
    let mut rig = rig(1);
    let buffer = rig.gtt(4 * PAGE);
    rig.bench.world.map_user(rig.caller.space, buffer.va, 4 * PAGE);
    let none: &mut [(u32, u32)] = &mut [];
    for ((start, size), op, errno) in [
        ((USER + 1, PAGE), svm_op::SET_ATTR, Errno::EINVAL),
        ((USER, PAGE + 1), svm_op::SET_ATTR, Errno::EINVAL),
        ((0, PAGE), svm_op::SET_ATTR, Errno::EINVAL),
        ((USER, 0), svm_op::SET_ATTR, Errno::EINVAL),
        ((USER, PAGE), 2, Errno::EINVAL),
        ((0x1000, PAGE), svm_op::SET_ATTR, Errno::EFAULT),
        ((0x1000, PAGE), svm_op::GET_ATTR, Errno::EFAULT),
        ((USER, USER_BYTES + PAGE), svm_op::SET_ATTR, Errno::EFAULT),
        ((USER, !0xfff), svm_op::SET_ATTR, Errno::EFAULT),
        ((buffer.va, PAGE), svm_op::SET_ATTR, Errno::EADDRINUSE),
        ((buffer.va, PAGE), svm_op::GET_ATTR, Errno::EADDRINUSE),
    ] {
        assert_eq!(svm(&mut rig, op, (start, size), none), Err(errno), "{start:#x} {size:#x}");
    }
    for attribute in [
        (99, 0),
        (svm_attr::ACCESS, 0x7777),
        (svm_attr::NO_ACCESS, 0),
        (svm_attr::PREFERRED_LOC, 0x7777),
        (svm_attr::PREFETCH_LOC, svm_location::UNDEFINED),
    ] {
        assert_eq!(set(&mut rig, (0, 1), &[attribute]), Err(Errno::EINVAL), "{attribute:?}");
    }
    for attribute in [(svm_attr::NO_ACCESS, gpu_id(0)), (svm_attr::ACCESS, 0x7777)] {
        let range = (USER, PAGE);
        assert_eq!(
            svm(&mut rig, svm_op::GET_ATTR, range, &mut [attribute]),
            Err(Errno::EINVAL),
            "{attribute:?}"
        );
    }
}

#[test]
fn attributes_beyond_the_argument_are_refused() {
    let mut rig = rig(1);
    let args = SvmArgs { start_addr: USER, size: PAGE, op: svm_op::SET_ATTR, nattr: 1000 };
    let mut arg = bytemuck::bytes_of(&args).to_vec();
    let bench = &mut rig.bench;
    let outcome = bench.model.ioctl(&mut bench.world, &rig.caller, rig.kfd, ioc::SVM, &mut arg);
    assert_eq!(outcome, Outcome::Done(Err(Errno::EINVAL)));
}

#[test]
fn buffer_may_not_stand_on_a_range() {
    let mut rig = rig(1);
    assert_eq!(set(&mut rig, (2, 4), &[(svm_attr::ACCESS, gpu_id(0))]), Ok(()));
    let mut alloc_at = |va_addr, mmap_offset, flags| {
        let gpu_id = gpu_id(0);
        let size = PAGE;
        let mut args =
            AllocMemoryOfGpuArgs { va_addr, size, handle: 0, mmap_offset, gpu_id, flags };
        rig.call(ioc::ALLOC_MEMORY_OF_GPU, &mut args)
    };
    let taken = USER + 2 * PAGE;
    assert_eq!(alloc_at(taken, 0, alloc::GTT), Err(Errno::EADDRINUSE));
    assert_eq!(alloc_at(0x9000_0000, taken, alloc::USERPTR), Err(Errno::EADDRINUSE));
    assert_eq!(alloc_at(USER + 4 * PAGE, 0, alloc::GTT), Ok(0));
    assert_eq!(alloc_at(USER + PAGE, 0, alloc::GTT), Ok(0));
}

#[test]
fn gpu_with_access_reaches_a_range_and_another_does_not() {
    let mut rig = rig(2);
    assert_eq!(set(&mut rig, (0, 4), &[(svm_attr::ACCESS, gpu_id(0))]), Ok(()));
    let fence = Packet::Fence { address: USER + PAGE, value: 5 };
    let mut queue = rig.sdma_queue(0);
    rig.submit(&mut queue, std::slice::from_ref(&fence));
    assert_eq!(rig.run().faults, 0);
    let mut bytes = [0; 4];
    rig.bench.world.read_user(rig.caller.space, USER + PAGE, &mut bytes).expect("it is mapped");
    assert_eq!(bytes, [5, 0, 0, 0]);
    let mut queue = rig.sdma_queue(1);
    rig.submit(&mut queue, &[fence]);
    assert_eq!(rig.run().faults, 1);
}

#[test]
fn retry_of_faults_is_set_and_asked_while_there_is_no_queue() {
    let mut rig = rig(1);
    let mut mode = |xnack_enabled| {
        let mut args = SetXnackModeArgs { xnack_enabled };
        rig.call(ioc::SET_XNACK_MODE, &mut args).map(|_| args.xnack_enabled)
    };
    assert_eq!(mode(-1), Ok(0));
    assert_eq!(mode(1), Ok(1));
    assert_eq!(mode(-1), Ok(1));
    assert_eq!(mode(0), Ok(0));
    let queue = rig.sdma_queue(0);
    let mut on = SetXnackModeArgs { xnack_enabled: 1 };
    assert_eq!(rig.call(ioc::SET_XNACK_MODE, &mut on), Err(Errno::EBUSY));
    let mut ask = SetXnackModeArgs { xnack_enabled: -1 };
    assert_eq!(rig.call(ioc::SET_XNACK_MODE, &mut ask), Ok(0));
    assert_eq!(rig.destroy_queue(queue.id), Ok(0));
    assert_eq!(rig.call(ioc::SET_XNACK_MODE, &mut on), Ok(0));
    assert_eq!(access(&mut rig, (0, 1), 0), svm_attr::ACCESS);
}
