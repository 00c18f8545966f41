//! What the driver finds outside itself: memory of clients, pages, time, descriptors, processes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::time::{ClockId, clock_gettime};

use super::control::Control;
use super::descriptors::Resolver;
use crate::model::{Caller, FileId, PagesAt, SpaceId, Store, World};
use crate::node::callers::{Callers, Identity, read_memory, write_memory};

/// Length of each store in bytes: the largest file that there can be. Nothing is allocated for it
/// until it is written. `mmap` of a regular file takes offsets below 2^63.
pub(crate) const STORE_BYTES: u64 = (1 << 63) - 4096;

/// The memory files behind the device files.
#[derive(Debug)]
pub(crate) struct Stores {
    kfd: File,
    gpus: Vec<File>,
}

impl Stores {
    /// # Errors
    /// `EMFILE`, `ENOMEM`.
    pub(crate) fn new(gpus: usize) -> Result<Self, Errno> {
        let gpus = (0..gpus).map(|index| store(&format!("kfd-gpu{index}")));
        Ok(Self { kfd: store("kfd")?, gpus: gpus.collect::<Result<_, _>>()? })
    }

    pub(crate) fn gpus(&self) -> usize {
        self.gpus.len()
    }

    /// # Panics
    /// If the node has no such GPU.
    pub(crate) fn file(&self, store: Store) -> &File {
        match store {
            Store::Kfd => &self.kfd,
            Store::Gpu(gpu) => &self.gpus[usize::from(gpu.0)],
        }
    }
}

fn store(name: &str) -> Result<File, Errno> {
    let file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.set_len(STORE_BYTES)
        .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok(file)
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("this clock exists since Linux 2.6");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// What all calls have outside themselves.
pub(crate) struct Outside {
    pub(crate) stores: Stores,
    pub(crate) callers: Arc<Callers>,
    pub(crate) resolver: Resolver,
    pub(crate) control: Arc<Control>,
    /// Device number of the node's file system.
    pub(crate) device: (u32, u32),
}

/// What one call has outside itself.
pub(crate) struct CallWorld<'a> {
    pub(crate) outside: &'a Outside,
    /// Whose call it is; none if the engines run.
    pub(crate) identity: Option<Identity>,
    /// The thread that runs this may wait for an answer of the node itself.
    pub(crate) may_resolve: bool,
}

impl CallWorld<'_> {
    /// The thread of a space that waits for this call.
    fn waiting_in(&self, space: SpaceId) -> Option<i32> {
        self.identity.filter(|identity| identity.space == space).map(|identity| identity.tid)
    }

    fn pages_failed(&self, doing: &str, at: PagesAt, error: &dyn std::fmt::Display) {
        let PagesAt { store, offset } = at;
        self.outside.control.fail(format!("{doing} {store:?} at {offset:#x}: {error}"));
    }
}

impl World for CallWorld<'_> {
    fn read_user(&mut self, space: SpaceId, address: u64, into: &mut [u8]) -> Result<(), Errno> {
        if into.is_empty() {
            return Ok(());
        }
        match self.waiting_in(space) {
            Some(tid) => read_memory(tid, address, into),
            None => self.outside.callers.space(space).ok_or(Errno::EFAULT)?.read(address, into),
        }
    }

    fn write_user(&mut self, space: SpaceId, address: u64, from: &[u8]) -> Result<(), Errno> {
        if from.is_empty() {
            return Ok(());
        }
        match self.waiting_in(space) {
            Some(tid) => write_memory(tid, address, from),
            None => self.outside.callers.space(space).ok_or(Errno::EFAULT)?.write(address, from),
        }
    }

    fn read_pages(&mut self, at: PagesAt, into: &mut [u8]) {
        if let Err(error) = self.outside.stores.file(at.store).read_exact_at(into, at.offset) {
            into.fill(0);
            self.pages_failed("reading", at, &error);
        }
    }

    fn write_pages(&mut self, at: PagesAt, from: &[u8]) {
        if let Err(error) = self.outside.stores.file(at.store).write_all_at(from, at.offset) {
            self.pages_failed("writing", at, &error);
        }
    }

    fn discard_pages(&mut self, at: PagesAt, len_bytes: u64) {
        if len_bytes == 0 {
            return;
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let file = self.outside.stores.file(at.store);
        if let Err(error) = fallocate(file, flags, at.offset as i64, len_bytes as i64) {
            self.pages_failed("discarding", at, &error);
        }
    }

    fn now_ns(&self) -> u64 {
        now_ns()
    }

    fn resolve_fd(&mut self, _caller: &Caller, fd: i32) -> Result<FileId, Errno> {
        let identity = self.identity.ok_or(Errno::EBADF)?;
        debug_assert!(self.may_resolve, "a call that `names_descriptors` does not list");
        if !self.may_resolve {
            return Err(Errno::EBADF);
        }
        self.outside.resolver.resolve(identity.tid, fd, self.outside.device)
    }

    fn space_of_pid(&mut self, _caller: &Caller, pid: i32) -> Option<SpaceId> {
        self.outside.callers.space_of_pid(&self.identity?, pid)
    }

    fn own_pid(&mut self, space: SpaceId) -> u32 {
        self.outside.callers.own_pid(space).unwrap_or(0)
    }

    fn is_tracer(&mut self, _caller: &Caller, of: SpaceId) -> bool {
        let tracer = self.outside.callers.tracer_of(of);
        self.identity.is_some_and(|identity| identity.tid == tracer)
    }
}
