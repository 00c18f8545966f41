//! The kinds of image files: how each is named, and the magic number it begins with.
//!
//! A name decides the kind before anything is read; nothing is guessed from contents. The
//! numbers are those of CRIU 4.2 (`magic.h`, `image-desc.c`, the plugin's file names).

use std::ffi::OsStr;

/// What follows the kind in a file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Naming {
    /// `<kind>.img`
    None,
    /// `<kind>-<decimal>.img`
    Decimal,
    /// `<kind>-<hexadecimal>.img`
    Hex,
    /// `<kind>` and anything, `.img`
    Any,
    /// `<kind>-<decimal>.tar.gz.img`
    Tar,
    /// `<kind>`
    Service,
}

struct Row {
    kind: ImageKind,
    name: &'static str,
    naming: Naming,
    magic: u32,
    what: &'static str,
}

/// A kind of image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageKind {
    /// `inventory`: inventory.
    Inventory,
    /// `pstree`: process tree.
    Pstree,
    /// `core`: task state.
    Core,
    /// `ids`: kernel object ids.
    Ids,
    /// `mm`: address space.
    Mm,
    /// `fs`: working directory and root.
    Fs,
    /// `fdinfo`: descriptor table.
    Fdinfo,
    /// `files`: open files.
    Files,
    /// `pagemap`: memory map of a process.
    Pagemap,
    /// `pagemap-shmem`: memory map of shared memory.
    ShmemPagemap,
    /// `pages`: memory contents.
    Pages,
    /// `remap-fpath`: paths that are gone.
    RemapFpath,
    /// `ghost-file`: deleted file.
    GhostFile,
    /// `memfd`: memory file.
    MemfdInode,
    /// `pipes-data`: pipe contents.
    PipesData,
    /// `fifo-data`: fifo contents.
    FifoData,
    /// `seccomp`: seccomp filters.
    Seccomp,
    /// `timens`: time namespace.
    Timens,
    /// `pidns`: pid namespace.
    Pidns,
    /// `cgroup`: control groups.
    Cgroup,
    /// `filelocks`: file locks.
    FileLocks,
    /// `tty-info`: terminals.
    TtyInfo,
    /// `tty-data`: terminal contents.
    TtyData,
    /// `sk-queues`: socket queues.
    SkQueues,
    /// `tcp-stream`: TCP connection.
    TcpStream,
    /// `utsns`: UTS namespace.
    Utsns,
    /// `ipcns-var`: IPC namespace settings.
    IpcVar,
    /// `ipcns-shm`: System V shared memory.
    IpcShm,
    /// `ipcns-msg`: System V message queues.
    IpcMsg,
    /// `ipcns-sem`: System V semaphores.
    IpcSem,
    /// `mountpoints`: mounts.
    Mountpoints,
    /// `netdev`: network devices.
    Netdev,
    /// `netns`: network namespace.
    Netns,
    /// `userns`: user namespace.
    Userns,
    /// `cpuinfo`: processor.
    Cpuinfo,
    /// `apparmor`: AppArmor profiles.
    Apparmor,
    /// `bpfmap-file`: BPF map.
    BpfmapFile,
    /// `bpfmap-data`: BPF map contents.
    BpfmapData,
    /// `binfmt-misc`: binary formats.
    BinfmtMisc,
    /// `autofs`: automounter.
    Autofs,
    /// `pidfd`: pidfds.
    Pidfd,
    /// `inotify-wd`: inotify watches.
    InotifyWd,
    /// `fanotify-mark`: fanotify marks.
    FanotifyMark,
    /// `ifaddr`: network addresses.
    Ifaddr,
    /// `route`: routes.
    Route,
    /// `route6`: IPv6 routes.
    Route6,
    /// `rule`: routing rules.
    Rule,
    /// `iptables`: iptables rules.
    Iptables,
    /// `ip6tables`: ip6tables rules.
    Ip6tables,
    /// `nftables`: nftables rules.
    Nftables,
    /// `netns-ct`: connection tracking.
    NetnsCt,
    /// `netns-exp`: connection expectations.
    NetnsExp,
    /// `amdgpu-kfd`: AMD KFD state.
    AmdgpuKfd,
    /// `amdgpu-renderD`: AMD render node state.
    AmdgpuRender,
    /// `amdgpu-pages`: AMD buffer contents.
    AmdgpuPages,
    /// `amdgpu-drm-pages`: AMD render-node buffer contents.
    AmdgpuDrmPages,
    /// `amdgpu-dmabuf`: AMD shared buffer.
    AmdgpuDmabuf,
    /// `tmpfs`: tmpfs contents.
    TmpfsTar,
    /// `tmpfs-dev`: devtmpfs contents.
    TmpfsDevTar,
    /// `stats-dump`: dump statistics.
    StatsDump,
    /// `stats-restore`: restore statistics.
    StatsRestore,
    /// `irmap-cache`: inode cache.
    IrmapCache,
}

