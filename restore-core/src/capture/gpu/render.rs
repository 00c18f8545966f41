//! Open render nodes: their buffers, where each is mapped, and a dma-buf of each.

use std::os::fd::OwnedFd;

use gpu_kfd::uapi::amdgpu::{GemListHandlesEntry, GemVmEntry, create};
use gpu_kfd::{DeviceKind, RenderNode};
use nix::errno::Errno;

use super::super::DumpError;
use super::super::facts::Facts;
use super::super::files::{DeviceFile, DeviceFiles};
use super::super::steps::Steps;
use super::kfd::KfdFile;
use super::{device_error, local};
use crate::refusal::Refusal;

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
    steps: &Steps,
    refusals: &mut Vec<Refusal>,
) -> Result<Vec<RenderFile>, DumpError> {
    let has_state = |pid: &i32| kfds.iter().any(|kfd| kfd.owner == *pid && kfd.state.is_some());
    let computing: Vec<i32> = facts.iter().map(|facts| facts.pid).filter(has_state).collect();
    let computes = computes(files, &computing);
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
                refusals.push(refusal(file, minor, what).with_help("use Linux 6.18 or newer"));
                continue;
            }
            Err(error) => return Err(device_error(owner)(error)),
        };
        let mut buffers = Vec::new();
        for entry in entries {
            match buffer(&mut node, entry, owner, steps)? {
                Ok(buffer) => buffers.push(buffer),
                Err(what) => {
                    let help = "have the program free it before the dump";
                    refusals.push(refusal(file, minor, &what).with_help(help));
                }
            }
        }
        found.push(RenderFile { id, minor, owner, is_compute: compute.is_some(), buffers });
    }
    Ok(found)
}

fn refusal(file: &DeviceFile, minor: u32, what: &str) -> Refusal {
    let (pid, fd) = file.holders[0];
    Refusal::new(what, format!("descriptor {fd}: /dev/dri/renderD{minor}"), pid as u32)
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

/// Render nodes whose GPU address space the KFD uses for a process, each with that process.
///
/// No call says which open file it is. Taken for granted is what AMD's runtime does: of the files
/// that a process has open of one GPU it is the one with the lowest descriptor, and one that the
/// process opened itself, not one of an ancestor, if there is such a file.
/// `computing` are the processes with state, in the order of the tree: what an ancestor has taken
/// is not a descendant's.
fn computes(files: &DeviceFiles, computing: &[i32]) -> Vec<(u32, i32)> {
    let mut computes: Vec<(u32, i32)> = Vec::new();
    for &owner in computing {
        let mut own: Vec<(bool, i32, u32, u32)> = Vec::new();
        for (&id, file) in files {
            let DeviceKind::Render { minor } = file.kind else { continue };
            let Some(fd) = file.fd_in(owner) else { continue };
            if computes.iter().all(|(taken, _)| *taken != id) {
                let is_inherited = file.holders[0].0 != owner;
                own.push((is_inherited, fd, id, minor));
            }
        }
        own.sort_unstable();
        let mut minors = Vec::new();
        for (_, _, id, minor) in own {
            if !minors.contains(&minor) {
                minors.push(minor);
                computes.push((id, owner));
            }
        }
    }
    computes
}

#[cfg(test)]
mod tests {
    use super::super::super::files::DeviceFile;
    use super::*;

    /// Id, minor, and holders of a file.
    type File<'a> = (u32, u32, &'a [(i32, i32)]);

    fn check(files: &[File<'_>], with_state: &[i32], expected: &[(u32, i32)]) {
        let file = |&(id, minor, holders): &File<'_>| {
            let kind = DeviceKind::Render { minor };
            (id, DeviceFile { kind, holders: holders.to_vec() })
        };
        let files: DeviceFiles = files.iter().map(file).collect();
        let mut found = computes(&files, with_state);
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn lowest_descriptor_of_each_gpu_has_the_address_space() {
        check(
            &[(1, 128, &[(7, 9)]), (2, 128, &[(7, 4)]), (3, 129, &[(7, 5)])],
            &[7],
            &[(2, 7), (3, 7)],
        );
    }

    #[test]
    fn file_of_an_ancestor_comes_after_a_file_of_its_own() {
        check(&[(1, 128, &[(7, 3), (8, 3)]), (2, 128, &[(8, 6)])], &[7, 8], &[(1, 7), (2, 8)]);
        // The parent computes not: its file is all that the child can have used.
        check(&[(1, 128, &[(7, 3), (8, 3)])], &[8], &[(1, 8)]);
        check(&[(1, 128, &[(7, 3), (8, 3)])], &[7, 8], &[(1, 7)]);
    }

    #[test]
    fn process_without_state_has_no_such_file() {
        check(&[(1, 128, &[(7, 3)])], &[], &[]);
    }
}
