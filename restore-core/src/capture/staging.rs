//! Images on their way to the disk: written beside their place, synced, and only then put there.
//!
//! Everything goes to a hidden folder within the image directory. When all is written and synced,
//! each file is renamed to its place, the inventory last: without it nothing is a checkpoint, for
//! us and for upstream alike. Whatever ends the dump before that leaves no image.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use criu_image::{FileSum, ImageKind, MANIFEST_NAME, Manifest, Summer};

use super::steps::Steps;
use super::{DumpError, raw};

/// The one file without which the others are no checkpoint.
const LAST: &str = "inventory.img";

/// The folder, and the sums of what was written so far.
#[derive(Debug)]
pub(crate) struct Staging {
    dir: PathBuf,
    temporary: PathBuf,
    /// Each file once, when it is complete; workers add to it.
    sums: Mutex<Manifest>,
}

impl Staging {
    /// Begins a dump into a directory that holds no images yet.
    ///
    /// # Errors
    /// [`DumpError::Occupied`], or [`DumpError::Write`].
    pub(crate) fn begin(dir: &Path) -> Result<Self, DumpError> {
        let fail = |source| DumpError::Write { path: dir.to_owned(), source };
        for entry in fs::read_dir(dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            if ImageKind::of_name(&name).is_some() || name == MANIFEST_NAME {
                return Err(DumpError::Occupied { path: entry.path() });
            }
            // What a dump that was killed has left; its owner is no more.
            if is_abandoned(&name.to_string_lossy()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let temporary = dir.join(format!(".thaw-dump-{}", std::process::id()));
        let fail = |source| DumpError::Write { path: temporary.clone(), source };
        let _ = fs::remove_dir_all(&temporary);
        fs::create_dir(&temporary).map_err(fail)?;
        Ok(Self { dir: dir.to_owned(), temporary, sums: Mutex::default() })
    }

    /// Writes a whole file.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> Result<(), DumpError> {
        let path = self.temporary.join(name);
        fs::write(&path, bytes).map_err(|source| DumpError::Write { path, source })?;
        self.record(name.to_owned(), FileSum::of(bytes));
        Ok(())
    }

    /// Begins a file that is written piece by piece.
    pub(crate) fn create(&self, name: &str) -> Result<Staged, DumpError> {
        let path = self.temporary.join(name);
        let file = File::create(&path).map_err(|source| DumpError::Write { path, source })?;
        Ok(Staged { name: name.to_owned(), file, summer: Summer::default() })
    }

    /// Takes a file that is complete.
    pub(crate) fn finish(&self, staged: Staged) {
        self.record(staged.name, staged.summer.finish());
    }

    fn record(&self, name: String, sum: FileSum) {
        let mut sums = self.sums.lock().expect("nobody panics while holding it");
        sums.files.insert(name, sum);
    }

    /// Bytes of all complete files.
    pub(crate) fn total_bytes(&self) -> u64 {
        let sums = self.sums.lock().expect("nobody panics while holding it");
        sums.files.values().map(|sum| sum.len_bytes).sum()
    }

    /// Syncs everything and puts it in place.
    ///
    /// # Errors
    /// [`DumpError::Write`]; no image is in place then.
    pub(crate) fn commit(self, steps: &Steps) -> Result<(), DumpError> {
        let manifest = self.sums.lock().expect("nobody panics while holding it").clone();
        let path = self.temporary.join(MANIFEST_NAME);
        fs::write(&path, manifest.to_text())
            .map_err(|source| DumpError::Write { path: path.clone(), source })?;
        let mut names: Vec<&str> = manifest.files.keys().map(String::as_str).collect();
        names.push(MANIFEST_NAME);
        // All are on their way before the first is waited for.
        for name in &names {
            if let Ok(file) = File::open(self.temporary.join(name)) {
                raw::begin_to_sync(&file);
            }
        }
        for name in &names {
            steps.next("sync an image")?;
            let path = self.temporary.join(name);
            sync(&path).map_err(|source| DumpError::Write { path, source })?;
        }
        names.sort_by_key(|name| *name == LAST);
        let mut placed: Vec<PathBuf> = Vec::new();
        let mut place = |name: &str| {
            steps.next("put an image in place")?;
            let path = self.dir.join(name);
            let renamed = fs::rename(self.temporary.join(name), &path);
            renamed.map_err(|source| DumpError::Write { path: path.clone(), source })?;
            placed.push(path);
            Ok(())
        };
        let mut result = names.into_iter().try_for_each(&mut place);
        if result.is_ok() {
            let path = self.dir.clone();
            result = sync(&path).map_err(|source| DumpError::Write { path, source });
        }
        if result.is_err() {
            placed.iter().rev().for_each(|path| drop(fs::remove_file(path)));
        }
        result
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.temporary);
    }
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Whether a name is that of the folder of a dump whose process has gone.
fn is_abandoned(name: &str) -> bool {
    let pid = name.strip_prefix(".thaw-dump-").and_then(|pid| pid.parse::<i32>().ok());
    pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct Staged {
    name: String,
    file: File,
    summer: Summer,
}

impl Staged {
    /// Adds bytes at the end.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), DumpError> {
        self.summer.update(bytes);
        self.file.write_all(bytes).map_err(|source| {
            let path = PathBuf::from(&self.name);
            DumpError::Write { path, source }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{LAST, Staging, Steps};
    use crate::capture::DumpError;

    #[test]
    fn images_are_absent_until_all_is_in_place() {
        let dir = tempfile::tempdir().expect("a folder");
        let staging = Staging::begin(dir.path()).expect("an empty folder");
        staging.put("core-1.img", b"core").expect("room");
        staging.put(LAST, b"inventory").expect("room");
        let images = || {
            let entries = std::fs::read_dir(dir.path()).expect("a folder").flatten();
            let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
            names.filter(|name| !name.starts_with('.')).collect::<Vec<_>>()
        };
        assert_eq!(images(), Vec::<String>::new());
        staging.commit(&Steps::new(None, None, None)).expect("room");
        assert_eq!(images().len(), 3);
        let manifest = criu_image::Manifest::open(dir.path()).expect("it is whole");
        manifest.expect("it was written").verify(dir.path()).expect("nothing is damaged");
        assert!(matches!(Staging::begin(dir.path()), Err(DumpError::Occupied { .. })));
    }

    #[test]
    fn dump_that_ends_early_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a folder");
        let staging = Staging::begin(dir.path()).expect("an empty folder");
        staging.put(LAST, b"inventory").expect("room");
        drop(staging);
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
    }
}
