//! Numbers and structures of the FUSE protocol, as `linux/fuse.h` has them.
//!
//! Only what this server speaks: version 7.40 (Linux 6.9, which brought passthrough) and no request
//! that changes a file system. A test compares everything with the header of the system.

use bytemuck::{Pod, Zeroable};

/// Major version of the protocol.
pub(crate) const VERSION_MAJOR: u32 = 7;
/// The minor version that this server speaks; older kernels cannot do what it needs.
pub(crate) const VERSION_MINOR: u32 = 40;
/// Node of the root folder.
pub(crate) const ROOT_ID: u64 = 1;
/// Smallest buffer that `read` of the device accepts, in bytes.
pub(crate) const READ_BUFFER_BYTES_MIN: usize = 8192;

/// What a request asks for.
pub(crate) mod opcode {
    pub(crate) const LOOKUP: u32 = 1;
    pub(crate) const FORGET: u32 = 2;
    pub(crate) const GETATTR: u32 = 3;
    pub(crate) const SETATTR: u32 = 4;
    pub(crate) const OPEN: u32 = 14;
    pub(crate) const READ: u32 = 15;
    pub(crate) const WRITE: u32 = 16;
    pub(crate) const STATFS: u32 = 17;
    pub(crate) const RELEASE: u32 = 18;
    pub(crate) const INIT: u32 = 26;
    pub(crate) const OPENDIR: u32 = 27;
    pub(crate) const READDIR: u32 = 28;
    pub(crate) const RELEASEDIR: u32 = 29;
    pub(crate) const INTERRUPT: u32 = 36;
    pub(crate) const DESTROY: u32 = 38;
    pub(crate) const IOCTL: u32 = 39;
    pub(crate) const BATCH_FORGET: u32 = 42;
}

/// Bits of `INIT`; those from 32 on travel in the second word.
pub(crate) mod init {
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(crate) const ABORT_ERROR: u64 = 1 << 21;
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    pub(crate) const PASSTHROUGH: u64 = 1 << 37;
}

/// Bits of the reply to `OPEN`.
pub(crate) mod fopen {
    pub(crate) const DIRECT_IO: u32 = 1 << 0;
    pub(crate) const NOFLUSH: u32 = 1 << 5;
    pub(crate) const PASSTHROUGH: u32 = 1 << 7;
}

/// Which fields of [`SetattrIn`] are set.
pub(crate) mod fattr {
    pub(crate) const MODE: u32 = 1 << 0;
    pub(crate) const UID: u32 = 1 << 1;
    pub(crate) const GID: u32 = 1 << 2;
}

/// Calls on `/dev/fuse`.
pub(crate) mod device {
    /// `_IOR(229, 0, u32)`: this descriptor becomes one more of the connection that the number
    /// names.
    pub(crate) const CLONE: u32 = 0x8004_e500;
    /// `_IOW(229, 1, struct fuse_backing_map)`: makes a file known for passthrough, gives its id.
    pub(crate) const BACKING_OPEN: u32 = 0x4010_e501;
}

/// Begin of every request.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct InHeader {
    pub(crate) len: u32,
    pub(crate) opcode: u32,
    pub(crate) unique: u64,
    pub(crate) nodeid: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Thread that calls, in the pid namespace of the one who mounted; 0 if it has no number there.
    pub(crate) pid: u32,
    pub(crate) total_extlen: u16,
    pub(crate) padding: u16,
}

