//! Calls about events. What a signal does stands in `model/signals.rs`.

use nix::errno::Errno;

use gpu_kfd::uapi::criu::EventPrivate;
use gpu_kfd::uapi::events::{
    CreateEventArgs, DestroyEventArgs, EventData, ResetEventArgs, SetEventArgs, TIMEOUT_NONE,
    WaitEventsArgs, wait_result,
};

use super::memory::handle_parts;
use crate::model::calls::{Parked, Wait};
use crate::model::events::{EventWait, PAGE_BYTES, SlotPage};
use crate::model::memory::Kind;
use crate::model::signals::{clear_slot, give_answers};
use crate::model::world::{SpaceId, World};
use crate::model::{Call, Model, Outcome, read_array, with_args};

/// Most events of one wait: what the driver could allocate its waiters for (4 MiB of them).
const WAIT_EVENTS_MAX: u64 = 1 << 16;

/// Longest finite time of a wait in milliseconds (`user_timeout_to_jiffies`).
const TIMEOUT_MS_MAX: u32 = 0x7fff_ffff;

const NS_OF_MS: u64 = 1_000_000;

impl Model {
    pub(super) fn create_event(
        &mut self,
        call: &mut Call<'_>,
        args: &mut CreateEventArgs,
    ) -> Result<i32, Errno> {
        let space = call.caller.space;
        if args.event_page_offset != 0 {
            self.set_event_page(call.world, space, args.event_page_offset)?;
        }
        args.event_page_offset = 0;
        let process = self.process(space)?;
        let fresh_page = process.events.page().is_none();
        let id = process.events.create(args.event_type, args.auto_reset != 0)?;
        if process.events.get(id).is_some_and(|event| event.by_gpu()) {
            args.event_page_offset = process.event_page_at().offset;
            args.event_slot_index = id;
            self.clear_slots(call.world, space, id, fresh_page)?;
        }
        args.event_id = id;
        args.event_trigger_data = id;
        Ok(0)
    }

    /// Makes a buffer of the process the page of its slots.
    ///
    /// # Errors
    /// `EINVAL` if there is a page already, the handle is none, or the buffer is too small or none
    /// that the driver can map; `ENODEV` without an address space on that GPU.
    fn set_event_page(
        &mut self,
        world: &mut dyn World,
        space: SpaceId,
        handle: u64,
    ) -> Result<(), Errno> {
        if self.process(space)?.events.page().is_some() {
            return Err(Errno::EINVAL);
        }
        let (gpu_id, number) = handle_parts(handle);
        let device = self.bound(space, gpu_id, Errno::ENODEV)?;
        let id = device.bos.get(number).ok_or(Errno::EINVAL)?.buffer;
        let buffer = self.memory.buffer(id);
        if !matches!(buffer.kind, Kind::Vram | Kind::Gtt) || buffer.size_bytes < PAGE_BYTES {
            return Err(Errno::EINVAL);
        }
        let page = SlotPage::Buffer { handle, buffer: id, size_bytes: buffer.size_bytes };
        world.write_pages(buffer.at, &[0xff; PAGE_BYTES as usize]);
        self.process(space)?.events.set_page(page);
        Ok(())
    }

    /// Marks a slot as not signalled; all of them in a page of the driver that is new.
    fn clear_slots(
        &mut self,
        world: &mut dyn World,
        space: SpaceId,
        id: u32,
        fresh_page: bool,
    ) -> Result<(), Errno> {
        let slots = self.slots_at(space).ok_or(Errno::ENOMEM)?;
        if fresh_page {
            world.write_pages(slots, &[0xff; PAGE_BYTES as usize]);
        } else {
            clear_slot(world, slots, id);
        }
        Ok(())
    }

    pub(super) fn destroy_event(
        &mut self,
        call: &mut Call<'_>,
        args: &mut DestroyEventArgs,
    ) -> Result<i32, Errno> {
        let space = call.caller.space;
        self.process(space)?.events.remove(args.event_id).ok_or(Errno::EINVAL)?;
        for ticket in self.waits_of(space, |wait| wait.lose(args.event_id)) {
            self.end_wait(ticket, wait_result::FAIL, Err(Errno::EIO));
        }
        Ok(0)
    }

