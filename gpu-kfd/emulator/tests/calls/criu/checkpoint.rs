//! Saving: what is stopped, counted and written, and what is refused.

use gpu_kfd::uapi::amdgpu::{GemMmapIn, GemOp, GemVmEntry, gem_op, ioc as amdgpu};
use gpu_kfd::uapi::criu::{
    BoPrivate, CriuArgs, DevicePrivate, EventPrivate, NO_FD, ProcessPrivate, QueuePrivate,
    SvmRangePrivate, object, op,
};
use gpu_kfd::uapi::drm::{PrimeHandle, ioc as drm};
use gpu_kfd::uapi::kfd::alloc;
use kfd_emulator::{Caller, DeviceNode, FileId, World};
use nix::errno::Errno;

use super::{
    BOS, BOS_AT, CTL_STACK_BYTES, EVENTS, PAGE, Program, QUEUES, Queue, RANGES, ROOM_END, USER_AT,
    VA, checkpoint, client_with_room, end, node, operate, pause, read, save, unpause,
};
use crate::bench::{Bench, buffer_of};

const IDS: [u32; 2] = [0x5a01, 0x5a02];

/// Where buffers and objects begin in private data, with two GPUs.
const BOS_IN_PRIVATE: usize = 24;
const OBJECTS_IN_PRIVATE: usize = BOS_IN_PRIVATE + BOS * size_of::<BoPrivate>();
/// A range's attributes: four, and one for each GPU.
const RANGE_BYTES: usize = size_of::<SvmRangePrivate>() + (4 + 2) * 8;

fn traced() -> (Bench, Program, Queue, Caller) {
    let mut bench = node(&IDS, true);
    let (program, queue) = Program::with_everything(&mut bench, 100, &IDS);
    let criu = client_with_room(&mut bench, 1);
    bench.world.trace(&criu, program.caller.space);
    (bench, program, queue, criu)
}

#[test]
fn stopped_program_is_counted() {
    let (mut bench, program, _, criu) = traced();
    let counts = pause(&mut bench, &criu, program.kfd).expect("it can be stopped");
    assert_eq!((counts.num_devices, counts.num_bos), (2, BOS as u32));
    assert_eq!(counts.num_objects, (QUEUES + EVENTS + RANGES) as u32);
    assert_eq!(counts.pid, 100);
    let expected = size_of::<ProcessPrivate>()
        + 2 * size_of::<DevicePrivate>()
        + BOS * size_of::<BoPrivate>()
        + QUEUES * (size_of::<QueuePrivate>() + 512)
        + CTL_STACK_BYTES
        + EVENTS * size_of::<EventPrivate>()
        + RANGES * RANGE_BYTES;
    assert_eq!(counts.priv_data_size, expected as u64);
}

#[test]
fn queues_stand_still_from_the_count_to_the_release() {
    let (mut bench, program, queue, criu) = traced();
    pause(&mut bench, &criu, program.kfd).expect("it can be stopped");
    queue.ring(&mut bench);
    assert!(!queue.is_done(&mut bench));
    assert_eq!(unpause(&mut bench, &criu, program.kfd), Ok(0));
    queue.ring(&mut bench);
    assert!(queue.is_done(&mut bench));
    assert_eq!(unpause(&mut bench, &criu, program.kfd), Err(Errno::EINVAL));
}

#[test]
fn program_that_was_stopped_twice_stays_stopped() {
    let (mut bench, program, queue, criu) = traced();
    for _ in 0..2 {
        pause(&mut bench, &criu, program.kfd).expect("it can be stopped");
    }
    assert_eq!(unpause(&mut bench, &criu, program.kfd), Ok(0));
    queue.ring(&mut bench);
    assert!(!queue.is_done(&mut bench), "the driver counts evictions");
    assert_eq!(unpause(&mut bench, &criu, program.kfd), Err(Errno::EINVAL), "but not pauses");
}

#[test]
fn only_the_owner_and_its_tracer_may_and_only_with_the_capability() {
    let (mut bench, program, _, criu) = traced();
    let stranger = client_with_room(&mut bench, 2);
    assert_eq!(pause(&mut bench, &stranger, program.kfd), Err(Errno::EBADF));
    assert!(pause(&mut bench, &program.caller, program.kfd).is_ok());
    let weak = Caller { can_checkpoint: false, ..criu };
    assert_eq!(pause(&mut bench, &weak, program.kfd), Err(Errno::EACCES));
    let mut args = CriuArgs { op: 5, ..Default::default() };
    assert_eq!(operate(&mut bench, &criu, program.kfd, &mut args), Err(Errno::EINVAL));
}

