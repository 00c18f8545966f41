//! A whole directory checked, with everything that is wrong with it.
//!
//! The manifest comes first, where the dump has left one: what it finds is not looked at again.
//! What a restorer relies on is checked where it is read (`checkpoint`), which here goes on after a
//! finding. `references` and `gpu` add what only other programs rely on.

mod gpu;
mod references;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use crate::checkpoint::{Checkpoint, FINDINGS_MAX, Findings, gather};
use crate::directory::ImageDir;
use crate::error::ImageError;
use crate::gpu::load_images as load_gpu_images;
use crate::kind::ImageKind;
use crate::manifest::Manifest;

/// Checks a directory of images as one checkpoint and returns every finding, at most 1000.
///
/// Every image is read to its end, and everything that one says of another is followed: processes
/// and their images, descriptors, files, mappings, pages, deleted files, sockets, terminals, GPU
/// buffers. Where the dump has left a [`Manifest`], every byte of every file is compared with it;
/// without one the bulk (`pages-*.img`, `amdgpu-*pages-*.img`) is not read, only its size checked.
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
    let dir = dir.as_ref();
    let (manifest, mut all) = compare(dir);
    let damaged: BTreeSet<String> = all.iter().map(|found| found.file().to_owned()).collect();
    let kinds = damaged.iter().filter_map(|name| ImageKind::of_name(OsStr::new(name)));
    let kinds: Vec<ImageKind> = kinds.map(|(kind, _)| kind).collect();
    let found = examine(ImageDir::with(dir, manifest), &kinds)?;
    all.extend(found.into_iter().filter(|found| !damaged.contains(found.file())));
    all.truncate(FINDINGS_MAX);
    Ok(all)
}

/// The manifest, if there is one that can be read, and what it says is wrong.
fn compare(dir: &Path) -> (Option<Manifest>, Vec<ImageError>) {
    match Manifest::open(dir) {
        Ok(Some(manifest)) => {
            let findings = manifest.findings(dir).into_iter().map(ImageError::Manifest).collect();
            (Some(manifest), findings)
        }
        Ok(None) => (None, Vec::new()),
        Err(error) => (None, vec![error.into()]),
    }
}

/// What the images say against each other. Of the kinds in `damaged` not everything is there.
fn examine(dir: ImageDir, damaged: &[ImageKind]) -> Result<Vec<ImageError>, ImageError> {
    let (checkpoint, mut findings) = gather(dir, damaged)?;
    let Some(checkpoint) = checkpoint else { return Ok(findings.into_all()) };
    // An error here says that there are too many findings; those that there are suffice.
    let checked = references::check(&checkpoint, &mut findings)
        .and_then(|()| gpu::check(&checkpoint, &mut findings));
    if findings.is_empty() {
        findings.check(load_gpu_images(&checkpoint))?;
    }
    let mut all = findings.into_all();
    all.extend(checked.err());
    Ok(all)
}

/// Checks the GPU images of a checkpoint; the first thing found is the error.
pub(crate) fn check_gpu(checkpoint: &Checkpoint) -> Result<(), ImageError> {
    gpu::check(checkpoint, &mut Findings::default())
}
