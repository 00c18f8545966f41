//! `thaw image` on images of the library's tests.

use crate::scene::Scene;

const PSTREE: &str = "fixtures/crit-json/pstree/stack.pstree.img";
const QUEUES: &str = "fixtures/crit-json/sk_queues/sockets01.sk-queues.img";

#[test]
fn images_become_json_and_back() {
    let mut scene = Scene::fixed();
    for line in [
        format!("thaw image decode -i {PSTREE}"),
        format!("thaw image decode < {PSTREE}"),
        format!("thaw image decode --in {PSTREE} --pretty"),
        format!("thaw image decode -i {QUEUES} --nopl --pretty"),
        "thaw image decode --name amdgpu-renderD-21.img < fixtures/gpu-tree/amdgpu-renderD-21.img"
            .to_owned(),
        format!("thaw image decode -i {PSTREE} --out pstree.json"),
        "thaw image encode -i pstree.json -o pstree.img".to_owned(),
        format!("cmp pstree.img {PSTREE}"),
        format!("thaw image encode < pstree.json | cmp - {PSTREE}"),
        format!("thaw image show {QUEUES}"),
        format!("thaw image show --nopl {QUEUES}"),
        format!("thaw image info {QUEUES}"),
    ] {
        scene.run(&line);
    }
    scene.shot("image_json");
}

#[test]
fn checkpoints_are_explored() {
    let mut scene = Scene::fixed();
    for view in ["ps", "fds", "mems", "rss", "gpu"] {
        scene.run(&format!("thaw image x fixtures/gpu-tree {view} | head -n 20"));
        scene.run(&format!("thaw image x fixtures/gpu-tree {view} --json | head -c 600"));
    }
    scene.shot("image_x");
}

#[test]
fn findings_and_differences_are_listed() {
    let mut scene = Scene::fixed();
    scene.prepare("cp -r fixtures/gpu-tree other && rm other/fs-28870.img");
    scene.prepare("head -c 100 fixtures/gpu-tree/core-28866.img > other/core-28866.img");
    for line in [
        "thaw image verify fixtures/gpu-tree",
        "thaw image verify fixtures/gpu-tree --json",
        "thaw image verify other",
        "thaw image diff fixtures/gpu-tree fixtures/gpu-tree",
        "thaw image diff fixtures/gpu-tree/fs-28866.img fixtures/gpu-tree/fs-28870.img --json",
        "thaw image diff fixtures/gpu-tree/ids-28866.img fixtures/gpu-tree/ids-28870.img",
        "thaw image diff fixtures/gpu-tree other",
    ] {
        scene.run(line);
    }
    scene.shot("image_lists");
}

#[test]
fn images_that_are_none_are_told_apart() {
    let mut scene = Scene::fixed();
    scene.prepare("head -c 100 fixtures/gpu-tree/core-28866.img > core-1.img");
    for line in [
        "echo nothing | thaw image decode",
        "thaw image decode -i core-1.img",
        "thaw image decode -i nowhere.img",
        "echo nothing | thaw image encode",
        "echo '{\"magic\": \"FS\", \"entries\": [{}]}' | thaw image encode -o failed.img; ls",
        "thaw image show nowhere.img",
        "thaw image info core-1.img",
        "thaw image x nowhere ps",
        "thaw image verify nowhere",
        "thaw image diff core-1.img nowhere",
    ] {
        scene.run(line);
    }
    scene.shot("image_failures");
}
