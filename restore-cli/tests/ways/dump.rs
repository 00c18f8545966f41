//! Trees that cannot be dumped, and places that cannot take images. Each tree goes on as it was.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::ptrace;
use nix::unistd::Pid;

use crate::harness::{Now, Row, Scene, run, thaw};
use crate::images::WITHOUT_RIGHTS;
use crate::support::eye::Eye;
use crate::support::{Tree, live};
use Now::{AsItWas, Untouched};

/// A tree that runs, and an empty directory for its images.
pub(crate) struct Living {
    pub(crate) scene: Scene,
    pub(crate) tree: Tree,
    pub(crate) images: PathBuf,
}

impl Living {
    pub(crate) fn new(scene: Scene, tree: Tree) -> Self {
        let images = scene.dir.join("images");
        fs::create_dir_all(&images).expect("a folder");
        Self { scene, tree, images }
    }

    /// A dump of the tree.
    pub(crate) fn dump(&self, args: &[&str]) -> Command {
        self.dump_through(&[], args)
    }

    fn dump_through(&self, through: &[&str], args: &[&str]) -> Command {
        let pid = self.tree.root().to_string();
        let images = self.images.to_str().expect("a plain path");
        thaw(through, &[&["dump", "-t", &pid, "--json", "-D", images], args].concat())
    }

    pub(crate) fn fails(&mut self, args: &[&str]) {
        let command = self.dump(args);
        self.scene.fails(command);
        self.goes_on();
    }

    /// Nothing traces the tree, and all of it answers.
    pub(crate) fn goes_on(&mut self) {
        self.tree.wait_until_untraced();
        if !self.tree.alive_and_no_zombies() {
            return self.scene.note("the tree does not run any more");
        }
        let answers = self.tree.ask();
        if !answers.values().all(|answer| answer.intact) {
            self.scene.note(format!("the tree is damaged: {answers:?}"));
        }
    }
}

type Play = fn(&mut Living);

pub(crate) fn rows() -> Vec<&'static Row> {
    let things = THINGS.iter().map(|(row, _)| row);
    things.chain(WAYS.iter().map(|(row, _)| row)).chain([&OUTSIDE]).collect()
}

/// Things that are not captured, each in a tree of its own.
const THINGS: &[(Row, &str)] = &[
    (
        Row::refused(
            "unix socket",
            "unsupported.unix-socket",
            &["unix socket of process", "close it before the dump"],
        ),
        "unix-socket",
    ),
    (
        Row::refused(
            "port on which a program listens",
            "unsupported.internet-socket",
            &["socket of process", "close it before the dump"],
        ),
        "tcp-port",
    ),
    (
        Row::refused(
            "locked file",
            "unsupported.file-lock",
            &["lock", "/locked", "release it before the dump"],
        ),
        "file-lock",
    ),
    (Row::refused("terminal", "unsupported.terminal", &["/dev/ptmx", "setsid"]), "terminal"),
    (
        Row::refused("inotify", "unsupported.inotify", &["inotify", "close it before the dump"]),
        "inotify",
    ),
    (
        Row::refused(
            "namespace of its own",
            "unsupported.namespace",
            &["uts namespace", "from inside"],
        ),
        "namespace",
    ),
    (
        Row::refused(
            "large deleted file",
            "unsupported.large-deleted-file",
            &["/gone", "--ghost-limit"],
        ),
        "large-deleted-file",
    ),
    (
        Row::refused(
            "file that was renamed",
            "unsupported.renamed-file",
            &["/first-name", "--link-remap"],
        ),
        "renamed-file",
    ),
    (
        Row::dump(
            "session of others",
            (1, "dump.foreign-session", AsItWas),
            &["session", "use --shell-job"],
        ),
        "session-of-another",
    ),
];

