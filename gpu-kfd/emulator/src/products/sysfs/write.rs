//! Puts the tree into a folder, for a layer over the host's `/sys` or for looking at.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::{Entry, Sysfs};

/// A file of the tree could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct SysfsWriteError {
    /// Where it was to be.
    pub path: PathBuf,
    /// The kernel's error.
    pub source: io::Error,
}

impl Sysfs {
    /// Writes the tree below `folder`: `/sys/class` becomes `<folder>/sys/class`. Folders may be
    /// there already, files and links may not.
    ///
    /// # Errors
    /// [`SysfsWriteError`]: the first entry that could not be made. What was written before stays.
    pub fn write_below(&self, folder: impl AsRef<Path>) -> Result<(), SysfsWriteError> {
        for (path, entry) in self.iter() {
            // Every path begins with /sys.
            let path = folder.as_ref().join(path.strip_prefix("/").unwrap_or(path));
            let done = match entry {
                Entry::Dir => fs::create_dir_all(&path),
                Entry::File(content) => fs::write(&path, content),
                Entry::Link(target) => symlink(target, &path),
            };
            done.map_err(|source| SysfsWriteError { path, source })?;
        }
        Ok(())
    }
}
