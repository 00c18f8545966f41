//! `thaw dump`: a running tree in, images out, and an exit code that says what happened.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use restore_core::{DumpEvent, DumpOptions, DumpPhase, Dumped, Ended, ProcessBytes};

use crate::console::{Console, Wishes};
use crate::log::Level;
use crate::options::Dump;
use crate::progress::{Bytes, SHARED};
use crate::report::{Problem, Process, Verb};
use crate::screen::Screen;
use crate::{FAILED, LEFTOVERS, codes};

/// Bytes of a page (x86-64).
const PAGE_BYTES: u64 = 4096;

/// Runs the command and returns its exit code.
///
/// The work is done by a process of its own, which goes on to undo it if this one is killed.
pub(crate) fn run(options: &Dump, screen: Screen, start: Instant) -> u8 {
    let problem = match restore_core::keep(|abort| work(options, screen, start, abort)) {
        Ok(Ended::Code(code)) => return code,
        Ok(Ended::Killed(signal)) => {
            let text = format!("the process that did the work was killed by signal {signal}");
            let state = "the tree may not be as it was: see whether it still runs";
            Problem::own(codes::KEEPER_KILLED, text, LEFTOVERS).with_state(state)
        }
        Err(error) => Problem::keeper(&error, FAILED),
    };
    if options.logging.level() > 0 {
        let _ = problem.show("dump failed", None, screen.err_width, &mut screen.err());
    }
    problem.exit_code
}

fn work(options: &Dump, screen: Screen, start: Instant, abort: OwnedFd) -> u8 {
    let Dump { logging, reporting, images_dir, others, .. } = options;
    let wishes = Wishes { logging, reporting, images_dir };
    let mut console = match Console::open(Verb::Dump, &wishes, others, screen, start) {
        Ok(console) => console,
        Err(code) => return code,
    };
    console.report.root = Some(options.root);
    console.progress.begins(DumpPhase::Freeze.name());
    let dumped = restore_core::dump(settings(options, abort), &mut |event| {
        tell(&mut console, &event);
    });
    match dumped {
        Ok(dumped) => {
            describe(&mut console, options, &dumped);
            console.conclude();
            0
        }
        Err(failure) => console.fail(Problem::dump(&failure)),
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

fn tell(console: &mut Console, event: &DumpEvent) {
    let bytes = |of: &ProcessBytes| Bytes { memory: of.memory_bytes, gpu: of.gpu_bytes };
    let shared = |bytes: &u64| Bytes { memory: *bytes, gpu: 0 };
    match event {
        DumpEvent::Frozen { processes, threads } => {
            let text = format!("{processes} process(es) with {threads} thread(s) have stopped");
            ended(console, DumpPhase::Freeze, &text);
        }
        DumpEvent::Gpus { processes, files, buffers } => {
            let text = format!(
                "GPU queues of {processes} process(es) are stopped; {files} device file(s) with \
                 {buffers} buffer(s)"
            );
            console.log(Level::Info, &text);
        }
        DumpEvent::Read => {
            let text = "everything was read; nothing stands against the dump";
            ended(console, DumpPhase::Read, text);
        }
        DumpEvent::Asked => {
            ended(console, DumpPhase::Ask, "every process was asked and is as it was found");
        }
        DumpEvent::Expected { processes, shared_bytes } => {
            processes.iter().for_each(|of| console.progress.expect(of.pid, bytes(of)));
            console.progress.expect(SHARED, shared(shared_bytes));
        }
        DumpEvent::Saved(of) => console.progress.done(of.pid, bytes(of)),
        DumpEvent::SavedShared { bytes } => console.progress.done(SHARED, shared(bytes)),
        DumpEvent::Written { bytes } => {
            ended(console, DumpPhase::Write, &format!("{bytes} bytes of images are written"));
        }
        DumpEvent::Placed => {
            ended(console, DumpPhase::Place, "the images are synced and in place");
        }
    }
}

fn ended(console: &mut Console, phase: DumpPhase, text: &str) {
    console.log(Level::Info, text);
    console.stage(phase.name());
    let next = match phase {
        DumpPhase::Freeze => DumpPhase::Read,
        DumpPhase::Read => DumpPhase::Ask,
        DumpPhase::Ask => DumpPhase::Write,
        DumpPhase::Write => DumpPhase::Place,
        DumpPhase::Place | DumpPhase::LetGo => DumpPhase::LetGo,
    };
    console.progress.begins(next.name());
}

/// What is said of a tree that was dumped.
fn describe(console: &mut Console, options: &Dump, dumped: &Dumped) {
    let report = &mut console.report;
    let page = |pages: u64| pages * PAGE_BYTES;
    report.processes = Process::all(&dumped.tree, console.progress.expected());
    report.stages.clear();
    dumped.phases.iter().for_each(|(phase, took)| report.stage(phase.name(), *took));
    report.frozen_ns = Some(dumped.frozen.as_nanos() as u64);
    report.memory_bytes = page(dumped.pages.written);
    report.shared_bytes = page(dumped.shared.written);
    report.gpu_bytes = dumped.gpu_bytes;
    report.image_bytes = Some(dumped.bytes);
    let (freezing, frozen) = (dumped.freezing.as_micros(), dumped.frozen.as_micros());
    let text = format!("stopped within {freezing} us, frozen for {frozen} us");
    console.log(Level::Info, &text);
    console.log(Level::Debug, &format!("{} steps", dumped.steps));
    write_stats(console, options, dumped);
}

/// Upstream writes statistics to the working directory. Among the images they are already.
fn write_stats(console: &mut Console, options: &Dump, dumped: &Dumped) {
    let Some(work_dir) = options.logging.chosen_dir() else { return };
    let place = |dir: &Path| dir.canonicalize().ok();
    if place(work_dir) != place(&options.images_dir)
        && let Err(error) = restore_core::write_stats(work_dir, &dumped.stats())
    {
        console.warn(&format!("no stats-dump in {}: {error}", work_dir.display()));
    }
}
