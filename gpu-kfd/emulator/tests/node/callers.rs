//! The driver is told who calls, and it is always right.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use kfd_emulator::{Node, Preload, RunOptions, SpaceId};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::mman::{MapFlags, ProtFlags};
use nix::sys::ptrace;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, getpid, gettid, setresuid};

use crate::support::client::{Client, KFD, as_client, command, listen, open, role, say};
use crate::support::{calls, live, node, process, until};

fn who(file: &impl AsRawFd) -> [u64; 3] {
    let mut block = [0; 3];
    calls::who(file, &mut block).expect("it answers");
    block
}

fn numbers(line: &str) -> Vec<u64> {
    line.split(' ').map(|word| word.parse().expect("a number")).collect()
}

/// As a client: answers each line with space and pid of the caller.
fn say_who() {
    let file = open(KFD);
    while listen().is_some() {
        let [space, pid, _] = who(&file);
        say(format!("{space} {pid}"));
    }
}

#[test]
fn threads_of_a_process_are_one_space_and_processes_are_not() {
    const NAME: &str = "callers::threads_of_a_process_are_one_space_and_processes_are_not";
    live(NAME, || {
        if role().is_some() {
            return say_who();
        }
        let (node, _) = node();
        let mut other = Client::start(&node, NAME, "says");
        let theirs = numbers(&other.ask("who"));
        assert_eq!(theirs[1], other.pid() as u64);
        assert_eq!(numbers(&other.ask("who")), theirs);
        node.enter(|| {
            let file = open(KFD);
            let ours = who(&file);
            assert_eq!(ours[1], u64::from(std::process::id()));
            assert_ne!(ours[0], theirs[0]);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| assert_eq!(who(&file), ours));
                }
            });
            let (child, pid) = process::who_in_fork(&file);
            assert_ne!(child[0], ours[0], "memory was copied");
            assert_eq!(child[1], pid.as_raw() as u64);
            let child = process::who_in_vfork(&file);
            assert_eq!(child[0], ours[0], "memory is shared");
            assert_ne!(child[1], ours[1]);
            assert_eq!(who(&file), ours, "the child's end is not ours");
        })
        .expect("inside");
    });
}

#[test]
fn many_threads_are_told_apart_and_forgotten() {
    live("callers::many_threads_are_told_apart_and_forgotten", || {
        let (node, record) = node();
        node.enter(|| {
            let file = open(KFD);
            let ours = who(&file);
            // More at a time than are remembered, and more than that in all.
            for _ in 0..3 {
                let gate = std::sync::Barrier::new(300);
                std::thread::scope(|scope| {
                    for _ in 0..300 {
                        scope.spawn(|| {
                            gate.wait();
                            assert_eq!(who(&file), ours);
                            gate.wait();
                            assert_eq!(who(&file), ours);
                        });
                    }
                });
            }
        })
        .expect("inside");
        assert!(record.notes().ended.is_empty());
    });
}

#[test]
fn threads_are_forgotten_rather_than_a_process_refused() {
    const NAME: &str = "callers::threads_are_forgotten_rather_than_a_process_refused";
    live(NAME, || {
        if role().is_some() {
            return say_who();
        }
        // The serving threads begin with 64 descriptors, and need some more.
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
        let (node, _) = node();
        let mut client = Client::start(&node, NAME, "says");
        setrlimit(Resource::RLIMIT_NOFILE, 110, hard).expect("less is allowed");
        node.enter(|| {
            let file = open(KFD);
            let gate = std::sync::Barrier::new(100);
            std::thread::scope(|scope| {
                for _ in 0..100 {
                    scope.spawn(|| {
                        who(&file);
                        gate.wait();
                    });
                }
            });
        })
        .expect("inside");
        assert_eq!(numbers(&client.ask("who"))[1], client.pid() as u64);
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("as before");
        client.finish();
    });
}

#[test]
fn a_number_that_is_given_to_another_process_is_noticed() {
    live("callers::a_number_that_is_given_to_another_process_is_noticed", || {
        let (node, _) = node();
        node.enter(|| {
            let file = open(KFD);
            let (first, pid) = process::who_in_fork(&file);
            // All children of ours have the same mark in memory, being copies.
            let mut reused = false;
            for _ in 0..50 {
                let last = (pid.as_raw() - 1).to_string();
                fs::write("/proc/sys/kernel/ns_last_pid", last).expect("we are init here");
                let (second, other) = process::who_in_fork(&file);
                assert_ne!(second[0], first[0]);
                reused |= other == pid;
            }
            assert!(reused, "the number was given again");
        })
        .expect("inside");
    });
}

