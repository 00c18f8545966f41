//! Memory that is a file: memfds and shared anonymous memory, with contents.
//!
//! A dump writes shared anonymous memory as a memfd called `/dev/zero`. It becomes the real thing
//! again, so that its mappings look as they did.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, fchown};

use criu_image::record::{FileEntry, MemfdInodeEntry};
use criu_image::{Checkpoint, ImageDir, PageStore, vma_status};
use memmap2::MmapOptions;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::unistd::{Whence, lseek};

use super::{FilesError, OpenError, raw, regular};
use crate::stop::Stop;

/// Name under which shared anonymous memory is dumped.
const ANONYMOUS: &[u8] = b"/dev/zero";
/// `MFD_ALLOW_SEALING` (linux/memfd.h).
const ALLOW_SEALING: u32 = 2;
/// The seals of a memfd that was made without `MFD_ALLOW_SEALING`.
const UNSEALABLE: u32 = 1;
/// Piece in which contents are copied; between two, the restore may be given up.
const COPY_BYTES: usize = 1 << 20;

/// Which memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Id {
    /// Inode of `memfd.img`.
    Inode(u64),
    /// Shared memory that only mappings refer to.
    Shmem(u64),
}

/// How one memory is made.
#[derive(Debug)]
pub(super) struct Plan {
    inode: Option<MemfdInodeEntry>,
    size_bytes: u64,
    contents: Option<PageStore>,
}

impl Plan {
    /// Bytes that are saved of it.
    pub(super) fn contents_bytes(&self) -> u64 {
        self.contents.iter().flat_map(|store| &store.runs).map(|run| run.len_bytes).sum()
    }
}

/// One open file of a memory.
#[derive(Debug)]
pub(super) struct View {
    pub(super) id: Id,
    pub(super) flags: u32,
    pub(super) pos: u64,
    pub(super) mapped: bool,
}

impl View {
    pub(super) fn new(entry: &FileEntry, id: Id, mapping: Option<u32>) -> Option<Self> {
        let file = entry.memfd.as_ref()?;
        let flags = mapping.unwrap_or(file.flags);
        Some(Self { id, flags, pos: file.pos, mapped: mapping.is_some() })
    }
}

/// Plans the memory behind a memfd entry.
pub(super) fn plan(checkpoint: &Checkpoint, entry: &FileEntry) -> Option<(Id, Plan)> {
    let id = u64::from(entry.memfd.as_ref()?.inode_id);
    let inode = checkpoint.memfds.get(&id)?.clone();
    let contents = checkpoint.shmems.get(&u64::from(inode.shmid)).cloned();
    let size_bytes = inode.size;
    Some((Id::Inode(id), Plan { inode: Some(inode), size_bytes, contents }))
}

/// Plans shared anonymous memory that is known by its mappings only.
pub(super) fn plan_anonymous(checkpoint: &Checkpoint, shmid: u64) -> (Id, Plan) {
    let bodies = checkpoint.processes.iter().filter_map(|process| process.body.as_ref());
    // The shmid of any other mapping is a file id.
    let vmas = bodies
        .flat_map(|body| &body.mm.vmas)
        .filter(|vma| vma.status & vma_status::ANON_SHARED != 0 && vma.shmid == shmid);
    let ends = vmas.map(|vma| vma.pgoff.saturating_add(vma.end.saturating_sub(vma.start)));
    let contents = checkpoint.shmems.get(&shmid).cloned();
    let filled = contents.iter().flat_map(|store| &store.runs);
    let filled = filled.map(|run| run.start.saturating_add(run.len_bytes));
    let size_bytes = ends.chain(filled).max().unwrap_or(0);
    (Id::Shmem(shmid), Plan { inode: None, size_bytes, contents })
}

/// Memories that exist, each with the first file that was opened of it.
pub(super) struct Memories {
    made: BTreeMap<Id, (OwnedFd, Plan, bool)>,
}

/// Makes and fills every memory.
pub(super) fn create_all(
    plans: BTreeMap<Id, Plan>,
    images: &ImageDir,
    stop: &Stop,
) -> Result<Memories, OpenError> {
    let mut made = BTreeMap::new();
    for (id, plan) in plans {
        let fd = create(id, &plan, images, stop)?;
        made.insert(id, (fd, plan, false));
    }
    Ok(Memories { made })
}

