//! What one step does, with everything that its worker needs.

use std::collections::BTreeSet;

use criu_image::record::{CriuRenderNode, DrmBoEntry, KfdBoEntry};
use criu_image::{
    Checkpoint, FileId, GPU_HEAD_BYTES, KfdImage, drm_pages_name, kfd_pages_name, pack_kfd_private,
};
use gpu_kfd::uapi::amdgpu::{GemCreateIn, GemVmEntry, create, domain};
use gpu_kfd::uapi::criu::{BoBucket, NO_FD};
use gpu_kfd::uapi::kfd::alloc;
use gpu_kfd::uapi::svm;
use gpu_kfd::{GpuId, HostGpuId, KFD_PATH};

use super::buffers::Sharing;
use super::gpus::{GpuPlan, Place};
use super::layout::{Layout, Placed};
use super::{mappings, outline_step, place_of};
use crate::contract::{DeviceStep, EdgeReason, StepId, StepKind};
use crate::refusal::{Refusal, RefusalKind};

/// Flags that `GEM_CREATE` takes from a program; the driver adds others by itself, which a list of
/// handles shows too (`amdgpu_gem_create_ioctl`, Linux 6.18).
const SETTABLE: u64 = create::CPU_ACCESS_REQUIRED
    | create::NO_CPU_ACCESS
    | create::CPU_GTT_USWC
    | create::VRAM_CLEARED
    | create::VM_ALWAYS_VALID
    | create::EXPLICIT_SYNC
    | create::ENCRYPTED
    | create::GFX12_DCC
    | create::DISCARDABLE;
/// `GEM_LIST_HANDLES` tells alignments in pages, `GEM_CREATE` takes bytes.
const PAGE_BYTES: u64 = 4096;
/// Highest handle that is brought about by making and closing buffers below it.
pub(crate) const HANDLE_MAX: u32 = 1 << 20;

/// A buffer of the images: a file, and its place among the file's buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BufferKey {
    pub(crate) file: FileId,
    pub(crate) index: usize,
}

/// One device file of a process.
#[derive(Debug)]
pub(crate) struct DevicePlan {
    pub(crate) step: StepId,
    pub(crate) file: FileId,
    pub(crate) work: Work,
    /// What other steps need of this one.
    pub(crate) exports: BTreeSet<EdgeReason>,
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Work {
    /// Opens `/dev/kfd`; rebuilds the process's state in it, if it is the file that carries it.
    Kfd(Option<Box<KfdState>>),
    Render(Box<RenderWork>),
    /// A descriptor of this memory.
    DmaBuf(u64),
    Receive(ReceiveWork),
}

/// Bytes of an image that belong into a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) image: String,
    pub(crate) offset_bytes: u64,
    pub(crate) len_bytes: u64,
    /// Render node here whose GPU has the buffer.
    pub(crate) minor: u32,
    /// It is in system memory, which the host always sees.
    pub(crate) in_system: bool,
}

/// Which open file shows a buffer of the KFD to `mmap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Through {
    Kfd,
    /// The render node that has the process's address space on this GPU.
    Render(HostGpuId),
}

/// A GPU of a KFD state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KfdDevice {
    pub(crate) user: GpuId,
    pub(crate) here: HostGpuId,
    pub(crate) minor: u32,
}

/// A buffer of a KFD state.
#[derive(Clone, Debug)]
pub(crate) struct KfdBuffer {
    pub(crate) bucket: BoBucket,
    pub(crate) object: u64,
    pub(crate) contents: Option<Contents>,
    pub(crate) through: Through,
}

/// The state of a process in the KFD.
#[derive(Debug)]
pub(crate) struct KfdState {
    pub(crate) devices: Vec<KfdDevice>,
    pub(crate) buffers: Vec<KfdBuffer>,
    pub(crate) private: Vec<u8>,
    pub(crate) objects: u32,
}

/// A render node with its buffers.
#[derive(Debug)]
pub(crate) struct RenderWork {
    pub(crate) minor: u32,
    /// It has the process's address space on this GPU: the file that the KFD step has opened.
    pub(crate) compute: Option<HostGpuId>,
    /// The same where the KFD has no state to restore: its address space is given to the KFD.
    pub(crate) acquire: Option<HostGpuId>,
    /// By ascending handle.
    pub(crate) buffers: Vec<GemBuffer>,
}

/// A file that another process restores.
#[derive(Debug, Default)]
pub(crate) struct ReceiveWork {
    /// Minor number of a render node here.
    pub(crate) minor: u32,
    /// Buffers that this process has mapped through it: place in the image, and handle.
    pub(crate) mapped: Vec<(usize, u32)>,
}

