//! `RESTORE`: a process is built again from buckets and private data that nobody vouches for.

use bytemuck::Pod;
use nix::errno::Errno;

use gpu_kfd::uapi::criu::{
    BoBucket, BoPrivate, CriuArgs, DeviceBucket, DevicePrivate, EventPrivate, NO_FD,
    PRIVATE_VERSION, ProcessPrivate, QueuePrivate, SvmRangePrivate, object,
};
use gpu_kfd::uapi::kfd::alloc;
use gpu_kfd::uapi::svm::SvmAttribute;

use crate::model::kfd::memory::Wanted;
use crate::model::queues::QueueRecord;
use crate::model::svm::{RangeRecord, Ranges};
use crate::model::world::{BufferId, GpuIndex, SpaceId};
use crate::model::{Call, Model, read_array, write_array};

/// Most buffers of one call: a limit of this node, far beyond what programs have.
const BOS_MAX: u64 = 1 << 20;

/// Most bytes of a queue's descriptor and control stack: a limit of this node. Ours have
/// [`MQD_BYTES`](crate::model::queues::MQD_BYTES), and tens of KiB.
const QUEUE_EXTRA_BYTES_MAX: u64 = 4 << 20;

/// Reads private data record by record.
struct Private {
    at: u64,
    len_bytes: u64,
    done_bytes: u64,
}

impl Private {
    /// # Errors
    /// `EINVAL` if fewer bytes are left.
    fn check(&self, len_bytes: u64) -> Result<(), Errno> {
        if self.len_bytes - self.done_bytes < len_bytes { Err(Errno::EINVAL) } else { Ok(()) }
    }

    fn here(&self) -> u64 {
        self.at.wrapping_add(self.done_bytes)
    }

    /// # Errors
    /// `EINVAL` if fewer bytes are left, `EFAULT`.
    fn bytes(&mut self, call: &mut Call<'_>, len_bytes: u64) -> Result<Vec<u8>, Errno> {
        self.check(len_bytes)?;
        let mut bytes = vec![0; len_bytes as usize];
        call.world.read_user(call.caller.space, self.here(), &mut bytes)?;
        self.done_bytes += len_bytes;
        Ok(bytes)
    }

    /// # Errors
    /// As [`bytes`](Self::bytes).
    fn record<T: Pod>(&mut self, call: &mut Call<'_>) -> Result<T, Errno> {
        let bytes = self.bytes(call, size_of::<T>() as u64)?;
        Ok(bytemuck::pod_read_unaligned(&bytes))
    }
}

impl Model {
    /// # Errors
    /// `EINVAL` for what is missing (also without any buffer), for another version or number of
    /// GPUs, for an identifier of a GPU that is not there, a descriptor that is no fresh render
    /// node of it, a process that has one already, and for private data that is too short or too
    /// long; `EPERM` for retry of page faults on GPUs that cannot; those of making buffers
    /// (`ENODEV` for one of an unknown GPU, `ENOMEM` if its number is taken), queues, events, and
    /// ranges; `EFAULT`.
    pub(super) fn criu_restore(
        &mut self,
        call: &mut Call<'_>,
        owner: SpaceId,
        args: &mut CriuArgs,
    ) -> Result<i32, Errno> {
        let missing = args.bos == 0
            || args.devices == 0
            || args.priv_data == 0
            || args.priv_data_size == 0
            || args.num_devices == 0
            || args.num_bos == 0;
        if missing {
            return Err(Errno::EINVAL);
        }
        self.evict_queues(owner);
        let (at, len_bytes) = (args.priv_data, args.priv_data_size);
        let mut private = Private { at, len_bytes, done_bytes: 0 };
        self.restore_process(call, owner, &mut private)?;
        self.restore_devices(call, owner, args, &mut private)?;
        self.restore_bos(call, owner, args, &mut private)?;
        for _ in 0..args.num_objects {
            self.restore_object(call, owner, &mut private)?;
        }
        if private.done_bytes == private.len_bytes { Ok(0) } else { Err(Errno::EINVAL) }
    }

    fn restore_process(
        &mut self,
        call: &mut Call<'_>,
        owner: SpaceId,
        private: &mut Private,
    ) -> Result<(), Errno> {
        let record: ProcessPrivate = private.record(call)?;
        if record.version != PRIVATE_VERSION {
            return Err(Errno::EINVAL);
        }
        if record.xnack_mode != 0 && !self.can_retry_faults() {
            return Err(Errno::EPERM);
        }
        self.process(owner)?.xnack = record.xnack_mode != 0;
        Ok(())
    }

    fn restore_devices(
        &mut self,
        call: &mut Call<'_>,
        owner: SpaceId,
        args: &CriuArgs,
        private: &mut Private,
    ) -> Result<(), Errno> {
        let count = self.process(owner)?.devices.len() as u64;
        if u64::from(args.num_devices) != count {
            return Err(Errno::EINVAL);
        }
        let private_bytes = count * size_of::<DevicePrivate>() as u64;
        private.check(private_bytes)?;
        let space = call.caller.space;
        let buckets: Vec<DeviceBucket> = read_array(call.world, space, args.devices, count, count)?;
        for bucket in &buckets {
            self.restore_device(call, owner, bucket)?;
        }
        // There is nothing in the private data of a GPU.
        private.done_bytes += private_bytes;
        Ok(())
    }

