//! A program that has one of everything that a restore claims to bring back.
//!
//! `everything DIR` makes a small tree in DIR, closes standard output when all of it is ready, and
//! waits. A test compares what `/proc` says of it before a dump and after a restore.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mlock, mmap, mmap_anonymous};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, raise, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::{ForkResult, Pid, fork, pause, pipe2, setpgid, setsid};

const PAGE: usize = 4096;

fn main() {
    let dir = std::env::args().nth(1).expect("a folder");
    let dir = Path::new(&dir);
    for fd in 3..256 {
        let _ = nix::unistd::close(fd); // whatever a careless caller left open
    }
    let _ = setsid();
    std::env::set_current_dir(dir).expect("the folder exists");
    umask(Mode::from_bits_truncate(0o027));
    let keep = [files(dir), anonymous()].concat();
    memory(dir);
    signals();
    limits();
    let (ready, wait) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    children(wait);
    drop(ready);
    // SAFETY: prctl with integers; names the calling thread.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    let ready = std::sync::Arc::new(std::sync::Barrier::new(2));
    let theirs = std::sync::Arc::clone(&ready);
    std::thread::Builder::new()
        .name("second".to_owned())
        .spawn(move || {
            // SAFETY: setpriority of the calling thread.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 7) };
            theirs.wait();
            loop {
                pause();
            }
        })
        .expect("a thread");
    ready.wait();
    drop(keep);
    serve()
}

fn serve() -> ! {
    let null = File::options().read(true).write(true).open("/dev/null").expect("/dev/null");
    nix::unistd::dup2_stdin(&null).expect("dup2");
    nix::unistd::dup2_stderr(&null).expect("dup2");
    nix::unistd::dup2_stdout(&null).expect("dup2");
    loop {
        pause();
    }
}

/// Keeps a descriptor open for the life of the process.
fn leak(fd: impl Into<OwnedFd>) -> i32 {
    fd.into().into_raw_fd()
}

fn files(dir: &Path) -> Vec<i32> {
    let mut plain = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(dir.join("plain"))
        .expect("a file");
    plain.write_all(b"0123456789").expect("room");
    plain.seek(SeekFrom::Start(5)).expect("a position");
    let append = File::options().append(true).open(dir.join("plain")).expect("a file");
    let shared = plain.try_clone().expect("a descriptor");
    let mut gone = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(dir.join("gone"))
        .expect("a file");
    gone.write_all(b"contents of a deleted file").expect("room");
    gone.seek(SeekFrom::Start(3)).expect("a position");
    fs::remove_file(dir.join("gone")).expect("it was made above");
    let folder = open(dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()).expect("a folder");
    let path = open(&dir.join("plain"), OFlag::O_PATH, Mode::empty()).expect("a path");
    nix::unistd::mkfifo(&dir.join("fifo"), Mode::from_bits_truncate(0o600)).expect("a fifo");
    let fifo = open(&dir.join("fifo"), OFlag::O_RDWR, Mode::empty()).expect("a fifo");
    nix::unistd::write(&fifo, b"in the fifo").expect("room");
    let high = nix::fcntl::fcntl(&folder, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(200));
    vec![
        leak(plain),
        leak(append),
        leak(shared),
        leak(gone),
        leak(folder),
        leak(path),
        leak(fifo),
        high.expect("a high number"),
    ]
}

fn anonymous() -> Vec<i32> {
    let (reader, writer) = pipe2(OFlag::O_NONBLOCK).expect("a pipe");
    nix::unistd::write(&writer, b"in the pipe").expect("room");
    let event = EventFd::from_value_and_flags(7, EfdFlags::EFD_NONBLOCK).expect("an eventfd");
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("an epoll instance");
    epoll.add(&reader, EpollEvent::new(EpollFlags::EPOLLIN, 11)).expect("a watch");
    epoll.add(&event, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 12)).expect("one");
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::empty()).expect("a timerfd");
    let value = Expiration::IntervalDelayed(
        std::time::Duration::from_secs(5000).into(),
        std::time::Duration::from_secs(60).into(),
    );
    timer.set(value, TimerSetTimeFlags::empty()).expect("an armed timer");
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGWINCH);
    let signal = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK).expect("a signalfd");
    let signal = signal.as_fd().try_clone_to_owned().expect("a descriptor");
    let timer = timer.as_fd().try_clone_to_owned().expect("a descriptor");
    vec![leak(reader), leak(writer), leak(event), leak(epoll.0), leak(timer), leak(signal)]
}

