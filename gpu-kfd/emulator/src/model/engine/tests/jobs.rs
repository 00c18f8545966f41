//! Jobs of render nodes: carried out in the order of their row, whatever they touch.

use gpu_kfd::uapi::sdma::{Condition, Packet};
use nix::errno::Errno;

use super::{BUDGET_BYTES, Bed, Buffer, PAGE, words};
use crate::model::engine::{IndirectBuffer, Job};
use crate::model::world::World;

fn job(bed: &mut Bed, context: u32, sequence: u64, packets: &[Packet]) -> Job {
    let words = words(packets);
    let code = bed.buffer(words.len() as u64 * 4);
    bed.world.write_pages(code.at, bytemuck::cast_slice(&words));
    Job {
        file: bed.render,
        context,
        sequence,
        buffers: vec![IndirectBuffer { va: code.va, len_bytes: words.len() as u64 * 4 }],
        user_fence: None,
        after: Vec::new(),
    }
}

fn fence(buffer: Buffer, value: u32) -> Packet {
    Packet::Fence { address: buffer.va, value }
}

fn poll(buffer: Buffer) -> Packet {
    Packet::PollMemory {
        address: buffer.va,
        condition: Condition::Equal,
        reference: 1,
        mask: 1,
        interval: 1,
        retries: 0xfff,
    }
}

#[test]
fn jobs_of_a_row_end_in_order_and_rows_apart_from_each_other() {
    let mut bed = Bed::new();
    let (gate, target) = (bed.buffer(PAGE), bed.buffer(PAGE));
    let file = bed.render;
    let jobs = [
        job(&mut bed, 1, 1, &[poll(gate), fence(target, 1)]),
        job(&mut bed, 1, 2, &[fence(target, 2)]),
        job(&mut bed, 2, 1, &[fence(target, 3)]),
    ];
    for job in jobs {
        assert_eq!(bed.model.engines.submit(job), Ok(()));
    }
    bed.run();
    let over = |bed: &Bed, row, sequence| bed.model.engines.is_over(file, row, sequence);
    assert!(!over(&bed, 1, 1) && over(&bed, 2, 1));
    assert_eq!(bed.get_u64(target.at), 3);
    bed.put_u64(gate.at, 1);
    bed.run();
    assert!(over(&bed, 1, 1) && over(&bed, 1, 2));
    assert_eq!(bed.get_u64(target.at), 2);
}

#[test]
fn job_comes_after_those_that_it_names() {
    let mut bed = Bed::new();
    let (gate, target) = (bed.buffer(PAGE), bed.buffer(PAGE));
    let first = job(&mut bed, 1, 5, &[poll(gate)]);
    let second = job(&mut bed, 2, 1, &[fence(target, 9)]);
    let second = Job { after: vec![(1, 5)], ..second };
    assert_eq!(bed.model.engines.submit(second), Ok(()));
    assert_eq!(bed.model.engines.submit(first), Ok(()));
    bed.run();
    assert_eq!(bed.get_u64(target.at), 0);
    bed.put_u64(gate.at, 1);
    bed.run();
    assert_eq!(bed.get_u64(target.at), 9);
}

#[test]
fn user_fence_is_written_at_the_end() {
    let mut bed = Bed::new();
    let target = bed.buffer(PAGE);
    let number = target.handle as u32;
    let device = bed.model.processes[&bed.caller.space].device(super::GPU_ID).expect("one");
    let buffer = device.bos.get(number).expect("it is there").buffer;
    let plain = job(&mut bed, 1, 42, &[Packet::Nop { skipped: 3 }]);
    let job = Job { user_fence: Some((buffer, 16)), ..plain };
    assert_eq!(bed.model.engines.submit(job), Ok(()));
    bed.run();
    assert_eq!(bed.get_u64(target.at.plus(16)), 42);
}

/// A copy that is one byte too long, as CRIU's plugin makes them, does all but that byte.
#[test]
fn job_that_runs_over_the_end_of_a_buffer_does_the_rest() {
    let mut bed = Bed::new();
    let (from, to) = (bed.buffer(2 * PAGE), bed.buffer(2 * PAGE));
    bed.world.write_pages(from.at, &[7; 2 * PAGE as usize]);
    let copy = Packet::CopyLinear { source: from.va, destination: to.va, bytes: 2 * PAGE + 1 };
    let job = job(&mut bed, 1, 1, &[copy, fence(from, 5)]);
    let file = job.file;
    assert_eq!(bed.model.engines.submit(job), Ok(()));
    let progress = bed.model.run_queues(&mut bed.world, BUDGET_BYTES);
    assert_eq!(progress.faults, 2);
    let mut copied = [0; 2 * PAGE as usize];
    bed.world.read_pages(to.at, &mut copied);
    assert_eq!(copied, [7; 2 * PAGE as usize]);
    assert_eq!(bed.get_u64(from.at) as u32, 5);
    assert!(bed.model.engines.is_over(file, 1, 1));
    assert_eq!(bed.model.engines.error_of(file, 1, 1), None);
}

#[test]
fn job_with_unknown_packets_fails_and_its_row_takes_no_more() {
    let mut bed = Bed::new();
    let bad = job(&mut bed, 1, 1, &[Packet::Nop { skipped: 1 }]);
    let code = bad.buffers[0].va;
    let place = bed.buffer_of(code);
    bed.world.write_pages(place, &[0xff; 8]);
    let next = job(&mut bed, 1, 2, &[Packet::Nop { skipped: 0 }]);
    let file = bad.file;
    assert_eq!(bed.model.engines.submit(bad), Ok(()));
    assert_eq!(bed.model.run_queues(&mut bed.world, BUDGET_BYTES).faults, 1);
    assert!(bed.model.engines.is_over(file, 1, 1));
    assert_eq!(bed.model.engines.error_of(file, 1, 1), Some(Errno::ETIME));
    assert_eq!(bed.model.engines.submit(next), Err(Errno::ECANCELED));
}

#[test]
fn jobs_of_a_closed_file_are_dropped() {
    let mut bed = Bed::new();
    let gate = bed.buffer(PAGE);
    let job = job(&mut bed, 1, 1, &[poll(gate)]);
    let file = job.file;
    assert_eq!(bed.model.engines.submit(job), Ok(()));
    bed.run();
    bed.model.release(&mut bed.world, file);
    bed.put_u64(gate.at, 1);
    assert_eq!(bed.run(), 0);
    assert_eq!(bed.get_u64(gate.at), 1, "and nothing waits for the gate");
    assert!(!bed.model.has_queues());
}

impl Bed {
    /// Where the buffer at an address has its pages.
    fn buffer_of(&self, va: u64) -> crate::model::world::PagesAt {
        let file = self.model.files.render(self.render).expect("it is open");
        let mapping = file.vm.get(va).expect("it is mapped");
        self.model.memory.buffer(mapping.buffer).at
    }
}
