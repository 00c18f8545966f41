//! Events of a process: what they are, who waits for them, what a checkpoint keeps of them.
//!
//! Facts of `kfd_events.c` (Linux 6.12). Events that a GPU can signal have small numbers, which are
//! also their slots in a page that GPU and host share; all others have numbers of the upper half.

use std::collections::BTreeMap;

use bytemuck::{bytes_of, from_bytes};
use nix::errno::Errno;

use gpu_kfd::uapi::criu::{EventPrivate, object};
use gpu_kfd::uapi::events::{
    EventData, HwExceptionData, MemoryExceptionData, SLOT_BYTES, event, signal_event, wait_result,
};

use super::world::BufferId;

/// Size of the page of signal slots: 4096 slots of 8 bytes (`KFD_SIGNAL_EVENT_LIMIT`).
pub(crate) const PAGE_BYTES: u64 = signal_event::LIMIT as u64 * SLOT_BYTES as u64;

/// Number 0 stays free: an interrupt without an event's number carries it.
const SIGNAL_FIRST: u32 = 1;

/// First and last number of events without a slot (`KFD_FIRST_NONSIGNAL_EVENT_ID` and `LAST`).
const OTHER_FIRST: u32 = 0x4000_0000;
const OTHER_LAST: u32 = i32::MAX as u32;

/// Most events of a process: far above what programs have, and a bound for memory.
const EVENTS_MAX: usize = 65536;

/// Age of a new event; 0 means in calls that ages are not asked for.
const AGE_FIRST: u64 = 1;

/// Whether events of this type have a slot.
fn has_slot(kind: u32) -> bool {
    kind == event::SIGNAL || kind == event::DEBUG_EVENT
}

/// An event.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// `KFD_IOC_EVENT_*`.
    pub(crate) kind: u32,
    pub(crate) auto_reset: bool,
    pub(crate) signaled: bool,
    /// Counts signals.
    pub(crate) age: u64,
    /// What an exception was: [`MemoryExceptionData`] or [`HwExceptionData`], by the type.
    payload: [u64; 4],
}

impl Event {
    /// Can be signalled by its process.
    pub(crate) fn by_process(&self) -> bool {
        self.kind == event::SIGNAL
    }

    /// Can be signalled by a GPU's interrupt.
    pub(crate) fn by_gpu(&self) -> bool {
        has_slot(self.kind)
    }

    pub(crate) fn set_memory_exception(&mut self, data: MemoryExceptionData) {
        self.payload = *from_bytes(bytes_of(&data));
    }

    pub(crate) fn set_hw_exception(&mut self, data: HwExceptionData) {
        self.payload = [0; 4];
        self.payload[..2].copy_from_slice(bytemuck::cast_slice(bytes_of(&data)));
    }

    /// One more signal. `waited` says that somebody waited for it, who takes it away from an
    /// event that resets itself.
    pub(crate) fn signal(&mut self, waited: bool) {
        self.signaled = !self.auto_reset || !waited;
        self.age = self.age.wrapping_add(1);
        if self.age == 0 {
            self.age = AGE_FIRST + 1;
        }
    }
}

/// Where the slots of a process are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotPage {
    /// In pages of the driver (`Process::event_page_at`).
    Own,
    /// In a buffer of the process.
    Buffer {
        /// Its KFD handle.
        handle: u64,
        buffer: BufferId,
        size_bytes: u64,
    },
}

impl SlotPage {
    /// How many slots it has. The driver gives out as many of its own page as are mapped; a mapping
    /// does not show here, so all of them count.
    fn slots(self) -> usize {
        match self {
            Self::Own => signal_event::LIMIT as usize,
            Self::Buffer { size_bytes, .. } => (size_bytes / SLOT_BYTES as u64) as usize,
        }
    }
}

/// The events of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    page: Option<SlotPage>,
    table: BTreeMap<u32, Event>,
}

impl Events {
    /// KFD handle of the buffer that holds the signal slots, if the process brought one.
    pub(crate) fn page_handle(&self) -> Option<u64> {
        match self.page {
            Some(SlotPage::Buffer { handle, .. }) => Some(handle),
            _ => None,
        }
    }

