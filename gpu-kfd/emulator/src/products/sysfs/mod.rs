//! The files of `/sys` that a host with these GPUs has, as a map from path to content.
//!
//! Only what rocminfo, libhsakmt, libdrm, libdrm_amdgpu and CRIU's amdgpu plugin read, and the
//! links that lead there. Nothing is mounted or written here.

mod kfd;
mod pci;
mod write;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::topology::Topology;

pub use write::SysfsWriteError;

/// Major number of `/dev/kfd`. Real ones are given at boot; this is one of those, from the end of
/// the range that the kernel gives away from the top (511 to 384).
pub const KFD_MAJOR: u32 = 510;
/// Major number of DRM devices.
pub const DRM_MAJOR: u32 = 226;

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A folder.
    Dir,
    /// A file with this content.
    File(Vec<u8>),
    /// A symbolic link to this target, relative to the folder that it is in.
    Link(PathBuf),
}

/// A tree of files below `/sys`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sysfs {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Sysfs {
    /// Folders of a real `/sys` that the tree adds to. Every entry is below one of them; each can
    /// be laid over the host's own as one read-only layer.
    pub const ROOTS: [&'static str; 5] =
        ["/sys/bus", "/sys/class", "/sys/dev/char", "/sys/devices", "/sys/module"];

    /// The tree of a machine.
    #[must_use]
    pub fn of(topology: &Topology) -> Self {
        let mut tree = Self::default();
        kfd::add(&mut tree, topology);
        for gpu in topology.gpus() {
            pci::add(&mut tree, gpu);
        }
        add_module(&mut tree);
        tree
    }

    /// Every path with what stands there, parents before what is in them.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_path(), entry))
    }

    /// What stands at `path`, links not followed.
    #[must_use]
    pub fn get(&self, path: impl AsRef<Path>) -> Option<&Entry> {
        self.entries.get(path.as_ref())
    }

    /// Content of the file at `path`, links not followed.
    #[must_use]
    pub fn file(&self, path: impl AsRef<Path>) -> Option<&[u8]> {
        match self.get(path)? {
            Entry::File(content) => Some(content),
            Entry::Dir | Entry::Link(_) => None,
        }
    }

    fn put(&mut self, path: &Path, entry: Entry) {
        let folders = path.ancestors().skip(1);
        for folder in folders.take_while(|folder| folder.starts_with("/sys")) {
            self.entries.entry(folder.to_owned()).or_insert(Entry::Dir);
        }
        let before = self.entries.insert(path.to_owned(), entry);
        assert!(before.is_none_or(|before| before == Entry::Dir), "{} twice", path.display());
    }

    fn put_dir(&mut self, path: impl AsRef<Path>) {
        self.put(path.as_ref(), Entry::Dir);
    }

    fn put_file(&mut self, path: impl AsRef<Path>, content: impl Into<Vec<u8>>) {
        self.put(path.as_ref(), Entry::File(content.into()));
    }

    /// Puts a link at `path` to `target`, both absolute; the link is written relative, as sysfs
    /// does, so that it holds wherever the tree is mounted.
    fn put_link(&mut self, path: impl AsRef<Path>, target: impl AsRef<Path>) {
        let (path, target) = (path.as_ref(), target.as_ref());
        let folder = path.parent().unwrap_or(path);
        let shared =
            folder.iter().zip(target.iter()).take_while(|(one, other)| one == other).count();
        let up = folder.iter().skip(shared).map(|_| OsStr::new(".."));
        let relative: PathBuf = up.chain(target.iter().skip(shared)).collect();
        self.put(path, Entry::Link(relative));
    }
}

/// The driver's module: newer rocminfo asks whether it is live; libraries read some parameters.
/// They are the driver's defaults. There is no `version`: mainline's module has none.
fn add_module(tree: &mut Sysfs) {
    let files = [
        ("initstate", "live\n"),
        ("refcnt", "1\n"),
        ("parameters/cwsr_enable", "1\n"),
        ("parameters/debug_largebar", "0\n"),
        ("parameters/hws_max_conc_proc", "-1\n"),
        ("parameters/max_num_of_queues_per_device", "4096\n"),
        ("parameters/noretry", "-1\n"),
        ("parameters/sched_policy", "0\n"),
    ];
    for (name, content) in files {
        tree.put_file(Path::new("/sys/module/amdgpu").join(name), content);
    }
}

#[cfg(test)]
mod tests;
