//! `/dev/kfd`: which call is which, and who may make it.

mod criu;
mod device;
mod dma_buf;
mod events;
mod memory;
mod queues;
mod svm;

use nix::errno::Errno;

use gpu_kfd::uapi::kfd::{REQUESTS, ioc};
use gpu_kfd::uapi::same_call;

use super::world::SpaceId;
use super::{Call, Model, Outcome, with_args};

/// Interface version that the node speaks: 1.17 (Linux 6.12 and later).
const VERSION: (u32, u32) = (1, 17);

impl Model {
    /// A call on `/dev/kfd`, on the process that `owner` is.
    ///
    /// As `kfd_ioctl` decides: calls come from the process that opened the file, checkpoint calls
    /// also from its ptrace parent; the latter ask for a capability.
    pub(super) fn kfd(&mut self, mut call: Call<'_>, owner: SpaceId, arg: &mut [u8]) -> Outcome {
        // The driver finds the call by its number; callers of other versions pass other sizes.
        let Some(known) = REQUESTS.iter().find(|known| same_call(known.number, call.request))
        else {
            return Outcome::Done(Err(Errno::ENOTTY));
        };
        call.request = known.number;
        let is_checkpoint = call.request == ioc::CRIU_OP;
        let owned = owner == call.caller.space;
        if !(owned || is_checkpoint && call.world.is_tracer(&call.caller, owner)) {
            return Outcome::Done(Err(Errno::EBADF));
        }
        if !self.processes.contains_key(&owner) {
            return Outcome::Done(Err(Errno::EBADF));
        }
        if is_checkpoint {
            if !call.caller.can_checkpoint {
                return Outcome::Done(Err(Errno::EACCES));
            }
            return with_args(arg, |args| self.criu_op(&mut call, owner, args));
        }
        self.kfd_of_owner(call, arg)
    }

    fn kfd_of_owner(&mut self, mut call: Call<'_>, arg: &mut [u8]) -> Outcome {
        let call = &mut call;
        match call.request {
            ioc::GET_VERSION => with_args(arg, |a| self.get_version(a)),
            ioc::SET_MEMORY_POLICY => with_args(arg, |a| self.set_memory_policy(call, a)),
            ioc::GET_CLOCK_COUNTERS => with_args(arg, |a| self.get_clock_counters(call, a)),
            ioc::GET_PROCESS_APERTURES => with_args(arg, |a| self.get_process_apertures(call, a)),
            ioc::GET_PROCESS_APERTURES_NEW => {
                with_args(arg, |a| self.get_process_apertures_new(call, a))
            }
            ioc::SET_SCRATCH_BACKING_VA => with_args(arg, |a| self.set_scratch_backing_va(call, a)),
            ioc::GET_TILE_CONFIG => with_args(arg, |a| self.get_tile_config(call, a)),
            ioc::SET_TRAP_HANDLER => with_args(arg, |a| self.set_trap_handler(call, a)),
            ioc::ACQUIRE_VM => with_args(arg, |a| self.acquire_vm(call, a)),
            ioc::RUNTIME_ENABLE => with_args(arg, |a| self.runtime_enable(call, a)),
            _ => self.kfd_memory_call(call, arg),
        }
    }

    fn kfd_memory_call(&mut self, call: &mut Call<'_>, arg: &mut [u8]) -> Outcome {
        match call.request {
            ioc::ALLOC_MEMORY_OF_GPU => with_args(arg, |a| self.alloc_memory_of_gpu(call, a)),
            ioc::FREE_MEMORY_OF_GPU => with_args(arg, |a| self.free_memory_of_gpu(call, a)),
            ioc::MAP_MEMORY_TO_GPU => with_args(arg, |a| self.map_memory_to_gpu(call, a)),
            ioc::UNMAP_MEMORY_FROM_GPU => with_args(arg, |a| self.unmap_memory_from_gpu(call, a)),
            ioc::AVAILABLE_MEMORY => with_args(arg, |a| self.available_memory(call, a)),
            ioc::GET_DMABUF_INFO => with_args(arg, |a| self.get_dmabuf_info(call, a)),
            ioc::IMPORT_DMABUF => with_args(arg, |a| self.import_dmabuf(call, a)),
            ioc::EXPORT_DMABUF => with_args(arg, |a| self.export_dmabuf(call, a)),
            ioc::SVM => self.svm(call, arg),
            ioc::SET_XNACK_MODE => with_args(arg, |a| self.set_xnack_mode(call, a)),
            _ => self.kfd_queue_call(call, arg),
        }
    }

    fn kfd_queue_call(&mut self, call: &mut Call<'_>, arg: &mut [u8]) -> Outcome {
        match call.request {
            ioc::CREATE_QUEUE => with_args(arg, |a| self.create_queue(call, a)),
            ioc::DESTROY_QUEUE => with_args(arg, |a| self.destroy_queue(call, a)),
            ioc::UPDATE_QUEUE => with_args(arg, |a| self.update_queue(call, a)),
            ioc::SET_CU_MASK => with_args(arg, |a| self.set_cu_mask(call, a)),
            ioc::GET_QUEUE_WAVE_STATE => with_args(arg, |a| self.get_queue_wave_state(call, a)),
            ioc::ALLOC_QUEUE_GWS => with_args(arg, |a| self.alloc_queue_gws(call, a)),
            ioc::CREATE_EVENT => with_args(arg, |a| self.create_event(call, a)),
            ioc::DESTROY_EVENT => with_args(arg, |a| self.destroy_event(call, a)),
            ioc::SET_EVENT => with_args(arg, |a| self.set_event(call, a)),
            ioc::RESET_EVENT => with_args(arg, |a| self.reset_event(call, a)),
            ioc::WAIT_EVENTS => self.wait_events(call, arg),
            ioc::DBG_TRAP => Outcome::Done(Err(Errno::EPERM)),
            ioc::SMI_EVENTS => Outcome::Done(Err(Errno::EOPNOTSUPP)),
            ioc::DBG_REGISTER_DEPRECATED
            | ioc::DBG_UNREGISTER_DEPRECATED
            | ioc::DBG_ADDRESS_WATCH_DEPRECATED
            | ioc::DBG_WAVE_CONTROL_DEPRECATED => Outcome::Done(Err(Errno::EPERM)),
            _ => Outcome::Done(Err(Errno::ENOTTY)),
        }
    }
}
