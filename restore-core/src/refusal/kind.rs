//! Kinds of things that are not captured or not restored, each with its code.
//!
//! A kind is what an operator or a program can act on, wherever it was found: the same for a dump,
//! which sees the process, and a restore, which sees the images.

/// What kind of thing stands against a dump or a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// A unix socket.
    UnixSocket,
    /// A TCP, UDP or other internet socket.
    InternetSocket,
    /// A packet socket, or a mapping of one.
    PacketSocket,
    /// A netlink socket.
    NetlinkSocket,
    /// A socket of another family.
    Socket,
    /// A file lock or lease.
    FileLock,
    /// A terminal.
    Terminal,
    /// An inotify instance.
    Inotify,
    /// A fanotify instance.
    Fanotify,
    /// An open namespace.
    NamespaceFile,
    /// A tun or tap device.
    TunDevice,
    /// A BPF map or program.
    Bpf,
    /// An io_uring instance.
    IoUring,
    /// A kernel object without a name in the file system, open or mapped, of a kind that is not
    /// known.
    KernelObject,
    /// A file that a plugin of CRIU other than AMD's has saved.
    PluginFile,
    /// A file of a kind that is not known.
    UnknownFile,
    /// A block device.
    BlockDevice,
    /// A character device that may have state which no path brings back.
    Device,
    /// A file that has no path in the mount namespace of the dump, or whose path cannot be looked
    /// up.
    NoPath,
    /// A file that the dump has left to its caller (`--external`).
    ExternalFile,
    /// An entry of `/proc` of a thread, descriptor or mapping, which is not there yet when files
    /// are opened.
    ThreadProcEntry,
    /// An entry of `/proc` of a process that has gone.
    DeadProcEntry,
    /// A program, directory or mapping in `/proc` of the tree itself, which has to be there before
    /// it is.
    ProcOfTree,
    /// A directory that is no longer where it was when it was opened.
    MovedDirectory,
    /// A file that has another name than when it was opened.
    RenamedFile,
    /// A file that has another name by now, in a directory that has gone.
    LostDirectory,
    /// A deleted file that is larger than may be saved.
    LargeGhost,
    /// A file, pipe or memory file whose contents or owner cannot be read.
    UnreadableFile,
    /// A pipe with packets in it (O_DIRECT).
    PacketPipe,
    /// An event counter that is a semaphore: images have no place for that.
    SemaphoreCounter,
    /// An epoll instance that watches a descriptor which is closed, or watches one twice.
    EpollWatch,
    /// A pidfd of a thread, or of a process outside the tree.
    StrangePidfd,
    /// A file whose signals go to a process outside the tree.
    StrangeOwner,
    /// A file that the images name and do not describe.
    Undescribed,
    /// A mapping of a file of a kind that is not mapped.
    MappedKind,
    /// System V shared memory.
    SysvMemory,
    /// Asynchronous I/O rings (io_setup).
    AioRing,
    /// A shadow stack.
    ShadowStack,
    /// A uprobe in the program.
    Uprobes,
    /// Memory under userfaultfd.
    Userfaultfd,
    /// A mapping of a device that is no GPU's.
    DeviceMapping,
    /// Memory with advice that is not known.
    MemoryAdvice,
    /// A process in a namespace of its own.
    Namespace,
    /// A tree whose control groups the dump has recorded.
    ControlGroups,
    /// A thread with seccomp filters.
    Seccomp,
    /// A thread with a security profile (AppArmor, SELinux).
    SecurityProfile,
    /// A 32-bit thread.
    Compat,
    /// A thread with deadline scheduling.
    Deadline,
    /// A thread that has a descriptor table, root or working directory apart from its process.
    ThreadTable,
    /// Processes that share an address space, descriptors, places or signal actions.
    Shared,
    /// A pending SIGTRAP, which a restore by criu would take for one of its own.
    PendingTrap,
    /// An image of a kind that is not restored, such as network or System V IPC.
    Image,
    /// Images of GPUs that contradict each other or leave something out.
    GpuUndescribed,
    /// A render node or GPU of the dump that this host has not.
    GpuAbsent,
    /// A GPU buffer whose contents are not among the images.
    GpuContents,
    /// One buffer that the compute driver has for two processes, or twice: it would restore two
    /// separate ones.
    GpuSharedBuffer,
    /// A GPU buffer or dma-buf that nothing in the tree has made.
    GpuForeignBuffer,
    /// A mapping of a dma-buf.
    GpuDmabufMapping,
    /// A mapping of a GPU's device file that shows no buffer of the process.
    GpuMapping,
    /// Events or ranges of the compute driver in a process without a buffer, of which the driver
    /// restores none.
    GpuObjects,
    /// An open `/dev/kfd` of a process outside the tree, or of one that has closed it.
    GpuForeignFile,
    /// A render node whose buffers this kernel cannot list.
    GpuKernel,
    /// A buffer of a render node that cannot be exported: memory of a process, or bound to one
    /// address space.
    GpuUnexportable,
}