use ImageKind as K;

/// In the order of [`ImageKind`]; magic 0 is a raw image.
#[rustfmt::skip]
static ROWS: [Row; 62] = [
    Row { kind: K::Inventory, name: "inventory", naming: Naming::None, magic: 0x5831_3116, what: "inventory" },
    Row { kind: K::Pstree, name: "pstree", naming: Naming::None, magic: 0x5027_3030, what: "process tree" },
    Row { kind: K::Core, name: "core", naming: Naming::Decimal, magic: 0x5505_3847, what: "task state" },
    Row { kind: K::Ids, name: "ids", naming: Naming::Decimal, magic: 0x5443_2030, what: "kernel object ids" },
    Row { kind: K::Mm, name: "mm", naming: Naming::Decimal, magic: 0x5749_2820, what: "address space" },
    Row { kind: K::Fs, name: "fs", naming: Naming::Decimal, magic: 0x5140_3912, what: "working directory and root" },
    Row { kind: K::Fdinfo, name: "fdinfo", naming: Naming::Decimal, magic: 0x5621_3732, what: "descriptor table" },
    Row { kind: K::Files, name: "files", naming: Naming::None, magic: 0x5630_3138, what: "open files" },
    Row { kind: K::Pagemap, name: "pagemap", naming: Naming::Decimal, magic: 0x5608_4025, what: "memory map of a process" },
    Row { kind: K::ShmemPagemap, name: "pagemap-shmem", naming: Naming::Decimal, magic: 0x5608_4025, what: "memory map of shared memory" },
    Row { kind: K::Pages, name: "pages", naming: Naming::Decimal, magic: 0, what: "memory contents" },
    Row { kind: K::RemapFpath, name: "remap-fpath", naming: Naming::None, magic: 0x5913_3954, what: "paths that are gone" },
    Row { kind: K::GhostFile, name: "ghost-file", naming: Naming::Hex, magic: 0x5258_3605, what: "deleted file" },
    Row { kind: K::MemfdInode, name: "memfd", naming: Naming::None, magic: 0x4845_3499, what: "memory file" },
    Row { kind: K::PipesData, name: "pipes-data", naming: Naming::None, magic: 0x5645_3709, what: "pipe contents" },
    Row { kind: K::FifoData, name: "fifo-data", naming: Naming::None, magic: 0x5933_3054, what: "fifo contents" },
    Row { kind: K::Seccomp, name: "seccomp", naming: Naming::None, magic: 0x6441_3049, what: "seccomp filters" },
    Row { kind: K::Timens, name: "timens", naming: Naming::Decimal, magic: 0x4311_4433, what: "time namespace" },
    Row { kind: K::Pidns, name: "pidns", naming: Naming::Decimal, magic: 0x6115_7326, what: "pid namespace" },
    Row { kind: K::Cgroup, name: "cgroup", naming: Naming::None, magic: 0x5938_3330, what: "control groups" },
    Row { kind: K::FileLocks, name: "filelocks", naming: Naming::None, magic: 0x5432_3616, what: "file locks" },
    Row { kind: K::TtyInfo, name: "tty-info", naming: Naming::None, magic: 0x5945_3036, what: "terminals" },
    Row { kind: K::TtyData, name: "tty-data", naming: Naming::None, magic: 0x5941_3026, what: "terminal contents" },
    Row { kind: K::SkQueues, name: "sk-queues", naming: Naming::None, magic: 0x5626_4026, what: "socket queues" },
    Row { kind: K::TcpStream, name: "tcp-stream", naming: Naming::Hex, magic: 0x5146_5506, what: "TCP connection" },
    Row { kind: K::Utsns, name: "utsns", naming: Naming::Decimal, magic: 0x5447_3203, what: "UTS namespace" },
    Row { kind: K::IpcVar, name: "ipcns-var", naming: Naming::Decimal, magic: 0x5311_5007, what: "IPC namespace settings" },
    Row { kind: K::IpcShm, name: "ipcns-shm", naming: Naming::Decimal, magic: 0x4628_3044, what: "System V shared memory" },
    Row { kind: K::IpcMsg, name: "ipcns-msg", naming: Naming::Decimal, magic: 0x5545_3737, what: "System V message queues" },
    Row { kind: K::IpcSem, name: "ipcns-sem", naming: Naming::Decimal, magic: 0x5957_3019, what: "System V semaphores" },
    Row { kind: K::Mountpoints, name: "mountpoints", naming: Naming::Decimal, magic: 0x5556_3928, what: "mounts" },
    Row { kind: K::Netdev, name: "netdev", naming: Naming::Decimal, magic: 0x5737_3951, what: "network devices" },
    Row { kind: K::Netns, name: "netns", naming: Naming::Decimal, magic: 0x5593_3752, what: "network namespace" },
    Row { kind: K::Userns, name: "userns", naming: Naming::Decimal, magic: 0x5547_4906, what: "user namespace" },
    Row { kind: K::Cpuinfo, name: "cpuinfo", naming: Naming::None, magic: 0x6140_4013, what: "processor" },
    Row { kind: K::Apparmor, name: "apparmor", naming: Naming::None, magic: 0x5942_3047, what: "AppArmor profiles" },
    Row { kind: K::BpfmapFile, name: "bpfmap-file", naming: Naming::None, magic: 0x5750_6142, what: "BPF map" },
    Row { kind: K::BpfmapData, name: "bpfmap-data", naming: Naming::None, magic: 0x6432_4033, what: "BPF map contents" },
    Row { kind: K::BinfmtMisc, name: "binfmt-misc", naming: Naming::None, magic: 0x6734_3323, what: "binary formats" },
    Row { kind: K::Autofs, name: "autofs", naming: Naming::Decimal, magic: 0x4935_3943, what: "automounter" },
    Row { kind: K::Pidfd, name: "pidfd", naming: Naming::None, magic: 0x5443_5556, what: "pidfds" },
    Row { kind: K::InotifyWd, name: "inotify-wd", naming: Naming::None, magic: 0x5456_2009, what: "inotify watches" },
    Row { kind: K::FanotifyMark, name: "fanotify-mark", naming: Naming::None, magic: 0x5650_6035, what: "fanotify marks" },
    Row { kind: K::Ifaddr, name: "ifaddr", naming: Naming::Decimal, magic: 0, what: "network addresses" },
    Row { kind: K::Route, name: "route", naming: Naming::Decimal, magic: 0, what: "routes" },
    Row { kind: K::Route6, name: "route6", naming: Naming::Decimal, magic: 0, what: "IPv6 routes" },
    Row { kind: K::Rule, name: "rule", naming: Naming::Decimal, magic: 0, what: "routing rules" },
    Row { kind: K::Iptables, name: "iptables", naming: Naming::Decimal, magic: 0, what: "iptables rules" },
    Row { kind: K::Ip6tables, name: "ip6tables", naming: Naming::Decimal, magic: 0, what: "ip6tables rules" },
    Row { kind: K::Nftables, name: "nftables", naming: Naming::Decimal, magic: 0, what: "nftables rules" },
    Row { kind: K::NetnsCt, name: "netns-ct", naming: Naming::Decimal, magic: 0, what: "connection tracking" },
    Row { kind: K::NetnsExp, name: "netns-exp", naming: Naming::Decimal, magic: 0, what: "connection expectations" },
    Row { kind: K::AmdgpuKfd, name: "amdgpu-kfd", naming: Naming::Decimal, magic: 0, what: "AMD KFD state" },
    Row { kind: K::AmdgpuRender, name: "amdgpu-renderD", naming: Naming::Decimal, magic: 0, what: "AMD render node state" },
    Row { kind: K::AmdgpuPages, name: "amdgpu-pages", naming: Naming::Any, magic: 0, what: "AMD buffer contents" },
    Row { kind: K::AmdgpuDrmPages, name: "amdgpu-drm-pages", naming: Naming::Any, magic: 0, what: "AMD render-node buffer contents" },
    Row { kind: K::AmdgpuDmabuf, name: "amdgpu-dmabuf", naming: Naming::Any, magic: 0, what: "AMD shared buffer" },
    Row { kind: K::TmpfsTar, name: "tmpfs", naming: Naming::Tar, magic: 0, what: "tmpfs contents" },
    Row { kind: K::TmpfsDevTar, name: "tmpfs-dev", naming: Naming::Tar, magic: 0, what: "devtmpfs contents" },
    Row { kind: K::StatsDump, name: "stats-dump", naming: Naming::Service, magic: 0x5709_3306, what: "dump statistics" },
    Row { kind: K::StatsRestore, name: "stats-restore", naming: Naming::Service, magic: 0x5709_3306, what: "restore statistics" },
    Row { kind: K::IrmapCache, name: "irmap-cache", naming: Naming::Service, magic: 0x5700_4059, what: "inode cache" },
];

