//! Calls about shared virtual memory.

use bytemuck::Zeroable;
use nix::errno::Errno;

use gpu_kfd::uapi::svm::{SetXnackModeArgs, SvmArgs, SvmAttribute, svm_op};

use crate::model::process::Process;
use crate::model::svm::{self, RangeRecord, Ranges, Setting};
use crate::model::vm::PAGE_BYTES;
use crate::model::world::{SpaceId, World};
use crate::model::{Call, Model, Outcome, with_args};

/// End of addresses, in pages: beyond it the kernel has no memory map of a process.
const PAGES_END: u64 = (1 << 47) / PAGE_BYTES;

/// Ranges of a process, and what they depend on.
fn parts(process: &mut Process, range_pages_max: u64) -> (&mut Ranges, Setting<'_>) {
    let Process { ranges, devices, xnack, .. } = process;
    (ranges, Setting { devices, range_pages_max, xnack: *xnack })
}

impl Model {
    /// The attributes stand behind the fixed part of the argument block.
    pub(super) fn svm(&mut self, call: &mut Call<'_>, arg: &mut [u8]) -> Outcome {
        let head_bytes = size_of::<SvmArgs>().min(arg.len());
        let (head, tail) = arg.split_at_mut(head_bytes);
        with_args(head, |args: &mut SvmArgs| self.svm_attributes(call, args, tail))
    }

    fn svm_attributes(
        &mut self,
        call: &mut Call<'_>,
        args: &SvmArgs,
        tail: &mut [u8],
    ) -> Result<i32, Errno> {
        let space = call.caller.space;
        let whole = |value: u64| value != 0 && value.is_multiple_of(PAGE_BYTES);
        if !whole(args.start_addr) || !whole(args.size) {
            return Err(Errno::EINVAL);
        }
        // The driver trusts the count and reads over the end of a shorter block.
        let bytes = args.nattr as usize * size_of::<SvmAttribute>();
        let tail = tail.get_mut(..bytes).ok_or(Errno::EINVAL)?;
        let mut attributes = vec![SvmAttribute::zeroed(); args.nattr as usize];
        bytemuck::cast_slice_mut(&mut attributes).copy_from_slice(tail);
        let (first, pages) = (args.start_addr / PAGE_BYTES, args.size / PAGE_BYTES);
        match args.op {
            svm_op::SET_ATTR => self.set_ranges(call.world, space, first, pages, &attributes)?,
            svm_op::GET_ATTR => {
                let last = self.check_pages(call.world, space, first, pages)?;
                let pages_max = svm::range_pages_max(&self.memory.gpus);
                let (ranges, setting) = parts(self.process(space)?, pages_max);
                ranges.get(&setting, first, last, &mut attributes)?;
                tail.copy_from_slice(bytemuck::cast_slice(&attributes));
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(0)
    }

    pub(in crate::model) fn set_ranges(
        &mut self,
        world: &mut dyn World,
        space: SpaceId,
        first: u64,
        pages: u64,
        wanted: &[SvmAttribute],
    ) -> Result<(), Errno> {
        let pages_max = svm::range_pages_max(&self.memory.gpus);
        parts(self.process(space)?, pages_max).1.check(wanted)?;
        let last = self.check_pages(world, space, first, pages)?;
        let (ranges, setting) = parts(self.process(space)?, pages_max);
        ranges.set(&setting, first, last, wanted)
    }

    /// The last page of a range that a process may share.
    ///
    /// The driver asks the memory map about every page. Here the first and the last one are read,
    /// so memory without access is refused, and a hole in the middle is not seen.
    ///
    /// # Errors
    /// `EFAULT` if there is no memory, `EADDRINUSE` if a buffer is mapped there on any GPU.
    fn check_pages(
        &mut self,
        world: &mut dyn World,
        space: SpaceId,
        first: u64,
        pages: u64,
    ) -> Result<u64, Errno> {
        let end = first.checked_add(pages).filter(|end| *end <= PAGES_END);
        let last = end.ok_or(Errno::EFAULT)? - 1;
        for page in [first, last] {
            world.read_user(space, page * PAGE_BYTES, &mut [0])?;
        }
        let process = self.process(space)?;
        let renders: Vec<_> = process.devices.iter().filter_map(|device| device.render).collect();
        let (va, end) = (first * PAGE_BYTES, (last + 1) * PAGE_BYTES);
        let files = renders.iter().filter_map(|render| self.files.render(*render));
        let taken = files.into_iter().any(|file| file.vm.overlaps(va, end));
        if taken { Err(Errno::EADDRINUSE) } else { Ok(last) }
    }

    /// What a checkpoint keeps of a process's ranges.
    pub(in crate::model) fn checkpoint_ranges(
        &mut self,
        space: SpaceId,
    ) -> Result<Vec<RangeRecord>, Errno> {
        let pages_max = svm::range_pages_max(&self.memory.gpus);
        let (ranges, setting) = parts(self.process(space)?, pages_max);
        Ok(ranges.checkpoint(&setting))
    }

    /// Applies the ranges of a restored process, which its memory must be there for.
    ///
    /// # Errors
    /// Those of setting attributes, of the first range that fails; all that wait are dropped then.
    pub(in crate::model) fn resume_ranges(
        &mut self,
        world: &mut dyn World,
        space: SpaceId,
    ) -> Result<(), Errno> {
        let mut result = Ok(());
        while let Some(record) = self.process(space)?.ranges.next_waiting() {
            let (first, pages) = (record.head.start_addr, record.head.size);
            if result.is_ok() && (first == 0 || pages == 0) {
                result = Err(Errno::EINVAL);
            }
            if result.is_ok() {
                result = self.set_ranges(world, space, first, pages, &record.to_set());
            }
        }
        result
    }

    /// Whether retry of page faults can be chosen for a process: all GPUs must be able to.
    pub(in crate::model) fn can_retry_faults(&self) -> bool {
        self.memory.gpus.iter().all(|gpu| gpu.config.xnack)
    }

    pub(super) fn set_xnack_mode(
        &mut self,
        call: &mut Call<'_>,
        args: &mut SetXnackModeArgs,
    ) -> Result<i32, Errno> {
        let can_retry = self.can_retry_faults();
        let process = self.process(call.caller.space)?;
        if args.xnack_enabled < 0 {
            args.xnack_enabled = i32::from(process.xnack);
            return Ok(0);
        }
        if process.queues.len() > 0 {
            return Err(Errno::EBUSY);
        }
        let wanted = args.xnack_enabled != 0;
        if wanted && !process.xnack && !can_retry {
            return Err(Errno::EPERM);
        }
        process.xnack = wanted;
        Ok(0)
    }
}