    pub(crate) fn page(&self) -> Option<SlotPage> {
        self.page
    }

    pub(crate) fn set_page(&mut self, page: SlotPage) {
        self.page = Some(page);
    }

    /// Takes the lowest free number of its kind. The first event with a slot makes the page.
    ///
    /// # Errors
    /// `ENOSPC` if all slots are taken, `ENOMEM` if there are too many events.
    pub(crate) fn create(&mut self, kind: u32, auto_reset: bool) -> Result<u32, Errno> {
        let range = match has_slot(kind) {
            true => SIGNAL_FIRST..=self.slots_max() as u32 - 1,
            false => OTHER_FIRST..=OTHER_LAST,
        };
        let mut free = *range.start();
        for id in self.table.range(range.clone()).map(|(id, _)| *id) {
            if id != free {
                break;
            }
            free += 1;
        }
        if !range.contains(&free) {
            return Err(Errno::ENOSPC);
        }
        let event = Event { kind, auto_reset, signaled: false, age: AGE_FIRST, payload: [0; 4] };
        self.add(free, event)?;
        Ok(free)
    }

    fn slots_max(&mut self) -> usize {
        self.page.get_or_insert(SlotPage::Own).slots()
    }

    fn add(&mut self, id: u32, event: Event) -> Result<(), Errno> {
        if self.table.len() >= EVENTS_MAX {
            return Err(Errno::ENOMEM);
        }
        self.table.insert(id, event);
        Ok(())
    }

    pub(crate) fn get(&self, id: u32) -> Option<&Event> {
        self.table.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: u32) -> Option<&mut Event> {
        self.table.get_mut(&id)
    }

    pub(crate) fn remove(&mut self, id: u32) -> Option<Event> {
        self.table.remove(&id)
    }

    /// Numbers of all events without a slot of this type.
    pub(crate) fn of_kind(&self, kind: u32) -> Vec<u32> {
        let others = self.table.range(OTHER_FIRST..);
        others.filter(|(_, event)| event.kind == kind).map(|(id, _)| *id).collect()
    }

    /// Numbers of all events with a slot that an interrupt can name.
    pub(crate) fn with_slots(&self) -> Vec<u32> {
        let slots = self.table.range(..signal_event::LIMIT);
        slots.filter(|(_, event)| event.by_gpu()).map(|(id, _)| *id).collect()
    }

    /// What `CRIU_OP` keeps of them, in the order of the driver: ascending numbers, the handle of
    /// the page in the first record.
    pub(crate) fn checkpoint(&self) -> Vec<EventPrivate> {
        let record = |(index, (id, event)): (usize, (&u32, &Event))| {
            let exception = [event::MEMORY, event::HW_EXCEPTION].contains(&event.kind);
            EventPrivate {
                object_type: object::EVENT,
                user_handle: self.page_handle().filter(|_| index == 0).unwrap_or(0),
                event_id: *id,
                auto_reset: u32::from(event.auto_reset),
                kind: event.kind,
                signaled: u32::from(event.signaled),
                payload: if exception { event.payload } else { [0; 4] },
                ..Default::default()
            }
        };
        self.table.iter().enumerate().map(record).collect()
    }

    /// Makes an event as a record says; the page must be set before.
    ///
    /// # Errors
    /// `EINVAL` for a number out of range or a type that the driver does not restore, `ENOSPC` if
    /// the number is taken or there is no slot left, `ENOMEM` if there are too many.
    pub(crate) fn restore(&mut self, record: &EventPrivate) -> Result<(), Errno> {
        let id = record.event_id;
        if id > OTHER_LAST {
            return Err(Errno::EINVAL);
        }
        match record.kind {
            event::SIGNAL | event::DEBUG_EVENT => {
                if id >= signal_event::LIMIT {
                    return Err(Errno::EINVAL);
                }
                if id as usize >= self.slots_max() {
                    return Err(Errno::ENOSPC);
                }
            }
            event::MEMORY | event::HW_EXCEPTION => {}
            _ => return Err(Errno::EINVAL),
        }
        if id < SIGNAL_FIRST || self.table.contains_key(&id) {
            return Err(Errno::ENOSPC);
        }
        let event = Event {
            kind: record.kind,
            auto_reset: record.auto_reset != 0,
            signaled: record.signaled != 0,
            // The driver leaves it so.
            age: 0,
            payload: record.payload,
        };
        self.add(id, event)
    }
}

