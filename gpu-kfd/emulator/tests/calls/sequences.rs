//! Random sequences of calls, on the model and on the simplest model: answers must be the same.

use std::collections::BTreeMap;

use gpu_kfd::uapi::kfd::{
    AcquireVmArgs, AllocMemoryOfGpuArgs, ExportDmabufArgs, FreeMemoryOfGpuArgs,
    GetAvailableMemoryArgs, ImportDmabufArgs, MapMemoryToGpuArgs, UnmapMemoryFromGpuArgs, alloc,
    ioc,
};
use kfd_emulator::{Caller, DeviceNode, FileId};
use nix::errno::Errno;
use proptest::prelude::*;

use crate::bench::{Bench, buffer_of, gpu_id};
use crate::reference::{Object, Reference};

const GPUS: usize = 3;
const CLIENTS: usize = 3;
const VA: u64 = 0x10_0000_0000;
/// Addresses lie on a coarse grid, so that buffers overlap often.
const VA_STEP: u64 = 4 << 20;

/// A call, with small numbers that name what earlier calls made.
#[derive(Clone, Copy, Debug)]
enum Op {
    Acquire { client: usize, gpu: usize },
    Alloc { client: usize, gpu: usize, mib: u64, is_vram: bool, place: u64 },
    Free { client: usize, bo: (usize, u32) },
    Map { client: usize, bo: (usize, u32), gpu: usize },
    Unmap { client: usize, bo: (usize, u32), gpu: usize },
    Export { client: usize, bo: (usize, u32) },
    Open { client: usize, export: usize },
    Close { client: usize, open: usize },
    Import { client: usize, gpu: usize, open: usize, place: u64 },
    End { client: usize },
}

fn op() -> impl Strategy<Value = Op> {
    let client = 0..CLIENTS;
    let gpu = 0..GPUS;
    let bo = || (0..GPUS, 0u32..5);
    prop_oneof![
        3 => (client.clone(), gpu.clone()).prop_map(|(client, gpu)| Op::Acquire { client, gpu }),
        6 => (client.clone(), gpu.clone(), 0..24u64, any::<bool>(), 0..8u64).prop_map(
            |(client, gpu, mib, is_vram, place)| Op::Alloc { client, gpu, mib, is_vram, place }
        ),
        3 => (client.clone(), bo()).prop_map(|(client, bo)| Op::Free { client, bo }),
        5 => (client.clone(), bo(), gpu.clone())
            .prop_map(|(client, bo, gpu)| Op::Map { client, bo, gpu }),
        2 => (client.clone(), bo(), gpu.clone())
            .prop_map(|(client, bo, gpu)| Op::Unmap { client, bo, gpu }),
        3 => (client.clone(), bo()).prop_map(|(client, bo)| Op::Export { client, bo }),
        3 => (client.clone(), 0..6usize).prop_map(|(client, export)| Op::Open { client, export }),
        2 => (client.clone(), 0..6usize).prop_map(|(client, open)| Op::Close { client, open }),
        3 => (client.clone(), gpu, 0..6usize, 0..8u64).prop_map(
            |(client, gpu, open, place)| Op::Import { client, gpu, open, place }
        ),
        1 => client.prop_map(|client| Op::End { client }),
    ]
}

/// Both models, and what the calls so far have made.
struct Pair {
    bench: Bench,
    reference: Reference,
    clients: Vec<(Caller, FileId)>,
    next_pid: i32,
    /// Exported objects: token of ours, number in the reference.
    exports: Vec<(u32, usize)>,
    /// Open dma-bufs by name: who, file, descriptor.
    opens: BTreeMap<usize, (usize, FileId, i32)>,
    next_open: usize,
}

