//! `CRIU_OP`: a program with one of everything is saved, and comes back elsewhere.

mod checkpoint;
mod hostile;
mod restore;

use bytemuck::Pod;
use gpu_kfd::uapi::criu::{BoBucket, CriuArgs, DeviceBucket, op};
use gpu_kfd::uapi::events::{CreateEventArgs, SetEventArgs, event};
use gpu_kfd::uapi::kfd::{
    AcquireVmArgs, AllocMemoryOfGpuArgs, CreateQueueArgs, MapMemoryToGpuArgs, alloc, ioc,
    queue_type,
};
use gpu_kfd::uapi::sdma::Packet;
use gpu_kfd::uapi::svm::{SvmArgs, SvmAttribute, svm_attr, svm_op};
use gpu_kfd::uapi::with_argument_bytes;
use kfd_emulator::{Caller, FileId, GpuConfig, GpuIndex, Outcome, PagesAt, Store, World};
use nix::errno::Errno;

use crate::bench::{Bench, SCRATCH, VRAM_BYTES};

pub(crate) const VA: u64 = 0x10_0000_0000;
pub(crate) const PAGE: u64 = 4096;
const MIB: u64 = 1 << 20;
/// Where whoever checkpoints has room: devices, buffers, private data.
pub(crate) const DEVICES_AT: u64 = 0x6000_0000;
pub(crate) const BOS_AT: u64 = 0x6001_0000;
pub(crate) const PRIVATE_AT: u64 = 0x6010_0000;
pub(crate) const ROOM_BYTES: u64 = 0x20_0000;
pub(crate) const ROOM_END: u64 = DEVICES_AT + ROOM_BYTES;
const BUDGET_BYTES: u64 = 1 << 30;

const _: () = assert!(SCRATCH > ROOM_END && PRIVATE_AT < ROOM_END);

/// A node with GPUs of these identifiers.
pub(crate) fn node(ids: &[u32], xnack: bool) -> Bench {
    let config = |(index, id): (usize, &u32)| GpuConfig {
        gpu_id: *id,
        render_minor: 128 + index as u32,
        vram_bytes: VRAM_BYTES,
        vram_visible_bytes: VRAM_BYTES,
        sdma_queues_max: 8,
        sdma_xgmi_queues_max: 8,
        compute_queues_max: 24,
        gb_addr_config: 0x2a11_0042,
        offset_first: GpuConfig::OFFSET_FIRST,
        hive_id: 7,
        xnack,
    };
    Bench::of(ids.iter().enumerate().map(config).collect())
}

/// A process that uses the KFD, and what it has.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) caller: Caller,
    pub(crate) kfd: FileId,
    /// The identifiers that it knows its GPUs by.
    ids: Vec<u32>,
}

/// What a checkpoint has written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) devices: Vec<DeviceBucket>,
    pub(crate) bos: Vec<BoBucket>,
    pub(crate) private: Vec<u8>,
    pub(crate) objects: u32,
}

/// A client with room for the arrays of a checkpoint.
pub(crate) fn client_with_room(bench: &mut Bench, pid: i32) -> Caller {
    let caller = bench.client(pid);
    bench.world.map_user(caller.space, DEVICES_AT, ROOM_BYTES);
    caller
}

pub(crate) fn read<T: Pod>(bench: &mut Bench, caller: &Caller, at: u64, count: usize) -> Vec<T> {
    let mut array = vec![T::zeroed(); count];
    let bytes = bytemuck::cast_slice_mut(&mut array);
    bench.world.read_user(caller.space, at, bytes).expect("there is room");
    array
}

pub(crate) fn write<T: Pod>(bench: &mut Bench, caller: &Caller, at: u64, array: &[T]) {
    let bytes = bytemuck::cast_slice(array);
    bench.world.write_user(caller.space, at, bytes).expect("there is room");
}

impl Program {
    /// A process that has nothing but a file of the KFD.
    pub(crate) fn fresh(bench: &mut Bench, pid: i32) -> Self {
        let caller = client_with_room(bench, pid);
        let kfd = bench.kfd(&caller);
        Self { caller, kfd, ids: Vec::new() }
    }

    /// A process with address spaces on all GPUs.
    pub(crate) fn bound(bench: &mut Bench, pid: i32, ids: &[u32]) -> Self {
        let mut program = Self::fresh(bench, pid);
        for (gpu, gpu_id) in ids.iter().copied().enumerate() {
            let render = bench.render(&program.caller, gpu);
            let drm_fd = bench.fd(&program.caller, render) as u32;
            let mut args = AcquireVmArgs { drm_fd, gpu_id };
            assert_eq!(program.call(bench, ioc::ACQUIRE_VM, &mut args), Ok(0));
        }
        program.ids = ids.to_vec();
        program
    }

