//! What a checkpoint says, without what differs between two checkpoints of the same state.
//!
//! A tree that is restored and dumped again has other buffer offsets (the driver chooses them),
//! other device numbers, clocks that went on. This leaves those out, and names a buffer by whose it
//! is instead of where it lies. Two checkpoints of the same state have the same text, byte for
//! byte; contents take part with their checksums.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use crate::checkpoint::{Body, Checkpoint, FileId, PageStore, Process, vma_status};
use crate::gpu::{GPU_HEAD_BYTES, drm_pages_name, kfd_pages_name};
use crate::manifest::checksum;
use crate::record::{KfdBoEntry, SaEntry, VmaEntry};

/// `KFD_IOC_ALLOC_MEM_FLAGS_VRAM` and `_GTT`.
const SAVED: u32 = 1 << 0 | 1 << 1;
const KFD_PATH: &str = "/dev/kfd";
const PAGE_BYTES: u64 = 4096;
/// Memory is summed in pieces of this size.
const PIECE_BYTES: u64 = 1 << 20;

/// The state of a checkpoint as text, one line for each thing, in a fixed order.
///
/// Left out: clocks and timers, statistics, whether a process was stopped, ids that a dump gives,
/// offsets and minor numbers of devices, the host's own ids of GPUs. Pages of zeros count as pages
/// that are not there.
///
/// # Errors
/// The kernel's, while contents are read; `InvalidData` if they are damaged.
///
/// # Example
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let state = |dir| Ok::<_, Box<dyn std::error::Error>>(
///     criu_image::state_text(&criu_image::Checkpoint::open(dir)?)?
/// );
/// assert_eq!(state("before")?, state("after")?, "nothing was lost");
/// # Ok(())
/// # }
/// ```
pub fn state_text(checkpoint: &Checkpoint) -> io::Result<String> {
    let names = Names::new(checkpoint);
    let mut text = Text { checkpoint, names: &names, out: String::new() };
    for process in &checkpoint.processes {
        text.process(process)?;
    }
    text.files();
    text.gpus()?;
    for (shmid, pages) in &checkpoint.shmems {
        let sum = text.pages(pages, (0, u64::MAX), &[])?;
        text.line(format_args!("shared memory {shmid}: {sum}"));
    }
    Ok(text.out)
}

/// Buffers and GPUs by names that survive a restore.
#[derive(Default)]
struct Names {
    /// By minor number, an id that processes know the GPU by.
    gpus: BTreeMap<u32, u32>,
    /// By pid, device path and offset: length and name of the buffer that is mapped there.
    shown: BTreeMap<(u32, String, u64), (u64, String)>,
    /// By number of the memory: all buffers that are it.
    memories: BTreeMap<u64, Vec<String>>,
}

fn kfd_buffer(file: FileId, bo: &KfdBoEntry) -> String {
    format!("kfd {:#x} GPU {:#x} at {:#x} size {:#x}", file.0, bo.gpu_id, bo.addr, bo.size)
}

fn gem_buffer(file: FileId, handle: u32) -> String {
    format!("render {:#x} handle {handle}", file.0)
}

impl Names {
    fn new(checkpoint: &Checkpoint) -> Self {
        let mut names = Self::default();
        let gpu = &checkpoint.gpu;
        for node in gpu.renders.values() {
            // Only a process's own ids are kept. Without one a GPU is the n-th with a file: which
            // of those that are alike it becomes is nobody's matter.
            let place = names.gpus.len() as u32;
            names.gpus.entry(node.drm_render_minor).or_insert(place);
        }
        // The driver restores no ids to a process without buffers: it has those of the host.
        for kfd in gpu.kfds.values().filter(|kfd| !kfd.entry.bo_entries.is_empty()) {
            for device in kfd.entry.device_entries.iter().filter(|device| device.gpu_id != 0) {
                names.gpus.insert(device.drm_render_minor, device.gpu_id);
            }
        }
        for (&file, kfd) in &gpu.kfds {
            let minors: BTreeMap<u32, u32> = kfd
                .entry
                .device_entries
                .iter()
                .map(|device| (device.gpu_id, device.drm_render_minor))
                .collect();
            for bo in &kfd.entry.bo_entries {
                // Doorbells and registers have offsets with a type in the upper bits.
                let name = kfd_buffer(file, bo);
                for path in [KFD_PATH.to_owned(), render_path(minors.get(&bo.gpu_id))] {
                    let key = (kfd.entry.pid, path, bo.offset);
                    names.shown.insert(key, (bo.size, name.clone()));
                }
            }
        }
        for process in &checkpoint.processes {
            names.render_buffers(checkpoint, process);
        }
        names.memories(checkpoint);
        names
    }

    fn render_buffers(&mut self, checkpoint: &Checkpoint, process: &Process) {
        let Some(body) = &process.body else { return };
        for entry in checkpoint.fd_tables.get(&body.ids.files_id).into_iter().flatten() {
            let file = FileId(entry.id);
            let Some(node) = checkpoint.gpu.renders.get(&file) else { continue };
            for bo in &node.bo_entries {
                let path = render_path(Some(&node.drm_render_minor));
                let shown = (bo.size, gem_buffer(file, bo.handle));
                self.shown.entry((process.pid, path, bo.offset)).or_insert(shown);
            }
        }
    }

    fn memories(&mut self, checkpoint: &Checkpoint) {
        let gpu = &checkpoint.gpu;
        for file in gpu.state.iter().flat_map(|state| &state.files) {
            let id = FileId(file.id);
            for (index, &object) in file.objects.iter().enumerate() {
                let kfd = gpu.kfds.get(&id).and_then(|kfd| kfd.entry.bo_entries.get(index));
                let gem = gpu.renders.get(&id).and_then(|node| node.bo_entries.get(index));
                let name = match (kfd, gem) {
                    (Some(bo), _) => kfd_buffer(id, bo),
                    (_, Some(bo)) => gem_buffer(id, bo.handle),
                    (None, None) => format!("dma-buf {:#x}", id.0),
                };
                self.memories.entry(object).or_default().push(name);
            }
        }
        self.memories.values_mut().for_each(|names| names.sort_unstable());
    }

    /// A path without a minor number in it.
    fn path(&self, path: &[u8]) -> String {
        let path = String::from_utf8_lossy(path);
        let minor = path.strip_prefix("/dev/dri/renderD").and_then(|minor| minor.parse().ok());
        match minor.and_then(|minor: u32| self.gpus.get(&minor)) {
            Some(gpu) => format!("render node of GPU {gpu:#x}"),
            None => path.into_owned(),
        }
    }

    /// What a device mapping shows.
    fn mapped(&self, pid: u32, path: &str, vma: &VmaEntry) -> String {
        let before = self.shown.range(..=(pid, path.to_owned(), vma.pgoff)).next_back();
        match before {
            Some(((of, at, from), (len, name)))
                if *of == pid && at == path && vma.pgoff < from + len =>
            {
                format!("{name}, {:#x} on", vma.pgoff - from)
            }
            _ => format!("{path} at {:#x}", vma.pgoff),
        }
    }
}

/// Neighbours of private anonymous memory that are alike as one. The kernel keeps them apart or
/// not by what was shared with a parent before; it makes no difference to a program.
fn joined(vmas: Vec<VmaEntry>) -> Vec<VmaEntry> {
    let mut joined: Vec<VmaEntry> = Vec::with_capacity(vmas.len());
    for vma in vmas {
        let like = |vma: &VmaEntry| {
            let status = vma.status & !vma_status::HEAP;
            (vma.prot, vma.flags, status, vma.madv, vma.shmid)
        };
        if let Some(last) = joined.last_mut()
            && last.end == vma.start
            && vma.status & vma_status::ANON_PRIVATE != 0
            && like(last) == like(&vma)
        {
            last.end = vma.end;
            continue;
        }
        joined.push(vma);
    }
    joined
}

/// Where the kernel notes the processor that a thread runs on (`struct rseq` in linux/rseq.h:
/// `cpu_id_start` and `cpu_id`, `node_id` and `mm_cid`), as ranges of addresses.
fn kernels_words(body: &Body) -> Vec<(u64, u64)> {
    let registered = body.threads.iter().filter_map(|thread| thread.core.rseq_entry.as_ref());
    let areas = registered.map(|rseq| rseq.rseq_abi_pointer);
    areas.flat_map(|area| [(area, area + 8), (area + 20, area + 28)]).collect()
}

/// A signal's default, as dumps write it.
fn plain_action() -> SaEntry {
    SaEntry { compat_sigaction: Some(false), ..SaEntry::default() }
}

fn render_path(minor: Option<&u32>) -> String {
    minor.map_or_else(String::new, |minor| format!("/dev/dri/renderD{minor}"))
}

struct Text<'a> {
    checkpoint: &'a Checkpoint,
    names: &'a Names,
    out: String,
}

