//! A queue of a GPU's copy engine that is given work in rounds, each of which ends with an event.

use gpu_kfd::uapi::events::{CreateEventArgs, EventData, event};
use gpu_kfd::uapi::kfd::{CreateQueueArgs, alloc, queue_type};
use gpu_kfd::uapi::sdma::{FillUnit, Packet, TRANSFER_BYTES_MAX};
use gpu_kfd::{KfdFd, Waited};

use super::Result;
use super::memory::Mapping;
use super::process::{KfdMemory, Process};

const RING_BYTES: u64 = 64 << 10;
/// Slots of signal events (`KFD_SIGNAL_EVENT_LIMIT`), 8 bytes each.
const EVENT_PAGE_BYTES: u64 = 4096 * 8;
/// Longest wait for a GPU: a round takes milliseconds.
const WAIT_MS: u32 = 20_000;

/// Where words stand in the control page of a queue.
const READ_POINTER: u64 = 0;
const WRITE_POINTER: u64 = 64;
const FENCE: u64 = 128;

/// The page of event slots of a process.
pub(crate) struct Signals {
    page: KfdMemory,
    is_new: bool,
    /// GPUs that have the page mapped.
    gpus: Vec<usize>,
}

impl Signals {
    pub(crate) fn new(process: &mut Process, gpu: usize) -> Result<Self> {
        let page = process.kfd_memory(gpu, alloc::GTT, EVENT_PAGE_BYTES)?;
        Ok(Self { page, is_new: true, gpus: vec![gpu] })
    }

    /// Lets the engines of one more GPU raise events.
    fn map(&mut self, process: &mut Process, gpu: usize) -> Result<()> {
        if !self.gpus.contains(&gpu) {
            let id = process.gpus[gpu].id;
            process.kfd()?.map_memory(self.page.handle, &[id])?;
            self.gpus.push(gpu);
        }
        Ok(())
    }
}

/// A queue and what its rounds need.
pub(crate) struct Queue {
    pub(crate) gpu: usize,
    ring: KfdMemory,
    control: KfdMemory,
    source: KfdMemory,
    copy: KfdMemory,
    size_bytes: u64,
    doorbell: u64,
    /// Bytes put into the ring so far.
    written: u64,
    event_id: u32,
    slot: u64,
}

impl Queue {
    /// Doorbells of a process on a GPU (GFX9).
    pub(crate) const DOORBELL_BYTES: u64 = 8192;

    pub(crate) fn new(
        process: &mut Process,
        signals: &mut Signals,
        gpu: usize,
        size_bytes: u64,
    ) -> Result<Self> {
        let ring = process.kfd_memory(gpu, alloc::GTT, RING_BYTES)?;
        let control = process.kfd_memory(gpu, alloc::GTT, 4096)?;
        let vram = alloc::VRAM | alloc::PUBLIC;
        let source = process.kfd_memory(gpu, vram, size_bytes)?;
        let copy = process.kfd_memory(gpu, vram, size_bytes)?;
        signals.map(process, gpu)?;
        let gpu_id = process.gpus[gpu].id;
        let kfd = process.kfd()?;
        let event = kfd.create_event(&CreateEventArgs {
            event_page_offset: if signals.is_new { signals.page.handle } else { 0 },
            event_type: event::SIGNAL,
            auto_reset: 1,
            ..Default::default()
        })?;
        signals.is_new = false;
        let made = kfd.create_queue(&CreateQueueArgs {
            ring_base_address: ring.va,
            write_pointer_address: control.va + WRITE_POINTER,
            read_pointer_address: control.va + READ_POINTER,
            ring_size: RING_BYTES as u32,
            gpu_id,
            queue_type: queue_type::SDMA,
            queue_percentage: 100,
            queue_priority: 7,
            ..Default::default()
        })?;
        Ok(Self {
            gpu,
            ring,
            control,
            source,
            copy,
            size_bytes,
            doorbell: made.doorbell_offset % Self::DOORBELL_BYTES,
            written: 0,
            event_id: event.event_id,
            slot: u64::from(event.event_slot_index) * 8,
        })
    }

