//! Writes the contents of a pages image into another process, without this process reading them.
//!
//! The image is mapped here and handed to `process_vm_writev`, so a file that shrinks meanwhile is
//! `EFAULT`, not a crash. What was copied is dropped from our page tables again, which bounds the
//! restorer's memory whatever the tree's size.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use criu_image::{BLOCK_BYTES, ImageDir, RawImage};
use memmap2::{Mmap, UncheckedAdvice};
use nix::errno::Errno;

use crate::engine::StepError;
use crate::meter::Meter;
use crate::plan::Fill;
use crate::remote::ring::{CallError, has_exited};

/// Bytes copied before our own view of them is dropped: with the most workers there are, and page
/// cache mapped in pieces of up to 2 MiB, this bounds the restorer's memory to some 48 MiB.
const WINDOW_BYTES: u64 = 1 << 20;
const _: () = assert!(WINDOW_BYTES == BLOCK_BYTES as u64, "a window is a block of the manifest");
/// Most ranges in one call (`UIO_MAXIOV`).
const RANGES_MAX: usize = 1024;

/// What becomes of blocks of the image that a fill does not want, where there is a manifest.
#[derive(Clone, Copy, Debug)]
pub(super) enum Others<'a> {
    /// They are left to a later fill of the same process.
    Later,
    /// They are compared as well, as long as the process of this pidfd lives.
    Compared(&'a OwnedFd),
}

/// A pages image: mapped but never read through the mapping by this process, or, where the dump
/// left a manifest, read block by block and verified.
pub(super) struct PagesFile {
    map: Mmap,
    raw: RawImage,
    path: PathBuf,
    /// Blocks that have been verified, where there is a manifest.
    verified: Vec<bool>,
}

impl PagesFile {
    pub(super) fn open(images: &ImageDir, name: &str) -> Result<Self, StepError> {
        let path = images.path().join(name);
        let open = || {
            let raw = images.raw(name)?;
            // SAFETY: the mapping's bytes are never accessed by this program: only its addresses
            // are given to process_vm_writev and pwrite, which fail with EFAULT if the file
            // shrinks.
            let map = unsafe { Mmap::map(raw.file())? };
            Ok((map, raw))
        };
        let opened = open().map_err(|source| StepError::PagesFile { path: path.clone(), source });
        let (map, raw) = opened?;
        let verified = vec![false; raw.blocks().unwrap_or(0)];
        Ok(Self { map, raw, path, verified })
    }

    /// Address of a range of the file, if it lies within it.
    fn local(&self, pid: i32, fill: &Fill) -> Result<*const u8, StepError> {
        let end = fill.offset_bytes.checked_add(fill.len_bytes);
        if end.is_none_or(|end| end > self.map.len() as u64) {
            return Err(StepError::Fill { pid, address: fill.start, errno: Errno::EFAULT });
        }
        Ok(self.map.as_ptr().wrapping_add(fill.offset_bytes as usize))
    }

    /// Writes these ranges. When the restore is given up, it is the death of the process that ends
    /// this: the kernel then finds no memory to write to.
    pub(super) fn fill(
        &mut self,
        pid: i32,
        fills: &[Fill],
        others: Others<'_>,
        meter: &mut Meter<'_>,
    ) -> Result<(), StepError> {
        if self.raw.blocks().is_some() {
            return self.fill_verified(pid, fills, others, meter);
        }
        let mut batch = Batch::default();
        for fill in fills {
            for piece in pieces(fill) {
                if !batch.takes(&piece) {
                    batch.copy(pid)?;
                    meter.add(batch.len_bytes);
                    self.forget(&mut batch);
                }
                batch.add(self.local(pid, &piece)?, &piece);
            }
        }
        batch.copy(pid)?;
        meter.add(batch.len_bytes);
        self.forget(&mut batch);
        Ok(())
    }

