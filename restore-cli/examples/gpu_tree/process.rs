//! What one process of the tree has, and how the words of its text make it.

use std::os::fd::{AsFd, OwnedFd};

use gpu_kfd::uapi::amdgpu::{GemCreateIn, GemUserptr, GemVa, domain, userptr, va_op, vm_page};
use gpu_kfd::uapi::kfd::{AllocMemoryOfGpuArgs, alloc};
use gpu_kfd::{KFD_PATH, KfdFd, Local, RenderNode, Topology};

use super::Result;
use super::family::{self, Passing};
use super::layout::{Memory, Views, Word};
use super::memory::Mapping;
use super::queue::{Queue, Signals};

/// GPU addresses are given out from here on; nothing else of a process is there.
const VA_FIRST: u64 = 0x2_0000_0000;
const VA_STEP: u64 = 2 << 20;
const PAGE_BYTES: u64 = 4096;

/// A GPU of the host, as it was when the tree began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gpu {
    pub(crate) id: u32,
    minor: u32,
}

/// An open render node; files that a parent had opened count.
pub(crate) struct RenderFile {
    pub(crate) node: RenderNode,
    pub(crate) gpu: usize,
    /// It was opened by an ancestor.
    inherited: bool,
}

/// What a buffer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Kfd { handle: u64 },
    Gem { file: usize, handle: u32 },
}

/// A buffer with contents that are known.
pub(crate) struct Buffer {
    pub(crate) owner: Owner,
    pub(crate) gpu: usize,
    pub(crate) size_bytes: u64,
    /// Address on its GPU, if it is mapped there.
    pub(crate) va: Option<u64>,
    pub(crate) cpu: Option<Mapping>,
    /// What the words of its contents are made from.
    pub(crate) seed: u64,
    /// The name under which it was passed on or came.
    pub(crate) name: Option<String>,
    /// It is memory of the process.
    pub(crate) is_user: bool,
    /// It came from another GPU, or nobody knows from where and the process does not map it.
    pub(crate) is_foreign: bool,
}

/// One process.
#[derive(Default)]
pub(crate) struct Process {
    pub(crate) number: usize,
    pub(crate) gpus: Vec<Gpu>,
    /// The first is the one that is used; a parent's are of no use to a child.
    pub(crate) kfds: Vec<KfdFd>,
    inherited_kfds: Vec<KfdFd>,
    pub(crate) renders: Vec<RenderFile>,
    /// For each GPU the render file whose address space the KFD has.
    vms: Vec<Option<usize>>,
    pub(crate) buffers: Vec<Buffer>,
    pub(crate) queues: Vec<Queue>,
    signals: Option<Signals>,
    doorbells: Vec<Option<KfdMemory>>,
    /// Files that are only kept open.
    kept: Vec<OwnedFd>,
    /// Handles that are to be given back, with their files.
    holes: Vec<(usize, u32)>,
    next_va: u64,
    next_fd: Option<i32>,
}

/// Memory of the KFD that is no numbered buffer.
pub(crate) struct KfdMemory {
    pub(crate) va: u64,
    pub(crate) handle: u64,
    pub(crate) cpu: Mapping,
}

impl Process {
    pub(crate) fn new() -> Result<Self> {
        let topology = Topology::read_without_caches(Topology::SYSFS)?;
        let gpus = topology.gpus();
        let gpus = gpus.map(|(id, node)| Gpu { id: id.0, minor: node.properties.drm_render_minor });
        let gpus: Vec<Gpu> = gpus.collect();
        let vms = vec![None; gpus.len()];
        let doorbells = gpus.iter().map(|_| None).collect();
        Ok(Self { gpus, vms, doorbells, next_va: VA_FIRST, ..Self::default() })
    }

    /// What a new process is left with of its parent's.
    pub(crate) fn become_child(&mut self, number: usize) {
        self.number = number;
        self.inherited_kfds.append(&mut self.kfds);
        self.renders.iter_mut().for_each(|file| file.inherited = true);
        self.vms.fill(None);
        // Mappings are not inherited: to unmap them here does nothing.
        self.buffers.clear();
        self.queues.clear();
        self.signals = None;
        self.doorbells.iter_mut().for_each(|doorbells| *doorbells = None);
        self.holes.clear();
        self.next_va = VA_FIRST;
    }

    /// All is set up: handles that were only taken are free again.
    pub(crate) fn close_holes(&mut self) -> Result<()> {
        for (file, handle) in std::mem::take(&mut self.holes) {
            self.render(file)?.node.gem_close(handle)?;
        }
        Ok(())
    }

