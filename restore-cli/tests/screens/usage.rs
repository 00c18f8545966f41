//! Command lines that are wrong: what is said, and with which code.

use crate::scene::Scene;

#[test]
fn wrong_lines_say_what_is_wrong() {
    let mut scene = Scene::fixed();
    for line in [
        "thaw",
        "thaw freeze",
        "thaw dmup -t 1 -D x",
        "thaw dump",
        "thaw dump -t 1",
        "thaw dump -t 0 -D x",
        "thaw dump -t one -D x",
        "thaw dump -t 1 -D x --leave-runing",
        "thaw dump -t 1 -D x --ghost-limit much",
        "thaw dump -t 1 -D x --timeout soon",
        "thaw dump -t 1 -D x --manage-cgroups=all",
        "thaw dump -t 1 -D x -vmany",
        "thaw dump -t 1 -D x more",
        "thaw restore",
        "thaw restore -S -D x",
        "thaw restore -D x --huge-pages always",
        "thaw restore -D x --workers many",
        "thaw show -D x --process root",
        "thaw explore -D x --orders all",
        "thaw restore -D x --gpu-map 1=",
        "thaw restore -D x --schedule random",
        "thaw restore -D x --width 39",
        "thaw restore -D x --color sometimes",
        "KFD_FW_VER_CHECK=perhaps thaw restore -D x",
        "thaw trace",
        "thaw trace view x --format png",
        "thaw image",
        "thaw image x inputs all",
        "thaw node",
        "thaw generate completions csh",
    ] {
        scene.run(line);
    }
    scene.shot("usage");
}

#[test]
fn wrong_lines_have_colours_on_a_terminal_only() {
    let mut scene = Scene::fixed();
    scene.run("CLICOLOR_FORCE=1 thaw dump -t 0 -D x").run("NO_COLOR=1 thaw dump -t 0 -D x");
    scene.run("thaw dump -t 0 -D x --color always").run("thaw dump -t 0 -D x --color=never");
    scene.shot("usage_colors");
}

#[test]
fn missing_and_wrong_places_are_named() {
    let mut scene = Scene::fixed();
    scene.folder("empty");
    for line in [
        "thaw dump -t 1 -D nowhere",
        "thaw restore -D nowhere",
        "thaw restore -D empty",
        "thaw plan -D empty",
        "thaw check -D nowhere",
        "thaw show -D empty",
        "thaw explore -D empty",
        "thaw restore -D empty -o no/such/folder.log",
        "thaw restore -D empty --report no/such/report.json",
        "thaw restore -D empty --progress-fd 77",
        "thaw restore -D empty --progress-fd 0",
    ] {
        scene.run(line);
    }
    scene.shot("wrong_places");
}

#[test]
fn failure_fits_narrow_and_wide_terminals() {
    for width in [40, 80, 140] {
        let mut scene = Scene::fixed();
        scene.run(&format!("thaw restore -D fixtures/gpu-tree --width {width}"));
        scene.run(&format!("thaw restore -D fixtures/gpu-tree --width {width} --color always"));
        scene.shot(&format!("failure.{width}"));
    }
}
