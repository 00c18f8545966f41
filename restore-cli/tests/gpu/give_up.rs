//! Restores of GPU trees that are given up, at each of their events in turn: between device files,
//! while contents are copied, before queues run. Nothing is left, GPU memory included.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::cycle::{Tree, assert_same};
use super::node::{self, Inside, Part, tree_pids};
use super::support::eye::{next_pid, reap};
use super::support::{example, live_node};

/// A parent and a child that share a buffer, with contents in two GPUs and with queues.
const TREE: [&str; 2] = [
    "fork:1 kfd render:0 render:1 vram:0:1M gem:0:64K export:1:x queue:0:64K",
    "kfd render:0 render:1 vram:1:512K import:0:x queue:1:64K",
];

/// Inside: restores again and again.
pub(super) fn sweep(inside: &mut Inside, images: &Path) -> Vec<Value> {
    let mut results = Vec::new();
    for number in 0.. {
        let before = inside.eye.look();
        next_pid(node::RESTORER_PIDS);
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", "60"]).arg(example("give_up")).arg(images);
        command.args(["event", &number.to_string()]).stdin(Stdio::null());
        let output = command.output().expect("it is built beside the tests");
        reap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&output.stdout) + &text(&output.stderr);
        let code = output.status.code().map_or(-1, i64::from);
        let mut answers = Vec::new();
        if code == 0 {
            let pids = tree_pids();
            answers = inside.ask(&pids);
            inside.end(&pids);
        }
        let left = inside.eye.left(&before);
        results.push(json!({ "code": code, "said": said, "answers": answers, "left": left }));
        if code != 1 {
            break;
        }
    }
    results
}

#[test]
fn gpu_restore_can_be_given_up_at_each_of_its_events() {
    live_node("give_up::gpu_restore_can_be_given_up_at_each_of_its_events", |dir| {
        let tree = Tree::new(dir, "--gpus 2", &TREE);
        let before = tree.dump();
        let came = node::run(&["--gpus", "2"], dir, &[Part::GivesUp { images: tree.images() }]);
        let (last, given_up) = came.split_last().expect("at least one");
        let mut stages = BTreeSet::new();
        for (number, came) in given_up.iter().enumerate() {
            let said = &came.said;
            let left = &came.left;
            assert_eq!((came.code, left.len()), (1, 0), "event {number}: {said}{left:?}");
            assert!(said.contains("failed: the restore was given up []"), "event {number}: {said}");
            assert!(!said.contains("release:"), "event {number}: {said}");
            let mut reached = said.split_whitespace().filter(|word| word.starts_with("reached:"));
            stages.insert(reached.next_back().unwrap_or("none").to_owned());
        }
        for stage in ["none", "create", "devices", "build", "resume"] {
            let found = stages.iter().any(|reached| reached.ends_with(stage));
            assert!(found, "{stage} in {stages:?}");
        }
        assert_eq!((last.code, last.left.len()), (0, 0), "{}{:?}", last.said, last.left);
        let mut events = last.said.split_whitespace().skip(1);
        let first = events.position(|word| word.contains("release:"));
        assert_eq!(first, Some(given_up.len()), "only the release is too late: {}", last.said);
        assert_same(&before, &last.answers);
    });
}
