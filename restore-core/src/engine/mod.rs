//! Carries out a plan: all of the tree, or nothing of it.
//!
//! The coordinator (the thread that calls [`restore`]) opens what is shared, makes the root, and
//! leads the workers from stage to stage. It is the parent of the root and lives as long as the
//! restore, so the root dies with it. Workers own their targets; messages move, nothing is shared.

mod attributes;
mod credentials;
mod descriptors;
mod devices;
mod error;
mod finish;
mod memory;
mod pool;
mod service;
mod signals;
mod target;
mod threads;
mod timers;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use gpu_kfd::KfdFd;
use nix::errno::Errno;

pub use devices::copy::CopyError;
#[doc(hidden)]
pub use devices::sabotage::Sabotage;
pub use error::{Failure, IdUser, RestoreError, StepError};
pub(crate) use memory::vdso::check_one as vdso_difference;
pub use threads::XstateError;
pub use worker::Stage;

use crate::contract::{Outline, Schedule, StepId, TraceEvent, TraceStage};
use crate::files::OpenedFiles;
use crate::plan::{Kind, Options, ProcessPlan, RestorePlan, Role};
use crate::remote::region::{Region, Slot};
pub use crate::remote::spawn::GuardError;
use crate::remote::spawn::{Brood, Guard, leave_rseq, spawn_root, swap_signal_mask};
use crate::stop::Stop;
use crate::summary::{ProcessBytes, ProcessSummary, Times, summaries, to_fill};
use pool::Pool;
use service::Service;
use target::{Child, Target};
use worker::Surroundings;

/// How long killed processes may take to be gone: the kernel frees their memory first.
const REAP_WAIT_MAX: Duration = Duration::from_secs(60);

/// What a restore reports while it goes on.
#[derive(Clone, Debug)]
pub enum Event {
    /// Shared objects are open and workers run: the end of [`Stage::Prepare`].
    Prepared {
        /// Number of worker threads.
        workers: usize,
        /// Open objects.
        objects: usize,
        /// What will be filled, of each process that has memory: the pages that it does not keep of
        /// its parent, and contents of buffers that it makes.
        to_fill: Vec<ProcessBytes>,
    },
    /// So much of a process is filled by now. It comes at most every 50 ms of each worker, and for
    /// each piece (32 MiB) of GPU contents. In the end it is what [`Event::Prepared`] said.
    Filled(ProcessBytes),
    /// Something of one process has been done, or has failed.
    Step(TraceEvent),
    /// All processes have finished a stage; the next one begins. Not said of [`Stage::Prepare`].
    Reached(Stage),
}

/// A tree that runs.
#[derive(Debug)]
pub struct Restored {
    /// Pid of the root, a child of the caller unless it was made a sibling.
    pub root: i32,
    /// pidfd of the root.
    pub root_pidfd: Arc<OwnedFd>,
    /// All processes, parents before their children.
    pub processes: Vec<ProcessSummary>,
    /// How long each stage took, in their order.
    pub stages: Vec<(Stage, Duration)>,
    /// Bytes of private memory that were written; what children share with a parent counts once.
    pub memory_bytes: u64,
    /// Bytes of shared memory and memory files that were written.
    pub shared_bytes: u64,
    /// Bytes that were copied into GPU buffers.
    pub gpu_bytes: u64,
    /// Pages of parents and children that were compared, to find out what they share.
    pub pages_compared: u64,
    /// Pages that were found the same, and so were not written.
    pub pages_shared: u64,
}

