//! Who makes a device call: the seam between what a call says and the process that makes it.
//!
//! [`Local`] makes calls in this process. A restorer implements [`DeviceFile`] for a file that is
//! open in a process that it builds, since the drivers tie their state to the caller's address
//! space. This file makes no decisions: the verbs are those of the device files.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use bytemuck::Pod;
use nix::errno::Errno;

use crate::block::Block;
use crate::emulated;
use crate::error::{CallFailure, DeviceError};
use crate::uapi;

/// How often a call is made again because the driver was busy (`EAGAIN`). Both drivers mean it so,
/// and the libraries for them repeat for ever; a driver that never gets done must not hang us.
const AGAIN_MAX: usize = 100;

/// The number of an open file in the process that makes the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileNumber(pub i32);

/// The number of a descriptor that a call has just made in the process that made the call.
///
/// Nobody owns it yet.
#[derive(Debug)]
pub struct NewDescriptor(i32);

impl NewDescriptor {
    /// The number that a call has answered.
    ///
    /// # Safety
    ///
    /// - A call that was made just now has made this descriptor, and nobody else takes it.
    #[must_use]
    pub unsafe fn of_answer(number: i32) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub fn number(&self) -> FileNumber {
        FileNumber(self.0)
    }
}

/// An open device file, and who makes the calls on it.
pub trait DeviceFile {
    /// The device's path, for messages.
    fn path(&self) -> &Path;

    /// The file's number where the calls are made: what an argument names it by.
    fn number(&self) -> FileNumber;

    /// Makes `ioctl(file, request, block)` once. The block holds afterwards what the driver left in
    /// it, on failure too.
    ///
    /// # Errors
    ///
    /// The driver's refusal, or why the call could not be made.
    ///
    /// # Safety
    ///
    /// - Every address that the driver follows in this call was set by [`Block::array`], and the
    ///   counts beside it are not more than the array has.
    ///
    /// # Panics
    ///
    /// If the request says another size than the block's argument has.
    unsafe fn ioctl(&mut self, request: u32, block: &mut Block) -> Result<i32, CallFailure>;

    /// Makes a descriptor that a call has returned ours; the process that made the call no longer
    /// has it.
    ///
    /// # Errors
    ///
    /// The descriptor does not exist, or could not be moved; it is closed where it is.
    fn take(&mut self, descriptor: NewDescriptor) -> Result<OwnedFd, CallFailure>;

    /// Gives a descriptor of ours a number where the calls are made, for use in an argument.
    ///
    /// # Errors
    ///
    /// It could not be copied there.
    fn lend(&mut self, descriptor: BorrowedFd<'_>) -> Result<FileNumber, CallFailure>;

    /// Ends what [`DeviceFile::lend`] began.
    ///
    /// # Errors
    ///
    /// It could not be closed there.
    fn give_back(&mut self, lent: FileNumber) -> Result<(), CallFailure>;
}

/// A device file of this process.
#[derive(Debug)]
pub struct Local {
    file: OwnedFd,
    path: PathBuf,
}

impl Local {
    /// Opens a device for reading and writing, close-on-exec.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Refused`] with the operation `open`.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, DeviceError> {
        let path = path.into();
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Ok(Self { file: file.into(), path }),
            Err(error) => {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
                Err(DeviceError::Refused { operation: "open", path, errno })
            }
        }
    }

    /// A device that is open already; the path is for messages.
    #[must_use]
    pub fn from_descriptor(file: OwnedFd, path: impl Into<PathBuf>) -> Self {
        Self { file, path: path.into() }
    }
}

impl AsFd for Local {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl DeviceFile for Local {
    fn path(&self) -> &Path {
        &self.path
    }

    fn number(&self) -> FileNumber {
        FileNumber(self.file.as_raw_fd())
    }

    // SAFETY: nothing is asked beyond what the trait asks of the caller.
    unsafe fn ioctl(&mut self, request: u32, block: &mut Block) -> Result<i32, CallFailure> {
        // The driver reads and writes as many bytes of the argument as the request says.
        assert_eq!(uapi::argument_bytes(request), block.argument_bytes());
        let base = block.as_mut_ptr().expose_provenance();
        block.relocate(base as u64);
        let (file, address) = (self.file.as_raw_fd(), block.as_mut_ptr());
        // SAFETY: the argument is as long as the request says (asserted); each address in it lies
        // in the block (set by `relocate` above, and the caller's promise); the block is borrowed
        // mutably.
        let ret = unsafe { ioctl_sys::ioctl(file, request.into(), address) };
        Errno::result(ret).map_err(CallFailure::Refused)
    }

