//! The crate gpu-kfd on a node: the same calls as on hardware, without the preload library.

use std::fs;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use gpu_kfd::uapi::amdgpu::{GemCreateIn, create, domain};
use gpu_kfd::uapi::criu::BoBucket;
use gpu_kfd::uapi::kfd::{AllocMemoryOfGpuArgs, alloc};
use gpu_kfd::{
    BoContents, BoMapping, ContentsError, DeviceKind, HostContents, KFD_PATH, KfdFd, RenderNode,
    RestoreDevice, SdmaEngine, Topology, UserMap, host_sees_vram, match_gpus,
};
use kfd_emulator::{Node, NodeConfig, NodeFiles, Product};
use nix::errno::Errno;

use crate::support::client::{Client, listen, role, say};
use crate::support::live;

const MIB: u64 = 1 << 20;
const VA: u64 = 0x1_0000_0000;

/// A node with the real driver.
fn driver(turn: impl FnOnce(&mut NodeConfig)) -> Node {
    let mut config = NodeConfig::new(Product::by_name("gfx90a").expect("a product"), 2);
    config.every_gpu(|gpu| gpu.vram_bytes = Some(256 * MIB));
    turn(&mut config);
    let topology = config.topology().expect("a good configuration");
    Node::start(NodeFiles::of(&topology), Box::new(topology.model())).expect("a node starts")
}

/// A process with the address spaces of all GPUs.
struct Process {
    kfd: KfdFd,
    gpus: Vec<(u32, u32)>,
    renders: Vec<RenderNode>,
}

impl Process {
    fn open() -> Self {
        let topology = Topology::read(Topology::SYSFS).expect("a topology");
        let gpus: Vec<(u32, u32)> =
            topology.gpus().map(|(id, node)| (id.0, node.properties.drm_render_minor)).collect();
        let open = |minor| RenderNode::open(minor).expect("it is there");
        let renders = gpus.iter().map(|(_, minor)| open(*minor)).collect();
        Self { kfd: KfdFd::open().expect("it is there"), gpus, renders }
    }

    fn acquire(mut self) -> Self {
        for ((gpu_id, _), render) in self.gpus.iter().zip(&self.renders) {
            self.kfd.acquire_vm(*gpu_id, render.number()).expect("nobody has it");
        }
        self
    }

    fn alloc(&mut self, gpu: usize, va_addr: u64, size: u64, flags: u32) -> AllocMemoryOfGpuArgs {
        let gpu_id = self.gpus[gpu].0;
        let wanted = AllocMemoryOfGpuArgs { va_addr, size, gpu_id, flags, ..Default::default() };
        self.kfd.alloc_memory(&wanted).expect("there is room")
    }

    fn render(&self, gpu: usize) -> RenderNode {
        RenderNode::open(self.gpus[gpu].1).expect("it is there")
    }
}

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|index| (index / 7) as u8 ^ (index >> 12) as u8 ^ seed).collect()
}

#[test]
fn device_files_are_told_apart_without_device_numbers() {
    live("library::device_files_are_told_apart_without_device_numbers", || {
        let node = driver(|config| config.first_render_minor = 140);
        node.enter(|| {
            let mut process = Process::open().acquire();
            let bo = process.alloc(0, VA, MIB, alloc::VRAM);
            let dma_buf = process.kfd.export_dmabuf(bo.handle, 0).expect("it can be exported");
            let kind = |file| DeviceKind::of(file).expect("it can be examined");
            assert_eq!(kind(process.kfd.as_fd()), Some(DeviceKind::Kfd));
            let render = Some(DeviceKind::Render { minor: 141 });
            assert_eq!(kind(process.renders[1].as_fd()), render);
            assert_eq!(kind(dma_buf.as_fd()), Some(DeviceKind::DmaBuf));
            assert_eq!(kind(std::io::stdin().as_fd()), None);
        })
        .expect("inside");
    });
}

/// Contents through the host and through the copy engine are the same bytes.
fn compare_both_ways(process: &Process, gpu: usize, dma_buf: &OwnedFd, size: usize) {
    let threads = NonZeroUsize::new(2).expect("not 0");
    let (first, second) = (pattern(size, 1), pattern(size, 99));
    let mut engine = SdmaEngine::new(process.render(gpu), MIB as usize).expect("an engine");
    let mut host_render = process.render(gpu);
    let mut host = HostContents::map(&mut host_render, dma_buf.as_fd(), threads).expect("visible");
    let mut sdma = engine.attach(dma_buf.as_fd()).expect("room");
    assert_eq!((host.size_bytes(), sdma.size_bytes()), (size as u64, size as u64));
    host.write(0, &first).expect("in bounds");
    let mut read = vec![0; size];
    sdma.read(0, &mut read).expect("in bounds");
    assert!(read == first, "what the host wrote, the engine reads");
    // At odd places, over the ends of the buffer that it is copied through.
    let (from, to) = (4097, size - 3);
    sdma.write(from as u64, &second[from..to]).expect("in bounds");
    host.read(0, &mut read).expect("in bounds");
    assert!(read[..from] == first[..from] && read[to..] == first[to..], "the rest is untouched");
    assert!(read[from..to] == second[from..to], "what the engine wrote, the host reads");
    let beyond = sdma.write(size as u64 - 1, &[1, 2]).expect_err("it would leave the buffer");
    assert!(matches!(beyond, ContentsError::Bo(_)), "{beyond}");
}

