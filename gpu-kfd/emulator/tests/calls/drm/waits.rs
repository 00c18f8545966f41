//! Waits for submissions: answered at once, when the work is done, or when the time is over.

use bytemuck::Pod;
use gpu_kfd::uapi::amdgpu::{GemWaitIdleIn, GemWaitIdleOut, ioc};
use gpu_kfd::uapi::sdma::{Condition, Packet};
use gpu_kfd::uapi::submit::{
    BoListEntry, BoListIn, CtxIn, Fence, WaitCsIn, WaitCsOut, WaitFencesIn, WaitFencesOut,
    chunk_id, ctx_op, hw_ip,
};
use kfd_emulator::{Finished, Outcome, Ticket, World};
use nix::errno::Errno;

use super::submit::{chunk, ib};
use super::{PAGE, Ready, VA, ready};
use crate::bench::SCRATCH;

/// A moment that is far off, and one without end.
const LATER_NS: u64 = 1_000_000;
const NEVER: u64 = u64::MAX;

/// A node with a context whose work waits until the word at the start of `gate` is 1.
struct Gated {
    ready: Ready,
    ctx_id: u32,
    gate: u32,
    size: u32,
}

fn gated() -> Gated {
    let mut ready = ready();
    let gate = ready.page();
    assert_eq!(ready.map(gate, VA, PAGE), Ok(0));
    let wait = Packet::PollMemory {
        address: VA,
        condition: Condition::Equal,
        reference: 1,
        mask: u32::MAX,
        interval: 10,
        retries: 0xfff,
    };
    let size = ready.packets(VA + PAGE, &[wait]);
    let ctx_id = ready.context();
    Gated { ready, ctx_id, gate, size }
}

impl Gated {
    fn submit(&mut self, ring: u32) -> u64 {
        let work = [ib(hw_ip::DMA, ring, VA + PAGE, self.size)];
        self.ready.submit(self.ctx_id, &work).expect("good work")
    }

    fn open_gate(&mut self) {
        self.ready.write(self.gate, 0, &1u32.to_le_bytes());
    }

    fn wait(&mut self, handle: u64, timeout: u64) -> WaitCsIn {
        let (ctx_id, ip_type) = (self.ctx_id, hw_ip::DMA);
        WaitCsIn { handle, timeout, ip_type, ip_instance: 0, ring: 0, ctx_id }
    }

    fn park<T: Pod>(&mut self, request: u32, args: &mut T) -> Ticket {
        match self.ready.outcome(request, args) {
            Outcome::Later(ticket) => ticket,
            Outcome::Done(result) => panic!("answered at once: {result:?}"),
        }
    }

    fn finished(&mut self) -> Vec<Finished> {
        self.ready.bench.model.take_finished()
    }

    /// The answer to the one call that has just got it.
    fn answer<T: Pod>(&mut self, ticket: Ticket) -> (Result<i32, Errno>, T) {
        let finished = self.finished();
        assert_eq!(finished.len(), 1);
        assert_eq!(finished[0].ticket, ticket);
        (finished[0].result, bytemuck::pod_read_unaligned(&finished[0].arg))
    }

    fn expire_at(&mut self, now_ns: u64) {
        let passed = now_ns - self.ready.bench.world.now_ns();
        self.ready.bench.world.advance_ns(passed);
        self.ready.bench.model.expire(now_ns);
    }
}

#[test]
fn wait_ends_when_the_work_does() {
    let mut gated = gated();
    assert_eq!(gated.submit(0), 1);
    let mut args = gated.wait(1, NEVER);
    let ticket = gated.park(ioc::WAIT_CS, &mut args);
    assert_eq!(gated.ready.bench.model.next_deadline_ns(), None);
    gated.ready.run();
    assert_eq!(gated.finished(), []);
    gated.open_gate();
    gated.ready.run();
    assert_eq!(gated.answer(ticket), (Ok(0), WaitCsOut::default()));
    let mut args = gated.wait(1, 0);
    assert_eq!(gated.ready.call(ioc::WAIT_CS, &mut args), Ok(0));
    assert_eq!(bytemuck::cast::<_, WaitCsOut>(args).status, 0);
}

#[test]
fn wait_gives_up_when_its_time_is_over() {
    let mut gated = gated();
    assert_eq!(gated.submit(0), 1);
    let mut args = gated.wait(1, 0);
    assert_eq!(gated.ready.call(ioc::WAIT_CS, &mut args), Ok(0), "only asked");
    assert_eq!(bytemuck::cast::<_, WaitCsOut>(args).status, 1);
    let mut args = gated.wait(1, LATER_NS);
    let ticket = gated.park(ioc::WAIT_CS, &mut args);
    assert_eq!(gated.ready.bench.model.next_deadline_ns(), Some(LATER_NS));
    gated.expire_at(LATER_NS - 1);
    assert_eq!(gated.finished(), []);
    gated.expire_at(LATER_NS);
    assert_eq!(gated.answer(ticket), (Ok(0), WaitCsOut { status: 1, ..Default::default() }));
}

