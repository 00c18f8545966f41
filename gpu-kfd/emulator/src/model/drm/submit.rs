//! Submissions: what a program gives to engines through a render node.
//!
//! SDMA rings carry their packets out. Rings of the compute and graphics pipelines take what does
//! nothing (PM4 no-ops), since the packets of those engines are not known here; everything else is
//! refused when it is submitted, where a real engine would hang. Engines of video do not exist.

use std::collections::BTreeSet;

use bytemuck::Pod;
use nix::errno::Errno;

use gpu_kfd::uapi::amdgpu::create;
use gpu_kfd::uapi::submit::{
    BoListIn, CsChunk, CsChunkDep, CsChunkFence, CsChunkIb, CsChunkSem, CsChunkSyncobj, CsIn,
    CsOut, Fence as FenceArgs, chunk_id, hw_ip,
};

use super::fences::{Fence, Pending, answer, argument};
use crate::model::engine::{Engines, IndirectBuffer, Job};
use crate::model::file::Files;
use crate::model::memory::Kind;
use crate::model::vm::PAGE_BYTES;
use crate::model::world::{BufferId, FileId};
use crate::model::{Call, Model, Outcome, read_array};

/// Most chunks of a submission, and most bytes in all of them: limits of this node.
const CHUNKS_MAX: u64 = 1024;
const CHUNK_BYTES_MAX: u64 = 4 << 20;

/// Rings that one submission may use (`AMDGPU_CS_GANG_SIZE`).
const GANG_MAX: usize = 4;

/// Longest indirect buffer: its size in words has 20 bits in the packet that names it.
const IB_BYTES_MAX: u32 = 4 << 20;

/// Most submissions of a file that may not have ended: a limit of this node, which only programs
/// meet that free their contexts before the work is done.
const PENDING_MAX: usize = 4096;

/// Longest indirect buffer of a pipeline: what does nothing need not be longer.
const IDLE_BYTES_MAX: u64 = 64 << 10;

/// Addresses have 48 bits; the upper ones repeat the last.
const VA_MASK: u64 = (1 << 48) - 1;

/// Only flag of chunk `CP_GFX_SHADOW`, where its flags stand, and its size, in bytes.
const SHADOW_INIT: u64 = 1;
const SHADOW_FLAGS_AT: usize = 24;
const SHADOW_BYTES: usize = 32;

/// Indirect buffers that one job of an engine takes (`amdgpu_ring_max_ibs`).
pub(super) fn ibs_max(ip: u32) -> usize {
    match ip {
        hw_ip::GFX => 192,
        hw_ip::COMPUTE => 125,
        hw_ip::VCN_JPEG => 16,
        _ => 49,
    }
}

/// A chunk as it was read.
struct Chunk {
    id: u32,
    data: Vec<u8>,
}

impl Chunk {
    /// The structure at its start.
    ///
    /// # Errors
    /// `EINVAL` if the chunk is shorter.
    fn head<T: Pod>(&self) -> Result<T, Errno> {
        let bytes = self.data.get(..size_of::<T>()).ok_or(Errno::EINVAL)?;
        Ok(bytemuck::pod_read_unaligned(bytes))
    }

    /// The structures that it consists of; a rest is left out.
    fn all<T: Pod>(&self) -> impl Iterator<Item = T> {
        self.data.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned)
    }
}

/// Work for one ring of a context.
#[derive(Clone, Debug)]
struct RingWork {
    ip: u32,
    ring: u32,
    buffers: Vec<IndirectBuffer>,
}

/// A submission that is found good.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    file: FileId,
    ctx_id: u32,
    works: Vec<RingWork>,
    /// The ring of the last indirect buffer: its fence stands for the whole.
    leader: usize,
    user_fence: Option<(BufferId, u64)>,
    /// What must have ended before.
    after: Vec<Fence>,
    /// Buffers that it is known to use.
    buffers: BTreeSet<BufferId>,
}

