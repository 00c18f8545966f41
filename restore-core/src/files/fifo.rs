//! Named pipes: opened by path, never waiting for a partner, with their contents.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use criu_image::record::FileEntry;
use criu_image::{Checkpoint, FileId, ImageDir, PipeData};

use super::{FilesError, pipe, raw, regular, remap};
use crate::refusal::{Refusal, RefusalKind};

/// One open file of a fifo.
#[derive(Debug)]
pub(super) struct Plan {
    pipe_id: u32,
    path: regular::Plan,
    data: Option<PipeData>,
}

pub(super) fn plan(checkpoint: &Checkpoint, entry: &FileEntry) -> Result<Plan, Refusal> {
    let place = || format!("files.img, file {:#x}", entry.id);
    let fifo = entry
        .fifo
        .as_ref()
        .ok_or_else(|| Refusal::of_tree(RefusalKind::Undescribed, "fifo without data", place()))?;
    let path = FileId(fifo.regf_id.unwrap_or(fifo.id));
    let mut path = regular::plan(checkpoint, path, None)?;
    path.pos = None;
    let data = checkpoint.fifo_data.get(&fifo.pipe_id).copied();
    Ok(Plan { pipe_id: fifo.pipe_id, path, data })
}

/// Both ends of every fifo that is being restored, so that no opening waits and no content is lost
/// before all its files are open.
#[derive(Default)]
pub(super) struct Held {
    both: Vec<OwnedFd>,
    filled: BTreeSet<u32>,
}

impl Held {
    /// Opens one file of a fifo.
    pub(super) fn open(
        &mut self,
        plan: &Plan,
        remaps: &mut remap::Names,
        images: &ImageDir,
    ) -> Result<OwnedFd, FilesError> {
        let open = |path: &[u8]| {
            regular::expect_kind(&plan.path, path)?;
            let both = raw::open(path, libc::O_RDWR | libc::O_NONBLOCK);
            let both = both.map_err(|errno| regular::failed(&plan.path, "open", errno))?;
            Ok((both, regular::open_path(&plan.path, path)?))
        };
        let (both, fd) = match plan.path.remapped {
            true => remaps.with_path(plan.path.id, &plan.path.path, open)?,
            false => open(&plan.path.path)?,
        };
        if let Some(data) = plan.data.filter(|_| self.filled.insert(plan.pipe_id)) {
            pipe::fill(&both, &data, images, "fifo-data.img")?;
        }
        self.both.push(both);
        Ok(fd)
    }
}
