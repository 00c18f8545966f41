//! A small checkpoint of our own making, which tests change in one place and open.
//!
//! It has one of everything that is cross-checked: threads, a zombie, shared memory, a memory file,
//! pipes, ghosts. Only what the checks look at is filled in; it is no restorable program.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use criu_image::record::core_entry::March;
use criu_image::record::{
    CoreEntry, FdTypes, FdinfoEntry, FifoEntry, FileEntry, FsEntry, GhostChunkEntry,
    GhostFileEntry, InventoryEntry, MemfdFileEntry, MemfdInodeEntry, MmEntry, PagemapEntry,
    PagemapHead, PipeDataEntry, PipeEntry, PstreeEntry, RegFileEntry, RemapFilePathEntry,
    RemapType, SaEntry, SeccompEntry, TaskCoreEntry, TaskKobjIdsEntry, ThreadCoreEntry,
    ThreadInfoX86, TimerfdEntry, VmaEntry,
};
use criu_image::{Checkpoint, ImageError, ImageKind, task_state, vma_status};
use prost::Message;

/// The root, with the threads `ROOT` and `THREAD`.
pub(crate) const ROOT: u32 = 10;
pub(crate) const THREAD: u32 = 11;
/// A zombie child of the root.
pub(crate) const ZOMBIE: u32 = 20;
/// A live child of the root.
pub(crate) const CHILD: u32 = 30;

pub(crate) const PROGRAM: u32 = 1;
pub(crate) const FOLDER: u32 = 2;
pub(crate) const PIPE: u32 = 3;
pub(crate) const FIFO: u32 = 4;
pub(crate) const FIFO_PATH: u32 = 5;
pub(crate) const MEMFD: u32 = 6;
pub(crate) const DELETED: u32 = 7;
pub(crate) const SPARSE: u32 = 8;
pub(crate) const TIMERFD: u32 = 9;
pub(crate) const LINKED: u32 = 10;
pub(crate) const LINK: u32 = 11;

/// Image files by name, and their bytes.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

/// The bytes that an image of this name begins with.
pub(crate) fn head(name: &str) -> Vec<u8> {
    let (kind, _) = ImageKind::of_name(OsStr::new(name)).expect("a name of an image");
    let family: Option<u32> = match kind {
        ImageKind::Inventory => None,
        ImageKind::StatsDump | ImageKind::IrmapCache => Some(0x5510_5940),
        _ => Some(0x5456_4319),
    };
    family.into_iter().chain([kind.magic()]).flat_map(u32::to_le_bytes).collect()
}

/// Length and payload of a record.
pub(crate) fn framed(record: &impl Message) -> Vec<u8> {
    let mut bytes = (record.encoded_len() as u32).to_le_bytes().to_vec();
    bytes.extend(record.encode_to_vec());
    bytes
}

impl Draft {
    pub(crate) fn new() -> Self {
        let mut draft = Self { files: BTreeMap::new() };
        let inventory =
            InventoryEntry { img_version: 2, fdinfo_per_id: Some(true), ..Default::default() };
        draft.put("inventory.img", &[inventory]);
        draft.put(
            "pstree.img",
            &[
                pstree(ROOT, 0, &[ROOT, THREAD]),
                pstree(ZOMBIE, ROOT, &[1]),
                pstree(CHILD, ROOT, &[CHILD]),
            ],
        );
        draft.put("core-10.img", &[core(Some(task_state::ALIVE))]);
        draft.put("core-11.img", &[core(None)]);
        let zombie = TaskCoreEntry { task_state: task_state::ZOMBIE, ..Default::default() };
        let mtype = March::X8664 as i32;
        draft.put("core-20.img", &[CoreEntry { mtype, tc: Some(zombie), ..Default::default() }]);
        draft.put("core-30.img", &[core(Some(task_state::STOPPED))]);
        for (pid, files_id) in [(ROOT, 1), (CHILD, 2)] {
            let ids = TaskKobjIdsEntry { files_id, ..Default::default() };
            draft.put(&format!("ids-{pid}.img"), &[ids]);
            let fs = FsEntry { cwd_id: FOLDER, root_id: FOLDER, umask: None };
            draft.put(&format!("fs-{pid}.img"), &[fs]);
        }
        draft.put_memory();
        draft.put_files();
        draft.put("seccomp.img", &[SeccompEntry::default()]);
        draft
    }

