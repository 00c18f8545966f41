//! Kernel objects that descriptors and mappings refer to.
//!
//! Each object is opened once, in the restorer, and inherited by the whole tree; so processes that
//! shared an open file share it again. One source file for each kind: its plan (pure), its opening.
//! What can only exist when the tasks do (pidfds, `/proc/<pid>`) is opened late and fetched by the
//! targets. A new kind is a new file, and one line in each of the tables below.

mod anonymous;
mod epoll;
mod fifo;
mod memory;
mod owner;
mod pidfd;
mod pipe;
mod raw;
mod regular;
mod remap;
#[cfg(test)]
pub(crate) mod tests;
mod timerfd;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd, OwnedFd};

use criu_image::record::{FdTypes, FileEntry, VmaEntry};
use criu_image::{Body, Checkpoint, FileId, ImageDir, vma_status};
use nix::errno::Errno;

pub(crate) use epoll::{EpollAdd, epoll_adds};
pub(crate) use raw::duplicate;
pub use regular::{FileFinding, examine};

use crate::plan::devices::is_device;
use crate::refusal::{Refusal, RefusalKind};
use crate::stop::{Stop, Stopped};

/// What a descriptor or mapping refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ObjectKey {
    /// An open file of `files.img`.
    File(FileId),
    /// The same file, opened for a mapping with these access flags: they may differ from those of
    /// the descriptor, and the kernel checks a mapping against its own.
    Mapping {
        /// The file.
        file: FileId,
        /// `O_*` flags.
        flags: u32,
    },
    /// Shared anonymous memory.
    Shmem(u64),
    /// A pages image; not opened here but by the worker that reads it.
    Pages(u32),
    /// A buffer of a GPU; it is the process's own device file that is mapped.
    Buffer {
        /// The file that has it.
        file: FileId,
        /// Its place among the file's buffers.
        index: u32,
    },
}

/// Why an object could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A call on a path failed.
    #[error("{call} of {path} (file {id:#x}) failed: {errno}{}", advised(*.errno))]
    Path {
        /// The call.
        call: &'static str,
        /// The path.
        path: String,
        /// Id in `files.img`.
        id: u32,
        /// The kernel's error.
        errno: Errno,
    },
    /// A call on something without a path failed.
    #[error("{call} for {what} failed: {errno}{}", advised(*.errno))]
    Object {
        /// The call.
        call: &'static str,
        /// What was being made.
        what: String,
        /// The kernel's error.
        errno: Errno,
    },
    /// An image could not be read.
    #[error("cannot read {file}: {errno}; was it changed since the check?")]
    Image {
        /// File.
        file: String,
        /// The kernel's error.
        errno: Errno,
    },
    /// A file is not the one that was dumped.
    #[error(
        "{path} has {property} {here:#o}, the checkpoint {saved:#o}: put the file of the dump back"
    )]
    Changed {
        /// The path.
        path: String,
        /// Which property differs.
        property: &'static str,
        /// Value here.
        here: u64,
        /// Value at the dump.
        saved: u64,
    },
    /// A file is not the one that was dumped.
    #[error("{path} has {here} bytes, the checkpoint {saved}: put the file of the dump back")]
    Size {
        /// The path.
        path: String,
        /// Size here.
        here: u64,
        /// Size at the dump.
        saved: u64,
    },
}

/// Why not everything was opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// Something cannot be.
    Files(FilesError),
    /// The restore was given up meanwhile.
    Stopped(Stopped),
}

impl From<FilesError> for OpenError {
    fn from(error: FilesError) -> Self {
        Self::Files(error)
    }
}

impl From<Stopped> for OpenError {
    fn from(stopped: Stopped) -> Self {
        Self::Stopped(stopped)
    }
}

