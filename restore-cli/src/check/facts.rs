//! What a host is like, as values: what was read and tried, without a judgement.
//!
//! Judging and showing take these, so that every lack can be tested on a machine that has it all.

use nix::errno::Errno;
use restore_core::Probes;

/// Everything that is asked of a host.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// `uname -r`.
    pub(crate) release: String,
    pub(crate) proc: Proc,
    /// Effective capabilities, a bit for each.
    pub(crate) capabilities: u64,
    /// Whether capabilities count only within a user namespace.
    pub(crate) in_user_namespace: bool,
    /// Whether a seccomp filter is on thaw.
    pub(crate) filtered: bool,
    /// `kernel.yama.ptrace_scope`, where there is Yama.
    pub(crate) ptrace_scope: Option<u32>,
    pub(crate) probes: Probes,
    /// Whether the scheduler tells when a task last ran (`/proc/<pid>/sched`).
    pub(crate) has_sched: bool,
    /// `/sys/kernel/mm/transparent_hugepage/enabled`.
    pub(crate) huge_pages: Option<String>,
    pub(crate) has_vdso: bool,
    /// Whether thaw's own control group can be frozen (version 2).
    pub(crate) has_freezer: bool,
    pub(crate) fuse: Device,
    pub(crate) kfd: Kfd,
    pub(crate) gpus: Result<Vec<Gpu>, String>,
    /// GPUs that a device control group hides.
    pub(crate) gpus_hidden: usize,
}

/// What `/proc` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proc {
    /// That of this pid namespace.
    Own,
    /// That of another one: ids in it mean other processes.
    Foreign,
    Missing,
}

/// A device file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Opens,
    Refuses(Errno),
    Missing,
}

/// `/dev/kfd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kfd {
    /// It opens and has this version of its interface.
    Version(u32, u32),
    Refuses(String),
    Missing,
}

/// A GPU as sysfs and the driver tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Gpu {
    pub(crate) id: u32,
    /// Instruction set, such as `gfx90a`, or the name of the chip.
    pub(crate) model: String,
    pub(crate) pci: String,
    pub(crate) minor: u32,
    pub(crate) render: Device,
    pub(crate) vram_bytes: u64,
    /// As the driver says, else as sysfs; none if neither does.
    pub(crate) free_bytes: Option<u64>,
}

impl Facts {
    /// Major and minor number of the kernel.
    pub(crate) fn version(&self) -> (u32, u32) {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
        (next(), next())
    }

    pub(crate) fn has(&self, capability: Capability) -> bool {
        self.capabilities >> capability.0 & 1 != 0
    }
}

/// A capability by its number (linux/capability.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capability(pub(crate) u32, pub(crate) &'static str);

pub(crate) const CHOWN: Capability = Capability(0, "CAP_CHOWN");
pub(crate) const DAC_OVERRIDE: Capability = Capability(1, "CAP_DAC_OVERRIDE");
pub(crate) const FOWNER: Capability = Capability(3, "CAP_FOWNER");
pub(crate) const KILL: Capability = Capability(5, "CAP_KILL");
pub(crate) const SETGID: Capability = Capability(6, "CAP_SETGID");
pub(crate) const SETUID: Capability = Capability(7, "CAP_SETUID");
pub(crate) const SETPCAP: Capability = Capability(8, "CAP_SETPCAP");
pub(crate) const IPC_LOCK: Capability = Capability(14, "CAP_IPC_LOCK");
pub(crate) const SYS_CHROOT: Capability = Capability(18, "CAP_SYS_CHROOT");
pub(crate) const SYS_PTRACE: Capability = Capability(19, "CAP_SYS_PTRACE");
pub(crate) const SYS_ADMIN: Capability = Capability(21, "CAP_SYS_ADMIN");
pub(crate) const SYS_NICE: Capability = Capability(23, "CAP_SYS_NICE");
pub(crate) const SYS_RESOURCE: Capability = Capability(24, "CAP_SYS_RESOURCE");
pub(crate) const AUDIT_CONTROL: Capability = Capability(30, "CAP_AUDIT_CONTROL");
pub(crate) const CHECKPOINT_RESTORE: Capability = Capability(40, "CAP_CHECKPOINT_RESTORE");

#[cfg(test)]
pub(crate) mod example {
    use super::{Device, Facts, Gpu, Kfd, Proc};
    use restore_core::Probes;

    /// A host that has everything, and a GPU.
    pub(crate) fn host() -> Facts {
        Facts {
            release: "6.18.5-amd64".to_owned(),
            proc: Proc::Own,
            capabilities: (1 << 41) - 1,
            in_user_namespace: false,
            filtered: false,
            ptrace_scope: Some(1),
            probes: Probes {
                choose_id: Ok(()),
                set_layout: Ok(()),
                write_memory: Ok(()),
                read_memory: Ok(()),
                scan_pages: Ok(()),
                compare: Ok(()),
                fetch_descriptor: Ok(()),
                open_mapped: Ok(()),
                trace: Ok(()),
                rseq: Ok(()),
            },
            has_sched: true,
            huge_pages: Some("madvise".to_owned()),
            has_vdso: true,
            has_freezer: true,
            fuse: Device::Opens,
            kfd: Kfd::Version(1, 17),
            gpus: Ok(vec![gpu()]),
            gpus_hidden: 0,
        }
    }

    pub(crate) fn gpu() -> Gpu {
        Gpu {
            id: 0x1267,
            model: "gfx90a".to_owned(),
            pci: "0000:c1:00.0".to_owned(),
            minor: 128,
            render: Device::Opens,
            vram_bytes: 64 << 30,
            free_bytes: Some(60 << 30),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SYS_ADMIN, example};

    #[test]
    fn versions_and_capabilities_are_understood() {
        let mut host = example::host();
        assert_eq!((host.version(), host.has(SYS_ADMIN)), ((6, 18), true));
        (host.release, host.capabilities) = ("5.4".to_owned(), !(1 << 21));
        assert_eq!((host.version(), host.has(SYS_ADMIN)), ((5, 4), false));
        host.release = "strange".to_owned();
        assert_eq!(host.version(), (0, 0));
    }
}
