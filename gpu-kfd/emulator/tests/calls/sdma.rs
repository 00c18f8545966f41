//! SDMA queues: packets do what they say, in order, and wait where they must.

use gpu_kfd::uapi::events::{TIMEOUT_NONE, event};
use gpu_kfd::uapi::sdma::{Condition, FillUnit, NOP, Packet, atomic};
use kfd_emulator::{Outcome, World};

use crate::rig::{Memory, PAGE, Queue, RING_BYTES, Rig};

fn copy(from: u64, to: u64, bytes: u64) -> Packet {
    Packet::CopyLinear { source: from, destination: to, bytes }
}

fn poll(address: u64, condition: Condition, reference: u32, retries: u32) -> Packet {
    Packet::PollMemory { address, condition, reference, mask: 0xff, interval: 4, retries }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index * 7 % 251) as u8).collect()
}

/// A rig with one queue, and memory to work on.
fn set_up(bytes: u64) -> (Rig, Queue, Memory) {
    let mut rig = Rig::new(1);
    let queue = rig.sdma_queue(0);
    let memory = rig.vram(0, bytes);
    (rig, queue, memory)
}

#[test]
fn copy_moves_exactly_its_bytes() {
    let (mut rig, mut queue, memory) = set_up(1 << 20);
    let target = rig.gtt(1 << 20);
    for len in [1, 3, 4093, 4097, 65_536, 65_537, 200_001] {
        let bytes = pattern(len);
        rig.put(memory.at.plus(8191), &bytes);
        rig.put(target.at, &vec![0xa5; 1 << 20]);
        rig.submit(&mut queue, &[copy(memory.va + 8191, target.va + 4095, len as u64)]);
        assert_eq!(rig.run().bytes, len as u64);
        assert_eq!(rig.get(target.at.plus(4095), len), bytes);
        assert_eq!(rig.get(target.at.plus(4094), 1), [0xa5]);
        assert_eq!(rig.get(target.at.plus(4095 + len as u64), 1), [0xa5]);
    }
}

#[test]
fn read_pointer_follows_and_nothing_is_done_twice() {
    let (mut rig, mut queue, memory) = set_up(PAGE);
    let add = Packet::Atomic {
        operation: atomic::ADD_32,
        address: memory.va,
        source: 1,
        compare: 0,
        repeats: false,
    };
    rig.submit(&mut queue, &[add.clone(), add.clone()]);
    assert_eq!(rig.run().packets, 2);
    assert_eq!(rig.read_pointer(&queue), 64);
    assert_eq!(rig.run().packets, 0);
    rig.submit(&mut queue, &[add]);
    assert_eq!(rig.run().packets, 1);
    assert_eq!(rig.get_u32(memory.at), 3);
    assert_eq!(rig.read_pointer(&queue), queue.written);
}

#[test]
fn doorbell_starts_what_the_write_pointer_alone_does_not() {
    let (mut rig, mut queue, memory) = set_up(PAGE);
    rig.run();
    rig.write_packets(&mut queue, &[Packet::Fence { address: memory.va, value: 9 }]);
    rig.put_u64(queue.pointers.at, queue.written);
    let progress = rig.run();
    assert_eq!((progress.packets, progress.listening, progress.more), (0, true, false));
    rig.put_u64(queue.doorbell, queue.written);
    assert_eq!(rig.run().packets, 1);
    assert_eq!(rig.get_u32(memory.at), 9);
}

#[test]
fn packets_go_on_over_the_end_of_the_ring() {
    let (mut rig, mut queue, memory) = set_up(PAGE);
    let mut expected = 0;
    while queue.written < 3 * u64::from(RING_BYTES) {
        expected += 1;
        let fence = Packet::Fence { address: memory.va, value: expected };
        rig.submit(&mut queue, &[fence, Packet::Nop { skipped: 4 }]);
        rig.run();
        assert_eq!(rig.get_u32(memory.at), expected);
        assert_eq!(rig.read_pointer(&queue), queue.written);
    }
    assert_ne!(RING_BYTES % 36, 0, "some packet must straddle the end");
}

