//! Contexts, lists of buffers, submissions.

use bytemuck::{Pod, bytes_of};
use gpu_kfd::uapi::amdgpu::{VmIn, create, domain, ioc, vm_op};
use gpu_kfd::uapi::sdma::Packet;
use gpu_kfd::uapi::submit::{
    BoListEntry, BoListIn, BoListOut, CsChunk, CsChunkDep, CsChunkFence, CsChunkIb, CsChunkSem,
    CsChunkSyncobj, CsIn, CsOut, CtxAllocOut, CtxIn, CtxStateOut, Fence, FenceToHandleIn,
    bo_list_op, chunk_id, ctx_op, hw_ip,
};
use kfd_emulator::{GpuIndex, Outcome, PagesAt, Store, World};
use nix::errno::Errno;

use super::{PAGE, Ready, VA, ready};
use crate::bench::SCRATCH;

/// Where submissions stand in a client's scratch: addresses, heads, contents.
const HEADS: u64 = SCRATCH + 0x1000;
const CONTENTS: u64 = SCRATCH + 0x4000;

/// More than any test's work needs.
const BUDGET_BYTES: u64 = 1 << 30;

/// A chunk: kind and content.
pub(super) type Chunk = (u32, Vec<u8>);

pub(super) fn chunk<T: Pod>(id: u32, content: &[T]) -> Chunk {
    (id, bytemuck::cast_slice(content).to_vec())
}

pub(super) fn ib(ip_type: u32, ring: u32, va_start: u64, ib_bytes: u32) -> Chunk {
    chunk(chunk_id::IB, &[CsChunkIb { va_start, ib_bytes, ip_type, ring, ..Default::default() }])
}

impl Ready {
    pub(super) fn context(&mut self) -> u32 {
        let mut args = CtxIn { op: ctx_op::ALLOC_CTX, ..Default::default() };
        assert_eq!(self.call(ioc::CTX, &mut args), Ok(0));
        bytemuck::cast::<_, CtxAllocOut>(args).ctx_id
    }

    fn on_context(&mut self, op: u32, ctx_id: u32, flags: u32) -> Result<CtxStateOut, Errno> {
        let mut args = CtxIn { op, ctx_id, flags, priority: 0 };
        self.call(ioc::CTX, &mut args)?;
        Ok(bytemuck::cast(args))
    }

    fn list(&mut self, operation: u32, list_handle: u32, handles: &[u32]) -> Result<u32, Errno> {
        let entry = |handle: &u32| BoListEntry { bo_handle: *handle, bo_priority: 0 };
        let entries: Vec<BoListEntry> = handles.iter().map(entry).collect();
        let bo_info_ptr = self.bench.scratch(&self.caller, &entries);
        let (bo_number, bo_info_size) = (handles.len() as u32, 8);
        let mut args = BoListIn { operation, list_handle, bo_number, bo_info_size, bo_info_ptr };
        self.call(ioc::BO_LIST, &mut args)?;
        Ok(bytemuck::cast::<_, BoListOut>(args).list_handle)
    }

    /// Puts chunks into the client's memory; the argument that names them.
    pub(super) fn chunks(&mut self, ctx_id: u32, chunks: &[Chunk]) -> CsIn {
        let space = self.caller.space;
        let (mut addresses, mut heads, mut contents) = (Vec::new(), Vec::new(), Vec::new());
        for (index, (chunk_id, content)) in chunks.iter().enumerate() {
            addresses.push(HEADS + index as u64 * 16);
            let length_dw = content.len() as u32 / 4;
            let chunk_data = CONTENTS + contents.len() as u64;
            heads.push(CsChunk { chunk_id: *chunk_id, length_dw, chunk_data });
            contents.extend_from_slice(content);
        }
        let parts = [
            (SCRATCH, bytemuck::cast_slice(&addresses)),
            (HEADS, bytemuck::cast_slice(&heads)),
            (CONTENTS, contents.as_slice()),
        ];
        for (at, bytes) in parts {
            self.bench.world.write_user(space, at, bytes).expect("scratch is mapped");
        }
        CsIn { ctx_id, num_chunks: chunks.len() as u32, chunks: SCRATCH, ..Default::default() }
    }

