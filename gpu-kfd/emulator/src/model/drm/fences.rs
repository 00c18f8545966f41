//! What submissions have come to: who waits for which, and what a wait is told.

use std::collections::BTreeSet;

use bytemuck::Pod;
use nix::errno::Errno;

use gpu_kfd::uapi::amdgpu::{GemWaitIdleIn, GemWaitIdleOut};
use gpu_kfd::uapi::submit::{
    Fence as FenceArgs, FenceToHandleIn, WaitCsIn, WaitCsOut, WaitFencesIn, WaitFencesOut,
};

use super::submit::Prepared;
use crate::model::calls::{Parked, Wait};
use crate::model::engine::Engines;
use crate::model::file::Files;
use crate::model::world::{BufferId, FileId, Ticket};
use crate::model::{Call, Model, Outcome, read_array, with_args};

/// Most fences of one wait: a limit of this node.
const FENCES_MAX: u64 = 1 << 16;

/// Kinds of handles that a fence can become.
const FENCE_KINDS: u32 = 3;

/// A submission, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) file: FileId,
    /// The row of the file that it stands in.
    pub(super) row: u32,
    pub(super) number: u64,
}

impl Fence {
    /// Whether it has ended, well or not.
    pub(super) fn is_over(&self, engines: &Engines) -> bool {
        engines.is_over(self.file, self.row, self.number)
    }

    fn error(&self, engines: &Engines) -> Result<(), Errno> {
        engines.error_of(self.file, self.row, self.number).map_or(Ok(()), Err)
    }
}

/// A submission that may not have ended, with the buffers that it is known to use.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(super) fence: Fence,
    pub(super) buffers: BTreeSet<BufferId>,
}

/// What a parked call of a render node waits for.
#[derive(Clone, Debug)]
pub(crate) struct FenceWait(Waiting);

#[derive(Clone, Debug)]
enum Waiting {
    /// `WAIT_CS`.
    One(Option<Fence>),
    /// `GEM_WAIT_IDLE`: all that use a buffer.
    Idle(Vec<Fence>),
    /// `WAIT_FENCES`; nothing for what had ended long before.
    All(Vec<Option<Fence>>),
    Any(Vec<Option<Fence>>),
    /// `CS`: until there is room for what is ready to be submitted.
    Room(Box<Prepared>),
}

impl Waiting {
    /// The result if the wait is over, with the answer in the argument block.
    fn look(
        &self,
        files: &mut Files,
        engines: &mut Engines,
        arg: &mut [u8],
    ) -> Option<Result<i32, Errno>> {
        let is_over = |fence: &Fence| fence.is_over(engines);
        let was_over = |fence: &Option<Fence>| fence.as_ref().is_none_or(is_over);
        let error = |fence: &Fence| fence.error(engines);
        match self {
            Self::One(fence) if was_over(fence) => match fence.as_ref().map_or(Ok(()), error) {
                Ok(()) => Some(answer(arg, WaitCsOut::default())),
                Err(errno) => Some(Err(errno)),
            },
            Self::Idle(fences) if fences.iter().all(is_over) => {
                Some(answer(arg, GemWaitIdleOut::default()))
            }
            Self::All(fences) if fences.iter().all(was_over) => {
                match fences.iter().flatten().try_for_each(error) {
                    Ok(()) => Some(answer(arg, WaitFencesOut { status: 1, ..Default::default() })),
                    Err(errno) => Some(Err(errno)),
                }
            }
            Self::Any(fences) => {
                let first = fences.iter().position(was_over)?;
                let first_signaled = first as u32;
                let out = WaitFencesOut { status: 1, first_signaled, ..Default::default() };
                let answered = answer(arg, out);
                Some(fences[first].as_ref().map_or(Ok(()), error).and(answered))
            }
            Self::Room(prepared) => prepared.submit(files, engines, arg).transpose(),
            Self::One(_) | Self::Idle(_) | Self::All(_) => None,
        }
    }

