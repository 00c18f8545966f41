//! GEM buffers: made of device memory, system memory, or the caller's memory; where `mmap` finds
//! them; how they end.

use nix::errno::Errno;

use gpu_kfd::uapi::amdgpu::{
    GemCreateIn, GemCreateOut, GemMmapIn, GemMmapOut, GemUserptr, create, domain, userptr,
};

use crate::model::memory::{Kind, NewBuffer};
use crate::model::vm::PAGE_BYTES;
use crate::model::world::{BufferId, FileId, GpuIndex};
use crate::model::{Call, Model};

/// Flags that a program may set (`AMDGPU_GEM_CREATE_SETTABLE_MASK`).
pub(super) const SETTABLE: u64 = create::CPU_ACCESS_REQUIRED
    | create::NO_CPU_ACCESS
    | create::CPU_GTT_USWC
    | create::VRAM_CLEARED
    | create::VM_ALWAYS_VALID
    | create::EXPLICIT_SYNC
    | create::VRAM_WIPE_ON_RELEASE
    | create::ENCRYPTED
    | create::DISCARDABLE
    | create::COHERENT
    | create::UNCACHED
    | create::EXT_COHERENT
    | create::GFX12_DCC;

/// Domains that a program may name; `MMIO_REMAP` is in the header, but has only one object.
const DOMAINS: u64 = domain::CPU
    | domain::GTT
    | domain::VRAM
    | domain::GDS
    | domain::GWS
    | domain::OA
    | domain::DOORBELL;

/// Domains without memory in this node: on-chip stores of the graphics pipeline, and doorbells for
/// user queues of render nodes.
const DOMAINS_ABSENT: u64 = domain::GDS | domain::GWS | domain::OA | domain::DOORBELL;

/// Flags that the driver adds to every buffer (`amdgpu_gem_object_create`).
const ADDED: u64 = create::VRAM_WIPE_ON_RELEASE;

impl Model {
    /// A buffer without room in device memory lies in system memory, as the driver does it: its
    /// preferred domains then name both.
    ///
    /// # Errors
    /// `EINVAL` for flags and domains that nobody may set or that this node lacks, for encryption,
    /// for a size of 0 and an alignment that device memory cannot have; `ENOMEM` without room.
    pub(super) fn gem_create(
        &mut self,
        call: &mut Call<'_>,
        args: &mut GemCreateIn,
    ) -> Result<i32, Errno> {
        let GemCreateIn { bo_size, alignment, domains, domain_flags } = *args;
        let refused = domain_flags & !SETTABLE != 0
            || domains & !DOMAINS != 0
            || domain_flags & create::ENCRYPTED != 0
            || domains & DOMAINS_ABSENT != 0;
        if refused {
            return Err(Errno::EINVAL);
        }
        // The driver keeps alignments in pages, after it took them for 32 bits with a sign.
        let alignment = u64::try_from(alignment as i32).map_err(|_| Errno::EINVAL)?;
        let alignment = alignment.next_multiple_of(PAGE_BYTES).max(PAGE_BYTES);
        let in_vram = domains & domain::VRAM != 0;
        if in_vram && !alignment.is_power_of_two() {
            return Err(Errno::EINVAL);
        }
        // That the host will map it is a hint, and forgotten.
        let gem_flags = (domain_flags & !create::CPU_ACCESS_REQUIRED) | create::VRAM_CLEARED;
        let gpu = self.render_of(call)?.gpu;
        let kind = if in_vram { Kind::Vram } else { Kind::Gtt };
        let mut new = NewBuffer {
            kind,
            size_bytes: bo_size,
            gem_flags: gem_flags | ADDED,
            alignment,
            domains,
        };
        let buffer = match self.memory.create(gpu, new) {
            Err(Errno::ENOMEM) if in_vram => {
                (new.kind, new.domains) = (Kind::Gtt, domains | domain::GTT);
                self.memory.create(gpu, new)
            }
            made => made,
        }?;
        let handle = self.name_new(call.file, buffer)?;
        *args = bytemuck::cast(GemCreateOut { handle, ..GemCreateOut::default() });
        Ok(0)
    }

    /// Gives a buffer that was just made its handle.
    fn name_new(&mut self, file: FileId, buffer: BufferId) -> Result<u32, Errno> {
        let named = match self.files.render_mut(file) {
            Some(file) => file.add_handle(buffer),
            None => Err(Errno::EBADF),
        };
        if named.is_err() {
            self.memory.forget_new(buffer);
        }
        named
    }

    /// What of `ANONONLY` a real driver refuses (`EPERM` for a mapping of a file) this one cannot
    /// see. `VALIDATE` looks at the first and the last byte only.
    ///
    /// # Errors
    /// `EINVAL` unless whole pages and known flags, `EACCES` for writable memory that is not
    /// registered, `EFAULT` for memory that is validated and not there, `ENOMEM`.
    pub(super) fn gem_userptr(
        &mut self,
        call: &mut Call<'_>,
        args: &mut GemUserptr,
    ) -> Result<i32, Errno> {
        use userptr::{ANONONLY, READONLY, REGISTER, VALIDATE};
        let GemUserptr { addr, size, flags, .. } = *args;
        if !(addr | size).is_multiple_of(PAGE_BYTES) {
            return Err(Errno::EINVAL);
        }
        if flags & !(READONLY | ANONONLY | VALIDATE | REGISTER) != 0 {
            return Err(Errno::EINVAL);
        }
        if flags & (READONLY | REGISTER) == 0 {
            return Err(Errno::EACCES);
        }
        let gpu = self.render_of(call)?.gpu;
        let space = call.caller.space;
        let new = NewBuffer {
            kind: Kind::User { space, address: addr },
            size_bytes: size,
            gem_flags: ADDED,
            alignment: PAGE_BYTES,
            domains: domain::GTT,
        };
        let buffer = self.memory.create(gpu, new)?;
        if flags & VALIDATE != 0 {
            let mut byte = [0];
            let last = addr.wrapping_add(size - 1);
            let there = call
                .world
                .read_user(space, addr, &mut byte)
                .and_then(|()| call.world.read_user(space, last, &mut byte));
            if let Err(errno) = there {
                self.memory.forget_new(buffer);
                return Err(errno);
            }
        }
        args.handle = self.name_new(call.file, buffer)?;
        Ok(0)
    }

    /// # Errors
    /// `ENOENT`; `EPERM` for memory of a process and for what the host shall not map.
    pub(super) fn gem_mmap(
        &mut self,
        call: &mut Call<'_>,
        args: &mut GemMmapIn,
    ) -> Result<i32, Errno> {
        let handle = args.handle;
        *args = GemMmapIn::default();
        let file = self.render_of(call)?;
        let (gpu, id) = (file.gpu, file.buffer_of(handle)?);
        let buffer = self.memory.buffer(id);
        // An import is an object of its own, without the flags of the exporter's.
        let is_hidden = buffer.gem_flags & create::NO_CPU_ACCESS != 0 && buffer.gpu == gpu;
        if matches!(buffer.kind, Kind::User { .. }) || is_hidden {
            return Err(Errno::EPERM);
        }
        let addr_ptr = self.memory.mmap_offset(gpu, id)?;
        *args = bytemuck::cast(GemMmapOut { addr_ptr });
        Ok(0)
    }

    /// Whether a buffer came to this GPU from another one.
    pub(super) fn is_import(&self, gpu: GpuIndex, buffer: BufferId) -> bool {
        self.memory.buffer(buffer).gpu != gpu
    }
}