/// Restores the tree of a plan; on success it runs.
///
/// The calling thread must live until the tree is released, and no other thread of the process
/// may wait for arbitrary children meanwhile. The process becomes a child subreaper while it works.
///
/// # Giving up
///
/// A restore ends early when [`Options::abort`](crate::Options::abort) is readable or its
/// [time](crate::Options::timeout) is over. Both are looked at every 20 ms, and before each stage
/// and each GPU whose queues are started. Then everything is undone as after any failure.
/// The begin of [`Stage::Release`] is the point of no return: after it the restore succeeds.
///
/// All signals are blocked in the calling thread until this returns, and threads that it starts
/// inherit that. A signal that is to give the restore up needs someone else who takes it: block
/// it in the whole process *before*, and either pass a signalfd of it as `abort`, or have a thread
/// of your own wait for it (`sigwait`) and write to an eventfd. The id of such a thread may be one
/// that the tree needs, and then the restore fails ([`RestoreError::IdTaken`]); a signalfd needs
/// no thread.
///
/// # Errors
/// [`Failure`]; every task that was made has been killed and reaped, but for those it lists.
/// [`RestoreError::Cancelled`] and [`RestoreError::Timeout`] are the first error also where workers
/// failed because of them.
pub fn restore(
    plan: RestorePlan,
    observe: &mut dyn FnMut(Event),
) -> Result<Restored, Box<Failure>> {
    let mut brood = Brood::default();
    let guard = match ThreadGuard::enter() {
        Ok(guard) => guard,
        Err(error) => {
            return Err(Box::new(Failure { error, left: Vec::new() }));
        }
    };
    let result = carry_out(plan, &mut brood, observe);
    let result = result.map_err(|error| {
        brood.kill();
        Box::new(Failure { error, left: brood.reap(REAP_WAIT_MAX) })
    });
    drop(guard);
    result
}

fn carry_out(
    plan: RestorePlan,
    brood: &mut Brood,
    observe: &mut dyn FnMut(Event),
) -> Result<Restored, RestoreError> {
    let stop = Stop::new(plan.options.timeout, plan.options.abort.clone());
    let mut clock = Clock { times: Times::begin(), observe };
    stop.look()?;
    let host = surroundings(&plan)?;
    let ids = plan.ids.clone();
    let workers = worker_count(&plan);
    let mut pool = Pool::start(workers, &ids, plan.options.silence_max, stop.clone(), &host)?;
    let outline = plan.outline.clone();
    if outline.steps.iter().any(|step| step.content_bytes > 0) {
        pool.start_copiers(&plan)?;
    }
    check_ids(&plan)?;
    if let Some(here) = &plan.vdso {
        memory::vdso::check(&plan.processes, here, &plan.images)?;
    }
    let RestorePlan { mut processes, files, region_base, slots, fds_end, options, hsakmt, .. } =
        plan;
    let tree = Devices::of(&processes, &options);
    raise_descriptor_limit()?;
    let compared = memory::cow::decide(&mut processes, &host.images, &stop)?;
    let (to_fill, summaries) = (to_fill(&processes, &outline), summaries(&processes, &outline));
    let shared_bytes = files.shared_bytes();
    let shared = devices::hsakmt::Made::prepare(hsakmt)?;
    let mut files = files.open(&host.images, &stop)?;
    let service = Service::lift(&files, fds_end)?;
    let objects = service.objects.len();
    clock.times.note(Stage::Prepare);
    (clock.observe)(Event::Prepared { workers, objects, to_fill });
    let (_region, mut slots) = Region::map(region_base, &slots)
        .map_err(|source| RestoreError::Setup { what: "map the shared region", source })?;
    let (count, root) = (processes.len(), processes[0].pid);
    let guard_slot = slots.pop().expect("the plan ends with the guard's slot");
    let (targets, root_slot) = assign(processes, slots, &service, options.leave_stopped);
    pool.adopt(targets);
    leave_rseq();
    stop.look()?;
    let watched = options.sibling.then_some(&service.restorer);
    let leader = spawn_root(root_slot, root, watched).map_err(no_root(root))?;
    let root_pidfd = Arc::clone(leader.process());
    if options.sibling {
        brood.add_sibling(root);
    }
    pool.create(leader, count, brood, clock.observe)?;
    clock.reached(Stage::Create);
    let guard = start_guard(guard_slot, &ids, brood)?;
    files.open_late()?;
    complete(&mut pool, &files, &outline, tree, &stop, &mut clock)?;
    pool.stage(Stage::Release, clock.observe)?;
    brood.release();
    drop(guard); // the moment from which the tree lives, whatever becomes of us
    clock.reached(Stage::Release);
    files.finish();
    shared.keep();
    Ok(Restored {
        root,
        root_pidfd,
        processes: summaries,
        stages: clock.times.parts,
        memory_bytes: pool.filled().map(|of| of.memory_bytes).sum(),
        shared_bytes,
        gpu_bytes: pool.filled().map(|of| of.gpu_bytes).sum(),
        pages_compared: compared.pages,
        pages_shared: compared.same,
    })
}

fn no_root(pid: i32) -> impl Fn(Errno) -> RestoreError {
    move |errno| match errno {
        Errno::EEXIST => taken(pid),
        errno => RestoreError::Root { pid, errno },
    }
}

