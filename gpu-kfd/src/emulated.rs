//! The two places where an emulated device differs from a real one.
//!
//! An emulated node serves device files from user space (FUSE), where two things cannot be as a
//! kernel driver has them. (1) A device file is a regular file, so `stat` does not say what it is:
//! it answers [`ioc::WHOAMI`] instead. (2) A call cannot put a descriptor into its caller: where a
//! driver returns one, the answer is a token, which [`ioc::OPEN_PATH`] turns into the path of
//! a file to open. All else is the same code and the same calls as on hardware; a real device
//! refuses both requests with `ENOTTY`.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::block::Block;
use crate::error::{CallFailure, DeviceError};
use crate::ioctl::{DeviceFile, Local, attempt};

/// Major number of DRM devices (Linux, `include/drm/drm_file.h`).
const DRM_MAJOR: u64 = 226;

/// First minor number of a render node.
const RENDER_MINOR_FIRST: u64 = 128;

/// Lowest token; a process cannot have so many descriptors (`fs.nr_open` has at most 2^30).
pub const TOKEN_MIN: i32 = 0x4000_0000;

/// Longest path that a token stands for, in bytes.
pub const PATH_BYTES_MAX: usize = 248;

/// Longest text of fault rules, in bytes.
pub const RULES_BYTES_MAX: usize = 1008;

define_layouts! {
    /// Answer to `WHOAMI`.
    struct WhoAmI = "", 32 {
        /// See [`kind`].
        [0] kind: u32,
        /// Minor number of a render node, else 0.
        [4] minor: u32,
        /// Which open file this is.
        [8] file: u64,
        /// Which buffer a dma-buf is of.
        [16] object: u64,
        /// Which emulated node serves it.
        [24] node: u64,
    }

    /// Argument of `SET_FAULTS`.
    struct SetFaults = "", 1024 {
        /// Bytes of the rules.
        [0] length: u32,
        [4] _pad: u32,
        /// Answer: how many calls were changed by the rules before.
        [8] hits: u64,
        /// Rules as `thaw node run --fault` takes them, apart by spaces.
        [16] rules: [u8; RULES_BYTES_MAX],
    }

    /// Argument of `OPEN_PATH`.
    struct OpenPath = "", 256 {
        /// The token that a call answered.
        [0] token: u32,
        /// Answer: bytes of the path.
        [4] length: u32,
        /// Answer: the path, padded with NUL.
        [8] path: [u8; PATH_BYTES_MAX],
    }
}

define_numbers! {
    /// What an emulated file is.
    mod kind: u32 = "" {
        KFD = 1;
        RENDER = 2;
        DMA_BUF = 3;
    }
}

define_requests! { "", 0xe7_u8;
    /// What an open file is.
    WHOAMI = ior 1, WhoAmI;
    /// The path of what a token stands for.
    OPEN_PATH = iorw 2, OpenPath;
    /// Other rules for faults; counts begin anew. For root only.
    SET_FAULTS = iorw 3, SetFaults;
}

/// What an open file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// `/dev/kfd`.
    Kfd,
    /// A render node.
    Render {
        /// Minor number: the number in its name.
        minor: u32,
    },
    /// A shared buffer.
    DmaBuf,
}

impl DeviceKind {
    /// What an open file is; `None` if it is nothing of a GPU's.
    ///
    /// # Errors
    ///
    /// The file cannot be examined.
    pub fn of(file: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let file = file.try_clone_to_owned()?;
        let link = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let metadata = File::from(file.try_clone()?).metadata()?;
        if metadata.file_type().is_char_device() {
            return Ok(Self::of_number(metadata.rdev()));
        }
        if !metadata.is_file() && !is_dma_buf(&link) {
            return Ok(None);
        }
        Ok(Self::of_emulated(file, &link).or_else(|| is_dma_buf(&link).then_some(Self::DmaBuf)))
    }

    fn of_number(device: u64) -> Option<Self> {
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        if major == DRM_MAJOR {
            let is_render = minor >= RENDER_MINOR_FIRST;
            return is_render.then_some(Self::Render { minor: minor as u32 });
        }
        let kfd = fs::read_to_string("/sys/class/kfd/kfd/dev").ok()?;
        (kfd.trim_end() == format!("{major}:{minor}")).then_some(Self::Kfd)
    }

