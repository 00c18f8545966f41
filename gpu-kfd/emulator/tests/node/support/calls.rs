//! Calls that the stub of a driver understands, as safe functions.

use std::ffi::c_void;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Request numbers and argument blocks.
pub(crate) mod raw {
    nix::ioctl_readwrite!(echo, b'T', 1, [u64; 3]);
    nix::ioctl_readwrite!(fail, b'T', 2, [u64; 3]);
    nix::ioctl_readwrite!(wait, b'T', 3, [u64; 2]);
    nix::ioctl_none!(wake, b'T', 4);
    nix::ioctl_read!(who, b'T', 5, [u64; 3]);
    nix::ioctl_readwrite!(memory, b'T', 6, [u64; 3]);
    nix::ioctl_readwrite!(pages, b'T', 7, [u64; 4]);
    nix::ioctl_write_ptr!(only_in, b'T', 8, [u64; 2]);
    nix::ioctl_readwrite!(export, b'T', 9, [u64; 1]);
    nix::ioctl_none!(panic, b'T', 10);
    nix::ioctl_readwrite!(large, b'T', 11, [u8; 16_000]);
    nix::ioctl_readwrite!(of_pid, b'T', 12, [u64; 3]);
    nix::ioctl_none!(ring, b'T', 13);
    nix::ioctl_readwrite!(prime_handle_to_fd, b'd', 0x2d, [u32; 3]);
    // Two that the node knows to name descriptors: ACQUIRE_VM and CRIU_OP.
    nix::ioctl_readwrite!(resolve, b'K', 0x15, [u64; 2]);
    nix::ioctl_readwrite!(checkpoint, b'K', 0x22, [u64; 2]);
    nix::ioctl_readwrite!(criu_op, b'K', 0x22, [u64; 7]);
    // Those of an emulated file.
    nix::ioctl_read!(whoami, 0xe7, 1, [u64; 4]);
    nix::ioctl_readwrite!(open_path, 0xe7, 2, [u8; 256]);
}