impl Pair {
    fn new() -> Self {
        let mut pair = Self {
            bench: Bench::new(GPUS),
            reference: Reference::default(),
            clients: Vec::new(),
            next_pid: 100,
            exports: Vec::new(),
            opens: BTreeMap::new(),
            next_open: 0,
        };
        for client in 0..CLIENTS {
            let fresh = pair.fresh_client();
            pair.clients.push(fresh);
            pair.reference.add_client(client);
        }
        pair
    }

    fn fresh_client(&mut self) -> (Caller, FileId) {
        self.next_pid += 1;
        let caller = self.bench.client(self.next_pid);
        let kfd = self.bench.kfd(&caller);
        (caller, kfd)
    }

    fn call<T: bytemuck::Pod>(
        &mut self,
        client: usize,
        request: u32,
        args: &mut T,
    ) -> Result<(), Errno> {
        let (caller, kfd) = self.clients[client];
        self.bench.call(&caller, kfd, request, args).map(|_| ())
    }

    /// Carries out one call on both and compares the answers.
    fn step(&mut self, op: Op) {
        match op {
            Op::Acquire { client, gpu } => {
                let caller = self.clients[client].0;
                let render = self.bench.render(&caller, gpu);
                let drm_fd = self.bench.fd(&caller, render) as u32;
                let mut args = AcquireVmArgs { drm_fd, gpu_id: gpu_id(gpu) };
                let ours = self.call(client, ioc::ACQUIRE_VM, &mut args);
                assert_eq!(ours, self.reference.acquire(client, gpu));
            }
            Op::Alloc { client, gpu, mib, is_vram, place } => {
                let size = mib << 20;
                let va_addr = VA + place * VA_STEP;
                let flags = if is_vram { alloc::VRAM } else { alloc::GTT };
                let id = gpu_id(gpu);
                let mut args =
                    AllocMemoryOfGpuArgs { va_addr, size, gpu_id: id, flags, ..Default::default() };
                let ours = self.call(client, ioc::ALLOC_MEMORY_OF_GPU, &mut args);
                let object = Object { gpu, size_bytes: size, is_vram };
                let expected = self.reference.alloc(client, object, va_addr);
                assert_eq!(ours.map(|()| args.handle), expected.map(handle));
            }
            Op::Free { client, bo } => {
                let mut args = FreeMemoryOfGpuArgs { handle: handle(bo) };
                let ours = self.call(client, ioc::FREE_MEMORY_OF_GPU, &mut args);
                assert_eq!(ours, self.reference.free(client, bo));
            }
            Op::Map { client, bo, gpu } => self.map(client, bo, gpu),
            Op::Unmap { client, bo, gpu } => self.unmap(client, bo, gpu),
            Op::Export { client, bo } => {
                let mut args = ExportDmabufArgs { handle: handle(bo), ..Default::default() };
                let ours = self.call(client, ioc::EXPORT_DMABUF, &mut args);
                let expected = self.reference.export(client, bo);
                assert_eq!(ours, expected.map(|_| ()));
                self.exports.extend(expected.map(|object| (args.dmabuf_fd, object)));
            }
            Op::Open { client, export } => self.open(client, export),
            Op::Close { client, open } => self.close(client, open),
            Op::Import { client, gpu, open, place } => self.import(client, gpu, open, place),
            Op::End { client } => self.end(client),
        }
    }

    fn map(&mut self, client: usize, bo: (usize, u32), gpu: usize) {
        let caller = self.clients[client].0;
        let device_ids_array_ptr = self.bench.scratch(&caller, &[gpu_id(gpu)]);
        let mut args = MapMemoryToGpuArgs {
            handle: handle(bo),
            device_ids_array_ptr,
            n_devices: 1,
            n_success: 0,
        };
        let ours = self.call(client, ioc::MAP_MEMORY_TO_GPU, &mut args);
        assert_eq!(ours, self.reference.map(client, bo, gpu));
    }

