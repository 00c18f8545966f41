//! Hosts that cannot take a checkpoint, or do not let thaw do it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::harness::{Now, Row, Scene, run};
use crate::images::{Play, Saved, WITHOUT_RIGHTS};
use crate::support::eye::{Eye, next_pid};
use crate::support::{Tree, live};
use Now::{Undone, Untouched};

pub(crate) fn rows() -> Vec<&'static Row> {
    WAYS.iter().map(|(row, _)| row).chain(OTHERS).collect()
}

#[test]
fn hosts_that_cannot_take_a_checkpoint() {
    live("host::hosts_that_cannot_take_a_checkpoint", |dir| {
        let scene = Scene::new(dir, Eye::on(&[dir, "/dev/shm".as_ref()]));
        let tree = Tree::start(dir, &["2", "1", "1"]);
        Saved::new(scene, tree, &[]).go_through(WAYS);
    });
}

/// What images say of the data of the vdso among the mappings.
const VVAR: u64 = 1 << 12;

/// A program with this id.
fn occupy(pid: i32) -> Child {
    next_pid(pid as u32 - 1);
    let mut sleep = Command::new("sleep");
    let child = sleep.arg("600").stdin(Stdio::null()).spawn().expect("it is everywhere");
    assert_eq!(child.id() as i32, pid, "ids are given in turn");
    child
}

/// A restore in a mount namespace where this was done to `/proc`.
fn without_proc(saved: &mut Saved, script: &str) {
    let command = saved.restore_through(&["unshare", "--mount", "sh", "-c", script, "sh"], &[]);
    saved.scene.fails(command);
}

fn end(mut child: Child) {
    child.kill().expect("it runs");
    child.wait().expect("it is ours");
}

const WAYS: &[(Row, Play)] = &[
    (
        Row::restore(
            "id of the root taken",
            (1, "host.id-taken", Undone),
            &["in use by", "sleep", "end it", "unshare"],
        ),
        |saved| {
            let other = occupy(saved.tree.root());
            saved.fails(&[]);
            end(other);
        },
    ),
    (
        Row::restore(
            "id of a child taken",
            (1, "host.id-taken", Undone),
            &["in use by", "sleep", "end it"],
        ),
        |saved| {
            let other = occupy(saved.tree.pids[1]);
            saved.fails(&[]);
            end(other);
        },
    ),
    (
        Row::restore(
            "id of a thread taken",
            (1, "host.id-taken", Undone),
            &["in use by", "sleep", "end it"],
        ),
        |saved| {
            // Images of threads have their ids; the highest is that of a thread beside the first.
            let names = fs::read_dir(&saved.images).expect("a folder").flatten();
            let tids = names.filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                name.strip_prefix("core-")?.strip_suffix(".img")?.parse().ok()
            });
            let tid = tids.max().filter(|tid| !saved.tree.pids.contains(tid));
            let other = occupy(tid.expect("a tree with threads"));
            saved.fails(&[]);
            end(other);
        },
    ),
    (
        Row::restore(
            "no rights to restore",
            (1, "host.no-privilege", Undone),
            &["EPERM", "CAP_CHECKPOINT_RESTORE"],
        ),
        |saved| {
            let command = saved.restore_through(&WITHOUT_RIGHTS, &[]);
            saved.scene.fails(command);
        },
    ),
    (
        Row::restore(
            "few descriptors for a restore",
            (1, "files.descriptors", Undone),
            &["EMFILE", "raise the limit"],
        )
        .varies("open of FILE failed: EMFILE: Too many open files; raise the limit of open files")
        .command("prlimit --nofile=12 thaw restore -D DIR"),
        |saved| {
            let command = saved.restore_through(&["prlimit", "--nofile=12"], &[]);
            saved.scene.fails(command);
        },
    ),
    (
        Row::restore(
            "no descriptors at all",
            (1, "host.setup", Untouched),
            &["Too many open files", "ulimit -n"],
        )
        .command("prlimit --nofile=4 thaw restore -D DIR"),
        |saved| {
            let command = saved.restore_through(&["prlimit", "--nofile=4"], &[]);
            saved.scene.fails(command);
        },
    ),
    (
        Row::restore(
            "little address space",
            (1, "task.no-memory", Undone),
            &["ENOMEM", "raise the limit"],
        )
        .command("prlimit --as=64M thaw restore -D DIR"),
        |saved| {
            let command = saved.restore_through(&["prlimit", "--as=67108864"], &[]);
            saved.scene.fails(command);
        },
    ),
    (
        Row::restore(
            "no /proc for a restore",
            (4, "host.proc", Untouched),
            &["/proc", "No such file", "mount -t proc"],
        ),
        |saved| without_proc(saved, "umount -l /proc; umount -l /proc; exec \"$@\""),
    ),
    (
        Row::restore(
            "/proc of another pid namespace for a restore",
            (4, "host.proc", Untouched),
            &["/proc is that of another pid namespace", "mount -t proc"],
        ),
        // Below the one of this namespace lies the one from outside.
        |saved| without_proc(saved, "umount -l /proc; exec \"$@\""),
    ),
    (
        Row::restore(
            "vdso of another size",
            (4, "host.vdso-size", Untouched),
            &["vdso", "restore on the kernel of the dump"],
        ),
        |saved| {
            saved.without_manifest();
            for begin in saved.tree.pids.iter().map(|pid| format!("mm-{pid}.img")) {
                saved.edit_json(&begin, |json| {
                    let vmas = json["entries"][0]["vmas"].as_array_mut().expect("a list");
                    // Some kernels have more of it than others.
                    vmas.retain(|vma| vma["status"].as_u64().is_some_and(|s| s & VVAR == 0));
                });
            }
            saved.fails(&[]);
        },
    ),
];