/// Begin of every reply.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct OutHeader {
    pub(crate) len: u32,
    /// 0 or a negative errno.
    pub(crate) error: i32,
    pub(crate) unique: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct InitIn {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: u32,
    pub(crate) flags2: u32,
    pub(crate) unused: [u32; 11],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct InitOut {
    pub(crate) major: u32,
    pub(crate) minor: u32,
    pub(crate) max_readahead: u32,
    pub(crate) flags: u32,
    pub(crate) max_background: u16,
    pub(crate) congestion_threshold: u16,
    pub(crate) max_write: u32,
    pub(crate) time_gran: u32,
    pub(crate) max_pages: u16,
    pub(crate) map_alignment: u16,
    pub(crate) flags2: u32,
    /// How deep file systems may be stacked on files of this one; for passthrough, at least 1.
    pub(crate) max_stack_depth: u32,
    pub(crate) unused: [u32; 6],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct Attr {
    pub(crate) ino: u64,
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    pub(crate) atime: u64,
    pub(crate) mtime: u64,
    pub(crate) ctime: u64,
    pub(crate) atimensec: u32,
    pub(crate) mtimensec: u32,
    pub(crate) ctimensec: u32,
    pub(crate) mode: u32,
    pub(crate) nlink: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) rdev: u32,
    pub(crate) blksize: u32,
    pub(crate) flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct EntryOut {
    pub(crate) nodeid: u64,
    pub(crate) generation: u64,
    pub(crate) entry_valid: u64,
    pub(crate) attr_valid: u64,
    pub(crate) entry_valid_nsec: u32,
    pub(crate) attr_valid_nsec: u32,
    pub(crate) attr: Attr,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct AttrOut {
    pub(crate) attr_valid: u64,
    pub(crate) attr_valid_nsec: u32,
    pub(crate) dummy: u32,
    pub(crate) attr: Attr,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct SetattrIn {
    pub(crate) valid: u32,
    pub(crate) padding: u32,
    pub(crate) fh: u64,
    pub(crate) size: u64,
    pub(crate) lock_owner: u64,
    pub(crate) atime: u64,
    pub(crate) mtime: u64,
    pub(crate) ctime: u64,
    pub(crate) atimensec: u32,
    pub(crate) mtimensec: u32,
    pub(crate) ctimensec: u32,
    pub(crate) mode: u32,
    pub(crate) unused4: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) unused5: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct OpenOut {
    pub(crate) fh: u64,
    pub(crate) open_flags: u32,
    /// With [`fopen::PASSTHROUGH`]: what [`device::BACKING_OPEN`] gave. Padding before 7.40.
    pub(crate) backing_id: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct ReleaseIn {
    pub(crate) fh: u64,
    pub(crate) flags: u32,
    pub(crate) release_flags: u32,
    pub(crate) lock_owner: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct ReadIn {
    pub(crate) fh: u64,
    pub(crate) offset: u64,
    pub(crate) size: u32,
    pub(crate) read_flags: u32,
    pub(crate) lock_owner: u64,
    pub(crate) flags: u32,
    pub(crate) padding: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct StatfsOut {
    pub(crate) blocks: u64,
    pub(crate) bfree: u64,
    pub(crate) bavail: u64,
    pub(crate) files: u64,
    pub(crate) ffree: u64,
    pub(crate) bsize: u32,
    pub(crate) namelen: u32,
    pub(crate) frsize: u32,
    pub(crate) padding: u32,
    pub(crate) spare: [u32; 6],
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct InterruptIn {
    pub(crate) unique: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct IoctlIn {
    pub(crate) fh: u64,
    pub(crate) flags: u32,
    pub(crate) cmd: u32,
    pub(crate) arg: u64,
    pub(crate) in_size: u32,
    pub(crate) out_size: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct IoctlOut {
    /// What `ioctl` returns in the caller, also if negative; the data is copied in both cases.
    pub(crate) result: i32,
    pub(crate) flags: u32,
    pub(crate) in_iovs: u32,
    pub(crate) out_iovs: u32,
}

/// Begin of an entry of a folder; the name follows, padded to 8 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct Dirent {
    pub(crate) ino: u64,
    pub(crate) off: u64,
    pub(crate) namelen: u32,
    pub(crate) kind: u32,
}

/// Argument of [`device::BACKING_OPEN`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub(crate) struct BackingMap {
    pub(crate) fd: i32,
    pub(crate) flags: u32,
    pub(crate) padding: u64,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write;
    use std::mem::{offset_of, size_of};
    use std::process::Command;

    use super::*;

    /// What our side says, by the C expression that says the same.
    struct Facts {
        ours: BTreeMap<String, u64>,
        /// Preprocessor name without which an older header lacks the expression.
        since: BTreeMap<String, &'static str>,
    }

    impl Facts {
        fn add(&mut self, expression: impl Into<String>, value: u64) {
            self.ours.insert(expression.into(), value);
        }

        fn add_since(&mut self, name: &'static str, expression: &str, value: u64) {
            self.add(expression, value);
            self.since.insert(expression.to_owned(), name);
        }
    }

    macro_rules! structure {
        ($facts:ident, $ours:ty, $theirs:literal, $($field:ident $(as $name:literal)?),*) => {
            $facts.add(concat!("sizeof(", $theirs, ")"), size_of::<$ours>() as u64);
            $(
                #[allow(unused_mut, unused_assignments)]
                let mut name = stringify!($field);
                $(name = $name;)?
                let expression = format!("offsetof({}, {name})", $theirs);
                $facts.add(expression, offset_of!($ours, $field) as u64);
            )*
        };
    }

    fn numbers(facts: &mut Facts) {
        let opcodes = [
            ("LOOKUP", opcode::LOOKUP),
            ("FORGET", opcode::FORGET),
            ("GETATTR", opcode::GETATTR),
            ("SETATTR", opcode::SETATTR),
            ("OPEN", opcode::OPEN),
            ("READ", opcode::READ),
            ("WRITE", opcode::WRITE),
            ("STATFS", opcode::STATFS),
            ("RELEASE", opcode::RELEASE),
            ("INIT", opcode::INIT),
            ("OPENDIR", opcode::OPENDIR),
            ("READDIR", opcode::READDIR),
            ("RELEASEDIR", opcode::RELEASEDIR),
            ("INTERRUPT", opcode::INTERRUPT),
            ("DESTROY", opcode::DESTROY),
            ("IOCTL", opcode::IOCTL),
            ("BATCH_FORGET", opcode::BATCH_FORGET),
        ];
        for (name, value) in opcodes {
            facts.add(format!("FUSE_{name}"), u64::from(value));
        }
        facts.add("FUSE_KERNEL_VERSION", u64::from(VERSION_MAJOR));
        facts.add("FUSE_ROOT_ID", ROOT_ID);
        facts.add("FUSE_MIN_READ_BUFFER", READ_BUFFER_BYTES_MIN as u64);
        facts.add("FUSE_PARALLEL_DIROPS", init::PARALLEL_DIROPS);
        facts.add("FUSE_ABORT_ERROR", init::ABORT_ERROR);
        facts.add("FUSE_INIT_EXT", init::INIT_EXT);
        facts.add_since("FUSE_PASSTHROUGH", "FUSE_PASSTHROUGH", init::PASSTHROUGH);
        facts.add("FOPEN_DIRECT_IO", u64::from(fopen::DIRECT_IO));
        facts.add("FOPEN_NOFLUSH", u64::from(fopen::NOFLUSH));
        let passthrough = u64::from(fopen::PASSTHROUGH);
        facts.add_since("FOPEN_PASSTHROUGH", "FOPEN_PASSTHROUGH", passthrough);
        facts.add("FATTR_MODE", u64::from(fattr::MODE));
        facts.add("FATTR_UID", u64::from(fattr::UID));
        facts.add("FATTR_GID", u64::from(fattr::GID));
        facts.add("FUSE_DEV_IOC_CLONE", u64::from(device::CLONE));
        let name = "FUSE_DEV_IOC_BACKING_OPEN";
        facts.add_since(name, name, u64::from(device::BACKING_OPEN));
    }

    fn structures(facts: &mut Facts) {
        structure!(
            facts,
            InHeader,
            "struct fuse_in_header",
            len,
            opcode,
            unique,
            nodeid,
            uid,
            gid,
            pid,
            total_extlen
        );
        structure!(facts, OutHeader, "struct fuse_out_header", len, error, unique);
        structure!(
            facts,
            InitIn,
            "struct fuse_init_in",
            major,
            minor,
            max_readahead,
            flags,
            flags2
        );
        structure!(
            facts,
            InitOut,
            "struct fuse_init_out",
            major,
            minor,
            max_readahead,
            flags,
            max_background,
            congestion_threshold,
            max_write,
            time_gran,
            max_pages,
            map_alignment,
            flags2
        );
        let depth = offset_of!(InitOut, max_stack_depth) as u64;
        let expression = "offsetof(struct fuse_init_out, max_stack_depth)";
        facts.add_since("FUSE_PASSTHROUGH", expression, depth);
        structure!(
            facts,
            Attr,
            "struct fuse_attr",
            ino,
            size,
            blocks,
            atime,
            mtime,
            ctime,
            atimensec,
            mtimensec,
            ctimensec,
            mode,
            nlink,
            uid,
            gid,
            rdev,
            blksize,
            flags
        );
        structure!(
            facts,
            EntryOut,
            "struct fuse_entry_out",
            nodeid,
            generation,
            entry_valid,
            attr_valid,
            entry_valid_nsec,
            attr_valid_nsec,
            attr
        );
        structure!(facts, AttrOut, "struct fuse_attr_out", attr_valid, attr_valid_nsec, attr);
        structure!(
            facts,
            SetattrIn,
            "struct fuse_setattr_in",
            valid,
            fh,
            size,
            lock_owner,
            atime,
            mtime,
            ctime,
            atimensec,
            mtimensec,
            ctimensec,
            mode,
            uid,
            gid
        );
        structure!(facts, OpenOut, "struct fuse_open_out", fh, open_flags);
        let id = offset_of!(OpenOut, backing_id) as u64;
        facts.add_since("FUSE_PASSTHROUGH", "offsetof(struct fuse_open_out, backing_id)", id);
        structure!(
            facts,
            ReleaseIn,
            "struct fuse_release_in",
            fh,
            flags,
            release_flags,
            lock_owner
        );
        structure!(
            facts,
            ReadIn,
            "struct fuse_read_in",
            fh,
            offset,
            size,
            read_flags,
            lock_owner,
            flags
        );
        structure!(
            facts,
            StatfsOut,
            "struct fuse_kstatfs",
            blocks,
            bfree,
            bavail,
            files,
            ffree,
            bsize,
            namelen,
            frsize
        );
        facts.add("sizeof(struct fuse_statfs_out)", size_of::<StatfsOut>() as u64);
        structure!(facts, InterruptIn, "struct fuse_interrupt_in", unique);
        structure!(facts, IoctlIn, "struct fuse_ioctl_in", fh, flags, cmd, arg, in_size, out_size);
        structure!(facts, IoctlOut, "struct fuse_ioctl_out", result, flags, in_iovs, out_iovs);
        structure!(facts, Dirent, "struct fuse_dirent", ino, off, namelen, kind as "type");
        let expression = "sizeof(struct fuse_backing_map)";
        let size = size_of::<BackingMap>() as u64;
        facts.add_since("FUSE_DEV_IOC_BACKING_OPEN", expression, size);
    }

    #[test]
    fn numbers_and_structures_are_those_of_the_header() {
        let mut facts = Facts { ours: BTreeMap::new(), since: BTreeMap::new() };
        numbers(&mut facts);
        structures(&mut facts);
        let mut probe = String::from(
            "#include <stddef.h>\n#include <stdio.h>\n#include <sys/ioctl.h>\n\
             #include <linux/fuse.h>\nint main(void) {\n",
        );
        for expression in facts.ours.keys() {
            let since = facts.since.get(expression);
            let print = format!(
                "printf(\"%s=%llu\\n\", \"{expression}\", (unsigned long long)({expression}));"
            );
            let (begin, end) = match since {
                Some(name) => (format!("#ifdef {name}\n"), "#endif\n"),
                None => (String::new(), ""),
            };
            write!(probe, "{begin}{print}\n{end}").expect("a string takes all");
        }
        probe.push_str("return 0; }\n");
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (source, program) = (dir.path().join("probe.c"), dir.path().join("probe"));
        std::fs::write(&source, probe).expect("a file of ours");
        let compiled = Command::new("cc").arg("-o").arg(&program).arg(&source).status();
        let test = "numbers_and_structures_are_those_of_the_header";
        match compiled {
            Ok(status) => assert!(status.success(), "the probe compiles: {status}"),
            Err(error) => return println!("SKIPPED {test}: no C compiler ({error})"),
        }
        let output = Command::new(&program).output().expect("the probe runs");
        let text = String::from_utf8(output.stdout).expect("it prints ASCII");
        let theirs: BTreeMap<String, u64> = text
            .lines()
            .filter_map(|line| line.rsplit_once('='))
            .map(|(name, value)| (name.to_owned(), value.parse().expect("a number")))
            .collect();
        for (expression, value) in &facts.ours {
            match theirs.get(expression) {
                Some(theirs) => assert_eq!(value, theirs, "{expression}"),
                None if facts.since.contains_key(expression) => {
                    println!("SKIPPED {expression}: this header is older");
                }
                None => panic!("the probe said nothing of {expression}"),
            }
        }
    }
}
