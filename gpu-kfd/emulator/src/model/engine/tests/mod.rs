//! What no call shows alone: eviction, records of checkpoints, jobs of render nodes.

mod eviction;
mod jobs;
mod records;

use bytemuck::Pod;
use gpu_kfd::uapi::kfd::{
    AcquireVmArgs, AllocMemoryOfGpuArgs, CreateQueueArgs, MapMemoryToGpuArgs, alloc, ioc,
    queue_type,
};
use gpu_kfd::uapi::sdma::Packet;
use nix::errno::Errno;

use crate::fake::FakeWorld;
use crate::model::world::{Caller, DeviceNode, FileId, GpuIndex, PagesAt, Store, World};
use crate::model::{GpuConfig, Model, Outcome};

const GPU_ID: u32 = 0x5a01;
const PAGE: u64 = 4096;
const RING_BYTES: u32 = 4096;
const SCRATCH: u64 = 0x7000_0000;
const BUDGET_BYTES: u64 = 16 << 20;

#[derive(Clone, Copy, Debug)]
struct Buffer {
    va: u64,
    at: PagesAt,
    handle: u64,
}

#[derive(Clone, Copy, Debug)]
struct Ring {
    id: u32,
    ring: Buffer,
    pointers: Buffer,
    doorbell: PagesAt,
    written: u64,
}

/// A process on a node with one GPU.
struct Bed {
    model: Model,
    world: FakeWorld,
    caller: Caller,
    kfd: FileId,
    render: FileId,
    next_va: u64,
}

impl Bed {
    fn new() -> Self {
        let config = GpuConfig {
            gpu_id: GPU_ID,
            render_minor: 128,
            vram_bytes: 64 << 20,
            vram_visible_bytes: 64 << 20,
            sdma_queues_max: 4,
            sdma_xgmi_queues_max: 2,
            compute_queues_max: 24,
            gb_addr_config: 0x2a11_0042,
            offset_first: GpuConfig::OFFSET_FIRST,
            hive_id: 0,
            xnack: false,
        };
        let mut model = Model::new(vec![config], 64 << 20);
        let mut world = FakeWorld::new();
        let (caller, kfd, render) = process(&mut model, &mut world, 1);
        Self { model, world, caller, kfd, render, next_va: 0x10_0000_0000 }
    }

    /// Goes on as a new process, as one that restores does.
    fn enter(&mut self, pid: i32) {
        (self.caller, self.kfd, self.render) = process(&mut self.model, &mut self.world, pid);
    }

    fn call<T: Pod>(&mut self, request: u32, args: &mut T) -> Result<i32, Errno> {
        call(&mut self.model, &mut self.world, &self.caller, self.kfd, request, args)
    }

    fn buffer(&mut self, size: u64) -> Buffer {
        let va_addr = self.next_va;
        self.next_va += size.next_multiple_of(PAGE) + PAGE;
        self.buffer_at(va_addr, size)
    }

    fn buffer_at(&mut self, va_addr: u64, size: u64) -> Buffer {
        let flags = alloc::GTT | alloc::WRITABLE;
        let gpu_id = GPU_ID;
        let mut args =
            AllocMemoryOfGpuArgs { va_addr, size, handle: 0, mmap_offset: 0, gpu_id, flags };
        assert_eq!(self.call(ioc::ALLOC_MEMORY_OF_GPU, &mut args), Ok(0));
        let id = GPU_ID.to_le_bytes();
        self.world.write_user(self.caller.space, SCRATCH, &id).expect("it is mapped");
        let (handle, device_ids_array_ptr) = (args.handle, SCRATCH);
        let mut map =
            MapMemoryToGpuArgs { handle, device_ids_array_ptr, n_devices: 1, n_success: 0 };
        assert_eq!(self.call(ioc::MAP_MEMORY_TO_GPU, &mut map), Ok(0));
        let at = PagesAt { store: Store::Gpu(GpuIndex(0)), offset: args.mmap_offset };
        Buffer { va: va_addr, at, handle }
    }

    fn queue(&mut self, queue_type: u32) -> Ring {
        let (ring, pointers) = (self.buffer(u64::from(RING_BYTES)), self.buffer(PAGE));
        let mut args = CreateQueueArgs {
            ring_base_address: ring.va,
            write_pointer_address: pointers.va,
            read_pointer_address: pointers.va + 8,
            ring_size: RING_BYTES,
            gpu_id: GPU_ID,
            queue_type,
            queue_percentage: 100,
            queue_priority: 3,
            ctl_stack_size: 8192,
            ..Default::default()
        };
        assert_eq!(self.call(ioc::CREATE_QUEUE, &mut args), Ok(0));
        let doorbell = PagesAt { store: Store::Kfd, offset: args.doorbell_offset };
        Ring { id: args.queue_id, ring, pointers, doorbell, written: 0 }
    }

    fn sdma(&mut self) -> Ring {
        self.queue(queue_type::SDMA)
    }

    fn write_packets(&mut self, queue: &mut Ring, packets: &[Packet]) {
        let words = words(packets);
        let place = queue.ring.at.plus(queue.written);
        self.world.write_pages(place, bytemuck::cast_slice(&words));
        queue.written += words.len() as u64 * 4;
        self.put_u64(queue.pointers.at, queue.written);
    }

    fn submit(&mut self, queue: &mut Ring, packets: &[Packet]) {
        self.write_packets(queue, packets);
        self.put_u64(queue.doorbell, queue.written);
    }

    fn put_u64(&mut self, at: PagesAt, value: u64) {
        self.world.write_pages(at, &value.to_le_bytes());
    }

    fn get_u64(&mut self, at: PagesAt) -> u64 {
        let mut bytes = [0; 8];
        self.world.read_pages(at, &mut bytes);
        u64::from_le_bytes(bytes)
    }

    fn run(&mut self) -> u64 {
        self.model.run_queues(&mut self.world, BUDGET_BYTES).packets
    }
}

fn words(packets: &[Packet]) -> Vec<u32> {
    let mut words = Vec::new();
    packets.iter().for_each(|packet| packet.encode(&mut words));
    words
}

fn process(model: &mut Model, world: &mut FakeWorld, pid: i32) -> (Caller, FileId, FileId) {
    let caller = world.add_client(pid);
    world.map_user(caller.space, SCRATCH, 0x10000);
    let kfd = model.open(&caller, DeviceNode::Kfd).expect("a KFD always opens");
    let render = model.open(&caller, DeviceNode::Render(GpuIndex(0))).expect("it is there");
    world.set_fd(caller.space, 5, render);
    let mut args = AcquireVmArgs { drm_fd: 5, gpu_id: GPU_ID };
    assert_eq!(call(model, world, &caller, kfd, ioc::ACQUIRE_VM, &mut args), Ok(0));
    (caller, kfd, render)
}

fn call<T: Pod>(
    model: &mut Model,
    world: &mut FakeWorld,
    caller: &Caller,
    file: FileId,
    request: u32,
    args: &mut T,
) -> Result<i32, Errno> {
    match model.ioctl(world, caller, file, request, bytemuck::bytes_of_mut(args)) {
        Outcome::Done(result) => result,
        Outcome::Later(ticket) => panic!("parked as {ticket:?}"),
    }
}
