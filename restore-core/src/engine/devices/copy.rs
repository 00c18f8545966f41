//! Contents of buffers: copied by a pool that serves all processes and all GPUs, while the targets
//! go on with their other steps.
//!
//! A copier thread owns its files; it takes pieces from one queue and says what it has done.
//! Nothing runs before all of it has arrived. A copier ends at its next piece when the restore is
//! given up.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use criu_image::{BLOCK_BYTES, ImageDir, ManifestError, RawImage, damage};
use crossbeam::channel::{Receiver, Sender};
use gpu_kfd::{ContentsAccess, ContentsError, Purpose};

use crate::contract::{Piece, StepId};
use crate::engine::now_ns;
use crate::plan::devices::Contents;

/// Bytes that one copier takes at a time. Each is mapped by itself, which other copiers wait for:
/// with 16 MiB contents move at 0.83 of the speed of plain copies, with 32 at 0.94, with 64 at 1.0
/// (`xtask bench gpu`, 2 processors). It is also what a copier has mapped at most.
const PIECE_BYTES: u64 = 32 << 20;
/// Bytes of a buffer that are made ready at a time: while that goes on, no other copier can map.
const EXPECTED_BYTES: u64 = 2 << 20;
/// Bytes that are read at a time: they stay in the processor's cache between read and write.
const CHUNK_BYTES: usize = 256 << 10;

/// Contents of one buffer, or a piece of them.
#[derive(Debug, Clone)]
pub(in crate::engine) struct CopyJob {
    pub(in crate::engine) step: StepId,
    contents: Contents,
    /// Where in the buffer they belong.
    offset_bytes: u64,
    dmabuf: Arc<OwnedFd>,
}

/// A piece that has arrived, or why not.
#[derive(Debug)]
pub(in crate::engine) struct Copied {
    pub(in crate::engine) step: StepId,
    pub(in crate::engine) copier: usize,
    pub(in crate::engine) begin_ns: u64,
    pub(in crate::engine) end_ns: u64,
    pub(in crate::engine) piece: Piece,
    pub(in crate::engine) result: Result<(), CopyError>,
}

/// Why contents did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// An image could not be read, or is not as the dump wrote it.
    #[error("cannot read {}", path.display())]
    Image {
        /// The image.
        path: PathBuf,
        /// The kernel's error, or the damage.
        source: std::io::Error,
    },
    /// The buffer could not be written.
    #[error(transparent)]
    Contents(#[from] ContentsError),
    /// A thread of ours ended without a word; a bug.
    #[error("a copier thread ended unexpectedly")]
    CopierLost,
    /// What was read back is not what was written.
    #[error(
        "buffer contents from {image} at {offset_bytes:#x} were read back different: the GPU's \
         memory or the way to it is not sound"
    )]
    Different {
        /// The image.
        image: String,
        /// Where in it the piece begins.
        offset_bytes: u64,
    },
}

impl CopyError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Image { source, .. } => {
                damage(source).map_or("restore.gpu-image", ManifestError::code)
            }
            Self::Contents(error) => error.code(),
            Self::CopierLost => "restore.copier-lost",
            Self::Different { .. } => "restore.gpu-contents",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Image { .. } => {
                Some("copy the image again from where the dump wrote it, or dump again")
            }
            Self::Contents(error) => error.help(),
            Self::CopierLost => Some("report it: this is a bug of thaw"),
            Self::Different { .. } => {
                Some("look into the kernel's log, and take the GPU out of service")
            }
        }
    }
}

impl CopyJob {
    pub(super) fn new(step: StepId, contents: Contents, dmabuf: OwnedFd) -> Self {
        Self { step, contents, offset_bytes: 0, dmabuf: Arc::new(dmabuf) }
    }

    /// Another buffer's contents instead, for an engine that is broken on purpose.
    pub(in crate::engine) fn take_contents_of(&mut self, other: &Self) {
        if self.contents.len_bytes == other.contents.len_bytes {
            self.contents.image.clone_from(&other.contents.image);
            self.contents.offset_bytes = other.contents.offset_bytes;
        }
    }

    /// The pieces of it.
    pub(in crate::engine) fn pieces(self) -> impl Iterator<Item = Self> {
        let len = self.contents.len_bytes;
        (0..len).step_by(PIECE_BYTES as usize).map(move |at| {
            let mut piece = self.clone();
            piece.offset_bytes = at;
            piece.contents.offset_bytes += at;
            piece.contents.len_bytes = PIECE_BYTES.min(len - at);
            piece
        })
    }
}