    pub(super) fn submit(&mut self, ctx_id: u32, chunks: &[Chunk]) -> Result<u64, Errno> {
        let mut args = self.chunks(ctx_id, chunks);
        self.call(ioc::CS, &mut args)?;
        Ok(bytemuck::cast::<_, CsOut>(args).handle)
    }

    /// A mapped buffer with packets, and its size in bytes.
    pub(super) fn packets(&mut self, va: u64, packets: &[Packet]) -> u32 {
        let mut words = Vec::new();
        packets.iter().for_each(|packet| packet.encode(&mut words));
        let bytes = bytemuck::cast_slice(&words);
        let handle = self.create(bytes.len() as u64, domain::GTT, 0).expect("there is room");
        self.write(handle, 0, bytes);
        let size = (bytes.len() as u64).next_multiple_of(PAGE);
        assert_eq!(self.map(handle, va, size), Ok(0));
        bytes.len() as u32
    }

    fn at(&mut self, handle: u32) -> PagesAt {
        let offset = self.mmap(handle).expect("the host may map it");
        PagesAt { store: Store::Gpu(GpuIndex(0)), offset }
    }

    pub(super) fn write(&mut self, handle: u32, offset: u64, bytes: &[u8]) {
        let at = self.at(handle).plus(offset);
        self.bench.world.write_pages(at, bytes);
    }

    pub(super) fn read(&mut self, handle: u32, offset: u64, len: usize) -> Vec<u8> {
        let at = self.at(handle).plus(offset);
        let mut bytes = vec![0; len];
        self.bench.world.read_pages(at, &mut bytes);
        bytes
    }

    pub(super) fn run(&mut self) {
        self.bench.model.run_queues(&mut self.bench.world, BUDGET_BYTES);
    }
}

#[test]
fn contexts_are_numbered_and_gone_when_freed() {
    let mut ready = ready();
    assert_eq!([ready.context(), ready.context()], [1, 2]);
    assert!(ready.on_context(ctx_op::FREE_CTX, 1, 0).is_ok());
    for op in [ctx_op::FREE_CTX, ctx_op::QUERY_STATE, ctx_op::QUERY_STATE2] {
        assert_eq!(ready.on_context(op, 1, 0), Err(Errno::EINVAL), "{op}");
    }
    assert_eq!(ready.context(), 1);
    for op in [ctx_op::QUERY_STATE, ctx_op::QUERY_STATE2] {
        assert_eq!(ready.on_context(op, 1, 0), Ok(CtxStateOut::default()), "{op}");
    }
    assert_eq!(ready.on_context(9, 1, 0), Err(Errno::EINVAL));
    let made = (0..).take_while(|_| ready.on_context(ctx_op::ALLOC_CTX, 0, 0).is_ok()).count();
    assert_eq!(made, 4093);
    assert_eq!(ready.on_context(ctx_op::ALLOC_CTX, 0, 0), Err(Errno::ENOSPC));
}

#[test]
fn priority_above_normal_needs_privilege() {
    let mut ready = ready();
    let mut make = |priority, can_checkpoint| {
        ready.caller.can_checkpoint = can_checkpoint;
        let mut args = CtxIn { op: ctx_op::ALLOC_CTX, priority, ..Default::default() };
        ready.call(ioc::CTX, &mut args)
    };
    assert_eq!([make(0, false), make(-512, false), make(77, false)], [Ok(0); 3]);
    assert_eq!([make(512, false), make(1023, false)], [Err(Errno::EACCES); 2]);
    assert_eq!(make(512, true), Ok(0));
}

#[test]
fn stable_power_state_is_remembered() {
    let mut ready = ready();
    let ctx = ready.context();
    assert!(ready.on_context(ctx_op::SET_STABLE_PSTATE, ctx, 3).is_ok());
    let state = ready.on_context(ctx_op::GET_STABLE_PSTATE, ctx, 0).expect("a context");
    assert_eq!(state.flags, 3);
    for (op, ctx, flags) in [
        (ctx_op::SET_STABLE_PSTATE, ctx, 5),
        (ctx_op::SET_STABLE_PSTATE, ctx, 0x10),
        (ctx_op::SET_STABLE_PSTATE, 9, 1),
        (ctx_op::GET_STABLE_PSTATE, ctx, 1),
        (ctx_op::GET_STABLE_PSTATE, 9, 0),
    ] {
        assert_eq!(ready.on_context(op, ctx, flags), Err(Errno::EINVAL), "{op} {ctx} {flags}");
    }
}

