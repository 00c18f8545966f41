//! Files of the amdgpu plugin: counts, the driver's private data, and sizes of contents.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoint::{Checkpoint, FileId, Findings, OtherImage, contradiction};
use crate::error::ImageError;
use crate::gpu::{PrivateError, unpack_kfd_private};
use crate::image::ImageReader;
use crate::kind::ImageKind;
use crate::payload::Record;
use crate::record::{CriuDmabufNode, CriuKfd, CriuRenderNode, KfdPrivate};

/// Where the payload of such a file begins, after its length.
const AT: u64 = 8;
/// The length before contents.
const HEAD_BYTES: u64 = 8;
/// `KFD_IOC_ALLOC_MEM_FLAGS_VRAM` and `_GTT`: contents of such buffers are saved.
const SAVED: u32 = 1 << 0 | 1 << 1;
/// Name of the plugin in the inventory.
const PLUGIN: &[u8] = b"amdgpu_plugin";

pub(super) fn check(checkpoint: &Checkpoint, findings: &mut Findings) -> Result<(), ImageError> {
    let mut gpu = Gpu { checkpoint, findings, known: BTreeSet::new(), contents: BTreeMap::new() };
    gpu.kfd_files()?;
    gpu.render_nodes()?;
    gpu.dmabufs()?;
    gpu.contents()?;
    gpu.external_files()
}

struct Gpu<'a> {
    checkpoint: &'a Checkpoint,
    findings: &'a mut Findings,
    /// Files that have an image of the plugin.
    known: BTreeSet<FileId>,
    /// Files of contents that there must be, and how many bytes of contents each has.
    contents: BTreeMap<String, u64>,
}

