//! Checkpoint and restore by the compute driver: the operations of `CRIU_OP`.
//!
//! A process is saved through its own open file by whoever traces it: [`KfdFd::process_info`]
//! stops its queues and counts, [`KfdFd::checkpoint`] saves, [`KfdFd::unpause`] lets it go on. A
//! process is restored through a fresh file of its own: [`KfdFd::restore`] rebuilds, stopped;
//! [`KfdFd::resume`] starts it, through any open file. Contents of buffers are not part of it.
//!
//! Permissions: `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_ADMIN`. Kernel: 5.18; contents of GTT buffers
//! need interface 1.8, which [`KfdFd::require_checkpoint`] checks through a file of the caller's
//! own, since a saved process's file answers other calls to that process only.

use std::mem::offset_of;
use std::os::fd::OwnedFd;

use crate::block::{Block, Part};
use crate::error::DeviceError;
use crate::ioctl::{DeviceFile, FileNumber, call, take};
use crate::kfd::KfdFd;
use crate::uapi::criu::{BoBucket, CriuArgs, DeviceBucket, MAPPED_GPUS_MAX, NO_FD, op};
use crate::uapi::kfd::ioc;

/// First version of the interface that saves GTT buffers.
const VERSION_NEEDED: (u32, u32) = (1, 8);

/// Most buffers of a process that are let through: a million of 4 KiB would fill 4 GiB only, and
/// real processes have thousands.
const BOS_MAX: u32 = 1 << 20;

/// Most bytes of private data: that of [`BOS_MAX`] buffers, and as much again for queues.
const PRIVATE_BYTES_MAX: u64 = 512 << 20;

/// What there is to save of a stopped process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// GPUs that the process knows, used or not.
    pub devices: u32,
    /// Buffers.
    pub bos: u32,
    /// Queues, events and ranges of shared virtual memory.
    pub objects: u32,
    /// Size of the private data, in bytes.
    pub private_bytes: u64,
    /// Pid of the process in its own pid namespace.
    pub pid: u32,
}

/// What was saved of a process.
#[derive(Debug)]
pub struct SavedProcess {
    /// Its GPUs.
    pub devices: Vec<DeviceBucket>,
    /// Its buffers. Their `dmabuf_fd` is [`NO_FD`]: the descriptors are in `contents`.
    pub bos: Vec<BoBucket>,
    /// For each buffer a dma-buf of what it holds, where the driver gives one (VRAM and GTT).
    pub contents: Vec<Option<OwnedFd>>,
    /// The driver's private data.
    pub private: Vec<u8>,
}

/// A GPU of a process to restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreDevice {
    /// Id that the process has seen since it first ran.
    pub user_gpu_id: u32,
    /// Id of the GPU on this host.
    pub actual_gpu_id: u32,
    /// A render node of that GPU, freshly opened by the process and used for nothing else.
    pub render: FileNumber,
}

/// Where a buffer is after the restore.
#[derive(Debug)]
pub struct RestoredBo {
    /// For `mmap`: of `/dev/kfd` for doorbells and registers, of the render node for memory.
    pub mmap_offset: u64,
    /// A dma-buf to fill it through, where the driver gives one (VRAM and GTT).
    pub contents: Option<OwnedFd>,
}

/// The arrays of a call that saves or restores.
struct Arrays {
    devices: Part<DeviceBucket>,
    bos: Part<BoBucket>,
    private: Part<u8>,
}

impl<F: DeviceFile> KfdFd<F> {
    /// Checks that the driver can save and restore whole processes.
    ///
    /// # Errors
    ///
    /// [`DeviceError::Version`] if it cannot; [`DeviceError::Refused`].
    pub fn require_checkpoint(&mut self) -> Result<(), DeviceError> {
        let found = self.version()?;
        if found.0 == VERSION_NEEDED.0 && found.1 >= VERSION_NEEDED.1 {
            return Ok(());
        }
        let path = self.file.path().to_owned();
        Err(DeviceError::Version { operation: "CRIU_OP", path, found, needed: VERSION_NEEDED })
    }

    /// Stops the queues of the file's process, and counts what there is.
    ///
    /// # Errors
    ///
    /// `ENODEV` if the process uses no GPU, `EACCES` without the right, `EBADF` if the caller does
    /// not trace the file's process; [`DeviceError::TooMany`].
    pub fn process_info(&mut self) -> Result<ProcessInfo, DeviceError> {
        const OPERATION: &str = "CRIU_OP PROCESS_INFO";
        let mut block = Block::new(&CriuArgs { op: op::PROCESS_INFO, ..Default::default() });
        call(&mut self.file, OPERATION, ioc::CRIU_OP, &mut block)?;
        let answer: CriuArgs = block.argument();
        self.limit(OPERATION, "GPUs", answer.num_devices.into(), MAPPED_GPUS_MAX as u64)?;
        self.limit(OPERATION, "buffers", answer.num_bos.into(), BOS_MAX.into())?;
        let private_bytes = answer.priv_data_size;
        self.limit(OPERATION, "bytes of private data", private_bytes, PRIVATE_BYTES_MAX)?;
        Ok(ProcessInfo {
            devices: answer.num_devices,
            bos: answer.num_bos,
            objects: answer.num_objects,
            private_bytes,
            pid: answer.pid,
        })
    }