#[test]
fn lists_hold_their_buffers() {
    let mut ready = ready();
    let handle = ready.page();
    assert_eq!(ready.list(bo_list_op::CREATE, 0, &[handle, handle]), Ok(1));
    assert_eq!(ready.close(handle), Ok(0));
    assert_eq!(ready.bench.model.buffers(), 1);
    ready.check();
    let other = ready.page();
    assert_eq!(ready.list(bo_list_op::UPDATE, 1, &[other]), Ok(1));
    assert_eq!(ready.bench.model.buffers(), 1);
    assert_eq!(ready.list(bo_list_op::DESTROY, 1, &[]), Ok(0));
    assert_eq!(ready.list(bo_list_op::DESTROY, 1, &[]), Ok(0), "gone is no error");
    ready.check();
    assert_eq!(ready.list(bo_list_op::CREATE, 0, &[other]), Ok(1));
    ready.bench.model.release(&mut ready.bench.world, ready.file);
    assert_eq!(ready.bench.model.buffers(), 0);
}

#[test]
fn lists_are_checked() {
    let mut ready = ready();
    let handle = ready.page();
    assert_eq!(ready.list(bo_list_op::CREATE, 0, &[handle, 9]), Err(Errno::ENOENT));
    assert_eq!(ready.list(bo_list_op::UPDATE, 5, &[handle]), Err(Errno::ENOENT));
    assert_eq!(ready.list(7, 0, &[handle]), Err(Errno::EINVAL));
    let mut args =
        BoListIn { bo_number: 1, bo_info_size: 8, bo_info_ptr: 0x10, ..Default::default() };
    assert_eq!(ready.call(ioc::BO_LIST, &mut args), Err(Errno::EFAULT));
    args.operation = bo_list_op::DESTROY;
    assert_eq!(ready.call(ioc::BO_LIST, &mut args), Err(Errno::EFAULT), "even to destroy");
    args.bo_number = 128 * 1024 + 1;
    assert_eq!(ready.call(ioc::BO_LIST, &mut args), Err(Errno::EINVAL));
    ready.check();
    // Memory of a process that another one shall use.
    let user = ready.user(SCRATCH, PAGE).expect("scratch is mapped");
    ready.caller = ready.bench.client(101);
    assert_eq!(ready.list(bo_list_op::CREATE, 0, &[user]), Err(Errno::EPERM));
    ready.check();
}

#[test]
fn entries_of_other_sizes_are_understood() {
    let mut ready = ready();
    let handle = ready.page();
    let bo_info_ptr = ready.bench.scratch(&ready.caller, &[handle, 1, 2, handle, 3, 4]);
    for (bo_info_size, bo_number) in [(12, 2), (4, 1)] {
        let mut args = BoListIn { bo_number, bo_info_size, bo_info_ptr, ..Default::default() };
        assert_eq!(ready.call(ioc::BO_LIST, &mut args), Ok(0), "{bo_info_size}");
    }
    let mut args = BoListIn { bo_number: 2, bo_info_size: 4, bo_info_ptr, ..Default::default() };
    // The second of these is the priority of the first.
    ready.close(handle).expect("it is there");
    assert_eq!(ready.call(ioc::BO_LIST, &mut args), Err(Errno::ENOENT));
}

#[test]
fn vmid_is_reserved_without_flags() {
    let mut ready = ready();
    for (op, flags, expected) in [
        (vm_op::RESERVE_VMID, 0, Ok(0)),
        (vm_op::UNRESERVE_VMID, 0, Ok(0)),
        (vm_op::RESERVE_VMID, 1, Err(Errno::EINVAL)),
        (0, 0, Err(Errno::EINVAL)),
    ] {
        assert_eq!(ready.call(ioc::VM, &mut VmIn { op, flags }), expected, "{op} {flags}");
    }
}