/// From tasks that exist to tasks that only wait to be let go.
fn complete(
    pool: &mut Pool,
    files: &OpenedFiles,
    outline: &Outline,
    tree: Devices,
    stop: &Stop,
    clock: &mut Clock<'_>,
) -> Result<(), RestoreError> {
    pool.devices(outline, tree.order, &tree.targets, clock.observe)?;
    clock.reached(Stage::Devices);
    pool.stage(Stage::Build, clock.observe)?;
    clock.reached(Stage::Build);
    files.arm_timers()?;
    pool.stage(Stage::Freeze, clock.observe)?;
    clock.reached(Stage::Freeze);
    pool.contents(outline, clock.observe)?;
    clock.reached(Stage::Contents);
    resume(&tree.with_state, pool.coordinator(), stop, clock.observe)?;
    clock.reached(Stage::Resume);
    Ok(())
}

/// Who hears of a stage that has ended, and how long it took.
struct Clock<'a> {
    times: Times<Stage>,
    observe: &'a mut dyn FnMut(Event),
}

impl Clock<'_> {
    fn reached(&mut self, stage: Stage) {
        self.times.note(stage);
        (self.observe)(Event::Reached(stage));
    }
}

/// What the coordinator must know of device files when the processes belong to their workers.
struct Devices {
    /// Which step goes next.
    order: (Schedule, Option<Sabotage>),
    /// Whose each step is.
    targets: Vec<usize>,
    /// Processes with GPU queues to start.
    with_state: Vec<i32>,
}

impl Devices {
    fn of(processes: &[ProcessPlan], options: &Options) -> Self {
        let with_state = processes.iter().filter(|process| process.has_gpu_state());
        Self {
            order: (options.schedule.clone(), options.sabotage),
            targets: step_targets(processes),
            with_state: with_state.map(|process| process.pid).collect(),
        }
    }
}

/// Whose each device step is: the place of its process among all.
fn step_targets(processes: &[ProcessPlan]) -> Vec<usize> {
    let of = |(index, process): (usize, &ProcessPlan)| match &process.kind {
        Kind::Live(live) => live.devices.iter().map(|device| (device.step, index)).collect(),
        Kind::Zombie(_) | Kind::Helper => Vec::new(),
    };
    let targets: BTreeMap<StepId, usize> = processes.iter().enumerate().flat_map(of).collect();
    targets.into_values().collect()
}

/// Starts the GPU queues of every process: last of all, and a failure is a failure of the restore.
/// It is asked of the driver through a file of ours, for each process by its pid.
fn resume(
    pids: &[i32],
    worker: usize,
    stop: &Stop,
    observe: &mut dyn FnMut(Event),
) -> Result<(), RestoreError> {
    let mut kfd = None;
    for &pid in pids {
        stop.look()?;
        let begin_ns = now_ns();
        let result = match &mut kfd {
            Some(kfd) => Ok(kfd),
            none => KfdFd::open().map(|opened| none.insert(opened)),
        };
        let result = result.and_then(|kfd| kfd.resume(pid as u32));
        let outcome = result.as_ref().map(|&()| ()).map_err(ToString::to_string);
        observe(Event::Step(TraceEvent {
            stage: TraceStage::Resume,
            pid,
            step: None,
            worker,
            begin_ns,
            end_ns: now_ns(),
            outcome,
            piece: None,
        }));
        result.map_err(|source| RestoreError::Resume { pid, source })?;
    }
    Ok(())
}

/// The monotonic clock, in nanoseconds.
fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    // It is there on every Linux.
    now.map_or(0, |now| Duration::from(now).as_nanos() as u64)
}

fn surroundings(plan: &RestorePlan) -> Result<Surroundings, RestoreError> {
    let loginuid = std::fs::read_to_string("/proc/self/loginuid")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(u32::MAX);
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|source| RestoreError::Setup { what: "read /proc/self/status", source })?;
    let bounding = status
        .lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|text| u64::from_str_radix(text.trim(), 16).ok())
        .unwrap_or(0);
    let ignores_edges = plan.options.sabotage == Some(Sabotage::EdgeIgnored);
    Ok(Surroundings { images: plan.images.clone(), loginuid, bounding, ignores_edges })
}

