//! The GPU images of a checkpoint as one value: read after they were found to agree.
//!
//! Their agreement is checked where `verify` checks it (`verify/gpu`); here they are read. What a
//! restore makes of them is not known here.

use std::collections::{BTreeMap, BTreeSet};

use super::private::unpack;
use crate::checkpoint::{Checkpoint, FileId, contradiction};
use crate::directory::ImageDir;
use crate::error::ImageError;
use crate::kind::ImageKind;
use crate::payload::{Record, decode};
use crate::reader::Image;
use crate::record::{CriuDmabufNode, CriuKfd, CriuRenderNode, KfdPrivate, ThawGpuEntry};

/// Version of `thaw-gpu.img` that is read and written.
pub const GPU_STATE_VERSION: u32 = 1;
/// Bytes before the payload of an image of the plugin, and before contents of buffers.
pub const GPU_HEAD_BYTES: u64 = 8;

/// Images with records that say something of GPUs.
const RECORDS: [ImageKind; 4] =
    [ImageKind::AmdgpuKfd, ImageKind::AmdgpuRender, ImageKind::AmdgpuDmabuf, ImageKind::ThawGpu];

/// An open `/dev/kfd`.
#[derive(Clone, Debug)]
pub struct KfdImage {
    /// As it was written.
    pub entry: CriuKfd,
    /// The driver's private data in it, taken apart.
    pub private: KfdPrivate,
}

/// Everything that the images say of GPUs.
#[derive(Clone, Debug, Default)]
pub struct GpuImages {
    /// `amdgpu-kfd-<id>.img`.
    pub kfds: BTreeMap<FileId, KfdImage>,
    /// `amdgpu-renderD-<id>.img`.
    pub renders: BTreeMap<FileId, CriuRenderNode>,
    /// `amdgpu-dmabuf_<id>.img`.
    pub dmabufs: BTreeMap<FileId, CriuDmabufNode>,
    /// `thaw-gpu.img`, which upstream does not write.
    pub state: Option<ThawGpuEntry>,
}

impl GpuImages {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.kfds.is_empty() && self.renders.is_empty() && self.dmabufs.is_empty()
    }

    /// Whether an open file is one of a GPU's.
    pub fn has(&self, id: FileId) -> bool {
        self.kfds.contains_key(&id)
            || self.renders.contains_key(&id)
            || self.dmabufs.contains_key(&id)
    }
}

/// Name of the image with a process's buffers on a GPU, by the id that the process knows.
pub fn kfd_pages_name(kfd: FileId, user_gpu_id: u32) -> String {
    format!("amdgpu-pages-{}-{user_gpu_id:04x}.img", kfd.0)
}

/// Name of the image with one buffer of a render node, by its place among the file's buffers.
pub fn drm_pages_name(render: FileId, minor: u32, index: usize) -> String {
    format!("amdgpu-drm-pages-{}-{minor}-{index:04x}.img", render.0)
}

/// An image of the plugin with its one record: `amdgpu-kfd`, `amdgpu-renderD`, `amdgpu-dmabuf`.
pub fn gpu_image(record: &impl Record) -> Vec<u8> {
    let payload = record.encode_to_vec();
    let mut bytes = (payload.len() as u64).to_le_bytes().to_vec();
    bytes.extend(payload);
    bytes
}

/// Reads the GPU images of a checkpoint and checks that they agree.
pub(crate) fn read(checkpoint: &Checkpoint) -> Result<GpuImages, ImageError> {
    let mut kinds = checkpoint.other.iter().map(|image| image.kind);
    if kinds.any(|kind| RECORDS.contains(&kind)) {
        crate::verify::check_gpu(checkpoint)?;
    }
    load(checkpoint)
}

/// Reads them after each was found to agree with the checkpoint.
pub(crate) fn load(checkpoint: &Checkpoint) -> Result<GpuImages, ImageError> {
    let mut gpu = GpuImages::default();
    let mut files = BTreeMap::new();
    for image in &checkpoint.other {
        let name = image.file.to_string_lossy().into_owned();
        match image.kind {
            ImageKind::AmdgpuKfd | ImageKind::AmdgpuRender | ImageKind::AmdgpuDmabuf => {
                files.insert(name, image.kind);
            }
            ImageKind::ThawGpu => {
                let image = Image::open(&checkpoint.images, image.kind, &name)?;
                gpu.state = Some(state(image.only()?, &name)?);
            }
            _ => {}
        }
    }
    for (name, kind) in &files {
        let id = id_of(name);
        match kind {
            ImageKind::AmdgpuKfd => {
                let entry = record(&checkpoint.images, name)?;
                let private = unpack(&entry);
                let private = private
                    .map_err(|error| contradiction(name, GPU_HEAD_BYTES, error.to_string()))?;
                gpu.kfds.insert(id, KfdImage { entry, private });
            }
            ImageKind::AmdgpuRender => {
                gpu.renders.insert(id, record(&checkpoint.images, name)?);
            }
            _ => {
                gpu.dmabufs.insert(id, record(&checkpoint.images, name)?);
            }
        }
    }
    agree(&gpu)?;
    Ok(gpu)
}

