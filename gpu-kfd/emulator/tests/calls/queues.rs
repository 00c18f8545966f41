//! Queues: what may be made, changed and asked, and what each refusal is.

use gpu_kfd::uapi::kfd::{
    AllocQueueGwsArgs, CreateQueueArgs, GetQueueWaveStateArgs, SetCuMaskArgs, UpdateQueueArgs, ioc,
    queue_type,
};
use gpu_kfd::uapi::sdma::Packet;
use nix::errno::Errno;

use crate::bench::SCRATCH;
use crate::rig::{PAGE, RING_BYTES, Rig};

fn create(rig: &mut Rig, args: &CreateQueueArgs) -> Result<i32, Errno> {
    let mut args = *args;
    rig.call(ioc::CREATE_QUEUE, &mut args)
}

#[test]
fn sdma_queues_get_numbers_and_doorbells_by_engine() {
    let mut rig = Rig::new(1);
    let queues = [rig.sdma_queue(0), rig.sdma_queue(0)];
    assert_eq!(queues.map(|queue| queue.id), [0, 1]);
    let slots = queues.map(|queue| (queue.doorbell.offset & 0xffff_ffff) / 8);
    assert_eq!(slots, [0x100, 0x300]);
    let pages = queues.map(|queue| queue.doorbell.offset >> 32);
    assert_eq!(pages[0], pages[1]);
    assert_eq!(rig.destroy_queue(0), Ok(0));
    assert_eq!(rig.sdma_queue(0).doorbell, queues[0].doorbell);
}

#[test]
fn compute_queues_get_the_lowest_free_doorbell() {
    let mut rig = Rig::new(2);
    let slot = |offset: u64| (offset & 0xffff_ffff) / 8;
    let on_first = [rig.aql_queue(0), rig.aql_queue(0)];
    let on_second = rig.aql_queue(1);
    assert_eq!(on_first.map(|queue| slot(queue.doorbell.offset)), [0, 1]);
    assert_eq!(slot(on_second.doorbell.offset), 0);
    assert_ne!(on_second.doorbell, on_first[0].doorbell);
}

#[test]
fn older_programs_make_queues_without_an_engine_number() {
    let mut rig = Rig::new(1);
    let args = rig.queue_args(0, queue_type::SDMA);
    let mut arg = bytemuck::bytes_of(&args)[..88].to_vec();
    let request = gpu_kfd::uapi::with_argument_bytes(ioc::CREATE_QUEUE, 88);
    let bench = &mut rig.bench;
    let outcome = bench.model.ioctl(&mut bench.world, &rig.caller, rig.kfd, request, &mut arg);
    assert_eq!(outcome, Ok(0).into());
    assert_ne!(arg[24..32], [0; 8]);
}

#[test]
fn wrong_arguments_are_refused_in_the_drivers_order() {
    let mut rig = Rig::new(1);
    let good = rig.queue_args(0, queue_type::COMPUTE_AQL);
    let kernel = 0xffff_8000_0000_0000;
    let cases: [(&str, CreateQueueArgs, Errno); 14] = [
        ("percentage", CreateQueueArgs { queue_percentage: 101, ..good }, Errno::EINVAL),
        ("priority", CreateQueueArgs { queue_priority: 16, ..good }, Errno::EINVAL),
        ("ring", CreateQueueArgs { ring_base_address: kernel, ..good }, Errno::EFAULT),
        ("ring size", CreateQueueArgs { ring_size: 3000, ..good }, Errno::EINVAL),
        ("read", CreateQueueArgs { read_pointer_address: kernel, ..good }, Errno::EFAULT),
        ("write", CreateQueueArgs { write_pointer_address: kernel, ..good }, Errno::EFAULT),
        ("eop", CreateQueueArgs { eop_buffer_address: kernel, ..good }, Errno::EFAULT),
        ("area", CreateQueueArgs { ctx_save_restore_address: kernel, ..good }, Errno::EFAULT),
        ("type", CreateQueueArgs { queue_type: 9, ..good }, Errno::EOPNOTSUPP),
        ("PM4", CreateQueueArgs { queue_type: 0, ..good }, Errno::EOPNOTSUPP),
        ("GPU", CreateQueueArgs { gpu_id: 0x7777, ..good }, Errno::EINVAL),
        ("unmapped ring", CreateQueueArgs { ring_base_address: 0x1000, ..good }, Errno::EINVAL),
        ("ring too long", CreateQueueArgs { ring_size: 2 * RING_BYTES, ..good }, Errno::EINVAL),
        ("no pointer", CreateQueueArgs { read_pointer_address: 0, ..good }, Errno::EINVAL),
    ];
    for (what, args, errno) in cases {
        assert_eq!(create(&mut rig, &args), Err(errno), "{what}");
    }
    assert_eq!(create(&mut rig, &good), Ok(0));
}

