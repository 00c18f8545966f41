//! Reads CRIU checkpoint images.
//!
//! An image directory is read in two steps. *Records* ([`record`]) are what one file says, checked
//! against the schema so strictly that nothing is dropped or invented. A [`Checkpoint`] is what all
//! files say together, cross-checked into one value that a restorer can trust.
//!
//! ```no_run
//! let checkpoint = criu_image::Checkpoint::open("/var/lib/images")?;
//! for process in &checkpoint.processes {
//!     println!("{} {}", process.pid, String::from_utf8_lossy(&process.task.comm));
//! }
//! # Ok::<(), criu_image::ImageError>(())
//! ```
//!
//! It makes no system call but to read files, has no unsafe code, and never panics on input.

#![forbid(unsafe_code)]

mod checkpoint;
mod directory;
mod error;
mod kind;
mod manifest;
mod reader;
mod wire;
mod write;

/// Records as CRIU 4.2 writes them; field names are those of its schema.
#[allow(missing_docs)]
pub mod record {
    include!(concat!(env!("OUT_DIR"), "/records.rs"));
}

pub use checkpoint::{
    Body, Checkpoint, DataSpan, FileId, Ghost, OtherImage, PageRun, PageStore, PipeData, Process,
    Remap, Thread, task_state, vma_status,
};
pub use directory::{ImageDir, RawImage, damage};
pub use error::ImageError;
pub use kind::ImageKind;
pub use manifest::{
    BLOCK_BYTES, FileSum, MANIFEST_NAME, Manifest, ManifestError, Summer, checksum,
};
pub use reader::{IMAGE_BYTES_MAX, RECORD_BYTES_MAX};
pub use wire::WireError;
pub use write::ImageWriter;
