//! `thaw dump` of live trees: the summary, its options, the log, reports and progress.

use std::fs;
use std::path::Path;

use crate::scene::{Scene, next_is_pid1};
use crate::support::{Tree, live};

/// A tree of so many processes, and a scene that knows their ids.
pub(crate) fn tree(dir: &Path, processes: usize) -> (Tree, Scene) {
    next_is_pid1();
    let tree = Tree::start(dir, &[&processes.to_string(), "1", "1"]);
    let scene = Scene::live(dir, &tree.pids);
    (tree, scene)
}

/// Folders for images; a dump wants one that is there.
pub(crate) fn folders(scene: &Scene, names: &[&str]) {
    names.iter().for_each(|name| drop(scene.folder(name)));
}

#[test]
fn summary_is_told_at_each_width() {
    live("dump::summary_is_told_at_each_width", |dir| {
        let (tree, mut scene) = tree(dir, 3);
        folders(&scene, &["a", "b", "c", "d", "e"]);
        scene.run("thaw dump -R -t PID1 -D a --width 40");
        scene.run("thaw dump -R -t PID1 -D b --width 80");
        scene.run("thaw dump -R -t PID1 -D c --width 140 --color always");
        scene.run("NO_COLOR=1 thaw dump -R -t PID1 -D d --color auto");
        scene.run("thaw dump -t PID1 -D e --color=never");
        tree.reap();
        scene.shot("dump_summary");
    });
}

#[test]
fn options_are_taken() {
    live("dump::options_are_taken", |dir| {
        let (tree, mut scene) = tree(dir, 1);
        folders(&scene, &["a", "b", "c", "d", "work"]);
        scene.run("thaw dump --leave-running --tree PID1 --images-dir a --shell-job --link-remap");
        scene.run("thaw dump -R -t PID1 -D b -j --ghost-limit 2M --manage-cgroups=ignore");
        scene.run(
            "thaw dump -R -t PID1 -D c --timeout 60 --workers 2 --work-dir work -o x.log; ls work",
        );
        scene.run("thaw dump -s -t PID1 -D d; ls d");
        scene.run("grep State /proc/PID1/status");
        scene.run("thaw dump --leave-stopped -t PID1 -D d");
        tree.kill();
        scene.shot("dump_options");
    });
}

#[test]
fn log_has_what_was_asked_for() {
    live("dump::log_has_what_was_asked_for", |dir| {
        let (tree, mut scene) = tree(dir, 1);
        folders(&scene, &["a", "b", "c", "d", "e"]);
        scene.run("thaw dump -R -t PID1 -D a -v4 -o dump.log").file("a/dump.log");
        scene.run("thaw dump -R -t PID1 -D b -v0");
        scene.run("thaw dump -R -t PID1 -D c -v1");
        scene.run("thaw dump -R -t PID1 -D d -v");
        scene.run("thaw dump -R -t PID1 -D e --verbosity=4 --log-file dump.log");
        scene.run("thaw dump -R -t PID1 -D e -v0");
        tree.kill();
        scene.shot("dump_log");
    });
}

#[test]
fn programs_are_told_as_well() {
    live("dump::programs_are_told_as_well", |dir| {
        let (tree, mut scene) = tree(dir, 1);
        folders(&scene, &["a", "b", "c"]);
        scene.run("thaw dump -R -t PID1 -D a --json");
        scene.run("thaw dump -R -t PID1 -D b --report dump.json --report dump.html");
        scene.file("dump.json");
        scene.run("head -c 80 dump.html");
        scene.run("thaw dump -R -t PID1 -D c --progress-fd 3 3> progress").lines("progress");
        tree.kill();
        scene.shot("dump_programs");
    });
}

#[test]
fn refusals_are_listed() {
    live("dump::refusals_are_listed", |dir| {
        next_is_pid1();
        let status = dir.join("status");
        let args = [status.to_str().expect("a plain path"), "socket"];
        let tree = Tree::start_program(dir, "workload", &args);
        let mut scene = Scene::live(dir, &tree.pids);
        folders(&scene, &["a"]);
        for width in [40, 80, 140] {
            scene.run(&format!("thaw dump -t PID1 -D a --width {width}"));
        }
        scene.run("thaw dump -t PID1 -D a -o dump.log").file("a/dump.log");
        scene.run("thaw dump -t PID1 -D a --json 2> /dev/null");
        scene.run("thaw dump -t 3999 -D a");
        fs::remove_file(dir.join("a/dump.log")).expect("it was written");
        scene.run("ls a");
        tree.kill();
        scene.shot("dump_refused");
    });
}

#[test]
fn group_to_freeze_must_be_one() {
    live("dump::group_to_freeze_must_be_one", |dir| {
        let (tree, mut scene) = tree(dir, 1);
        folders(&scene, &["a"]);
        scene.run("thaw dump -R -t PID1 -D a --freeze-cgroup nowhere");
        tree.kill();
        scene.shot("dump_freeze");
    });
}
