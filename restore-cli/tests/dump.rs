//! A dump that fails, for whatever reason, leaves the tree as it was and no images.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use support::{Dumper, Tree, errors, live, own_group, thaw};

/// 3 processes, small.
const SMALL: [&str; 3] = ["3", "1", "1"];

/// What must not change: mappings, descriptors, signals, tracing. Masks do while a thread waits for
/// signals; `faithful` compares them at rest.
fn marks(tree: &Tree) -> BTreeMap<String, String> {
    let mut marks = BTreeMap::new();
    for pid in &tree.pids {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        marks.insert(format!("{pid} maps"), read("maps").unwrap_or_default());
        let status = read("status").unwrap_or_default();
        for key in ["TracerPid", "SigPnd", "ShdPnd", "SigCgt", "SigIgn", "Threads"] {
            let line = status.lines().find(|line| line.starts_with(key)).unwrap_or_default();
            marks.insert(format!("{pid} {key}"), line.to_owned());
        }
        let fds = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        marks.insert(format!("{pid} descriptors"), fds.to_string());
    }
    marks
}

fn check_unharmed(tree: &mut Tree, before: &BTreeMap<String, String>, what: &str) {
    tree.wait_until_untraced();
    assert_eq!(&marks(tree), before, "{what}");
    let answers = tree.ask();
    assert!(answers.values().all(|answer| answer.intact), "{what}: {answers:?}");
}

/// Files in the image directory beside the log.
fn images_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a folder").flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name != "dump.log").collect()
}

#[test]
fn failure_at_any_step_leaves_the_tree_running_and_no_images() {
    live("failure_at_any_step_leaves_the_tree_running_and_no_images", |dir: &Path| {
        let mut tree = Tree::start(dir, &SMALL);
        let images = dir.join("images");
        fs::create_dir(&images).expect("a folder");
        let before = marks(&tree);
        let mut step = 0;
        loop {
            let at = step.to_string();
            let args = ["--leave-running", "--workers=1", "--fail-at", &at];
            let status = tree.dump_command(&images, &args).status().expect("thaw runs");
            let what = format!("step {step}: {}", errors(&images.join("dump.log")));
            check_unharmed(&mut tree, &before, &what);
            if status.success() {
                break;
            }
            assert_eq!(status.code(), Some(1), "{what}");
            assert!(what.contains("fails on purpose"), "{what}");
            assert_eq!(images_in(&images), Vec::<String>::new(), "{what}");
            step += 1;
        }
        println!("{step} steps failed, one after the other");
        assert!(step > 100, "{step} steps are too few to be all");
        tree.kill();
    });
}

#[test]
fn killed_dump_leaves_the_tree_unharmed_and_no_half_checkpoint() {
    live("killed_dump_leaves_the_tree_unharmed_and_no_half_checkpoint", |dir: &Path| {
        let mut tree = Tree::start(dir, &SMALL);
        let images = dir.join("images");
        let fresh = |images: &Path| {
            let _ = fs::remove_dir_all(images);
            fs::create_dir(images).expect("a folder");
        };
        fresh(&images);
        let mut before = marks(&tree);
        let begin = Instant::now();
        assert!(tree.dump_command(&images, &["-R"]).status().expect("thaw runs").success());
        let whole = begin.elapsed();
        let (mut alive, mut dumped) = (0, 0);
        let rounds = 200u32;
        for round in 0..rounds {
            fresh(&images);
            let mut dump = tree.dump_command(&images, &[]).spawn().expect("thaw runs");
            // The moments are spread evenly over the time that a dump takes.
            std::thread::sleep(whole * round / rounds);
            let _ = dump.kill();
            dump.wait().expect("thaw can be waited for");
            wait_for_keepers();
            let checkpoint = criu_image::Checkpoint::open(&images);
            if tree.alive_and_no_zombies() {
                check_unharmed(&mut tree, &before, &format!("round {round}"));
                alive += 1;
            } else {
                // The kill came too late: then the dump is complete.
                assert!(checkpoint.is_ok(), "round {round}: {:?}", checkpoint.err());
                tree.reap();
                tree.restore(&images);
                let answers = tree.ask();
                assert!(answers.values().all(|answer| answer.intact), "round {round}, restored");
                before = marks(&tree);
                dumped += 1;
            }
            let inventory = images.join("inventory.img").exists();
            assert_eq!(inventory, checkpoint_is_whole(&images), "round {round}");
        }
        println!("{rounds} kills: {alive} trees went on, {dumped} were dumped");
        assert!(alive > 0, "no kill came before the end");
        tree.kill();
    });
}