    /// The KFD still gives memory to this process, and takes it back.
    pub(crate) fn make_and_free(&mut self) -> Result<()> {
        let Some(gpu) = self.vms.iter().position(Option::is_some) else { return Ok(()) };
        let va = self.next_va;
        let made = self.alloc(gpu, alloc::GTT, PAGE_BYTES, va, None)?;
        Ok(self.kfd()?.free_memory(made.handle)?)
    }

    /// Carries out one word; forks are the caller's.
    pub(crate) fn carry_out(&mut self, word: &Word, passing: &Passing) -> Result<()> {
        match word {
            Word::At { fd } => self.next_fd = Some(*fd),
            Word::Kfd => {
                let file = self.open(KFD_PATH)?;
                self.kfds.push(KfdFd::of(file));
            }
            Word::Render { gpu } => {
                let path = format!("/dev/dri/renderD{}", self.gpu(*gpu)?.minor);
                let node = RenderNode::of(self.open(&path)?);
                self.renders.push(RenderFile { node, gpu: *gpu, inherited: false });
            }
            Word::Null => {
                let file = std::fs::File::options().read(true).write(true).open("/dev/null")?;
                let file = self.place(file.into())?;
                self.kept.push(file);
            }
            Word::Fork { .. } => return Err("a fork is not a process's own".into()),
            Word::Vm { file } => self.acquire_vm(*file)?,
            Word::KfdBuffer { memory, gpu, size_bytes, views } => {
                self.kfd_buffer(*memory, *gpu, *size_bytes, *views)?;
            }
            Word::GemBuffer { memory, file, size_bytes, views } => {
                self.gem_buffer(*memory, *file, *size_bytes, *views)?;
            }
            Word::Hole { file } => {
                let node = &mut self.render(*file)?.node;
                let handle = node.gem_create(&gem(domain::GTT, PAGE_BYTES))?;
                self.holes.push((*file, handle));
            }
            Word::Export { buffer, name } => {
                let dmabuf = self.export(*buffer)?;
                let buffer = &mut self.buffers[*buffer];
                buffer.seed = seed_of_name(name);
                buffer.name = Some(name.clone());
                buffer.fill()?;
                passing.give(name, dmabuf.as_fd())?;
            }
            Word::Import { file, name, views } => {
                let dmabuf = passing.take(name)?;
                self.import(*file, name, dmabuf, *views)?;
            }
            Word::KfdImport { gpu, name } => {
                let dmabuf = passing.take(name)?;
                self.kfd_import(*gpu, dmabuf)?;
            }
            Word::Forget { buffer } => self.forget(*buffer)?,
            Word::Keep { buffer } => {
                let dmabuf = self.export(*buffer)?;
                let dmabuf = self.place(dmabuf)?;
                self.kept.push(dmabuf);
            }
            Word::Take { name } => {
                let dmabuf = self.place(passing.take(name)?)?;
                self.kept.push(dmabuf);
            }
            Word::Queue { gpu, size_bytes } => self.queue(*gpu, *size_bytes)?,
        }
        Ok(())
    }

    fn gpu(&self, gpu: usize) -> Result<Gpu> {
        Ok(*self.gpus.get(gpu).ok_or_else(|| format!("there is no GPU {gpu}"))?)
    }

    fn render(&mut self, file: usize) -> Result<&mut RenderFile> {
        Ok(self.renders.get_mut(file).ok_or_else(|| format!("there is no render file {file}"))?)
    }

    fn open(&mut self, path: &str) -> Result<Local> {
        let file = std::fs::File::options().read(true).write(true).open(path)?;
        Ok(Local::from_descriptor(self.place(file.into())?, path))
    }

    fn place(&mut self, file: OwnedFd) -> Result<OwnedFd> {
        match self.next_fd.take() {
            Some(number) => Ok(family::put(file, number)?),
            None => Ok(file),
        }
    }

    fn acquire_vm(&mut self, file: usize) -> Result<()> {
        let RenderFile { gpu, node, .. } = self.render(file)?;
        let (gpu, number) = (*gpu, node.number());
        let id = self.gpus[gpu].id;
        self.kfd()?.acquire_vm(id, number)?;
        self.vms[gpu] = Some(file);
        Ok(())
    }

    pub(crate) fn kfd(&mut self) -> Result<&mut KfdFd> {
        Ok(self.kfds.first_mut().ok_or("this process has no /dev/kfd")?)
    }

