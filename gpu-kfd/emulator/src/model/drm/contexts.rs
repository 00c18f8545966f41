//! Contexts, which submissions belong to, and lists of buffers, which submissions name.

use std::collections::BTreeMap;

use nix::errno::Errno;

use gpu_kfd::uapi::amdgpu::{VmIn, vm_op};
use gpu_kfd::uapi::submit::{
    BoListEntry, BoListIn, BoListOut, CtxAllocOut, CtxIn, CtxStateOut, bo_list_op, ctx_op, hw_ip,
};

use super::fences::Pending;
use crate::model::handles::Handles;
use crate::model::memory::Kind;
use crate::model::world::BufferId;
use crate::model::{Call, Model, read_array};

/// Limit of context numbers of one file (`AMDGPU_VM_MAX_NUM_CTX`).
const CONTEXTS_END: u32 = 4096;

/// Most entries of one list (`AMDGPU_BO_LIST_MAX_ENTRIES`).
const LIST_ENTRIES_MAX: u32 = 128 * 1024;

/// Most entries of all lists of one file: a limit of this node.
const ALL_ENTRIES_MAX: usize = 1 << 20;

/// Most lists of one file: a limit of this node.
const LISTS_END: u32 = 1 << 16;

/// Submissions of one ring whose fate is told; older ones are done, or the next one waits for them
/// (`amdgpu_sched_jobs`).
const REMEMBERED: u64 = 32;

/// Rings that a context has on each kind of engine (`amdgpu_ctx_num_entities`).
const RINGS: [u32; hw_ip::VPE as usize + 1] = [1, 4, 2, 1, 1, 1, 1, 1, 1, 1];

/// Highest stable power state, and the bits that hold one (`AMDGPU_CTX_STABLE_PSTATE_*`).
const PSTATE_LAST: u32 = 4;
const PSTATE_MASK: u32 = 0xf;

/// Priorities that exist (`AMDGPU_CTX_PRIORITY_*`); any other number counts as normal.
const PRIORITIES: [i32; 5] = [-1023, -512, 0, 512, 1023];

/// A ring of a context: kind of engine and number.
pub(super) type Ring = (u32, u32);

/// What a context has given to one ring: a row of jobs that end in order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entity {
    /// Names the row among all of the file's, for ever.
    pub(super) row: u32,
    /// Number that the next submission gets, from 1.
    pub(super) next: u64,
}

impl Entity {
    /// The submission that must have ended before there is room for another.
    pub(super) fn in_the_way(&self) -> Option<u64> {
        self.next.checked_sub(REMEMBERED).filter(|number| *number > 0)
    }

    /// A submission by its number, `u64::MAX` for the last; nothing for one that has long ended.
    ///
    /// # Errors
    /// `EINVAL` for a number that was not given out.
    pub(super) fn find(&self, number: u64) -> Result<Option<u64>, Errno> {
        let number = if number == u64::MAX { self.next - 1 } else { number };
        if number >= self.next {
            return Err(Errno::EINVAL);
        }
        Ok(Some(number).filter(|number| *number > 0 && number + REMEMBERED >= self.next))
    }
}

/// A context.
#[derive(Clone, Debug, Default)]
struct Context {
    entities: BTreeMap<Ring, Entity>,
    stable_pstate: u32,
}

/// Contexts and buffer lists of one open render node.
#[derive(Clone, Debug)]
pub(crate) struct Submissions {
    contexts: Handles<Context>,
    /// Each list holds a reference to each of its buffers.
    lists: Handles<Vec<BufferId>>,
    entries: usize,
    last_row: u32,
    /// What may not have ended yet.
    pub(super) pending: Vec<Pending>,
}

impl Default for Submissions {
    fn default() -> Self {
        Self {
            contexts: Handles::new(1, CONTEXTS_END),
            lists: Handles::new(1, LISTS_END),
            entries: 0,
            last_row: 0,
            pending: Vec::new(),
        }
    }
}

