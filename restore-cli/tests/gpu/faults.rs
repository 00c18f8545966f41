//! Every device call of a restore and of a dump fails once: what failed is named, nothing is left,
//! a tree that was to be dumped goes on, and the next try on the same node succeeds.
//!
//! Which calls there are is read from the log of a node on which nothing fails. The ordinary run
//! lets each call fail by one of its errnos; `THAW_LONG_TESTS=1` by each of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::cycle::{Tree, assert_good, assert_same, assert_well};
use super::node::{self, Came, Part};
use super::support::live_node;

/// Two processes that share a buffer, with all that has calls of its own: a gap between handles,
/// a kept dma-buf, an event and a queue.
const TREE: [&str; 2] = [
    "fork:1 kfd render:0 vram:0:8K hole:0 gem:0:8K export:1:x keep:1 queue:0:8K",
    "kfd render:0 gtt:0:8K import:0:x",
];
/// Memory that only the GPU's copy engine reaches.
const HIDDEN: [&str; 1] = ["kfd render:0 gtt:0:8K gem:0:8K"];

const NODE: &str = "--gpus 1";
const SMALL_BAR: &str = "--gpus 1 --visible-vram 64M";

/// Rules that one node is given at most: a node has a limit of time.
const RULES_MAX: usize = 60;

/// What each call fails with (Linux 6.12 to 6.18): opens by the kernel and the drivers' `open`,
/// `amdkfd` for `/dev/kfd`, `amdgpu` and DRM for render nodes.
const ERRNOS: &[(&str, &[&str])] = &[
    ("OPEN_KFD", &["ENOMEM", "EPERM", "ENODEV", "EAGAIN"]),
    ("OPEN_RENDER", &["ENOMEM", "EACCES", "ENXIO", "EMFILE"]),
    // On a node alone: there the descriptor of an export is opened. Hardware fails the export so.
    ("OPEN_DMABUF", &["EMFILE"]),
    ("GET_VERSION", &["ENOTTY", "EFAULT"]),
    ("CRIU_PROCESS_INFO", &["EACCES", "EBADF", "EFAULT", "ENOTTY"]),
    ("CRIU_CHECKPOINT", &["EINVAL", "EMFILE", "ENOMEM", "EFAULT", "EOPNOTSUPP", "EACCES", "EIO"]),
    ("CRIU_UNPAUSE", &["EINVAL", "EACCES", "EBADF"]),
    ("CRIU_RESTORE", &["EINVAL", "EPERM", "ENODEV", "ENOMEM", "EMFILE", "EACCES", "EFAULT"]),
    ("CRIU_RESUME", &["ESRCH", "EINVAL", "EACCES", "EIO"]),
    ("VERSION", &["EFAULT", "ENOMEM", "ENODEV"]),
    ("INFO", &["EINVAL", "EFAULT", "ENODEV"]),
    ("GEM_CREATE", &["ENOMEM", "EINVAL", "ENOSPC"]),
    ("GEM_MMAP", &["ENOENT", "EPERM", "EINVAL"]),
    ("GEM_VA", &["EINVAL", "ENOMEM", "ENOENT", "EBUSY"]),
    ("GEM_CLOSE", &["EINVAL"]),
    ("GEM_OP", &["ENOENT", "EFAULT", "ENOMEM"]),
    ("GEM_LIST_HANDLES", &["ENOMEM", "EFAULT"]),
    ("GEM_USERPTR", &["ENOMEM", "EINVAL", "EFAULT"]),
    ("PRIME_HANDLE_TO_FD", &["ENOENT", "EMFILE", "ENOMEM"]),
    ("PRIME_FD_TO_HANDLE", &["EBADF", "EINVAL", "ENOMEM"]),
    ("CTX", &["ENOMEM", "EINVAL"]),
    ("BO_LIST", &["ENOMEM", "ENOENT"]),
    ("CS", &["ENOMEM", "EINVAL", "ECANCELED", "ENODEV"]),
    ("WAIT_CS", &["EINVAL", "ECANCELED"]),
];

/// What is made again until it succeeds: both drivers mean it so.
const REPEATED: [&str; 2] = ["EINTR", "EAGAIN"];

