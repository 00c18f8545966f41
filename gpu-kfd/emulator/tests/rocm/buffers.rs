//! `buffers`: buffers of the KFD and of render nodes, made in many ways and shared between
//! processes, by way of AMD's libhsakmt and libdrm.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::peer::{Rocm, node, topology, with_rocm};
use crate::support::until;

/// Rounds after which sharing that has ended is noticed (`QUIET_ROUNDS` of the program), and more.
const ROUNDS: usize = 250;

/// The last state of each buffer, and the exit code.
#[derive(Debug, PartialEq, Eq)]
struct Watched {
    states: Vec<String>,
    code: Option<i32>,
}

/// Runs `buffers` with these words on two GPUs until each process has done its rounds.
fn watch(rocm: &Rocm, words: &str) -> Watched {
    let node = node(&topology("gfx90a", 2));
    let status = rocm.work.path().join("status");
    let mut command = rocm.command(&node, rocm.compile("buffers.c", &["hsakmt", "drm"]));
    command.arg(&status).args(words.split_whitespace());
    let mut child = command.spawn().expect("it starts");
    let processes = 1 + words.matches("child").count();
    let text = || fs::read_to_string(&status).unwrap_or_default();
    until("enough rounds", || {
        let text = text();
        (0..processes).all(|number| {
            let begin = format!("process {number} round ");
            text.lines().filter(|line| line.starts_with(&begin)).count() >= ROUNDS
        })
    });
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it runs");
    let code = child.wait().expect("it ends").code();
    let text = text();
    let mut states: Vec<String> =
        text.lines().filter(|line| line.contains(" buffer ")).map(str::to_owned).collect();
    states.sort();
    Watched { states, code }
}

/// All buffers hold what they should, and their states are these.
fn check(name: &str, words: &str, expected: &[&str]) {
    with_rocm(name, |rocm| {
        let states = expected.iter().map(|state| format!("process {state}: ok")).collect();
        assert_eq!(watch(rocm, words), Watched { states, code: Some(0) });
    });
}

#[test]
fn buffers_of_both_drivers_stand_side_by_side() {
    check(
        "buffers::buffers_of_both_drivers_stand_side_by_side",
        "kfd vram:0 kfdbo:1 gtt:1 open:0 open:1 bo:0 sysbo:1 apart:0 keep:3 keep:5",
        &[
            "0 buffer 0 vram file -1 handle 0",
            "0 buffer 1 kfdbo file -1 handle 0",
            "0 buffer 2 gtt file -1 handle 0",
            "0 buffer 3 bo file 0 handle 1",
            "0 buffer 4 sysbo file 1 handle 1",
            "0 buffer 5 apart file 0 handle 2",
        ],
    );
}

#[test]
fn shared_buffer_is_one_whatever_its_handles_are() {
    check(
        "buffers::shared_buffer_is_one_whatever_its_handles_are",
        "kfd open:0 bo:0 pass:0 bo:0 child kfd open:0 skip:0 import:0",
        &[
            "0 buffer 0 bo file 0 handle 1",
            "0 buffer 1 bo file 0 handle 2",
            "1 buffer 0 import file 0 handle 2",
        ],
    );
}

#[test]
fn buffer_of_the_kfd_is_shared_through_a_render_node() {
    check(
        "buffers::buffer_of_the_kfd_is_shared_through_a_render_node",
        "kfd vram:0 kfdbo:0 pass:1 child kfd open:0 import:0",
        &[
            "0 buffer 0 vram file -1 handle 0",
            "0 buffer 1 kfdbo file -1 handle 0",
            "1 buffer 0 import file 0 handle 1",
        ],
    );
}

#[test]
fn program_reports_memory_that_is_not_what_was_written() {
    with_rocm("buffers::program_reports_memory_that_is_not_what_was_written", |rocm| {
        // The host cannot map memory of one GPU through the file of another.
        let watched = watch(rocm, "kfd open:0 bo:0 pass:0 child kfd open:1 import:0");
        assert_eq!(watched.code, Some(1), "{watched:?}");
        let wrong = &watched.states[1];
        assert!(wrong.starts_with("process 1 buffer 0 import file 0 handle 1: mapping: "));
        assert!(wrong.contains("8191 of 8191 words wrong, 8191 zero"), "{wrong}");
    });
}
