//! What an image of each magic number consists of: its name in JSON, its head, its records, and
//! the data between them.
//!
//! Names and numbers are those of CRIU 4.2 (`magic.h`); what follows a record is in the files that
//! write it (`pipes.c`, `sk-queue.c`, `soccr`, `ipc_ns.c`, `bpfmap.c`, `files-reg.c`).

use crate::kind::ImageKind;
use crate::schema::message_index;

/// `IMG_COMMON_MAGIC` of CRIU: begins nearly every image.
pub(crate) const COMMON_MAGIC: u32 = 0x5456_4319;
/// `IMG_SERVICE_MAGIC` of CRIU.
pub(crate) const SERVICE_MAGIC: u32 = 0x5510_5940;

/// An image's structure after its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Records of one message, each followed by this data.
    Records(usize, Data),
    /// A head, then entries.
    Pagemap,
    /// One record, then either the contents or chunks with theirs.
    Ghost,
    /// Bytes to the end: the structure is CRIU's own memory.
    Opaque,
    /// One record with its length in 64 bits, no magic number.
    Gpu(usize),
    /// A length in 64 bits that may be wrong, then contents.
    GpuPages,
}

/// What follows each record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Data {
    None,
    Pipe,
    Packet,
    Tcp,
    Map,
    Semaphores,
    Segment,
    Messages,
}

/// A kind of image as its magic number says it.
#[derive(Debug)]
pub(crate) struct Format {
    /// Name in JSON.
    pub(crate) name: &'static str,
    /// 0 for the files of the amdgpu plugin.
    pub(crate) magic: u32,
    pub(crate) layout: Layout,
}

const fn plain(name: &'static str, magic: u32, message: &str) -> Format {
    with(name, magic, message, Data::None)
}

const fn with(name: &'static str, magic: u32, message: &str, data: Data) -> Format {
    Format { name, magic, layout: Layout::Records(message_index(message), data) }
}

const fn other(name: &'static str, magic: u32, layout: Layout) -> Format {
    Format { name, magic, layout }
}