    pub(crate) fn call<T: Pod>(
        &self,
        bench: &mut Bench,
        request: u32,
        args: &mut T,
    ) -> Result<i32, Errno> {
        bench.call(&self.caller, self.kfd, request, args)
    }

    /// A buffer on a GPU, mapped to all; its handle, and where its pages are.
    pub(crate) fn alloc(
        &self,
        bench: &mut Bench,
        gpu: usize,
        (va_addr, size): (u64, u64),
        flags: u32,
        mmap_offset: u64,
    ) -> (u64, PagesAt) {
        let gpu_id = self.ids[gpu];
        let mut args =
            AllocMemoryOfGpuArgs { va_addr, size, gpu_id, flags, mmap_offset, handle: 0 };
        assert_eq!(self.call(bench, ioc::ALLOC_MEMORY_OF_GPU, &mut args), Ok(0));
        let device_ids_array_ptr = bench.scratch(&self.caller, &self.ids);
        let n_devices = self.ids.len() as u32;
        let handle = args.handle;
        let mut map = MapMemoryToGpuArgs { handle, device_ids_array_ptr, n_devices, n_success: 0 };
        assert_eq!(self.call(bench, ioc::MAP_MEMORY_TO_GPU, &mut map), Ok(0));
        let store = Store::Gpu(GpuIndex(gpu as u8));
        (handle, PagesAt { store, offset: args.mmap_offset })
    }

    /// One of everything: buffers of all kinds, events with a page, SDMA and AQL queues, a range of
    /// shared memory. The SDMA queue has a copy in its ring that waits to be rung.
    pub(crate) fn with_everything(bench: &mut Bench, pid: i32, ids: &[u32]) -> (Self, Queue) {
        let program = Self::bound(bench, pid, ids);
        bench.world.map_user(program.caller.space, USER_AT, MIB);
        let writable = alloc::WRITABLE;
        let (_, vram) = program.alloc(bench, 0, (VA, MIB), alloc::VRAM | writable, 0);
        bench.world.write_pages(vram, b"device memory");
        let second = (VA + 2 * MIB, 3 * PAGE);
        program.alloc(bench, ids.len() - 1, second, alloc::VRAM | writable, 0);
        let (page, _) = program.alloc(bench, 0, (VA + 4 * MIB, 8 * PAGE), alloc::GTT | writable, 0);
        program.alloc(bench, 0, (VA + 5 * MIB, PAGE), alloc::USERPTR | writable, USER_AT);
        program.alloc(bench, 0, (VA + 6 * MIB, 2 * PAGE), alloc::DOORBELL | writable, 0);
        program.alloc(bench, 0, (VA + 7 * MIB, PAGE), alloc::MMIO_REMAP | writable, 0);
        program.make_events(bench, page);
        let queue = program.make_queues(bench, vram);
        program.make_range(bench);
        (program, queue)
    }

    fn make_events(&self, bench: &mut Bench, page: u64) {
        let mut make = |event_page_offset, event_type, auto_reset| {
            let mut args =
                CreateEventArgs { event_page_offset, event_type, auto_reset, ..Default::default() };
            assert_eq!(self.call(bench, ioc::CREATE_EVENT, &mut args), Ok(0));
            args.event_id
        };
        make(page, event::SIGNAL, 1);
        let manual = make(0, event::SIGNAL, 0);
        make(0, event::MEMORY, 0);
        let mut args = SetEventArgs { event_id: manual, ..Default::default() };
        assert_eq!(self.call(bench, ioc::SET_EVENT, &mut args), Ok(0));
    }

