//! AQL queues: barriers, signals, built-in kernels.

use gpu_kfd::uapi::aql::{
    Barrier, BarrierValue, FORMAT_BARRIER_VALUE, FORMAT_PM4_INDIRECT, Header, KernelDispatch,
    PacketType, Signal,
};
use gpu_kfd::uapi::events::{TIMEOUT_NONE, event};
use kfd_emulator::{BuiltinKernel, PagesAt};

use crate::rig::{Memory, PAGE, Queue, RING_BYTES, Rig};

fn header(kind: PacketType) -> u16 {
    Header { kind, barrier: true, acquire_scope: 2, release_scope: 2 }.bits()
}

fn barrier(kind: PacketType, signals: &[u64], completion_signal: u64) -> Barrier {
    let mut dep_signals = [0; 5];
    dep_signals[..signals.len()].copy_from_slice(signals);
    Barrier { header: header(kind), dep_signals, completion_signal, ..Default::default() }
}

/// A rig with an AQL queue, and a page of signals of 64 bytes each.
struct Bed {
    rig: Rig,
    queue: Queue,
    signals: Memory,
}

impl Bed {
    fn new() -> Self {
        let mut rig = Rig::new(1);
        let queue = rig.aql_queue(0);
        let signals = rig.gtt(PAGE);
        let mut bed = Self { rig, queue, signals };
        for index in 0..16 {
            bed.set(index, 1);
        }
        bed
    }

    fn signal(&self, index: u64) -> u64 {
        self.signals.va + index * 64
    }

    fn value_at(&self, index: u64) -> PagesAt {
        self.signals.at.plus(index * 64 + 8)
    }

    fn set(&mut self, index: u64, value: i64) {
        let at = self.value_at(index);
        self.rig.put_u64(at, value as u64);
    }

    fn value(&mut self, index: u64) -> i64 {
        let at = self.value_at(index);
        self.rig.get_u64(at) as i64
    }

    fn submit<T: bytemuck::Pod>(&mut self, packet: T) {
        self.rig.submit_aql(&mut self.queue, &[packet]);
    }

    fn run(&mut self) -> u64 {
        self.rig.run().packets
    }
}

#[test]
fn barrier_without_signals_is_over_at_once_and_frees_its_place() {
    let mut bed = Bed::new();
    let signal = bed.signal(0);
    bed.submit(barrier(PacketType::BarrierAnd, &[], signal));
    assert_eq!(bed.run(), 1);
    assert_eq!(bed.value(0), 0);
    assert_eq!(bed.rig.read_pointer(&bed.queue), 1);
    assert_eq!(bed.rig.get(bed.queue.ring.at, 2), [1, 0]);
    bed.submit(barrier(PacketType::BarrierOr, &[], signal));
    assert_eq!(bed.run(), 1);
    assert_eq!(bed.value(0), -1);
}

#[test]
fn barrier_and_waits_for_all() {
    let mut bed = Bed::new();
    let (first, second, done) = (bed.signal(1), bed.signal(2), bed.signal(0));
    bed.submit(barrier(PacketType::BarrierAnd, &[first, 0, second], done));
    assert_eq!(bed.run(), 0);
    bed.set(2, 0);
    assert_eq!(bed.run(), 0);
    bed.set(1, 0);
    assert_eq!(bed.run(), 1);
    assert_eq!(bed.value(0), 0);
}

#[test]
fn barrier_or_waits_for_one() {
    let mut bed = Bed::new();
    let (first, second, done) = (bed.signal(1), bed.signal(2), bed.signal(0));
    bed.submit(barrier(PacketType::BarrierOr, &[first, second], done));
    assert_eq!(bed.run(), 0);
    bed.set(2, 0);
    assert_eq!(bed.run(), 1);
    assert_eq!(bed.value(0), 0);
}

#[test]
fn barrier_on_a_value_compares_behind_a_mask() {
    for (condition, value, now, holds) in [
        (0, 5, 0x105, true),
        (0, 5, 6, false),
        (1, 5, 6, true),
        (1, 5, 5, false),
        (2, 5, 4, true),
        (2, 5, 5, false),
        (3, 5, 5, true),
        (3, 5, 4, false),
    ] {
        let mut bed = Bed::new();
        bed.set(1, now);
        let packet = BarrierValue {
            header: header(PacketType::VendorSpecific),
            format: FORMAT_BARRIER_VALUE,
            signal: bed.signal(1),
            value,
            mask: 0xff,
            condition,
            completion_signal: bed.signal(0),
            ..Default::default()
        };
        bed.submit(packet);
        assert_eq!(bed.run(), u64::from(holds), "{condition} {value} {now}");
    }
}

