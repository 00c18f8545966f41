//! What a checkpoint keeps, and a restore makes of it: queues, events, ranges.

use gpu_kfd::uapi::criu::EventPrivate;
use gpu_kfd::uapi::events::{CreateEventArgs, event};
use gpu_kfd::uapi::kfd::{AllocQueueGwsArgs, ioc, queue_type};
use gpu_kfd::uapi::sdma::{Condition, Packet};
use gpu_kfd::uapi::svm::{SvmAttribute, svm_attr, svm_flag, svm_location};
use nix::errno::Errno;

use super::{BUDGET_BYTES, Bed, GPU_ID, PAGE, RING_BYTES};
use crate::model::queues::QueueRecord;
use crate::model::svm::Ranges;
use crate::model::world::{SpaceId, World};

const USER: u64 = 0x4000_0000;

fn queue_records(bed: &Bed) -> Vec<QueueRecord> {
    let process = &bed.model.processes[&bed.caller.space];
    process.queues.checkpoint(&process.devices)
}

fn restore(bed: &mut Bed, record: &QueueRecord) -> Result<(), Errno> {
    bed.model.restore_queue(&mut bed.world, bed.caller.space, record)
}

fn poll(address: u64) -> Packet {
    Packet::PollMemory {
        address,
        condition: Condition::Equal,
        reference: 1,
        mask: u32::MAX,
        interval: 1,
        retries: 0xfff,
    }
}

/// Ends the process, and begins another that has the same buffers at the same addresses.
fn begin_again(bed: &mut Bed, buffers: &[(u64, u64)]) -> Vec<super::Buffer> {
    let caller = bed.caller;
    bed.model.space_ended(&mut bed.world, caller.space);
    bed.enter(2);
    buffers.iter().map(|(va, size)| bed.buffer_at(*va, *size)).collect()
}

#[test]
fn restored_queue_goes_on_in_the_middle_of_a_copy() {
    let mut bed = Bed::new();
    let (from, to) = (bed.buffer(1 << 20), bed.buffer(1 << 20));
    let mut queue = bed.sdma();
    let copy = Packet::CopyLinear { source: from.va, destination: to.va, bytes: 1 << 20 };
    bed.submit(&mut queue, &[Packet::Nop { skipped: 2 }, copy]);
    let done = bed.model.run_queues(&mut bed.world, 400_000).bytes;
    bed.model.evict_queues(bed.caller.space);
    let records = queue_records(&bed);
    assert_eq!(records.len(), 1);
    let mut ring = vec![0; RING_BYTES as usize];
    bed.world.read_pages(queue.ring.at, &mut ring);

    let sizes =
        [(from.va, 1 << 20), (to.va, 1 << 20), (queue.ring.va, 4096), (queue.pointers.va, 4096)];
    let buffers = begin_again(&mut bed, &sizes);
    bed.world.write_pages(buffers[0].at, &[9; 1 << 20]);
    bed.world.write_pages(buffers[2].at, &ring);
    bed.put_u64(buffers[3].at, queue.written);
    bed.model.evict_queues(bed.caller.space);
    assert_eq!(restore(&mut bed, &records[0]), Ok(()));
    assert_eq!(bed.run(), 0);
    bed.model.resume_queues(bed.caller.space);
    let rest = bed.model.run_queues(&mut bed.world, BUDGET_BYTES);
    assert_eq!((rest.packets, rest.bytes + done), (1, 1 << 20));
    let mut copied = vec![0; 1 << 20];
    bed.world.read_pages(buffers[1].at, &mut copied);
    assert!(copied[..done as usize].iter().all(|byte| *byte == 0));
    assert!(copied[done as usize..].iter().all(|byte| *byte == 9));
    assert_eq!(bed.get_u64(buffers[3].at.plus(8)), queue.written);
}

#[test]
fn restored_queue_is_the_one_that_was_saved() {
    let mut bed = Bed::new();
    let gate = bed.buffer(PAGE);
    let mut sdma = bed.sdma();
    let (_, xgmi) = (bed.sdma(), bed.queue(queue_type::SDMA_XGMI));
    let aql = bed.queue(queue_type::COMPUTE_AQL);
    let mut gws = AllocQueueGwsArgs { queue_id: aql.id, num_gws: 1, ..Default::default() };
    assert_eq!(bed.call(ioc::ALLOC_QUEUE_GWS, &mut gws), Ok(0));
    bed.submit(&mut sdma, &[poll(gate.va)]);
    bed.run();
    let records = queue_records(&bed);
    let heads: Vec<_> = records.iter().map(|record| record.head).collect();
    let ids: Vec<u32> = heads.iter().map(|head| head.q_id).collect();
    assert_eq!(ids, [sdma.id, 1, xgmi.id, aql.id]);
    assert_eq!(heads.iter().map(|head| head.kind).collect::<Vec<_>>(), [1, 1, 4, 0]);
    assert_eq!(heads.iter().map(|head| head.sdma_id).collect::<Vec<_>>(), [0, 1, 0, 0]);
    let stacks: Vec<u32> = heads.iter().map(|head| head.ctl_stack_size).collect();
    assert_eq!(stacks, [0, 0, 0, 8192]);
    assert_eq!(heads[3].gws, 1);
    assert!(heads.iter().all(|head| head.mqd_size == 512 && head.gpu_id == GPU_ID));

    begin_again(&mut bed, &[]);
    bed.model.evict_queues(bed.caller.space);
    for record in records.iter().rev() {
        assert_eq!(restore(&mut bed, record), Ok(()));
    }
    assert_eq!(queue_records(&bed), records);
}

