//! Open files as records: each kernel object once, with what its kind needs.
//!
//! Named alike the restore side: one source file for each kind. Looking at a file changes nothing;
//! what is to be written (contents) or made (links) is noted, and done when nothing of the tree was
//! refused. A new kind is a new file, and one line in [`FileTable::of_kind`].

mod anonymous;
mod device;
mod epoll;
mod memory;
mod owner;
mod pidfd;
mod pipe;
mod regular;
mod remap;
mod timerfd;

use std::cmp::Ordering;
use std::collections::BTreeMap;

use criu_image::record::{FdTypes, FdinfoEntry, FileEntry};
use criu_image::{ImageBuilder, ImageKind};

use super::facts::{Descriptor, Facts, Held};
use super::memory::{Source, is_anonymous_huge, pages::PageCounts};
use super::proc::smaps::Vma;
use super::raw::{self, Shared};
use super::staging::Folder;
use super::steps::Steps;
use super::{DumpError, DumpOptions};
use crate::refusal::{Refusal, RefusalKind};

pub(super) use device::{DeviceFile, DeviceFiles, kind as device_kind};
pub(crate) use remap::Links;

/// `FD_CLOEXEC` as the images store it.
const FD_CLOEXEC: u32 = 1;
const S_IFMT: u32 = libc::S_IFMT;
/// Type of a file that an image of its own describes.
const EXTERNAL: i32 = FdTypes::Ext as i32;

/// Where an open file has been seen: a descriptor of a process, and its id.
#[derive(Clone, Copy, Debug)]
struct Seen {
    pid: i32,
    fd: i32,
    id: u32,
}

/// What may make two descriptors the same open file: device, inode, position, flags.
type Likeness = (u64, u64, u64, u32);

/// All open files of the tree.
#[derive(Debug)]
pub(crate) struct FileTable<'a> {
    options: &'a DumpOptions,
    entries: Vec<FileEntry>,
    last_id: u32,
    open: BTreeMap<Likeness, Vec<Seen>>,
    /// Files that are mapped, run or stood in, by device, inode and name.
    paths: BTreeMap<(u64, u64, Vec<u8>), u32>,
    memories: memory::Memories,
    pipes: pipe::Pipes,
    remaps: remap::Remaps,
    /// Device files of GPUs.
    pub(crate) devices: DeviceFiles,
    pub(crate) refusals: Vec<Refusal>,
}

/// Why a file is not captured.
pub(crate) struct No {
    kind: RefusalKind,
    what: String,
}

impl No {
    fn because(kind: RefusalKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into() }
    }
}

impl<'a> FileTable<'a> {
    pub(crate) fn new(options: &'a DumpOptions) -> Self {
        Self {
            options,
            entries: Vec::new(),
            last_id: 0,
            open: BTreeMap::new(),
            paths: BTreeMap::new(),
            memories: memory::Memories::default(),
            pipes: pipe::Pipes::default(),
            remaps: remap::Remaps::default(),
            devices: DeviceFiles::new(),
            refusals: Vec::new(),
        }
    }

    fn next_id(&mut self) -> u32 {
        self.last_id += 1;
        self.last_id
    }

    /// The descriptors of a process, as its table in the images.
    pub(crate) fn table(&mut self, facts: &Facts) -> Result<Vec<FdinfoEntry>, DumpError> {
        let mut table = Vec::new();
        for descriptor in &facts.descriptors {
            let (pid, fd) = (facts.pid, descriptor.fd);
            if descriptor.info.locks > 0 {
                let no = No::because(RefusalKind::FileLock, "file lock or lease");
                self.refuse(pid, fd, &descriptor.held, no);
                continue;
            }
            let id = match self.known(facts.pid, descriptor)? {
                Ok(id) => Ok(id),
                Err(among) => self.add(facts, descriptor, among),
            };
            match id {
                Ok(id) => {
                    let kind = self.entries[id as usize - 1].r#type;
                    if let (true, Some(device)) = (kind == EXTERNAL, descriptor.held.device) {
                        device::note(&mut self.devices, id, device, pid, fd);
                    }
                    table.push(FdinfoEntry {
                        id,
                        flags: if descriptor.info.close_on_exec() { FD_CLOEXEC } else { 0 },
                        r#type: kind,
                        fd: fd as u32,
                        xattr_security_selinux: None,
                    });
                }
                Err(no) => self.refuse(pid, fd, &descriptor.held, no),
            }
        }
        Ok(table)
    }

