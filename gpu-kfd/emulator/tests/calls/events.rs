//! Events: made, signalled, reset, waited for, destroyed.

use gpu_kfd::uapi::events::{
    CreateEventArgs, MemoryExceptionData, TIMEOUT_NONE, WaitEventsArgs, event, wait_result,
};
use gpu_kfd::uapi::kfd::{FreeMemoryOfGpuArgs, alloc, ioc};
use gpu_kfd::uapi::sdma::Packet;
use kfd_emulator::{Outcome, PagesAt, Store, World};
use nix::errno::Errno;

use crate::bench::{SCRATCH, gpu_id};
use crate::rig::Rig;

const COMPLETE: (Outcome, u32) = (Outcome::Done(Ok(0)), wait_result::COMPLETE);
const TIMED_OUT: (Outcome, u32) = (Outcome::Done(Ok(0)), wait_result::TIMEOUT);

fn failed(errno: Errno) -> (Outcome, u32) {
    (Outcome::Done(Err(errno)), wait_result::FAIL)
}

#[test]
fn signal_events_have_numbers_from_one_and_slots_that_say_no() {
    let mut rig = Rig::new(1);
    let (first, slot) = rig.event(event::SIGNAL, true);
    let (second, _) = rig.event(event::DEBUG_EVENT, false);
    let (other, _) = rig.event(event::MEMORY, false);
    let (exception, _) = rig.event(event::HW_EXCEPTION, false);
    assert_eq!((first, second, other, exception), (1, 2, 0x4000_0000, 0x4000_0001));
    assert_eq!(rig.get(slot, 16), [0xff; 16]);
    assert_eq!(rig.destroy(first), Ok(0));
    assert_eq!(rig.signal(), first);
}

#[test]
fn event_answers_name_its_trigger_and_slot() {
    let mut rig = Rig::new(1);
    let mut args = CreateEventArgs { event_type: event::SIGNAL, ..Default::default() };
    assert_eq!(rig.create_event(&mut args), Ok(0));
    let id = args.event_id;
    assert_eq!((args.event_trigger_data, args.event_slot_index), (id, id));
    assert_ne!(args.event_page_offset, 0);
    let mut args = CreateEventArgs { event_type: event::MEMORY, ..Default::default() };
    assert_eq!(rig.create_event(&mut args), Ok(0));
    assert_eq!((args.event_page_offset, args.event_trigger_data), (0, args.event_id));
}

#[test]
fn slots_run_out_at_4096() {
    let mut rig = Rig::new(1);
    for id in 1..4096 {
        assert_eq!(rig.signal(), id);
    }
    let mut args = CreateEventArgs { event_type: event::SIGNAL, ..Default::default() };
    assert_eq!(rig.create_event(&mut args), Err(Errno::ENOSPC));
    args.event_type = event::MEMORY;
    assert_eq!(rig.create_event(&mut args), Ok(0));
}

#[test]
fn page_of_the_process_holds_the_slots_and_cannot_be_freed() {
    let mut rig = Rig::new(1);
    let page = rig.gtt(0x8000);
    let mut args = CreateEventArgs {
        event_page_offset: page.handle,
        event_type: event::SIGNAL,
        ..Default::default()
    };
    assert_eq!(rig.create_event(&mut args), Ok(0));
    assert_eq!(rig.get(page.at, 0x8000), [0xff; 0x8000]);
    args.event_page_offset = page.handle;
    assert_eq!(rig.create_event(&mut args), Err(Errno::EINVAL));
    let mut free = FreeMemoryOfGpuArgs { handle: page.handle };
    assert_eq!(rig.call(ioc::FREE_MEMORY_OF_GPU, &mut free), Err(Errno::EPERM));
}

