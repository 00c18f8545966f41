//! From a stopped tree to its images, in order; nothing is written before nothing was refused.
//!
//! Reading and saving memory is spread over workers, a process at a time. Tracing stays with the
//! thread that called: the kernel wants it so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use criu_image::record::{
    FdinfoEntry, FsEntry, InventoryEntry, PluginsEntry, PstreeEntry, SeccompEntry,
    TaskKobjIdsEntry, TimensEntry, Timespec,
};
use criu_image::{ImageBuilder, ImageKind};

use super::ask::{self, Asked};
use super::facts::Facts;
use super::files::{FileTable, Links};
use super::groups::{OWN_SET, Sets};
use super::memory::{
    self, Source,
    pages::{self, Found, PageCounts, PageWriter, Room},
};
use super::staging::Folder;
use super::steps::Steps;
use super::task::restart::Patch;
use super::task::{self, Machine};
use super::tree::{Member, Tree};
use super::{DumpError, DumpOptions, gpu, identity, proc};
use crate::crew;
use crate::dumped::DumpEvent;
use crate::meter::Meter;
use crate::refusal::Refusal;
use crate::stats::DumpFigures;
use crate::summary::ProcessBytes;

/// `CRTOOLS_IMAGES_V1_1` of CRIU 4.2.
const IMAGE_VERSION: u32 = 2;
const NSEC_PER_SEC: i64 = 1_000_000_000;
/// Name of CRIU's plugin that restores GPU state.
const GPU_PLUGIN: &[u8] = b"amdgpu_plugin";

/// When the dump began, and how long the tree took to stop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) begin: Instant,
    pub(crate) freezing: Duration,
}

/// What was written.
pub(crate) struct Written {
    pub(crate) links: Links,
    pub(crate) figures: DumpFigures,
    pub(crate) gpu_bytes: u64,
}

/// How much has been saved so far, told as events.
struct Tally<'a> {
    processes: BTreeMap<i32, ProcessBytes>,
    shared_bytes: u64,
    observe: &'a mut dyn FnMut(DumpEvent),
}

impl Tally<'_> {
    fn process(&mut self, pid: i32, memory_bytes: u64, gpu_bytes: u64) {
        let none = ProcessBytes { pid, ..ProcessBytes::default() };
        let saved = self.processes.entry(pid).or_insert(none);
        saved.memory_bytes += memory_bytes;
        saved.gpu_bytes += gpu_bytes;
        (self.observe)(DumpEvent::Saved(*saved));
    }

    fn shared(&mut self, bytes: u64) {
        self.shared_bytes += bytes;
        (self.observe)(DumpEvent::SavedShared { bytes: self.shared_bytes });
    }
}

/// What the images say of one process beside its memory and threads.
struct Described {
    table: Vec<FdinfoEntry>,
    sources: Vec<Source>,
    exe: u32,
    cwd: u32,
    root: u32,
}

