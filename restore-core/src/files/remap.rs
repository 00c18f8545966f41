//! Paths that no longer lead to their files: made to do so for the moment of an opening.
//!
//! A deleted file that was still open is rebuilt from the images (a *ghost*); one with another
//! name left is reached through the link that the dump made. Either is given the wanted path, is
//! opened, and loses the path again. Nothing that exists is overwritten. Every name made here is
//! removed, whatever happens; the dump's own links only when the restore has succeeded.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use criu_image::record::GhostFileEntry;
use criu_image::{Checkpoint, DataSpan, FileId, Remap};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknod, utimensat};
use nix::sys::time::TimeSpec;

use super::{FilesError, regular};

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
    /// Link of each file that has one.
    links: BTreeMap<FileId, PathBuf>,
}

impl Plan {
    pub(super) fn new(checkpoint: &Checkpoint) -> Self {
        let mut plan =
            Self { ghost_of: BTreeMap::new(), ghosts: BTreeMap::new(), links: BTreeMap::new() };
        for (&id, remap) in &checkpoint.remaps {
            match remap {
                Remap::Ghost(ghost) => {
                    plan.ghost_of.insert(id, ghost.id);
                    plan.ghosts.entry(ghost.id).or_insert_with(|| Ghost {
                        entry: ghost.entry.clone(),
                        extents: ghost.extents.clone(),
                    });
                }
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

    /// Begins to make names; contents come from the images in this directory.
    pub(super) fn begin(self, images: &Path) -> Names {
        Names {
            plan: self,
            images: images.to_owned(),
            rebuilt: BTreeMap::new(),
            temporary: Vec::new(),
        }
    }
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
    images: PathBuf,
    /// Where each ghost that has been rebuilt is.
    rebuilt: BTreeMap<u32, PathBuf>,
    /// In the order in which they were made.
    temporary: Vec<Temporary>,
}

impl Names {
    /// Makes `path` lead to the file, or a path beside it if that name is taken, and opens it.
    pub(super) fn with_path<T>(
        &mut self,
        id: FileId,
        path: &[u8],
        open: impl Fn(&[u8]) -> Result<T, FilesError>,
    ) -> Result<T, FilesError> {
        let wanted = path_of(path);
        self.make_parents(id, &wanted)?;
        let Some(source) = self.source(id, &wanted)? else {
            return open(path); // a directory under its own name
        };
        if source == wanted {
            return open(path);
        }
        let name =
            link_beside(&source, &wanted).map_err(|error| fail(id, &wanted, "link", &error))?;
        let opened = open(name.as_os_str().as_bytes());
        fs::remove_file(&name).map_err(|error| fail(id, &name, "unlink", &error))?;
        opened
    }

    /// Where the file is at the moment, rebuilt if it must be.
    fn source(&mut self, id: FileId, wanted: &Path) -> Result<Option<PathBuf>, FilesError> {
        if let Some(link) = self.plan.links.get(&id) {
            return Ok(Some(link.clone()));
        }
        let Some(&ghost_id) = self.plan.ghost_of.get(&id) else {
            return Ok(None);
        };
        if let Some(path) = self.rebuilt.get(&ghost_id) {
            return Ok(Some(path.clone()));
        }
        let ghost = self.plan.ghosts[&ghost_id].clone();
        let is_dir = ghost.entry.mode & S_IFMT == libc::S_IFDIR;
        let path = match is_dir {
            // A directory cannot be linked: it takes its own name for as long as it is needed.
            true if !wanted.exists() => wanted.to_owned(),
            _ => beside(wanted, &format!("thaw-ghost-{ghost_id:x}")),
        };
        self.temporary.push(Temporary { path: path.clone(), is_dir });
        let made = self.rebuild(ghost_id, &ghost, &path);
        made.map_err(|error| fail(id, &path, "creation", &error))?;
        self.rebuilt.insert(ghost_id, path.clone());
        Ok(Some(path))
    }

    fn rebuild(&self, id: u32, ghost: &Ghost, path: &Path) -> io::Result<()> {
        let entry = &ghost.entry;
        let permissions = Mode::from_bits_truncate(entry.mode & 0o7777);
        match entry.mode & S_IFMT {
            libc::S_IFDIR => fs::DirBuilder::new().mode(entry.mode & 0o7777).create(path)?,
            libc::S_IFLNK => {
                let target = entry.symlnk_target.as_deref().unwrap_or_default();
                symlink(OsStr::from_bytes(target), path)?;
            }
            libc::S_IFREG => self.rebuild_contents(id, ghost, path)?,
            kind => {
                let kind = SFlag::from_bits_truncate(kind);
                mknod(path, kind, permissions, u64::from(entry.rdev.unwrap_or(0)))?;
            }
        }
        lchown(path, Some(entry.uid), Some(entry.gid))?;
        if entry.mode & S_IFMT != libc::S_IFLNK {
            fs::set_permissions(path, fs::Permissions::from_mode(entry.mode & 0o7777))?;
        }
        if let (Some(accessed), Some(modified)) = (&entry.atim, &entry.mtim) {
            let time = |t: &criu_image::record::Timeval| {
                TimeSpec::new(t.tv_sec as i64, t.tv_usec as i64 * 1000)
            };
            let no_follow = UtimensatFlags::NoFollowSymlink;
            utimensat(AT_FDCWD, path, &time(accessed), &time(modified), no_follow)?;
        }
        Ok(())
    }

    fn rebuild_contents(&self, id: u32, ghost: &Ghost, path: &Path) -> io::Result<()> {
        let file = File::options().write(true).create_new(true).open(path)?;
        if let Some(size) = ghost.entry.size {
            file.set_len(size)?;
        }
        let image = File::open(self.images.join(format!("ghost-file-{id:x}.img")))?;
        let mut buffer = vec![0; COPY_BYTES];
        for &(offset, span) in &ghost.extents {
            let mut done = 0;
            while done < span.len_bytes {
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
            .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
            .map(Path::to_owned)
            .collect();
        while let Some(dir) = missing.pop() {
            fs::create_dir(&dir).map_err(|error| fail(id, &dir, "mkdir", &error))?;
            self.temporary.push(Temporary { path: dir, is_dir: true });
        }
        Ok(())
    }

    /// Removes all names made here, last first.
    pub(super) fn remove_temporary(&mut self) -> Result<(), FilesError> {
        let mut result = Ok(());
        while let Some(Temporary { path, is_dir }) = self.temporary.pop() {
            let removed = if is_dir { fs::remove_dir(&path) } else { fs::remove_file(&path) };
            if let Err(error) = removed
                && error.kind() != io::ErrorKind::NotFound
                && result.is_ok()
            {
                result = Err(fail(FileId(0), &path, "removal", &error));
            }
        }
        result
    }

    /// The restore has succeeded: the dump's links have served.
    pub(super) fn finish(mut self) {
        for link in std::mem::take(&mut self.plan.links).into_values() {
            let _ = fs::remove_file(link); // two files may have had the same link
        }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let _ = self.remove_temporary();
    }
}

/// A name next to `path` that nobody else chooses.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{suffix}-{}", std::process::id()));
    PathBuf::from(name)
}

/// Links `source` to `wanted`, or beside it if the name is taken.
fn link_beside(source: &Path, wanted: &Path) -> io::Result<PathBuf> {
    match fs::hard_link(source, wanted) {
        Ok(()) => Ok(wanted.to_owned()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let name = beside(wanted, "thaw-link");
            fs::hard_link(source, &name)?;
            Ok(name)
        }
        Err(error) => Err(error),
    }
}

fn fail(id: FileId, path: &Path, call: &'static str, error: &io::Error) -> FilesError {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    FilesError::Path { call, path: path.display().to_string(), id: id.0, errno }
}