    /// The answer if the time is over.
    fn give_up(&self, arg: &mut [u8]) -> Result<i32, Errno> {
        let first_signaled = u32::MAX;
        match self {
            Self::One(_) => answer(arg, WaitCsOut { status: 1, ..Default::default() }),
            Self::Idle(_) => answer(arg, GemWaitIdleOut { status: 1, ..Default::default() }),
            Self::All(_) => answer(arg, WaitFencesOut::default()),
            Self::Any(_) => answer(arg, WaitFencesOut { first_signaled, ..Default::default() }),
            Self::Room(_) => Err(Errno::EINTR),
        }
    }
}

/// Writes an answer over the argument, as much as the caller has room for.
pub(super) fn answer<T: Pod>(arg: &mut [u8], out: T) -> Result<i32, Errno> {
    let bytes = bytemuck::bytes_of(&out);
    let len = bytes.len().min(arg.len());
    arg[..len].copy_from_slice(&bytes[..len]);
    Ok(0)
}

/// Reads an argument; what a shorter one lacks is 0.
pub(super) fn argument<T: Pod>(arg: &mut [u8]) -> T {
    let mut read = T::zeroed();
    with_args(arg, |args: &mut T| {
        read = *args;
        Ok(0)
    });
    read
}

impl Model {
    /// # Errors
    /// `EINVAL` for an unknown context, ring or number; `ETIME` if the submission failed.
    pub(super) fn wait_cs(&mut self, call: &mut Call<'_>, arg: &mut [u8]) -> Outcome {
        let WaitCsIn { handle, timeout, ip_type, ip_instance, ring, ctx_id } = argument(arg);
        let named = FenceArgs { ctx_id, ip_type, ip_instance, ring, seq_no: handle };
        match self.fence_of(call, &named) {
            Ok(fence) => self.begin_wait_for(call, arg, Waiting::One(fence), timeout),
            Err(errno) => Outcome::Done(Err(errno)),
        }
    }

    /// All fences are looked up before any is waited for; the driver comes to an unknown one only
    /// when those before it are over.
    ///
    /// # Errors
    /// `EINVAL` for an unknown fence, and for any of none; `EFAULT`, `ENOMEM`; `ETIME` for the
    /// first submission that failed.
    pub(super) fn wait_fences(&mut self, call: &mut Call<'_>, arg: &mut [u8]) -> Outcome {
        let WaitFencesIn { fences, fence_count, wait_all, timeout_ns } = argument(arg);
        let named =
            read_array(call.world, call.caller.space, fences, u64::from(fence_count), FENCES_MAX);
        let found = named.and_then(|named: Vec<FenceArgs>| {
            named.iter().map(|fence| self.fence_of(call, fence)).collect::<Result<Vec<_>, _>>()
        });
        match found {
            Err(errno) => Outcome::Done(Err(errno)),
            Ok(found) if wait_all != 0 => {
                self.begin_wait_for(call, arg, Waiting::All(found), timeout_ns)
            }
            Ok(found) if found.is_empty() => Outcome::Done(Err(Errno::EINVAL)),
            Ok(found) => self.begin_wait_for(call, arg, Waiting::Any(found), timeout_ns),
        }
    }

    /// Waits for the submissions, of whichever file, that use a buffer.
    ///
    /// # Errors
    /// `ENOENT`.
    pub(super) fn gem_wait_idle(&mut self, call: &mut Call<'_>, arg: &mut [u8]) -> Outcome {
        let GemWaitIdleIn { handle, timeout, .. } = argument(arg);
        let named = self.render_of(call).and_then(|file| file.buffer_of(handle));
        let Ok(buffer) = named else { return Outcome::Done(Err(Errno::ENOENT)) };
        let all = self.files.render_files().flat_map(|(_, file)| &file.submissions.pending);
        let users = all.filter(|pending| pending.buffers.contains(&buffer));
        let fences = users.map(|pending| pending.fence).collect();
        self.begin_wait_for(call, arg, Waiting::Idle(fences), timeout)
    }

