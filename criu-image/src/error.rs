//! What can be wrong with images: always with the file, the place in it, and the reason.

use crate::manifest::ManifestError;
use crate::wire::WireError;

/// Why images were not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The kernel would not let us read.
    #[error("cannot read {file}")]
    Read {
        /// File or directory.
        file: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The images are not as the dump wrote them, or the manifest that says how is damaged.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file that the checkpoint needs is not there.
    #[error("{file} is missing: {needed_for}")]
    Missing {
        /// File.
        file: String,
        /// What refers to it.
        needed_for: String,
    },
    /// An image of a kind that is not known.
    #[error("{file} is an image of unknown kind")]
    UnknownKind {
        /// File.
        file: String,
    },
    /// An image that nothing in the checkpoint refers to.
    #[error("{file} belongs to nothing in this checkpoint: {reason}")]
    NoOwner {
        /// File.
        file: String,
        /// What was looked for.
        reason: String,
    },
    /// The first bytes are not those of this kind of image.
    #[error("{file} begins with {found:#x} where {expected:#x} is expected")]
    Magic {
        /// File.
        file: String,
        /// Number found.
        found: u32,
        /// Number of the kind.
        expected: u32,
    },
    /// The first bytes are those of no image with records.
    #[error("{file} begins with {found:#x}, which no image with records does")]
    UnknownMagic {
        /// File.
        file: String,
        /// Number found, after the one that nearly all images have in common.
        found: u32,
    },
    /// Records were asked for that images of this kind do not have.
    #[error("{file} is of kind {found}, whose next record is no {wanted}")]
    WrongRecord {
        /// File.
        file: String,
        /// Kind of image, as in JSON.
        found: &'static str,
        /// Record asked for.
        wanted: &'static str,
    },
    /// What was read from an image could not be passed on.
    #[error("data of {file} cannot be written")]
    Copy {
        /// File.
        file: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// The file ends inside a record or its head.
    #[error("{file} is cut: {needed_bytes} more byte(s) are needed at byte {offset_bytes}")]
    Cut {
        /// File.
        file: String,
        /// Where more was expected.
        offset_bytes: u64,
        /// How much is missing.
        needed_bytes: u64,
    },
    /// A record beyond any real size.
    #[error(
        "record at byte {offset_bytes} of {file} claims {len_bytes} bytes, limit {limit_bytes}"
    )]
    RecordTooLong {
        /// File.
        file: String,
        /// Where the record begins.
        offset_bytes: u64,
        /// Length claimed.
        len_bytes: u64,
        /// Limit.
        limit_bytes: u64,
    },
    /// A record that does not follow the schema.
    #[error("{file}, byte {offset_bytes}: {source}")]
    Wire {
        /// File.
        file: String,
        /// Where the fault is.
        offset_bytes: u64,
        /// The fault.
        source: WireError,
    },
    /// A count of records that this kind of image cannot have.
    #[error("{file} holds {found} record(s) where {expected} is expected")]
    Count {
        /// File.
        file: String,
        /// Records found.
        found: usize,
        /// Records expected.
        expected: &'static str,
    },
    /// A record that contradicts itself or another.
    #[error("{file}, byte {offset_bytes}: {reason}")]
    Contradiction {
        /// File.
        file: String,
        /// Where the record begins.
        offset_bytes: u64,
        /// What contradicts what.
        reason: String,
    },
    /// A feature of the format that is not supported yet.
    #[error("{file}: {feature} is not supported yet")]
    Unsupported {
        /// File.
        file: String,
        /// The feature.
        feature: &'static str,
    },
}

impl ImageError {
    /// Its code, by which `docs/errors.md` lists it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Read { .. } => "images.unreadable",
            Self::Manifest(error) => error.code(),
            Self::Missing { .. } => "images.missing",
            Self::UnknownKind { .. } => "images.unknown-kind",
            Self::NoOwner { .. } => "images.no-owner",
            Self::Magic { .. } => "images.magic",
            Self::UnknownMagic { .. } => "images.unknown-magic",
            Self::WrongRecord { .. } => "images.wrong-record",
            Self::Copy { .. } => "convert.data",
            Self::Cut { .. } => "images.cut",
            Self::RecordTooLong { .. } => "images.record-too-long",
            Self::Wire { source, .. } => source.code(),
            Self::Count { .. } => "images.count",
            Self::Contradiction { .. } => "images.contradiction",
            Self::Unsupported { .. } => "images.unsupported",
        }
    }

    /// What can be done about it, where there is something.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::Read { .. } => {
                Some("check the path of the directory, and that this user may read it")
            }
            Self::Manifest(error) => error.help(),
            Self::Missing { .. } => {
                Some("copy the whole directory of the dump again, or dump again")
            }
            Self::UnknownKind { .. } => {
                Some("take it out of the directory if no dump put it there")
            }
            Self::NoOwner { .. } => Some("use a directory that holds the files of one dump only"),
            Self::Magic { .. } => {
                Some("copy the file again: it is damaged, or has the name of another one")
            }
            Self::UnknownMagic { .. } => Some("name an image with records, or copy the file again"),
            Self::WrongRecord { .. } => Some("name an image of the kind that is wanted"),
            Self::Copy { .. } => Some("make room, or write to another place"),
            Self::Cut { .. } => Some("copy the file again, or dump again: its end is missing"),
            Self::RecordTooLong { .. } => Some("copy the file again, or dump again"),
            Self::Wire { source, .. } => source.help(),
            Self::Count { .. } => Some("copy the directory again, or dump again"),
            Self::Contradiction { .. } => {
                Some("use the files of one dump only, as that dump wrote them")
            }
            Self::Unsupported { .. } => {
                Some("restore the checkpoint with criu, or dump without the feature")
            }
        }
    }

    /// Whether something is wrong with the images, rather than not supported.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Unsupported { .. })
    }

    /// The file that it is about, or the directory.
    pub fn file(&self) -> &str {
        match self {
            Self::Manifest(error) => error.file(),
            Self::Read { file, .. }
            | Self::Missing { file, .. }
            | Self::UnknownKind { file }
            | Self::NoOwner { file, .. }
            | Self::Magic { file, .. }
            | Self::UnknownMagic { file, .. }
            | Self::WrongRecord { file, .. }
            | Self::Copy { file, .. }
            | Self::Cut { file, .. }
            | Self::RecordTooLong { file, .. }
            | Self::Wire { file, .. }
            | Self::Count { file, .. }
            | Self::Contradiction { file, .. }
            | Self::Unsupported { file, .. } => file,
        }
    }
}
