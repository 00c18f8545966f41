//! Which buffers are the same memory, and who makes each.
//!
//! Our own image says it (`thaw-gpu.img`). Without it there are handle numbers, which say little:
//! what is taken for granted then is noted as an assumption.

use std::collections::BTreeMap;

use criu_image::{Checkpoint, FileId};

use super::layout::Layout;
use super::place_of;
use super::work::BufferKey;
use crate::contract::StepKind;
use crate::refusal::Refusal;

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
            None => sharing.by_handles(checkpoint, layout, refusals),
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

    fn by_handles(
        &mut self,
        checkpoint: &Checkpoint,
        layout: &Layout,
        refusals: &mut Vec<Refusal>,
    ) {
        let candidates = self.own_buffers(checkpoint);
        for placed in layout.steps.iter().filter(|placed| !placed.received) {
            let file = placed.file;
            if let Some(node) = checkpoint.gpu.renders.get(&file) {
                for (index, bo) in node.bo_entries.iter().enumerate() {
                    if bo.is_import == 0 {
                        continue;
                    }
                    let key = BufferKey { file, index };
                    let like = |it: &&Candidate| it.handle == bo.handle && it.size == bo.size;
                    if let Some(found) = candidates.iter().find(like) {
                        self.objects.insert(key, found.object);
                        self.assume_shared(checkpoint, key, bo.handle, found.key);
                    } else {
                        // Its contents are checked to be there when it is planned as a buffer.
                        self.objects.insert(key, self.objects.len() as u64 + 1);
                        self.assumptions.push(format!(
                            "buffer {} of {} is taken for one of its own, though its image says \
                             that it was imported",
                            bo.handle,
                            place_of(checkpoint, file)
                        ));
                    }
                }
            }
            if let Some(node) = checkpoint.gpu.dmabufs.get(&file) {
                let key = BufferKey { file, index: 0 };
                let Some(found) = candidates.iter().find(|it| it.handle == node.gem_handle) else {
                    let what = format!("dma-buf of buffer {}, which no file has", node.gem_handle);
                    refusals.push(Refusal::of_tree(what, place_of(checkpoint, file)));
                    continue;
                };
                self.objects.insert(key, found.object);
                self.assume_shared(checkpoint, key, node.gem_handle, found.key);
            }
        }
    }

    /// Every buffer that is not said to be an import, with a number of its own.
    fn own_buffers(&mut self, checkpoint: &Checkpoint) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        let mut add = |key, handle, size| {
            let object = candidates.len() as u64 + 1;
            self.objects.insert(key, object);
            candidates.push(Candidate { key, handle, size, object });
        };
        for (&file, kfd) in &checkpoint.gpu.kfds {
            for (index, bo) in kfd.entry.bo_entries.iter().enumerate() {
                add(BufferKey { file, index }, bo.handle, bo.size);
            }
        }
        for (&file, node) in &checkpoint.gpu.renders {
            for (index, bo) in node.bo_entries.iter().enumerate().filter(|(_, b)| b.is_import == 0)
            {
                add(BufferKey { file, index }, bo.handle, bo.size);
            }
        }
        candidates.retain(|candidate| candidate.handle != NO_HANDLE);
        candidates
    }

    fn assume_shared(
        &mut self,
        checkpoint: &Checkpoint,
        key: BufferKey,
        handle: u32,
        with: BufferKey,
    ) {
        self.assumptions.push(format!(
            "buffer {handle} of {} is the same memory as buffer {} of {}: the images only have \
             handle numbers",
            place_of(checkpoint, key.file),
            with.index,
            place_of(checkpoint, with.file)
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
                let help = "the driver can only restore two separate buffers: dump when it is not \
                            shared";
                let refusal = Refusal::of_tree(what, place_of(checkpoint, second.file));
                return Err(refusal.with_help(help));
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
            Refusal::new(what, place_of(checkpoint, key.file), pid(step))
                .with_help("dump the process that exported it in the same tree")
        })
    }
}

struct Candidate {
    key: BufferKey,
    handle: u32,
    size: u64,
    object: u64,
}
