//! GPU state as upstream's images, and beside them our own with what those cannot say.

use std::collections::{BTreeMap, BTreeSet};

use criu_image::record::{
    CriuDmabufNode, CriuKfd, CriuRenderNode, DrmBoEntry, DrmVmEntry, KfdBoEntry, ThawGpuEntry,
    ThawGpuFile,
};
use criu_image::{
    FileId, GPU_STATE_VERSION, ImageBuilder, ImageKind, drm_pages_name, gpu_image, kfd_pages_name,
};
use gpu_kfd::uapi::amdgpu::{GemVmEntry, domain};
use gpu_kfd::uapi::criu::PRIVATE_VERSION;
use gpu_kfd::uapi::kfd::alloc;

use super::super::DumpError;
use super::super::staging::Folder;
use super::super::steps::Steps;
use super::contents::{Image, Part};
use super::kfd::{KfdFile, KfdState};
use super::render::{GemBuffer, RenderFile};
use super::{GpuState, topology};

/// Memory that libhsakmt shares between processes; the plugin of CRIU 4.2 saves its size and its
/// first word.
const HSAKMT_SHARED: &str = "/dev/shm/hsakmt_shared_mem";

/// All images of contents that are to be written.
pub(super) fn contents(gpu: &GpuState) -> Result<Vec<Image<'_>>, DumpError> {
    let mut images = Vec::new();
    for kfd in &gpu.kfds {
        let Some(state) = &kfd.state else { continue };
        // Upstream's restore wants a file for each GPU, also where there are no contents.
        let mut parts: BTreeMap<u32, Vec<Part<'_>>> = BTreeMap::new();
        for device in &state.devices {
            parts.insert(device.user_gpu_id, Vec::new());
        }
        for (bo, dmabuf) in state.bos.iter().zip(&state.contents) {
            let Some(dmabuf) = dmabuf else { continue };
            let is_vram = bo.alloc_flags & alloc::VRAM != 0;
            let part = Part { dmabuf, size_bytes: bo.size, is_vram };
            parts.entry(bo.gpu_id).or_default().push(part);
        }
        for (user, parts) in parts {
            let (name, minor) = (kfd_pages_name(FileId(kfd.id), user), gpu.minor_of(kfd, user)?);
            images.push(Image { name, minor, pid: kfd.owner, parts, also: Vec::new() });
        }
    }
    // Memory that several files have is read once. Upstream's restore wants it from each of them.
    let mut known: BTreeMap<u64, usize> = BTreeMap::new();
    for render in &gpu.renders {
        for (index, buffer) in render.buffers.iter().enumerate() {
            let name = drm_pages_name(FileId(render.id), render.minor, index);
            let number = gpu.sharing.number(render.id, index);
            if let Some(&first) = known.get(&number) {
                images[first].also.push(name);
                continue;
            }
            known.insert(number, images.len());
            let is_vram = buffer.entry.preferred_domains & domain::VRAM != 0;
            let size_bytes = buffer.entry.size;
            let parts = vec![Part { dmabuf: &buffer.dmabuf, size_bytes, is_vram }];
            let (minor, pid, also) = (render.minor, render.owner, Vec::new());
            images.push(Image { name, minor, pid, parts, also });
        }
    }
    Ok(images)
}

/// Writes all records.
pub(super) fn records(gpu: &GpuState, folder: &Folder, steps: &Steps) -> Result<(), DumpError> {
    let (shared_size, shared_magic) = hsakmt_shared();
    for kfd in &gpu.kfds {
        steps.next("write the image of a KFD file")?;
        let mut entry = match &kfd.state {
            Some(state) => state_of_kfd(gpu, kfd, state),
            None => empty_kfd(),
        };
        entry.pid = kfd.owner as u32;
        (entry.shared_mem_size, entry.shared_mem_magic) = (shared_size, shared_magic);
        folder.put(&ImageKind::AmdgpuKfd.file_name(kfd.id.into()), &gpu_image(&entry))?;
    }
    for render in &gpu.renders {
        steps.next("write the image of a render node")?;
        let entry = render_node(gpu, render);
        folder.put(&ImageKind::AmdgpuRender.file_name(render.id.into()), &gpu_image(&entry))?;
    }
    for dmabuf in &gpu.dmabufs {
        steps.next("write the image of a dma-buf")?;
        let gem_handle = gpu.sharing.upstream_handle(dmabuf.memory, true);
        let entry = CriuDmabufNode { gem_handle };
        folder.put(&format!("amdgpu-dmabuf_{}.img", dmabuf.id), &gpu_image(&entry))?;
    }
    steps.next("write the image of all GPU state")?;
    let own = ImageBuilder::of_one(ImageKind::ThawGpu, &own(gpu));
    folder.put(&ImageKind::ThawGpu.file_name(0), &own)
}

fn state_of_kfd(gpu: &GpuState, kfd: &KfdFile, state: &KfdState) -> CriuKfd {
    let device_entries = topology::of_process(&gpu.topology, |id| state.user(id.0));
    let gpus = device_entries.iter().filter(|device| device.gpu_id != 0).count() as u32;
    // Memory that only a dma-buf shows has to have a name in upstream's images.
    let exported: BTreeSet<u64> = gpu.dmabufs.iter().map(|dmabuf| dmabuf.memory).collect();
    let bo_entries: Vec<KfdBoEntry> = state
        .bos
        .iter()
        .enumerate()
        .map(|(index, bo)| {
            let number = gpu.sharing.number(kfd.id, index);
            KfdBoEntry {
                addr: bo.addr,
                size: bo.size,
                offset: bo.offset,
                alloc_flags: bo.alloc_flags,
                gpu_id: bo.gpu_id,
                handle: gpu.sharing.upstream_handle(number, exported.contains(&number)),
            }
        })
        .collect();
    CriuKfd {
        num_of_gpus: gpus,
        num_of_cpus: device_entries.len() as u32 - gpus,
        device_entries,
        num_of_bos: bo_entries.len() as u64,
        bo_entries,
        num_of_objects: state.objects,
        priv_data: state.private.clone(),
        ..CriuKfd::default()
    }
}

