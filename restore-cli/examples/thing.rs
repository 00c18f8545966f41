//! A program with one thing that may stand against a dump or a restore, to be checkpointed.
//!
//! `thing STATUS KIND` makes it in the working directory. When it is there, standard output is
//! closed. On SIGUSR1 it appends `pid 0 intact|damaged` to the file STATUS, as `workload` does.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use nix::fcntl::{Flock, FlockArg};
use nix::sched::CloneFlags;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{mkfifo, setsid};

/// What the files hold that a restore needs.
const CONTENTS: &[u8] = b"contents of a file\n";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [status, kind] = args.as_slice() else { panic!("usage: thing STATUS KIND") };
    for fd in 3..256 {
        // What a careless caller has left open is none of this program's files.
        let _ = nix::unistd::close(fd);
    }
    let mut status = File::options().append(true).create(true).open(status).expect("a file");
    if kind != "session-of-another" {
        let _ = setsid();
    }
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGUSR1);
    signals.thread_block().expect("a valid set");
    let kept = make(kind);
    let null = File::options().read(true).write(true).open("/dev/null").expect("/dev/null");
    nix::unistd::dup2_stdin(&null).expect("dup2");
    nix::unistd::dup2_stderr(&null).expect("dup2");
    nix::unistd::dup2_stdout(&null).expect("dup2");
    loop {
        signals.wait().expect("a signal");
        let intact = kept.iter().all(|fd| nix::sys::stat::fstat(fd).is_ok());
        let word = if intact { "intact" } else { "damaged" };
        let line = format!("{} 0 {word}\n", std::process::id());
        status.write_all(line.as_bytes()).expect("the status file takes a line");
    }
}

/// What is kept open.
fn make(kind: &str) -> Vec<OwnedFd> {
    match kind {
        "session-of-another" => Vec::new(),
        "tcp-port" => vec![TcpListener::bind("127.0.0.1:0").expect("a port").into()],
        "unix-socket" => UnixStream::pair().map(|(a, b)| vec![a.into(), b.into()]).expect("two"),
        "inotify" => {
            let watch = Inotify::init(InitFlags::IN_CLOEXEC).expect("inotify");
            watch.add_watch(".", AddWatchFlags::IN_CREATE).expect("a watch");
            vec![watch.into()]
        }
        "file-lock" => {
            let lock = Flock::lock(plain("locked"), FlockArg::LockExclusive).expect("a lock");
            let kept = lock.try_clone().expect("a descriptor").into();
            std::mem::forget(lock); // it would unlock
            vec![kept]
        }
        "terminal" => vec![File::open("/dev/ptmx").expect("/dev/ptmx").into()],
        "namespace" => {
            nix::sched::unshare(CloneFlags::CLONE_NEWUTS).expect("root may do it");
            Vec::new()
        }
        "deleted-file" => vec![deleted("gone", 64 << 10).into()],
        "large-deleted-file" => vec![deleted("gone", 2 << 20).into()],
        "renamed-file" => {
            let file = plain("first-name");
            fs::hard_link("first-name", "second-name").expect("a link");
            fs::remove_file("first-name").expect("it is there");
            vec![file.into()]
        }
        "files" => files(),
        other => panic!("{other} is no kind of thing"),
    }
}

/// A plain file, a fifo, and a working directory of its own.
fn files() -> Vec<OwnedFd> {
    let mut plain = plain("plain");
    plain.seek(SeekFrom::Start(9)).expect("a position");
    mkfifo("fifo", Mode::S_IRUSR | Mode::S_IWUSR).expect("a fifo");
    let fifo = File::options().read(true).write(true).open("fifo").expect("a fifo");
    fs::create_dir("home").expect("a folder");
    std::env::set_current_dir("home").expect("it was made");
    vec![plain.into(), fifo.into()]
}

fn plain(name: &str) -> File {
    let options = File::options().read(true).write(true).create_new(true).open(name);
    let mut file = options.expect("a new file");
    file.write_all(CONTENTS).expect("room");
    file
}

fn deleted(name: &str, len_bytes: usize) -> File {
    let mut file = plain(name);
    file.write_all(&vec![b'x'; len_bytes]).expect("room");
    fs::remove_file(name).expect("it is there");
    file
}
