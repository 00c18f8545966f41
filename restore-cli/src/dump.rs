//! `thaw dump`: a running tree in, images out, and an exit code that says what happened.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use restore_core::{DumpError, DumpEvent, DumpOptions, Dumped, Ended};

use crate::log::{self, Level, Log, Teller, chain};
use crate::options::Dump;
use crate::{FAILED, LEFTOVERS, UNFIT_HOST};

/// Runs the command and returns its exit code.
///
/// The work is done by a process of its own, which goes on to undo it if this one is killed.
pub(crate) fn run(options: Dump, start: Instant) -> u8 {
    match restore_core::keep(|abort| work(options, start, abort)) {
        Ok(Ended::Code(code)) => code,
        Ok(Ended::Killed(signal)) => {
            eprintln!("thaw: the process that did the work was killed by signal {signal}");
            LEFTOVERS
        }
        Err(error) => {
            eprintln!("thaw: {}", chain(&error));
            FAILED
        }
    }
}

fn work(options: Dump, start: Instant, abort: OwnedFd) -> u8 {
    let begun = log::begin(&options.logging, &options.images_dir, start, &options.others);
    let (mut log, to_stderr) = match begun {
        Ok(begun) => begun,
        Err(code) => return code,
    };
    let mut tell = Teller { log: &mut log, to_stderr };
    let log = &mut *tell.log;
    let dumped = restore_core::dump(settings(&options, abort), &mut |event| {
        log_event(log, &event);
    });
    match dumped {
        Ok(dumped) => {
            conclude(&dumped, &options.images_dir, tell.log);
            statistics(&options, &dumped, tell.log);
            0
        }
        Err(failure) => {
            tell.error(&chain(&failure.error));
            if let DumpError::Refused(list) = &failure.error {
                list.iter().for_each(|refusal| tell.error(&format!("not supported: {refusal}")));
            }
            match (&failure.undo, &failure.error) {
                (Some(undo), _) => {
                    tell.error(&format!("the tree could not be let go as it was: {}", chain(undo)));
                    LEFTOVERS
                }
                (None, DumpError::Refused(_)) => UNFIT_HOST,
                (None, _) => FAILED,
            }
        }
    }
}

fn settings(options: &Dump, abort: OwnedFd) -> DumpOptions {
    DumpOptions {
        leave: options.leave(),
        shell_job: options.shell_job,
        link_remap: options.link_remap,
        ghost_limit_bytes: options.ghost_limit,
        ignore_cgroups: options.manage_cgroups == Some(true),
        freeze_group: options.freeze_cgroup.clone(),
        timeout: options.timeout,
        workers_max: options.workers,
        mishap: options.mishap(),
        abort: Some(abort),
        ..DumpOptions::new(options.root, &options.images_dir)
    }
}

fn log_event(log: &mut Log, event: &DumpEvent) {
    let text = match event {
        DumpEvent::Frozen { processes, threads } => {
            format!("{processes} process(es) with {threads} thread(s) have stopped")
        }
        DumpEvent::Read => "everything was read; nothing stands against the dump".to_owned(),
        DumpEvent::Gpus { processes, files, buffers } => format!(
            "GPU queues of {processes} process(es) are stopped; {files} device file(s) with \
             {buffers} buffer(s)"
        ),
        // For a display.
        DumpEvent::Expected { .. } | DumpEvent::Saved(_) | DumpEvent::SavedShared { .. } => return,
        DumpEvent::Asked => "every process was asked and is as it was found".to_owned(),
        DumpEvent::Written { bytes } => format!("{bytes} bytes of images are written"),
        DumpEvent::Placed => "the images are synced and in place".to_owned(),
    };
    log.line(Level::Info, &text);
}

/// Upstream writes statistics to the working directory. Among the images they are already.
fn statistics(options: &Dump, dumped: &Dumped, log: &mut Log) {
    let Some(work_dir) = options.logging.chosen_dir() else { return };
    let place = |dir: &Path| dir.canonicalize().ok();
    if place(work_dir) != place(&options.images_dir)
        && let Err(error) = restore_core::write_stats(work_dir, &dumped.stats())
    {
        log.line(Level::Warning, &format!("no stats-dump in {}: {error}", work_dir.display()));
    }
}

fn conclude(dumped: &Dumped, images: &Path, log: &mut Log) {
    let Dumped { processes, threads, bytes, freezing, frozen, steps, .. } = dumped;
    log.line(Level::Debug, &format!("{steps} steps"));
    log.line(
        Level::Info,
        &format!(
            "{processes} process(es) with {threads} thread(s), {bytes} bytes in {}; stopped \
             within {} us, frozen for {} us",
            images.display(),
            freezing.as_micros(),
            frozen.as_micros()
        ),
    );
}
