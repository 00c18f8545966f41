//! Files of a topology as lines and records. It knows no property, but limits and line numbers.
//!
//! Where the bytes come from is a trait, so that what only a kernel does (an entry that a device
//! cgroup hides, a topology that changes under the reader) can be tested.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::error::{LineProblem, TopologyError};

/// Longest file that is read. sysfs writes at most one page, which is 64 KiB on the machines with
/// the largest pages.
pub(super) const FILE_BYTES_MAX: usize = 64 << 10;
/// What the driver answers for a GPU that a device cgroup hides (`kfd_devcgroup_check_permission`
/// in amdkfd `kfd_topology.c`). `EACCES`, which is about the file's mode, is something else.
const EPERM: i32 = 1;
/// Characters of a bad line that an error repeats.
const SHOWN_CHARS_MAX: usize = 64;

/// Where files come from.
pub(super) trait Source {
    /// At most the first `bytes_max` bytes of a file.
    fn read(&self, path: &Path, bytes_max: usize) -> io::Result<Vec<u8>>;
    /// Names of what is in a folder, in any order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
}

/// The files of this host.
pub(super) struct Disk;

impl Source for Disk {
    fn read(&self, path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(bytes_max as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        // A name that is no UTF-8 is no number, and numbers are all that is looked for.
        fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into())).collect()
    }
}

/// Properties with names, filled line by line.
pub(super) trait Record: Default {
    /// Takes one property in.
    fn set(&mut self, name: &str, value: &str) -> Result<(), LineProblem>;
}

/// A number of `bits` bits, as the driver prints it.
pub(super) fn number<T: std::str::FromStr>(value: &str) -> Result<T, LineProblem> {
    // `FromStr` of the integers takes a sign, which the driver never prints.
    let bits = 8 * size_of::<T>() as u32;
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = if digits { value.parse().ok() } else { None };
    parsed.ok_or(LineProblem::NotANumber { bits })
}

/// Text of a file, within the limit.
pub(super) fn text(source: &impl Source, path: &Path) -> Result<String, TopologyError> {
    let bytes = source
        .read(path, FILE_BYTES_MAX + 1)
        .map_err(|source| TopologyError::Read { path: path.to_owned(), source })?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(TopologyError::TooLong { path: path.to_owned(), bytes_max: FILE_BYTES_MAX });
    }
    String::from_utf8(bytes).map_err(|_| TopologyError::NotText { path: path.to_owned() })
}

/// A file with one number of 32 bits.
pub(super) fn single(source: &impl Source, path: &Path) -> Result<u32, TopologyError> {
    let text = text(source, path)?;
    number(text.trim()).map_err(|problem| bad_line(path, 1, text.trim(), problem))
}

/// A file of lines `name value`.
pub(super) fn record<R: Record>(source: &impl Source, path: &Path) -> Result<R, TopologyError> {
    let text = text(source, path)?;
    let mut record = R::default();
    let mut seen = BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        let bad = |problem| bad_line(path, index + 1, line, problem);
        let (name, value) = line.split_once(' ').ok_or_else(|| bad(LineProblem::NotAPair))?;
        if name.is_empty() {
            return Err(bad(LineProblem::NotAPair));
        }
        if !seen.insert(name) {
            return Err(bad(LineProblem::Twice));
        }
        record.set(name, value.trim()).map_err(bad)?;
    }
    Ok(record)
}

/// Entries of a folder whose names are numbers, ascending. What else is there is passed over.
pub(super) fn numbered(
    source: &impl Source,
    folder: &Path,
    entries_max: usize,
) -> Result<Vec<(u32, PathBuf)>, TopologyError> {
    let names = source
        .list(folder)
        .map_err(|source| TopologyError::Read { path: folder.to_owned(), source })?;
    let mut entries: Vec<(u32, PathBuf)> =
        names.iter().filter_map(|name| Some((number(name).ok()?, folder.join(name)))).collect();
    if entries.len() > entries_max {
        return Err(TopologyError::TooMany { path: folder.to_owned(), entries_max });
    }
    entries.sort();
    Ok(entries)
}

/// A record of each numbered entry of a folder.
pub(super) fn records<R: Record>(
    source: &impl Source,
    folder: &Path,
    entries_max: usize,
) -> Result<Vec<R>, TopologyError> {
    numbered(source, folder, entries_max)?
        .iter()
        .map(|(_, entry)| record(source, &entry.join("properties")))
        .collect()
}

/// Whether there is no file or folder `path`.
pub(super) fn is_missing(error: &TopologyError, path: &Path) -> bool {
    matches!(error, TopologyError::Read { path: of, source }
        if of == path && source.kind() == io::ErrorKind::NotFound)
}

/// Whether a device cgroup hides the GPU that the file belongs to.
pub(super) fn is_hidden(error: &TopologyError) -> bool {
    matches!(error, TopologyError::Read { source, .. } if source.raw_os_error() == Some(EPERM))
}

fn bad_line(path: &Path, line: usize, text: &str, problem: LineProblem) -> TopologyError {
    let text = text.chars().take(SHOWN_CHARS_MAX).collect();
    TopologyError::Line { path: path.to_owned(), line, text, problem }
}
