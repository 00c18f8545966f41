//! GPU state of a tree: what the drivers have of its processes, from stopped queues to images.
//!
//! | step | what happens |
//! |---|---|
//! | look | queues stop, KFD state and buffers of render nodes are listed, memory is numbered |
//! | refuse | what cannot be restored is named; nothing of the programs was changed |
//! | write | contents are copied by a few threads, then the records are written |
//!
//! All calls are made by us on files that the tree has open: the KFD lets the tracer save a
//! process, render nodes answer whoever has them open. Handles of the programs are never closed.

mod compute;
mod contents;
mod identity;
mod images;
mod kfd;
mod mappings;
mod pause;
mod render;
mod sharing;
mod topology;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use gpu_kfd::{DeviceError, Local, Topology};

pub(crate) use pause::Paused;
pub use pause::UnpauseError;

use super::facts::Facts;
use super::files::{DeviceFile, DeviceFiles};
use super::staging::Folder;
use super::steps::Steps;
use super::{DumpError, DumpOptions};
use crate::refusal::{Refusal, RefusalKind};
use identity::Identities;
use kfd::KfdFile;
use render::RenderFile;
use sharing::Sharing;

/// A descriptor of a shared buffer.
#[derive(Debug)]
struct DmaBufFile {
    id: u32,
    owner: i32,
    /// Number of its memory.
    memory: u64,
}

/// Everything that the drivers say of a tree whose queues are stopped.
#[derive(Debug)]
pub(crate) struct GpuState {
    topology: Topology,
    kfds: Vec<KfdFile>,
    renders: Vec<RenderFile>,
    dmabufs: Vec<DmaBufFile>,
    sharing: Sharing,
}

/// Stops the queues of the tree and looks at its device files; `None` if it has none.
///
/// From here on `paused` has promises to keep.
pub(crate) fn look(
    files: &DeviceFiles,
    facts: &[Facts],
    paused: &mut Paused,
    steps: &Steps,
    refusals: &mut Vec<Refusal>,
) -> Result<Option<GpuState>, DumpError> {
    if files.is_empty() {
        // A mapping may be left of a device that nobody has open.
        refusals.extend(mappings::Shown::default().refuse(facts));
        return Ok(None);
    }
    let kfds = kfd::look(files, facts, paused, steps, refusals)?;
    steps.next("read the topology of the GPUs")?;
    let topology = Topology::read_without_caches(Topology::SYSFS)
        .map_err(|source| DumpError::Topology { source: Box::new(source) })?;
    let renders = render::look(files, facts, &kfds, &topology, steps, refusals)?;
    let (dmabufs, sharing) = (Vec::new(), Sharing::default());
    let mut state = GpuState { topology, kfds, renders, dmabufs, sharing };
    state.number(files, facts, steps, refusals)?;
    refusals.extend(state.shown(files).refuse(facts));
    Ok(Some(state))
}

impl GpuState {
    /// Gives all memory its numbers: that of the KFD first, which is always made there.
    fn number(
        &mut self,
        files: &DeviceFiles,
        facts: &[Facts],
        steps: &Steps,
        refusals: &mut Vec<Refusal>,
    ) -> Result<(), DumpError> {
        let mut identities = Identities::default();
        for kfd in &self.kfds {
            let Some(state) = &kfd.state else { continue };
            for (index, (bo, dmabuf)) in state.bos.iter().zip(&state.contents).enumerate() {
                let Some(dmabuf) = dmabuf else {
                    self.sharing.add_kfd(kfd, index, identities.fresh());
                    continue;
                };
                steps.next("compare a buffer with others")?;
                let minor = self.minor_of(kfd, bo.gpu_id)?;
                let number = identities.of_buffer(minor, dmabuf.as_fd());
                let number = number.map_err(device_error(kfd.owner))?;
                refusals.extend(self.sharing.add_kfd(kfd, index, number));
            }
        }
        for render in &self.renders {
            for (index, buffer) in render.buffers.iter().enumerate() {
                steps.next("compare a buffer with others")?;
                let dmabuf = buffer.dmabuf.as_fd();
                let number = identities.of_buffer(render.minor, dmabuf);
                let number = number.map_err(device_error(render.owner))?;
                self.sharing.add_gem(render, index, number);
            }
        }
        for (&id, file) in files {
            if file.kind != gpu_kfd::DeviceKind::DmaBuf {
                continue;
            }
            let (owner, fd) = file.holders[0];
            steps.next("compare a dma-buf with buffers")?;
            let held = held(file, facts);
            let found = identities.of_dmabuf(held.as_fd());
            match found.map_err(device_error(owner))? {
                Some(memory) => self.dmabufs.push(DmaBufFile { id, owner, memory }),
                None => {
                    let what = "dma-buf of a buffer that no device file of the tree has";
                    let place = format!("descriptor {fd}: {}", link(file, facts));
                    let help = "dump the process that made it in the same tree, or close it";
                    let kind = RefusalKind::GpuForeignBuffer;
                    let refusal = Refusal::new(kind, what, place, owner as u32);
                    refusals.push(refusal.with_help(help));
                }
            }
        }
        Ok(())
    }

