//! What `/proc` says of a tree before a dump is what it says after the restore.
//!
//! The program has one of everything. Whatever differs must stand in the list of known differences
//! below, with its reason.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use support::{Dumper, Tree, live, with_each_dumper};

/// Parts of keys whose values may differ, and why.
const KNOWN_DIFFERENCES: [(&str, &str); 2] = [
    // The kernel's table only grows; a restored process has one that fits.
    ("status FDSize", "size of the allocated descriptor table"),
    // CRIU 4.2's dump leaves copy-on-write pages in text (its injected code), which count as
    // written; the mapping itself is the same.
    ("VmFlags ac", "accounting of mappings that were once writable"),
];

/// Fields of `/proc/PID/stat` that are state, by their position after the name: ppid, pgrp,
/// session, tty, priority, nice, threads, addresses of the memory layout, exit signal, scheduling.
const STAT_FIELDS: [usize; 21] =
    [1, 2, 3, 4, 15, 16, 17, 23, 24, 25, 35, 37, 38, 42, 43, 44, 45, 46, 47, 48, 49];

/// Of a zombie: parent, group, session, exit status.
const ZOMBIE_STAT_FIELDS: [usize; 4] = [1, 2, 3, 49];

/// Lines of `/proc/PID/status` that measure use and not state.
const STATUS_SKIPPED: [&str; 18] = [
    "VmPeak",
    "VmSize",
    "VmHWM",
    "VmRSS",
    "RssAnon",
    "RssFile",
    "RssShmem",
    "VmPTE",
    "VmSwap",
    "VmPin",
    "SigQ",
    "voluntary_ctxt_switches",
    "nonvoluntary_ctxt_switches",
    "CoreDumping",
    "Ngid",
    "HugetlbPages",
    "Mems_allowed",
    "VmData",
];

/// Lines of `/proc/PID/fdinfo/N` that name kernel objects or measure time.
const FDINFO_SKIPPED: [&str; 4] = ["mnt_id", "ino", "eventfd-id", "it_value"];

type Snapshot = BTreeMap<String, String>;

fn snapshot(tree: &Tree) -> Snapshot {
    let mut snapshot = Snapshot::new();
    for &pid in &tree.pids {
        let proc = format!("/proc/{pid}");
        if is_zombie(&proc) {
            // Images hold no more of a zombie than its place, its name and how it ended.
            stat(&mut snapshot, pid, &proc, &ZOMBIE_STAT_FIELDS);
            let comm = fs::read_to_string(format!("{proc}/comm")).unwrap_or_default();
            snapshot.insert(format!("{pid} zombie comm"), comm);
            continue;
        }
        keyed_lines(&mut snapshot, pid, "status", &proc, &STATUS_SKIPPED);
        stat(&mut snapshot, pid, &proc, &STAT_FIELDS);
        descriptors(&mut snapshot, pid, &proc);
        mappings(&mut snapshot, pid, &proc);
        for file in ["comm", "cmdline", "environ", "timers", "limits", "oom_score_adj", "auxv"] {
            let bytes = fs::read(format!("{proc}/{file}")).unwrap_or_default();
            snapshot
                .insert(format!("{pid} {file}"), format!("{:?}", String::from_utf8_lossy(&bytes)));
        }
        for file in ["personality", "loginuid", "coredump_filter"] {
            let text = fs::read_to_string(format!("{proc}/{file}")).unwrap_or_default();
            snapshot.insert(format!("{pid} {file}"), text);
        }
        for link in ["exe", "cwd", "root"] {
            let target = fs::read_link(format!("{proc}/{link}")).unwrap_or_default();
            snapshot.insert(format!("{pid} {link}"), target.display().to_string());
        }
        threads(&mut snapshot, pid, &proc);
    }
    snapshot
}

fn keyed_lines(snapshot: &mut Snapshot, pid: i32, file: &str, dir: &str, skipped: &[&str]) {
    let text = fs::read_to_string(format!("{dir}/{file}")).unwrap_or_default();
    let mut watches = Vec::new();
    for line in text.lines() {
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        if key == "tfd" {
            watches.push(plain(value)); // in the order of kernel addresses
        } else if !skipped.contains(&key.trim()) {
            snapshot.insert(format!("{pid} {file} {key}"), plain(value));
        }
    }
    watches.sort_unstable();
    for (index, watch) in watches.into_iter().enumerate() {
        snapshot.insert(format!("{pid} {file} watch {index}"), watch);
    }
}

/// Without inode numbers of anonymous objects, which are new.
fn plain(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let kept = words.iter().filter(|word| !word.starts_with("ino:") && !word.starts_with("sdev:"));
    kept.copied().collect::<Vec<_>>().join(" ")
}

/// A restore is done when every process runs; here they all soon sleep or stop.
fn wait_until_at_rest(tree: &Tree) {
    let begin = std::time::Instant::now();
    let runs = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('R'))
    };
    while tree.pids.iter().any(runs) {
        assert!(begin.elapsed().as_secs() < 30, "some process keeps running");
        std::thread::yield_now();
    }
}