/// One event of a wait.
#[derive(Clone, Debug)]
struct Waiter {
    event: u32,
    /// Was not signalled when the wait began: a signal of it goes to this wait.
    queued: bool,
    activated: bool,
    asks_age: bool,
    /// Was destroyed since.
    gone: bool,
}

/// What a call of `AMDKFD_IOC_WAIT_EVENTS` waits for.
#[derive(Clone, Debug)]
pub(crate) struct EventWait {
    /// Where the caller's array of [`EventData`] is.
    address: u64,
    all: bool,
    waiters: Vec<Waiter>,
}

impl EventWait {
    /// Begins a wait: takes what is signalled already, in the order of the array.
    ///
    /// # Errors
    /// `EINVAL` at the first event that does not exist; those before it have been taken.
    pub(crate) fn begin(
        events: &mut Events,
        address: u64,
        all: bool,
        wanted: &[EventData],
    ) -> Result<Self, Errno> {
        let mut waiters = Vec::with_capacity(wanted.len());
        for data in wanted {
            let event = events.get_mut(data.event_id).ok_or(Errno::EINVAL)?;
            let mut activated = event.signaled;
            event.signaled = event.signaled && !event.auto_reset;
            let age_seen = data.payload[0];
            let asks_age = event.kind == event::SIGNAL && age_seen != 0;
            activated |= asks_age && event.age != age_seen;
            let (queued, gone) = (!activated, false);
            waiters.push(Waiter { event: data.event_id, queued, activated, asks_age, gone });
        }
        Ok(Self { address, all, waiters })
    }

    /// An event was signalled; says whether this wait had waited for it.
    pub(crate) fn wake(&mut self, event: u32) -> bool {
        self.touch(event, |waiter| waiter.activated = true)
    }

    /// An event was destroyed; says whether this wait is about it.
    pub(crate) fn lose(&mut self, event: u32) -> bool {
        let mut found = false;
        for waiter in self.waiters.iter_mut().filter(|waiter| waiter.event == event) {
            waiter.gone = true;
            found = true;
        }
        found
    }

    fn touch(&mut self, event: u32, change: impl Fn(&mut Waiter)) -> bool {
        let mut found = false;
        for waiter in &mut self.waiters {
            if waiter.event == event && waiter.queued {
                change(waiter);
                found = true;
            }
        }
        found
    }

    /// How the wait stands: `KFD_IOC_WAIT_RESULT_*`, `TIMEOUT` if it goes on.
    pub(crate) fn result(&self) -> u32 {
        if self.waiters.iter().any(|waiter| waiter.gone) {
            return wait_result::FAIL;
        }
        let activated = self.waiters.iter().filter(|waiter| waiter.activated).count();
        let enough = match self.all {
            true => activated == self.waiters.len(),
            false => activated > 0 || self.waiters.is_empty(),
        };
        if enough { wait_result::COMPLETE } else { wait_result::TIMEOUT }
    }

    /// What the caller gets into its array: addresses and words.
    pub(crate) fn answers(&self, events: &Events) -> Vec<(u64, Vec<u64>)> {
        let mut answers = Vec::new();
        for (index, waiter) in self.waiters.iter().enumerate() {
            let Some(event) = events.get(waiter.event).filter(|_| waiter.activated) else {
                continue;
            };
            let at = self.address.wrapping_add((index * size_of::<EventData>()) as u64);
            if event.kind == event::MEMORY {
                answers.push((at, event.payload.to_vec()));
            } else if waiter.asks_age {
                answers.push((at, vec![event.age]));
            }
        }
        answers
    }

    /// Events that this wait took and that must be signalled again, as a signal handler came first.
    pub(crate) fn taken(&self, events: &Events) -> Vec<u32> {
        let activated = self.waiters.iter().filter(|waiter| waiter.activated && !waiter.gone);
        let resets = |id: &u32| events.get(*id).is_some_and(|event| event.auto_reset);
        activated.map(|waiter| waiter.event).filter(resets).collect()
    }
}
