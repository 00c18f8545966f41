//! The images of a CRIU checkpoint: read, checked, written, and as JSON.
//!
//! What follows is the crate's README, whose examples are tests.
#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod checkpoint;
mod diff;
mod directory;
mod error;
mod explore;
mod gpu;
mod image;
mod json;
mod kind;
mod manifest;
mod pages;
mod payload;
mod reader;
mod schema;
mod state;
mod verify;
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
pub use diff::{Difference, diff};
pub use directory::{ImageDir, ImageFile, RawImage, damage, images_in};
pub use error::ImageError;
pub use explore::{
    CoveredMapping, DescriptorRow, FileLabel, GpuRow, MappingRow, ProcessFiles, ProcessGpus,
    ProcessMappings, ProcessRow, ProcessRuns, RunRow, View, ViewKind,
};
pub use gpu::{
    GPU_HEAD_BYTES, GPU_STATE_VERSION, GpuImages, KfdImage, PrivateError, drm_pages_name,
    gpu_image, kfd_pages_name, pack_kfd_private, unpack_kfd_private,
};
pub use image::{ImageReader, ImageWriter, WriteError};
pub use json::{
    ImageCount, JsonError, JsonOptions, count_entries, decode_json, encode_json, json_string,
};
pub use kind::ImageKind;
pub use manifest::{
    BLOCK_BYTES, FileSum, MANIFEST_NAME, Manifest, ManifestError, Summer, checksum,
};
pub use pages::{Memory, MemoryRun, PAGE_BYTES, PagesAt};
pub use payload::{IMAGE_BYTES_MAX, RECORD_BYTES_MAX, Record};
pub use state::state_text;
pub use verify::verify;
pub use wire::WireError;
pub use write::ImageBuilder;

#[cfg(test)]
mod tests {
    use crate::{IMAGE_BYTES_MAX, RECORD_BYTES_MAX, checkpoint, explore, json, pages, wire};

    #[test]
    fn limits_in_the_readme_are_those_of_the_code() {
        let readme = include_str!("../README.md");
        let row = |what: &str| {
            let line = readme.lines().find(|line| line.starts_with(what));
            line.unwrap_or_else(|| panic!("a row for {what}")).to_owned()
        };
        for (what, limit) in [
            ("| a record |", format!("{} MiB", RECORD_BYTES_MAX >> 20)),
            ("| an image that is read whole", format!("{} GiB", IMAGE_BYTES_MAX >> 30)),
            ("| messages within messages", wire::DEPTH_MAX.to_string()),
            ("| a string in JSON", format!("{} MiB", json::HELD_BYTES_MAX >> 20)),
            ("| findings of `verify`", checkpoint::FINDINGS_MAX.to_string()),
            ("| a name in a `View`", explore::LABEL_BYTES_MAX.to_string()),
            ("| checkpoints before a checkpoint", pages::PARENTS_MAX.to_string()),
        ] {
            assert!(row(what).contains(&format!(" {limit}")), "{what} {limit}: {}", row(what));
        }
    }
}