impl FilesError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Path { errno: Errno::ENOENT | Errno::ENOTDIR, .. }
            | Self::Object { errno: Errno::ENOENT | Errno::ENOTDIR, .. } => "files.missing",
            Self::Path { errno: Errno::EACCES | Errno::EPERM, .. }
            | Self::Object { errno: Errno::EACCES | Errno::EPERM, .. } => "files.denied",
            Self::Path { errno: Errno::EEXIST, .. } | Self::Object { errno: Errno::EEXIST, .. } => {
                "files.name-taken"
            }
            Self::Path { errno: Errno::EMFILE | Errno::ENFILE, .. }
            | Self::Object { errno: Errno::EMFILE | Errno::ENFILE, .. } => "files.descriptors",
            Self::Path { errno: Errno::ENOSPC | Errno::EDQUOT, .. }
            | Self::Object { errno: Errno::ENOSPC | Errno::EDQUOT, .. } => "files.no-space",
            Self::Path { errno: Errno::EROFS, .. } | Self::Object { errno: Errno::EROFS, .. } => {
                "files.read-only"
            }
            Self::Path { .. } | Self::Object { .. } => "files.call",
            Self::Image { .. } => "files.image",
            Self::Changed { .. } => "files.mode",
            Self::Size { .. } => "files.size",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Path { errno, .. } | Self::Object { errno, .. } => advice(*errno),
            Self::Image { .. } => {
                Some("leave the directory of the images as it is during a restore")
            }
            Self::Changed { .. } => Some("put the file of the dump back"),
            Self::Size { .. } => Some("put the file of the dump back"),
        }
    }
}

/// What the operator can do.
fn advice(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => Some("it must be there as it was at the dump"),
        Errno::EACCES | Errno::EPERM => Some("restore with the privileges that the dump had"),
        Errno::EAGAIN => Some("the capacity that was recorded is too small for the contents"),
        Errno::EEXIST => Some("remove what has taken the name"),
        Errno::EMFILE | Errno::ENFILE => Some("raise the limit of open files"),
        Errno::ENOSPC | Errno::EDQUOT => Some("make room in the file system"),
        Errno::EROFS => Some("it must be on a file system that can be written to"),
        _ => None,
    }
}

/// The same as the end of a text.
fn advised(errno: Errno) -> String {
    advice(errno).map_or_else(String::new, |advice| format!("; {advice}"))
}

/// How one object is opened.
#[derive(Debug)]
enum Plan {
    Regular(regular::Plan),
    Fifo(fifo::Plan),
    Eventfd(anonymous::Eventfd),
    Signalfd(anonymous::Signalfd),
    Epoll(epoll::Epoll),
    Timerfd(timerfd::Plan),
    Memory(memory::View),
}

/// How all objects are opened.
#[derive(Debug)]
pub(crate) struct FilesPlan {
    plans: Vec<(ObjectKey, Plan)>,
    pipes: Vec<pipe::Plan>,
    memories: BTreeMap<memory::Id, memory::Plan>,
    late: Vec<(ObjectKey, Late)>,
    owners: Vec<(ObjectKey, owner::Plan)>,
    remaps: remap::Plan,
}

/// How an object is opened once all tasks exist.
#[derive(Debug)]
enum Late {
    Pidfd(pidfd::Plan),
    Regular(regular::Plan),
}

/// All keys that the processes of a checkpoint refer to.
pub(crate) fn needs(checkpoint: &Checkpoint) -> BTreeSet<ObjectKey> {
    let processes = checkpoint.processes.iter();
    let bodies = processes.filter_map(|process| process.body.as_ref());
    bodies.flat_map(|body| body_needs(checkpoint, body)).collect()
}

/// What a process has other than descriptors and mappings.
fn places(body: &Body) -> [(&'static str, u32); 3] {
    [
        ("program", body.mm.exe_file_id),
        ("working directory", body.fs.cwd_id),
        ("root directory", body.fs.root_id),
    ]
}

fn body_needs<'a>(
    checkpoint: &'a Checkpoint,
    body: &'a Body,
) -> impl Iterator<Item = ObjectKey> + 'a {
    let table = checkpoint.fd_tables.get(&body.ids.files_id);
    let table = table.into_iter().flatten().map(|entry| entry.id);
    // Device files are opened by the processes that have them.
    let table = table.filter(|&id| !checkpoint.gpu.has(FileId(id)));
    let places = places(body).map(|(_, id)| id);
    let mappings = body.mm.vmas.iter().filter(|vma| !is_device(vma));
    let mappings = mappings.filter_map(|vma| mapping_key(vma, checkpoint).ok()?);
    let files = table.chain(places).map(|id| ObjectKey::File(FileId(id)));
    files.chain(mappings)
}

