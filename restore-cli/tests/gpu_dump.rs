//! Dumps of trees that use GPUs: what the images say, what is refused, and that every tree goes on
//! whose dump ended early. On emulated nodes, by the calls that are made on hardware.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use criu_image::{Checkpoint, FileId, GpuImages, vma_status};
use support::gpu::{GpuAnswer, GpuTree, in_node, is_inside_node, node_command};
use support::{errors, example, live_node};

const TWO: [&str; 2] = ["--gpus", "2"];
/// A parent and a child, each with three device files.
const SIX_FILES: [&str; 2] = [
    "fork:1 kfd render:0 render:1 vram:0:256K gtt:1:64K queue:0 queue:1",
    "kfd render:0 render:1 vram:1:256K gtt:0:64K queue:0 queue:1",
];

/// Dumps a tree that goes on, and checks that it does and that nothing is wrong with the images.
fn dump(tree: &mut GpuTree, before: &[GpuAnswer], images: &Path) -> Checkpoint {
    let status = tree.dump_command(images, &["-R"]).status().expect("thaw runs");
    assert!(status.success(), "{status}: {}", errors(&images.join("dump.log")));
    tree.check(before, "after the dump");
    let mut verify = Command::new(env!("CARGO_BIN_EXE_thaw"));
    let found = verify.args(["image", "verify"]).arg(images).output().expect("thaw runs");
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stdout));
    Checkpoint::open(images).expect("it is whole")
}

/// A tree as these texts say, dumped while it goes on.
fn dumped(dir: &Path, processes: &[&str]) -> (GpuTree, Checkpoint, PathBuf) {
    let mut tree = GpuTree::start(dir, processes);
    let before = tree.settle();
    let images = dir.join("images");
    let checkpoint = dump(&mut tree, &before, &images);
    (tree, checkpoint, images)
}

/// Numbers of memory of a file, in the order of its buffers.
fn objects(gpu: &GpuImages, file: FileId) -> Vec<u64> {
    let state = gpu.state.as_ref().expect("our own image");
    let entry = state.files.iter().find(|entry| entry.id == file.0);
    entry.expect("every device file is listed").objects.clone()
}

#[test]
fn tree_with_six_device_files_is_captured_and_goes_on() {
    in_node("tree_with_six_device_files_is_captured_and_goes_on", &TWO, |dir| {
        let (tree, checkpoint, _) = dumped(dir, &SIX_FILES);
        let gpu = &checkpoint.gpu;
        assert_eq!((gpu.kfds.len(), gpu.renders.len(), gpu.dmabufs.len()), (2, 4, 0));
        let plugins = checkpoint.inventory.plugins_entry.as_ref().expect("an entry");
        assert_eq!(plugins.plugins, [b"amdgpu_plugin".to_vec()]);
        for kfd in gpu.kfds.values() {
            // Ring, control page, doorbells, two scratch buffers for each queue; the event page.
            assert_eq!(kfd.entry.bo_entries.len(), 2 + 2 * 5 + 1);
            assert_eq!((kfd.private.queues.len(), kfd.private.events.len()), (2, 2));
            assert_eq!((kfd.entry.num_of_gpus, kfd.entry.num_of_cpus), (2, 1));
        }
        let state = gpu.state.as_ref().expect("our own image");
        let pids: Vec<u32> = tree.tree.pids.iter().map(|pid| *pid as u32).collect();
        let owners: Vec<u32> = state.files.iter().map(|file| file.owner).collect();
        assert_eq!(owners, [pids[0], pids[0], pids[0], pids[1], pids[1], pids[1]]);
        let computes = state.files.iter().filter(|file| file.compute == 1);
        assert_eq!(computes.count(), 4, "{:?}", state.files);
        let all: Vec<u64> = state.files.iter().flat_map(|file| file.objects.clone()).collect();
        let different: BTreeSet<u64> = all.iter().copied().collect();
        assert_eq!(different.len(), all.len(), "nothing is shared");
        tree.kill();
    });
}

