//! Every layout that the project says it restores, there and back on another node: what processes
//! share, how their descriptors lie, what kinds of buffers they have, and what the nodes are.

use super::cycle::{Named, Tree, assert_same, assert_well, there_and_back};
use super::node::{self, Part};
use super::support::live_node;

/// Two GPUs, other ids, other minors, other offsets.
const HERE: &str = "--gpus 2";
const THERE: &str = "--gpus 2 --seed 9 --gpu-ids 777,778 --minors 150,141";

const CHECKED: &[&str] = &["--verify"];

fn check(name: &str, nodes: (&str, &str), trees: &[Named<'_>]) {
    live_node(&format!("shapes::{name}"), |dir| there_and_back(dir, nodes, trees, CHECKED));
}

#[test]
fn buffers_that_processes_share() {
    check(
        "buffers_that_processes_share",
        (HERE, THERE),
        &[
            (
                "parent-makes-child-imports",
                &["fork:1 kfd render:0 gem:0:64K export:0:x", "kfd render:0 vram:0:64K import:0:x"],
            ),
            (
                "child-makes-parent-imports",
                &["fork:1 render:0 import:0:x", "render:0 gem:0:8K gem:0:256K export:1:x"],
            ),
            (
                "each-makes-and-imports",
                &[
                    "fork:1 render:0 gem:0:64K export:0:x import:0:y",
                    "render:0 gem:0:8K export:0:y import:0:x",
                ],
            ),
            (
                "kfd-buffer-in-a-render-node-of-another-process",
                &[
                    "fork:1 kfd render:0 vram:0:64K vram:0:128K export:1:x queue:0:64K",
                    "kfd render:0 import:0:x vram:0:8K",
                ],
            ),
            (
                "child-s-kfd-buffer-in-its-parent",
                &[
                    "fork:1 render:0 render:1 gem:1:64K import:0:x",
                    "kfd render:0 gtt:0:64K export:0:x",
                ],
            ),
            (
                "one-buffer-in-four-processes",
                &[
                    "fork:1 fork:3 render:0 import:0:x+apart",
                    "fork:2 render:0 gem:0:8K gem:0:64K export:1:x",
                    "render:0 hole:0 hole:0 import:0:x",
                    "kfd render:0 render:0 vram:0:8K import:1:x",
                ],
            ),
        ],
    );
}

#[test]
fn descriptors_of_dma_bufs() {
    check(
        "descriptors_of_dma_bufs",
        (HERE, THERE),
        &[
            (
                "kept",
                &["kfd render:0 vram:0:64K gem:0:64K gem:0:8K at:30 keep:2 keep:0 at:9 keep:1"],
            ),
            (
                "passed-to-a-process-without-gpu",
                &["fork:1 render:0 gem:0:64K gem:0:8K export:1:x", "take:x"],
            ),
            (
                "passed-to-a-process-with-gpu",
                &["fork:1 kfd render:1 take:x vram:1:64K", "kfd render:0 vram:0:8K export:0:x"],
            ),
            (
                "taken-before-it-is-made",
                &[
                    "fork:1 at:4 take:x at:5 render:0 import:0:y",
                    "render:0 gem:0:64K export:0:x export:0:y",
                ],
            ),
        ],
    );
}

#[test]
fn handles_and_files() {
    check(
        "handles_and_files",
        (HERE, THERE),
        &[
            (
                "equal-handles-in-different-files",
                &[
                    "fork:1 kfd render:0 render:1 vram:0:64K gem:0:64K gem:1:64K vram:1:8K",
                    "kfd render:0 render:1 vram:0:64K gem:0:8K gem:1:8K",
                ],
            ),
            ("holes", &["render:0 hole:0 hole:0 gem:0:64K hole:0 gem:0:8K hole:0 sysgem:0:8K"]),
            (
                "several-opens-of-one-render-node",
                &["kfd render:0 render:0 render:0 vram:0:64K gem:0:64K gem:1:64K \
                     gem:2:64K gem:1:8K"],
            ),
            ("several-opens-of-the-kfd", &["kfd kfd render:0 vram:0:64K kfd queue:0:64K"]),
        ],
    );
}

#[test]
fn descriptors_in_every_order() {
    check(
        "descriptors_in_every_order",
        (HERE, THERE),
        &[
            ("kfd-without-buffer", &["kfd"]),
            ("kfd-without-buffer-beside-one-with", &["fork:1 kfd", "kfd render:1 vram:1:64K"]),
            ("render-below-kfd", &["at:20 kfd at:5 render:0 vram:0:64K gem:0:8K queue:0:64K"]),
            (
                "higher-gpu-has-the-lower-descriptor",
                &["at:9 kfd at:30 render:0 at:7 render:1 vram:0:64K vram:1:8K gem:0:8K gem:1:64K"],
            ),
            ("render-nodes-without-kfd", &["fork:1 render:1 gem:0:64K", "render:0 sysgem:0:64K"]),
            ("gaps-between-descriptors", &["at:50 null at:40 kfd at:60 render:0 null vram:0:8K"]),
        ],
    );
}

#[test]
fn descriptors_that_processes_share() {
    check(
        "descriptors_that_processes_share",
        (HERE, THERE),
        &[
            (
                "child-uses-its-parent-s-render-node",
                &["render:0 gem:0:64K fork:1 gem:0:8K", "gem:0:8K+nova"],
            ),
            (
                "child-has-its-own-beside-its-parent-s",
                &["kfd render:0 vram:0:64K fork:1", "kfd render:0 vram:0:64K gem:1:8K"],
            ),
            (
                "three-generations",
                &[
                    "kfd render:0 fork:1 vram:0:64K",
                    "render:1 fork:2 gem:1:64K",
                    "kfd render:0 vram:0:8K gem:1:8K",
                ],
            ),
            ("kfd-of-a-parent-that-has-no-state", &["kfd fork:1", "kfd render:0 gtt:0:64K"]),
        ],
    );
}

#[test]
fn kinds_of_buffers() {
    check(
        "kinds_of_buffers",
        (HERE, THERE),
        &[
            (
                "several-gpus-in-one-process",
                &["kfd render:0 render:1 vram:0:1M gtt:0:64K vram:1:1M vram:1:64K gtt:1:8K \
                   queue:0:64K queue:1:256K"],
            ),
            (
                "memory-of-the-process",
                &["kfd render:0 userptr:0:64K vram:0:8K userptr:0:8K queue:0:64K"],
            ),
            (
                "not-mapped-by-the-process",
                &["kfd render:0 vram:0:256K+nocpu gtt:0:8K+nocpu gem:0:64K+nocpu queue:0:64K"],
            ),
            ("not-mapped-by-the-gpu", &["kfd render:0 vram:0:64K+nova gem:0:64K+nova sysgem:0:8K"]),
            ("addresses-apart", &["kfd render:0 vram:0:64K+apart gem:0:64K+apart gtt:0:8K+apart"]),
        ],
    );
}

const EVERY: Named<'_> = (
    "every-gpu",
    &[
        "fork:1 kfd render:0 vram:0:64K gtt:0:8K gem:0:64K export:2:x queue:0:64K",
        "kfd render:0 vram:0:256K import:0:x queue:0:64K",
    ],
);