    fn put_memory(&mut self) {
        use vma_status::{ANON_PRIVATE, ANON_SHARED, FILE_PRIVATE, GUARD, REGULAR};
        let vmas = vec![
            vma(0x40_0000, 2, REGULAR | FILE_PRIVATE, u64::from(PROGRAM)),
            vma(0x50_0000, 3, REGULAR | ANON_PRIVATE, 0),
            vma(0x60_0000, 2, REGULAR | ANON_SHARED, 77),
            vma(0x50_1000, 1, GUARD, 0),
        ];
        self.put("mm-10.img", &[MmEntry { exe_file_id: PROGRAM, vmas, ..Default::default() }]);
        let vmas = vec![vma(0x50_0000, 1, REGULAR | ANON_PRIVATE, 0)];
        self.put("mm-30.img", &[MmEntry { exe_file_id: PROGRAM, vmas, ..Default::default() }]);
        self.put_pages("pagemap-10.img", 1, &[(0x40_0000, 1), (0x50_0000, 2)]);
        self.put_pages("pagemap-30.img", 4, &[]);
        self.put_pages("pagemap-shmem-77.img", 2, &[(0, 1)]);
        self.put_pages("pagemap-shmem-99.img", 3, &[(0x1000, 1)]);
    }

    /// A pagemap of runs (address, pages), and a pages file that fits it.
    pub(crate) fn put_pages(&mut self, name: &str, pages_id: u32, runs: &[(u64, u64)]) {
        let mut bytes = head(name);
        bytes.extend(framed(&PagemapHead { pages_id }));
        for &(vaddr, pages) in runs {
            bytes.extend(framed(&pagemap(vaddr, pages)));
        }
        self.files.insert(name.to_owned(), bytes);
        let len = runs.iter().map(|run| run.1 as usize * 4096).sum();
        self.files.insert(format!("pages-{pages_id}.img"), vec![0; len]);
    }

    fn put_files(&mut self) {
        let reg = |id: u32, name: &str| FileEntry {
            reg: Some(RegFileEntry { id, name: name.into(), ..Default::default() }),
            ..file(id, FdTypes::Reg)
        };
        let memfd = MemfdFileEntry { id: MEMFD, inode_id: 1, ..Default::default() };
        let timer = TimerfdEntry { id: TIMERFD, ..Default::default() };
        let fifo = FifoEntry { id: FIFO, pipe_id: 8, regf_id: Some(FIFO_PATH) };
        let pipe = PipeEntry { id: PIPE, pipe_id: 7, ..Default::default() };
        self.put(
            "files.img",
            &[
                reg(PROGRAM, "/bin/program"),
                reg(FOLDER, "/"),
                FileEntry { pipe: Some(pipe), ..file(PIPE, FdTypes::Pipe) },
                FileEntry { fifo: Some(fifo), ..file(FIFO, FdTypes::Fifo) },
                reg(FIFO_PATH, "/tmp/fifo"),
                FileEntry { memfd: Some(memfd), ..file(MEMFD, FdTypes::Memfd) },
                reg(DELETED, "/tmp/deleted"),
                reg(SPARSE, "/tmp/sparse"),
                FileEntry { tfd: Some(timer), ..file(TIMERFD, FdTypes::Timerfd) },
                reg(LINKED, "/tmp/linked"),
                reg(LINK, "/tmp/link_remap.1"),
            ],
        );
        let inode = MemfdInodeEntry { size: 5000, shmid: 99, inode_id: 1, ..Default::default() };
        self.put("memfd.img", &[inode]);
        self.put("fdinfo-1.img", &[fdinfo(1, PIPE, FdTypes::Pipe), fdinfo(0, FIFO, FdTypes::Fifo)]);
        self.put("fdinfo-2.img", &[fdinfo(5, MEMFD, FdTypes::Memfd)]);
        let data = PipeDataEntry { pipe_id: 7, bytes: 3, size: Some(4096) };
        self.put_extra("pipes-data.img", &[(framed(&data), b"abc")]);
        let data = PipeDataEntry { pipe_id: 8, bytes: 2, size: None };
        self.put_extra("fifo-data.img", &[(framed(&data), b"de")]);
        self.put(
            "remap-fpath.img",
            &[
                remap(DELETED, 0x1f, RemapType::Ghost),
                remap(SPARSE, 2, RemapType::Ghost),
                remap(LINKED, LINK, RemapType::Linked),
            ],
        );
        let ghost = GhostFileEntry { mode: 0o100_644, ..Default::default() };
        self.put_extra("ghost-file-1f.img", &[(framed(&ghost), b"contents")]);
        let ghost = GhostFileEntry { chunks: Some(true), size: Some(100), ..ghost };
        let chunk = |off, len| framed(&GhostChunkEntry { len, off });
        let chunks: [(_, &[u8]); 3] =
            [(framed(&ghost), b""), (chunk(10, 4), b"four"), (chunk(50, 2), b"to")];
        self.put_extra("ghost-file-2.img", &chunks);
    }

    /// An image of records.
    pub(crate) fn put(&mut self, name: &str, records: &[impl Message]) {
        let mut bytes = head(name);
        bytes.extend(records.iter().flat_map(framed));
        self.files.insert(name.to_owned(), bytes);
    }

    /// An image of records that are followed by data.
    pub(crate) fn put_extra(&mut self, name: &str, parts: &[(Vec<u8>, &[u8])]) {
        let mut bytes = head(name);
        for (record, data) in parts {
            bytes.extend(record);
            bytes.extend(*data);
        }
        self.files.insert(name.to_owned(), bytes);
    }