fn checkpoint_is_whole(images: &Path) -> bool {
    criu_image::Checkpoint::open(images).is_ok()
}

/// The process that does the work of a dump outlives the command by what it has to undo. As init we
/// get it as a child.
fn wait_for_keepers() {
    let begin = Instant::now();
    loop {
        let flags = WaitPidFlag::WNOHANG;
        let thaws = fs::read_dir("/proc").expect("/proc").flatten().filter(|entry| {
            let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            comm.trim() == "thaw"
        });
        let pids: Vec<i32> =
            thaws.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        if pids.is_empty() {
            return;
        }
        for pid in pids {
            let _ = waitpid(Pid::from_raw(pid), Some(flags));
        }
        assert!(begin.elapsed().as_secs() < 60, "a dump does not end");
        std::thread::yield_now();
    }
}

#[test]
fn full_disk_is_a_clean_failure() {
    live("full_disk_is_a_clean_failure", |dir: &Path| {
        let images = dir.join("images");
        fs::create_dir(&images).expect("a folder");
        check_full_disk(dir, &images, &["2", "4", "1"], &[64, 400, 3000, 6000]);
        // The memory of a large process is written by a thread of its own.
        check_full_disk(dir, &images, &["1", "24", "1"], &[400, 6000, 20000]);
    });
}

fn check_full_disk(dir: &Path, images: &Path, tree: &[&str], sizes_kib: &[u32]) {
    let mut tree = Tree::start(dir, tree);
    let before = marks(&tree);
    for kib in sizes_kib {
        let size = format!("size={kib}k");
        let tmpfs = Some("tmpfs");
        mount(tmpfs, images, tmpfs, MsFlags::empty(), Some(size.as_str())).expect("a tmpfs");
        let mut dump = tree.dump_command(images, &[]);
        let status = dump.status().expect("thaw runs");
        let what = format!("{kib} KiB: {}", errors(&images.join("dump.log")));
        assert_eq!(status.code(), Some(1), "{what}");
        check_unharmed(&mut tree, &before, &what);
        assert_eq!(images_in(images), Vec::<String>::new(), "{what}");
        umount(images).expect("it is mounted");
    }
    tree.kill();
    fs::remove_file(dir.join("status")).expect("it was made");
}

#[test]
fn what_cannot_be_captured_is_listed_and_left_running() {
    live("what_cannot_be_captured_is_listed_and_left_running", |dir: &Path| {
        let mut tree = Tree::start(dir, &["socket"]);
        let images = dir.join("images");
        fs::create_dir(&images).expect("a folder");
        let before = marks(&tree);
        let status = tree.dump_command(&images, &[]).status().expect("thaw runs");
        assert_eq!(status.code(), Some(4));
        let text = errors(&images.join("dump.log"));
        let refused = text.lines().filter(|line| line.contains("unix socket")).count();
        assert_eq!(refused, 2, "{text}");
        let whose = format!("unix socket of process {} (descriptor ", tree.root());
        assert!(text.contains(&whose) && text.contains("close it before the dump"), "{text}");
        check_unharmed(&mut tree, &before, "after the refusal");
        assert_eq!(images_in(&images), Vec::<String>::new());
        tree.kill();
    });
}