/// A file that only has to be opened again: private data of a process that has nothing.
fn empty_kfd() -> CriuKfd {
    let priv_data = [PRIVATE_VERSION, 0].map(u32::to_le_bytes).concat();
    CriuKfd { priv_data, ..CriuKfd::default() }
}

fn render_node(gpu: &GpuState, render: &RenderFile) -> CriuRenderNode {
    let entries = render.buffers.iter().enumerate();
    let bo_entries: Vec<DrmBoEntry> =
        entries.map(|(index, buffer)| gem_buffer(gpu, render, index, buffer)).collect();
    let host_id = host_id(gpu, render);
    let owner = gpu.kfds.iter().find(|kfd| kfd.owner == render.owner && kfd.state.is_some());
    let user = owner.and_then(|kfd| kfd.state.as_ref()).and_then(|state| state.user(host_id));
    CriuRenderNode {
        gpu_id: user.unwrap_or(host_id),
        id: render.id,
        drm_render_minor: render.minor,
        num_of_bos: bo_entries.len() as u64,
        bo_entries,
    }
}

fn host_id(gpu: &GpuState, render: &RenderFile) -> u32 {
    let mut gpus = gpu.topology.gpus();
    let found = gpus.find(|(_, node)| node.properties.drm_render_minor == render.minor);
    found.map_or(0, |(id, _)| id.0)
}

fn gem_buffer(gpu: &GpuState, render: &RenderFile, index: usize, buffer: &GemBuffer) -> DrmBoEntry {
    let entry = &buffer.entry;
    let number = gpu.sharing.number(render.id, index);
    let of_kfd = render.is_compute.then(|| kfd_ranges(gpu, render.owner, number));
    let of_kfd = of_kfd.unwrap_or_default();
    // What the KFD has mapped itself is listed too, and comes back with its buffer.
    let own = |mapping: &&GemVmEntry| !of_kfd.contains(&(mapping.addr, mapping.size));
    let vm_entries: Vec<DrmVmEntry> = buffer
        .mappings
        .iter()
        .filter(own)
        .map(|mapping| DrmVmEntry {
            addr: mapping.addr,
            size: mapping.size,
            offset: mapping.offset,
            flags: mapping.flags,
        })
        .collect();
    DrmBoEntry {
        addr: vm_entries.last().map_or(0, |mapping| mapping.addr),
        size: entry.size,
        offset: buffer.offset_bytes.unwrap_or(0),
        alloc_flags: entry.alloc_flags,
        alignment: entry.alignment,
        preferred_domains: entry.preferred_domains as u32,
        handle: entry.gem_handle,
        is_import: gpu.sharing.is_import(render.id, index).into(),
        num_of_vms: vm_entries.len() as u32,
        vm_entries,
    }
}

/// Where the KFD of a process has mapped memory: address and size. An AQL ring stands there twice
/// in a row.
fn kfd_ranges(gpu: &GpuState, owner: i32, number: u64) -> Vec<(u64, u64)> {
    if !gpu.sharing.is_of_kfd(number) {
        return Vec::new();
    }
    let of_owner = gpu.kfds.iter().filter(|kfd| kfd.owner == owner);
    let mut ranges = Vec::new();
    for kfd in of_owner {
        let Some(state) = &kfd.state else { continue };
        for (index, bo) in state.bos.iter().enumerate() {
            if gpu.sharing.number(kfd.id, index) != number {
                continue;
            }
            ranges.push((bo.addr, bo.size));
            if bo.alloc_flags & alloc::AQL_QUEUE_MEM != 0 {
                ranges.push((bo.addr + bo.size, bo.size));
            }
        }
    }
    ranges
}

fn own(gpu: &GpuState) -> ThawGpuEntry {
    let mut files = Vec::new();
    for kfd in &gpu.kfds {
        let buffers = kfd.state.as_ref().map_or(0, |state| state.bos.len());
        files.push(ThawGpuFile {
            id: kfd.id,
            owner: kfd.owner as u32,
            gpu_id: 0,
            compute: 0,
            objects: (0..buffers).map(|index| gpu.sharing.number(kfd.id, index)).collect(),
        });
    }
    for render in &gpu.renders {
        let buffers = 0..render.buffers.len();
        files.push(ThawGpuFile {
            id: render.id,
            owner: render.owner as u32,
            gpu_id: host_id(gpu, render),
            compute: render.is_compute.into(),
            objects: buffers.map(|index| gpu.sharing.number(render.id, index)).collect(),
        });
    }
    for dmabuf in &gpu.dmabufs {
        let (id, owner, objects) = (dmabuf.id, dmabuf.owner as u32, vec![dmabuf.memory]);
        files.push(ThawGpuFile { id, owner, gpu_id: 0, compute: 0, objects });
    }
    files.sort_by_key(|file| file.id);
    let devices = topology::of_host(&gpu.topology);
    ThawGpuEntry { version: GPU_STATE_VERSION, devices, files }
}

/// Size and first word of what libhsakmt shares, 0 if it is not there.
fn hsakmt_shared() -> (u64, u32) {
    let Ok(bytes) = std::fs::read(HSAKMT_SHARED) else { return (0, 0) };
    let magic = bytes.first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
    (bytes.len() as u64, magic)
}
