//! Pipes and fifos: their open files, and what is in them, copied without being taken out.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

use criu_image::record::{FdTypes, FifoEntry, FileEntry, PipeDataEntry, PipeEntry};
use criu_image::{ImageBuilder, ImageKind};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::super::facts::Descriptor;
use super::super::staging::Folder;
use super::super::steps::Steps;
use super::super::{DumpError, raw};
use super::{FileTable, No, of_type, owner, regular};
use crate::refusal::RefusalKind;

/// Pipes and fifos with an open file in the tree, each with a reading end of ours.
#[derive(Debug, Default)]
pub(crate) struct Pipes {
    pipes: BTreeMap<u32, OwnedFd>,
    fifos: BTreeMap<u32, OwnedFd>,
}

pub(super) fn entry(pipes: &mut Pipes, id: u32, descriptor: &Descriptor) -> Result<FileEntry, No> {
    let pipe_id = number(descriptor);
    hold(&mut pipes.pipes, pipe_id, descriptor)?;
    let flags = descriptor.info.file_flags();
    let pipe = PipeEntry { id, pipe_id, flags, fown: owner::of(descriptor)? };
    Ok(FileEntry { pipe: Some(pipe), ..of_type(FdTypes::Pipe, id) })
}

pub(super) fn fifo(
    table: &mut FileTable<'_>,
    id: u32,
    descriptor: &Descriptor,
) -> Result<FileEntry, No> {
    let pipe_id = number(descriptor);
    hold(&mut table.pipes.fifos, pipe_id, descriptor)?;
    let path_id = table.next_id();
    let place = table.entries.len();
    table.entries.push(FileEntry::default());
    table.entries[place] = regular::entry(table, path_id, descriptor)?;
    let fifo = FifoEntry { id, pipe_id, regf_id: Some(path_id) };
    Ok(FileEntry { fifo: Some(fifo), ..of_type(FdTypes::Fifo, id) })
}

/// The number that upstream knows a pipe by.
fn number(descriptor: &Descriptor) -> u32 {
    descriptor.held.stat.st_ino as u32
}

fn hold(held: &mut BTreeMap<u32, OwnedFd>, id: u32, descriptor: &Descriptor) -> Result<(), No> {
    if held.contains_key(&id) {
        return Ok(());
    }
    let unreadable = |errno: Errno| {
        let what = format!("pipe that cannot be read ({errno})");
        No::because(RefusalKind::UnreadableFile, what)
    };
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    let reader = raw::reopen(&descriptor.held.file, flags).map_err(unreadable)?;
    let waiting = raw::bytes_waiting(&reader).map_err(unreadable)?;
    if waiting > 0 && descriptor.info.flags & libc::O_DIRECT as u32 != 0 {
        return Err(No::because(RefusalKind::PacketPipe, "pipe with packets in it"));
    }
    held.insert(id, reader);
    Ok(())
}

impl Pipes {
    /// Writes the contents of all.
    pub(super) fn write(&self, folder: &Folder, steps: &Steps) -> Result<(), DumpError> {
        for (kind, pipes) in
            [(ImageKind::PipesData, &self.pipes), (ImageKind::FifoData, &self.fifos)]
        {
            if pipes.is_empty() {
                continue;
            }
            let mut image = ImageBuilder::new(kind);
            for (&pipe_id, reader) in pipes {
                steps.next("copy the contents of a pipe")?;
                let (capacity, bytes) =
                    contents(reader).map_err(|errno| DumpError::Pipe { pipe_id, errno })?;
                let (len, size) = (bytes.len() as u32, Some(capacity));
                image.push(&PipeDataEntry { pipe_id, bytes: len, size });
                image.push_raw(&bytes);
            }
            folder.put(&kind.file_name(0), &image.into_bytes())?;
        }
        Ok(())
    }
}

/// Capacity and contents of a pipe.
fn contents(reader: &OwnedFd) -> Result<(u32, Vec<u8>), Errno> {
    let capacity = fcntl(reader, FcntlArg::F_GETPIPE_SZ)?;
    let waiting = raw::bytes_waiting(reader)?;
    if waiting == 0 {
        return Ok((capacity as u32, Vec::new()));
    }
    let (out, into) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    fcntl(&into, FcntlArg::F_SETPIPE_SZ(capacity))?;
    let copied = raw::tee(reader, &into, waiting)?;
    if copied != waiting {
        return Err(Errno::EIO);
    }
    drop(into);
    let mut bytes = Vec::with_capacity(waiting);
    let read = File::from(out).read_to_end(&mut bytes);
    read.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
    Ok((capacity as u32, bytes))
}

#[cfg(test)]
mod tests {
    use super::contents;

    #[test]
    fn contents_are_copied_and_stay() {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        nix::unistd::write(&writer, b"in the pipe").expect("room");
        for _ in 0..2 {
            let (capacity, bytes) = contents(&reader).expect("a pipe");
            assert_eq!((capacity, bytes.as_slice()), (65536, b"in the pipe".as_slice()));
        }
        let mut left = [0; 32];
        assert_eq!(nix::unistd::read(&reader, &mut left), Ok(11));
        assert_eq!(contents(&reader).expect("a pipe").1, b"");
    }
}