impl Submissions {
    /// What a context has given to a ring.
    ///
    /// # Errors
    /// `EINVAL` for an unknown context, and for an engine, instance or ring that no chip has.
    pub(super) fn entity(
        &mut self,
        ctx_id: u32,
        ip: u32,
        instance: u32,
        ring: u32,
    ) -> Result<&mut Entity, Errno> {
        let context = self.contexts.get_mut(ctx_id).ok_or(Errno::EINVAL)?;
        let rings = RINGS.get(ip as usize).ok_or(Errno::EINVAL)?;
        if instance != 0 || ring >= *rings {
            return Err(Errno::EINVAL);
        }
        let last_row = &mut self.last_row;
        Ok(context.entities.entry((ip, ring)).or_insert_with(|| {
            *last_row += 1;
            Entity { row: *last_row, next: 1 }
        }))
    }

    /// Whether there is such a context.
    pub(super) fn has_context(&self, ctx_id: u32) -> bool {
        self.contexts.get(ctx_id).is_some()
    }

    /// The buffers that lists hold, with repetitions.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = BufferId> {
        self.lists.iter().flat_map(|(_, list)| list.iter().copied())
    }

    /// Empties all lists.
    pub(crate) fn take_buffers(&mut self) -> Vec<BufferId> {
        self.entries = 0;
        self.lists.take().into_values().flatten().collect()
    }

    /// A list.
    ///
    /// # Errors
    /// `ENOENT`.
    pub(super) fn list(&self, handle: u32) -> Result<&[BufferId], Errno> {
        self.lists.get(handle).map(Vec::as_slice).ok_or(Errno::ENOENT)
    }

    /// Puts a list in, in place of one if `handle` says so; gives its handle and what it replaces.
    fn put_list(
        &mut self,
        handle: Option<u32>,
        list: Vec<BufferId>,
    ) -> Result<(u32, Vec<BufferId>), Errno> {
        let len = list.len();
        if self.entries + len > ALL_ENTRIES_MAX {
            return Err(Errno::ENOMEM);
        }
        let placed = match handle {
            None => (self.lists.insert(list)?, Vec::new()),
            Some(handle) => {
                let old = self.lists.get_mut(handle).ok_or(Errno::ENOENT)?;
                (handle, std::mem::replace(old, list))
            }
        };
        self.entries = self.entries + len - placed.1.len();
        Ok(placed)
    }

    fn take_list(&mut self, handle: u32) -> Vec<BufferId> {
        let list = self.lists.remove(handle).unwrap_or_default();
        self.entries -= list.len();
        list
    }
}