    /// Puts packets into the ring and rings the doorbell.
    fn submit(&mut self, packets: &[Packet], doorbells: &Mapping) {
        let mut words = Vec::new();
        packets.iter().for_each(|packet| packet.encode(&mut words));
        let left = RING_BYTES - self.written % RING_BYTES;
        if words.len() as u64 * 4 > left {
            // A packet may not reach over the end of the ring.
            let mut padding = vec![0; (left / 4) as usize];
            padding.append(&mut words);
            words = padding;
        }
        for word in words {
            self.ring.cpu.write(self.written % RING_BYTES, &[word]);
            self.written += 4;
        }
        self.control.cpu.store(WRITE_POINTER, self.written);
        doorbells.store(self.doorbell, self.written);
    }

    fn end_packets(&self, number: u64, signals: &Signals) -> [Packet; 3] {
        let value = number as u32;
        [
            Packet::Fence { address: self.control.va + FENCE, value },
            Packet::Fence { address: signals.page.va + self.slot, value: self.event_id },
            Packet::Trap { context: self.event_id },
        ]
    }

    /// Fills a buffer, copies it to another, writes a fence, raises an event.
    pub(crate) fn begin_round(&mut self, number: u64, signals: &Signals, doorbells: &Mapping) {
        let value = self.value(number);
        let mut packets = Vec::new();
        for (at, bytes) in pieces(self.size_bytes) {
            let (source, destination) = (self.source.va + at, self.copy.va + at);
            let unit = FillUnit::Word;
            packets.push(Packet::Fill { destination: source, value, unit, bytes });
            packets.push(Packet::CopyLinear { source, destination, bytes });
        }
        packets.extend(self.end_packets(number, signals));
        self.submit(&packets, doorbells);
    }

    fn value(&self, number: u64) -> u32 {
        (number as u32).wrapping_mul(0x9e37_79b1) ^ (self.event_id + 1).wrapping_mul(0x0101_0101)
    }

    fn wait(&mut self, number: u64, kfd: &mut KfdFd) -> std::result::Result<(), String> {
        let (gpu, id) = (self.gpu, self.event_id);
        let mut wanted = [EventData { event_id: id, ..Default::default() }];
        let waited = kfd.wait_events(&mut wanted, true, WAIT_MS);
        match waited.map_err(|error| error.to_string())? {
            Waited::Complete => {}
            other => return Err(format!("round {number}: event {id} of GPU {gpu}: {other:?}")),
        }
        let fence = self.control.cpu.load(FENCE) as u32;
        if fence == number as u32 {
            return Ok(());
        }
        Err(format!("round {number}: fence of GPU {gpu} is {fence}"))
    }

    /// Waits for the event, and compares every byte.
    pub(crate) fn end_round(
        &mut self,
        number: u64,
        kfd: &mut KfdFd,
    ) -> std::result::Result<(), String> {
        self.wait(number, kfd)?;
        let word = u64::from(self.value(number)) * 0x1_0000_0001;
        let mut words = vec![0; (self.size_bytes / 8) as usize];
        self.copy.cpu.read(0, &mut words);
        match words.iter().position(|&found| found != word) {
            Some(at) => Err(format!("round {number}: word {at} of GPU {} differs", self.gpu)),
            None => Ok(()),
        }
    }

    /// Reads memory through the engine, piece by piece, and adds up what `count` says.
    pub(crate) fn read(
        &mut self,
        (va, size_bytes): (u64, u64),
        (kfd, signals, doorbells): (&mut KfdFd, &Signals, &Mapping),
        count: impl Fn(u64, &[u64]) -> u64,
    ) -> std::result::Result<u64, String> {
        let (mut total, mut at) = (0, 0);
        while at < size_bytes {
            let bytes = (size_bytes - at).min(self.size_bytes).min(TRANSFER_BYTES_MAX);
            // No round has this number: rounds count from 1.
            let number = u64::from(u32::MAX) - at / 4096 % 1024;
            let (source, destination) = (va + at, self.copy.va);
            let mut packets = vec![Packet::CopyLinear { source, destination, bytes }];
            packets.extend(self.end_packets(number, signals));
            self.submit(&packets, doorbells);
            self.wait(number, kfd)?;
            let mut words = vec![0; (bytes / 8) as usize];
            self.copy.cpu.read(0, &mut words);
            total += count(at, &words);
            at += bytes;
        }
        Ok(total)
    }
}

fn pieces(size_bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    let starts = (0..size_bytes).step_by(TRANSFER_BYTES_MAX as usize);
    starts.map(move |at| (at, TRANSFER_BYTES_MAX.min(size_bytes - at)))
}
