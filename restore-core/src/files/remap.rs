//! Paths that no longer lead to their files: made to do so for the moment of an opening.
//!
//! A deleted file that was still open is rebuilt from the images (a *ghost*); one with another
//! name left is reached through the link that the dump made. Either is given the wanted path, is
//! opened, and loses the path again. Nothing that exists is overwritten. Every name made here is
//! removed, whatever happens; the dump's own links only when the restore has succeeded.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use criu_image::record::{GhostFileEntry, Timeval};
use criu_image::{Checkpoint, DataSpan, FileId, ImageDir, Remap};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;

use super::{FilesError, OpenError, regular};
use crate::stop::{Stop, Stopped};

/// Piece in which contents are copied.
const COPY_BYTES: usize = 1 << 20;
const S_IFMT: u32 = 0o170_000;

#[derive(Clone, Debug)]
struct Ghost {
    entry: GhostFileEntry,
    extents: Vec<(u64, DataSpan)>,
}

/// What the images say of all such files.
#[derive(Debug)]
pub(super) struct Plan {
    /// Ghost id of each file that is one.
    ghost_of: BTreeMap<FileId, u32>,
    ghosts: BTreeMap<u32, Ghost>,
    /// Deleted directories by the path that they had.
    directories: BTreeMap<PathBuf, u32>,
    /// Link of each file that has one.
    links: BTreeMap<FileId, PathBuf>,
}

impl Plan {
    pub(super) fn new(checkpoint: &Checkpoint) -> Self {
        let mut plan = Self {
            ghost_of: BTreeMap::new(),
            ghosts: BTreeMap::new(),
            directories: BTreeMap::new(),
            links: BTreeMap::new(),
        };
        for (&id, remap) in &checkpoint.remaps {
            match remap {
                Remap::Ghost(ghost) => plan.add_ghost(checkpoint, id, ghost),
                Remap::Linked(link) => {
                    if let Some(entry) = checkpoint.reg_file(*link) {
                        plan.links.insert(id, path_of(&regular::absolute(entry)));
                    }
                }
                Remap::Procfs(_) => {}
            }
        }
        plan
    }

    fn add_ghost(&mut self, checkpoint: &Checkpoint, id: FileId, ghost: &criu_image::Ghost) {
        self.ghost_of.insert(id, ghost.id);
        if is_directory(&ghost.entry)
            && let Some(entry) = checkpoint.reg_file(id)
        {
            let path = path_of(&regular::absolute(entry));
            self.directories.insert(path, ghost.id);
        }
        self.ghosts.entry(ghost.id).or_insert_with(|| Ghost {
            entry: ghost.entry.clone(),
            extents: ghost.extents.clone(),
        });
    }

    /// Begins to make names; contents come from the images in this directory.
    pub(super) fn begin(self, images: &ImageDir, stop: &Stop) -> Names {
        Names {
            plan: self,
            images: images.clone(),
            stop: stop.clone(),
            stopped: None,
            rebuilt: BTreeMap::new(),
            temporary: Vec::new(),
        }
    }
}

/// Says what a deleted file lacks, if it cannot be rebuilt.
pub(super) fn check(ghost: &criu_image::Ghost) -> Result<(), &'static str> {
    let entry = &ghost.entry;
    match entry.mode & S_IFMT {
        libc::S_IFCHR | libc::S_IFBLK if entry.rdev.is_none() => {
            Err("deleted device node without a device number")
        }
        libc::S_IFLNK if entry.symlnk_target.is_none() => {
            Err("deleted symbolic link without a target")
        }
        libc::S_IFREG | libc::S_IFDIR | libc::S_IFLNK | libc::S_IFIFO => Ok(()),
        libc::S_IFCHR | libc::S_IFBLK | libc::S_IFSOCK => Ok(()),
        _ => Err("deleted file of unknown kind"),
    }
}

fn is_directory(entry: &GhostFileEntry) -> bool {
    entry.mode & S_IFMT == libc::S_IFDIR
}

fn path_of(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

/// A name made here that is to go again.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    is_dir: bool,
}