#[test]
fn copy_between_buffers_is_carried_out() {
    let mut ready = ready();
    let (from, to) = (ready.page(), ready.create(PAGE, domain::VRAM, 0).expect("there is room"));
    ready.write(from, 0, b"what was saved");
    assert_eq!([ready.map(from, VA, PAGE), ready.map(to, VA + PAGE, PAGE)], [Ok(0); 2]);
    let copy = Packet::CopyLinear { source: VA, destination: VA + PAGE, bytes: 14 };
    let size = ready.packets(VA + 2 * PAGE, &[copy]);
    let ctx = ready.context();
    let fence = ready.page();
    let chunks = [
        ib(hw_ip::DMA, 0, VA + 2 * PAGE, size),
        chunk(chunk_id::FENCE, &[CsChunkFence { handle: fence, offset: 8 }]),
    ];
    assert_eq!([ready.submit(ctx, &chunks), ready.submit(ctx, &chunks)], [Ok(1), Ok(2)]);
    assert_eq!(ready.read(to, 0, 4), [0; 4], "not before an engine runs");
    ready.run();
    assert_eq!(ready.read(to, 0, 14), b"what was saved");
    assert_eq!(ready.read(fence, 8, 8), 2u64.to_le_bytes());
    ready.check();
}

#[test]
fn memory_of_the_process_is_copied_too() {
    let mut ready = ready();
    let user = ready.user(SCRATCH + 0x8000, PAGE).expect("scratch is mapped");
    let to = ready.page();
    let space = ready.caller.space;
    ready.bench.world.write_user(space, SCRATCH + 0x8000, b"bounce").expect("scratch is mapped");
    assert_eq!([ready.map(user, VA, PAGE), ready.map(to, VA + PAGE, PAGE)], [Ok(0); 2]);
    let copy = Packet::CopyLinear { source: VA, destination: VA + PAGE, bytes: 6 };
    let size = ready.packets(VA + 2 * PAGE, &[copy]);
    let ctx = ready.context();
    let list = ready.list(bo_list_op::CREATE, 0, &[user, to]).expect("a list");
    let mut args = ready.chunks(ctx, &[ib(hw_ip::DMA, 0, VA + 2 * PAGE, size)]);
    args.bo_list_handle = list;
    assert_eq!(ready.call(ioc::CS, &mut args), Ok(0));
    ready.run();
    assert_eq!(ready.read(to, 0, 6), b"bounce");
}

