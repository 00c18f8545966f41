//! One image file as a stream: its head, its records, and the data between them.
//!
//! `format` says what each kind of image consists of, `data` what follows a record, `read` and
//! `write` move it. Nothing here knows what a record means.

pub(crate) mod data;
pub(crate) mod format;
pub(crate) mod read;
pub(crate) mod window;
pub(crate) mod write;

pub use read::ImageReader;
pub use write::{ImageWriter, WriteError};
