//! Rings full of anything: engines never panic, never run without end, never leave their memory.

use gpu_kfd::uapi::sdma::{Condition, FillUnit, Packet, TRANSFER_BYTES_MAX, atomic};
use kfd_emulator::{BuiltinKernel, PagesAt, Store};
use proptest::prelude::*;

use crate::rig::{Memory, PAGE, Queue, RING_BYTES, Rig};

const BUDGET_BYTES: u64 = 2 << 20;
/// What one call may go beyond its budget by: a step of every queue.
const SLACK_BYTES: u64 = 256 << 10;
/// A packet costs at least this much of the budget.
const PACKET_COST_BYTES: u64 = 64;

/// An address: mostly one that is mapped.
fn address(memory: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        30 => (0..0x1f00u64).prop_map(move |word| memory + word * 4),
        1 => (0..0x4000u64).prop_map(move |word| memory + word * 4),
        1 => any::<u64>(),
    ]
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![20 => 1..0x100u64, 1 => 1..=TRANSFER_BYTES_MAX]
}

/// A packet as an engine takes it, with any operands.
fn packet(memory: u64) -> impl Strategy<Value = Packet> {
    let at = move || address(memory);
    let units = prop_oneof![Just(FillUnit::Byte), Just(FillUnit::Half), Just(FillUnit::Word)];
    let conditions = prop_oneof![
        8 => Just(Condition::Always),
        1 => Just(Condition::Equal),
        2 => Just(Condition::GreaterOrEqual),
    ];
    let operations = prop_oneof![
        Just(atomic::ADD_32),
        Just(atomic::SWAP_64),
        Just(atomic::COMPARE_SWAP_32),
        Just(atomic::SUBTRACT_64),
    ];
    prop_oneof![
        2 => (0..20u32).prop_map(|skipped| Packet::Nop { skipped }),
        4 => (at(), at(), size()).prop_map(|(source, destination, bytes)| {
            Packet::CopyLinear { source, destination, bytes }
        }),
        2 => (at(), prop::collection::vec(any::<u32>(), 1..30))
            .prop_map(|(destination, words)| Packet::Write { destination, words }),
        2 => (at(), any::<u32>(), units, size()).prop_map(|(destination, value, unit, bytes)| {
            Packet::Fill { destination, value, unit, bytes }
        }),
        2 => (at(), any::<u32>()).prop_map(|(address, value)| Packet::Fence { address, value }),
        1 => (0..1u32 << 28).prop_map(|context| Packet::Trap { context }),
        1 => (0..0x300u64, 0..100u32).prop_map(move |(place, words)| {
            Packet::Indirect { address: memory + place * 32, words }
        }),
        1 => (at(), conditions, any::<u32>()).prop_map(|(address, condition, reference)| {
            Packet::PollMemory { address, condition, reference, mask: 1, interval: 0, retries: 2 }
        }),
        1 => (at(), 0..3u32, 0..9u32).prop_map(|(address, reference, words)| {
            Packet::Conditional { address, reference, words }
        }),
        2 => (operations, at(), any::<u64>(), 0..3u64).prop_map(
            |(operation, address, source, compare)| {
                Packet::Atomic { operation, address, source, compare, repeats: false }
            }
        ),
        1 => at().prop_map(|address| Packet::Timestamp { address }),
    ]
}

/// Packets in a row, and now and then a word that belongs to none.
fn stream(memory: u64, packets: usize) -> impl Strategy<Value = Vec<u32>> {
    let part = prop_oneof![
        60 => packet(memory).prop_map(|packet| {
            let mut words = Vec::new();
            packet.encode(&mut words);
            words
        }),
        1 => prop::collection::vec(any::<u32>(), 1..3),
    ];
    prop::collection::vec(part, packets).prop_map(|parts| parts.concat())
}

/// In the memory of the AQL ring: descriptors of kernels from 0 on, then arguments, then signals.
const KERNARGS_AT: u64 = 0x4000;
const SIGNALS_AT: u64 = 0x6000;

/// Arguments that suit copies and fills, mostly.
fn kernarg(memory: u64) -> impl Strategy<Value = [u64; 4]> {
    let at = || {
        prop_oneof![
            40 => (SIGNALS_AT..0x7f00).prop_map(move |offset| memory + offset),
            1 => any::<u64>(),
        ]
    };
    let bytes = prop_oneof![40 => 0..0x100u64, 1 => any::<u64>()];
    (at(), at(), bytes).prop_map(|(to, from, bytes)| [to, from, bytes, bytes])
}

/// An AQL packet with operands that make sense, mostly.
fn aql_packet(memory: u64) -> impl Strategy<Value = [u64; 8]> {
    let kind = prop_oneof![20 => Just(2u64), 10 => Just(3), 10 => Just(5), 1 => 0..8u64];
    let place = |from: u64, end: u64, step: u64| {
        prop_oneof![
            30 => (from / step..end / step).prop_map(move |place| memory + place * step),
            1 => Just(0),
            1 => any::<u64>(),
        ]
    };
    let signal = move || place(SIGNALS_AT, 0x7fc0, 64);
    let code = place(0, KERNARGS_AT, 64);
    let kernarg = place(KERNARGS_AT, SIGNALS_AT, 32);
    (kind, any::<u8>(), signal(), signal(), code, kernarg, signal()).prop_map(
        |(kind, flags, first, second, code, kernarg, done)| {
            let header = kind | u64::from(flags) << 8;
            let is_dispatch = kind == 2;
            let [fourth, fifth] = if is_dispatch { [code, kernarg] } else { [first, second] };
            [header, if is_dispatch { 0 } else { first }, 0, 0, fourth, fifth, 0, done]
        },
    )
}

