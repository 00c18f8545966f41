//! Upstream's crit, of the same version as criu.
//!
//! It is a Python program, and uses this machine's Python with its protobuf library. It is Debian's
//! package: what is called `crit` in Python's package index is another program.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::archive::{self, Apt};
use super::{criu, remove};
use crate::command;

/// Fetches what is not there yet, and returns the words of a command that starts crit.
pub(crate) fn crit() -> Result<Vec<String>, String> {
    let folder = command::root().join("target/peers/crit");
    let packages = folder.join("usr/lib/python3/dist-packages");
    let check = |python: &str| {
        let mut import = Command::new(python);
        import.args(["-c", "import crit, pycriu, google.protobuf"]);
        command::output(import.env("PYTHONPATH", &packages))
    };
    if !folder.is_dir() {
        let archive = archive::address()?;
        let fresh = folder.with_extension("partial");
        let fetched = criu::SUITES.iter().find_map(|suite| {
            eprintln!("xtask: looking for crit in {suite}");
            fetch_suite(&fresh, &archive, suite).ok()
        });
        fetched.ok_or("no package python3-pycriu could be fetched")?;
        fs::rename(&fresh, &folder).map_err(|error| error.to_string())?;
    }
    let pythons = ["python3", "/usr/bin/python3"];
    let python = pythons.into_iter().find(|python| check(python).is_ok());
    let python =
        python.ok_or("this machine's Python has no protobuf library (python3-protobuf)")?;
    let path = format!("PYTHONPATH={}", packages.display());
    Ok(["env", &path, python, "-m", "crit"].map(str::to_owned).to_vec())
}

/// Unpacks crit of a suite, without what it needs: its program is all that is wanted.
fn fetch_suite(folder: &Path, archive: &str, suite: &str) -> Result<(), String> {
    remove(folder)?;
    fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    let apt = Apt::open(&folder.with_extension("apt"), archive, suite)?;
    apt.get(&["download", "python3-pycriu"])?;
    apt.unpack(folder)?;
    apt.close()
}
