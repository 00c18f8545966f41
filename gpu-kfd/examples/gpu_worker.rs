//! Keeps every GPU of a node busy through this crate alone, and checks what the GPUs did.
//!
//! `gpu_worker once` makes three rounds and says what it found; `gpu_worker busy FILE` goes on for
//! ever and appends the number of each round to FILE. A round on each GPU: fill a buffer by its
//! copy engine, copy it to a second one and to the next GPU, write a fence, raise an event, wait
//! for it, compare every byte. It needs no libhsakmt and no ROCm.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use gpu_kfd::uapi::events::{CreateEventArgs, EventData, event};
use gpu_kfd::uapi::kfd::{AllocMemoryOfGpuArgs, CreateQueueArgs, alloc, queue_type};
use gpu_kfd::uapi::sdma::{FillUnit, Packet};
use gpu_kfd::{BoMapping, KFD_PATH, KfdFd, RenderNode, Topology, Waited};

const BUFFER_BYTES: u64 = 1 << 20;
const RING_BYTES: u64 = 64 << 10;
const DOORBELL_BYTES: u64 = 8192;
/// Slots of signal events (`KFD_SIGNAL_EVENT_LIMIT`), 8 bytes each.
const EVENT_PAGE_BYTES: u64 = 4096 * 8;
/// Addresses that buffers get, one after the other.
const VA_FIRST: u64 = 0x1_0000_0000;
const VA_STEP: u64 = 4 << 20;
/// Longest wait for a GPU: a round takes milliseconds.
const WAIT_MS: u32 = 20_000;

/// Where the words of a queue stand in its control page.
const READ_POINTER: u64 = 0;
const WRITE_POINTER: u64 = 64;
const FENCE: u64 = 128;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A buffer that GPUs and this process see.
struct Buffer {
    va: u64,
    memory: BoMapping,
    handle: u64,
}

/// The driver, and the addresses that are given out.
struct Driver {
    kfd: KfdFd,
    gpu_ids: Vec<u32>,
    renders: Vec<RenderNode>,
    next_va: u64,
}

impl Driver {
    fn open() -> Result<Self> {
        let mut kfd = KfdFd::open()?;
        let (mut gpu_ids, mut renders) = (Vec::new(), Vec::new());
        for (id, node) in Topology::read(Topology::SYSFS)?.gpus() {
            let render = RenderNode::open(node.properties.drm_render_minor)?;
            kfd.acquire_vm(id.0, render.number())?;
            gpu_ids.push(id.0);
            renders.push(render);
        }
        Ok(Self { kfd, gpu_ids, renders, next_va: VA_FIRST })
    }

    /// Allocates on a GPU, maps for all GPUs, and into this process.
    fn buffer(&mut self, gpu: usize, size: u64, memory: u32) -> Result<Buffer> {
        let flags = memory | alloc::WRITABLE | alloc::EXECUTABLE | alloc::NO_SUBSTITUTE;
        let (va_addr, gpu_id) = (self.next_va, self.gpu_ids[gpu]);
        self.next_va += VA_STEP;
        let wanted = AllocMemoryOfGpuArgs { va_addr, size, gpu_id, flags, ..Default::default() };
        let made = self.kfd.alloc_memory(&wanted)?;
        self.kfd.map_memory(made.handle, &self.gpu_ids)?;
        let through_kfd = memory & alloc::DOORBELL != 0;
        let device = if through_kfd { self.kfd.as_fd() } else { self.renders[gpu].as_fd() };
        let memory = BoMapping::map(device, Path::new(KFD_PATH), made.mmap_offset, size)?;
        Ok(Buffer { va: va_addr, memory, handle: made.handle })
    }
}

/// A queue of a GPU's copy engine.
struct Queue {
    ring: Buffer,
    control: Buffer,
    /// A buffer of the KFD, as libhsakmt has them: what maps them is known to a checkpoint.
    doorbells: Buffer,
    doorbell: u64,
    written: u64,
}

impl Queue {
    fn create(driver: &mut Driver, gpu: usize) -> Result<Self> {
        let ring = driver.buffer(gpu, RING_BYTES, alloc::GTT)?;
        let control = driver.buffer(gpu, 4096, alloc::GTT)?;
        let made = driver.kfd.create_queue(&CreateQueueArgs {
            ring_base_address: ring.va,
            write_pointer_address: control.va + WRITE_POINTER,
            read_pointer_address: control.va + READ_POINTER,
            ring_size: RING_BYTES as u32,
            gpu_id: driver.gpu_ids[gpu],
            queue_type: queue_type::SDMA,
            queue_percentage: 100,
            queue_priority: 7,
            ..Default::default()
        })?;
        let doorbells = driver.buffer(gpu, DOORBELL_BYTES, alloc::DOORBELL)?;
        let doorbell = made.doorbell_offset % DOORBELL_BYTES;
        Ok(Self { ring, control, doorbells, doorbell, written: 0 })
    }

