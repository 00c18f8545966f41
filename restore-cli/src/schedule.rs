//! `--schedule`: how steps are chosen, and files that name an order.
//!
//! Such a file has one label (`28866.1`) a line; what follows a `#` is for people.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use restore_core::{Outline, Schedule, ScheduleError, Scheduler, StepId, TraceEvent, TraceStage};

use crate::trace::labels;

/// What `--schedule` takes; an order is read when the plan is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Choice {
    #[default]
    Concurrent,
    Serial,
    Seed(u64),
    Order(PathBuf),
}

/// Why an order cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderFault {
    /// The file cannot be read.
    #[error("cannot read the order {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line names no step of this plan.
    #[error(
        "{}, line {line}: {label} is no step of this plan (thaw plan lists them)",
        path.display()
    )]
    Label {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What it says.
        label: String,
    },
}

/// Parses `concurrent`, `serial`, `seed:N` or `order:FILE`.
pub(crate) fn parse(text: &str) -> Result<Choice, String> {
    let choice = match text.split_once(':') {
        None if text == "concurrent" => Some(Choice::Concurrent),
        None if text == "serial" => Some(Choice::Serial),
        Some(("seed", number)) => number.parse().ok().map(Choice::Seed),
        Some(("order", file)) if !file.is_empty() => Some(Choice::Order(file.into())),
        _ => None,
    };
    let help = "it is concurrent, serial, seed:NUMBER, or order:FILE";
    choice.ok_or_else(|| format!("{text:?} is no schedule: {help}"))
}

impl Choice {
    /// The schedule for a plan. Whether an order is legal is for the scheduler to say.
    pub(crate) fn schedule(&self, outline: &Outline) -> Result<Schedule, OrderFault> {
        Ok(match self {
            Self::Concurrent => Schedule::Concurrent,
            Self::Serial => Schedule::Serial,
            Self::Seed(seed) => Schedule::Seed(*seed),
            Self::Order(path) => {
                let text = fs::read_to_string(path)
                    .map_err(|source| OrderFault::Read { path: path.clone(), source })?;
                Schedule::Order(parse_order(outline, path, &text)?)
            }
        })
    }
}

/// Reads the labels of an order.
fn parse_order(outline: &Outline, path: &Path, text: &str) -> Result<Vec<StepId>, OrderFault> {
    let labels = labels(outline);
    let mut order = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let label = line.split('#').next().unwrap_or_default().trim();
        if label.is_empty() {
            continue;
        }
        let Some(&step) = labels.get(label) else {
            let (path, label) = (path.to_owned(), label.to_owned());
            return Err(OrderFault::Label { path, line: index + 1, label });
        };
        order.push(step);
    }
    Ok(order)
}

/// An order as a file.
pub(crate) fn order_text(outline: &Outline, order: &[StepId]) -> String {
    let line = |&id: &StepId| {
        let step = outline.step(id);
        format!("{}  # {} {}\n", outline.label(id), step.kind.name(), step.path)
    };
    let head = "# An order of device files, for thaw restore --schedule order:FILE.\n".to_owned();
    head + &order.iter().map(line).collect::<String>()
}

/// The legal order nearest to a trace: by the begin of each step, with those that never began where
/// they may stand, at the end. A trace that broke the contract has its order put right.
pub(crate) fn begun(
    outline: &Outline,
    events: &[TraceEvent],
) -> Result<Vec<StepId>, ScheduleError> {
    let mut begins = vec![u64::MAX; outline.steps.len()];
    for event in events.iter().filter(|event| event.stage == TraceStage::Device) {
        if let Some(begin) = event.step.and_then(|step| begins.get_mut(step.0)) {
            *begin = event.begin_ns.min(*begin);
        }
    }
    let mut scheduler = Scheduler::new(outline, Schedule::Concurrent)?;
    let mut ready = scheduler.start();
    let mut order = Vec::new();
    while let Some(place) = (0..ready.len()).min_by_key(|&place| {
        let step: StepId = ready[place];
        (begins[step.0], step)
    }) {
        let step = ready.swap_remove(place);
        order.push(step);
        scheduler.finished(step);
        ready.extend(scheduler.start());
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use restore_core::{Schedule, Scheduler};

    use super::{Choice, begun, order_text, parse, parse_order};
    use crate::trace::example;

    #[test]
    fn schedules_are_parsed() {
        let check = |text: &str, expected| assert_eq!(parse(text).ok(), expected, "{text}");
        check("concurrent", Some(Choice::Concurrent));
        check("serial", Some(Choice::Serial));
        check("seed:17", Some(Choice::Seed(17)));
        check("order:a:b", Some(Choice::Order("a:b".into())));
        for wrong in ["", "seed", "seed:", "seed:x", "seed:-1", "order:", "order", "parallel"] {
            check(wrong, None);
        }
    }

    #[test]
    fn an_order_is_written_and_read_again() {
        let outline = example::outline();
        for order in outline.orders() {
            let text = order_text(&outline, &order);
            assert_eq!(parse_order(&outline, Path::new("f"), &text).unwrap(), order);
        }
        let spaced = "\n# a\n  28866.1 # kfd\n\n28866.2\r\n";
        let read = parse_order(&outline, Path::new("f"), spaced).unwrap();
        assert_eq!(read, [restore_core::StepId(0), restore_core::StepId(1)]);
    }

    #[test]
    fn what_is_no_step_is_named_with_its_line() {
        let error = parse_order(&example::outline(), Path::new("f"), "28866.1\n28866.9\n");
        let text = "f, line 2: 28866.9 is no step of this plan (thaw plan lists them)";
        assert_eq!(error.unwrap_err().to_string(), text);
    }

    #[test]
    fn a_file_becomes_a_schedule_that_the_scheduler_takes() {
        let outline = example::outline();
        let order = outline.orders().last().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("order");
        std::fs::write(&path, order_text(&outline, &order)).unwrap();
        let schedule = Choice::Order(path).schedule(&outline).unwrap();
        assert_eq!(schedule, Schedule::Order(order));
        assert!(Scheduler::new(&outline, schedule).is_ok());
        assert!(Choice::Order("/nowhere".into()).schedule(&outline).is_err());
    }

    #[test]
    fn the_order_of_a_trace_is_that_of_its_begins() {
        let (outline, events) = (example::outline(), example::events());
        let order = begun(&outline, &events).unwrap();
        let labels: Vec<String> = order.iter().map(|&step| outline.label(step)).collect();
        let expected = ["28866.1", "28867.1", "28866.2", "28867.2", "28866.3", "28867.3"];
        assert_eq!(labels, expected);
        // A trace that ends early leaves the rest to any legal order.
        let half = begun(&outline, &events[..4]).unwrap();
        assert!(Scheduler::new(&outline, Schedule::Order(half)).is_ok());
    }
}