/// Names in the file system that exist for the time of the opening.
#[derive(Debug)]
pub(super) struct Names {
    plan: Plan,
    images: ImageDir,
    stop: Stop,
    /// Why contents were not written to their end, if that is why.
    stopped: Option<Stopped>,
    /// Where each ghost that has been rebuilt is.
    rebuilt: BTreeMap<u32, PathBuf>,
    /// In the order in which they were made; only what exists because of us.
    temporary: Vec<Temporary>,
}

impl Names {
    /// Makes `path` lead to the file, or a path beside it if that name is taken, and opens it.
    ///
    /// A name is taken when someone has made another file of it since the dump. Its path is then
    /// shown otherwise than before, as NFS does with deleted files.
    pub(super) fn with_path<T>(
        &mut self,
        id: FileId,
        path: &[u8],
        open: impl Fn(&[u8]) -> Result<T, FilesError>,
    ) -> Result<T, FilesError> {
        let wanted = path_of(path);
        self.make_parents(id, &wanted)?;
        let source = match (self.plan.links.get(&id), self.plan.ghost_of.get(&id)) {
            (Some(link), _) => link.clone(),
            (None, Some(&ghost_id)) => self.source(id, ghost_id, &wanted)?,
            (None, None) => return open(path),
        };
        let ghost = self.plan.ghost_of.get(&id);
        let is_dir = ghost.is_some_and(|ghost| is_directory(&self.plan.ghosts[ghost].entry));
        // A directory cannot have a second name.
        if is_dir || source == wanted {
            return open(source.as_os_str().as_bytes());
        }
        let name = link_beside(&source, &wanted)
            .map_err(|error| fail(id, &source, "link to where it was", &error))?;
        let opened = open(name.as_os_str().as_bytes());
        let removed = fs::remove_file(&name).map_err(|error| fail(id, &name, "unlink", &error));
        let opened = opened?;
        removed?;
        Ok(opened)
    }

    /// Where a ghost is at the moment, rebuilt if it must be.
    fn source(&mut self, id: FileId, ghost_id: u32, wanted: &Path) -> Result<PathBuf, FilesError> {
        if let Some(path) = self.rebuilt.get(&ghost_id) {
            return Ok(path.clone());
        }
        let is_dir = is_directory(&self.plan.ghosts[&ghost_id].entry);
        let path = match is_dir && !exists(wanted) {
            // A directory cannot be linked: it takes its own name for as long as it is needed.
            true => wanted.to_owned(),
            false => beside(wanted, &format!("ghost-{ghost_id:x}")),
        };
        self.rebuild(ghost_id, &path).map_err(|error| fail(id, &path, "creation", &error))?;
        Ok(path)
    }

    fn rebuild(&mut self, id: u32, path: &Path) -> io::Result<()> {
        let ghost = self.plan.ghosts[&id].clone();
        let entry = &ghost.entry;
        let mut file = None;
        match entry.mode & S_IFMT {
            libc::S_IFDIR => fs::DirBuilder::new().mode(0o700).create(path)?,
            libc::S_IFLNK => {
                let target = entry.symlnk_target.as_deref().unwrap_or_default();
                symlink(OsStr::from_bytes(target), path)?;
            }
            libc::S_IFREG => {
                let mut options = File::options();
                options.write(true).create_new(true).mode(0o600);
                file = Some(options.open(path)?);
            }
            kind => {
                let kind = SFlag::from_bits_truncate(kind);
                let device = u64::from(entry.rdev.unwrap_or(0));
                mknod(path, kind, Mode::from_bits_truncate(0o600), device)?;
            }
        }
        // From here on the name is ours to remove.
        self.temporary.push(Temporary { path: path.to_owned(), is_dir: is_directory(entry) });
        if let Some(file) = file {
            self.rebuild_contents(id, &ghost, &file)?;
        }
        set_attributes(entry, path)?;
        self.rebuilt.insert(id, path.to_owned());
        Ok(())
    }

    /// Writes what was saved; what was a hole stays one.
    fn rebuild_contents(&mut self, id: u32, ghost: &Ghost, file: &File) -> io::Result<()> {
        if let Some(size) = ghost.entry.size {
            file.set_len(size)?;
        }
        let mut image = self.images.raw(&format!("ghost-file-{id:x}.img"))?;
        let mut buffer = vec![0; COPY_BYTES];
        for &(offset, span) in &ghost.extents {
            let mut done = 0;
            while done < span.len_bytes {
                self.stop.look().map_err(|stopped| {
                    self.stopped = Some(stopped);
                    io::ErrorKind::Interrupted
                })?;
                let len = (span.len_bytes - done).min(COPY_BYTES as u64) as usize;
                image.read_exact_at(&mut buffer[..len], span.offset_bytes + done)?;
                file.write_all_at(&buffer[..len], offset + done)?;
                done += len as u64;
            }
        }
        Ok(())
    }

