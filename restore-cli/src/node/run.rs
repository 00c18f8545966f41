//! `thaw node run`: a command inside a node, and its status.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use kfd_emulator::{CallLog, CallLogWriter, Faults, Node, NodeFiles, Preload, RunOptions};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use super::options::{Machine, Run};
use crate::FAILED;

/// Signals that end a command, or that it may treat in its own way.
const PASSED_ON: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];
/// The command of `thaw node run` cannot be started (as shells say it).
const NOT_STARTED: u8 = 127;

/// Runs the command and returns the exit code.
pub(super) fn run(options: &Run, machine: Machine) -> u8 {
    // Threads of the node inherit this: a signal is then for whoever asks for it.
    let passed: SigSet = PASSED_ON.into_iter().collect();
    if let Err(errno) = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&passed), None) {
        return failed(&format!("signals cannot be blocked: {errno}"));
    }
    let (log, writer) = match options.log.as_deref().map(start_log).transpose() {
        Ok(log) => log.unzip(),
        Err(text) => return failed(&text),
    };
    let (files, model) = (NodeFiles::of(&machine.topology), machine.topology.model());
    let faults = Faults::new(options.faults.clone(), machine.seed);
    let code = match Node::start_watched(files, Box::new(model), faults, log) {
        Ok(node) => run_inside(&node, options),
        Err(error) => failed(&crate::log::chain(&error)),
    };
    // The node has ended: nobody adds to the log any more.
    match writer.map(CallLogWriter::finish) {
        Some(Err(error)) => failed(&format!("the log is not complete: {error}")),
        Some(Ok(_)) | None => code,
    }
}

fn start_log(path: &Path) -> Result<(CallLog, CallLogWriter), String> {
    let log = File::create(path).and_then(CallLog::start);
    log.map_err(|error| format!("cannot write the log {}: {error}", path.display()))
}

fn run_inside(node: &Node, options: &Run) -> u8 {
    let preload = if options.preload() { Preload::Yes } else { Preload::No };
    let mut command = node.command(&options.command[0], preload);
    command.args(&options.command[1..]);
    let code = match node.run(command, &RunOptions { pass_on: PASSED_ON.to_vec() }) {
        Ok(status) => code_of(status),
        Err(error) => {
            eprintln!("thaw: {}: {error}", options.command[0].display());
            return NOT_STARTED;
        }
    };
    match node.failure() {
        None => code,
        Some(failure) => failed(&format!("the node ended by itself: {failure}")),
    }
}

fn failed(text: &str) -> u8 {
    eprintln!("thaw: {text}");
    FAILED
}

/// As shells have it: 128 and the signal for a command that was killed.
fn code_of(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, signal) => 128 + signal.unwrap_or(0) as u8,
    }
}
