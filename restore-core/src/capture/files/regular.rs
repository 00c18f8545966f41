//! Files with a path: regular ones, directories, devices, `/proc` entries, symbolic links.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use criu_image::record::{FdTypes, FileEntry, FownEntry, RegFileEntry};
use nix::errno::Errno;
use nix::sys::stat::{FileStat, lstat, stat};

use super::super::facts::{Descriptor, Held};
use super::super::raw;
use super::{FileTable, No, S_IFMT, of_type, owner};
use crate::refusal::RefusalKind;

const DELETED: &[u8] = b" (deleted)";
/// Major number of `/dev/null` and its kin, which have no state.
const MEMORY_DEVICES: u64 = 1;
/// Major numbers of terminals (devices.txt of Linux).
const TERMINALS: [std::ops::RangeInclusive<u64>; 2] = [4..=5, 136..=143];
/// Type of the `/proc` file system (linux/magic.h).
const PROC_SUPER_MAGIC: i64 = 0x9fa0;

/// Whether a path still leads to its file.
pub(super) enum Path {
    /// It does.
    Plain(Vec<u8>),
    /// It did; the file has no name any more.
    Deleted(Vec<u8>),
    /// It did; the file has another name.
    Linked(Vec<u8>),
}

/// Refuses devices that may have state which no path brings back.
pub(super) fn check_device(held: &Held) -> Result<(), No> {
    let major = libc::major(held.stat.st_rdev).into();
    if held.stat.st_mode & S_IFMT == libc::S_IFBLK {
        return Err(No::because(RefusalKind::BlockDevice, "block device"));
    }
    match major {
        MEMORY_DEVICES => Ok(()),
        _ if TERMINALS.iter().any(|range| range.contains(&major)) => {
            Err(No::because(RefusalKind::Terminal, "terminal"))
        }
        _ => {
            let what = format!("device {major}:{}", libc::minor(held.stat.st_rdev));
            Err(No::because(RefusalKind::Device, what))
        }
    }
}

/// The entry of a descriptor.
pub(super) fn entry(
    table: &mut FileTable<'_>,
    id: u32,
    descriptor: &Descriptor,
) -> Result<FileEntry, No> {
    let flags = descriptor.info.file_flags();
    let mut reg = of_path(table, id, &descriptor.held, flags)?;
    reg.pos = descriptor.info.pos;
    reg.fown = owner::of(descriptor)?;
    Ok(FileEntry { reg: Some(reg), ..of_type(FdTypes::Reg, id) })
}

/// The entry of what is mapped, run or stood in.
pub(super) fn place_entry(
    table: &mut FileTable<'_>,
    id: u32,
    held: &Held,
) -> Result<FileEntry, No> {
    let reg = of_path(table, id, held, libc::O_RDONLY as u32)?;
    Ok(FileEntry { reg: Some(reg), ..of_type(FdTypes::Reg, id) })
}

fn of_path(
    table: &mut FileTable<'_>,
    id: u32,
    held: &Held,
    flags: u32,
) -> Result<RegFileEntry, No> {
    let name = match path_of(held)? {
        Path::Plain(name) => name,
        Path::Deleted(name) => {
            table.remaps.ghost(id, held, table.options)?;
            name
        }
        Path::Linked(name) => {
            table.remaps.link(id, held, &name, flags, table.options)?;
            name
        }
    };
    Ok(describe(id, held, flags, name))
}

/// Upstream compares size and mode at restore; a log that is only appended to may have grown.
pub(super) fn describe(id: u32, held: &Held, flags: u32, name: Vec<u8>) -> RegFileEntry {
    let access = flags as i32 & libc::O_ACCMODE;
    let grows = access == libc::O_WRONLY && flags as i32 & libc::O_APPEND != 0;
    let is_regular = held.stat.st_mode & S_IFMT == libc::S_IFREG;
    RegFileEntry {
        id,
        flags,
        pos: 0,
        fown: FownEntry::default(),
        name,
        size: Some(held.stat.st_size as u64).filter(|_| is_regular && !grows),
        mode: Some(held.stat.st_mode),
        ..RegFileEntry::default()
    }
}

fn is_same(a: &FileStat, b: &FileStat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

fn path_of(held: &Held) -> Result<Path, No> {
    let link = held.link.as_slice();
    let shown = String::from_utf8_lossy(link).into_owned();
    if !link.starts_with(b"/") {
        let what = format!("file without a path here ({shown})");
        return Err(No::because(RefusalKind::NoPath, what));
    }
    let is_symlink = held.stat.st_mode & S_IFMT == libc::S_IFLNK;
    let look = |path: &[u8]| {
        let path = OsStr::from_bytes(path);
        if is_symlink { lstat(path) } else { stat(path) }
    };
    let bare = link.strip_suffix(DELETED);
    if held.stat.st_nlink == 0 {
        return Ok(Path::Deleted(bare.unwrap_or(link).to_vec()));
    }
    match look(link) {
        Ok(found) if is_same(&found, &held.stat) => return Ok(Path::Plain(link.to_vec())),
        Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
        Err(errno) => {
            let what = format!("file whose path cannot be looked up ({errno})");
            return Err(No::because(RefusalKind::NoPath, what));
        }
    }
    if raw::filesystem(&held.file) == Ok(PROC_SUPER_MAGIC) {
        let what = "/proc entry of a process that has gone";
        return Err(No::because(RefusalKind::DeadProcEntry, what));
    }
    Ok(Path::Linked(bare.unwrap_or(link).to_vec()))
}