impl Prepared {
    /// Gives the work to the engines and the caller its number; nothing if a ring is full.
    ///
    /// # Errors
    /// `EINVAL` if the context is gone by now, `ECANCELED` if work of it has failed, `ENOMEM`.
    pub(super) fn submit(
        &self,
        files: &mut Files,
        engines: &mut Engines,
        arg: &mut [u8],
    ) -> Result<Option<i32>, Errno> {
        let file = self.file;
        let submissions = &mut files.render_mut(file).ok_or(Errno::EBADF)?.submissions;
        for work in &self.works {
            let entity = submissions.entity(self.ctx_id, work.ip, 0, work.ring)?;
            let in_the_way = entity.in_the_way();
            if in_the_way.is_some_and(|number| !engines.is_over(file, entity.row, number)) {
                return Ok(None);
            }
        }
        submissions.pending.retain(|pending| !pending.fence.is_over(engines));
        if submissions.pending.len() >= PENDING_MAX {
            return Err(Errno::ENOMEM);
        }
        let mut handle = 0;
        for (index, work) in self.works.iter().enumerate() {
            let is_leader = index == self.leader;
            let entity = submissions.entity(self.ctx_id, work.ip, 0, work.ring)?;
            let fence = Fence { file, row: entity.row, number: entity.next };
            engines.submit(Job {
                file,
                context: fence.row,
                sequence: fence.number,
                buffers: work.buffers.clone(),
                user_fence: self.user_fence.filter(|_| is_leader),
                after: self.after.iter().map(|fence| (fence.row, fence.number)).collect(),
            })?;
            entity.next += 1;
            if is_leader {
                handle = fence.number;
                submissions.pending.push(Pending { fence, buffers: self.buffers.clone() });
            }
        }
        answer(arg, CsOut { handle, ..CsOut::default() }).map(Some)
    }
}

impl Model {
    /// Waits while a ring has 32 submissions that have not ended.
    ///
    /// # Errors
    /// `EINVAL` for an unknown context, ring, dependency, chunk or user fence, for no work at all,
    /// for packets that no engine here knows; `ENOENT` for an unknown list, buffer or sync object
    /// (there are none); `EPERM` for memory of another process; `ECANCELED` after a failure in the
    /// same context; `EFAULT`; `ENOMEM` at this node's limits.
    pub(super) fn cs(&mut self, call: &mut Call<'_>, arg: &mut [u8]) -> Outcome {
        let args = argument(arg);
        match self.prepare(call, &args) {
            Ok(prepared) => self.submit_or_park(call, arg, prepared),
            Err(errno) => Outcome::Done(Err(errno)),
        }
    }

    fn prepare(&mut self, call: &mut Call<'_>, args: &CsIn) -> Result<Prepared, Errno> {
        let known = self.render_of(call)?.submissions.has_context(args.ctx_id);
        if args.num_chunks == 0 || !known {
            return Err(Errno::EINVAL);
        }
        let mut prepared = Prepared {
            file: call.file,
            ctx_id: args.ctx_id,
            works: Vec::new(),
            leader: 0,
            user_fence: None,
            after: Vec::new(),
            buffers: BTreeSet::new(),
        };
        let mut list = None;
        let chunks = self.first_pass(call, args, &mut prepared, &mut list)?;
        self.second_pass(call, &chunks, &mut prepared)?;
        let file = self.render_of(call)?;
        if args.bo_list_handle != 0 {
            if list.is_some() {
                return Err(Errno::EINVAL);
            }
            list = Some(file.submissions.list(args.bo_list_handle)?.to_vec());
        }
        prepared.buffers.extend(list.unwrap_or_default());
        self.check_users(call, &prepared)?;
        let always =
            self.render_of(call)?.handles().map(|(_, buffer)| buffer).filter(|buffer| {
                self.memory.buffer(*buffer).gem_flags & create::VM_ALWAYS_VALID != 0
            });
        prepared.buffers.extend(always);
        prepared.buffers.extend(prepared.user_fence.map(|(buffer, _)| buffer));
        self.check_pipelines(call, &mut prepared)?;
        Ok(prepared)
    }