#[test]
fn node_without_gpus_has_nothing_to_save() {
    let mut bench = node(&[], true);
    let program = Program::fresh(&mut bench, 7);
    let (caller, kfd) = (program.caller, program.kfd);
    assert_eq!(pause(&mut bench, &caller, kfd), Err(Errno::ENODEV));
    let mut args =
        CriuArgs { op: op::CHECKPOINT, devices: 1, bos: 1, priv_data: 1, ..Default::default() };
    assert_eq!(operate(&mut bench, &caller, kfd, &mut args), Err(Errno::ENODEV));
}

#[test]
fn saving_needs_a_stopped_program_and_its_counts() {
    let (mut bench, program, _, criu) = traced();
    let counts = pause(&mut bench, &criu, program.kfd).expect("it can be stopped");
    assert_eq!(unpause(&mut bench, &criu, program.kfd), Ok(0));
    assert_eq!(save(&mut bench, &criu, program.kfd, counts), Err(Errno::EINVAL));
    pause(&mut bench, &criu, program.kfd).expect("it can be stopped");
    for bad in [
        CriuArgs { devices: 0, ..counts },
        CriuArgs { bos: 0, ..counts },
        CriuArgs { priv_data: 0, ..counts },
        CriuArgs { num_devices: counts.num_devices + 1, ..counts },
        CriuArgs { num_bos: counts.num_bos - 1, ..counts },
        CriuArgs { num_objects: counts.num_objects + 1, ..counts },
        CriuArgs { priv_data_size: counts.priv_data_size + 8, ..counts },
    ] {
        assert_eq!(save(&mut bench, &criu, program.kfd, bad), Err(Errno::EINVAL), "{bad:?}");
    }
    assert!(save(&mut bench, &criu, program.kfd, counts).is_ok());
    // Whatever stands where only answers do.
    let other = CriuArgs { pid: 0, _pad: 7, ..counts };
    assert!(save(&mut bench, &criu, program.kfd, other).is_ok());
}

#[test]
fn failure_to_write_leaves_no_export_behind() {
    let (mut bench, program, _, criu) = traced();
    let counts = pause(&mut bench, &criu, program.kfd).expect("it can be stopped");
    for bad in [
        CriuArgs { devices: 0x10, ..counts },
        CriuArgs { bos: 0x10, ..counts },
        CriuArgs { priv_data: 0x10, ..counts },
        CriuArgs { bos: ROOM_END - 16, ..counts },
        CriuArgs { priv_data: ROOM_END - 1000, ..counts },
    ] {
        assert_eq!(save(&mut bench, &criu, program.kfd, bad), Err(Errno::EFAULT), "{bad:?}");
    }
    end(&mut bench, &[program.caller], &[]);
    // The checkpointer lives: what was exported to it would still be there.
    assert_eq!(bench.model.buffers(), 0);
}

#[test]
fn devices_and_buffers_are_described() {
    let (mut bench, program, _, criu) = traced();
    let image = checkpoint(&mut bench, &criu, &program);
    let devices: Vec<_> =
        image.devices.iter().map(|one| (one.user_gpu_id, one.actual_gpu_id)).collect();
    assert_eq!(devices, [(0x5a01, 0x5a01), (0x5a02, 0x5a02)]);
    for bo in &image.bos {
        let has_contents = bo.alloc_flags & (alloc::VRAM | alloc::GTT) != 0;
        assert_eq!(bo.dmabuf_fd != NO_FD, has_contents, "{bo:x?}");
        assert!(bo.offset != 0 && IDS.contains(&bo.gpu_id), "{bo:x?}");
        if has_contents {
            assert_eq!(bench.model.dma_buf_bytes(buffer_of(bo.dmabuf_fd)), Some(bo.size));
        }
    }
    let gpus: Vec<u32> = image.bos.iter().map(|bo| bo.gpu_id).collect();
    assert_eq!(gpus, [[IDS[0]; 8].as_slice(), &[IDS[1]]].concat(), "GPU after GPU");
    assert_eq!((image.bos[0].addr, image.bos[0].size), (VA, 1 << 20));
    let private = |bo: usize| -> &BoPrivate {
        let at = BOS_IN_PRIVATE + bo * size_of::<BoPrivate>();
        bytemuck::from_bytes(&image.private[at..at + size_of::<BoPrivate>()])
    };
    let first = private(0);
    assert_eq!((first.idr_handle, &first.mapped_gpuids[..3]), (0, &[0x5a01, 0x5a02, 0][..]));
    assert_eq!((private(1).idr_handle, private(8).idr_handle), (1, 0), "numbers of each GPU");
    let user = image.bos.iter().position(|bo| bo.alloc_flags & alloc::USERPTR != 0);
    assert_eq!(private(user.expect("there is one")).user_addr, USER_AT);
    bench.model.check().expect("every reference has a holder");
}

