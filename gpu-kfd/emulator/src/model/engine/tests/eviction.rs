//! Evicted queues stand still, and go on where they were.

use gpu_kfd::uapi::sdma::{Condition, Packet};

use super::{BUDGET_BYTES, Bed, PAGE};
use crate::model::world::World;

fn fence(address: u64, value: u32) -> Packet {
    Packet::Fence { address, value }
}

#[test]
fn eviction_stops_and_resume_goes_on() {
    let mut bed = Bed::new();
    let target = bed.buffer(PAGE);
    let mut queue = bed.sdma();
    let space = bed.caller.space;
    bed.submit(&mut queue, &[fence(target.va, 1)]);
    assert_eq!(bed.run(), 1);
    bed.model.evict_queues(space);
    bed.submit(&mut queue, &[fence(target.va, 2)]);
    assert_eq!(bed.run(), 0);
    assert_eq!(bed.get_u64(target.at), 1);
    bed.model.resume_queues(space);
    assert_eq!(bed.run(), 1);
    assert_eq!(bed.get_u64(target.at), 2);
}

#[test]
fn evictions_nest() {
    let mut bed = Bed::new();
    let target = bed.buffer(PAGE);
    let mut queue = bed.sdma();
    let space = bed.caller.space;
    bed.model.evict_queues(space);
    bed.model.evict_queues(space);
    bed.submit(&mut queue, &[fence(target.va, 1)]);
    bed.model.resume_queues(space);
    assert_eq!(bed.run(), 0);
    bed.model.resume_queues(space);
    assert_eq!(bed.run(), 1);
    bed.model.resume_queues(space);
    bed.submit(&mut queue, &[fence(target.va, 2)]);
    assert_eq!(bed.run(), 1);
}

#[test]
fn queue_made_while_evicted_waits_too() {
    let mut bed = Bed::new();
    let target = bed.buffer(PAGE);
    let space = bed.caller.space;
    bed.model.evict_queues(space);
    let mut queue = bed.sdma();
    bed.submit(&mut queue, &[fence(target.va, 1)]);
    assert_eq!(bed.run(), 0);
    bed.model.resume_queues(space);
    assert_eq!(bed.run(), 1);
}

#[test]
fn resumed_queue_reads_the_write_pointer_from_memory() {
    let mut bed = Bed::new();
    let target = bed.buffer(PAGE);
    let mut queue = bed.sdma();
    let space = bed.caller.space;
    bed.run();
    bed.model.evict_queues(space);
    bed.write_packets(&mut queue, &[fence(target.va, 1)]);
    bed.model.resume_queues(space);
    assert_eq!(bed.run(), 1);
}

#[test]
fn copy_that_is_cut_by_an_eviction_is_finished_after_it() {
    let mut bed = Bed::new();
    let (from, to) = (bed.buffer(1 << 20), bed.buffer(1 << 20));
    let bytes: Vec<u8> = (0..1 << 20).map(|index: u32| (index % 253) as u8).collect();
    bed.world.write_pages(from.at, &bytes);
    let mut queue = bed.sdma();
    let copy = Packet::CopyLinear { source: from.va, destination: to.va, bytes: 1 << 20 };
    bed.submit(&mut queue, &[copy]);
    let progress = bed.model.run_queues(&mut bed.world, 300_000);
    assert!(progress.more && progress.packets == 0, "{progress:?}");
    bed.model.evict_queues(bed.caller.space);
    assert_eq!(bed.model.run_queues(&mut bed.world, BUDGET_BYTES).bytes, 0);
    bed.model.resume_queues(bed.caller.space);
    let rest = bed.model.run_queues(&mut bed.world, BUDGET_BYTES);
    assert_eq!(rest.bytes + progress.bytes, 1 << 20);
    let mut copied = vec![0; 1 << 20];
    bed.world.read_pages(to.at, &mut copied);
    assert_eq!(copied, bytes);
}

#[test]
fn waiting_packet_waits_on_after_an_eviction() {
    let mut bed = Bed::new();
    let target = bed.buffer(PAGE);
    let mut queue = bed.sdma();
    let poll = Packet::PollMemory {
        address: target.va,
        condition: Condition::Equal,
        reference: 1,
        mask: u32::MAX,
        interval: 1,
        retries: 0xfff,
    };
    bed.submit(&mut queue, &[poll, fence(target.va + 8, 1)]);
    bed.run();
    bed.model.evict_queues(bed.caller.space);
    bed.put_u64(target.at, 1);
    assert_eq!(bed.run(), 0);
    bed.model.resume_queues(bed.caller.space);
    assert_eq!(bed.run(), 2);
}

#[test]
fn eviction_of_one_process_leaves_another_running() {
    let mut bed = Bed::new();
    let first = bed.caller.space;
    bed.sdma();
    bed.enter(2);
    let target = bed.buffer(PAGE);
    let mut queue = bed.sdma();
    bed.model.evict_queues(first);
    bed.submit(&mut queue, &[fence(target.va, 1)]);
    assert_eq!(bed.run(), 1);
}
