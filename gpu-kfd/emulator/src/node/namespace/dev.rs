//! A new `/dev` that holds what the old one held, and can hold more.
//!
//! The old one is often shared with everybody (devtmpfs), so nothing may be made in it. Device
//! nodes and links are made again, everything else (folders, mounts, sockets) is shown by bind
//! mounts.

use std::ffi::CString;
use std::fs::{self, Metadata};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, mknod};

use super::{NamespaceError, failed};
use crate::node::raw;

const DEV: &str = "/dev";
/// What the node makes itself, whatever was there.
const OURS: [&str; 3] = ["kfd", "dri", ".kfd-emulator"];

/// An entry of the old `/dev`.
struct Entry {
    path: PathBuf,
    metadata: Metadata,
    how: How,
}

/// How an entry comes into the new `/dev`.
enum How {
    Link(PathBuf),
    /// A device node; with a mount to show if making nodes is not allowed.
    Node(OwnedFd),
    Mount(OwnedFd),
}

/// Mounts a new `/dev` over the old one.
pub(super) fn renew() -> Result<(), NamespaceError> {
    let entries = read_old()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOATIME;
    mount(Some("kfd-emulator"), DEV, Some("tmpfs"), flags, Some("mode=755"))
        .map_err(failed("mount a file system at", DEV))?;
    entries.iter().try_for_each(Entry::make)
}

fn read_old() -> Result<Vec<Entry>, NamespaceError> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(DEV).map_err(failed("read", DEV))? {
        let path = entry.map_err(failed("read", DEV))?.path();
        if !OURS.iter().any(|ours| path.ends_with(ours)) {
            entries.extend(Entry::read(path)?);
        }
    }
    Ok(entries)
}

impl Entry {
    /// An entry, unless it has gone since it was listed.
    fn read(path: PathBuf) -> Result<Option<Self>, NamespaceError> {
        let text = path.display().to_string();
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed("stat", &text))?,
        };
        let kind = metadata.file_type();
        let how = if kind.is_symlink() {
            How::Link(fs::read_link(&path).map_err(failed("read the link", &text))?)
        } else {
            let copy = raw::detached_copy(AT_FDCWD, &c_path(&path), true)
                .map_err(failed("copy the mount at", &text))?;
            match kind.is_char_device() || kind.is_block_device() {
                true => How::Node(copy),
                false => How::Mount(copy),
            }
        };
        Ok(Some(Self { path, metadata, how }))
    }

    fn make(&self) -> Result<(), NamespaceError> {
        let text = self.path.display().to_string();
        match &self.how {
            How::Link(target) => {
                symlink(target, &self.path).map_err(failed("make the link", &text))
            }
            How::Mount(copy) => self.attach(copy).map_err(failed("bind", &text)),
            How::Node(copy) => match self.make_node() {
                Err(Errno::EPERM) => self.attach(copy).map_err(failed("bind", &text)),
                other => other.map_err(failed("make the device node", &text)),
            },
        }
    }

    fn make_node(&self) -> Result<(), Errno> {
        let kind = match self.metadata.file_type().is_block_device() {
            true => SFlag::S_IFBLK,
            false => SFlag::S_IFCHR,
        };
        mknod(&self.path, kind, Mode::empty(), self.metadata.rdev())?;
        let errno =
            |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
        chown(&self.path, Some(self.metadata.uid()), Some(self.metadata.gid())).map_err(errno)?;
        let mode = fs::Permissions::from_mode(self.metadata.mode() & 0o7777);
        fs::set_permissions(&self.path, mode).map_err(errno)
    }

    fn attach(&self, copy: &OwnedFd) -> std::io::Result<()> {
        match self.metadata.is_dir() {
            true => fs::create_dir(&self.path)?,
            false => fs::write(&self.path, "")?,
        }
        Ok(raw::attach(copy.as_fd(), &c_path(&self.path))?)
    }
}

/// A path that was read from a folder: it has no zero in it.
fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("the kernel gives names without zeros")
}
