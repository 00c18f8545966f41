//! Buffers in the address space of this process, at addresses of its choice, as libhsakmt has
//! them: where the GPU has them too. No reference into them exists, since GPUs write there.

use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// A mapping that children do not get; it ends with its value.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len_bytes: usize,
}

const BOTH: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

impl Mapping {
    /// Maps a part of a device file, at an address or anywhere.
    pub(crate) fn of_device(
        device: BorrowedFd<'_>,
        offset_bytes: u64,
        len_bytes: u64,
        address: Option<u64>,
    ) -> Result<Self, Errno> {
        let len = NonZeroUsize::new(len_bytes as usize).ok_or(Errno::EINVAL)?;
        let at = address.and_then(|address| NonZeroUsize::new(address as usize));
        let fixed = if at.is_some() { MapFlags::MAP_FIXED_NOREPLACE } else { MapFlags::empty() };
        let flags = MapFlags::MAP_SHARED | fixed;
        // SAFETY: MAP_FIXED_NOREPLACE or no address, so no memory of this process is replaced.
        let base = unsafe { mmap(at, len, BOTH, flags, device, offset_bytes as i64) }?;
        Self::keep_from_children(base.cast(), len)
    }

    /// Memory of this process.
    pub(crate) fn anonymous(len_bytes: u64) -> Result<Self, Errno> {
        let len = NonZeroUsize::new(len_bytes as usize).ok_or(Errno::EINVAL)?;
        // SAFETY: no address is asked for, so no memory of this process is replaced.
        let base = unsafe { mmap_anonymous(None, len, BOTH, MapFlags::MAP_PRIVATE) }?;
        Self::keep_from_children(base.cast(), len)
    }

    fn keep_from_children(base: NonNull<u8>, len: NonZeroUsize) -> Result<Self, Errno> {
        let mapping = Self { base, len_bytes: len.get() };
        // SAFETY: the range was mapped just now, and the advice changes nothing of it here.
        unsafe { madvise(base.cast(), len.get(), MmapAdvise::MADV_DONTFORK) }?;
        Ok(mapping)
    }

    pub(crate) fn address(&self) -> u64 {
        self.base.as_ptr().expose_provenance() as u64
    }

    fn at(&self, offset_bytes: u64, len_bytes: usize) -> *mut u8 {
        let end = offset_bytes + len_bytes as u64;
        assert!(end <= self.len_bytes as u64, "{end:#x} of {:#x}", self.len_bytes);
        self.base.as_ptr().wrapping_add(offset_bytes as usize)
    }

    /// Copies out.
    pub(crate) fn read(&self, offset_bytes: u64, into: &mut [u64]) {
        let from = self.at(offset_bytes, size_of_val(into));
        compiler_fence(Ordering::SeqCst);
        // SAFETY: `at` has checked that the range lies in the mapping, which `self` keeps; `into`
        // is ours alone, and no reference into the mapping exists.
        unsafe { from.cast::<u64>().copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) };
        compiler_fence(Ordering::SeqCst);
    }

    /// Copies in; a slice of words of any width.
    pub(crate) fn write<T: Copy>(&self, offset_bytes: u64, from: &[T]) {
        let to = self.at(offset_bytes, size_of_val(from));
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as in `read`; the mapping is writable.
        unsafe { to.cast::<T>().copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        compiler_fence(Ordering::SeqCst);
    }

    fn word(&self, offset_bytes: u64) -> &AtomicU64 {
        let word = self.at(offset_bytes, 8).cast::<u64>();
        assert!(word.is_aligned());
        // SAFETY: eight aligned bytes in the mapping, which `self` keeps (checked above); whoever
        // else writes them does it by words.
        unsafe { AtomicU64::from_ptr(word) }
    }

    pub(crate) fn load(&self, offset_bytes: u64) -> u64 {
        self.word(offset_bytes).load(Ordering::Acquire)
    }

    pub(crate) fn store(&self, offset_bytes: u64, value: u64) {
        self.word(offset_bytes).store(value, Ordering::Release);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is this value's, which nobody uses any more.
        let _ = unsafe { munmap(self.base.cast(), self.len_bytes) };
    }
}
