//! `thaw explore`: every legal order ends in one state, and an engine that breaks the contract is
//! noticed.

use std::process::{Command, Output, Stdio};

use super::cycle::Tree;
use super::support::live_node;

/// The example of the contract, with nothing that goes on by itself.
const EXAMPLE: [&str; 2] = [
    "fork:1 kfd render:0 render:1 vram:0:64K gtt:1:8K",
    "kfd render:0 render:1 vram:0:64K vram:1:32K",
];
/// Three processes on one GPU; the first makes a buffer that the others import.
const SHARING: [&str; 3] = [
    "fork:1 fork:2 kfd render:0 gem:0:64K export:0:x",
    "kfd render:0 vram:0:8K import:0:x",
    "render:0 import:0:x",
];

fn explore(tree: &Tree, args: &[&str]) -> Output {
    let mut explore = Command::new(env!("CARGO_BIN_EXE_thaw"));
    explore.args(["explore", "-D"]).arg(tree.images()).args(args).stdin(Stdio::null());
    explore.output().expect("thaw starts")
}

fn said(output: &Output) -> String {
    let both = [&output.stdout, &output.stderr];
    both.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

#[test]
fn all_twenty_orders_of_the_example_end_in_one_state() {
    live_node("explore::all_twenty_orders_of_the_example_end_in_one_state", |dir| {
        let tree = Tree::new(dir, "--gpus 2", &EXAMPLE);
        tree.dump();
        let output = explore(&tree, &["--node", "--gpus 2 --seed 5 --minors 140,139"]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert_eq!(said(&output), "20 of 20 legal order(s) run: 1 end state(s)\n");
    });
}

#[test]
fn all_orders_of_a_tree_with_a_shared_buffer_end_in_one_state() {
    live_node("explore::all_orders_of_a_tree_with_a_shared_buffer_end_in_one_state", |dir| {
        let tree = Tree::new(dir, "--gpus 1", &SHARING);
        tree.dump();
        let output = explore(&tree, &["--node", "--gpus 1"]);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));

        let text = said(&output);
        let (run, rest) = text.split_once(" of ").expect("a count");
        assert_eq!(rest, format!("{run} legal order(s) run: 1 end state(s)\n"));
        assert!(run.parse::<u32>().is_ok_and(|run| run > 3), "{text}");
    });
}

/// An engine that is broken on purpose must be noticed, by the judge of traces or by the states.
fn noticed(name: &str, layout: &[&str], gpus: &str, sabotage: &str, word: &str) {
    live_node(name, |dir| {
        let tree = Tree::new(dir, gpus, layout);
        tree.dump();
        let args = ["--node", gpus, "--orders", "4", "--sabotage", sabotage];
        let output = explore(&tree, &args);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(word), "{word:?} is not in {}", said(&output));
        let sound = explore(&tree, &args[..4]);
        assert_eq!(sound.status.code(), Some(0), "the same without: {}", said(&sound));
    });
}

#[test]
fn ignored_order_inside_a_process_is_noticed() {
    let name = "explore::ignored_order_inside_a_process_is_noticed";
    noticed(name, &EXAMPLE, "--gpus 2", "order", "rule 1 is broken");
}

#[test]
fn ignored_edge_is_noticed() {
    noticed("explore::ignored_edge_is_noticed", &SHARING, "--gpus 1", "edge", "rule 5 is broken");
}

#[test]
fn state_that_leaks_from_worker_to_worker_is_noticed() {
    let name = "explore::state_that_leaks_from_worker_to_worker_is_noticed";
    noticed(name, &EXAMPLE, "--gpus 2", "leak", "which differs");
}