macro_rules! calls {
    ($($(#[$meta:meta])* $name:ident: $block:ty;)*) => {$(
        $(#[$meta])*
        pub(crate) fn $name(file: &impl AsRawFd, block: &mut $block) -> Result<i32, Errno> {
            // SAFETY: the request number was made from the type of the block, which outlives the
            // call.
            unsafe { raw::$name(file.as_raw_fd(), &raw mut *block) }
        }
    )*};
}

calls! {
    /// Adds 1 to each number, returns 7.
    echo: [u64; 3];
    /// Adds 1 to each number, fails with ENOSPC.
    fail: [u64; 3];
    /// Waits for `wake`, at most so many milliseconds; counts in the second number.
    wait: [u64; 2];
    /// Address space, pid, capability of the caller.
    who: [u64; 3];
    /// [address, bytes, 0 reads and adds them up, 1 writes sevens].
    memory: [u64; 3];
    /// [GPU + 1 or 0 for the KFD, offset, value to write or 0, value read before].
    pages: [u64; 4];
    /// Exports buffer [0], gives the token.
    export: [u64; 1];
    /// Adds 1 to each byte.
    large: [u8; 16_000];
    /// [pid as the caller sees it, its space, own pid of that]; ESRCH.
    of_pid: [u64; 3];
    /// [descriptor, its file].
    resolve: [u64; 2];
    /// [descriptor or -1, whether the caller may checkpoint].
    checkpoint: [u64; 2];
    /// kind and minor, file, object, node.
    whoami: [u64; 4];
    /// See `OpenPath`.
    open_path: [u8; 256];
}

/// Ends all waits.
pub(crate) fn wake(file: &impl AsRawFd) -> Result<i32, Errno> {
    // SAFETY: the call has no argument.
    unsafe { raw::wake(file.as_raw_fd()) }
}

/// Makes the driver panic.
pub(crate) fn panic(file: &impl AsRawFd) -> Result<i32, Errno> {
    // SAFETY: the call has no argument.
    unsafe { raw::panic(file.as_raw_fd()) }
}

/// Makes a queue whose work takes one run of the engines.
pub(crate) fn ring(file: &impl AsRawFd) -> Result<i32, Errno> {
    // SAFETY: the call has no argument.
    unsafe { raw::ring(file.as_raw_fd()) }
}

/// A block that goes in but not back.
pub(crate) fn only_in(file: &impl AsRawFd, block: &[u64; 2]) -> Result<i32, Errno> {
    // SAFETY: the request number was made from the type of the block, which outlives the call.
    unsafe { raw::only_in(file.as_raw_fd(), &raw const *block) }
}

/// The path by which a token is opened.
pub(crate) fn path_of(file: &impl AsRawFd, token: u32) -> Result<String, Errno> {
    let mut block = [0; 256];
    block[..4].copy_from_slice(&token.to_ne_bytes());
    open_path(file, &mut block)?;
    let length = u32::from_ne_bytes(block[4..8].try_into().expect("4 bytes")) as usize;
    let path = &block[8..8 + length];
    assert!(block[8 + length..].iter().all(|byte| *byte == 0), "zeros follow");
    Ok(String::from_utf8(path.to_vec()).expect("paths of ours are ASCII"))
}

/// Sets what a signal does.
pub(crate) fn handle(signal: nix::sys::signal::Signal, action: &nix::sys::signal::SigAction) {
    // SAFETY: the handlers of these tests do nothing.
    unsafe { nix::sys::signal::sigaction(signal, action) }.expect("a good signal");
}

/// Sends a signal to one thread.
pub(crate) fn signal_thread(pid: i32, tid: nix::unistd::Pid, signal: nix::sys::signal::Signal) {
    let signal = signal as i32;
    // SAFETY: tgkill takes three numbers and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid.as_raw(), signal) };
    assert_eq!(result, 0, "the thread lives");
}

/// Maps this much, then unmaps the second half; gives the address.
pub(crate) fn map_then_cut(
    bytes: std::num::NonZeroUsize,
    rights: nix::sys::mman::ProtFlags,
    flags: nix::sys::mman::MapFlags,
) -> u64 {
    let half = bytes.get() / 2;
    // SAFETY: the kernel chooses a free place; nothing knows of it but the caller.
    let mapped = unsafe { nix::sys::mman::mmap_anonymous(None, bytes, rights, flags) };
    let mapped = mapped.expect("memory");
    // SAFETY: it was mapped just now, and nothing refers to it.
    unsafe { nix::sys::mman::munmap(mapped.byte_add(half), half) }.expect("it is mapped");
    mapped.as_ptr() as u64
}

/// A page of a device file.
pub(crate) struct Page(NonNull<c_void>);

impl Page {
    const BYTES: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

    pub(crate) fn shared(file: &File, offset: u64) -> Self {
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let (shared, offset) = (MapFlags::MAP_SHARED, offset as i64);
        // SAFETY: the kernel chooses a free place; it belongs to this value.
        Self(unsafe { mmap(None, Self::BYTES, rights, shared, file, offset) }.expect("it maps"))
    }

    pub(crate) fn read(&self) -> u64 {
        // SAFETY: the page is mapped while this value lives.
        unsafe { self.0.cast::<u64>().read_volatile() }
    }

    pub(crate) fn write(&self, value: u64) {
        // SAFETY: the page is mapped while this value lives.
        unsafe { self.0.cast::<u64>().write_volatile(value) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `shared`, and nothing refers to it any more.
        unsafe { munmap(self.0, Self::BYTES.get()) }.expect("it is mapped");
    }
}

/// Tries a mapping of one page.
pub(crate) fn map_and_unmap(
    file: &File,
    rights: ProtFlags,
    flags: MapFlags,
    offset: i64,
) -> Result<(), Errno> {
    // SAFETY: the kernel chooses a free place, which nothing refers to.
    unsafe { munmap(mmap(None, Page::BYTES, rights, flags, file, offset)?, Page::BYTES.get()) }
}

/// `DRM_IOCTL_PRIME_HANDLE_TO_FD` of a buffer, with a preload library that makes descriptors.
pub(crate) fn prime_export(file: &File, buffer: u32) -> Result<File, Errno> {
    let mut block = [buffer, libc::O_CLOEXEC as u32, 0];
    // SAFETY: the request number was made from the type of the block.
    unsafe { raw::prime_handle_to_fd(file.as_raw_fd(), &raw mut block) }?;
    assert!(block[2] < 1024, "{:#x} is no descriptor", block[2]);
    // SAFETY: the library opened it for us.
    Ok(unsafe { File::from_raw_fd(block[2] as i32) })
}

/// `CRIU_OP` with buffers that name these dma-bufs; what they name afterwards.
pub(crate) fn criu_checkpoint(file: &File, tokens: [u32; 3]) -> Result<[u32; 3], Errno> {
    let mut buckets = [[0u32; 12]; 3];
    for (bucket, token) in buckets.iter_mut().zip(tokens) {
        bucket[10] = token;
    }
    // Number of buffers in the upper half of the fifth word, operation 1 in the last.
    let mut block = [u64::MAX, buckets.as_mut_ptr() as u64, 0, 0, 3 << 32, 0, 1];
    // SAFETY: the request number was made from the type of the block, and the block points to as
    // many buckets as it says.
    unsafe { raw::criu_op(file.as_raw_fd(), &raw mut block) }?;
    Ok(buckets.map(|bucket| bucket[10]))
}
