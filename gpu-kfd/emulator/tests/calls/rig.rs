//! A process on a node: memory that its GPUs see, queues, events, and what it does with them.

use bytemuck::Pod;
use gpu_kfd::uapi::events::{
    CreateEventArgs, DestroyEventArgs, EventData, ResetEventArgs, SetEventArgs, WaitEventsArgs,
    event,
};
use gpu_kfd::uapi::kfd::{
    AcquireVmArgs, AllocMemoryOfGpuArgs, CreateQueueArgs, DestroyQueueArgs, MapMemoryToGpuArgs,
    UnmapMemoryFromGpuArgs, UpdateQueueArgs, alloc, ioc, queue_type,
};
use gpu_kfd::uapi::sdma::Packet;
use kfd_emulator::{
    Caller, FileId, Finished, GpuIndex, Outcome, PagesAt, Progress, Store, Ticket, World,
};
use nix::errno::Errno;

use crate::bench::{Bench, SCRATCH, gpu_id};

/// Plenty for what tests copy.
pub(crate) const BUDGET_BYTES: u64 = 64 << 20;
pub(crate) const PAGE: u64 = 4096;
pub(crate) const RING_BYTES: u32 = 4096;
/// Where arrays of events lie, apart from other arguments.
pub(crate) const EVENTS_AT: u64 = SCRATCH + 0x8000;

/// Memory of a GPU, mapped to all of the process's GPUs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) handle: u64,
    pub(crate) va: u64,
    pub(crate) at: PagesAt,
}

/// A queue with a ring of [`RING_BYTES`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue {
    pub(crate) id: u32,
    pub(crate) ring: Memory,
    /// Write pointer, then read pointer.
    pub(crate) pointers: Memory,
    pub(crate) doorbell: PagesAt,
    /// In bytes, or in packets for AQL.
    pub(crate) written: u64,
}

/// A process that has acquired the address spaces of all GPUs.
pub(crate) struct Rig {
    pub(crate) bench: Bench,
    pub(crate) caller: Caller,
    pub(crate) kfd: FileId,
    next_va: u64,
    gpus: usize,
}

impl Rig {
    pub(crate) fn new(gpus: usize) -> Self {
        let mut bench = Bench::new(gpus);
        let caller = bench.client(1);
        let kfd = bench.kfd(&caller);
        let mut rig = Self { bench, caller, kfd, next_va: 0x10_0000_0000, gpus };
        rig.acquire();
        rig
    }

    /// Goes on as another process, which is new.
    pub(crate) fn enter(&mut self, pid: i32) {
        self.caller = self.bench.client(pid);
        self.kfd = self.bench.kfd(&self.caller);
        self.acquire();
    }

    fn acquire(&mut self) {
        for gpu in 0..self.gpus {
            let render = self.bench.render(&self.caller, gpu);
            let drm_fd = self.bench.fd(&self.caller, render) as u32;
            let mut args = AcquireVmArgs { drm_fd, gpu_id: gpu_id(gpu) };
            assert_eq!(self.call(ioc::ACQUIRE_VM, &mut args), Ok(0));
        }
    }

    pub(crate) fn call<T: Pod>(&mut self, request: u32, args: &mut T) -> Result<i32, Errno> {
        self.bench.call(&self.caller, self.kfd, request, args)
    }

    pub(crate) fn alloc_unmapped(&mut self, gpu: usize, size: u64, flags: u32) -> Memory {
        let va = self.next_va;
        self.next_va += size.next_multiple_of(PAGE) + PAGE;
        let mut args = AllocMemoryOfGpuArgs {
            va_addr: va,
            size,
            gpu_id: gpu_id(gpu),
            flags: flags | alloc::WRITABLE,
            ..Default::default()
        };
        assert_eq!(self.call(ioc::ALLOC_MEMORY_OF_GPU, &mut args), Ok(0));
        let at = PagesAt { store: Store::Gpu(GpuIndex(gpu as u8)), offset: args.mmap_offset };
        Memory { handle: args.handle, va, at }
    }