    /// The first file of a GPU that the process opened itself becomes the KFD's, if none is yet.
    fn vm(&mut self, gpu: usize) -> Result<usize> {
        self.gpu(gpu)?;
        if let Some(file) = self.vms[gpu] {
            return Ok(file);
        }
        let own = |file: &RenderFile| file.gpu == gpu && !file.inherited;
        let file = self.renders.iter().position(own);
        let file = file.ok_or_else(|| format!("no render node of GPU {gpu} for the KFD"))?;
        self.acquire_vm(file)?;
        Ok(file)
    }

    fn new_va(&mut self, size_bytes: u64) -> u64 {
        let va = self.next_va;
        self.next_va = (va + size_bytes).next_multiple_of(VA_STEP) + VA_STEP;
        va
    }

    fn kfd_buffer(
        &mut self,
        memory: Memory,
        gpu: usize,
        size_bytes: u64,
        views: Views,
    ) -> Result<()> {
        let file = self.vm(gpu)?;
        let user = match memory {
            Memory::User => Some(Mapping::anonymous(size_bytes)?),
            _ => None,
        };
        let kind = match memory {
            Memory::Vram => alloc::VRAM | alloc::PUBLIC,
            Memory::System => alloc::GTT,
            Memory::User => alloc::USERPTR,
        };
        let (va, user_address) = (self.new_va(size_bytes), user.as_ref().map(Mapping::address));
        let made = self.alloc(gpu, kind, size_bytes, va, user_address)?;
        if views.gpu {
            let id = self.gpus[gpu].id;
            self.kfd()?.map_memory(made.handle, &[id])?;
        }
        let at = Some(va).filter(|_| !views.apart);
        let cpu = match user {
            Some(memory) => memory,
            None => {
                let device = self.renders[file].node.as_fd();
                Mapping::of_device(device, made.mmap_offset, size_bytes, at)?
            }
        };
        let owner = Owner::Kfd { handle: made.handle };
        self.add(owner, gpu, size_bytes, Some(va).filter(|_| views.gpu), Some(cpu));
        self.fill_last(memory, views)
    }

    /// Memory of the KFD; where it can be mapped is filled in.
    fn alloc(
        &mut self,
        gpu: usize,
        kind: u32,
        size: u64,
        va_addr: u64,
        user_address: Option<u64>,
    ) -> Result<AllocMemoryOfGpuArgs> {
        let flags = kind | alloc::WRITABLE | alloc::EXECUTABLE | alloc::NO_SUBSTITUTE;
        let gpu_id = self.gpus[gpu].id;
        let mmap_offset = user_address.unwrap_or_default();
        let wanted = AllocMemoryOfGpuArgs {
            va_addr,
            size,
            gpu_id,
            flags,
            mmap_offset,
            ..Default::default()
        };
        Ok(self.kfd()?.alloc_memory(&wanted)?)
    }

    /// Memory for queues, which GPU and process see at one address.
    pub(crate) fn kfd_memory(
        &mut self,
        gpu: usize,
        kind: u32,
        size_bytes: u64,
    ) -> Result<KfdMemory> {
        let file = self.vm(gpu)?;
        let va = self.new_va(size_bytes);
        let made = self.alloc(gpu, kind, size_bytes, va, None)?;
        let id = self.gpus[gpu].id;
        self.kfd()?.map_memory(made.handle, &[id])?;
        let device = match kind & alloc::DOORBELL {
            0 => self.renders[file].node.as_fd(),
            _ => self.kfds[0].as_fd(),
        };
        let cpu = Mapping::of_device(device, made.mmap_offset, size_bytes, Some(va))?;
        Ok(KfdMemory { va, handle: made.handle, cpu })
    }

    fn gem_buffer(
        &mut self,
        memory: Memory,
        file: usize,
        size_bytes: u64,
        views: Views,
    ) -> Result<()> {
        let node = &mut self.render(file)?.node;
        let mut cpu = None;
        let handle = match memory {
            Memory::Vram => node.gem_create(&gem(domain::VRAM, size_bytes))?,
            Memory::System => node.gem_create(&gem(domain::GTT, size_bytes))?,
            Memory::User => {
                let memory = Mapping::anonymous(size_bytes)?;
                let flags = userptr::ANONONLY | userptr::REGISTER;
                let addr = memory.address();
                cpu = Some(memory);
                node.gem_userptr(&GemUserptr { addr, size: size_bytes, flags, handle: 0 })?
            }
        };
        self.gem_views((file, handle), size_bytes, Views { cpu: true, ..views }, cpu)?;
        self.fill_last(memory, views)
    }

