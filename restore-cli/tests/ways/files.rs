//! Files that a tree needs and that are not as they were.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::harness::{Now, Row, Scene};
use crate::images::{Play, Saved};
use crate::support::eye::Eye;
use crate::support::{Tree, example, live};
use Now::Undone;

pub(crate) fn rows() -> Vec<&'static Row> {
    WAYS.iter().map(|(row, _)| row).collect()
}

/// A file of the tree.
fn path(saved: &Saved, name: &str) -> PathBuf {
    saved.scene.dir.join(name)
}

/// Puts a file away while `body` runs.
fn without(saved: &mut Saved, name: &str, body: impl FnOnce(&mut Saved)) {
    let (path, away) = (path(saved, name), path(saved, "put-away"));
    fs::rename(&path, &away).expect("it is there");
    body(saved);
    let _ = fs::remove_dir(&path);
    let _ = fs::remove_file(&path);
    fs::rename(away, path).expect("it was put away");
}

#[test]
fn files_that_are_not_as_they_were() {
    live("files::files_that_are_not_as_they_were", |dir| {
        let scene = Scene::new(dir, Eye::on(&[dir, "/dev/shm".as_ref()]));
        // The program is a file of the tree as well.
        fs::copy(example("thing"), dir.join("program")).expect("room");
        let program = dir.join("program");
        let tree = Tree::start_answering(dir, program.to_str().expect("a plain path"), &["files"]);
        Saved::new(scene, tree, &[]).go_through(WAYS);
    });
}

const WAYS: &[(Row, Play)] = &[
    (
        Row::restore(
            "program missing",
            (1, "files.missing", Undone),
            &["/program", "ENOENT", "as it was at the dump"],
        ),
        |saved| without(saved, "program", |saved| saved.fails(&[])),
    ),
    (
        Row::restore(
            "program of another build",
            (1, "files.size", Undone),
            &["/program", "bytes", "put the file of the dump back"],
        ),
        |saved| {
            without(saved, "program", |saved| {
                fs::copy(example("blocked"), path(saved, "program")).expect("room");
                saved.fails(&[]);
            });
        },
    ),
    (
        Row::restore(
            "file of another size",
            (1, "files.size", Undone),
            &["/plain has", "20 bytes, the checkpoint 19", "put the file of the dump back"],
        ),
        |saved| {
            let path = path(saved, "plain");
            let contents = fs::read(&path).expect("it is there");
            fs::write(&path, [&contents[..], b"!"].concat()).expect("room");
            saved.fails(&[]);
            fs::write(&path, contents).expect("room");
        },
    ),
    (
        Row::restore(
            "file of another mode",
            (1, "files.mode", Undone),
            &["/plain has", "0o100600", "put the file of the dump back"],
        ),
        |saved| {
            let path = path(saved, "plain");
            let mode = fs::metadata(&path).expect("it is there").permissions();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
            saved.fails(&[]);
            fs::set_permissions(&path, mode).expect("it is ours");
        },
    ),
    (
        Row::restore(
            "directory where a file was",
            (1, "files.mode", Undone),
            &["/plain", "put the file of the dump back"],
        ),
        |saved| {
            without(saved, "plain", |saved| {
                fs::create_dir(path(saved, "plain")).expect("room");
                saved.fails(&[]);
            });
        },
    ),
    (
        Row::restore(
            "link to nothing where a file was",
            (1, "files.missing", Undone),
            &["/plain", "ENOENT", "as it was at the dump"],
        ),
        |saved| {
            without(saved, "plain", |saved| {
                std::os::unix::fs::symlink("nowhere", path(saved, "plain")).expect("room");
                saved.fails(&[]);
            });
        },
    ),
    (
        Row::restore(
            "fifo where a file was",
            (1, "files.mode", Undone),
            &["/plain", "put the file of the dump back"],
        ),
        |saved| {
            without(saved, "plain", |saved| {
                mkfifo(&path(saved, "plain"), Mode::S_IRUSR | Mode::S_IWUSR).expect("room");
                saved.fails(&[]);
            });
        },
    ),
    (
        Row::restore(
            "file where a fifo was",
            (1, "files.mode", Undone),
            &["/fifo", "put the file of the dump back"],
        ),
        |saved| {
            without(saved, "fifo", |saved| {
                fs::write(path(saved, "fifo"), "").expect("room");
                saved.fails(&[]);
            });
        },
    ),
    (
        Row::restore(
            "working directory gone",
            (1, "files.missing", Undone),
            &["/home", "ENOENT", "as it was at the dump"],
        ),
        |saved| without(saved, "home", |saved| saved.fails(&[])),
    ),
];