/// What a mapping maps; `None` for private anonymous memory.
pub(crate) fn mapping_key(
    vma: &VmaEntry,
    checkpoint: &Checkpoint,
) -> Result<Option<ObjectKey>, Refusal> {
    use vma_status::{ANON_SHARED, FILE_PRIVATE, FILE_SHARED, MEMFD, VDSO, VSYSCALL, VVAR};
    if vma.status & (VDSO | VVAR | VSYSCALL) != 0 {
        return Ok(None);
    }
    if vma.status & (FILE_PRIVATE | FILE_SHARED | MEMFD) == 0 {
        let shared = vma.status & ANON_SHARED != 0;
        return Ok(shared.then_some(ObjectKey::Shmem(vma.shmid)));
    }
    let file = FileId(vma.shmid as u32);
    let kind = checkpoint.files.get(&file).map(FileEntry::r#type);
    if !matches!(kind, Some(FdTypes::Reg | FdTypes::Memfd)) {
        let what = format!("mapping of a file of kind {kind:?}");
        let place = format!("files.img, file {:#x}", file.0);
        return Err(Refusal::of_tree(RefusalKind::MappedKind, what, place));
    }
    let writes = vma.prot & libc::PROT_WRITE as u32 != 0 && vma.status & FILE_PRIVATE == 0;
    let by_use = if writes { libc::O_RDWR } else { libc::O_RDONLY };
    let flags = vma.fdflags.unwrap_or(by_use as u32);
    Ok(Some(ObjectKey::Mapping { file, flags }))
}

/// Plans the opening of every object; the error lists all that cannot be opened, each with the
/// processes that refer to it.
pub(crate) fn plan(
    checkpoint: &Checkpoint,
    needs: &BTreeSet<ObjectKey>,
) -> Result<FilesPlan, Vec<Refusal>> {
    let mut planner = Planner {
        checkpoint,
        plan: FilesPlan {
            plans: Vec::new(),
            pipes: Vec::new(),
            memories: BTreeMap::new(),
            late: Vec::new(),
            owners: Vec::new(),
            remaps: remap::Plan::new(checkpoint),
        },
        refusals: Vec::new(),
    };
    for &key in needs {
        match key {
            ObjectKey::File(id) => planner.file(key, id, None),
            ObjectKey::Mapping { file, flags } => planner.file(key, file, Some(flags)),
            ObjectKey::Shmem(shmid) => planner.shmem(key, shmid),
            ObjectKey::Pages(_) | ObjectKey::Buffer { .. } => {}
        }
    }
    planner.plan.pipes = pipe::plan(checkpoint, needs);
    let refusals = planner.all_refusals();
    if refusals.is_empty() { Ok(planner.plan) } else { Err(refusals) }
}

struct Planner<'a> {
    checkpoint: &'a Checkpoint,
    plan: FilesPlan,
    refusals: Vec<(FileId, Refusal)>,
}