    /// The same from blocks that are read and compared with the manifest first. What is written
    /// is what was compared.
    fn fill_verified(
        &mut self,
        pid: i32,
        fills: &[Fill],
        others: Others<'_>,
        meter: &mut Meter<'_>,
    ) -> Result<(), StepError> {
        // What several children keep is listed for one after the other, not in file order.
        let mut pieces: Vec<Fill> = fills.iter().flat_map(pieces).collect();
        pieces.sort_unstable_by_key(|piece| piece.offset_bytes);
        let mut pieces = pieces.into_iter().peekable();
        let fail = |path: &PathBuf| {
            let path = path.clone();
            move |source| StepError::PagesFile { path, source }
        };
        for index in 0..self.verified.len() {
            let end = (index as u64 + 1) * WINDOW_BYTES;
            let wanted = pieces.peek().is_some_and(|piece| piece.offset_bytes < end);
            match (wanted, others) {
                (false, Others::Later) => continue,
                (false, Others::Compared(_)) if self.verified[index] => continue,
                // Nothing is written that would fail.
                (false, Others::Compared(process)) if has_exited(process.as_fd()) => {
                    return Err(CallError::Died { what: "fill memory", tid: pid }.into());
                }
                _ => {}
            }
            let block = self.raw.block(index).map_err(fail(&self.path))?;
            self.verified[index] = true;
            let mut batch = Batch::default();
            while let Some(piece) = pieces.next_if(|piece| piece.offset_bytes < end) {
                let at = (piece.offset_bytes % WINDOW_BYTES) as usize;
                let Some(bytes) = block.get(at..at + piece.len_bytes as usize) else {
                    return Err(StepError::Fill {
                        pid,
                        address: piece.start,
                        errno: Errno::EFAULT,
                    });
                };
                if !batch.takes(&piece) {
                    batch.copy(pid)?;
                    meter.add(batch.len_bytes);
                    batch = Batch::default();
                }
                batch.add(bytes.as_ptr(), &piece);
            }
            batch.copy(pid)?;
            meter.add(batch.len_bytes);
        }
        match pieces.next() {
            Some(piece) => Err(StepError::Fill { pid, address: piece.start, errno: Errno::EFAULT }),
            None => Ok(()),
        }
    }

    /// Drops what was copied from our page tables.
    fn forget(&self, batch: &mut Batch) {
        let (from, to) = batch.window;
        // SAFETY: dropping clean pages of a read-only file mapping changes nothing but residency.
        // It is advice: a refusal costs memory only.
        let _ = unsafe {
            let (from, len) = (from as usize, to.saturating_sub(from) as usize);
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, from, len)
        };
        *batch = Batch::default();
    }

    /// Verifies the blocks that these ranges lie in, where there is a manifest.
    fn verify(&mut self, fills: &[Fill]) -> Result<(), StepError> {
        for piece in fills.iter().flat_map(pieces) {
            let index = (piece.offset_bytes / WINDOW_BYTES) as usize;
            if self.verified.get(index) == Some(&false) {
                let read = self.raw.block(index).map(drop);
                let path = || self.path.clone();
                read.map_err(|source| StepError::PagesFile { path: path(), source })?;
                self.verified[index] = true;
            }
        }
        Ok(())
    }

    /// Writes pages of mappings without write permission.
    pub(super) fn patch(
        &mut self,
        pid: i32,
        patches: &[Fill],
        meter: &mut Meter<'_>,
    ) -> Result<(), StepError> {
        let Some(first) = patches.first() else {
            return Ok(());
        };
        self.verify(patches)?;
        let path = format!("/proc/{pid}/mem");
        let memory = File::options().write(true).open(path).map_err(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
            not_filled(pid, first.start, errno)
        })?;
        let mut batch = Batch::default(); // for its window only
        for patch in patches {
            let local = self.local(pid, patch)?;
            if !batch.takes(patch) {
                self.forget(&mut batch);
            }
            batch.add(local, patch);
            let mut done = 0;
            while done < patch.len_bytes {
                let (from, len) = (local.wrapping_add(done as usize), patch.len_bytes - done);
                let address = patch.start + done;
                // SAFETY: the range lies within the mapping (`local` checks it) and is only read;
                // the offset is an address in the other process, which the kernel checks.
                let ret = unsafe {
                    let fd = memory.as_raw_fd();
                    libc::pwrite(fd, from.cast(), len as usize, address as i64)
                };
                match ret {
                    1.. => done += ret as u64,
                    0 => {
                        return Err(StepError::Fill { pid, address, errno: Errno::EFAULT });
                    }
                    _ => {
                        return Err(not_filled(pid, address, Errno::last()));
                    }
                }
            }
            meter.add(patch.len_bytes);
        }
        Ok(())
    }
}

