//! What the model needs from outside: memory of clients, pages of buffers, time, descriptors.
//!
//! The model makes no system call. The serving side answers with `/proc`, pidfds and memfds; a test
//! answers with vectors.

use nix::errno::Errno;

/// One address space of a client (an `mm` of the kernel): the KFD ties its state to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpaceId(pub u64);

/// One open of a device file, from `open` to the last close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u64);

/// One buffer object, by identity: the same in every file and process that sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BufferId(pub u64);

/// Place of a GPU in its node, from 0, in the order of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GpuIndex(pub u8);

/// Names a call that is answered later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Whose pages: each device file is backed by one sparse memory file, so that `mmap` of the device
/// file at an offset shows the memory file at the same offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Store {
    /// `/dev/kfd`: doorbells, the register page, event pages.
    Kfd,
    /// The render node of a GPU: buffer objects.
    Gpu(GpuIndex),
}

/// A place in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PagesAt {
    /// Which memory file.
    pub store: Store,
    /// Offset in bytes; what `mmap` of the device file takes.
    pub offset: u64,
}

impl PagesAt {
    /// The place `bytes` further on.
    pub fn plus(self, bytes: u64) -> Self {
        Self { offset: self.offset + bytes, ..self }
    }
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its address space.
    pub space: SpaceId,
    /// Its process id, as the node's server sees it.
    pub pid: i32,
    /// Has `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_ADMIN`.
    pub can_checkpoint: bool,
}

/// Which device file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceNode {
    /// `/dev/kfd`.
    Kfd,
    /// `/dev/dri/renderD<minor>` of a GPU.
    Render(GpuIndex),
    /// A dma-buf, named by the number that an exporting call returned (see `TOKEN_FIRST` of
    /// gpu-kfd's `emulated.rs`), or by the buffer that it stands for.
    DmaBuf(BufferId),
}

/// Everything outside the model.
///
/// Addresses are those of the client; a failure is the errno that the driver's own copy from or to
/// user memory would give.
pub trait World {
    /// Reads client memory.
    ///
    /// # Errors
    /// `EFAULT` if any byte is not mapped readable, or the space has ended.
    fn read_user(&mut self, space: SpaceId, address: u64, into: &mut [u8]) -> Result<(), Errno>;

    /// Writes client memory.
    ///
    /// # Errors
    /// `EFAULT` if any byte is not mapped writable, or the space has ended.
    fn write_user(&mut self, space: SpaceId, address: u64, from: &[u8]) -> Result<(), Errno>;

    /// Reads pages of a store; never written ones are zero.
    fn read_pages(&mut self, at: PagesAt, into: &mut [u8]);

    /// Writes pages of a store.
    fn write_pages(&mut self, at: PagesAt, from: &[u8]);

    /// Gives pages back: they read as zero again. Whole pages.
    fn discard_pages(&mut self, at: PagesAt, len_bytes: u64);

    /// Monotonic time in nanoseconds.
    fn now_ns(&self) -> u64;

    /// Which of the node's open files a descriptor of the caller is.
    ///
    /// # Errors
    /// `EBADF` if it is none.
    fn resolve_fd(&mut self, caller: &Caller, fd: i32) -> Result<FileId, Errno>;

    /// The address space of a process, by its id as the caller sees it.
    fn space_of_pid(&mut self, caller: &Caller, pid: i32) -> Option<SpaceId>;

    /// Id of the process of a space in its own pid namespace; 0 if it has ended.
    fn own_pid(&mut self, space: SpaceId) -> u32;

    /// Whether the caller is the ptrace parent of the leading thread of a space's process.
    fn is_tracer(&mut self, caller: &Caller, of: SpaceId) -> bool;
}