/// Writes all images of a stopped tree beside their place.
///
/// # Errors
/// [`DumpError::Refused`] before anything was done to the tree, or the first failure.
pub(crate) fn all(
    options: &DumpOptions,
    tree: &mut Tree,
    folder: &Folder,
    steps: &Steps,
    times: Times,
    observe: &mut dyn FnMut(DumpEvent),
) -> Result<Written, DumpError> {
    check_session(options, tree)?;
    let members: Vec<&Member> = tree.members.iter().filter(|m| !m.is_zombie()).collect();
    let facts = spread(options, &members, &mut |()| {}, |member, _, _| Facts::of(member, steps))?;
    let mut files = FileTable::new(options);
    let described = describe(&facts, &mut files)?;
    let mut gpu_refusals = Vec::new();
    // From here on no queue writes to memory: nothing of it has been read yet.
    let gpu = gpu::look(&files.devices, &facts, &mut tree.paused, steps, &mut gpu_refusals)?;
    if let Some(gpu) = &gpu {
        let (processes, files, buffers) = gpu.counts();
        observe(DumpEvent::Gpus { processes, files, buffers });
    }
    let live = tree.members.iter_mut().filter(|member| !member.is_zombie());
    let layout = task::Layout::of_host();
    let machines: Vec<Vec<Machine>> =
        live.map(|member| task::machines(member, &layout, steps)).collect::<Result<_, _>>()?;
    let mut refusals = refusals(tree, &facts, &machines, &mut files)?;
    refusals.append(&mut gpu_refusals);
    if !refusals.is_empty() {
        return Err(DumpError::Refused(refusals));
    }
    observe(DumpEvent::Read);
    let asked = ask::all(&mut tree.members, &facts, steps)?;
    observe(DumpEvent::Asked);
    let begin = Instant::now();
    let sets = Sets::of(&facts, options)?;
    let members = tree.members.iter().filter(|member| !member.is_zombie());
    let parts = facts.iter().zip(&described).zip(&machines).zip(&asked);
    let processes: Vec<Process<'_>> = members
        .zip(parts)
        .enumerate()
        .map(|(place, (member, (((facts, described), machines), asked)))| Process {
            place,
            member,
            facts,
            described,
            machines,
            asked,
            sets: &sets,
        })
        .collect();
    let found = spread(options, &processes, &mut |()| {}, |process, _, _| process.find(steps))?;
    let to_save = to_save(&processes, &found, gpu.as_ref())?;
    let gpu_bytes = to_save.iter().map(|bytes| bytes.gpu_bytes).sum();
    observe(DumpEvent::Expected { processes: to_save, shared_bytes: files.shared_bytes() });
    let mut tally = Tally { processes: BTreeMap::new(), shared_bytes: 0, observe };
    let mut tell = |(pid, bytes)| tally.process(pid, bytes, 0);
    let counts = spread(options, &processes, &mut tell, |process, room, say| {
        let mut say = |bytes| say((process.facts.pid, bytes));
        process.save(&found[process.place], folder, room, steps, &mut Meter::new(&mut say))
    })?;
    let saving = begin.elapsed();
    zombies(tree, folder, steps)?;
    if let Some(record) = sets.record() {
        let bytes = ImageBuilder::of_one(ImageKind::Cgroup, &record);
        folder.put(&ImageKind::Cgroup.file_name(0), &bytes)?;
    }
    if let Some(gpu) = &gpu {
        gpu.write(options, folder, steps, &mut |(pid, bytes)| tally.process(pid, 0, bytes))?;
    }
    let mut next_pages_id = facts.len() as u32 + 1;
    let tell = &mut |bytes| tally.shared(bytes);
    let (links, shared) = files.write(folder, &mut next_pages_id, steps, tell)?;
    whole(tree, gpu.is_some(), folder, steps)?;
    let figures = DumpFigures {
        freezing: times.freezing,
        frozen: times.begin.elapsed(),
        saving,
        pages: counts.into_iter().sum(),
        shared,
    };
    let bytes = ImageBuilder::of_one(ImageKind::StatsDump, &figures.record());
    folder.put(&ImageKind::StatsDump.file_name(0), &bytes)?;
    Ok(Written { links, figures, gpu_bytes })
}

/// What will be saved of each process.
fn to_save(
    processes: &[Process<'_>],
    found: &[Found],
    gpu: Option<&gpu::GpuState>,
) -> Result<Vec<ProcessBytes>, DumpError> {
    let gpus = gpu.map_or(Ok(BTreeMap::new()), gpu::GpuState::contents_bytes)?;
    let of = |(process, found): (&Process<'_>, &Found)| {
        let pid = process.facts.pid;
        let gpu_bytes = gpus.get(&pid).copied().unwrap_or(0);
        ProcessBytes { pid, memory_bytes: found.total_bytes(), gpu_bytes }
    };
    Ok(processes.iter().zip(found).map(of).collect())
}

/// Everything that stands against the dump. Up to here nothing was changed.
fn refusals(
    tree: &Tree,
    facts: &[Facts],
    machines: &[Vec<Machine>],
    files: &mut FileTable<'_>,
) -> Result<Vec<Refusal>, DumpError> {
    let mut refusals = identity::refuse(facts)?;
    let live = tree.members.iter().filter(|member| !member.is_zombie());
    for (member, machines) in live.zip(machines) {
        for (thread, machine) in member.threads.iter().zip(machines) {
            refusals.extend(machine.refuse(member.pid, thread.tid()));
        }
    }
    for facts in facts {
        let vmas = facts.vmas.iter().enumerate();
        let plain = vmas.filter(|(at, _)| facts.device_at(*at).is_none());
        refusals.extend(plain.filter_map(|(_, vma)| memory::refuse(facts.pid, vma)));
    }
    refusals.append(&mut files.refusals);
    Ok(refusals)
}

/// A restore gives the tree a session of its own, or that of the restorer.
fn check_session(options: &DumpOptions, tree: &Tree) -> Result<(), DumpError> {
    let root = &tree.members[0];
    if root.stat.sid != root.pid && !options.shell_job {
        return Err(DumpError::ForeignSession { pid: root.pid, sid: root.stat.sid });
    }
    let is_outside = |member: &&Member| member.stat.sid == 0 || member.stat.pgid == 0;
    match tree.members.iter().find(is_outside) {
        Some(member) => Err(DumpError::OutsideSession { pid: member.pid }),
        None => Ok(()),
    }
}

/// Does `work` for all items, spread over workers; the results come in the order of the items. Each
/// worker has one room for all its work, and says how far it is to `tell`.
fn spread<T: Sync, R: Send, M: Send>(
    options: &DumpOptions,
    items: &[T],
    tell: &mut dyn FnMut(M),
    work: impl Fn(&T, &mut Room, &mut dyn FnMut(M)) -> Result<R, DumpError> + Sync,
) -> Result<Vec<R>, DumpError> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let most = if options.workers_max == 0 { processors } else { options.workers_max };
    let workers = items.len().min(most);
    let next = AtomicUsize::new(0);
    let run = |say: &mut dyn FnMut(M)| {
        let (mut done, mut room) = (Vec::new(), Room::default());
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else { return done };
            room.spare_processor = items.len() - index < most;
            let result = work(item, &mut room, say);
            let failed = result.is_err();
            done.push((index, result));
            if failed {
                next.store(items.len(), Ordering::Relaxed); // the others need not begin
                return done;
            }
        }
    };
    let all = crew::work(workers, tell, run).ok_or(DumpError::WorkerLost)?;
    let mut all: Vec<_> = all.into_iter().flatten().collect();
    all.sort_unstable_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, result)| result).collect()
}