    fn of_emulated(file: OwnedFd, link: &Path) -> Option<Self> {
        let mut block = Block::new(&WhoAmI::default());
        attempt(&mut Local::from_descriptor(file, link), ioc::WHOAMI, &mut block).ok()?;
        let answer: WhoAmI = block.argument();
        match answer.kind {
            kind::KFD => Some(Self::Kfd),
            kind::RENDER => Some(Self::Render { minor: answer.minor }),
            kind::DMA_BUF => Some(Self::DmaBuf),
            _ => None,
        }
    }
}

/// Gives the emulated node that serves a device file other rules for faults, as `thaw node run
/// --fault` takes them, apart by spaces. Counts of calls begin anew; no rule ends all faults.
/// Returns how many calls were changed by the rules before.
///
/// # Errors
///
/// `ENOTTY` on a real device, `EPERM` for all but root, `EINVAL` for what is no rule, `E2BIG` for
/// more than [`RULES_BYTES_MAX`] bytes.
pub fn set_faults(file: &mut impl DeviceFile, rules: &str) -> Result<u64, DeviceError> {
    let path = file.path().to_owned();
    let fail = |failure| DeviceError::of("SET_FAULTS", &path, failure);
    let mut argument = SetFaults { length: rules.len() as u32, ..SetFaults::default() };
    let room = argument.rules.get_mut(..rules.len());
    room.ok_or_else(|| fail(CallFailure::Refused(Errno::E2BIG)))?.copy_from_slice(rules.as_bytes());
    let mut block = Block::new(&argument);
    attempt(file, ioc::SET_FAULTS, &mut block).map_err(fail)?;
    Ok(block.argument::<SetFaults>().hits)
}

fn is_dma_buf(link: &Path) -> bool {
    link.as_os_str().as_bytes().starts_with(b"/dmabuf:")
}

/// Whether the number that a call answered is a token, not a descriptor.
#[must_use]
pub fn is_token(number: i32) -> bool {
    number >= TOKEN_MIN
}

/// Opens what a token stands for; the file that answered the token says where it is.
pub(crate) fn open_token<F: DeviceFile>(file: &mut F, token: i32) -> Result<OwnedFd, CallFailure> {
    let argument = OpenPath { token: token as u32, ..OpenPath::default() };
    let mut block = Block::new(&argument);
    attempt(file, ioc::OPEN_PATH, &mut block)?;
    let answer: OpenPath = block.argument();
    let path = answer.path.get(..answer.length as usize);
    let path = path.ok_or(CallFailure::Refused(Errno::ENAMETOOLONG))?;
    let opened = OpenOptions::new().read(true).write(true).open(OsStr::from_bytes(path));
    match opened {
        Ok(opened) => Ok(opened.into()),
        Err(error) => Err(CallFailure::NotMade(Box::new(TokenError {
            path: PathBuf::from(OsStr::from_bytes(path)),
            errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
        }))),
    }
}

/// The file that a token stands for could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open {} of the emulated node: {errno}", path.display())]
struct TokenError {
    path: PathBuf,
    errno: Errno,
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn files_that_are_no_devices_are_told_apart() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(DeviceKind::of(file.as_fd()).unwrap(), None);
        let null = File::open("/dev/null").unwrap();
        assert_eq!(DeviceKind::of(null.as_fd()).unwrap(), None);
        let (reader, _writer) = io::pipe().unwrap();
        assert_eq!(DeviceKind::of(reader.as_fd()).unwrap(), None);
    }

    #[test]
    fn device_numbers_of_render_nodes_are_known_and_those_of_cards_are_not() {
        let device = |minor| nix::sys::stat::makedev(DRM_MAJOR, minor);
        assert_eq!(DeviceKind::of_number(device(129)), Some(DeviceKind::Render { minor: 129 }));
        assert_eq!(DeviceKind::of_number(device(0)), None);
    }
}
