//! Programs of others that we compare with or run on our node: fetched, never installed.

mod archive;
mod crit;
mod criu;
mod rocm;

use std::fs;
use std::path::{Path, PathBuf};

pub(crate) use crit::crit;
pub(crate) use criu::command;

/// Fetches what is not there yet, and says what there is.
pub(crate) fn show() -> Result<(), String> {
    let criu = criu::fetch()?;
    println!("criu {}: {}", criu::version(&criu)?, criu.display());
    let rocm = rocm::fetch()?;
    println!("ROCm {}: {}", rocm::version(&rocm)?, rocm.display());
    Ok(())
}

/// Fetches upstream's criu if it is not there yet, and returns the path of its wrapper.
pub(crate) fn fetch() -> Result<PathBuf, String> {
    criu::fetch()
}

/// Fetches `rocminfo` and the libraries below it if they are not there yet, and returns the folder
/// that they are unpacked in, as a root of a file system.
pub(crate) fn fetch_rocm() -> Result<PathBuf, String> {
    rocm::fetch()
}

fn remove(path: &Path) -> Result<(), String> {
    let removed = match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.map_err(|error| format!("{}: {error}", path.display()))
}
