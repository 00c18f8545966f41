//! Turns a checkpoint into the steps of its restore, or the list of all that stands against it.
//!
//! Planning is pure: no system call, the same input gives the same plan, and every refusal is made
//! here, before the first task exists. A [`ProcessPlan`] holds everything that the worker of that
//! process needs, and nothing of any other process.

pub(crate) mod devices;
mod hole;
mod memory;
mod refuse;
mod survey;
mod tree;

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use criu_image::record::{FdinfoEntry, MmEntry, TaskCoreEntry};
use criu_image::{Checkpoint, FileId, ImageDir, Process, Thread};

pub(crate) use hole::find_between;
pub(crate) use memory::{Fill, HUGE_PAGE_BYTES, Kept, Lent, Mapping, MemoryPlan};
pub use survey::{GpuNeed, IdUse, Survey};
pub use tree::TreeError;
pub(crate) use tree::{Group, Member, Role};

use gpu_kfd::{Rules, UserMap};

use crate::contract::{Outline, Schedule, ScheduleError, Scheduler};
use crate::engine::Sabotage;
use crate::files::{self, EpollAdd, FilesPlan, ObjectKey};
use crate::host::Host;
use crate::refusal::Refusal;
use crate::remote::region::{SlotSize, region_bytes};

/// Most processes that one restore makes: each takes a slot of 80 KiB in the shared region.
pub const PROCESSES_MAX: usize = 16_384;

/// What the caller may choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// The root stays in a session of others (`--shell-job`).
    pub shell_job: bool,
    /// Ignore `cgroup.img`: the tree stays in the restorer's cgroups (`--manage-cgroups=ignore`).
    pub ignore_cgroups: bool,
    /// The root becomes a sibling of the restorer, not its child (`--restore-sibling`).
    pub sibling: bool,
    /// Leave every task stopped (`--leave-stopped`).
    pub leave_stopped: bool,
    /// Fill blocks of 2 MiB that are saved whole as huge pages, where the system allows them.
    pub huge_pages: bool,
    /// Most worker threads; 0 for one a process, up to a bound that fits this host.
    pub workers_max: usize,
    /// Which ready device step goes next.
    pub schedule: Schedule,
    /// Which rules the match of GPUs obeys.
    pub gpu_rules: Rules,
    /// GPUs of this host that the user chose for saved ones.
    pub gpu_map: UserMap,
    /// Memory that one thread takes to copy through where the host does not see VRAM, in bytes.
    pub copy_buffer_bytes: usize,
    /// Read buffers back and compare them before anything runs (`--verify`).
    pub verify_contents: bool,
    /// Longest time from the begin of [`restore`](crate::restore) until the tree is let go.
    pub timeout: Option<Duration>,
    /// Readable, and staying so, when the restore is to be given up: an eventfd, a pipe, a signalfd
    /// that nobody reads. Of signals, see [`restore`](crate::restore).
    pub abort: Option<Arc<OwnedFd>>,
    /// Longest silence of all workers and copiers together while device files are restored.
    #[doc(hidden)]
    pub silence_max: Duration,
    /// An engine that breaks the contract, for tests of its judges.
    #[doc(hidden)]
    pub sabotage: Option<Sabotage>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shell_job: false,
            ignore_cgroups: false,
            sibling: false,
            leave_stopped: false,
            huge_pages: true,
            workers_max: 0,
            schedule: Schedule::Concurrent,
            gpu_rules: Rules::all(),
            gpu_map: UserMap::default(),
            copy_buffer_bytes: gpu_kfd::BOUNCE_BYTES_DEFAULT,
            verify_contents: false,
            timeout: None,
            abort: None,
            // The calls of a target have a limit of 120 s, after which its worker reports.
            silence_max: Duration::from_secs(300),
            sabotage: None,
        }
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The checkpoint holds things that are not restored.
    #[error("the checkpoint holds {} thing(s) that cannot be restored", .0.len())]
    Refused(Vec<Refusal>),
    /// Sessions or groups cannot be rebuilt.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// No GPUs of this host can stand for those of the checkpoint.
    #[error("the GPUs of the checkpoint have no match here\n{0}")]
    Gpus(Box<gpu_kfd::Refusal>),
    /// The checkpoint needs GPUs, and the host has no driver for them.
    #[error("the checkpoint needs AMD GPUs, and this host has none (is the amdgpu driver loaded?)")]
    NoGpus,
    /// The device files cannot be restored in the order that was asked for, or in any.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// This host lacks something that the checkpoint needs.
    #[error("this host cannot take the checkpoint: {0}")]
    Host(HostMismatch),
}