/// The number at the end of a name, which `verify` has found to be one.
fn id_of(name: &str) -> FileId {
    let digits = name.trim_end_matches(".img").rsplit(['-', '_']).next().unwrap_or_default();
    FileId(digits.parse().unwrap_or_default())
}

/// The record of an image of the plugin, compared with the manifest where there is one.
fn record<R: Record>(images: &ImageDir, name: &str) -> Result<R, ImageError> {
    let bytes = images.read(name)?;
    decode(name, GPU_HEAD_BYTES, &bytes[GPU_HEAD_BYTES as usize..])
}

fn state(entry: ThawGpuEntry, name: &str) -> Result<ThawGpuEntry, ImageError> {
    if entry.version == GPU_STATE_VERSION {
        return Ok(entry);
    }
    let feature = "GPU state of another version of thaw";
    Err(ImageError::Unsupported { file: name.to_owned(), feature })
}

/// What our own image says agrees with what the plugin's say.
fn agree(gpu: &GpuImages) -> Result<(), ImageError> {
    let Some(state) = &gpu.state else { return Ok(()) };
    let fail = |reason: String| contradiction(ImageKind::ThawGpu.file_name(0), 8, reason);
    let mut seen = BTreeSet::new();
    for file in &state.files {
        let id = FileId(file.id);
        let kfd = gpu.kfds.get(&id).map(|kfd| kfd.entry.bo_entries.len());
        let render = gpu.renders.get(&id).map(|node| node.bo_entries.len());
        let dmabuf = gpu.dmabufs.get(&id).map(|_| 1);
        let Some(buffers) = kfd.or(render).or(dmabuf) else {
            return Err(fail(format!("file {:#x} has no image of the plugin", file.id)));
        };
        if buffers != file.objects.len() {
            let found = file.objects.len();
            let id = file.id;
            return Err(fail(format!("{found} of {buffers} buffers of file {id:#x} are listed")));
        }
        if !seen.insert(id) {
            return Err(fail(format!("file {:#x} is listed twice", file.id)));
        }
    }
    let missing = gpu.kfds.keys().chain(gpu.renders.keys()).chain(gpu.dmabufs.keys());
    match missing.into_iter().find(|id| !seen.contains(id)) {
        Some(id) => Err(fail(format!("file {:#x} is not listed", id.0))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use crate::{Checkpoint, FileId};

    /// The bulk, which is not committed: only sizes matter here.
    const BULK: [(&str, u64); 6] = [
        ("amdgpu-pages-19-5a01.img", 1_081_352),
        ("amdgpu-pages-19-5a02.img", 1_048_584),
        ("amdgpu-pages-32-5a01.img", 1_081_352),
        ("amdgpu-pages-32-5a02.img", 1_048_584),
        ("pages-1.img", 2_334_720),
        ("pages-2.img", 2_334_720),
    ];

    #[test]
    fn six_device_files_of_two_processes_are_read_as_one_state() {
        let dir = tempfile::tempdir().expect("a folder");
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gpu-tree");
        for entry in std::fs::read_dir(fixture).expect("it is there") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("room");
        }
        for (name, len_bytes) in BULK {
            let file = File::create(dir.path().join(name)).expect("room");
            file.set_len(len_bytes).expect("room");
        }
        let gpu = Checkpoint::open(dir.path()).expect("it is whole").gpu;
        assert_eq!(gpu.kfds.keys().copied().collect::<Vec<_>>(), [FileId(19), FileId(32)]);
        let renders: Vec<u32> = gpu.renders.keys().map(|id| id.0).collect();
        assert_eq!(renders, [21, 22, 34, 35]);
        let kfd = &gpu.kfds[&FileId(19)];
        assert_eq!(kfd.entry.pid, 28866);
        assert_eq!(kfd.private.bos.len(), kfd.entry.bo_entries.len());
        assert!(gpu.state.is_none() && !gpu.is_empty() && gpu.has(FileId(34)));
    }
}