#[test]
fn long_writes_and_no_ops_straddle_the_end_too() {
    let (mut rig, mut queue, memory) = set_up(PAGE);
    rig.submit(&mut queue, &[Packet::Nop { skipped: 1000 }]);
    rig.run();
    let words: Vec<u32> = (0..100).collect();
    rig.submit(&mut queue, &[Packet::Write { destination: memory.va, words: words.clone() }]);
    rig.run();
    assert_eq!(rig.get(memory.at, 400), bytemuck::cast_slice::<u32, u8>(&words));
    assert_eq!(rig.read_pointer(&queue), queue.written);
}

#[test]
fn fills_repeat_their_unit() {
    let (mut rig, mut queue, memory) = set_up(1 << 18);
    let fill = |unit, value, bytes| Packet::Fill { destination: memory.va, value, unit, bytes };
    rig.submit(&mut queue, &[fill(FillUnit::Word, 0x0403_0201, 100_000)]);
    rig.run();
    assert_eq!(rig.get(memory.at.plus(99_996), 8), [1, 2, 3, 4, 0, 0, 0, 0]);
    rig.submit(&mut queue, &[fill(FillUnit::Byte, 0x99, 3)]);
    rig.submit(&mut queue, &[fill(FillUnit::Byte, 0x99, 3)]);
    rig.run();
    assert_eq!(rig.get(memory.at, 4), [0x99, 0x99, 0x99, 4]);
    rig.submit(&mut queue, &[fill(FillUnit::Half, 0xbbaa, 6)]);
    rig.run();
    assert_eq!(rig.get(memory.at, 8), [0xaa, 0xbb, 0xaa, 0xbb, 0xaa, 0xbb, 3, 4]);
}

#[test]
fn atomics_change_memory_in_one_step() {
    let (mut rig, mut queue, memory) = set_up(PAGE);
    let one = |operation, source, compare| Packet::Atomic {
        operation,
        address: memory.va,
        source,
        compare,
        repeats: false,
    };
    for (operation, source, compare, before, after) in [
        (atomic::SWAP_32, 7, 0, u64::MAX, u64::MAX << 32 | 7),
        (atomic::ADD_32, 1, 0, 0xffff_ffff, 0),
        (atomic::SUBTRACT_32, 2, 0, 1, 0xffff_ffff),
        (atomic::COMPARE_SWAP_32, 5, 4, 4, 5),
        (atomic::COMPARE_SWAP_32, 5, 4, 3, 3),
        (atomic::SWAP_64, 7, 0, u64::MAX, 7),
        (atomic::ADD_64, u64::MAX, 0, 5, 4),
        (atomic::SUBTRACT_64, 1, 0, 0, u64::MAX),
        (atomic::COMPARE_SWAP_64, 1 << 40, 9, 9, 1 << 40),
        (atomic::COMPARE_SWAP_64, 1 << 40, 9, 8, 8),
    ] {
        rig.put_u64(memory.at, before);
        rig.submit(&mut queue, &[one(operation, source, compare)]);
        rig.run();
        assert_eq!(rig.get_u64(memory.at), after, "{operation:#x} {before:#x}");
    }
}

#[test]
fn repeated_compare_and_swap_waits_for_its_value() {
    let (mut rig, mut queue, memory) = set_up(PAGE);
    let lock = Packet::Atomic {
        operation: atomic::COMPARE_SWAP_32,
        address: memory.va,
        source: 1,
        compare: 0,
        repeats: true,
    };
    rig.put_u64(memory.at, 1);
    rig.submit(&mut queue, &[lock]);
    assert_eq!(rig.run().packets, 0);
    rig.put_u64(memory.at, 0);
    assert_eq!(rig.run().packets, 1);
    assert_eq!(rig.get_u32(memory.at), 1);
}

#[test]
fn timestamp_is_the_clock_of_the_gpu() {
    let (mut rig, mut queue, memory) = set_up(PAGE);
    rig.bench.world.advance_ns(12_345_678_900);
    rig.submit(&mut queue, &[Packet::Timestamp { address: memory.va + 8 }]);
    rig.run();
    assert_eq!(rig.get_u64(memory.at.plus(8)), 1_234_567_890);
}

