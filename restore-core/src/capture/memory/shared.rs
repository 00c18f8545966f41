//! Contents of shared memory and memory files: what is there, without the holes.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use criu_image::{BLOCK_BYTES, ImageKind};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::super::DumpError;
use super::super::staging::Folder;
use super::super::steps::Steps;
use super::pages::{PAGE_BYTES, PageCounts, PageWriter};
use crate::meter::Meter;

/// Saves a memory file of this size under its number.
pub(crate) fn save(
    memory: &OwnedFd,
    size_bytes: u64,
    shmid: u32,
    folder: &Folder,
    pages_id: u32,
    steps: &Steps,
    meter: &mut Meter<'_>,
) -> Result<PageCounts, DumpError> {
    let fail = |errno| DumpError::Shared { shmid, errno };
    let io_fail =
        |error: std::io::Error| fail(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)));
    steps.next("save shared memory")?;
    let mut writer = PageWriter::new(folder, ImageKind::ShmemPagemap, shmid.into(), pages_id)?;
    let file = File::from(memory.try_clone().map_err(io_fail)?);
    let mut buffer = vec![0; BLOCK_BYTES];
    let mut at = 0;
    while at < size_bytes {
        let (data, hole) = extent(memory, at, size_bytes).map_err(fail)?;
        at = data / PAGE_BYTES * PAGE_BYTES;
        while at < hole {
            steps.next("copy shared memory")?;
            let len = (hole - at).min(BLOCK_BYTES as u64) as usize;
            file.read_exact_at(&mut buffer[..len], at).map_err(io_fail)?;
            // The last page may end with the file.
            let whole = len.next_multiple_of(PAGE_BYTES as usize);
            buffer[len..whole].fill(0);
            writer.add(at, &mut buffer[..whole], true)?;
            meter.add(whole as u64);
            at += whole as u64;
        }
    }
    writer.finish()
}

/// The next part that holds something, up to `end`. File systems of huge pages know no holes.
fn extent(memory: &OwnedFd, at: u64, end: u64) -> Result<(u64, u64), Errno> {
    match lseek(memory, at as i64, Whence::SeekData) {
        Ok(data) => {
            let hole = lseek(memory, data, Whence::SeekHole)?;
            Ok((data as u64, (hole as u64).min(end)))
        }
        Err(Errno::ENXIO) => Ok((end, end)),
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok((at, end)),
        Err(errno) => Err(errno),
    }
}