#[test]
fn small_ring_is_made_larger_and_its_size_answered() {
    let mut rig = Rig::new(1);
    let mut args = rig.queue_args(0, queue_type::SDMA);
    args.ring_size = 0;
    args.queue_percentage = 100 | 3 << 8;
    assert_eq!(rig.call(ioc::CREATE_QUEUE, &mut args), Ok(0));
    assert_eq!(args.ring_size, 1024);
}

#[test]
fn queue_needs_an_address_space() {
    let mut rig = Rig::new(1);
    let args = rig.queue_args(0, queue_type::SDMA);
    rig.caller = rig.bench.client(2);
    rig.kfd = rig.bench.kfd(&rig.caller);
    assert_eq!(create(&mut rig, &args), Err(Errno::ESRCH));
}

#[test]
fn buffers_of_compute_queues_must_be_mapped_and_of_the_right_size() {
    let mut rig = Rig::new(1);
    let eop = rig.vram(0, PAGE);
    let area = rig.gtt(4 * PAGE);
    let good = CreateQueueArgs {
        eop_buffer_address: eop.va,
        eop_buffer_size: 4096,
        ctx_save_restore_address: area.va,
        ctx_save_restore_size: 4 * PAGE as u32,
        ctl_stack_size: PAGE as u32,
        ..rig.queue_args(0, queue_type::COMPUTE_AQL)
    };
    for bad in [
        CreateQueueArgs { eop_buffer_size: 2048, ..good },
        CreateQueueArgs { eop_buffer_address: 0x5000, ..good },
        CreateQueueArgs { ctx_save_restore_address: 0x5000, ..good },
    ] {
        assert_eq!(create(&mut rig, &bad), Err(Errno::EINVAL));
    }
    let huge = CreateQueueArgs { ctl_stack_size: 2 << 20, ..good };
    assert_eq!(create(&mut rig, &huge), Err(Errno::ENOMEM));
    assert_eq!(create(&mut rig, &good), Ok(0));
}

#[test]
fn sdma_queues_run_out_for_all_processes_together() {
    let mut rig = Rig::new(1);
    for _ in 0..8 {
        rig.sdma_queue(0);
    }
    let args = rig.queue_args(0, queue_type::SDMA);
    assert_eq!(create(&mut rig, &args), Err(Errno::ENOMEM));
    let args = rig.queue_args(0, queue_type::SDMA_XGMI);
    assert_eq!(create(&mut rig, &args), Ok(0));
    let first = rig.caller;
    rig.enter(2);
    let args = rig.queue_args(0, queue_type::SDMA);
    assert_eq!(create(&mut rig, &args), Err(Errno::ENOMEM));
    rig.bench.end(&first);
    assert_eq!(create(&mut rig, &args), Ok(0));
}

#[test]
fn compute_queues_run_out() {
    let mut rig = Rig::new(1);
    let args = rig.queue_args(0, queue_type::COMPUTE_AQL);
    for _ in 0..24 {
        assert_eq!(create(&mut rig, &args), Ok(0));
    }
    assert_eq!(create(&mut rig, &args), Err(Errno::EPERM));
}

