//! Pipes: one for each pipe id, however many open files its two ends have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::Path;

use criu_image::{Checkpoint, PipeData};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::{FilesError, ObjectKey, raw, set_status_flags};

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
    pub(super) fn open(self, images: &Path) -> Result<Vec<(ObjectKey, OwnedFd)>, FilesError> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(self.fail("pipe2"))?;
        if let Some(data) = &self.data {
            fill(&writer, data, &images.join("pipes-data.img"), "pipes-data.img")?;
        }
        let mut opened = Vec::new();
        // The first file of each end is the end itself; each further one is opened anew.
        let (mut reader, mut writer) = (Some(reader), Some(writer));
        let mut again = Vec::new();
        for &(key, flags) in &self.ends {
            let end = match flags as i32 & libc::O_ACCMODE {
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
            let any = any.expect("a pipe has an end as long as one of its files is not open");
            let fd = raw::reopen(any, flags as i32).map_err(self.fail("open"))?;
            opened.push((key, fd));
        }
        Ok(opened)
    }
}

/// Gives a pipe its capacity and its contents.
pub(super) fn fill(
    writer: &OwnedFd,
    data: &PipeData,
    image: &Path,
    name: &str,
) -> Result<(), FilesError> {
    let what = || format!("a pipe with {} bytes", data.data.len_bytes);
    if let Some(capacity) = data.capacity_bytes {
        fcntl(writer, FcntlArg::F_SETPIPE_SZ(capacity as i32)).map_err(|errno| {
            FilesError::Object { call: "fcntl(F_SETPIPE_SZ)", what: what(), errno }
        })?;
    }
    let fail = |error: std::io::Error| FilesError::Image {
        file: name.to_owned(),
        errno: Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)),
    };
    let mut file = File::open(image).map_err(fail)?;
    file.seek(SeekFrom::Start(data.data.offset_bytes)).map_err(fail)?;
    // The length was checked against the image; a pipe holds 1 MiB at most without privilege.
    let mut bytes = vec![0; data.data.len_bytes as usize];
    file.read_exact(&mut bytes).map_err(fail)?;
    // Without blocking: a capacity that is too small is an error, not a wait for a reader.
    let now = fcntl(writer, FcntlArg::F_GETFL).map_err(|errno| FilesError::Object {
        call: "fcntl(F_GETFL)",
        what: what(),
        errno,
    })?;
    let flags = OFlag::from_bits_retain(now);
    let set = |flags| {
        fcntl(writer, FcntlArg::F_SETFL(flags)).map_err(|errno| FilesError::Object {
            call: "fcntl(F_SETFL)",
            what: what(),
            errno,
        })
    };
    set(flags | OFlag::O_NONBLOCK)?;
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let written = nix::unistd::write(writer, rest).map_err(|errno| FilesError::Object {
            call: "write",
            what: what(),
            errno,
        })?;
        rest = &rest[written..];
    }
    set(flags)?;
    Ok(())
}
