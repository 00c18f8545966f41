//! What a checkpoint holds that is not restored: collected whole, never dropped.
//!
//! File kinds are refused where they are planned (`files`), mappings in `memory`; here is the
//! rest: images of kinds that nothing reads, namespaces, and attributes of tasks and threads.

use std::collections::BTreeMap;

use criu_image::record::{SeccompMode, TaskKobjIdsEntry};
use criu_image::{Body, Checkpoint, ImageKind, OtherImage, Process};

use super::Options;
use crate::refusal::{Refusal, RefusalKind};

/// All refusals that concern neither a file nor a mapping.
pub(super) fn collect(checkpoint: &Checkpoint, options: &Options) -> Vec<Refusal> {
    let mut refusals: Vec<Refusal> =
        checkpoint.other.iter().filter_map(|image| other(image, options)).collect();
    sharing(checkpoint, &mut refusals);
    for process in &checkpoint.processes {
        if let Some(body) = &process.body {
            namespaces(checkpoint, process, body, &mut refusals);
            attributes(process, body, &mut refusals);
        }
    }
    refusals
}

/// Images that may be left out, each with its reason, or else a refusal.
fn other(image: &OtherImage, options: &Options) -> Option<Refusal> {
    let harmless = match image.kind {
        // Statistics of the dump and caches: nothing of the tree.
        ImageKind::StatsDump | ImageKind::StatsRestore | ImageKind::IrmapCache => true,
        // What the processor of the dump could do: the state that matters is checked per thread.
        ImageKind::Cpuinfo => true,
        // Clock offsets of the host's own time namespace.
        ImageKind::Timens => true,
        ImageKind::Cgroup => options.ignore_cgroups,
        // Planned with the device files.
        ImageKind::AmdgpuKfd
        | ImageKind::AmdgpuRender
        | ImageKind::AmdgpuPages
        | ImageKind::AmdgpuDrmPages
        | ImageKind::AmdgpuDmabuf
        | ImageKind::ThawGpu => true,
        // Written whole for every dump; without a record there is nothing to restore.
        _ => image.records == 0 && !image.kind.is_raw(),
    };
    (!harmless).then(|| {
        let what = match image.kind.is_raw() {
            true => image.kind.describe().to_owned(),
            false => format!("{} ({} record(s))", image.kind.describe(), image.records),
        };
        let kind = match image.kind {
            ImageKind::Cgroup => RefusalKind::ControlGroups,
            _ => RefusalKind::Image,
        };
        Refusal::of_tree(kind, what, image.file.to_string_lossy().into_owned())
    })
}

type NamespaceId = fn(&TaskKobjIdsEntry) -> Option<u32>;

fn namespaces(
    checkpoint: &Checkpoint,
    process: &Process,
    body: &Body,
    refusals: &mut Vec<Refusal>,
) {
    const KINDS: [(&str, NamespaceId); 8] = [
        ("pid", |ids| ids.pid_ns_id),
        ("network", |ids| ids.net_ns_id),
        ("ipc", |ids| ids.ipc_ns_id),
        ("uts", |ids| ids.uts_ns_id),
        ("mount", |ids| ids.mnt_ns_id),
        ("user", |ids| ids.user_ns_id),
        ("cgroup", |ids| ids.cgroup_ns_id),
        ("time", |ids| ids.time_ns_id),
    ];
    let Some(host) = &checkpoint.inventory.root_ids else {
        return;
    };
    for (name, id) in KINDS {
        if id(&body.ids).is_some() && id(&body.ids) != id(host) {
            let place = format!("ids-{}.img", process.pid);
            let what = format!("{name} namespace of its own");
            refusals.push(Refusal::new(RefusalKind::Namespace, what, place, process.pid));
        }
    }
}

type ObjectId = fn(&TaskKobjIdsEntry) -> u32;

/// Kernel objects that processes share as `clone` can make them share (CLONE_VM, CLONE_FILES ...).
fn sharing(checkpoint: &Checkpoint, refusals: &mut Vec<Refusal>) {
    const KINDS: [(&str, ObjectId); 4] = [
        ("address space", |ids| ids.vm_id),
        ("descriptor table", |ids| ids.files_id),
        ("working directory", |ids| ids.fs_id),
        ("signal actions", |ids| ids.sighand_id),
    ];
    for (name, id) in KINDS {
        let mut owners: BTreeMap<u32, u32> = BTreeMap::new();
        for process in &checkpoint.processes {
            let Some(body) = &process.body else { continue };
            let owner = *owners.entry(id(&body.ids)).or_insert(process.pid);
            if owner != process.pid {
                let what = format!("{name} shared with process {owner}");
                let place = format!("ids-{}.img", process.pid);
                refusals.push(Refusal::new(RefusalKind::Shared, what, place, process.pid));
            }
        }
    }
}

fn attributes(process: &Process, body: &Body, refusals: &mut Vec<Refusal>) {
    let pid = process.pid;
    let mut refuse = |kind: RefusalKind, what: String, tid: u32| {
        refusals.push(Refusal::new(kind, what, format!("core-{tid}.img"), pid));
    };
    for thread in &body.threads {
        let mode = thread.core.seccomp_mode.unwrap_or(0);
        if mode != SeccompMode::Disabled as i32 {
            refuse(RefusalKind::Seccomp, format!("seccomp mode {mode}"), thread.tid);
        }
        let creds = thread.core.creds.as_ref();
        let profile = creds.and_then(|creds| creds.lsm_profile.as_deref());
        if let Some(profile) = profile.filter(|p| !p.is_empty() && *p != b"unconfined") {
            let name = String::from_utf8_lossy(profile);
            refuse(
                RefusalKind::SecurityProfile,
                format!("security profile \"{name}\""),
                thread.tid,
            );
        }
        if thread.regs.gpregs.cs == 0x23 {
            refuse(RefusalKind::Compat, "32-bit thread".to_owned(), thread.tid);
        }
    }
    if !body.mm.aios.is_empty() {
        let place = format!("mm-{pid}.img");
        refusals.push(Refusal::new(RefusalKind::AioRing, "asynchronous I/O rings", place, pid));
    }
}
