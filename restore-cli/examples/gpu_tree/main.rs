//! A tree of processes that use GPUs, to be checkpointed: each can tell whether all it has is as
//! it was. It uses the drivers alone, through gpu-kfd; the same on hardware and on a node.
//!
//!     gpu_tree STATUS PROCESS [PROCESS ...]
//!
//! Each PROCESS is one argument, a text of words that are carried out in turn. Process 0 is the
//! root. GPUs count in the order of the topology; render files and buffers count in each process,
//! and a child has the render files that its parent had when it was forked.
//!
//!     fork:P           begin process P (each but the root once, by one with a lower number)
//!     kfd              open /dev/kfd; again for a second open file
//!     render:G         open the render node of GPU G
//!     vm:F             make render file F the KFD's for its GPU; else the first own one becomes it
//!     vram:G:SIZE      buffer of the KFD in memory of GPU G; gtt: in system memory, userptr: in
//!                      memory of the process
//!     gem:F:SIZE       buffer of render file F in memory of its GPU; sysgem: in system memory,
//!                      usergem: in memory of the process
//!     hole:F           take a handle of render file F, to be given back when all is set up
//!     export:B:NAME    pass buffer B to whoever imports or takes NAME, in any process
//!     import:F:NAME    buffer of render file F that is what was passed
//!     kfdimport:G:NAME buffer of the KFD on GPU G that is what was passed
//!     forget:B         give buffer B back to the driver, and keep its mapping
//!     keep:B           keep a dma-buf of buffer B open
//!     take:NAME        keep what was passed open as a dma-buf
//!     queue:G[:SIZE]   queue of the copy engine of GPU G that moves so much in each round
//!     null             open /dev/null
//!     at:N             what is opened next gets descriptor N
//!
//! SIZE is whole pages, with K, M or G. Buffers are mapped in their process and on their GPU at the
//! same address; `+nocpu` and `+nova` leave one out, `+apart` makes the addresses differ.
//!
//! Standard output ends when all processes are ready. Rounds of all queues go on all the time. On
//! SIGUSR1 a process appends a line of JSON to the file STATUS, on SIGTERM it ends.
//!
//! - `process`, `pid`, `answers`: which one answers, and how often it has
//! - `rounds`: rounds that all of its queues have finished and that were checked
//! - `wrong`: texts, one for each thing that is not as it was; empty if all is well
//! - `contents`: number that all contents have together, the same in each tree of this text
//! - `shared`: for each NAME how often each process had answered that has it mapped
//! - `descriptors`: what `/proc/self/fd` shows, by number

mod family;
mod layout;
mod memory;
mod process;
mod queue;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use family::Passing;
use layout::{Layout, Word};
use memory::Mapping;
use nix::sys::signal::{SigSet, Signal};
use process::{Buffer, HEADER_WORDS, Owner, Process};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Number of the status file, out of the way of those that a layout chooses.
const STATUS_FD: i32 = 800;
/// Pause between rounds: a machine may have many such processes.
const PAUSE: Duration = Duration::from_millis(1);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gpu_tree: process {}: {error}", std::process::id());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [status, texts @ ..] = args.as_slice() else {
        return Err("usage: gpu_tree STATUS PROCESS [PROCESS ...]".into());
    };
    for fd in 3..256 {
        // What a careless caller has left open is none of this program's files.
        let _ = nix::unistd::close(fd);
    }
    let layout = Layout::parse(texts)?;
    let file = File::options().append(true).create(true).open(status)?;
    let status = File::from(family::put(file.into(), STATUS_FD)?);
    let _ = nix::unistd::setsid();
    signals().thread_block()?;
    let passing = Passing::of(&layout)?;
    let mut process = Process::new()?;
    set_up(&layout, &mut process, &passing)?;
    drop(passing);
    let null = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    drop(null);
    serve(&mut process, &status, layout.processes.len())
}

fn signals() -> SigSet {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGUSR1);
    signals.add(Signal::SIGTERM);
    signals
}

/// Carries out the words of a process; where it forks, the child goes on with its own.
fn set_up(layout: &Layout, process: &mut Process, passing: &Passing) -> Result<()> {
    let mut words = layout.processes[process.number].iter();
    while let Some(word) = words.next() {
        match word {
            Word::Fork { process: child } => {
                if family::begin()? {
                    process.become_child(*child);
                    words = layout.processes[*child].iter();
                }
            }
            word => {
                let done = process.carry_out(word, passing);
                done.map_err(|error| format!("{word:?}: {error}"))?;
            }
        }
    }
    process.close_holes()
}