#[test]
fn wait_is_checked() {
    let mut gated = gated();
    assert_eq!(gated.submit(0), 1);
    let good = gated.wait(1, 0);
    for bad in [
        WaitCsIn { ctx_id: 9, ..good },
        WaitCsIn { ip_type: 10, ..good },
        WaitCsIn { ip_instance: 1, ..good },
        WaitCsIn { ring: 2, ..good },
        WaitCsIn { handle: 2, ..good },
    ] {
        assert_eq!(gated.ready.call(ioc::WAIT_CS, &mut { bad }), Err(Errno::EINVAL), "{bad:?}");
    }
    // 0 was before all, the largest number is the last.
    let mut args = WaitCsIn { handle: 0, ..good };
    assert_eq!(gated.ready.call(ioc::WAIT_CS, &mut args), Ok(0));
    assert_eq!(bytemuck::cast::<_, WaitCsOut>(args).status, 0);
    let mut args = WaitCsIn { handle: u64::MAX, ..good };
    assert_eq!(gated.ready.call(ioc::WAIT_CS, &mut args), Ok(0));
    assert_eq!(bytemuck::cast::<_, WaitCsOut>(args).status, 1);
}

#[test]
fn failed_work_is_told_to_who_waits() {
    let mut gated = gated();
    let handle = gated.ready.page();
    gated.ready.write(handle, 0, &[0xff; 64]);
    assert_eq!(gated.ready.map(handle, VA + 8 * PAGE, PAGE), Ok(0));
    let work = [ib(hw_ip::DMA, 0, VA + 8 * PAGE, 64)];
    assert_eq!(gated.ready.submit(gated.ctx_id, &work), Ok(1));
    let mut args = gated.wait(1, NEVER);
    let ticket = gated.park(ioc::WAIT_CS, &mut args);
    gated.ready.run();
    assert_eq!(gated.answer::<WaitCsIn>(ticket), (Err(Errno::ETIME), args));
}

#[test]
fn signals_end_a_wait() {
    let mut gated = gated();
    gated.submit(0);
    let mut args = gated.wait(1, NEVER);
    let ticket = gated.park(ioc::WAIT_CS, &mut args);
    let bench = &mut gated.ready.bench;
    bench.model.interrupt(&mut bench.world, ticket);
    assert_eq!(gated.answer::<WaitCsIn>(ticket), (Err(Errno::EINTR), args));
}

#[test]
fn all_and_any_of_several_fences() {
    let mut gated = gated();
    gated.submit(0);
    let nop = gated.ready.packets(VA + 8 * PAGE, &[Packet::Nop { skipped: 3 }]);
    let work = [ib(hw_ip::DMA, 1, VA + 8 * PAGE, nop)];
    assert_eq!(gated.ready.submit(gated.ctx_id, &work), Ok(1));
    let (ctx_id, ip_type) = (gated.ctx_id, hw_ip::DMA);
    let fence = |ring| Fence { ctx_id, ip_type, ring, seq_no: 1, ..Default::default() };
    let fences = [fence(0), fence(1)];
    let at = SCRATCH + 0xa000;
    let space = gated.ready.caller.space;
    let bytes = bytemuck::cast_slice(&fences);
    gated.ready.bench.world.write_user(space, at, bytes).expect("scratch is mapped");
    let named =
        |wait_all, timeout_ns| WaitFencesIn { fences: at, fence_count: 2, wait_all, timeout_ns };
    let any = gated.park(ioc::WAIT_FENCES, &mut named(0, NEVER));
    gated.ready.run();
    let (result, out) = gated.answer::<WaitFencesOut>(any);
    assert_eq!((result, out.status, out.first_signaled), (Ok(0), 1, 1));
    let mut args = named(0, 0);
    assert_eq!(gated.ready.call(ioc::WAIT_FENCES, &mut args), Ok(0));
    let out: WaitFencesOut = bytemuck::cast(args);
    assert_eq!((out.status, out.first_signaled), (1, 1));
    let late = gated.park(ioc::WAIT_FENCES, &mut named(1, LATER_NS));
    gated.expire_at(LATER_NS);
    let (result, out) = gated.answer::<WaitFencesOut>(late);
    assert_eq!((result, out.status), (Ok(0), 0));
    let all = gated.park(ioc::WAIT_FENCES, &mut named(1, NEVER));
    gated.open_gate();
    gated.ready.run();
    let (result, out) = gated.answer::<WaitFencesOut>(all);
    assert_eq!((result, out.status), (Ok(0), 1));
}