impl Planner<'_> {
    /// One line for each kind. `mapping` are the flags of a mapping, else it is a descriptor.
    fn file(&mut self, key: ObjectKey, id: FileId, mapping: Option<u32>) {
        let checkpoint = self.checkpoint;
        let Some(entry) = checkpoint.files.get(&id) else {
            let place = format!("files.img, file {:#x}", id.0);
            let refusal =
                Refusal::of_tree(RefusalKind::Undescribed, "file that is not described", place);
            return self.refusals.push((id, refusal));
        };
        let plan = match entry.r#type() {
            FdTypes::Reg => self.regular(key, id, mapping),
            FdTypes::Fifo => fifo::plan(checkpoint, entry).map(Plan::Fifo).map(Some),
            FdTypes::Eventfd => whole(entry, anonymous::Eventfd::plan, Plan::Eventfd),
            FdTypes::Signalfd => whole(entry, anonymous::Signalfd::plan, Plan::Signalfd),
            FdTypes::Eventpoll => self.epoll(entry),
            FdTypes::Timerfd => whole(entry, timerfd::Plan::new, Plan::Timerfd),
            FdTypes::Memfd => whole(entry, |e| self.memory(e, mapping), Plan::Memory),
            FdTypes::Pidfd => self.pidfd(key, entry),
            // Planned together, by pipe.
            FdTypes::Pipe => whole(entry, |e| e.pipe, |_| ()).map(|_| None),
            other => Err(unsupported(other, entry)),
        };
        match plan {
            Ok(plan) => self.plan.plans.extend(plan.map(|plan| (key, plan))),
            Err(refusal) => self.refusals.push((id, refusal)),
        }
        if mapping.is_none() {
            match owner::plan(checkpoint, entry) {
                Ok(plan) => self.plan.owners.extend(plan.map(|plan| (key, plan))),
                Err(refusal) => self.refusals.push((id, refusal)),
            }
        }
    }

    fn regular(
        &mut self,
        key: ObjectKey,
        id: FileId,
        mapping: Option<u32>,
    ) -> Result<Option<Plan>, Refusal> {
        let plan = regular::plan(self.checkpoint, id, mapping)?;
        if !plan.needs_tasks {
            return Ok(Some(Plan::Regular(plan)));
        }
        // Only descriptors can be given to a process afterwards.
        let is_place = |body: &Body| places(body).iter().any(|(_, place)| *place == id.0);
        let mut bodies = self.checkpoint.processes.iter().flat_map(|p| &p.body);
        if mapping.is_some() || bodies.any(is_place) {
            let what = "program, directory or mapping in /proc/<pid> of the tree";
            let place = format!("files.img, file {:#x}", id.0);
            return Err(Refusal::of_tree(RefusalKind::ProcOfTree, what, place));
        }
        self.plan.late.push((key, Late::Regular(plan)));
        Ok(None)
    }

    fn epoll(&mut self, entry: &FileEntry) -> Result<Option<Plan>, Refusal> {
        let refused = epoll::check(self.checkpoint, entry).into_iter();
        self.refusals.extend(refused.map(|r| (FileId(entry.id), r)));
        whole(entry, epoll::Epoll::plan, Plan::Epoll)
    }

    fn pidfd(&mut self, key: ObjectKey, entry: &FileEntry) -> Result<Option<Plan>, Refusal> {
        if let Some(pidfd) = whole(entry, |e| e.pidfd, |pidfd| pidfd)? {
            let plan = pidfd::Plan::new(self.checkpoint, pidfd)?;
            self.plan.late.push((key, Late::Pidfd(plan)));
        }
        Ok(None)
    }

    fn memory(&mut self, entry: &FileEntry, mapping: Option<u32>) -> Option<memory::View> {
        let (id, plan) = memory::plan(self.checkpoint, entry)?;
        self.plan.memories.entry(id).or_insert(plan);
        memory::View::new(entry, id, mapping)
    }

    fn shmem(&mut self, key: ObjectKey, shmid: u64) {
        let (id, plan) = memory::plan_anonymous(self.checkpoint, shmid);
        self.plan.memories.insert(id, plan);
        let view = memory::View { id, flags: libc::O_RDWR as u32, pos: 0, mapped: true };
        self.plan.plans.push((key, Plan::Memory(view)));
    }

    /// Each refusal once, with the processes that have the file. A file may be needed twice, as a
    /// descriptor and as a mapping.
    fn all_refusals(&mut self) -> Vec<Refusal> {
        let mut users: BTreeMap<FileId, BTreeSet<u32>> = BTreeMap::new();
        let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
        let refused: BTreeSet<FileId> = self.refusals.iter().map(|(id, _)| *id).collect();
        for process in self.checkpoint.processes.iter().filter(|_| !refused.is_empty()) {
            let Some(body) = &process.body else { continue };
            for key in body_needs(self.checkpoint, body) {
                if let ObjectKey::File(id) | ObjectKey::Mapping { file: id, .. } = key {
                    users.entry(id).or_default().insert(process.pid);
                }
            }
        }
        for (id, refusal) in self.refusals.drain(..) {
            let pids = users.get(&id).into_iter().flatten().copied();
            let refusal = refusal.with_pids(pids);
            if seen.insert(refusal.clone()) {
                all.push(refusal);
            }
        }
        all
    }
}

