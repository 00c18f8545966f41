//! Plans of device files, from real images of two processes on two GPUs and from such images with
//! something changed. GPUs of this host are folders, laid out as the driver's.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use criu_image::record::{
    CriuDmabufNode, CriuRenderNode, DrmBoEntry, ExtFileEntry, FdTypes, FdinfoEntry, FileEntry,
    KfdDeviceEntry, ThawGpuEntry, ThawGpuFile,
};
use criu_image::{Checkpoint, FileId};
use gpu_kfd::{GpuId, HostGpuId, Topology};

use super::super::{Options, PlanError};
use super::{DevicesPlan, GemSource, Work, plan};
use crate::contract::{Edge, EdgeReason, StepId, StepKind};
use crate::host::Host;
use crate::refusal::Refusal;

const PARENT: u32 = 28866;
const CHILD: u32 = 28870;
const PARENT_KFD: FileId = FileId(19);
/// The bulk, which is not committed: only sizes matter.
const BULK: [(&str, u64); 6] = [
    ("amdgpu-pages-19-5a01.img", 1_081_352),
    ("amdgpu-pages-19-5a02.img", 1_048_584),
    ("amdgpu-pages-32-5a01.img", 1_081_352),
    ("amdgpu-pages-32-5a02.img", 1_048_584),
    ("pages-1.img", 2_334_720),
    ("pages-2.img", 2_334_720),
];

/// Images of two processes, each with `/dev/kfd` and the render nodes of two GPUs.
fn two_processes() -> Checkpoint {
    let dir = tempfile::tempdir().expect("a folder");
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../criu-image/tests/fixtures");
    for entry in fs::read_dir(fixture.join("gpu-tree")).expect("it is there") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("room");
    }
    for (name, len_bytes) in BULK {
        fs::File::create(dir.path().join(name)).expect("room").set_len(len_bytes).expect("room");
    }
    Checkpoint::open(dir.path()).expect("it is whole")
}

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("room");
    fs::write(path, text).expect("room");
}

fn properties(device: &KfdDeviceEntry, minor: u32) -> String {
    let pairs: [(&str, u64); 25] = [
        ("cpu_cores_count", device.cpu_cores_count.into()),
        ("simd_count", device.simd_count.into()),
        ("mem_banks_count", device.mem_banks_count.into()),
        ("caches_count", device.caches_count.into()),
        ("io_links_count", device.io_links_count.into()),
        ("max_waves_per_simd", device.max_waves_per_simd.into()),
        ("lds_size_in_kb", device.lds_size_in_kb.into()),
        ("num_gws", device.num_gws.into()),
        ("wave_front_size", device.wave_front_size.into()),
        ("array_count", device.array_count.into()),
        ("simd_arrays_per_engine", device.simd_arrays_per_engine.into()),
        ("cu_per_simd_array", device.cu_per_simd_array.into()),
        ("simd_per_cu", device.simd_per_cu.into()),
        ("max_slots_scratch_cu", device.max_slots_scratch_cu.into()),
        ("vendor_id", device.vendor_id.into()),
        ("device_id", device.device_id.into()),
        ("hive_id", device.hive_id),
        ("num_sdma_engines", device.num_sdma_engines.into()),
        ("num_sdma_xgmi_engines", device.num_sdma_xgmi_engines.into()),
        ("num_sdma_queues_per_engine", device.num_sdma_queues_per_engine.into()),
        ("num_cp_queues", device.num_cp_queues.into()),
        ("fw_version", device.fw_version.into()),
        ("capability", device.capability.into()),
        ("sdma_fw_version", device.sdma_fw_version.into()),
        ("drm_render_minor", minor.into()),
    ];
    pairs.iter().map(|(name, value)| format!("{name} {value}\n")).collect()
}

/// A host with GPUs like the first one of the checkpoint, with these ids and minors.
fn host(checkpoint: &Checkpoint, gpus: &[(u32, u32)]) -> Host {
    let devices = &checkpoint.gpu.kfds[&PARENT_KFD].entry.device_entries;
    let like = devices.iter().find(|device| device.gpu_id != 0).expect("a GPU");
    let cpu = devices.iter().find(|device| device.gpu_id == 0).expect("a CPU");
    let root = tempfile::tempdir().expect("a folder");
    put(&root.path().join("generation_id"), "1\n");
    put(&root.path().join("system_properties"), "platform_oem 0\nplatform_id 0\nplatform_rev 0\n");
    let nodes = std::iter::once((0, 0)).chain(gpus.iter().copied());
    for (index, (id, minor)) in nodes.enumerate() {
        let node = root.path().join(format!("nodes/{index}"));
        put(&node.join("gpu_id"), &format!("{id}\n"));
        put(&node.join("name"), "gpu\n");
        let device = if id == 0 { cpu } else { like };
        put(&node.join("properties"), &properties(device, minor));
        for folder in ["mem_banks", "caches", "io_links", "p2p_links"] {
            fs::create_dir_all(node.join(folder)).expect("room");
        }
        let ends: Vec<usize> = if id == 0 { (1..=gpus.len()).collect() } else { vec![0] };
        for (link, to) in ends.into_iter().enumerate() {
            let text = format!("type 2\nnode_from {index}\nnode_to {to}\nweight 20\n");
            put(&node.join(format!("io_links/{link}/properties")), &text);
        }
        if id != 0 {
            let text = format!("heap_type 1\nsize_in_bytes {}\n", like.vram_size);
            put(&node.join("mem_banks/0/properties"), &text);
        }
    }
    let mut host = Host::probe().expect("/proc is mounted");
    host.gpus = Some(Topology::read_without_caches(root.path()).expect("a topology"));
    host
}