/// As a client: says who it is, executes itself, says it again through the same descriptor.
fn execute_in_between(name: &str, role: &str) {
    if let Some(number) = role.strip_prefix("executed ") {
        let number: i32 = number.parse().expect("a number");
        let file = fs::File::open(format!("/proc/self/fd/{number}")).expect("it was left open");
        drop(file);
        let mut block = [0; 3];
        calls::who(&number, &mut block).expect("it answers");
        say(format!("{} {}", block[0], block[1]));
        listen();
        return;
    }
    let file = open(KFD);
    fcntl(&file, FcntlArg::F_SETFD(FdFlag::empty())).expect("it is open");
    let [space, pid, _] = who(&file);
    say(format!("{space} {pid}"));
    if role == "shares" {
        say(process::sleeper_in_our_memory());
    }
    let again = format!("executed {}", file.as_raw_fd());
    let mut command =
        as_client(Command::new(std::env::current_exe().expect("a path")), name, &again);
    command.stdin(std::process::Stdio::inherit()).stdout(std::process::Stdio::inherit());
    panic!("{}", command.exec());
}

#[test]
fn a_program_that_executes_another_is_a_new_space() {
    const NAME: &str = "callers::a_program_that_executes_another_is_a_new_space";
    live(NAME, || {
        if let Some(role) = role() {
            return execute_in_between(NAME, &role);
        }
        let (node, record) = node();
        let mut client = Client::start(&node, NAME, "executes");
        let before = numbers(&client.hear());
        let after = numbers(&client.hear());
        assert_ne!(after[0], before[0]);
        assert_eq!(after[1], before[1], "the process is the same");
        assert_eq!(record.notes().ended, [SpaceId(before[0])]);
        client.finish();
        until("the end of both", || record.notes().ended.len() == 2);
    });
}

#[test]
fn a_space_lives_as_long_as_any_process_has_it() {
    const NAME: &str = "callers::a_space_lives_as_long_as_any_process_has_it";
    live(NAME, || {
        if let Some(role) = role() {
            return execute_in_between(NAME, &role);
        }
        let (node, record) = node();
        let mut client = Client::start(&node, NAME, "shares");
        let before = numbers(&client.hear());
        let sleeper: i32 = client.hear().parse().expect("a pid");
        let after = numbers(&client.hear());
        assert_ne!(after[0], before[0], "though the memory of the first is still there");
        assert!(record.notes().ended.is_empty(), "another process has it");
        kill(Pid::from_raw(sleeper), Signal::SIGKILL).expect("it sleeps");
        until("the end of the first", || record.notes().ended == [SpaceId(before[0])]);
        client.finish();
    });
}

#[test]
fn memory_of_callers_is_read_and_written_with_their_rights() {
    live("callers::memory_of_callers_is_read_and_written_with_their_rights", || {
        let (node, _) = node();
        node.enter(|| {
            let file = open(KFD);
            let mut bytes = [1u8; 1000];
            let address = bytes.as_mut_ptr() as u64;
            assert_eq!(calls::memory(&file, &mut [address, 1000, 0]), Ok(1000));
            assert_eq!(calls::memory(&file, &mut [address, 10, 1]), Ok(70));
            assert_eq!(bytes[..11], [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 1]);
            let fault = Err(Errno::EFAULT);
            assert_eq!(calls::memory(&file, &mut [16, 8, 0]), fault, "not mapped");
            assert_eq!(calls::memory(&file, &mut [u64::MAX - 3, 8, 0]), fault, "no address");
            assert_eq!(calls::memory(&file, &mut [16, 0, 0]), Ok(0), "nothing");
            let page = read_only_page();
            assert_eq!(calls::memory(&file, &mut [page, 8, 0]), Ok(0));
            assert_eq!(calls::memory(&file, &mut [page, 8, 1]), fault, "read only");
            let last = page + 4096 - 4;
            assert_eq!(calls::memory(&file, &mut [last, 8, 0]), fault, "half of it is mapped");
        })
        .expect("inside");
    });
}

/// Address of a page that can only be read, before one that is not mapped.
fn read_only_page() -> u64 {
    let two = std::num::NonZeroUsize::new(8192).expect("not 0");
    let flags = MapFlags::MAP_PRIVATE;
    calls::map_then_cut(two, ProtFlags::PROT_READ, flags)
}