#[test]
fn numbers_that_are_taken_or_wrong_are_refused() {
    let mut bed = Bed::new();
    bed.sdma();
    bed.queue(queue_type::COMPUTE_AQL);
    let [sdma, aql] = &queue_records(&bed)[..] else { panic!("two queues were made") };
    let with = |record: &QueueRecord, change: fn(&mut QueueRecord)| {
        let mut record = record.clone();
        change(&mut record);
        record
    };
    let first = bed.caller;
    bed.enter(2);
    let free = with(sdma, |record| {
        record.head.sdma_id = 1;
        record.head.doorbell_id = 0x300;
    });
    let cases: [(&str, QueueRecord, Errno); 14] = [
        ("GPU", with(aql, |record| record.head.gpu_id = 7), Errno::EINVAL),
        ("number", with(aql, |record| record.head.q_id = 1024), Errno::EINVAL),
        ("kind", with(aql, |record| record.head.kind = 3), Errno::EINVAL),
        ("PM4", with(aql, |record| record.head.format = 0), Errno::EINVAL),
        ("size", with(aql, |record| record.head.q_size = 1000), Errno::EINVAL),
        ("huge size", with(aql, |record| record.head.q_size = 1 << 40), Errno::EINVAL),
        ("stack", with(aql, |record| record.head.ctl_stack_size = 1), Errno::EINVAL),
        ("doorbell", with(aql, |record| record.head.doorbell_id = 1024), Errno::EINVAL),
        ("doorbell of SDMA", with(aql, |record| record.head.doorbell_id = 0x100), Errno::EINVAL),
        ("magic", with(aql, |record| record.mqd[0] ^= 1), Errno::EINVAL),
        ("short", with(aql, |record| record.mqd.truncate(100)), Errno::EINVAL),
        ("SDMA taken", sdma.clone(), Errno::EBUSY),
        ("SDMA number", with(&free, |record| record.head.sdma_id = 4), Errno::EINVAL),
        ("SDMA doorbell", with(&free, |record| record.head.doorbell_id = 0x301), Errno::EINVAL),
    ];
    for (what, record, errno) in &cases {
        assert_eq!(restore(&mut bed, record), Err(*errno), "{what}");
    }
    assert_eq!(restore(&mut bed, aql), Ok(()));
    assert_eq!(restore(&mut bed, aql), Err(Errno::ENOSPC));
    let same_doorbell = with(aql, |record| record.head.q_id = 9);
    assert_eq!(restore(&mut bed, &same_doorbell), Err(Errno::EINVAL));
    assert_eq!(restore(&mut bed, &free), Ok(()));
    bed.sdma();
    bed.sdma();
    assert_eq!(restore(&mut bed, &with(sdma, |record| record.head.q_id = 20)), Err(Errno::ENOMEM));
    bed.model.space_ended(&mut bed.world, first.space);
    assert_eq!(restore(&mut bed, &with(sdma, |record| record.head.q_id = 20)), Ok(()));
}

#[test]
fn second_queue_with_wave_sync_is_refused() {
    let mut bed = Bed::new();
    bed.queue(queue_type::COMPUTE_AQL);
    let mut record = queue_records(&bed).remove(0);
    record.head.gws = 1;
    begin_again(&mut bed, &[]);
    assert_eq!(restore(&mut bed, &record), Ok(()));
    record.head.q_id = 1;
    record.head.doorbell_id = 1;
    assert_eq!(restore(&mut bed, &record), Err(Errno::EBUSY));
}

#[test]
fn any_descriptor_is_taken_or_refused_without_a_panic() {
    let mut bed = Bed::new();
    let queue = bed.sdma();
    let record = queue_records(&bed).remove(0);
    for index in 0..record.mqd.len() {
        let mut bad = record.clone();
        bad.mqd[index] ^= 0xa5;
        begin_again(&mut bed, &[(queue.ring.va, 4096), (queue.pointers.va, 4096)]);
        if restore(&mut bed, &bad).is_ok() {
            bed.run();
        }
    }
}

fn create_event(bed: &mut Bed, event_type: u32, page: u64) -> u32 {
    let mut args = CreateEventArgs { event_page_offset: page, event_type, ..Default::default() };
    assert_eq!(bed.call(ioc::CREATE_EVENT, &mut args), Ok(0));
    args.event_id
}

fn events(bed: &Bed, space: SpaceId) -> Vec<EventPrivate> {
    bed.model.processes[&space].events.checkpoint()
}

