//! Command lines that are wrong, and files of the caller that cannot be written.
//!
//! There are images, and a restore of them works: what is refused is refused for the command line.

use std::fs;

use crate::harness::{Now, Row, Scene, thaw};
use crate::images::Saved;
use crate::support::eye::Eye;
use crate::support::{Tree, live};
use Now::{Unsaid, Untouched};

type Play = fn(&mut Saved);

pub(crate) fn rows() -> Vec<&'static Row> {
    WAYS.iter().chain(OUTPUTS).map(|(row, _)| row).collect()
}

#[test]
fn command_lines_that_are_wrong() {
    live("usage::command_lines_that_are_wrong", |dir| {
        let scene = Scene::new(dir, Eye::on(&[dir, "/dev/shm".as_ref()]));
        let tree = Tree::start(dir, &["1", "0", "0"]);
        let mut saved = Saved::new(scene, tree, &[]);
        for (row, play) in WAYS.iter().chain(OUTPUTS) {
            saved.scene.begin(row);
            play(&mut saved);
        }
        saved.restores_well(&[]);
        saved.scene.end();
    });
}

/// Runs thaw with just these arguments.
fn line(saved: &mut Saved, args: &[&str]) {
    saved.scene.fails(thaw(&[], args));
}

/// A file beside the images.
fn file(saved: &Saved, name: &str, text: &str) -> String {
    let path = saved.scene.dir.join(name);
    fs::write(&path, text).expect("room");
    path.to_str().expect("a plain path").to_owned()
}

const fn usage(
    name: &'static str,
    command: &'static str,
    code: &'static str,
    says: &'static [&'static str],
) -> Row {
    Row::restore(name, (2, code, Unsaid), says).command(command)
}

const WAYS: &[(Row, Play)] = &[
    (
        usage(
            "option that there is not",
            "thaw restore --detach",
            "usage.option",
            &["--detach", "--restore-detached"],
        ),
        |saved| saved.fails(&["--detach"]),
    ),
    (
        usage("command that there is not", "thaw restor", "usage.option", &["restor", "restore"]),
        |saved| line(saved, &["restor"]),
    ),
    (
        usage("no directory named", "thaw restore", "usage.missing", &["--images-dir", "--help"]),
        |saved| line(saved, &["restore", "-d"]),
    ),
    (usage("no process named", "thaw dump -D DIR", "usage.missing", &["--tree <PID>"]), |saved| {
        line(saved, &["dump", "-D", "images"])
    }),
    (
        usage("time that is no number", "thaw restore --timeout soon", "usage.value", &["soon"]),
        |saved| saved.fails(&["--timeout", "soon"]),
    ),
    (
        usage("process id 0", "thaw dump -t 0", "usage.value", &["\"0\" is no process id"]),
        |saved| line(saved, &["dump", "-t", "0", "-D", "images"]),
    ),
    (
        usage(
            "sibling that is waited for",
            "thaw restore -S",
            "usage.missing",
            &["--restore-detached"],
        ),
        |saved| line(saved, &["restore", "-S", "-D", "images"]),
    ),
    (
        usage(
            "rule for GPUs that is neither on nor off",
            "KFD_VRAM_SIZE_CHECK=maybe thaw restore",
            "usage.gpu-check",
            &["KFD_VRAM_SIZE_CHECK=maybe", "0 or NO"],
        ),
        |saved| {
            let mut command = saved.restore(&[]);
            command.env("KFD_VRAM_SIZE_CHECK", "maybe");
            saved.scene.fails(command);
        },
    ),
    (
        usage(
            "map of GPUs that is no map",
            "thaw restore --gpu-map 0x1267",
            "usage.value",
            &["SAVED=HERE"],
        ),
        |saved| saved.fails(&["--gpu-map", "0x1267"]),
    ),
    (
        usage(
            "no configuration file",
            "thaw restore --config FILE",
            "usage.config",
            &["none.toml", "No such file"],
        ),
        |saved| saved.fails(&["--config", "none.toml"]),
    ),
    (
        usage(
            "configuration with an option that there is not",
            "thaw restore --config FILE",
            "usage.config",
            &["shell-jobs", "no option of restore"],
        ),
        |saved| {
            let path = file(saved, "thaw.toml", "[restore]\nshell-jobs = true\n");
            saved.fails(&["--config", &path]);
        },
    ),
    (
        Row::restore(
            "option of criu that is not supported",
            (2, "usage.refused", Untouched),
            &["--lazy-pages", "not supported", "leave the option out"],
        )
        .command("thaw restore --lazy-pages"),
        |saved| saved.fails(&["--lazy-pages"]),
    ),
    (
        Row::restore(
            "two options of criu that are not supported",
            (2, "usage.refused", Untouched),
            &["--lazy-pages", "--join-ns"],
        )
        .command("thaw restore --lazy-pages --join-ns net:7")
        .item("usage.refused"),
        |saved| saved.fails(&["--lazy-pages", "--join-ns", "net:7"]),
    ),
    (
        Row::restore(
            "no file with the order",
            (2, "usage.schedule", Untouched),
            &["no-order", "No such file", "thaw plan"],
        )
        .command("thaw restore --schedule order:FILE"),
        |saved| saved.fails(&["--schedule", "order:no-order"]),
    ),
    (
        Row::restore(
            "order with a step that there is not",
            (2, "usage.schedule", Untouched),
            &["order, line 1", "400:kfd", "thaw plan"],
        )
        .command("thaw restore --schedule order:FILE"),
        |saved| {
            let path = file(saved, "order", "400:kfd\n");
            saved.fails(&["--schedule", &format!("order:{path}")]);
        },
    ),
    (
        Row::restore(
            "descriptor for progress that is not open",
            (2, "usage.progress-fd", Untouched),
            &["descriptor 17", "open it before"],
        )
        .without_json()
        .command("thaw restore --progress-fd 17"),
        |saved| saved.fails(&["--progress-fd", "17"]),
    ),
];

const OUTPUTS: &[(Row, Play)] = &[
    (
        Row::restore(
            "pid file that is there already",
            (1, "output.pidfile", Untouched),
            &["pid", "File exists", "remove the file"],
        )
        .command("thaw restore --pidfile FILE"),
        |saved| {
            let path = file(saved, "pid", "77");
            saved.fails(&["--pidfile", &path]);
        },
    ),
    (
        Row::restore(
            "directory of the trace that is not there",
            (1, "output.trace", Untouched),
            &["none/trace", "No such file"],
        )
        .command("thaw restore --trace FILE"),
        |saved| saved.fails(&["--trace", "none/trace"]),
    ),
    (
        Row::restore(
            "directory of the log that is not there",
            (1, "output.log", Untouched),
            &["none/log", "No such file"],
        )
        .without_json()
        .command("thaw restore -o FILE"),
        |saved| saved.fails(&["-o", "none/log"]),
    ),
    (
        Row::restore(
            "directory of the report that is not there",
            (1, "output.report", Untouched),
            &["none/report.html", "No such file"],
        )
        .command("thaw restore --report FILE"),
        |saved| saved.fails(&["--report", "none/report.html"]),
    ),
    (
        Row::dump(
            "directory of a dump's log that is not there",
            (1, "output.log", Untouched),
            &["none/log", "No such file"],
        )
        .without_json()
        .command("thaw dump -o FILE"),
        |saved| {
            let pid = std::process::id().to_string();
            line(saved, &["dump", "-t", &pid, "-D", "images", "-o", "none/log", "--json"]);
        },
    ),
];
