//! However a node ends, nothing of it is left: no caller that hangs, no mount, no process.

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kfd_emulator::{Node, Preload};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::support::client::{Client, KFD, RENDER, as_client, command, listen, open, role, say};
use crate::support::{WAIT_MAX, calls, live, node, until};

/// FUSE connections of this machine, as a folder shows them that is mounted on first use.
fn connections() -> Vec<String> {
    let folder = Path::new("/sys/fs/fuse/connections");
    if fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none()) {
        let mounted = mount(None::<&str>, folder, Some("fusectl"), MsFlags::empty(), None::<&str>);
        // Busy: it is mounted, and there is no connection.
        assert!(matches!(mounted, Ok(()) | Err(Errno::EBUSY)), "{mounted:?}");
    }
    let entries = fs::read_dir(folder).expect("it is mounted");
    let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("a number");
    entries.map(|entry| name(entry.expect("an entry"))).collect()
}

/// Processes of this pid namespace but for ourselves. Those that have ended are collected.
fn processes() -> Vec<i32> {
    let any = Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL);
    while waitpid(None, any).is_ok_and(|status| status != WaitStatus::StillAlive) {}
    let entries = fs::read_dir("/proc").expect("it is there").flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|pid| *pid != std::process::id() as i32).collect()
}

fn nothing_is_left(before: &[String]) {
    until("the end of every process", || processes().is_empty());
    // Of other tests there may be some as well; those end, too.
    let new: Vec<String> =
        connections().into_iter().filter(|name| !before.contains(name)).collect();
    let left = || connections().iter().any(|name| new.contains(name));
    until("the end of the connection", || !left());
}

#[test]
fn an_orderly_end_leaves_no_thread_mount_or_connection() {
    live("ends::an_orderly_end_leaves_no_thread_mount_or_connection", || {
        let before = connections();
        let state = || {
            let mounts = fs::read_to_string("/proc/self/mounts").expect("it is there");
            let count = |folder: &str| fs::read_dir(folder).expect("it is there").count();
            (mounts, count("/proc/self/task"), count("/proc/self/fd"))
        };
        let whole = state();
        for _ in 0..5 {
            let (node, _) = node();
            node.enter(|| calls::echo(&open(KFD), &mut [0; 3]))
                .expect("inside")
                .expect("it echoes");
            drop(node);
            // Threads that have been joined are seen a little longer.
            until("the state of before", || state() == whole);
            nothing_is_left(&before);
        }
    });
}

