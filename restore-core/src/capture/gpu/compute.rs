//! Which open render node has the GPU address space that the KFD uses for a process.
//!
//! A process may have a GPU's render node open several times: one file is its runtime's, others may
//! be a graphics library's. No call says which it is. But a buffer shows where it is mapped in the
//! address space of a file. So if there is a choice, a buffer of the KFD is imported into each file
//! for a moment, and the one that shows the KFD's own mapping is it. The handle is given back at
//! once; the driver gives out the lowest free number, so that the program's next one is what it
//! would have been.

use gpu_kfd::{DeviceError, DeviceKind, HostGpuId, RenderNode, Topology};
use nix::errno::Errno;
use std::os::fd::AsFd;

use super::super::DumpError;
use super::super::facts::Facts;
use super::super::files::DeviceFiles;
use super::super::steps::Steps;
use super::kfd::{KfdFile, KfdState};
use super::{device_error, local};

/// Buffers that are tried in a file. One that no GPU has mapped says nothing, and is rare.
const BUFFERS_TRIED_MAX: usize = 8;

/// Files of a process from which one of each GPU is to be chosen, best first.
type Choice = Vec<(u32, Vec<u32>)>;

/// Ids of these files, each with the process.
pub(super) fn files(
    files: &DeviceFiles,
    facts: &[Facts],
    kfds: &[KfdFile],
    topology: &Topology,
    steps: &Steps,
) -> Result<Vec<(u32, i32)>, DumpError> {
    let mut taken: Vec<(u32, i32)> = Vec::new();
    // In the order of the tree: what an ancestor has taken is not a descendant's.
    for owner in facts.iter().map(|facts| facts.pid) {
        let own = kfds.iter().filter(|kfd| kfd.owner == owner);
        let Some(state) = own.filter_map(|kfd| kfd.state.as_ref()).next() else { continue };
        for (minor, ids) in choices(files, owner, &taken) {
            let mut chosen = ids[0];
            if ids.len() > 1 {
                for &id in &ids {
                    steps.next("look for the GPU address space of a process")?;
                    let mut node = RenderNode::of(local(&files[&id], facts)?);
                    let shown = shows_kfd(&mut node, state, topology, minor);
                    if shown.map_err(device_error(owner))? {
                        chosen = id;
                        break;
                    }
                }
            }
            taken.push((chosen, owner));
        }
    }
    Ok(taken)
}

/// The render nodes of each GPU that a process has. Taken for granted is, where the driver does not
/// tell (before Linux 6.18, or if the KFD has mapped nothing), what AMD's runtime does: it is the
/// file with the lowest descriptor, and one that the process opened itself, not one of an ancestor,
/// if there is such a file.
fn choices(files: &DeviceFiles, owner: i32, taken: &[(u32, i32)]) -> Choice {
    let mut own: Vec<(bool, i32, u32, u32)> = Vec::new();
    for (&id, file) in files {
        let DeviceKind::Render { minor } = file.kind else { continue };
        let Some(fd) = file.fd_in(owner) else { continue };
        if taken.iter().all(|(taken, _)| *taken != id) {
            let is_inherited = file.holders[0].0 != owner;
            own.push((is_inherited, fd, id, minor));
        }
    }
    own.sort_unstable();
    let mut choices: Choice = Vec::new();
    for (_, _, id, minor) in own {
        match choices.iter_mut().find(|(known, _)| *known == minor) {
            Some((_, ids)) => ids.push(id),
            None => choices.push((minor, vec![id])),
        }
    }
    choices
}

/// Whether a file's address space has a mapping of the process's KFD state.
fn shows_kfd(
    node: &mut RenderNode,
    state: &KfdState,
    topology: &Topology,
    minor: u32,
) -> Result<bool, DeviceError> {
    let is_here = |user: u32| {
        let gpu = state.actual(user).and_then(|id| topology.gpu(HostGpuId(id)));
        gpu.is_some_and(|gpu| gpu.properties.drm_render_minor == minor)
    };
    let here = state.bos.iter().zip(&state.contents).filter(|(bo, _)| is_here(bo.gpu_id));
    let here = here.filter_map(|(bo, dmabuf)| Some((bo, dmabuf.as_ref()?)));
    for (bo, dmabuf) in here.take(BUFFERS_TRIED_MAX) {
        let known = match node.gem_list_handles() {
            Ok(known) => known,
            Err(error) if error.errno() == Some(Errno::EINVAL) => return Ok(false),
            Err(error) => return Err(error),
        };
        let handle = node.prime_import(dmabuf.as_fd())?;
        let mappings = node.gem_mappings(handle);
        // A handle that the program has is its own.
        if known.iter().all(|entry| entry.gem_handle != handle) {
            node.gem_close(handle)?;
        }
        match mappings {
            Ok(mappings) if mappings.iter().any(|mapping| mapping.addr == bo.addr) => {
                return Ok(true);
            }
            Ok(_) => {}
            Err(error) if error.errno() == Some(Errno::EINVAL) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::super::super::files::DeviceFile;
    use super::*;

    /// Id, minor, and holders of a file.
    type File<'a> = (u32, u32, &'a [(i32, i32)]);

    fn check(files: &[File<'_>], owner: i32, taken: &[(u32, i32)], expected: &[(u32, &[u32])]) {
        let file = |&(id, minor, holders): &File<'_>| {
            let kind = DeviceKind::Render { minor };
            (id, DeviceFile { kind, holders: holders.to_vec() })
        };
        let files: DeviceFiles = files.iter().map(file).collect();
        let found = choices(&files, owner, taken);
        let expected: Choice = expected.iter().map(|(minor, ids)| (*minor, ids.to_vec())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn lowest_descriptor_of_each_gpu_comes_first() {
        let files: [File<'_>; 3] = [(1, 128, &[(7, 9)]), (2, 128, &[(7, 4)]), (3, 129, &[(7, 5)])];
        check(&files, 7, &[], &[(128, &[2, 1]), (129, &[3])]);
    }

    #[test]
    fn file_of_an_ancestor_comes_after_a_file_of_its_own() {
        let files: [File<'_>; 2] = [(1, 128, &[(7, 3), (8, 3)]), (2, 128, &[(8, 6)])];
        check(&files, 8, &[], &[(128, &[2, 1])]);
        check(&files, 8, &[(1, 7)], &[(128, &[2])]);
        check(&files[..1], 8, &[(1, 7)], &[]);
    }
}
