//! Random sequences of calls about events, on the model and on the simplest model: same answers.

use std::collections::BTreeMap;

use gpu_kfd::uapi::events::{TIMEOUT_NONE, event, wait_result};
use kfd_emulator::{Outcome, Ticket};
use nix::errno::Errno;
use proptest::prelude::*;

use crate::rig::Rig;

const NS_OF_MS: u64 = 1_000_000;

#[derive(Clone, Debug)]
enum Op {
    Create { auto_reset: bool },
    Destroy { id: u32 },
    Set { id: u32 },
    Reset { id: u32 },
    Wait { ids: Vec<u32>, all: bool, timeout_ms: u32 },
    Interrupt { place: usize },
    Pass { ms: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let id = || 0..6u32;
    let timeout = prop_oneof![Just(0), 1..20u32, Just(TIMEOUT_NONE)];
    prop_oneof![
        3 => any::<bool>().prop_map(|auto_reset| Op::Create { auto_reset }),
        1 => id().prop_map(|id| Op::Destroy { id }),
        6 => id().prop_map(|id| Op::Set { id }),
        2 => id().prop_map(|id| Op::Reset { id }),
        6 => (prop::collection::vec(1..6u32, 0..4), any::<bool>(), timeout)
            .prop_map(|(ids, all, timeout_ms)| Op::Wait { ids, all, timeout_ms }),
        1 => (0..4usize).prop_map(|place| Op::Interrupt { place }),
        2 => (0..15u64).prop_map(|ms| Op::Pass { ms }),
    ]
}

#[derive(Clone, Copy, Debug)]
struct Event {
    auto_reset: bool,
    signaled: bool,
}

/// How a wait stands to one of its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Was signalled when it began.
    Taken,
    Lacking,
    /// Has come since.
    Come,
}

#[derive(Clone, Debug)]
struct Wait {
    parts: Vec<(u32, Part)>,
    all: bool,
    deadline_ns: Option<u64>,
}

impl Wait {
    fn is_over(&self) -> bool {
        let lacking = self.parts.iter().filter(|(_, part)| *part == Part::Lacking).count();
        lacking == 0 || !self.all && lacking < self.parts.len()
    }
}

type Answer = (Result<i32, Errno>, u32);

/// Events and waits as lists that are looked through.
#[derive(Default)]
struct Reference {
    events: BTreeMap<u32, Event>,
    waits: Vec<(Ticket, Wait)>,
    ended: BTreeMap<Ticket, Answer>,
}

impl Reference {
    fn create(&mut self, auto_reset: bool) -> u32 {
        let id = (1..).find(|id| !self.events.contains_key(id)).expect("numbers do not end");
        self.events.insert(id, Event { auto_reset, signaled: false });
        id
    }

    fn destroy(&mut self, id: u32) -> Result<i32, Errno> {
        self.events.remove(&id).ok_or(Errno::EINVAL)?;
        let about = |wait: &Wait| wait.parts.iter().any(|(event, _)| *event == id);
        self.end(about, (Err(Errno::EIO), wait_result::FAIL));
        Ok(0)
    }

    fn end(&mut self, which: impl Fn(&Wait) -> bool, answer: Answer) {
        let (over, left) = self.waits.drain(..).partition(|(_, wait)| which(wait));
        self.waits = left;
        let over: Vec<(Ticket, Wait)> = over;
        self.ended.extend(over.into_iter().map(|(ticket, _)| (ticket, answer)));
    }

    fn set(&mut self, id: u32) -> Result<i32, Errno> {
        let event = self.events.get_mut(&id).ok_or(Errno::EINVAL)?;
        let mut waited = false;
        for (event, part) in self.waits.iter_mut().flat_map(|(_, wait)| &mut wait.parts) {
            if *event == id && *part != Part::Taken {
                waited = true;
                *part = Part::Come;
            }
        }
        event.signaled = !(event.auto_reset && waited);
        self.end(Wait::is_over, (Ok(0), wait_result::COMPLETE));
        Ok(0)
    }

    fn begin(&mut self, ids: &[u32], all: bool) -> Result<Wait, Errno> {
        let mut parts = Vec::new();
        for id in ids {
            let event = self.events.get_mut(id).ok_or(Errno::EINVAL)?;
            let part = if event.signaled { Part::Taken } else { Part::Lacking };
            event.signaled &= !event.auto_reset;
            parts.push((*id, part));
        }
        Ok(Wait { parts, all, deadline_ns: None })
    }

