//! GPU mappings of GEM buffers.

use nix::errno::Errno;

use gpu_kfd::uapi::amdgpu::{GemVa, va_op, vm_delay, vm_mtype, vm_page};

use crate::model::vm::{
    HOLE_END, HOLE_START, Mapping, NO_BUFFER, Owner, PAGE_BYTES, VA_END, VA_FIRST,
    VA_RESERVED_TOP_BYTES, Vm,
};
use crate::model::world::BufferId;
use crate::model::{Call, Model, read_array};

/// Takes an address in the upper half to its place.
const HOLE_MASK: u64 = 0x0000_ffff_ffff_ffff;

/// Most mappings of one address space: a limit of this node, far beyond what programs use.
const MAPPINGS_MAX: usize = 1 << 20;

/// Most sync objects that one call may name, before it is looked whether there are any.
const SYNCOBJS_MAX: u64 = 1 << 16;

const MEMORY_FLAGS: u32 = vm_delay::UPDATE
    | vm_page::READABLE
    | vm_page::WRITEABLE
    | vm_page::EXECUTABLE
    | vm_mtype::MASK
    | vm_page::NOALLOC;
const HOLE_FLAGS: u32 = vm_delay::UPDATE | vm_page::PRT;

impl Model {
    /// Page tables are written at once, so that a delayed update is an early one.
    ///
    /// # Errors
    /// `EINVAL` for addresses that are reserved, do not exist, overlap or are not whole pages, for
    /// unknown flags and operations, for more than the buffer has; `ENOENT` without the handle, the
    /// mapping to be taken away, or a sync object (there are none); `EFAULT`; `ENOMEM`.
    pub(super) fn gem_va(&mut self, call: &mut Call<'_>, args: &mut GemVa) -> Result<i32, Errno> {
        check_range(args)?;
        if args.flags & !MEMORY_FLAGS != 0 && args.flags & !HOLE_FLAGS != 0 {
            return Err(Errno::EINVAL);
        }
        if !(va_op::MAP..=va_op::REPLACE).contains(&args.operation) {
            return Err(Errno::EINVAL);
        }
        let is_clear = args.operation == va_op::CLEAR;
        let is_hole = args.flags & vm_page::PRT != 0;
        let file = self.render_of(call)?;
        let target = match is_clear || is_hole {
            true => (NO_BUFFER, Owner::Hole, u64::MAX),
            false => {
                let buffer = file.buffer_of(args.handle)?;
                let size_bytes = self.memory.buffer(buffer).size_bytes;
                (buffer, Owner::Gem(args.handle), size_bytes)
            }
        };
        refuse_syncobjs(call, args)?;
        let vm = &mut self.render_of_mut(call)?.vm;
        let (va, len_bytes) = (args.va_address, args.map_size);
        match args.operation {
            va_op::MAP => map(vm, args, target)?,
            va_op::UNMAP => {
                let mapping = vm.get(va).filter(|mapping| mapping.owner == target.1);
                mapping.ok_or(Errno::ENOENT)?;
                vm.unmap(va);
            }
            va_op::REPLACE => {
                check_parameters(args, target.2)?;
                vm.clear(va, va + len_bytes);
                map(vm, args, target)?;
            }
            _ => {
                check_parameters(&GemVa { offset_in_bo: 0, ..*args }, u64::MAX)?;
                vm.clear(va, va + len_bytes);
            }
        }
        Ok(0)
    }
}

/// Moves an address of the upper half to where it lies in the address space.
fn check_range(args: &mut GemVa) -> Result<(), Errno> {
    if args.va_address < VA_FIRST || (HOLE_START..HOLE_END).contains(&args.va_address) {
        return Err(Errno::EINVAL);
    }
    args.va_address &= HOLE_MASK;
    // The driver's sum may wrap around; what it lets through is refused further on.
    if args.va_address.wrapping_add(args.map_size) > VA_END - VA_RESERVED_TOP_BYTES {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// There are no sync objects, so that none can be found.
fn refuse_syncobjs(call: &mut Call<'_>, args: &GemVa) -> Result<(), Errno> {
    if args.num_syncobj_handles != 0 {
        let count = u64::from(args.num_syncobj_handles);
        let address = args.input_fence_syncobj_handles;
        let handles: Vec<u32> =
            read_array(call.world, call.caller.space, address, count, SYNCOBJS_MAX)?;
        return Err(if handles[0] == 0 { Errno::EINVAL } else { Errno::ENOENT });
    }
    if args.vm_timeline_syncobj_out != 0 { Err(Errno::ENOENT) } else { Ok(()) }
}

/// As `amdgpu_vm_verify_parameters`.
fn check_parameters(args: &GemVa, size_bytes: u64) -> Result<(), Errno> {
    let GemVa { va_address, offset_in_bo, map_size, .. } = *args;
    if !(va_address | offset_in_bo | map_size).is_multiple_of(PAGE_BYTES) || map_size == 0 {
        return Err(Errno::EINVAL);
    }
    let va_end = va_address.checked_add(map_size).ok_or(Errno::EINVAL)?;
    let end = offset_in_bo.checked_add(map_size).ok_or(Errno::EINVAL)?;
    if end > size_bytes || va_end > VA_END { Err(Errno::EINVAL) } else { Ok(()) }
}

fn map(
    vm: &mut Vm,
    args: &GemVa,
    (buffer, owner, size_bytes): (BufferId, Owner, u64),
) -> Result<(), Errno> {
    check_parameters(args, size_bytes)?;
    if vm.len() >= MAPPINGS_MAX {
        return Err(Errno::ENOMEM);
    }
    let mapping = Mapping {
        len_bytes: args.map_size,
        buffer,
        offset: args.offset_in_bo,
        flags: u64::from(args.flags),
        owner,
    };
    vm.map(args.va_address, mapping)
}
