//! Faults that are asked for, and the log of calls, through a node.

use std::io::Write;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use kfd_emulator::{CallLog, CallLogWriter, FaultRule, Faults, Node};
use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::unistd::gettid;

use crate::support::client::{Client, KFD, RENDER, open, role, say};
use crate::support::stub::{Record, Stub};
use crate::support::{calls, files, live, until};

extern "C" fn ignore(_: i32) {}

fn faults(rules: &[&str]) -> Faults {
    let parse = |rule: &&str| rule.parse::<FaultRule>().expect("a good rule");
    Faults::new(rules.iter().map(parse).collect(), 1)
}

fn start(rules: &[&str], log: Option<CallLog>) -> (Node, Record) {
    let record = Record::default();
    let stub = Box::new(Stub::new(&record));
    let node = Node::start_watched(files(1), stub, faults(rules), log).expect("a node");
    (node, record)
}

/// Takes what a log writes.
struct Lines(Sender<Vec<u8>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn log() -> (CallLog, CallLogWriter, Receiver<Vec<u8>>) {
    let (lines, written) = channel();
    let (log, writer) = CallLog::start(Lines(lines)).expect("a thread");
    (log, writer, written)
}

#[test]
fn a_call_that_is_to_fail_does_not_reach_the_driver() {
    live("watched::a_call_that_is_to_fail_does_not_reach_the_driver", || {
        // The stub's ACQUIRE_VM, CRIU_OP (of operation 1) and opens are named like the driver's.
        let rules = ["ACQUIRE_VM@2=ENOMEM", "CRIU_CHECKPOINT=EPERM", "OPEN_RENDER@2=EMFILE"];
        let (node, record) = start(&rules, None);
        node.enter(|| {
            let (kfd, render) = (open(KFD), open(RENDER));
            let acquire = || {
                let number = std::os::fd::AsRawFd::as_raw_fd(&render) as u64;
                let mut block = [number, 77];
                (calls::resolve(&kfd, &mut block), block[1] != 77)
            };
            assert_eq!(acquire(), (Ok(7), true));
            assert_eq!(acquire(), (Err(Errno::ENOMEM), false));
            assert_eq!(acquire(), (Ok(7), true));
            let failed = calls::criu_checkpoint(&kfd, [0; 3]);
            assert_eq!(failed, Err(Errno::EPERM));
            let error = std::fs::File::open(RENDER).expect_err("the second open");
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        })
        .expect("inside");
        let notes = record.notes();
        assert_eq!(notes.calls, [0x15, 0x15], "those that came through");
        assert_eq!(notes.opened.len(), 2);
    });
}

#[test]
fn rules_can_be_replaced_from_inside() {
    live("watched::rules_can_be_replaced_from_inside", || {
        let (node, _) = start(&[], None);
        node.enter(|| {
            let mut kfd = gpu_kfd::Local::open(KFD).expect("it is there");
            let mut set = |rules: &str| gpu_kfd::emulated::set_faults(&mut kfd, rules);
            let errno = || {
                let error = std::fs::File::open(RENDER).err();
                error.map_or(0, |error| error.raw_os_error().expect("it is the kernel's"))
            };
            assert_eq!(set("OPEN_RENDER@2=EMFILE OPEN_RENDER@3=EIO").expect("good rules"), 0);
            assert_eq!([errno(), errno(), errno(), errno()], [0, libc::EMFILE, libc::EIO, 0]);
            assert_eq!(set("OPEN_RENDER=EPERM").expect("good rules"), 2);
            assert_eq!(errno(), libc::EPERM);
            let refused = set("OPEN_RENDER=NOTHING").expect_err("no rule");
            assert_eq!(refused.errno(), Some(Errno::EINVAL));
            assert_eq!(errno(), libc::EPERM);
            assert_eq!(set("").expect("no rule is one"), 2);
            assert_eq!(errno(), 0);
        })
        .expect("inside");
    });
}

#[test]
fn a_late_call_blocks_nobody_else() {
    live("watched::a_late_call_blocks_nobody_else", || {
        let rules = ["ACQUIRE_VM=300ms", "OPEN_RENDER=50ms"];
        let (node, _) = start(&rules, None);
        node.enter(|| {
            let begin = Instant::now();
            let (kfd, render) = (open(KFD), open(RENDER));
            assert!(begin.elapsed() >= Duration::from_millis(50), "opens can be late as well");
            std::thread::scope(|scope| {
                let late = scope.spawn(|| {
                    let number = std::os::fd::AsRawFd::as_raw_fd(&render) as u64;
                    let mut block = [number, 0];
                    let begin = Instant::now();
                    (calls::resolve(&kfd, &mut block), block[1], begin.elapsed())
                });
                let begin = Instant::now();
                calls::echo(&kfd, &mut [0; 3]).expect("it answers");
                assert!(begin.elapsed() < Duration::from_millis(200));
                let (result, file, time) = late.join().expect("no panic");
                assert_eq!((result, file), (Ok(7), 2), "it resolves descriptors when it goes on");
                assert!(time >= Duration::from_millis(300), "{time:?}");
            });
        })
        .expect("inside");
    });
}

#[test]
fn a_late_call_can_be_interrupted_and_killed() {
    const NAME: &str = "watched::a_late_call_can_be_interrupted_and_killed";
    live(NAME, || {
        if role().is_some() {
            let handler = SigHandler::Handler(ignore);
            let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
            calls::handle(Signal::SIGUSR1, &action);
            let kfd = open(KFD);
            say(gettid());
            say(format!("{:?}", calls::resolve(&kfd, &mut [0, 0])));
            say("again");
            // More signals may have been sent.
            loop {
                let _ = calls::resolve(&kfd, &mut [0, 0]);
            }
        }
        let (log, writer, written) = log();
        let (node, record) = start(&["ACQUIRE_VM=60s"], Some(log));
        let mut client = Client::start(&node, NAME, "waits");
        let tid = client.hear().parse().expect("a thread id");
        // The call may not have begun yet: then the signal comes for nothing, and another is due.
        let answer = std::thread::scope(|scope| {
            let pid = client.pid();
            let answer = scope.spawn(|| client.hear());
            while !answer.is_finished() {
                calls::signal_thread(pid, nix::unistd::Pid::from_raw(tid), Signal::SIGUSR1);
                std::thread::yield_now();
            }
            answer.join().expect("no panic")
        });
        assert_eq!(answer, "Err(EINTR)");
        assert_eq!(client.hear(), "again");
        client.child.kill().expect("it lives");
        client.child.wait().expect("it ends");
        until("its close", || record.notes().released.len() == 1);
        drop(node);
        writer.finish().expect("nothing fails to write");
        let text: Vec<u8> = written.iter().flatten().collect();
        assert!(
            String::from_utf8(text)
                .expect("JSON")
                .contains(r#""errno":"ERESTARTSYS","fault":true"#)
        );
    });
}

#[test]
fn the_log_has_each_call_in_the_order_of_answers() {
    live("watched::the_log_has_each_call_in_the_order_of_answers", || {
        let (log, writer, written) = log();
        let (node, record) = start(&["OPEN_RENDER=EIO"], Some(log));
        let tid = node.enter(|| {
            let kfd = open(KFD);
            calls::echo(&kfd, &mut [0; 3]).expect("it echoes");
            calls::fail(&kfd, &mut [0; 3]).expect_err("it fails");
            std::fs::File::open(RENDER).expect_err("it is to fail");
            std::thread::scope(|scope| {
                let wait = scope.spawn(|| calls::wait(&kfd, &mut [60_000, 0]));
                until("the wait", || record.notes().waits == 1);
                calls::wake(&kfd).expect("it wakes");
                wait.join().expect("no panic").expect("it was woken");
            });
            gettid()
        });
        let tid = tid.expect("inside").as_raw();
        drop(node);
        assert_eq!(writer.finish().expect("nothing fails to write"), 6);
        let text = String::from_utf8(written.iter().flatten().collect()).expect("JSON");
        let records: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let words = |name: &str| -> Vec<String> {
            records.iter().map(|record| record[name].to_string().replace('"', "")).collect()
        };
        let calls = ["OPEN_KFD", "0xc0185401", "0xc0185402", "OPEN_RENDER"];
        assert_eq!(words("call")[..4], calls);
        // Both ends of the wait come at once; what ended it may be noted first.
        let mut last = words("call")[4..].to_vec();
        last.sort_unstable();
        assert_eq!(last, ["0x00005404", "0xc0105403"]);
        assert_eq!(words("device")[2..4], ["kfd", "renderD128"]);
        assert_eq!(words("errno")[..4], ["null", "null", "ENOSPC", "EIO"]);
        assert_eq!(words("result")[..3], ["0", "7", "null"]);
        assert_eq!(words("fault")[..4], ["null", "null", "null", "true"]);
        assert_eq!(words("file")[..4], ["1", "1", "1", "0"]);
        assert_eq!(words("tid")[..4], vec![tid.to_string(); 4]);
        assert!(records.iter().all(|record| record["pid"] == std::process::id()));
        assert!(records.iter().all(|r| r["begin_ns"].as_u64() <= r["end_ns"].as_u64()));
    });
}
