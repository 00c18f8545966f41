//! Callers that wait can be interrupted, stopped, frozen, traced and killed.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use kfd_emulator::Node;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, gettid};

use crate::support::client::{Client, KFD, open, role, say};
use crate::support::stub::Record;
use crate::support::{calls, live, node, until};

extern "C" fn ignore(_: i32) {}

/// As a client: handles SIGUSR1 with these flags, waits, says how that ended.
fn wait_for_long(flags: SaFlags) {
    let action = SigAction::new(SigHandler::Handler(ignore), flags, SigSet::empty());
    calls::handle(Signal::SIGUSR1, &action);
    let file = open(KFD);
    say(gettid());
    say(format!("{:?}", calls::wait(&file, &mut [60_000, 0])));
}

/// A client of which a thread waits, and the id of that thread.
fn waiting(node: &Node, record: &Record, test: &str) -> (Client, Pid) {
    let before = record.notes().waits;
    let mut client = Client::start(node, test, "waits");
    let tid = client.hear().parse().expect("a thread id");
    until("the wait", || record.notes().waits > before);
    (client, Pid::from_raw(tid))
}

fn pid(client: &Client) -> Pid {
    Pid::from_raw(client.pid())
}

#[test]
fn a_signal_interrupts_a_wait() {
    const NAME: &str = "signals::a_signal_interrupts_a_wait";
    live(NAME, || {
        if role().is_some() {
            return wait_for_long(SaFlags::empty());
        }
        let (node, record) = node();
        let (mut client, tid) = waiting(&node, &record, NAME);
        calls::signal_thread(client.pid(), tid, Signal::SIGUSR1);
        assert_eq!(client.hear(), format!("{:?}", Err::<i32, _>(Errno::EINTR)));
        client.finish();
        assert_eq!(record.notes().waits, 1);
    });
}

#[test]
fn a_call_is_made_again_after_a_handler_that_asks_for_it() {
    const NAME: &str = "signals::a_call_is_made_again_after_a_handler_that_asks_for_it";
    live(NAME, || {
        if role().is_some() {
            return wait_for_long(SaFlags::SA_RESTART);
        }
        let (node, record) = node();
        let (mut client, tid) = waiting(&node, &record, NAME);
        calls::signal_thread(client.pid(), tid, Signal::SIGUSR1);
        until("a second wait", || record.notes().waits == 2);
        node.enter(|| calls::wake(&open(KFD))).expect("inside").expect("it wakes");
        assert_eq!(client.hear(), format!("{:?}", Ok::<i32, Errno>(1)));
        client.finish();
    });
}

#[test]
fn a_caller_that_waits_can_be_stopped_and_goes_on_waiting() {
    const NAME: &str = "signals::a_caller_that_waits_can_be_stopped_and_goes_on_waiting";
    live(NAME, || {
        if role().is_some() {
            return wait_for_long(SaFlags::empty());
        }
        let (node, record) = node();
        let (mut client, _) = waiting(&node, &record, NAME);
        kill(pid(&client), Signal::SIGSTOP).expect("it lives");
        let stopped = waitpid(pid(&client), Some(WaitPidFlag::WUNTRACED));
        assert_eq!(stopped, Ok(WaitStatus::Stopped(pid(&client), Signal::SIGSTOP)));
        kill(pid(&client), Signal::SIGCONT).expect("it lives");
        until("a second wait", || record.notes().waits == 2);
        node.enter(|| calls::wake(&open(KFD))).expect("inside").expect("it wakes");
        assert_eq!(client.hear(), format!("{:?}", Ok::<i32, Errno>(1)), "nothing was noticed");
        client.finish();
    });
}

#[test]
fn a_caller_that_waits_can_be_seized() {
    const NAME: &str = "signals::a_caller_that_waits_can_be_seized";
    live(NAME, || {
        if role().is_some() {
            return wait_for_long(SaFlags::empty());
        }
        let (node, record) = node();
        let (mut client, target) = waiting(&node, &record, NAME);
        ptrace::seize(target, ptrace::Options::empty()).expect("we may trace our child");
        ptrace::interrupt(target).expect("it is seized");
        let stopped = waitpid(target, Some(WaitPidFlag::__WALL)).expect("it stops");
        assert!(matches!(stopped, WaitStatus::PtraceEvent(..)), "{stopped:?}");
        ptrace::detach(target, None).expect("it is stopped");
        until("a second wait", || record.notes().waits == 2);
        node.enter(|| calls::wake(&open(KFD))).expect("inside").expect("it wakes");
        assert_eq!(client.hear(), format!("{:?}", Ok::<i32, Errno>(1)));
        client.finish();
    });
}

#[test]
fn a_caller_that_waits_can_be_killed() {
    const NAME: &str = "signals::a_caller_that_waits_can_be_killed";
    live(NAME, || {
        if role().is_some() {
            return wait_for_long(SaFlags::empty());
        }
        let (node, record) = node();
        for _ in 0..20 {
            let (mut client, _) = waiting(&node, &record, NAME);
            client.child.kill().expect("it lives");
            client.child.wait().expect("it ends");
        }
        until("20 closed files and spaces", || {
            let notes = record.notes();
            (notes.released.len(), notes.ended.len()) == (20, 20)
        });
        assert_eq!(record.notes().interrupts, 20);
    });
}

/// Where a freezer is, of either version of cgroups: a new group, its list, its switch.
fn freezer() -> Option<(tempfile::TempDir, &'static str, [&'static str; 2])> {
    let (switch, words) = ("freezer.state", ["FROZEN", "THAWED"]);
    let first = Path::new("/sys/fs/cgroup/freezer");
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
    if first.join("cgroup.procs").exists() {
        return Some((tempfile::tempdir_in(first).ok()?, switch, words));
    }
    let second = roots.into_iter().find(|root| root.join("cgroup.controllers").exists())?;
    Some((tempfile::tempdir_in(second).ok()?, "cgroup.freeze", ["1", "0"]))
}

#[test]
fn a_caller_that_waits_can_be_frozen() {
    const NAME: &str = "signals::a_caller_that_waits_can_be_frozen";
    live(NAME, || {
        if role().is_some() {
            return wait_for_long(SaFlags::empty());
        }
        let Some((group, switch, [frozen, thawed])) = freezer() else {
            return crate::support::skip(NAME, "no freezer");
        };
        let (node, record) = node();
        let (mut client, _) = waiting(&node, &record, NAME);
        let write = |name: &str, text: &str| {
            fs::write(group.path().join(name), text).expect("a file of a control group");
        };
        write("cgroup.procs", &client.pid().to_string());
        write(switch, frozen);
        until("the group is frozen", || {
            let read = |name: &str| fs::read_to_string(group.path().join(name));
            match read("cgroup.events") {
                Ok(events) => events.contains("frozen 1"),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    read(switch).expect("its state").trim() == frozen
                }
                Err(error) => panic!("{error}"),
            }
        });
        write(switch, thawed);
        until("a second wait", || record.notes().waits == 2);
        node.enter(|| calls::wake(&open(KFD))).expect("inside").expect("it wakes");
        assert_eq!(client.hear(), format!("{:?}", Ok::<i32, Errno>(1)));
        client.finish();
        until("the group is empty", || fs::remove_dir(group.path()).is_ok());
        std::mem::forget(group);
    });
}