#[test]
fn poll_waits_and_lets_other_queues_go_on() {
    let (mut rig, mut queue, memory) = set_up(PAGE);
    let mut other = rig.sdma_queue(0);
    let after = Packet::Fence { address: memory.va + 8, value: 1 };
    rig.submit(&mut queue, &[poll(memory.va, Condition::Equal, 5, 0xfff), after]);
    let progress = rig.run();
    assert_eq!((progress.packets, progress.more), (0, false));
    assert_eq!(rig.get_u32(memory.at.plus(8)), 0);
    // 0x105: only the bits of the mask count.
    rig.submit(&mut other, &[Packet::Fence { address: memory.va, value: 0x105 }]);
    assert_eq!(rig.run().packets, 3);
    assert_eq!(rig.get_u32(memory.at.plus(8)), 1);
}

#[test]
fn poll_with_a_number_of_retries_gives_up() {
    let (mut rig, mut queue, memory) = set_up(PAGE);
    rig.submit(&mut queue, &[poll(memory.va, Condition::NotEqual, 0, 3)]);
    let looks = (0..10).take_while(|_| rig.run().packets == 0).count();
    assert_eq!(looks, 3);
}

#[test]
fn condition_skips_words_or_does_not() {
    let (mut rig, mut queue, memory) = set_up(PAGE);
    for (value, expected) in [(1, 7), (2, 0)] {
        rig.put_u64(memory.at, value);
        rig.put_u64(memory.at.plus(8), 0);
        rig.submit(
            &mut queue,
            &[
                Packet::Conditional { address: memory.va, reference: 1, words: 4 },
                Packet::Fence { address: memory.va + 8, value: 7 },
                Packet::Fence { address: memory.va + 16, value: value as u32 },
            ],
        );
        rig.run();
        assert_eq!(rig.get_u32(memory.at.plus(8)), expected);
        assert_eq!(rig.get_u32(memory.at.plus(16)), value as u32);
    }
}

#[test]
fn indirect_buffer_is_carried_out_before_what_follows_it() {
    let (mut rig, mut queue, memory) = set_up(PAGE);
    let code = rig.gtt(PAGE);
    let mut words = Vec::new();
    let add = |source, operation| Packet::Atomic {
        operation,
        address: memory.va,
        source,
        compare: 0,
        repeats: false,
    };
    add(5, atomic::ADD_32).encode(&mut words);
    poll(memory.va + 8, Condition::Equal, 1, 0xfff).encode(&mut words);
    add(7, atomic::ADD_32).encode(&mut words);
    words.push(NOP);
    rig.put(code.at, bytemuck::cast_slice(&words));
    let indirect = Packet::Indirect { address: code.va, words: words.len() as u32 };
    rig.submit(&mut queue, &[indirect, add(3, atomic::SUBTRACT_32)]);
    rig.run();
    assert_eq!(rig.get_u32(memory.at), 5);
    rig.put_u64(memory.at.plus(8), 1);
    rig.run();
    assert_eq!(rig.get_u32(memory.at), 9);
    assert_eq!(rig.read_pointer(&queue), queue.written);
}

#[test]
fn registers_and_host_flushes_are_passed_over() {
    let (mut rig, mut queue, memory) = set_up(PAGE);
    rig.submit(
        &mut queue,
        &[
            Packet::FlushHost { mask: 1, reference: 1 },
            Packet::WriteRegister { register: 1, value: 2, byte_mask: 0xf },
            Packet::Fence { address: memory.va, value: 1 },
        ],
    );
    assert_eq!(rig.run().packets, 3);
    assert_eq!(rig.get_u32(memory.at), 1);
}

#[test]
fn user_memory_is_read_and_written() {
    let (mut rig, mut queue, memory) = set_up(4 * PAGE);
    let address = 0x5000_0000;
    let space = rig.caller.space;
    rig.bench.world.map_user(space, address, 4 * PAGE);
    let va = rig.user(address, 4 * PAGE);
    let bytes = pattern(9000);
    rig.bench.world.write_user(space, address + 100, &bytes).expect("it is mapped");
    rig.submit(&mut queue, &[copy(va + 100, memory.va, 9000), copy(memory.va, va, 9000)]);
    assert_eq!(rig.run().faults, 0);
    let mut back = vec![0; 9000];
    rig.bench.world.read_user(space, address, &mut back).expect("it is mapped");
    assert_eq!(back, bytes);
}

