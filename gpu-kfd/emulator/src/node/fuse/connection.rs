//! The connection: mounting, the handshake, more descriptors, files for passthrough.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use bytemuck::{bytes_of, pod_read_unaligned};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;
use nix::unistd::write;

use super::channel::{Channel, Received};
use super::wire::{
    InHeader, InitIn, InitOut, OutHeader, READ_BUFFER_BYTES_MIN, VERSION_MAJOR, VERSION_MINOR,
    init, opcode,
};
use crate::node::raw;

/// Largest request that comes here: an `ioctl` with a block of 16 KiB (the most that a request
/// number can say) after two headers. The kernel refuses to use a buffer that cannot hold
/// [`WRITE_BYTES_MAX`] and its headers, whether or not such a request comes.
pub(crate) const READ_BUFFER_BYTES: usize = 32 << 10;
const _: () = assert!(READ_BUFFER_BYTES >= READ_BUFFER_BYTES_MIN);
/// Largest write that the kernel would send; it sends none, since files are passed through.
const WRITE_BYTES_MAX: u32 = 4096;
/// `RELEASE` is the only request that the kernel sends in the background. It holds back what is
/// beyond this number, and a file that is closed should be closed soon.
const BACKGROUND_MAX: u16 = 1024;

/// Why the file system could not be mounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// `/dev/fuse` cannot be opened.
    #[error("cannot open /dev/fuse (is the kernel built with CONFIG_FUSE_FS?)")]
    NoFuse(#[source] Errno),
    /// The mount was refused.
    #[error("cannot mount a FUSE file system at {at} (needs CAP_SYS_ADMIN)")]
    Refused {
        /// Mount point.
        at: String,
        /// The kernel's error.
        source: Errno,
    },
    /// The kernel speaks a version without passthrough.
    #[error(
        "the kernel speaks FUSE {major}.{minor}; mmap of the device files needs passthrough, \
         which came with {VERSION_MAJOR}.{VERSION_MINOR} (Linux 6.9)"
    )]
    TooOld {
        /// Major version of the kernel's protocol.
        major: u32,
        /// Minor version of it.
        minor: u32,
    },
    /// The kernel has no passthrough.
    #[error(
        "the kernel is built without CONFIG_FUSE_PASSTHROUGH, which mmap of device files needs"
    )]
    NoPassthrough,
    /// The handshake failed.
    #[error("the FUSE handshake failed while {doing}")]
    Handshake {
        /// What was tried.
        doing: &'static str,
        /// The kernel's error.
        source: Errno,
    },
}

impl MountError {
    /// Its code, by which `docs/errors.md` lists it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoFuse(_) => "node.no-fuse",
            Self::Refused { .. } => "node.mount",
            Self::TooOld { .. } => "node.kernel-too-old",
            Self::NoPassthrough => "node.no-passthrough",
            Self::Handshake { .. } => "node.handshake",
        }
    }

    /// What can be done about it, where there is something.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::NoFuse(_) => Some("load the module fuse, or let the container have /dev/fuse"),
            Self::Refused { .. } => Some("run as root, or with CAP_SYS_ADMIN"),
            Self::TooOld { .. } => Some("use Linux 6.9 or newer"),
            Self::NoPassthrough => Some("use a kernel with CONFIG_FUSE_PASSTHROUGH"),
            Self::Handshake { .. } => None,
        }
    }
}

/// A mounted file system. The last close of its descriptors aborts it: every caller that waits gets
/// `ECONNABORTED`, and so do all who come.
#[derive(Debug)]
pub(crate) struct Connection {
    device: OwnedFd,
}