    pub(crate) fn map(&mut self, handle: u64) {
        let ids: Vec<u32> = (0..self.gpus).map(gpu_id).collect();
        let device_ids_array_ptr = self.bench.scratch(&self.caller, &ids);
        let n_devices = ids.len() as u32;
        let mut args = MapMemoryToGpuArgs { handle, device_ids_array_ptr, n_devices, n_success: 0 };
        assert_eq!(self.call(ioc::MAP_MEMORY_TO_GPU, &mut args), Ok(0));
    }

    pub(crate) fn unmap(&mut self, handle: u64) -> Result<i32, Errno> {
        let ids: Vec<u32> = (0..self.gpus).map(gpu_id).collect();
        let device_ids_array_ptr = self.bench.scratch(&self.caller, &ids);
        let n_devices = ids.len() as u32;
        let mut args =
            UnmapMemoryFromGpuArgs { handle, device_ids_array_ptr, n_devices, n_success: 0 };
        self.call(ioc::UNMAP_MEMORY_FROM_GPU, &mut args)
    }

    pub(crate) fn vram(&mut self, gpu: usize, size: u64) -> Memory {
        let memory = self.alloc_unmapped(gpu, size, alloc::VRAM);
        self.map(memory.handle);
        memory
    }

    pub(crate) fn gtt(&mut self, size: u64) -> Memory {
        let memory = self.alloc_unmapped(0, size, alloc::GTT);
        self.map(memory.handle);
        memory
    }

    /// Shows memory of the process to its GPUs, at another address than its own.
    pub(crate) fn user(&mut self, address: u64, size: u64) -> u64 {
        let va = self.next_va;
        self.next_va += size.next_multiple_of(PAGE) + PAGE;
        let mut args = AllocMemoryOfGpuArgs {
            va_addr: va,
            size,
            mmap_offset: address,
            gpu_id: gpu_id(0),
            flags: alloc::USERPTR | alloc::WRITABLE,
            ..Default::default()
        };
        assert_eq!(self.call(ioc::ALLOC_MEMORY_OF_GPU, &mut args), Ok(0));
        self.map(args.handle);
        va
    }

    pub(crate) fn put(&mut self, at: PagesAt, bytes: &[u8]) {
        self.bench.world.write_pages(at, bytes);
    }

    pub(crate) fn get(&mut self, at: PagesAt, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.bench.world.read_pages(at, &mut bytes);
        bytes
    }

    pub(crate) fn get_u64(&mut self, at: PagesAt) -> u64 {
        u64::from_le_bytes(self.get(at, 8).try_into().expect("eight bytes"))
    }

    pub(crate) fn get_u32(&mut self, at: PagesAt) -> u32 {
        self.get_u64(at) as u32
    }

    pub(crate) fn put_u64(&mut self, at: PagesAt, value: u64) {
        self.put(at, &value.to_le_bytes());
    }

    /// Arguments for a queue that would be made.
    pub(crate) fn queue_args(&mut self, gpu: usize, queue_type: u32) -> CreateQueueArgs {
        let (args, ..) = self.queue_parts(gpu, queue_type);
        args
    }

    fn queue_parts(&mut self, gpu: usize, queue_type: u32) -> (CreateQueueArgs, Memory, Memory) {
        let ring = self.gtt(u64::from(RING_BYTES));
        let pointers = self.gtt(PAGE);
        let args = CreateQueueArgs {
            ring_base_address: ring.va,
            write_pointer_address: pointers.va,
            read_pointer_address: pointers.va + 8,
            ring_size: RING_BYTES,
            gpu_id: gpu_id(gpu),
            queue_type,
            queue_percentage: 100,
            queue_priority: 7,
            ..Default::default()
        };
        (args, ring, pointers)
    }

    pub(crate) fn sdma_queue(&mut self, gpu: usize) -> Queue {
        self.queue(gpu, queue_type::SDMA)
    }