#[test]
fn contents_are_the_same_through_the_host_and_through_the_copy_engine() {
    live("library::contents_are_the_same_through_the_host_and_through_the_copy_engine", || {
        let node = driver(|_| {});
        node.enter(|| {
            let mut process = Process::open().acquire();
            for (gpu, memory) in [(0, alloc::VRAM | alloc::PUBLIC), (1, alloc::GTT)] {
                let size = 5 * MIB + 8192;
                let va = VA + gpu as u64 * 0x1000_0000;
                let bo = process.alloc(gpu, va, size, memory | alloc::WRITABLE);
                let dma_buf = process.kfd.export_dmabuf(bo.handle, 0).expect("an export");
                compare_both_ways(&process, gpu, &dma_buf, size as usize);
            }
        })
        .expect("inside");
    });
}

#[test]
fn memory_that_the_host_cannot_map_is_reached_by_the_copy_engine() {
    live("library::memory_that_the_host_cannot_map_is_reached_by_the_copy_engine", || {
        let node = driver(|config| {
            config.every_gpu(|gpu| gpu.vram_public_bytes = Some(64 * MIB));
        });
        node.enter(|| {
            let mut process = Process::open().acquire();
            let mut render = process.render(0);
            assert!(!host_sees_vram(&mut render).expect("it answers"));
            let bo = process.alloc(0, VA, 2 * MIB, alloc::VRAM);
            let dma_buf = process.kfd.export_dmabuf(bo.handle, 0).expect("an export");
            let threads = NonZeroUsize::MIN;
            let refused = HostContents::map(&mut render, dma_buf.as_fd(), threads);
            let Err(ContentsError::Device(error)) = refused else { panic!("it is not visible") };
            assert_eq!(error.errno(), Some(Errno::EPERM));
            let mut engine = SdmaEngine::new(process.render(0), 1 << 16).expect("an engine");
            let mut contents = engine.attach(dma_buf.as_fd()).expect("room");
            let bytes = pattern(2 * MIB as usize, 5);
            contents.write(0, &bytes).expect("in bounds");
            let mut read = vec![0; bytes.len()];
            contents.read(0, &mut read).expect("in bounds");
            assert!(read == bytes);
        })
        .expect("inside");
    });
}

#[test]
fn buffers_of_a_render_node_are_listed_shared_and_renumbered() {
    live("library::buffers_of_a_render_node_are_listed_shared_and_renumbered", || {
        let node = driver(|_| {});
        node.enter(|| {
            let process = Process::open();
            let (mut first, mut second) = (process.render(0), process.render(0));
            let made = GemCreateIn {
                bo_size: MIB,
                alignment: 4096,
                domains: domain::VRAM,
                domain_flags: create::CPU_ACCESS_REQUIRED,
            };
            let handle = first.gem_create(&made).expect("room");
            let dma_buf = first.prime_export(handle).expect("an export");
            let imported = second.prime_import(dma_buf.as_fd()).expect("an import");
            assert_eq!(second.prime_import(dma_buf.as_fd()).expect("again"), imported);
            second.gem_change_handle(imported, 77).expect("77 is free");
            let listed = second.gem_list_handles().expect("a list");
            assert_eq!(listed.iter().map(|entry| entry.gem_handle).collect::<Vec<_>>(), [77]);
            assert_eq!(listed[0].size, MIB);
            let map = |render: &mut RenderNode, handle| {
                let offset = render.gem_mmap(handle).expect("it is visible");
                BoMapping::map(render.as_fd(), Path::new("render"), offset, MIB).expect("a mapping")
            };
            let (here, there) = (map(&mut first, handle), map(&mut second, 77));
            here.store_word(4096, 0x1234_5678_9abc_def0).expect("in bounds");
            assert_eq!(there.load_word(4096).expect("in bounds"), 0x1234_5678_9abc_def0);
        })
        .expect("inside");
    });
}

