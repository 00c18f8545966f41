//! `PROCESS_INFO` and `CHECKPOINT`: what is kept of a process, and in which layout.

use bytemuck::Pod;
use nix::errno::Errno;

use gpu_kfd::uapi::criu::{
    BoBucket, BoPrivate, CriuArgs, DeviceBucket, DevicePrivate, EventPrivate, MAPPED_GPUS_MAX,
    NO_FD, PRIVATE_VERSION, ProcessPrivate,
};
use gpu_kfd::uapi::kfd::alloc;

use crate::model::memory::Kind;
use crate::model::process::{KfdBo, Process, ProcessDevice};
use crate::model::queues::QueueRecord;
use crate::model::svm::RangeRecord;
use crate::model::vm::VA_FIRST;
use crate::model::world::{BufferId, SpaceId};
use crate::model::{Call, Model, write_array};

/// A buffer: what the caller gets of it, and what only the driver reads.
struct SavedBo {
    bucket: BoBucket,
    private: BoPrivate,
    /// What shall be exported for its contents.
    contents: Option<BufferId>,
}

/// All that is kept of a process.
struct Saved {
    xnack: bool,
    devices: Vec<DeviceBucket>,
    bos: Vec<SavedBo>,
    queues: Vec<QueueRecord>,
    events: Vec<EventPrivate>,
    ranges: Vec<RangeRecord>,
}

fn push<T: Pod>(bytes: &mut Vec<u8>, value: &T) {
    bytes.extend_from_slice(bytemuck::bytes_of(value));
}

impl Saved {
    fn objects(&self) -> usize {
        self.queues.len() + self.events.len() + self.ranges.len()
    }

    /// What stands before the buffers in private data.
    fn head(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let xnack_mode = u32::from(self.xnack);
        push(&mut bytes, &ProcessPrivate { version: PRIVATE_VERSION, xnack_mode });
        for _ in &self.devices {
            push(&mut bytes, &DevicePrivate::default());
        }
        bytes
    }

    /// What stands after them.
    fn tail(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for queue in &self.queues {
            push(&mut bytes, &queue.head);
            bytes.extend_from_slice(&queue.mqd);
            bytes.extend_from_slice(&queue.ctl_stack);
        }
        for event in &self.events {
            push(&mut bytes, event);
        }
        for range in &self.ranges {
            push(&mut bytes, &range.head);
            bytes.extend_from_slice(bytemuck::cast_slice(&range.attributes));
        }
        bytes
    }

    fn bos_bytes(&self) -> u64 {
        (self.bos.len() * size_of::<BoPrivate>()) as u64
    }

    fn fill_counts(&self, args: &mut CriuArgs) {
        args.num_devices = self.devices.len() as u32;
        args.num_bos = self.bos.len() as u32;
        args.num_objects = self.objects() as u32;
        let around = self.head().len() + self.tail().len();
        args.priv_data_size = around as u64 + self.bos_bytes();
    }
}

impl Model {
    /// Stops the queues of a process and counts what it has.
    ///
    /// # Errors
    /// `ENODEV` on a node without GPUs.
    pub(super) fn criu_process_info(
        &mut self,
        call: &mut Call<'_>,
        owner: SpaceId,
        args: &mut CriuArgs,
    ) -> Result<i32, Errno> {
        if self.process(owner)?.devices.is_empty() {
            return Err(Errno::ENODEV);
        }
        self.evict_queues(owner);
        self.process(owner)?.criu.paused = true;
        args.pid = call.world.own_pid(owner);
        self.saved(owner)?.fill_counts(args);
        Ok(0)
    }

