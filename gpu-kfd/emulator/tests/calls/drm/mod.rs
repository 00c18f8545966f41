//! Calls of render nodes: every success, and every errno that a caller is promised.

mod buffers;
mod describe;
mod generic;
mod info;
mod prime;
mod submit;
mod va;
mod waits;

use bytemuck::Pod;
use gpu_kfd::uapi::amdgpu::{
    GemCreateIn, GemCreateOut, GemMmapIn, GemMmapOut, GemUserptr, GemVa, domain, ioc, userptr,
    va_op, vm_page,
};
use gpu_kfd::uapi::drm;
use kfd_emulator::{Caller, DeviceNode, FileId, Outcome};
use nix::errno::Errno;

use crate::bench::{Bench, buffer_of};

/// An address that programs may map.
pub(crate) const VA: u64 = 0x1_0000_0000;
pub(crate) const PAGE: u64 = 4096;

/// A process with one open render node of the first of two GPUs.
pub(crate) struct Ready {
    pub(crate) bench: Bench,
    pub(crate) caller: Caller,
    pub(crate) file: FileId,
}

pub(crate) fn ready() -> Ready {
    let mut bench = Bench::new(2);
    let caller = bench.client(100);
    let file = bench.render(&caller, 0);
    Ready { bench, caller, file }
}

impl Ready {
    pub(crate) fn call<T: Pod>(&mut self, request: u32, args: &mut T) -> Result<i32, Errno> {
        self.bench.call(&self.caller, self.file, request, args)
    }

    /// A call that may be parked.
    pub(crate) fn outcome<T: Pod>(&mut self, request: u32, args: &mut T) -> Outcome {
        let arg = bytemuck::bytes_of_mut(args);
        self.bench.model.ioctl(&mut self.bench.world, &self.caller, self.file, request, arg)
    }

    /// A buffer of one page in system memory.
    pub(crate) fn page(&mut self) -> u32 {
        self.create(PAGE, domain::GTT, 0).expect("there is room")
    }

    pub(crate) fn create(
        &mut self,
        bo_size: u64,
        domains: u64,
        domain_flags: u64,
    ) -> Result<u32, Errno> {
        let mut args = GemCreateIn { bo_size, alignment: 0, domains, domain_flags };
        self.call(ioc::GEM_CREATE, &mut args)?;
        Ok(bytemuck::cast::<_, GemCreateOut>(args).handle)
    }

    pub(crate) fn user(&mut self, addr: u64, size: u64) -> Result<u32, Errno> {
        let flags = userptr::ANONONLY | userptr::VALIDATE | userptr::REGISTER;
        let mut args = GemUserptr { addr, size, flags, handle: 0 };
        self.call(ioc::GEM_USERPTR, &mut args)?;
        Ok(args.handle)
    }

    pub(crate) fn mmap(&mut self, handle: u32) -> Result<u64, Errno> {
        let mut args = GemMmapIn { handle, _pad: 0 };
        self.call(ioc::GEM_MMAP, &mut args)?;
        Ok(bytemuck::cast::<_, GemMmapOut>(args).addr_ptr)
    }

    pub(crate) fn close(&mut self, handle: u32) -> Result<i32, Errno> {
        self.call(drm::ioc::GEM_CLOSE, &mut drm::GemClose { handle, _pad: 0 })
    }

    /// Maps a whole page-sized buffer, or more of a larger one.
    pub(crate) fn map(
        &mut self,
        handle: u32,
        va_address: u64,
        map_size: u64,
    ) -> Result<i32, Errno> {
        let flags = vm_page::READABLE | vm_page::WRITEABLE | vm_page::EXECUTABLE;
        let operation = va_op::MAP;
        let mut args =
            GemVa { handle, operation, flags, va_address, map_size, ..Default::default() };
        self.call(ioc::GEM_VA, &mut args)
    }

    /// Exports a buffer; its token.
    pub(crate) fn export(&mut self, handle: u32) -> Result<u32, Errno> {
        let mut args = drm::PrimeHandle { handle, flags: drm::CLOEXEC | drm::RDWR, fd: 0 };
        self.call(drm::ioc::PRIME_HANDLE_TO_FD, &mut args)?;
        Ok(args.fd as u32)
    }

    /// Imports what a descriptor of the caller stands for.
    pub(crate) fn import(&mut self, fd: i32) -> Result<u32, Errno> {
        let mut args = drm::PrimeHandle { fd, ..Default::default() };
        self.call(drm::ioc::PRIME_FD_TO_HANDLE, &mut args)?;
        Ok(args.handle)
    }

    /// A descriptor for what was exported.
    pub(crate) fn open_token(&mut self, token: u32) -> i32 {
        let caller = self.caller;
        let node = DeviceNode::DmaBuf(buffer_of(token));
        let file = self.bench.open(&caller, node).expect("it was exported");
        self.bench.fd(&caller, file)
    }

    /// Carries on as another process, with a render node of its own.
    pub(crate) fn become_other(&mut self, pid: i32, gpu: usize) {
        self.caller = self.bench.client(pid);
        self.file = self.bench.render(&self.caller, gpu);
    }

    pub(crate) fn check(&self) {
        self.bench.model.check().expect("every reference has a holder");
    }
}
