//! Who is sent a signal when a file becomes ready.

use criu_image::record::FownEntry;

use super::super::facts::Descriptor;
use super::super::raw;
use super::No;
use crate::refusal::RefusalKind;

/// The owner of an open file.
pub(super) fn of(descriptor: &Descriptor) -> Result<FownEntry, No> {
    if descriptor.info.flags & libc::O_PATH as u32 != 0 {
        return Ok(FownEntry::default());
    }
    let owner = raw::owner(&descriptor.held.file).map_err(|errno| {
        let what = format!("file whose owner cannot be read ({errno})");
        No::because(RefusalKind::UnreadableFile, what)
    })?;
    Ok(FownEntry {
        uid: owner.uid,
        euid: owner.euid,
        signum: owner.signal,
        pid_type: owner.kind,
        pid: owner.pid as u32,
    })
}
