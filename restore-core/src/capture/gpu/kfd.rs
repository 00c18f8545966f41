//! Open files of the KFD: which process's state each carries, and that state.

use std::collections::BTreeMap;

use gpu_kfd::uapi::criu::{BoBucket, DeviceBucket};
use gpu_kfd::{DeviceKind, KfdFd, ProcessInfo};
use nix::errno::Errno;

use std::os::fd::OwnedFd;

use super::super::DumpError;
use super::super::facts::Facts;
use super::super::files::{DeviceFile, DeviceFiles};
use super::super::steps::Steps;
use super::pause::Paused;
use super::{device_error, local};
use crate::refusal::{Refusal, RefusalKind};

/// What the KFD has of a process.
#[derive(Debug)]
pub(super) struct KfdState {
    /// Its GPUs, by the ids that it knows and those of this host.
    pub(super) devices: Vec<DeviceBucket>,
    pub(super) bos: Vec<BoBucket>,
    /// For each buffer with contents a dma-buf.
    pub(super) contents: Vec<Option<OwnedFd>>,
    pub(super) private: Vec<u8>,
    /// Queues, events and ranges in the private data.
    pub(super) objects: u32,
}

impl KfdState {
    /// The id on this host of a GPU that the process knows by another.
    pub(super) fn actual(&self, user_gpu_id: u32) -> Option<u32> {
        let known = self.devices.iter().find(|device| device.user_gpu_id == user_gpu_id);
        known.map(|device| device.actual_gpu_id)
    }

    /// The id by which the process knows a GPU of this host.
    pub(super) fn user(&self, actual_gpu_id: u32) -> Option<u32> {
        let known = self.devices.iter().find(|device| device.actual_gpu_id == actual_gpu_id);
        known.map(|device| device.user_gpu_id)
    }
}

/// An open file of the KFD.
#[derive(Debug)]
pub(super) struct KfdFile {
    pub(super) id: u32,
    /// Whose address space it belongs to.
    pub(super) owner: i32,
    /// The state of that process. It belongs to the process and not to a file, so one file carries
    /// it: that with the owner's lowest descriptor. Any other only has to be opened again.
    pub(super) state: Option<KfdState>,
}

/// Stops the queues of every process that has state in the KFD, and saves that state.
pub(super) fn look(
    files: &DeviceFiles,
    facts: &[Facts],
    paused: &mut Paused,
    steps: &Steps,
    refusals: &mut Vec<Refusal>,
) -> Result<Vec<KfdFile>, DumpError> {
    let kfds = files.iter().filter(|(_, file)| file.kind == DeviceKind::Kfd);
    let kfds: Vec<(u32, &DeviceFile)> = kfds.map(|(&id, file)| (id, file)).collect();
    let Some(&(_, first)) = kfds.first() else { return Ok(Vec::new()) };
    steps.next("ask which version of the KFD this is")?;
    let version = KfdFd::open().and_then(|mut own| own.require_checkpoint());
    version.map_err(device_error(first.holders[0].0))?;
    let mut found = Vec::new();
    let mut carriers: BTreeMap<i32, (i32, u32)> = BTreeMap::new();
    let is_only = kfds.len() == 1;
    let mut only = None;
    for (id, file) in &kfds {
        let (owner, info) = match identify(file, facts, paused, is_only, steps)? {
            Identity::Process(pid, info) => (pid, info),
            // No GPU was there when it was opened: nothing is in it.
            Identity::Nothing => {
                found.push(KfdFile { id: *id, owner: file.holders[0].0, state: None });
                continue;
            }
            Identity::Stranger => {
                refusals.push(stranger(file));
                continue;
            }
        };
        let Some(fd) = file.fd_in(owner) else {
            let what = format!("/dev/kfd of process {owner}, which has it no longer");
            let place = format!("descriptor {}", file.holders[0].1);
            let (kind, holder) = (RefusalKind::GpuForeignFile, file.holders[0].0);
            refusals.push(Refusal::new(kind, what, place, holder as u32));
            continue;
        };
        let carrier = carriers.entry(owner).or_insert((fd, *id));
        *carrier = (fd, *id).min(*carrier);
        only = Some(info);
        found.push(KfdFile { id: *id, owner, state: None });
    }
    for (owner, (_, id)) in carriers {
        let info = match only {
            Some(info) if is_only => info,
            _ => stop(&files[&id], facts, paused, owner, steps)?,
        };
        let state = save(paused, &info, owner, steps)?;
        refusals.extend(refuse(&state, owner, &files[&id]));
        let carrier = found.iter_mut().find(|file| file.id == id);
        carrier.expect("carriers are found files").state = Some(state);
    }
    Ok(found)
}

enum Identity {
    Process(i32, ProcessInfo),
    Nothing,
    Stranger,
}

/// Whose file it is. Only the driver says it, and stops the queues of that process with it. If
/// there are several files, two of them may be of one process, which must not be stopped twice: so
/// it goes on again until all are known.
fn identify(
    file: &DeviceFile,
    facts: &[Facts],
    paused: &mut Paused,
    is_only: bool,
    steps: &Steps,
) -> Result<Identity, DumpError> {
    let pid = file.holders[0].0;
    steps.next("ask whose state a file of the KFD has")?;
    let info = match paused.stop(KfdFd::of(local(file, facts)?)) {
        Ok(info) => info,
        Err(error) if error.errno() == Some(Errno::ENODEV) => return Ok(Identity::Nothing),
        // Whoever opened it is no process that we trace.
        Err(error) if error.errno() == Some(Errno::EBADF) => return Ok(Identity::Stranger),
        Err(error) => return Err(device_error(pid)(error)),
    };
    let owner = info.pid as i32;
    let is_member = facts.iter().any(|facts| facts.pid == owner);
    if !is_only || !is_member {
        steps.next("let the queues of a process go on")?;
        paused.start_last()?;
    }
    Ok(if is_member { Identity::Process(owner, info) } else { Identity::Stranger })
}

fn stop(
    file: &DeviceFile,
    facts: &[Facts],
    paused: &mut Paused,
    owner: i32,
    steps: &Steps,
) -> Result<ProcessInfo, DumpError> {
    steps.next("stop the queues of a process")?;
    paused.stop(KfdFd::of(local(file, facts)?)).map_err(device_error(owner))
}

/// Saves the process that was stopped last.
fn save(
    paused: &mut Paused,
    info: &ProcessInfo,
    owner: i32,
    steps: &Steps,
) -> Result<KfdState, DumpError> {
    steps.next("save what the KFD has of a process")?;
    let saved = paused.last().checkpoint(info).map_err(device_error(owner))?;
    Ok(KfdState {
        devices: saved.devices,
        bos: saved.bos,
        contents: saved.contents,
        private: saved.private,
        objects: info.objects,
    })
}

/// What the driver would not restore.
fn refuse(state: &KfdState, owner: i32, file: &DeviceFile) -> Option<Refusal> {
    if !state.bos.is_empty() || state.objects == 0 {
        return None;
    }
    let what = format!("{} event(s) or range(s) of the KFD without a buffer", state.objects);
    let place = format!("descriptor {}: /dev/kfd", file.fd_in(owner).unwrap_or_default());
    Some(Refusal::new(RefusalKind::GpuObjects, what, place, owner as u32))
}

fn stranger(file: &DeviceFile) -> Refusal {
    let (pid, fd) = file.holders[0];
    let what = "/dev/kfd of a process outside the tree";
    let place = format!("descriptor {fd}: /dev/kfd");
    Refusal::new(RefusalKind::GpuForeignFile, what, place, pid as u32)
}