#[test]
fn memory_of_another_gpu_is_reached_through_its_mapping() {
    let mut rig = Rig::new(2);
    let (near, far) = (rig.vram(0, PAGE), rig.vram(1, PAGE));
    rig.put(far.at, &[1, 2, 3, 4]);
    let mut queue = rig.sdma_queue(0);
    rig.submit(&mut queue, &[copy(far.va, near.va, 4), copy(near.va, far.va + 8, 4)]);
    rig.run();
    assert_eq!(rig.get(far.at.plus(8), 4), [1, 2, 3, 4]);
    let alone = rig.alloc_unmapped(1, PAGE, gpu_kfd::uapi::kfd::alloc::VRAM);
    rig.submit(&mut queue, &[copy(alone.va, near.va, 4)]);
    assert_eq!(rig.run().faults, 1);
}

#[test]
fn fault_takes_all_queues_of_the_process_from_the_gpu_and_no_others() {
    let mut rig = Rig::new(2);
    let memory = rig.gtt(PAGE);
    let mut queues = [rig.sdma_queue(0), rig.sdma_queue(0), rig.sdma_queue(1)];
    let wild = copy(memory.va, 0x6000_0000, 16);
    rig.submit(&mut queues[0], &[wild]);
    assert_eq!(rig.run().faults, 1);
    for (queue, value) in queues.iter_mut().zip(1..) {
        let fence = Packet::Fence { address: memory.va + u64::from(value) * 8, value };
        rig.submit(queue, &[fence]);
    }
    let progress = rig.run();
    assert_eq!((progress.faults, progress.packets), (0, 1));
    let fences = [1, 2, 3].map(|value| rig.get_u32(memory.at.plus(value * 8)));
    assert_eq!(fences, [0, 0, 3]);
}

#[test]
fn copy_that_runs_off_the_end_of_its_buffer_is_done_up_to_there() {
    let (mut rig, mut queue, memory) = set_up(2 * PAGE);
    let source = rig.gtt(4 * PAGE);
    rig.put(source.at, &pattern(4 * PAGE as usize));
    rig.submit(&mut queue, &[copy(source.va, memory.va, 3 * PAGE)]);
    assert_eq!(rig.run().faults, 1);
    assert_eq!(rig.get(memory.at, 2 * PAGE as usize), pattern(2 * PAGE as usize));
}

#[test]
fn packet_that_no_engine_knows_hangs_its_queue_and_tells_the_process() {
    let (mut rig, mut queue, memory) = set_up(PAGE);
    let (exception, _) = rig.event(event::HW_EXCEPTION, true);
    let ticket = rig.park(&[exception], false, TIMEOUT_NONE);
    let mut other = rig.sdma_queue(0);
    rig.put(queue.ring.at, &[0xff; 64]);
    queue.written = 64;
    rig.ring(&queue);
    assert_eq!(rig.run().faults, 1);
    let (finished, _) = rig.finished().expect("the process is told");
    assert_eq!((finished.ticket, finished.result), (ticket, Ok(0)));
    rig.submit(&mut queue, &[Packet::Fence { address: memory.va, value: 1 }]);
    rig.submit(&mut other, &[Packet::Fence { address: memory.va + 8, value: 1 }]);
    assert_eq!(rig.run().packets, 1);
    assert_eq!((rig.get_u32(memory.at), rig.get_u32(memory.at.plus(8))), (0, 1));
}

#[test]
fn jumps_to_nowhere_hang_the_queue() {
    let (mut rig, mut queue, memory) = set_up(PAGE);
    let beyond = Packet::Conditional { address: memory.va, reference: 1, words: 2 };
    rig.submit(&mut queue, &[beyond, Packet::Nop { skipped: 0 }]);
    assert_eq!(rig.run().faults, 1);
    let mut queue = rig.sdma_queue(0);
    let mut words = Vec::new();
    Packet::Indirect { address: memory.va + 64, words: 1 }.encode(&mut words);
    rig.put(memory.at, bytemuck::cast_slice(&words));
    let nested = Packet::Indirect { address: memory.va, words: words.len() as u32 };
    rig.submit(&mut queue, &[nested]);
    assert_eq!(rig.run().faults, 1);
}