    /// Saves the file's process, which is stopped and had these counts.
    ///
    /// Each buffer of VRAM or GTT takes a descriptor.
    ///
    /// # Errors
    ///
    /// `EINVAL` if the process is not stopped or the counts are not its own, `EMFILE`.
    pub fn checkpoint(&mut self, info: &ProcessInfo) -> Result<SavedProcess, DeviceError> {
        const OPERATION: &str = "CRIU_OP CHECKPOINT";
        let devices = vec![DeviceBucket::default(); info.devices as usize];
        let bos = vec![BoBucket { dmabuf_fd: NO_FD, ..Default::default() }; info.bos as usize];
        let private = vec![0_u8; info.private_bytes as usize];
        let (mut block, arrays) = block_of(op::CHECKPOINT, info.objects, &devices, &bos, &private);
        call(&mut self.file, OPERATION, ioc::CRIU_OP, &mut block)?;
        let mut bos = block.elements(&arrays.bos)[..bos.len()].to_vec();
        let contents = self.take_contents(OPERATION, &bos)?;
        bos.iter_mut().for_each(|bo| bo.dmabuf_fd = NO_FD);
        Ok(SavedProcess {
            devices: block.elements(&arrays.devices).to_vec(),
            bos,
            contents,
            private: block.elements(&arrays.private).to_vec(),
        })
    }

    /// Lets the queues of a stopped process go on.
    ///
    /// # Errors
    ///
    /// `EINVAL` if it is not stopped.
    pub fn unpause(&mut self) -> Result<(), DeviceError> {
        let mut block = Block::new(&CriuArgs { op: op::UNPAUSE, ..Default::default() });
        call(&mut self.file, "CRIU_OP UNPAUSE", ioc::CRIU_OP, &mut block).map(drop)
    }

    /// Rebuilds a process, with its queues stopped, in the process that makes the calls.
    ///
    /// Each buffer of VRAM or GTT takes a descriptor there. After an error the process is half
    /// built: its file has to be closed.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is no device or no buffer, the counts do not fit the host, a render node
    /// was used before, or the private data is of another version; `ENODEV`; `ENOMEM`.
    pub fn restore(
        &mut self,
        devices: &[RestoreDevice],
        bos: &[BoBucket],
        private: &[u8],
        objects: u32,
    ) -> Result<Vec<RestoredBo>, DeviceError> {
        const OPERATION: &str = "CRIU_OP RESTORE";
        let buckets: Vec<DeviceBucket> = devices.iter().map(RestoreDevice::bucket).collect();
        let mut bos = bos.to_vec();
        bos.iter_mut().for_each(|bo| bo.dmabuf_fd = NO_FD);
        let (mut block, arrays) = block_of(op::RESTORE, objects, &buckets, &bos, private);
        call(&mut self.file, OPERATION, ioc::CRIU_OP, &mut block)?;
        let restored = &block.elements(&arrays.bos)[..bos.len()];
        let contents = self.take_contents(OPERATION, restored)?;
        let offsets = restored.iter().map(|bo| bo.restored_offset);
        let both = offsets.zip(contents);
        Ok(both.map(|(mmap_offset, contents)| RestoredBo { mmap_offset, contents }).collect())
    }

    /// Starts a restored process, by its pid as the caller sees it.
    ///
    /// # Errors
    ///
    /// `ESRCH` if there is no such process with GPU state; `EINVAL` if it was not restored.
    pub fn resume(&mut self, pid: u32) -> Result<(), DeviceError> {
        let mut block = Block::new(&CriuArgs { op: op::RESUME, pid, ..Default::default() });
        call(&mut self.file, "CRIU_OP RESUME", ioc::CRIU_OP, &mut block).map(drop)
    }

    /// Makes all descriptors of an answer ours. If one cannot be had, the others are closed.
    fn take_contents(
        &mut self,
        operation: &'static str,
        bos: &[BoBucket],
    ) -> Result<Vec<Option<OwnedFd>>, DeviceError> {
        let mut taken = Vec::with_capacity(bos.len());
        for bo in bos {
            taken.push(match bo.dmabuf_fd {
                NO_FD => Ok(None),
                number => take(&mut self.file, operation, number as i32).map(Some),
            });
        }
        taken.into_iter().collect()
    }
}

impl RestoreDevice {
    fn bucket(&self) -> DeviceBucket {
        DeviceBucket {
            user_gpu_id: self.user_gpu_id,
            actual_gpu_id: self.actual_gpu_id,
            drm_fd: self.render.0 as u32,
            _pad: 0,
        }
    }
}

fn block_of(
    op: u32,
    num_objects: u32,
    devices: &[DeviceBucket],
    bos: &[BoBucket],
    private: &[u8],
) -> (Block, Arrays) {
    let mut block = Block::new(&CriuArgs {
        op,
        num_objects,
        num_devices: devices.len() as u32,
        num_bos: bos.len() as u32,
        priv_data_size: private.len() as u64,
        ..Default::default()
    });
    // The driver refuses a null pointer, also for an array without elements.
    let none = [BoBucket { dmabuf_fd: NO_FD, ..Default::default() }];
    let bos = if bos.is_empty() { &none } else { bos };
    let arrays = Arrays {
        devices: block.array(offset_of!(CriuArgs, devices), devices),
        bos: block.array(offset_of!(CriuArgs, bos), bos),
        private: block.array(offset_of!(CriuArgs, priv_data), private),
    };
    (block, arrays)
}
