//! Codes of what a check finds and no library has an error for: each with what it means and what
//! helps.
//!
//! What a library finds has the library's code. All are listed in docs/errors.md, by a program that
//! reads this table.

use crate::codes::ErrorCode;

pub(super) const CODES: &[ErrorCode] = &[
    ErrorCode {
        code: "host.kernel",
        meaning: "The kernel lacks something that is needed.",
        help: "use a newer kernel, or one that is built with the option that is named",
    },
    ErrorCode {
        code: "host.capability",
        meaning: "A capability is missing.",
        help: "run thaw as root, or give it the capability that is named",
    },
    ErrorCode {
        code: "host.proc-mount",
        meaning: "/proc is not mounted, or is that of another pid namespace.",
        help: "mount it for this pid namespace: mount -t proc proc /proc",
    },
    ErrorCode {
        code: "host.tracing",
        meaning: "Processes cannot be traced here.",
        help: "let ptrace through: sysctl kernel.yama.ptrace_scope=1, or another seccomp profile",
    },
    ErrorCode {
        code: "host.seccomp",
        meaning: "A seccomp filter is on thaw, and would be on every process that it restores.",
        help: "run it without, as with --security-opt seccomp=unconfined of a container",
    },
    ErrorCode {
        code: "host.gpu-driver",
        meaning: "/dev/kfd is not there or cannot be opened.",
        help: "load the amdgpu driver (modprobe amdgpu), or give the container /dev/kfd",
    },
    ErrorCode {
        code: "host.gpu-version",
        meaning: "The compute driver cannot save and restore processes.",
        help: "use Linux 5.18 or later, or a newer amdgpu driver",
    },
    ErrorCode {
        code: "host.gpu-topology",
        meaning: "The list of GPUs in sysfs cannot be read, or hides some.",
        help: "mount sysfs, and give the container all GPUs that it is to use",
    },
    ErrorCode {
        code: "host.render-node",
        meaning: "The render node of a GPU is not there or cannot be opened.",
        help: "give the container its /dev/dri/renderD..., or join the group that owns it",
    },
    ErrorCode {
        code: "host.fuse",
        meaning: "/dev/fuse is not there or cannot be opened.",
        help: "load the fuse module (modprobe fuse), or give the container /dev/fuse",
    },
    ErrorCode {
        code: "host.group-memory",
        meaning: "The control group of thaw may not use enough memory.",
        help: "raise memory.max of the group that is named, or restore outside it",
    },
    ErrorCode {
        code: "host.vram",
        meaning: "A GPU has not enough free memory.",
        help: "end what uses the GPU, or choose another one with --gpu-map",
    },
    ErrorCode {
        code: "host.gpu-memory",
        meaning: "How much memory of a GPU is free cannot be found out.",
        help: "look with rocm-smi --showmeminfo vram",
    },
    ErrorCode {
        code: "host.descriptors",
        meaning: "Fewer files may be open than the tree has.",
        help: "raise the limit: ulimit -Hn, or LimitNOFILE= of the service",
    },
    ErrorCode {
        code: "host.memory",
        meaning: "This host has not enough free memory.",
        help: "free memory, or add swap",
    },
];

pub(super) const KERNEL: ErrorCode = CODES[0];
pub(super) const PRIVILEGE: ErrorCode = CODES[1];
pub(super) const PROC: ErrorCode = CODES[2];
pub(super) const TRACING: ErrorCode = CODES[3];
pub(super) const SECCOMP: ErrorCode = CODES[4];
pub(super) const GPU_DRIVER: ErrorCode = CODES[5];
pub(super) const GPU_VERSION: ErrorCode = CODES[6];
pub(super) const GPU_TOPOLOGY: ErrorCode = CODES[7];
pub(super) const RENDER_NODE: ErrorCode = CODES[8];
pub(super) const FUSE: ErrorCode = CODES[9];
pub(super) const GROUP_MEMORY: ErrorCode = CODES[10];
pub(super) const VRAM: ErrorCode = CODES[11];
pub(super) const GPU_MEMORY: ErrorCode = CODES[12];
pub(super) const DESCRIPTORS: ErrorCode = CODES[13];
pub(super) const MEMORY: ErrorCode = CODES[14];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{CODES, DESCRIPTORS, FUSE, KERNEL, PRIVILEGE, VRAM};

    #[test]
    fn codes_are_in_an_area_and_unique() {
        let codes: BTreeSet<&str> = CODES.iter().map(|known| known.code).collect();
        assert_eq!(codes.len(), CODES.len());
        for known in CODES {
            assert!(known.code.starts_with("host."), "{known:?}");
            assert!(known.meaning.ends_with('.') && !known.help.ends_with('.'), "{known:?}");
        }
    }

    #[test]
    fn names_are_those_of_their_entries() {
        let named = [KERNEL, PRIVILEGE, FUSE, VRAM, DESCRIPTORS].map(|known| known.code);
        let codes =
            ["host.kernel", "host.capability", "host.fuse", "host.vram", "host.descriptors"];
        assert_eq!(named, codes);
    }
}
