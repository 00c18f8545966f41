//! What differs between two images, or between two checkpoints.
//!
//! Records are matched by what names them (a process id, a descriptor, an address), not by their
//! place. Memory is compared by process and address, wherever its pages lie.

mod contents;
mod records;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::Path;

use crate::directory::images_in;
use crate::error::ImageError;
use crate::image::format::Format;
use crate::kind::ImageKind;

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Image file, or `memory of process N`.
    pub file: String,
    /// Where in it, such as `id=5.reg.pos`; empty if it is the file as a whole.
    pub place: String,
    /// What the first has, as in readable JSON; `None` if it has nothing there.
    pub first: Option<String>,
    /// What the second has.
    pub second: Option<String>,
}

/// Takes differences as they are found; `false` ends the search.
pub(crate) type Sink<'a> = dyn FnMut(Difference) -> bool + 'a;

/// Compares two images of one kind, or two directories of images, and hands on each difference.
/// When `each` returns `false`, nothing more is looked for.
///
/// # Errors
/// [`ImageError`] if either side cannot be read.
///
/// # Example
/// ```
/// # let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gpu-tree");
/// let [parent, child] = ["mm-28866.img", "mm-28870.img"].map(|name| format!("{dir}/{name}"));
/// let mut count = 0;
/// criu_image::diff(parent, child, &mut |difference| {
///     println!("{}: {:?} -> {:?}", difference.place, difference.first, difference.second);
///     count += 1;
///     true
/// })?;
/// # assert!(count > 0);
/// # Ok::<(), criu_image::ImageError>(())
/// ```
pub fn diff(
    first: impl AsRef<Path>,
    second: impl AsRef<Path>,
    each: &mut dyn FnMut(Difference) -> bool,
) -> Result<(), ImageError> {
    let (first, second) = (first.as_ref(), second.as_ref());
    if first.is_dir() && second.is_dir() {
        return directories(first, second, each);
    }
    let name = first.file_name().unwrap_or(first.as_os_str()).to_string_lossy().into_owned();
    files(first, second, &name, each).map(|_| ())
}

/// `false` if the search has been ended.
fn files(first: &Path, second: &Path, name: &str, each: &mut Sink<'_>) -> Result<bool, ImageError> {
    let kind = first.file_name().and_then(ImageKind::of_name).map(|(kind, _)| kind);
    match kind {
        Some(kind) if Format::of_kind(kind).is_none() => contents::files(first, second, name, each),
        Some(ImageKind::AmdgpuPages | ImageKind::AmdgpuDrmPages) => {
            contents::files(first, second, name, each)
        }
        _ => records::images(first, second, name, each),
    }
}

fn directories(first: &Path, second: &Path, each: &mut Sink<'_>) -> Result<(), ImageError> {
    let (ours, theirs) = (names(first)?, names(second)?);
    for name in ours.union(&theirs) {
        let shown = name.to_string_lossy().into_owned();
        let kind = ImageKind::of_name(name).map(|(kind, _)| kind);
        if kind == Some(ImageKind::Pages) {
            continue; // compared by process, since their numbers mean nothing
        }
        let goes_on = match (ours.contains(name), theirs.contains(name)) {
            (true, true) => files(&first.join(name), &second.join(name), &shown, each)?,
            (in_first, _) => {
                let what = Some(kind.map_or("an image", ImageKind::describe).to_owned());
                let (first, second) = if in_first { (what, None) } else { (None, what) };
                each(Difference { file: shown, place: String::new(), first, second })
            }
        };
        if !goes_on {
            return Ok(());
        }
    }
    contents::memories(first, second, &ours, &theirs, each).map(|_| ())
}

/// Names of all images of a directory.
fn names(dir: &Path) -> Result<BTreeSet<OsString>, ImageError> {
    let files = images_in(dir)?.into_iter();
    Ok(files.filter_map(|file| file.path.file_name().map(OsString::from)).collect())
}