/// `AMDGPU_*` names are ours: the plugin's files have no magic number, so no other tool has any.
static FORMATS: [Format; 75] = [
    plain("INVENTORY", 0x5831_3116, "InventoryEntry"),
    plain("PSTREE", 0x5027_3030, "PstreeEntry"),
    plain("FDINFO", 0x5621_3732, "FdinfoEntry"),
    other("PAGEMAP", 0x5608_4025, Layout::Pagemap),
    plain("CORE", 0x5505_3847, "CoreEntry"),
    plain("IDS", 0x5443_2030, "TaskKobjIdsEntry"),
    plain("VMAS", 0x5412_3737, "VmaEntry"),
    plain("PIPES", 0x5651_3555, "PipeEntry"),
    with("PIPES_DATA", 0x5645_3709, "PipeDataEntry", Data::Pipe),
    plain("FIFO", 0x5836_4939, "FifoEntry"),
    with("FIFO_DATA", 0x5933_3054, "PipeDataEntry", Data::Pipe),
    plain("SIGACT", 0x5534_4201, "SaEntry"),
    plain("UNIXSK", 0x5437_3943, "UnixSkEntry"),
    plain("INETSK", 0x5644_3851, "InetSkEntry"),
    plain("PACKETSK", 0x6045_4618, "PacketSockEntry"),
    plain("ITIMERS", 0x5746_4056, "ItimerEntry"),
    plain("POSIX_TIMERS", 0x5260_3957, "PosixTimerEntry"),
    with("SK_QUEUES", 0x5626_4026, "SkPacketEntry", Data::Packet),
    plain("UTSNS", 0x5447_3203, "UtsnsEntry"),
    plain("CREDS", 0x5402_3547, "CredsEntry"),
    plain("IPC_VAR", 0x5311_5007, "IpcVarEntry"),
    with("IPCNS_SHM", 0x4628_3044, "IpcShmEntry", Data::Segment),
    with("IPCNS_MSG", 0x5545_3737, "IpcMsgEntry", Data::Messages),
    with("IPCNS_SEM", 0x5957_3019, "IpcSemEntry", Data::Semaphores),
    plain("REG_FILES", 0x5036_3636, "RegFileEntry"),
    plain("EXT_FILES", 0x5925_5641, "ExtFileEntry"),
    plain("FS", 0x5140_3912, "FsEntry"),
    plain("MM", 0x5749_2820, "MmEntry"),
    plain("REMAP_FPATH", 0x5913_3954, "RemapFilePathEntry"),
    other("GHOST_FILE", 0x5258_3605, Layout::Ghost),
    with("TCP_STREAM", 0x5146_5506, "TcpStreamEntry", Data::Tcp),
    plain("EVENTFD_FILE", 0x4452_3722, "EventfdFileEntry"),
    plain("EVENTPOLL_FILE", 0x4502_3858, "EventpollFileEntry"),
    plain("EVENTPOLL_TFD", 0x4443_3746, "EventpollTfdEntry"),
    plain("SIGNALFD", 0x5732_3820, "SignalfdEntry"),
    plain("INOTIFY_FILE", 0x4842_4431, "InotifyFileEntry"),
    plain("INOTIFY_WD", 0x5456_2009, "InotifyWdEntry"),
    plain("MNTS", 0x5556_3928, "MntEntry"),
    plain("NETDEV", 0x5737_3951, "NetDeviceEntry"),
    plain("NETNS", 0x5593_3752, "NetnsEntry"),
    plain("TTY_FILES", 0x5943_3025, "TtyFileEntry"),
    plain("TTY_INFO", 0x5945_3036, "TtyInfoEntry"),
    plain("TTY_DATA", 0x5941_3026, "TtyDataEntry"),
    plain("FILE_LOCKS", 0x5432_3616, "FileLockEntry"),
    plain("RLIMIT", 0x5711_3925, "RlimitEntry"),
    plain("FANOTIFY_FILE", 0x5509_6122, "FanotifyFileEntry"),
    plain("FANOTIFY_MARK", 0x5650_6035, "FanotifyMarkEntry"),
    plain("SIGNAL", 0x5925_5647, "SiginfoEntry"),
    plain("NETLINK_SK", 0x5800_5614, "NetlinkSkEntry"),
    plain("NS_FILES", 0x6139_4011, "NsFileEntry"),
    plain("TUNFILE", 0x5714_3751, "TunfileEntry"),
    plain("CGROUP", 0x5938_3330, "CgroupEntry"),
    plain("TIMERFD", 0x5049_3712, "TimerfdEntry"),
    plain("CPUINFO", 0x6140_4013, "CpuinfoEntry"),
    plain("USERNS", 0x5547_4906, "UsernsEntry"),
    plain("SECCOMP", 0x6441_3049, "SeccompEntry"),
    plain("BINFMT_MISC", 0x6734_3323, "BinfmtMiscEntry"),
    plain("AUTOFS", 0x4935_3943, "AutofsEntry"),
    plain("FILES", 0x5630_3138, "FileEntry"),
    plain("MEMFD_INODE", 0x4845_3499, "MemfdInodeEntry"),
    plain("TIMENS", 0x4311_4433, "TimensEntry"),
    plain("PIDNS", 0x6115_7326, "PidnsEntry"),
    plain("BPFMAP_FILE", 0x5750_6142, "BpfmapFileEntry"),
    with("BPFMAP_DATA", 0x6432_4033, "BpfmapDataEntry", Data::Map),
    plain("APPARMOR", 0x5942_3047, "ApparmorEntry"),
    plain("PIDFD", 0x5443_5556, "PidfdEntry"),
    plain("STATS", 0x5709_3306, "StatsEntry"),
    plain("IRMAP_CACHE", 0x5700_4059, "IrmapCacheEntry"),
    plain("THAW_GPU", 0x5448_4757, "ThawGpuEntry"),
    other("KDAT", 0x5702_3458, Layout::Opaque),
    other("AMDGPU_KFD", 0, Layout::Gpu(message_index("CriuKfd"))),
    other("AMDGPU_RENDER_NODE", 0, Layout::Gpu(message_index("CriuRenderNode"))),
    other("AMDGPU_DMABUF", 0, Layout::Gpu(message_index("CriuDmabufNode"))),
    other("AMDGPU_PAGES", 0, Layout::GpuPages),
    other("AMDGPU_DRM_PAGES", 0, Layout::GpuPages),
];