    /// Changes the records of an image that has nothing else.
    pub(crate) fn edit_all<R: Message + Default>(
        &mut self,
        name: &str,
        edit: impl FnOnce(&mut Vec<R>),
    ) {
        let mut rest = &self.files[name][head(name).len()..];
        let mut records = Vec::new();
        while let Some((len, after)) = rest.split_first_chunk() {
            let (payload, after) = after.split_at(u32::from_le_bytes(*len) as usize);
            records.push(R::decode(payload).expect("a record of ours"));
            rest = after;
        }
        edit(&mut records);
        self.put(name, &records);
    }

    /// Changes the first record of an image that has records only.
    pub(crate) fn edit<R: Message + Default>(&mut self, name: &str, edit: impl FnOnce(&mut R)) {
        self.edit_all(name, |records: &mut Vec<R>| edit(&mut records[0]));
    }

    /// Changes the part that the process `pid` has once.
    pub(crate) fn edit_task(&mut self, pid: u32, edit: impl FnOnce(&mut TaskCoreEntry)) {
        self.edit(&format!("core-{pid}.img"), |core: &mut CoreEntry| {
            edit(core.tc.as_mut().expect("a leader"));
        });
    }

    /// Changes the part that every thread has.
    pub(crate) fn edit_thread(&mut self, tid: u32, edit: impl FnOnce(&mut ThreadCoreEntry)) {
        self.edit(&format!("core-{tid}.img"), |core: &mut CoreEntry| {
            edit(core.thread_core.as_mut().expect("a thread"));
        });
    }

    /// Changes the registers of a thread.
    pub(crate) fn edit_regs(&mut self, tid: u32, edit: impl FnOnce(&mut ThreadInfoX86)) {
        self.edit(&format!("core-{tid}.img"), |core: &mut CoreEntry| {
            edit(core.thread_info.as_mut().expect("registers"));
        });
    }

    pub(crate) fn write(&self, dir: &Path) {
        for (name, bytes) in &self.files {
            fs::write(dir.join(name), bytes).expect("room for images");
        }
    }

    pub(crate) fn open(&self) -> Result<Checkpoint, ImageError> {
        let dir = tempfile::tempdir().expect("a folder");
        self.write(dir.path());
        Checkpoint::open(dir.path())
    }
}

/// Checks that the draft is refused once changed, with a message that has these words.
#[track_caller]
pub(crate) fn refused(change: impl FnOnce(&mut Draft), words: &str) {
    let mut draft = Draft::new();
    change(&mut draft);
    match draft.open() {
        Ok(_) => panic!("accepted, but expected: {words}"),
        Err(error) => {
            let text = error.to_string();
            assert!(text.contains(words), "expected: {words}\n   found: {text}");
        }
    }
}

/// Checks that the draft is accepted once changed.
#[track_caller]
pub(crate) fn accepted(change: impl FnOnce(&mut Draft)) -> Checkpoint {
    let mut draft = Draft::new();
    change(&mut draft);
    draft.open().unwrap_or_else(|error| panic!("refused: {error}"))
}

pub(crate) fn pstree(pid: u32, ppid: u32, threads: &[u32]) -> PstreeEntry {
    PstreeEntry { pid, ppid, pgid: ROOT, sid: ROOT, threads: threads.to_vec() }
}

/// A core image of a leader in this state, or of another thread.
fn core(task_state: Option<u32>) -> CoreEntry {
    let mut regs = ThreadInfoX86::default();
    regs.fpregs.st_space = vec![0; 32];
    regs.fpregs.xmm_space = vec![0; 64];
    let tc = task_state.map(|task_state| TaskCoreEntry {
        task_state,
        comm: b"draft".to_vec(),
        sigactions: vec![SaEntry::default(); 62],
        ..Default::default()
    });
    CoreEntry {
        mtype: March::X8664 as i32,
        thread_info: Some(regs),
        tc,
        thread_core: Some(ThreadCoreEntry::default()),
        ..Default::default()
    }
}

pub(crate) fn vma(start: u64, pages: u64, status: u32, shmid: u64) -> VmaEntry {
    VmaEntry { start, end: start + pages * 4096, status, shmid, ..Default::default() }
}

pub(crate) fn pagemap(vaddr: u64, pages: u64) -> PagemapEntry {
    PagemapEntry { vaddr, compat_nr_pages: pages as u32, flags: Some(4), ..Default::default() }
}

pub(crate) fn file(id: u32, kind: FdTypes) -> FileEntry {
    FileEntry { id, r#type: kind as i32, ..Default::default() }
}

pub(crate) fn fdinfo(fd: u32, id: u32, kind: FdTypes) -> FdinfoEntry {
    FdinfoEntry { fd, id, r#type: kind as i32, ..Default::default() }
}

pub(crate) fn remap(orig_id: u32, remap_id: u32, kind: RemapType) -> RemapFilePathEntry {
    RemapFilePathEntry { orig_id, remap_id, remap_type: Some(kind as i32) }
}
