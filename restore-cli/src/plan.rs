//! `thaw plan`: what a restore would do with device files, and in which orders, without doing it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Instant;

use restore_core::{Edge, EdgeReason, Outline, OutlineProcess, Schedule, Scheduler, StepId};

use crate::console::{Console, Wishes};
use crate::options::{Reporting, Restore, wrong_switch};
use crate::report::{Problem, Verb};
use crate::screen::{Screen, size, wrap};
use crate::{FAILED, codes, trace};

/// Most steps of a wave that are named.
const WAVE_MAX: usize = 24;

/// Does it, and returns the exit code.
///
/// # Errors
/// What is wrong with the command line and is found only now.
pub(crate) fn run(options: &Restore, screen: Screen, start: Instant) -> Result<u8, clap::Error> {
    let chosen = options.options().map_err(wrong_switch)?;
    let Restore { logging, reporting, images_dir, others, .. } = options;
    // The plan is what is printed as JSON, not a report.
    let reporting = &Reporting { json: false, ..reporting.clone() };
    let wishes = Wishes { logging, reporting, images_dir };
    let mut console = match Console::open(Verb::Plan, &wishes, others, screen, start) {
        Ok(console) => console,
        Err(code) => return Ok(code),
    };
    let plan = match crate::restore::plan(options, chosen, &mut console) {
        Ok(plan) => plan,
        Err(problem) => return Ok(console.fail(problem)),
    };
    let mut out = screen.out();
    let done = match options.reporting.json {
        true => print_json(plan.outline(), &mut out),
        false => print(plan.outline(), screen.width, &mut out),
    };
    match done.and_then(|()| out.flush()) {
        Ok(()) => Ok(0),
        Err(error) => {
            let problem = Problem::own(codes::STDOUT, "cannot print the plan", FAILED);
            Ok(console.fail(problem.because(&error)))
        }
    }
}

/// The outline as the first line of a trace.
pub(crate) fn print_json(outline: &Outline, to: &mut dyn Write) -> io::Result<()> {
    writeln!(to, "{}", trace::json(outline)?)
}

/// The outline for people, in so many columns; a path that is longer is not broken.
pub(crate) fn print(outline: &Outline, width: usize, to: &mut dyn Write) -> io::Result<()> {
    let counts = format!(
        "{} process(es), {} device file(s), {} GPU(s)",
        outline.processes.len(),
        outline.steps.len(),
        outline.gpus.len()
    );
    write!(to, "{}", wrap("", &counts, width))?;
    for (index, (saved, here)) in outline.gpus.iter().enumerate() {
        writeln!(to, "GPU {index}: saved as {saved}, here {here}")?;
    }
    let columns = Columns::new(outline, width);
    let mut steps: BTreeMap<i32, Vec<StepId>> = BTreeMap::new();
    for id in (0..outline.steps.len()).map(StepId) {
        steps.entry(outline.step(id).pid).or_default().push(id);
    }
    let mut waits: BTreeMap<StepId, Vec<&Edge>> = BTreeMap::new();
    for edge in &outline.edges {
        waits.entry(edge.to).or_default().push(edge);
    }
    for process in &outline.processes {
        writeln!(to)?;
        print_process(process, width, to)?;
        for &id in steps.get(&process.pid).into_iter().flatten() {
            print_step(outline, id, &columns, to)?;
            for edge in waits.get(&id).into_iter().flatten() {
                print_wait(outline, edge, &columns, to)?;
            }
        }
    }
    if !outline.steps.is_empty() {
        writeln!(to)?;
        print_freedom(outline, width, to)?;
    }
    for (index, assumption) in outline.assumptions.iter().enumerate() {
        if index == 0 {
            writeln!(to, "\nAssumed, since the images do not say:")?;
        }
        write!(to, "{}", wrap("  - ", assumption, width))?;
    }
    Ok(())
}

/// Widths of what stands below each other.
struct Columns {
    label: usize,
    kind: usize,
    path: usize,
    fds: usize,
    gpu: usize,
    /// Of a whole line.
    width: usize,
}

impl Columns {
    fn new(outline: &Outline, width: usize) -> Self {
        let widest = |of: &dyn Fn(StepId) -> usize| {
            (0..outline.steps.len()).map(StepId).map(of).max().unwrap_or(0)
        };
        Self {
            label: widest(&|id| outline.label(id).len()),
            kind: widest(&|id| outline.step(id).kind.name().len()),
            path: widest(&|id| outline.step(id).path.chars().count()),
            fds: widest(&|id| fds(outline, id).len()),
            gpu: widest(&|id| gpu(outline, id).len()),
            width,
        }
    }
}