impl Format {
    /// The format that this number begins.
    pub(crate) fn of_magic(magic: u32) -> Option<&'static Self> {
        FORMATS.iter().find(|format| format.magic == magic && magic != 0)
    }

    /// The format with this name in JSON.
    pub(crate) fn of_name(name: &[u8]) -> Option<&'static Self> {
        FORMATS.iter().find(|format| format.name.as_bytes() == name)
    }

    /// The format of a kind of file; raw images have none.
    pub(crate) fn of_kind(kind: ImageKind) -> Option<&'static Self> {
        let name: &[u8] = match kind {
            ImageKind::AmdgpuKfd => b"AMDGPU_KFD",
            ImageKind::AmdgpuRender => b"AMDGPU_RENDER_NODE",
            ImageKind::AmdgpuDmabuf => b"AMDGPU_DMABUF",
            ImageKind::AmdgpuPages => b"AMDGPU_PAGES",
            ImageKind::AmdgpuDrmPages => b"AMDGPU_DRM_PAGES",
            other => return Self::of_magic(other.magic()),
        };
        Self::of_name(name)
    }

    /// The number before the magic number.
    pub(crate) fn family(&self) -> Option<u32> {
        match self.name {
            "INVENTORY" | "KDAT" => None,
            "STATS" | "IRMAP_CACHE" => Some(SERVICE_MAGIC),
            _ => Some(COMMON_MAGIC),
        }
    }

    /// Whether the file begins with a length instead of magic numbers.
    pub(crate) fn is_gpu(&self) -> bool {
        matches!(self.layout, Layout::Gpu(_) | Layout::GpuPages)
    }

    /// Message of the record with this index, counted from 0; `None` if there are no records.
    pub(crate) fn message(&self, index: u64) -> Option<usize> {
        const HEAD: usize = message_index("PagemapHead");
        const ENTRY: usize = message_index("PagemapEntry");
        const GHOST: usize = message_index("GhostFileEntry");
        const CHUNK: usize = message_index("GhostChunkEntry");
        match self.layout {
            Layout::Records(message, _) | Layout::Gpu(message) => Some(message),
            Layout::Pagemap => Some([HEAD, ENTRY][usize::from(index > 0)]),
            Layout::Ghost => Some([GHOST, CHUNK][usize::from(index > 0)]),
            Layout::Opaque | Layout::GpuPages => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FORMATS, Format, Layout};
    use crate::kind::ImageKind;

    #[test]
    fn names_and_numbers_are_unique() {
        for format in &FORMATS {
            let found = Format::of_name(format.name.as_bytes()).expect("it is there");
            assert!(std::ptr::eq(found, format), "{}", format.name);
            if !format.is_gpu() {
                let found = Format::of_magic(format.magic).expect("it has a number");
                assert!(std::ptr::eq(found, format), "{}", format.name);
            }
        }
        assert!(Format::of_magic(0).is_none());
    }

    /// 65 that crit reads, and the four that it knows by number only.
    #[test]
    fn every_magic_number_of_criu_4_2_is_known() {
        let ours = |format: &&Format| format.name == "THAW_GPU";
        let theirs = FORMATS.iter().filter(|format| !format.is_gpu() && !ours(format));
        assert_eq!(theirs.count(), 65 + 4);
        for name in ["PIDFD", "SIGNAL", "KDAT", "BINFMT_MISC"] {
            assert!(Format::of_name(name.as_bytes()).is_some(), "{name}");
        }
    }

    #[test]
    fn every_kind_with_records_has_a_format() {
        let with = ImageKind::all().filter(|&kind| Format::of_kind(kind).is_some());
        let raw = ImageKind::all().filter(|kind| kind.magic() == 0);
        // Five of those without a number are the plugin's.
        assert_eq!(with.count(), ImageKind::all().count() - raw.count() + 5);
    }

    #[test]
    fn first_record_of_a_pagemap_is_its_head() {
        let pagemap = Format::of_name(b"PAGEMAP").expect("it is there");
        assert_eq!(pagemap.layout, Layout::Pagemap);
        assert_ne!(pagemap.message(0), pagemap.message(1));
        assert_eq!(pagemap.message(1), pagemap.message(2));
    }
}
