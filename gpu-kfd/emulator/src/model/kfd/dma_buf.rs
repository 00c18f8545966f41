//! dma-bufs at the KFD: export, import, and what one is.

use std::collections::BTreeSet;

use nix::errno::Errno;

use gpu_kfd::uapi::amdgpu::{create, domain};
use gpu_kfd::uapi::kfd::{ExportDmabufArgs, GetDmabufInfoArgs, ImportDmabufArgs, alloc};

use super::memory::handle_parts;
use crate::model::memory::{Buffer, Kind};
use crate::model::process::KfdBo;
use crate::model::world::{BufferId, FileId};
use crate::model::{Call, Model, token_of};

/// What an imported or exported buffer looks like in KFD flags.
fn kfd_flags(buffer: &Buffer) -> u32 {
    let memory = if buffer.domains & domain::VRAM != 0 { alloc::VRAM } else { alloc::GTT };
    memory | alloc::WRITABLE | alloc::EXECUTABLE
}

impl Model {
    /// The buffer of a dma-buf that the caller names by descriptor.
    ///
    /// # Errors
    /// `EBADF` if the descriptor is none of the node's, `EINVAL` if it is no dma-buf.
    pub(in crate::model) fn dma_buf_named(
        &self,
        call: &mut Call<'_>,
        fd: i32,
    ) -> Result<BufferId, Errno> {
        let file: FileId = call.world.resolve_fd(&call.caller, fd)?;
        self.dma_buf_of(file).ok_or(Errno::EINVAL)
    }

    pub(super) fn get_dmabuf_info(
        &mut self,
        call: &mut Call<'_>,
        args: &mut GetDmabufInfoArgs,
    ) -> Result<i32, Errno> {
        let buffer = self.dma_buf_named(call, args.dmabuf_fd as i32)?;
        let buffer = self.memory.buffer(buffer);
        if !matches!(buffer.kind, Kind::Vram | Kind::Gtt) {
            return Err(Errno::EINVAL);
        }
        args.size = buffer.size_bytes;
        args.gpu_id = self.memory.gpu(buffer.gpu).config.gpu_id;
        args.flags = if buffer.domains & domain::VRAM != 0 { alloc::VRAM } else { alloc::GTT };
        if buffer.gem_flags & create::CPU_ACCESS_REQUIRED != 0 {
            args.flags |= alloc::PUBLIC;
        }
        let room = args.metadata_size as usize;
        args.metadata_size = buffer.metadata.len() as u32;
        if args.metadata_ptr == 0 || buffer.metadata.is_empty() {
            return Ok(0);
        }
        if room < buffer.metadata.len() {
            return Err(Errno::EINVAL);
        }
        call.world.write_user(call.caller.space, args.metadata_ptr, &buffer.metadata)?;
        Ok(0)
    }

    pub(super) fn import_dmabuf(
        &mut self,
        call: &mut Call<'_>,
        args: &mut ImportDmabufArgs,
    ) -> Result<i32, Errno> {
        let space = call.caller.space;
        let gpu = self.bound(space, args.gpu_id, Errno::ENODEV)?.gpu;
        let id = self.dma_buf_named(call, args.dmabuf_fd as i32)?;
        let buffer = self.memory.buffer(id);
        if buffer.domains & (domain::VRAM | domain::GTT) == 0 {
            return Err(Errno::EINVAL);
        }
        let bo = KfdBo {
            buffer: id,
            va: args.va_addr,
            size_bytes: buffer.size_bytes,
            flags: kfd_flags(buffer),
            mapped: BTreeSet::new(),
            imported: true,
        };
        let bos = &mut self.process(space)?.on_mut(gpu).bos;
        let number = bos.insert(bo).map_err(|_| Errno::EFAULT)?;
        self.memory.retain(id);
        args.handle = u64::from(args.gpu_id) << 32 | u64::from(number);
        Ok(0)
    }

    /// Returns a token; see gpu-kfd's `emulated.rs` for how it becomes a descriptor.
    pub(super) fn export_dmabuf(
        &mut self,
        call: &mut Call<'_>,
        args: &mut ExportDmabufArgs,
    ) -> Result<i32, Errno> {
        let (gpu_id, number) = handle_parts(args.handle);
        let process = self.process(call.caller.space)?;
        let device = process.device(gpu_id).ok_or(Errno::EINVAL)?;
        let buffer = device.bos.get(number).ok_or(Errno::EINVAL)?.buffer;
        args.dmabuf_fd = self.export(call, buffer)?;
        Ok(0)
    }

    /// Notes an export of a buffer to the caller and gives its token.
    ///
    /// # Errors
    /// `EPERM` for memory of a process and for a buffer that belongs to one address space
    /// (`amdgpu_gem_prime_export`), `EINVAL` for doorbells and registers.
    pub(in crate::model) fn export(
        &mut self,
        call: &mut Call<'_>,
        buffer: BufferId,
    ) -> Result<u32, Errno> {
        let Buffer { kind, gem_flags, .. } = *self.memory.buffer(buffer);
        if gem_flags & create::VM_ALWAYS_VALID != 0 {
            return Err(Errno::EPERM);
        }
        match kind {
            Kind::User { .. } => return Err(Errno::EPERM),
            Kind::Doorbell | Kind::Registers => return Err(Errno::EINVAL),
            Kind::Vram | Kind::Gtt => {}
        }
        self.files.export(&mut self.memory, call.caller.space, buffer);
        Ok(token_of(buffer))
    }
}
