//! GPU memory of each process on each device, from the files of CRIU's amdgpu plugin.
//!
//! A process has a device file open if its descriptor table says so; a file that several have open
//! is shown with each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use super::source::Source;
use super::{list, number};
use crate::error::ImageError;
use crate::gpu::unpack_kfd_private;
use crate::json::Printer;
use crate::kind::ImageKind;
use crate::record::{CriuKfd, CriuRenderNode, FdTypes, FdinfoEntry, TaskKobjIdsEntry};

/// Bits of `kfd_bo_entry.alloc_flags` (`KFD_IOC_ALLOC_MEM_FLAGS_*`, Linux 5.18 to 6.18).
mod alloc {
    pub(super) const VRAM: u32 = 1 << 0;
    pub(super) const GTT: u32 = 1 << 1;
    pub(super) const USERPTR: u32 = 1 << 2;
}

/// Bits of `drm_bo_entry.preferred_domains` (`AMDGPU_GEM_DOMAIN_*`).
mod domain {
    pub(super) const GTT: u32 = 1 << 1;
    pub(super) const VRAM: u32 = 1 << 2;
}

/// GPU memory of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessGpus {
    /// Process id.
    pub pid: u32,
    /// In ascending order of GPU id; also devices on which the process has nothing.
    pub gpus: Vec<GpuRow>,
}

/// What a process has on a device. Sizes are in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GpuRow {
    /// The id that the process has seen since it first ran.
    pub gpu_id: u32,
    /// Minor number of the render node at the time of the dump, if the file says it.
    pub render_minor: Option<u32>,
    /// Buffer objects, of KFD and of render nodes.
    pub buffers: u64,
    /// Video memory.
    pub vram_bytes: u64,
    /// System memory that the driver has mapped.
    pub gtt_bytes: u64,
    /// Memory of the process that the GPU may use.
    pub userptr_bytes: u64,
    /// Doorbells, registers, and whatever else is no memory.
    pub other_bytes: u64,
    /// Buffers of others that a render node has imported; counted nowhere else.
    pub imported_bytes: u64,
    /// Queues of KFD; 0 if the driver's private data is not understood.
    pub queues: u64,
}

pub(super) fn read(source: &Source) -> Result<Vec<ProcessGpus>, ImageError> {
    let mut rows = Vec::new();
    for entry in source.processes()? {
        let pid = entry.pid;
        let Some(ids) = source.first::<TaskKobjIdsEntry>(ImageKind::Ids, pid)? else { continue };
        let table = source.all::<FdinfoEntry>(ImageKind::Fdinfo, ids.files_id)?;
        let files = table.iter().filter(|entry| entry.r#type == FdTypes::Ext as i32);
        let mut gpus = BTreeMap::new();
        for id in files.map(|entry| entry.id).collect::<BTreeSet<u32>>() {
            if let Some(kfd) = source.first::<CriuKfd>(ImageKind::AmdgpuKfd, id)? {
                add_kfd(&mut gpus, &kfd);
            }
            if let Some(node) = source.first::<CriuRenderNode>(ImageKind::AmdgpuRender, id)? {
                add_render_node(&mut gpus, &node);
            }
        }
        if !gpus.is_empty() {
            rows.push(ProcessGpus { pid, gpus: gpus.into_values().collect() });
        }
    }
    Ok(rows)
}

fn row(gpus: &mut BTreeMap<u32, GpuRow>, gpu_id: u32) -> &mut GpuRow {
    gpus.entry(gpu_id).or_insert_with(|| GpuRow { gpu_id, ..GpuRow::default() })
}

fn add_kfd(gpus: &mut BTreeMap<u32, GpuRow>, kfd: &CriuKfd) {
    // Processors are devices too; they have no id.
    for device in kfd.device_entries.iter().filter(|device| device.gpu_id != 0) {
        row(gpus, device.gpu_id).render_minor = Some(device.drm_render_minor);
    }
    for bo in &kfd.bo_entries {
        let row = row(gpus, bo.gpu_id);
        row.buffers += 1;
        let sum = match bo.alloc_flags {
            flags if flags & alloc::VRAM != 0 => &mut row.vram_bytes,
            flags if flags & alloc::GTT != 0 => &mut row.gtt_bytes,
            flags if flags & alloc::USERPTR != 0 => &mut row.userptr_bytes,
            _ => &mut row.other_bytes,
        };
        *sum = sum.saturating_add(bo.size);
    }
    for queue in unpack_kfd_private(kfd).iter().flat_map(|private| &private.queues) {
        row(gpus, queue.gpu_id).queues += 1;
    }
}

fn add_render_node(gpus: &mut BTreeMap<u32, GpuRow>, node: &CriuRenderNode) {
    let row = row(gpus, node.gpu_id);
    row.render_minor.get_or_insert(node.drm_render_minor);
    for bo in &node.bo_entries {
        row.buffers += 1;
        let sum = match bo.preferred_domains {
            _ if bo.is_import != 0 => &mut row.imported_bytes,
            domains if domains & domain::VRAM != 0 => &mut row.vram_bytes,
            domains if domains & domain::GTT != 0 => &mut row.gtt_bytes,
            _ => &mut row.other_bytes,
        };
        *sum = sum.saturating_add(bo.size);
    }
}

pub(super) fn write_text(rows: &[ProcessGpus], out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{:>7}{:>7}{:>7}{:>9}{:>13}{:>13}{:>13}{:>13}{:>8}",
        "PID", "GPU", "MINOR", "BUFFERS", "VRAM", "GTT", "USERPTR", "IMPORTED", "QUEUES"
    )?;
    let kib = |bytes: u64| format!("{} KiB", bytes.div_ceil(1024));
    for (process, gpu) in rows.iter().flat_map(|row| row.gpus.iter().map(move |gpu| (row, gpu))) {
        writeln!(
            out,
            "{:>7}{:>7x}{:>7}{:>9}{:>13}{:>13}{:>13}{:>13}{:>8}",
            process.pid,
            gpu.gpu_id,
            gpu.render_minor.map_or_else(|| "-".to_owned(), |minor| minor.to_string()),
            gpu.buffers,
            kib(gpu.vram_bytes),
            kib(gpu.gtt_bytes),
            kib(gpu.userptr_bytes),
            kib(gpu.imported_bytes),
            gpu.queues,
        )?;
    }
    Ok(())
}

pub(super) fn write_json<W: Write>(printer: &mut Printer<W>, process: &ProcessGpus) {
    number(printer, "pid", process.pid);
    printer.key("gpus");
    list(printer, &process.gpus, |printer, gpu| {
        number(printer, "gpu_id", gpu.gpu_id);
        if let Some(minor) = gpu.render_minor {
            number(printer, "render_minor", minor);
        }
        number(printer, "buffers", gpu.buffers);
        number(printer, "vram", gpu.vram_bytes);
        number(printer, "gtt", gpu.gtt_bytes);
        number(printer, "userptr", gpu.userptr_bytes);
        number(printer, "other", gpu.other_bytes);
        number(printer, "imported", gpu.imported_bytes);
        number(printer, "queues", gpu.queues);
    });
}