    fn make_queues(&self, bench: &mut Bench, vram: PagesAt) -> Queue {
        let at = VA + 8 * MIB;
        let flags = alloc::GTT | alloc::WRITABLE;
        let (_, ring) = self.alloc(bench, 0, (at, PAGE), flags, 0);
        let (_, pointers) = self.alloc(bench, 0, (at + MIB, PAGE), flags, 0);
        let (_, aql) = self.alloc(bench, 0, (at + 2 * MIB, PAGE), flags, 0);
        for packet in 0..PAGE / 64 {
            bench.world.write_pages(aql.plus(packet * 64), &[1, 0]);
        }
        let mut args = CreateQueueArgs {
            ring_base_address: at,
            ring_size: PAGE as u32,
            write_pointer_address: at + MIB,
            read_pointer_address: at + MIB + 8,
            gpu_id: self.ids[0],
            queue_type: queue_type::SDMA,
            queue_percentage: 100,
            queue_priority: 3,
            ..Default::default()
        };
        assert_eq!(self.call(bench, ioc::CREATE_QUEUE, &mut args), Ok(0));
        let mut other = CreateQueueArgs {
            ring_base_address: at + 2 * MIB,
            write_pointer_address: at + MIB + 16,
            read_pointer_address: at + MIB + 24,
            queue_type: queue_type::COMPUTE_AQL,
            ctl_stack_size: CTL_STACK_BYTES as u32,
            ..args
        };
        assert_eq!(self.call(bench, ioc::CREATE_QUEUE, &mut other), Ok(0));
        let mut words = Vec::new();
        Packet::CopyLinear { source: VA, destination: VA + 64, bytes: 13 }.encode(&mut words);
        bench.world.write_pages(ring, bytemuck::cast_slice(&words));
        let written = words.len() as u64 * 4;
        bench.world.write_pages(pointers, &written.to_le_bytes());
        let doorbell = PagesAt { store: Store::Kfd, offset: args.doorbell_offset };
        Queue { doorbell, written, target: vram.plus(64) }
    }

    fn make_range(&self, bench: &mut Bench) {
        let attributes = [
            SvmAttribute { kind: svm_attr::ACCESS, value: self.ids[0] },
            SvmAttribute { kind: svm_attr::PREFERRED_LOC, value: self.ids[0] },
            SvmAttribute { kind: svm_attr::GRANULARITY, value: 5 },
        ];
        let head = SvmArgs {
            start_addr: USER_AT + 0x4_0000,
            size: 16 * PAGE,
            op: svm_op::SET_ATTR,
            nattr: attributes.len() as u32,
        };
        let mut arg = bytemuck::bytes_of(&head).to_vec();
        arg.extend_from_slice(bytemuck::cast_slice(&attributes));
        let request = with_argument_bytes(ioc::SVM, arg.len());
        let world = &mut bench.world;
        let outcome = bench.model.ioctl(world, &self.caller, self.kfd, request, &mut arg);
        assert_eq!(outcome, Outcome::Done(Ok(0)));
    }
}

/// Memory of a program that its GPUs may see.
pub(crate) const USER_AT: u64 = 0x5000_0000;
pub(crate) const CTL_STACK_BYTES: usize = 0x1000;
/// Buffers, queues, events and ranges of a program with one of everything.
pub(crate) const BOS: usize = 9;
pub(crate) const QUEUES: usize = 2;
pub(crate) const EVENTS: usize = 3;
pub(crate) const RANGES: usize = 1;

/// The SDMA queue of a program, with one copy in its ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queue {
    doorbell: PagesAt,
    written: u64,
    /// Where the copy goes.
    target: PagesAt,
}

impl Queue {
    pub(crate) fn ring(&self, bench: &mut Bench) {
        bench.world.write_pages(self.doorbell, &self.written.to_le_bytes());
        run(bench);
    }

    pub(crate) fn is_done(&self, bench: &mut Bench) -> bool {
        has_copy(bench, self.target)
    }
}

/// Whether the copy of the SDMA queue has come here.
pub(crate) fn has_copy(bench: &mut Bench, target: PagesAt) -> bool {
    let mut bytes = [0; 13];
    bench.world.read_pages(target, &mut bytes);
    &bytes == b"device memory"
}

pub(crate) fn run(bench: &mut Bench) {
    bench.model.run_queues(&mut bench.world, BUDGET_BYTES);
}

/// One operation by a caller on a file of the KFD.
pub(crate) fn operate(
    bench: &mut Bench,
    caller: &Caller,
    kfd: FileId,
    args: &mut CriuArgs,
) -> Result<i32, Errno> {
    bench.call(caller, kfd, ioc::CRIU_OP, args)
}

/// Stops a program; the counts, with addresses where the caller has room.
pub(crate) fn pause(bench: &mut Bench, caller: &Caller, kfd: FileId) -> Result<CriuArgs, Errno> {
    let mut args = CriuArgs { op: op::PROCESS_INFO, ..Default::default() };
    operate(bench, caller, kfd, &mut args)?;
    (args.devices, args.bos, args.priv_data) = (DEVICES_AT, BOS_AT, PRIVATE_AT);
    Ok(args)
}