/// A buffer of a render node.
#[derive(Debug)]
pub(crate) struct GemBuffer {
    /// Its place in the image.
    pub(crate) index: usize,
    pub(crate) handle: u32,
    pub(crate) object: u64,
    pub(crate) source: GemSource,
    pub(crate) mappings: Vec<GemVmEntry>,
}

/// How a file comes to have a buffer.
#[derive(Debug)]
pub(crate) enum GemSource {
    Make {
        with: GemCreateIn,
        contents: Option<Contents>,
    },
    /// It is imported; what it would be made with.
    Import(GemCreateIn),
}

pub(super) struct Builder<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) gpus: &'a GpuPlan,
    pub(super) layout: &'a Layout,
    pub(super) sharing: &'a Sharing,
}

impl Builder<'_> {
    /// Plans one step.
    pub(super) fn step(
        &self,
        placed: &Placed,
        step: StepId,
    ) -> Result<(DevicePlan, DeviceStep), Refusal> {
        let first = self.layout.steps.iter().position(|it| it.process == placed.process);
        let position = step.0 - first.unwrap_or(step.0).min(step.0);
        let mut outline = outline_step(self.checkpoint, placed, position);
        let file = placed.file;
        let work = match placed.kind {
            StepKind::Kfd => self.kfd(placed, &mut outline)?,
            StepKind::Render => self.render(placed, &mut outline)?,
            StepKind::DmaBuf => {
                let object = self.sharing.object(BufferKey { file, index: 0 });
                outline.path = format!("dma-buf of memory {object}");
                outline.buffers = 1;
                Work::DmaBuf(object)
            }
            StepKind::Receive => {
                outline.path = format!("file {:#x} of another process", file.0);
                Work::Receive(self.receive(placed))
            }
        };
        Ok((DevicePlan { step, file, work, exports: BTreeSet::new() }, outline))
    }

    fn receive(&self, placed: &Placed) -> ReceiveWork {
        let Some(node) = self.checkpoint.gpu.renders.get(&placed.file) else {
            return ReceiveWork::default();
        };
        let minor = self.gpus.of_minor(node.drm_render_minor).map_or(0, |(_, place)| place.minor);
        let mappings = mappings::ranges(self.checkpoint, placed.process, node.drm_render_minor);
        let is_mapped = |bo: &DrmBoEntry| {
            let end = bo.offset.saturating_add(bo.size);
            mappings.iter().any(|range| range.start < end && bo.offset < range.end)
        };
        let buffers = node.bo_entries.iter().enumerate().filter(|(_, bo)| is_mapped(bo));
        ReceiveWork { minor, mapped: buffers.map(|(index, bo)| (index, bo.handle)).collect() }
    }

    fn kfd(&self, placed: &Placed, outline: &mut DeviceStep) -> Result<Work, Refusal> {
        outline.path = KFD_PATH.to_owned();
        let file = placed.file;
        let kfd = &self.checkpoint.gpu.kfds[&file];
        // The state belongs to the process, not to a file: it is restored through the first one.
        let first = self.layout.of(placed.process).find(|it| it.kind == StepKind::Kfd);
        let is_first = first.is_none_or(|first| first.file == file);
        if !is_first || kfd.entry.bo_entries.is_empty() && kfd.entry.num_of_objects == 0 {
            // The driver restores no state without buffers, and there is none to restore.
            return Ok(Work::Kfd(None));
        }
        if kfd.entry.bo_entries.is_empty() {
            let what = "KFD objects without a buffer, which the driver does not restore";
            let place = place_of(self.checkpoint, file);
            return Err(Refusal::new(RefusalKind::GpuObjects, what, place, kfd.entry.pid));
        }
        let state = self.kfd_state(file, kfd)?;
        outline.buffers = state.buffers.len();
        outline.content_bytes = total(state.buffers.iter().map(|buffer| &buffer.contents));
        Ok(Work::Kfd(Some(Box::new(state))))
    }

    fn undescribed(&self, what: String, file: FileId, pid: u32) -> Refusal {
        let place = place_of(self.checkpoint, file);
        Refusal::new(RefusalKind::GpuUndescribed, what, place, pid)
    }

    fn kfd_state(&self, file: FileId, kfd: &KfdImage) -> Result<KfdState, Refusal> {
        let fail = |what: String| Err(self.undescribed(what, file, kfd.entry.pid));
        let mut devices = Vec::new();
        for device in kfd.entry.device_entries.iter().filter(|device| device.gpu_id != 0) {
            let Some(place) = self.gpus.of_kfd(file, device.gpu_id) else {
                return fail(format!("GPU {:#x} without a GPU here", device.gpu_id));
            };
            devices.push(device_of(GpuId(device.gpu_id), place));
        }
        let mut buffers = Vec::new();
        let mut offsets = std::collections::BTreeMap::new();
        for (index, bo) in kfd.entry.bo_entries.iter().enumerate() {
            let Some(place) = self.gpus.of_kfd(file, bo.gpu_id) else {
                return fail(format!("buffer of GPU {:#x}, which is not described", bo.gpu_id));
            };
            let at = offsets.entry(bo.gpu_id).or_insert(GPU_HEAD_BYTES);
            let contents = has_contents(bo).then(|| Contents {
                image: kfd_pages_name(file, bo.gpu_id),
                offset_bytes: std::mem::replace(at, *at + bo.size),
                len_bytes: bo.size,
                minor: place.minor,
                in_system: bo.alloc_flags & alloc::VRAM == 0,
            });
            let through = match bo.alloc_flags & (alloc::DOORBELL | alloc::MMIO_REMAP) {
                0 => Through::Render(place.here),
                _ => Through::Kfd,
            };
            let object = self.sharing.object(BufferKey { file, index });
            buffers.push(KfdBuffer { bucket: bucket(bo), object, contents, through });
        }
        let spare = self.spare_devices(&devices);
        let private = with_spare(kfd, &spare);
        devices.extend(spare);
        let Some(private) = private else {
            return fail("private data that cannot be extended to the GPUs here".to_owned());
        };
        Ok(KfdState { devices, buffers, private, objects: kfd.entry.num_of_objects })
    }

    /// GPUs here beyond those of the checkpoint. The driver wants to be told of all that a process
    /// can see; they get ids that the process does not know yet.
    fn spare_devices(&self, devices: &[KfdDevice]) -> Vec<KfdDevice> {
        let mut taken: BTreeSet<u32> = devices.iter().map(|device| device.user.0).collect();
        let mut spare = Vec::new();
        let used: BTreeSet<HostGpuId> = devices.iter().map(|device| device.here).collect();
        for place in self.gpus.spare.iter().filter(|place| !used.contains(&place.here)) {
            let mut user = place.here.0;
            while !taken.insert(user) {
                user = user % 0xffff + 1;
            }
            spare.push(device_of(GpuId(user), *place));
        }
        spare
    }

    fn render(&self, placed: &Placed, outline: &mut DeviceStep) -> Result<Work, Refusal> {
        let file = placed.file;
        let node = &self.checkpoint.gpu.renders[&file];
        let pid = self.checkpoint.processes[placed.process].pid;
        let fail = |what: String| Err(self.undescribed(what, file, pid));
        let Some((id, place)) = self.gpus.of_minor(node.drm_render_minor) else {
            return fail(format!("render node renderD{} of no GPU", node.drm_render_minor));
        };
        outline.path = format!("/dev/dri/renderD{}", place.minor);
        outline.gpu = Some((id, place.here));
        let mut buffers = Vec::new();
        for (index, bo) in node.bo_entries.iter().enumerate() {
            if bo.handle == 0 || bo.handle > HANDLE_MAX {
                return fail(format!("buffer with handle {:#x}", bo.handle));
            }
            buffers.push(self.gem_buffer(file, node, (index, bo), place)?);
        }
        buffers.sort_by_key(|buffer| buffer.handle);
        if let Some(pair) = buffers.windows(2).find(|pair| pair[0].handle == pair[1].handle) {
            return fail(format!("two buffers with handle {}", pair[0].handle));
        }
        outline.buffers = buffers.len();
        outline.content_bytes = total(buffers.iter().map(|buffer| match &buffer.source {
            GemSource::Make { contents, .. } => contents,
            GemSource::Import(_) => &None,
        }));
        let compute = self.is_compute(placed, node).then_some(place.here);
        let acquire = self.is_acquired(placed).then_some(place.here);
        let work = RenderWork { minor: place.minor, compute, acquire, buffers };
        Ok(Work::Render(Box::new(work)))
    }

    fn gem_buffer(
        &self,
        file: FileId,
        node: &CriuRenderNode,
        (index, bo): (usize, &DrmBoEntry),
        place: Place,
    ) -> Result<GemBuffer, Refusal> {
        let key = BufferKey { file, index };
        let object = self.sharing.object(key);
        let domains = u64::from(bo.preferred_domains);
        let with = GemCreateIn {
            bo_size: bo.size,
            alignment: bo.alignment * PAGE_BYTES,
            domains,
            domain_flags: bo.alloc_flags & SETTABLE,
        };
        let source = match self.sharing.maker(object) {
            Some(maker) if maker == key => {
                let image = drm_pages_name(file, node.drm_render_minor, index);
                if bo.size > 0 && !self.has_image(&image) {
                    let what = format!("buffer {} without its contents, {image}", bo.handle);
                    let place = place_of(self.checkpoint, file);
                    return Err(Refusal::of_tree(RefusalKind::GpuContents, what, place));
                }
                let contents = (bo.size > 0).then_some(Contents {
                    image,
                    offset_bytes: GPU_HEAD_BYTES,
                    len_bytes: bo.size,
                    minor: place.minor,
                    in_system: domains & domain::VRAM == 0,
                });
                GemSource::Make { with, contents }
            }
            _ => GemSource::Import(with),
        };
        let mapping = |entry: &criu_image::record::DrmVmEntry| GemVmEntry {
            addr: entry.addr,
            size: entry.size,
            offset: entry.offset,
            flags: entry.flags,
        };
        let mappings = bo.vm_entries.iter().map(mapping).collect();
        Ok(GemBuffer { index, handle: bo.handle, object, source, mappings })
    }

    fn has_image(&self, name: &str) -> bool {
        self.checkpoint.other.iter().any(|other| other.file == *name)
    }

    /// Whether the KFD had the file's GPU address space, but no buffer in it. The driver restores
    /// no state without a buffer; the address space is all there was.
    fn is_acquired(&self, placed: &Placed) -> bool {
        let mut kfds = self.layout.of(placed.process).filter(|it| it.kind == StepKind::Kfd);
        let Some(state) = &self.checkpoint.gpu.state else { return false };
        let stated = state.files.iter().find(|entry| entry.id == placed.file.0);
        let is_empty = kfds
            .next()
            .is_some_and(|first| self.checkpoint.gpu.kfds[&first.file].entry.bo_entries.is_empty());
        is_empty && stated.is_some_and(|entry| entry.compute != 0)
    }

    /// Whether the file has the GPU address space of its process's KFD state: our own image says
    /// it; else it is the first of its GPU that the process opened.
    fn is_compute(&self, placed: &Placed, node: &CriuRenderNode) -> bool {
        let mut of_process = self.layout.of(placed.process);
        let has_state = of_process.any(|it| {
            it.kind == StepKind::Kfd
                && !self.checkpoint.gpu.kfds[&it.file].entry.bo_entries.is_empty()
        });
        if let Some(state) = &self.checkpoint.gpu.state {
            let stated = state.files.iter().find(|entry| entry.id == placed.file.0);
            return has_state && stated.is_some_and(|entry| entry.compute != 0);
        }
        let mut same = self.layout.of(placed.process).filter(|it| {
            let other = self.checkpoint.gpu.renders.get(&it.file);
            other.is_some_and(|other| other.drm_render_minor == node.drm_render_minor)
        });
        has_state && same.next().is_some_and(|first| first.file == placed.file)
    }
}