#[test]
fn device_mappings_are_the_plugins_and_none_of_their_pages_is_saved() {
    let name = "device_mappings_are_the_plugins_and_none_of_their_pages_is_saved";
    in_node(name, &TWO, |dir| {
        let (tree, checkpoint, images) = dumped(dir, &["kfd render:0 vram:0:8M gem:0:4M queue:0"]);
        let body = checkpoint.processes[0].body.as_ref().expect("it lives");
        let device = |vma: &&criu_image::record::VmaEntry| vma.status & vma_status::EXT_PLUGIN != 0;
        let devices: Vec<_> = body.mm.vmas.iter().filter(device).collect();
        // Two buffers, and what a queue needs: five buffers and the event page.
        assert_eq!(devices.len(), 8, "{devices:?}");
        for vma in devices {
            let file = checkpoint.reg_file(FileId(vma.shmid as u32)).expect("a file with a path");
            let path = String::from_utf8_lossy(&file.name);
            let is_doorbell = vma.end - vma.start == 8192;
            assert_eq!(path, if is_doorbell { "/dev/kfd" } else { "/dev/dri/renderD128" });
            assert_eq!((file.mode.expect("a mode") & 0o170_000, file.size), (0o020_000, None));
            assert_eq!(vma.fdflags, Some(2), "{vma:?}");
        }
        let pages = fs::metadata(images.join("pages-1.img")).expect("it is there").len();
        assert!(pages < 4 << 20, "{pages} bytes of pages: buffers are among them");
        tree.kill();
    });
}