    /// Reads the chunks and takes up what stands for itself.
    fn first_pass(
        &mut self,
        call: &mut Call<'_>,
        args: &CsIn,
        prepared: &mut Prepared,
        list: &mut Option<Vec<BufferId>>,
    ) -> Result<Vec<Chunk>, Errno> {
        let space = call.caller.space;
        let count = u64::from(args.num_chunks);
        let addresses: Vec<u64> = read_array(call.world, space, args.chunks, count, CHUNKS_MAX)?;
        let mut chunks = Vec::with_capacity(addresses.len());
        let mut left = CHUNK_BYTES_MAX;
        for address in addresses {
            let mut head = CsChunk::default();
            call.world.read_user(space, address, bytemuck::bytes_of_mut(&mut head))?;
            let len_bytes = u64::from(head.length_dw) * 4;
            left = left.checked_sub(len_bytes).ok_or(Errno::ENOMEM)?;
            let mut data = vec![0; len_bytes as usize];
            call.world.read_user(space, head.chunk_data, &mut data)?;
            let chunk = Chunk { id: head.chunk_id, data };
            match chunk.id {
                chunk_id::IB => self.take_ib(call, prepared, &chunk.head()?)?,
                chunk_id::FENCE => {
                    let fence = chunk.head()?;
                    if prepared.user_fence.is_some() {
                        return Err(Errno::EINVAL);
                    }
                    prepared.user_fence = Some(self.user_fence(call, &fence)?);
                }
                chunk_id::BO_HANDLES => {
                    let head: BoListIn = chunk.head()?;
                    if list.is_some() {
                        return Err(Errno::EINVAL);
                    }
                    *list = Some(self.inline_list(call, &head)?);
                }
                chunk_id::CP_GFX_SHADOW if chunk.data.len() < SHADOW_BYTES => {
                    return Err(Errno::EINVAL);
                }
                chunk_id::DEPENDENCIES..=chunk_id::SYNCOBJ_OUT
                | chunk_id::SCHEDULED_DEPENDENCIES..=chunk_id::CP_GFX_SHADOW => {}
                _ => return Err(Errno::EINVAL),
            }
            chunks.push(chunk);
        }
        if prepared.works.is_empty() { Err(Errno::EINVAL) } else { Ok(chunks) }
    }

    /// Adds an indirect buffer to the work of its ring.
    fn take_ib(
        &mut self,
        call: &Call<'_>,
        prepared: &mut Prepared,
        ib: &CsChunkIb,
    ) -> Result<(), Errno> {
        let CsChunkIb { va_start, ib_bytes, ip_type, ip_instance, ring, .. } = *ib;
        let file = self.render_of_mut(call)?;
        let gpu = file.gpu;
        file.submissions.entity(prepared.ctx_id, ip_type, ip_instance, ring)?;
        let is_there = self.rings_of(gpu, ip_type) != 0;
        if !is_there || ib_bytes > IB_BYTES_MAX {
            return Err(Errno::EINVAL);
        }
        let works = &mut prepared.works;
        let known = works.iter().position(|work| (work.ip, work.ring) == (ip_type, ring));
        let index = match known {
            Some(index) => index,
            None if works.len() == GANG_MAX => return Err(Errno::EINVAL),
            None => {
                works.push(RingWork { ip: ip_type, ring, buffers: Vec::new() });
                works.len() - 1
            }
        };
        if works[index].buffers.len() >= ibs_max(ip_type) {
            return Err(Errno::EINVAL);
        }
        let len_bytes = u64::from(ib_bytes & !3);
        works[index].buffers.push(IndirectBuffer { va: va_start & VA_MASK, len_bytes });
        prepared.leader = index;
        Ok(())
    }

    /// Where a submission's number shall be written at its end: in a buffer of one page.
    fn user_fence(&self, call: &Call<'_>, fence: &CsChunkFence) -> Result<(BufferId, u64), Errno> {
        let file = self.render_of(call)?;
        let id = file.buffer_of(fence.handle).map_err(|_| Errno::EINVAL)?;
        let buffer = self.memory.buffer(id);
        let fits = buffer.size_bytes == PAGE_BYTES && u64::from(fence.offset) <= PAGE_BYTES - 8;
        if !fits || matches!(buffer.kind, Kind::User { .. }) {
            return Err(Errno::EINVAL);
        }
        Ok((id, u64::from(fence.offset)))
    }