/// As a client: makes buffers, checkpoints itself, writes down what a restore needs.
fn be_saved(file: &Path) {
    let mut process = Process::open().acquire();
    let vram = process.alloc(0, VA, MIB, alloc::VRAM | alloc::PUBLIC | alloc::WRITABLE);
    let gtt = process.alloc(1, VA + MIB, 8192, alloc::GTT | alloc::WRITABLE);
    let ids: Vec<u32> = process.gpus.iter().map(|(id, _)| *id).collect();
    process.kfd.map_memory(vram.handle, &ids).expect("free addresses");
    process.kfd.map_memory(gtt.handle, &ids[1..]).expect("free addresses");
    process.kfd.require_checkpoint().expect("the node can");
    let info = process.kfd.process_info().expect("it uses GPUs");
    assert_eq!((info.devices, info.bos, info.pid), (2, 2, std::process::id()));
    let saved = process.kfd.checkpoint(&info).expect("it is stopped");
    assert!(saved.contents.iter().all(Option::is_some), "both kinds have contents");
    process.kfd.unpause().expect("it is stopped");
    process.kfd.unpause().expect_err("it runs");
    let bos: &[u8] = bytemuck::cast_slice(&saved.bos);
    let parts = [bytemuck::cast_slice(&ids), bos, &saved.private];
    let lengths = parts.map(|part: &[u8]| (part.len() as u64).to_le_bytes()).concat();
    let objects = u64::from(info.objects).to_le_bytes().to_vec();
    fs::write(file, [objects, lengths, parts.concat()].concat()).expect("a file");
}

/// As a client of another node: becomes the saved process.
fn be_restored(file: &Path) {
    let bytes = fs::read(file).expect("it was written");
    let word = |at: usize| {
        u64::from_le_bytes(bytes[8 * at..8 * at + 8].try_into().expect("8 bytes")) as usize
    };
    let (objects, lengths) = (word(0), [word(1), word(2), word(3)]);
    let (ids, rest) = bytes[32..].split_at(lengths[0]);
    let (bos, private) = rest.split_at(lengths[1]);
    assert_eq!(private.len(), lengths[2]);
    let ids: Vec<u32> = ids.chunks(4).map(bytemuck::pod_read_unaligned).collect();
    let bos: Vec<BoBucket> =
        bos.chunks(size_of::<BoBucket>()).map(bytemuck::pod_read_unaligned).collect();
    let mut process = Process::open();
    let saved = ids.iter().zip(&process.gpus).zip(&process.renders);
    let devices: Vec<RestoreDevice> = saved
        .map(|((user_gpu_id, here), render)| {
            assert_ne!(*user_gpu_id, here.0, "this node has other ids");
            let render = render.number();
            RestoreDevice { user_gpu_id: *user_gpu_id, actual_gpu_id: here.0, render }
        })
        .collect();
    let pid = std::process::id();
    process.kfd.resume(pid).expect_err("nothing was restored");
    let restored = process.kfd.restore(&devices, &bos, private, objects as u32);
    let restored = restored.expect("this process is fresh");
    assert!(restored.iter().all(|bo| bo.contents.is_some()));
    process.kfd.resume(pid).expect("it was restored");
    // Calls take the ids of the first launch from now on.
    for (bo, bucket) in restored.iter().zip(&bos) {
        assert_ne!(bo.mmap_offset, bucket.offset, "offsets are not given out twice");
    }
    let handle = u64::from(ids[0]) << 32;
    process.kfd.free_memory(handle).expect_err("it is mapped as it was");
    process.kfd.unmap_memory(handle, &ids).expect("mapped to both, as it was");
    process.kfd.free_memory(handle).expect("mapped no more");
}

#[test]
fn process_is_saved_on_one_node_and_restored_on_another() {
    const NAME: &str = "library::process_is_saved_on_one_node_and_restored_on_another";
    live(NAME, || {
        if let Some(role) = role() {
            let file = listen().expect("the test says where");
            let act = if role == "saved" { be_saved } else { be_restored };
            act(Path::new(&file));
            return say("done");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("saved");
        for (role, seed) in [("saved", 0), ("restored", 3)] {
            let node = driver(|config| config.seed = seed);
            let mut client = Client::start(&node, NAME, role);
            assert_eq!(client.ask(&file.display().to_string()), "done", "{role}");
            client.finish();
        }
    });
}

#[test]
fn host_of_the_same_kind_is_matched_though_its_ids_differ() {
    live("library::host_of_the_same_kind_is_matched_though_its_ids_differ", || {
        let read = |node: &Node| {
            node.enter(|| Topology::read(Topology::SYSFS)).expect("inside").expect("a topology")
        };
        let (old, new) = (driver(|_| {}), driver(|config| config.seed = 5));
        let saved = gpu_kfd::SavedTopology::of_host(&read(&old)).expect("it can be saved");
        let host = read(&new);
        let found = match_gpus(&saved, &host, Default::default(), &UserMap::default());
        found.expect("the same product");
        let other = driver(|config| config.every_gpu(|gpu| gpu.vram_bytes = Some(128 * MIB)));
        let refused = match_gpus(&saved, &read(&other), Default::default(), &UserMap::default());
        let table = refused.expect_err("less memory").to_string();
        assert!(table.contains("vram_size"), "{table}");
        assert!(Path::new(KFD_PATH).is_absolute());
    });
}