fn fail(id: Id, call: &'static str) -> impl Fn(Errno) -> FilesError {
    move |errno| FilesError::Object { call, what: format!("memory {id:?}"), errno }
}

fn io_errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

fn create(id: Id, plan: &Plan, images: &ImageDir, stop: &Stop) -> Result<OwnedFd, OpenError> {
    let inode = plan.inode.as_ref();
    let hugetlb = inode.and_then(|inode| inode.hugetlb_flag).unwrap_or(0);
    let Some(inode) = inode.filter(|inode| inode.name != ANONYMOUS || hugetlb != 0) else {
        let fd = anonymous(id, plan.size_bytes)?;
        fill(id, &fd, plan, images, stop)?;
        return Ok(fd);
    };
    let sealing = if inode.seals == UNSEALABLE { 0 } else { ALLOW_SEALING };
    let fd = raw::memfd(&inode.name, sealing | hugetlb).map_err(fail(id, "memfd_create"))?;
    nix::unistd::ftruncate(&fd, plan.size_bytes as i64).map_err(fail(id, "ftruncate"))?;
    fill(id, &fd, plan, images, stop)?;
    fchown(&fd, Some(inode.uid), Some(inode.gid)).map_err(|e| fail(id, "fchown")(io_errno(&e)))?;
    if let Some(mode) = inode.mode {
        let mode = nix::sys::stat::Mode::from_bits_truncate(mode);
        nix::sys::stat::fchmod(&fd, mode).map_err(fail(id, "fchmod"))?;
    }
    Ok(fd)
}

/// Shared anonymous memory; without the privilege for the real thing, what the dump called it.
fn anonymous(id: Id, size_bytes: u64) -> Result<OwnedFd, FilesError> {
    let real = match size_bytes {
        0 => Err(Errno::ENOENT), // cannot be mapped, so it is nowhere to be opened
        size => raw::anonymous_memory(usize::try_from(size).unwrap_or(usize::MAX)),
    };
    match real {
        Err(Errno::EPERM | Errno::EACCES | Errno::ENOENT) => substitute(id, size_bytes),
        other => other.map_err(fail(id, "open of shared anonymous memory")),
    }
}

pub(super) fn substitute(id: Id, size_bytes: u64) -> Result<OwnedFd, FilesError> {
    let fd = raw::memfd(ANONYMOUS, ALLOW_SEALING).map_err(fail(id, "memfd_create"))?;
    nix::unistd::ftruncate(&fd, size_bytes as i64).map_err(fail(id, "ftruncate"))?;
    Ok(fd)
}

/// Copies the saved pages in. Huge-page files cannot be written to, only mapped.
fn fill(
    id: Id,
    fd: &OwnedFd,
    plan: &Plan,
    images: &ImageDir,
    stop: &Stop,
) -> Result<(), OpenError> {
    let Some(store) = plan.contents.as_ref().filter(|s| !s.runs.is_empty()) else {
        return Ok(());
    };
    let name = format!("pages-{}.img", store.pages_id);
    let image =
        |error: std::io::Error| FilesError::Image { file: name.clone(), errno: io_errno(&error) };
    let mut pages = images.raw(&name).map_err(image)?;
    let hugetlb = plan.inode.as_ref().and_then(|inode| inode.hugetlb_flag);
    if hugetlb.unwrap_or(0) != 0 {
        // SAFETY: the file was made above, is not sealed yet, and no other task has it: nobody
        // else changes it or its size while it is mapped here.
        let mut map = unsafe { MmapOptions::new().len(plan.size_bytes as usize).map_mut(fd) }
            .map_err(|e| fail(id, "mmap")(io_errno(&e)))?;
        for run in &store.runs {
            let end = run.start.saturating_add(run.len_bytes).min(plan.size_bytes);
            let room = map.get_mut(run.start as usize..end as usize);
            let room = room.ok_or_else(|| fail(id, "fill")(Errno::EINVAL))?;
            let mut at = run.offset_bytes;
            for piece in room.chunks_mut(COPY_BYTES) {
                stop.look()?;
                pages.read_exact_at(piece, at).map_err(image)?;
                at += piece.len() as u64;
            }
        }
        return Ok(());
    }
    let memory = File::from(fd.try_clone().map_err(|e| fail(id, "dup")(io_errno(&e)))?);
    let mut buffer = vec![0; COPY_BYTES];
    for run in &store.runs {
        // The last page may reach beyond the size of the file, which must not grow.
        let len_bytes = run.len_bytes.min(plan.size_bytes.saturating_sub(run.start));
        let mut done = 0;
        while done < len_bytes {
            let len = (len_bytes - done).min(COPY_BYTES as u64) as usize;
            let piece = &mut buffer[..len];
            stop.look()?;
            let at = run.offset_bytes + done;
            pages.read_exact_at(piece, at).map_err(image)?;
            let written = memory.write_all_at(piece, run.start + done);
            written.map_err(|e| fail(id, "write")(io_errno(&e)))?;
            done += len as u64;
        }
    }
    Ok(())
}

