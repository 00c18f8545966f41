//! Images on their way to the disk: written beside their place, synced, and only then put there.
//!
//! Everything goes to a hidden folder within the image directory. When all is written and synced,
//! each file is renamed to its place, the inventory last: without it nothing is a checkpoint, for
//! us and for upstream alike. Whatever ends the dump before that leaves no image.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use criu_image::{FileSum, ImageKind, MANIFEST_NAME, Manifest, Summer};

use super::steps::Steps;
use super::{DumpError, raw};

/// The one file without which the others are no checkpoint.
const LAST: &str = "inventory.img";

/// The image directory while its images lie beside their place.
#[derive(Debug)]
pub(crate) struct Staging {
    dir: PathBuf,
    folder: Folder,
    /// What was written into the folder.
    written: Receiver<(String, FileSum)>,
    manifest: Manifest,
}

/// The hidden folder that images are written into; all workers do.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Each file once, when it is complete.
    written: Sender<(String, FileSum)>,
}

impl Folder {
    /// Writes a whole file.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) -> Result<(), DumpError> {
        let mut staged = self.create(name)?;
        staged.write(bytes)?;
        self.finish(staged);
        Ok(())
    }

    /// Begins a file that is written piece by piece.
    pub(crate) fn create(&self, name: &str) -> Result<Staged, DumpError> {
        let path = self.path.join(name);
        let file = File::create(&path).map_err(|source| failed(&path, source))?;
        let outlet = Outlet { name: name.to_owned(), path, file, writing: Duration::ZERO };
        Ok(Staged { outlet, summer: Summer::default() })
    }

    /// Takes a file that is complete.
    pub(crate) fn finish(&self, staged: Staged) {
        // All are on their way to the disk before the first is waited for.
        raw::begin_to_sync(&staged.outlet.file);
        self.record(staged.outlet.name, staged.summer.finish());
    }

    /// Takes a file that is complete, under other names too: as one file, or where the file system
    /// knows no links, as copies.
    pub(crate) fn finish_as(&self, staged: Staged, also: &[String]) -> Result<(), DumpError> {
        let (from, sum) = (self.path.join(&staged.outlet.name), staged.summer.finish());
        for name in also {
            let path = self.path.join(name);
            let linked = fs::hard_link(&from, &path).or_else(|_| fs::copy(&from, &path).map(drop));
            linked.map_err(|source| DumpError::Write { path, source })?;
            self.record(name.clone(), sum.clone());
        }
        raw::begin_to_sync(&staged.outlet.file);
        self.record(staged.outlet.name, sum);
        Ok(())
    }

    fn record(&self, name: String, sum: FileSum) {
        // Whoever does not listen any more has given up the dump.
        let _ = self.written.send((name, sum));
    }
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
            let kind = ImageKind::of_name(&name).map(|(kind, _)| kind);
            // What a restore said of itself is none of a checkpoint.
            let is_image = kind.is_some_and(|kind| kind != ImageKind::StatsRestore);
            if is_image || name == MANIFEST_NAME {
                return Err(DumpError::Occupied { path: entry.path() });
            }
            // What a dump that was killed has left; its owner is no more.
            if is_abandoned(&name.to_string_lossy()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let path = dir.join(format!(".thaw-dump-{}", std::process::id()));
        let fail = |source| DumpError::Write { path: path.clone(), source };
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).map_err(fail)?;
        let (sender, written) = channel();
        let folder = Folder { path, written: sender };
        Ok(Self { dir: dir.to_owned(), folder, written, manifest: Manifest::default() })
    }

    /// Where images are written.
    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Bytes of all complete files.
    pub(crate) fn total_bytes(&mut self) -> u64 {
        self.manifest.files.extend(self.written.try_iter());
        self.manifest.files.values().map(|sum| sum.len_bytes).sum()
    }

    /// Syncs everything and puts it in place.
    ///
    /// # Errors
    /// [`DumpError::Write`]; no image is in place then.
    pub(crate) fn commit(mut self, steps: &Steps) -> Result<(), DumpError> {
        self.manifest.files.extend(self.written.try_iter());
        let folder = &self.folder.path;
        let path = folder.join(MANIFEST_NAME);
        fs::write(&path, self.manifest.to_text())
            .map_err(|source| DumpError::Write { path: path.clone(), source })?;
        let mut names: Vec<&str> = self.manifest.files.keys().map(String::as_str).collect();
        names.push(MANIFEST_NAME);
        for name in &names {
            steps.next("sync an image")?;
            let path = folder.join(name);
            sync(&path).map_err(|source| DumpError::Write { path, source })?;
        }
        names.sort_by_key(|name| *name == LAST);
        let mut placed: Vec<PathBuf> = Vec::new();
        let mut place = |name: &str| {
            steps.next("put an image in place")?;
            let path = self.dir.join(name);
            let renamed = fs::rename(folder.join(name), &path);
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
        let _ = fs::remove_dir_all(&self.folder.path);
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
    outlet: Outlet,
    summer: Summer,
}

impl Staged {
    /// Adds bytes at the end.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), DumpError> {
        self.sum(bytes);
        self.outlet.write(bytes)
    }

    /// Time that writing took so far, but for what [`Staged::another`] wrote.
    pub(crate) fn writing(&self) -> Duration {
        self.outlet.writing()
    }

    /// Takes note of bytes that are written through [`Staged::another`].
    pub(crate) fn sum(&mut self, bytes: &[u8]) {
        self.summer.update(bytes);
    }

    /// The same file, to be written by another thread, which does not sum.
    pub(crate) fn another(&self) -> Result<Outlet, DumpError> {
        let Outlet { name, path, file, .. } = &self.outlet;
        let file = file.try_clone().map_err(|source| failed(path, source))?;
        Ok(Outlet { name: name.clone(), path: path.clone(), file, writing: Duration::ZERO })
    }
}

/// A file without its sums, which another thread may keep.
#[derive(Debug)]
pub(crate) struct Outlet {
    name: String,
    path: PathBuf,
    file: File,
    writing: Duration,
}

impl Outlet {
    /// Adds bytes at the end.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), DumpError> {
        let begin = Instant::now();
        let written = self.file.write_all(bytes);
        self.writing += begin.elapsed();
        written.map_err(|source| failed(&self.path, source))
    }

    /// Time that writing took so far.
    pub(crate) fn writing(&self) -> Duration {
        self.writing
    }
}

fn failed(path: &Path, source: io::Error) -> DumpError {
    DumpError::Write { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::{LAST, Staging, Steps};
    use crate::capture::DumpError;

    #[test]
    fn images_are_absent_until_all_is_in_place() {
        let dir = tempfile::tempdir().expect("a folder");
        let staging = Staging::begin(dir.path()).expect("an empty folder");
        staging.folder().put("core-1.img", b"core").expect("room");
        staging.folder().put(LAST, b"inventory").expect("room");
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
        staging.folder().put(LAST, b"inventory").expect("room");
        drop(staging);
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
    }
}