fn set_up(aql: bool) -> (Rig, Queue, Memory) {
    let mut rig = Rig::new(1);
    let queue = if aql { rig.aql_queue(0) } else { rig.sdma_queue(0) };
    let memory = rig.gtt(0x8000);
    (rig, queue, memory)
}

/// Addresses of a rig's buffers do not depend on chance.
fn memory_va(aql: bool) -> u64 {
    set_up(aql).2.va
}

fn run_bounded(rig: &mut Rig) -> Result<(), TestCaseError> {
    for _ in 0..4 {
        let progress = rig.bench.model.run_queues(&mut rig.bench.world, BUDGET_BYTES);
        prop_assert!(progress.bytes <= BUDGET_BYTES + SLACK_BYTES, "{progress:?}");
        let packets_max = (BUDGET_BYTES + SLACK_BYTES) / PACKET_COST_BYTES;
        prop_assert!(progress.packets <= packets_max, "{progress:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_sdma_ring_is_survived(
        rings in prop::collection::vec(stream(memory_va(false), 90), 3),
        code in stream(memory_va(false), 200),
        doorbells in prop::collection::vec(prop_oneof![
            6 => (0..=u64::from(RING_BYTES) / 4).prop_map(|words| words * 4),
            1 => any::<u64>(),
        ], 1..4),
    ) {
        let (mut rig, first, memory) = set_up(false);
        let queues = [first, rig.sdma_queue(0), rig.sdma_queue(0)];
        let code: Vec<u32> = code.into_iter().take(0x6000 / 4).collect();
        rig.put(memory.at, bytemuck::cast_slice(&code));
        for (queue, words) in queues.iter().zip(rings) {
            let words: Vec<u32> = words.into_iter().take(RING_BYTES as usize / 4).collect();
            rig.put(queue.ring.at, bytemuck::cast_slice(&words));
        }
        for doorbell in doorbells {
            queues.iter().for_each(|queue| rig.put_u64(queue.doorbell, doorbell));
            run_bounded(&mut rig)?;
        }
    }

    #[test]
    fn any_words_are_survived(words in prop::collection::vec(any::<u32>(), 1024)) {
        let (mut rig, queue, _) = set_up(false);
        rig.put(queue.ring.at, bytemuck::cast_slice(&words));
        rig.put_u64(queue.doorbell, u64::from(RING_BYTES));
        run_bounded(&mut rig)?;
    }

    #[test]
    fn any_aql_ring_is_survived(
        packets in prop::collection::vec(aql_packet(memory_va(true)), RING_BYTES as usize / 64),
        kernargs in prop::collection::vec(kernarg(memory_va(true)), 256),
        write in prop_oneof![3 => 1..100u64, 1 => any::<u64>()],
    ) {
        let (mut rig, queue, memory) = set_up(true);
        for (index, words) in packets.iter().enumerate() {
            let at = queue.ring.at.plus(index as u64 * 64);
            rig.put(at, bytemuck::cast_slice(words));
        }
        for place in 0..KERNARGS_AT / 64 {
            let kernel = match place % 16 {
                0 => BuiltinKernel::Add,
                1..8 => BuiltinKernel::Copy,
                _ => BuiltinKernel::Fill,
            };
            rig.put(memory.at.plus(place * 64), &kernel.descriptor());
        }
        rig.put(memory.at.plus(KERNARGS_AT), bytemuck::cast_slice(&kernargs));
        rig.put_u64(queue.pointers.at, write);
        rig.put_u64(queue.doorbell, 0);
        run_bounded(&mut rig)?;
    }

    #[test]
    fn good_packets_in_any_order_write_nothing_but_their_targets(
        places in prop::collection::vec((0..0x3000u64, 0..0x3000u64, 1..0x1000u64), 1..20),
    ) {
        let (mut rig, mut queue, memory) = set_up(false);
        rig.put(memory.at, &[0x11; 0x8000]);
        for (from, to, bytes) in &places {
            let (source, destination) = (memory.va + from, memory.va + 0x4000 + to);
            rig.submit(&mut queue, &[Packet::CopyLinear { source, destination, bytes: *bytes }]);
        }
        rig.run();
        prop_assert_eq!(rig.read_pointer(&queue), queue.written);
        prop_assert_eq!(rig.get(memory.at, 0x8000), vec![0x11; 0x8000]);
        let behind = PagesAt { store: memory.at.store, offset: memory.at.offset + 0x8000 };
        prop_assert_ne!(behind.store, Store::Kfd);
        prop_assert_eq!(rig.get(behind, PAGE as usize), vec![0; PAGE as usize]);
    }
}