#[test]
fn objects_stand_in_the_order_of_the_driver() {
    let (mut bench, program, _, criu) = traced();
    let image = checkpoint(&mut bench, &criu, &program);
    let process: &ProcessPrivate = bytemuck::from_bytes(&image.private[..8]);
    assert_eq!((process.version, process.xnack_mode), (1, 0));
    let mut rest = &image.private[OBJECTS_IN_PRIVATE..];
    let mut kinds = Vec::new();
    while let Some(kind) = rest.first_chunk() {
        let kind = u32::from_le_bytes(*kind);
        kinds.push(kind);
        let len = match kind {
            object::QUEUE => {
                let queue: &QueuePrivate = bytemuck::from_bytes(&rest[..120]);
                120 + queue.mqd_size as usize + queue.ctl_stack_size as usize
            }
            object::EVENT => size_of::<EventPrivate>(),
            object::SVM_RANGE => RANGE_BYTES,
            other => panic!("object {other}"),
        };
        rest = &rest[len..];
    }
    assert_eq!(kinds, [0, 0, 1, 1, 1, 2]);
}

/// Imports what a checkpoint exported into a render node; its handle there.
fn import(bench: &mut Bench, criu: &Caller, render: FileId, token: u32) -> u32 {
    let file = bench.open(criu, DeviceNode::DmaBuf(buffer_of(token))).expect("it was exported");
    let mut args = PrimeHandle { fd: bench.fd(criu, file), ..Default::default() };
    assert_eq!(bench.call(criu, render, drm::PRIME_FD_TO_HANDLE, &mut args), Ok(0));
    args.handle
}

#[test]
fn contents_can_be_imported_by_who_saves_them() {
    let (mut bench, program, _, criu) = traced();
    let image = checkpoint(&mut bench, &criu, &program);
    let render = bench.render(&criu, 0);
    let (vram, gtt) = (image.bos[0].dmabuf_fd, image.bos[1].dmabuf_fd);
    let handles = [vram, gtt, vram].map(|token| import(&mut bench, &criu, render, token));
    assert_eq!(handles, [1, 2, 1]);
    let mut mmap = |handle| {
        let mut args = GemMmapIn { handle, _pad: 0 };
        bench.call(&criu, render, amdgpu::GEM_MMAP, &mut args)
    };
    assert_eq!(mmap(2), Ok(0));
    assert_eq!(mmap(1), Err(Errno::EPERM), "an engine must copy what the host shall not map");
}

#[test]
fn render_node_that_imports_its_own_compute_buffer_sees_its_mappings() {
    let (mut bench, program, _, criu) = traced();
    let image = checkpoint(&mut bench, &criu, &program);
    // The first descriptor of the program is the render node whose address space the KFD took.
    let render = bench.world.resolve_fd(&program.caller, 4).expect("a descriptor");
    let handle = import(&mut bench, &criu, render, image.bos[0].dmabuf_fd);
    let (op, value) = (gem_op::GET_MAPPING_INFO, BOS_AT);
    let mut args = GemOp { handle, op, value, num_entries: 4, _padding: 0 };
    assert_eq!(bench.call(&criu, render, amdgpu::GEM_OP, &mut args), Ok(0));
    assert_eq!(args.num_entries, 1);
    let entry = read::<GemVmEntry>(&mut bench, &criu, BOS_AT, 1)[0];
    assert_eq!((entry.addr, entry.size, entry.offset), (VA, 1 << 20, 0));
    assert_eq!(entry.flags, 0x6, "readable and writable");
}

#[test]
fn ring_that_is_mapped_twice_is_described_by_its_memory() {
    let mut bench = node(&IDS, true);
    let program = Program::bound(&mut bench, 100, &IDS);
    let flags = alloc::GTT | alloc::WRITABLE | alloc::AQL_QUEUE_MEM;
    program.alloc(&mut bench, 0, (VA, 4 * PAGE), flags, 0);
    let criu = client_with_room(&mut bench, 1);
    let image = checkpoint(&mut bench, &criu, &program);
    assert_eq!((image.bos[0].size, image.bos[0].alloc_flags), (2 * PAGE, flags));
}

/// The flag of a page of the device does not make memory into one, as in the driver.
#[test]
fn memory_that_also_wants_to_be_a_doorbell_has_contents() {
    let mut bench = node(&IDS, true);
    let program = Program::bound(&mut bench, 100, &IDS);
    let flags = alloc::VRAM | alloc::WRITABLE | alloc::DOORBELL;
    program.alloc(&mut bench, 0, (VA, 2 * PAGE), flags, 0);
    let criu = client_with_room(&mut bench, 1);
    let image = checkpoint(&mut bench, &criu, &program);
    assert_eq!((image.bos[0].size, image.bos[0].alloc_flags), (2 * PAGE, flags));
    assert!(image.bos[0].dmabuf_fd != NO_FD);
}
