//! References between images that `Checkpoint` does not model: terminals, sockets, mounts, maps.
//!
//! Each rule was held against the images of CRIU's own tests.

use std::collections::BTreeSet;
use std::fs::File;

use crate::checkpoint::{Checkpoint, Findings, OtherImage, contradiction};
use crate::error::ImageError;
use crate::image::ImageReader;
use crate::kind::ImageKind;
use crate::payload::Record;
use crate::record::{
    BpfmapDataEntry, FileEntry, MntEntry, SkPacketEntry, TtyDataEntry, TtyInfoEntry,
};

/// `TCP_ESTABLISHED`
const ESTABLISHED: u32 = 1;
/// `IPPROTO_TCP`
const TCP: u32 = 6;

pub(super) fn check(checkpoint: &Checkpoint, findings: &mut Findings) -> Result<(), ImageError> {
    if !findings.is_sure_of(ImageKind::Files) {
        return Ok(());
    }
    terminals(checkpoint, findings)?;
    unix_queues(checkpoint, findings)?;
    tcp_streams(checkpoint, findings)?;
    bpf_maps(checkpoint, findings)?;
    mounts(checkpoint, findings)
}

/// Ids of the open files that have a part.
fn ids<T>(checkpoint: &Checkpoint, id: impl Fn(&FileEntry) -> Option<T>) -> BTreeSet<T>
where
    T: Ord,
{
    checkpoint.files.values().filter_map(id).collect()
}

fn images(checkpoint: &Checkpoint, kind: ImageKind) -> impl Iterator<Item = &OtherImage> {
    checkpoint.other.iter().filter(move |other| other.kind == kind)
}

fn open(checkpoint: &Checkpoint, other: &OtherImage) -> Result<ImageReader<File>, ImageError> {
    ImageReader::open(checkpoint.dir.join(&other.file))
}

/// Reports each record of a kind of image for which there is a reason.
fn each<R: Record>(
    checkpoint: &Checkpoint,
    findings: &mut Findings,
    kind: ImageKind,
    mut fault: impl FnMut(R) -> Option<String>,
) -> Result<(), ImageError> {
    for other in images(checkpoint, kind) {
        for record in open(checkpoint, other)?.records() {
            let (at, record) = record?;
            if let Some(reason) = fault(record) {
                findings.report(contradiction(other.file.to_string_lossy(), at, reason))?;
            }
        }
    }
    Ok(())
}

fn terminals(checkpoint: &Checkpoint, findings: &mut Findings) -> Result<(), ImageError> {
    let mut known = BTreeSet::new();
    each(checkpoint, findings, ImageKind::TtyInfo, |info: TtyInfoEntry| {
        (!known.insert(info.id)).then(|| format!("terminal {:#x} occurs twice", info.id))
    })?;
    for file in checkpoint.files.values() {
        let Some(tty) = file.tty.as_ref().filter(|tty| !known.contains(&tty.tty_info_id)) else {
            continue;
        };
        let reason = format!("terminal {:#x} of file {:#x} is unknown", tty.tty_info_id, tty.id);
        findings.report(contradiction("files.img", 8, reason))?;
    }
    each(checkpoint, findings, ImageKind::TtyData, |data: TtyDataEntry| {
        let id = data.tty_id;
        (!known.contains(&id)).then(|| format!("terminal {id:#x} is unknown"))
    })
}

fn unix_queues(checkpoint: &Checkpoint, findings: &mut Findings) -> Result<(), ImageError> {
    let sockets = ids(checkpoint, |file| file.usk.as_ref().map(|socket| socket.id));
    each(checkpoint, findings, ImageKind::SkQueues, |packet: SkPacketEntry| {
        let rights = packet.scm.iter().flat_map(|scm| &scm.rights);
        let lost = rights
            .copied()
            .find(|&id| !checkpoint.files.contains_key(&crate::checkpoint::FileId(id)));
        match lost {
            _ if !sockets.contains(&packet.id_for) => {
                Some(format!("socket {:#x} is no unix socket of files.img", packet.id_for))
            }
            Some(id) => Some(format!("file {id:#x} on its way in a packet is unknown")),
            None => None,
        }
    })
}

/// A stream is named by the inode of its socket.
fn tcp_streams(checkpoint: &Checkpoint, findings: &mut Findings) -> Result<(), ImageError> {
    let sockets = ids(checkpoint, |file| file.isk.as_ref().map(|socket| u64::from(socket.ino)));
    let mut streams = BTreeSet::new();
    for other in images(checkpoint, ImageKind::TcpStream) {
        let inode = ImageKind::of_name(&other.file).and_then(|(_, inode)| inode);
        if let Some(inode) = inode.filter(|inode| !sockets.contains(inode)) {
            let file = other.file.to_string_lossy().into_owned();
            let reason = format!("no internet socket has the inode {inode:#x}");
            findings.report(ImageError::NoOwner { file, reason })?;
        }
        streams.extend(inode);
    }
    if checkpoint.inventory.tcp_close == Some(true) {
        return Ok(()); // connections were given up on purpose
    }
    for file in checkpoint.files.values() {
        let Some(socket) = &file.isk else { continue };
        let has_stream = streams.contains(&u64::from(socket.ino));
        if socket.proto == TCP && socket.state == ESTABLISHED && !has_stream {
            let file = ImageKind::TcpStream.file_name(socket.ino.into());
            let needed_for = format!("socket {:#x} of files.img", socket.id);
            findings.report(ImageError::Missing { file, needed_for })?;
        }
    }
    Ok(())
}

fn bpf_maps(checkpoint: &Checkpoint, findings: &mut Findings) -> Result<(), ImageError> {
    let maps = ids(checkpoint, |file| file.bpf.as_ref().map(|map| map.map_id));
    each(checkpoint, findings, ImageKind::BpfmapData, |data: BpfmapDataEntry| {
        (!maps.contains(&data.map_id)).then(|| format!("map {:#x} is no open file", data.map_id))
    })
}

/// Mounts are saved for mount namespaces; a path in one says on which mount it lies.
fn mounts(checkpoint: &Checkpoint, findings: &mut Findings) -> Result<(), ImageError> {
    let mut known = BTreeSet::new();
    each(checkpoint, findings, ImageKind::Mountpoints, |mount: MntEntry| {
        let id = mount.mnt_id;
        (!known.insert(id)).then(|| format!("mount {id} occurs twice"))
    })?;
    if known.is_empty() {
        return Ok(());
    }
    for (id, file) in &checkpoint.files {
        let mount = file.reg.as_ref().and_then(|reg| u32::try_from(reg.mnt_id?).ok());
        if let Some(mount) = mount.filter(|mount| !known.contains(mount)) {
            let reason = format!("mount {mount} of file {:#x} is unknown", id.0);
            findings.report(contradiction("files.img", 8, reason))?;
        }
    }
    Ok(())
}
