//! Reads the files of a directory into records, each image once, none left over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::model::{Checkpoint, DataSpan, FileId, PipeData};
use super::{attributes, contradiction, files, ghost, memory, other, tree};
use crate::directory::ImageDir;
use crate::error::ImageError;
use crate::kind::{ImageKind, is_superseded};
use crate::reader::{Image, Record, file_size};
use crate::record;

/// The images of a directory, and which of them have been used.
pub(super) struct Loader {
    pub(super) dir: ImageDir,
    names: BTreeMap<(ImageKind, Option<u64>), Vec<String>>,
    used: BTreeSet<(ImageKind, Option<u64>)>,
    /// Where the record of each open file begins, for messages.
    pub(super) file_at: BTreeMap<FileId, u64>,
}

impl Loader {
    pub(super) fn new(dir: &Path) -> Result<Self, ImageError> {
        let fail = |source| ImageError::Read { file: dir.display().to_string(), source };
        let mut names: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let text = name.to_string_lossy().into_owned();
            match ImageKind::of_name(&name) {
                Some(key) => names.entry(key).or_default().push(text),
                None if text == "parent" => {
                    let feature = "an incremental checkpoint (images in a parent directory)";
                    return Err(ImageError::Unsupported { file: text, feature });
                }
                None if is_superseded(&text) => {
                    let feature = "an image of a kind that CRIU 4.2 no longer writes";
                    return Err(ImageError::Unsupported { file: text, feature });
                }
                None if text.ends_with(".img") => {
                    return Err(ImageError::UnknownKind { file: text });
                }
                None => {} // logs, pid files and the like
            }
        }
        Ok(Self {
            dir: ImageDir::open(dir)?,
            names,
            used: BTreeSet::new(),
            file_at: BTreeMap::new(),
        })
    }

    /// Opens an image that may be absent.
    pub(super) fn find(
        &mut self,
        kind: ImageKind,
        id: Option<u64>,
    ) -> Result<Option<Image>, ImageError> {
        let Some(names) = self.names.get(&(kind, id)) else {
            return Ok(None);
        };
        self.used.insert((kind, id));
        Image::open(&self.dir, kind, &names[0]).map(Some)
    }

    /// Opens an image that stays among those that nothing models.
    pub(super) fn peek(
        &self,
        kind: ImageKind,
        id: Option<u64>,
    ) -> Result<Option<Image>, ImageError> {
        let Some(names) = self.names.get(&(kind, id)) else {
            return Ok(None);
        };
        Image::open(&self.dir, kind, &names[0]).map(Some)
    }

    /// Opens an image that something refers to.
    pub(super) fn need(
        &mut self,
        kind: ImageKind,
        id: Option<u64>,
        needed_for: &str,
    ) -> Result<Image, ImageError> {
        let found = self.find(kind, id)?;
        found.ok_or_else(|| ImageError::Missing {
            file: kind.file_name(id.unwrap_or(0)),
            needed_for: needed_for.to_owned(),
        })
    }

    /// All records of an image that may be absent.
    pub(super) fn records<R: Record>(
        &mut self,
        kind: ImageKind,
    ) -> Result<Vec<(u64, R)>, ImageError> {
        self.find(kind, None)?.map_or(Ok(Vec::new()), Image::all)
    }

    /// Ids of the images of a kind.
    pub(super) fn ids(&self, kind: ImageKind) -> Vec<u64> {
        self.names.keys().filter(|key| key.0 == kind).filter_map(|key| key.1).collect()
    }

    /// Size of a raw image that something refers to.
    pub(super) fn size_of(
        &mut self,
        kind: ImageKind,
        id: u64,
        needed_for: &str,
    ) -> Result<u64, ImageError> {
        let file = kind.file_name(id);
        self.used.insert((kind, Some(id)));
        if !self.names.contains_key(&(kind, Some(id))) {
            return Err(ImageError::Missing { file, needed_for: needed_for.to_owned() });
        }
        file_size(&self.dir.path().join(&file), &file)
    }

    pub(super) fn checkpoint(mut self) -> Result<Checkpoint, ImageError> {
        let inventory = self.inventory()?;
        let (fd_tables, open_files) = (BTreeMap::new(), files::load(&mut self)?);
        let mut checkpoint = Checkpoint {
            dir: self.dir.path().to_owned(),
            images: self.dir.clone(),
            inventory,
            processes: tree::load(&mut self)?,
            fd_tables,
            files: open_files,
            remaps: BTreeMap::new(),
            memfds: BTreeMap::new(),
            shmems: BTreeMap::new(),
            pipe_data: BTreeMap::new(),
            fifo_data: BTreeMap::new(),
            other: Vec::new(),
        };
        self.memfds(&mut checkpoint)?;
        files::tables(&mut self, &mut checkpoint)?;
        ghost::load(&mut self, &mut checkpoint)?;
        let (pipes, fifos) = files::pipe_ids(&checkpoint);
        checkpoint.pipe_data = self.pipe_data(ImageKind::PipesData, &pipes)?;
        checkpoint.fifo_data = self.pipe_data(ImageKind::FifoData, &fifos)?;
        memory::load(&mut self, &mut checkpoint)?;
        files::check(&self, &checkpoint)?;
        attributes::check(&self, &checkpoint)?;
        checkpoint.other = other::collect(&self)?;
        Ok(checkpoint)
    }

    fn inventory(&mut self) -> Result<record::InventoryEntry, ImageError> {
        let image = self.need(ImageKind::Inventory, None, "every checkpoint has one")?;
        let inventory: record::InventoryEntry = image.only()?;
        // CRTOOLS_IMAGES_V1 (1) had no common magic; CRIU 4.2 writes CRTOOLS_IMAGES_V1_1 (2).
        if inventory.img_version != 2 {
            let reason = format!("image version {} is not 2", inventory.img_version);
            return Err(contradiction("inventory.img", 4, reason));
        }
        if inventory.fdinfo_per_id != Some(true) {
            let feature = "a checkpoint without descriptor tables by id (CRIU before 2.0)";
            return Err(ImageError::Unsupported { file: "inventory.img".to_owned(), feature });
        }
        Ok(inventory)
    }

    fn memfds(&mut self, checkpoint: &mut Checkpoint) -> Result<(), ImageError> {
        let mut shmids = BTreeSet::new();
        for (at, entry) in self.records::<record::MemfdInodeEntry>(ImageKind::MemfdInode)? {
            let (id, shmid) = (entry.inode_id, entry.shmid);
            if !shmids.insert(shmid) {
                let reason = format!("contents {shmid} belong to two memory files");
                return Err(contradiction("memfd.img", at, reason));
            }
            if checkpoint.memfds.insert(id, entry).is_some() {
                return Err(contradiction("memfd.img", at, format!("inode {id} occurs twice")));
            }
        }
        Ok(())
    }

    fn pipe_data(
        &mut self,
        kind: ImageKind,
        known: &BTreeSet<u32>,
    ) -> Result<BTreeMap<u32, PipeData>, ImageError> {
        let mut data = BTreeMap::new();
        let Some(mut image) = self.find(kind, None)? else {
            return Ok(data);
        };
        while let Some((at, entry)) = image.next::<record::PipeDataEntry>()? {
            let len_bytes = u64::from(entry.bytes);
            let span = DataSpan { offset_bytes: image.at(), len_bytes };
            image.skip(len_bytes)?;
            let value = PipeData { capacity_bytes: entry.size, data: span };
            if entry.size.is_some_and(|size| entry.bytes > size) {
                let reason = format!("pipe {:#x} holds more than its size", entry.pipe_id);
                return Err(contradiction(image.name(), at, reason));
            }
            if !known.contains(&entry.pipe_id) {
                let reason = format!("pipe {:#x} is no open file", entry.pipe_id);
                return Err(contradiction(image.name(), at, reason));
            }
            if data.insert(entry.pipe_id, value).is_some() {
                let reason = format!("pipe {:#x} occurs twice", entry.pipe_id);
                return Err(contradiction(image.name(), at, reason));
            }
        }
        Ok(data)
    }

    /// Name and kind of each image that nothing has opened.
    pub(super) fn unused(&self) -> impl Iterator<Item = (ImageKind, &str)> {
        let unused = self.names.iter().filter(|(key, _)| !self.used.contains(key));
        unused.flat_map(|(key, names)| names.iter().map(|name| (key.0, name.as_str())))
    }
}