#[test]
fn completed_packet_signals_through_the_mailbox() {
    let mut bed = Bed::new();
    let (id, slot) = bed.rig.event_with_page();
    let signal =
        Signal { kind: 1, value: 1, event_mailbox_ptr: slot, event_id: id, ..Default::default() };
    bed.rig.put(bed.signals.at, bytemuck::bytes_of(&signal));
    bed.rig.bench.world.advance_ns(1000);
    bed.rig.park(&[id], false, TIMEOUT_NONE);
    let done = bed.signal(0);
    bed.submit(barrier(PacketType::BarrierAnd, &[], done));
    bed.run();
    assert_eq!(bed.rig.finished().expect("it is over").0.result, Ok(0));
    let bytes = bed.rig.get(bed.signals.at, 64);
    let now: Signal = bytemuck::pod_read_unaligned(&bytes);
    assert_eq!((now.value, now.start_ts, now.end_ts), (0, 100, 100));
}

#[test]
fn packet_that_is_not_written_yet_holds_up_those_behind_it() {
    let mut bed = Bed::new();
    let done = bed.signal(0);
    let packet = barrier(PacketType::BarrierAnd, &[], done);
    // A second producer is faster than the first.
    bed.rig.put(bed.queue.ring.at.plus(64), bytemuck::bytes_of(&packet));
    bed.rig.put_u64(bed.queue.pointers.at, 2);
    bed.rig.put_u64(bed.queue.doorbell, 1);
    assert_eq!(bed.run(), 0);
    bed.rig.put(bed.queue.ring.at, bytemuck::bytes_of(&packet));
    bed.rig.put_u64(bed.queue.doorbell, 0);
    assert_eq!(bed.run(), 2);
    assert_eq!(bed.value(0), -1);
}

#[test]
fn ring_goes_round_and_producers_may_run_ahead() {
    let mut bed = Bed::new();
    let packets = u64::from(RING_BYTES) / 64;
    let done = bed.signal(0);
    bed.set(0, 0);
    for round in 1..=3 * packets as i64 {
        bed.submit(barrier(PacketType::BarrierAnd, &[], done));
        assert_eq!(bed.run(), 1);
        assert_eq!(bed.value(0), -round);
    }
    let ahead = bed.queue.written + packets + 5;
    bed.rig.put_u64(bed.queue.pointers.at, ahead);
    bed.rig.put_u64(bed.queue.doorbell, ahead - 1);
    let progress = bed.rig.run();
    assert_eq!((progress.packets, progress.faults, progress.more), (0, 0, false));
}

fn dispatch(bed: &mut Bed, kernel: BuiltinKernel, arguments: &[u64]) {
    let code = bed.rig.gtt(PAGE);
    let kernarg = bed.rig.gtt(PAGE);
    bed.rig.put(code.at, &kernel.descriptor());
    bed.rig.put(kernarg.at, bytemuck::cast_slice(arguments));
    let packet = KernelDispatch {
        header: header(PacketType::KernelDispatch),
        setup: 1,
        workgroup_size: [64, 1, 1],
        grid_size: [64, 1, 1],
        kernel_object: code.va,
        kernarg_address: kernarg.va,
        completion_signal: bed.signal(0),
        ..Default::default()
    };
    bed.submit(packet);
}

#[test]
fn builtin_kernels_compute() {
    let mut bed = Bed::new();
    let memory = bed.rig.vram(0, 1 << 20);
    let (a, b, c) = (memory.va, memory.va + (256 << 10), memory.va + (512 << 10));
    let bytes = 200_000_u64;
    dispatch(&mut bed, BuiltinKernel::Fill, &[a, 0xffff_fff0, bytes]);
    dispatch(&mut bed, BuiltinKernel::Copy, &[b, a, bytes]);
    dispatch(&mut bed, BuiltinKernel::Add, &[c, a, b, bytes]);
    let progress = bed.rig.run();
    assert_eq!((progress.packets, progress.bytes), (3, 3 * bytes));
    assert_eq!(bed.value(0), -2);
    let sum = bed.rig.get(memory.at.plus(512 << 10), bytes as usize + 4);
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(&sum);
    assert!(words[..50_000].iter().all(|word| *word == 0xffff_ffe0));
    assert_eq!(words[50_000], 0);
}