fn is_zombie(proc: &str) -> bool {
    let stat = fs::read_to_string(format!("{proc}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

fn stat(snapshot: &mut Snapshot, pid: i32, proc: &str, indices: &[usize]) {
    let text = fs::read_to_string(format!("{proc}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(") ").next().unwrap_or("").split_whitespace().collect();
    for &index in indices {
        let value = fields.get(index).copied().unwrap_or_default();
        snapshot.insert(format!("{pid} stat {index}"), value.to_owned());
    }
}

fn descriptors(snapshot: &mut Snapshot, pid: i32, proc: &str) {
    for entry in fs::read_dir(format!("{proc}/fd")).into_iter().flatten().flatten() {
        let fd = entry.file_name().into_string().expect("a number");
        let target = fs::read_link(entry.path()).unwrap_or_default().display().to_string();
        // The number of a pipe is its identity, and a new one.
        let target = target.split(":[").next().unwrap_or_default().to_owned();
        snapshot.insert(format!("{pid} fd {fd}"), target);
        keyed_lines(snapshot, pid, &format!("fdinfo/{fd}"), proc, &FDINFO_SKIPPED);
    }
}

fn mappings(snapshot: &mut Snapshot, pid: i32, proc: &str) {
    let text = fs::read_to_string(format!("{proc}/smaps")).unwrap_or_default();
    let mut range = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            let accounted = flags.split_whitespace().any(|flag| flag == "ac");
            let rest: Vec<&str> = flags.split_whitespace().filter(|flag| *flag != "ac").collect();
            snapshot.insert(format!("{pid} map {range} VmFlags"), rest.join(" "));
            snapshot.insert(format!("{pid} map {range} VmFlags ac"), accounted.to_string());
        } else if words.len() >= 5 && words[0].contains('-') && !words[0].ends_with(':') {
            range = words[0].to_owned();
            // Inode numbers of memory that has no name are new.
            let anonymous = line.contains("(deleted)");
            let inode = if anonymous { "-" } else { words[4] };
            let name = words[5..].join(" ");
            let value = format!("{} {} {} {inode} {name}", words[1], words[2], words[3]);
            snapshot.insert(format!("{pid} map {range}"), value);
        }
    }
}

fn threads(snapshot: &mut Snapshot, pid: i32, proc: &str) {
    for entry in fs::read_dir(format!("{proc}/task")).into_iter().flatten().flatten() {
        let tid = entry.file_name().into_string().expect("a number");
        let dir = format!("{proc}/task/{tid}");
        let comm = fs::read_to_string(format!("{dir}/comm")).unwrap_or_default();
        snapshot.insert(format!("{pid} thread {tid} comm"), comm);
        let stat = fs::read_to_string(format!("{dir}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split_whitespace().collect();
        let nice = fields.get(16).copied().unwrap_or_default();
        snapshot.insert(format!("{pid} thread {tid} nice"), nice.to_owned());
        let status = fs::read_to_string(format!("{dir}/status")).unwrap_or_default();
        for line in status.lines().filter(|line| line.starts_with("Sig") || line.starts_with("Cap"))
        {
            let (key, value) = line.split_once(':').expect("a key");
            if key != "SigQ" {
                snapshot.insert(format!("{pid} thread {tid} {key}"), value.trim().to_owned());
            }
        }
    }
}

/// Keys whose values differ and that no known difference covers.
fn differences(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let keys: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    keys.into_iter()
        .filter(|key| before.get(*key) != after.get(*key))
        .filter(|key| !KNOWN_DIFFERENCES.iter().any(|(known, _)| key.contains(known)))
        .map(|key| format!("{key}: {:?} became {:?}", before.get(key), after.get(key)))
        .collect()
}

#[test]
fn proc_says_the_same_before_the_dump_and_after_the_restore() {
    let name = "proc_says_the_same_before_the_dump_and_after_the_restore";
    with_each_dumper(name, |dir: &Path, dumper: Dumper| {
        let folder = dir.join("everything");
        fs::create_dir(&folder).expect("a folder");
        let args = [folder.to_str().expect("a plain path")];
        let tree = Tree::start_program(dir, "everything", &args);
        assert_eq!(tree.pids.len(), 5);
        wait_until_at_rest(&tree);
        let before = snapshot(&tree);
        assert!(before.len() > 500, "{} facts are too few to mean anything", before.len());
        let images = dir.join("images");
        tree.dump(&images, dumper);
        tree.restore(&images);
        wait_until_at_rest(&tree);
        let after = snapshot(&tree);
        let found = differences(&before, &after);
        assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
        println!("{} facts are the same", before.len());
        tree.kill();
    });
}

#[test]
fn proc_says_the_same_after_a_dump_that_leaves_the_tree_running() {
    let name = "proc_says_the_same_after_a_dump_that_leaves_the_tree_running";
    live(name, |dir: &Path| {
        let folder = dir.join("everything");
        fs::create_dir(&folder).expect("a folder");
        let args = [folder.to_str().expect("a plain path")];
        let tree = Tree::start_program(dir, "everything", &args);
        wait_until_at_rest(&tree);
        let before = snapshot(&tree);
        for round in 0..3 {
            let images = dir.join(format!("images-{round}"));
            fs::create_dir(&images).expect("a folder");
            let status = tree.dump_command(&images, &["-R"]).status().expect("thaw runs");
            assert!(status.success(), "{status}: {}", support::errors(&images.join("dump.log")));
            wait_until_at_rest(&tree);
            let after = snapshot(&tree);
            let keys = before.keys().chain(after.keys());
            let found: std::collections::BTreeSet<&String> =
                keys.filter(|key| before.get(*key) != after.get(*key)).collect();
            assert!(found.is_empty(), "dump {round} has changed {found:?}");
        }
        tree.kill();
    });
}

#[test]
fn comparison_sees_a_difference() {
    let one = Snapshot::from([("1 fd 3".to_owned(), "/a".to_owned())]);
    let two = Snapshot::from([("1 fd 3".to_owned(), "/b".to_owned())]);
    assert_eq!(differences(&one, &two).len(), 1);
    assert_eq!(differences(&one, &Snapshot::new()).len(), 1);
    assert_eq!(differences(&one, &one).len(), 0);
}