#[test]
fn events_come_back_with_their_numbers_page_and_data() {
    let mut bed = Bed::new();
    let page = bed.buffer(0x8000);
    create_event(&mut bed, event::SIGNAL, page.handle);
    let second = create_event(&mut bed, event::SIGNAL, 0);
    let memory = create_event(&mut bed, event::MEMORY, 0);
    let space = bed.caller.space;
    bed.model.signal_event(&mut bed.world, space, second);
    let gpu = crate::model::world::GpuIndex(0);
    bed.model.memory_exception(&mut bed.world, space, gpu, 0x1234_5678);
    let records = events(&bed, space);
    let ids: Vec<u32> = records.iter().map(|record| record.event_id).collect();
    assert_eq!(ids, [1, second, memory]);
    assert_eq!(records.iter().map(|one| one.signaled).collect::<Vec<_>>(), [0, 1, 1]);
    assert_eq!(records[0].user_handle, page.handle);
    assert_eq!(records[1].user_handle, 0);
    assert_eq!(records[2].payload[2], 0x1234_5000);

    let buffers = begin_again(&mut bed, &[(page.va, 0x8000)]);
    let space = bed.caller.space;
    for record in &records {
        assert_eq!(bed.model.restore_event(&mut bed.world, space, record), Ok(()));
    }
    assert_eq!(events(&bed, space), records);
    assert_eq!(bed.get_u64(buffers[0].at.plus(8)), u64::MAX);
    let refused = [
        (EventPrivate { event_id: 1 << 31, ..records[1] }, Errno::EINVAL),
        (EventPrivate { event_id: 4096, ..records[1] }, Errno::EINVAL),
        (EventPrivate { event_id: 0, ..records[1] }, Errno::ENOSPC),
        (records[1], Errno::ENOSPC),
        (EventPrivate { event_id: 7, kind: event::NODECHANGE, ..records[1] }, Errno::EINVAL),
        (EventPrivate { event_id: 7, ..records[0] }, Errno::EINVAL),
    ];
    for (record, errno) in refused {
        let restored = bed.model.restore_event(&mut bed.world, space, &record);
        assert_eq!(restored, Err(errno), "{record:?}");
    }
}

#[test]
fn ranges_come_back_when_the_process_is_resumed() {
    let mut bed = Bed::new();
    let space = bed.caller.space;
    bed.world.map_user(space, USER, 16 * PAGE);
    let set = |kind, value| SvmAttribute { kind, value };
    let first = USER / PAGE;
    let wanted = [
        set(svm_attr::ACCESS_IN_PLACE, GPU_ID),
        set(svm_attr::SET_FLAGS, svm_flag::GPU_RO),
        set(svm_attr::CLR_FLAGS, svm_flag::COHERENT),
        set(svm_attr::GRANULARITY, 4),
    ];
    assert_eq!(bed.model.set_ranges(&mut bed.world, space, first + 2, 3, &wanted), Ok(()));
    let records = bed.model.checkpoint_ranges(space).expect("the process is there");
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].head.start_addr, records[0].head.size), (first + 2, 3));
    assert_eq!(records[0].attributes.len(), Ranges::attributes_saved(1));
    let undefined = svm_location::UNDEFINED;
    let kept = [
        set(svm_attr::PREFERRED_LOC, undefined),
        set(svm_attr::PREFETCH_LOC, undefined),
        set(svm_attr::SET_FLAGS, svm_flag::HOST_ACCESS | svm_flag::GPU_RO),
        set(svm_attr::GRANULARITY, 4),
        set(svm_attr::ACCESS_IN_PLACE, GPU_ID),
    ];
    assert_eq!(records[0].attributes, kept);

    begin_again(&mut bed, &[]);
    let space = bed.caller.space;
    let ranges = &mut bed.model.processes.get_mut(&space).expect("it is there").ranges;
    assert_eq!(ranges.restore(records[0].clone()), Ok(()));
    assert!(!ranges.overlaps(USER, 16 * PAGE));
    assert_eq!(bed.model.resume_ranges(&mut bed.world, space), Err(Errno::EFAULT));
    bed.world.map_user(space, USER, 16 * PAGE);
    let ranges = &mut bed.model.processes.get_mut(&space).expect("it is there").ranges;
    assert_eq!(ranges.restore(records[0].clone()), Ok(()));
    assert_eq!(bed.model.resume_ranges(&mut bed.world, space), Ok(()));
    assert_eq!(bed.model.checkpoint_ranges(space), Ok(records));
}

#[test]
fn large_range_is_cut_at_borders_of_the_largest_size() {
    let mut bed = Bed::new();
    let space = bed.caller.space;
    // 64 MiB of device memory make 2 MiB the largest size.
    let first = USER / PAGE + 100;
    bed.world.map_user(space, first * PAGE, PAGE);
    bed.world.map_user(space, (first + 999) * PAGE, PAGE);
    assert_eq!(bed.model.set_ranges(&mut bed.world, space, first, 1000, &[]), Ok(()));
    let records = bed.model.checkpoint_ranges(space).expect("the process is there");
    let sizes: Vec<u64> = records.iter().map(|record| record.head.size).collect();
    assert_eq!(sizes, [412, 512, 76]);
}
