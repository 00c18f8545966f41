//! Images that nothing models: walked to their last byte and counted, never passed over unread.
//!
//! What such images mean is not known here. A restorer refuses each one, or knows why not.

use super::load::Loader;
use super::model::OtherImage;
use crate::directory::ImageDir;
use crate::error::ImageError;
use crate::kind::ImageKind;
use crate::reader::{Image, file_size};
use crate::record::{
    BpfmapDataEntry, IpcMsg, IpcMsgEntry, IpcSemEntry, IpcShmEntry, SeccompEntry, SkPacketEntry,
    TcpStreamEntry,
};
use crate::wire::message_index;

/// Everything that nothing has asked for; an image that must have an owner is an error.
pub(super) fn collect(loader: &Loader) -> Result<Vec<OtherImage>, ImageError> {
    let mut others = Vec::new();
    for (kind, name) in loader.unused() {
        if let Some(reason) = owned_by(kind) {
            let (file, reason) = (name.to_owned(), reason.to_owned());
            return Err(ImageError::NoOwner { file, reason });
        }
        let size_bytes = file_size(&loader.dir.path().join(name), name)?;
        let records = if kind.is_raw() { 0 } else { records_of(&loader.dir, kind, name)? };
        others.push(OtherImage { file: name.into(), kind, records, size_bytes });
    }
    Ok(others)
}

/// What an image of this kind must belong to, if it must.
fn owned_by(kind: ImageKind) -> Option<&'static str> {
    Some(match kind {
        ImageKind::Core | ImageKind::Ids | ImageKind::Mm | ImageKind::Fs | ImageKind::Pagemap => {
            "no live task of the tree has this id"
        }
        ImageKind::Fdinfo => "no process has a descriptor table with this id",
        ImageKind::Pages => "no pagemap refers to it",
        ImageKind::ShmemPagemap => "no shared memory has this id",
        ImageKind::GhostFile => "no file is remapped to it",
        _ => return None,
    })
}

/// Walks an image to its end and counts the records.
fn records_of(dir: &ImageDir, kind: ImageKind, name: &str) -> Result<u64, ImageError> {
    let mut image = Image::open(dir, kind, name)?;
    let mut records = 0;
    match kind {
        // The dump always writes one record; the filters in it are what counts.
        ImageKind::Seccomp => {
            let filters: SeccompEntry = image.only()?;
            records = filters.seccomp_filters.len() as u64;
        }
        ImageKind::SkQueues
        | ImageKind::TcpStream
        | ImageKind::IpcShm
        | ImageKind::IpcSem
        | ImageKind::IpcMsg
        | ImageKind::BpfmapData => {
            while pass_with_data(&mut image, kind)? {
                records += 1;
            }
        }
        _ => {
            let message = message_index(message_of(kind));
            while image.pass(message)? {
                records += 1;
            }
        }
    }
    Ok(records)
}

/// The record type of an image that is records and nothing else.
fn message_of(kind: ImageKind) -> &'static str {
    match kind {
        ImageKind::Cgroup => "CgroupEntry",
        ImageKind::FileLocks => "FileLockEntry",
        ImageKind::TtyInfo => "TtyInfoEntry",
        ImageKind::TtyData => "TtyDataEntry",
        ImageKind::Timens => "TimensEntry",
        ImageKind::Pidns => "PidnsEntry",
        ImageKind::Utsns => "UtsnsEntry",
        ImageKind::Userns => "UsernsEntry",
        ImageKind::IpcVar => "IpcVarEntry",
        ImageKind::Mountpoints => "MntEntry",
        ImageKind::Netdev => "NetDeviceEntry",
        ImageKind::Netns => "NetnsEntry",
        ImageKind::StatsDump | ImageKind::StatsRestore => "StatsEntry",
        ImageKind::IrmapCache => "IrmapCacheEntry",
        ImageKind::Cpuinfo => "CpuinfoEntry",
        ImageKind::Apparmor => "ApparmorEntry",
        ImageKind::BpfmapFile => "BpfmapFileEntry",
        ImageKind::BinfmtMisc => "BinfmtMiscEntry",
        ImageKind::Autofs => "AutofsEntry",
        ImageKind::Pidfd => "PidfdEntry",
        ImageKind::InotifyWd => "InotifyWdEntry",
        ImageKind::FanotifyMark => "FanotifyMarkEntry",
        other => unreachable!("{other:?} is modelled, raw, or has data between its records"),
    }
}

/// Passes over a record and the data that follows it; `false` at the end.
///
/// How far data is padded is `round_up` in CRIU 4.2, `ipc_ns.c`.
fn pass_with_data(image: &mut Image, kind: ImageKind) -> Result<bool, ImageError> {
    let data_bytes = match kind {
        ImageKind::SkQueues => image.next()?.map(|(_, e): (_, SkPacketEntry)| u64::from(e.length)),
        ImageKind::TcpStream => image
            .next()?
            .map(|(_, e): (_, TcpStreamEntry)| u64::from(e.inq_len) + u64::from(e.outq_len)),
        ImageKind::BpfmapData => image.next()?.map(|(_, e): (_, BpfmapDataEntry)| {
            u64::from(e.keys_bytes) + u64::from(e.values_bytes)
        }),
        ImageKind::IpcSem => image
            .next()?
            .map(|(_, e): (_, IpcSemEntry)| (u64::from(e.nsems) * 2).next_multiple_of(8)),
        ImageKind::IpcShm => image.next()?.map(|(_, e): (_, IpcShmEntry)| match e.in_pagemaps {
            Some(true) => 0,
            _ => e.size.checked_next_multiple_of(4).unwrap_or(u64::MAX),
        }),
        _ => {
            let Some((_, queue)) = image.next::<IpcMsgEntry>()? else { return Ok(false) };
            for _ in 0..queue.qnum {
                let (_, message) = image.must_next::<IpcMsg>()?;
                image.skip(u64::from(message.msize).next_multiple_of(8))?;
            }
            Some(0)
        }
    };
    let Some(data_bytes) = data_bytes else { return Ok(false) };
    image.skip(data_bytes)?;
    Ok(true)
}
