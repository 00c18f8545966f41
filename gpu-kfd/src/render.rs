//! A render node: buffer objects, their GPU mappings, dma-bufs, queries.
//!
//! [`RenderNode`] has a method for each call; giving work to an engine stands in `submit.rs`. For a
//! file of this process the calls that every DRM device has (capabilities, sync objects) come
//! from the crate `drm`, whose `Device` and `control::Device` it implements.

use std::mem::offset_of;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use bytemuck::Pod;
use nix::errno::Errno;

use crate::block::Block;
use crate::error::DeviceError;
use crate::ioctl::{DeviceFile, FileNumber, Local, call, plain, take, with_lent};
use crate::uapi::amdgpu::{
    GemCreateIn, GemCreateOut, GemListHandles, GemListHandlesEntry, GemMetadata, GemMmapIn,
    GemMmapOut, GemOp, GemUserptr, GemVa, GemVmEntry, GemWaitIdleIn, GemWaitIdleOut, gem_op, ioc,
    metadata_op,
};
use crate::uapi::drm::{self as generic, GemChangeHandle, GemClose, PrimeHandle};
use crate::uapi::info::Info;

/// Room of the first attempt to read a list: most files and objects have fewer entries.
const ENTRIES_FIRST: usize = 64;

/// Most entries of a list that are let through; real processes have thousands.
const ENTRIES_MAX: u64 = 1 << 20;

/// Most attempts to read a list that grows meanwhile.
const ROUNDS_MAX: usize = 8;

/// An open render node.
#[derive(Debug)]
pub struct RenderNode<F = Local> {
    pub(crate) file: F,
}

impl RenderNode {
    /// Opens `/dev/dri/renderD<minor>`.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Refused`]; [`DeviceError::WrongDriver`] if it is no AMD GPU's.
    pub fn open(minor: u32) -> Result<Self, DeviceError> {
        Self::open_at(format!("/dev/dri/renderD{minor}"))
    }

    /// Opens the device at another path.
    ///
    /// # Errors
    ///
    /// As [`RenderNode::open`].
    pub fn open_at(path: impl AsRef<Path>) -> Result<Self, DeviceError> {
        let node = Self::of(Local::open(path.as_ref())?);
        let driver = drm::Device::get_driver(&node).map_err(|error| DeviceError::Refused {
            operation: "VERSION",
            path: path.as_ref().to_owned(),
            errno: Errno::from_raw(error.raw_os_error().unwrap_or_default()),
        })?;
        if driver.name() == "amdgpu" {
            return Ok(node);
        }
        let driver = driver.name().to_string_lossy().into_owned();
        Err(DeviceError::WrongDriver { path: path.as_ref().to_owned(), driver })
    }
}

impl AsFd for RenderNode {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl drm::Device for RenderNode {}

impl drm::control::Device for RenderNode {}

/// Each method is one call of the driver, and fails with [`DeviceError::Refused`] as the driver
/// does, or with [`DeviceError::NotMade`] if who should make the call cannot.
impl<F: DeviceFile> RenderNode<F> {
    /// An open device file.
    pub fn of(file: F) -> Self {
        Self { file }
    }

    /// Gives the file back.
    pub fn into_file(self) -> F {
        self.file
    }

    /// The file's number where the calls are made.
    pub fn number(&self) -> FileNumber {
        self.file.number()
    }

    /// Asks a query (see [`query`](crate::uapi::info::query)); `operands` by query. An answer that
    /// is shorter than `T` leaves zeros.
    pub fn info<T: Pod>(&mut self, query: u32, operands: [u32; 4]) -> Result<T, DeviceError> {
        let return_size = size_of::<T>() as u32;
        let mut block = Block::new(&Info { return_pointer: 0, return_size, query, operands });
        let part = block.array(offset_of!(Info, return_pointer), &[T::zeroed()]);
        call(&mut self.file, "INFO", ioc::INFO, &mut block)?;
        Ok(block.elements(&part)[0])
    }

