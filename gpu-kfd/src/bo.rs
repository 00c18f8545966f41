//! A buffer object mapped into this process: copies in and out, within bounds.
//!
//! The memory is shared with a GPU and with other processes, so no reference into it ever exists
//! and nothing in it is judged: bytes go out as they are, and what changes meanwhile comes out old,
//! new or mixed. Copies are `memcpy` between fences that keep the compiler from moving or merging
//! them; volatile accesses of 8 or 16 bytes reached 6 of its 10 GB/s (measured, 2.7 GHz Xeon). A
//! page that the driver cannot provide when it is touched kills the process (`SIGBUS`): map only
//! what the driver says is visible to the host.

use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering, compiler_fence};
use std::{io, ptr, thread};

use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw};

/// What one thread copies at least: less is done before another thread has begun (some 50 µs).
const THREAD_BYTES_MIN: usize = 1 << 20;

/// Why a buffer could not be mapped or copied.
#[derive(Debug, thiserror::Error)]
pub enum BoError {
    /// The mapping was refused.
    #[error("cannot map {size_bytes} bytes at offset {offset_bytes:#x} of {}", path.display())]
    Map {
        /// The device.
        path: PathBuf,
        /// Offset in the device file.
        offset_bytes: u64,
        /// Size of the buffer.
        size_bytes: u64,
        /// The kernel's error.
        source: io::Error,
    },
    /// Memory of this process could not be had.
    #[error("cannot have {size_bytes} bytes of memory")]
    Memory {
        /// How much was asked for.
        size_bytes: u64,
        /// The kernel's error.
        source: io::Error,
    },
    /// The copy would leave the buffer.
    #[error("{len_bytes} bytes at {offset_bytes:#x} exceed a buffer of {size_bytes:#x} bytes")]
    Bounds {
        /// Where the copy begins.
        offset_bytes: u64,
        /// How long it is.
        len_bytes: usize,
        /// Size of the buffer.
        size_bytes: u64,
    },
}

impl BoError {
    /// Its code, by which `docs/errors.md` lists it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Map { .. } => "device.map",
            Self::Memory { .. } => "device.host-memory",
            Self::Bounds { .. } => "device.bounds",
        }
    }

    /// What can be done about it, where there is something.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Map { .. } => Some("look into the kernel's log, and free memory of this host"),
            Self::Memory { .. } => Some("free memory of this host, or copy less at a time"),
            Self::Bounds { .. } => None,
        }
    }
}

/// A buffer object in the address space of this process; unmapped when dropped.
#[derive(Debug)]
pub struct BoMapping {
    memory: MmapRaw,
}

impl BoMapping {
    /// Maps a buffer, for reading and writing: `offset_bytes` is what the driver gave for `mmap`
    /// of this device file.
    ///
    /// # Errors
    ///
    /// [`BoError::Map`].
    pub fn map(
        device: BorrowedFd<'_>,
        path: &Path,
        offset_bytes: u64,
        size_bytes: u64,
    ) -> Result<Self, BoError> {
        let refused = |source| {
            let path = path.to_owned();
            BoError::Map { path, offset_bytes, size_bytes, source }
        };
        let size = usize::try_from(size_bytes).map_err(|error| refused(io::Error::other(error)))?;
        let mut options = MmapOptions::new();
        let memory = options.offset(offset_bytes).len(size).map_raw(device.as_raw_fd());
        Ok(Self { memory: memory.map_err(refused)? })
    }

    /// Memory of this process that a GPU may be let use; a child that is forked does not get it.
    pub(crate) fn anonymous(size: NonZeroUsize) -> Result<Self, BoError> {
        let refused = |source| BoError::Memory { size_bytes: size.get() as u64, source };
        let memory = MmapMut::map_anon(size.get()).map_err(refused)?;
        memory.advise(Advice::DontFork).map_err(refused)?;
        Ok(Self { memory: memory.into() })
    }