impl ImageKind {
    /// The kind that a file of this name is, and the number in its name.
    pub fn of_name(name: &OsStr) -> Option<(Self, Option<u64>)> {
        let name = name.to_str()?;
        ROWS.iter().find_map(|row| Some((row.kind, row.id_of(name)?)))
    }

    fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// Whether the file has neither magic numbers nor records.
    pub fn is_raw(self) -> bool {
        self.row().magic == 0
    }

    /// The number that names the kind inside the file; 0 for raw images.
    pub fn magic(self) -> u32 {
        self.row().magic
    }

    /// What the image holds, in a few words.
    pub fn describe(self) -> &'static str {
        self.row().what
    }

    /// Name of the file of this kind with this number (which is ignored where names have none).
    pub fn file_name(self, id: u64) -> String {
        let row = self.row();
        match row.naming {
            Naming::None | Naming::Any => format!("{}.img", row.name),
            Naming::Decimal => format!("{}-{id}.img", row.name),
            Naming::Hex => format!("{}-{id:x}.img", row.name),
            Naming::Tar => format!("{}-{id}.tar.gz.img", row.name),
            Naming::Service => row.name.to_owned(),
        }
    }
}

impl Row {
    /// `Some` if the name is of this kind; within, its number if names of this kind have one.
    fn id_of(&self, name: &str) -> Option<Option<u64>> {
        let rest = name.strip_prefix(self.name)?;
        if self.naming == Naming::Service {
            return rest.is_empty().then_some(None);
        }
        let rest = rest.strip_suffix(".img")?;
        let number = |radix, digits: &str| {
            let plain = !digits.is_empty() && !digits.starts_with('+');
            plain.then(|| u64::from_str_radix(digits, radix).ok()).flatten()
        };
        match self.naming {
            Naming::None => rest.is_empty().then_some(None),
            Naming::Decimal => number(10, rest.strip_prefix('-')?).map(Some),
            Naming::Hex => number(16, rest.strip_prefix('-')?).map(Some),
            Naming::Tar => number(10, rest.strip_prefix('-')?.strip_suffix(".tar.gz")?).map(Some),
            Naming::Any => rest.starts_with(['-', '_']).then_some(None),
            Naming::Service => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::{ImageKind, ROWS};

    fn check(name: &str, expected: Option<(ImageKind, Option<u64>)>) {
        assert_eq!(ImageKind::of_name(OsStr::new(name)), expected, "{name}");
    }

    #[test]
    fn rows_stand_in_the_order_of_the_kinds() {
        for (index, row) in ROWS.iter().enumerate() {
            assert_eq!(row.kind as usize, index, "{}", row.name);
        }
    }

    #[test]
    fn names_decide_the_kind() {
        check("core-66.img", Some((ImageKind::Core, Some(66))));
        check("pagemap-66.img", Some((ImageKind::Pagemap, Some(66))));
        check("pagemap-shmem-7.img", Some((ImageKind::ShmemPagemap, Some(7))));
        check("ghost-file-1f.img", Some((ImageKind::GhostFile, Some(0x1f))));
        check("pages-1.img", Some((ImageKind::Pages, Some(1))));
        check("amdgpu-pages-19-5a01.img", Some((ImageKind::AmdgpuPages, None)));
        check("stats-dump", Some((ImageKind::StatsDump, None)));
        check("inventory.img", Some((ImageKind::Inventory, None)));
    }

    #[test]
    fn unknown_names_have_no_kind() {
        for name in ["core-.img", "core-6x.img", "core-+6.img", "inventory-1.img", "dump.log"] {
            check(name, None);
        }
    }
}