#[test]
fn other_models() {
    check("other_models", ("--model gfx90c", "--model gfx90c --seed 4 --minors 131"), &[EVERY]);
}

#[test]
fn gpus_without_a_hive_between_them() {
    let nodes = ("--model gfx942 --gpus 2", "--model gfx942 --gpus 2 --seed 3 --gpu-ids 91,92");
    check("gpus_without_a_hive_between_them", nodes, &[EVERY]);
}

#[test]
fn eight_gpus() {
    let open: String = (0..8).map(|gpu| format!("render:{gpu} ")).collect();
    let buffers: String = (0..8).map(|gpu| format!("vram:{gpu}:64K gem:{gpu}:8K ")).collect();
    let (one, two) = (format!("fork:1 kfd {open}{buffers}"), format!("kfd {open}{buffers}queue:7"));
    let tree = [one.as_str(), two.as_str()];
    check("eight_gpus", ("--gpus 8", "--gpus 8 --seed 5"), &[("eight", &tree)]);
}

#[test]
fn host_with_more_gpus_than_the_checkpoint() {
    check("host_with_more_gpus_than_the_checkpoint", ("--gpus 1", "--gpus 4 --seed 2"), &[EVERY]);
}

/// A bar that shows a part of the memory: the host cannot copy, the GPUs do.
#[test]
fn memory_that_the_host_does_not_see() {
    let nodes = ("--gpus 2 --visible-vram 64M", "--gpus 2 --seed 6 --visible-vram 64M");
    let trees: &[Named<'_>] = &[
        ("small", &["fork:1 kfd render:0 gtt:0:64K gem:0:64K", "render:1 gem:0:256K gem:0:8K"]),
        ("large", &["kfd render:0 render:1 gem:0:20M gem:1:8M+nova gtt:1:1M"]),
    ];
    live_node("shapes::memory_that_the_host_does_not_see", |dir| {
        there_and_back(dir, nodes, trees, &["--verify", "--copy-buffer", "1M"]);
    });
}