#[test]
fn submissions_are_checked() {
    let mut ready = ready();
    let ctx = ready.context();
    let handle = ready.page();
    let size = ready.packets(VA, &[Packet::Nop { skipped: 3 }]);
    let good = || ib(hw_ip::DMA, 0, VA, size);
    assert_eq!(ready.submit(9, &[good()]), Err(Errno::EINVAL), "context");
    assert_eq!(ready.submit(ctx, &[]), Err(Errno::EINVAL), "no chunk");
    let fence = |handle, offset| chunk(chunk_id::FENCE, &[CsChunkFence { handle, offset }]);
    assert_eq!(ready.submit(ctx, &[fence(handle, 0)]), Err(Errno::EINVAL), "no work");
    let large = ready.create(2 * PAGE, domain::GTT, 0).expect("there is room");
    let user = ready.user(SCRATCH + 0x8000, PAGE).expect("scratch is mapped");
    let nowhere = BoListIn { bo_number: 1, bo_info_size: 8, ..Default::default() };
    let refused: [(&str, Chunk, Errno); 17] = [
        ("engine", ib(10, 0, VA, size), Errno::EINVAL),
        ("engine that is not there", ib(hw_ip::VCN_DEC, 0, VA, size), Errno::EINVAL),
        ("ring", ib(hw_ip::DMA, 2, VA, size), Errno::EINVAL),
        ("length", ib(hw_ip::DMA, 0, VA, (4 << 20) + 4), Errno::EINVAL),
        ("short", chunk(chunk_id::IB, &[0u32; 7]), Errno::EINVAL),
        ("chunk", chunk(0x0b, &[0u32]), Errno::EINVAL),
        ("fence handle", fence(77, 0), Errno::EINVAL),
        ("fence offset", fence(handle, 4089), Errno::EINVAL),
        ("fence size", fence(large, 0), Errno::EINVAL),
        ("fence memory", fence(user, 0), Errno::EINVAL),
        ("fence short", chunk(chunk_id::FENCE, &[0u32]), Errno::EINVAL),
        ("list short", chunk(chunk_id::BO_HANDLES, &[0u32; 5]), Errno::EINVAL),
        ("list memory", chunk(chunk_id::BO_HANDLES, &[nowhere]), Errno::EFAULT),
        ("shadow short", chunk(chunk_id::CP_GFX_SHADOW, &[0u32; 7]), Errno::EINVAL),
        ("shadow flags", chunk(chunk_id::CP_GFX_SHADOW, &[0u64, 0, 0, 2]), Errno::EINVAL),
        ("sync in", chunk(chunk_id::SYNCOBJ_IN, &[CsChunkSem { handle: 1 }]), Errno::ENOENT),
        ("sync out", chunk(chunk_id::SYNCOBJ_OUT, &[CsChunkSem { handle: 1 }]), Errno::EINVAL),
    ];
    for (what, bad, errno) in refused {
        assert_eq!(ready.submit(ctx, &[good(), bad]), Err(errno), "{what}");
    }
    let twice = [good(), fence(handle, 0), fence(handle, 8)];
    assert_eq!(ready.submit(ctx, &twice), Err(Errno::EINVAL));
    let timeline = [CsChunkSyncobj::default()];
    for (id, errno) in [
        (chunk_id::SYNCOBJ_TIMELINE_WAIT, Errno::ENOENT),
        (chunk_id::SYNCOBJ_TIMELINE_SIGNAL, Errno::EINVAL),
    ] {
        assert_eq!(ready.submit(ctx, &[good(), chunk(id, &timeline)]), Err(errno), "{id}");
    }
    // Empty ones, and padding of the pipelines, are none.
    let none: [u32; 0] = [];
    let harmless = [
        good(),
        chunk(chunk_id::SYNCOBJ_IN, &none),
        chunk(chunk_id::SYNCOBJ_OUT, &none),
        chunk(chunk_id::CP_GFX_SHADOW, &[0u64, 0, 0, 1]),
    ];
    assert_eq!(ready.submit(ctx, &harmless), Ok(1));
    ready.check();
}

#[test]
fn addresses_of_submissions_are_checked() {
    let mut ready = ready();
    let ctx = ready.context();
    let size = ready.packets(VA, &[Packet::Nop { skipped: 3 }]);
    let good = ready.chunks(ctx, &[ib(hw_ip::DMA, 0, VA, size)]);
    let space = ready.caller.space;
    let mut args = CsIn { chunks: 0x10, ..good };
    assert_eq!(ready.call(ioc::CS, &mut args), Err(Errno::EFAULT));
    let mut args = CsIn { num_chunks: 1025, ..good };
    assert_eq!(ready.call(ioc::CS, &mut args), Err(Errno::ENOMEM));
    ready.bench.world.write_user(space, SCRATCH, bytes_of(&0x10u64)).expect("scratch is mapped");
    assert_eq!(ready.call(ioc::CS, &mut { good }), Err(Errno::EFAULT));
    for (length_dw, chunk_data, errno) in
        [(8, 0x10, Errno::EFAULT), (u32::MAX, CONTENTS, Errno::ENOMEM)]
    {
        ready.chunks(ctx, &[ib(hw_ip::DMA, 0, VA, size)]);
        let head = CsChunk { chunk_id: chunk_id::IB, length_dw, chunk_data };
        ready.bench.world.write_user(space, HEADS, bytes_of(&head)).expect("scratch is mapped");
        assert_eq!(ready.call(ioc::CS, &mut { good }), Err(errno), "{length_dw}");
    }
}