    /// Size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.memory.len() as u64
    }

    /// Address in this process.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.memory.as_ptr().expose_provenance() as u64
    }

    /// Copies out of the buffer.
    ///
    /// # Errors
    ///
    /// [`BoError::Bounds`]; nothing is copied then.
    pub fn read(&self, offset_bytes: u64, into: &mut [u8]) -> Result<(), BoError> {
        let from = self.check(offset_bytes, into.len())?;
        compiler_fence(Ordering::SeqCst);
        // SAFETY: `check` has established that the range lies in the mapping, which `self` keeps;
        // `into` is ours alone and cannot overlap it, since no reference into the mapping exists.
        unsafe { ptr::copy_nonoverlapping(from.cast_const(), into.as_mut_ptr(), into.len()) };
        compiler_fence(Ordering::SeqCst);
        Ok(())
    }

    /// Copies into the buffer.
    ///
    /// # Errors
    ///
    /// [`BoError::Bounds`]; nothing is copied then.
    pub fn write(&self, offset_bytes: u64, from: &[u8]) -> Result<(), BoError> {
        let to = self.check(offset_bytes, from.len())?;
        compiler_fence(Ordering::SeqCst);
        // SAFETY: as in `read`; the mapping is writable, as both constructors make it.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        compiler_fence(Ordering::SeqCst);
        Ok(())
    }

    /// Reads a word at once, as doorbells, positions of queues and signals ask for.
    ///
    /// # Errors
    ///
    /// [`BoError::Bounds`], also for an offset that is not a multiple of 8.
    pub fn load_word(&self, offset_bytes: u64) -> Result<u64, BoError> {
        let word = self.check_word(offset_bytes)?;
        // SAFETY: `check_word` has established that eight aligned bytes lie in the mapping, which
        // `self` keeps; others access them as words too, so that none is torn.
        Ok(unsafe { AtomicU64::from_ptr(word) }.load(Ordering::Acquire))
    }

    /// Writes a word at once; whoever sees it sees all writes before it.
    ///
    /// # Errors
    ///
    /// As [`BoMapping::load_word`].
    pub fn store_word(&self, offset_bytes: u64, value: u64) -> Result<(), BoError> {
        let word = self.check_word(offset_bytes)?;
        // SAFETY: as in `load_word`; the mapping is writable, as both constructors make it.
        unsafe { AtomicU64::from_ptr(word) }.store(value, Ordering::Release);
        Ok(())
    }

    fn check_word(&self, offset_bytes: u64) -> Result<*mut u64, BoError> {
        let at = self.check(offset_bytes, 8)?.cast::<u64>();
        if at.is_aligned() {
            return Ok(at);
        }
        Err(BoError::Bounds { offset_bytes, len_bytes: 8, size_bytes: self.size_bytes() })
    }

    /// Takes the page faults of a range all at once, instead of one by one while it is written. It
    /// is a hint: a driver that maps whole buffers needs none and refuses it, and a kernel before
    /// 5.14 does not know it (`MADV_POPULATE_WRITE`); then nothing happens.
    pub fn populate(&self, offset_bytes: u64, len_bytes: u64) {
        let len = len_bytes.min(self.size_bytes().saturating_sub(offset_bytes)) as usize;
        let _ = self.memory.advise_range(Advice::PopulateWrite, offset_bytes as usize, len);
    }

    /// As [`BoMapping::read`], by up to so many threads at once.
    ///
    /// # Errors
    ///
    /// [`BoError::Bounds`]; nothing is copied then.
    pub fn read_parallel(
        &self,
        offset_bytes: u64,
        into: &mut [u8],
        threads: NonZeroUsize,
    ) -> Result<(), BoError> {
        self.check(offset_bytes, into.len())?;
        let share = share_bytes(into.len(), threads);
        each_in_a_thread(into.chunks_mut(share).zip(steps(offset_bytes, share)), |(part, at)| {
            self.read(at, part)
        })
    }

    /// As [`BoMapping::write`], by up to so many threads at once.
    ///
    /// # Errors
    ///
    /// [`BoError::Bounds`]; nothing is copied then.
    pub fn write_parallel(
        &self,
        offset_bytes: u64,
        from: &[u8],
        threads: NonZeroUsize,
    ) -> Result<(), BoError> {
        self.check(offset_bytes, from.len())?;
        let share = share_bytes(from.len(), threads);
        each_in_a_thread(from.chunks(share).zip(steps(offset_bytes, share)), |(part, at)| {
            self.write(at, part)
        })
    }

    /// The address of a range that lies in the buffer.
    fn check(&self, offset_bytes: u64, len_bytes: usize) -> Result<*mut u8, BoError> {
        let size_bytes = self.size_bytes();
        match offset_bytes.checked_add(len_bytes as u64) {
            Some(end) if end <= size_bytes => {
                Ok(self.memory.as_mut_ptr().wrapping_add(offset_bytes as usize))
            }
            _ => Err(BoError::Bounds { offset_bytes, len_bytes, size_bytes }),
        }
    }
}