    pub(crate) fn aql_queue(&mut self, gpu: usize) -> Queue {
        let queue = self.queue(gpu, queue_type::COMPUTE_AQL);
        for packet in 0..u64::from(RING_BYTES) / 64 {
            self.put(queue.ring.at.plus(packet * 64), &[1, 0]);
        }
        queue
    }

    fn queue(&mut self, gpu: usize, queue_type: u32) -> Queue {
        let (mut args, ring, pointers) = self.queue_parts(gpu, queue_type);
        assert_eq!(self.call(ioc::CREATE_QUEUE, &mut args), Ok(0));
        let doorbell = PagesAt { store: Store::Kfd, offset: args.doorbell_offset };
        Queue { id: args.queue_id, ring, pointers, doorbell, written: 0 }
    }

    pub(crate) fn destroy_queue(&mut self, queue_id: u32) -> Result<i32, Errno> {
        self.call(ioc::DESTROY_QUEUE, &mut DestroyQueueArgs { queue_id, _pad: 0 })
    }

    /// Changes the share of a queue.
    pub(crate) fn set_percent(&mut self, queue: &Queue, percent: u32) -> Result<i32, Errno> {
        let mut args = UpdateQueueArgs {
            ring_base_address: queue.ring.va,
            queue_id: queue.id,
            ring_size: RING_BYTES,
            queue_percentage: percent,
            queue_priority: 7,
        };
        self.call(ioc::UPDATE_QUEUE, &mut args)
    }

    /// Writes packets into the ring, over its end if they reach it.
    pub(crate) fn write_packets(&mut self, queue: &mut Queue, packets: &[Packet]) {
        let mut words = Vec::new();
        packets.iter().for_each(|packet| packet.encode(&mut words));
        for word in words {
            let place = queue.written % u64::from(RING_BYTES);
            self.put(queue.ring.at.plus(place), &word.to_le_bytes());
            queue.written += 4;
        }
    }

    /// Writes the write pointer, then the doorbell.
    pub(crate) fn ring(&mut self, queue: &Queue) {
        self.put_u64(queue.pointers.at, queue.written);
        self.put_u64(queue.doorbell, queue.written);
    }

    pub(crate) fn submit(&mut self, queue: &mut Queue, packets: &[Packet]) {
        self.write_packets(queue, packets);
        self.ring(queue);
    }

    /// Puts packets of 64 bytes into an AQL ring and rings as ROCr does: with the last one's index.
    pub(crate) fn submit_aql<T: Pod>(&mut self, queue: &mut Queue, packets: &[T]) {
        assert_eq!(size_of::<T>(), 64);
        for packet in packets {
            let place = queue.written * 64 % u64::from(RING_BYTES);
            self.put(queue.ring.at.plus(place), bytemuck::bytes_of(packet));
            queue.written += 1;
        }
        self.put_u64(queue.pointers.at, queue.written);
        self.put_u64(queue.doorbell, queue.written - 1);
    }

    pub(crate) fn read_pointer(&mut self, queue: &Queue) -> u64 {
        self.get_u64(queue.pointers.at.plus(8))
    }

    pub(crate) fn run(&mut self) -> Progress {
        self.bench.model.run_queues(&mut self.bench.world, BUDGET_BYTES)
    }

    pub(crate) fn create_event(&mut self, args: &mut CreateEventArgs) -> Result<i32, Errno> {
        self.call(ioc::CREATE_EVENT, args)
    }

    /// A new event and, for one that GPUs signal, its slot in the driver's page.
    pub(crate) fn event(&mut self, event_type: u32, auto_reset: bool) -> (u32, PagesAt) {
        let auto_reset = u32::from(auto_reset);
        let mut args = CreateEventArgs { event_type, auto_reset, ..Default::default() };
        assert_eq!(self.create_event(&mut args), Ok(0));
        let offset = args.event_page_offset + u64::from(args.event_slot_index) * 8;
        (args.event_id, PagesAt { store: Store::Kfd, offset })
    }