#[test]
fn process_that_dies_meanwhile_harms_no_other() {
    live("process_that_dies_meanwhile_harms_no_other", |dir: &Path| {
        let rounds = 30u32;
        let mut failed = 0;
        let mut whole = Duration::ZERO;
        for round in 0..rounds {
            let mut tree = Tree::start(dir, &SMALL);
            if round == 0 {
                // The moments are spread evenly over the time that a dump takes.
                let images = dir.join("images-whole");
                fs::create_dir(&images).expect("a folder");
                let begin = Instant::now();
                assert!(tree.dump_command(&images, &["-R"]).status().expect("runs").success());
                whole = begin.elapsed();
            }
            let images = dir.join(format!("images-{round}"));
            fs::create_dir(&images).expect("a folder");
            let victim = *tree.pids.last().expect("three processes");
            let mut dump = tree.dump_command(&images, &["-R"]).spawn().expect("thaw runs");
            std::thread::sleep(whole * round / rounds);
            kill(Pid::from_raw(victim), Signal::SIGKILL).expect("it runs");
            let status = dump.wait().expect("thaw can be waited for");
            failed += usize::from(!status.success());
            let what = format!("round {round}: {}", errors(&images.join("dump.log")));
            assert!(matches!(status.code(), Some(0 | 1)), "{what}: {status}");
            assert_eq!(status.success(), checkpoint_is_whole(&images), "round {round}");
            let victims = tree.split_off(victim);
            tree.wait_until_untraced();
            let answers = tree.ask();
            assert!(answers.values().all(|answer| answer.intact), "round {round}");
            tree.kill();
            victims.kill();
            let _ = fs::remove_file(dir.join("status"));
        }
        println!("{rounds} deaths, {failed} dumps failed of it");
    });
}

#[test]
fn process_that_is_dead_at_any_step_harms_no_other() {
    live("process_that_is_dead_at_any_step_harms_no_other", |dir: &Path| {
        let (mut step, mut failed, mut steps) = (0, 0, u32::MAX);
        while step < steps {
            let mut tree = Tree::start(dir, &SMALL);
            let images = dir.join(format!("images-{step}"));
            fs::create_dir(&images).expect("a folder");
            let victim = tree.pids[1 + step as usize % 2]; // in turn the first child and the last
            let at = format!("{step}:{victim}");
            let mut dump = tree.dump_command(&images, &["-R", "--workers=1", "--kill-at", &at]);
            let status = dump.status().expect("thaw runs");
            let what = format!("step {step}: {}", errors(&images.join("dump.log")));
            assert!(matches!(status.code(), Some(0 | 1)), "{what}: {status}");
            assert_eq!(status.success(), checkpoint_is_whole(&images), "{what}");
            if status.success() {
                steps = steps.min(steps_of(&images));
            } else {
                assert!(what.contains(&format!("process {victim} ")), "{what}");
                assert_eq!(images_in(&images), Vec::<String>::new(), "{what}");
                failed += 1;
            }
            let victims = tree.split_off(victim);
            tree.wait_until_untraced();
            let answers = tree.ask();
            assert!(answers.values().all(|answer| answer.intact), "{what}");
            tree.kill();
            victims.kill();
            let _ = fs::remove_file(dir.join("status"));
            let _ = fs::remove_dir_all(&images);
            step += 1;
        }
        println!("{step} deaths, one at each step; {failed} dumps failed of it");
        assert!(failed > 80, "{failed} are too few: something dies that is not asked for");
    });
}

/// How many steps a dump has taken that succeeded.
fn steps_of(images: &Path) -> u32 {
    let log = fs::read_to_string(images.join("dump.log")).expect("a log");
    let line = log.lines().find(|line| line.ends_with(" steps")).expect("it says so");
    let number = line.split(' ').rev().nth(1).and_then(|word| word.parse().ok());
    number.expect("a number of steps")
}

