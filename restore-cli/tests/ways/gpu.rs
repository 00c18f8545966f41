//! GPUs that do not fit or do not do what they are asked, on emulated nodes.
//!
//! The test runs again inside each node. The first one dumps the tree and restores it under faults;
//! on the others it does not fit. After each fault the same images restore well on the same node.

use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::{Now, Row, Scene, thaw};
use crate::support::eye::Eye;
use crate::support::gpu::{GpuAnswer, GpuTree, is_inside_node, node_command};
use crate::support::{errors, live_node};
use Now::{AsItWas, Undone, Untouched};

const NAME: &str = "gpu::gpus_that_do_not_fit_or_fail";
/// Which node it is, in the run that is inside.
const NODE: &str = "THAW_WAYS_NODE";
/// The node of the dump.
const HOME: &str = "--gpus 2";
/// A parent and a child that share a buffer, with contents in two GPUs and with queues.
const TREE: [&str; 2] = [
    "fork:1 kfd render:0 render:1 vram:0:1M gem:0:64K export:1:x queue:0:64K",
    "kfd render:0 render:1 vram:1:512K import:0:x queue:1:64K",
];

/// A row, what goes wrong with calls or which node it is, and more arguments.
type Way = (Row, &'static str, &'static [&'static str]);

pub(crate) fn rows() -> Vec<&'static Row> {
    let all = DUMPS.iter().chain(HARM).chain(RESTORES).chain(ELSEWHERE).chain(NOWHERE);
    all.map(|(row, _, _)| row).collect()
}

#[test]
fn gpus_that_do_not_fit_or_fail() {
    if is_inside_node() {
        let dir = PathBuf::from(std::env::var_os("THAW_WAYS_DIR").expect("it was set"));
        return match std::env::var(NODE).expect("it was set").as_str() {
            HOME => at_home(&dir),
            node => elsewhere(&dir, node),
        };
    }
    live_node(NAME, |dir| {
        on_node(dir, HOME);
        let mut nodes: Vec<&str> = ELSEWHERE.iter().map(|(_, node, _)| *node).collect();
        nodes.dedup();
        nodes.into_iter().for_each(|node| on_node(dir, node));
        let mut scene = Scene::new(dir, Eye::on(&[dir]));
        for (row, _, args) in NOWHERE {
            scene.begin(row);
            if Path::new(gpu_kfd::KFD_PATH).exists() {
                scene.skip("this machine has GPUs");
            } else {
                scene.fails(restore(dir, args));
            }
        }
        scene.end();
    });
}

fn on_node(dir: &Path, node: &str) {
    let options: Vec<&str> = node.split(' ').collect();
    let mut command = node_command(NAME, &options, dir);
    let status = command.env(NODE, node).env("THAW_WAYS_DIR", dir).status().expect("thaw runs");
    assert!(status.success(), "on the node {node}: {status}");
}

fn images(dir: &Path) -> PathBuf {
    dir.join("images")
}

fn restore(dir: &Path, args: &[&str]) -> std::process::Command {
    let images = images(dir);
    let images = images.to_str().expect("a plain path");
    thaw(&[], &[&["restore", "-d", "--json", "-D", images], args].concat())
}

fn elsewhere(dir: &Path, node: &str) {
    let mut scene = Scene::new(dir, Eye::on_node(&[dir]));
    for (row, _, args) in ELSEWHERE.iter().filter(|(_, other, _)| *other == node) {
        scene.begin(row);
        let is_switch = |arg: &&str| arg.starts_with("KFD_");
        let switches = args.iter().copied().filter(is_switch).filter_map(|arg| arg.split_once('='));
        let args: Vec<&str> = args.iter().copied().filter(|arg| !is_switch(arg)).collect();
        let mut command = restore(dir, &args);
        command.envs(switches);
        scene.fails(command);
    }
    scene.end();
}

fn at_home(dir: &Path) {
    nix::sys::prctl::set_child_subreaper(true).expect("it is allowed");
    let mut scene = Scene::new(dir, Eye::on_node(&[dir]));
    let mut tree = GpuTree::start(dir, &TREE);
    let before = tree.settle();
    dumps(&mut scene, &mut tree, &before);
    let command = tree.dump_command(&images(dir), &[]).status();
    assert!(command.expect("thaw runs").success(), "{}", errors(&images(dir).join("dump.log")));
    tree.tree.reap();
    let answered = tree.answered();
    // Steps in the wrong order, for the row that wants it.
    let labels = tree.tree.pids.iter().flat_map(|pid| [3, 2, 1].map(|n| format!("{pid}.{n}\n")));
    fs::write(dir.join("order"), labels.collect::<String>()).expect("room");
    for (row, rules, args) in RESTORES {
        scene.begin(row);
        under(&mut scene, rules, |scene| scene.fails(restore(dir, args)));
        let output = restore(dir, &[]).output().expect("thaw runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "after {}: {said}", row.name);
        tree.check(&before, row.name);
        tree.kill();
        tree.put_status_back(answered);
    }
    for (row, rules, args) in HARM {
        let dir = dir.join("harm");
        fs::create_dir(&dir).expect("a folder");
        let mut tree = GpuTree::start(&dir, &TREE);
        tree.settle();
        scene.begin(row);
        dump_under(&mut scene, &tree, rules, args);
        tree.kill();
    }
    scene.end();
}

/// The tree goes on after each.
fn dumps(scene: &mut Scene, tree: &mut GpuTree, before: &[GpuAnswer]) {
    for (row, rules, args) in DUMPS {
        scene.begin(row);
        dump_under(scene, tree, rules, args);
        tree.check(before, row.name);
    }
}

fn dump_under(scene: &mut Scene, tree: &GpuTree, rules: &str, args: &[&str]) {
    let images = scene.dir.join("none");
    fs::create_dir_all(&images).expect("a folder");
    let (images, pid) = (images.to_str().expect("a plain path"), tree.tree.root().to_string());
    let dump = ["dump", "-t", &pid, "--json", "-D", images];
    under(scene, rules, |scene| scene.fails(thaw(&[], &[&dump, args].concat())));
}

/// While calls fail.
fn under(scene: &mut Scene, rules: &str, body: impl FnOnce(&mut Scene)) {
    scene.eye.set_faults(rules);
    body(scene);
    let hits = scene.eye.set_faults("");
    if hits == 0 && !rules.is_empty() {
        scene.note(format!("no call was met by {rules}"));
    }
}

const DUMPS: &[Way] = &[
    (
        Row::dump(
            "driver does not stop the queues",
            (1, "device.denied", AsItWas),
            &["process 4", "/dev/kfd", "CRIU_OP PROCESS_INFO", "EACCES"],
        ),
        "CRIU_PROCESS_INFO@1=EACCES",
        &[],
    ),
    (
        Row::dump(
            "driver does not give its state",
            (1, "device.call", AsItWas),
            &["process 4", "/dev/kfd", "CRIU_OP CHECKPOINT", "EINVAL", "the process changed"],
        ),
        "CRIU_CHECKPOINT@1=EINVAL",
        &[],
    ),
    (
        Row::dump(
            "driver without memory at a dump",
            (1, "device.no-memory", AsItWas),
            &["process 4", "CRIU_OP CHECKPOINT", "ENOMEM"],
        ),
        "CRIU_CHECKPOINT@2=ENOMEM",
        &[],
    ),
    (
        Row::dump(
            "buffer that cannot be exported",
            (1, "device.no-memory", AsItWas),
            &["process 4", "/dev/dri/renderD128", "PRIME_HANDLE_TO_FD", "ENOMEM"],
        ),
        "PRIME_HANDLE_TO_FD@1=ENOMEM",
        &[],
    ),
    (
        Row::dump(
            "GPU lost during a dump",
            (1, "device.gone", AsItWas),
            &["/dev/dri/renderD128", "GEM_", "ENODEV"],
        ),
        "GEM_LIST_HANDLES@1=ENODEV",
        &[],
    ),
];

/// What harms a tree, and says so: each has one of its own.
const HARM: &[Way] = &[(
    Row::dump(
        "queues that cannot be started again",
        (5, "undo.queues", Now::Otherwise("could not be let go as it was")),
        &["GPU queues of process", "CRIU_OP UNPAUSE", "EINVAL", "queues"],
    )
    .command("thaw dump -R -t PID -D DIR"),
    "CRIU_UNPAUSE=EINVAL",
    &["-R"],
)];

const RESTORES: &[Way] = &[
    (
        Row::restore(
            "device gone",
            (1, "device.gone", Undone),
            &["process 4", "/dev/dri/renderD128", "open", "ENODEV"],
        ),
        "OPEN_RENDER@1=ENODEV",
        &[],
    ),
    (
        Row::restore(
            "device that may not be opened",
            (1, "device.denied", Undone),
            &["process 4", "/dev/kfd", "open", "EPERM"],
        ),
        "OPEN_KFD@2=EPERM",
        &[],
    ),
    (
        Row::restore(
            "state that the driver does not take",
            (1, "device.call", Undone),
            &["process 4", "/dev/kfd", "CRIU_OP RESTORE", "EINVAL", "kernel and GPU model"],
        ),
        "CRIU_RESTORE@1=EINVAL",
        &[],
    ),
    (
        Row::restore(
            "driver without memory for its state",
            (1, "device.no-memory", Undone),
            &["process 4", "/dev/kfd", "CRIU_OP RESTORE", "ENOMEM", "free GPU or system memory"],
        ),
        "CRIU_RESTORE@2=ENOMEM",
        &[],
    ),
    (
        Row::restore(
            "no memory for a buffer",
            (1, "device.no-memory", Undone),
            &["process 4", "/dev/dri/renderD128", "GEM_CREATE", "ENOMEM"],
        ),
        "GEM_CREATE@1=ENOMEM",
        &[],
    ),
    (
        Row::restore(
            "addresses on the GPU that are taken",
            (1, "device.call", Undone),
            &["process 4", "/dev/dri/renderD128", "GEM_VA", "EBUSY"],
        ),
        "GEM_VA@1..=EBUSY",
        &[],
    ),
    (
        Row::restore(
            "queues that cannot be resumed",
            (1, "restore.gpu-resume", Undone),
            &["process 4", "/dev/kfd", "CRIU_OP RESUME", "EINVAL", "kernel's log"],
        ),
        "CRIU_RESUME@2=EINVAL",
        &[],
    ),
    (
        Row::restore(
            "call that does not end",
            (1, "restore.overdue", Undone),
            &["of process 4", "/dev/kfd", "did not end within 1 s", "GPU or a disk hangs"],
        ),
        "CRIU_RESTORE@1=30s",
        &["--silence-limit", "1"],
    ),
    (
        Row::restore(
            "order of device files that is not legal",
            (2, "usage.schedule", Untouched),
            &["the order breaks rule 1", "thaw plan"],
        )
        .command("thaw restore --schedule order:FILE"),
        "",
        &["--schedule", "order:order"],
    ),
    (
        Row::restore(
            "map with a GPU that is not here",
            (4, "gpu.unknown-here", Untouched),
            &["0x0007", "ids of this host"],
        )
        .command("thaw restore --gpu-map SAVED=0x7"),
        "",
        &["--gpu-map", "0xf85e=0x7"],
    ),
    (
        Row::restore(
            "map with a GPU that was not saved",
            (4, "gpu.unknown-saved", Untouched),
            &["0x0007", "ids of the checkpoint"],
        )
        .command("thaw restore --gpu-map 0x7=HERE"),
        "",
        &["--gpu-map", "0x7=0xf85e"],
    ),
];

/// A node with memory that only its copy engines reach, which take no work.
const HIDDEN: &str = "--gpus 2 --visible-vram 64M --fault CS=ENOMEM";

/// Nodes that the tree does not fit on, or that fail by themselves.
const ELSEWHERE: &[Way] = &[
    (
        Row::restore(
            "fewer GPUs than before",
            (4, "gpu.fewer-here", Untouched),
            &["2", "as many GPUs"],
        ),
        "--gpus 1",
        &[],
    ),
    (
        Row::restore(
            "GPUs of another model",
            (4, "gpu.no-partner", Untouched),
            &["device_id", "KFD_DEVICE_CHECK=0", "GPUs of the same kind"],
        ),
        "--gpus 2 --model gfx942",
        &[],
    ),
    (
        Row::restore(
            "less memory on the GPUs",
            (4, "gpu.no-partner", Untouched),
            &["vram", "KFD_VRAM_SIZE_CHECK=0"],
        ),
        "--gpus 2 --vram 512M",
        &[],
    ),
    (
        Row::restore(
            "older firmware",
            (4, "gpu.no-partner", Untouched),
            &["fw_version", "KFD_FW_VER_CHECK=0"],
        ),
        "--gpus 2 --firmware 7",
        &[],
    ),
    (
        Row::restore(
            "one of two GPUs gone",
            (4, "gpu.fewer-here", Untouched),
            &["2", "as many GPUs"],
        ),
        "--gpus 2 --remove-gpu 1",
        &[],
    ),
    (
        Row::restore(
            "GPUs whose memory the host sees in part",
            (4, "gpu.no-partner", Untouched),
            &["vram_public", "KFD_VRAM_PUBLIC_CHECK=0"],
        ),
        HIDDEN,
        &[],
    ),
    (
        Row::restore(
            "contents that cannot be copied",
            (1, "device.no-memory", Undone),
            &["process 4", "contents of device file", "/dev/dri/renderD12", "CS", "ENOMEM"],
        )
        .varies("process N, contents of device file N: CS on /dev/dri/renderDN: ENOMEM: ..."),
        HIDDEN,
        &["KFD_VRAM_PUBLIC_CHECK=0", "KFD_LINK_CHECK=0"],
    ),
];

/// No node at all.
const NOWHERE: &[Way] = &[(
    Row::restore(
        "no GPU here",
        (4, "host.no-gpus", Untouched),
        &["needs AMD GPUs", "/dev/kfd", "amdgpu driver"],
    ),
    "",
    &[],
)];
