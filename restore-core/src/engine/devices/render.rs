//! A render node of a target, with its buffers under the handles that they had.
//!
//! The driver gives the lowest free handle. So buffers are made by ascending handle, and a gap is
//! filled with small buffers that are closed again. (There was a call that moves a handle,
//! `GEM_CHANGE_HANDLE`; it has been switched off in newer kernels.)

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use gpu_kfd::uapi::amdgpu::{GemCreateIn, GemVa, GemVmEntry, domain, va_op};
use gpu_kfd::{DeviceError, FileNumber, KFD_PATH, KfdFd, RenderNode};
use nix::errno::Errno;

use super::copy::CopyJob;
use super::{Hands, StepError, node, render_path};
use crate::contract::EdgeReason;
use crate::plan::devices::{BufferKey, GemBuffer, GemSource, RenderWork};
use crate::remote::device::TargetFile;

/// What fills a gap: the smallest buffer there is, in system memory.
const FILLER: GemCreateIn =
    GemCreateIn { bo_size: 4096, alignment: 4096, domains: domain::GTT, domain_flags: 0 };

impl Hands<'_> {
    pub(super) fn render(&mut self, work: &RenderWork) -> Result<i32, StepError> {
        let compute = work.compute.and_then(|gpu| self.devices.compute.get(&gpu).copied());
        let number = match compute {
            Some(number) => number,
            None => self.open(&render_path(work.minor))?,
        };
        if let (Some(gpu), Some(kfd)) = (work.acquire, self.devices.kfd) {
            // Before any buffer: the driver takes an address space that is empty.
            let mut kfd = KfdFd::of(self.file(kfd, Path::new(KFD_PATH)));
            kfd.acquire_vm(gpu.0, FileNumber(number))?;
        }
        let mut fillers = Vec::new();
        let mut free = 1;
        for buffer in &work.buffers {
            let mut target = node(self, number, work.minor);
            while free < buffer.handle {
                let filler = target.gem_create(&FILLER)?;
                check(filler, free, work.minor)?;
                fillers.push(filler);
                free += 1;
            }
            self.buffer(number, work.minor, buffer)?;
            free = buffer.handle + 1;
        }
        let mut target = node(self, number, work.minor);
        for filler in fillers {
            target.gem_close(filler)?;
        }
        Ok(number)
    }

    fn buffer(&mut self, number: i32, minor: u32, buffer: &GemBuffer) -> Result<(), StepError> {
        let object = buffer.object;
        let wanted = self.is_wanted(object);
        let given = match buffer.source {
            GemSource::Import(_) if self.ignores_edges => None,
            GemSource::Import(_) => Some(self.dmabuf_of(object)?),
            GemSource::Make { .. } => None,
        };
        let mut target = node(self, number, minor);
        let handle = match (&buffer.source, &given) {
            (GemSource::Import(_), Some(given)) => target.prime_import(given.as_fd())?,
            (GemSource::Make { with, .. } | GemSource::Import(with), _) => {
                target.gem_create(with)?
            }
        };
        check(handle, buffer.handle, minor)?;
        for mapping in &buffer.mappings {
            map(&mut target, handle, mapping)?;
        }
        let offset = match target.gem_mmap(handle) {
            Ok(offset) => Some(offset),
            // The host must not map it; then nothing does.
            Err(DeviceError::Refused { errno: Errno::EPERM, .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let contents = match &buffer.source {
            GemSource::Make { contents, .. } => contents.clone(),
            GemSource::Import(_) => None,
        };
        let exported = match wanted || contents.is_some() {
            true => Some(target.prime_export(handle)?),
            false => None,
        };
        let key = BufferKey { file: self.plan.file, index: buffer.index };
        if let Some(offset) = offset {
            self.devices.shown.insert(key, (number, offset));
        }
        let Some(exported) = exported else { return Ok(()) };
        self.hand_on(object, &exported)?;
        if let Some(contents) = contents {
            self.done.copies.push(CopyJob::new(self.plan.step, contents, exported));
        }
        Ok(())
    }

    /// Each file imports a memory once, and descriptors of it are made from the same.
    fn dmabuf_of(&mut self, object: u64) -> Result<OwnedFd, StepError> {
        let reason = EdgeReason::Buffer(object);
        let given = self.given.iter().find(|(given, _)| *given == reason);
        let (_, dmabuf) = given.expect("the coordinator sends what an edge promises");
        dmabuf.try_clone().map_err(|source| StepError::Duplicate { source })
    }
}

fn check(got: u32, wanted: u32, minor: u32) -> Result<(), StepError> {
    if got == wanted {
        return Ok(());
    }
    Err(StepError::Handle { path: render_path(minor), wanted, got })
}

fn map(
    target: &mut RenderNode<TargetFile<'_>>,
    handle: u32,
    mapping: &GemVmEntry,
) -> Result<(), StepError> {
    Ok(target.gem_va(&GemVa {
        handle,
        operation: va_op::MAP,
        flags: mapping.flags as u32,
        va_address: mapping.addr,
        offset_in_bo: mapping.offset,
        map_size: mapping.size,
        ..GemVa::default()
    })?)
}
