//! `thaw node`: models, the options of a node, faults, and how a run ends.

use crate::scene::Scene;
use crate::support::live_node;

#[test]
fn models_are_listed_at_each_width() {
    let mut scene = Scene::fixed();
    for width in [40, 80, 140] {
        scene.run(&format!("thaw node list-models --width {width}"));
    }
    scene.run("thaw node list-models --json");
    scene.shot("node_models");
}

#[test]
fn wrong_nodes_are_refused() {
    let mut scene = Scene::fixed();
    for line in [
        "thaw node run --gpus 9 true",
        "thaw node run --model gfx803 true",
        "thaw node run --gpus 2 --vram 1G,2G,3G true",
        "thaw node run --vram many true",
        "thaw node run --fault GEM_VA true",
        "thaw node run --log no/such/log true",
        "thaw node fault VERSION=EWHAT",
    ] {
        scene.run(line);
    }
    scene.shot("node_wrong");
}

#[test]
fn nodes_are_as_they_are_asked_for() {
    live_node("node::nodes_are_as_they_are_asked_for", |dir| {
        let mut scene = Scene::live(dir, &[]);
        for line in [
            "thaw node run --model gfx90a --gpus 2 --vram 1G --visible-vram 256M,1G --seed 3 \
             --gpu-ids 0x11,18 --minors 140,141 --firmware 80 --sdma-firmware 8 --cpu-nodes 2 -- \
             sh -c 'ls /dev/dri; cat /sys/class/kfd/kfd/topology/nodes/*/gpu_id'",
            "thaw node run --gpus 3 --remove-gpu 0,1 -- ls /dev/dri",
            "thaw node run --log calls.jsonl --no-preload -- sh -c ': < /dev/kfd'",
            "sed 's/id\":[0-9]*/id\":0/g' calls.jsonl",
            "thaw node run --fault OPEN_KFD=EIO -- sh -c ': < /dev/kfd'",
            "thaw node run -- sh -c 'thaw node fault OPEN_KFD@2=EMFILE && thaw node fault'",
            "thaw node fault",
            "thaw node run -- /no/such/program",
            "thaw node run -- sh -c 'exit 7'",
            "thaw node run -- sh -c 'kill -TERM $$'",
        ] {
            scene.run(line);
        }
        scene.shot("node_run");
    });
}