    /// The submission that a caller names; nothing for one that ended long ago.
    ///
    /// # Errors
    /// `EINVAL`.
    pub(super) fn fence_of(
        &mut self,
        call: &Call<'_>,
        named: &FenceArgs,
    ) -> Result<Option<Fence>, Errno> {
        let FenceArgs { ctx_id, ip_type, ip_instance, ring, seq_no } = *named;
        let submissions = &mut self.render_of_mut(call)?.submissions;
        let entity = submissions.entity(ctx_id, ip_type, ip_instance, ring)?;
        let (file, row) = (call.file, entity.row);
        Ok(entity.find(seq_no)?.map(|number| Fence { file, row, number }))
    }

    /// Looks once, then parks. `timeout` is a moment of the monotonic clock in nanoseconds; beyond
    /// 2^63 there is none.
    fn begin_wait_for(
        &mut self,
        call: &mut Call<'_>,
        arg: &mut [u8],
        waiting: Waiting,
        timeout: u64,
    ) -> Outcome {
        if let Some(result) = waiting.look(&mut self.files, &mut self.engines, arg) {
            return Outcome::Done(result);
        }
        let deadline_ns = i64::try_from(timeout).is_ok().then_some(timeout);
        if deadline_ns.is_some_and(|deadline| deadline <= call.world.now_ns()) {
            return Outcome::Done(waiting.give_up(arg));
        }
        self.park_for(call, arg, waiting, deadline_ns)
    }

    fn park_for(
        &mut self,
        call: &Call<'_>,
        arg: &[u8],
        waiting: Waiting,
        deadline_ns: Option<u64>,
    ) -> Outcome {
        self.calls.park(Parked {
            space: call.caller.space,
            file: call.file,
            arg: arg.to_vec(),
            deadline_ns,
            wait: Wait::Fence(FenceWait(waiting)),
        })
    }

    /// Submits when there is room.
    pub(super) fn submit_or_park(
        &mut self,
        call: &Call<'_>,
        arg: &mut [u8],
        prepared: Prepared,
    ) -> Outcome {
        let waiting = Waiting::Room(Box::new(prepared));
        match waiting.look(&mut self.files, &mut self.engines, arg) {
            Some(result) => Outcome::Done(result),
            None => self.park_for(call, arg, waiting, None),
        }
    }

    /// Jobs have ended (see `engine`): answers the parked calls whose fences have come.
    pub(in crate::model) fn fences_advanced(&mut self) {
        let parked = self.calls.parked.iter();
        let tickets: Vec<Ticket> = parked
            .filter(|(_, parked)| matches!(parked.wait, Wait::Fence(_)))
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in tickets {
            let Some(parked) = self.calls.parked.get_mut(&ticket) else { continue };
            let Wait::Fence(FenceWait(waiting)) = &parked.wait else { continue };
            let (files, engines) = (&mut self.files, &mut self.engines);
            if let Some(result) = waiting.look(files, engines, &mut parked.arg) {
                self.calls.finish(ticket, result);
            }
        }
    }

    /// The time of a parked call that waits for fences is over: answers it.
    pub(in crate::model) fn fence_wait_expired(&mut self, ticket: Ticket) {
        let Some(parked) = self.calls.parked.get_mut(&ticket) else { return };
        let Wait::Fence(FenceWait(waiting)) = &parked.wait else { return };
        let result = waiting.give_up(&mut parked.arg);
        self.calls.finish(ticket, result);
    }

    /// There are no sync objects for a fence to become.
    ///
    /// # Errors
    /// `EINVAL` for an unknown fence or kind, else `EOPNOTSUPP`.
    pub(super) fn fence_to_handle(
        &mut self,
        call: &mut Call<'_>,
        args: &mut FenceToHandleIn,
    ) -> Result<i32, Errno> {
        self.fence_of(call, &args.fence)?;
        let known = args.what < FENCE_KINDS;
        Err(if known { Errno::EOPNOTSUPP } else { Errno::EINVAL })
    }
}