/// What each thread copies: whole pages, and enough to be worth a thread.
fn share_bytes(len_bytes: usize, threads: NonZeroUsize) -> usize {
    len_bytes.div_ceil(threads.get()).max(THREAD_BYTES_MIN).next_multiple_of(4096)
}

fn steps(first: u64, step: usize) -> impl Iterator<Item = u64> {
    (0..).map(move |index| first + index * step as u64)
}

/// Does the first job here and each of the others in a thread of its own.
fn each_in_a_thread<T: Send>(
    mut jobs: impl Iterator<Item = T>,
    work: impl Fn(T) -> Result<(), BoError> + Sync,
) -> Result<(), BoError> {
    let Some(first) = jobs.next() else {
        return Ok(());
    };
    thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = jobs.map(|job| scope.spawn(move || work(job))).collect();
        let mut result = work(first);
        for other in others {
            result = result.and(other.join().expect("a copy does not panic"));
        }
        result
    })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    const SIZE: usize = 5 << 20;

    fn mapped(file: &File) -> BoMapping {
        BoMapping::map(file.as_fd(), Path::new("test"), 4096, SIZE as u64).unwrap()
    }

    fn file() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096 + SIZE as u64).unwrap();
        file
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|index| (index * 7 + index / 4096) as u8).collect()
    }

    #[test]
    fn what_is_written_is_what_the_file_holds_at_that_offset() {
        let file = file();
        let (here, there) = (mapped(&file), mapped(&file));
        let threads = NonZeroUsize::new(3).unwrap();
        let bytes = pattern(SIZE - 123);
        here.write_parallel(123, &bytes, threads).unwrap();
        let mut whole = vec![0; SIZE];
        there.read(0, &mut whole).unwrap();
        assert_eq!(whole[..123], [0; 123]);
        assert!(whole[123..] == bytes);
        let mut again = vec![0; SIZE - 123];
        there.read_parallel(123, &mut again, threads).unwrap();
        assert!(again == bytes);
    }

    #[test]
    fn words_are_whole_and_in_bounds() {
        let file = file();
        let (here, there) = (mapped(&file), mapped(&file));
        here.store_word(16, 0x0102_0304_0506_0708).unwrap();
        assert_eq!(there.load_word(16).unwrap(), 0x0102_0304_0506_0708);
        for offset in [4, SIZE as u64, SIZE as u64 - 7, u64::MAX] {
            let refused = here.store_word(offset, 1);
            assert!(matches!(refused, Err(BoError::Bounds { .. })), "{offset:#x}");
        }
    }

    #[test]
    fn a_copy_that_leaves_the_buffer_is_refused_whole() {
        let file = file();
        let mapping = mapped(&file);
        let size = SIZE as u64;
        let mut byte = [1];
        for (offset, len) in
            [(size, 1), (size - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 2), (0, SIZE + 1)]
        {
            let bytes = vec![9; len];
            let refused = mapping.write_parallel(offset, &bytes, NonZeroUsize::MIN);
            assert!(matches!(refused, Err(BoError::Bounds { .. })), "{offset:#x} {len}");
        }
        mapping.read(size - 1, &mut byte).unwrap();
        assert_eq!(byte, [0]);
        mapping.read(size, &mut []).unwrap();
    }

    #[test]
    fn every_byte_is_in_one_share() {
        for len in [0, 1, 4096, THREAD_BYTES_MIN + 1, 3 * THREAD_BYTES_MIN, 10_000_000] {
            for threads in 1..9 {
                let share = share_bytes(len, NonZeroUsize::new(threads).unwrap());
                assert!(share.is_multiple_of(4096), "{len} {threads} {share}");
                assert!(share * threads >= len, "{len} {threads} {share}");
            }
        }
    }

    #[test]
    fn a_mapping_that_is_refused_names_the_device() {
        let read_only = File::open("/dev/zero").unwrap();
        let error = BoMapping::map(read_only.as_fd(), Path::new("/dev/x"), 0, 4096).unwrap_err();
        assert!(error.to_string().contains("/dev/x"), "{error}");
    }
}
