//! Files that their paths no longer lead to: saved whole (*ghosts*), or given a link beside them.
//!
//! Contents are written as upstream writes them: small files whole, larger ones without holes. A
//! link is the only thing that a dump leaves in the file system, and only with `--link-remap`; a
//! dump that fails removes it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use criu_image::record::{
    FdTypes, FileEntry, GhostChunkEntry, GhostFileEntry, RemapFilePathEntry, RemapType, Timeval,
};
use criu_image::{BLOCK_BYTES, ImageBuilder, ImageKind};
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{Whence, lseek};

use super::super::facts::Held;
use super::super::staging::Folder;
use super::super::steps::Steps;
use super::super::{DumpError, DumpOptions, raw};
use super::{No, S_IFMT, of_type, regular};
use crate::refusal::RefusalKind;

/// Files from this size on are saved without their holes (CRIU 4.2).
const CHUNKED_FROM_BYTES: i64 = 3 * 4096;

/// A deleted file.
#[derive(Debug)]
struct Ghost {
    id: u32,
    entry: GhostFileEntry,
    /// An open file of ours, if it has contents.
    contents: Option<OwnedFd>,
}

/// A file with another name.
#[derive(Debug)]
struct Link {
    orig_id: u32,
    file: OwnedFd,
    dir: PathBuf,
    entry: criu_image::record::RegFileEntry,
}

/// All such files of the tree.
#[derive(Debug, Default)]
pub(crate) struct Remaps {
    /// By device and inode.
    ghosts: BTreeMap<(u64, u64), Ghost>,
    links: Vec<Link>,
    entries: Vec<RemapFilePathEntry>,
}

/// Links that were made, to go again unless the dump succeeds.
#[derive(Debug, Default)]
pub(crate) struct Links {
    made: Vec<PathBuf>,
}

impl Links {
    /// The dump has succeeded.
    pub(crate) fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        for path in &self.made {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Remaps {
    /// Notes a file that has no name.
    pub(super) fn ghost(
        &mut self,
        orig_id: u32,
        held: &Held,
        options: &DumpOptions,
    ) -> Result<(), No> {
        let key = (held.stat.st_dev, held.stat.st_ino);
        let id = match self.ghosts.get(&key) {
            Some(ghost) => ghost.id,
            None => {
                let id = self.ghosts.len() as u32 + 1;
                self.ghosts.insert(key, Ghost::of(id, held, options)?);
                id
            }
        };
        let kind = Some(RemapType::Ghost as i32);
        self.entries.push(RemapFilePathEntry { orig_id, remap_id: id, remap_type: kind });
        Ok(())
    }

    /// Notes a file that has another name.
    pub(super) fn link(
        &mut self,
        orig_id: u32,
        held: &Held,
        name: &[u8],
        flags: u32,
        options: &DumpOptions,
    ) -> Result<(), No> {
        let path = Path::new(OsStr::from_bytes(name));
        if held.stat.st_mode & S_IFMT == libc::S_IFDIR {
            let what = "directory that is no longer where it was";
            return Err(No::because(RefusalKind::MovedDirectory, what));
        }
        if !options.link_remap {
            let what = "file that has another name by now";
            return Err(No::because(RefusalKind::RenamedFile, what));
        }
        let Some(dir) = path.parent().filter(|dir| dir.is_dir()) else {
            let what = "file that has another name, in a directory that has gone";
            return Err(No::because(RefusalKind::LostDirectory, what));
        };
        let file = held
            .file
            .try_clone()
            .map_err(|error| No::because(RefusalKind::UnreadableFile, error.to_string()))?;
        let entry = regular::describe(0, held, flags, Vec::new());
        self.links.push(Link { orig_id, file, dir: dir.to_owned(), entry });
        Ok(())
    }

    /// Writes ghosts, makes links. Returns the links and the entries that name them.
    pub(super) fn write(
        mut self,
        folder: &Folder,
        mut last_id: u32,
        steps: &Steps,
    ) -> Result<(Links, Vec<FileEntry>), DumpError> {
        for ghost in self.ghosts.values() {
            steps.next("save a deleted file")?;
            ghost.write(folder, steps)?;
        }
        let mut links = Links::default();
        let mut entries = Vec::new();
        for link in self.links {
            steps.next("link a file beside its old name")?;
            last_id += 1;
            let path = link.dir.join(format!("link_remap.{last_id}"));
            make_link(&link.file, &path)
                .map_err(|errno| DumpError::Write { path: path.clone(), source: errno.into() })?;
            links.made.push(path.clone());
            let name = path.as_os_str().as_bytes().to_vec();
            let reg = criu_image::record::RegFileEntry { id: last_id, name, ..link.entry };
            entries.push(FileEntry { reg: Some(reg), ..of_type(FdTypes::Reg, last_id) });
            self.entries.push(RemapFilePathEntry {
                orig_id: link.orig_id,
                remap_id: last_id,
                remap_type: Some(RemapType::Linked as i32),
            });
        }
        if !self.entries.is_empty() {
            steps.next("write the remapped paths")?;
            let mut image = ImageBuilder::new(ImageKind::RemapFpath);
            self.entries.iter().for_each(|entry| image.push(entry));
            folder.put(&ImageKind::RemapFpath.file_name(0), &image.into_bytes())?;
        }
        Ok((links, entries))
    }
}

fn make_link(file: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let from = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file));
    let here = nix::fcntl::AT_FDCWD;
    nix::unistd::linkat(here, from.as_str(), here, path, AtFlags::AT_SYMLINK_FOLLOW)
}

