//! `thunk_exercise`: what a runtime does first on every GPU, by way of AMD's libhsakmt.

use std::fs;
use std::path::Path;

use kfd_emulator::{Node, Topology};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::peer::{Ended, Rocm, node, node_with_faults, topology, with_rocm};
use crate::support::until;

fn once(rocm: &Rocm, node: &Node) -> Ended {
    let mut command = rocm.command(node, rocm.compile("thunk_exercise.c", &["hsakmt"]));
    command.arg("once");
    rocm.run(node, command)
}

/// Every step on every GPU, and between every two.
fn check_once(name: &str, topology: &Topology) {
    with_rocm(name, |rocm| {
        let ended = once(rocm, &node(topology));
        assert!(ended.status.success(), "{ended:?}");
        let gpus = topology.gpus().len();
        let lines = |what: &str| ended.text.lines().filter(|line| line.contains(what)).count();
        for (step, times) in [
            ("SDMA copies GTT to VRAM and back", gpus),
            ("SDMA copies of odd sizes change no other byte", gpus),
            ("SDMA fill; read pointer reaches the write pointer", gpus),
            ("SDMA copies memory of the process", gpus),
            ("SDMA copies to and from VRAM of node", gpus * (gpus - 1)),
            ("AQL barrier waits for its dependency and signals", gpus),
            ("memory filled at the start is unchanged", gpus),
            ("destroy queues and events, free memory", gpus),
        ] {
            assert_eq!(lines(step), times, "{step}: {}", ended.text);
        }
        assert_eq!(ended.text.lines().last(), Some("ok p0 all"));
    });
}

#[test]
fn every_step_holds_on_one_gpu() {
    check_once("thunk::every_step_holds_on_one_gpu", &topology("gfx90a", 1));
}

#[test]
fn every_step_holds_on_two_gpus() {
    check_once("thunk::every_step_holds_on_two_gpus", &topology("gfx90a", 2));
}

#[test]
fn every_step_holds_on_eight_gpus() {
    check_once("thunk::every_step_holds_on_eight_gpus", &topology("gfx90a", 8));
}

#[test]
fn every_step_holds_on_mi300x() {
    check_once("thunk::every_step_holds_on_mi300x", &topology("gfx942", 2));
}

#[test]
fn program_reports_the_call_that_failed() {
    with_rocm("thunk::program_reports_the_call_that_failed", |rocm| {
        let node = node_with_faults(&topology("gfx90a", 1), &["CREATE_QUEUE@2=ENOMEM"]);
        let ended = once(rocm, &node);
        assert_eq!(ended.status.code(), Some(1), "{ended:?}");
        assert!(ended.text.contains("FAIL p0 node 1 create AQL queue"), "{}", ended.text);
    });
}

/// Rounds that a process has finished, by the lines that it wrote.
fn rounds(status: &Path, process: u32) -> usize {
    let begin = format!("process {process} round ");
    let text = fs::read_to_string(status).unwrap_or_default();
    text.lines().filter(|line| line.starts_with(&begin)).count()
}

#[test]
fn two_processes_keep_two_gpus_busy_until_told_to_stop() {
    with_rocm("thunk::two_processes_keep_two_gpus_busy_until_told_to_stop", |rocm| {
        let node = node(&topology("gfx90a", 2));
        let status = rocm.work.path().join("status");
        let mut command = rocm.command(&node, rocm.compile("thunk_exercise.c", &["hsakmt"]));
        command.arg("loop").arg(&status).args(["2", "64"]);
        let mut child = command.spawn().expect("it starts");
        until("ten rounds of each process", || (0..2).all(|number| rounds(&status, number) >= 10));
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it runs");
        assert_eq!(child.wait().expect("it ends").code(), Some(0));
    });
}
