//! Buffers that go from file to file: export, import, and a handle of one's choice.

use nix::errno::Errno;

use gpu_kfd::uapi::drm::{CLOEXEC, GemChangeHandle, PrimeHandle, RDWR};

use crate::model::{Call, Model};

impl Model {
    /// Returns a token in place of a descriptor, as all exports of the node do.
    ///
    /// # Errors
    /// `EINVAL` for other flags than `DRM_CLOEXEC` and `DRM_RDWR`, `ENOENT` without such a handle,
    /// `EPERM` for memory of a process and for a buffer that belongs to one address space.
    pub(super) fn prime_handle_to_fd(
        &mut self,
        call: &mut Call<'_>,
        args: &mut PrimeHandle,
    ) -> Result<i32, Errno> {
        if args.flags & !(CLOEXEC | RDWR) != 0 {
            return Err(Errno::EINVAL);
        }
        let buffer = self.render_of(call)?.buffer_of(args.handle)?;
        args.fd = self.export(call, buffer)? as i32;
        Ok(0)
    }

    /// The same buffer has one handle in a file, however often it is imported.
    ///
    /// # Errors
    /// `EBADF` if the descriptor is none of the node's, `EINVAL` if it is no dma-buf.
    pub(super) fn prime_fd_to_handle(
        &mut self,
        call: &mut Call<'_>,
        args: &mut PrimeHandle,
    ) -> Result<i32, Errno> {
        let buffer = self.dma_buf_named(call, args.fd)?;
        let file = self.render_of_mut(call)?;
        args.handle = match file.handle_of(buffer) {
            Some(handle) => handle,
            None => {
                let handle = file.add_handle(buffer)?;
                self.memory.retain(buffer);
                handle
            }
        };
        Ok(0)
    }

    /// Moves a buffer to a handle that the caller chooses (Linux 6.18).
    ///
    /// # Errors
    /// `EINVAL` for a number that cannot be a handle, `ENOENT` without the first one, `ENOSPC` if
    /// the new one is taken. Since June 2026 kernels refuse every call with `EINVAL` (1a4f03d22fb6,
    /// "drm/gem: Try to fix change_handle ioctl, attempt 4").
    pub(super) fn gem_change_handle(
        &mut self,
        call: &mut Call<'_>,
        args: &mut GemChangeHandle,
    ) -> Result<i32, Errno> {
        if args.new_handle > i32::MAX as u32 {
            return Err(Errno::EINVAL);
        }
        self.render_of_mut(call)?.move_handle(args.handle, args.new_handle)?;
        Ok(0)
    }
}
