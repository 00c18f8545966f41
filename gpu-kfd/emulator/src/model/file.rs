//! Open files: of `/dev/kfd`, of render nodes, and dma-bufs.
//!
//! A dma-buf stands for a buffer; its number, which an exporting call returns, is derived from the
//! buffer's identity, since a server in user space cannot put a descriptor into its caller.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::drm;
use super::handles::Handles;
use super::memory::Memory;
use super::vm::{Owner, Vm};
use super::world::{BufferId, FileId, GpuIndex, SpaceId, World};

/// Handles of a file of a render node: the kernel gives them out from 1 (`drm_gem.c`).
const GEM_HANDLE_FIRST: u32 = 1;
/// Limit of GEM handles; the kernel's is the range of its `idr`.
const GEM_HANDLE_END: u32 = i32::MAX as u32;

/// An open file.
#[derive(Clone, Debug)]
pub(crate) enum File {
    /// `/dev/kfd`, opened by this address space.
    Kfd(SpaceId),
    Render(Box<RenderFile>),
    DmaBuf(BufferId),
}

/// One open of a render node.
#[derive(Clone, Debug)]
pub(crate) struct RenderFile {
    pub(crate) gpu: GpuIndex,
    handles: Handles<BufferId>,
    /// The same the other way round: a file has one handle for a buffer.
    by_buffer: BTreeMap<BufferId, u32>,
    pub(crate) vm: Vm,
    /// The KFD process that has taken over the address space.
    pub(crate) compute_of: Option<SpaceId>,
    /// Has not seen its last close.
    pub(crate) open: bool,
    pub(crate) submissions: drm::Submissions,
}

impl RenderFile {
    fn new(gpu: GpuIndex) -> Self {
        Self {
            gpu,
            handles: Handles::new(GEM_HANDLE_FIRST, GEM_HANDLE_END),
            by_buffer: BTreeMap::new(),
            vm: Vm::default(),
            compute_of: None,
            open: true,
            submissions: drm::Submissions::default(),
        }
    }

    /// The buffer of a GEM handle.
    ///
    /// # Errors
    /// `ENOENT` if there is no such handle.
    pub(crate) fn buffer_of(&self, handle: u32) -> Result<BufferId, Errno> {
        self.handles.get(handle).copied().ok_or(Errno::ENOENT)
    }

    /// The GEM handles in ascending order.
    pub(crate) fn handles(&self) -> impl Iterator<Item = (u32, BufferId)> {
        self.handles.iter().map(|(handle, buffer)| (handle, *buffer))
    }

    /// Gives a buffer the lowest free GEM handle, which takes over a reference.
    ///
    /// # Errors
    /// `ENOSPC` if none is free.
    pub(crate) fn add_handle(&mut self, buffer: BufferId) -> Result<u32, Errno> {
        let handle = self.handles.insert(buffer)?;
        self.by_buffer.insert(buffer, handle);
        Ok(handle)
    }

    /// Moves a buffer to another GEM handle; its mappings stay.
    ///
    /// # Errors
    /// `ENOENT` if there is no such handle, `ENOSPC` if the new one is taken, `EINVAL` if it cannot
    /// be one.
    pub(crate) fn move_handle(&mut self, from: u32, to: u32) -> Result<(), Errno> {
        let buffer = self.buffer_of(from)?;
        if from == to {
            return Ok(());
        }
        self.handles.insert_at(to, buffer)?;
        self.handles.remove(from);
        self.by_buffer.insert(buffer, to);
        self.vm.rename_owner(Owner::Gem(from), Owner::Gem(to));
        Ok(())
    }

    /// Closes a GEM handle: its mappings go with it.
    ///
    /// # Errors
    /// `EINVAL` if there is no such handle.
    pub(crate) fn close_handle(
        &mut self,
        memory: &mut Memory,
        world: &mut dyn World,
        handle: u32,
    ) -> Result<(), Errno> {
        let buffer = self.handles.remove(handle).ok_or(Errno::EINVAL)?;
        self.by_buffer.remove(&buffer);
        self.vm.drop_owner(Owner::Gem(handle));
        memory.release(world, buffer);
        Ok(())
    }

    /// The handle that this file has for a buffer.
    pub(crate) fn handle_of(&self, buffer: BufferId) -> Option<u32> {
        self.by_buffer.get(&buffer).copied()
    }

    fn tear_down(&mut self, memory: &mut Memory, world: &mut dyn World) {
        self.by_buffer.clear();
        for (handle, buffer) in self.handles.take() {
            self.vm.drop_owner(Owner::Gem(handle));
            memory.release(world, buffer);
        }
        for buffer in self.submissions.take_buffers() {
            memory.release(world, buffer);
        }
    }
}

/// All open files, and the dma-bufs that nobody has opened yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Files {
    last: u64,
    table: BTreeMap<FileId, File>,
    /// References that wait for an open, by buffer and exporting address space.
    exports: BTreeMap<(BufferId, SpaceId), u32>,
}

impl Files {
    fn add(&mut self, file: File) -> FileId {
        self.last += 1;
        self.table.insert(FileId(self.last), file);
        FileId(self.last)
    }

    pub(crate) fn open_kfd(&mut self, space: SpaceId) -> FileId {
        self.add(File::Kfd(space))
    }

