//! What upstream's plugin for AMD GPUs gets wrong (CRIU v4.2, `docs/upstream-on-the-node.md`), one
//! test for each, named after the defect: here the same layout comes back as it was.

use super::cycle::{Named, Tree, assert_good, assert_same, assert_well, there_and_back};
use super::node::{self, Part};
use super::support::live_node;

const ONE: (&str, &str) = ("--gpus 1", "--gpus 1 --seed 5 --gpu-ids 4242 --minors 134");
const TWO: (&str, &str) = ("--gpus 2", "--gpus 2 --seed 5 --gpu-ids 4242,4243 --minors 134,129");

/// Back on another node, and the state is the same byte for byte where no queue changes it.
fn check(name: &str, nodes: (&str, &str), layout: &[&str]) {
    live_node(&format!("defects::{name}"), |dir| {
        let tree: &[Named<'_>] = &[(name, layout)];
        there_and_back(dir, nodes, tree, &["--verify"]);
    });
}

// Section: contents are lost or exchanged.

/// Upstream: contents of the first GPU only; places in the second one's file begin where the first
/// one's ended.
#[test]
fn parallel_restore_of_two_gpus_loses_the_second() {
    let layout = ["kfd render:0 render:1 vram:0:64K gtt:0:8K vram:1:256K vram:1:64K"];
    check("parallel_restore_of_two_gpus_loses_the_second", TWO, &layout);
}

/// Upstream: rings are contents too, and the program stands still.
#[test]
fn program_of_one_process_and_two_gpus_stands_still() {
    let layout = ["kfd render:0 render:1 queue:0:64K queue:1:64K queue:1:8K"];
    check("program_of_one_process_and_two_gpus_stands_still", TWO, &layout);
}

/// Upstream: a GEM buffer whose handle is that of a KFD buffer in criu's own file is an import.
#[test]
fn equal_handle_of_a_kfd_buffer_makes_an_alias() {
    let layout = ["fork:1 kfd render:0 render:0 vram:0:64K gtt:0:64K gem:1:64K", "kfd"];
    check("equal_handle_of_a_kfd_buffer_makes_an_alias", ONE, &layout);
}

/// Upstream: sharing is known by the handle number alone, on whatever GPU.
#[test]
fn equal_handle_on_another_gpu_makes_an_alias() {
    let layout = ["fork:1 kfd render:0 render:1 gem:0:64K gem:1:64K", "kfd"];
    check("equal_handle_on_another_gpu_makes_an_alias", TWO, &layout);
}

/// Upstream: all open files of a render node become one.
#[test]
fn two_opens_of_a_render_node_become_one() {
    let layout = ["fork:1 kfd render:0 render:0 gem:0:64K gem:1:64K", "kfd"];
    check("two_opens_of_a_render_node_become_one", ONE, &layout);
}

/// Upstream: two buffers instead of one.
#[test]
fn shared_buffer_with_different_handles_is_torn() {
    let layout =
        ["fork:1 kfd render:0 gem:0:64K export:0:x", "kfd render:0 hole:0 gem:0:8K import:0:x"];
    check("shared_buffer_with_different_handles_is_torn", ONE, &layout);
}

/// Upstream: the import becomes one of the first buffer.
#[test]
fn import_of_a_second_kfd_buffer_is_of_the_first() {
    let layout =
        ["fork:1 kfd render:0 vram:0:64K vram:0:64K export:1:x", "kfd render:0 import:0:x"];
    check("import_of_a_second_kfd_buffer_is_of_the_first", ONE, &layout);
}

/// Upstream: the descriptor is of another buffer.
#[test]
fn open_dma_buf_of_a_second_buffer_is_of_the_first() {
    let layout = ["fork:1 kfd render:0 gem:0:64K gem:0:64K keep:1", "kfd"];
    check("open_dma_buf_of_a_second_buffer_is_of_the_first", ONE, &layout);
}

/// Upstream: `UPDATE_VMA_MAP` knows buffers of render nodes by their GPU address, so a mapping
/// elsewhere keeps its old offset.
#[test]
fn mapping_at_another_address_than_the_gpu_s_keeps_its_old_offset() {
    let layout =
        ["kfd render:0 render:1 vram:0:64K+apart gem:1:64K+apart gem:0:8K+apart queue:0:8K"];
    check("mapping_at_another_address_than_the_gpu_s_keeps_its_old_offset", TWO, &layout);
}

// Section: restores that do not end, or fail.

/// Upstream: nobody wakes an importer that comes before its exporter. Here every order ends, and
/// a late exporter is waited for.
#[test]
fn importer_before_its_exporter_waits_for_ever() {
    live_node("defects::importer_before_its_exporter_waits_for_ever", |dir| {
        let layout = [
            "fork:1 fork:2 kfd render:0 import:0:x",
            "kfd render:0 gem:0:64K export:0:x vram:0:8K export:1:y",
            "render:0 import:0:y import:0:x",
        ];
        let tree = Tree::new(dir, "--gpus 1", &layout);
        let before = tree.dump();
        let (images, args) = (tree.images(), Vec::new());
        let faults = ["GEM_CREATE=200ms", "CRIU_RESTORE@1=200ms", "CRIU_RESTORE@2=200ms", ""];
        let faults = faults.map(str::to_owned).to_vec();
        let mut parts = vec![Part::RestoresUnder { images, args, faults }];
        parts.extend((0..8).map(|seed| tree.restoring(&["--schedule", &format!("seed:{seed}")])));
        parts.push(tree.restoring(&["--schedule", "serial", "--workers", "1"]));
        for came in node::run(&["--gpus", "1", "--seed", "3"], dir, &parts) {
            assert_good(&came);
            assert_same(&before, &came.answers);
        }
    });
}

/// Upstream: a zero where a descriptor belongs: descriptor 0 is taken for a dma-buf, and closed.
#[test]
fn descriptor_0_is_taken_for_a_dma_buf() {
    let layout = [
        "fork:1 kfd render:0 import:0:x",
        "kfd render:0 gtt:0:8K vram:0:64K export:1:x userptr:0:8K",
    ];
    check("descriptor_0_is_taken_for_a_dma_buf", ONE, &layout);
}

/// Upstream: the message without buffers ends the thread that takes it.
#[test]
fn process_whose_kfd_buffers_have_no_contents() {
    let layout = ["kfd render:0 userptr:0:64K gem:0:64K sysgem:0:8K"];
    check("process_whose_kfd_buffers_have_no_contents", ONE, &layout);
}

/// Upstream: the driver refuses to restore a state without buffers.
#[test]
fn open_kfd_without_a_buffer_does_not_come_back() {
    check("open_kfd_without_a_buffer_does_not_come_back", ONE, &["fork:1 kfd", "kfd render:0"]);
}

/// Upstream: `opendir(".")` finds no images, and the restored task ends by SIGSEGV.
#[test]
fn work_directory_elsewhere_crashes_the_task() {
    live_node("defects::work_directory_elsewhere_crashes_the_task", |dir| {
        let layout = ["fork:1 kfd render:0 vram:0:64K gem:0:8K export:1:x", "render:0 import:0:x"];
        let tree = Tree::new(dir, ONE.0, &layout);
        let before = tree.dump();
        let work = dir.join("work");
        std::fs::create_dir(&work).expect("room");
        tree.restore_well(&before, ONE.1, &["-W", &work.display().to_string()]);
    });
}

/// Upstream: restore exits with 0, and the program stands still. More: `faults`.
#[test]
fn resume_that_fails_is_success() {
    live_node("defects::resume_that_fails_is_success", |dir| {
        let tree = Tree::new(dir, ONE.0, &["kfd render:0 queue:0:8K"]);
        tree.dump();
        let (images, args) = (tree.images(), Vec::new());
        let faults = vec!["CRIU_RESUME=EINVAL".to_owned()];
        let came =
            node::run(&["--gpus", "1"], dir, &[Part::RestoresUnder { images, args, faults }]);
        assert_eq!((came[0].code, came[0].left.len()), (1, 0), "{:?}", came[0]);
        assert!(came[0].said.contains("CRIU_OP RESUME"), "{:?}", came[0]);
    });
}

/// Upstream: the numbers of GPUs must be equal.
#[test]
fn host_with_another_number_of_gpus_is_refused() {
    let nodes = ("--gpus 1", "--gpus 3 --seed 4");
    let layout = ["kfd render:0 vram:0:64K gem:0:8K"];
    check("host_with_another_number_of_gpus_is_refused", nodes, &layout);
}

/// Upstream: its own choice is all that there is.
#[test]
fn gpus_cannot_be_chosen() {
    live_node("defects::gpus_cannot_be_chosen", |dir| {
        let layout = ["kfd render:0 vram:0:64K gem:0:8K queue:0:8K"];
        let tree = Tree::new(dir, "--gpus 1 --gpu-ids 4711", &layout);
        let before = tree.dump();
        for (id, minor) in [(71, 128), (72, 129), (73, 130)] {
            let map = format!("4711={id}");
            let came = tree.restore("--gpus 3 --gpu-ids 71,72,73", &["--gpu-map", &map]);
            assert_good(&came);
            assert_same(&before, &came.answers);
            let file = &came.answers[0]["descriptors"]["4"];
            assert_eq!(*file, format!("/dev/dri/renderD{minor}"), "{:?}", came.answers);
        }
        let came = tree.restore("--gpus 3 --gpu-ids 71,72,73", &["--gpu-map", "4711=74"]);
        assert_eq!((came.code, came.left.len()), (4, 0), "{came:?}");
    });
}

// Section: dumps that fail, or harm the program.

/// Upstream: "Failed to find valid gpu_id for the device = 0".
#[test]
fn render_node_below_the_kfd_is_refused() {
    let layout = ["at:3 render:0 at:10 kfd gem:0:64K vram:0:8K"];
    check("render_node_below_the_kfd_is_refused", ONE, &layout);
}

/// Upstream: the same.
#[test]
fn render_node_without_the_kfd_is_refused() {
    check("render_node_without_the_kfd_is_refused", ONE, &["render:0 gem:0:64K sysgem:0:8K"]);
}

/// Upstream: a dump closes the handles of the program. Here it goes on, and can be dumped again.
#[test]
fn dump_closes_the_handles_of_the_program() {
    live_node("defects::dump_closes_the_handles_of_the_program", |dir| {
        let layout = vec!["kfd render:0 gem:0:64K hole:0 gem:0:8K vram:0:8K queue:0:8K".to_owned()];
        let (images, args) = (dir.join("images"), vec!["-R".to_owned()]);
        // The second fails when everything has been looked at.
        let faults = ["", "CRIU_UNPAUSE@9=EIO GEM_CLOSE@1=EINVAL CS@1=EIO", "", ""];
        let faults = faults.map(str::to_owned).to_vec();
        let part = Part::DumpsUnder { images: images.clone(), layout, args, faults };
        for (number, came) in node::run(&["--gpus", "1"], dir, &[part]).iter().enumerate() {
            assert_eq!(came.code != 0, number == 1, "{number}: {came:?}");
            assert_eq!(came.left.len(), 0, "{came:?}");
            assert_well(&came.answers);
        }
        let restore = Part::Restore { images: images.join("3"), args: Vec::new() };
        let came = node::run(&["--gpus", "1", "--seed", "2"], dir, &[restore]).remove(0);
        assert_good(&came);
        assert_well(&came.answers);
    });
}

/// Upstream: no `UNPAUSE`: programs go on without their queues.
#[test]
fn dump_that_fails_leaves_queues_stopped() {
    live_node("defects::dump_that_fails_leaves_queues_stopped", |dir| {
        let layout = ["fork:1 kfd render:0 queue:0:8K", "kfd render:0 queue:0:8K gem:0:8K"];
        let layout = layout.map(str::to_owned).to_vec();
        let faults = ["CRIU_CHECKPOINT@1=EIO", "CRIU_CHECKPOINT@2=EIO", "GEM_LIST_HANDLES@2=EIO"];
        let faults = faults.map(str::to_owned).to_vec();
        let (images, args) = (dir.join("images"), vec!["-R".to_owned()]);
        let part = Part::DumpsUnder { images, layout, args, faults };
        for came in node::run(&["--gpus", "1"], dir, &[part]) {
            assert_eq!((came.code, came.hits, came.left.len()), (1, 1, 0), "{came:?}");
            assert_well(&came.answers);
            assert!(came.answers.iter().all(|answer| answer["rounds"].as_u64() > Some(0)));
        }
    });
}

/// Upstream: a descriptor more for each GPU and restore.
#[test]
fn restored_programs_have_more_descriptors() {
    live_node("defects::restored_programs_have_more_descriptors", |dir| {
        let layout =
            ["fork:1 kfd render:0 render:1 vram:0:64K gem:1:8K keep:1", "kfd render:1 gtt:1:8K"];
        let mut tree = Tree::new(dir, TWO.0, &layout);
        let first = tree.dump();
        let mut before = first.clone();
        for number in 1..=3 {
            let next = Tree::new(&dir.join(number.to_string()), TWO.0, &layout);
            let (images, again) = (tree.images(), next.images());
            let part = Part::RestoreAndDump { images, args: Vec::new(), again };
            let came = node::run(&["--gpus", "2"], dir, &[part]).remove(0);
            assert_good(&came);
            assert_same(&before, &came.answers);
            for (first, now) in first.iter().zip(&came.answers) {
                assert_eq!(
                    first["descriptors"].as_object().map(|list| list.len()),
                    now["descriptors"].as_object().map(|list| list.len())
                );
            }
            before = came.answers;
            tree = next;
        }
    });
}

/// Upstream: a second checkpoint of what was restored where GPUs have other ids ends criu by
/// SIGSEGV.
#[test]
fn second_dump_where_gpu_ids_differ_crashes() {
    live_node("defects::second_dump_where_gpu_ids_differ_crashes", |dir| {
        let layout =
            ["fork:1 kfd render:0 vram:0:64K queue:0:8K", "kfd render:1 gtt:1:8K gem:0:8K"];
        let tree = Tree::new(dir, TWO.0, &layout);
        let before = tree.dump();
        let next = Tree::new(&dir.join("next"), TWO.0, &layout);
        let options: Vec<&str> = TWO.1.split_whitespace().collect();
        let (images, again) = (tree.images(), next.images());
        let part = Part::RestoreAndDump { images, args: Vec::new(), again };
        let came = node::run(&options, dir, &[part]).remove(0);
        assert_good(&came);
        assert_same(&before, &came.answers);
        // It answers to the file that it has open.
        let third = ["--gpus", "2", "--minors", "140,141"];
        let last = node::run(&third, dir, &[next.restoring(&["--verify"])]).remove(0);
        assert_good(&last);
        assert_same(&came.answers, &last.answers);
    });
}
