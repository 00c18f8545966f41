//! Pipes: one for each pipe id, however many open files its two ends have.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use criu_image::{Checkpoint, ImageDir, PipeData};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{FilesError, ObjectKey, raw, regular, set_status_flags};

/// `O_LARGEFILE` as the kernel keeps it (asm-generic/fcntl.h; libc calls it 0 on x86-64). The two
/// files that pipe2 makes do not have it, those opened through `/proc` do.
const LARGEFILE: i32 = 0o100_000;
/// Piece in which contents are copied.
const COPY_BYTES: u64 = 1 << 16;

/// One pipe and all open files of its ends.
#[derive(Debug)]
pub(super) struct Plan {
    pipe_id: u32,
    data: Option<PipeData>,
    /// Key and flags of each open file.
    ends: Vec<(ObjectKey, u32)>,
}

/// Plans every pipe that a needed file is an end of.
pub(super) fn plan(checkpoint: &Checkpoint, needs: &BTreeSet<ObjectKey>) -> Vec<Plan> {
    let mut pipes: BTreeMap<u32, Plan> = BTreeMap::new();
    for &key in needs {
        let ObjectKey::File(id) = key else { continue };
        let Some(pipe) = checkpoint.files.get(&id).and_then(|entry| entry.pipe.as_ref()) else {
            continue;
        };
        let plan = pipes.entry(pipe.pipe_id).or_insert_with(|| Plan {
            pipe_id: pipe.pipe_id,
            data: checkpoint.pipe_data.get(&pipe.pipe_id).copied(),
            ends: Vec::new(),
        });
        plan.ends.push((key, pipe.flags));
    }
    pipes.into_values().collect()
}

impl Plan {
    fn fail(&self, call: &'static str) -> impl Fn(Errno) -> FilesError {
        let what = format!("pipe {:#x}", self.pipe_id);
        move |errno| FilesError::Object { call, what: what.clone(), errno }
    }

    /// Makes the pipe, its contents, and every open file of it.
    pub(super) fn open(self, images: &ImageDir) -> Result<Vec<(ObjectKey, OwnedFd)>, FilesError> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(self.fail("pipe2"))?;
        if let Some(data) = &self.data {
            fill(&writer, data, images, "pipes-data.img")?;
        }
        let mut opened = Vec::new();
        let (mut reader, mut writer) = (Some(reader), Some(writer));
        let mut again = Vec::new();
        for &(key, flags) in &self.ends {
            let end = match flags as i32 & (libc::O_ACCMODE | LARGEFILE) {
                libc::O_RDONLY => reader.take(),
                libc::O_WRONLY => writer.take(),
                _ => None,
            };
            match end {
                Some(fd) => {
                    set_status_flags(&fd, flags, &format!("pipe {:#x}", self.pipe_id))?;
                    opened.push((key, fd));
                }
                None => again.push((key, flags)),
            }
        }
        for (key, flags) in again {
            let any = [&reader, &writer].into_iter().flatten().next();
            let any = any.or(opened.first().map(|(_, fd)| fd));
            let any = any.expect("both ends are in one of the three");
            let flags = regular::open_flags(flags as i32);
            let fd = raw::reopen(any, flags).map_err(self.fail("open"))?;
            opened.push((key, fd));
        }
        Ok(opened)
    }
}

/// Gives a pipe its capacity and its contents, without ever waiting for a reader.
pub(super) fn fill(
    writer: &OwnedFd,
    data: &PipeData,
    images: &ImageDir,
    name: &str,
) -> Result<(), FilesError> {
    let fail = |call| {
        move |errno| FilesError::Object {
            call,
            what: format!("a pipe with {} bytes", data.data.len_bytes),
            errno,
        }
    };
    if let Some(capacity) = data.capacity_bytes {
        let resize = FcntlArg::F_SETPIPE_SZ(capacity as i32);
        fcntl(writer, resize).map_err(fail("fcntl(F_SETPIPE_SZ)"))?;
    }
    let flags = fcntl(writer, FcntlArg::F_GETFL).map_err(fail("fcntl(F_GETFL)"))?;
    let flags = OFlag::from_bits_retain(flags);
    let set = |flags| fcntl(writer, FcntlArg::F_SETFL(flags)).map_err(fail("fcntl(F_SETFL)"));
    set(flags | OFlag::O_NONBLOCK)?;
    copy(writer, data, images, name, fail("write"))?;
    set(flags).map(drop)
}

fn copy(
    writer: &OwnedFd,
    data: &PipeData,
    images: &ImageDir,
    name: &str,
    fail: impl Fn(Errno) -> FilesError,
) -> Result<(), FilesError> {
    let unreadable = |error: std::io::Error| FilesError::Image {
        file: name.to_owned(),
        errno: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
    };
    let mut image = images.raw(name).map_err(unreadable)?;
    let len_bytes = data.data.len_bytes;
    let mut buffer = vec![0; len_bytes.min(COPY_BYTES) as usize];
    let mut done = 0;
    while done < len_bytes {
        let piece = &mut buffer[..(len_bytes - done).min(COPY_BYTES) as usize];
        let at = data.data.offset_bytes + done;
        image.read_exact_at(piece, at).map_err(unreadable)?;
        let mut rest: &[u8] = piece;
        while !rest.is_empty() {
            let written = nix::unistd::write(writer, rest).map_err(&fail)?;
            rest = &rest[written..];
        }
        done += piece.len() as u64;
    }
    Ok(())
}
