//! AMD's user-space libraries: what must run on the emulated node without a change.
//!
//! They come from the suite of the running system, so that they go with its C library.

use std::fs;
use std::path::{Path, PathBuf};

use super::archive::{self, Apt};
use super::remove;
use crate::command;

/// What is unpacked: a program, the libraries that it loads, headers to build tests against.
const PACKAGES: [&str; 10] = [
    "rocminfo",
    "libhsa-runtime64-1",
    "libhsakmt1",
    "libhsakmt-dev",
    "libdrm-common",
    "libdrm2",
    "libdrm-amdgpu1",
    "libdrm-dev",
    "libelf1",
    "libnuma1",
];

/// Written last: the version of what is unpacked beside it.
const STAMP: &str = "version";

/// Where a package says its version when it is unpacked.
const LIBRARY: &str = "usr/lib/x86_64-linux-gnu/libhsakmt.so.1";

/// Fetches what is not there yet.
pub(super) fn fetch() -> Result<PathBuf, String> {
    let io = |error: std::io::Error| error.to_string();
    let peers = command::root().join("target/peers");
    let (complete, fresh) = (peers.join("rocm"), peers.join("rocm.partial"));
    if complete.join(STAMP).is_file() {
        return Ok(complete);
    }
    let (archive, suite) = (archive::address()?, archive::own_suite()?);
    eprintln!("xtask: looking for rocminfo and libhsakmt in {suite}");
    remove(&fresh)?;
    fs::create_dir_all(&fresh).map_err(io)?;
    let apt = Apt::open(&fresh.join("apt"), &archive, &suite)?;
    apt.get(&[&["download"], &PACKAGES[..]].concat())?;
    apt.unpack(&fresh)?;
    apt.close()?;
    let file = fs::read_link(fresh.join(LIBRARY)).map_err(|error| format!("{LIBRARY}: {error}"))?;
    fs::write(fresh.join(STAMP), format!("{} ({suite})\n", file.display())).map_err(io)?;
    remove(&complete)?;
    fs::rename(&fresh, &complete).map_err(io)?;
    Ok(complete)
}

/// What is there.
pub(super) fn version(rocm: &Path) -> Result<String, String> {
    let text = fs::read_to_string(rocm.join(STAMP)).map_err(|error| error.to_string())?;
    Ok(text.trim().to_owned())
}
