//! The memory that the restorer shares with every target: the stub and one slot for each task.
//!
//! It is mapped at one address that is free in the restorer and in every address space that will
//! be restored, so an address means the same on both sides. It hands out each slot once.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;

use super::stub::{self, CODE_BYTES, HEAD_BYTES, OP_BYTES, SlotHead};

/// Room for calls in a process's first slot (with its head: 16 KiB).
const LEADER_OPS: usize = 200;
/// Room for arguments in a process's first slot, in bytes.
const LEADER_SCRATCH_BYTES: usize = 64 << 10;
/// Room for calls in another thread's slot (with its head: 4 KiB).
const THREAD_OPS: usize = 50;
/// Calls of a guard beside one for each process.
const GUARD_OPS: usize = 2;
/// Room for arguments in another thread's slot, in bytes.
const THREAD_SCRATCH_BYTES: usize = 4 << 10;

/// Which size of slot a task needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotSize {
    /// A process: many calls, large arguments.
    Leader,
    /// A further thread of a process.
    Thread,
    /// The guard of a tree of this many processes (see `spawn`).
    Guard(usize),
}

impl SlotSize {
    fn ops(self) -> usize {
        match self {
            Self::Leader => LEADER_OPS,
            Self::Thread => THREAD_OPS,
            Self::Guard(processes) => processes + GUARD_OPS,
        }
    }

    fn ring_bytes(self) -> usize {
        (HEAD_BYTES + self.ops() * OP_BYTES).next_multiple_of(4096)
    }

    fn scratch_bytes(self) -> usize {
        match self {
            Self::Leader => LEADER_SCRATCH_BYTES,
            Self::Thread | Self::Guard(_) => THREAD_SCRATCH_BYTES,
        }
    }

    fn bytes(self) -> usize {
        self.ring_bytes() + self.scratch_bytes()
    }
}

/// Size in bytes of a region with these slots.
pub(crate) fn region_bytes(slots: impl IntoIterator<Item = SlotSize>) -> usize {
    CODE_BYTES + slots.into_iter().map(SlotSize::bytes).sum::<usize>()
}

/// The mapping itself; unmapped when the last slot has gone.
#[derive(Debug)]
pub(crate) struct Region {
    base: usize,
    len_bytes: usize,
}

impl Region {
    /// Maps a region at `base` with the stub in its first page, and hands out its slots.
    ///
    /// # Errors
    /// The kernel's error if the range is taken in this process or memory is short.
    pub(crate) fn map(base: u64, sizes: &[SlotSize]) -> std::io::Result<(Arc<Self>, Vec<Slot>)> {
        let len_bytes = region_bytes(sizes.iter().copied());
        let base = usize::try_from(base).expect("64-bit addresses");
        // SAFETY: MAP_FIXED_NOREPLACE never replaces a mapping, so no memory of this program
        // changes; the result is checked against the address asked for.
        let got = unsafe {
            libc::mmap(
                base as *mut _,
                len_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                -1,
                0,
            )
        };
        if got == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        Self::begin(got as usize, base, len_bytes, sizes)
    }

    /// Maps memory that a running process has mapped at `base`, at the same address here, with the
    /// stub in its first page, and hands out its slots. The process's mapping must be executable.
    ///
    /// # Errors
    /// See [`Region::map`].
    pub(crate) fn adopt(
        memory: BorrowedFd<'_>,
        base: u64,
        sizes: &[SlotSize],
    ) -> std::io::Result<(Arc<Self>, Vec<Slot>)> {
        let len_bytes = region_bytes(sizes.iter().copied());
        let base = usize::try_from(base).expect("64-bit addresses");
        // SAFETY: as in `map`; the memory is shared with a process that does not run.
        let got = unsafe {
            libc::mmap(
                base as *mut _,
                len_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED_NOREPLACE,
                memory.as_raw_fd(),
                0,
            )
        };
        if got == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        Self::begin(got as usize, base, len_bytes, sizes)
    }