impl Connection {
    /// Mounts a file system whose root is a folder, open for every user, and shakes hands.
    pub(crate) fn mount(at: &Path) -> Result<Self, MountError> {
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let device = open("/dev/fuse", flags, Mode::empty()).map_err(MountError::NoFuse)?;
        let options = format!(
            "fd={},rootmode=40755,user_id=0,group_id=0,allow_other,default_permissions",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
        mount(Some("kfd-emulator"), at, Some("fuse.kfd-emulator"), flags, Some(&*options))
            .map_err(|source| MountError::Refused { at: at.display().to_string(), source })?;
        let connection = Self { device };
        connection.shake_hands()?;
        Ok(connection)
    }

    fn shake_hands(&self) -> Result<(), MountError> {
        let failed = |doing| move |source| MountError::Handshake { doing, source };
        let channel = Channel::new(
            self.device.try_clone().map_err(|_| failed("duplicating it")(Errno::EMFILE))?,
        );
        let mut buffer = vec![0; READ_BUFFER_BYTES];
        let received = channel.receive(&mut buffer).map_err(failed("reading"))?;
        let Received::Request(length) = received else {
            return Err(failed("reading")(Errno::ENODEV));
        };
        let (header, body) = buffer[..length]
            .split_at_checked(size_of::<InHeader>())
            .ok_or(failed("reading")(Errno::EIO))?;
        let header: InHeader = pod_read_unaligned(header);
        // Older kernels send less; what they leave out is zero.
        let mut whole = [0; size_of::<InitIn>()];
        let common = body.len().min(whole.len());
        whole[..common].copy_from_slice(&body[..common]);
        let offered: InitIn = pod_read_unaligned(&whole);
        if header.opcode != opcode::INIT {
            return Err(failed("reading")(Errno::EPROTO));
        }
        let accepted = agree(&offered)?;
        let length = size_of::<OutHeader>() + size_of::<InitOut>();
        let reply = OutHeader { len: length as u32, error: 0, unique: header.unique };
        let message = [bytes_of(&reply), bytes_of(&accepted)].concat();
        write(&self.device, &message).map_err(failed("answering"))?;
        Ok(())
    }

    /// One more descriptor of this connection; without `wait`, reading from it never sleeps.
    pub(crate) fn channel(&self, wait: bool) -> Result<Arc<Channel>, Errno> {
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let clone = open("/dev/fuse", flags, Mode::empty())?;
        raw::fuse_clone(clone.as_fd(), self.device.as_fd())?;
        if !wait {
            fcntl(&clone, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(Arc::new(Channel::new(clone)))
    }

    /// Makes a file known, so that files of this file system can be passed through to it. It is
    /// known until the connection ends.
    pub(crate) fn passthrough_to(&self, file: &File) -> Result<i32, Errno> {
        raw::fuse_backing_open(self.device.as_fd(), file.as_fd())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// The answer to what the kernel offers.
fn agree(offered: &InitIn) -> Result<InitOut, MountError> {
    let (major, minor) = (offered.major, offered.minor);
    if (major, minor) < (VERSION_MAJOR, VERSION_MINOR) {
        return Err(MountError::TooOld { major, minor });
    }
    let has = u64::from(offered.flags2) << 32 | u64::from(offered.flags);
    if has & init::INIT_EXT == 0 || has & init::PASSTHROUGH == 0 {
        return Err(MountError::NoPassthrough);
    }
    let wanted = init::PARALLEL_DIROPS | init::ABORT_ERROR | init::INIT_EXT | init::PASSTHROUGH;
    let flags = has & wanted;
    Ok(InitOut {
        major: VERSION_MAJOR,
        minor: VERSION_MINOR,
        max_readahead: 0,
        flags: flags as u32,
        flags2: (flags >> 32) as u32,
        max_background: BACKGROUND_MAX,
        congestion_threshold: BACKGROUND_MAX,
        max_write: WRITE_BYTES_MAX,
        time_gran: 1,
        max_stack_depth: 1,
        ..InitOut::default()
    })
}

#[cfg(test)]
mod tests {
    use super::super::wire::{InitIn, init};
    use super::{MountError, agree};

    fn offer(minor: u32, flags: u64) -> InitIn {
        let (low, high) = (flags as u32, (flags >> 32) as u32);
        InitIn { major: 7, minor, flags: low, flags2: high, ..InitIn::default() }
    }

    #[test]
    fn kernels_without_passthrough_are_refused_by_name() {
        let all = init::INIT_EXT | init::PASSTHROUGH;
        assert!(agree(&offer(40, all)).is_ok());
        let old = agree(&offer(39, init::INIT_EXT)).expect_err("6.8 has no passthrough");
        assert!(matches!(old, MountError::TooOld { major: 7, minor: 39 }), "{old}");
        assert!(old.to_string().contains("7.39") && old.to_string().contains("6.9"), "{old}");
        for flags in [init::INIT_EXT, init::PASSTHROUGH, 0] {
            let error = agree(&offer(44, flags)).expect_err("a bit is missing");
            assert!(matches!(error, MountError::NoPassthrough), "{error}");
        }
    }

    #[test]
    fn only_what_the_kernel_offers_is_accepted() {
        let out = agree(&offer(45, init::INIT_EXT | init::PASSTHROUGH)).expect("enough");
        assert_eq!(u64::from(out.flags), init::INIT_EXT);
        assert_eq!(u64::from(out.flags2) << 32, init::PASSTHROUGH);
        assert_eq!(out.minor, 40, "it does not claim more than it speaks");
    }
}