    pub(crate) fn signal(&mut self) -> u32 {
        self.event(event::SIGNAL, true).0
    }

    /// A page of slots that GPUs reach, and an event in it: its number, and its slot's address.
    pub(crate) fn event_with_page(&mut self) -> (u32, u64) {
        let page = self.gtt(0x8000);
        let mut args = CreateEventArgs {
            event_page_offset: page.handle,
            event_type: event::SIGNAL,
            auto_reset: 1,
            ..Default::default()
        };
        assert_eq!(self.create_event(&mut args), Ok(0));
        (args.event_id, page.va + u64::from(args.event_slot_index) * 8)
    }

    pub(crate) fn set(&mut self, event_id: u32) -> Result<i32, Errno> {
        self.call(ioc::SET_EVENT, &mut SetEventArgs { event_id, _pad: 0 })
    }

    pub(crate) fn reset(&mut self, event_id: u32) -> Result<i32, Errno> {
        self.call(ioc::RESET_EVENT, &mut ResetEventArgs { event_id, _pad: 0 })
    }

    pub(crate) fn destroy(&mut self, event_id: u32) -> Result<i32, Errno> {
        self.call(ioc::DESTROY_EVENT, &mut DestroyEventArgs { event_id, _pad: 0 })
    }

    /// Waits for events with these ages seen; the array lies at [`EVENTS_AT`].
    pub(crate) fn wait_aged(
        &mut self,
        events: &[(u32, u64)],
        all: bool,
        timeout: u32,
    ) -> (Outcome, WaitEventsArgs) {
        let data: Vec<EventData> = events
            .iter()
            .map(|(event_id, age)| EventData {
                payload: [*age, 0, 0, 0],
                event_id: *event_id,
                ..Default::default()
            })
            .collect();
        let bytes = bytemuck::cast_slice(&data);
        self.bench.world.write_user(self.caller.space, EVENTS_AT, bytes).expect("it is mapped");
        let mut args = WaitEventsArgs {
            events_ptr: EVENTS_AT,
            num_events: events.len() as u32,
            wait_for_all: u32::from(all),
            timeout,
            wait_result: 99,
        };
        (self.wait_call(&mut args), args)
    }

    pub(crate) fn wait_call(&mut self, args: &mut WaitEventsArgs) -> Outcome {
        let arg = bytemuck::bytes_of_mut(args);
        let Bench { model, world, .. } = &mut self.bench;
        model.ioctl(world, &self.caller, self.kfd, ioc::WAIT_EVENTS, arg)
    }

    pub(crate) fn wait(&mut self, events: &[u32], all: bool, timeout: u32) -> (Outcome, u32) {
        let events: Vec<(u32, u64)> = events.iter().map(|id| (*id, 0)).collect();
        let (outcome, args) = self.wait_aged(&events, all, timeout);
        (outcome, args.wait_result)
    }

    /// A wait that is parked.
    pub(crate) fn park(&mut self, events: &[u32], all: bool, timeout: u32) -> Ticket {
        match self.wait(events, all, timeout).0 {
            Outcome::Later(ticket) => ticket,
            Outcome::Done(result) => panic!("not parked: {result:?}"),
        }
    }

    /// The only call that has ended since this was last asked.
    pub(crate) fn finished(&mut self) -> Option<(Finished, WaitEventsArgs)> {
        let mut finished = self.bench.model.take_finished();
        assert!(finished.len() <= 1, "{finished:?}");
        let finished = finished.pop()?;
        let args = bytemuck::pod_read_unaligned(&finished.arg);
        Some((finished, args))
    }

    /// Payload of an event of the last wait.
    pub(crate) fn answer(&mut self, index: u64) -> [u64; 4] {
        let mut words = [0; 4];
        let bytes = bytemuck::cast_slice_mut(&mut words);
        let at = EVENTS_AT + index * size_of::<EventData>() as u64;
        self.bench.world.read_user(self.caller.space, at, bytes).expect("it is mapped");
        words
    }
}
