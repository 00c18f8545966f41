//! Puts an image file together: its head, then each record with its length.
//!
//! Images are built in memory, as they are read: they are small. The bulk (pages, contents of
//! deleted files) is for the caller to stream after what this gives.

use prost::Message;

use crate::image::format::{COMMON_MAGIC, SERVICE_MAGIC};
use crate::kind::ImageKind;

/// An image that is being put together.
#[derive(Debug)]
pub struct ImageBuilder {
    bytes: Vec<u8>,
}

impl ImageBuilder {
    /// Begins an image of a kind; a raw one has no head.
    pub fn new(kind: ImageKind) -> Self {
        let mut bytes = Vec::new();
        let family = match kind {
            _ if kind.is_raw() => return Self { bytes },
            ImageKind::Inventory => None,
            ImageKind::StatsDump | ImageKind::StatsRestore | ImageKind::IrmapCache => {
                Some(SERVICE_MAGIC)
            }
            _ => Some(COMMON_MAGIC),
        };
        for magic in family.into_iter().chain([kind.magic()]) {
            bytes.extend(magic.to_le_bytes());
        }
        Self { bytes }
    }

    /// An image of exactly one record.
    pub fn of_one(kind: ImageKind, record: &impl Message) -> Vec<u8> {
        let mut image = Self::new(kind);
        image.push(record);
        image.into_bytes()
    }

    /// Adds a record.
    pub fn push(&mut self, record: &impl Message) {
        let len = record.encoded_len();
        self.bytes.reserve(4 + len);
        self.bytes.extend((len as u32).to_le_bytes());
        record.encode(&mut self.bytes).expect("a vector grows");
    }

    /// Adds bytes that are no record (what some kinds keep between records).
    pub fn push_raw(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// The whole file.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::ImageBuilder;
    use crate::ImageKind;
    use crate::directory::ImageDir;
    use crate::reader::Image;
    use crate::record::{FsEntry, PstreeEntry};

    #[test]
    fn what_was_written_is_read_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let images = ImageDir::unverified(dir.path());
        let one = PstreeEntry { pid: 7, ppid: 0, pgid: 7, sid: 7, threads: vec![7, 9] };
        let two = PstreeEntry { pid: 8, ppid: 7, pgid: 7, sid: 7, threads: vec![8] };
        let mut image = ImageBuilder::new(ImageKind::Pstree);
        image.push(&one);
        image.push(&two);
        std::fs::write(dir.path().join("pstree.img"), image.into_bytes()).expect("room");
        let image = Image::open(&images, ImageKind::Pstree, "pstree.img").expect("a head");
        let records = image.all::<PstreeEntry>().expect("records");
        assert_eq!(records.into_iter().map(|(_, r)| r).collect::<Vec<_>>(), [one, two]);
        let fs = FsEntry { cwd_id: 1, root_id: 2, umask: Some(0o22) };
        let bytes = ImageBuilder::of_one(ImageKind::Fs, &fs);
        std::fs::write(dir.path().join("fs-7.img"), bytes).expect("room");
        let image = Image::open(&images, ImageKind::Fs, "fs-7.img").expect("a head");
        assert_eq!(image.only::<FsEntry>().expect("one record"), fs);
    }
}
