//! Trees of each kind, there and back.

use super::cycle::{Tree, assert_same_state, state_of};
use super::support::live_node;

/// The example of the contract: a parent and its child, each with `/dev/kfd` and two render nodes.
pub(crate) const EXAMPLE: [&str; 2] = [
    "fork:1 kfd render:0 render:1 vram:0:1M gtt:1:64K vram:1:256K queue:0:64K queue:1:64K",
    "kfd render:0 render:1 vram:0:512K vram:1:64K gtt:0:8K queue:0:64K queue:1:64K",
];

/// A node with other ids and minors.
pub(crate) const ELSEWHERE: &str = "--gpus 2 --seed 7 --gpu-ids 4711,4712 --minors 133,131";

fn there_and_back(name: &str, node: &str, layout: &[&str], there: &str) {
    live_node(name, |dir| {
        let tree = Tree::new(dir, node, layout);
        let before = tree.dump();
        tree.restore_well(&before, there, &["--verify"]);
    });
}

#[test]
fn two_processes_on_two_gpus_go_on_elsewhere() {
    let name = "roundtrip::two_processes_on_two_gpus_go_on_elsewhere";
    there_and_back(name, "--gpus 2", &EXAMPLE, ELSEWHERE);
}

#[test]
fn state_after_a_restore_is_the_state_before_it() {
    live_node("roundtrip::state_after_a_restore_is_the_state_before_it", |dir| {
        let layout = [
            "fork:1 kfd render:0 render:1 vram:0:1M gtt:1:64K gem:0:64K export:2:x",
            "kfd render:0 render:1 vram:0:512K+apart import:0:x sysgem:1:64K",
        ];
        let tree = Tree::new(dir, "--gpus 2", &layout);
        tree.dump();
        assert_same_state(&state_of(&tree.images()), &tree.state_after(ELSEWHERE, &[]));
    });
}