#[test]
fn lists_of_fences_are_checked() {
    let mut gated = gated();
    let ask = |gated: &mut Gated, fences, fence_count, wait_all| {
        let mut args = WaitFencesIn { fences, fence_count, wait_all, timeout_ns: 0 };
        gated.ready.call(ioc::WAIT_FENCES, &mut args)
    };
    assert_eq!(ask(&mut gated, 0x10, 1, 1), Err(Errno::EFAULT));
    assert_eq!(ask(&mut gated, SCRATCH, u32::MAX, 1), Err(Errno::ENOMEM));
    assert_eq!(ask(&mut gated, SCRATCH, 0, 1), Ok(0), "all of none");
    assert_eq!(ask(&mut gated, SCRATCH, 0, 0), Err(Errno::EINVAL), "any of none");
    let caller = gated.ready.caller;
    let unknown = Fence { ctx_id: 9, ..Default::default() };
    let at = gated.ready.bench.scratch(&caller, &[unknown]);
    assert_eq!(ask(&mut gated, at, 1, 1), Err(Errno::EINVAL));
}

/// Asks whether a buffer is idle.
fn idle(gated: &mut Gated, handle: u32) -> Result<u32, Errno> {
    let mut args = GemWaitIdleIn { handle, flags: 0, timeout: 0 };
    gated.ready.call(ioc::GEM_WAIT_IDLE, &mut args)?;
    Ok(bytemuck::cast::<_, GemWaitIdleOut>(args).status)
}

#[test]
fn buffer_is_idle_when_nothing_uses_it() {
    let mut gated = gated();
    let (used, other) = (gated.ready.page(), gated.ready.page());
    let entries = [BoListEntry { bo_handle: used, bo_priority: 0 }];
    let at = SCRATCH + 0xa000;
    let space = gated.ready.caller.space;
    let bytes = bytemuck::cast_slice(&entries);
    gated.ready.bench.world.write_user(space, at, bytes).expect("scratch is mapped");
    let list = BoListIn { bo_number: 1, bo_info_size: 8, bo_info_ptr: at, ..Default::default() };
    let work = [ib(hw_ip::DMA, 0, VA + PAGE, gated.size), chunk(chunk_id::BO_HANDLES, &[list])];
    assert_eq!(gated.ready.submit(gated.ctx_id, &work), Ok(1));
    assert_eq!([idle(&mut gated, used), idle(&mut gated, other)], [Ok(1), Ok(0)]);
    assert_eq!(idle(&mut gated, 99), Err(Errno::ENOENT));
    // The context goes, its work does not.
    let mut free = CtxIn { op: ctx_op::FREE_CTX, ctx_id: gated.ctx_id, ..Default::default() };
    assert_eq!(gated.ready.call(ioc::CTX, &mut free), Ok(0));
    assert_eq!(idle(&mut gated, used), Ok(1));
    let mut args = GemWaitIdleIn { handle: used, flags: 0, timeout: NEVER };
    let ticket = gated.park(ioc::GEM_WAIT_IDLE, &mut args);
    gated.open_gate();
    gated.ready.run();
    assert_eq!(gated.answer(ticket), (Ok(0), GemWaitIdleOut::default()));
}

#[test]
fn work_of_a_closed_file_keeps_nobody_waiting() {
    let mut gated = gated();
    let used = gated.ready.page();
    let token = gated.ready.export(used).expect("it can be exported");
    let fd = gated.ready.open_token(token);
    let entries = [BoListEntry { bo_handle: used, bo_priority: 0 }];
    let at = SCRATCH + 0xa000;
    let space = gated.ready.caller.space;
    let bytes = bytemuck::cast_slice(&entries);
    gated.ready.bench.world.write_user(space, at, bytes).expect("scratch is mapped");
    let list = BoListIn { bo_number: 1, bo_info_size: 8, bo_info_ptr: at, ..Default::default() };
    let work = [ib(hw_ip::DMA, 0, VA + PAGE, gated.size), chunk(chunk_id::BO_HANDLES, &[list])];
    assert_eq!(gated.ready.submit(gated.ctx_id, &work), Ok(1));
    let mut args = gated.wait(1, NEVER);
    let own = gated.park(ioc::WAIT_CS, &mut args);
    let file = gated.ready.file;
    gated.ready.file = gated.ready.bench.render(&gated.ready.caller.clone(), 0);
    let handle = gated.ready.import(fd).expect("a dma-buf");
    let mut args = GemWaitIdleIn { handle, flags: 0, timeout: NEVER };
    let other = gated.park(ioc::GEM_WAIT_IDLE, &mut args);
    let bench = &mut gated.ready.bench;
    bench.model.release(&mut bench.world, file);
    let finished = gated.finished();
    let results: Vec<_> = finished.iter().map(|one| (one.ticket, one.result)).collect();
    assert_eq!(results, [(own, Err(Errno::EBADF)), (other, Ok(0))]);
    gated.ready.check();
}