impl Memories {
    /// Opens one file of a memory.
    pub(super) fn open(&mut self, view: &View) -> Result<OwnedFd, FilesError> {
        let id = view.id;
        let (fd, _, given) = self.made.get_mut(&id).expect("every view's memory is planned");
        let writes = view.flags as i32 & libc::O_ACCMODE == libc::O_RDWR;
        // The file that memfd_create made is given away once: only it can be executed.
        let opened = if writes && (view.mapped || !std::mem::replace(given, true)) {
            let again = fd.try_clone().map_err(|e| fail(id, "dup")(io_errno(&e)))?;
            if !view.mapped {
                super::set_status_flags(&again, view.flags, &format!("memory {id:?}"))?;
            }
            again
        } else {
            raw::reopen(fd, regular::open_flags(view.flags as i32)).map_err(fail(id, "open"))?
        };
        if !view.mapped {
            lseek(&opened, view.pos as i64, Whence::SeekSet).map_err(fail(id, "seek"))?;
        }
        Ok(opened)
    }

    /// Applies the seals, now that every file is open, and returns those that must wait.
    pub(super) fn seal(&mut self) -> Result<Vec<Late>, FilesError> {
        let mut late = Vec::new();
        for (&id, (fd, plan, _)) in &self.made {
            let Some(inode) = plan.inode.as_ref().filter(|inode| inode.name != ANONYMOUS) else {
                continue;
            };
            let seals = SealFlag::from_bits_retain(inode.seals as i32);
            if inode.seals == UNSEALABLE || seals.is_empty() {
                continue;
            }
            let now = seals & !waiting(seals);
            fcntl(fd, FcntlArg::F_ADD_SEALS(now)).map_err(fail(id, "fcntl(F_ADD_SEALS)"))?;
            if now != seals {
                let fd = fd.try_clone().map_err(|e| fail(id, "dup")(io_errno(&e)))?;
                let seals = seals & !now;
                late.push(Late { id, fd, seals });
            }
        }
        Ok(late)
    }
}

/// Seals that only apply once the memory is mapped: one forbids new writable mappings and spares
/// those that exist. With the seal against all writing there are none, so nothing waits.
fn waiting(seals: SealFlag) -> SealFlag {
    if seals.contains(SealFlag::F_SEAL_FUTURE_WRITE) && !seals.contains(SealFlag::F_SEAL_WRITE) {
        SealFlag::F_SEAL_FUTURE_WRITE | SealFlag::F_SEAL_SEAL
    } else {
        SealFlag::empty()
    }
}

/// Seals of a memory that are applied when all address spaces are complete.
#[derive(Debug)]
pub(super) struct Late {
    id: Id,
    fd: OwnedFd,
    seals: SealFlag,
}

impl Late {
    pub(super) fn apply(&self) -> Result<(), FilesError> {
        let added = fcntl(&self.fd, FcntlArg::F_ADD_SEALS(self.seals));
        added.map(drop).map_err(fail(self.id, "fcntl(F_ADD_SEALS)"))
    }
}
