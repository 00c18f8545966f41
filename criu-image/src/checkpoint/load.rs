//! Reads the files of a directory into records, each image once, none left over.

use std::collections::{BTreeMap, BTreeSet};

use super::findings::Findings;
use super::model::{Checkpoint, DataSpan, FileId, PipeData};
use super::{attributes, contradiction, files, ghost, memory, other, tree};
use crate::directory::ImageDir;
use crate::error::ImageError;
use crate::kind::{ImageKind, is_superseded};
use crate::payload::Record;
use crate::reader::Image;
use crate::record;

/// The images of a directory, and which of them have been used.
pub(super) struct Loader {
    pub(super) dir: ImageDir,
    names: BTreeMap<(ImageKind, Option<u64>), Vec<String>>,
    used: BTreeSet<(ImageKind, Option<u64>)>,
    /// Where the record of each open file begins, for messages.
    pub(super) file_at: BTreeMap<FileId, u64>,
    pub(super) findings: Findings,
}

impl Loader {
    pub(super) fn new(dir: ImageDir, mut findings: Findings) -> Result<Self, ImageError> {
        let fail = |source| ImageError::Read { file: dir.path().display().to_string(), source };
        let mut names: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for entry in std::fs::read_dir(dir.path()).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let text = name.to_string_lossy().into_owned();
            match ImageKind::of_name(&name) {
                Some(key) => names.entry(key).or_default().push(text),
                None => findings.check(no_image(text))?.unwrap_or_default(),
            }
        }
        let (used, file_at) = (BTreeSet::new(), BTreeMap::new());
        Ok(Self { dir, names, used, file_at, findings })
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
        match self.find(kind, None)? {
            Some(image) => self.all_of(kind, image),
            None => Ok(Vec::new()),
        }
    }

    /// All records of an image, or those before a damage.
    pub(super) fn all_of<R: Record>(
        &mut self,
        kind: ImageKind,
        mut image: Image,
    ) -> Result<Vec<(u64, R)>, ImageError> {
        let mut records = Vec::new();
        loop {
            match image.next() {
                Ok(Some(record)) => records.push(record),
                Ok(None) => return Ok(records),
                Err(error) => {
                    self.findings.report(error)?;
                    self.findings.doubt(&[kind]);
                    return Ok(records);
                }
            }
        }
    }

    /// The only record of an image that a process must have; `None` if a damage was taken.
    pub(super) fn one<R: Record>(
        &mut self,
        kind: ImageKind,
        id: u32,
        needed_for: &str,
    ) -> Result<Option<R>, ImageError> {
        let record = self.need(kind, Some(id.into()), needed_for).and_then(Image::only);
        self.findings.check(record)
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
        self.dir.size_of(&file)
    }

    /// Reads everything. While findings are gathered, what is damaged is left out.
    pub(super) fn checkpoint(&mut self) -> Result<Checkpoint, ImageError> {
        let inventory = self.inventory();
        let inventory = self.findings.check(inventory)?.unwrap_or_default();
        let mut checkpoint = Checkpoint {
            dir: self.dir.path().to_owned(),
            images: self.dir.clone(),
            inventory,
            processes: Vec::new(),
            fd_tables: BTreeMap::new(),
            files: BTreeMap::new(),
            remaps: BTreeMap::new(),
            memfds: BTreeMap::new(),
            shmems: BTreeMap::new(),
            pipe_data: BTreeMap::new(),
            fifo_data: BTreeMap::new(),
            gpu: crate::GpuImages::default(),
            other: Vec::new(),
        };
        let files = files::load(self);
        checkpoint.files = self.stage(files, &[ImageKind::Files])?;
        let processes = tree::load(self);
        checkpoint.processes = self.stage(processes, &tree::OWNED)?;
        let memfds = self.memfds(&mut checkpoint);
        self.stage(memfds, &[ImageKind::MemfdInode])?;
        let tables = files::tables(self, &mut checkpoint);
        self.stage(tables, &[])?;
        let ghosts = ghost::load(self, &mut checkpoint);
        self.stage(ghosts, &[ImageKind::RemapFpath])?;
        let (pipes, fifos) = files::pipe_ids(&checkpoint);
        let data = self.pipe_data(ImageKind::PipesData, &pipes);
        checkpoint.pipe_data = self.stage(data, &[])?;
        let data = self.pipe_data(ImageKind::FifoData, &fifos);
        checkpoint.fifo_data = self.stage(data, &[])?;
        let memory = memory::load(self, &mut checkpoint);
        self.stage(memory, &[])?;
        files::check(self, &checkpoint)?;
        let attributes = attributes::check(self, &checkpoint);
        self.stage(attributes, &[])?;
        checkpoint.other = other::collect(self)?;
        Ok(checkpoint)
    }

    /// The result of a step, or nothing if its error was taken; these kinds are in doubt then.
    fn stage<T: Default>(
        &mut self,
        result: Result<T, ImageError>,
        kinds: &[ImageKind],
    ) -> Result<T, ImageError> {
        if result.is_err() {
            self.findings.doubt(kinds);
        }
        Ok(self.findings.check(result)?.unwrap_or_default())
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
                self.findings.report(contradiction("memfd.img", at, reason))?;
            }
            if checkpoint.memfds.insert(id, entry).is_some() {
                let reason = format!("inode {id} occurs twice");
                self.findings.report(contradiction("memfd.img", at, reason))?;
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
                self.findings.report(contradiction(image.name(), at, reason))?;
            }
            if !known.contains(&entry.pipe_id) && self.findings.is_sure_of(ImageKind::Files) {
                let reason = format!("pipe {:#x} is no open file", entry.pipe_id);
                self.findings.report(contradiction(image.name(), at, reason))?;
            }
            if data.insert(entry.pipe_id, value).is_some() {
                let reason = format!("pipe {:#x} occurs twice", entry.pipe_id);
                self.findings.report(contradiction(image.name(), at, reason))?;
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

/// What a file is that is no image of CRIU 4.2: nothing of ours, or a reason to stop.
fn no_image(file: String) -> Result<(), ImageError> {
    if file == "parent" {
        let feature = "an incremental checkpoint (images in a parent directory)";
        return Err(ImageError::Unsupported { file, feature });
    }
    if is_superseded(&file) {
        let feature = "an image of a kind that CRIU 4.2 no longer writes";
        return Err(ImageError::Unsupported { file, feature });
    }
    if file.ends_with(".img") {
        return Err(ImageError::UnknownKind { file });
    }
    Ok(()) // logs, pid files and the like
}
