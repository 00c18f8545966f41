//! Signals: what makes an event come, and which waits end by it.
//!
//! A signal comes from a call, from the interrupt of an engine, or from an exception. The waits
//! that it completes end in the same moment, so no signal can get lost between looking and waiting.

use nix::errno::Errno;

use gpu_kfd::uapi::events::{
    HwExceptionData, MemoryExceptionData, MemoryExceptionFailure, SLOT_BYTES, SLOT_UNSIGNALED,
    WaitEventsArgs, event, hw_exception, memory_error, signal_event, wait_result,
};

use super::calls::Wait;
use super::events::{EventWait, PAGE_BYTES, SlotPage};
use super::vm;
use super::world::{GpuIndex, PagesAt, SpaceId, Ticket, World};
use super::{Model, with_args};

const NS_OF_MS: u64 = 1_000_000;

fn slot_at(slots: PagesAt, id: u32) -> PagesAt {
    slots.plus(u64::from(id) * SLOT_BYTES as u64)
}

/// Marks a slot as not signalled.
pub(super) fn clear_slot(world: &mut dyn World, slots: PagesAt, id: u32) {
    world.write_pages(slot_at(slots, id), &SLOT_UNSIGNALED.to_le_bytes());
}

/// Writes into the array of a caller what became of the events that it waited for.
///
/// # Errors
/// `EFAULT`.
pub(super) fn give_answers(
    world: &mut dyn World,
    space: SpaceId,
    answers: &[(u64, Vec<u64>)],
) -> Result<(), Errno> {
    for (address, words) in answers {
        world.write_user(space, *address, bytemuck::cast_slice(words))?;
    }
    Ok(())
}

impl Model {
    /// Where the slots of a process are, if it has a page.
    pub(super) fn slots_at(&self, space: SpaceId) -> Option<PagesAt> {
        let process = self.processes.get(&space)?;
        match process.events.page()? {
            SlotPage::Own => Some(process.event_page_at()),
            SlotPage::Buffer { buffer, .. } => Some(self.memory.find(buffer)?.at),
        }
    }

    /// Changes the waits of a process and gives the tickets of those that said yes.
    pub(super) fn waits_of(
        &mut self,
        space: SpaceId,
        mut change: impl FnMut(&mut EventWait) -> bool,
    ) -> Vec<Ticket> {
        let mut touched = Vec::new();
        for (ticket, parked) in &mut self.calls.parked {
            if let Wait::Events(wait) = &mut parked.wait
                && parked.space == space
                && change(wait)
            {
                touched.push(*ticket);
            }
        }
        touched
    }

    /// Signals an event that exists, and ends the waits that are complete.
    pub(super) fn signal_event(&mut self, world: &mut dyn World, space: SpaceId, id: u32) {
        let waits = self.waits_of(space, |wait| wait.wake(id));
        let process = self.processes.get_mut(&space);
        if let Some(event) = process.and_then(|process| process.events.get_mut(id)) {
            event.signal(!waits.is_empty());
        }
        for ticket in waits {
            self.end_if_complete(world, ticket);
        }
    }

    fn end_if_complete(&mut self, world: &mut dyn World, ticket: Ticket) {
        let Some(parked) = self.calls.parked.get(&ticket) else { return };
        let Wait::Events(wait) = &parked.wait else { return };
        let Some(process) = self.processes.get(&parked.space) else { return };
        if wait.result() != wait_result::COMPLETE {
            return;
        }
        match give_answers(world, parked.space, &wait.answers(&process.events)) {
            Ok(()) => self.end_wait(ticket, wait_result::COMPLETE, Ok(0)),
            Err(errno) => self.end_wait(ticket, wait_result::FAIL, Err(errno)),
        }
    }

    /// Answers a call of `AMDKFD_IOC_WAIT_EVENTS`.
    pub(super) fn end_wait(&mut self, ticket: Ticket, how: u32, result: Result<i32, Errno>) {
        if let Some(parked) = self.calls.parked.get_mut(&ticket) {
            with_args(&mut parked.arg, |args: &mut WaitEventsArgs| {
                args.wait_result = how;
                Ok(0)
            });
        }
        self.calls.finish(ticket, result);
    }