#[test]
fn page_must_be_a_large_buffer_that_the_driver_can_map() {
    let mut rig = Rig::new(1);
    let small = rig.gtt(0x7000).handle;
    let doorbells = rig.alloc_unmapped(0, 8192, alloc::DOORBELL).handle;
    let unknown_number = u64::from(gpu_id(0)) << 32 | 99;
    let unknown_gpu = 0x7777 << 32;
    for handle in [small, doorbells, unknown_number, unknown_gpu] {
        let mut args = CreateEventArgs { event_page_offset: handle, ..Default::default() };
        assert_eq!(rig.create_event(&mut args), Err(Errno::EINVAL), "{handle:#x}");
        assert_eq!(args.event_page_offset, handle);
    }
}

#[test]
fn events_that_do_not_exist_are_refused() {
    let mut rig = Rig::new(1);
    for id in [0, 1, 4096, 0x4000_0000, u32::MAX] {
        assert_eq!(rig.set(id), Err(Errno::EINVAL));
        assert_eq!(rig.reset(id), Err(Errno::EINVAL));
        assert_eq!(rig.destroy(id), Err(Errno::EINVAL));
        assert_eq!(rig.wait(&[id], false, 0), failed(Errno::EINVAL));
    }
}

#[test]
fn only_signal_events_are_set_and_reset_by_calls() {
    let mut rig = Rig::new(1);
    for kind in [event::DEBUG_EVENT, event::MEMORY, event::HW_EXCEPTION, event::NODECHANGE] {
        let (id, _) = rig.event(kind, false);
        assert_eq!(rig.set(id), Err(Errno::EINVAL));
        assert_eq!(rig.reset(id), Err(Errno::EINVAL));
    }
}

#[test]
fn event_that_resets_itself_is_taken_by_one_wait_and_others_by_all() {
    let mut rig = Rig::new(1);
    let auto = rig.signal();
    let (manual, _) = rig.event(event::SIGNAL, false);
    assert_eq!((rig.set(auto), rig.set(manual)), (Ok(0), Ok(0)));
    assert_eq!(rig.wait(&[auto], false, 0), COMPLETE);
    assert_eq!(rig.wait(&[auto], false, 0), TIMED_OUT);
    assert_eq!(rig.wait(&[manual], false, 0), COMPLETE);
    assert_eq!(rig.wait(&[manual], false, 0), COMPLETE);
    assert_eq!(rig.reset(manual), Ok(0));
    assert_eq!(rig.wait(&[manual], false, 0), TIMED_OUT);
}

#[test]
fn wait_for_nothing_is_complete() {
    let mut rig = Rig::new(1);
    assert_eq!(rig.wait(&[], false, TIMEOUT_NONE), COMPLETE);
    assert_eq!(rig.wait(&[], true, TIMEOUT_NONE), COMPLETE);
}

#[test]
fn wait_for_any_ends_at_the_first_and_leaves_later_signals() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.signal(), rig.signal());
    let ticket = rig.park(&[a, b], false, TIMEOUT_NONE);
    assert!(rig.finished().is_none());
    assert_eq!(rig.set(b), Ok(0));
    let (finished, args) = rig.finished().expect("it is over");
    assert_eq!((finished.ticket, finished.result), (ticket, Ok(0)));
    assert_eq!(args.wait_result, wait_result::COMPLETE);
    assert_eq!(rig.wait(&[b], false, 0), TIMED_OUT);
    assert_eq!(rig.set(a), Ok(0));
    assert_eq!(rig.wait(&[a], false, 0), COMPLETE);
}

#[test]
fn wait_for_all_needs_all() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.signal(), rig.signal());
    assert_eq!(rig.set(a), Ok(0));
    rig.park(&[a, b], true, TIMEOUT_NONE);
    assert!(rig.finished().is_none());
    assert_eq!(rig.set(b), Ok(0));
    assert_eq!(rig.finished().expect("it is over").0.result, Ok(0));
}

#[test]
fn signal_wakes_every_waiter() {
    let mut rig = Rig::new(1);
    let a = rig.signal();
    let tickets = [rig.park(&[a], false, TIMEOUT_NONE), rig.park(&[a], false, TIMEOUT_NONE)];
    assert_eq!(rig.set(a), Ok(0));
    let finished = rig.bench.model.take_finished();
    assert_eq!(finished.iter().map(|call| call.ticket).collect::<Vec<_>>(), tickets);
    assert_eq!(rig.wait(&[a], false, 0), TIMED_OUT);
}