    /// Minor number of the GPU that a process knows by an id.
    fn minor_of(&self, kfd: &KfdFile, user_gpu_id: u32) -> Result<u32, DumpError> {
        let actual = kfd.state.as_ref().and_then(|state| state.actual(user_gpu_id));
        let node = actual.and_then(|id| self.topology.gpu(gpu_kfd::HostGpuId(id)));
        let node = node.ok_or(DumpError::UnknownGpu { pid: kfd.owner, gpu_id: user_gpu_id })?;
        Ok(node.properties.drm_render_minor)
    }

    /// Buffers that can be mapped, each by whoever has its file: those of the KFD by their process.
    fn shown(&self, files: &DeviceFiles) -> mappings::Shown {
        use gpu_kfd::uapi::kfd::alloc;
        let mut shown = mappings::Shown::default();
        for kfd in &self.kfds {
            for bo in kfd.state.iter().flat_map(|state| &state.bos) {
                let of_kfd = bo.alloc_flags & (alloc::DOORBELL | alloc::MMIO_REMAP) != 0;
                let minor = if of_kfd { None } else { self.minor_of(kfd, bo.gpu_id).ok() };
                if bo.alloc_flags & alloc::USERPTR == 0 && (of_kfd || minor.is_some()) {
                    shown.add((kfd.owner, minor), bo.offset, bo.size);
                }
            }
        }
        for render in &self.renders {
            for buffer in &render.buffers {
                let Some(offset_bytes) = buffer.offset_bytes else { continue };
                for &(pid, _) in &files[&render.id].holders {
                    shown.add((pid, Some(render.minor)), offset_bytes, buffer.entry.size);
                }
            }
        }
        shown
    }

    /// Processes with state in the KFD, device files, and buffers.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let states = self.kfds.iter().filter_map(|kfd| kfd.state.as_ref());
        let files = self.kfds.len() + self.renders.len() + self.dmabufs.len();
        let gem = self.renders.iter().map(|render| render.buffers.len()).sum::<usize>();
        (states.clone().count(), files, gem + states.map(|state| state.bos.len()).sum::<usize>())
    }

    /// Bytes of contents of each process that will be copied.
    pub(crate) fn contents_bytes(&self) -> Result<BTreeMap<i32, u64>, DumpError> {
        let mut bytes = BTreeMap::new();
        for image in images::contents(self)? {
            *bytes.entry(image.pid).or_default() += image.size_bytes();
        }
        Ok(bytes)
    }

    /// Writes contents and records. `tell` hears of bytes of a process that have been copied.
    pub(crate) fn write(
        &self,
        options: &DumpOptions,
        folder: &Folder,
        steps: &Steps,
        tell: &mut dyn FnMut((i32, u64)),
    ) -> Result<(), DumpError> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let workers_max = if options.workers_max == 0 { processors } else { options.workers_max };
        contents::save(images::contents(self)?, workers_max, folder, steps, tell)?;
        images::records(self, folder, steps)
    }
}

fn held<'a>(file: &DeviceFile, facts: &'a [Facts]) -> &'a OwnedFd {
    &descriptor(file, facts).held.file
}

fn link(file: &DeviceFile, facts: &[Facts]) -> String {
    String::from_utf8_lossy(&descriptor(file, facts).held.link).into_owned()
}

fn descriptor<'a>(file: &DeviceFile, facts: &'a [Facts]) -> &'a super::facts::Descriptor {
    let (pid, fd) = file.holders[0];
    let mut all = facts.iter().filter(|facts| facts.pid == pid).flat_map(|f| &f.descriptors);
    all.find(|descriptor| descriptor.fd == fd).expect("device files are noted from descriptors")
}

/// An open file of the tree, for calls by us.
fn local(file: &DeviceFile, facts: &[Facts]) -> Result<Local, DumpError> {
    let (pid, fd) = file.holders[0];
    let held = held(file, facts).try_clone().map_err(|error| {
        let errno = nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(libc::EMFILE));
        DumpError::Descriptor { pid, fd, errno }
    })?;
    Ok(Local::from_descriptor(held, Path::new(&link(file, facts))))
}

fn device_error(pid: i32) -> impl Fn(DeviceError) -> DumpError + Copy {
    move |source| DumpError::Device { pid, source: Box::new(source) }
}
