//! What a GEM buffer is: how it was made, where it is mapped, what its owner noted on it; and the
//! list of all buffers of a file.

use nix::errno::Errno;

use gpu_kfd::uapi::amdgpu::{
    GemCreateIn, GemListHandles, GemListHandlesEntry, GemMetadata, GemOp, GemVmEntry, domain,
    gem_op, list_flag, metadata_op,
};

use super::buffers::SETTABLE;
use crate::model::memory::Kind;
use crate::model::vm::PAGE_BYTES;
use crate::model::world::{BufferId, GpuIndex};
use crate::model::{Call, Model, write_array};

/// Most mappings that a caller may have room for: the kernel allocates the array at once, and at
/// most 2 GiB.
const ENTRIES_MAX: u32 = (1 << 31) / size_of::<GemVmEntry>() as u32;

/// Domains that `SET_PLACEMENT` keeps.
const PLACEMENTS: u64 = domain::VRAM | domain::GTT | domain::CPU;

impl Model {
    /// # Errors
    /// `EINVAL` for an unknown operation or padding that is not 0, `ENOENT`, those of each
    /// operation.
    pub(super) fn gem_op(&mut self, call: &mut Call<'_>, args: &mut GemOp) -> Result<i32, Errno> {
        if args._padding != 0 {
            return Err(Errno::EINVAL);
        }
        let file = self.render_of(call)?;
        let (gpu, buffer) = (file.gpu, file.buffer_of(args.handle)?);
        match args.op {
            gem_op::GET_GEM_CREATE_INFO => {
                let info = self.made_of(gpu, buffer);
                write_array(call.world, call.caller.space, args.value, &[info])?;
            }
            gem_op::SET_PLACEMENT => self.set_placement(gpu, buffer, args.value)?,
            gem_op::GET_MAPPING_INFO => self.mapping_info(call, buffer, args)?,
            _ => return Err(Errno::EINVAL),
        }
        Ok(0)
    }

    /// How a buffer would have to be made, as a GPU sees it; sizes in bytes.
    fn made_of(&self, gpu: GpuIndex, id: BufferId) -> GemCreateIn {
        let buffer = self.memory.buffer(id);
        let bo_size = buffer.size_bytes;
        if self.is_import(gpu, id) {
            let domains = domain::GTT;
            return GemCreateIn { bo_size, alignment: PAGE_BYTES, domains, domain_flags: 0 };
        }
        let (alignment, domains, domain_flags) =
            (buffer.alignment, buffer.domains, buffer.gem_flags);
        GemCreateIn { bo_size, alignment, domains, domain_flags }
    }

    /// Where it would rather lie is noted; its pages stay where they are.
    ///
    /// # Errors
    /// `EINVAL` for an import that shall go into device memory, and for a buffer that a GPU of the
    /// same XGMI hive has mapped; `EPERM` for memory of a process.
    fn set_placement(&mut self, gpu: GpuIndex, id: BufferId, domains: u64) -> Result<(), Errno> {
        if self.is_import(gpu, id) {
            // The import's own placement; there is nothing that would ask for it.
            let allowed = domains & domain::VRAM == 0;
            return if allowed { Ok(()) } else { Err(Errno::EINVAL) };
        }
        let buffer = self.memory.buffer(id);
        if matches!(buffer.kind, Kind::User { .. }) {
            return Err(Errno::EPERM);
        }
        let hive = self.memory.gpu(gpu).config.hive_id;
        let mut peers = self.files.render_files().map(|(_, file)| file).filter(|file| {
            file.gpu != gpu && hive != 0 && self.memory.gpu(file.gpu).config.hive_id == hive
        });
        if peers.any(|file| file.vm.iter().any(|(_, mapping)| mapping.buffer == id)) {
            return Err(Errno::EINVAL);
        }
        if let Some(buffer) = self.memory.buffer_mut(id) {
            buffer.domains = domains & PLACEMENTS;
        }
        Ok(())
    }

    /// The mappings of a buffer in the address space of the file, those of the KFD included.
    ///
    /// # Errors
    /// `ENOMEM` for absurd room, `EFAULT`.
    fn mapping_info(
        &mut self,
        call: &mut Call<'_>,
        id: BufferId,
        args: &mut GemOp,
    ) -> Result<(), Errno> {
        if args.num_entries >= ENTRIES_MAX {
            return Err(Errno::ENOMEM);
        }
        let vm = &self.render_of(call)?.vm;
        let of_buffer = vm.iter().filter(|(_, mapping)| mapping.buffer == id);
        let entries: Vec<GemVmEntry> = of_buffer
            .map(|(addr, mapping)| GemVmEntry {
                addr,
                size: mapping.len_bytes,
                offset: mapping.offset,
                flags: mapping.flags,
            })
            .collect();
        let fits = entries.len() <= args.num_entries as usize;
        args.num_entries = entries.len() as u32;
        if fits {
            write_array(call.world, call.caller.space, args.value, &entries)?;
        }
        Ok(())
    }

    /// An operation that is none does nothing and succeeds, in the driver as well.
    ///
    /// # Errors
    /// `ENOENT`; `EINVAL` for more bytes than there is room for.
    pub(super) fn gem_metadata(
        &mut self,
        call: &mut Call<'_>,
        args: &mut GemMetadata,
    ) -> Result<i32, Errno> {
        let id = self.render_of(call)?.buffer_of(args.handle)?;
        let Some(buffer) = self.memory.buffer_mut(id) else { return Err(Errno::ENOENT) };
        match args.op {
            metadata_op::GET_METADATA => {
                args.tiling_info = buffer.tiling_info;
                args.flags = buffer.metadata_flags;
                args.data_size_bytes = buffer.metadata.len() as u32;
                let data = bytemuck::bytes_of_mut(&mut args.data);
                data[..buffer.metadata.len()].copy_from_slice(&buffer.metadata);
            }
            metadata_op::SET_METADATA => {
                let data = bytemuck::bytes_of(&args.data);
                let note = data.get(..args.data_size_bytes as usize).ok_or(Errno::EINVAL)?;
                buffer.tiling_info = args.tiling_info;
                buffer.metadata = note.to_vec();
                // Flags without a note are not taken over.
                if !note.is_empty() {
                    buffer.metadata_flags = args.flags;
                }
            }
            _ => {}
        }
        Ok(0)
    }

    /// Linux 6.18. The alignment stands in pages here, unlike everywhere else.
    ///
    /// # Errors
    /// `EFAULT`.
    pub(super) fn gem_list_handles(
        &mut self,
        call: &mut Call<'_>,
        args: &mut GemListHandles,
    ) -> Result<i32, Errno> {
        let file = self.render_of(call)?;
        let gpu = file.gpu;
        let entries: Vec<GemListHandlesEntry> = file
            .handles()
            .map(|(gem_handle, buffer)| {
                let made = self.made_of(gpu, buffer);
                let is_import = self.is_import(gpu, buffer);
                GemListHandlesEntry {
                    gem_handle,
                    flags: if is_import { list_flag::IS_IMPORT } else { 0 },
                    size: made.bo_size,
                    preferred_domains: made.domains,
                    alloc_flags: made.domain_flags & SETTABLE,
                    alignment: made.alignment / PAGE_BYTES,
                }
            })
            .collect();
        let fits = entries.len() <= args.num_entries as usize;
        args.num_entries = entries.len() as u32;
        if fits {
            write_array(call.world, call.caller.space, args.entries, &entries)?;
        }
        Ok(0)
    }
}
