//! Which buffer each device mapping shows.
//!
//! Images name a mapping by device path and offset as at the dump. Offsets are of the driver's
//! choosing and differ after a restore, and one path may be open several times: so a mapping is
//! led to its buffer here, and from there, when the buffer exists, to a file and a new offset.

use std::collections::BTreeMap;
use std::ops::Range;

use criu_image::record::VmaEntry;
use criu_image::{Checkpoint, FileId, vma_status};
use gpu_kfd::KFD_PATH;

use super::gpus::GpuPlan;
use super::layout::Layout;
use super::work::{BufferKey, DevicePlan, Through, Work};
use crate::contract::StepKind;
use crate::refusal::{Refusal, RefusalKind};

/// The device of a mapping, at the dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Device {
    Kfd,
    Render(u32),
}

/// A buffer as `mmap` saw it at the dump.
#[derive(Clone, Copy, Debug)]
struct Shown {
    offset_bytes: u64,
    size_bytes: u64,
    buffer: BufferKey,
}

/// What device mappings of each process lead to.
#[derive(Debug, Default)]
pub(crate) struct DeviceMap {
    /// By pid and device, in ascending order of offsets.
    shown: BTreeMap<(u32, Device), Vec<Shown>>,
}

/// A part of a mapping that shows one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) start: u64,
    pub(crate) len_bytes: u64,
    pub(crate) buffer: BufferKey,
    /// Within the buffer.
    pub(crate) offset_bytes: u64,
}

impl DeviceMap {
    pub(super) fn new(
        checkpoint: &Checkpoint,
        gpus: &GpuPlan,
        layout: &Layout,
        processes: &[Vec<DevicePlan>],
    ) -> Self {
        let mut map = Self::default();
        for (process, plans) in checkpoint.processes.iter().zip(processes) {
            for plan in plans {
                let file = plan.file;
                match &plan.work {
                    Work::Kfd(Some(state)) => {
                        let saved = &checkpoint.gpu.kfds[&file].entry.bo_entries;
                        for (index, (bo, buffer)) in saved.iter().zip(&state.buffers).enumerate() {
                            let device = match buffer.through {
                                Through::Kfd => Some(Device::Kfd),
                                Through::Render(_) => {
                                    gpus.minor_of(file, bo.gpu_id).map(Device::Render)
                                }
                            };
                            let Some(device) = device else { continue };
                            let key = BufferKey { file, index };
                            map.add(process.pid, device, (bo.offset, bo.size), key);
                        }
                    }
                    Work::Render(_) => {
                        let node = &checkpoint.gpu.renders[&file];
                        for (index, bo) in node.bo_entries.iter().enumerate() {
                            let device = Device::Render(node.drm_render_minor);
                            let key = BufferKey { file, index };
                            map.add(process.pid, device, (bo.offset, bo.size), key);
                        }
                    }
                    Work::Receive(received) => {
                        for &(index, _) in &received.mapped {
                            let node = &checkpoint.gpu.renders[&file];
                            let (bo, device) =
                                (&node.bo_entries[index], Device::Render(node.drm_render_minor));
                            let key = BufferKey { file, index };
                            map.add(process.pid, device, (bo.offset, bo.size), key);
                        }
                    }
                    Work::Kfd(None) | Work::DmaBuf(_) => {}
                }
            }
        }
        debug_assert!(layout.steps.iter().all(|it| it.received == (it.kind == StepKind::Receive)));
        for shown in map.shown.values_mut() {
            shown.sort_by_key(|shown| (shown.offset_bytes, shown.buffer));
            // A buffer that several files have is mapped through the first.
            shown.dedup_by_key(|shown| shown.offset_bytes);
        }
        map
    }

    fn add(
        &mut self,
        pid: u32,
        device: Device,
        (offset_bytes, size_bytes): (u64, u64),
        buffer: BufferKey,
    ) {
        if size_bytes > 0 {
            let shown = Shown { offset_bytes, size_bytes, buffer };
            self.shown.entry((pid, device)).or_default().push(shown);
        }
    }

    /// Takes a device mapping apart into the buffers that it shows.
    pub(crate) fn parts(
        &self,
        checkpoint: &Checkpoint,
        pid: u32,
        vma: &VmaEntry,
    ) -> Result<Vec<Part>, Refusal> {
        let place = || format!("mm-{pid}.img, VMA {:#x}-{:#x}", vma.start, vma.end);
        let file = FileId(vma.shmid as u32);
        let path = checkpoint.reg_file(file).map(|file| String::from_utf8_lossy(&file.name));
        let path = path.unwrap_or_default();
        let device = match path.strip_prefix("/dev/dri/renderD").map(str::parse) {
            Some(Ok(minor)) => Device::Render(minor),
            _ if path == KFD_PATH => Device::Kfd,
            _ => {
                let what = format!("device mapping of {path}");
                return Err(Refusal::new(RefusalKind::DeviceMapping, what, place(), pid));
            }
        };
        let none = Vec::new();
        let shown = self.shown.get(&(pid, device)).unwrap_or(&none);
        let (mut at, end) = (vma.pgoff, vma.pgoff + (vma.end - vma.start));
        let mut parts = Vec::new();
        while at < end {
            let next = shown.partition_point(|shown| shown.offset_bytes <= at);
            let found = next.checked_sub(1).map(|index| shown[index]);
            let found = found.filter(|shown| at < shown.offset_bytes + shown.size_bytes);
            let Some(found) = found else {
                let what = format!("mapping of {path} at {at:#x}, where no buffer of it is");
                let help = "the process that has the buffer must map it itself";
                let refusal = Refusal::new(RefusalKind::GpuMapping, what, place(), pid);
                return Err(refusal.with_help(help));
            };
            let len_bytes = (found.offset_bytes + found.size_bytes).min(end) - at;
            let start = vma.start + (at - vma.pgoff);
            let offset_bytes = at - found.offset_bytes;
            parts.push(Part { start, len_bytes, buffer: found.buffer, offset_bytes });
            at += len_bytes;
        }
        Ok(parts)
    }
}

/// Offsets of a render node, by its minor number at the dump, that a process has mapped.
pub(super) fn ranges(checkpoint: &Checkpoint, process: usize, minor: u32) -> Vec<Range<u64>> {
    let body = checkpoint.processes[process].body.as_ref();
    let vmas = body.into_iter().flat_map(|body| &body.mm.vmas);
    let of_node = vmas.filter(|vma| is_device(vma) && device(checkpoint, vma) == Some(minor));
    of_node.map(|vma| vma.pgoff..vma.pgoff + (vma.end - vma.start)).collect()
}

/// Minor number of the render node that is mapped.
fn device(checkpoint: &Checkpoint, vma: &VmaEntry) -> Option<u32> {
    let file = checkpoint.reg_file(FileId(vma.shmid as u32))?;
    let path = std::str::from_utf8(&file.name).ok()?;
    path.strip_prefix("/dev/dri/renderD")?.parse().ok()
}

/// Whether a mapping is one of a device.
pub(crate) fn is_device(vma: &VmaEntry) -> bool {
    vma.status & vma_status::EXT_PLUGIN != 0
}