const HERE: [(u32, u32); 2] = [(0x7b01, 131), (0x7b02, 130)];

fn planned(checkpoint: &Checkpoint, host: &Host) -> (DevicesPlan, Vec<Refusal>) {
    let mut refusals = Vec::new();
    let options = Options::default();
    let plan = plan(checkpoint, host, &options, &mut refusals).expect("GPUs fit");
    (plan, refusals)
}

fn good(checkpoint: &Checkpoint, host: &Host) -> DevicesPlan {
    let (plan, refusals) = planned(checkpoint, host);
    assert_eq!(refusals, []);
    plan
}

fn refused(checkpoint: &Checkpoint, text: &str) {
    let (_, refusals) = planned(checkpoint, &host(checkpoint, &HERE));
    let texts: Vec<String> = refusals.iter().map(ToString::to_string).collect();
    assert!(texts.iter().any(|it| it.contains(text)), "{text:?} is none of {texts:#?}");
}

/// Kind, pid, position and path of each step.
fn steps(plan: &DevicesPlan) -> Vec<(StepKind, i32, usize, &str)> {
    let steps = plan.outline.steps.iter();
    steps.map(|step| (step.kind, step.pid, step.position, step.path.as_str())).collect()
}

#[test]
fn two_processes_on_two_gpus_are_six_ordered_steps() {
    let checkpoint = two_processes();
    let plan = good(&checkpoint, &host(&checkpoint, &HERE));
    let of = |pid| {
        [
            (StepKind::Kfd, pid, 0, "/dev/kfd"),
            (StepKind::Render, pid, 1, "/dev/dri/renderD131"),
            (StepKind::Render, pid, 2, "/dev/dri/renderD130"),
        ]
    };
    assert_eq!(steps(&plan), [of(PARENT as i32), of(CHILD as i32)].concat());
    assert_eq!(plan.outline.edges, []);
    let pairs = [(GpuId(0x5a01), HostGpuId(0x7b01)), (GpuId(0x5a02), HostGpuId(0x7b02))];
    assert_eq!(plan.outline.gpus, pairs);
    let bytes: Vec<u64> = plan.outline.processes.iter().map(|process| process.gpu_bytes).collect();
    assert_eq!(bytes, [1_081_352 + 1_048_584 - 16; 2]);
}