#[test]
fn engine_of_a_queue_can_be_chosen() {
    let mut rig = Rig::new(1);
    let by_engine = rig.queue_args(0, queue_type::SDMA_BY_ENG_ID);
    for _ in 0..8 {
        let mut args = CreateQueueArgs { sdma_engine_id: 1, ..by_engine };
        assert_eq!(rig.call(ioc::CREATE_QUEUE, &mut args), Ok(0));
        let slot = (args.doorbell_offset & 0xffff_ffff) / 8 % 512;
        assert!((0x10a..0x10e).contains(&slot), "{slot:#x}");
    }
    let full = CreateQueueArgs { sdma_engine_id: 1, ..by_engine };
    assert_eq!(create(&mut rig, &full), Err(Errno::ENOMEM));
    let beyond = CreateQueueArgs { sdma_engine_id: 2, ..by_engine };
    assert_eq!(create(&mut rig, &beyond), Err(Errno::EINVAL));
    let first = CreateQueueArgs { sdma_engine_id: 0, ..by_engine };
    assert_eq!(create(&mut rig, &first), Ok(0));
}

#[test]
fn unknown_queues_are_refused() {
    let mut rig = Rig::new(1);
    assert_eq!(rig.destroy_queue(0), Err(Errno::EINVAL));
    let mut update = UpdateQueueArgs { queue_percentage: 100, ..Default::default() };
    assert_eq!(rig.call(ioc::UPDATE_QUEUE, &mut update), Err(Errno::EFAULT));
    let mut mask = SetCuMaskArgs { queue_id: 0, num_cu_mask: 32, cu_mask_ptr: SCRATCH };
    assert_eq!(rig.call(ioc::SET_CU_MASK, &mut mask), Err(Errno::EFAULT));
    let mut state = GetQueueWaveStateArgs::default();
    assert_eq!(rig.call(ioc::GET_QUEUE_WAVE_STATE, &mut state), Err(Errno::EFAULT));
    let mut gws = AllocQueueGwsArgs::default();
    assert_eq!(rig.call(ioc::ALLOC_QUEUE_GWS, &mut gws), Err(Errno::EINVAL));
}

#[test]
fn update_checks_like_create_and_wants_the_new_ring_mapped() {
    let mut rig = Rig::new(1);
    let queue = rig.sdma_queue(0);
    let good = UpdateQueueArgs {
        ring_base_address: queue.ring.va,
        queue_id: queue.id,
        ring_size: RING_BYTES,
        queue_percentage: 50,
        queue_priority: 1,
    };
    for (mut args, errno) in [
        (UpdateQueueArgs { queue_percentage: 101, ..good }, Errno::EINVAL),
        (UpdateQueueArgs { queue_priority: 16, ..good }, Errno::EINVAL),
        (UpdateQueueArgs { ring_base_address: 1 << 60, ..good }, Errno::EFAULT),
        (UpdateQueueArgs { ring_size: 5000, ..good }, Errno::EINVAL),
        (UpdateQueueArgs { ring_base_address: 0x1000, ..good }, Errno::EFAULT),
    ] {
        assert_eq!(rig.call(ioc::UPDATE_QUEUE, &mut args), Err(errno));
    }
    let mut args = good;
    assert_eq!(rig.call(ioc::UPDATE_QUEUE, &mut args), Ok(0));
    let mut args = UpdateQueueArgs { ring_base_address: 0, ..good };
    assert_eq!(rig.call(ioc::UPDATE_QUEUE, &mut args), Ok(0));
}

#[test]
fn queue_without_share_or_ring_stands_still() {
    let mut rig = Rig::new(1);
    let target = rig.gtt(PAGE);
    let mut queue = rig.sdma_queue(0);
    assert_eq!(rig.set_percent(&queue, 0), Ok(0));
    rig.submit(&mut queue, &[Packet::Fence { address: target.va, value: 7 }]);
    let progress = rig.run();
    assert_eq!((progress.packets, progress.listening), (0, false));
    assert_eq!(rig.get_u32(target.at), 0);
    assert_eq!(rig.set_percent(&queue, 1), Ok(0));
    assert_eq!(rig.run().packets, 1);
    assert_eq!(rig.get_u32(target.at), 7);
}

