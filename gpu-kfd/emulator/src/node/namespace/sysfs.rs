//! Files shown in `/sys`: each folder that must hold more than it does is covered by an overlay.
//!
//! The overlay has two lower layers, our files and the real folder, and no upper one: nothing below
//! it can be written, settings of devices included. Files have the sizes of their contents, where
//! sysfs says 4096.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use super::{NamespaceError, failed};
use crate::node::raw;
use crate::products::{Entry, Sysfs};

/// Folders of a real driver, whose contents must not be mixed with the node's.
const REAL: [&str; 4] =
    ["/sys/class/drm", "/sys/class/kfd", "/sys/devices/virtual/kfd", "/sys/module/amdgpu"];

/// Shows a tree below `/sys`; `keep` is a folder of ours for what the overlays are made of.
pub(super) fn show(tree: &Sysfs, keep: &Path) -> Result<(), NamespaceError> {
    let exists = |path: &Path| path.is_dir();
    let hidden: Vec<&Path> = REAL.iter().map(Path::new).filter(|path| exists(path)).collect();
    let files = tree.iter().filter(|(_, entry)| **entry != Entry::Dir).map(|(path, _)| path);
    for (number, place) in places(files, &hidden, &exists).iter().enumerate() {
        let ours = keep.join(format!("sys{number}"));
        fill(tree, &hidden, place, &ours)?;
        let text = place.to_string_lossy();
        let options = format!("lowerdir={}:{}", escaped(&ours), escaped(place));
        mount(Some("kfd-emulator"), place, Some("overlay"), MsFlags::empty(), Some(&*options))
            .map_err(failed("mount an overlay at", &text))?;
    }
    Ok(())
}

/// The folders to cover: for each file the deepest one that exists and of which nothing is hidden;
/// none of them lies in another.
fn places<'a>(
    files: impl Iterator<Item = &'a Path>,
    hidden: &[&Path],
    exists: &dyn Fn(&Path) -> bool,
) -> BTreeSet<PathBuf> {
    let fits =
        |place: &&Path| exists(place) && !hidden.iter().any(|hidden| place.starts_with(hidden));
    let place_of = |path: &'a Path| {
        path.ancestors().skip(1).find(fits).unwrap_or(Path::new("/sys")).to_owned()
    };
    let places: BTreeSet<PathBuf> = files.map(place_of).collect();
    let nested = |place: &PathBuf| place.ancestors().skip(1).any(|above| places.contains(above));
    places.iter().filter(|place| !nested(place)).cloned().collect()
}

/// Makes the layer that holds our files below `place`.
fn fill(tree: &Sysfs, hidden: &[&Path], place: &Path, ours: &Path) -> Result<(), NamespaceError> {
    fs::create_dir(ours).map_err(failed("make", &ours.to_string_lossy()))?;
    for (path, entry) in tree.iter() {
        let Some(at) = inside(path, place, ours) else { continue };
        let text = at.to_string_lossy();
        match entry {
            Entry::Dir => fs::create_dir(&at).map_err(failed("make", &text))?,
            Entry::File(content) => fs::write(&at, content).map_err(failed("write", &text))?,
            Entry::Link(to) => symlink(to, &at).map_err(failed("make the link", &text))?,
        }
    }
    for path in hidden {
        let Some(at) = inside(path, place, ours) else { continue };
        let text = at.to_string_lossy();
        fs::create_dir_all(&at).map_err(failed("make", &text))?;
        raw::make_opaque(&at).map_err(failed("hide what is below", &text))?;
    }
    Ok(())
}

/// Where in our layer a path stands that lies within `place`.
fn inside(path: &Path, place: &Path, ours: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(place).ok()?;
    (!rest.as_os_str().is_empty()).then(|| ours.join(rest))
}

/// A path as it stands in the options of an overlay.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for char in path.to_string_lossy().chars() {
        if [':', ',', '\\'].contains(&char) {
            text.push('\\');
        }
        text.push(char);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::{escaped, places};

    const KFD: &str = "/sys/devices/virtual/kfd/kfd/topology/generation_id";

    fn check(files: &[&str], hidden: &[&str], existing: &[&str], expected: &[&str]) {
        let hidden: Vec<&Path> = hidden.iter().map(Path::new).collect();
        let exists = |path: &Path| existing.iter().any(|known| Path::new(known).starts_with(path));
        let places = places(files.iter().map(Path::new), &hidden, &exists);
        let expected: BTreeSet<PathBuf> = expected.iter().map(PathBuf::from).collect();
        assert_eq!(places, expected);
    }

    #[test]
    fn the_deepest_folder_that_exists_is_covered() {
        check(&[KFD], &[], &["/sys/devices/virtual/net"], &["/sys/devices/virtual"]);
        check(&[KFD], &[], &["/sys/class"], &["/sys"]);
        check(
            &[KFD, "/sys/class/kfd/kfd", "/sys/module/amdgpu/initstate"],
            &[],
            &["/sys/devices/virtual/net", "/sys/class/net", "/sys/module/fuse"],
            &["/sys/devices/virtual", "/sys/class", "/sys/module"],
        );
    }

    #[test]
    fn places_do_not_lie_in_each_other() {
        let files = ["/sys/class/kfd/kfd", "/sys/class/drm/renderD128"];
        check(&files, &[], &["/sys/class/drm"], &["/sys/class"]);
    }

    #[test]
    fn what_is_hidden_is_covered_from_above() {
        let real = "/sys/devices/virtual/kfd/kfd/topology/nodes/1";
        check(&[KFD], &["/sys/devices/virtual/kfd"], &[real], &["/sys/devices/virtual"]);
    }

    #[test]
    fn separators_in_paths_are_escaped() {
        let path = Path::new("/sys/devices/pci0000:00/a,b");
        assert_eq!(escaped(path), r"/sys/devices/pci0000\:00/a\,b");
    }
}