impl PlanError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(_) => "unsupported.images",
            Self::Tree(error) => error.code(),
            Self::Gpus(refusal) => refusal.code(),
            Self::NoGpus => "host.no-gpus",
            Self::Schedule(error) => error.code(),
            Self::Host(mismatch) => mismatch.code(),
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Refused(_) => Some("see what is said of each of them"),
            Self::Tree(error) => error.help(),
            Self::Gpus(refusal) => refusal.help(),
            Self::NoGpus => {
                Some("load the amdgpu driver, and let the container have /dev/kfd and /sys")
            }
            Self::Schedule(error) => error.help(),
            Self::Host(mismatch) => mismatch.help(),
        }
    }
}

/// What of the host does not fit.
#[derive(Debug, thiserror::Error)]
pub enum HostMismatch {
    /// The vdso differs, and code of the process may be inside it.
    #[error(
        "the vdso of the checkpoint ({saved_bytes} bytes) is not this kernel's ({here_bytes} bytes)"
    )]
    Vdso {
        /// Size in the checkpoint.
        saved_bytes: u64,
        /// Size here.
        here_bytes: u64,
    },
    /// No address range is free in all processes.
    #[error("no {needed_bytes} bytes of address space are free in all processes")]
    AddressSpace {
        /// Size of the shared region.
        needed_bytes: usize,
    },
    /// More processes than the shared region serves.
    #[error("{count} processes exceed the limit of {PROCESSES_MAX}")]
    Processes {
        /// Processes in the checkpoint, helpers included.
        count: usize,
    },
}

impl HostMismatch {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Vdso { .. } => "host.vdso-size",
            Self::AddressSpace { .. } => "host.address-space",
            Self::Processes { .. } => "host.processes",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Vdso { .. } => Some("restore on the kernel of the dump"),
            Self::AddressSpace { .. } => {
                Some("restore fewer processes at a time: they leave too little in common")
            }
            Self::Processes { .. } => Some("dump parts of the tree on their own"),
        }
    }
}

/// A descriptor to put in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FdPlan {
    pub(crate) fd: i32,
    pub(crate) object: ObjectKey,
    pub(crate) close_on_exec: bool,
}

/// What a process with an address space is made of.
#[derive(Debug)]
pub(crate) struct LivePlan {
    /// Its device files, in the order of the contract.
    pub(crate) devices: Vec<devices::DevicePlan>,
    pub(crate) memory: MemoryPlan,
    pub(crate) mm: MmEntry,
    pub(crate) exe: ObjectKey,
    pub(crate) fds: Vec<FdPlan>,
    pub(crate) epolls: Vec<EpollAdd>,
    pub(crate) cwd: ObjectKey,
    pub(crate) root: ObjectKey,
    pub(crate) umask: Option<u32>,
    pub(crate) task: TaskCoreEntry,
    /// The leader first.
    pub(crate) threads: Vec<Thread>,
}

impl LivePlan {
    /// Whether it is the process itself that opens this, or receives it from another one.
    fn is_own(&self, key: ObjectKey) -> bool {
        match key {
            ObjectKey::Buffer { .. } => true,
            ObjectKey::File(id) => self.devices.iter().any(|device| device.file == id),
            ObjectKey::Mapping { .. } | ObjectKey::Shmem(_) | ObjectKey::Pages(_) => false,
        }
    }
}

/// What is to become of a member of the tree.
#[derive(Debug)]
pub(crate) enum Kind {
    /// A running or stopped process.
    Live(Box<LivePlan>),
    /// A process that has exited and was not waited for.
    Zombie(Box<TaskCoreEntry>),
    /// See [`Role::Helper`].
    Helper,
}

/// The plan of one process: all that its worker sees.
#[derive(Debug)]
pub(crate) struct ProcessPlan {
    pub(crate) pid: i32,
    pub(crate) member: Member,
    pub(crate) kind: Kind,
    /// It is born with the memory of an ancestor and must drop what it does not keep.
    pub(crate) born_full: bool,
}