#[test]
fn doorbell_out_of_reach_hangs_the_queue() {
    for written in [u64::from(RING_BYTES) + 4, 3, u64::MAX - 3] {
        let (mut rig, queue, _) = set_up(PAGE);
        rig.run();
        rig.put_u64(queue.doorbell, written);
        assert_eq!(rig.run().faults, 1, "{written:#x}");
        assert_eq!(rig.run().faults, 0);
    }
}

#[test]
fn budget_bounds_bytes_and_packets_and_work_goes_on() {
    let (mut rig, mut queue, memory) = set_up(8 << 20);
    rig.put(memory.at, &[0x5a; 1 << 20]);
    rig.submit(&mut queue, &[copy(memory.va, memory.va + (4 << 20), 1 << 20)]);
    let mut steps = 0;
    let budget = 100 << 10;
    loop {
        let progress = rig.bench.model.run_queues(&mut rig.bench.world, budget);
        assert!(progress.bytes <= budget + (64 << 10), "{progress:?}");
        steps += 1;
        if !progress.more {
            break;
        }
    }
    assert!((8..=12).contains(&steps), "{steps}");
    assert_eq!(rig.get(memory.at.plus(5 << 20), 1), [0]);
    assert_eq!(rig.get(memory.at.plus((5 << 20) - 1), 1), [0x5a]);
    rig.submit(&mut queue, &vec![Packet::Nop { skipped: 0 }; 900]);
    let progress = rig.bench.model.run_queues(&mut rig.bench.world, 6400);
    assert_eq!((progress.packets, progress.more), (100, true));
    assert_eq!(rig.run().packets, 800);
}

#[test]
fn queues_take_turns() {
    let mut rig = Rig::new(1);
    let memory = rig.vram(0, 32 << 20);
    let mut queues = [rig.sdma_queue(0), rig.sdma_queue(0), rig.sdma_queue(0)];
    for (queue, base) in queues.iter_mut().zip([0, 8, 16]) {
        let at = memory.va + (base << 20);
        rig.submit(queue, &[copy(at, at + (4 << 20), 4 << 20)]);
    }
    for _ in 0..3 {
        rig.bench.model.run_queues(&mut rig.bench.world, 6 << 20);
    }
    let done = queues.map(|queue| rig.read_pointer(&queue));
    assert_eq!(done, [28; 3]);
    assert!(!rig.run().more);
}

#[test]
fn endless_packets_of_one_queue_do_not_hold_up_another() {
    let mut rig = Rig::new(1);
    let memory = rig.vram(0, 16 << 20);
    let mut busy = rig.sdma_queue(0);
    let mut other = rig.sdma_queue(0);
    rig.submit(&mut busy, &vec![copy(memory.va, memory.va + (8 << 20), 4 << 20); 100]);
    rig.submit(&mut other, &[Packet::Fence { address: memory.va + (15 << 20), value: 1 }]);
    let progress = rig.bench.model.run_queues(&mut rig.bench.world, 3 << 20);
    assert!(progress.more);
    assert_eq!(rig.get_u32(memory.at.plus(15 << 20)), 1);
}

#[test]
fn ended_process_leaves_no_queue_behind() {
    let (mut rig, mut queue, memory) = set_up(PAGE);
    rig.submit(&mut queue, &[Packet::Fence { address: memory.va, value: 1 }]);
    let caller = rig.caller;
    rig.bench.end(&caller);
    let progress = rig.run();
    assert_eq!((progress.packets, progress.listening), (0, false));
}

#[test]
fn wait_that_a_trap_ends_answers_after_the_read_pointer_is_written() {
    let mut rig = Rig::new(1);
    let (id, slot) = rig.event_with_page();
    let mut queue = rig.sdma_queue(0);
    for round in 1..=3 {
        let Outcome::Later(_) = rig.wait(&[id], false, 1000).0 else {
            panic!("round {round}: nothing has happened yet");
        };
        let fence = Packet::Fence { address: slot, value: id };
        rig.submit(&mut queue, &[fence, Packet::Trap { context: id }]);
        rig.run();
        assert_eq!(rig.finished().expect("it is over").0.result, Ok(0));
        assert_eq!(rig.read_pointer(&queue), queue.written);
    }
}