    pub(crate) fn open_render(&mut self, gpu: GpuIndex) -> FileId {
        self.add(File::Render(Box::new(RenderFile::new(gpu))))
    }

    /// Opens a dma-buf that was exported or is open elsewhere.
    ///
    /// # Errors
    /// `ENOENT` if the buffer was not exported.
    pub(crate) fn open_dma_buf(
        &mut self,
        memory: &mut Memory,
        space: SpaceId,
        buffer: BufferId,
    ) -> Result<FileId, Errno> {
        let waiting = self.exports.range((buffer, SpaceId(0))..=(buffer, SpaceId(u64::MAX)));
        let any = waiting.map(|(key, _)| *key).next();
        let own = Some((buffer, space)).filter(|key| self.exports.contains_key(key));
        match own.or(any) {
            Some(key) => self.take_export(key),
            None if self.is_open_dma_buf(buffer) => memory.retain(buffer),
            None => return Err(Errno::ENOENT),
        }
        Ok(self.add(File::DmaBuf(buffer)))
    }

    fn is_open_dma_buf(&self, buffer: BufferId) -> bool {
        self.table.values().any(|file| matches!(file, File::DmaBuf(id) if *id == buffer))
    }

    /// Whether a dma-buf of this buffer can be opened.
    pub(crate) fn has_dma_buf(&self, buffer: BufferId) -> bool {
        let all = (buffer, SpaceId(0))..=(buffer, SpaceId(u64::MAX));
        self.exports.range(all).next().is_some() || self.is_open_dma_buf(buffer)
    }

    /// Notes that a call returned a dma-buf to `space`; holds a reference until it is opened.
    pub(crate) fn export(&mut self, memory: &mut Memory, space: SpaceId, buffer: BufferId) {
        memory.retain(buffer);
        *self.exports.entry((buffer, space)).or_default() += 1;
    }

    /// Takes an export back that the caller has not been told of.
    pub(crate) fn unexport(
        &mut self,
        memory: &mut Memory,
        world: &mut dyn World,
        space: SpaceId,
        buffer: BufferId,
    ) {
        if self.exports.contains_key(&(buffer, space)) {
            self.take_export((buffer, space));
            memory.release(world, buffer);
        }
    }

    fn take_export(&mut self, key: (BufferId, SpaceId)) {
        let count = self.exports.get_mut(&key).expect("the caller found it");
        *count -= 1;
        if *count == 0 {
            self.exports.remove(&key);
        }
    }

    /// Drops what `space` exported and nobody opened.
    pub(crate) fn drop_exports(
        &mut self,
        memory: &mut Memory,
        world: &mut dyn World,
        space: SpaceId,
    ) {
        let gone: Vec<_> = self.exports.keys().filter(|key| key.1 == space).copied().collect();
        for key in gone {
            for _ in 0..self.exports.remove(&key).unwrap_or(0) {
                memory.release(world, key.0);
            }
        }
    }

    pub(crate) fn get(&self, id: FileId) -> Option<&File> {
        self.table.get(&id)
    }

    pub(crate) fn render(&self, id: FileId) -> Option<&RenderFile> {
        match self.table.get(&id) {
            Some(File::Render(file)) => Some(file),
            _ => None,
        }
    }

    pub(crate) fn render_mut(&mut self, id: FileId) -> Option<&mut RenderFile> {
        match self.table.get_mut(&id) {
            Some(File::Render(file)) => Some(file),
            _ => None,
        }
    }

    /// All open render nodes, and those that a KFD process keeps.
    pub(crate) fn render_files(&self) -> impl Iterator<Item = (FileId, &RenderFile)> {
        self.table.iter().filter_map(|(id, file)| match file {
            File::Render(file) => Some((*id, &**file)),
            _ => None,
        })
    }

    /// The last close. A render node that a KFD process has taken over stays until that ends.
    pub(crate) fn release(&mut self, memory: &mut Memory, world: &mut dyn World, id: FileId) {
        match self.table.get_mut(&id) {
            Some(File::Render(file)) => {
                file.open = false;
                if file.compute_of.is_none() {
                    file.tear_down(memory, world);
                    self.table.remove(&id);
                }
            }
            Some(File::DmaBuf(buffer)) => {
                let buffer = *buffer;
                self.table.remove(&id);
                memory.release(world, buffer);
            }
            Some(File::Kfd(_)) | None => {
                self.table.remove(&id);
            }
        }
    }

    /// The KFD process that had taken over this render node has ended.
    pub(crate) fn give_back(&mut self, memory: &mut Memory, world: &mut dyn World, id: FileId) {
        let Some(file) = self.render_mut(id) else { return };
        file.compute_of = None;
        if !file.open {
            self.release(memory, world, id);
        }
    }

    /// Counts the references to buffers that files and exports hold.
    pub(crate) fn count_references(&self, counted: &mut BTreeMap<BufferId, u32>) {
        for file in self.table.values() {
            match file {
                File::Kfd(_) => {}
                File::DmaBuf(buffer) => *counted.entry(*buffer).or_default() += 1,
                File::Render(file) => {
                    let handles = file.handles().map(|(_, buffer)| buffer);
                    for buffer in handles.chain(file.submissions.buffers()) {
                        *counted.entry(buffer).or_default() += 1;
                    }
                }
            }
        }
        for ((buffer, _), count) in &self.exports {
            *counted.entry(*buffer).or_default() += count;
        }
    }
}
