//! Render nodes: GEM buffers, mappings, submissions, queries.
//!
//! The order of checks, and so the errno of a call that is wrong in several ways, is that of
//! `drm_ioctl.c`, `drm_gem.c`, `drm_prime.c` and amdgpu's `amdgpu_gem.c`, `amdgpu_cs.c`,
//! `amdgpu_ctx.c`, `amdgpu_bo_list.c` and `amdgpu_kms.c` (Linux 6.18). Not there: sync objects (the
//! device says so when asked), user queues of render nodes, displays.

mod answers;
mod buffers;
mod contexts;
mod describe;
mod fences;
mod generic;
mod info;
mod prime;
mod submit;
mod va;

use std::ops::RangeInclusive;

use nix::errno::Errno;

use gpu_kfd::uapi::{amdgpu, drm};

use super::file::RenderFile;
use super::{Call, Model, Outcome, with_args};
pub(crate) use answers::PlainGpu;
pub use answers::{InfoSource, InfoState};
pub(crate) use contexts::Submissions;
pub(crate) use fences::FenceWait;

/// Calls of DRM and amdgpu that exist, but not for clients of render nodes (no `DRM_RENDER_ALLOW`
/// in the tables of `drm_ioctl.c` and `amdgpu_drv.c`): names, masters, displays.
const DENIED: [RangeInclusive<u8>; 13] = [
    0x01..=0x02,
    0x05..=0x07,
    0x0a..=0x0b,
    0x0d..=0x0d,
    0x10..=0x13,
    0x1e..=0x1f,
    0x27..=0x28,
    0x2c..=0x2c,
    0x3a..=0x3f,
    0x55..=0x55,
    0xa0..=0xbe,
    0xc6..=0xc9,
    0xce..=0xd0,
];

/// `SYNCOBJ_EVENTFD`, which lies among the denied ones.
const SYNCOBJ_EVENTFD: u8 = 0xcf;

/// Numbers of the calls for user queues.
const USER_QUEUES: RangeInclusive<u8> = 0x56..=0x58;

/// Directions in a request: the driver reads, the driver writes.
const DIRECTION_IN: u32 = 1 << 30;
const DIRECTION_OUT: u32 = 1 << 31;

impl Model {
    /// A call on a render node. As `drm_ioctl` does it: found by its number, whatever size and
    /// direction the caller says; what only one side calls input or output is none.
    pub(super) fn drm(&mut self, mut call: Call<'_>, arg: &mut [u8]) -> Outcome {
        let number = call.request as u8;
        if (call.request >> 8) as u8 != b'd' {
            return Outcome::Done(Err(Errno::ENOTTY));
        }
        let denied = DENIED.iter().any(|range| range.contains(&number));
        if denied && number != SYNCOBJ_EVENTFD {
            return Outcome::Done(Err(Errno::EACCES));
        }
        if USER_QUEUES.contains(&number) {
            return Outcome::Done(Err(Errno::EOPNOTSUPP));
        }
        let mut known = drm::REQUESTS.iter().chain(amdgpu::REQUESTS);
        let Some(known) = known.find(|known| known.number as u8 == number) else {
            return Outcome::Done(Err(Errno::EINVAL));
        };
        let directions = call.request & known.number;
        call.request = known.number;
        if directions & DIRECTION_IN == 0 {
            arg.fill(0);
        }
        let before = arg.to_vec();
        let outcome = self.drm_generic_call(&mut call, arg);
        if directions & DIRECTION_OUT == 0 {
            arg.copy_from_slice(&before);
        }
        outcome
    }

    fn drm_generic_call(&mut self, call: &mut Call<'_>, arg: &mut [u8]) -> Outcome {
        use drm::ioc;
        match call.request {
            ioc::VERSION => with_args(arg, |a| self.drm_version(call, a)),
            ioc::GET_CAP => with_args(arg, |a| self.get_cap(a)),
            ioc::SET_CLIENT_NAME => with_args(arg, |a| self.set_client_name(call, a)),
            ioc::GEM_CLOSE => with_args(arg, |a| self.gem_close(call, a)),
            ioc::GEM_CHANGE_HANDLE => with_args(arg, |a| self.gem_change_handle(call, a)),
            ioc::PRIME_HANDLE_TO_FD => with_args(arg, |a| self.prime_handle_to_fd(call, a)),
            ioc::PRIME_FD_TO_HANDLE => with_args(arg, |a| self.prime_fd_to_handle(call, a)),
            _ => self.drm_buffer_call(call, arg),
        }
    }

    fn drm_buffer_call(&mut self, call: &mut Call<'_>, arg: &mut [u8]) -> Outcome {
        use amdgpu::ioc;
        match call.request {
            ioc::GEM_CREATE => with_args(arg, |a| self.gem_create(call, a)),
            ioc::GEM_USERPTR => with_args(arg, |a| self.gem_userptr(call, a)),
            ioc::GEM_MMAP => with_args(arg, |a| self.gem_mmap(call, a)),
            ioc::GEM_VA => with_args(arg, |a| self.gem_va(call, a)),
            ioc::GEM_OP => with_args(arg, |a| self.gem_op(call, a)),
            ioc::GEM_METADATA => with_args(arg, |a| self.gem_metadata(call, a)),
            ioc::GEM_LIST_HANDLES => with_args(arg, |a| self.gem_list_handles(call, a)),
            ioc::GEM_WAIT_IDLE => self.gem_wait_idle(call, arg),
            _ => self.drm_submission_call(call, arg),
        }
    }

    fn drm_submission_call(&mut self, call: &mut Call<'_>, arg: &mut [u8]) -> Outcome {
        use amdgpu::ioc;
        match call.request {
            ioc::INFO => with_args(arg, |a| self.info(call, a)),
            ioc::CTX => with_args(arg, |a| self.ctx(call, a)),
            ioc::BO_LIST => with_args(arg, |a| self.bo_list(call, a)),
            ioc::VM => with_args(arg, |a| self.reserve_vmid(a)),
            ioc::CS => self.cs(call, arg),
            ioc::WAIT_CS => self.wait_cs(call, arg),
            ioc::WAIT_FENCES => self.wait_fences(call, arg),
            ioc::FENCE_TO_HANDLE => with_args(arg, |a| self.fence_to_handle(call, a)),
            // What is left are sync objects: a driver without them answers so.
            _ => Outcome::Done(Err(Errno::EOPNOTSUPP)),
        }
    }

    /// The render node that a call is made on.
    fn render_of(&self, call: &Call<'_>) -> Result<&RenderFile, Errno> {
        self.files.render(call.file).ok_or(Errno::EBADF)
    }

    fn render_of_mut(&mut self, call: &Call<'_>) -> Result<&mut RenderFile, Errno> {
        self.files.render_mut(call.file).ok_or(Errno::EBADF)
    }
}