#[test]
fn a_node_that_cannot_start_leaves_nothing() {
    live("ends::a_node_that_cannot_start_leaves_nothing", || {
        let before = connections();
        let stub = || Box::new(crate::support::stub::Stub::new(&Default::default()));
        let error = Node::start(crate::support::files(0), stub()).expect_err("no GPU");
        assert!(error.to_string().contains("between 1 and"), "{error}");
        // Where the overlay of /sys would be, nothing can be mounted: there is no such folder.
        mount(None::<&str>, "/sys", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("ours");
        mount(None::<&str>, "/proc", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("ours");
        let error = Node::start(crate::support::files(1), stub()).expect_err("no /proc");
        assert!(matches!(error, kfd_emulator::StartError::Proc), "{error}");
        nix::mount::umount("/proc").expect("it is mounted");
        nix::mount::umount("/sys").expect("it is mounted");
        nothing_is_left(&before);
        node();
    });
}

/// As a process with a node of its own, of which threads and a child call and wait.
fn serve_and_call(name: &str) {
    let (node, record) = node();
    let own = std::env::current_exe().expect("a path");
    let child = as_client(node.command(own, Preload::No), name, "waits");
    let mut child = Client::of(child);
    std::thread::scope(|scope| {
        scope.spawn(|| node.enter(|| calls::wait(&open(KFD), &mut [600_000, 0])));
        for _ in 0..2 {
            scope.spawn(|| {
                node.enter(|| {
                    let (kfd, render) = (open(KFD), open(RENDER));
                    let number = render.as_raw_fd() as u64;
                    while calls::resolve(&kfd, &mut [number, 0]).is_ok() {}
                })
            });
        }
        until("both waits", || record.notes().waits == 2);
        say(child.pid());
        say(child.hear());
    });
}

/// As a client: waits, and says how that ended, to a file since nobody may listen any more.
fn wait_for_the_end() {
    let result = calls::wait(&open(KFD), &mut [600_000, 0]);
    let folder = std::env::var("KFD_TEST_FOLDER").expect("it is set");
    fs::write(format!("{folder}/result"), format!("{result:?}")).expect("a folder of ours");
}

#[test]
fn killing_the_node_wakes_its_clients_and_itself() {
    const NAME: &str = "ends::killing_the_node_wakes_its_clients_and_itself";
    live(NAME, || {
        match role().as_deref() {
            Some("serves") => return serve_and_call(NAME),
            Some(_) => return wait_for_the_end(),
            None => {}
        }
        let before = connections();
        let folder = tempfile::tempdir().expect("a folder");
        let own = std::env::current_exe().expect("a path");
        for _ in 0..10 {
            let mut command = as_client(Command::new(&own), NAME, "serves");
            command.env("KFD_TEST_FOLDER", folder.path()).stderr(Stdio::null());
            let mut server = Client::of(command);
            let child: i32 = server.hear().parse().expect("a pid");
            server.child.kill().expect("it lives");
            let killed = Instant::now();
            server.child.wait().expect("it ends, though its own threads waited for it");
            assert!(killed.elapsed() < WAIT_MAX / 2);
            // The child is ours now; it was woken, not killed.
            let status = waitpid(Pid::from_raw(child), None).expect("it ends");
            assert!(matches!(status, WaitStatus::Exited(..)), "{status:?}");
            let result = fs::read_to_string(folder.path().join("result")).expect("it was written");
            let ends = [Errno::ECONNABORTED, Errno::ENOTCONN];
            assert!(ends.iter().any(|end| result == format!("Err({end:?})")), "{result}");
            nothing_is_left(&before);
        }
    });
}

/// As a process that runs a command in a node of its own.
fn run(name: &str) {
    let (node, _) = node();
    let mut command = command(&node, name, "in a run", Preload::No);
    command.stdin(Stdio::inherit()).stdout(Stdio::inherit());
    let status = node.run(command, &Default::default());
    say(format!("{status:?}"));
}

/// As a client in a run: leaves a child that wants to outlive it, calls and waits.
fn call_for_ever() {
    let mut child = Command::new("setsid").args(["sleep", "600"]).spawn();
    let _ = child.as_mut().expect("it starts").id();
    let (kfd, render) = (open(KFD), open(RENDER));
    say("runs");
    std::thread::scope(|scope| {
        scope.spawn(|| calls::wait(&kfd, &mut [600_000, 0]));
        let number = render.as_raw_fd() as u64;
        while calls::resolve(&kfd, &mut [number, 0]).is_ok() {
            let _ = calls::echo(&kfd, &mut [0; 3]);
        }
    });
    listen();
}

/// Small random numbers: a linear congruential generator is enough to vary moments.
struct Moments(u64);

impl Moments {
    fn next(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % limit
    }
}

#[test]
fn killed_at_any_moment_nothing_is_left() {
    const NAME: &str = "ends::killed_at_any_moment_nothing_is_left";
    const ROUNDS: u64 = 200;
    live(NAME, || {
        match role().as_deref() {
            Some("runs") => return run(NAME),
            Some(_) => return call_for_ever(),
            None => {}
        }
        let before = connections();
        let own = std::env::current_exe().expect("a path");
        let mut moments = Moments(1);
        let (mut early, mut late) = (0, 0);
        for round in 0..ROUNDS {
            let mut command = as_client(Command::new(&own), NAME, "runs");
            command.stderr(Stdio::null());
            let mut server = Client::of(command);
            // Half of them before all runs: a run takes about so long to begin.
            if moments.next(2) == 0 {
                let moment = Duration::from_micros(moments.next(60_000));
                let begin = Instant::now();
                while begin.elapsed() < moment {
                    std::thread::yield_now();
                }
                early += 1;
            } else {
                assert_eq!(server.hear(), "runs", "round {round} starts clean");
                late += 1;
            }
            let others = processes();
            let victims: Vec<i32> = match moments.next(3) {
                0 => vec![server.pid()],
                1 => others.last().copied().into_iter().collect(),
                _ => others.last().copied().into_iter().chain([server.pid()]).collect(),
            };
            for victim in victims {
                let _ = kill(Pid::from_raw(victim), Signal::SIGKILL);
            }
            // If the client was the only victim, its run must end by itself, or go on.
            let _ = server.child.kill();
            let _ = server.child.wait();
            nothing_is_left(&before);
        }
        assert!(early > ROUNDS / 4 && late > ROUNDS / 4, "{early} {late}");
    });
}
