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

const fn row(
    kind: ImageKind,
    name: &'static str,
    naming: Naming,
    magic: u32,
    what: &'static str,
) -> Row {
    Row { kind, name, naming, magic, what }
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
    /// `thaw-gpu`: GPU state of a tree as one; ours.
    ThawGpu,
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
static ROWS: [Row; 63] = [
    row(K::Inventory, "inventory", Naming::None, 0x5831_3116, "inventory"),
    row(K::Pstree, "pstree", Naming::None, 0x5027_3030, "process tree"),
    row(K::Core, "core", Naming::Decimal, 0x5505_3847, "task state"),
    row(K::Ids, "ids", Naming::Decimal, 0x5443_2030, "kernel object ids"),
    row(K::Mm, "mm", Naming::Decimal, 0x5749_2820, "address space"),
    row(K::Fs, "fs", Naming::Decimal, 0x5140_3912, "working directory and root"),
    row(K::Fdinfo, "fdinfo", Naming::Decimal, 0x5621_3732, "descriptor table"),
    row(K::Files, "files", Naming::None, 0x5630_3138, "open files"),
    row(K::Pagemap, "pagemap", Naming::Decimal, 0x5608_4025, "memory map of a process"),
    row(
        K::ShmemPagemap,
        "pagemap-shmem",
        Naming::Decimal,
        0x5608_4025,
        "memory map of shared memory",
    ),
    row(K::Pages, "pages", Naming::Decimal, 0, "memory contents"),
    row(K::RemapFpath, "remap-fpath", Naming::None, 0x5913_3954, "paths that are gone"),
    row(K::GhostFile, "ghost-file", Naming::Hex, 0x5258_3605, "deleted file"),
    row(K::MemfdInode, "memfd", Naming::None, 0x4845_3499, "memory file"),
    row(K::PipesData, "pipes-data", Naming::None, 0x5645_3709, "pipe contents"),
    row(K::FifoData, "fifo-data", Naming::None, 0x5933_3054, "fifo contents"),
    row(K::Seccomp, "seccomp", Naming::None, 0x6441_3049, "seccomp filters"),
    row(K::Timens, "timens", Naming::Decimal, 0x4311_4433, "time namespace"),
    row(K::Pidns, "pidns", Naming::Decimal, 0x6115_7326, "pid namespace"),
    row(K::Cgroup, "cgroup", Naming::None, 0x5938_3330, "control groups"),
    row(K::FileLocks, "filelocks", Naming::None, 0x5432_3616, "file locks"),
    row(K::TtyInfo, "tty-info", Naming::None, 0x5945_3036, "terminals"),
    row(K::TtyData, "tty-data", Naming::None, 0x5941_3026, "terminal contents"),
    row(K::SkQueues, "sk-queues", Naming::None, 0x5626_4026, "socket queues"),
    row(K::TcpStream, "tcp-stream", Naming::Hex, 0x5146_5506, "TCP connection"),
    row(K::Utsns, "utsns", Naming::Decimal, 0x5447_3203, "UTS namespace"),
    row(K::IpcVar, "ipcns-var", Naming::Decimal, 0x5311_5007, "IPC namespace settings"),
    row(K::IpcShm, "ipcns-shm", Naming::Decimal, 0x4628_3044, "System V shared memory"),
    row(K::IpcMsg, "ipcns-msg", Naming::Decimal, 0x5545_3737, "System V message queues"),
    row(K::IpcSem, "ipcns-sem", Naming::Decimal, 0x5957_3019, "System V semaphores"),
    row(K::Mountpoints, "mountpoints", Naming::Decimal, 0x5556_3928, "mounts"),
    row(K::Netdev, "netdev", Naming::Decimal, 0x5737_3951, "network devices"),
    row(K::Netns, "netns", Naming::Decimal, 0x5593_3752, "network namespace"),
    row(K::Userns, "userns", Naming::Decimal, 0x5547_4906, "user namespace"),
    row(K::Cpuinfo, "cpuinfo", Naming::None, 0x6140_4013, "processor"),
    row(K::Apparmor, "apparmor", Naming::None, 0x5942_3047, "AppArmor profiles"),
    row(K::BpfmapFile, "bpfmap-file", Naming::None, 0x5750_6142, "BPF map"),
    row(K::BpfmapData, "bpfmap-data", Naming::None, 0x6432_4033, "BPF map contents"),
    row(K::BinfmtMisc, "binfmt-misc", Naming::None, 0x6734_3323, "binary formats"),
    row(K::Autofs, "autofs", Naming::Decimal, 0x4935_3943, "automounter"),
    row(K::Pidfd, "pidfd", Naming::None, 0x5443_5556, "pidfds"),
    row(K::InotifyWd, "inotify-wd", Naming::None, 0x5456_2009, "inotify watches"),
    row(K::FanotifyMark, "fanotify-mark", Naming::None, 0x5650_6035, "fanotify marks"),
    row(K::Ifaddr, "ifaddr", Naming::Decimal, 0, "network addresses"),
    row(K::Route, "route", Naming::Decimal, 0, "routes"),
    row(K::Route6, "route6", Naming::Decimal, 0, "IPv6 routes"),
    row(K::Rule, "rule", Naming::Decimal, 0, "routing rules"),
    row(K::Iptables, "iptables", Naming::Decimal, 0, "iptables rules"),
    row(K::Ip6tables, "ip6tables", Naming::Decimal, 0, "ip6tables rules"),
    row(K::Nftables, "nftables", Naming::Decimal, 0, "nftables rules"),
    row(K::NetnsCt, "netns-ct", Naming::Decimal, 0, "connection tracking"),
    row(K::NetnsExp, "netns-exp", Naming::Decimal, 0, "connection expectations"),
    row(K::AmdgpuKfd, "amdgpu-kfd", Naming::Decimal, 0, "AMD KFD state"),
    row(K::AmdgpuRender, "amdgpu-renderD", Naming::Decimal, 0, "AMD render node state"),
    row(K::AmdgpuPages, "amdgpu-pages", Naming::Any, 0, "AMD buffer contents"),
    row(K::AmdgpuDrmPages, "amdgpu-drm-pages", Naming::Any, 0, "AMD render-node buffer contents"),
    row(K::AmdgpuDmabuf, "amdgpu-dmabuf", Naming::Any, 0, "AMD shared buffer"),
    row(K::ThawGpu, "thaw-gpu", Naming::None, 0x5448_4757, "GPU state of a tree"),
    row(K::TmpfsTar, "tmpfs", Naming::Tar, 0, "tmpfs contents"),
    row(K::TmpfsDevTar, "tmpfs-dev", Naming::Tar, 0, "devtmpfs contents"),
    row(K::StatsDump, "stats-dump", Naming::Service, 0x5709_3306, "dump statistics"),
    row(K::StatsRestore, "stats-restore", Naming::Service, 0x5709_3306, "restore statistics"),
    row(K::IrmapCache, "irmap-cache", Naming::Service, 0x5700_4059, "inode cache"),
];

/// Stems of images that CRIU 4.2 still reads but no longer writes: what they held moved into
/// `files.img`, `core-*.img` and `mm-*.img`.
static SUPERSEDED: [&str; 28] = [
    "binfmt-misc",
    "creds",
    "eventfd",
    "eventpoll",
    "eventpoll-tfd",
    "ext-files",
    "fanotify",
    "fifo",
    "inetsk",
    "inotify",
    "itimers",
    "netlinksk",
    "ns-files",
    "packetsk",
    "pages-shmem",
    "pipes",
    "posix-timers",
    "reg-files",
    "rlimit",
    "sigacts",
    "signal-p",
    "signal-s",
    "signalfd",
    "timerfd",
    "tty",
    "tunfile",
    "unixsk",
    "vmas",
];

/// Whether the name is that of an image that only older versions of CRIU wrote.
pub(crate) fn is_superseded(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".img") else { return false };
    let number = stem.rsplit_once('-').filter(|(_, number)| number.parse::<u64>().is_ok());
    SUPERSEDED.contains(&number.map_or(stem, |(stem, _)| stem))
}