/// Saves a stopped program.
pub(crate) fn save(
    bench: &mut Bench,
    caller: &Caller,
    kfd: FileId,
    counts: CriuArgs,
) -> Result<Image, Errno> {
    let mut args = CriuArgs { op: op::CHECKPOINT, ..counts };
    operate(bench, caller, kfd, &mut args)?;
    let devices = read(bench, caller, args.devices, args.num_devices as usize);
    let bos = read(bench, caller, args.bos, args.num_bos as usize);
    let private = read(bench, caller, args.priv_data, args.priv_data_size as usize);
    Ok(Image { devices, bos, private, objects: args.num_objects })
}

/// A checkpoint by the ptrace parent, as CRIU makes it.
pub(crate) fn checkpoint(bench: &mut Bench, criu: &Caller, program: &Program) -> Image {
    bench.world.trace(criu, program.caller.space);
    let counts = pause(bench, criu, program.kfd).expect("it can be stopped");
    save(bench, criu, program.kfd, counts).expect("it can be saved")
}

pub(crate) fn unpause(bench: &mut Bench, caller: &Caller, kfd: FileId) -> Result<i32, Errno> {
    operate(bench, caller, kfd, &mut CriuArgs { op: op::UNPAUSE, ..Default::default() })
}

pub(crate) fn resume(bench: &mut Bench, caller: &Caller, pid: i32) -> Result<i32, Errno> {
    let kfd = bench.kfd(caller);
    let mut args = CriuArgs { op: op::RESUME, pid: pid as u32, ..Default::default() };
    operate(bench, caller, kfd, &mut args)
}

/// The GPUs of an image on a node whose GPUs have these identifiers, one after the other, with
/// fresh render nodes of the caller.
pub(crate) fn place(
    bench: &mut Bench,
    caller: &Caller,
    image: &Image,
    ids: &[u32],
) -> Vec<DeviceBucket> {
    let mut place = |(gpu, saved): (usize, &DeviceBucket)| {
        let render = bench.render(caller, gpu);
        let drm_fd = bench.fd(caller, render) as u32;
        DeviceBucket { actual_gpu_id: ids[gpu], drm_fd, ..*saved }
    };
    image.devices.iter().enumerate().map(&mut place).collect()
}

/// Restores; the result, and the buckets as they come back.
pub(crate) fn restore(
    bench: &mut Bench,
    program: &Program,
    image: &Image,
    change: impl FnOnce(&mut CriuArgs),
) -> (Result<i32, Errno>, Vec<BoBucket>) {
    let caller = program.caller;
    write(bench, &caller, DEVICES_AT, &image.devices);
    write(bench, &caller, BOS_AT, &image.bos);
    write(bench, &caller, PRIVATE_AT, &image.private);
    let mut args = CriuArgs {
        op: op::RESTORE,
        devices: DEVICES_AT,
        bos: BOS_AT,
        priv_data: PRIVATE_AT,
        priv_data_size: image.private.len() as u64,
        num_devices: image.devices.len() as u32,
        num_bos: image.bos.len() as u32,
        num_objects: image.objects,
        ..Default::default()
    };
    change(&mut args);
    let result = operate(bench, &caller, program.kfd, &mut args);
    let bos = read(bench, &caller, BOS_AT, image.bos.len());
    (result, bos)
}

/// An image of a program with one of everything on GPUs 0x5a01 and 0x5a02, made on a node that is
/// gone.
pub(crate) fn image() -> Image {
    let ids = [0x5a01, 0x5a02];
    let mut bench = node(&ids, true);
    let (program, _) = Program::with_everything(&mut bench, 100, &ids);
    let criu = client_with_room(&mut bench, 1);
    checkpoint(&mut bench, &criu, &program)
}

/// A fresh process on a node of GPUs 0x6b01 and 0x6b02, and the image with its GPUs there.
pub(crate) fn elsewhere(image: &Image, xnack: bool) -> (Bench, Program, Image) {
    let ids = [0x6b01, 0x6b02];
    let mut bench = node(&ids, xnack);
    let program = Program::fresh(&mut bench, 200);
    bench.world.map_user(program.caller.space, USER_AT, MIB);
    let devices = place(&mut bench, &program.caller, image, &ids);
    (bench, program, Image { devices, ..image.clone() })
}

/// Some processes and files end.
pub(crate) fn end(bench: &mut Bench, callers: &[Caller], files: &[FileId]) {
    for file in files {
        bench.model.release(&mut bench.world, *file);
    }
    for caller in callers {
        bench.end(caller);
    }
    bench.model.check().expect("every reference has a holder");
}