/// What a copier has open.
pub(in crate::engine) struct Copier {
    images: ImageDir,
    copy_buffer_bytes: usize,
    verify: bool,
    gpus: BTreeMap<u32, ContentsAccess>,
    image: Option<(String, RawImage)>,
    chunk: Vec<u8>,
    back: Vec<u8>,
}

impl Copier {
    pub(in crate::engine) fn new(images: ImageDir, copy_buffer_bytes: usize, verify: bool) -> Self {
        Self {
            images,
            copy_buffer_bytes,
            verify,
            gpus: BTreeMap::new(),
            image: None,
            chunk: Vec::new(),
            back: Vec::new(),
        }
    }

    /// The thread's life: until there is no more to come.
    pub(in crate::engine) fn run(
        mut self,
        copier: usize,
        jobs: &Receiver<CopyJob>,
        done: &Sender<Copied>,
    ) {
        for job in jobs {
            let (step, begin_ns) = (job.step, now_ns());
            // A panic is a bug; whoever waits for the piece must hear of it.
            let copy = std::panic::AssertUnwindSafe(|| self.copy(&job));
            let result = std::panic::catch_unwind(copy).unwrap_or(Err(CopyError::CopierLost));
            let piece = Piece { minor: job.contents.minor, bytes: job.contents.len_bytes };
            let copied = Copied { step, copier, begin_ns, end_ns: now_ns(), piece, result };
            if done.send(copied).is_err() {
                return; // the restore was given up
            }
        }
    }

    fn copy(&mut self, job: &CopyJob) -> Result<(), CopyError> {
        let Self { images, copy_buffer_bytes, verify, gpus, image, chunk, back } = self;
        let minor = job.contents.minor;
        let gpu = match gpus.entry(minor) {
            Entry::Occupied(gpu) => gpu.into_mut(),
            Entry::Vacant(place) => place.insert(ContentsAccess::open(minor, *copy_buffer_bytes)?),
        };
        let raw = open_image(images, image, &job.contents.image)?;
        let path = || images.path().join(&job.contents.image);
        let dmabuf = job.dmabuf.as_fd();
        let mut buffer = gpu.reach(dmabuf, job.contents.in_system, Purpose::Write)?;
        let mut at = 0;
        let mut expected = 0;
        while at < job.contents.len_bytes {
            if at >= expected {
                buffer.expect_write(job.offset_bytes + at, EXPECTED_BYTES);
                expected = at + EXPECTED_BYTES;
            }
            let offset_bytes = job.contents.offset_bytes + at;
            let left = job.contents.len_bytes - at;
            let bytes = next_bytes(raw, chunk, offset_bytes, left)
                .map_err(|source| CopyError::Image { path: path(), source })?;
            buffer.write(job.offset_bytes + at, bytes)?;
            if *verify {
                back.resize(bytes.len(), 0);
                buffer.read(job.offset_bytes + at, back)?;
                if back != bytes {
                    let image = job.contents.image.clone();
                    return Err(CopyError::Different { image, offset_bytes });
                }
            }
            at += bytes.len() as u64;
        }
        Ok(())
    }
}

/// Some bytes of an image from an offset on, at least one: of a block that has been compared with
/// the manifest, where there is one.
fn next_bytes<'a>(
    raw: &'a mut RawImage,
    chunk: &'a mut Vec<u8>,
    offset_bytes: u64,
    left: u64,
) -> std::io::Result<&'a [u8]> {
    if raw.blocks().is_none() {
        chunk.resize(left.min(CHUNK_BYTES as u64) as usize, 0);
        raw.read_exact_at(chunk, offset_bytes)?;
        return Ok(chunk);
    }
    let index = (offset_bytes / BLOCK_BYTES as u64) as usize;
    let within = (offset_bytes % BLOCK_BYTES as u64) as usize;
    let rest = raw.block(index)?.get(within..).unwrap_or_default();
    let bytes = &rest[..rest.len().min(left as usize)];
    if bytes.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

fn open_image<'a>(
    images: &ImageDir,
    image: &'a mut Option<(String, RawImage)>,
    name: &str,
) -> Result<&'a mut RawImage, CopyError> {
    if image.as_ref().is_none_or(|(open, _)| open != name) {
        let raw = images.raw(name).map_err(|source| {
            let path = images.path().join(name);
            CopyError::Image { path, source }
        })?;
        *image = Some((name.to_owned(), raw));
    }
    Ok(&mut image.as_mut().expect("it was just opened").1)
}
