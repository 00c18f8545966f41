//! The images of a directory by name; none is opened.

use std::path::{Path, PathBuf};

use crate::error::ImageError;
use crate::kind::ImageKind;

/// An image file, as its name says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ImageFile {
    /// What it is.
    pub kind: ImageKind,
    /// The number in its name: a process id, or whatever images of the kind are numbered by.
    pub id: Option<u64>,
    /// Where it is.
    pub path: PathBuf,
}

/// Lists the images of a directory, sorted by kind and number. What has another name is left out:
/// logs, pid files, images of CRIU before 3.0.
///
/// # Errors
/// [`ImageError::Read`] if the directory cannot be read.
///
/// # Example
/// ```
/// use criu_image::{ImageKind, ImageReader, images_in, record};
/// # let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gpu-tree");
/// for file in images_in(dir)?.iter().filter(|file| file.kind == ImageKind::Fdinfo) {
///     let table = ImageReader::open(&file.path)?.records::<record::FdinfoEntry>();
///     println!("table {:?} has {} descriptors", file.id, table.count());
/// }
/// # Ok::<(), criu_image::ImageError>(())
/// ```
pub fn images_in(dir: impl AsRef<Path>) -> Result<Vec<ImageFile>, ImageError> {
    let dir = dir.as_ref();
    let fail = |source| ImageError::Read { file: dir.display().to_string(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        if let Some((kind, id)) = ImageKind::of_name(&name) {
            files.push(ImageFile { kind, id, path: dir.join(name) });
        }
    }
    files.sort();
    Ok(files)
}