#[test]
fn wait_times_out_at_its_deadline_and_not_before() {
    let mut rig = Rig::new(1);
    let a = rig.signal();
    rig.bench.world.advance_ns(5);
    rig.park(&[a], false, 20);
    assert_eq!(rig.bench.model.next_deadline_ns(), Some(20_000_005));
    rig.bench.model.expire(20_000_004);
    assert!(rig.finished().is_none());
    rig.bench.model.expire(20_000_005);
    let (finished, args) = rig.finished().expect("it is over");
    assert_eq!((finished.result, args.wait_result), (Ok(0), wait_result::TIMEOUT));
    assert_eq!(rig.bench.model.next_deadline_ns(), None);
    assert_eq!(rig.set(a), Ok(0));
    assert_eq!(rig.wait(&[a], false, 0), COMPLETE);
}

#[test]
fn endless_wait_has_no_deadline() {
    let mut rig = Rig::new(1);
    let a = rig.signal();
    rig.park(&[a], false, TIMEOUT_NONE);
    assert_eq!(rig.bench.model.next_deadline_ns(), None);
    rig.bench.model.expire(u64::MAX);
    assert!(rig.finished().is_none());
}

#[test]
fn interrupted_wait_gives_back_what_it_took_and_says_what_time_is_left() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.signal(), rig.signal());
    assert_eq!(rig.set(a), Ok(0));
    let ticket = rig.park(&[a, b], true, 100);
    assert_eq!(rig.wait(&[a], false, 0), TIMED_OUT);
    rig.bench.world.advance_ns(30_000_000);
    rig.bench.model.interrupt(&mut rig.bench.world, ticket);
    let (finished, args) = rig.finished().expect("it is over");
    assert_eq!(finished.result, Err(Errno::EINTR));
    assert_eq!((args.timeout, args.wait_result), (70, wait_result::FAIL));
    assert_eq!(rig.wait(&[a], false, 0), COMPLETE);
    rig.bench.model.interrupt(&mut rig.bench.world, ticket);
    assert!(rig.finished().is_none());
}

#[test]
fn destroyed_event_fails_its_waiters() {
    let mut rig = Rig::new(1);
    let (a, b) = (rig.signal(), rig.signal());
    rig.park(&[a, b], false, TIMEOUT_NONE);
    assert_eq!(rig.destroy(b), Ok(0));
    let (finished, args) = rig.finished().expect("it is over");
    assert_eq!((finished.result, args.wait_result), (Err(Errno::EIO), wait_result::FAIL));
}

#[test]
fn array_that_cannot_be_read_or_is_too_long_fails_the_wait() {
    let mut rig = Rig::new(1);
    let mut args = WaitEventsArgs { events_ptr: 0x1000, num_events: 1, ..Default::default() };
    assert_eq!(rig.wait_call(&mut args), Outcome::Done(Err(Errno::EFAULT)));
    assert_eq!(args.wait_result, wait_result::FAIL);
    let mut args =
        WaitEventsArgs { events_ptr: SCRATCH, num_events: u32::MAX, ..Default::default() };
    assert_eq!(rig.wait_call(&mut args), Outcome::Done(Err(Errno::ENOMEM)));
}

#[test]
fn ages_count_signals_and_an_old_age_does_not_wait() {
    let mut rig = Rig::new(1);
    let a = rig.signal();
    let Outcome::Later(_) = rig.wait_aged(&[(a, 1)], false, TIMEOUT_NONE).0 else {
        panic!("the age is the newest");
    };
    assert_eq!(rig.set(a), Ok(0));
    assert!(rig.finished().is_some());
    assert_eq!(rig.answer(0)[0], 2);
    let (outcome, args) = rig.wait_aged(&[(a, 1)], false, TIMEOUT_NONE);
    assert_eq!((outcome, args.wait_result), COMPLETE);
    assert_eq!(rig.answer(0)[0], 2);
}