#[test]
fn buffers_of_a_queue_stay_mapped() {
    let mut rig = Rig::new(1);
    let queue = rig.sdma_queue(0);
    assert_eq!(rig.unmap(queue.ring.handle), Err(Errno::EBUSY));
    assert_eq!(rig.unmap(queue.pointers.handle), Err(Errno::EBUSY));
    assert_eq!(rig.destroy_queue(queue.id), Ok(0));
    assert_eq!(rig.unmap(queue.ring.handle), Ok(0));
    assert_eq!(rig.unmap(queue.pointers.handle), Ok(0));
}

#[test]
fn mask_of_compute_units_has_whole_words_in_readable_memory() {
    let mut rig = Rig::new(1);
    let queue = rig.aql_queue(0);
    let mask_at = |bits, address| SetCuMaskArgs {
        queue_id: queue.id,
        num_cu_mask: bits,
        cu_mask_ptr: address,
    };
    for (mut args, expected) in [
        (mask_at(33, SCRATCH), Err(Errno::EINVAL)),
        (mask_at(0, SCRATCH), Err(Errno::EINVAL)),
        (mask_at(64, 0x1000), Err(Errno::EFAULT)),
        (mask_at(64, SCRATCH), Ok(0)),
        (mask_at(4096, SCRATCH), Ok(0)),
    ] {
        assert_eq!(rig.call(ioc::SET_CU_MASK, &mut args), expected);
    }
}

#[test]
fn wave_state_is_told_of_stopped_compute_queues_only() {
    let mut rig = Rig::new(1);
    let (sdma, aql) = (rig.sdma_queue(0), rig.aql_queue(0));
    let of = |queue_id, address| GetQueueWaveStateArgs {
        ctl_stack_address: address,
        queue_id,
        ctl_stack_used_size: 9,
        save_area_used_size: 9,
        _pad: 0,
    };
    let mut args = of(aql.id, SCRATCH);
    assert_eq!(rig.call(ioc::GET_QUEUE_WAVE_STATE, &mut args), Err(Errno::EINVAL));
    assert_eq!(rig.set_percent(&aql, 0), Ok(0));
    assert_eq!(rig.set_percent(&sdma, 0), Ok(0));
    assert_eq!(rig.call(ioc::GET_QUEUE_WAVE_STATE, &mut args), Ok(0));
    assert_eq!((args.ctl_stack_used_size, args.save_area_used_size), (0, 0));
    let mut args = of(aql.id, 0x1000);
    assert_eq!(rig.call(ioc::GET_QUEUE_WAVE_STATE, &mut args), Err(Errno::EFAULT));
    let mut args = of(sdma.id, SCRATCH);
    assert_eq!(rig.call(ioc::GET_QUEUE_WAVE_STATE, &mut args), Err(Errno::EINVAL));
}

#[test]
fn one_queue_on_a_gpu_has_global_wave_sync() {
    let mut rig = Rig::new(1);
    let (first, second) = (rig.aql_queue(0), rig.aql_queue(0));
    let mut gws = |queue_id, num_gws| {
        let mut args = AllocQueueGwsArgs { queue_id, num_gws, first_gws: 9, _pad: 0 };
        rig.call(ioc::ALLOC_QUEUE_GWS, &mut args).map(|_| args.first_gws)
    };
    assert_eq!(gws(first.id, 0), Err(Errno::EINVAL));
    assert_eq!(gws(first.id, 1), Ok(0));
    assert_eq!(gws(second.id, 1), Err(Errno::EBUSY));
    assert_eq!(gws(first.id, 0), Ok(0));
    assert_eq!(gws(second.id, 1), Ok(0));
}
