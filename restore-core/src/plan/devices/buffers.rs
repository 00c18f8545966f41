//! Which buffers are the same memory, and who makes each.
//!
//! Our own image says it (`thaw-gpu.img`). Without it offsets do, which every buffer has that can
//! be mapped; handle numbers and what upstream says of imports do not. What is taken for granted
//! beyond that is noted as an assumption.

use std::collections::BTreeMap;

use criu_image::{Checkpoint, FileId};
use gpu_kfd::uapi::kfd::alloc;

use super::gpus::GpuPlan;
use super::layout::Layout;
use super::place_of;
use super::work::BufferKey;
use crate::contract::StepKind;
use crate::refusal::{Refusal, RefusalKind};

/// A handle that is none (CRIU 4.2's plugin, `KFD_INVALID_HANDLE`).
const NO_HANDLE: u32 = 0xffff_ffff;

/// The memory behind every buffer.
#[derive(Debug, Default)]
pub(super) struct Sharing {
    objects: BTreeMap<BufferKey, u64>,
    makers: BTreeMap<u64, BufferKey>,
    imports: BTreeMap<FileId, Vec<u64>>,
    pub(super) assumptions: Vec<String>,
}

impl Sharing {
    pub(super) fn new(
        checkpoint: &Checkpoint,
        gpus: &GpuPlan,
        layout: &Layout,
        refusals: &mut Vec<Refusal>,
    ) -> Self {
        let mut sharing = Self::default();
        match &checkpoint.gpu.state {
            Some(state) => {
                for file in &state.files {
                    for (index, &object) in file.objects.iter().enumerate() {
                        let key = BufferKey { file: FileId(file.id), index };
                        sharing.objects.insert(key, object);
                    }
                }
            }
            None => sharing.by_offsets(checkpoint, gpus, layout, refusals),
        }
        sharing.choose_makers(checkpoint, layout, refusals);
        sharing
    }

    /// The number of a buffer's memory.
    pub(super) fn object(&self, key: BufferKey) -> u64 {
        self.objects.get(&key).copied().unwrap_or_default()
    }

    /// Which buffer is made; the others of this memory are imports of it.
    pub(super) fn maker(&self, object: u64) -> Option<BufferKey> {
        self.makers.get(&object).copied()
    }

    /// Memory that a file needs and does not make, each once.
    pub(super) fn imports(&self, file: FileId) -> &[u64] {
        self.imports.get(&file).map_or(&[], Vec::as_slice)
    }

    /// Where a buffer was mapped from tells what it is: an object of a GPU has one offset, whatever
    /// files and processes have it (`drm_vma_offset_manager`, Linux 6.18), the KFD's as well.
    fn by_offsets(
        &mut self,
        checkpoint: &Checkpoint,
        gpus: &GpuPlan,
        layout: &Layout,
        refusals: &mut Vec<Refusal>,
    ) {
        let mut at: BTreeMap<(u32, u64), u64> = BTreeMap::new();
        for (&file, kfd) in &checkpoint.gpu.kfds {
            for (index, bo) in kfd.entry.bo_entries.iter().enumerate() {
                let is_memory = bo.alloc_flags & (alloc::DOORBELL | alloc::MMIO_REMAP) == 0;
                let minor = gpus.minor_of(file, bo.gpu_id).filter(|_| is_memory);
                self.number(BufferKey { file, index }, minor, bo.offset, &mut at);
            }
        }
        for (&file, node) in &checkpoint.gpu.renders {
            for (index, bo) in node.bo_entries.iter().enumerate() {
                let known = at.len();
                let minor = Some(node.drm_render_minor);
                self.number(BufferKey { file, index }, minor, bo.offset, &mut at);
                if bo.is_import != 0 && (at.len() > known || bo.offset == 0) {
                    self.assumptions.push(format!(
                        "buffer {} of {} is one of its own, though its image says that it was \
                         imported: nothing else of the tree is the same memory",
                        bo.handle,
                        place_of(checkpoint, file)
                    ));
                }
            }
        }
        for placed in layout.steps.iter().filter(|placed| !placed.received) {
            if let Some(node) = checkpoint.gpu.dmabufs.get(&placed.file) {
                let key = BufferKey { file: placed.file, index: 0 };
                match self.with_handle(checkpoint, layout, node.gem_handle) {
                    Some(object) => {
                        self.objects.insert(key, object);
                        self.assume_dmabuf(checkpoint, placed.file, node.gem_handle);
                    }
                    None => {
                        let what =
                            format!("dma-buf of buffer {}, which no file has", node.gem_handle);
                        let place = place_of(checkpoint, placed.file);
                        refusals.push(Refusal::of_tree(RefusalKind::GpuForeignBuffer, what, place));
                    }
                }
            }
        }
    }