#[test]
fn trees_with_things_that_are_not_captured() {
    live("dump::trees_with_things_that_are_not_captured", |dir| {
        nix::unistd::setsid().expect("this process leads no group");
        for (row, kind) in THINGS {
            let dir = dir.join(kind);
            fs::create_dir(&dir).expect("a folder");
            let mut scene = Scene::new(&dir, Eye::on(&[&dir, "/dev/shm".as_ref()]));
            scene.begin(row);
            let tree = Tree::start_answering(&dir, "thing", &[kind]);
            let mut living = Living::new(scene, tree);
            living.fails(&[]);
            living.tree.kill();
            living.scene.end();
        }
    });
}

#[test]
fn dumps_that_cannot_be_made() {
    live("dump::dumps_that_cannot_be_made", |dir| {
        let scene = Scene::new(dir, Eye::on(&[dir, "/dev/shm".as_ref()]));
        let mut living = Living::new(scene, Tree::start(dir, &["3", "4", "1"]));
        for (row, play) in WAYS {
            living.scene.begin(row);
            play(&mut living);
        }
        // The same tree can be dumped after all that, and lives on in its images.
        let images = living.images.clone();
        living.tree.dump(&images, crate::support::Dumper::Own);
        living.tree.restore(&images);
        living.goes_on();
        living.tree.kill();
        living.scene.end();
    });
}

/// A file system of this size in the place of the images.
fn with_disk(living: &mut Living, options: &str, body: impl FnOnce(&mut Living)) {
    let images = living.images.to_str().expect("a plain path").to_owned();
    run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", &images]);
    body(living);
    run("umount", &[&images]);
}