    /// Buffers come last, since what they export must not be left behind by a failure.
    ///
    /// # Errors
    /// `EINVAL` for an address of 0, a process that is not stopped, and counts that are not those
    /// of now; `ENODEV`; `EFAULT`; `EPERM` if the contents of a buffer cannot be exported.
    pub(super) fn criu_checkpoint(
        &mut self,
        call: &mut Call<'_>,
        owner: SpaceId,
        args: &mut CriuArgs,
    ) -> Result<i32, Errno> {
        if args.devices == 0 || args.bos == 0 || args.priv_data == 0 {
            return Err(Errno::EINVAL);
        }
        let process = self.process(owner)?;
        if process.devices.is_empty() {
            return Err(Errno::ENODEV);
        }
        if !process.criu.paused {
            return Err(Errno::EINVAL);
        }
        let mut saved = self.saved(owner)?;
        let mut counts = *args;
        saved.fill_counts(&mut counts);
        if counts != *args {
            return Err(Errno::EINVAL);
        }
        let space = call.caller.space;
        let head = saved.head();
        write_array(call.world, space, args.devices, &saved.devices)?;
        write_array(call.world, space, args.priv_data, &head)?;
        let bos_at = args.priv_data.wrapping_add(head.len() as u64);
        write_array(call.world, space, bos_at.wrapping_add(saved.bos_bytes()), &saved.tail())?;
        let mut exported = Vec::new();
        let result = self.checkpoint_bos(call, args.bos, bos_at, &mut saved.bos, &mut exported);
        if result.is_err() {
            self.take_back(call, exported);
        }
        result.map(|()| 0)
    }

    fn checkpoint_bos(
        &mut self,
        call: &mut Call<'_>,
        buckets_at: u64,
        privates_at: u64,
        bos: &mut [SavedBo],
        exported: &mut Vec<BufferId>,
    ) -> Result<(), Errno> {
        for bo in bos.iter_mut() {
            if let Some(buffer) = bo.contents {
                bo.bucket.dmabuf_fd = self.export(call, buffer)?;
                exported.push(buffer);
            }
        }
        let buckets: Vec<BoBucket> = bos.iter().map(|bo| bo.bucket).collect();
        let privates: Vec<BoPrivate> = bos.iter().map(|bo| bo.private).collect();
        write_array(call.world, call.caller.space, buckets_at, &buckets)?;
        write_array(call.world, call.caller.space, privates_at, &privates)
    }

    /// Takes back what a call that fails has exported to its caller.
    pub(super) fn take_back(&mut self, call: &mut Call<'_>, exported: Vec<BufferId>) {
        for buffer in exported {
            self.files.unexport(&mut self.memory, call.world, call.caller.space, buffer);
        }
    }

    fn saved(&mut self, owner: SpaceId) -> Result<Saved, Errno> {
        let ranges = self.checkpoint_ranges(owner)?;
        let process = self.processes.get(&owner).ok_or(Errno::ESRCH)?;
        let actual = |device: &ProcessDevice| self.memory.gpu(device.gpu).config.gpu_id;
        let devices = process.devices.iter().map(|device| DeviceBucket {
            user_gpu_id: device.user_gpu_id,
            actual_gpu_id: actual(device),
            ..Default::default()
        });
        let bos = process.devices.iter().flat_map(|device| {
            let counted = device.bos.iter().filter(|(_, bo)| bo.va == 0 || bo.va > VA_FIRST);
            counted.map(|(number, bo)| self.saved_bo(process, device, number, bo))
        });
        Ok(Saved {
            xnack: process.xnack,
            devices: devices.collect(),
            bos: bos.collect(),
            queues: process.queues.checkpoint(&process.devices),
            events: process.events.checkpoint(),
            ranges,
        })
    }

    /// A buffer as the driver describes it. The size is that of its memory, which for a ring that
    /// is mapped twice (`AQL_QUEUE_MEM`) is half of what was asked for: restored as it is described
    /// it has half of that again.
    fn saved_bo(
        &self,
        process: &Process,
        device: &ProcessDevice,
        number: u32,
        bo: &KfdBo,
    ) -> SavedBo {
        let buffer = self.memory.buffer(bo.buffer);
        let has_contents = bo.flags & (alloc::VRAM | alloc::GTT) != 0;
        let bucket = BoBucket {
            addr: bo.va,
            size: buffer.size_bytes,
            offset: buffer.at.offset,
            gpu_id: device.user_gpu_id,
            alloc_flags: bo.flags,
            dmabuf_fd: NO_FD,
            ..Default::default()
        };
        let mut mapped_gpuids = [0; MAPPED_GPUS_MAX];
        for (place, gpu) in mapped_gpuids.iter_mut().zip(&bo.mapped) {
            *place = process.on(*gpu).user_gpu_id;
        }
        let user_addr = match buffer.kind {
            Kind::User { address, .. } => address,
            _ => 0,
        };
        let private = BoPrivate { user_addr, idr_handle: number, mapped_gpuids, _pad: 0 };
        SavedBo { bucket, private, contents: has_contents.then_some(bo.buffer) }
    }
}