    fn refuse(&mut self, pid: i32, fd: i32, held: &Held, no: No) {
        let place = format!("descriptor {fd}: {}", String::from_utf8_lossy(&held.link));
        self.refuse_at(pid, place, no);
    }

    fn refuse_at(&mut self, pid: i32, place: String, no: No) {
        self.refusals.push(Refusal::new(no.kind, no.what, place, pid as u32));
    }

    /// The id of an open file that another descriptor has shown already, or else its place among
    /// those that are alike, which are in the kernel's order.
    fn known(
        &mut self,
        pid: i32,
        descriptor: &Descriptor,
    ) -> Result<Result<u32, usize>, DumpError> {
        let Some(alike) = self.open.get(&likeness(descriptor)) else { return Ok(Err(0)) };
        let mut failed = None;
        let found = alike.binary_search_by(|seen| {
            let order = raw::kcmp(Shared::File, (seen.pid, seen.fd), (pid, descriptor.fd));
            order.unwrap_or_else(|errno| {
                failed = Some(errno);
                Ordering::Equal
            })
        });
        match failed {
            Some(errno) => Err(DumpError::Os { what: "compare descriptors", pid, errno }),
            None => Ok(found.map(|at| alike[at].id)),
        }
    }

    /// Adds an open file at its place among those that are alike.
    fn add(&mut self, facts: &Facts, descriptor: &Descriptor, among: usize) -> Result<u32, No> {
        let id = self.next_id();
        let place = self.entries.len();
        // Its place is taken first: a kind may add entries of its own behind it.
        self.entries.push(FileEntry::default());
        let entry = self.of_kind(id, facts, descriptor);
        let entry = entry.inspect_err(|_| {
            self.entries.truncate(place);
            self.last_id = id - 1;
        })?;
        self.entries[place] = entry;
        let seen = Seen { pid: facts.pid, fd: descriptor.fd, id };
        self.open.entry(likeness(descriptor)).or_default().insert(among, seen);
        Ok(id)
    }

    /// One line for each kind.
    fn of_kind(
        &mut self,
        id: u32,
        facts: &Facts,
        descriptor: &Descriptor,
    ) -> Result<FileEntry, No> {
        let link = descriptor.held.link.as_slice();
        let path_only = descriptor.info.flags & libc::O_PATH as u32 != 0;
        if descriptor.held.device.is_some() && !path_only {
            return device::entry(id, descriptor);
        }
        if let Some(kind) = link.strip_prefix(b"anon_inode:") {
            return match kind {
                b"[eventfd]" => anonymous::eventfd(id, descriptor),
                b"[signalfd]" => anonymous::signalfd(id, descriptor),
                b"[eventpoll]" => epoll::entry(id, facts, descriptor),
                b"[timerfd]" => timerfd::entry(id, descriptor),
                b"[pidfd]" => pidfd::entry(id, descriptor),
                other => {
                    let what = format!("kernel object {}", String::from_utf8_lossy(other));
                    Err(No::because(object_kind(other), what))
                }
            };
        }
        if link.starts_with(b"pidfd:[") {
            return pidfd::entry(id, descriptor);
        }
        match descriptor.held.stat.st_mode & S_IFMT {
            libc::S_IFIFO if link.starts_with(b"pipe:[") => {
                pipe::entry(&mut self.pipes, id, descriptor)
            }
            libc::S_IFIFO if !path_only => pipe::fifo(self, id, descriptor),
            libc::S_IFSOCK if !path_only => {
                let (kind, what) = socket_kind(&descriptor.held);
                Err(No::because(kind, what))
            }
            libc::S_IFCHR | libc::S_IFBLK if !path_only => {
                regular::check_device(&descriptor.held)?;
                regular::entry(self, id, descriptor)
            }
            _ if memory::is_memory(&descriptor.held) => {
                memory::entry(&mut self.memories, id, descriptor)
            }
            _ => regular::entry(self, id, descriptor),
        }
    }

    /// What a mapping is of.
    pub(crate) fn mapping(&mut self, pid: i32, vma: &Vma, held: Option<&Held>) -> Source {
        let Some(held) = held.filter(|_| !is_anonymous_huge(vma) || vma.shared) else {
            return Source::Anonymous;
        };
        let place = || {
            let name = String::from_utf8_lossy(&vma.name);
            format!("mapping {:#x}-{:#x} {name}", vma.start, vma.end)
        };
        let is_memory = memory::is_memory(held);
        let source = match held.device {
            Some(_) => self.by_device(held).map(Source::Device),
            None if is_memory => self.by_path(held, true).map(Source::Memory),
            None => self.by_path(held, false).map(Source::File),
        };
        match source {
            Ok(source) => source,
            Err(no) => {
                self.refuse_at(pid, place(), no);
                Source::Anonymous
            }
        }
    }