    fn interrupt(&mut self, ticket: Ticket) {
        let Some(place) = self.waits.iter().position(|(parked, _)| *parked == ticket) else {
            return;
        };
        let (_, wait) = self.waits.remove(place);
        self.ended.insert(ticket, (Err(Errno::EINTR), wait_result::FAIL));
        for (id, part) in wait.parts {
            let resets = self.events.get(&id).is_some_and(|event| event.auto_reset);
            if part != Part::Lacking && resets {
                assert_eq!(self.set(id), Ok(0));
            }
        }
    }
}

struct Pair {
    rig: Rig,
    reference: Reference,
    now_ns: u64,
}

impl Pair {
    fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        match op {
            Op::Create { auto_reset } => {
                let (id, _) = self.rig.event(event::SIGNAL, *auto_reset);
                prop_assert_eq!(id, self.reference.create(*auto_reset));
            }
            Op::Destroy { id } => {
                prop_assert_eq!(self.rig.destroy(*id), self.reference.destroy(*id));
            }
            Op::Set { id } => prop_assert_eq!(self.rig.set(*id), self.reference.set(*id)),
            Op::Reset { id } => {
                let event = self.reference.events.get_mut(id).ok_or(Errno::EINVAL);
                let expected = event.map(|event| {
                    event.signaled = false;
                    0
                });
                prop_assert_eq!(self.rig.reset(*id), expected);
            }
            Op::Wait { ids, all, timeout_ms } => self.wait(ids, *all, *timeout_ms)?,
            Op::Interrupt { place } => {
                if let Some((ticket, _)) = self.reference.waits.get(*place) {
                    let ticket = *ticket;
                    self.rig.bench.model.interrupt(&mut self.rig.bench.world, ticket);
                    self.reference.interrupt(ticket);
                }
            }
            Op::Pass { ms } => {
                self.now_ns += ms * NS_OF_MS;
                self.rig.bench.world.advance_ns(ms * NS_OF_MS);
                self.rig.bench.model.expire(self.now_ns);
                let now_ns = self.now_ns;
                let over = |wait: &Wait| wait.deadline_ns.is_some_and(|at| at <= now_ns);
                self.reference.end(over, (Ok(0), wait_result::TIMEOUT));
            }
        }
        let finished = self.rig.bench.model.take_finished();
        let ended = finished.into_iter().map(|call| {
            let args: gpu_kfd::uapi::events::WaitEventsArgs =
                bytemuck::pod_read_unaligned(&call.arg);
            (call.ticket, (call.result, args.wait_result))
        });
        let expected = std::mem::take(&mut self.reference.ended);
        prop_assert_eq!(ended.collect::<BTreeMap<_, _>>(), expected);
        let deadlines = self.reference.waits.iter().filter_map(|(_, wait)| wait.deadline_ns);
        prop_assert_eq!(self.rig.bench.model.next_deadline_ns(), deadlines.min());
        Ok(())
    }

    fn wait(&mut self, ids: &[u32], all: bool, timeout_ms: u32) -> Result<(), TestCaseError> {
        let (outcome, result) = self.rig.wait(ids, all, timeout_ms);
        let wait = match self.reference.begin(ids, all) {
            Ok(wait) => wait,
            Err(errno) => {
                prop_assert_eq!((outcome, result), (Err(errno).into(), wait_result::FAIL));
                return Ok(());
            }
        };
        if wait.is_over() || timeout_ms == 0 {
            let expected =
                if wait.is_over() { wait_result::COMPLETE } else { wait_result::TIMEOUT };
            prop_assert_eq!((outcome, result), (Ok(0).into(), expected));
            return Ok(());
        }
        let Outcome::Later(ticket) = outcome else {
            return Err(TestCaseError::fail(format!("{outcome:?} while {wait:?}")));
        };
        let after_ns = u64::from(timeout_ms) * NS_OF_MS;
        let deadline_ns = (timeout_ms != TIMEOUT_NONE).then_some(self.now_ns + after_ns);
        self.reference.waits.push((ticket, Wait { deadline_ns, ..wait }));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn answers_are_those_of_the_simplest_model(ops in prop::collection::vec(op(), 1..80)) {
        let mut pair = Pair { rig: Rig::new(1), reference: Reference::default(), now_ns: 0 };
        for op in &ops {
            pair.step(op)?;
        }
    }
}