#[test]
fn work_directory_that_is_not_the_image_directory() {
    live_node("shapes::work_directory_that_is_not_the_image_directory", |dir| {
        let tree = Tree::new(dir, HERE, EVERY.1);
        let before = tree.dump();
        let work = dir.join("work");
        std::fs::create_dir(&work).expect("room");
        let work_dir = work.display().to_string();
        let args = ["-W", &work_dir, "-o", "restore.log", "-v4", "--pidfile", "pid"];
        tree.restore_well(&before, THERE, &args);
        let log = std::fs::read_to_string(work.join("restore.log")).expect("the log is there");
        assert!(log.contains("its tree run"), "{log}");
        assert!(work.join("pid").exists());
    });
}

/// Memory of a process as a buffer of a render node cannot be told apart from the outside.
#[test]
fn memory_of_a_process_in_a_render_node_is_refused_and_the_tree_goes_on() {
    let name = "shapes::memory_of_a_process_in_a_render_node_is_refused_and_the_tree_goes_on";
    live_node(name, |dir| {
        let layout = ["kfd render:0 vram:0:8K usergem:0:64K queue:0:64K"];
        let tree = Tree::new(dir, HERE, &layout);
        let came = tree.dump_with(&[], &[]);
        assert_eq!(came.code, 4, "{}", came.said);
        assert_eq!(came.left, Vec::<String>::new());
        assert!(came.said.contains("GEM_USERPTR"), "{}", came.said);
        assert_well(&came.answers);
    });
}

/// What is restored can be dumped, and so on; each time on another node.
#[test]
fn ten_times_there_and_back() {
    live_node("shapes::ten_times_there_and_back", |dir| {
        let nodes: [&[&str]; 2] = [&["--gpus", "2"], &["--gpus", "2", "--seed", "8"]];
        let mut tree = Tree::new(dir, HERE, EVERY.1);
        let mut before = tree.dump();
        for number in 1..=10 {
            let next = Tree::new(&dir.join(number.to_string()), HERE, EVERY.1);
            let images = next.images();
            let part =
                Part::RestoreAndDump { images: tree.images(), args: Vec::new(), again: images };
            let came = node::run(nodes[number % 2], dir, &[part]).remove(0);
            super::cycle::assert_good(&came);
            assert_same(&before, &came.answers);
            before = came.answers;
            tree = next;
        }
    });
}

/// The driver restores no state without a buffer: the address space is given to it again.
#[test]
fn kfd_with_an_address_space_and_no_buffer() {
    check(
        "kfd_with_an_address_space_and_no_buffer",
        (HERE, "--gpus 2 --minors 150,141"),
        &[("address-space-only", &["kfd render:0 vm:0 render:1 vm:1"])],
    );
}
