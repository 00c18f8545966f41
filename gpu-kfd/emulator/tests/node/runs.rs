//! Commands that are run in a node: their status, their world, their end.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use kfd_emulator::{Node, Preload, RunOptions};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, gettid};

use crate::support::client::{Client, as_client, role, say};
use crate::support::{calls, live, node};

fn run_shell(node: &Node, script: &str) -> ExitStatus {
    let mut command = node.command("sh", Preload::No);
    command.args(["-c", script]).stdin(Stdio::null());
    node.run(command, &RunOptions::default()).expect("it runs")
}

#[test]
fn the_status_is_that_of_the_command() {
    live("runs::the_status_is_that_of_the_command", || {
        let (node, _) = node();
        assert_eq!(run_shell(&node, "exit 0").code(), Some(0));
        assert_eq!(run_shell(&node, "exit 77").code(), Some(77));
        assert_eq!(run_shell(&node, "kill -9 $$").signal(), Some(9));
        assert_eq!(run_shell(&node, "kill -TERM $$").signal(), Some(15));
        let missing = node.command("/no/such/program", Preload::No);
        let error = node.run(missing, &RunOptions::default()).expect_err("there is none");
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    });
}

#[test]
fn a_run_has_processes_and_proc_of_its_own() {
    live("runs::a_run_has_processes_and_proc_of_its_own", || {
        let (node, _) = node();
        let script = "test $$ = 2 && test $(readlink /proc/self) -gt 2 && test -e /dev/kfd && \
                      test $(cat /proc/1/comm) = kfd-init";
        assert_eq!(run_shell(&node, script).code(), Some(0));
    });
}

#[test]
fn what_a_command_leaves_behind_ends_with_it() {
    live("runs::what_a_command_leaves_behind_ends_with_it", || {
        let (node, _) = node();
        let folder = tempfile::tempdir().expect("a folder");
        let lock = folder.path().join("held");
        let script = format!(
            "setsid sh -c 'exec 9>{0}; flock 9; echo >{0}.is; exec sleep 600' &\n\
             while ! [ -e {0}.is ]; do :; done",
            lock.display()
        );
        assert_eq!(run_shell(&node, &script).code(), Some(0));
        let file = fs::File::open(&lock).expect("it was made");
        file.try_lock().expect("whoever held it has ended");
    });
}

#[test]
fn orphans_are_collected_while_the_command_runs() {
    live("runs::orphans_are_collected_while_the_command_runs", || {
        let (node, _) = node();
        // Each inner shell leaves a child to init, which must not keep it as a zombie.
        let script = "for i in 1 2 3 4 5; do sh -c 'sh -c : &'; done\n\
                      for try in $(seq 1000); do\n\
                      grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | grep -q . || exit 0\n\
                      done; exit 1";
        assert_eq!(run_shell(&node, script).code(), Some(0));
    });
}

#[test]
fn signals_that_are_passed_on_are_not_blocked_in_the_command() {
    live("runs::signals_that_are_passed_on_are_not_blocked_in_the_command", || {
        let status = fs::read_to_string("/proc/thread-self/status").expect("a file of proc");
        let mask = status.lines().find(|line| line.starts_with("SigBlk:")).expect("a mask");
        let mut passed = SigSet::empty();
        passed.add(Signal::SIGTERM);
        passed.thread_block().expect("a good set");
        let (node, _) = node();
        // Not a shell: those unblock everything.
        let mut command = node.command("grep", Preload::No);
        command.args(["-qx", mask, "/proc/self/status"]);
        let options = RunOptions { pass_on: vec![Signal::SIGTERM] };
        assert_eq!(node.run(command, &options).expect("it runs").code(), Some(0), "{mask}");
    });
}

#[test]
fn signals_are_passed_on_to_the_command() {
    const NAME: &str = "runs::signals_are_passed_on_to_the_command";
    live(NAME, || {
        if role().is_some() {
            let mut passed = SigSet::empty();
            passed.add(Signal::SIGTERM);
            passed.thread_block().expect("a good set");
            let (node, _) = node();
            let mut command = node.command("sh", Preload::No);
            let script = "trap 'exit 33' TERM; echo '> ready'; while :; do sleep 0.01; done";
            command.args(["-c", script]).stdin(Stdio::null());
            say(gettid());
            let options = RunOptions { pass_on: vec![Signal::SIGTERM] };
            let status = node.run(command, &options).expect("it runs");
            return say(format!("{:?}", status.code()));
        }
        let own = std::env::current_exe().expect("a path");
        let mut runner = Client::of(as_client(std::process::Command::new(own), NAME, "runs"));
        let tid = runner.hear().parse().expect("a thread id");
        assert_eq!(runner.hear(), "ready");
        calls::signal_thread(runner.pid(), Pid::from_raw(tid), Signal::SIGTERM);
        assert_eq!(runner.hear(), "Some(33)");
        runner.finish();
    });
}