/// Cuts a range where blocks of the file end.
fn pieces(fill: &Fill) -> impl Iterator<Item = Fill> + use<> {
    let fill = *fill;
    let mut done = 0;
    std::iter::from_fn(move || {
        let offset_bytes = fill.offset_bytes + done;
        let room = WINDOW_BYTES - offset_bytes % WINDOW_BYTES;
        let len_bytes = (fill.len_bytes - done).min(room);
        let piece = Fill { start: fill.start + done, len_bytes, offset_bytes };
        done += len_bytes;
        (len_bytes != 0).then_some(piece)
    })
}

/// Ranges for one call.
pub(super) struct Batch {
    local: Vec<libc::iovec>,
    remote: Vec<libc::iovec>,
    len_bytes: u64,
    /// Part of the file that is touched.
    window: (u64, u64),
}

impl Default for Batch {
    fn default() -> Self {
        Self { local: Vec::new(), remote: Vec::new(), len_bytes: 0, window: (u64::MAX, 0) }
    }
}

impl Batch {
    pub(super) fn takes(&self, fill: &Fill) -> bool {
        self.remote.is_empty()
            || (self.remote.len() < RANGES_MAX
                && self.local.len() < RANGES_MAX
                && self.len_bytes + fill.len_bytes <= WINDOW_BYTES)
    }

    pub(super) fn add(&mut self, local: *const u8, fill: &Fill) {
        let len = fill.len_bytes as usize;
        push(&mut self.local, local as usize, len);
        push(&mut self.remote, fill.start as usize, len);
        self.len_bytes += fill.len_bytes;
        let (from, to) = self.window;
        let end = fill.offset_bytes + fill.len_bytes;
        self.window = (from.min(fill.offset_bytes), to.max(end));
    }

    pub(super) fn copy(&self, pid: i32) -> Result<(), StepError> {
        let Some(first) = self.remote.first() else {
            return Ok(());
        };
        let (local, remote) = (&self.local, &self.remote);
        // SAFETY: the local ranges lie within the mapped file (`PagesFile::local` checks each) or
        // in a static page, and are only read; the remote ones are checked by the kernel.
        let ret = unsafe {
            let (locals, remotes) = (local.len() as u64, remote.len() as u64);
            libc::process_vm_writev(pid, local.as_ptr(), locals, remote.as_ptr(), remotes, 0)
        };
        if ret as u64 == self.len_bytes {
            return Ok(());
        }
        let errno = if ret < 0 { Errno::last() } else { Errno::EFAULT };
        Err(not_filled(pid, first.iov_base as u64, errno))
    }
}

/// Adds a range, joined to the last one if it follows it.
fn push(ranges: &mut Vec<libc::iovec>, at: usize, len: usize) {
    if let Some(last) = ranges.last_mut()
        && last.iov_base as usize + last.iov_len == at
    {
        last.iov_len += len;
        return;
    }
    ranges.push(libc::iovec { iov_base: at as *mut _, iov_len: len });
}

/// Why memory was not written. A process that has died has none, wherever that is noticed.
fn not_filled(pid: i32, address: u64, errno: Errno) -> StepError {
    match errno {
        Errno::ESRCH => CallError::Died { what: "write memory", tid: pid }.into(),
        errno => StepError::Fill { pid, address, errno },
    }
}
