//! A whole directory checked, with everything that is wrong with it.
//!
//! What a restorer relies on is checked where it is read (`checkpoint`), which here goes on after a
//! finding. `references` and `gpu` add what only other programs rely on.

mod gpu;
mod references;

use std::path::Path;

use crate::checkpoint::{Checkpoint, Findings, gather};
use crate::error::ImageError;

/// Checks a directory of images as one checkpoint and returns every finding, at most about 1000.
///
/// Every image is read to its end, and everything that one says of another is followed: processes
/// and their images, descriptors, files, mappings, pages, deleted files, sockets, terminals, GPU
/// buffers. The bulk (`pages-*.img`, `amdgpu-*pages-*.img`) is not read; its size is checked.
/// What was damaged is left out of the other checks, so that one damage is one finding.
///
/// An [`ImageError::Unsupported`] is no damage: it says what could not be checked.
///
/// # Errors
/// [`ImageError::Read`] if the directory cannot be read.
///
/// # Example
/// ```
/// # let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gpu-tree");
/// for finding in criu_image::verify(dir)? {
///     println!("{finding}"); // such as `pages-1.img is missing: pagemap-28866.img`
/// }
/// # Ok::<(), criu_image::ImageError>(())
/// ```
pub fn verify(dir: impl AsRef<Path>) -> Result<Vec<ImageError>, ImageError> {
    let (checkpoint, mut findings) = gather(dir.as_ref())?;
    let Some(checkpoint) = checkpoint else { return Ok(findings.into_all()) };
    // An error here says that there are too many findings; those that there are suffice.
    let checked = references::check(&checkpoint, &mut findings)
        .and_then(|()| gpu::check(&checkpoint, &mut findings));
    let mut all = findings.into_all();
    all.extend(checked.err());
    Ok(all)
}

/// Checks the GPU images of a checkpoint; the first thing found is the error.
pub(crate) fn check_gpu(checkpoint: &Checkpoint) -> Result<(), ImageError> {
    gpu::check(checkpoint, &mut Findings::default())
}