    /// Takes up what names other things: fences, and sync objects, of which there are none.
    fn second_pass(
        &mut self,
        call: &Call<'_>,
        chunks: &[Chunk],
        prepared: &mut Prepared,
    ) -> Result<(), Errno> {
        let mut signals = false;
        for chunk in chunks {
            match chunk.id {
                chunk_id::DEPENDENCIES | chunk_id::SCHEDULED_DEPENDENCIES => {
                    for dep in chunk.all() {
                        let CsChunkDep { ip_type, ip_instance, ring, ctx_id, handle } = dep;
                        let seq_no = handle;
                        let named = FenceArgs { ctx_id, ip_type, ip_instance, ring, seq_no };
                        prepared.after.extend(self.fence_of(call, &named)?);
                    }
                }
                chunk_id::SYNCOBJ_IN if chunk.all::<CsChunkSem>().next().is_some() => {
                    return Err(Errno::ENOENT);
                }
                chunk_id::SYNCOBJ_TIMELINE_WAIT
                    if chunk.all::<CsChunkSyncobj>().next().is_some() =>
                {
                    return Err(Errno::ENOENT);
                }
                chunk_id::SYNCOBJ_OUT | chunk_id::SYNCOBJ_TIMELINE_SIGNAL => {
                    let is_timeline = chunk.id == chunk_id::SYNCOBJ_TIMELINE_SIGNAL;
                    let entry_bytes = if is_timeline {
                        size_of::<CsChunkSyncobj>()
                    } else {
                        size_of::<CsChunkSem>()
                    };
                    if signals || chunk.data.len() >= entry_bytes {
                        return Err(Errno::EINVAL);
                    }
                    signals = true;
                }
                chunk_id::CP_GFX_SHADOW => {
                    let flags = &chunk.data[SHADOW_FLAGS_AT..SHADOW_BYTES];
                    if bytemuck::pod_read_unaligned::<u64>(flags) & !SHADOW_INIT != 0 {
                        return Err(Errno::EINVAL);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Memory of a process may only be used by itself.
    fn check_users(&self, call: &Call<'_>, prepared: &Prepared) -> Result<(), Errno> {
        let foreign = |buffer: &BufferId| match self.memory.buffer(*buffer).kind {
            Kind::User { space, .. } => space != call.caller.space,
            _ => false,
        };
        if prepared.buffers.iter().any(foreign) { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Lets the pipelines have what does nothing, and takes it away.
    fn check_pipelines(&self, call: &mut Call<'_>, prepared: &mut Prepared) -> Result<(), Errno> {
        let vm = self.files.render(call.file).map(|file| &file.vm);
        for work in prepared.works.iter_mut().filter(|work| work.ip != hw_ip::DMA) {
            for ib in work.buffers.drain(..) {
                if ib.len_bytes > IDLE_BYTES_MAX {
                    return Err(Errno::EINVAL);
                }
                let mut bytes = vec![0; ib.len_bytes as usize];
                let vm = vm.ok_or(Errno::EBADF)?;
                let read = vm.read(&self.memory, call.world, ib.va, &mut bytes);
                if read.is_err() || !is_idle(&bytes) {
                    return Err(Errno::EINVAL);
                }
            }
        }
        Ok(())
    }
}

/// Whether PM4 packets do nothing: fillers of one word (type 2), and no-ops (type 3, operation
/// 0x10) with words that nobody looks at.
fn is_idle(bytes: &[u8]) -> bool {
    let mut words = bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned::<u32>);
    while let Some(header) = words.next() {
        match header >> 30 {
            2 => {}
            3 if header >> 8 & 0xff == 0x10 => {
                let count = header >> 16 & 0x3fff;
                // The largest count means a packet of the header alone.
                let skipped = if count == 0x3fff { 0 } else { count as usize + 1 };
                if skipped > 0 && words.nth(skipped - 1).is_none() {
                    return false;
                }
            }
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::is_idle;

    fn check(words: &[u32], expected: bool) {
        assert_eq!(is_idle(bytemuck::cast_slice(words)), expected, "{words:x?}");
    }

    #[test]
    fn only_what_does_nothing_is_idle() {
        check(&[], true);
        check(&[0x8000_0000, 0xffff_1000], true);
        check(&[0xc001_1000, 0xdead_beef, 0xdead_beef, 0x8000_0000], true);
        check(&[0xc001_1000, 0xdead_beef], false);
        check(&[0xc000_1500, 0], false);
        check(&[0], false);
    }
}