/// Failures that need not fail the whole: it ends well in fact, is refused, or fails with a reason.
const HARMLESS: &[(&str, &str)] = &[
    // The answer for a buffer that the host must not map: a copy engine copies it then, and what
    // had it mapped is refused.
    ("GEM_MMAP", "EPERM"),
    // The answer for a file of a process that nobody here traces; that is refused.
    ("CRIU_PROCESS_INFO", "EBADF"),
    // Who has copied gives back what the end of its open file gives back anyway.
    ("GEM_CLOSE", "EINVAL"),
    ("GEM_VA", "EINVAL"),
    ("GEM_VA", "ENOMEM"),
    ("GEM_VA", "ENOENT"),
    ("GEM_VA", "EBUSY"),
    ("BO_LIST", "ENOENT"),
    ("BO_LIST", "ENOMEM"),
    ("CTX", "EINVAL"),
    ("CTX", "ENOMEM"),
];

/// A call of the log, and how often it is made.
type Calls = BTreeMap<String, u64>;

/// Counts the calls of the log that were made while thaw ran; those of running programs are theirs.
fn calls(log: &Path, came: &Came) -> Calls {
    let mut calls = Calls::new();
    for line in fs::read_to_string(log).expect("the node has written it").lines() {
        let record: Value = serde_json::from_str(line).expect("JSON");
        let begin_ns = record["begin_ns"].as_u64().expect("a time");
        let call = record["call"].as_str().expect("a name").to_owned();
        if (came.ran.0..came.ran.1).contains(&begin_ns) && call != "WAIT_EVENTS" {
            *calls.entry(call).or_default() += 1;
        }
    }
    calls
}

/// A rule for each call, with each of its errnos or with one of them.
fn rules(calls: &Calls) -> Vec<String> {
    let mut rules = Vec::new();
    for (call, &count) in calls {
        let row = ERRNOS.iter().find(|(name, _)| name == call);
        let (_, errnos) = row.unwrap_or_else(|| panic!("no errno is known of {call}"));
        for number in 1..=count {
            let turn = rules.len() % errnos.len();
            for (at, errno) in errnos.iter().enumerate() {
                if is_long() || at == turn {
                    rules.push(format!("{call}@{number}={errno}"));
                }
            }
        }
    }
    rules
}

fn is_long() -> bool {
    std::env::var_os("THAW_LONG_TESTS").is_some()
}

/// What an error says of a call.
fn operation(call: &str) -> String {
    match call.split_once('_') {
        Some(("OPEN", "DMABUF")) => String::new(), // what needed the descriptor is named,
        Some(("OPEN", _)) => "open".to_owned(),
        Some(("CRIU", operation)) => format!("CRIU_OP {operation}"),
        _ => call.to_owned(),
    }
}

/// What is wrong with the end of a run under a rule.
fn judge(
    rule: &str,
    came: &Came,
    fails: impl Fn(&Came) -> Vec<String>,
    succeeds: impl Fn(&Came) -> Vec<String>,
) -> Option<String> {
    let (head, errno) = rule.split_once('=').expect("a rule");
    let (call, _) = head.split_once('@').expect("a rule");
    let mut wrong: Vec<String> = came.left.iter().map(|left| format!("left: {left}")).collect();
    let is_harmless = REPEATED.contains(&errno) || HARMLESS.contains(&(call, errno));
    match came.code {
        0 if came.hits == 0 || is_harmless => wrong.extend(succeeds(came)),
        1 | 4 if is_harmless && came.hits > 0 && came.said.contains("process 40") => {}
        0 => wrong.push("it is said to have succeeded".to_owned()),
        _ if came.hits == 0 => wrong.push("it failed without a fault".to_owned()),
        _ => {
            for part in ["process 40", "/dev/", &operation(call), errno] {
                if !came.said.contains(part) {
                    wrong.push(format!("{part} is not named"));
                }
            }
            wrong.extend(fails(came));
        }
    }
    (!wrong.is_empty()).then(|| format!("{rule}: {wrong:?}\n{}", came.said))
}

