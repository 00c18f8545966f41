//! Dumps and restores that are stopped: their time is over, they are asked to end, or what they
//! work on ends. The trees are so large that this comes while memory is written or filled.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::dump::Living;
use crate::harness::{Now, Row, Scene};
use crate::images::Saved;
use crate::support::eye::{Eye, next_pid};
use crate::support::{Tree, live};
use Now::{AsItWas, Undone};

/// Longest wait for a dump or a restore to have begun.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// MiB of each process of the trees.
const LARGE: &str = "64";

pub(crate) fn rows() -> Vec<&'static Row> {
    let dumps = DUMPS.iter().map(|(row, _)| row).chain([&DIES]);
    dumps.chain(RESTORES.iter().map(|(row, _)| row)).collect()
}

/// Starts a command (not by `timeout`, which would get the signals), and calls `act` once it has
/// begun.
fn interrupted(
    scene: &mut Scene,
    mut command: Command,
    has_begun: impl Fn() -> bool,
    act: impl FnOnce(&Child),
) {
    let before = scene.eye.look();
    next_pid(9000);
    command.current_dir(&scene.dir).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().expect("thaw starts");
    let begin = Instant::now();
    while !has_begun() {
        assert!(begin.elapsed() < WAIT_MAX, "it does not begin");
        std::thread::yield_now();
    }
    act(&child);
    let output = child.wait_with_output().expect("it ends");
    scene.judge(&output, &before);
}

/// Without `timeout` around it.
fn bare(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thaw"));
    command.args(args).arg("--no-default-config").stdin(Stdio::null());
    command
}

fn send(signal: Signal) -> impl FnOnce(&Child) {
    move |child| kill(Pid::from_raw(child.id() as i32), signal).expect("it runs")
}

type PlayDump = fn(&mut Living);

fn dump_and(living: &mut Living, act: impl FnOnce(&Child)) {
    let (pid, images) = (living.tree.root().to_string(), living.images.display().to_string());
    let command = bare(&["dump", "-t", &pid, "--json", "-D", &images]);
    let staged = living.images.clone();
    let has_begun = move || has_pages(&staged);
    interrupted(&mut living.scene, command, has_begun, act);
}

/// Whether a dump writes memory: a file of pages in the hidden folder has some.
fn has_pages(folder: &Path) -> bool {
    let is_begun = |entry: fs::DirEntry| {
        let is_pages = entry.file_name().to_string_lossy().starts_with("pages-");
        let written = entry.metadata().is_ok_and(|metadata| metadata.len() > 0);
        is_pages && written || entry.path().is_dir() && has_pages(&entry.path())
    };
    fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(is_begun))
}

const DUMPS: &[(Row, PlayDump)] = &[
    (
        Row::dump(
            "no time for a dump",
            (1, "dump.timeout", AsItWas),
            &["did not end within 0 s", "--timeout"],
        )
        .command("thaw dump --timeout 0"),
        |living| living.fails(&["--timeout", "0"]),
    ),
    (
        Row::dump("SIGTERM to a dump", (1, "dump.aborted", AsItWas), &["interrupted", "again"]),
        |living| {
            dump_and(living, send(Signal::SIGTERM));
            living.goes_on();
        },
    ),
    (
        Row::dump("SIGINT to a dump", (1, "dump.aborted", AsItWas), &["interrupted", "again"]),
        |living| {
            dump_and(living, send(Signal::SIGINT));
            living.goes_on();
        },
    ),
];

#[test]
fn dumps_that_are_stopped() {
    live("stops::dumps_that_are_stopped", |dir| {
        let scene = Scene::new(dir, Eye::on(&[dir]));
        let mut living = Living::new(scene, Tree::start(dir, &["2", LARGE, "1"]));
        for (row, play) in DUMPS {
            living.scene.begin(row);
            play(&mut living);
        }
        living.tree.kill();
        living.scene.end();
    });
}

type PlayRestore = fn(&mut Saved);

fn restore_and(saved: &mut Saved, act: impl FnOnce(&Child)) {
    let images = saved.images.display().to_string();
    let command = bare(&["restore", "-d", "--json", "-D", &images]);
    let last = saved.tree.pids.last().copied().expect("two processes");
    let has_begun = move || kill(Pid::from_raw(last), None).is_ok();
    interrupted(&mut saved.scene, command, has_begun, act);
}

const RESTORES: &[(Row, PlayRestore)] = &[
    (
        Row::restore(
            "no time for a restore",
            (1, "restore.timeout", Undone),
            &["did not end within 0 s", "--timeout"],
        )
        .command("thaw restore --timeout 0"),
        |saved| saved.fails(&["--timeout", "0"]),
    ),
    (
        Row::restore("SIGTERM to a restore", (1, "restore.cancelled", Undone), &["given up"]),
        |saved| restore_and(saved, send(Signal::SIGTERM)),
    ),
    (
        Row::restore("SIGINT to a restore", (1, "restore.cancelled", Undone), &["given up"]),
        |saved| restore_and(saved, send(Signal::SIGINT)),
    ),
    (
        Row::restore(
            "process killed while it is restored",
            (1, "task.died", Undone),
            &["died", "kernel's log"],
        )
        .varies("process N, stage STAGE: ...: task N died"),
        |saved| {
            let victim = saved.tree.pids.last().copied().expect("two processes");
            restore_and(saved, |_| {
                kill(Pid::from_raw(victim), Signal::SIGKILL).expect("it was made");
            });
        },
    ),
];

#[test]
fn restores_that_are_stopped() {
    live("stops::restores_that_are_stopped", |dir| {
        let scene = Scene::new(dir, Eye::on(&[dir, "/dev/shm".as_ref()]));
        let tree = Tree::start(dir, &["2", LARGE, "1"]);
        let mut saved = Saved::new(scene, tree, &[]);
        for (row, play) in RESTORES {
            saved.scene.begin(row);
            play(&mut saved);
        }
        saved.restores_well(&[]);
        saved.scene.end();
    });
}

/// This one is about a tree that loses a process, so it has one of its own.
#[test]
fn process_that_dies_while_it_is_dumped() {
    live("stops::process_that_dies_while_it_is_dumped", |dir| {
        let scene = Scene::new(dir, Eye::on(&[dir]));
        let mut living = Living::new(scene, Tree::start(dir, &["2", LARGE, "1"]));
        living.scene.begin(&DIES);
        let victim = living.tree.pids[1];
        dump_and(&mut living, |_| {
            kill(Pid::from_raw(victim), Signal::SIGKILL).expect("it runs");
        });
        let victims = living.tree.split_off(victim);
        living.goes_on();
        living.tree.kill();
        victims.kill();
        living.scene.end();
    });
}

static DIES: Row = Row::dump(
    "process killed while it is dumped",
    (1, "dump.died", AsItWas),
    &["was killed", "kernel's log"],
);