impl ImageKind {
    /// Every kind.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.iter().map(|row| row.kind)
    }

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
            // One number has one name, or two files could claim to be the same image.
            let plain = digits == "0"
                || !digits.starts_with(['0', '+']) && !digits.contains(|c: char| c.is_uppercase());
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

    #[test]
    fn one_number_has_one_name() {
        for name in ["core-066.img", "core-00.img", "ghost-file-1F.img", "pagemap-shmem-07.img"] {
            check(name, None);
        }
        check("timens-0.img", Some((ImageKind::Timens, Some(0))));
    }

    #[test]
    fn names_and_kinds_lead_to_each_other() {
        for row in ROWS.iter().filter(|row| row.naming != super::Naming::Any) {
            let (kind, id) = ImageKind::of_name(OsStr::new(&row.kind.file_name(0x1f)))
                .unwrap_or_else(|| panic!("{} has a name", row.name));
            assert_eq!((kind, id.unwrap_or(0x1f)), (row.kind, 0x1f));
        }
    }

    #[test]
    fn images_of_older_versions_are_recognised() {
        for name in ["vmas-66.img", "reg-files.img", "signal-s-7.img", "pages-shmem-9.img"] {
            check(name, None);
            assert!(super::is_superseded(name), "{name}");
        }
        for name in ["what.img", "fifo-data.img", "vmas-66", "core-1.img"] {
            assert!(!super::is_superseded(name), "{name}");
        }
    }
}
