//! A program to be checkpointed: its processes, threads and memory can tell if they are intact.
//!
//! `workload STATUS PROCESSES MIB THREADS` makes a tree of that many processes, each with that much
//! memory filled with a pattern of its own and that many counting threads beside the first (the
//! root of several has one more).
//! `workload STATUS vmas COUNT` makes one process with that many mappings.
//! `workload STATUS socket` makes one process with a pair of unix sockets.
//! When a process is ready it closes standard output, so a reader of it sees the end when all
//! are. On SIGUSR1 a process appends `pid counter intact|damaged` to the file STATUS.

use std::fs::File;
use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{ForkResult, fork, setsid};

static COUNTER: AtomicU64 = AtomicU64::new(0);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| args[index].parse::<usize>().expect("a number");
    for fd in 3..256 {
        // What a careless caller has left open is none of this program's files.
        let _ = nix::unistd::close(fd);
    }
    let status = File::options().append(true).create(true).open(&args[0]).expect("a status file");
    // A session of its own without a terminal, as a daemon has.
    let _ = setsid();
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGUSR1);
    signals.thread_block().expect("a valid set");
    if args[1] == "vmas" {
        let _mappings = many_mappings(number(2));
        serve(&status, &signals, &[], 0);
    }
    if args[1] == "socket" {
        let _pair = std::os::unix::net::UnixStream::pair().expect("sockets");
        serve(&status, &signals, &[], 0);
    }
    let (processes, mib, threads) = (number(1), number(2), number(3));
    let mut threads = threads;
    let mut is_root = true;
    for _ in 1..processes {
        // SAFETY: no thread has been started yet, so the child may do anything.
        match unsafe { fork() }.expect("a new process") {
            ForkResult::Child => {
                is_root = false;
                break;
            }
            ForkResult::Parent { .. } => {}
        }
    }
    if is_root && processes > 1 {
        threads += 1; // so that not all processes are alike
    }
    let seed = u64::from(std::process::id());
    let memory: Vec<u64> = (0..mib << 17).map(|index| pattern(seed, index)).collect();
    // A new thread first maps memory of its own: ready is who has only threads that count.
    let begun = Arc::new(Barrier::new(threads + 1));
    for _ in 0..threads {
        let begun = Arc::clone(&begun);
        std::thread::spawn(move || {
            begun.wait();
            loop {
                COUNTER.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
    }
    begun.wait();
    serve(&status, &signals, &memory, seed);
}

fn pattern(seed: u64, index: usize) -> u64 {
    (index as u64 ^ seed << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Neighbours differ in protection, so none can be merged.
fn many_mappings(count: usize) -> Vec<std::ptr::NonNull<std::ffi::c_void>> {
    const PAGE: usize = 4096;
    let length = NonZeroUsize::new(count * PAGE).expect("at least one mapping");
    let both = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new private mapping, used through the raw pointer within its bounds only.
    let base = unsafe { mmap_anonymous(None, length, both, MapFlags::MAP_PRIVATE) };
    let base = base.expect("memory").cast::<u8>();
    (0..count)
        .map(|index| {
            // SAFETY: page `index` lies within the mapping made above.
            let page = unsafe { base.byte_add(index * PAGE) };
            // SAFETY: the page is mapped writable and belongs to nobody else.
            unsafe { page.write(index as u8) };
            if index % 2 == 1 {
                // SAFETY: the page stays readable, and nothing writes to it again.
                unsafe { mprotect(page.cast(), PAGE, ProtFlags::PROT_READ) }.expect("mprotect");
            }
            page.cast()
        })
        .collect()
}

fn serve(status: &File, signals: &SigSet, memory: &[u64], seed: u64) -> ! {
    let null = File::options().read(true).write(true).open("/dev/null").expect("/dev/null");
    nix::unistd::dup2_stdin(&null).expect("dup2");
    nix::unistd::dup2_stderr(&null).expect("dup2");
    nix::unistd::dup2_stdout(&null).expect("dup2");
    loop {
        // glibc goes on waiting when a checkpoint interrupts it.
        signals.wait().expect("a signal");
        let intact = memory.iter().enumerate().all(|(index, &word)| word == pattern(seed, index));
        let line = format!(
            "{} {} {}\n",
            std::process::id(),
            COUNTER.load(Ordering::Relaxed),
            if intact { "intact" } else { "damaged" }
        );
        let mut status = status;
        status.write_all(line.as_bytes()).expect("the status file takes a line");
    }
}