/// Starts the guard. Its pid may be one that a thread of the tree is still to take: ids are given
/// out in turn, so the next one has another, and there are no more to avoid than the tree has.
fn start_guard(mut slot: Slot, ids: &BTreeSet<i32>, brood: &Brood) -> Result<Guard, RestoreError> {
    for _ in 0..=ids.len() {
        let guard = Guard::start(slot, brood)?;
        if !ids.contains(&guard.pid()) {
            return Ok(guard);
        }
        slot = guard.retire();
    }
    Err(taken(*ids.first().expect("a tree has a root")))
}

/// Most workers unless the caller says more: each holds some MiB while it fills memory.
const WORKERS_DEFAULT_MAX: usize = 16;

/// One worker for each process, up to a bound: more threads than that only wait for processors.
fn worker_count(plan: &RestorePlan) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let bound = match plan.options.workers_max {
        0 => (4 * processors).min(WORKERS_DEFAULT_MAX),
        chosen => chosen,
    };
    plan.processes.len().min(bound).max(1)
}

/// All ids must be free. The check is early and friendly; the kernel's own comes with each clone.
fn check_ids(plan: &RestorePlan) -> Result<(), RestoreError> {
    use nix::sys::signal::kill;
    use nix::unistd::Pid;
    for &id in &plan.ids {
        if kill(Pid::from_raw(id), None) != Err(Errno::ESRCH) {
            return Err(taken(id));
        }
    }
    Ok(())
}

fn taken(id: i32) -> RestoreError {
    RestoreError::IdTaken { id, user: IdUser::of(id) }
}

fn raise_descriptor_limit() -> Result<(), RestoreError> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let setup = |errno: Errno| RestoreError::Setup {
        what: "raise the limit of open files",
        source: errno.into(),
    };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(setup)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(setup)?;
    }
    Ok(())
}

/// Makes a target of each process and gives it its slots: its threads' and its children's.
fn assign(
    processes: Vec<ProcessPlan>,
    slots: Vec<Slot>,
    service: &Service,
    leave_stopped: bool,
) -> (Vec<Target>, Slot) {
    let mut slots = slots.into_iter();
    let mut leaders: Vec<Option<Slot>> = Vec::new();
    let mut threads: Vec<Vec<Slot>> = Vec::new();
    for process in &processes {
        leaders.push(slots.next());
        let further = match &process.kind {
            Kind::Live(live) => live.threads.len() - 1,
            _ => 0,
        };
        threads.push(slots.by_ref().take(further).collect());
    }
    let kinds: Vec<(i32, bool, bool)> = processes
        .iter()
        .map(|p| (p.pid, matches!(p.kind, Kind::Zombie(_)), p.member.role == Role::Helper))
        .collect();
    let mut targets = Vec::new();
    for (index, (plan, thread_slots)) in processes.into_iter().zip(threads).enumerate() {
        let mut child = |index: usize, before_setsid: bool| {
            let (pid, is_zombie, is_helper) = kinds[index];
            let slot = leaders[index].take();
            Child { index, pid, slot, before_setsid, is_zombie, is_helper, process: None }
        };
        let mut children = Vec::new();
        children.extend(plan.member.children_before.iter().map(|&index| child(index, true)));
        children.extend(plan.member.children_after.iter().map(|&index| child(index, false)));
        targets.push(Target {
            index,
            sources: service.sources(&plan),
            plan,
            children,
            thread_slots,
            leader: None,
            threads: Vec::new(),
            stopped: Vec::new(),
            devices: devices::Devices::default(),
            leave_stopped,
        });
    }
    let root = leaders[0].take().expect("the root is nobody's child");
    (targets, root)
}

/// What this thread and process change about themselves for the time of a restore.
struct ThreadGuard {
    mask: u64,
    was_subreaper: bool,
}

impl ThreadGuard {
    fn enter() -> Result<Self, RestoreError> {
        let setup = |what| move |errno: Errno| RestoreError::Setup { what, source: errno.into() };
        let was_subreaper =
            nix::sys::prctl::get_child_subreaper().map_err(setup("read the subreaper flag"))?;
        nix::sys::prctl::set_child_subreaper(true).map_err(setup("become a subreaper"))?;
        // A signal to the restorer waits until the tree runs or is gone.
        Ok(Self { mask: swap_signal_mask(u64::MAX), was_subreaper })
    }
}

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        swap_signal_mask(self.mask);
        // It was just set successfully; there is nobody to tell if it fails now.
        let _ = nix::sys::prctl::set_child_subreaper(self.was_subreaper);
    }
}