#[test]
fn kernel_goes_on_where_the_budget_ended() {
    let mut bed = Bed::new();
    let memory = bed.rig.vram(0, 4 << 20);
    dispatch(&mut bed, BuiltinKernel::Fill, &[memory.va, 7, 1 << 20]);
    let mut calls = 0;
    while bed.value(0) == 1 {
        bed.rig.bench.model.run_queues(&mut bed.rig.bench.world, 100_000);
        calls += 1;
    }
    assert!((8..=12).contains(&calls), "{calls}");
    assert_eq!(bed.rig.get_u64(memory.at.plus((1 << 20) - 4)), 7);
}

#[test]
fn code_that_cannot_be_run_is_a_hardware_exception() {
    let mut bed = Bed::new();
    let (exception, _) = bed.rig.event(event::HW_EXCEPTION, true);
    bed.rig.park(&[exception], false, TIMEOUT_NONE);
    let code = bed.rig.gtt(PAGE);
    let packet = KernelDispatch {
        header: header(PacketType::KernelDispatch),
        kernel_object: code.va,
        ..Default::default()
    };
    bed.submit(packet);
    assert_eq!(bed.rig.run().faults, 1);
    assert_eq!(bed.rig.finished().expect("the process is told").0.result, Ok(0));
    let done = bed.signal(0);
    bed.submit(barrier(PacketType::BarrierAnd, &[], done));
    assert_eq!(bed.run(), 0);
}

#[test]
fn kernel_that_touches_what_is_not_mapped_is_a_memory_exception() {
    let mut bed = Bed::new();
    let (memory, _) = bed.rig.event(event::MEMORY, true);
    bed.rig.park(&[memory], false, TIMEOUT_NONE);
    dispatch(&mut bed, BuiltinKernel::Fill, &[0x7000_1000, 7, 100]);
    assert_eq!(bed.rig.run().faults, 1);
    assert!(bed.rig.finished().is_some());
    assert_eq!(bed.rig.answer(0)[2], 0x7000_1000);
    assert_eq!(bed.value(0), 1);
}

#[test]
fn packets_that_only_a_host_serves_and_unknown_ones_hang_the_queue() {
    for bits in [header(PacketType::AgentDispatch), 6, header(PacketType::VendorSpecific)] {
        let mut bed = Bed::new();
        bed.submit(Barrier { header: bits, ..Default::default() });
        assert_eq!(bed.rig.run().faults, 1, "{bits:#x}");
    }
}

/// A vendor's packet that points to commands in PM4.
fn pm4(bed: &mut Bed, words: &[u32]) {
    let code = bed.rig.gtt(PAGE);
    bed.rig.put(code.at, bytemuck::cast_slice(words));
    let mut packet = [0_u32; 16];
    packet[0] =
        u32::from(header(PacketType::VendorSpecific)) | u32::from(FORMAT_PM4_INDIRECT) << 16;
    packet[1] = 0xc002_3f00;
    packet[2] = code.va as u32;
    packet[3] = (code.va >> 32) as u32;
    packet[4] = words.len() as u32 | 1 << 23;
    let signal = bed.signal(0);
    packet[14] = signal as u32;
    packet[15] = (signal >> 32) as u32;
    bed.submit(packet);
}

const fn type_3(operation: u32, body_words: u32) -> u32 {
    3 << 30 | (body_words - 1) << 16 | operation << 8
}

#[test]
fn commands_in_pm4_write_wait_and_flush() {
    let mut bed = Bed::new();
    let memory = bed.rig.gtt(PAGE);
    let (low, high) = (memory.va as u32, (memory.va >> 32) as u32);
    let words = [
        type_3(0x58, 6),
        0,
        0,
        0,
        0,
        0,
        0,
        type_3(0x37, 5),
        5 << 8,
        low,
        high,
        11,
        12,
        type_3(0x3c, 6),
        3 | 1 << 4,
        low + 16,
        high,
        5,
        0xff,
        4,
        type_3(0x49, 7),
        0,
        2 << 29,
        low + 8,
        high,
        13,
        14,
        0,
        0xffff_1000,
    ];
    pm4(&mut bed, &words);
    bed.run();
    assert_eq!(bed.rig.get_u64(memory.at), 12 << 32 | 11);
    assert_eq!(bed.value(0), 1);
    bed.rig.put_u64(memory.at.plus(16), 5);
    bed.run();
    assert_eq!(bed.rig.get_u64(memory.at.plus(8)), 14 << 32 | 13);
    assert_eq!(bed.value(0), 0);
    pm4(&mut bed, &[type_3(0x15, 4), 1, 1, 1, 1]);
    assert_eq!(bed.rig.run().faults, 1);
}