impl ProcessPlan {
    /// Whether children keep part of its memory.
    pub(crate) fn lends(&self) -> bool {
        matches!(&self.kind, Kind::Live(live) if !live.memory.lent.mappings.is_empty())
    }

    /// Whether the process has state in the KFD driver, which is resumed at the end.
    pub(crate) fn has_gpu_state(&self) -> bool {
        let Kind::Live(live) = &self.kind else { return false };
        live.devices.iter().any(|device| matches!(device.work, devices::Work::Kfd(Some(_))))
    }

    /// Descriptors of the restorer that this process needs.
    pub(crate) fn objects(&self) -> BTreeSet<ObjectKey> {
        let mut keys = BTreeSet::new();
        if let Kind::Live(live) = &self.kind {
            keys.extend(live.fds.iter().map(|fd| fd.object));
            keys.extend([live.exe, live.cwd, live.root]);
            keys.extend(live.memory.mappings.iter().filter_map(|m| m.source));
            // What the process opens itself is no object of the restorer.
            keys.retain(|key| !live.is_own(*key));
        }
        keys
    }
}

/// The plan of a whole restore.
#[derive(Debug)]
pub struct RestorePlan {
    pub(crate) processes: Vec<ProcessPlan>,
    pub(crate) files: FilesPlan,
    pub(crate) region_base: u64,
    pub(crate) slots: Vec<SlotSize>,
    /// Every id that a task of the tree takes.
    pub(crate) ids: BTreeSet<i32>,
    /// One more than the highest descriptor of any process.
    pub(crate) fds_end: i32,
    pub(crate) options: Options,
    /// This kernel's vdso, to be compared with the saved one.
    pub(crate) vdso: Option<crate::host::Vdso>,
    pub(crate) images: ImageDir,
    pub(crate) outline: Outline,
    pub(crate) hsakmt: Option<devices::HsakmtShared>,
}

impl RestorePlan {
    /// Plans the restore of a checkpoint on a host.
    ///
    /// # Errors
    /// All refusals at once, or the first thing about the tree or the host that does not fit.
    pub fn new(
        mut checkpoint: Checkpoint,
        host: &Host,
        options: Options,
    ) -> Result<Self, PlanError> {
        let mut refusals = refuse::collect(&checkpoint, &options);
        let places: Vec<tree::Place> = checkpoint.processes.iter().map(place).collect();
        let members = tree::plan(&places, options.shell_job)?;
        let devices = devices::plan(&checkpoint, host, &options, &mut refusals)?;
        let needs = files::needs(&checkpoint);
        let files = match files::plan(&checkpoint, &needs) {
            Ok(files) => Some(files),
            Err(list) => {
                refusals.extend(list);
                None
            }
        };
        let memories: Vec<Option<MemoryPlan>> = checkpoint
            .processes
            .iter()
            .map(|p| {
                let body = p.body.as_ref()?;
                Some(memory::plan(&checkpoint, Some(&devices.map), p.pid, body, &mut refusals))
            })
            .collect();
        let epolls: Vec<Vec<EpollAdd>> = checkpoint
            .processes
            .iter()
            .map(|process| files::epoll_adds(&checkpoint, process))
            .collect();
        let (Some(files), true) = (files, refusals.is_empty()) else {
            return Err(PlanError::Refused(refusals));
        };
        let images = checkpoint.images.clone();
        let (outline, hsakmt) = (devices.outline, devices.hsakmt);
        Scheduler::new(&outline, options.schedule.clone())?;
        let mut parts = memories.into_iter().zip(epolls).zip(devices.processes);
        let mut kinds: Vec<Option<Kind>> = Vec::new();
        for process in std::mem::take(&mut checkpoint.processes) {
            let ((memory, epolls), devices) = parts.next().expect("one entry a process");
            kinds.push(Some(kind(&checkpoint, process, memory, epolls, devices)));
        }
        let processes: Vec<ProcessPlan> = members
            .into_iter()
            .map(|member| ProcessPlan {
                pid: member.pid,
                kind: match member.role {
                    Role::Process(index) => kinds[index].take().expect("each process once"),
                    Role::Helper => Kind::Helper,
                },
                member,
                born_full: false,
            })
            .collect();
        let plan = Self::assemble(processes, files, host, options, images, outline)?;
        Ok(Self { hsakmt, ..plan })
    }