fn report(what: &str, runs: usize, wrong: &[String]) {
    println!("{what}: {runs} runs, {} wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Restores under one rule after the other, each followed by one without.
fn restores_fail_cleanly(dir: &Path, node_options: &str, layout: &[&str], args: &[&str]) {
    let tree = Tree::new(dir, node_options, layout);
    let before = tree.dump();
    let log = dir.join("calls");
    let logged = format!("{node_options} --log {}", log.display());
    let came = tree.restore(&logged, args);
    assert_good(&came);
    let all = rules(&calls(&log, &came));
    let (mut wrong, mut hit) = (Vec::new(), 0);
    for chunk in all.chunks(RULES_MAX) {
        let faults: Vec<String> =
            chunk.iter().flat_map(|rule| [rule.clone(), String::new()]).collect();
        let options: Vec<&str> = node_options.split_whitespace().collect();
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let part = Part::RestoresUnder { images: tree.images(), args, faults };
        let results = node::run(&options, dir, &[part]);
        for (rule, pair) in chunk.iter().zip(results.chunks(2)) {
            hit += usize::from(pair[0].hits > 0);
            let fails = |came: &Came| match came.code {
                1 => Vec::new(),
                code => vec![format!("exit code {code}")],
            };
            wrong.extend(judge(rule, &pair[0], fails, |came| {
                assert_same(&before, &came.answers);
                Vec::new()
            }));
            assert_good(&pair[1]);
            assert_same(&before, &pair[1].answers);
        }
    }
    assert!(hit * 10 >= all.len() * 9, "{hit} of {} calls were met", all.len());
    report("restore", all.len(), &wrong);
}

#[test]
fn every_call_of_a_restore() {
    live_node("faults::every_call_of_a_restore", |dir| {
        restores_fail_cleanly(dir, NODE, &TREE, &["--verify"]);
    });
}

#[test]
fn every_call_of_a_restore_by_copy_engine() {
    live_node("faults::every_call_of_a_restore_by_copy_engine", |dir| {
        restores_fail_cleanly(dir, SMALL_BAR, &HIDDEN, &["--copy-buffer", "64K"]);
    });
}

/// Dumps under one rule after the other, and at last one without; that one is restored.
fn dumps_fail_cleanly(dir: &Path, node_options: &str, layout: &[&str]) {
    let tree = Tree::new(dir, node_options, layout);
    let log = dir.join("calls");
    let options: Vec<&str> = node_options.split_whitespace().collect();
    let dumps = |faults: Vec<String>, more: &[&str]| {
        let (layout, args) = (tree.layout.clone(), vec!["-R".to_owned()]);
        let part = Part::DumpsUnder { images: tree.images(), layout, args, faults };
        node::run(&[&options[..], more].concat(), dir, &[part])
    };
    let path = log.display().to_string();
    let came = dumps(vec![String::new()], &["--log", &path]).remove(0);
    assert_good(&came);
    fs::remove_dir_all(tree.images()).expect("they are there");
    let all = rules(&calls(&log, &came));
    let (mut wrong, mut hit) = (Vec::new(), 0);
    for chunk in all.chunks(RULES_MAX) {
        let mut faults = chunk.to_vec();
        faults.push(String::new());
        let mut results = dumps(faults, &[]);
        let last = results.pop().expect("the one without a fault");
        for (rule, came) in chunk.iter().zip(&results) {
            hit += usize::from(came.hits > 0);
            assert_well(&came.answers);
            let fails = |came: &Came| match came.code {
                1 => Vec::new(),
                // What could not be undone is said.
                5 if rule.starts_with("CRIU_UNPAUSE") => Vec::new(),
                code => vec![format!("exit code {code}")],
            };
            wrong.extend(judge(rule, came, fails, |_| Vec::new()));
        }
        assert_good(&last);
        let images = tree.images().join(chunk.len().to_string());
        let restore = Part::Restore { images, args: Vec::new() };
        let came = node::run(&options, dir, &[restore]).remove(0);
        assert_good(&came);
        assert_well(&came.answers);
        fs::remove_dir_all(tree.images()).expect("they are there");
    }
    assert!(hit * 10 >= all.len() * 9, "{hit} of {} calls were met", all.len());
    report("dump", all.len(), &wrong);
}

#[test]
fn every_call_of_a_dump() {
    live_node("faults::every_call_of_a_dump", |dir| dumps_fail_cleanly(dir, NODE, &TREE));
}

#[test]
fn every_call_of_a_dump_by_copy_engine() {
    live_node("faults::every_call_of_a_dump_by_copy_engine", |dir| {
        dumps_fail_cleanly(dir, SMALL_BAR, &HIDDEN);
    });
}

/// Every call is late once, and all of them together.
#[test]
fn delays_change_nothing_but_time() {
    live_node("faults::delays_change_nothing_but_time", |dir| {
        let tree = Tree::new(dir, NODE, &TREE);
        let before = tree.dump();
        let mut faults: Vec<String> =
            ERRNOS.iter().map(|(call, _)| format!("{call}=20ms")).collect();
        faults.push("*=2ms".to_owned());
        faults.extend((1..=5).map(|seed| format!("*@{}%=10ms", seed * 10)));
        let part = Part::RestoresUnder { images: tree.images(), args: Vec::new(), faults };
        let results = node::run(&["--gpus", "1"], dir, &[part]);
        for came in &results {
            assert_good(came);
            assert_same(&before, &came.answers);
        }
        let mut faults: Vec<String> =
            ERRNOS.iter().map(|(call, _)| format!("{call}=5ms")).collect();
        faults.push("*=1ms".to_owned());
        let (layout, args) = (tree.layout.clone(), vec!["-R".to_owned()]);
        let part = Part::DumpsUnder { images: dir.join("late"), layout, args, faults };
        for came in node::run(&["--gpus", "1"], dir, &[part]) {
            assert_good(&came);
            assert_well(&came.answers);
        }
    });
}

/// A step that does not end is given up, and so is all that waits for it.
#[test]
fn waiting_has_a_limit() {
    live_node("faults::waiting_has_a_limit", |dir| {
        let tree = Tree::new(dir, NODE, &TREE);
        let before = tree.dump();
        let args = vec!["--silence-limit".to_owned(), "1".to_owned()];
        let late = ["CRIU_RESTORE@1=30s", "GEM_CREATE=30s", "INFO=30s", ""];
        let faults = late.map(str::to_owned).to_vec();
        let part = Part::RestoresUnder { images: tree.images(), args, faults };
        let mut results = node::run(&["--gpus", "1"], dir, &[part]);
        let last = results.pop().expect("the one without a fault");
        for came in &results {
            assert_eq!((came.code, came.left.len()), (1, 0), "{came:?}");
            assert!(came.hits >= 1 && came.said.contains("did not end within 1 s"), "{came:?}");
            let took_ns = came.ran.1 - came.ran.0;
            assert!(took_ns < 20_000_000_000, "the late call was waited for: {came:?}");
        }
        for (came, file) in results.iter().zip(["/dev/kfd", "/dev/dri/renderD128", "/dev/"]) {
            assert!(came.said.contains(&format!("({file}")), "{came:?}");
            assert!(came.said.contains("of process 40"), "{came:?}");
        }
        assert_good(&last);
        assert_same(&before, &last.answers);
    });
}

/// Upstream says that a restore has succeeded whose queues stay stopped.
#[test]
fn resume_that_fails_fails_the_restore() {
    live_node("faults::resume_that_fails_fails_the_restore", |dir| {
        let tree = Tree::new(dir, NODE, &TREE);
        tree.dump();
        for number in 1..=2 {
            let rule = format!("CRIU_RESUME@{number}=EINVAL");
            let (images, faults) = (tree.images(), vec![rule]);
            let part = Part::RestoresUnder { images, args: Vec::new(), faults };
            let came = node::run(&["--gpus", "1"], dir, &[part]).remove(0);
            assert_eq!((came.code, came.hits, came.left.len()), (1, 1, 0), "{came:?}");
            for part in ["process 40", "/dev/kfd", "CRIU_OP RESUME", "EINVAL"] {
                assert!(came.said.contains(part), "{part}: {}", came.said);
            }
        }
    });
}
