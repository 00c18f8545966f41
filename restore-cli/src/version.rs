//! Which thaw this is: for `--version`, reports and man pages.

use std::sync::LazyLock;

/// Revision of the source in git; empty if it was built from something else.
const REVISION: &str = env!("THAW_REVISION");

/// Number and revision.
pub(crate) static SHORT: LazyLock<String> = LazyLock::new(|| match REVISION {
    "" => env!("CARGO_PKG_VERSION").to_owned(),
    revision => format!("{} ({revision})", env!("CARGO_PKG_VERSION")),
});

/// The same with what it speaks.
pub(crate) static LONG: LazyLock<String> = LazyLock::new(|| {
    format!(
        "{}\nimages: CRIU 4.2\nkernel interfaces: Linux 6.7 for dumps, KFD 1.8 to 1.18 for GPUs",
        *SHORT
    )
});