    pub(super) fn set_event(
        &mut self,
        call: &mut Call<'_>,
        args: &mut SetEventArgs,
    ) -> Result<i32, Errno> {
        let space = call.caller.space;
        let event = self.process(space)?.events.get(args.event_id).ok_or(Errno::EINVAL)?;
        if !event.by_process() {
            return Err(Errno::EINVAL);
        }
        self.signal_event(call.world, space, args.event_id);
        Ok(0)
    }

    pub(super) fn reset_event(
        &mut self,
        call: &mut Call<'_>,
        args: &mut ResetEventArgs,
    ) -> Result<i32, Errno> {
        let events = &mut self.process(call.caller.space)?.events;
        let event = events.get_mut(args.event_id).ok_or(Errno::EINVAL)?;
        if !event.by_process() {
            return Err(Errno::EINVAL);
        }
        event.signaled = false;
        Ok(0)
    }

    pub(super) fn wait_events(&mut self, call: &mut Call<'_>, arg: &mut [u8]) -> Outcome {
        let mut begun = Ok(None);
        let outcome = with_args(arg, |args: &mut WaitEventsArgs| {
            begun = self.begin_wait(call, args);
            begun.as_ref().map(|_| 0).map_err(|errno| {
                args.wait_result = wait_result::FAIL;
                *errno
            })
        });
        let Ok(Some((wait, timeout_ms))) = begun else { return outcome };
        let finite_ns = u64::from(timeout_ms.min(TIMEOUT_MS_MAX)) * NS_OF_MS;
        let deadline_ns = match timeout_ms {
            TIMEOUT_NONE => None,
            _ => Some(call.world.now_ns().saturating_add(finite_ns)),
        };
        self.calls.park(Parked {
            space: call.caller.space,
            file: call.file,
            arg: arg.to_vec(),
            deadline_ns,
            wait: Wait::Events(wait),
        })
    }

    /// Looks once; gives the wait and its timeout if it has to go on.
    fn begin_wait(
        &mut self,
        call: &mut Call<'_>,
        args: &mut WaitEventsArgs,
    ) -> Result<Option<(EventWait, u32)>, Errno> {
        let space = call.caller.space;
        let count = u64::from(args.num_events);
        let wanted: Vec<EventData> =
            read_array(call.world, space, args.events_ptr, count, WAIT_EVENTS_MAX)?;
        let events = &mut self.process(space)?.events;
        let wait = EventWait::begin(events, args.events_ptr, args.wait_for_all != 0, &wanted)?;
        args.wait_result = wait.result();
        if args.wait_result == wait_result::COMPLETE {
            give_answers(call.world, space, &wait.answers(events))?;
            return Ok(None);
        }
        Ok((args.timeout != 0).then_some((wait, args.timeout)))
    }

    /// Makes an event as a record of a checkpoint says.
    ///
    /// # Errors
    /// As [`Events::restore`](crate::model::events::Events::restore); of a record with the handle
    /// of a page also those of `AMDKFD_IOC_CREATE_EVENT`.
    pub(in crate::model) fn restore_event(
        &mut self,
        world: &mut dyn World,
        space: SpaceId,
        record: &EventPrivate,
    ) -> Result<(), Errno> {
        if record.event_id > i32::MAX as u32 {
            return Err(Errno::EINVAL);
        }
        if record.user_handle != 0 {
            self.set_event_page(world, space, record.user_handle)?;
        }
        let events = &mut self.process(space)?.events;
        let fresh_page = events.page().is_none();
        events.restore(record)?;
        if events.get(record.event_id).is_some_and(|event| event.by_gpu()) {
            self.clear_slots(world, space, record.event_id, fresh_page)?;
        }
        Ok(())
    }
}