fn print_process(process: &OutlineProcess, width: usize, to: &mut dyn Write) -> io::Result<()> {
    let who = match process.ppid {
        0 => "the root".to_owned(),
        ppid => format!("child of {ppid}"),
    };
    let (memory, gpu_memory) = (size(process.memory_bytes), size(process.gpu_bytes));
    let pid = process.pid;
    let text = format!("{who}: {memory} of memory, {gpu_memory} of GPU memory");
    write!(to, "{}", wrap(&format!("{pid}, "), &text, width))
}

fn print_step(
    outline: &Outline,
    id: StepId,
    columns: &Columns,
    to: &mut dyn Write,
) -> io::Result<()> {
    let step = outline.step(id);
    let what = format!(
        "  {:label$}  {:kind$}  {:path$}  ",
        outline.label(id),
        step.kind.name(),
        step.path,
        label = columns.label,
        kind = columns.kind,
        path = columns.path,
    );
    let mut buffers = format!("{} buffer(s)", step.buffers);
    if step.content_bytes > 0 {
        let _ = write!(buffers, ", {}", size(step.content_bytes));
    }
    let (fds, gpu) = (fds(outline, id), gpu(outline, id));
    let line = format!(
        "{what}{fds:fds_width$}  {gpu:gpu_width$}  {buffers}",
        fds_width = columns.fds,
        gpu_width = columns.gpu,
    );
    if line.chars().count() <= columns.width {
        return writeln!(to, "{line}");
    }
    let rest = [fds, gpu, buffers].into_iter().filter(|text| !text.is_empty());
    let rest = rest.collect::<Vec<_>>().join(", ");
    let lead = " ".repeat(columns.label + 4);
    write!(to, "{}\n{}", what.trim_end(), wrap(&lead, &rest, columns.width))
}

fn print_wait(
    outline: &Outline,
    edge: &Edge,
    columns: &Columns,
    to: &mut dyn Write,
) -> io::Result<()> {
    let from = outline.label(edge.from);
    let why = match edge.reason {
        EdgeReason::Buffer(number) => format!("makes buffer {number:#x}"),
        EdgeReason::Descriptor(file) => format!("opens file {file:#x}"),
    };
    let lead = " ".repeat(columns.label + 4);
    write!(to, "{}", wrap(&lead, &format!("after {from}, which {why}"), columns.width))
}

fn fds(outline: &Outline, id: StepId) -> String {
    let fds = &outline.step(id).fds;
    if fds.is_empty() {
        return "mapped only".to_owned();
    }
    let list: Vec<String> = fds.iter().map(ToString::to_string).collect();
    format!("fd {}", list.join(","))
}

fn gpu(outline: &Outline, id: StepId) -> String {
    let Some((_, here)) = outline.step(id).gpu else { return String::new() };
    match outline.gpus.iter().position(|(_, other)| *other == here) {
        Some(index) => format!("GPU {index}"),
        None => format!("GPU {here}"),
    }
}

/// What may be at the same time, and how many orders there are.
fn print_freedom(outline: &Outline, width: usize, to: &mut dyn Write) -> io::Result<()> {
    let mut say = |text: &str| write!(to, "{}", wrap("", text, width));
    say("Files of one process are restored in the order above, one after the other.")?;
    match outline.edges.len() {
        0 => say("Processes share nothing: files of different ones have no order.")?,
        count => {
            let text = "wait(s) as told above; else files of different processes have no order.";
            say(&format!("{count} {text}"))?;
        }
    }
    match outline.count_orders() {
        Some(0) => return say("There is no legal order: the plan contradicts itself."),
        Some(count) => writeln!(to, "Legal orders: {count}")?,
        None => writeln!(to, "Legal orders: more than can be counted")?,
    }
    write!(to, "{}", wrap("", "At the same time, if each file took as long:", width))?;
    for (index, wave) in waves(outline).iter().enumerate() {
        let mut labels: Vec<String> =
            wave.iter().take(WAVE_MAX).map(|&id| outline.label(id)).collect();
        if wave.len() > WAVE_MAX {
            labels.push(format!("and {} more", wave.len() - WAVE_MAX));
        }
        let lead = format!("  {}. ", index + 1);
        write!(to, "{}", wrap(&lead, &labels.join(" "), width))?;
    }
    Ok(())
}