impl Gpu<'_> {
    fn images(&self, kind: ImageKind) -> impl Iterator<Item = &OtherImage> + use<'_> {
        self.checkpoint.other.iter().filter(move |other| other.kind == kind)
    }

    /// The records of all images of a kind, by id. What is damaged is reported and left out.
    fn read<R: Record>(
        &mut self,
        kind: ImageKind,
        prefix: &str,
    ) -> Result<Vec<(u32, String, R)>, ImageError> {
        let names: Vec<String> =
            self.images(kind).map(|other| other.file.to_string_lossy().into_owned()).collect();
        let mut records = Vec::new();
        for name in names {
            let number = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".img"));
            let Some(id) = number.and_then(|number| number.parse().ok()) else {
                self.findings.report(ImageError::UnknownKind { file: name })?;
                continue;
            };
            let record = self.record(&name);
            let Some(record) = self.findings.check(record)? else {
                self.findings.doubt(&[ImageKind::AmdgpuPages, ImageKind::AmdgpuDrmPages]);
                self.known.insert(FileId(id));
                continue;
            };
            self.owner(id, &name)?;
            records.push((id, name, record));
        }
        Ok(records)
    }

    fn record<R: Record>(&self, name: &str) -> Result<R, ImageError> {
        let bytes = self.checkpoint.images.read(name)?;
        let mut image = ImageReader::new(&bytes[..], name)?;
        let record = image.next_record::<R>()?.map(|(_, record)| record);
        let (file, expected) = (name.to_owned(), "exactly one");
        let record = record.ok_or(ImageError::Count { file, found: 0, expected })?;
        image.next_record::<R>()?; // there is no second one, or this is an error
        Ok(record)
    }

    /// The image must be that of an open file which no other part of CRIU knows.
    fn owner(&mut self, id: u32, name: &str) -> Result<(), ImageError> {
        let id = FileId(id);
        if !self.known.insert(id) {
            let reason = format!("file {:#x} has another image of the plugin too", id.0);
            self.findings.report(contradiction(name, 0, reason))?;
        }
        let is_external = self.checkpoint.files.get(&id).is_some_and(|file| file.ext.is_some());
        if !is_external && self.findings.is_sure_of(ImageKind::Files) {
            let reason = format!("no external file has the id {:#x}", id.0);
            self.findings.report(ImageError::NoOwner { file: name.to_owned(), reason })?;
        }
        Ok(())
    }

    fn count(
        &mut self,
        name: &str,
        what: &str,
        claimed: u64,
        found: usize,
    ) -> Result<(), ImageError> {
        if claimed != found as u64 {
            let reason = format!("{claimed} {what} are claimed, {found} are there");
            self.findings.report(contradiction(name, AT, reason))?;
        }
        Ok(())
    }

    fn kfd_files(&mut self) -> Result<(), ImageError> {
        for (id, name, kfd) in self.read::<CriuKfd>(ImageKind::AmdgpuKfd, "amdgpu-kfd-")? {
            let devices = u64::from(kfd.num_of_gpus) + u64::from(kfd.num_of_cpus);
            self.count(&name, "devices", devices, kfd.device_entries.len())?;
            self.count(&name, "buffers", kfd.num_of_bos, kfd.bo_entries.len())?;
            let gpus: BTreeSet<u32> = kfd
                .device_entries
                .iter()
                .map(|device| device.gpu_id)
                .filter(|&id| id != 0)
                .collect();
            self.count(&name, "GPUs", kfd.num_of_gpus.into(), gpus.len())?;
            // CRIU 4.2 writes an empty file for a GPU without buffers, and wants it again.
            let mut saved: BTreeMap<u32, u64> = gpus.iter().map(|&gpu| (gpu, 0)).collect();
            for bo in &kfd.bo_entries {
                if !gpus.contains(&bo.gpu_id) {
                    let reason = format!("GPU {:#x} of a buffer is unknown", bo.gpu_id);
                    self.findings.report(contradiction(&name, AT, reason))?;
                } else if bo.alloc_flags & SAVED != 0 {
                    let sum = saved.entry(bo.gpu_id).or_default();
                    *sum = sum.saturating_add(bo.size);
                }
            }
            for (gpu, sum) in saved {
                self.contents.insert(format!("amdgpu-pages-{id}-{gpu:04x}.img"), sum);
            }
            match unpack_kfd_private(&kfd) {
                Ok(private) => self.private(&name, &gpus, &private)?,
                Err(PrivateError::Version { .. }) => {
                    let feature = "private data of another version of the driver";
                    let file = name.clone();
                    self.findings.report(ImageError::Unsupported { file, feature })?;
                }
                Err(error) => {
                    self.findings.report(contradiction(&name, AT, error.to_string()))?;
                }
            }
        }
        Ok(())
    }

    fn private(
        &mut self,
        name: &str,
        gpus: &BTreeSet<u32>,
        private: &KfdPrivate,
    ) -> Result<(), ImageError> {
        let queues = private.queues.iter().map(|queue| ("queue", queue.gpu_id));
        let mapped =
            private.bos.iter().flat_map(|bo| &bo.mapped_gpu_ids).map(|&id| ("mapping", id));
        for (what, id) in queues.chain(mapped) {
            if !gpus.contains(&id) {
                let reason = format!("GPU {id:#x} of a {what} in the private data is unknown");
                self.findings.report(contradiction(name, AT, reason))?;
            }
        }
        Ok(())
    }

    fn render_nodes(&mut self) -> Result<(), ImageError> {
        let nodes = self.read::<CriuRenderNode>(ImageKind::AmdgpuRender, "amdgpu-renderD-")?;
        for (id, name, node) in nodes {
            self.count(&name, "buffers", node.num_of_bos, node.bo_entries.len())?;
            for (index, bo) in node.bo_entries.iter().enumerate() {
                self.count(&name, "mappings", bo.num_of_vms.into(), bo.vm_entries.len())?;
                let minor = node.drm_render_minor;
                let file = format!("amdgpu-drm-pages-{id}-{minor}-{index:04x}.img");
                // What was imported is saved by whoever exported it; the file may be there too.
                let is_there = self.checkpoint.dir.join(&file).exists();
                if bo.is_import == 0 || is_there {
                    self.contents.insert(file, bo.size);
                }
            }
            if node.id != id {
                let reason = format!("the id in it is {:#x}", node.id);
                self.findings.report(contradiction(&name, AT, reason))?;
            }
        }
        Ok(())
    }

    fn dmabufs(&mut self) -> Result<(), ImageError> {
        // A dma-buf file says nothing that another one could contradict.
        self.read::<CriuDmabufNode>(ImageKind::AmdgpuDmabuf, "amdgpu-dmabuf_").map(|_| ())
    }

    /// Every buffer's contents are there, and nothing else is.
    fn contents(&mut self) -> Result<(), ImageError> {
        let mut expected = std::mem::take(&mut self.contents);
        for kind in [ImageKind::AmdgpuPages, ImageKind::AmdgpuDrmPages] {
            let found: Vec<(String, u64)> = self
                .images(kind)
                .map(|other| (other.file.to_string_lossy().into_owned(), other.size_bytes))
                .collect();
            for (file, size) in found {
                let Some(contents) = expected.remove(&file) else {
                    if self.findings.is_sure_of(kind) {
                        let reason = "no buffer has its contents in it".to_owned();
                        self.findings.report(ImageError::NoOwner { file, reason })?;
                    }
                    continue;
                };
                if contents.checked_add(HEAD_BYTES) != Some(size) {
                    let left = size.saturating_sub(HEAD_BYTES);
                    let reason = format!("{contents} bytes of buffers are listed, it has {left}");
                    self.findings.report(contradiction(file, 0, reason))?;
                }
            }
        }
        for (file, contents) in expected.into_iter().filter(|&(_, contents)| contents > 0) {
            let needed_for = format!("{contents} bytes of buffers");
            self.findings.report(ImageError::Missing { file, needed_for })?;
        }
        Ok(())
    }

    /// If no other plugin took part, every external file is one of ours.
    fn external_files(&mut self) -> Result<(), ImageError> {
        let plugins = self.checkpoint.inventory.plugins_entry.iter().flat_map(|p| &p.plugins);
        let mut plugins = plugins.peekable();
        if plugins.peek().is_none() || plugins.any(|plugin| plugin != PLUGIN) {
            return Ok(());
        }
        for (id, file) in &self.checkpoint.files {
            if file.ext.is_some() && !self.known.contains(id) {
                let reason = format!("external file {:#x} has no image of the plugin", id.0);
                self.findings.report(contradiction("files.img", 8, reason))?;
            }
        }
        Ok(())
    }
}
