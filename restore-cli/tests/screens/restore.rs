//! `thaw restore` of small trees: the summary, its options, the log, reports and progress.

use std::path::Path;

use crate::dump::{folders, tree};
use crate::scene::Scene;
use crate::support::{Tree, live};

/// A tree that lives on in `images`.
pub(crate) fn dumped(dir: &Path, processes: usize) -> (Tree, Scene) {
    let (tree, mut scene) = tree(dir, processes);
    folders(&scene, &["images"]);
    scene.prepare("thaw dump -t PID1 -D images");
    tree.reap();
    (tree, scene)
}

/// A restore, after which the tree is ended.
pub(crate) fn again(tree: &Tree, scene: &mut Scene, line: &str) {
    scene.run(line);
    tree.kill();
}

#[test]
fn summary_is_told_at_each_width() {
    live("restore::summary_is_told_at_each_width", |dir| {
        let (tree, mut scene) = dumped(dir, 3);
        for line in [
            "thaw restore -d -D images --width 40",
            "thaw restore -d -D images --width 80",
            "thaw restore -d -D images --width 140 --color always",
            "thaw restore -d -D images",
        ] {
            again(&tree, &mut scene, line);
        }
        scene.shot("restore_summary");
    });
}

#[test]
fn options_are_taken() {
    live("restore::options_are_taken", |dir| {
        let (tree, mut scene) = dumped(dir, 1);
        folders(&scene, &["work"]);
        for line in [
            "thaw restore --restore-detached --images-dir images --pidfile pid; cat pid",
            "thaw restore -d -D images --pidfile pid",
            "thaw restore -d -S -D images -j --manage-cgroups=ignore",
            "thaw restore -d --restore-sibling -D images --shell-job --huge-pages never",
            "thaw restore -d -D images --timeout 60 --workers 1 -W work -o x.log; ls work",
            "thaw restore -d --leave-stopped -D images; grep State /proc/PID1/status",
            "thaw restore -d -s -D images",
            "thaw restore -D images --pidfile attached & until [ -s attached ]; do :; done; \
             kill -KILL PID1; wait $!",
        ] {
            again(&tree, &mut scene, line);
        }
        scene.shot("restore_options");
    });
}

#[test]
fn log_has_what_was_asked_for() {
    live("restore::log_has_what_was_asked_for", |dir| {
        let (tree, mut scene) = dumped(dir, 1);
        again(&tree, &mut scene, "thaw restore -d -D images -v4 --workers 1 -o restore.log");
        scene.file("images/restore.log");
        again(&tree, &mut scene, "thaw restore -d -D images --verbosity=0");
        again(&tree, &mut scene, "thaw restore -d -D images -v1");
        again(&tree, &mut scene, "thaw restore -d -D images -v");
        scene.shot("restore_log");
    });
}

#[test]
fn programs_are_told_as_well() {
    live("restore::programs_are_told_as_well", |dir| {
        let (tree, mut scene) = dumped(dir, 1);
        again(&tree, &mut scene, "thaw restore -d -D images --json");
        let line = "thaw restore -d -D images --report restore.json --report restore.html";
        again(&tree, &mut scene, line);
        scene.file("restore.json").run("head -c 80 restore.html");
        again(&tree, &mut scene, "thaw restore -d -D images --progress-fd 3 3> progress");
        scene.lines("progress");
        again(&tree, &mut scene, "thaw restore -d -D images --trace run.jsonl");
        scene.lines("run.jsonl");
        scene.shot("restore_programs");
    });
}

#[test]
fn failures_are_one_screen() {
    live("restore::failures_are_one_screen", |dir| {
        let (tree, mut scene) = dumped(dir, 1);
        again(&tree, &mut scene, "thaw restore -d -D images");
        scene.prepare("thaw restore -d -D images");
        for width in [40, 80, 140] {
            scene.run(&format!("thaw restore -d -D images --width {width}"));
        }
        scene.run("thaw restore -d -D images -o restore.log -v1").file("images/restore.log");
        scene.run("thaw restore -d -D images --json 2> /dev/null");
        scene.run("thaw restore -d -D images --color always");
        tree.kill();
        scene.prepare("truncate -s -4096 images/pages-1.img");
        scene.run("thaw restore -d -D images");
        scene.shot("restore_failures");
    });
}