    fn unmap(&mut self, client: usize, bo: (usize, u32), gpu: usize) {
        let caller = self.clients[client].0;
        let device_ids_array_ptr = self.bench.scratch(&caller, &[gpu_id(gpu)]);
        let mut args = UnmapMemoryFromGpuArgs {
            handle: handle(bo),
            device_ids_array_ptr,
            n_devices: 1,
            n_success: 0,
        };
        let ours = self.call(client, ioc::UNMAP_MEMORY_FROM_GPU, &mut args);
        assert_eq!(ours, self.reference.unmap(client, bo, gpu));
    }

    fn open(&mut self, client: usize, export: usize) {
        let Some(&(token, object)) = self.exports.get(export) else { return };
        let caller = self.clients[client].0;
        let name = self.next_open;
        self.next_open += 1;
        let ours = self.bench.open(&caller, DeviceNode::DmaBuf(buffer_of(token)));
        let expected = self.reference.open_dma_buf(client, object, name);
        assert_eq!(ours.map(|_| ()), expected);
        if let Ok(file) = ours {
            let fd = self.bench.fd(&caller, file);
            self.opens.insert(name, (client, file, fd));
        }
    }

    fn close(&mut self, client: usize, open: usize) {
        let Some((&name, &(_, file, fd))) =
            self.opens.iter().filter(|(_, open)| open.0 == client).nth(open)
        else {
            return;
        };
        self.opens.remove(&name);
        let space = self.clients[client].0.space;
        self.bench.world.close_fd(space, fd);
        self.bench.model.release(&mut self.bench.world, file);
        self.reference.close_dma_buf(client, name);
    }

    fn import(&mut self, client: usize, gpu: usize, open: usize, place: u64) {
        let found = self.opens.iter().filter(|(_, open)| open.0 == client).nth(open);
        let (name, fd) = found.map_or((usize::MAX, 9999), |(name, open)| (*name, open.2));
        let va_addr = VA + place * VA_STEP;
        let mut args = ImportDmabufArgs {
            va_addr,
            gpu_id: gpu_id(gpu),
            dmabuf_fd: fd as u32,
            ..Default::default()
        };
        let ours = self.call(client, ioc::IMPORT_DMABUF, &mut args);
        let expected = self.reference.import(client, gpu, name, va_addr);
        assert_eq!(ours.map(|()| args.handle), expected.map(handle));
    }

    /// A process exits: its files are closed, then its address space ends; another begins.
    fn end(&mut self, client: usize) {
        let (caller, kfd) = self.clients[client];
        let files: Vec<FileId> =
            self.opens.values().filter(|open| open.0 == client).map(|open| open.1).collect();
        self.opens.retain(|_, open| open.0 != client);
        for file in files.into_iter().chain([kfd]) {
            self.bench.model.release(&mut self.bench.world, file);
        }
        self.bench.end(&caller);
        self.reference.end(client);
        self.reference.add_client(client);
        self.clients[client] = self.fresh_client();
    }

    /// What all GPUs have free must be the same, and every reference must be somebody's.
    fn compare(&mut self) {
        self.bench.model.check().expect("every reference is somebody's");
        for gpu in 0..GPUS {
            let mut args = GetAvailableMemoryArgs { gpu_id: gpu_id(gpu), ..Default::default() };
            self.call(0, ioc::AVAILABLE_MEMORY, &mut args).expect("the GPU is there");
            let free = self.reference.free_bytes(gpu);
            assert_eq!(args.available, free - free % (2 << 20), "GPU {gpu}");
        }
    }
}

fn handle((gpu, number): (usize, u32)) -> u64 {
    u64::from(gpu_id(gpu)) << 32 | u64::from(number)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn model_answers_as_the_simplest_model_does(ops in prop::collection::vec(op(), 1..120)) {
        let mut pair = Pair::new();
        for op in ops {
            pair.step(op);
            pair.compare();
        }
        for client in 0..CLIENTS {
            pair.end(client);
        }
        pair.compare();
        prop_assert_eq!(pair.bench.world.pages_held(), 0);
    }
}
