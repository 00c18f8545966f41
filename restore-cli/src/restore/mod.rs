//! `thaw restore`: images in, a running tree out, and an exit code that says what happened.

mod signals;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Instant;

use gpu_kfd::{GpuId, HostGpuId};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use restore_core::{
    DeviceStep, Event, Host, Outline, Piece, ProcessBytes, RestorePlan, Restored, Stage, TraceEvent,
};

use crate::console::{Console, Wishes};
use crate::log::{Level, chain};
use crate::options::{Restore, wrong_switch};
use crate::progress::Bytes;
use crate::report::{Gpu, Problem, Process, Verb};
use crate::screen::Screen;
use crate::trace::{Trace, TraceWriter, values};
use crate::{FAILED, LEFTOVERS, UNFIT_HOST, USAGE, codes};
use signals::Interrupts;

/// Runs the command and returns its exit code.
///
/// # Errors
/// What is wrong with the command line and is found only now.
pub(crate) fn run(options: &Restore, screen: Screen, start: Instant) -> Result<u8, clap::Error> {
    let chosen = options.options().map_err(wrong_switch)?;
    let Restore { logging, reporting, images_dir, .. } = options;
    let wishes = Wishes { logging, reporting, images_dir };
    let opened = Console::open(Verb::Restore, &wishes, &options.others, screen, start);
    let mut console = match opened {
        Ok(console) => console,
        Err(code) => return Ok(code),
    };
    Ok(match restore(options, chosen, &mut console) {
        Ok(_) if options.detached => 0,
        Ok(root) => wait_for(root),
        Err(problem) => console.fail(problem),
    })
}

fn restore(
    options: &Restore,
    mut chosen: restore_core::Options,
    console: &mut Console,
) -> Result<i32, Box<Problem>> {
    let setup = |text: &str, error: &dyn std::error::Error| {
        Problem::own(codes::SETUP, text, FAILED).because(error)
    };
    let interrupts = Interrupts::hold().map_err(|error| setup("cannot hold signals", &error))?;
    let abort = interrupts.descriptor().map_err(|error| setup("cannot hold signals", &error))?;
    chosen.timeout = options.timeout;
    chosen.abort = Some(abort);
    let plan = plan(options, chosen, console)?;
    console.stage("check");
    let outline = plan.outline().clone();
    outline.assumptions.iter().for_each(|assumption| console.assumed(assumption));
    let mut trace = Tracing::begin(options, &outline)?;
    let pidfile = options.pidfile.as_deref().map(|path| PidFile::create(options, path));
    let pidfile = pidfile.transpose()?;
    let restored = restore_core::restore(plan, &mut |event| {
        trace.note(&event);
        tell(console, &event);
    });
    let come = interrupts.release();
    if let Some(error) = trace.failure.take() {
        // The tree is what counts; a trace that could not be written is told, and missed.
        console.warn(&format!("the trace is not whole: {error}"));
    }
    take_trace(console, &outline, trace.events);
    let tree = restored.map_err(|failure| Problem::restore(&failure))?;
    if let Some(signal) = come.first() {
        console.warn(&format!("{signal} came too late: the tree runs"));
    }
    describe(console, &tree);
    let work_dir = options.logging.dir(&options.images_dir);
    if let Err(error) = restore_core::write_stats(work_dir, &tree.stats()) {
        // The images may be on a file system that cannot be written to.
        console.warn(&format!("no stats-restore in {}: {error}", work_dir.display()));
    }
    if let Some(pidfile) = pidfile {
        pidfile.write(tree.root).map_err(|error| {
            let text = format!("process {} runs, but its pid file failed", tree.root);
            let state = "the tree runs; only the pid file is missing";
            Problem::own(codes::PIDFILE, text, LEFTOVERS).because(&error).with_state(state)
        })?;
    }
    console.log(Level::Info, &format!("process {} and its tree run", tree.root));
    console.conclude();
    Ok(tree.root)
}

/// Reads the images and plans; changes nothing. What stands against it is the error.
pub(crate) fn plan(
    options: &Restore,
    chosen: restore_core::Options,
    console: &mut Console,
) -> Result<RestorePlan, Box<Problem>> {
    let checkpoint = criu_image::Checkpoint::open(&options.images_dir)
        .map_err(|error| Problem::images(&error))?;
    let count = checkpoint.processes.len();
    console.log(Level::Info, &format!("images are whole: {count} process(es)"));
    let host = Host::probe().map_err(|error| {
        Problem::own(codes::PROC, "cannot read what this host can do", UNFIT_HOST).because(&error)
    })?;
    let host = match checkpoint.gpu.is_empty() {
        true => host,
        false => host.with_gpus().map_err(|error| Problem::topology(&error))?,
    };
    let plan = RestorePlan::new(checkpoint, &host, chosen);
    let mut plan = plan.map_err(|error| Problem::plan(&error))?;
    choose_order(options, &mut plan)?;
    Ok(plan)
}

/// Understands `--schedule`, now that the steps are known.
fn choose_order(options: &Restore, plan: &mut RestorePlan) -> Result<(), Box<Problem>> {
    let schedule = options.planning.schedule.schedule(plan.outline());
    let schedule = schedule.map_err(|error| chain(&error));
    let chosen = schedule.and_then(|schedule| {
        plan.set_schedule(schedule).map_err(|error| format!("--schedule: {}", chain(&error)))
    });
    chosen.map_err(|text| Problem::own(codes::ORDER, text, USAGE))
}