#[test]
fn control_groups_are_named_and_upstream_puts_a_tree_back_into_them() {
    let name = "control_groups_are_named_and_upstream_puts_a_tree_back_into_them";
    support::live_with_upstream(name, |dir: &Path| {
        let mut tree = Tree::start(dir, &SMALL);
        let Some(group) = own_group(&tree) else {
            support::skip(name, "no control groups of version 2 can be made here");
            return tree.kill();
        };
        let groups = |tree: &Tree| -> Vec<String> {
            let read = |pid| fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
            tree.pids.iter().map(read).collect()
        };
        let before = groups(&tree);
        let images = dir.join("images");
        tree.dump(&images, Dumper::Own);
        // We do not move a tree yet, and say so before anything is done.
        assert_eq!(thaw(&images, &[]).code(), Some(4));
        let said = errors(&images.join("thaw.log"));
        assert!(said.contains("--manage-cgroups=ignore"), "{said}");
        tree.restore_upstream(&images);
        assert_eq!(groups(&tree), before);
        assert!(tree.ask().values().all(|answer| answer.intact));
        let images = dir.join("images-again");
        tree.dump(&images, Dumper::Own);
        assert!(thaw(&images, &["--manage-cgroups=ignore"]).success());
        let own = fs::read_to_string("/proc/self/cgroup").expect("/proc");
        assert!(groups(&tree).iter().all(|groups| *groups == own), "in the restorer's groups");
        assert!(tree.ask().values().all(|answer| answer.intact));
        tree.kill();
        fs::remove_dir(&group).expect("it is empty");
    });
}

#[test]
fn tree_in_a_control_group_of_its_own_is_frozen_and_thawed_again() {
    let name = "tree_in_a_control_group_of_its_own_is_frozen_and_thawed_again";
    live(name, |dir: &Path| {
        let mut tree = Tree::start(dir, &SMALL);
        let Some(group) = own_group(&tree) else {
            support::skip(name, "no control groups of version 2 can be made here");
            return tree.kill();
        };
        let before = marks(&tree);
        let frozen = || fs::read_to_string(group.join("cgroup.freeze")).expect("a switch");
        for (round, args) in [&["-R", "--fail-at=40"][..], &["-R"][..]].into_iter().enumerate() {
            let images = dir.join(format!("images-{round}"));
            fs::create_dir(&images).expect("a folder");
            let args = [args, &["--manage-cgroups=ignore"]].concat();
            let status = tree.dump_command(&images, &args).status().expect("thaw runs");
            assert_eq!(status.success(), round == 1, "{}", errors(&images.join("dump.log")));
            assert_eq!(frozen().trim(), "0");
            check_unharmed(&mut tree, &before, &format!("round {round}"));
        }
        // Frozen by its owner: it is dumped all the same, and frozen again afterwards.
        fs::write(group.join("cgroup.freeze"), "1").expect("a switch");
        let named = format!("--freeze-cgroup={}", group.display());
        let images = dir.join("images-frozen");
        fs::create_dir(&images).expect("a folder");
        let args = ["-R", "--manage-cgroups=ignore", &named];
        assert!(tree.dump_command(&images, &args).status().expect("thaw runs").success());
        assert_eq!(frozen().trim(), "1");
        assert!(checkpoint_is_whole(&images));
        fs::write(group.join("cgroup.freeze"), "0").expect("a switch");
        check_unharmed(&mut tree, &before, "after it was frozen");
        let no_group = format!("--freeze-cgroup={}", dir.display());
        let refused = tree.dump_command(&dir.join("images-0"), &["-R", &no_group]).status();
        assert_eq!(refused.expect("thaw runs").code(), Some(1));
        tree.kill();
        fs::remove_dir(&group).expect("it is empty");
    });
}

/// The number of such a session is 0 in the namespace, and images with it could not be restored.
#[test]
fn session_that_is_led_from_outside_of_the_namespace_is_refused() {
    live("session_that_is_led_from_outside_of_the_namespace_is_refused", |dir: &Path| {
        // This test is init of a namespace, and in a session that began outside of it.
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
        let (images, pid) = (dir.join("images"), child.id().to_string());
        fs::create_dir(&images).expect("a folder");
        let mut dump = std::process::Command::new(env!("CARGO_BIN_EXE_thaw"));
        dump.args(["dump", "-t", &pid, "-j", "-D"]).arg(&images);
        let output = dump.output().expect("thaw starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("dump.outside-session") && said.contains("setsid"), "{said}");
        assert_eq!(images_in(&images), Vec::<String>::new(), "{said}");
        assert_eq!(child.try_wait().expect("it is ours"), None, "it goes on");
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    });
}