    fn assemble(
        processes: Vec<ProcessPlan>,
        files: FilesPlan,
        host: &Host,
        options: Options,
        images: ImageDir,
        outline: Outline,
    ) -> Result<Self, PlanError> {
        if processes.len() > PROCESSES_MAX {
            return Err(PlanError::Host(HostMismatch::Processes { count: processes.len() }));
        }
        let mut slots = Vec::new();
        let mut ids = BTreeSet::new();
        let mut fds_end = 0;
        for process in &processes {
            slots.push(SlotSize::Leader);
            ids.insert(process.pid);
            if let Kind::Live(live) = &process.kind {
                slots.extend(live.threads.iter().skip(1).map(|_| SlotSize::Thread));
                ids.extend(live.threads.iter().map(|thread| thread.tid as i32));
                fds_end = live.fds.iter().map(|fd| fd.fd + 1).fold(fds_end, i32::max);
                check_vdso(&live.memory, host)?;
            }
        }
        slots.push(SlotSize::Guard(processes.len()));
        let needed_bytes = region_bytes(slots.iter().copied());
        let taken = processes.iter().filter_map(|process| match &process.kind {
            Kind::Live(live) => Some(&live.memory),
            _ => None,
        });
        let region_base = hole::find(taken, &host.own_mappings, needed_bytes as u64)
            .ok_or(PlanError::Host(HostMismatch::AddressSpace { needed_bytes }))?;
        let vdso = host.vdso.clone();
        Ok(Self {
            processes,
            files,
            region_base,
            slots,
            ids,
            fds_end,
            options,
            vdso,
            images,
            outline,
            hsakmt: None,
        })
    }

    /// Chooses another schedule: an order can only be named when the steps are known.
    ///
    /// # Errors
    /// The order is not one of the legal ones.
    pub fn set_schedule(&mut self, schedule: Schedule) -> Result<(), ScheduleError> {
        Scheduler::new(&self.outline, schedule.clone())?;
        self.options.schedule = schedule;
        Ok(())
    }

    /// The device steps and what they wait for: what a dry run shows, and what a trace begins with.
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// Number of processes, helpers included.
    pub fn process_count(&self) -> usize {
        self.processes.len()
    }

    /// Pid of the root.
    pub fn root_pid(&self) -> i32 {
        self.processes[0].pid
    }
}

fn place(process: &Process) -> tree::Place {
    tree::Place {
        pid: process.pid as i32,
        parent: process.parent,
        pgid: process.pgid as i32,
        sid: process.sid as i32,
    }
}

fn kind(
    checkpoint: &Checkpoint,
    process: Process,
    memory: Option<MemoryPlan>,
    epolls: Vec<EpollAdd>,
    devices: Vec<devices::DevicePlan>,
) -> Kind {
    let (Some(body), Some(memory)) = (process.body, memory) else {
        return Kind::Zombie(Box::new(process.task));
    };
    let table = checkpoint.fd_tables.get(&body.ids.files_id).map_or(&[][..], Vec::as_slice);
    Kind::Live(Box::new(LivePlan {
        devices,
        memory,
        exe: ObjectKey::File(FileId(body.mm.exe_file_id)),
        mm: body.mm,
        fds: table.iter().map(fd_plan).collect(),
        epolls,
        cwd: ObjectKey::File(FileId(body.fs.cwd_id)),
        root: ObjectKey::File(FileId(body.fs.root_id)),
        umask: body.fs.umask,
        task: process.task,
        threads: body.threads,
    }))
}

/// `FD_CLOEXEC` as the images store it (`fdinfo_entry.flags`).
const FD_CLOEXEC: u32 = 1;

fn fd_plan(entry: &FdinfoEntry) -> FdPlan {
    FdPlan {
        fd: entry.fd as i32,
        object: ObjectKey::File(FileId(entry.id)),
        close_on_exec: entry.flags & FD_CLOEXEC != 0,
    }
}

fn check_vdso(memory: &MemoryPlan, host: &Host) -> Result<(), PlanError> {
    let here_bytes = host.vdso.as_ref().map_or(0, |vdso| vdso.len_bytes);
    match memory.vdso {
        Some((_, saved_bytes)) if saved_bytes != here_bytes => {
            Err(PlanError::Host(HostMismatch::Vdso { saved_bytes, here_bytes }))
        }
        _ => Ok(()),
    }
}