    fn restore_device(
        &mut self,
        call: &mut Call<'_>,
        owner: SpaceId,
        bucket: &DeviceBucket,
    ) -> Result<(), Errno> {
        if bucket.user_gpu_id == 0 {
            return Err(Errno::EINVAL);
        }
        let actual = bucket.actual_gpu_id;
        // A process has a device for each GPU, in order.
        let index = self.memory.gpus.iter().position(|gpu| gpu.config.gpu_id == actual);
        let gpu = GpuIndex(index.ok_or(Errno::EINVAL)? as u8);
        let device = self.process(owner)?.on_mut(gpu);
        device.user_gpu_id = bucket.user_gpu_id;
        let acquired = device.render.is_some();
        let named = call.world.resolve_fd(&call.caller, bucket.drm_fd as i32);
        let render = named.map_err(|_| Errno::EINVAL)?;
        if acquired {
            return Err(Errno::EINVAL);
        }
        self.take_over(owner, gpu, render)
    }

    fn restore_bos(
        &mut self,
        call: &mut Call<'_>,
        owner: SpaceId,
        args: &CriuArgs,
        private: &mut Private,
    ) -> Result<(), Errno> {
        let count = u64::from(args.num_bos);
        private.check(count * size_of::<BoPrivate>() as u64)?;
        // From here on the process can be resumed.
        self.process(owner)?.criu.restored = true;
        let space = call.caller.space;
        let mut buckets: Vec<BoBucket> = read_array(call.world, space, args.bos, count, BOS_MAX)?;
        let privates: Vec<BoPrivate> =
            read_array(call.world, space, private.here(), count, BOS_MAX)?;
        private.done_bytes += count * size_of::<BoPrivate>() as u64;
        let mut exported = Vec::new();
        let mut bos = buckets.iter_mut().zip(&privates);
        let built = bos.try_for_each(|(bucket, record)| {
            self.restore_bo(call, owner, bucket, record, &mut exported)
        });
        let result = built.and_then(|()| write_array(call.world, space, args.bos, &buckets));
        if result.is_err() {
            self.take_back(call, exported);
        }
        result
    }

    fn restore_bo(
        &mut self,
        call: &mut Call<'_>,
        owner: SpaceId,
        bucket: &mut BoBucket,
        record: &BoPrivate,
        exported: &mut Vec<BufferId>,
    ) -> Result<(), Errno> {
        let process = self.process(owner)?;
        let gpus = process.devices.len();
        let gpu = process.device(bucket.gpu_id).ok_or(Errno::ENODEV)?.gpu;
        let flags = bucket.alloc_flags;
        let wanted = Wanted { va: bucket.addr, size_bytes: bucket.size, flags };
        let number = record.idr_handle;
        let (buffer, number) = self.add_bo(owner, gpu, wanted, record.user_addr, Some(number))?;
        let has_contents = flags & (alloc::VRAM | alloc::GTT) != 0;
        if has_contents || flags & (alloc::DOORBELL | alloc::MMIO_REMAP) != 0 {
            bucket.restored_offset = self.memory.buffer(buffer).at.offset;
        }
        for id in record.mapped_gpuids.iter().take(gpus).take_while(|id| **id != 0) {
            let peer = self.process(owner)?.device(*id).ok_or(Errno::EINVAL)?.gpu;
            self.map_bo(owner, (gpu, number), peer)?;
        }
        bucket.dmabuf_fd = NO_FD;
        if has_contents {
            bucket.dmabuf_fd = self.export(call, buffer)?;
            exported.push(buffer);
        }
        Ok(())
    }

    fn restore_object(
        &mut self,
        call: &mut Call<'_>,
        owner: SpaceId,
        private: &mut Private,
    ) -> Result<(), Errno> {
        let begin_bytes = private.done_bytes;
        let kind: u32 = private.record(call)?;
        private.done_bytes = begin_bytes;
        match kind {
            object::QUEUE => {
                let head: QueuePrivate = private.record(call)?;
                let extra = u64::from(head.mqd_size) + u64::from(head.ctl_stack_size);
                private.check(extra)?;
                if extra > QUEUE_EXTRA_BYTES_MAX {
                    return Err(Errno::ENOMEM);
                }
                let mqd = private.bytes(call, u64::from(head.mqd_size))?;
                let ctl_stack = private.bytes(call, u64::from(head.ctl_stack_size))?;
                self.restore_queue(call.world, owner, &QueueRecord { head, mqd, ctl_stack })
            }
            object::EVENT => {
                let record: EventPrivate = private.record(call)?;
                self.restore_event(call.world, owner, &record)
            }
            object::SVM_RANGE => {
                let head: SvmRangePrivate = private.record(call)?;
                let count = Ranges::attributes_saved(self.process(owner)?.devices.len());
                let attributes = (0..count).map(|_| private.record::<SvmAttribute>(call));
                let attributes = attributes.collect::<Result<Vec<_>, _>>()?;
                self.process(owner)?.ranges.restore(RangeRecord { head, attributes })
            }
            _ => Err(Errno::EINVAL),
        }
    }
}