fn memory(dir: &Path) {
    let both = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let len = |pages: usize| NonZeroUsize::new(pages * PAGE).expect("not zero");
    let fill = |at: std::ptr::NonNull<std::ffi::c_void>, pages: usize| {
        // SAFETY: each caller passes a writable mapping of that many pages that nobody else uses.
        unsafe { at.cast::<u8>().write_bytes(0x5a, pages * PAGE) };
        at
    };
    // SAFETY: new mappings at addresses of the kernel's choice, used within their bounds only.
    unsafe {
        let private = MapFlags::MAP_PRIVATE;
        let locked = fill(mmap_anonymous(None, len(4), both, private).expect("memory"), 4);
        mlock(locked, 4 * PAGE).expect("lockable memory");
        let advised = fill(mmap_anonymous(None, len(8), both, private).expect("memory"), 8);
        madvise(advised, 8 * PAGE, MmapAdvise::MADV_DONTDUMP).expect("advice");
        mmap_anonymous(None, len(16), ProtFlags::PROT_NONE, private).expect("address space");
        fill(mmap_anonymous(None, len(8), both, MapFlags::MAP_SHARED).expect("memory"), 8);
        let memory = memfd_create("of-everything", MFdFlags::MFD_ALLOW_SEALING).expect("a memfd");
        nix::unistd::ftruncate(&memory, 5 * PAGE as i64).expect("a size");
        fill(mmap(None, len(5), both, MapFlags::MAP_SHARED, &memory, 0).expect("memory"), 5);
        leak(memory);
        let file = File::options().read(true).write(true).open(dir.join("plain")).expect("a file");
        file.set_len(2 * PAGE as u64).expect("a size");
        mmap(None, len(2), both, MapFlags::MAP_SHARED, &file, 0).expect("memory");
        fill(mmap(None, len(2), both, private, &file, 0).expect("memory"), 1);
    }
}

extern "C" fn handler(_: i32) {}

fn signals() {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::SA_RESTART, mask);
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe {
        sigaction(Signal::SIGUSR1, &action).expect("an action");
        sigaction(Signal::SIGUSR2, &ignore).expect("an action");
    }
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGHUP);
    blocked.add(Signal::SIGWINCH);
    blocked.thread_block().expect("a valid set");
    raise(Signal::SIGHUP).expect("a pending signal");
    let second = libc::timeval { tv_sec: 5000, tv_usec: 0 };
    let value = libc::itimerval { it_interval: second, it_value: second };
    // SAFETY: reads one structure.
    unsafe { libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const value, 0) };
    for (signal, clock) in [(40, libc::CLOCK_MONOTONIC), (41, libc::CLOCK_REALTIME)] {
        // SAFETY: the all-zero value of this plain C structure is valid.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = signal;
        let mut id = std::ptr::null_mut();
        // SAFETY: both structures live across the call.
        unsafe { libc::timer_create(clock, &raw mut event, &raw mut id) };
    }
}

fn limits() {
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_CORE, 1 << 20, 1 << 21).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, 300, 400).expect("a limit");
    // SAFETY: setpriority of the calling thread; it has no others yet.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 3) };
}

/// A zombie, a stopped process, one in a group of its own, and one in a session of its own with
/// other ids.
fn children(ready: OwnedFd) {
    for kind in ["zombie", "stopped", "group", "session"] {
        // SAFETY: no thread has been started yet, so the child may do anything.
        let fork = unsafe { fork() }.expect("a new process");
        let ForkResult::Parent { child } = fork else { child_of_kind(kind, &ready) };
        if kind == "zombie" || kind == "stopped" {
            use nix::sys::wait::{Id, WaitPidFlag, waitid};
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
            waitid(Id::Pid(child), flags).expect("it ends or stops");
        }
        assert!(child > Pid::from_raw(0) && ready.as_raw_fd() > 0);
    }
}

fn child_of_kind(kind: &str, _ready: &OwnedFd) -> ! {
    match kind {
        "zombie" => std::process::exit(3),
        "stopped" => {
            let null = File::options().read(true).write(true).open("/dev/null").expect("it");
            nix::unistd::dup2_stdout(&null).expect("dup2");
            kill(Pid::this(), Signal::SIGSTOP).expect("to stop");
        }
        "group" => setpgid(Pid::from_raw(0), Pid::from_raw(0)).expect("a group"),
        _ => {
            setsid().expect("a session");
            nix::unistd::setgroups(&[5.into(), 77.into()]).expect("groups");
            if has_sys_resource() {
                nix::unistd::setresgid(1000.into(), 1001.into(), 1002.into()).expect("ids");
                nix::unistd::setresuid(1003.into(), 1003.into(), 1003.into()).expect("ids");
            }
        }
    }
    serve()
}

/// Upstream's dump reads the limits of other users' processes, which takes this capability; a root
/// without it can only dump its own.
fn has_sys_resource() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(0);
    bits >> CAP_SYS_RESOURCE & 1 != 0
}
