//! What a whole checkpoint says: one value that the rest of the system trusts.
//!
//! Everything here was cross-checked by [`Checkpoint::open`]; nothing here does I/O but
//! the readers of bulk data ([`PageStore`], [`DataSpan`]), which only name a file and a range.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::record;

/// Identifier of an open file description in the images (`file_entry.id`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// A checkpoint directory, read and cross-checked as one state.
#[derive(Debug)]
pub struct Checkpoint {
    /// The directory that the images were read from.
    pub dir: PathBuf,
    /// The same, to read from, verified where the dump left a manifest.
    pub images: crate::ImageDir,
    /// `inventory.img`.
    pub inventory: record::InventoryEntry,
    /// All processes of `pstree.img`, parents before children; index 0 is the root.
    pub processes: Vec<Process>,
    /// Descriptor tables by `files_id` (`fdinfo-<files_id>.img`), each sorted by `fd`.
    pub fd_tables: BTreeMap<u32, Vec<record::FdinfoEntry>>,
    /// Open file descriptions of `files.img`, by id. Each has the part of its type only, but a TUN
    /// device has its path too (`reg`), which in the image is an entry of the same id.
    pub files: BTreeMap<FileId, record::FileEntry>,
    /// `remap-fpath.img`: how a path that no longer leads to its file is made to do so, by file id.
    pub remaps: BTreeMap<FileId, Remap>,
    /// `memfd.img`, by inode id.
    pub memfds: BTreeMap<u64, record::MemfdInodeEntry>,
    /// Contents of shared memory (`pagemap-shmem-<shmid>.img`), by shmid.
    pub shmems: BTreeMap<u64, PageStore>,
    /// `pipes-data.img`, by pipe id.
    pub pipe_data: BTreeMap<u32, PipeData>,
    /// `fifo-data.img`, by pipe id.
    pub fifo_data: BTreeMap<u32, PipeData>,
    /// The images of GPUs, which are among `other` too.
    pub gpu: crate::GpuImages,
    /// Images that are present and read whole, yet of a kind that `Checkpoint` does not
    /// model: file locks, ttys, socket queues, cgroups, namespaces, and so on.
    /// A restorer must refuse each of them or know why it may be left out.
    pub other: Vec<OtherImage>,
}

/// An image that is part of the checkpoint and that nothing above models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherImage {
    /// File name within the directory.
    pub file: OsString,
    /// What it holds.
    pub kind: crate::ImageKind,
    /// Number of records in it (0 for raw images).
    pub records: u64,
    /// Size in bytes.
    pub size_bytes: u64,
}

/// One entry of `pstree.img` with everything that belongs to it.
#[derive(Debug)]
pub struct Process {
    /// Process id, thread-group leader.
    pub pid: u32,
    /// Parent's pid; 0 for the root.
    pub ppid: u32,
    /// Process group id.
    pub pgid: u32,
    /// Session id.
    pub sid: u32,
    /// Index of the parent in [`Checkpoint::processes`].
    pub parent: Option<usize>,
    /// `core-<pid>.img`'s task part.
    pub task: record::TaskCoreEntry,
    /// What a live or stopped process has, and a zombie has not.
    pub body: Option<Body>,
}

/// State that only a process with an address space has.
#[derive(Debug)]
pub struct Body {
    /// `ids-<pid>.img`.
    pub ids: record::TaskKobjIdsEntry,
    /// `mm-<pid>.img`. VMAs are sorted, page-aligned, and do not overlap (guard entries apart).
    pub mm: record::MmEntry,
    /// `fs-<pid>.img`.
    pub fs: record::FsEntry,
    /// All threads, the leader first; `threads[0].tid == pid`.
    pub threads: Vec<Thread>,
    /// Private memory contents (`pagemap-<pid>.img`).
    pub pages: PageStore,
}

/// One thread's registers and attributes.
#[derive(Debug)]
pub struct Thread {
    /// Thread id.
    pub tid: u32,
    /// `core-<tid>.img`: registers.
    pub regs: record::ThreadInfoX86,
    /// `core-<tid>.img`: the part that every thread has.
    pub core: record::ThreadCoreEntry,
}

/// A pagemap with the pages file that it points into.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageStore {
    /// `pages-<pages_id>.img`.
    pub pages_id: u32,
    /// Runs in ascending address order, without overlap.
    pub runs: Vec<PageRun>,
}

/// Consecutive pages whose contents lie consecutively in the pages file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// First address (or offset, for shared memory) in bytes, page-aligned.
    pub start: u64,
    /// Length in bytes, page-aligned, not 0.
    pub len_bytes: u64,
    /// Where the contents begin in the pages file, in bytes.
    pub offset_bytes: u64,
}

/// Bytes kept in a pipe or fifo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PipeData {
    /// Capacity in bytes (`F_SETPIPE_SZ`), if it was recorded.
    pub capacity_bytes: Option<u32>,
    /// The queued bytes within the image file.
    pub data: DataSpan,
}

/// A range of bytes inside an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataSpan {
    /// Offset in the image file, in bytes.
    pub offset_bytes: u64,
    /// Length in bytes.
    pub len_bytes: u64,
}

/// How a file whose path is gone is reached (`remap_file_path_entry`).
#[derive(Debug)]
pub enum Remap {
    /// A hard link that the dump left beside it: the id of the file entry that names it.
    Linked(FileId),
    /// The file's own contents and attributes were saved (`ghost-file-<id>.img`).
    Ghost(Ghost),
    /// A `/proc/<pid>` entry of a process that has gone; the pid.
    Procfs(u32),
}

/// `ghost-file-<id>.img`.
#[derive(Debug)]
pub struct Ghost {
    /// Id of the ghost, shared by all files that are remapped to it.
    pub id: u32,
    /// Attributes.
    pub entry: record::GhostFileEntry,
    /// Contents as (offset in the restored file in bytes, range in the image); holes are left out.
    pub extents: Vec<(u64, DataSpan)>,
}

impl Checkpoint {
    /// The regular file with this id, if there is one.
    pub fn reg_file(&self, id: FileId) -> Option<&record::RegFileEntry> {
        self.files.get(&id)?.reg.as_ref()
    }

    /// Path of a pages image.
    pub fn pages_path(&self, pages_id: u32) -> PathBuf {
        self.dir.join(format!("pages-{pages_id}.img"))
    }
}

impl Process {
    /// Whether the process has exited and waits to be waited for; it has no [`Body`] then.
    pub fn is_zombie(&self) -> bool {
        self.body.is_none()
    }
}

impl PageStore {
    /// Sum of all runs, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.len_bytes).sum()
    }
}