/// The plan of an entry that has the part of its kind.
fn whole<P, T>(
    entry: &FileEntry,
    plan: impl FnOnce(&FileEntry) -> Option<P>,
    wrap: impl FnOnce(P) -> T,
) -> Result<Option<T>, Refusal> {
    let place = format!("files.img, file {:#x}", entry.id);
    let what = "file without its description";
    let none = || Refusal::of_tree(RefusalKind::Undescribed, what, place);
    let plan = plan(entry).ok_or_else(none);
    plan.map(|plan| Some(wrap(plan)))
}

fn unsupported(kind: FdTypes, entry: &FileEntry) -> Refusal {
    let (refused, what) = match kind {
        FdTypes::Inetsk => (RefusalKind::InternetSocket, "internet socket"),
        FdTypes::Unixsk => (RefusalKind::UnixSocket, "unix socket"),
        FdTypes::Packetsk => (RefusalKind::PacketSocket, "packet socket"),
        FdTypes::Netlinksk => (RefusalKind::NetlinkSocket, "netlink socket"),
        FdTypes::Inotify => (RefusalKind::Inotify, "inotify instance"),
        FdTypes::Fanotify => (RefusalKind::Fanotify, "fanotify instance"),
        FdTypes::Tty => (RefusalKind::Terminal, "terminal"),
        FdTypes::Ns => (RefusalKind::NamespaceFile, "namespace file"),
        FdTypes::Tunf => (RefusalKind::TunDevice, "tun device"),
        FdTypes::Ext => (RefusalKind::PluginFile, "file of a plugin"),
        FdTypes::Bpfmap => (RefusalKind::Bpf, "BPF map"),
        _ => (RefusalKind::UnknownFile, "file of unknown kind"),
    };
    let refusal = Refusal::of_tree(refused, what, format!("files.img, file {:#x}", entry.id));
    match kind {
        FdTypes::Ext => refusal,
        _ => refusal.with_help("restore the checkpoint with criu, or close it before the dump"),
    }
}

/// Open objects, and what is left to do with them.
#[derive(Debug)]
pub(crate) struct OpenedFiles {
    fds: BTreeMap<ObjectKey, OwnedFd>,
    late: Vec<(ObjectKey, Late)>,
    /// Numbers under which late objects will be open.
    places: BTreeMap<ObjectKey, OwnedFd>,
    owners: Vec<(ObjectKey, owner::Plan)>,
    timers: Vec<(ObjectKey, timerfd::Plan)>,
    seals: Vec<memory::Late>,
    remaps: remap::Names,
}

impl FilesPlan {
    /// Bytes of saved contents of memory that is a file.
    pub(crate) fn shared_bytes(&self) -> u64 {
        self.memories.values().map(memory::Plan::contents_bytes).sum()
    }