#[test]
fn capability_to_checkpoint_is_that_of_the_caller() {
    const NAME: &str = "callers::capability_to_checkpoint_is_that_of_the_caller";
    live(NAME, || {
        let asks = |file: &fs::File| {
            let mut block = [u64::MAX, 0];
            calls::checkpoint(file, &mut block).expect("it answers");
            block[1]
        };
        if role().is_some() {
            let file = open(KFD);
            let before = asks(&file);
            let nobody = Uid::from_raw(65534);
            setresuid(nobody, nobody, nobody).expect("root may");
            return say(format!("{before} {}", asks(&file)));
        }
        let (node, _) = node();
        let mut client = Client::start(&node, NAME, "drops");
        assert_eq!(client.hear(), "1 0");
        client.finish();
    });
}

#[test]
fn processes_are_found_by_their_number_in_the_callers_namespace() {
    const NAME: &str = "callers::processes_are_found_by_their_number_in_the_callers_namespace";
    live(NAME, || {
        let of = |file: &fs::File, pid: i32| {
            let mut block = [pid as u64, 0, 0];
            calls::of_pid(file, &mut block).map(|_| [block[1], block[2]])
        };
        if role().is_some() {
            let file = open(KFD);
            let [space, outer, _] = who(&file);
            let own = getpid().as_raw();
            assert_eq!(of(&file, own), Ok([space, own as u64]));
            assert_eq!(of(&file, outer as i32), Err(Errno::ESRCH), "a number of elsewhere");
            say(format!("{space} {own} {outer}"));
            listen();
            return;
        }
        let (node, _) = node();
        inside_of_run(&node, NAME, |client| {
            let said = numbers(&client.hear());
            let (space, own, outer) = (said[0], said[1], said[2]);
            assert_ne!(own, outer);
            node.enter(|| {
                let file = open(KFD);
                assert_eq!(of(&file, outer as i32), Ok([space, own]));
                let ours = std::process::id();
                assert_eq!(of(&file, ours as i32).map(|found| found[1]), Ok(u64::from(ours)));
                assert_eq!(of(&file, 1_000_000), Err(Errno::ESRCH));
            })
            .expect("inside");
        });
    });
}

/// Lets a client run in a pid namespace of its own, and meanwhile `body`.
fn inside_of_run(node: &Node, name: &str, body: impl FnOnce(&mut Talk)) {
    let mut command = command(node, name, "in a run", Preload::No);
    let (orders, order) = std::io::pipe().expect("a pipe");
    let (answer, answers) = std::io::pipe().expect("a pipe");
    command.stdin(orders).stdout(answers);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| node.run(command, &RunOptions::default()));
        // Open until the client has ended: its test harness prints as well.
        let mut talk = Talk(std::io::BufReader::new(answer));
        body(&mut talk);
        drop(order);
        let status = run.join().expect("no panic").expect("it runs");
        assert!(status.success(), "{status}");
    });
}

/// What a client in a run says.
struct Talk(std::io::BufReader<std::io::PipeReader>);

impl Talk {
    fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            let length = std::io::BufRead::read_line(&mut self.0, &mut line).expect("text");
            if length == 0 || line.starts_with("> ") {
                return line.trim_start_matches("> ").trim_end().to_owned();
            }
        }
    }
}

#[test]
fn a_tracer_is_the_thread_that_traces() {
    const NAME: &str = "callers::a_tracer_is_the_thread_that_traces";
    live(NAME, || {
        if role().is_some() {
            return say_who();
        }
        let (node, _) = node();
        let mut client = Client::start(&node, NAME, "says");
        let space = numbers(&client.ask("who"))[0];
        node.enter(|| {
            let file = open(KFD);
            let asks = || {
                let mut block = [space, 0];
                calls::checkpoint(&file, &mut block).expect("it answers");
                block[0]
            };
            assert_eq!(asks(), 0);
            let target = Pid::from_raw(client.pid());
            ptrace::seize(target, ptrace::Options::empty()).expect("we may trace our child");
            assert_eq!(asks(), 1, "thread {} traces", gettid());
            std::thread::scope(|scope| {
                let other = scope.spawn(asks);
                assert_eq!(other.join().expect("no panic"), 0, "another thread does not");
            });
        })
        .expect("inside");
    });
}