fn device_of(user: GpuId, place: Place) -> KfdDevice {
    KfdDevice { user, here: place.here, minor: place.minor }
}

fn total<'a>(contents: impl Iterator<Item = &'a Option<Contents>>) -> u64 {
    contents.flatten().map(|contents| contents.len_bytes).sum()
}

fn has_contents(bo: &KfdBoEntry) -> bool {
    bo.alloc_flags & (alloc::VRAM | alloc::GTT) != 0
}

fn bucket(bo: &KfdBoEntry) -> BoBucket {
    // A ring that is mapped twice is described by the size of its memory, half of what is asked
    // for (`amdgpu_amdkfd_gpuvm_alloc_memory_of_gpu`, Linux 6.18).
    let factor = if bo.alloc_flags & alloc::AQL_QUEUE_MEM != 0 { 2 } else { 1 };
    BoBucket {
        addr: bo.addr,
        size: bo.size * factor,
        offset: bo.offset,
        gpu_id: bo.gpu_id,
        alloc_flags: bo.alloc_flags,
        dmabuf_fd: NO_FD,
        ..BoBucket::default()
    }
}

/// Private data for more GPUs than were saved: a record for each, and in each range of shared
/// virtual memory an attribute that says that the GPU does not access it.
fn with_spare(kfd: &KfdImage, spare: &[KfdDevice]) -> Option<Vec<u8>> {
    if spare.is_empty() {
        return Some(kfd.entry.priv_data.clone());
    }
    let mut private = kfd.private.clone();
    private.devices.resize(private.devices.len() + spare.len(), 0);
    for range in &mut private.svm_ranges {
        range.attributes.extend(spare.iter().map(|device| {
            let (r#type, value) = (svm::svm_attr::NO_ACCESS, device.user.0);
            criu_image::record::KfdPrivateSvmAttribute { r#type, value }
        }));
    }
    pack_kfd_private(&private)
}