#[test]
fn list_comes_with_the_submission_or_by_its_handle() {
    let mut ready = ready();
    let ctx = ready.context();
    let handle = ready.page();
    let size = ready.packets(VA, &[Packet::Nop { skipped: 3 }]);
    let list = ready.list(bo_list_op::CREATE, 0, &[handle]).expect("a list");
    let work = ib(hw_ip::DMA, 0, VA, size);
    let entries = [BoListEntry { bo_handle: handle, bo_priority: 0 }];
    let at = SCRATCH + 0x9000;
    let space = ready.caller.space;
    ready.bench.world.write_user(space, at, bytemuck::cast_slice(&entries)).expect("mapped");
    let inline = BoListIn { bo_number: 1, bo_info_size: 8, bo_info_ptr: at, ..Default::default() };
    let inline = chunk(chunk_id::BO_HANDLES, &[inline]);
    assert_eq!(ready.submit(ctx, &[work.clone(), inline.clone()]), Ok(1));
    let mut args = ready.chunks(ctx, &[work.clone(), inline.clone()]);
    args.bo_list_handle = list;
    assert_eq!(ready.call(ioc::CS, &mut args), Err(Errno::EINVAL), "both");
    let mut args = ready.chunks(ctx, std::slice::from_ref(&work));
    args.bo_list_handle = 77;
    assert_eq!(ready.call(ioc::CS, &mut args), Err(Errno::ENOENT));
    let twice = [work, inline.clone(), inline];
    assert_eq!(ready.submit(ctx, &twice), Err(Errno::EINVAL));
}

#[test]
fn pipelines_take_only_what_does_nothing() {
    let mut ready = ready();
    let ctx = ready.context();
    let words: [u32; 4] = [0xc001_1000, 7, 7, 0x8000_0000];
    let handle = ready.page();
    ready.write(handle, 0, bytemuck::cast_slice(&words));
    assert_eq!(ready.map(handle, VA, PAGE), Ok(0));
    assert_eq!(ready.submit(ctx, &[ib(hw_ip::COMPUTE, 3, VA, 16)]), Ok(1));
    assert_eq!(ready.submit(ctx, &[ib(hw_ip::COMPUTE, 3, VA + 4, 4)]), Err(Errno::EINVAL));
    assert_eq!(ready.submit(ctx, &[ib(hw_ip::COMPUTE, 3, VA + PAGE, 4)]), Err(Errno::EINVAL));
    assert_eq!(ready.submit(ctx, &[ib(hw_ip::GFX, 0, VA, 16)]), Err(Errno::EINVAL), "no ring");
    assert_eq!(ready.submit(ctx, &[ib(hw_ip::COMPUTE, 4, VA, 16)]), Err(Errno::EINVAL));
}

#[test]
fn one_submission_may_use_several_rings_but_not_too_many() {
    let mut ready = ready();
    let ctx = ready.context();
    let size = ready.packets(VA, &[Packet::Nop { skipped: 3 }]);
    let nothing = ready.page();
    ready.write(nothing, 0, &0x8000_0000u32.to_le_bytes());
    assert_eq!(ready.map(nothing, VA + PAGE, PAGE), Ok(0));
    let mut works: Vec<Chunk> = (0..2).map(|ring| ib(hw_ip::DMA, ring, VA, size)).collect();
    works.extend((0..2).map(|ring| ib(hw_ip::COMPUTE, ring, VA + PAGE, 4)));
    assert_eq!(ready.submit(ctx, &works), Ok(1));
    works.push(ib(hw_ip::COMPUTE, 2, VA + PAGE, 4));
    assert_eq!(ready.submit(ctx, &works), Err(Errno::EINVAL));
    let many = vec![ib(hw_ip::DMA, 0, VA, size); 50];
    assert_eq!(ready.submit(ctx, &many[..49]), Ok(2));
    assert_eq!(ready.submit(ctx, &many), Err(Errno::EINVAL));
    ready.run();
}