impl Model {
    /// # Errors
    /// `EINVAL` for an unknown operation, context or power state; `EACCES` for a priority above
    /// normal without privilege (the node knows of no other than that to checkpoint); `ENOSPC`.
    pub(super) fn ctx(&mut self, call: &mut Call<'_>, args: &mut CtxIn) -> Result<i32, Errno> {
        let may_hurry = call.caller.can_checkpoint;
        let contexts = &mut self.render_of_mut(call)?.submissions.contexts;
        let CtxIn { op, flags, ctx_id, priority } = *args;
        let state = CtxStateOut::default();
        match op {
            ctx_op::ALLOC_CTX => {
                *args = bytemuck::cast(CtxAllocOut::default());
                if priority > 0 && PRIORITIES.contains(&priority) && !may_hurry {
                    return Err(Errno::EACCES);
                }
                let ctx_id = contexts.insert(Context::default())?;
                *args = bytemuck::cast(CtxAllocOut { ctx_id, ..CtxAllocOut::default() });
            }
            ctx_op::FREE_CTX => {
                let context = contexts.remove(ctx_id).ok_or(Errno::EINVAL)?;
                for entity in context.entities.into_values() {
                    self.engines.forget_row(call.file, entity.row);
                }
            }
            // GPUs are never reset here, and their memory is never lost.
            ctx_op::QUERY_STATE | ctx_op::QUERY_STATE2 => {
                contexts.get(ctx_id).ok_or(Errno::EINVAL)?;
                *args = bytemuck::cast(state);
            }
            ctx_op::GET_STABLE_PSTATE if flags == 0 => {
                let context = contexts.get(ctx_id).ok_or(Errno::EINVAL)?;
                let flags = u64::from(context.stable_pstate);
                *args = bytemuck::cast(CtxStateOut { flags, ..state });
            }
            ctx_op::SET_STABLE_PSTATE if flags & !PSTATE_MASK == 0 && flags <= PSTATE_LAST => {
                contexts.get_mut(ctx_id).ok_or(Errno::EINVAL)?.stable_pstate = flags;
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(0)
    }

    /// # Errors
    /// `EINVAL` for an unknown operation or too many entries, `ENOENT` for an unknown handle of a
    /// buffer or, in an update, of a list; `EPERM` for memory of another process; `EFAULT`;
    /// `ENOSPC` and `ENOMEM` at this node's limits. To destroy what is not there is no error.
    pub(super) fn bo_list(
        &mut self,
        call: &mut Call<'_>,
        args: &mut BoListIn,
    ) -> Result<i32, Errno> {
        let entries = read_entries(call, args)?;
        let handle = match args.operation {
            bo_list_op::CREATE => None,
            bo_list_op::UPDATE => Some(args.list_handle),
            bo_list_op::DESTROY => {
                let file = self.render_of_mut(call)?;
                let dropped = file.submissions.take_list(args.list_handle);
                self.release_all(call, dropped);
                *args = bytemuck::cast(BoListOut::default());
                return Ok(0);
            }
            _ => return Err(Errno::EINVAL),
        };
        let list = self.list_of(call, &entries)?;
        let held = list.clone();
        let (list_handle, dropped) =
            self.render_of_mut(call)?.submissions.put_list(handle, list)?;
        held.into_iter().for_each(|buffer| self.memory.retain(buffer));
        self.release_all(call, dropped);
        *args = bytemuck::cast(BoListOut { list_handle, ..BoListOut::default() });
        Ok(0)
    }

    fn release_all(&mut self, call: &mut Call<'_>, buffers: Vec<BufferId>) {
        for buffer in buffers {
            self.memory.release(call.world, buffer);
        }
    }

    /// The buffers of a list's entries.
    ///
    /// # Errors
    /// `ENOENT`, `EPERM`.
    fn list_of(&self, call: &Call<'_>, entries: &[BoListEntry]) -> Result<Vec<BufferId>, Errno> {
        let file = self.render_of(call)?;
        let buffers = entries.iter().map(|entry| {
            let buffer = file.buffer_of(entry.bo_handle)?;
            match self.memory.buffer(buffer).kind {
                Kind::User { space, .. } if space != call.caller.space => Err(Errno::EPERM),
                _ => Ok(buffer),
            }
        });
        buffers.collect()
    }

    /// The buffers that a submission brings along in place of a list.
    ///
    /// # Errors
    /// Those of [`Self::bo_list`].
    pub(super) fn inline_list(
        &self,
        call: &mut Call<'_>,
        list: &BoListIn,
    ) -> Result<Vec<BufferId>, Errno> {
        let entries = read_entries(call, list)?;
        self.list_of(call, &entries)
    }

    /// There are VMIDs for everybody.
    ///
    /// # Errors
    /// `EINVAL` for flags and unknown operations.
    pub(super) fn reserve_vmid(&mut self, args: &mut VmIn) -> Result<i32, Errno> {
        let known = [vm_op::RESERVE_VMID, vm_op::UNRESERVE_VMID].contains(&args.op);
        if args.flags != 0 || !known { Err(Errno::EINVAL) } else { Ok(0) }
    }
}

/// Reads entries of whatever size the caller's are; what they lack is 0.
///
/// # Errors
/// `EINVAL` for too many, `EFAULT`.
fn read_entries(call: &mut Call<'_>, list: &BoListIn) -> Result<Vec<BoListEntry>, Errno> {
    let BoListIn { bo_number, bo_info_size, bo_info_ptr, .. } = *list;
    if bo_number > LIST_ENTRIES_MAX {
        return Err(Errno::EINVAL);
    }
    let space = call.caller.space;
    if bo_info_size as usize == size_of::<BoListEntry>() {
        let (count, limit) = (u64::from(bo_number), u64::from(LIST_ENTRIES_MAX));
        return read_array(call.world, space, bo_info_ptr, count, limit);
    }
    let mut entries = vec![BoListEntry::default(); bo_number as usize];
    let part = (bo_info_size as usize).min(size_of::<BoListEntry>());
    for (index, entry) in entries.iter_mut().enumerate() {
        let address = bo_info_ptr.wrapping_add(index as u64 * u64::from(bo_info_size));
        call.world.read_user(space, address, &mut bytemuck::bytes_of_mut(entry)[..part])?;
    }
    Ok(entries)
}