#[test]
fn worker_of_gpu_kfd_goes_on_after_its_dump() {
    in_node("worker_of_gpu_kfd_goes_on_after_its_dump", &TWO, |dir| {
        let rounds = dir.join("rounds");
        // What a careless caller of the tests has left open is none of the worker's files.
        let script = "for fd in {3..255}; do eval \"exec $fd>&-\"; done; exec setsid \"$@\"";
        let mut child = Command::new("bash")
            .args(["-c", script, "bash"])
            .arg(example("gpu_worker"))
            .args(["busy", rounds.to_str().expect("a plain path")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("gpu-kfd's examples are built");
        let count = || fs::read_to_string(&rounds).unwrap_or_default().lines().count();
        let wait_for = |wanted: usize| {
            let begin = Instant::now();
            while count() < wanted {
                assert!(begin.elapsed() < Duration::from_secs(60), "the worker stands still");
                std::thread::yield_now();
            }
        };
        wait_for(3);
        for round in 0..5 {
            let images = dir.join(format!("images-{round}"));
            fs::create_dir(&images).expect("a folder");
            let mut dump = Command::new(env!("CARGO_BIN_EXE_thaw"));
            dump.args(["dump", "-R", "-o", "dump.log", "-t", &child.id().to_string(), "-D"]);
            let status = dump.arg(&images).stderr(Stdio::null()).status().expect("thaw runs");
            assert!(status.success(), "{status}: {}", errors(&images.join("dump.log")));
            Checkpoint::open(&images).expect("it is whole");
            wait_for(count() + 3);
        }
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    });
}

/// What `gpu_tree` fills a buffer with that is not shared.
fn pattern(process: u64, buffer: u64, index: u64) -> u64 {
    let seed = process << 32 | buffer;
    let word = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (seed + 1).wrapping_mul(0xd1b5_4a32_d192_ed03);
    word ^ word >> 29
}

#[test]
fn images_of_contents_hold_each_buffer_in_its_place() {
    in_node("images_of_contents_hold_each_buffer_in_its_place", &TWO, |dir| {
        let layout = ["kfd render:0 render:1 vram:0:64K gtt:0:12M vram:1:9M gem:1:8K+nocpu"];
        let (tree, checkpoint, images) = dumped(dir, &layout);
        let gpu = &checkpoint.gpu;
        let check = |name: &str, buffers: &[(u64, usize)]| {
            let bytes = fs::read(images.join(name)).expect("it is there");
            let words: Vec<u64> = bytes
                .chunks_exact(8)
                .map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")))
                .collect();
            assert_eq!(words[0] as usize, bytes.len() - 8, "{name}");
            let mut at = 1;
            for &(buffer, size) in buffers {
                let count = size / 8;
                let whole = (0..count).all(|i| words[at + i] == pattern(0, buffer, i as u64));
                assert!(whole, "{name}: buffer {buffer}");
                at += count;
            }
            assert_eq!(at, words.len(), "{name}");
        };
        let (file, kfd) = gpu.kfds.first_key_value().expect("a KFD file");
        let gpus: BTreeSet<u32> = kfd.entry.bo_entries.iter().map(|bo| bo.gpu_id).collect();
        let name = |id: &u32| format!("amdgpu-pages-{}-{id:04x}.img", file.0);
        let first = kfd.entry.bo_entries[0].gpu_id;
        assert_eq!(gpus.len(), 2);
        check(&name(&first), &[(0, 64 << 10), (1, 12 << 20)]);
        let other = gpus.iter().find(|id| **id != first).expect("two GPUs");
        check(&name(other), &[(2, 9 << 20)]);
        let (render, _) = gpu
            .renders
            .iter()
            .find(|(_, node)| node.drm_render_minor == 129)
            .expect("a render node");
        check(&format!("amdgpu-drm-pages-{}-129-0000.img", render.0), &[(3, 8 << 10)]);
        tree.kill();
    });
}

#[test]
fn memory_has_one_number_whoever_has_it_and_one_file_makes_it() {
    let name = "memory_has_one_number_whoever_has_it_and_one_file_makes_it";
    in_node(name, &TWO, |dir| {
        let layout = [
            // Handles differ on purpose, and equal ones are of different memory.
            "fork:1 kfd render:0 vram:0:64K+apart gem:0:64K export:0:a export:1:b import:0:c \
             keep:1",
            "render:0 render:1 render:0 hole:0 gem:0:16K gem:2:16K import:0:a import:0:b \
             import:1:b+nocpu+nova export:0:c take:a",
        ];
        let (tree, checkpoint, _) = dumped(dir, &layout);
        let gpu = &checkpoint.gpu;
        let (kfd, _) = gpu.kfds.first_key_value().expect("a KFD file");
        let renders: Vec<FileId> = gpu.renders.keys().copied().collect();
        let [parents, first, second, third] = renders[..] else { panic!("{renders:?}") };
        let a = objects(gpu, *kfd)[0];
        let [b, c] = objects(gpu, parents)[..] else { panic!("two buffers") };
        assert_eq!(objects(gpu, first), [c, a, b]);
        assert_eq!(objects(gpu, second), [b]);
        let own = objects(gpu, third);
        assert_eq!(own.len(), 1);
        let memories: BTreeSet<u64> = [a, b, c, own[0]].into();
        assert_eq!(memories.len(), 4, "{memories:?}");
        let dmabufs: Vec<u64> = gpu.dmabufs.keys().map(|file| objects(gpu, *file)[0]).collect();
        assert_eq!(dmabufs, [b, a]);
        let mut made: BTreeMap<u64, usize> = BTreeMap::from([(a, 1)]);
        for (file, node) in &gpu.renders {
            for (bo, object) in node.bo_entries.iter().zip(objects(gpu, *file)) {
                *made.entry(object).or_default() += usize::from(bo.is_import == 0);
            }
        }
        assert!(made.values().all(|makers| *makers == 1), "{made:?}");
        tree.kill();
    });
}

#[test]
fn mapping_that_the_kfd_makes_is_not_listed_again_with_the_render_node() {
    let name = "mapping_that_the_kfd_makes_is_not_listed_again_with_the_render_node";
    in_node(name, &TWO, |dir| {
        // The same file imports what the KFD has mapped in its address space.
        let layout = ["kfd render:0 vram:0:64K export:0:a import:0:a gem:0:64K"];
        let (tree, checkpoint, _) = dumped(dir, &layout);
        let node = checkpoint.gpu.renders.values().next().expect("a render node");
        let counts: Vec<usize> = node.bo_entries.iter().map(|bo| bo.vm_entries.len()).collect();
        assert_eq!(counts, [1, 1], "one mapping of its own for each");
        let kfd = checkpoint.gpu.kfds.values().next().expect("a KFD file");
        assert_ne!(node.bo_entries[0].vm_entries[0].addr, kfd.entry.bo_entries[0].addr);
        tree.kill();
    });
}

#[test]
fn render_node_with_the_processs_address_space_is_found_among_several() {
    let name = "render_node_with_the_processs_address_space_is_found_among_several";
    in_node(name, &TWO, |dir| {
        let layout = [
            "render:0 kfd render:0 render:0 vm:1 vram:0:64K gem:0:8K gem:1:8K gem:2:8K queue:0 \
             fork:1",
            "kfd render:0 vm:2 vram:0:64K render:0",
        ];
        let (tree, checkpoint, _) = dumped(dir, &layout);
        let state = checkpoint.gpu.state.as_ref().expect("our own image");
        let file_at = |process: usize, fd: u32| {
            let body = checkpoint.processes[process].body.as_ref().expect("it lives");
            let table = &checkpoint.fd_tables[&body.ids.files_id];
            table.iter().find(|entry| entry.fd == fd).expect("open").id
        };
        // Descriptors 3, 5 and 6 are the parent's render files; the child has those and 8, 9.
        let found: BTreeSet<u32> =
            state.files.iter().filter(|file| file.compute == 1).map(|file| file.id).collect();
        assert_eq!(found, [file_at(0, 5), file_at(1, 6)].into(), "{:?}", state.files);
        assert_eq!(file_at(0, 6), file_at(1, 6), "the child computes in a file of its parent's");
        tree.kill();
    });
}

#[test]
fn second_file_of_the_kfd_carries_no_state_and_queues_stop_once() {
    in_node("second_file_of_the_kfd_carries_no_state_and_queues_stop_once", &TWO, |dir| {
        let (tree, checkpoint, _) = dumped(dir, &["at:9 kfd at:5 kfd render:0 vram:0:64K queue:0"]);
        let entries = &checkpoint.fd_tables
            [&checkpoint.processes[0].body.as_ref().expect("it lives").ids.files_id];
        let file_at = |fd: u32| entries.iter().find(|entry| entry.fd == fd).expect("open").id;
        let counts = |fd| {
            let kfd = &checkpoint.gpu.kfds[&FileId(file_at(fd))];
            (kfd.entry.bo_entries.len(), kfd.entry.num_of_gpus, kfd.private.queues.len())
        };
        assert_eq!((counts(5), counts(9)), ((7, 2, 1), (0, 0, 0)));
        tree.kill();
    });
}

#[test]
fn process_without_buffers_is_captured() {
    in_node("process_without_buffers_is_captured", &TWO, |dir| {
        let (tree, checkpoint, _) = dumped(dir, &["kfd fork:1", "kfd render:1 render:0 vm:1"]);
        for kfd in checkpoint.gpu.kfds.values() {
            assert_eq!((kfd.entry.num_of_bos, kfd.entry.num_of_objects), (0, 0));
        }
        assert_eq!(checkpoint.gpu.kfds.len(), 2);
        tree.kill();
    });
}

/// A dump of the whole tree is refused with this line, and the tree goes on.
fn check_refused(dir: &Path, case: usize, processes: &[&str], root: usize, expected: &[&str]) {
    let dir = dir.join(case.to_string());
    fs::create_dir(&dir).expect("a folder");
    let mut tree = GpuTree::start(&dir, processes);
    let before = tree.settle();
    let images = dir.join("images");
    fs::create_dir(&images).expect("a folder");
    let pid = tree.tree.pids[root].to_string();
    let mut dump = Command::new(env!("CARGO_BIN_EXE_thaw"));
    dump.args(["dump", "--shell-job", "-o", "dump.log", "-t", &pid, "-D"]).arg(&images);
    let status = dump.stderr(Stdio::null()).status().expect("thaw runs");
    let text = errors(&images.join("dump.log"));
    assert_eq!(status.code(), Some(4), "{processes:?}: {text}");
    for line in expected {
        assert!(text.contains(line), "{processes:?}: {line:?} is not in\n{text}");
    }
    assert_eq!(fs::read_dir(&images).expect("a folder").count(), 1, "only the log is there");
    tree.check(&before, &format!("{processes:?}"));
    tree.kill();
}

#[test]
fn what_a_driver_cannot_restore_is_refused_by_name() {
    in_node("what_a_driver_cannot_restore_is_refused_by_name", &TWO, |dir| {
        let check = |case, processes: &[&str], root, expected: &[&str]| {
            check_refused(dir, case, processes, root, expected);
        };
        check(1, &["render:0 usergem:0:64K"], 0, &["memory of a process (GEM_USERPTR)"]);
        let both =
            ["fork:1 kfd render:0 vram:0:64K export:0:a queue:0", "kfd render:0 kfdimport:0:a"];
        check(2, &both, 0, &["which is one memory with process", "dump when it is not shared"]);
        check(
            3,
            &["render:0 gem:0:64K+nova forget:0"],
            0,
            &["device mapping of what is no buffer"],
        );
        let outside = ["kfd render:0 vram:0:64K queue:0 fork:1", "null"];
        check(4, &outside, 1, &["/dev/kfd of a process outside the tree"]);
        let outside = ["fork:1 render:0 gem:0:64K export:0:a", "take:a"];
        check(5, &outside, 1, &["dma-buf of a buffer that no device file of the tree has"]);
    });
}

#[test]
fn failure_at_any_step_lets_queues_go_on() {
    let options = ["--gpus", "2", "--log"];
    in_node_with_log("failure_at_any_step_lets_queues_go_on", &options, |dir| {
        let layout =
            ["fork:1 kfd render:0 vram:0:64K gem:0:8K queue:0", "kfd kfd render:1 queue:1"];
        let mut tree = GpuTree::start(dir, &layout);
        let mut before = tree.settle();
        let images = dir.join("images");
        let mut step = 0;
        loop {
            let at = step.to_string();
            let args = ["-R", "--workers=1", "--fail-at", &at];
            let status = tree.dump_command(&images, &args).status().expect("thaw runs");
            let what = format!("step {step}: {}", errors(&images.join("dump.log")));
            before = tree.check(&before, &what);
            if status.success() {
                break;
            }
            assert_eq!(status.code(), Some(1), "{what}");
            assert!(what.contains("fails on purpose"), "{what}");
            step += 1;
        }
        println!("{step} steps failed, one after the other");
        assert!(step > 150, "{step} steps are too few to be all");
        tree.kill();
    });
}

/// Every other step, since each takes a new tree.
#[test]
fn process_that_is_dead_at_a_step_stops_no_others_queues() {
    in_node("process_that_is_dead_at_a_step_stops_no_others_queues", &TWO, |dir| {
        let layout = ["fork:1 kfd render:0 vram:0:64K queue:0", "kfd render:0 gem:0:8K queue:0"];
        let (mut failed, mut step) = (0, 0);
        loop {
            let dir = dir.join(step.to_string());
            fs::create_dir(&dir).expect("a folder");
            let mut tree = GpuTree::start(&dir, &layout);
            let before = tree.settle();
            let victim = tree.tree.pids[1];
            let at = format!("{step}:{victim}");
            let images = dir.join("images");
            let args = ["-R", "--workers=1", "--kill-at", &at];
            let status = tree.dump_command(&images, &args).status().expect("thaw runs");
            let what = format!("step {step}: {}", errors(&images.join("dump.log")));
            assert!(matches!(status.code(), Some(0 | 1)), "{what}: {status}");
            failed += usize::from(!status.success());
            let is_alive = status.success() && tree.tree.alive_and_no_zombies();
            let victims = tree.tree.split_off(victim);
            tree.check(&before, &what);
            tree.kill();
            victims.kill();
            let _ = fs::remove_dir_all(&dir);
            if is_alive {
                break;
            }
            step += 2;
        }
        println!("{failed} dumps failed of a death, up to step {step}");
        assert!(failed > 40, "{failed} are too few: something dies that is not asked for");
    });
}

/// As `in_node`, and every stop of queues in the log of calls has been taken back.
fn in_node_with_log(name: &str, options: &[&str], body: impl FnOnce(&Path)) {
    if is_inside_node() {
        return in_node(name, options, body);
    }
    live_node(name, |dir| {
        let log = dir.join("calls");
        let options = [options, &[log.to_str().expect("a plain path")]].concat();
        let status = node_command(name, &options, dir).status().expect("thaw starts");
        assert!(status.success(), "{name} inside a node: {status}");
        let text = fs::read_to_string(&log).expect("a log");
        let count = |call: &str| text.lines().filter(|line| line.contains(call)).count();
        let (stops, starts) = (count("\"CRIU_PROCESS_INFO\""), count("\"CRIU_UNPAUSE\""));
        println!("queues were stopped {stops} times");
        assert!(stops > 0 && stops == starts, "{stops} stops, {starts} starts");
    });
}

/// Calls of a dump, each with the operation that an error names. The numbers are higher than how
/// often the tree of this test makes the call itself.
const CALLS: [(&str, &str); 20] = [
    ("GET_VERSION@1=EIO", "GET_VERSION"),
    ("OPEN_KFD@2=EMFILE", "open on /dev/kfd"),
    ("CRIU_PROCESS_INFO@1=EIO", "PROCESS_INFO"),
    ("CRIU_CHECKPOINT@1=ENOMEM", "CHECKPOINT"),
    ("CRIU_UNPAUSE@1=EIO", "UNPAUSE"),
    ("GEM_LIST_HANDLES@1=ENOMEM", "GEM_LIST_HANDLES"),
    ("PRIME_HANDLE_TO_FD@1=ENOMEM", "PRIME_HANDLE_TO_FD"),
    ("GEM_MMAP@3=EIO", "GEM_MMAP"),
    ("GEM_OP@1=ENOMEM", "GET_MAPPING_INFO"),
    ("OPEN_RENDER@2=EACCES", "open on /dev/dri/renderD128"),
    ("VERSION@1=EIO", "VERSION"),
    ("PRIME_FD_TO_HANDLE@1=ENOMEM", "PRIME_FD_TO_HANDLE"),
    ("INFO@1=EIO", "INFO"),
    ("GEM_CREATE@3=ENOMEM", "GEM_CREATE"),
    ("GEM_USERPTR@1=ENOMEM", "GEM_USERPTR"),
    ("GEM_VA@3=ENOMEM", "GEM_VA"),
    ("CTX@1=ENOMEM", "CTX"),
    ("BO_LIST@1=ENOMEM", "BO_LIST"),
    ("CS@1=ENOMEM", "CS"),
    ("WAIT_CS@1=EIO", "WAIT_CS"),
];
/// Which of them fails in the run inside a node.
const CALL: &str = "THAW_TEST_CALL";

#[test]
fn call_that_fails_fails_the_dump_and_harms_nothing() {
    let name = "call_that_fails_fails_the_dump_and_harms_nothing";
    if is_inside_node() {
        let at: usize = std::env::var(CALL).expect("set outside").parse().expect("a number");
        return in_node(name, &[], |dir| check_call(dir, CALLS[at].0, CALLS[at].1));
    }
    live_node(name, |dir| {
        for (at, (rule, _)) in CALLS.iter().enumerate() {
            let dir = dir.join(at.to_string());
            fs::create_dir(&dir).expect("a folder");
            let mut node = node_command(name, &["--gpus", "1", "--fault", rule], &dir);
            let output = node.env(CALL, at.to_string()).output().expect("thaw starts");
            let said = String::from_utf8_lossy(&output.stdout);
            let why = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{rule}: {said}{why}");
        }
    });
}

/// A call fails once: the dump fails and names it, the tree goes on, and the next dump succeeds.
fn check_call(dir: &Path, rule: &str, operation: &str) {
    let layout = ["kfd render:0 vram:0:64K gem:0:8K gem:0:8K+nocpu queue:0"];
    let mut tree = GpuTree::start(dir, &layout);
    let errno = rule.rsplit('=').next().expect("a rule has an action");
    let images = dir.join("images");
    let status = tree.dump_command(&images, &["-R"]).status().expect("thaw runs");
    let text = errors(&images.join("dump.log"));
    assert_eq!(status.code(), Some(1), "{rule}: {text}");
    assert!(text.contains(operation) && text.contains(errno), "{rule}: {text}");
    let before = tree.settle();
    dump(&mut tree, &before, &dir.join("again"));
    tree.kill();
}

#[test]
fn queues_that_cannot_go_on_are_reported() {
    let options = ["--gpus", "1", "--fault", "CRIU_UNPAUSE@2..=EIO"];
    in_node("queues_that_cannot_go_on_are_reported", &options, |dir| {
        let mut tree = GpuTree::start(dir, &["kfd render:0 vram:0:64K queue:0"]);
        let before = tree.settle();
        dump(&mut tree, &before, &dir.join("images"));
        let images = dir.join("second");
        let status = tree.dump_command(&images, &["-R"]).status().expect("thaw runs");
        let text = errors(&images.join("dump.log"));
        assert_eq!(status.code(), Some(5), "{text}");
        let stay = format!("the GPU queues of process {} stay stopped", tree.tree.root());
        assert!(text.contains(&stay) && text.contains("EIO"), "{text}");
        tree.kill();
    });
}

#[test]
fn killed_tree_leaves_images_that_are_whole() {
    in_node("killed_tree_leaves_images_that_are_whole", &TWO, |dir| {
        let mut tree = GpuTree::start(dir, &SIX_FILES);
        tree.settle();
        let images = dir.join("images");
        let status = tree.dump_command(&images, &[]).status().expect("thaw runs");
        assert!(status.success(), "{status}: {}", errors(&images.join("dump.log")));
        tree.tree.reap();
        let checkpoint = Checkpoint::open(&images).expect("it is whole");
        assert_eq!(checkpoint.gpu.kfds.len(), 2);
    });
}