/// Rows that need a tree of their own.
const OTHERS: &[Row] = &[
    Row::restore(
        "session of another",
        (4, "tree.foreign-session", Untouched),
        &["session", "--shell-job"],
    ),
    Row::restore(
        "control groups",
        (4, "unsupported.images", Untouched),
        &["cgroup.img", "--manage-cgroups=ignore"],
    )
    .item("unsupported.control-groups"),
    Row::restore(
        "file system that cannot be written to",
        (1, "files.read-only", Undone),
        &["EROFS", "/disk/", "written to"],
    ),
    Row::restore(
        "no room for a deleted file",
        (1, "files.no-space", Undone),
        &["ENOSPC", "/disk/", "make room"],
    ),
];

#[test]
fn tree_in_a_session_of_another_needs_an_option() {
    live("host::tree_in_a_session_of_another_needs_an_option", |dir| {
        let scene = Scene::new(dir, Eye::on(&[dir]));
        nix::unistd::setsid().expect("this process leads no group");
        let tree = Tree::start_answering(dir, "thing", &["session-of-another"]);
        let mut saved = Saved::new(scene, tree, &["--shell-job"]);
        saved.scene.begin(&OTHERS[0]);
        saved.fails(&[]);
        saved.restores_well(&["--shell-job"]);
        saved.scene.end();
    });
}

#[test]
fn tree_in_control_groups_needs_an_option() {
    live("host::tree_in_control_groups_needs_an_option", |dir| {
        let mut scene = Scene::new(dir, Eye::on(&[dir]));
        scene.begin(&OTHERS[1]);
        let tree = Tree::start(dir, &["1", "0", "0"]);
        let Some(group) = crate::support::own_group(&tree) else {
            scene.skip("no control groups of version 2 can be made here");
            tree.kill();
            return scene.end();
        };
        let mut saved = Saved::new(scene, tree, &[]);
        saved.fails(&[]);
        saved.restores_well(&["--manage-cgroups=ignore"]);
        saved.scene.end();
        fs::remove_dir(&group).expect("it is empty");
    });
}

#[test]
fn file_system_of_a_deleted_file_must_take_it() {
    live("host::file_system_of_a_deleted_file_must_take_it", |dir| {
        let disk = dir.join("disk");
        fs::create_dir(&disk).expect("a folder");
        let mounted = disk.to_str().expect("a plain path");
        let mount = |options: &str| run("mount", &["-o", options, mounted]);
        run("mount", &["-t", "tmpfs", "-o", "size=256k", "tmpfs", mounted]);
        let scene = Scene::new(dir, Eye::on(&[dir]));
        let tree = start_on(&disk);
        let mut saved = Saved::new(scene, tree, &[]);
        saved.scene.begin(&OTHERS[2]);
        mount("remount,ro");
        saved.fails(&[]);
        mount("remount,rw");
        saved.restores_well(&[]);
        saved.scene.begin(&OTHERS[3]);
        let filler = disk.join("filler");
        let _ = fs::write(&filler, vec![0; 1 << 20]).expect_err("there is not so much room");
        saved.fails(&[]);
        fs::remove_file(filler).expect("it was made");
        saved.restores_well(&[]);
        saved.scene.end();
        run("umount", &[mounted]);
    });
}

/// A program with a deleted file on that file system.
fn start_on(disk: &Path) -> Tree {
    Tree::start_answering(disk, "thing", &["deleted-file"])
}