const WAYS: &[(Row, Play)] = &[
    (
        Row::dump("no such process", (1, "dump.no-process", AsItWas), &["no process", "namespace"]),
        |living| {
            let images = living.images.to_str().expect("a plain path");
            let args = ["dump", "-t", "30000", "--json", "-D", images];
            let command = thaw(&[], &args);
            living.scene.fails(command);
        },
    ),
    (
        Row::dump(
            "traced by another program",
            (1, "dump.traced", AsItWas),
            &["is traced by process", "end the tracer first"],
        ),
        |living| {
            let pid = Pid::from_raw(living.tree.pids[1]);
            ptrace::seize(pid, ptrace::Options::empty()).expect("nobody else does");
            let command = living.dump(&[]);
            living.scene.fails(command);
            ptrace::interrupt(pid).expect("it is ours");
            nix::sys::wait::waitpid(pid, None).expect("it stops");
            ptrace::detach(pid, None).expect("it has stopped");
            living.goes_on();
        },
    ),
    (
        Row::dump(
            "images there already",
            (1, "dump.occupied", AsItWas),
            &["/inventory.img is there already", "without images"],
        ),
        |living| {
            let old = living.images.join("inventory.img");
            fs::write(&old, "of another dump").expect("room");
            living.fails(&[]);
            fs::remove_file(old).expect("it stays");
        },
    ),
    (
        Row::dump(
            "no directory for the images",
            (1, "dump.write", AsItWas),
            &["/images", "No such file", "directory is there"],
        ),
        |living| {
            fs::remove_dir(&living.images).expect("it is empty");
            living.fails(&[]);
            fs::create_dir(&living.images).expect("a folder");
        },
    ),
    (
        Row::dump(
            "file in the place of the directory",
            (1, "dump.write", AsItWas),
            &["/images", "Not a directory", "directory is there"],
        ),
        |living| {
            fs::remove_dir(&living.images).expect("it is empty");
            fs::write(&living.images, "no directory").expect("room");
            living.fails(&[]);
            fs::remove_file(&living.images).expect("it stays");
            fs::create_dir(&living.images).expect("a folder");
        },
    ),
    (
        Row::dump(
            "disk full",
            (1, "dump.no-space", AsItWas),
            &["/images", "No space left", "make room"],
        )
        .varies("cannot write DIR/images/.thaw-dump-N/FILE: No space left on device (os error 28)"),
        |living| with_disk(living, "size=3000k", |living| living.fails(&[])),
    ),
    (
        Row::dump(
            "disk full at once",
            (1, "dump.no-space", AsItWas),
            &["/images", "No space left", "make room"],
        )
        .varies("cannot write DIR/images/.thaw-dump-N/FILE: No space left on device (os error 28)"),
        |living| with_disk(living, "nr_inodes=3", |living| living.fails(&[])),
    ),
    (
        Row::dump(
            "disk that cannot be written to",
            (1, "dump.write", AsItWas),
            &["/images", "Read-only file system"],
        ),
        |living| with_disk(living, "ro", |living| living.fails(&[])),
    ),
    (Row::dump("no rights to dump", (1, "dump.denied", AsItWas), &["CAP_SYS_PTRACE"]), |living| {
        let command = living.dump_through(&WITHOUT_RIGHTS, &[]);
        living.scene.fails(command);
        living.goes_on();
    }),
    (
        Row::dump("files may not be so large", (1, "dump.write", AsItWas), &["File too large"])
            .varies("cannot write DIR/images/.thaw-dump-N/FILE: File too large (os error 27)")
            .command("prlimit --fsize=1M thaw dump -t PID -D DIR"),
        |living| {
            let command = living.dump_through(&["prlimit", "--fsize=1048576"], &[]);
            living.scene.fails(command);
            living.goes_on();
        },
    ),
    (
        Row::dump(
            "few descriptors for a dump",
            (1, "dump.descriptors", AsItWas),
            &["Too many open files", "ulimit -n"],
        )
        .varies("cannot read /proc/N/FILE: Too many open files (os error 24)")
        .command("prlimit --nofile=10 thaw dump -t PID -D DIR"),
        |living| {
            let command = living.dump_through(&["prlimit", "--nofile=10"], &[]);
            living.scene.fails(command);
            living.goes_on();
        },
    ),
    (
        Row::dump("no /proc for a dump", (1, "dump.no-proc", AsItWas), &["/proc", "mount -t proc"]),
        |living| {
            let script = "umount -l /proc; umount -l /proc; exec \"$@\"";
            let through = ["unshare", "--mount", "sh", "-c", script, "sh"];
            let command = living.dump_through(&through, &[]);
            living.scene.fails(command);
            living.goes_on();
        },
    ),
    (
        Row::dump(
            "/proc of another pid namespace for a dump",
            (1, "dump.no-proc", AsItWas),
            &["/proc", "mount -t proc"],
        ),
        |living| {
            // Below the one of this namespace lies the one from outside.
            let script = "umount -l /proc; exec \"$@\"";
            let through = ["unshare", "--mount", "sh", "-c", script, "sh"];
            let command = living.dump_through(&through, &[]);
            living.scene.fails(command);
            living.goes_on();
        },
    ),
    (
        Row::dump(
            "control group that cannot be frozen",
            (1, "dump.no-freezer", AsItWas),
            &["/images is no control group", "cgroup.freeze"],
        )
        .command("thaw dump --freeze-cgroup DIR"),
        |living| {
            let group = living.images.to_str().expect("a plain path").to_owned();
            living.fails(&["--freeze-cgroup", &group]);
        },
    ),
    (
        Row::dump(
            "incremental images",
            (2, "usage.refused", Untouched),
            &["--track-mem", "not supported"],
        )
        .command("thaw dump --track-mem"),
        |living| living.fails(&["--track-mem"]),
    ),
];

/// A tree that runs in a session that was begun outside of this pid namespace, as this test does.
#[test]
fn tree_in_a_session_from_outside() {
    live("dump::tree_in_a_session_from_outside", |dir| {
        let mut scene = Scene::new(dir, Eye::on(&[dir]));
        scene.begin(&OUTSIDE);
        let tree = Tree::start_answering(dir, "thing", &["session-of-another"]);
        let mut living = Living::new(scene, tree);
        living.fails(&["--shell-job"]);
        living.tree.kill();
        living.scene.end();
    });
}

static OUTSIDE: Row = Row::dump(
    "session from outside of the pid namespace",
    (1, "dump.outside-session", AsItWas),
    &["session", "outside of its pid namespace", "setsid"],
)
.command("thaw dump --shell-job -t PID -D DIR");