/// Works until it is told to end.
fn serve(process: &mut Process, status: &File, processes: usize) -> Result<()> {
    let set = signals();
    let (mut rounds, mut answers) = (0, 0);
    let mut broken: Option<String> = None;
    loop {
        if broken.is_none() {
            match process.round(rounds + 1) {
                Ok(()) => rounds += 1,
                Err(text) => broken = Some(text),
            }
        }
        match wait(&set, PAUSE) {
            Some(Signal::SIGUSR1) => {
                answers += 1;
                let mut wrong: Vec<String> = broken.iter().cloned().collect();
                let line = answer(process, (rounds, answers), processes, &mut wrong);
                let mut status = status;
                status.write_all(format!("{line}\n").as_bytes())?;
            }
            Some(_) => return Ok(()),
            None => {}
        }
    }
}

/// A signal of the set that came, if one comes in time.
fn wait(set: &SigSet, pause: Duration) -> Option<Signal> {
    let time = nix::sys::time::TimeSpec::from(pause);
    family::wait_for_signal(set, &time)
}

fn answer(
    process: &mut Process,
    (rounds, answers): (u64, u64),
    processes: usize,
    wrong: &mut Vec<String>,
) -> serde_json::Value {
    let mut contents = 0_u64;
    let mut shared: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for at in 0..process.buffers.len() {
        if let Err(text) = look(process, at, &mut contents) {
            wrong.push(format!("buffer {at}: {text}"));
        }
        let (number, buffer) = (process.number, &process.buffers[at]);
        if let (Some(name), Some(cpu)) = (&buffer.name, &buffer.cpu) {
            cpu.store(8 * number as u64, answers);
            let counts = (0..processes.min(HEADER_WORDS)).map(|one| cpu.load(8 * one as u64));
            shared.insert(name.clone(), counts.collect());
        }
    }
    if let Err(text) = process.make_and_free() {
        wrong.push(text.to_string());
    }
    serde_json::json!({
        "process": process.number,
        "pid": std::process::id(),
        "answers": answers,
        "rounds": if process.queues.is_empty() { 0 } else { rounds },
        "wrong": wrong,
        "contents": format!("{contents:016x}"),
        "shared": shared,
        "descriptors": descriptors(),
    })
}

/// Looks at a buffer in every way in which it can be seen.
fn look(process: &mut Process, at: usize, contents: &mut u64) -> std::result::Result<(), String> {
    let mut views: Vec<(&str, u64)> = Vec::new();
    if let Some(read) = process.read_by_engine(at) {
        views.push(("the GPU", read?));
    }
    let buffer = &process.buffers[at];
    if let Some(cpu) = &buffer.cpu {
        views.push(("the process", buffer.wrong_words(cpu)));
        *contents = buffer.sum(cpu, *contents);
    }
    if let Some(fresh) = fresh_mapping(process, at)? {
        let buffer = &process.buffers[at];
        views.push(("a new mapping", buffer.wrong_words(&fresh)));
        if buffer.cpu.is_none() {
            *contents = buffer.sum(&fresh, *contents);
        }
    }
    match views.iter().find(|(_, wrong)| *wrong > 0) {
        Some((view, wrong)) => Err(format!("{view} sees {wrong} wrong words")),
        None => Ok(()),
    }
}

/// The buffer of a render file by its handle, as it is now.
fn fresh_mapping(process: &mut Process, at: usize) -> std::result::Result<Option<Mapping>, String> {
    let Buffer { owner, gpu, size_bytes, is_user, .. } = process.buffers[at];
    let Owner::Gem { file, handle } = owner else { return Ok(None) };
    let file = &mut process.renders[file];
    // What another GPU's file has imported cannot be mapped through it.
    if is_user || file.gpu != gpu || process.buffers[at].is_foreign {
        return Ok(None);
    }
    let offset = file.node.gem_mmap(handle).map_err(|error| error.to_string())?;
    let mapping = Mapping::of_device(file.node.as_fd(), offset, size_bytes, None);
    mapping.map(Some).map_err(|errno| format!("a new mapping: {errno}"))
}

fn descriptors() -> BTreeMap<i32, String> {
    let Ok(folder) = std::fs::read_dir("/proc/self/fd") else { return BTreeMap::new() };
    let entry = |entry: std::fs::DirEntry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let link = std::fs::read_link(entry.path()).ok()?;
        // The folder itself is not there afterwards.
        let is_folder = link.ends_with("fd") && link.starts_with("/proc");
        (!is_folder).then(|| (number, link.to_string_lossy().into_owned()))
    };
    folder.flatten().filter_map(entry).collect()
}