impl RefusalKind {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(self) -> &'static str {
        match self {
            Self::UnixSocket => "unsupported.unix-socket",
            Self::InternetSocket => "unsupported.internet-socket",
            Self::PacketSocket => "unsupported.packet-socket",
            Self::NetlinkSocket => "unsupported.netlink-socket",
            Self::Socket => "unsupported.socket",
            Self::FileLock => "unsupported.file-lock",
            Self::Terminal => "unsupported.terminal",
            Self::Inotify => "unsupported.inotify",
            Self::Fanotify => "unsupported.fanotify",
            Self::NamespaceFile => "unsupported.namespace-file",
            Self::TunDevice => "unsupported.tun-device",
            Self::Bpf => "unsupported.bpf",
            Self::IoUring => "unsupported.io-uring",
            Self::KernelObject => "unsupported.kernel-object",
            Self::PluginFile => "unsupported.plugin-file",
            Self::UnknownFile => "unsupported.unknown-file",
            Self::BlockDevice => "unsupported.block-device",
            Self::Device => "unsupported.device",
            Self::NoPath => "unsupported.no-path",
            Self::ExternalFile => "unsupported.external-file",
            Self::ThreadProcEntry => "unsupported.thread-proc-entry",
            Self::DeadProcEntry => "unsupported.dead-proc-entry",
            Self::ProcOfTree => "unsupported.proc-of-tree",
            Self::MovedDirectory => "unsupported.moved-directory",
            Self::RenamedFile => "unsupported.renamed-file",
            Self::LostDirectory => "unsupported.lost-directory",
            Self::LargeGhost => "unsupported.large-deleted-file",
            Self::UnreadableFile => "unsupported.unreadable-file",
            Self::PacketPipe => "unsupported.packet-pipe",
            Self::SemaphoreCounter => "unsupported.semaphore-eventfd",
            Self::EpollWatch => "unsupported.epoll-watch",
            Self::StrangePidfd => "unsupported.pidfd",
            Self::StrangeOwner => "unsupported.signal-owner",
            Self::Undescribed => "unsupported.undescribed-file",
            Self::MappedKind => "unsupported.mapped-file",
            Self::SysvMemory => "unsupported.sysv-memory",
            Self::AioRing => "unsupported.aio-ring",
            Self::ShadowStack => "unsupported.shadow-stack",
            Self::Uprobes => "unsupported.uprobes",
            Self::Userfaultfd => "unsupported.userfaultfd",
            Self::DeviceMapping => "unsupported.device-mapping",
            Self::MemoryAdvice => "unsupported.memory-advice",
            Self::Namespace => "unsupported.namespace",
            Self::ControlGroups => "unsupported.control-groups",
            Self::Seccomp => "unsupported.seccomp",
            Self::SecurityProfile => "unsupported.security-profile",
            Self::Compat => "unsupported.32-bit",
            Self::Deadline => "unsupported.deadline-scheduling",
            Self::ThreadTable => "unsupported.thread-table",
            Self::Shared => "unsupported.shared-object",
            Self::PendingTrap => "unsupported.pending-sigtrap",
            Self::Image => "unsupported.image",
            Self::GpuUndescribed => "unsupported.gpu-images",
            Self::GpuAbsent => "unsupported.gpu-absent",
            Self::GpuContents => "unsupported.gpu-contents",
            Self::GpuSharedBuffer => "unsupported.gpu-shared-buffer",
            Self::GpuForeignBuffer => "unsupported.gpu-foreign-buffer",
            Self::GpuDmabufMapping => "unsupported.gpu-dmabuf-mapping",
            Self::GpuMapping => "unsupported.gpu-mapping",
            Self::GpuObjects => "unsupported.gpu-objects",
            Self::GpuForeignFile => "unsupported.gpu-foreign-file",
            Self::GpuKernel => "unsupported.gpu-kernel",
            Self::GpuUnexportable => "unsupported.gpu-unexportable",
        }
    }

    /// What can be done about it. A [`Refusal`](super::Refusal) may know something better.
    pub fn help(self) -> &'static str {
        match self {
            Self::UnixSocket
            | Self::InternetSocket
            | Self::PacketSocket
            | Self::NetlinkSocket
            | Self::Socket
            | Self::Inotify
            | Self::Fanotify
            | Self::NamespaceFile
            | Self::TunDevice
            | Self::Bpf
            | Self::IoUring
            | Self::KernelObject
            | Self::UnknownFile
            | Self::BlockDevice
            | Self::Device
            | Self::ThreadProcEntry
            | Self::DeadProcEntry
            | Self::LostDirectory
            | Self::StrangePidfd => "close it before the dump, or use criu",
            Self::FileLock => "have the program release it before the dump",
            Self::Terminal => "start the program without one (setsid, < /dev/null)",
            Self::PluginFile => "its plugin must restore it: use criu",
            Self::NoPath => "dump from the mount namespace of the tree",
            Self::ExternalFile => "restore the checkpoint with criu, which can inherit it",
            Self::ProcOfTree => "have the program leave it before the dump",
            Self::MovedDirectory => "put it back, or have the program open it again",
            Self::RenamedFile => "allow a link beside it with --link-remap",
            Self::LargeGhost => "raise --ghost-limit",
            Self::UnreadableFile => "run as root, and see why the kernel refuses",
            Self::PacketPipe => "have the program read them",
            Self::SemaphoreCounter => "use a plain counter",
            Self::EpollWatch => "have the program remove watches before it closes files",
            Self::StrangeOwner => "have the program take the owner away (F_SETOWN)",
            Self::Undescribed | Self::GpuUndescribed => {
                "use the files of one dump only, or dump again"
            }
            Self::MappedKind => "have the program unmap it before the dump",
            Self::SysvMemory | Self::Userfaultfd | Self::DeviceMapping => {
                "have the program release it before the dump, or use criu"
            }
            Self::AioRing => "have the program destroy them before the dump, or use criu",
            Self::ShadowStack => "run the program without (GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK)",
            Self::Uprobes => "remove the probe before the dump",
            Self::MemoryAdvice => "use a thaw that knows the kernel of the dump",
            Self::Namespace => "dump it from inside, or with criu",
            Self::ControlGroups => {
                "use --manage-cgroups=ignore: the tree will be in the caller's groups"
            }
            Self::Seccomp | Self::Compat | Self::Shared | Self::Image => "use criu",
            Self::SecurityProfile => "run the program without a profile, or use criu",
            Self::Deadline => "give it another scheduling policy",
            Self::ThreadTable => "have its threads share it",
            Self::PendingTrap => "continue the program until it has taken it",
            Self::GpuAbsent => "restore where it is, or let the container have it",
            Self::GpuContents => "copy the directory again, or dump again",
            Self::GpuSharedBuffer => "dump when it is not shared",
            Self::GpuForeignBuffer => "dump the process that exported it in the same tree",
            Self::GpuDmabufMapping => "have the program map the buffer itself",
            Self::GpuMapping => "keep the device open and the buffer allocated while it is mapped",
            Self::GpuObjects => "have the program destroy them before the dump",
            Self::GpuForeignFile => "dump the tree of the process that opened it, or close it",
            Self::GpuKernel => "use Linux 6.18 or newer",
            Self::GpuUnexportable => "have the program free it before the dump",
        }
    }
}