    /// A directory or program of a process.
    pub(crate) fn place(&mut self, pid: i32, what: &str, held: &Held) -> u32 {
        self.by_path(held, false).unwrap_or_else(|no| {
            let place = format!("{what} {}", String::from_utf8_lossy(&held.link));
            self.refuse_at(pid, place, no);
            0
        })
    }

    /// Each mapping of a device has an entry of its own: what processes map privately is no memory
    /// that a child could have inherited, for which CRIU 4.2 takes mappings of one entry (it then
    /// ends by a null pointer); and a descriptor that its plugin gives for a mapping is closed.
    fn by_device(&mut self, held: &Held) -> Result<u32, No> {
        let id = self.last_id + 1;
        self.entries.push(device::mapped_entry(id, held)?);
        self.last_id = id;
        Ok(id)
    }

    fn by_path(&mut self, held: &Held, is_memory: bool) -> Result<u32, No> {
        let key = (held.stat.st_dev, held.stat.st_ino, held.link.clone());
        if let Some(&id) = self.paths.get(&key) {
            return Ok(id);
        }
        let id = self.next_id();
        let place = self.entries.len();
        self.entries.push(FileEntry::default());
        let entry = match is_memory {
            true => memory::mapped_entry(&mut self.memories, id, held),
            false => regular::place_entry(self, id, held),
        };
        let entry = entry.inspect_err(|_| {
            self.entries.truncate(place);
            self.last_id = id - 1;
        })?;
        self.entries[place] = entry;
        self.paths.insert(key, id);
        Ok(id)
    }

    /// Bytes of shared memory and memory files, about.
    pub(crate) fn shared_bytes(&self) -> u64 {
        self.memories.total_bytes()
    }

    /// Nothing was refused: writes all images of files, and makes the links. Returns the links, to
    /// be kept when the dump succeeds, and counts of the pages of shared memory. `tell` hears of
    /// bytes of that memory.
    pub(crate) fn write(
        mut self,
        folder: &Folder,
        next_pages_id: &mut u32,
        steps: &Steps,
        tell: &mut dyn FnMut(u64),
    ) -> Result<(Links, PageCounts), DumpError> {
        let counts = self.memories.write(folder, next_pages_id, steps, tell)?;
        self.pipes.write(folder, steps)?;
        let (links, entries) = self.remaps.write(folder, self.last_id, steps)?;
        self.entries.extend(entries);
        steps.next("write the open files")?;
        let mut image = ImageBuilder::new(ImageKind::Files);
        self.entries.iter().for_each(|entry| image.push(entry));
        folder.put(&ImageKind::Files.file_name(0), &image.into_bytes())?;
        Ok((links, counts))
    }
}

fn likeness(descriptor: &Descriptor) -> Likeness {
    let stat = &descriptor.held.stat;
    (stat.st_dev, stat.st_ino, descriptor.info.pos, descriptor.info.file_flags())
}

/// Of kernel objects that are known by the name behind `anon_inode:`.
fn object_kind(name: &[u8]) -> RefusalKind {
    match name {
        b"inotify" => RefusalKind::Inotify,
        b"[fanotify]" => RefusalKind::Fanotify,
        b"[io_uring]" => RefusalKind::IoUring,
        b"[userfaultfd]" => RefusalKind::Userfaultfd,
        name if name.starts_with(b"bpf") => RefusalKind::Bpf,
        _ => RefusalKind::KernelObject,
    }
}

fn socket_kind(held: &Held) -> (RefusalKind, &'static str) {
    match raw::socket_domain(&held.file) {
        Ok(libc::AF_UNIX) => (RefusalKind::UnixSocket, "unix socket"),
        Ok(libc::AF_INET | libc::AF_INET6) => (RefusalKind::InternetSocket, "internet socket"),
        Ok(libc::AF_NETLINK) => (RefusalKind::NetlinkSocket, "netlink socket"),
        Ok(libc::AF_PACKET) => (RefusalKind::PacketSocket, "packet socket"),
        _ => (RefusalKind::Socket, "socket"),
    }
}

/// An entry of a kind; the part of the kind is put in by the caller.
fn of_type(kind: FdTypes, id: u32) -> FileEntry {
    FileEntry { r#type: kind as i32, id, ..FileEntry::default() }
}