    /// Makes a buffer object, and gives its handle.
    pub fn gem_create(&mut self, object: &GemCreateIn) -> Result<u32, DeviceError> {
        let answer = plain(&mut self.file, "GEM_CREATE", ioc::GEM_CREATE, object)?;
        Ok(bytemuck::cast::<GemCreateIn, GemCreateOut>(answer).handle)
    }

    /// Gives a handle back; the object goes with the last one.
    pub fn gem_close(&mut self, handle: u32) -> Result<(), DeviceError> {
        let object = GemClose { handle, _pad: 0 };
        plain(&mut self.file, "GEM_CLOSE", generic::ioc::GEM_CLOSE, &object).map(drop)
    }

    /// The offset of an object for `mmap` of this file, in bytes.
    pub fn gem_mmap(&mut self, handle: u32) -> Result<u64, DeviceError> {
        let object = GemMmapIn { handle, _pad: 0 };
        let answer = plain(&mut self.file, "GEM_MMAP", ioc::GEM_MMAP, &object)?;
        Ok(bytemuck::cast::<GemMmapIn, GemMmapOut>(answer).addr_ptr)
    }

    /// Maps an object to the file's GPU address space, or unmaps it.
    pub fn gem_va(&mut self, mapping: &GemVa) -> Result<(), DeviceError> {
        plain(&mut self.file, "GEM_VA", ioc::GEM_VA, mapping).map(drop)
    }

    /// Makes an object of memory of the process that makes the calls, and gives its handle. The
    /// memory must stay as long as the GPU may use the object.
    pub fn gem_userptr(&mut self, memory: &GemUserptr) -> Result<u32, DeviceError> {
        Ok(plain(&mut self.file, "GEM_USERPTR", ioc::GEM_USERPTR, memory)?.handle)
    }

    /// What an object was made with.
    pub fn gem_create_info(&mut self, handle: u32) -> Result<GemCreateIn, DeviceError> {
        let op = gem_op::GET_GEM_CREATE_INFO;
        let mut block = Block::new(&GemOp { handle, op, ..Default::default() });
        let part = block.array(offset_of!(GemOp, value), &[GemCreateIn::default()]);
        call(&mut self.file, "GEM_OP GET_GEM_CREATE_INFO", ioc::GEM_OP, &mut block)?;
        Ok(block.elements(&part)[0])
    }

    /// The GPU mappings of an object (Linux 6.18).
    pub fn gem_mappings(&mut self, handle: u32) -> Result<Vec<GemVmEntry>, DeviceError> {
        const OPERATION: &str = "GEM_OP GET_MAPPING_INFO";
        self.list(OPERATION, "mappings", |file, room: &[GemVmEntry]| {
            let op = gem_op::GET_MAPPING_INFO;
            let num_entries = room.len() as u32;
            let argument = GemOp { handle, op, num_entries, ..Default::default() };
            let mut block = Block::new(&argument);
            let part = block.array(offset_of!(GemOp, value), room);
            call(file, OPERATION, ioc::GEM_OP, &mut block)?;
            Ok((block.elements(&part).to_vec(), block.argument::<GemOp>().num_entries))
        })
    }

    /// The objects of this open file (Linux 6.18).
    pub fn gem_list_handles(&mut self) -> Result<Vec<GemListHandlesEntry>, DeviceError> {
        const OPERATION: &str = "GEM_LIST_HANDLES";
        self.list(OPERATION, "buffers", |file, room: &[GemListHandlesEntry]| {
            let num_entries = room.len() as u32;
            let mut block = Block::new(&GemListHandles { num_entries, ..Default::default() });
            let part = block.array(offset_of!(GemListHandles, entries), room);
            call(file, OPERATION, ioc::GEM_LIST_HANDLES, &mut block)?;
            Ok((block.elements(&part).to_vec(), block.argument::<GemListHandles>().num_entries))
        })
    }