    fn make_parents(&mut self, id: FileId, path: &Path) -> Result<(), FilesError> {
        let mut missing: Vec<PathBuf> = path
            .ancestors()
            .skip(1)
            .take_while(|dir| !dir.as_os_str().is_empty() && !exists(dir))
            .map(Path::to_owned)
            .collect();
        while let Some(path) = missing.pop() {
            // It may be a deleted directory that is to be restored itself.
            if let Some(&ghost) = self.plan.directories.get(&path)
                && !self.rebuilt.contains_key(&ghost)
            {
                self.rebuild(ghost, &path).map_err(|error| fail(id, &path, "creation", &error))?;
                continue;
            }
            fs::create_dir(&path).map_err(|error| fail(id, &path, "mkdir", &error))?;
            self.temporary.push(Temporary { path, is_dir: true });
        }
        Ok(())
    }

    /// Removes all names made here, last first.
    pub(super) fn remove_temporary(&mut self) -> Result<(), FilesError> {
        let mut result = Ok(());
        self.rebuilt.clear();
        while let Some(Temporary { path, is_dir }) = self.temporary.pop() {
            let removed = if is_dir { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
                && result.is_ok()
            {
                result = Err(FilesError::Object {
                    call: "removal",
                    what: format!("the temporary name {}", path.display()),
                    errno: errno(&error),
                });
            }
        }
        result
    }

    /// What an error is if the restore was given up meanwhile.
    pub(super) fn explain(&self, error: FilesError) -> OpenError {
        self.stopped.map_or(OpenError::Files(error), OpenError::Stopped)
    }

    /// The restore has succeeded: the dump's links have served. One that cannot be removed stays,
    /// since the tree runs already.
    pub(super) fn finish(mut self) {
        let links: BTreeSet<PathBuf> = std::mem::take(&mut self.plan.links).into_values().collect();
        for link in links {
            let _ = fs::remove_file(link);
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let _ = self.remove_temporary();
    }
}

fn set_attributes(entry: &GhostFileEntry, path: &Path) -> io::Result<()> {
    lchown(path, Some(entry.uid), Some(entry.gid))?;
    if entry.mode & S_IFMT != libc::S_IFLNK {
        fs::set_permissions(path, fs::Permissions::from_mode(entry.mode & 0o7777))?;
    }
    if let (Some(accessed), Some(modified)) = (&entry.atim, &entry.mtim) {
        let time = |t: &Timeval| {
            let nanoseconds = (t.tv_usec as i64).saturating_mul(1000);
            TimeSpec::new(t.tv_sec as i64, nanoseconds)
        };
        let no_follow = UtimensatFlags::NoFollowSymlink;
        utimensat(AT_FDCWD, path, &time(accessed), &time(modified), no_follow)?;
    }
    Ok(())
}

/// Whether there is anything under this name, a dangling symbolic link included.
fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// A free name in the directory of `path`. It does not contain the last part of `path`, to which
/// nothing may be added where that is as long as names can be.
fn beside(path: &Path, what: &str) -> PathBuf {
    let own = std::process::id();
    let names = (0u32..).map(|n| path.with_file_name(format!(".thaw-{own}-{what}-{n}")));
    let mut free = names.filter(|name| !exists(name));
    free.next().expect("a directory has fewer names than 2^32")
}

/// Links `source` to `wanted`, or beside it if the name is taken.
fn link_beside(source: &Path, wanted: &Path) -> io::Result<PathBuf> {
    match fs::hard_link(source, wanted) {
        Ok(()) => Ok(wanted.to_owned()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let name = beside(wanted, "link");
            fs::hard_link(source, &name)?;
            Ok(name)
        }
        Err(error) => Err(error),
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

fn fail(id: FileId, path: &Path, call: &'static str, error: &io::Error) -> FilesError {
    FilesError::Path { call, path: path.display().to_string(), id: id.0, errno: errno(error) }
}
