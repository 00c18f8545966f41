//! `thaw restore`: images in, a running tree out, and an exit code that says what happened.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Instant;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use restore_core::{Event, Host, Outline, PlanError, Refusal, RestorePlan};

use crate::log::{self, Level, Log, Teller, chain};
use crate::options::{Restore, wrong};
use crate::trace::TraceWriter;
use crate::{BAD_IMAGES, FAILED, LEFTOVERS, UNFIT_HOST, USAGE};

/// Runs the command and returns its exit code.
///
/// # Errors
/// What is wrong with the command line and is found only now.
pub(crate) fn run(options: &Restore, start: Instant) -> Result<u8, clap::Error> {
    let mut chosen = options.planning.options().map_err(wrong)?;
    chosen.timeout = options.timeout;
    let begun = log::begin(&options.logging, &options.images_dir, start, &options.others);
    let (mut log, to_stderr) = match begun {
        Ok(begun) => begun,
        Err(code) => return Ok(code),
    };
    let mut tell = Teller { log: &mut log, to_stderr };
    Ok(match restore(options, chosen, &mut tell) {
        Ok(_) if options.detached => 0,
        Ok(root) => wait_for(root),
        Err(code) => code,
    })
}

fn restore(
    options: &Restore,
    chosen: restore_core::Options,
    tell: &mut Teller<'_>,
) -> Result<i32, u8> {
    let plan = plan(options, chosen, tell)?;
    let mut trace = begin_trace(options, plan.outline(), tell)?;
    let pidfile = match &options.pidfile {
        None => None,
        Some(path) => Some(PidFile::create(options, path).map_err(|error| {
            tell.error(&format!("cannot create the pid file {}: {error}", path.display()));
            FAILED
        })?),
    };
    let log = &mut *tell.log;
    let restored = restore_core::restore(plan, &mut |event| {
        trace.note(&event);
        log_event(log, &event);
    });
    if let Some(error) = trace.failure {
        // The tree is what counts; a trace that could not be written is told, and missed.
        tell.error(&format!("the trace is not whole: {error}"));
    }
    let tree = restored.map_err(|failure| {
        tell.error(&chain(&failure.error));
        if failure.left.is_empty() {
            tell.log.line(Level::Info, "everything was undone");
            return match failure.error {
                restore_core::RestoreError::Vdso { .. } => UNFIT_HOST,
                _ => FAILED,
            };
        }
        tell.error(&format!("processes that could not be ended: {:?}", failure.left));
        LEFTOVERS
    })?;
    let work_dir = options.logging.chosen_dir().unwrap_or(&options.images_dir);
    if let Err(error) = restore_core::write_stats(work_dir, &tree.stats()) {
        // The images may be on a file system that cannot be written to.
        let text = format!("no stats-restore in {}: {error}", work_dir.display());
        tell.log.line(Level::Warning, &text);
    }
    if let Some(pidfile) = pidfile {
        pidfile.write(tree.root).map_err(|error| {
            // The tree runs: that is what the caller must know first.
            tell.error(&format!("process {} runs, but the pid file failed: {error}", tree.root));
            LEFTOVERS
        })?;
    }
    tell.log.line(Level::Info, &format!("process {} and its tree run", tree.root));
    Ok(tree.root)
}

/// Understands `--schedule`, now that the steps are known.
fn choose_order(
    options: &Restore,
    plan: &mut RestorePlan,
    tell: &mut Teller<'_>,
) -> Result<(), u8> {
    let schedule =
        options.planning.schedule.schedule(plan.outline()).map_err(|error| chain(&error));
    let chosen = schedule.and_then(|schedule| {
        plan.set_schedule(schedule).map_err(|error| format!("--schedule: {}", chain(&error)))
    });
    chosen.map_err(|text| {
        tell.error(&text);
        USAGE
    })
}

/// The trace of a restore, if one is wanted.
struct Tracing {
    writer: Option<TraceWriter>,
    failure: Option<std::io::Error>,
}

fn begin_trace(options: &Restore, outline: &Outline, tell: &mut Teller<'_>) -> Result<Tracing, u8> {
    let Some(path) = &options.trace else { return Ok(Tracing { writer: None, failure: None }) };
    match TraceWriter::create(path, outline) {
        Ok(writer) => Ok(Tracing { writer: Some(writer), failure: None }),
        Err(error) => {
            tell.error(&format!("cannot write the trace {}: {error}", path.display()));
            Err(FAILED)
        }
    }
}

impl Tracing {
    fn note(&mut self, event: &Event) {
        if let (Event::Step(event), Some(writer)) = (event, &mut self.writer)
            && let Err(error) = writer.event(event)
        {
            self.writer = None;
            self.failure = Some(error);
        }
    }
}

/// Reads the images and plans; changes nothing. What stands against it has been told, and the exit
/// code is returned.
pub(crate) fn plan(
    options: &Restore,
    chosen: restore_core::Options,
    tell: &mut Teller<'_>,
) -> Result<RestorePlan, u8> {
    let checkpoint = criu_image::Checkpoint::open(&options.images_dir).map_err(|error| {
        tell.error(&chain(&error));
        BAD_IMAGES
    })?;
    let count = checkpoint.processes.len();
    tell.log.line(Level::Info, &format!("images are whole: {count} process(es)"));
    let host = Host::probe().map_err(|error| {
        tell.error(&format!("cannot read /proc: {error}"));
        UNFIT_HOST
    })?;
    let host = match checkpoint.gpu.is_empty() {
        true => host,
        false => host.with_gpus().map_err(|error| {
            tell.error(&chain(&error));
            UNFIT_HOST
        })?,
    };
    let mut plan = RestorePlan::new(checkpoint, &host, chosen).map_err(|error| {
        tell.error(&chain(&error));
        if let PlanError::Refused(list) = error {
            list_refusals(&list, tell);
        }
        UNFIT_HOST
    })?;
    choose_order(options, &mut plan, tell)?;
    for assumption in &plan.outline().assumptions {
        tell.log.line(Level::Warning, &format!("assumed: {assumption}"));
    }
    Ok(plan)
}

fn list_refusals(list: &[Refusal], tell: &mut Teller<'_>) {
    for refusal in list {
        tell.error(&format!("not supported: {refusal}"));
    }
}

fn log_event(log: &mut Log, event: &Event) {
    match event {
        Event::Prepared { workers, objects, .. } => {
            let text = format!("{workers} worker(s), {objects} open object(s)");
            log.line(Level::Info, &text);
        }
        Event::Step(event) => {
            let time = (event.end_ns - event.begin_ns) / 1000;
            let (pid, stage) = (event.pid, event.stage.name());
            log.line(Level::Debug, &format!("pid {pid}: {stage} took {time} us"));
        }
        Event::Filled(_) => {} // for a display
        Event::Reached(stage) => {
            log.line(Level::Info, &format!("stage {} is complete", stage.name()));
        }
    }
}

/// The pid file: made before the restore, so that it cannot fail after it, and gone if that fails.
struct PidFile {
    path: PathBuf,
    file: Option<File>,
}

impl PidFile {
    fn create(options: &Restore, path: &Path) -> std::io::Result<Self> {
        // Relative to the working directory of the command, as criu's is to `--work-dir`.
        let path = match options.logging.chosen_dir() {
            Some(dir) if path.is_relative() => dir.join(path),
            _ => path.to_owned(),
        };
        let file = File::options().write(true).create_new(true).open(&path)?;
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