    fn import(&mut self, file: usize, name: &str, dmabuf: OwnedFd, views: Views) -> Result<()> {
        let size_bytes = nix::unistd::lseek(&dmabuf, 0, nix::unistd::Whence::SeekEnd)? as u64;
        let handle = self.render(file)?.node.prime_import(dmabuf.as_fd())?;
        self.gem_views((file, handle), size_bytes, views, None)?;
        let buffer = self.buffers.last_mut().expect("it was made just now");
        buffer.name = Some(name.to_owned());
        buffer.seed = seed_of_name(name);
        buffer.is_foreign = !views.cpu;
        Ok(())
    }

    /// A buffer of the KFD that is looked at by nobody.
    fn kfd_import(&mut self, gpu: usize, dmabuf: OwnedFd) -> Result<()> {
        self.vm(gpu)?;
        let (va, id) = (self.new_va(VA_STEP), self.gpus[gpu].id);
        self.kfd()?.import_dmabuf(dmabuf.as_fd(), id, va)?;
        Ok(())
    }

    fn forget(&mut self, buffer: usize) -> Result<()> {
        let found =
            self.buffers.get(buffer).ok_or_else(|| format!("there is no buffer {buffer}"))?;
        match found.owner {
            Owner::Kfd { handle } => self.kfd()?.free_memory(handle)?,
            Owner::Gem { file, handle } => self.render(file)?.node.gem_close(handle)?,
        }
        // What is mapped there is nothing that could be looked at.
        std::mem::forget(self.buffers.remove(buffer));
        Ok(())
    }

    fn gem_views(
        &mut self,
        (file, handle): (usize, u32),
        size_bytes: u64,
        views: Views,
        cpu: Option<Mapping>,
    ) -> Result<()> {
        let va = self.new_va(size_bytes);
        let RenderFile { node, gpu, .. } = self.render(file)?;
        let gpu = *gpu;
        if views.gpu {
            node.gem_va(&GemVa {
                handle,
                operation: va_op::MAP,
                flags: vm_page::READABLE | vm_page::WRITEABLE,
                va_address: va,
                map_size: size_bytes,
                ..GemVa::default()
            })?;
        }
        let at = Some(va).filter(|_| !views.apart);
        let cpu = match cpu {
            None if views.cpu => {
                let offset = node.gem_mmap(handle)?;
                Some(Mapping::of_device(node.as_fd(), offset, size_bytes, at)?)
            }
            memory => memory,
        };
        let owner = Owner::Gem { file, handle };
        self.add(owner, gpu, size_bytes, Some(va).filter(|_| views.gpu), cpu);
        Ok(())
    }

    fn add(
        &mut self,
        owner: Owner,
        gpu: usize,
        size_bytes: u64,
        va: Option<u64>,
        cpu: Option<Mapping>,
    ) {
        let seed = (self.number as u64) << 32 | self.buffers.len() as u64;
        let (name, is_user, is_foreign) = (None, false, false);
        let buffer = Buffer { owner, gpu, size_bytes, va, cpu, seed, name, is_user, is_foreign };
        self.buffers.push(buffer);
    }

    /// Fills the buffer that was made last, and takes its mapping away if it shall have none.
    fn fill_last(&mut self, memory: Memory, views: Views) -> Result<()> {
        let buffer = self.buffers.last_mut().expect("it was made just now");
        buffer.fill()?;
        buffer.is_user = memory == Memory::User;
        if !views.cpu && !buffer.is_user {
            buffer.cpu = None;
        }
        Ok(())
    }

    fn export(&mut self, buffer: usize) -> Result<OwnedFd> {
        let found =
            self.buffers.get(buffer).ok_or_else(|| format!("there is no buffer {buffer}"))?;
        Ok(match found.owner {
            Owner::Kfd { handle } => self.kfd()?.export_dmabuf(handle, libc::O_CLOEXEC as u32)?,
            Owner::Gem { file, handle } => self.renders[file].node.prime_export(handle)?,
        })
    }

    fn queue(&mut self, gpu: usize, size_bytes: u64) -> Result<()> {
        if self.signals.is_none() {
            self.signals = Some(Signals::new(self, gpu)?);
        }
        if self.doorbells[gpu].is_none() {
            self.doorbells[gpu] =
                Some(self.kfd_memory(gpu, alloc::DOORBELL, Queue::DOORBELL_BYTES)?);
        }
        let mut signals = self.signals.take().expect("set above");
        let queue = Queue::new(self, &mut signals, gpu, size_bytes);
        self.signals = Some(signals);
        self.queues.push(queue?);
        Ok(())
    }