    /// Puts packets into the ring and rings the doorbell.
    fn submit(&mut self, packets: &[Packet]) -> Result<()> {
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
            self.ring.memory.write(self.written % RING_BYTES, &word.to_le_bytes())?;
            self.written += 4;
        }
        self.control.memory.store_word(WRITE_POINTER, self.written)?;
        Ok(self.doorbells.memory.store_word(self.doorbell, self.written)?)
    }
}

/// What a round needs on one GPU.
struct Station {
    queue: Queue,
    source: Buffer,
    copy: Buffer,
    event_id: u32,
    mailbox: u64,
}

/// A node with all of its GPUs set up.
struct Worker {
    driver: Driver,
    stations: Vec<Station>,
}

impl Worker {
    fn set_up() -> Result<Self> {
        let mut driver = Driver::open()?;
        let page = driver.buffer(0, EVENT_PAGE_BYTES, alloc::GTT)?;
        let mut stations = Vec::new();
        for gpu in 0..driver.gpu_ids.len() {
            let made = driver.kfd.create_event(&CreateEventArgs {
                event_page_offset: if gpu == 0 { page.handle } else { 0 },
                event_type: event::SIGNAL,
                auto_reset: 1,
                ..Default::default()
            })?;
            let vram = alloc::VRAM | alloc::PUBLIC;
            stations.push(Station {
                queue: Queue::create(&mut driver, gpu)?,
                source: driver.buffer(gpu, BUFFER_BYTES, vram)?,
                copy: driver.buffer(gpu, BUFFER_BYTES, vram)?,
                event_id: made.event_id,
                mailbox: page.va + u64::from(made.event_slot_index) * 8,
            });
        }
        Ok(Self { driver, stations })
    }

    fn round(&mut self, number: u32) -> Result<()> {
        let count = self.stations.len();
        for gpu in 0..count {
            let next = self.stations[(gpu + 1) % count].copy.va;
            let station = &mut self.stations[gpu];
            let value = pattern(number, gpu);
            let half = BUFFER_BYTES / 2;
            let (source, copy) = (station.source.va, station.copy.va);
            let fence = station.queue.control.va + FENCE;
            station.queue.submit(&[
                Packet::Fill {
                    destination: source,
                    value,
                    unit: FillUnit::Word,
                    bytes: BUFFER_BYTES,
                },
                Packet::CopyLinear { source, destination: copy, bytes: half },
                Packet::CopyLinear { source: source + half, destination: next + half, bytes: half },
                Packet::Fence { address: fence, value: number },
                Packet::Fence { address: station.mailbox, value: station.event_id },
                Packet::Trap { context: station.event_id },
            ])?;
        }
        for gpu in 0..count {
            let mut wanted =
                [EventData { event_id: self.stations[gpu].event_id, ..Default::default() }];
            let waited = self.driver.kfd.wait_events(&mut wanted, true, WAIT_MS)?;
            if waited != Waited::Complete {
                return Err(format!("round {number}: event of GPU {gpu}: {waited:?}").into());
            }
        }
        (0..count).try_for_each(|gpu| self.compare(number, gpu))
    }

    /// The first half is this GPU's own copy, the second came from the GPU before it.
    fn compare(&self, number: u32, gpu: usize) -> Result<()> {
        let count = self.stations.len();
        let station = &self.stations[gpu];
        let fence = station.queue.control.memory.load_word(FENCE)? as u32;
        if fence != number {
            return Err(format!("round {number}: fence of GPU {gpu} is {fence}").into());
        }
        let mut bytes = vec![0; BUFFER_BYTES as usize];
        station.copy.memory.read(0, &mut bytes)?;
        let halves = bytes.chunks_exact(BUFFER_BYTES as usize / 2);
        for (half, from) in halves.zip([gpu, (gpu + count - 1) % count]) {
            let expected = pattern(number, from).to_le_bytes();
            if let Some(at) = half.chunks_exact(4).position(|word| word != expected) {
                let text = format!("round {number}: GPU {gpu}, word {at} from GPU {from} differs");
                return Err(text.into());
            }
        }
        Ok(())
    }
}

fn pattern(number: u32, gpu: usize) -> u32 {
    number.wrapping_mul(0x9e37_79b1) ^ ((gpu as u32 + 1) * 0x0101_0101)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gpu_worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut worker = Worker::set_up()?;
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["once"] => {
            (1..=3).try_for_each(|number| worker.round(number))?;
            println!("{} GPUs copied and signalled, every byte is right", worker.stations.len());
        }
        ["busy", path] => {
            let mut file = File::create(path)?;
            for number in 1.. {
                worker.round(number)?;
                writeln!(file, "{number}")?;
            }
        }
        _ => return Err("usage: gpu_worker once | busy FILE".into()),
    }
    Ok(())
}
