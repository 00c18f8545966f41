//! `x`: a whole directory of images, as text or JSON.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;

use criu_image::{View, ViewKind};

use super::{FAILED, Failure};

/// What `x` was asked for.
pub(super) struct Explore {
    pub(super) dir: PathBuf,
    pub(super) kind: ViewKind,
    pub(super) json: bool,
}

/// The view with this name.
pub(super) fn kind(name: &OsStr) -> Result<ViewKind, lexopt::Error> {
    let found = ViewKind::NAMES.iter().find(|(known, _)| *known == name);
    found.map(|&(_, kind)| kind).ok_or_else(|| {
        let names = ViewKind::NAMES.map(|(name, _)| name).join(", ");
        format!("{} is none of {names}", name.display()).into()
    })
}

pub(super) fn explore(explore: &Explore) -> Result<(), Failure> {
    let view = View::open(&explore.dir, explore.kind).map_err(|error| Failure::new(&error))?;
    let out = io::stdout().lock();
    written(if explore.json { view.write_json(out) } else { view.write_text(out) })
}

/// Whoever reads may have seen enough.
fn written(result: io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure { code: FAILED, text: None },
        _ => Failure::new(&error),
    })
}