    /// One round on each queue: all at once, then the checks.
    pub(crate) fn round(&mut self, number: u64) -> std::result::Result<(), String> {
        let Some(kfd) = self.kfds.first_mut() else { return Ok(()) };
        let signals = self.signals.as_ref();
        for queue in &mut self.queues {
            let doorbells = self.doorbells[queue.gpu].as_ref().expect("made with the queue");
            queue.begin_round(number, signals.expect("made with the queue"), &doorbells.cpu);
        }
        self.queues.iter_mut().try_for_each(|queue| queue.end_round(number, kfd))
    }

    /// Lets a queue of the buffer's GPU read it, at its GPU address; `None` if none can.
    pub(crate) fn read_by_engine(&mut self, at: usize) -> Option<std::result::Result<u64, String>> {
        let Buffer { owner, gpu, size_bytes, va, seed, ref name, .. } = self.buffers[at];
        let skip = if name.is_some() { HEADER_WORDS } else { 0 };
        let is_reachable = match owner {
            Owner::Kfd { .. } => true,
            Owner::Gem { file, .. } => self.vms[gpu] == Some(file),
        };
        let va = va.filter(|_| is_reachable)?;
        let queue = self.queues.iter_mut().find(|queue| queue.gpu == gpu)?;
        let doorbells = self.doorbells[gpu].as_ref().expect("made with the queue");
        let (kfd, signals) = (self.kfds.first_mut()?, self.signals.as_ref()?);
        Some(queue.read((va, size_bytes), (kfd, signals, &doorbells.cpu), |at, words| {
            wrong_words(seed, skip, at / 8, words)
        }))
    }
}

fn gem(domains: u64, bo_size: u64) -> GemCreateIn {
    GemCreateIn { bo_size, alignment: PAGE_BYTES, domains, domain_flags: 0 }
}

/// Words at the begin of a shared buffer that belong to one process each.
pub(crate) const HEADER_WORDS: usize = 64;
const PIECE_WORDS: usize = 64 << 10;

impl Buffer {
    fn fill(&mut self) -> Result<()> {
        let cpu =
            self.cpu.as_ref().ok_or("a buffer is filled through a mapping: no +nocpu here")?;
        let words = (self.size_bytes / 8) as usize;
        for first in (0..words).step_by(PIECE_WORDS) {
            let piece: Vec<u64> = (first..words.min(first + PIECE_WORDS))
                .map(|index| match index < HEADER_WORDS && self.name.is_some() {
                    true => 0,
                    false => pattern(self.seed, index),
                })
                .collect();
            cpu.write(first as u64 * 8, &piece);
        }
        Ok(())
    }

    /// Goes on with a number for all contents, but for words that processes write.
    pub(crate) fn sum(&self, mapping: &Mapping, before: u64) -> u64 {
        let words = (self.size_bytes / 8) as usize;
        let skip = if self.name.is_some() { HEADER_WORDS } else { 0 };
        let mut room = vec![0; words.min(PIECE_WORDS)];
        let mut sum = before;
        for first in (0..words).step_by(PIECE_WORDS) {
            let piece = &mut room[..PIECE_WORDS.min(words - first)];
            mapping.read(first as u64 * 8, piece);
            let skip = skip.saturating_sub(first);
            let add = |sum: u64, word: &u64| (sum ^ word).wrapping_mul(0x0100_0000_01b3);
            sum = piece.iter().skip(skip).fold(sum, add);
        }
        sum
    }

    /// Words that are not as they were filled.
    pub(crate) fn wrong_words(&self, mapping: &Mapping) -> u64 {
        let words = (self.size_bytes / 8) as usize;
        let skip = if self.name.is_some() { HEADER_WORDS } else { 0 };
        let mut room = vec![0; words.min(PIECE_WORDS)];
        let mut wrong = 0;
        for first in (0..words).step_by(PIECE_WORDS) {
            let piece = &mut room[..PIECE_WORDS.min(words - first)];
            mapping.read(first as u64 * 8, piece);
            wrong += wrong_words(self.seed, skip, first as u64, piece);
        }
        wrong
    }
}

fn wrong_words(seed: u64, skip: usize, first: u64, words: &[u64]) -> u64 {
    let indexed = words.iter().enumerate().map(|(at, word)| (first as usize + at, *word));
    let differs = |&(index, word): &(usize, u64)| index >= skip && word != pattern(seed, index);
    indexed.filter(differs).count() as u64
}

fn pattern(seed: u64, index: usize) -> u64 {
    let word = (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (seed + 1).wrapping_mul(0xd1b5_4a32_d192_ed03);
    word ^ word >> 29
}

/// All who share a buffer expect the same.
fn seed_of_name(name: &str) -> u64 {
    name.bytes().fold(1 << 48, |seed, byte| (seed * 31 + u64::from(byte)) % (1 << 62))
}
