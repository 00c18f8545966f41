//! Trees with GPUs on emulated nodes: plans, restores with what is said of GPUs, orders, and
//! checkpoints that have no match.
//!
//! The tree is dumped in a node; what is done with its images afterwards begins outside of one.

use std::path::Path;
use std::process::Stdio;

use crate::scene::{Scene, next_is_pid1};
use crate::support::gpu::{GpuTree, is_inside_node, node_command};
use crate::support::live_node;

/// A parent and its child, each with the compute driver and two render nodes.
const LAYOUT: [&str; 2] =
    ["fork:1 kfd render:0 render:1 vram:0:64K gtt:1:8K", "kfd render:0 render:1 vram:0:64K"];

/// A scene with the images of such a tree, which `name` of this program dumps inside a node.
fn with_images(name: &str, layout: &[&str], body: impl FnOnce(&mut Scene)) {
    if is_inside_node() {
        let dir = std::env::current_dir().expect("the folder of the scene");
        next_is_pid1();
        let tree = GpuTree::start(&dir, layout);
        let mut scene = Scene::live(&dir, &tree.tree.pids);
        scene.folder("images");
        std::fs::write("pids", format!("{:?}", tree.tree.pids)).expect("room");
        scene.prepare("thaw dump -t PID1 -D images");
        return;
    }
    live_node(name, |dir: &Path| {
        let mut node = node_command(name, &["--gpus", "2"], dir);
        let status = node.current_dir(dir).stdout(Stdio::null()).status().expect("thaw starts");
        assert!(status.success(), "the tree cannot be dumped");
        let pids = std::fs::read_to_string(dir.join("pids")).expect("it is dumped");
        let pids: Vec<i32> = serde_json::from_str(&pids).expect("a list");
        body(&mut Scene::live(dir, &pids));
    });
}

/// Where the GPUs have other ids and minors.
const ELSEWHERE: &str =
    "thaw node run --gpus 2 --seed 7 --gpu-ids 0x1267,0x1268 --minors 133,131 -- ";

#[test]
fn plans_are_told_at_each_width() {
    with_images("gpu::plans_are_told_at_each_width", &LAYOUT, |scene| {
        for width in [40, 80, 140] {
            scene.run(&format!("{ELSEWHERE}thaw plan -D images --width {width}"));
        }
        let map = "--gpu-map 0xf85e=0x1268 --verify --copy-buffer 1M --schedule seed:5";
        scene.run(&format!("{ELSEWHERE}thaw plan -D images {map}"));
        scene.run(&format!("{ELSEWHERE}thaw plan -D images --json"));
        scene.run(&format!("{ELSEWHERE}thaw check -D images"));
        scene.run(&format!("{ELSEWHERE}thaw check -D images --width 40 {map}"));
        scene.run("thaw show -D images --width 400");
        scene.shot("gpu_plan");
    });
}

#[test]
fn restores_are_told_with_their_gpus() {
    with_images("gpu::restores_are_told_with_their_gpus", &LAYOUT, |scene| {
        let mut restore = |options: &str| {
            scene.run(&format!("{ELSEWHERE}thaw restore -d -D images {options}"));
        };
        restore("--width 40");
        restore("--gpu-map 0xf85e=0x1268,0xca1c=0x1267 --verify --copy-buffer 64K");
        restore("--schedule concurrent");
        restore("--schedule seed:5");
        restore("--schedule serial --trace run.jsonl");
        scene.run("thaw trace order run.jsonl -o run.order; cat run.order");
        scene.run("thaw trace check run.jsonl | head -n 1");
        let mut restore = |options: &str| {
            scene.run(&format!("{ELSEWHERE}thaw restore -d -D images {options}"));
        };
        restore("--schedule order:run.order");
        restore("--schedule order:pids");
        restore("--schedule order:nowhere");
        restore("--gpu-map 0xf85e=0x9999");
        scene.shot("gpu_restore");
    });
}

#[test]
fn gpus_without_a_match_are_a_table() {
    with_images("gpu::gpus_without_a_match_are_a_table", &LAYOUT, |scene| {
        scene.run("thaw restore -d -D images");
        scene.run("thaw node run --gpus 1 -- thaw restore -d -D images");
        let other = "thaw node run --gpus 2 --model gfx942 -- thaw restore -d -D images";
        for width in [40, 80, 140] {
            scene.run(&format!("{other} --width {width}"));
        }
        scene.run(
            "thaw node run --gpus 2 --fault CRIU_RESTORE=ENOMEM -- thaw restore -d -D images \
             --schedule serial",
        );
        scene.shot("gpu_failures");
    });
}

#[test]
fn orders_are_explored() {
    let layout = ["fork:1 kfd render:0 vram:0:8K", "kfd render:0"];
    with_images("gpu::orders_are_explored", &layout, |scene| {
        scene.run("thaw explore -D images --node '--gpus 2'");
        scene.run("thaw explore --images-dir images --node '--gpus 2' --orders 2 --seed 4 --json");
        scene.run("thaw explore -D images --node '--gpus 2 --fault CRIU_RESTORE=EIO' --orders 1");
        scene.shot("explore");
    });
}
