//! Looks at this host: what is read and tried becomes [`Facts`]. It changes nothing.
//!
//! Opening `/dev/kfd` makes the driver keep state for thaw itself, which goes with it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use gpu_kfd::{DeviceKind, KFD_PATH, KfdFd, Topology};
use nix::errno::Errno;
use restore_core::{Host, Probes};

use super::facts::{Device, Facts, Gpu, Kfd, Proc};

/// All facts about this host. There must be one thread only.
pub(crate) fn facts() -> Facts {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(|value| value.trim().to_owned()).unwrap_or_default()
    };
    let (kfd, gpus, gpus_hidden) = gpus();
    Facts {
        release: nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        proc: proc(),
        capabilities: u64::from_str_radix(&field("CapEff"), 16).unwrap_or(0),
        in_user_namespace: in_user_namespace(),
        filtered: field("Seccomp") == "2",
        ptrace_scope: read("/proc/sys/kernel/yama/ptrace_scope").and_then(|text| text.parse().ok()),
        probes: Probes::run(),
        has_sched: read("/proc/self/sched").is_some_and(|text| text.contains("se.exec_start")),
        huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled").map(|text| chosen(&text)),
        has_vdso: Host::probe().is_ok_and(|host| host.vdso.is_some()),
        has_freezer: has_freezer(),
        fuse: device(Path::new("/dev/fuse")),
        kfd,
        gpus,
        gpus_hidden,
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Of `always [madvise] never`, what is in brackets.
fn chosen(text: &str) -> String {
    let inner = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inner.map_or(text, |(chosen, _)| chosen).to_owned()
}

fn proc() -> Proc {
    match fs::read_link("/proc/self") {
        Ok(link) if link.as_os_str() == OsStr::new(&std::process::id().to_string()) => Proc::Own,
        Ok(_) => Proc::Foreign,
        Err(_) => Proc::Missing,
    }
}

/// The first one maps all ids to themselves.
fn in_user_namespace() -> bool {
    let map = read("/proc/self/uid_map").unwrap_or_default();
    let words: Vec<&str> = map.split_whitespace().collect();
    !words.is_empty() && words != ["0", "0", "4294967295"]
}

/// The root of the hierarchy cannot be frozen; a tree that is in it is stopped otherwise.
fn has_freezer() -> bool {
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    group.is_some_and(|group| {
        let path = Path::new("/sys/fs/cgroup").join(group);
        path.join("cgroup.freeze").exists() || path.join("cgroup.controllers").exists()
    })
}

fn device(path: &Path) -> Device {
    let opened = File::options().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path);
    match opened.map_err(|error| error.raw_os_error().map(Errno::from_raw)) {
        Ok(_) => Device::Opens,
        Err(Some(Errno::ENOENT | Errno::ENOTDIR)) => Device::Missing,
        Err(errno) => Device::Refuses(errno.unwrap_or(Errno::EIO)),
    }
}

type Gpus = (Kfd, Result<Vec<Gpu>, String>, usize);

fn gpus() -> Gpus {
    let topology = match Topology::read_without_caches(Topology::SYSFS) {
        Ok(topology) => topology,
        Err(error) => {
            let (kfd, _) = kfd();
            return (kfd, Err(crate::log::chain(&error)), 0);
        }
    };
    let (kfd, mut open) = kfd();
    let gpu = |(id, node): (gpu_kfd::HostGpuId, &gpu_kfd::Node)| {
        let minor = node.properties.drm_render_minor;
        let free_bytes = open.as_mut().and_then(|kfd| kfd.available_memory(id.0).ok());
        Gpu {
            id: id.0,
            model: node.isa().map_or_else(|| node.name.clone(), |isa| isa.to_string()),
            pci: node.pci_address().map(|pci| pci.to_string()).unwrap_or_default(),
            minor,
            render: render(minor),
            vram_bytes: node.vram().map_or(0, |bank| bank.size_in_bytes),
            free_bytes: free_bytes.or_else(|| free_of_sysfs(minor)),
        }
    };
    let gpus = topology.gpus().map(gpu).collect();
    (kfd, Ok(gpus), topology.hidden.len())
}

fn kfd() -> (Kfd, Option<KfdFd>) {
    if !Path::new(KFD_PATH).exists() {
        return (Kfd::Missing, None);
    }
    let opened = KfdFd::open().and_then(|mut kfd| kfd.version().map(|version| (version, kfd)));
    match opened {
        Ok(((major, minor), kfd)) => (Kfd::Version(major, minor), Some(kfd)),
        Err(error) => (Kfd::Refuses(crate::log::chain(&error)), None),
    }
}

fn render(minor: u32) -> Device {
    let path = format!("/dev/dri/renderD{minor}");
    let found = device(Path::new(&path));
    // What opens must be a render node, or the match with this minor means nothing.
    let is_render = |file: File| {
        use std::os::fd::AsFd;
        matches!(DeviceKind::of(file.as_fd()), Ok(Some(DeviceKind::Render { .. })))
    };
    match found {
        Device::Opens if !File::open(&path).is_ok_and(is_render) => Device::Refuses(Errno::ENODEV),
        found => found,
    }
}

/// Before `AVAILABLE_MEMORY` of the driver (Linux 6.0), and where `/dev/kfd` does not open.
fn free_of_sysfs(minor: u32) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        read(&format!("/sys/class/drm/renderD{minor}/device/{name}"))?.parse().ok()
    };
    Some(number("mem_info_vram_total")?.saturating_sub(number("mem_info_vram_used")?))
}

#[cfg(test)]
mod tests {
    use super::{chosen, facts};
    use crate::check::facts::Proc;

    #[test]
    fn this_host_is_understood() {
        let facts = facts();
        assert!(facts.version() > (3, 0), "{facts:?}");
        assert_eq!(facts.proc, Proc::Own);
        assert!(facts.gpus.is_ok(), "{facts:?}");
    }

    #[test]
    fn what_is_chosen_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never"), "madvise");
        assert_eq!(chosen("always"), "always");
    }
}
