//! gpu-kfd's example `gpu_worker` on a node, as it would run on hardware: without the preload
//! library, and without anything of AMD's.

use std::path::PathBuf;
use std::process::Stdio;

use kfd_emulator::{Node, Preload};

use crate::peer::{Ended, node, node_with_faults, run, topology};
use crate::support::{live, skip};

/// Where cargo puts the examples of a workspace whose tests it runs.
fn worker() -> PathBuf {
    let test = std::env::current_exe().expect("the test binary has a path");
    let profile = test.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps");
    profile.join("examples/gpu_worker")
}

fn with_worker(name: &str, body: impl FnOnce(PathBuf)) {
    let worker = worker();
    if !worker.exists() {
        return skip(name, "the examples of gpu-kfd are not built");
    }
    live(name, || body(worker));
}

fn once(node: &Node, worker: PathBuf) -> Ended {
    let work = tempfile::tempdir().expect("a folder");
    let mut command = node.command(worker, Preload::No);
    command.arg("once").stdin(Stdio::null());
    run(node, command, work.path())
}

fn check(name: &str, product: &str, gpus: u32) {
    with_worker(name, |worker| {
        let ended = once(&node(&topology(product, gpus)), worker);
        assert!(ended.status.success(), "{ended:?}");
        let expected = format!("{gpus} GPUs copied and signalled, every byte is right\n");
        assert_eq!(ended.text, expected);
    });
}

#[test]
fn worker_is_right_on_one_gpu() {
    check("worker::worker_is_right_on_one_gpu", "gfx90a", 1);
}

#[test]
fn worker_is_right_on_eight_gpus() {
    check("worker::worker_is_right_on_eight_gpus", "gfx942", 8);
}

#[test]
fn worker_is_right_on_an_apu() {
    check("worker::worker_is_right_on_an_apu", "gfx90c", 1);
}

#[test]
fn worker_reports_the_call_that_failed() {
    with_worker("worker::worker_reports_the_call_that_failed", |worker| {
        let node = node_with_faults(&topology("gfx90a", 2), &["CREATE_EVENT@2=ENOSPC"]);
        let ended = once(&node, worker);
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(ended.text.contains("ENOSPC"), "{}", ended.text);
    });
}
