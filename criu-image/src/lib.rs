//! Images.
/// Generated.
#[allow(missing_docs)]
pub mod record { include!(concat!(env!("OUT_DIR"), "/records.rs")); }