/// The trace of a restore, if one is wanted.
struct Tracing {
    writer: Option<TraceWriter>,
    failure: Option<std::io::Error>,
    /// Kept for a report.
    events: Option<Vec<TraceEvent>>,
}

impl Tracing {
    fn begin(options: &Restore, outline: &Outline) -> Result<Self, Box<Problem>> {
        let create = |path: &PathBuf| {
            TraceWriter::create(path, outline).map_err(|error| {
                let text = format!("cannot write the trace {}", path.display());
                Problem::own(codes::TRACE, text, FAILED).because(&error)
            })
        };
        let writer = options.trace.as_ref().map(create).transpose()?;
        let is_reported = options.reporting.json || !options.reporting.report.is_empty();
        Ok(Self { writer, failure: None, events: is_reported.then(Vec::new) })
    }

    fn note(&mut self, event: &Event) {
        let Event::Step(event) = event else { return };
        if let Some(writer) = &mut self.writer
            && let Err(error) = writer.event(event)
        {
            self.writer = None;
            self.failure = Some(error);
        }
        if let Some(events) = &mut self.events {
            events.push(event.clone());
        }
    }
}

fn take_trace(console: &mut Console, outline: &Outline, events: Option<Vec<TraceEvent>>) {
    let of = |gpu: &(GpuId, HostGpuId)| gpu_of(outline, events.as_deref().unwrap_or(&[]), *gpu);
    console.report.gpus = outline.gpus.iter().map(of).collect();
    if let Some(events) = events {
        let lines = values(outline, &events);
        console.report.take_trace(lines, Trace::of(outline.clone(), events));
    }
}

fn tell(console: &mut Console, event: &Event) {
    let bytes = |of: &ProcessBytes| Bytes { memory: of.memory_bytes, gpu: of.gpu_bytes };
    match event {
        Event::Prepared { workers, objects, to_fill } => {
            let text = format!("{workers} worker(s), {objects} open object(s)");
            console.log(Level::Info, &text);
            to_fill.iter().for_each(|of| console.progress.expect(of.pid, bytes(of)));
            console.stage(Stage::Prepare.name());
            console.progress.begins(Stage::Create.name());
        }
        Event::Filled(of) => console.progress.done(of.pid, bytes(of)),
        Event::Step(event) => {
            let time = (event.end_ns - event.begin_ns) / 1000;
            let (pid, stage) = (event.pid, event.stage.name());
            console.log(Level::Debug, &format!("pid {pid}: {stage} took {time} us"));
        }
        Event::Reached(stage) => {
            console.stage(stage.name());
            let place = Stage::ALL.iter().position(|other| other == stage);
            if let Some(next) = place.and_then(|place| Stage::ALL.get(place + 1)) {
                console.progress.begins(next.name());
            }
        }
    }
}

/// What is said of a tree that runs.
fn describe(console: &mut Console, tree: &Restored) {
    let report = &mut console.report;
    report.root = Some(tree.root);
    report.processes = Process::all(&tree.processes, console.progress.expected());
    report.memory_bytes = tree.memory_bytes;
    report.shared_bytes = tree.shared_bytes;
    report.gpu_bytes = tree.gpu_bytes;
}

/// A GPU, who has it open, and what was copied to it.
fn gpu_of(outline: &Outline, events: &[TraceEvent], gpu: (GpuId, HostGpuId)) -> Gpu {
    let steps: Vec<&DeviceStep> =
        outline.steps.iter().filter(|step| step.gpu == Some(gpu)).collect();
    let processes: BTreeSet<i32> = steps.iter().map(|step| step.pid).collect();
    // Which GPU has a minor is told by the paths of render nodes.
    let is_here = |piece: &Piece| {
        let path = format!("/dev/dri/renderD{}", piece.minor);
        steps.iter().any(|step| step.path == path)
    };
    let pieces = events.iter().filter_map(|event| event.piece);
    Gpu {
        saved: gpu.0.0,
        here: gpu.1.0,
        processes: processes.len(),
        content_bytes: pieces.filter(is_here).map(|piece| piece.bytes).sum(),
    }
}

/// The pid file: made before the restore, so that it cannot fail after it, and gone if that fails.
struct PidFile {
    path: PathBuf,
    file: Option<File>,
}

impl PidFile {
    fn create(options: &Restore, path: &Path) -> Result<Self, Box<Problem>> {
        // Relative to the working directory of the command, as criu's is to `--work-dir`.
        let path = match options.logging.chosen_dir() {
            Some(dir) if path.is_relative() => dir.join(path),
            _ => path.to_owned(),
        };
        let file = File::options().write(true).create_new(true).open(&path).map_err(|error| {
            let text = format!("cannot create the pid file {}", path.display());
            Problem::own(codes::PIDFILE, text, FAILED).because(&error)
        })?;
        Ok(Self { path, file: Some(file) })
    }

    fn write(mut self, pid: i32) -> std::io::Result<()> {
        match self.file.take() {
            Some(mut file) => write!(file, "{pid}"),
            None => Ok(()),
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = std::fs::remove_file(&self.path); // nothing was written to it
        }
    }
}

/// Waits for the root and passes on how it ended.
fn wait_for(root: i32) -> u8 {
    loop {
        match waitpid(Pid::from_raw(root), Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Exited(_, code)) => return code as u8,
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                let status = ExitStatus::from_raw(signal as i32);
                return 128 + status.signal().unwrap_or(0) as u8;
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(_) => return FAILED,
        }
    }
}
