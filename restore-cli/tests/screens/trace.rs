//! `thaw trace` on a trace that a restore of a parent and a child on two GPUs left.

use crate::scene::Scene;

#[test]
fn traces_are_judged() {
    let mut scene = Scene::fixed();
    // The child's device begins before its parent has made the child.
    let broken = "sed 's/\"begin_ns\":[0-9]*,\"end_ns\":[0-9]*/\"begin_ns\":1,\"end_ns\":2/' \
                  inputs/run.jsonl > broken.jsonl";
    scene.prepare(broken).prepare("head -c -20 inputs/run.jsonl > cut.jsonl");
    for line in [
        "thaw trace check inputs/run.jsonl",
        "thaw trace check --json inputs/run.jsonl",
        "thaw trace check broken.jsonl",
        "thaw trace check broken.jsonl --json",
        "thaw trace check cut.jsonl",
        "thaw trace check nowhere.jsonl",
        "echo '{}' > none; thaw trace check none",
    ] {
        scene.run(line);
    }
    scene.shot("trace_check");
}

#[test]
fn traces_are_drawn() {
    let mut scene = Scene::fixed();
    for width in [40, 80, 140] {
        scene.run(&format!("thaw trace view inputs/run.jsonl --format text --width {width}"));
    }
    scene.run("thaw trace view inputs/run.jsonl --format chrome | head -c 600");
    scene.run("thaw trace view inputs/run.jsonl --format=svg | head -c 600");
    scene.run("thaw trace view inputs/run.jsonl -o run.svg; tail -c 100 run.svg");
    scene.run("thaw trace view inputs/run.jsonl -o no/such/folder.svg");
    scene.shot("trace_view");
}

#[test]
fn orders_are_taken_from_traces() {
    let mut scene = Scene::fixed();
    scene.run("thaw trace order inputs/run.jsonl");
    scene.run("thaw trace order inputs/run.jsonl -o run.order; wc -l < run.order");
    scene.prepare("head -n 1 inputs/run.jsonl > outline.jsonl");
    scene.run("thaw trace order outline.jsonl");
    scene.shot("trace_order");
}
