//! Open render nodes: their buffers, where each is mapped, and a dma-buf of each.

use std::os::fd::OwnedFd;

use gpu_kfd::uapi::amdgpu::{GemListHandlesEntry, GemVmEntry, create};
use gpu_kfd::{DeviceKind, RenderNode, Topology};
use nix::errno::Errno;

use super::super::DumpError;
use super::super::facts::Facts;
use super::super::files::{DeviceFile, DeviceFiles};
use super::super::steps::Steps;
use super::kfd::KfdFile;
use super::{compute, device_error, local};
use crate::refusal::{Refusal, RefusalKind};

/// A buffer of a render node.
#[derive(Debug)]
pub(super) struct GemBuffer {
    pub(super) entry: GemListHandlesEntry,
    /// Where `mmap` finds it; `None` if the host must not map it.
    pub(super) offset_bytes: Option<u64>,
    pub(super) mappings: Vec<GemVmEntry>,
    pub(super) dmabuf: OwnedFd,
}

/// An open render node.
#[derive(Debug)]
pub(super) struct RenderFile {
    pub(super) id: u32,
    pub(super) minor: u32,
    pub(super) owner: i32,
    /// Its GPU address space is that of the owner's state in the KFD.
    pub(super) is_compute: bool,
    pub(super) buffers: Vec<GemBuffer>,
}

/// Looks at all of them.
pub(super) fn look(
    files: &DeviceFiles,
    facts: &[Facts],
    kfds: &[KfdFile],
    topology: &Topology,
    steps: &Steps,
    refusals: &mut Vec<Refusal>,
) -> Result<Vec<RenderFile>, DumpError> {
    let computes = compute::files(files, facts, kfds, topology, steps)?;
    let mut found = Vec::new();
    for (&id, file) in files {
        let DeviceKind::Render { minor } = file.kind else { continue };
        let compute = computes.iter().find(|(render, _)| *render == id).map(|(_, pid)| *pid);
        let owner = compute.unwrap_or(file.holders[0].0);
        let mut node = RenderNode::of(local(file, facts)?);
        steps.next("list the buffers of a render node")?;
        let entries = match node.gem_list_handles() {
            Ok(entries) => entries,
            // Before Linux 6.18. A program that computes makes its buffers by the KFD; if one of
            // another kind is mapped, that is seen.
            Err(error) if error.errno() == Some(Errno::EINVAL) && compute.is_some() => Vec::new(),
            Err(error) if error.errno() == Some(Errno::EINVAL) => {
                let what = "render node whose buffers this kernel cannot list";
                refusals.push(refusal(RefusalKind::GpuKernel, file, minor, what));
                continue;
            }
            Err(error) => return Err(device_error(owner)(error)),
        };
        let mut buffers = Vec::new();
        for entry in entries {
            match buffer(&mut node, entry, owner, steps)? {
                Ok(buffer) => buffers.push(buffer),
                Err(what) => {
                    refusals.push(refusal(RefusalKind::GpuUnexportable, file, minor, &what));
                }
            }
        }
        found.push(RenderFile { id, minor, owner, is_compute: compute.is_some(), buffers });
    }
    Ok(found)
}

fn refusal(kind: RefusalKind, file: &DeviceFile, minor: u32, what: &str) -> Refusal {
    let (pid, fd) = file.holders[0];
    Refusal::new(kind, what, format!("descriptor {fd}: /dev/dri/renderD{minor}"), pid as u32)
}

/// What a buffer is, or why it cannot be captured. Nothing of it is changed.
fn buffer(
    node: &mut RenderNode,
    entry: GemListHandlesEntry,
    pid: i32,
    steps: &Steps,
) -> Result<Result<GemBuffer, String>, DumpError> {
    let fail = device_error(pid);
    steps.next("look at a buffer of a render node")?;
    let handle = entry.gem_handle;
    let dmabuf = match node.prime_export(handle) {
        Ok(dmabuf) => dmabuf,
        Err(error) if error.errno() == Some(Errno::EPERM) => {
            let is_bound = entry.alloc_flags & create::VM_ALWAYS_VALID != 0;
            let what = match is_bound {
                true => "that belongs to one address space and cannot be exported",
                false => "that is memory of a process (GEM_USERPTR)",
            };
            return Ok(Err(format!("buffer {handle} of a render node {what}")));
        }
        Err(error) => return Err(fail(error)),
    };
    steps.next("ask where a buffer is mapped")?;
    let offset_bytes = match node.gem_mmap(handle) {
        Ok(offset) => Some(offset),
        Err(error) if error.errno() == Some(Errno::EPERM) => None,
        Err(error) => return Err(fail(error)),
    };
    let mappings = node.gem_mappings(handle).map_err(fail)?;
    Ok(Ok(GemBuffer { entry, offset_bytes, mappings, dmabuf }))
}
