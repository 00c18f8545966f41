//! Makes the files of an emulated node look to programs as a driver's do: `stat` shows character
//! devices, and calls that return descriptors return descriptors.
//!
//! A server in user space can do neither by itself: its device files are regular files, and where a
//! driver would put a descriptor into its caller the server returns a number that names one. This
//! library is loaded in front of the C library (`LD_PRELOAD`) and keeps no state: an inode number
//! says which device a file stands for, and the file itself says where a numbered dma-buf is
//! opened. So nothing of it needs saving when a process is checkpointed. Other files cost a
//! comparison.
//!
//! It is compiled on its own, without a crate and without `std`; x86-64 only.

#![no_std]

use core::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
    fn abort() -> !;
    fn __errno_location() -> *mut c_int;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: abort takes nothing and does not return.
    unsafe { abort() }
}

/// System calls of x86-64.
mod number {
    use core::ffi::c_long;

    pub(crate) const CLOSE: c_long = 3;
    pub(crate) const FSTAT: c_long = 5;
    pub(crate) const IOCTL: c_long = 16;
    pub(crate) const OPENAT: c_long = 257;
    pub(crate) const NEWFSTATAT: c_long = 262;
    pub(crate) const STATX: c_long = 332;
}

const AT_FDCWD: c_int = -100;
const AT_SYMLINK_NOFOLLOW: c_int = 0x100;
const O_RDWR: c_int = 2;
const O_CLOEXEC: c_int = 0o2_000_000;
const EMFILE: c_int = 24;
const TYPE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;
const PERMISSIONS: u32 = 0o7777;

/// Upper half of the inode number of a device file; the lower one is major (12 bits) and minor.
const INODE_DEVICE: u64 = 0x4b46_444e;
/// Upper half of the inode number of a dma-buf.
const INODE_DMA_BUF: u64 = 0x4b46_4442;
const MINOR_BITS: u32 = 20;

/// `struct stat` of x86-64.
#[repr(C)]
pub struct Stat {
    device: u64,
    inode: u64,
    links: u64,
    mode: u32,
    owner: [u32; 3],
    number: u64,
    size: i64,
    block_size: i64,
    blocks: i64,
    rest: [u64; 9],
}

/// `struct statx`.
#[repr(C)]
pub struct Statx {
    mask: u32,
    block_size: u32,
    attributes: u64,
    links: u32,
    owner: [u32; 2],
    mode: u16,
    spare: u16,
    inode: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    times: [u64; 8],
    number: [u32; 2],
    rest: [u32; 30],
}

const _: () = assert!(size_of::<Stat>() == 144 && core::mem::offset_of!(Stat, size) == 48);
const _: () = assert!(size_of::<Statx>() == 256 && core::mem::offset_of!(Statx, number) == 128);

/// What a file of the node is in truth.
enum Shown {
    Device { major: u32, minor: u32 },
    /// The inode of a dma-buf has no type (`dma_buf_getfile` of the kernel).
    DmaBuf,
}

/// What the file with this mode and inode number is shown as, if it is the node's.
fn shown(mode: u32, inode: u64) -> Option<Shown> {
    if mode & TYPE != REGULAR {
        return None;
    }
    match inode >> 32 {
        INODE_DEVICE => {
            let (low, mask) = (inode as u32, (1 << MINOR_BITS) - 1);
            Some(Shown::Device { major: low >> MINOR_BITS, minor: low & mask })
        }
        INODE_DMA_BUF => Some(Shown::DmaBuf),
        _ => None,
    }
}

/// Changes what a call wrote that returned `result`.
///
/// # Safety
/// If `result` is 0, `stat` points to what the kernel has just written.
unsafe fn change(result: c_long, stat: *mut Stat) -> c_int {
    if result == 0 {
        // SAFETY: the caller says so.
        let stat = unsafe { &mut *stat };
        match shown(stat.mode, stat.inode) {
            None => {}
            Some(Shown::Device { major, minor }) => {
                stat.mode = CHARACTER | stat.mode & PERMISSIONS;
                let (major, minor) = (u64::from(major), u64::from(minor));
                // As `makedev` of the C library.
                stat.number = (major & 0xfff) << 8 | minor & 0xff | (minor & !0xff) << 12;
                (stat.size, stat.blocks) = (0, 0);
            }
            Some(Shown::DmaBuf) => stat.mode &= 0o600,
        }
    }
    result as c_int
}