/// The steps that begin together, if all steps take as long.
fn waves(outline: &Outline) -> Vec<Vec<StepId>> {
    let Ok(mut scheduler) = Scheduler::new(outline, Schedule::Concurrent) else {
        return Vec::new();
    };
    let mut waves = Vec::new();
    loop {
        let wave = scheduler.start();
        if wave.is_empty() {
            return waves;
        }
        wave.iter().for_each(|&step| scheduler.finished(step));
        waves.push(wave);
    }
}

#[cfg(test)]
mod tests {
    use restore_core::{EdgeReason, Outline, StepKind};

    use super::{print, print_json};
    use crate::trace::example;

    fn printed(outline: &Outline, width: usize) -> String {
        let mut bytes = Vec::new();
        print(outline, width, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_plan_says_what_there_is_and_what_is_free() {
        let expected = "\
2 process(es), 6 device file(s), 2 GPU(s)
GPU 0: saved as 0xa000, here 0xb000
GPU 1: saved as 0xa001, here 0xb001

28866, the root: 9.0 MiB of memory, 32.0 MiB of GPU memory
  28866.1  kfd     /dev/kfd             fd 3         4 buffer(s)
  28866.2  render  /dev/dri/renderD128  fd 4  GPU 0  4 buffer(s), 16.0 MiB
  28866.3  render  /dev/dri/renderD129  fd 5  GPU 1  4 buffer(s), 16.0 MiB

28867, child of 28866: 9.0 MiB of memory, 32.0 MiB of GPU memory
  28867.1  kfd     /dev/kfd             fd 3         4 buffer(s)
  28867.2  render  /dev/dri/renderD128  fd 4  GPU 0  4 buffer(s), 16.0 MiB
  28867.3  render  /dev/dri/renderD129  fd 5  GPU 1  4 buffer(s), 16.0 MiB

Files of one process are restored in the order above, one after the other.
Processes share nothing: files of different ones have no order.
Legal orders: 20
At the same time, if each file took as long:
  1. 28866.1 28867.1
  2. 28866.2 28867.2
  3. 28866.3 28867.3
";
        assert_eq!(printed(&example::outline(), 80), expected);
    }

    #[test]
    fn a_plan_says_what_waits_and_what_was_assumed() {
        let mut outline = example::sharing(2, 1);
        outline.edges[0].reason = EdgeReason::Descriptor(0x12);
        outline.steps[3].kind = StepKind::Receive;
        outline.steps[3].fds = vec![];
        outline.assumptions = vec!["one two three four five six seven eight nine".to_owned()];
        let wide = [
            "  28867.2  receive  /dev/dri/renderD128  mapped only  GPU 0  4 buffer(s), 16.0 MiB",
            "           after 28866.2, which opens file 0x12",
            "1 wait(s) as told above; else files of different processes have no order.",
            "Legal orders: 3",
            "  3. 28867.2",
            "Assumed, since the images do not say:",
            "  - one two three four five six seven eight nine",
        ];
        let narrow = [
            "28867, child of 28866: 9.0 MiB of",
            "       memory, 16.0 MiB of GPU memory",
            "  28867.2  receive  /dev/dri/renderD128",
            "           mapped only, GPU 0, 4",
            "           buffer(s), 16.0 MiB",
            "           after 28866.2, which opens",
            "           file 0x12",
            "  - one two three four five six seven",
            "    eight nine",
        ];
        for (width, lines) in [(100, &wide[..]), (40, &narrow[..])] {
            let text = printed(&outline, width);
            for line in lines {
                assert!(text.lines().any(|other| other == *line), "{line}\n{text}");
            }
        }
    }

    #[test]
    fn large_trees_are_cut_short_and_small_ones_say_little() {
        let text = printed(&example::sharing(64, 4), 80);
        assert!(text.contains("Legal orders: more than can be counted"), "{text}");
        assert!(text.contains("and 40 more"), "{text}");
        let nothing = printed(&Outline::default(), 80);
        assert_eq!(nothing, "0 process(es), 0 device file(s), 0 GPU(s)\n");
    }

    #[test]
    fn json_is_what_a_trace_begins_with() {
        let mut bytes = Vec::new();
        print_json(&example::outline(), &mut bytes).unwrap();
        let trace = crate::trace::Trace::parse(bytes.as_slice()).unwrap();
        assert_eq!(trace.outline, example::outline());
    }
}
