//! A program whose processes are blocked in one call each, to be checkpointed while they are.
//!
//! `blocked STATUS SECONDS` makes a child for each call that can wait for a time. Each waits
//! so long and appends `call result errno` to the file STATUS; `ok` means that the call ended
//! because the time was over. The parent waits in `wait4` for all of them, says `wait4`, and ends.

use std::fs::File;
use std::io::Write;

use nix::unistd::{ForkResult, fork, setsid};

/// A call that waits, given the seconds; its value is what the kernel returned.
type Call = fn(i64) -> i64;

const CALLS: [(&str, Call); 11] = [
    ("poll", poll),
    ("ppoll", ppoll),
    ("select", select),
    ("nanosleep", nanosleep),
    ("nanosleep-without-rest", nanosleep_without_rest),
    ("clock_nanosleep-absolute", clock_nanosleep_absolute),
    ("futex", futex),
    ("futex-absolute", futex_absolute),
    ("epoll_wait", epoll_wait),
    ("epoll_pwait2", epoll_pwait2),
    ("rt_sigtimedwait", sigtimedwait),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    for fd in 3..256 {
        let _ = nix::unistd::close(fd);
    }
    let status = File::options().append(true).create(true).open(&args[0]).expect("a status file");
    let seconds: i64 = args[1].parse().expect("a number");
    let _ = setsid();
    let null = File::options().read(true).write(true).open("/dev/null").expect("/dev/null");
    nix::unistd::dup2_stdin(&null).expect("dup2");
    nix::unistd::dup2_stderr(&null).expect("dup2");
    for (name, call) in CALLS {
        // SAFETY: no thread has been started, so the child may do anything.
        if let ForkResult::Child = unsafe { fork() }.expect("a new process") {
            nix::unistd::dup2_stdout(&null).expect("dup2");
            let result = call(seconds);
            let errno = if result < 0 { nix::errno::Errno::last_raw() } else { 0 };
            // The calls that end by failing say so, the others return nothing.
            let over = match name {
                "futex" | "futex-absolute" => errno == libc::ETIMEDOUT,
                "rt_sigtimedwait" => errno == libc::EAGAIN,
                _ => result == 0,
            };
            report(&status, &format!("{name} {} {errno}", if over { "ok" } else { "bad" }));
            std::process::exit(0);
        }
    }
    nix::unistd::dup2_stdout(&null).expect("dup2");
    for _ in CALLS {
        let mut code = 0;
        // SAFETY: wait4 writes one integer.
        let ret = unsafe { libc::wait4(-1, &raw mut code, 0, std::ptr::null_mut()) };
        if ret < 0 {
            report(&status, &format!("wait4 bad {}", nix::errno::Errno::last_raw()));
            std::process::exit(1);
        }
    }
    report(&status, "wait4 ok 0");
}

fn report(mut status: &File, line: &str) {
    status.write_all(format!("{line}\n").as_bytes()).expect("the status file takes a line");
}

fn time(seconds: i64) -> libc::timespec {
    libc::timespec { tv_sec: seconds, tv_nsec: 0 }
}

fn in_future(seconds: i64) -> libc::timespec {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
    libc::timespec { tv_sec: now.tv_sec() + seconds, tv_nsec: now.tv_nsec() }
}

/// The system call itself, without what a C library makes of it.
fn raw(nr: i64, args: [u64; 6]) -> i64 {
    let [a, b, c, d, e, f] = args;
    // SAFETY: each caller passes valid arguments of the call, which outlive it.
    unsafe { libc::syscall(nr, a, b, c, d, e, f) }
}

fn poll(seconds: i64) -> i64 {
    raw(libc::SYS_poll, [0, 0, seconds as u64 * 1000, 0, 0, 0])
}

fn ppoll(seconds: i64) -> i64 {
    let time = time(seconds);
    raw(libc::SYS_ppoll, [0, 0, &raw const time as u64, 0, 8, 0])
}

fn select(seconds: i64) -> i64 {
    let time = libc::timeval { tv_sec: seconds, tv_usec: 0 };
    raw(libc::SYS_select, [0, 0, 0, 0, &raw const time as u64, 0])
}

fn nanosleep(seconds: i64) -> i64 {
    let (time, rest) = (time(seconds), time(0));
    raw(libc::SYS_nanosleep, [&raw const time as u64, &raw const rest as u64, 0, 0, 0, 0])
}

fn nanosleep_without_rest(seconds: i64) -> i64 {
    let time = time(seconds);
    raw(libc::SYS_nanosleep, [&raw const time as u64, 0, 0, 0, 0, 0])
}

fn clock_nanosleep_absolute(seconds: i64) -> i64 {
    let (time, flag) = (in_future(seconds), libc::TIMER_ABSTIME as u64);
    let clock = libc::CLOCK_MONOTONIC as u64;
    raw(libc::SYS_clock_nanosleep, [clock, flag, &raw const time as u64, 0, 0, 0])
}

fn futex(seconds: i64) -> i64 {
    let (word, time) = (0u32, time(seconds));
    let wait = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as u64;
    raw(libc::SYS_futex, [&raw const word as u64, wait, 0, &raw const time as u64, 0, 0])
}

fn futex_absolute(seconds: i64) -> i64 {
    let (word, time) = (0u32, in_future(seconds));
    let wait = (libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG) as u64;
    let all = u64::from(u32::MAX);
    raw(libc::SYS_futex, [&raw const word as u64, wait, 0, &raw const time as u64, 0, all])
}

fn epoll() -> u64 {
    raw(libc::SYS_epoll_create1, [0; 6]) as u64
}

fn epoll_wait(seconds: i64) -> i64 {
    let mut events = [0u8; 12];
    let (epoll, room) = (epoll(), events.as_mut_ptr() as u64);
    raw(libc::SYS_epoll_wait, [epoll, room, 1, seconds as u64 * 1000, 0, 0])
}

fn epoll_pwait2(seconds: i64) -> i64 {
    let (mut events, time) = ([0u8; 12], time(seconds));
    let (epoll, room) = (epoll(), events.as_mut_ptr() as u64);
    raw(libc::SYS_epoll_pwait2, [epoll, room, 1, &raw const time as u64, 0, 8])
}

fn sigtimedwait(seconds: i64) -> i64 {
    let (set, time) = (1u64 << (libc::SIGUSR2 - 1), time(seconds));
    raw(libc::SYS_rt_sigtimedwait, [&raw const set as u64, 0, &raw const time as u64, 8, 0, 0])
}