/// Defines pairs of functions of the C library: each and its twin for large files do the same.
macro_rules! stat_functions {
    ($($one:ident, $other:ident $arguments:tt => $body:expr;)*) => {$(
        stat_functions!(@ $one $arguments $body);
        stat_functions!(@ $other $arguments $body);
    )*};
    (@ $name:ident ($($argument:ident: $type:ty),*) $body:expr) => {
        /// As in the C library.
        ///
        /// # Safety
        /// As in the C library.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> c_int {
            // SAFETY: the arguments go to the kernel as the caller gave them; it checks them, and
            // writes to the buffer if it returns 0.
            unsafe { $body }
        }
    };
}

stat_functions! {
    stat, stat64 (path: *const c_char, into: *mut Stat) =>
        change(syscall(number::NEWFSTATAT, AT_FDCWD, path, into, 0 as c_int), into);
    lstat, lstat64 (path: *const c_char, into: *mut Stat) =>
        change(syscall(number::NEWFSTATAT, AT_FDCWD, path, into, AT_SYMLINK_NOFOLLOW), into);
    fstat, fstat64 (file: c_int, into: *mut Stat) =>
        change(syscall(number::FSTAT, file, into), into);
    fstatat, fstatat64 (folder: c_int, path: *const c_char, into: *mut Stat, flags: c_int) =>
        change(syscall(number::NEWFSTATAT, folder, path, into, flags), into);
    // What programs call that were linked with a C library before 2.33.
    __xstat, __xstat64 (_version: c_int, path: *const c_char, into: *mut Stat) =>
        change(syscall(number::NEWFSTATAT, AT_FDCWD, path, into, 0 as c_int), into);
    __lxstat, __lxstat64 (_version: c_int, path: *const c_char, into: *mut Stat) =>
        change(syscall(number::NEWFSTATAT, AT_FDCWD, path, into, AT_SYMLINK_NOFOLLOW), into);
    __fxstat, __fxstat64 (_version: c_int, file: c_int, into: *mut Stat) =>
        change(syscall(number::FSTAT, file, into), into);
    __fxstatat, __fxstatat64
        (_version: c_int, folder: c_int, path: *const c_char, into: *mut Stat, flags: c_int) =>
        change(syscall(number::NEWFSTATAT, folder, path, into, flags), into);
}

/// As in the C library.
///
/// # Safety
/// As in the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn statx(
    folder: c_int,
    path: *const c_char,
    flags: c_int,
    mask: c_uint,
    into: *mut Statx,
) -> c_int {
    // SAFETY: the arguments go to the kernel as the caller gave them; it checks them.
    let result = unsafe { syscall(number::STATX, folder, path, flags, mask, into) };
    if result == 0 {
        // SAFETY: the kernel has just written it.
        let stat = unsafe { &mut *into };
        match shown(stat.mode.into(), stat.inode) {
            None => {}
            Some(Shown::Device { major, minor }) => {
                stat.mode = (CHARACTER | u32::from(stat.mode) & PERMISSIONS) as u16;
                stat.number = [major, minor];
                (stat.size, stat.blocks) = (0, 0);
            }
            Some(Shown::DmaBuf) => stat.mode &= 0o600,
        }
    }
    result as c_int
}

/// First number that is no descriptor but names a dma-buf; larger ones mean "none".
const TOKEN_FIRST: u32 = 0x4000_0000;
const TOKEN_LAST: u32 = 0x7fff_ffff;
/// Type and number of `_IOWR(0xE7, 2, struct OpenPath)`, and the whole of it.
const OPEN_PATH: c_ulong = 0xc100_e702;
/// Type and number (the lower half of a request) of calls that return descriptors.
const PRIME_HANDLE_TO_FD: c_ulong = 0x642d;
const KFD_CRIU_OP: c_ulong = 0x4b22;
const KFD_EXPORT_DMABUF: c_ulong = 0x4b24;
/// Operations of the second that do.
const CRIU_CHECKPOINT: u32 = 1;
const CRIU_RESTORE: u32 = 3;

/// Where the path of a dma-buf is asked for.
#[repr(C)]
struct OpenPath {
    token: u32,
    length: u32,
    path: [u8; 248],
    /// Ends a path of the full length.
    end: u8,
}

/// `struct drm_prime_handle`.
#[repr(C)]
struct PrimeHandle {
    handle: u32,
    flags: u32,
    file: u32,
}

/// `struct kfd_ioctl_export_dmabuf_args`.
#[repr(C)]
struct ExportDmabuf {
    handle: u64,
    flags: u32,
    file: u32,
}