impl Text<'_> {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.out, "{line}"); // a string takes all
    }

    fn process(&mut self, process: &Process) -> io::Result<()> {
        let Process { pid, ppid, pgid, sid, .. } = *process;
        self.line(format_args!("process {pid}: parent {ppid}, group {pgid}, session {sid}"));
        let mut task = process.task.clone();
        (task.task_state, task.timers, task.stop_signo, task.cg_set) = (0, None, None, None);
        // The kernel's own notes, such as that a task was forked and has run no program.
        task.flags = 0;
        for (index, action) in std::mem::take(&mut task.sigactions).into_iter().enumerate() {
            if action != SaEntry::default() && action != plain_action() {
                let signal = index + 1; // SIGKILL and SIGSTOP are not listed
                self.line(format_args!("process {pid}: action {signal}: {action:?}"));
            }
        }
        self.line(format_args!("process {pid}: {task:?}"));
        let Some(body) = &process.body else { return Ok(()) };
        for thread in &body.threads {
            let mut core = thread.core.clone();
            core.cg_set = None;
            let (tid, mut regs) = (thread.tid, thread.regs.clone());
            // Which call the thread was stopped in; a restored one is in none.
            regs.gpregs.orig_ax = 0;
            self.line(format_args!("thread {tid} of {pid}: {core:?} {regs:?}"));
        }
        let fs = &body.fs;
        let places =
            [("root", fs.root_id), ("directory", fs.cwd_id), ("program", body.mm.exe_file_id)];
        for (what, id) in places {
            self.line(format_args!("process {pid}: {what} is file {id:#x}"));
        }
        for entry in self.checkpoint.fd_tables.get(&body.ids.files_id).into_iter().flatten() {
            let (fd, id, flags) = (entry.fd, entry.id, entry.flags);
            self.line(format_args!("process {pid}: descriptor {fd} is file {id:#x}, {flags:#x}"));
        }
        self.memory(pid, body)
    }

    fn memory(&mut self, pid: u32, body: &Body) -> io::Result<()> {
        let mut mm = body.mm.clone();
        for vma in joined(std::mem::take(&mut mm.vmas)) {
            let what = self.mapping(pid, &vma);
            let (start, end) = (vma.start, vma.end);
            let sum = self.pages(&body.pages, (start, end), &kernels_words(body))?;
            let (prot, flags, status) = (vma.prot, vma.flags, vma.status & !vma_status::HEAP);
            let madv = vma.madv.unwrap_or(0);
            self.line(format_args!(
                "process {pid}: {start:#x}-{end:#x} {prot:#x} {flags:#x} {status:#x} {madv:#x} \
                 {what}: {sum}"
            ));
        }
        (mm.exe_file_id, mm.aios) = (0, Vec::new());
        self.line(format_args!("process {pid}: {mm:?}"));
        Ok(())
    }

    fn mapping(&self, pid: u32, vma: &VmaEntry) -> String {
        let file = self.checkpoint.reg_file(FileId(vma.shmid as u32));
        match file {
            Some(file) if vma.status & vma_status::EXT_PLUGIN != 0 => {
                self.names.mapped(pid, &String::from_utf8_lossy(&file.name), vma)
            }
            Some(file)
                if vma.status & (vma_status::FILE_PRIVATE | vma_status::FILE_SHARED) != 0 =>
            {
                format!("{} at {:#x}", String::from_utf8_lossy(&file.name), vma.pgoff)
            }
            _ => format!("{:#x} at {:#x}", vma.shmid, vma.pgoff),
        }
    }

    /// Checksum of all pages in a range that are not zero, without some ranges within.
    fn pages(
        &self,
        pages: &PageStore,
        (start, end): (u64, u64),
        without: &[(u64, u64)],
    ) -> io::Result<String> {
        if pages.runs.is_empty() {
            return Ok("-".to_owned());
        }
        let name = format!("pages-{}.img", pages.pages_id);
        let mut raw = self.checkpoint.images.raw(&name)?;
        let mut sums: Vec<u8> = Vec::new();
        let first = pages.runs.partition_point(|run| run.start + run.len_bytes <= start);
        for run in pages.runs[first..].iter().take_while(|run| run.start < end) {
            let (from, to) = (run.start.max(start), (run.start + run.len_bytes).min(end));
            for at in (from..to).step_by(PIECE_BYTES as usize) {
                let mut bytes = vec![0; (to - at).min(PIECE_BYTES) as usize];
                raw.read_exact_at(&mut bytes, run.offset_bytes + (at - run.start))?;
                for address in without.iter().flat_map(|&(from, to)| from..to) {
                    let place = address.checked_sub(at).map(|place| place as usize);
                    if let Some(byte) = place.and_then(|place| bytes.get_mut(place)) {
                        *byte = 0;
                    }
                }
                for (index, page) in bytes.chunks(PAGE_BYTES as usize).enumerate() {
                    if page.iter().any(|&byte| byte != 0) {
                        let address = at + index as u64 * PAGE_BYTES;
                        sums.extend(address.to_le_bytes());
                        sums.extend(checksum(page).to_le_bytes());
                    }
                }
            }
        }
        Ok(format!("{:032x}", checksum(&sums)))
    }

    fn files(&mut self) {
        let checkpoint = self.checkpoint;
        for (id, file) in &checkpoint.files {
            let mut file = file.clone();
            if let Some(reg) = &mut file.reg {
                let name = self.names.path(&reg.name);
                (reg.name, reg.id) = (name.into_bytes(), 0);
                // The same file on another mount or another emulated device has another number.
                (reg.mnt_id, reg.mode) = (None, None);
                let name = String::from_utf8_lossy(&reg.name);
                let (flags, pos, size) = (reg.flags, reg.pos, reg.size);
                self.line(format_args!("file {:#x}: {name} {flags:#x} {pos} {size:?}", id.0));
            } else if file.tfd.is_none() {
                self.line(format_args!("file {:#x}: {file:?}", id.0));
            }
        }
        for (id, data) in checkpoint.pipe_data.iter().chain(&checkpoint.fifo_data) {
            let len = data.data.len_bytes;
            self.line(format_args!("pipe {id:#x}: {len} bytes"));
        }
    }

    fn gpus(&mut self) -> io::Result<()> {
        let checkpoint = self.checkpoint;
        for (&file, kfd) in &checkpoint.gpu.kfds {
            let (pid, objects) = (kfd.entry.pid, kfd.entry.num_of_objects);
            let id = file.0;
            self.line(format_args!("kfd {id:#x}: process {pid}, {objects} objects"));
            let mut lines = Vec::new();
            let mut places: BTreeMap<u32, u64> = BTreeMap::new();
            for (bo, private) in kfd.entry.bo_entries.iter().zip(&kfd.private.bos) {
                let mut sum = "-".to_owned();
                if bo.alloc_flags & SAVED != 0 {
                    let at = places.entry(bo.gpu_id).or_insert(GPU_HEAD_BYTES);
                    sum = self.contents(&kfd_pages_name(file, bo.gpu_id), *at, bo.size)?;
                    *at += bo.size;
                }
                let mut mapped = private.mapped_gpu_ids.clone();
                mapped.sort_unstable();
                let (handle, user) = (private.idr_handle, private.user_addr);
                lines.push(format!(
                    "{}: flags {:#x}, number {handle}, memory at {user:#x}, mapped on \
                     {mapped:x?}: {sum}",
                    kfd_buffer(file, bo),
                    bo.alloc_flags
                ));
            }
            let private = &kfd.private;
            lines.extend(private.queues.iter().map(|queue| format!("kfd {id:#x}: {queue:?}")));
            lines.extend(private.events.iter().map(|event| format!("kfd {id:#x}: {event:?}")));
            for range in &private.svm_ranges {
                let mut range = range.clone();
                range.attributes.sort_by_key(|attribute| (attribute.r#type, attribute.value));
                lines.push(format!("kfd {id:#x}: {range:?}"));
            }
            lines.sort_unstable();
            lines.iter().for_each(|line| self.line(format_args!("{line}")));
        }
        for (&file, node) in &checkpoint.gpu.renders {
            let gpu = self.names.path(render_path(Some(&node.drm_render_minor)).as_bytes());
            self.line(format_args!("render {:#x}: {gpu}", file.0));
            for (index, bo) in node.bo_entries.iter().enumerate() {
                let name = drm_pages_name(file, node.drm_render_minor, index);
                let there = checkpoint.other.iter().any(|other| other.file == *name);
                let sum = match there {
                    true => self.contents(&name, GPU_HEAD_BYTES, bo.size)?,
                    false => "-".to_owned(),
                };
                let (flags, domains, align) = (bo.alloc_flags, bo.preferred_domains, bo.alignment);
                let mut mappings = bo.vm_entries.clone();
                mappings.sort_by_key(|mapping| mapping.addr);
                self.line(format_args!(
                    "{}: size {:#x}, flags {flags:#x}, domains {domains:#x}, alignment {align}, \
                     {mappings:?}: {sum}",
                    gem_buffer(file, bo.handle),
                    bo.size
                ));
            }
        }
        let mut shared: Vec<&Vec<String>> =
            self.names.memories.values().filter(|names| names.len() > 1).collect();
        shared.sort_unstable();
        shared.iter().for_each(|names| self.line(format_args!("one memory: {}", names.join("; "))));
        Ok(())
    }

    fn contents(&self, name: &str, offset_bytes: u64, len_bytes: u64) -> io::Result<String> {
        let mut raw = self.checkpoint.images.raw(name)?;
        let mut sums: Vec<u8> = Vec::new();
        for at in (0..len_bytes).step_by(PIECE_BYTES as usize) {
            let mut bytes = vec![0; (len_bytes - at).min(PIECE_BYTES) as usize];
            raw.read_exact_at(&mut bytes, offset_bytes + at)?;
            sums.extend(checksum(&bytes).to_le_bytes());
        }
        Ok(format!("{:032x}", checksum(&sums)))
    }
}