/// Puts a device file into the table of a process.
fn add(checkpoint: &mut Checkpoint, pid: u32, id: u32, fd: u32) {
    let process = checkpoint.processes.iter().find(|process| process.pid == pid);
    let table = process.and_then(|process| process.body.as_ref()).expect("live").ids.files_id;
    let entry = FdinfoEntry { id, fd, r#type: FdTypes::Ext as i32, ..Default::default() };
    checkpoint.fd_tables.get_mut(&table).expect("a table").push(entry);
    let ext = Some(ExtFileEntry { id, ..Default::default() });
    let file = FileEntry { id, r#type: FdTypes::Ext as i32, ext, ..Default::default() };
    checkpoint.files.insert(FileId(id), file);
}

fn gem(handle: u32, is_import: u32) -> DrmBoEntry {
    // Empty, so that no contents are needed.
    DrmBoEntry { handle, is_import, alignment: 1, preferred_domains: 4, ..Default::default() }
}

fn render(id: u32, bo_entries: Vec<DrmBoEntry>) -> CriuRenderNode {
    let num_of_bos = bo_entries.len() as u64;
    CriuRenderNode { gpu_id: 0x5a01, id, drm_render_minor: 128, num_of_bos, bo_entries }
}

/// Our own image, with every file that has no buffers of its own listed here.
fn state(checkpoint: &mut Checkpoint, objects: &[(u32, u32, &[u64])]) {
    let gpu = &mut checkpoint.gpu;
    let mut files: BTreeMap<u32, ThawGpuFile> = BTreeMap::new();
    let mut next = 1000;
    for (id, kfd) in &gpu.kfds {
        let numbers = (next..).take(kfd.entry.bo_entries.len()).collect();
        next += kfd.entry.bo_entries.len() as u64;
        let file =
            ThawGpuFile { id: id.0, owner: kfd.entry.pid, objects: numbers, ..Default::default() };
        files.insert(id.0, file);
    }
    for (id, owner) in [(21, PARENT), (22, PARENT), (34, CHILD), (35, CHILD)] {
        let file = ThawGpuFile { id, owner, compute: 1, ..Default::default() };
        files.insert(id, file);
    }
    for &(id, owner, objects) in objects {
        let entry = files.entry(id).or_default();
        (entry.id, entry.owner, entry.objects) = (id, owner, objects.to_vec());
    }
    let devices = gpu.kfds[&PARENT_KFD].entry.device_entries.clone();
    let files = files.into_values().collect();
    gpu.state = Some(ThawGpuEntry { version: 1, devices, files });
}

#[test]
fn buffer_that_the_child_imports_is_an_edge_from_the_step_that_makes_it() {
    let mut checkpoint = two_processes();
    for (pid, id, handle) in [(PARENT, 90, 3), (CHILD, 91, 1)] {
        add(&mut checkpoint, pid, id, 60);
        let node = render(id, vec![gem(handle, (pid == CHILD).into())]);
        checkpoint.gpu.renders.insert(FileId(id), node);
    }
    add(&mut checkpoint, CHILD, 92, 61);
    checkpoint.gpu.dmabufs.insert(FileId(92), CriuDmabufNode { gem_handle: 1 });
    state(&mut checkpoint, &[(90, PARENT, &[7]), (91, CHILD, &[7]), (92, CHILD, &[7])]);
    let plan = good(&checkpoint, &host(&checkpoint, &HERE));
    let reason = EdgeReason::Buffer(7);
    let edge = |to| Edge { from: StepId(3), to: StepId(to), reason: reason.clone() };
    assert_eq!(plan.outline.edges, [edge(7), edge(8)]);
    assert_eq!(plan.outline.step(StepId(8)).kind, StepKind::DmaBuf);
    assert!(plan.processes[0][3].exports.contains(&reason));
    let Work::Render(work) = &plan.processes[1][3].work else { panic!("{:?}", plan.processes) };
    assert!(matches!(work.buffers[0].source, GemSource::Import(_)));
    assert_eq!(plan.outline.assumptions, [""; 0], "our own image says all");
}

#[test]
fn without_our_image_offsets_tell_what_is_shared() {
    let mut checkpoint = two_processes();
    let at = |offset, handle, is_import| DrmBoEntry { offset, ..gem(handle, is_import) };
    for (pid, id, bos) in [
        (PARENT, 90, vec![at(0x10_0000, 1, 0), at(0x20_0000, 2, 0)]),
        // The first is said to be an import, for its handle is known; the second is one.
        (CHILD, 91, vec![at(0x30_0000, 1, 1), at(0x20_0000, 5, 0)]),
    ] {
        add(&mut checkpoint, pid, id, 60);
        checkpoint.gpu.renders.insert(FileId(id), render(id, bos));
    }
    let plan = good(&checkpoint, &host(&checkpoint, &HERE));
    assert_eq!(plan.outline.edges.len(), 1);
    let Work::Render(work) = &plan.processes[1][3].work else { panic!("a render node") };
    assert!(matches!(work.buffers[0].source, GemSource::Make { .. }), "an alias by its handle");
    assert!(matches!(work.buffers[1].source, GemSource::Import(_)));
    let said = &plan.outline.assumptions;
    assert!(said.len() == 1 && said[0].contains("buffer 1 of amdgpu-renderD-91.img"), "{said:?}");
}

#[test]
fn memory_of_two_kfd_states_is_refused_since_the_driver_would_make_two_of_it() {
    let mut checkpoint = two_processes();
    state(&mut checkpoint, &[]);
    let files = &mut checkpoint.gpu.state.as_mut().expect("just made").files;
    let shared = files[0].objects[0];
    files.iter_mut().find(|file| file.id == 32).expect("listed").objects[0] = shared;
    refused(&checkpoint, "shared by the KFD states of processes 28866 and 28870");
}

#[test]
fn render_node_below_the_kfd_descriptor_still_comes_after_it() {
    let mut checkpoint = two_processes();
    for entry in checkpoint.fd_tables.values_mut().flatten().filter(|entry| entry.id == 22) {
        entry.fd = 2;
    }
    let plan = good(&checkpoint, &host(&checkpoint, &HERE));
    let kinds: Vec<(StepKind, u32)> =
        plan.outline.steps[..3].iter().map(|step| (step.kind, step.file)).collect();
    assert_eq!(kinds, [(StepKind::Kfd, 19), (StepKind::Render, 22), (StepKind::Render, 21)]);
}

#[test]
fn gpus_beyond_those_of_the_checkpoint_are_told_to_the_driver_under_new_ids() {
    let checkpoint = two_processes();
    let more = [HERE[0], HERE[1], (0x5a01, 132), (0x7b04, 133)];
    let plan = good(&checkpoint, &host(&checkpoint, &more));
    let Work::Kfd(Some(state)) = &plan.processes[0][0].work else { panic!("a state is restored") };
    let mut ids: Vec<(u32, u32)> =
        state.devices.iter().map(|device| (device.user.0, device.here.0)).collect();
    assert_eq!(ids.len(), 4);
    ids.sort_unstable();
    ids.dedup_by_key(|(user, _)| *user);
    assert_eq!(ids.len(), 4, "no id stands for two GPUs: {ids:x?}");
    let before = checkpoint.gpu.kfds[&PARENT_KFD].entry.priv_data.len();
    assert_eq!(state.private.len(), before + 2 * 8, "a record for each GPU more");
}

#[test]
fn kfd_without_buffers_is_only_opened() {
    let mut checkpoint = two_processes();
    let kfd = checkpoint.gpu.kfds.get_mut(&PARENT_KFD).expect("it is there");
    kfd.entry.bo_entries.clear();
    kfd.entry.num_of_bos = 0;
    kfd.entry.num_of_objects = 0;
    let plan = good(&checkpoint, &host(&checkpoint, &HERE));
    assert!(matches!(plan.processes[0][0].work, Work::Kfd(None)));
    let Work::Render(work) = &plan.processes[0][1].work else { panic!("a render node") };
    assert_eq!(work.compute, None, "there is no state that needs its address space");
}

#[test]
fn render_nodes_without_kfd_need_no_kfd_image() {
    let mut checkpoint = two_processes();
    state(&mut checkpoint, &[]);
    checkpoint.gpu.kfds.clear();
    for table in checkpoint.fd_tables.values_mut() {
        table.retain(|entry| ![19, 32].contains(&entry.id));
    }
    checkpoint.files.retain(|id, _| ![19, 32].contains(&id.0));
    let mut reference = two_processes();
    state(&mut reference, &[]);
    let plan = good(&checkpoint, &host(&reference, &HERE));
    assert_eq!(plan.outline.steps.len(), 4);
    assert_eq!(plan.outline.steps[0].path, "/dev/dri/renderD131");
}

#[test]
fn shared_device_file_is_restored_once_and_received_by_the_other() {
    let mut checkpoint = two_processes();
    add(&mut checkpoint, CHILD, 19, 50);
    let plan = good(&checkpoint, &host(&checkpoint, &HERE));
    let last = plan.outline.steps.last().expect("a step");
    assert_eq!((last.kind, last.pid, last.file), (StepKind::Receive, CHILD as i32, 19));
    let reason = EdgeReason::Descriptor(19);
    assert_eq!(plan.outline.edges, [Edge { from: StepId(0), to: StepId(6), reason }]);
}

#[test]
fn host_without_gpus_is_an_error_of_its_own() {
    let checkpoint = two_processes();
    let host = Host::probe().expect("/proc is mounted");
    let result = plan(&checkpoint, &host, &Options::default(), &mut Vec::new());
    assert!(matches!(result, Err(PlanError::NoGpus)));
}

#[test]
fn one_gpu_too_few_is_refused() {
    let checkpoint = two_processes();
    let host = host(&checkpoint, &HERE[..1]);
    let result = plan(&checkpoint, &host, &Options::default(), &mut Vec::new());
    let Err(error @ PlanError::Gpus(_)) = result else { panic!("{result:?}") };
    assert!(error.to_string().contains("2 GPUs saved, this host has 1"), "{error}");
}

#[test]
fn mapping_is_led_to_its_buffer_and_one_of_nothing_is_refused() {
    let checkpoint = two_processes();
    let plan = good(&checkpoint, &host(&checkpoint, &HERE));
    let body = checkpoint.processes[0].body.as_ref().expect("live");
    let devices: Vec<_> = body.mm.vmas.iter().filter(|vma| super::is_device(vma)).collect();
    assert!(!devices.is_empty());
    for vma in &devices {
        let parts = plan.map.parts(&checkpoint, PARENT, vma).expect("a buffer");
        let len: u64 = parts.iter().map(|part| part.len_bytes).sum();
        assert_eq!(len, vma.end - vma.start);
        assert!(parts.iter().all(|part| part.buffer.file == PARENT_KFD));
    }
    let mut wrong = *devices[0];
    wrong.pgoff = 0x7777_0000_0000;
    let refusal = plan.map.parts(&checkpoint, PARENT, &wrong).expect_err("nothing is there");
    assert!(refusal.to_string().contains("where no buffer of it is"), "{refusal}");
}
