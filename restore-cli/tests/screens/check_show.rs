//! `thaw check` and `thaw show`: before a restore, and without one.

use crate::restore::dumped;
use crate::scene::Scene;
use crate::support::live;

#[test]
fn checkpoints_are_shown_at_each_width() {
    let mut scene = Scene::fixed();
    // A copy, with a time of its own that is the same each time.
    scene.prepare("cp -r fixtures/gpu-tree images && touch -d 2026-01-01T00:00:00Z images/*");
    for width in [40, 80, 140] {
        scene.run(&format!("thaw show -D images --width {width}"));
        scene.run(&format!("thaw show -D images --process 28870 --width {width}"));
    }
    scene.run("thaw show --images-dir images --color always");
    scene.run("thaw show -D images --color always --process 28866 | head -n 12");
    scene.run("thaw show -D images --json");
    scene.run("thaw show -D images --process 28870 --json | head -c 800");
    scene.run("thaw show -D images --process 1");
    scene.run("thaw show -D images --process root");
    scene.shot("show");
}

#[test]
fn live_checkpoints_are_shown_and_checked() {
    live("check_show::live_checkpoints_are_shown_and_checked", |dir| {
        let (tree, mut scene) = dumped(dir, 1);
        for width in [40, 80, 140] {
            scene.run(&format!("thaw check -D images --width {width}"));
        }
        scene.run("thaw check --images-dir images --color always");
        scene.run("thaw check -D images --json -j -s --manage-cgroups=ignore --huge-pages never");
        scene.run("thaw check -D images --shell-job --leave-stopped --workers 2");
        scene.prepare("thaw restore -d -D images");
        scene.run("thaw check -D images --width 140");
        scene.run("thaw show -D images --width 400");
        scene.run("thaw show -D images --process PID1 --width 400");
        tree.kill();
        scene.prepare("truncate -s -4096 images/pages-1.img");
        scene.run("thaw check -D images --width 40");
        scene.shot("check");
    });
}

/// Which kernel this is, and what it can do, is not of the test; what is looked at is.
#[test]
fn what_a_host_is_asked_for_is_always_the_same() {
    live("check_show::what_a_host_is_asked_for_is_always_the_same", |dir| {
        let mut scene = Scene::live(dir, &[]);
        scene.run("thaw check --json | grep -o '\"what\":\"[^\"]*\"' | sort -u");
        scene.run("thaw check --width 40 > text; awk 'length > 40' text");
        scene.run("thaw check --color always | sed -n '1s/Linux .*/Linux [KERNEL]/p'");
        scene.shot("check_host");
    });
}
