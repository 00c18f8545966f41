//! A checkpoint directory as one value: read whole, then checked against itself.
//!
//! `load` reads files into records. `tree`, `task`, `files`, `ghost`, `mappings`, `memory` and
//! `attributes` join them and refuse what contradicts itself; `other` walks what nothing models;
//! `model` is the result; `findings` decides whether reading goes on after a contradiction. What no
//! check can say (whether a path still leads to the same file) is the restorer's business.

mod attributes;
mod files;
mod findings;
mod ghost;
mod load;
mod mappings;
mod memory;
mod model;
mod other;
mod task;
mod tree;

pub use model::{
    Body, Checkpoint, DataSpan, FileId, Ghost, OtherImage, PageRun, PageStore, PipeData, Process,
    Remap, Thread,
};

pub(crate) use findings::{FINDINGS_MAX, Findings};

use crate::directory::ImageDir;
use crate::error::ImageError;
use crate::kind::ImageKind;

/// Bits of `vma_entry.status` (CRIU 4.2, `image.h`).
pub mod vma_status {
    /// Dumped and restored (as opposed to kernel-made areas).
    pub const REGULAR: u32 = 1 << 0;
    /// A stack.
    pub const STACK: u32 = 1 << 1;
    /// The kernel's vsyscall page.
    pub const VSYSCALL: u32 = 1 << 2;
    /// vdso code.
    pub const VDSO: u32 = 1 << 3;
    /// The heap.
    pub const HEAP: u32 = 1 << 5;
    /// Private mapping of a file.
    pub const FILE_PRIVATE: u32 = 1 << 6;
    /// Shared mapping of a file.
    pub const FILE_SHARED: u32 = 1 << 7;
    /// Shared anonymous memory.
    pub const ANON_SHARED: u32 = 1 << 8;
    /// Private anonymous memory.
    pub const ANON_PRIVATE: u32 = 1 << 9;
    /// System V shared memory.
    pub const SYSVIPC: u32 = 1 << 10;
    /// Ring of a packet socket.
    pub const SOCKET: u32 = 1 << 11;
    /// vdso data.
    pub const VVAR: u32 = 1 << 12;
    /// Ring of asynchronous I/O.
    pub const AIORING: u32 = 1 << 13;
    /// Mapping of a memory file.
    pub const MEMFD: u32 = 1 << 14;
    /// Shadow stack.
    pub const SHSTK: u32 = 1 << 15;
    /// Not a mapping but a guarded range within others.
    pub const GUARD: u32 = 1 << 16;
    /// The kernel's uprobes page.
    pub const UPROBES: u32 = 1 << 17;
    /// Restored by a device plugin.
    pub const EXT_PLUGIN: u32 = 1 << 27;
}

/// States of `task_core_entry.task_state` (CRIU 4.2, `task-state.h`).
pub mod task_state {
    /// Running.
    pub const ALIVE: u32 = 1;
    /// Exited and not waited for.
    pub const DEAD: u32 = 2;
    /// Stopped by a signal.
    pub const STOPPED: u32 = 3;
    /// As `DEAD`, from older dumps.
    pub const ZOMBIE: u32 = 6;
}

impl Checkpoint {
    /// Reads a directory of images and checks that it is one state.
    ///
    /// Nothing but the directory is touched; the bulk (`pages-*.img`) is not read.
    ///
    /// # Errors
    /// [`ImageError`] names the file, the place in it and the reason of the first thing found.
    pub fn open(dir: impl AsRef<std::path::Path>) -> Result<Self, ImageError> {
        let dir = ImageDir::open(dir.as_ref())?;
        let mut checkpoint = load::Loader::new(dir, Findings::default())?.checkpoint()?;
        checkpoint.gpu = crate::gpu::read_images(&checkpoint)?;
        Ok(checkpoint)
    }
}

/// Reads a directory as far as it can be read, and gathers everything that is wrong with it. Of
/// the kinds in `doubted` not everything is there. There is no checkpoint if too much is wrong.
pub(crate) fn gather(
    dir: ImageDir,
    doubted: &[ImageKind],
) -> Result<(Option<Checkpoint>, Findings), ImageError> {
    let mut loader = load::Loader::new(dir, Findings::gathering())?;
    loader.findings.doubt(doubted);
    let checkpoint = loader.checkpoint();
    Ok((checkpoint.ok(), loader.findings))
}

/// Shorthand for an error about a record.
pub(crate) fn contradiction(
    file: impl Into<String>,
    at: u64,
    reason: impl Into<String>,
) -> ImageError {
    ImageError::Contradiction { file: file.into(), offset_bytes: at, reason: reason.into() }
}
