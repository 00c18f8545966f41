//! Images that nothing models: walked to their last byte and counted, never passed over unread.
//!
//! What such images mean is not known here. A restorer refuses each one, or knows why not.

use super::contradiction;
use super::load::Loader;
use super::model::OtherImage;
use crate::directory::ImageDir;
use crate::error::ImageError;
use crate::image::data::{Follow, MESSAGE_ALIGN_BYTES, SEMAPHORES_ALIGN_BYTES};
use crate::image::format::Format;
use crate::kind::ImageKind;
use crate::reader::Image;
use crate::record::{IpcMsg, SeccompEntry};

/// Everything that nothing has asked for; an image that must have an owner is an error.
pub(super) fn collect(loader: &mut Loader) -> Result<Vec<OtherImage>, ImageError> {
    let unused: Vec<(ImageKind, String)> =
        loader.unused().map(|(kind, name)| (kind, name.to_owned())).collect();
    let mut others = Vec::new();
    for (kind, name) in unused {
        if let Some((reason, owners)) = owned_by(kind) {
            if owners.iter().all(|&owner| loader.findings.is_sure_of(owner)) {
                let (file, reason) = (name, reason.to_owned());
                loader.findings.report(ImageError::NoOwner { file, reason })?;
            }
            continue;
        }
        let other = other(loader, kind, name);
        others.extend(loader.findings.check(other)?);
    }
    Ok(others)
}

fn other(loader: &Loader, kind: ImageKind, name: String) -> Result<OtherImage, ImageError> {
    let size_bytes = loader.dir.size_of(&name)?;
    let records = if kind.is_raw() { 0 } else { records_of(&loader.dir, kind, &name)? };
    Ok(OtherImage { file: name.into(), kind, records, size_bytes })
}

/// What an image of this kind must belong to, if it must, and the kinds that have to be whole for
/// its owner to be known.
fn owned_by(kind: ImageKind) -> Option<(&'static str, [ImageKind; 2])> {
    Some(match kind {
        ImageKind::Core | ImageKind::Ids | ImageKind::Mm | ImageKind::Fs | ImageKind::Pagemap => {
            ("no live task of the tree has this id", [ImageKind::Pstree, kind])
        }
        ImageKind::Fdinfo => {
            ("no process has a descriptor table with this id", [ImageKind::Ids, kind])
        }
        ImageKind::Pages => ("no pagemap refers to it", [ImageKind::Pagemap, kind]),
        ImageKind::ShmemPagemap => ("no shared memory has this id", [ImageKind::MemfdInode, kind]),
        ImageKind::GhostFile => ("no file is remapped to it", [ImageKind::RemapFpath, kind]),
        _ => return None,
    })
}

/// Walks an image to its end and counts the records.
fn records_of(dir: &ImageDir, kind: ImageKind, name: &str) -> Result<u64, ImageError> {
    let mut image = Image::open(dir, kind, name)?;
    if kind == ImageKind::Seccomp {
        // The dump always writes one record; the filters in it are what counts.
        let filters: SeccompEntry = image.only()?;
        return Ok(filters.seccomp_filters.len() as u64);
    }
    let format = Format::of_kind(kind).expect("such a kind is not raw");
    let mut records = 0;
    while image.left() > 0 {
        let message = format.message(records).expect("what has a number has records");
        let begin = image.at();
        let follow = Follow::of(format, records, image.pass(message)?).map_err(|error| {
            contradiction(name, begin, format!("the record cannot be decoded: {error}"))
        })?;
        skip_data(&mut image, follow)?;
        records += 1;
    }
    Ok(records)
}

/// Passes over the data that follows a record.
fn skip_data(image: &mut Image, follow: Follow) -> Result<(), ImageError> {
    match follow {
        Follow::Nothing => Ok(()),
        Follow::Bytes { len, align_bytes } => {
            image.skip(len.checked_next_multiple_of(align_bytes).unwrap_or(u64::MAX))
        }
        Follow::Tcp { inq_len, outq_len } => image.skip(inq_len + outq_len),
        Follow::Semaphores { count } => {
            image.skip((count * 2).next_multiple_of(SEMAPHORES_ALIGN_BYTES))
        }
        Follow::Messages { count } => {
            for _ in 0..count {
                let (_, message) = image.must_next::<IpcMsg>()?;
                image.skip(u64::from(message.msize).next_multiple_of(MESSAGE_ALIGN_BYTES))?;
            }
            Ok(())
        }
        Follow::Rest => image.skip(image.left()),
    }
}