#[test]
fn answer_that_cannot_be_written_fails_the_wait() {
    let mut rig = Rig::new(1);
    let a = rig.signal();
    let Outcome::Later(_) = rig.wait_aged(&[(a, 1)], false, TIMEOUT_NONE).0 else {
        panic!("the age is the newest");
    };
    rig.bench.world.remove_client(rig.caller.space);
    assert_eq!(rig.set(a), Ok(0));
    let (finished, args) = rig.finished().expect("it is over");
    assert_eq!((finished.result, args.wait_result), (Err(Errno::EFAULT), wait_result::FAIL));
}

#[test]
fn trap_signals_the_event_whose_slot_was_written() {
    let mut rig = Rig::new(1);
    let (id, slot) = rig.event_with_page();
    let mut queue = rig.sdma_queue(0);
    let trap = Packet::Trap { context: id };
    rig.submit(&mut queue, std::slice::from_ref(&trap));
    rig.run();
    assert_eq!(rig.wait(&[id], false, 0), TIMED_OUT);
    rig.park(&[id], false, TIMEOUT_NONE);
    rig.submit(&mut queue, &[Packet::Fence { address: slot, value: id }, trap]);
    rig.run();
    assert_eq!(rig.finished().expect("it is over").0.result, Ok(0));
}

#[test]
fn trap_with_a_wrong_number_signals_whatever_slot_was_written() {
    let mut rig = Rig::new(1);
    let (first, slot) = rig.event_with_page();
    let second = rig.signal();
    let mut queue = rig.sdma_queue(0);
    let fence = Packet::Fence { address: slot, value: first };
    rig.submit(&mut queue, &[fence, Packet::Trap { context: 77 }]);
    rig.run();
    assert_eq!(rig.wait(&[second], false, 0), TIMED_OUT);
    assert_eq!(rig.wait(&[first], false, 0), COMPLETE);
}

#[test]
fn fault_of_a_gpu_tells_address_and_gpu() {
    let mut rig = Rig::new(2);
    let (memory, _) = rig.event(event::MEMORY, true);
    rig.park(&[memory], false, TIMEOUT_NONE);
    let mut queue = rig.sdma_queue(1);
    rig.submit(&mut queue, &[Packet::Fence { address: 0xdead_b000, value: 1 }]);
    assert_eq!(rig.run().faults, 1);
    assert_eq!(rig.finished().expect("it is over").0.result, Ok(0));
    let data: MemoryExceptionData = bytemuck::cast(rig.answer(0));
    assert_eq!((data.va, data.gpu_id), (0xdead_b000, gpu_id(1)));
    assert_eq!(data.failure.not_present, 1);
}

#[test]
fn waits_end_with_their_process() {
    let mut rig = Rig::new(1);
    let a = rig.signal();
    rig.park(&[a], false, TIMEOUT_NONE);
    let caller = rig.caller;
    rig.bench.end(&caller);
    assert_eq!(rig.finished().expect("it is over").0.result, Err(Errno::ESRCH));
}

#[test]
fn events_of_other_processes_are_not_seen() {
    let mut rig = Rig::new(1);
    let a = rig.signal();
    let own = (rig.caller, rig.kfd);
    rig.enter(2);
    assert_eq!(rig.set(a), Err(Errno::EINVAL));
    assert_eq!(rig.signal(), a);
    assert_eq!(rig.set(a), Ok(0));
    (rig.caller, rig.kfd) = own;
    assert_eq!(rig.wait(&[a], false, 0), TIMED_OUT);
}

#[test]
fn slots_of_an_ended_process_are_zero_again() {
    let mut rig = Rig::new(1);
    let (_, slot) = rig.event(event::SIGNAL, true);
    let caller = rig.caller;
    rig.bench.end(&caller);
    let page = PagesAt { store: Store::Kfd, offset: slot.offset & !0x7fff };
    let mut bytes = [1; 16];
    rig.bench.world.read_pages(page, &mut bytes);
    assert_eq!(bytes, [0; 16]);
}
