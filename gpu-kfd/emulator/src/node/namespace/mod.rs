//! The mount namespace of a node: its device files under `/dev`, its topology under `/sys`.
//!
//! Nothing of it is seen outside, and it goes when its last user goes. `/dev` is a file system of
//! its own that holds what the old one held; a hidden folder in it holds what clients of the node
//! need:
//!
//! | path | what |
//! |---|---|
//! | [`FILES`] | the FUSE file system, from which `/dev/kfd` and the render nodes are bound |
//! | [`DESCRIPTORS`] | open files of the serving threads; see [`Paths::of_dma_buf`] |
//! | [`PROGRAMS`] | stand-ins for programs, to be put in front of `PATH` |
//! | [`PRELOAD`] | the preload library |

mod dev;
mod sysfs;

use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

use super::raw;
use super::serve::Files;
use crate::products::Sysfs;

/// What the node keeps for itself and its clients.
pub(crate) const HIDDEN: &str = "/dev/.kfd-emulator";
/// The FUSE file system.
pub(crate) const FILES: &str = "/dev/.kfd-emulator/files";
const FILES_C: &CStr = c"/dev/.kfd-emulator/files";
/// Descriptors of the serving threads.
pub(crate) const DESCRIPTORS: &str = "/dev/.kfd-emulator/fd";
/// Stand-ins for programs.
pub(crate) const PROGRAMS: &str = "/dev/.kfd-emulator/bin";
/// The preload library.
pub(crate) const PRELOAD: &str = "/dev/.kfd-emulator/libkfd-preload.so";

/// What `build.rs` made of `preload/preload.rs`.
const LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libkfd-preload.so"));

/// Stands in for `lsmod`, which `rocminfo` asks whether the driver is loaded.
const LSMOD: &str = "#!/bin/sh\n\
    echo 'Module                  Size  Used by'\n\
    [ -r /proc/modules ] && while read -r name size users by rest; do\n\
    echo \"$name $size $users $by\"\n\
    done </proc/modules\n\
    echo 'amdgpu                      0  0'\n";

/// What could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}", path.display())]
pub struct NamespaceError {
    /// What was tried.
    pub doing: &'static str,
    /// With which file.
    pub path: PathBuf,
    /// The kernel's error.
    pub source: io::Error,
}

impl NamespaceError {
    /// Its code, by which `docs/errors.md` lists it.
    #[must_use]
    pub fn code(&self) -> &'static str {
        "node.namespace"
    }

    /// What can be done about it, where there is something.
    #[must_use]
    pub fn help(&self) -> Option<&'static str> {
        Some("run as root, or with CAP_SYS_ADMIN, on a kernel with overlayfs")
    }
}

/// Says what failed, for `map_err`.
fn failed<E: Into<io::Error>>(doing: &'static str, path: &str) -> impl FnOnce(E) -> NamespaceError {
    let path = PathBuf::from(path);
    move |source| NamespaceError { doing, path, source: source.into() }
}

/// Takes the calling thread into a new mount namespace whose mounts nobody else sees.
pub(crate) fn enter_new() -> Result<(), NamespaceError> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace for", "/"))?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .map_err(failed("make private the mounts below", "/"))?;
    std::env::set_current_dir("/").map_err(failed("change to", "/"))
}

/// Puts a new `/dev` in place of the old one, with the hidden folder in it.
pub(crate) fn renew_dev() -> Result<(), NamespaceError> {
    dev::renew()?;
    for folder in [HIDDEN, FILES, DESCRIPTORS, PROGRAMS] {
        fs::create_dir(folder).map_err(failed("make", folder))?;
    }
    put_program(&format!("{PROGRAMS}/lsmod"), LSMOD.as_bytes())?;
    put_program(PRELOAD, LIBRARY)
}

fn put_program(path: &str, content: &[u8]) -> Result<(), NamespaceError> {
    fs::write(path, content).map_err(failed("write", path))?;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, mode).map_err(failed("make executable", path))
}

/// Shows the device files where programs look for them. The file system must be served by now.
pub(crate) fn show_devices(files: &Files) -> Result<(), NamespaceError> {
    fs::create_dir("/dev/dri").map_err(failed("make", "/dev/dri"))?;
    show("kfd", "/dev/kfd")?;
    for minor in files.minors() {
        show(&format!("renderD{minor}"), &format!("/dev/dri/renderD{minor}"))?;
    }
    Ok(())
}

fn show(name: &str, at: &str) -> Result<(), NamespaceError> {
    fs::write(at, "").map_err(failed("make", at))?;
    let from = format!("{FILES}/{name}");
    mount(Some(&*from), at, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .map_err(failed("bind a device file to", at))
}

/// Shows files in `/sys`.
pub(crate) fn show_sysfs(tree: &Sysfs) -> Result<(), NamespaceError> {
    sysfs::show(tree, Path::new(HIDDEN))
}

/// Device number of the file system at [`FILES`].
pub(crate) fn device() -> Result<(u32, u32), Errno> {
    raw::device_of_path(FILES_C)
}

/// Opens the file that aborts the connection whose file system is at [`FILES`].
///
/// It lies in a file system of the kernel's, which is mounted for a moment.
pub(crate) fn abort_switch() -> Result<fs::File, NamespaceError> {
    let (_, number) = device().map_err(failed("stat", FILES))?;
    let at = format!("{HIDDEN}/connections");
    fs::create_dir(&at).map_err(failed("make", &at))?;
    mount(Some("fusectl"), &*at, Some("fusectl"), MsFlags::empty(), None::<&str>)
        .map_err(failed("mount fusectl at", &at))?;
    let path = format!("{at}/{number}/abort");
    let switch = fs::File::options().write(true).open(&path).map_err(failed("open", &path));
    umount2(&*at, MntFlags::MNT_DETACH).map_err(failed("unmount", &at))?;
    fs::remove_dir(&at).map_err(failed("remove", &at))?;
    switch
}

/// How clients open dma-bufs.
#[derive(Debug)]
pub(crate) struct Paths {
    /// A copy of the mount of [`FILES`] that is attached nowhere.
    detached: OwnedFd,
}

impl Paths {
    /// To be called by a serving thread that lives as long as the node.
    pub(crate) fn new() -> Result<Self, NamespaceError> {
        let detached = raw::detached_copy(AT_FDCWD, FILES_C, false)
            .map_err(failed("copy the mount at", FILES))?;
        // `/proc/self` is the process; its first thread has another table.
        let own = format!("/proc/self/task/{}/fd", gettid());
        mount(Some(&*own), DESCRIPTORS, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(failed("bind our descriptors to", DESCRIPTORS))?;
        Ok(Self { detached })
    }

    /// The path by which a user opens a dma-buf.
    ///
    /// `readlink` of a descriptor of a dma-buf must give `/dmabuf:<name>`, as for a real one:
    /// upstream criu tells them by it. A path begins at the root of its mount if that mount is
    /// attached nowhere, so the file is opened through a detached copy. The way to it is the link
    /// of our descriptor in `/proc`; that folder is bound into the namespace, so that it is there
    /// for callers whose `/proc` does not show us (in a pid namespace of their own).
    ///
    /// Following such a link takes the right to trace us, which root has. Other users open the file
    /// where it is mounted; for them the link reads longer.
    pub(crate) fn of_dma_buf(&self, name: &str, is_root: bool) -> String {
        match is_root {
            true => format!("{DESCRIPTORS}/{}/{name}", self.detached.as_raw_fd()),
            false => format!("{FILES}/{name}"),
        }
    }
}