fn describe(facts: &[Facts], files: &mut FileTable<'_>) -> Result<Vec<Described>, DumpError> {
    let mut described = Vec::new();
    for facts in facts {
        let pid = facts.pid;
        let exe = files.place(pid, "program", &facts.exe);
        let held = |at: usize| facts.mapped[at].map(|(file, _)| &facts.mapped_files[file]);
        let sources = facts.vmas.iter().enumerate();
        let sources = sources.map(|(at, vma)| files.mapping(pid, vma, held(at))).collect();
        let table = files.table(facts)?;
        let cwd = files.place(pid, "working directory", &facts.cwd);
        let root = files.place(pid, "root directory", &facts.root);
        described.push(Described { table, sources, exe, cwd, root });
    }
    Ok(described)
}

/// All that is known of one process.
struct Process<'a> {
    /// Its place among those that live.
    place: usize,
    member: &'a Member,
    facts: &'a Facts,
    described: &'a Described,
    machines: &'a [Machine],
    asked: &'a Asked,
    sets: &'a Sets,
}

impl Process<'_> {
    /// What its memory is given beside what is there.
    fn patches(&self) -> Vec<Patch> {
        self.machines.iter().filter_map(Machine::patch).collect()
    }

    /// Looks for its pages.
    fn find(&self, steps: &Steps) -> Result<Found, DumpError> {
        pages::find(self.facts, &self.patches(), steps)
    }

    /// Writes its memory and all its images.
    fn save(
        &self,
        found: &Found,
        folder: &Folder,
        room: &mut Room,
        steps: &Steps,
        meter: &mut Meter<'_>,
    ) -> Result<PageCounts, DumpError> {
        let Self { place, member, facts, described, machines, asked, sets } = *self;
        steps.next("create a pages image")?;
        let (id, pages_id) = (facts.pid as u64, place as u32 + 1);
        let writer = PageWriter::new(folder, ImageKind::Pagemap, id, pages_id)?;
        let patches = self.patches();
        let counts = pages::save(facts.pid, found, &patches, writer, room, steps, meter)?;
        steps.next("write the images of a process")?;
        let put =
            |kind: ImageKind, id: u64, bytes: Vec<u8>| folder.put(&kind.file_name(id), &bytes);
        let pid = facts.pid as u64;
        for (tid, core) in task::entries(member, facts, machines, asked, sets) {
            let bytes = ImageBuilder::of_one(ImageKind::Core, &core);
            put(ImageKind::Core, tid as u64, bytes)?;
        }
        let ids: TaskKobjIdsEntry = identity::of(place);
        put(ImageKind::Ids, pid, ImageBuilder::of_one(ImageKind::Ids, &ids))?;
        let mm = memory::mm(facts, asked, described.exe, &described.sources, &found.guards);
        put(ImageKind::Mm, pid, ImageBuilder::of_one(ImageKind::Mm, &mm))?;
        let fs = FsEntry {
            cwd_id: described.cwd,
            root_id: described.root,
            umask: Some(facts.leader().status.umask),
        };
        put(ImageKind::Fs, pid, ImageBuilder::of_one(ImageKind::Fs, &fs))?;
        let mut table = ImageBuilder::new(ImageKind::Fdinfo);
        described.table.iter().for_each(|entry| table.push(entry));
        put(ImageKind::Fdinfo, ids.files_id.into(), table.into_bytes())?;
        Ok(counts)
    }
}