    fn begin(
        got: usize,
        base: usize,
        len_bytes: usize,
        sizes: &[SlotSize],
    ) -> std::io::Result<(Arc<Self>, Vec<Slot>)> {
        let region = Arc::new(Self { base: got, len_bytes });
        if region.base != base {
            return Err(std::io::Error::from_raw_os_error(libc::EEXIST));
        }
        region.install_stub()?;
        let mut slots = Vec::with_capacity(sizes.len());
        let mut at = base + CODE_BYTES;
        for &size in sizes {
            slots.push(Slot { region: Arc::clone(&region), base: at, size });
            at += size.bytes();
        }
        Ok((region, slots))
    }

    fn install_stub(&self) -> std::io::Result<()> {
        let code = stub::code();
        // SAFETY: the first CODE_BYTES of the region are mapped writable (above), no slot covers
        // them, and `code()` asserts that it fits.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.base as *mut u8, code.len()) };
        // SAFETY: changes the protection of our own code page only.
        let ret = unsafe {
            libc::mprotect(self.base as *mut _, CODE_BYTES, libc::PROT_READ | libc::PROT_EXEC)
        };
        if ret != 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    }

    /// First address.
    pub(crate) fn base(&self) -> u64 {
        self.base as u64
    }

    /// Length in bytes.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes as u64
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the range is ours since `map`, and every slot holds the region alive, so no
        // pointer into it is left.
        unsafe { libc::munmap(self.base as *mut _, self.len_bytes) };
    }
}

/// One task's part of the region: its ring of calls and its room for arguments.
///
/// Not `Clone`: whoever has it is the only one in this process to touch that memory.
#[derive(Debug)]
pub(crate) struct Slot {
    region: Arc<Region>,
    base: usize,
    size: SlotSize,
}

impl Slot {
    /// Address of the slot, the same in the target.
    pub(crate) fn address(&self) -> u64 {
        self.base as u64
    }

    /// Where a new task begins to execute.
    pub(crate) fn entry(&self) -> u64 {
        self.region.base()
    }

    /// The whole region that the target gives up at the end.
    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// Calls that fit into one batch.
    pub(crate) fn ops_max(&self) -> usize {
        self.size.ops()
    }

    /// Bytes of arguments that fit into one batch.
    pub(crate) fn scratch_bytes(&self) -> usize {
        self.size.scratch_bytes()
    }

    /// Address of the first byte of scratch.
    pub(crate) fn scratch_address(&self) -> u64 {
        (self.base + self.size.ring_bytes()) as u64
    }

    /// The slot's head; fields are accessed through volatile or atomic operations only.
    pub(crate) fn head(&self) -> *mut SlotHead {
        self.base as *mut SlotHead
    }

    /// Address of call number `index`.
    pub(crate) fn op(&self, index: usize) -> *mut stub::Op {
        assert!(index < self.ops_max());
        (self.base + HEAD_BYTES + index * OP_BYTES) as *mut stub::Op
    }

    /// Copies `bytes` to scratch at `offset_bytes` and returns their address in the target.
    pub(crate) fn put(&mut self, offset_bytes: usize, bytes: &[u8]) -> u64 {
        assert!(offset_bytes + bytes.len() <= self.scratch_bytes());
        let at = self.scratch_address() + offset_bytes as u64;
        // SAFETY: the range lies in this slot (asserted), the slot is ours alone on this side,
        // and the target reads it only after the batch is posted.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
        at
    }

    /// Copies `len` bytes of scratch at `offset_bytes` out of the slot.
    pub(crate) fn get(&self, offset_bytes: usize, len: usize) -> Vec<u8> {
        assert!(offset_bytes + len <= self.scratch_bytes());
        let mut bytes = vec![0; len];
        let at = self.scratch_address() + offset_bytes as u64;
        // SAFETY: the range lies in this slot (asserted); the target has finished its batch.
        unsafe { std::ptr::copy_nonoverlapping(at as *const u8, bytes.as_mut_ptr(), len) };
        bytes
    }
}