/// `struct kfd_ioctl_criu_args`.
#[repr(C)]
struct CriuOp {
    devices: u64,
    bos: u64,
    private: u64,
    private_bytes: u64,
    device_count: u32,
    bo_count: u32,
    object_count: u32,
    pid: u32,
    operation: u32,
}

/// `struct kfd_criu_bo_bucket`.
#[repr(C)]
struct CriuBo {
    place: [u64; 4],
    gpu: u32,
    flags: u32,
    file: u32,
    pad: u32,
}

const _: () = assert!(size_of::<CriuBo>() == 48 && core::mem::offset_of!(CriuBo, file) == 40);
const _: () = assert!(core::mem::offset_of!(CriuOp, operation) == 48);

fn set_errno(error: c_int) {
    // SAFETY: the C library gives each thread a place for it.
    unsafe { *__errno_location() = error }
}

/// Opens what a token stands for. -1 and `errno` on failure.
fn open_token(file: c_int, token: u32, flags: c_int) -> c_int {
    let mut ask = OpenPath { token, length: 0, path: [0; 248], end: 0 };
    // SAFETY: the request number says 256 bytes, which `ask` begins with.
    if unsafe { syscall(number::IOCTL, file, OPEN_PATH, &raw mut ask) } < 0 {
        return -1;
    }
    // SAFETY: a zero follows the path, at the latest behind the array.
    unsafe {
        syscall(number::OPENAT, AT_FDCWD, ask.path.as_ptr(), O_RDWR | flags & O_CLOEXEC) as c_int
    }
}

/// Puts a descriptor where a call left a token; false and `errno` on failure.
fn redeem(file: c_int, place: &mut u32, flags: c_int) -> bool {
    if !(TOKEN_FIRST..=TOKEN_LAST).contains(place) {
        return true;
    }
    let opened = open_token(file, *place, flags);
    if opened >= 0 {
        *place = opened as u32;
    }
    opened >= 0
}

/// The same for all buffers of a checkpoint or restore: all of them or none.
fn redeem_all(file: c_int, bos: &mut [CriuBo]) -> bool {
    for index in 0..bos.len() {
        let had_token = (TOKEN_FIRST..=TOKEN_LAST).contains(&bos[index].file);
        if redeem(file, &mut bos[index].file, O_CLOEXEC) {
            // Which entries are descriptors of ours is told by the mark, should a later one fail.
            bos[index].pad = u32::from(had_token);
            continue;
        }
        for bo in bos[..index].iter_mut().filter(|bo| bo.pad == 1) {
            // SAFETY: closes a descriptor that was opened above.
            unsafe { syscall(number::CLOSE, bo.file) };
            (bo.file, bo.pad) = (u32::MAX, 0);
        }
        // The kernel gives this reason when descriptors run out.
        set_errno(EMFILE);
        return false;
    }
    bos.iter_mut().for_each(|bo| bo.pad = 0);
    true
}

/// As in the C library, but that numbers of dma-bufs become descriptors.
///
/// # Safety
/// As in the C library.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ioctl(file: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    // SAFETY: the arguments go to the kernel as the caller gave them; it checks them.
    let result = unsafe { syscall(number::IOCTL, file, request, argument) } as c_int;
    if result != 0 {
        return result;
    }
    let done = match request & 0xffff {
        PRIME_HANDLE_TO_FD => {
            // SAFETY: the call succeeded, so its argument is what its number stands for.
            let handle = unsafe { &mut *argument.cast::<PrimeHandle>() };
            redeem(file, &mut handle.file, handle.flags as c_int)
        }
        KFD_EXPORT_DMABUF => {
            // SAFETY: the call succeeded, so its argument is what its number stands for.
            let export = unsafe { &mut *argument.cast::<ExportDmabuf>() };
            redeem(file, &mut export.file, export.flags as c_int)
        }
        KFD_CRIU_OP => {
            // SAFETY: the call succeeded, so its argument is what its number stands for.
            let op = unsafe { &*argument.cast::<CriuOp>() };
            if ![CRIU_CHECKPOINT, CRIU_RESTORE].contains(&op.operation) || op.bo_count == 0 {
                return result;
            }
            // SAFETY: these operations succeeded, so there are so many buckets.
            let bos = unsafe {
                core::slice::from_raw_parts_mut(op.bos as *mut CriuBo, op.bo_count as usize)
            };
            redeem_all(file, bos)
        }
        _ => true,
    };
    if done { result } else { -1 }
}
