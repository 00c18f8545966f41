//! Areas of codes: what each is about, and the exit status that `thaw` has for it.

/// An area, in the order of the list.
pub(super) struct Area {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// Exit status, with what it depends on.
    pub(super) status: &'static str,
}

const fn area(name: &'static str, title: &'static str, status: &'static str) -> Area {
    Area { name, title, status }
}

const IMAGES: &str = "3; `thaw image` has 3 for what `verify` finds, and 1 otherwise";
const MANIFEST: &str = "3; 1 where a restore had begun, and was undone; `thaw image` has 3 for \
                        what `verify` finds, and 1 otherwise";

/// All areas.
pub(super) const AREAS: &[Area] = &[
    area("usage", "The command line is wrong", "2"),
    area(
        "schedule",
        "An order that was asked for is not a legal one",
        "2; `thaw` shows `usage.schedule` for all of them",
    ),
    area("images", "Image files", IMAGES),
    area("manifest", "Image files are not as the dump wrote them", MANIFEST),
    area("unsupported", "Things that are not captured or not restored", "4"),
    area("host", "This host cannot take the checkpoint", "4"),
    area("gpu", "The GPUs of the checkpoint have no match here", "4"),
    area("topology", "The list of this host's GPUs", "4; 1 in a dump"),
    area("tree", "Sessions and process groups", "4"),
    area("plan", "The order of device files", "4"),
    area("restore", "A restore failed and was undone", "1"),
    area("files", "A file of the tree could not be opened", "1"),
    area("device", "A device file could not do what it was asked", "1"),
    area("task", "A process did not do what it was asked", "1"),
    area("dump", "A dump failed and was undone", "1"),
    area("undo", "Something could not be undone", "5"),
    area("output", "What `thaw` writes for its caller", "1"),
    area("convert", "Images as JSON and back", "1"),
    area("node", "An emulated node", "1"),
];

/// Codes whose exit status is not their area's: they are found when a restore has begun.
const OTHERWISE: &[(&str, &str)] =
    &[("host.id-taken", "1"), ("host.no-privilege", "1"), ("host.setup", "1")];

/// The area of a code.
pub(super) fn of(code: &str) -> Option<&'static Area> {
    let (name, _) = code.split_once('.')?;
    AREAS.iter().find(|area| area.name == name)
}

/// The exit status of a code if it is not its area's.
pub(super) fn status_of(code: &str) -> Option<&'static str> {
    OTHERWISE.iter().find(|(other, _)| *other == code).map(|(_, status)| *status)
}