impl Ghost {
    fn of(id: u32, held: &Held, options: &DumpOptions) -> Result<Self, No> {
        let stat = &held.stat;
        let kind = stat.st_mode & S_IFMT;
        let fail = |errno: Errno| {
            let what = format!("deleted file that cannot be read ({errno})");
            No::because(RefusalKind::UnreadableFile, what)
        };
        let is_regular = kind == libc::S_IFREG;
        if is_regular && stat.st_blocks as u64 * 512 > options.ghost_limit_bytes {
            let what = format!("deleted file of {} bytes", stat.st_size);
            return Err(No::because(RefusalKind::LargeGhost, what));
        }
        let chunks = is_regular && stat.st_size >= CHUNKED_FROM_BYTES;
        let device = matches!(kind, libc::S_IFCHR | libc::S_IFBLK);
        let symlnk_target = match kind {
            libc::S_IFLNK => {
                let target = nix::fcntl::readlinkat(held.file.as_fd(), "").map_err(fail)?;
                Some(target.as_bytes().to_vec())
            }
            _ => None,
        };
        let time = |seconds: i64, nanoseconds: i64| Timeval {
            tv_sec: seconds as u64,
            tv_usec: nanoseconds as u64 / 1000,
        };
        let entry = GhostFileEntry {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode,
            // As the kernel numbers devices: twenty bits of minor.
            dev: Some(libc::major(stat.st_dev) << 20 | libc::minor(stat.st_dev)),
            ino: Some(stat.st_ino),
            rdev: device.then_some(stat.st_rdev as u32),
            atim: Some(time(stat.st_atime, stat.st_atime_nsec)),
            mtim: Some(time(stat.st_mtime, stat.st_mtime_nsec)),
            chunks: chunks.then_some(true),
            size: chunks.then_some(stat.st_size as u64),
            symlnk_target,
        };
        let contents = match is_regular {
            true => Some(raw::reopen(&held.file, libc::O_RDONLY).map_err(fail)?),
            false => None,
        };
        Ok(Self { id, entry, contents })
    }

    fn write(&self, folder: &Folder, steps: &Steps) -> Result<(), DumpError> {
        let name = ImageKind::GhostFile.file_name(self.id.into());
        let head = ImageBuilder::of_one(ImageKind::GhostFile, &self.entry);
        let mut image = folder.create(&name)?;
        image.write(&head)?;
        if let Some(file) = &self.contents {
            let fail = |errno| DumpError::Ghost { id: self.id, errno };
            let size = lseek(file, 0, Whence::SeekEnd).map_err(fail)?;
            let mut at = 0;
            while at < size {
                let (data, hole) = match self.entry.chunks {
                    None => (0, size),
                    Some(_) => match lseek(file, at, Whence::SeekData) {
                        Ok(data) => (data, lseek(file, data, Whence::SeekHole).map_err(fail)?),
                        Err(Errno::ENXIO) => break,
                        Err(errno) => return Err(fail(errno)),
                    },
                };
                if self.entry.chunks.is_some() {
                    let chunk = GhostChunkEntry { len: (hole - data) as u64, off: data as u64 };
                    let mut record = ImageBuilder::new(ImageKind::Pages); // a raw one: no head
                    record.push(&chunk);
                    image.write(&record.into_bytes())?;
                }
                copy(file, (data as u64, hole as u64), &mut image, steps).map_err(|error| {
                    match error {
                        CopyError::Read(errno) => fail(errno),
                        CopyError::Other(error) => error,
                    }
                })?;
                at = hole;
            }
        }
        folder.finish(image);
        Ok(())
    }
}

enum CopyError {
    Read(Errno),
    Other(DumpError),
}

fn copy(
    file: &OwnedFd,
    (mut at, end): (u64, u64),
    image: &mut super::super::staging::Staged,
    steps: &Steps,
) -> Result<(), CopyError> {
    let as_errno =
        |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let file = File::from(file.try_clone().map_err(|e| CopyError::Read(as_errno(e)))?);
    let mut buffer = vec![0; BLOCK_BYTES.min((end - at) as usize)];
    while at < end {
        steps.look().map_err(CopyError::Other)?;
        let len = (end - at).min(buffer.len() as u64) as usize;
        let piece = &mut buffer[..len];
        file.read_exact_at(piece, at).map_err(|e| CopyError::Read(as_errno(e)))?;
        image.write(piece).map_err(CopyError::Other)?;
        at += len as u64;
    }
    Ok(())
}