#[test]
fn dependencies_are_waited_for_by_the_engine() {
    let mut ready = ready();
    let (first, second) = (ready.context(), ready.context());
    let data = ready.page();
    assert_eq!(ready.map(data, VA, PAGE), Ok(0));
    // The first context waits until the host writes 1; the second's copy comes after it.
    let wait = Packet::PollMemory {
        address: VA,
        condition: gpu_kfd::uapi::sdma::Condition::Equal,
        reference: 1,
        mask: u32::MAX,
        interval: 10,
        retries: 0xfff,
    };
    let waits = ready.packets(VA + PAGE, &[wait]);
    let copy = Packet::CopyLinear { source: VA, destination: VA + 64, bytes: 4 };
    let copies = ready.packets(VA + 2 * PAGE, &[copy]);
    assert_eq!(ready.submit(first, &[ib(hw_ip::DMA, 0, VA + PAGE, waits)]), Ok(1));
    let dep = CsChunkDep { ip_type: hw_ip::DMA, ctx_id: first, handle: 1, ..Default::default() };
    let after =
        |dep| [ib(hw_ip::DMA, 0, VA + 2 * PAGE, copies), chunk(chunk_id::DEPENDENCIES, &[dep])];
    assert_eq!(ready.submit(second, &after(dep)), Ok(1));
    ready.run();
    assert_eq!(ready.read(data, 64, 4), [0; 4]);
    ready.write(data, 0, &1u32.to_le_bytes());
    ready.run();
    assert_eq!(ready.read(data, 64, 4), 1u32.to_le_bytes());
    for bad in [
        CsChunkDep { ctx_id: 9, ..dep },
        CsChunkDep { ip_type: 10, ..dep },
        CsChunkDep { ring: 2, ..dep },
        CsChunkDep { handle: 2, ..dep },
    ] {
        assert_eq!(ready.submit(second, &after(bad)), Err(Errno::EINVAL), "{bad:?}");
    }
}

#[test]
fn context_whose_work_failed_takes_no_more() {
    let mut ready = ready();
    let ctx = ready.context();
    let handle = ready.page();
    ready.write(handle, 0, &[0xff; 64]);
    assert_eq!(ready.map(handle, VA, PAGE), Ok(0));
    assert_eq!(ready.submit(ctx, &[ib(hw_ip::DMA, 0, VA, 64)]), Ok(1));
    ready.run();
    assert_eq!(ready.submit(ctx, &[ib(hw_ip::DMA, 0, VA, 64)]), Err(Errno::ECANCELED));
    let other = ready.context();
    assert_eq!(ready.submit(other, &[ib(hw_ip::DMA, 0, VA, 64)]), Ok(1));
}

#[test]
fn thirty_third_submission_waits_for_the_first() {
    let mut ready = ready();
    let ctx = ready.context();
    let size = ready.packets(VA, &[Packet::Nop { skipped: 3 }]);
    let work = [ib(hw_ip::DMA, 0, VA, size)];
    for number in 1..=32 {
        assert_eq!(ready.submit(ctx, &work), Ok(number));
    }
    let mut args = ready.chunks(ctx, &work);
    let Outcome::Later(ticket) = ready.outcome(ioc::CS, &mut args) else {
        panic!("there is no room");
    };
    assert_eq!(ready.bench.model.take_finished(), []);
    ready.run();
    let finished = ready.bench.model.take_finished();
    assert_eq!((finished[0].ticket, finished[0].result), (ticket, Ok(0)));
    let out: CsOut = bytemuck::pod_read_unaligned(&finished[0].arg);
    assert_eq!(out.handle, 33);
    assert_eq!(ready.submit(ctx, &work), Ok(34));
}

#[test]
fn buffers_of_one_address_space_stay_there() {
    let mut ready = ready();
    let bound = ready.create(PAGE, domain::GTT, create::VM_ALWAYS_VALID).expect("there is room");
    assert_eq!(ready.map(bound, VA, PAGE), Ok(0));
    assert!(ready.mmap(bound).is_ok());
    assert_eq!(ready.export(bound), Err(Errno::EPERM));
}

#[test]
fn fence_becomes_no_sync_object() {
    let mut ready = ready();
    let ctx_id = ready.context();
    let size = ready.packets(VA, &[Packet::Nop { skipped: 3 }]);
    assert_eq!(ready.submit(ctx_id, &[ib(hw_ip::DMA, 0, VA, size)]), Ok(1));
    let named = |seq_no| Fence { ctx_id, ip_type: hw_ip::DMA, seq_no, ..Default::default() };
    for (seq_no, what, errno) in
        [(1, 0, Errno::EOPNOTSUPP), (1, 3, Errno::EINVAL), (2, 0, Errno::EINVAL)]
    {
        let mut args = FenceToHandleIn { fence: named(seq_no), what, _pad: 0 };
        assert_eq!(ready.call(ioc::FENCE_TO_HANDLE, &mut args), Err(errno), "{seq_no} {what}");
    }
}