/// Images of the processes that have exited.
fn zombies(tree: &Tree, folder: &Folder, steps: &Steps) -> Result<(), DumpError> {
    for member in tree.members.iter().filter(|member| member.is_zombie()) {
        steps.next("write the image of a zombie")?;
        let bytes = ImageBuilder::of_one(ImageKind::Core, &task::zombie(member));
        folder.put(&ImageKind::Core.file_name(member.pid as u64), &bytes)?;
    }
    Ok(())
}

/// Images of the tree as a whole.
fn whole(tree: &Tree, has_gpus: bool, folder: &Folder, steps: &Steps) -> Result<(), DumpError> {
    steps.next("write the images of the tree")?;
    let mut pstree = ImageBuilder::new(ImageKind::Pstree);
    for member in &tree.members {
        let parent = member.parent.map_or(0, |at| tree.members[at].pid);
        let mut threads: Vec<u32> = member.threads.iter().map(|t| t.tid() as u32).collect();
        if threads.is_empty() {
            threads.push(member.pid as u32);
        }
        pstree.push(&PstreeEntry {
            pid: member.pid as u32,
            ppid: parent as u32,
            pgid: member.stat.pgid as u32,
            sid: member.stat.sid as u32,
            threads,
        });
    }
    folder.put(&ImageKind::Pstree.file_name(0), &pstree.into_bytes())?;
    let seccomp = ImageBuilder::of_one(ImageKind::Seccomp, &SeccompEntry::default());
    folder.put(&ImageKind::Seccomp.file_name(0), &seccomp)?;
    let timens = ImageBuilder::of_one(ImageKind::Timens, &timens(tree.members[0].pid));
    folder.put(&ImageKind::Timens.file_name(0), &timens)?;
    let plugins = has_gpus.then(|| GPU_PLUGIN.to_vec()).into_iter().collect();
    let inventory = InventoryEntry {
        img_version: IMAGE_VERSION,
        fdinfo_per_id: Some(true),
        root_ids: Some(identity::own()),
        ns_per_id: Some(true),
        root_cg_set: Some(OWN_SET),
        lsmtype: Some(0),
        network_lock_method: Some(0),
        plugins_entry: Some(PluginsEntry { plugins }),
        dump_criu_run_id: Some(run_id()),
        ..InventoryEntry::default()
    };
    let inventory = ImageBuilder::of_one(ImageKind::Inventory, &inventory);
    folder.put(&ImageKind::Inventory.file_name(0), &inventory)
}

/// The clocks as the tree sees them, from which a restore by criu goes on.
fn timens(root: i32) -> TimensEntry {
    let own = offsets(std::process::id() as i32);
    let theirs = offsets(root);
    let now = |clock, index: usize| {
        let time = nix::time::clock_gettime(clock).map_or(0, |time| nanoseconds(&time));
        let time = time + theirs[index] - own[index];
        Timespec {
            tv_sec: time.div_euclid(NSEC_PER_SEC) as u64,
            tv_nsec: time.rem_euclid(NSEC_PER_SEC) as u64,
        }
    };
    TimensEntry {
        monotonic: now(nix::time::ClockId::CLOCK_MONOTONIC, 0),
        boottime: now(nix::time::ClockId::CLOCK_BOOTTIME, 1),
    }
}

fn nanoseconds(time: &nix::sys::time::TimeSpec) -> i64 {
    time.tv_sec() * NSEC_PER_SEC + time.tv_nsec()
}

/// Offsets of the monotonic and the boot-time clock of a process's time namespace, in nanoseconds.
fn offsets(pid: i32) -> [i64; 2] {
    let text = proc::read(pid, "timens_offsets").unwrap_or_default();
    parse_offsets(&String::from_utf8_lossy(&text))
}

fn parse_offsets(text: &str) -> [i64; 2] {
    let of = |clock: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(clock)).unwrap_or_default();
        let mut words = line.split_whitespace().filter_map(|word| word.parse::<i64>().ok());
        words.next().unwrap_or(0) * NSEC_PER_SEC + words.next().unwrap_or(0)
    };
    [of("monotonic"), of("boottime")]
}

/// A new identity for each dump, of the kernel's making.
fn run_id() -> Vec<u8> {
    let id = std::fs::read("/proc/sys/kernel/random/uuid").unwrap_or_default();
    id.trim_ascii_end().to_vec()
}

#[cfg(test)]
mod tests {
    use super::parse_offsets;

    #[test]
    fn offsets_of_a_time_namespace_are_read() {
        let text = "monotonic           -5       500000000\nboottime             7         0\n";
        assert_eq!(parse_offsets(text), [-4_500_000_000, 7_000_000_000]);
        assert_eq!(parse_offsets(""), [0, 0]);
    }
}
