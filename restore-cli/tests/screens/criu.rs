//! Options of criu: those without effect, which the log tells of, and those that are refused.

use crate::dump::{folders, tree};
use crate::restore::{again, dumped};
use crate::scene::Scene;
use crate::support::live;

/// Without effect for a dump.
const DUMP_IGNORED: &str = "--file-locks --ext-unix-sk --tcp-close --tcp-established \
    --skip-in-flight --network-lock skip --force-irmap --irmap-scan-path / --evasive-devices \
    --ghost-fiemap --no-ghost-fiemap --pre-dump-mode read --pidfile pid --display-stats \
    --cpu-cap=all --enable-external-sharing --enable-external-masters --mntns-compat-mode \
    --no-mntns-compat-mode --enable-fs all";
/// Without effect for a restore, and for a plan.
const RESTORE_IGNORED: &str = "--link-remap --force-irmap --irmap-scan-path / --skip-in-flight \
    --file-locks --ext-unix-sk --tcp-established --tcp-close --evasive-devices --ghost-limit 1M \
    --enable-external-sharing --enable-external-masters --mntns-compat-mode \
    --no-mntns-compat-mode --enable-fs all --display-stats --network-lock skip --cpu-cap";
/// Refused for a dump.
const DUMP_REFUSED: [&str; 23] = [
    "--root /",
    "--external mnt[]",
    "--empty-ns net",
    "--ext-mount-map a:b",
    "--veth-pair a=b",
    "--cgroup-root /",
    "--cgroup-yard /",
    "--cgroup-dump-controller cpu",
    "--action-script ./a",
    "--track-mem",
    "--prev-images-dir ../a",
    "--pre-dump",
    "--auto-dedup",
    "--page-server",
    "--address ::1",
    "--port 1",
    "--lazy-pages",
    "--status-fd 1",
    "--stream",
    "--unprivileged",
    "--lsm-profile a:b",
    "--lsm-mount-context a",
    "--allow-uprobes",
];
/// Refused for a restore, and for a plan.
const RESTORE_REFUSED: [&str; 18] = [
    "--root /",
    "--cgroup-root /",
    "--cgroup-yard /",
    "--external mnt[]",
    "--inherit-fd fd[1]:a",
    "--join-ns net:a",
    "--empty-ns net",
    "--ext-mount-map a:b",
    "--veth-pair a=b",
    "--action-script ./a",
    "--lazy-pages",
    "--auto-dedup",
    "--stream",
    "--unprivileged",
    "--exec-cmd",
    "--freeze-cgroup a",
    "--lsm-profile a:b",
    "--lsm-mount-context a",
];

#[test]
fn ignored_options_change_nothing_and_the_log_tells_why() {
    live("criu::ignored_options_change_nothing_and_the_log_tells_why", |dir| {
        let (tree, mut scene) = tree(dir, 1);
        folders(&scene, &["a", "images"]);
        scene.run(&format!("thaw dump -R -t PID1 -D a -v4 -o dump.log {DUMP_IGNORED}"));
        scene.run("thaw dump -t PID1 -D images -l -x -v4 -o dump.log");
        tree.reap();
        scene.run("grep -h 'no effect' a/dump.log images/dump.log");
        let line = format!("thaw restore -d -D images -v4 -o restore.log {RESTORE_IGNORED}");
        again(&tree, &mut scene, &line);
        again(&tree, &mut scene, "thaw restore -d -D images -l -x -v4 -o short.log");
        scene.run("grep -h 'no effect' images/restore.log images/short.log");
        scene.run(&format!("thaw plan -D images -v4 -o plan.log {RESTORE_IGNORED}"));
        scene.run("grep -h 'no effect' images/plan.log");
        scene.shot("criu_ignored");
    });
}

#[test]
fn options_of_a_restore_mean_nothing_to_a_plan() {
    live("criu::options_of_a_restore_mean_nothing_to_a_plan", |dir| {
        let (_, mut scene) = dumped(dir, 1);
        scene.run(
            "thaw plan -D images -d -S -s -j --pidfile pid --timeout 5 --manage-cgroups=ignore \
             --huge-pages never --workers 1 -W . --trace run.jsonl --report plan.json \
             --progress-fd 3 3> progress",
        );
        scene.lines("progress").run("ls");
        scene.shot("plan_options");
    });
}

#[test]
fn refused_options_are_told_all_at_once() {
    let mut scene = Scene::fixed();
    scene.folder("empty");
    for (command, refused) in [
        ("dump -t 1", &DUMP_REFUSED[..]),
        ("restore", &RESTORE_REFUSED[..]),
        ("plan", &RESTORE_REFUSED[..]),
    ] {
        scene.run(&format!("thaw {command} -D empty {}", refused.join(" ")));
    }
    for option in DUMP_REFUSED {
        scene.run(&format!("thaw dump -t 1 -D empty {option} 2>&1 | head -n 1"));
    }
    for option in RESTORE_REFUSED {
        scene.run(&format!("thaw restore -D empty {option} 2>&1 | head -n 1"));
    }
    scene.run("thaw dump -t 1 -D empty --stream --width 40").run("ls empty");
    scene.shot("criu_refused");
}