    /// Ends a wait for the sake of a signal handler: what it took is signalled again, and a finite
    /// timeout becomes what is left of it, so that the call can be made again as it is.
    pub(super) fn interrupt_wait(&mut self, world: &mut dyn World, ticket: Ticket) {
        let Some(parked) = self.calls.parked.get_mut(&ticket) else { return };
        let (space, deadline_ns) = (parked.space, parked.deadline_ns);
        let Wait::Events(wait) = parked.wait.clone() else { return };
        if let Some(deadline_ns) = deadline_ns {
            let left_ms = deadline_ns.saturating_sub(world.now_ns()) / NS_OF_MS;
            with_args(&mut parked.arg, |args: &mut WaitEventsArgs| {
                args.timeout = left_ms as u32;
                Ok(0)
            });
        }
        self.end_wait(ticket, wait_result::FAIL, Err(Errno::EINTR));
        let events = self.processes.get(&space).map(|process| &process.events);
        for id in events.map_or(Vec::new(), |events| wait.taken(events)) {
            self.signal_event(world, space, id);
        }
    }

    /// Ends the calls whose time is over.
    pub fn expire(&mut self, now_ns: u64) {
        let over = |deadline: Option<u64>| deadline.is_some_and(|deadline| deadline <= now_ns);
        let parked = self.calls.parked.iter().filter(|(_, parked)| over(parked.deadline_ns));
        let tickets: Vec<(Ticket, bool)> = parked
            .map(|(ticket, parked)| (*ticket, matches!(parked.wait, Wait::Events(_))))
            .collect();
        for (ticket, is_event) in tickets {
            match is_event {
                true => self.end_wait(ticket, wait_result::TIMEOUT, Ok(0)),
                false => self.fence_wait_expired(ticket),
            }
        }
    }

    /// An engine's interrupt with the number of an event. One whose slot is not signalled makes the
    /// driver look through all slots (`kfd_signal_event_interrupt`).
    pub(super) fn interrupt_from_engine(
        &mut self,
        world: &mut dyn World,
        space: SpaceId,
        number: u32,
    ) {
        let Some(slots) = self.slots_at(space) else { return };
        let Some(process) = self.processes.get(&space) else { return };
        let mut slot = [0; SLOT_BYTES];
        let named = number < signal_event::LIMIT && process.events.get(number).is_some() && {
            world.read_pages(slot_at(slots, number), &mut slot);
            u64::from_le_bytes(slot) != SLOT_UNSIGNALED
        };
        let ids = match named {
            true => vec![number],
            false => signalled_slots(world, slots, process.events.with_slots()),
        };
        for id in ids {
            let process = self.processes.get(&space);
            let event = process.and_then(|process| process.events.get(id));
            if event.is_some_and(|event| event.by_gpu()) {
                clear_slot(world, slots, id);
                self.signal_event(world, space, id);
            }
        }
    }

    /// A GPU touched an address of a process where nothing is mapped.
    pub(super) fn memory_exception(
        &mut self,
        world: &mut dyn World,
        space: SpaceId,
        gpu: GpuIndex,
        va: u64,
    ) {
        let Some(process) = self.processes.get_mut(&space) else { return };
        let data = MemoryExceptionData {
            failure: MemoryExceptionFailure { not_present: 1, ..Default::default() },
            va: va & !(vm::PAGE_BYTES - 1),
            gpu_id: process.on(gpu).user_gpu_id,
            error_type: memory_error::NO_RAS,
        };
        let ids = process.events.of_kind(event::MEMORY);
        for id in ids {
            let process = self.processes.get_mut(&space);
            if let Some(event) = process.and_then(|process| process.events.get_mut(id)) {
                event.set_memory_exception(data);
            }
            self.signal_event(world, space, id);
        }
    }

    /// A GPU was given something by a process that it cannot carry out.
    pub(super) fn hw_exception(&mut self, world: &mut dyn World, space: SpaceId, gpu: GpuIndex) {
        let Some(process) = self.processes.get_mut(&space) else { return };
        let data = HwExceptionData {
            reset_type: hw_exception::PER_ENGINE_RESET,
            reset_cause: hw_exception::GPU_HANG,
            memory_lost: 0,
            gpu_id: process.on(gpu).user_gpu_id,
        };
        let ids = process.events.of_kind(event::HW_EXCEPTION);
        for id in ids {
            let process = self.processes.get_mut(&space);
            if let Some(event) = process.and_then(|process| process.events.get_mut(id)) {
                event.set_hw_exception(data);
            }
            self.signal_event(world, space, id);
        }
    }
}

/// Which of these events have a signalled slot.
fn signalled_slots(world: &mut dyn World, slots: PagesAt, mut ids: Vec<u32>) -> Vec<u32> {
    let mut page = vec![0; PAGE_BYTES as usize];
    world.read_pages(slots, &mut page);
    let slot = |id: u32| &page[id as usize * SLOT_BYTES..][..SLOT_BYTES];
    ids.retain(|id| slot(*id) != SLOT_UNSIGNALED.to_le_bytes());
    ids
}