    /// Reads a list whose length the driver tells; anew with more room if there was too little.
    fn list<T: Pod>(
        &mut self,
        operation: &'static str,
        what: &'static str,
        mut read: impl FnMut(&mut F, &[T]) -> Result<(Vec<T>, u32), DeviceError>,
    ) -> Result<Vec<T>, DeviceError> {
        let mut room = ENTRIES_FIRST;
        for _ in 0..ROUNDS_MAX {
            let (mut entries, count) = read(&mut self.file, &vec![T::zeroed(); room])?;
            let path = || self.file.path().to_owned();
            if u64::from(count) > ENTRIES_MAX {
                let (count, limit) = (count.into(), ENTRIES_MAX);
                return Err(DeviceError::TooMany { operation, path: path(), what, count, limit });
            }
            if count as usize <= room {
                entries.truncate(count as usize);
                return Ok(entries);
            }
            room = count as usize;
        }
        let path = self.file.path().to_owned();
        Err(DeviceError::Unsettled { operation, path, rounds: ROUNDS_MAX })
    }

    /// Tiling, and the note that the owner left.
    pub fn gem_metadata(&mut self, handle: u32) -> Result<GemMetadata, DeviceError> {
        let op = metadata_op::GET_METADATA;
        let metadata = GemMetadata { handle, op, ..Default::default() };
        plain(&mut self.file, "GEM_METADATA GET", ioc::GEM_METADATA, &metadata)
    }

    /// Sets tiling and note of an object.
    pub fn gem_set_metadata(&mut self, metadata: &GemMetadata) -> Result<(), DeviceError> {
        let metadata = GemMetadata { op: metadata_op::SET_METADATA, ..*metadata };
        plain(&mut self.file, "GEM_METADATA SET", ioc::GEM_METADATA, &metadata).map(drop)
    }

    /// Waits until an object is idle; whether it is. The deadline is on the monotonic clock, in
    /// nanoseconds; 0 only asks, `u64::MAX` waits for ever.
    pub fn gem_wait_idle(&mut self, handle: u32, deadline_ns: u64) -> Result<bool, DeviceError> {
        let object = GemWaitIdleIn { handle, flags: 0, timeout: deadline_ns };
        let answer = plain(&mut self.file, "GEM_WAIT_IDLE", ioc::GEM_WAIT_IDLE, &object)?;
        Ok(bytemuck::cast::<GemWaitIdleIn, GemWaitIdleOut>(answer).status == 0)
    }

    /// Moves an object to another handle, which must be free (Linux 6.18).
    pub fn gem_change_handle(&mut self, handle: u32, new_handle: u32) -> Result<(), DeviceError> {
        let change = GemChangeHandle { handle, new_handle };
        let request = generic::ioc::GEM_CHANGE_HANDLE;
        plain(&mut self.file, "GEM_CHANGE_HANDLE", request, &change).map(drop)
    }

    /// Makes a dma-buf of an object, close-on-exec and writable.
    pub fn prime_export(&mut self, handle: u32) -> Result<OwnedFd, DeviceError> {
        const OPERATION: &str = "PRIME_HANDLE_TO_FD";
        let flags = generic::CLOEXEC | generic::RDWR;
        let request = generic::ioc::PRIME_HANDLE_TO_FD;
        let argument = PrimeHandle { handle, flags, fd: -1 };
        let answer = plain(&mut self.file, OPERATION, request, &argument)?;
        take(&mut self.file, OPERATION, answer.fd)
    }

    /// The handle of a dma-buf's object; the same one each time.
    pub fn prime_import(&mut self, dmabuf: BorrowedFd<'_>) -> Result<u32, DeviceError> {
        const OPERATION: &str = "PRIME_FD_TO_HANDLE";
        with_lent(&mut self.file, OPERATION, dmabuf, |file, lent| {
            let argument = PrimeHandle { fd: lent.0, ..Default::default() };
            Ok(plain(file, OPERATION, generic::ioc::PRIME_FD_TO_HANDLE, &argument)?.handle)
        })
    }
}
