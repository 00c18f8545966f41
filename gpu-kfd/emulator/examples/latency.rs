//! How long a call on a device file of a node takes, with a device that answers at once.
//!
//! Callers are processes. It prints percentiles in microseconds for 1, 2 and 4 of them; the time
//! includes finding out who calls. Needs root.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use kfd_emulator::{
    BufferId, Caller, Device, DeviceNode, FileId, Finished, Node, NodeFiles, Outcome, Progress,
    SpaceId, Ticket, World,
};
use nix::errno::Errno;

const CALLS: usize = 20_000;
/// Calls before those that count.
const WARM_UP: usize = 200;

mod call {
    nix::ioctl_readwrite!(echo, b'T', 1, [u64; 2]);
}

/// Answers every call with what it was given.
struct Echo;

impl Device for Echo {
    fn open(&mut self, _: &mut dyn World, _: &Caller, _: DeviceNode) -> Result<FileId, Errno> {
        Ok(FileId(1))
    }
    fn release(&mut self, _: &mut dyn World, _: FileId) {}
    fn space_ended(&mut self, _: &mut dyn World, _: SpaceId) {}
    fn ioctl(&mut self, _: &mut dyn World, _: &Caller, _: FileId, _: u32, _: &mut [u8]) -> Outcome {
        Outcome::Done(Ok(0))
    }
    fn take_finished(&mut self) -> Vec<Finished> {
        Vec::new()
    }
    fn interrupt(&mut self, _: &mut dyn World, _: Ticket) {}
    fn expire(&mut self, _: u64) {}
    fn next_deadline_ns(&self) -> Option<u64> {
        None
    }
    fn run_queues(&mut self, _: &mut dyn World, _: u64) -> Progress {
        Progress::default()
    }
    fn has_queues(&self) -> bool {
        false
    }
    fn dma_buf_bytes(&self, _: BufferId) -> Option<u64> {
        None
    }
    fn abandon_calls(&mut self) {}
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("caller") {
        return caller();
    }
    let files = NodeFiles { render_minors: vec![128], ..NodeFiles::default() };
    let node = match Node::start(files, Box::new(Echo)) {
        Ok(node) => node,
        Err(error) => return eprintln!("no node: {error}"),
    };
    println!("callers   p10   p50   p90   p99  mean  (µs a call)");
    for callers in [1, 2, 4] {
        let mut all = node.enter(|| measure(callers)).expect("a thread");
        all.sort_by(f64::total_cmp);
        let at = |percent: usize| all[all.len() * percent / 100];
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        println!(
            "{callers:7} {:5.1} {:5.1} {:5.1} {:5.1} {mean:5.1}",
            at(10),
            at(50),
            at(90),
            at(99)
        );
    }
}

/// Lets callers run at the same time; all their times.
fn measure(callers: usize) -> Vec<f64> {
    let own = std::env::current_exe().expect("it has a path");
    let mut children: Vec<Child> = (0..callers)
        .map(|_| {
            let mut command = Command::new(&own);
            command.arg("caller").stdin(Stdio::piped()).stdout(Stdio::piped());
            command.spawn().expect("it starts")
        })
        .collect();
    for child in &mut children {
        let begun = child.stdin.as_mut().expect("it is piped").write_all(b"\n");
        begun.expect("the caller waits for it");
    }
    let mut all = Vec::new();
    for mut child in children {
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        all.extend(lines.map(|line| line.expect("text").parse::<f64>().expect("a number")));
        assert!(child.wait().expect("it ends").success());
    }
    all
}

/// One caller: waits for a line, calls, prints the times.
fn caller() {
    let file = File::options().read(true).write(true).open("/dev/kfd").expect("the device file");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).expect("the sign to begin");
    let mut block = [1, 2];
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..WARM_UP + CALLS {
        let begin = Instant::now();
        // SAFETY: the request number says 16 bytes, which is what `block` is.
        unsafe { call::echo(file.as_raw_fd(), &raw mut block) }.expect("the node answers");
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    let text: Vec<String> = times[WARM_UP..].iter().map(|time| format!("{time:.2}\n")).collect();
    std::io::stdout().write_all(text.concat().as_bytes()).expect("the parent reads it");
}