    /// Opens everything that can exist before the tasks do.
    pub(crate) fn open(self, images: &ImageDir, stop: &Stop) -> Result<OpenedFiles, OpenError> {
        let mut remaps = self.remaps.begin(images, stop);
        let mut fds = BTreeMap::new();
        let mut timers = Vec::new();
        let mut memories = memory::create_all(self.memories, images, stop)?;
        let mut fifos = fifo::Held::default();
        for (key, plan) in self.plans {
            stop.look()?;
            let fd = match plan {
                Plan::Regular(plan) => {
                    let opened = regular::open(&plan, &mut remaps);
                    opened.map_err(|error| remaps.explain(error))?
                }
                Plan::Fifo(plan) => {
                    let opened = fifos.open(&plan, &mut remaps, images);
                    opened.map_err(|error| remaps.explain(error))?
                }
                Plan::Eventfd(plan) => plan.open()?,
                Plan::Signalfd(plan) => plan.open()?,
                Plan::Epoll(plan) => plan.open()?,
                Plan::Timerfd(plan) => {
                    let fd = plan.open()?;
                    timers.push((key, plan));
                    fd
                }
                Plan::Memory(view) => memories.open(&view)?,
            };
            fds.insert(key, fd);
        }
        let seals = memories.seal()?;
        for plan in self.pipes {
            fds.extend(plan.open(images)?);
        }
        remaps.remove_temporary()?;
        let places = reserve(&self.late)?;
        Ok(OpenedFiles { fds, late: self.late, places, owners: self.owners, timers, seals, remaps })
    }
}

/// Takes a descriptor number for each late object.
fn reserve(late: &[(ObjectKey, Late)]) -> Result<BTreeMap<ObjectKey, OwnedFd>, FilesError> {
    let mut places = BTreeMap::new();
    for (key, _) in late {
        let place = raw::open(b"/dev/null", libc::O_RDONLY).map_err(|errno| {
            let what = "a descriptor number".to_owned();
            FilesError::Object { call: "open /dev/null", what, errno }
        })?;
        places.insert(*key, place);
    }
    Ok(places)
}

impl OpenedFiles {
    /// The open objects.
    pub(crate) fn inherited(&self) -> impl Iterator<Item = (ObjectKey, &OwnedFd)> {
        self.fds.iter().map(|(key, fd)| (*key, fd))
    }

    /// Objects that will be open under these numbers of this process once the tasks exist.
    pub(crate) fn late(&self) -> impl Iterator<Item = (ObjectKey, i32)> {
        self.places.iter().map(|(key, place)| (*key, place.as_raw_fd()))
    }

    /// All tasks exist: opens what needs them.
    pub(crate) fn open_late(&mut self) -> Result<(), FilesError> {
        let mut dead = pidfd::Dead::default();
        for (key, late) in &self.late {
            let fd = match late {
                Late::Pidfd(plan) => plan.open(&mut dead)?,
                Late::Regular(plan) => regular::open(plan, &mut self.remaps)?,
            };
            let place = self.places.get_mut(key).expect("every late object has a place");
            nix::unistd::dup3(&fd, place, nix::fcntl::OFlag::O_CLOEXEC).map_err(|errno| {
                FilesError::Object { call: "dup3", what: "a late descriptor".to_owned(), errno }
            })?;
        }
        Ok(())
    }

    /// All address spaces, descriptors, threads and groups are complete: does what had to wait for
    /// that, and last, for the tree is about to run, arms the timers that are files.
    pub(crate) fn arm_timers(&self) -> Result<(), FilesError> {
        for seals in &self.seals {
            seals.apply()?;
        }
        for (key, owner) in &self.owners {
            if let Some(fd) = self.fds.get(key).or_else(|| self.places.get(key)) {
                owner.set(fd)?;
            }
        }
        for (key, plan) in &self.timers {
            plan.arm(&self.fds[key])?;
        }
        Ok(())
    }

    /// The tree runs: removes the links that the dump left.
    pub(crate) fn finish(self) {
        self.remaps.finish();
    }
}

/// Status flags that `F_SETFL` can set (fcntl(2)).
const SETTABLE: i32 =
    libc::O_APPEND | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME | libc::O_NONBLOCK;

/// Sets the status flags of an object that was not opened by path. Signals come later, with owners.
fn set_status_flags(fd: &OwnedFd, flags: u32, what: &str) -> Result<(), FilesError> {
    let flags = nix::fcntl::OFlag::from_bits_truncate(flags as i32 & SETTABLE & !libc::O_ASYNC);
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(flags)).map(drop).map_err(|errno| {
        FilesError::Object { call: "fcntl(F_SETFL)", what: what.to_owned(), errno }
    })
}
