//! Reads the files of a directory into records, each image once, none left over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::model::{Checkpoint, DataSpan, OtherImage, PipeData};
use super::{contradiction, files, ghost, memory, tree};
use crate::error::ImageError;
use crate::kind::ImageKind;
use crate::reader::{Image, Record};
use crate::record;

/// The images of a directory, and which of them have been used.
pub(super) struct Loader {
    pub(super) dir: PathBuf,
    names: BTreeMap<(ImageKind, Option<u64>), Vec<String>>,
    used: BTreeSet<(ImageKind, Option<u64>)>,
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
                None if text.ends_with(".img") => {
                    return Err(ImageError::UnknownKind { file: text });
                }
                None => {} // logs, pid files and the like
            }
        }
        Ok(Self { dir: dir.to_owned(), names, used: BTreeSet::new() })
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
        let metadata = std::fs::metadata(self.dir.join(&file));
        metadata.map(|m| m.len()).map_err(|source| ImageError::Read { file, source })
    }

    pub(super) fn checkpoint(mut self) -> Result<Checkpoint, ImageError> {
        let inventory = self.inventory()?;
        let (fd_tables, open_files) = (BTreeMap::new(), files::load(&mut self)?);
        let mut checkpoint = Checkpoint {
            dir: self.dir.clone(),
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
        checkpoint.pipe_data = self.pipe_data(ImageKind::PipesData)?;
        checkpoint.fifo_data = self.pipe_data(ImageKind::FifoData)?;
        memory::load(&mut self, &mut checkpoint)?;
        files::check(&checkpoint)?;
        checkpoint.other = self.others()?;
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
        for (at, entry) in self.records::<record::MemfdInodeEntry>(ImageKind::MemfdInode)? {
            let id = entry.inode_id;
            if checkpoint.memfds.insert(id, entry).is_some() {
                return Err(contradiction("memfd.img", at, format!("inode {id} occurs twice")));
            }
        }
        Ok(())
    }

    fn pipe_data(&mut self, kind: ImageKind) -> Result<BTreeMap<u32, PipeData>, ImageError> {
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
            if data.insert(entry.pipe_id, value).is_some() {
                let reason = format!("pipe {:#x} occurs twice", entry.pipe_id);
                return Err(contradiction(image.name(), at, reason));
            }
        }
        Ok(data)
    }

    /// Everything that nothing above has asked for.
    fn others(&mut self) -> Result<Vec<OtherImage>, ImageError> {
        let mut others = Vec::new();
        for (&(kind, id), names) in &self.names {
            if self.used.contains(&(kind, id)) {
                continue;
            }
            if let Some(reason) = owned_by(kind) {
                let file = names[0].clone();
                return Err(ImageError::NoOwner { file, reason: reason.to_owned() });
            }
            for name in names {
                let fail = |source| ImageError::Read { file: name.clone(), source };
                let size_bytes = std::fs::metadata(self.dir.join(name)).map_err(fail)?.len();
                let records = records_of(&self.dir, kind, name)?;
                others.push(OtherImage { file: name.into(), kind, records, size_bytes });
            }
        }
        Ok(others)
    }
}

/// What an image of this kind must belong to, if it must.
fn owned_by(kind: ImageKind) -> Option<&'static str> {
    Some(match kind {
        ImageKind::Core | ImageKind::Ids | ImageKind::Mm | ImageKind::Fs | ImageKind::Pagemap => {
            "no live task of the tree has this id"
        }
        ImageKind::Fdinfo => "no process has a descriptor table with this id",
        ImageKind::Pages => "no pagemap refers to it",
        ImageKind::ShmemPagemap => "no shared memory has this id",
        ImageKind::GhostFile => "no file is remapped to it",
        _ => return None,
    })
}

/// Counts the records of an image that is not modelled, as far as its layout is plain.
fn records_of(dir: &Path, kind: ImageKind, name: &str) -> Result<u64, ImageError> {
    fn count<R: Record>(image: Image) -> Result<u64, ImageError> {
        Ok(image.all::<R>()?.len() as u64)
    }
    if kind.is_raw() {
        return Ok(0);
    }
    let mut image = Image::open(dir, kind, name)?;
    match kind {
        ImageKind::Cgroup => count::<record::CgroupEntry>(image),
        ImageKind::FileLocks => count::<record::FileLockEntry>(image),
        ImageKind::TtyInfo => count::<record::TtyInfoEntry>(image),
        ImageKind::Timens => count::<record::TimensEntry>(image),
        ImageKind::StatsDump | ImageKind::StatsRestore => count::<record::StatsEntry>(image),
        ImageKind::Cpuinfo => count::<record::CpuinfoEntry>(image),
        ImageKind::Seccomp => {
            let filters: record::SeccompEntry = image.only()?;
            Ok(filters.seccomp_filters.len() as u64)
        }
        ImageKind::SkQueues => {
            let mut records = 0;
            while let Some((_, packet)) = image.next::<record::SkPacketEntry>()? {
                image.skip(u64::from(packet.length))?;
                records += 1;
            }
            Ok(records)
        }
        // Never empty when present, and refused whatever they hold.
        _ => Ok(u64::from(image.left() > 0)),
    }
}
