//! A device file that is open in a target: its calls are made by the target.
//!
//! The GPU drivers tie their state to the address space that calls them, so a restored process must
//! call them itself. The verbs of `gpu-kfd` are the same as for a file of ours; here is only who
//! makes the calls. It knows no device and no call.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use gpu_kfd::uapi::argument_bytes;
use gpu_kfd::{Block, CallFailure, DeviceFile, FileNumber, NewDescriptor};
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

use super::ring::Remote;
use super::spawn::fetch_descriptor;

const WHAT: &str = "device call";

/// An open device file of a target.
#[derive(Debug)]
pub(crate) struct TargetFile<'target> {
    remote: &'target mut Remote,
    number: i32,
    path: PathBuf,
    /// Number of a pidfd of this process, in the target.
    restorer: i32,
}

impl<'target> TargetFile<'target> {
    /// The file that is open in a target under a number; the path is for messages.
    pub(crate) fn new(
        remote: &'target mut Remote,
        number: i32,
        path: &Path,
        restorer: i32,
    ) -> Self {
        Self { remote, number, path: path.to_owned(), restorer }
    }

    /// A block that fits beside the calls is put there.
    fn ioctl_in_slot(&mut self, request: u32, block: &mut Block) -> Result<i64, CallFailure> {
        let len = block.len_bytes();
        let put = self.remote.put_with(WHAT, len, |address| block.relocate(address));
        let address = put.map_err(not_made)?;
        let result = self.call(libc::SYS_ioctl, [self.number as u64, request.into(), address]);
        block.replace(&self.remote.read_back(address, len));
        result
    }

    /// A larger one gets memory of its own, for as long as the call takes.
    fn ioctl_in_mapping(&mut self, request: u32, block: &mut Block) -> Result<i64, CallFailure> {
        let len = block.len_bytes() as u64;
        let access = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let kind = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
        let address = self.call(libc::SYS_mmap, [0, len, access, kind, u64::MAX, 0])? as u64;
        let result = self.ioctl_at(request, block, address);
        self.call(libc::SYS_munmap, [address, len])?;
        result
    }

    fn ioctl_at(
        &mut self,
        request: u32,
        block: &mut Block,
        address: u64,
    ) -> Result<i64, CallFailure> {
        let pid = Pid::from_raw(self.remote.tid());
        write_memory(pid, address, block.relocate(address)).map_err(not_made)?;
        let result = self.call(libc::SYS_ioctl, [self.number as u64, request.into(), address]);
        let mut bytes = vec![0; block.len_bytes()];
        read_memory(pid, address, &mut bytes).map_err(not_made)?;
        block.replace(&bytes);
        result
    }

    fn call<const N: usize>(&mut self, nr: i64, args: [u64; N]) -> Result<i64, CallFailure> {
        let result = self.remote.try_call(WHAT, nr, args.map(Into::into)).map_err(not_made)?;
        result.map_err(CallFailure::Refused)
    }
}

impl DeviceFile for TargetFile<'_> {
    fn path(&self) -> &Path {
        &self.path
    }

    fn number(&self) -> FileNumber {
        FileNumber(self.number)
    }

    // SAFETY: nothing is asked beyond what the trait asks; the driver works in the target's memory,
    // where the block lies alone.
    unsafe fn ioctl(&mut self, request: u32, block: &mut Block) -> Result<i32, CallFailure> {
        assert_eq!(argument_bytes(request), block.argument_bytes());
        let result = match block.len_bytes() <= self.remote.slot().scratch_bytes() {
            true => self.ioctl_in_slot(request, block),
            false => self.ioctl_in_mapping(request, block),
        };
        result.map(|value| value as i32)
    }

    fn take(&mut self, descriptor: NewDescriptor) -> Result<OwnedFd, CallFailure> {
        let FileNumber(number) = descriptor.number();
        let fetched = fetch_descriptor(self.remote.process().as_fd(), number);
        self.give_back(FileNumber(number))?;
        fetched.map_err(CallFailure::Refused)
    }

    fn lend(&mut self, descriptor: BorrowedFd<'_>) -> Result<FileNumber, CallFailure> {
        let args = [self.restorer as u64, descriptor.as_raw_fd() as u64, 0];
        Ok(FileNumber(self.call(libc::SYS_pidfd_getfd, args)? as i32))
    }

    fn give_back(&mut self, lent: FileNumber) -> Result<(), CallFailure> {
        self.call(libc::SYS_close, [lent.0 as u64]).map(drop)
    }
}

/// A target's memory could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach {len_bytes} bytes at {address:#x} of task {tid}: {errno}")]
struct MemoryError {
    tid: i32,
    address: u64,
    len_bytes: usize,
    errno: Errno,
}

fn not_made(error: impl std::error::Error + Send + Sync + 'static) -> CallFailure {
    CallFailure::NotMade(Box::new(error))
}

fn write_memory(pid: Pid, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
    in_pieces(pid, address, bytes.len(), |at, there| {
        process_vm_writev(pid, &[IoSlice::new(&bytes[at..])], &[there])
    })
}

fn read_memory(pid: Pid, address: u64, into: &mut [u8]) -> Result<(), MemoryError> {
    in_pieces(pid, address, into.len(), |at, there| {
        process_vm_readv(pid, &mut [IoSliceMut::new(&mut into[at..])], &[there])
    })
}

/// Repeats a transfer, which may end early, until all of it is done.
fn in_pieces(
    pid: Pid,
    address: u64,
    len_bytes: usize,
    mut transfer: impl FnMut(usize, RemoteIoVec) -> nix::Result<usize>,
) -> Result<(), MemoryError> {
    let mut done = 0;
    while done < len_bytes {
        let there = RemoteIoVec { base: address as usize + done, len: len_bytes - done };
        match transfer(done, there) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(errno) => return Err(MemoryError { tid: pid.as_raw(), address, len_bytes, errno }),
        }
    }
    if done == len_bytes {
        return Ok(());
    }
    Err(MemoryError { tid: pid.as_raw(), address, len_bytes, errno: Errno::EFAULT })
}