    fn take(&mut self, NewDescriptor(number): NewDescriptor) -> Result<OwnedFd, CallFailure> {
        if number < 0 {
            return Err(CallFailure::Refused(Errno::EBADF));
        }
        // SAFETY: not negative; the driver has put it into this process in the call just made:
        // whoever made the `NewDescriptor` has promised it, and it is used up here.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    }

    fn lend(&mut self, descriptor: BorrowedFd<'_>) -> Result<FileNumber, CallFailure> {
        Ok(FileNumber(descriptor.as_raw_fd()))
    }

    fn give_back(&mut self, _: FileNumber) -> Result<(), CallFailure> {
        Ok(())
    }
}

/// Makes a call of a verb of this crate.
///
/// A call that a signal interrupted goes on with the argument that it left, which says how far it
/// came. One for which the driver was busy begins anew, up to [`AGAIN_MAX`] times: amdgpu's lists
/// leave counts behind that would make the next attempt wrong.
pub(crate) fn attempt<F: DeviceFile>(
    file: &mut F,
    request: u32,
    block: &mut Block,
) -> Result<i32, CallFailure> {
    let request = uapi::with_argument_bytes(request, block.argument_bytes());
    let first = block.save_argument();
    let mut again = 0;
    loop {
        // SAFETY: only verbs of this crate come here. Each sets the addresses that its call
        // follows by `Block::array`, and takes the count beside one from the same slice.
        match unsafe { file.ioctl(request, block) } {
            Err(CallFailure::Refused(Errno::EINTR)) => {}
            Err(CallFailure::Refused(Errno::EAGAIN)) if again < AGAIN_MAX => {
                block.restore_argument(&first);
                again += 1;
            }
            result => return result,
        }
    }
}

/// Makes a call whose failure is named.
pub(crate) fn call<F: DeviceFile>(
    file: &mut F,
    operation: &'static str,
    request: u32,
    block: &mut Block,
) -> Result<i32, DeviceError> {
    let result = attempt(file, request, block);
    result.map_err(|failure| DeviceError::of(operation, file.path(), failure))
}

/// Makes a call whose argument points to nothing, and gives the argument after it.
pub(crate) fn plain<F: DeviceFile, A: Pod>(
    file: &mut F,
    operation: &'static str,
    request: u32,
    argument: &A,
) -> Result<A, DeviceError> {
    let mut block = Block::new(argument);
    call(file, operation, request, &mut block)?;
    Ok(block.argument())
}

/// Makes the descriptor ours that a call answered.
pub(crate) fn take<F: DeviceFile>(
    file: &mut F,
    operation: &'static str,
    number: i32,
) -> Result<OwnedFd, DeviceError> {
    let taken = match emulated::is_token(number) {
        true => emulated::open_token(file, number),
        false => file.take(NewDescriptor(number)),
    };
    taken.map_err(|failure| DeviceError::of(operation, file.path(), failure))
}

/// Makes a call whose argument names a descriptor of ours.
pub(crate) fn with_lent<F: DeviceFile, T>(
    file: &mut F,
    operation: &'static str,
    descriptor: BorrowedFd<'_>,
    calls: impl FnOnce(&mut F, FileNumber) -> Result<T, DeviceError>,
) -> Result<T, DeviceError> {
    let named = |file: &F, failure| DeviceError::of(operation, file.path(), failure);
    let lent = file.lend(descriptor).map_err(|failure| named(file, failure))?;
    let result = calls(file, lent);
    file.give_back(lent).map_err(|failure| named(file, failure))?;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct pm_scan_arg` and `struct page_region` (linux/fs.h, Linux 6.7) are words only.
    type PagemapScan = [u64; 12];
    type PageRegion = [u64; 3];
    const VEC_AT: usize = 5 * 8;
    const PAGE_IS_PRESENT: u64 = 1 << 3;

    /// A call with a pointer that needs no GPU: which pages of this process are there.
    #[test]
    fn a_local_call_fills_an_array_that_its_argument_points_to() {
        let pages = vec![1_u8; 3 * 4096];
        let start = pages.as_ptr().addr().next_multiple_of(4096) as u64;
        let (end, size) = (start + 4096, size_of::<PagemapScan>() as u64);
        let (mask, room) = (PAGE_IS_PRESENT, 2);
        let scan = [size, 0, start, end, 0, 0, room, 0, 0, mask, 0, mask];
        let mut block = Block::new(&scan);
        let regions = block.array(VEC_AT, &[PageRegion::default(); 2]);
        let pagemap = OpenOptions::new().read(true).open("/proc/self/pagemap").unwrap();
        let mut file = Local::from_descriptor(pagemap.into(), "/proc/self/pagemap");
        let request = ioctl_sys::iorw!(b'f', 16, size_of::<PagemapScan>());
        // SAFETY: the only address is set by `array`, with as many elements as `room` says.
        let found = match unsafe { file.ioctl(request, &mut block) } {
            Err(CallFailure::Refused(Errno::ENOTTY)) => {
                return println!("SKIPPED: this kernel cannot scan page maps");
            }
            result => result.unwrap(),
        };
        assert_eq!(found, 1);
        assert_eq!(block.elements(&regions), [[start, end, PAGE_IS_PRESENT], [0; 3]]);
    }

    #[test]
    fn a_number_that_is_no_descriptor_is_refused() {
        let mut file = Local::open("/dev/null").unwrap();
        let refused = file.take(NewDescriptor(-1));
        assert!(matches!(refused, Err(CallFailure::Refused(Errno::EBADF))), "{refused:?}");
    }

    #[test]
    fn a_device_that_is_not_there_is_refused_with_advice() {
        let error = Local::open("/dev/does-not-exist").unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENOENT));
        assert!(error.to_string().contains("amdgpu"), "{error}");
    }
}