    /// Gives a buffer the number of what was mapped from its offset, or a new one.
    fn number(
        &mut self,
        key: BufferKey,
        minor: Option<u32>,
        offset_bytes: u64,
        at: &mut BTreeMap<(u32, u64), u64>,
    ) {
        let fresh = self.objects.len() as u64 + 1;
        let object = match minor {
            // What cannot be mapped has no offset.
            Some(minor) if offset_bytes != 0 => *at.entry((minor, offset_bytes)).or_insert(fresh),
            _ => fresh,
        };
        self.objects.insert(key, object);
    }

    /// The memory of the first buffer with a handle, in the order of steps.
    fn with_handle(&self, checkpoint: &Checkpoint, layout: &Layout, handle: u32) -> Option<u64> {
        layout.steps.iter().filter(|placed| !placed.received).find_map(|placed| {
            let file = placed.file;
            let kfd = checkpoint.gpu.kfds.get(&file).map(|kfd| &kfd.entry.bo_entries);
            let kfd = kfd.and_then(|bos| bos.iter().position(|bo| bo.handle == handle));
            let gem = checkpoint.gpu.renders.get(&file).map(|node| &node.bo_entries);
            let gem = gem.and_then(|bos| bos.iter().position(|bo| bo.handle == handle));
            let index = gem.or(kfd.filter(|_| handle != NO_HANDLE))?;
            Some(self.object(BufferKey { file, index }))
        })
    }

    fn assume_dmabuf(&mut self, checkpoint: &Checkpoint, file: FileId, handle: u32) {
        self.assumptions.push(format!(
            "{} is of the first buffer with handle {handle}: its image has no more than that",
            place_of(checkpoint, file)
        ));
    }

    fn choose_makers(
        &mut self,
        checkpoint: &Checkpoint,
        layout: &Layout,
        refusals: &mut Vec<Refusal>,
    ) {
        let mut holders: BTreeMap<u64, Vec<(usize, BufferKey)>> = BTreeMap::new();
        for (&key, &object) in &self.objects {
            if let Some(&step) = layout.home.get(&key.file) {
                holders.entry(object).or_default().push((step, key));
            }
        }
        for (object, mut keys) in holders {
            keys.sort_unstable();
            match self.maker_of(checkpoint, layout, &keys) {
                Ok(maker) => {
                    self.makers.insert(object, maker);
                    for &(_, key) in keys.iter().filter(|(_, key)| *key != maker) {
                        let imports = self.imports.entry(key.file).or_default();
                        if key.file != maker.file && !imports.contains(&object) {
                            imports.push(object);
                        }
                    }
                }
                Err(refusal) => refusals.push(refusal),
            }
        }
    }

    /// The KFD's, or else the first that no image calls an import.
    fn maker_of(
        &self,
        checkpoint: &Checkpoint,
        layout: &Layout,
        keys: &[(usize, BufferKey)],
    ) -> Result<BufferKey, Refusal> {
        let pid = |step: usize| checkpoint.processes[layout.steps[step].process].pid;
        let kind = |step: usize| layout.steps[step].kind;
        let mut kfds = keys.iter().filter(|(step, _)| kind(*step) == StepKind::Kfd);
        if let Some(&(step, maker)) = kfds.next() {
            if let Some(&(other, second)) = kfds.next() {
                let what = format!(
                    "buffer {} shared by the KFD states of processes {} and {}",
                    second.index,
                    pid(step),
                    pid(other)
                );
                let place = place_of(checkpoint, second.file);
                return Err(Refusal::of_tree(RefusalKind::GpuSharedBuffer, what, place));
            }
            return Ok(maker);
        }
        let is_own = |key: &BufferKey| {
            let node = checkpoint.gpu.renders.get(&key.file);
            let bo = node.and_then(|node| node.bo_entries.get(key.index));
            bo.is_some_and(|bo| bo.is_import == 0 || checkpoint.gpu.state.is_none())
        };
        let maker = keys.iter().map(|(_, key)| *key).find(|key| is_own(key));
        maker.ok_or_else(|| {
            let (step, key) = keys[0];
            let what = format!("buffer {} that nothing in the tree has made", key.index);
            let place = place_of(checkpoint, key.file);
            Refusal::new(RefusalKind::GpuForeignBuffer, what, place, pid(step))
        })
    }
}
