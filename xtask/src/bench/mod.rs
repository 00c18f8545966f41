//! Fair comparison of two commands: alternating runs, each paired with the one beside it.
//!
//! Machines are noisy and drift, so what counts is the median of the ratios within pairs. Who goes
//! first changes from pair to pair. The first pair warms up and is not counted.

mod child;
mod dump;
mod gpu;
mod image;
mod node;
mod restore;
pub(crate) mod tree;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use lexopt::prelude::*;

use crate::command;
use child::Run;

/// Pairs of runs of each case, unless the command says otherwise.
const RUNS: usize = 15;

/// Set in the run that is inside the namespace.
const INSIDE: &str = "XTASK_BENCH_INSIDE";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Dump,
    Restore,
    Node,
    Gpu,
}

/// What `bench` was asked for.
struct Options {
    what: What,
    runs: usize,
    case: Option<String>,
    /// Whether a dump goes to the disk.
    on_disk: bool,
    /// A program that stands in for ours.
    thaw: Option<std::path::PathBuf>,
}

/// All counted pairs of a case: upstream's run, our run.
struct Comparison {
    case: &'static str,
    pairs: Vec<(Run, Run)>,
}

/// `bench dump|restore [--runs N] [--case NAME] [--thaw PROGRAM] [--on-disk]`,
/// `bench node [--runs N]`, `bench gpu [--runs N] [--case NAME]`.
///
/// It runs in a pid namespace of its own: the ids of the trees are then nobody else's.
pub(crate) fn run(mut parser: lexopt::Parser) -> Result<(), String> {
    if std::env::args().nth(2).as_deref() == Some("image") {
        parser.next().map_err(|error| error.to_string())?;
        return image::run(parser);
    }
    if let Some(part) = gpu::inside() {
        return part;
    }
    if std::env::var_os(INSIDE).is_none() {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let namespace = ["--fork", "--pid", "--mount-proc", "--kill-child", "--"];
        let mut inside = Command::new("unshare");
        inside.args(namespace).arg(program).args(std::env::args_os().skip(1)).env(INSIDE, "1");
        return command::run(&mut inside);
    }
    let options = parse(parser).map_err(|error| error.to_string())?;
    let (name, table, json) = match options.what {
        What::Dump => {
            let comparisons = dump::compare(&options)?;
            ("dump", table("criu", &comparisons), json("criu", &comparisons))
        }
        What::Restore => {
            let comparisons = restore::compare(&options)?;
            ("restore", table("criu", &comparisons), json("criu", &comparisons))
        }
        What::Node => {
            let figures = node::measure(&options)?;
            ("node", node::table(&figures), node::json(&figures))
        }
        What::Gpu => {
            let measured = gpu::measure(&options)?;
            ("gpu", gpu::table(&measured), gpu::json(&measured))
        }
    };
    print!("{table}");
    let folder = command::root().join("target/bench");
    // A figure that is not ours must not be taken for one.
    let name = if options.thaw.is_some() { "stand-in" } else { name };
    write(&folder, name, &json)
}

fn parse(mut parser: lexopt::Parser) -> Result<Options, lexopt::Error> {
    let mut options =
        Options { what: What::Restore, runs: RUNS, case: None, on_disk: false, thaw: None };
    let mut what = None;
    while let Some(arg) = parser.next()? {
        match arg {
            Long("runs") => options.runs = parser.value()?.parse()?,
            Long("case") => options.case = Some(parser.value()?.string()?),
            Long("on-disk") => options.on_disk = true,
            Long("thaw") => options.thaw = Some(parser.value()?.into()),
            Value(name) if what.is_none() => what = Some(name),
            other => return Err(other.unexpected()),
        }
    }
    options.what = match what.as_deref().and_then(|what| what.to_str()) {
        Some("dump") => What::Dump,
        Some("restore") => What::Restore,
        Some("node") => What::Node,
        Some("gpu") => What::Gpu,
        _ => return Err("bench what? (dump, restore, node, gpu, image)".into()),
    };
    if options.runs == 0 {
        return Err("--runs must be at least 1".into());
    }
    Ok(options)
}

/// Runs both sides alternately; each closure sets up, measures and cleans up one run.
fn alternate(
    case: &'static str,
    runs: usize,
    mut theirs: impl FnMut() -> Result<Run, String>,
    mut ours: impl FnMut() -> Result<Run, String>,
) -> Result<Comparison, String> {
    let mut pairs = Vec::with_capacity(runs);
    for round in 0..=runs {
        let pair = if round % 2 == 0 {
            let their = theirs()?;
            (their, ours()?)
        } else {
            let our = ours()?;
            (theirs()?, our)
        };
        if round > 0 {
            pairs.push(pair);
        }
    }
    Ok(Comparison { case, pairs })
}

/// Least, middle and largest of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    min: f64,
    median: f64,
    max: f64,
}

/// There is at least one value.
fn spread(mut values: Vec<f64>) -> Spread {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    };
    Spread { min: values[0], median, max: values[values.len() - 1] }
}

impl Comparison {
    /// Milliseconds of one side.
    fn times(&self, side: fn(&(Run, Run)) -> Run) -> Spread {
        spread(self.pairs.iter().map(|pair| side(pair).time.as_secs_f64() * 1e3).collect())
    }

    /// Largest resident set of one side in MiB.
    fn peak(&self, side: fn(&(Run, Run)) -> Run) -> f64 {
        let peaks = self.pairs.iter().map(|pair| side(pair).peak_kib as f64 / 1024.0);
        spread(peaks.collect()).max
    }

    /// How many times as long upstream takes, pair by pair.
    fn ratio(&self) -> Spread {
        let ratios = self.pairs.iter().map(|(their, our)| their.time.div_duration_f64(our.time));
        spread(ratios.collect())
    }
}

/// `peer` is the name of the other side.
fn table(peer: &str, comparisons: &[Comparison]) -> String {
    let mut text = format!(
        "{:15} {:>4}  {:^29}  {:^23}  {:^23}  {:^15}\n{:15} {:4}  {:^29}  {:^23}  {:^23}  {:^15}\n",
        "case",
        "runs",
        format!("{peer} ms"),
        "thaw ms",
        format!("{peer}/thaw"),
        "peak MiB",
        "",
        "",
        "min / median / max",
        "min / median / max",
        "min / median / max",
        format!("{peer} / thaw"),
    );
    for comparison in comparisons {
        let times = |spread: Spread| {
            format!("{:.1} / {:.1} / {:.1}", spread.min, spread.median, spread.max)
        };
        let ratio = comparison.ratio();
        let _ = writeln!(
            text,
            "{:15} {:4}  {:>29}  {:>23}  {:>23}  {:>15}",
            comparison.case,
            comparison.pairs.len(),
            times(comparison.times(|pair| pair.0)),
            times(comparison.times(|pair| pair.1)),
            format!("{:.2} / {:.2} / {:.2}", ratio.min, ratio.median, ratio.max),
            format!(
                "{:.1} / {:.1}",
                comparison.peak(|pair| pair.0),
                comparison.peak(|pair| pair.1)
            ),
        );
    }
    text
}

fn json(peer: &str, comparisons: &[Comparison]) -> String {
    let spread = |spread: Spread| {
        format!(
            "{{\"min\": {:.3}, \"median\": {:.3}, \"max\": {:.3}}}",
            spread.min, spread.median, spread.max
        )
    };
    let cases = comparisons.iter().map(|comparison| {
        format!(
            "  {{\"case\": \"{}\", \"runs\": {}, \"{peer}_ms\": {}, \"thaw_ms\": {}, \
             \"ratio\": {}, \"{peer}_peak_mib\": {:.1}, \"thaw_peak_mib\": {:.1}}}",
            comparison.case,
            comparison.pairs.len(),
            spread(comparison.times(|pair| pair.0)),
            spread(comparison.times(|pair| pair.1)),
            spread(comparison.ratio()),
            comparison.peak(|pair| pair.0),
            comparison.peak(|pair| pair.1),
        )
    });
    format!("[\n{}\n]\n", cases.collect::<Vec<_>>().join(",\n"))
}

fn write(folder: &Path, name: &str, json: &str) -> Result<(), String> {
    let path = folder.join(name).with_extension("json");
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(&path, json));
    written.map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::{Comparison, Run, Spread, alternate, json, spread, table};
    use std::cell::RefCell;
    use std::time::Duration;

    fn run(time_ms: u64) -> Run {
        Run { time: Duration::from_millis(time_ms), peak_kib: 2048 }
    }

    #[test]
    fn middle_of_an_even_number_lies_between() {
        let three = Spread { min: 1.0, median: 2.0, max: 9.0 };
        assert_eq!(spread(vec![9.0, 1.0, 2.0]), three);
        assert_eq!(spread(vec![4.0, 1.0, 2.0, 9.0]).median, 3.0);
    }

    #[test]
    fn ratio_is_that_of_pairs() {
        // The machine became ten times as slow halfway; the ratio is two all the time.
        let pairs = vec![(run(20), run(10)), (run(200), run(100))];
        let comparison = Comparison { case: "small", pairs };
        assert_eq!(comparison.ratio(), Spread { min: 2.0, median: 2.0, max: 2.0 });
        assert!(table("criu", &[comparison]).contains("2.00 / 2.00 / 2.00"));
    }

    #[test]
    fn sides_alternate_and_the_first_pair_is_not_counted() {
        let order = RefCell::new(String::new());
        let side = |name: char| {
            order.borrow_mut().push(name);
            Ok(run(1))
        };
        let comparison = alternate("small", 2, || side('c'), || side('t')).expect("both succeed");
        assert_eq!(comparison.pairs.len(), 2);
        assert_eq!(order.into_inner(), "cttcct");
        assert!(json("criu", &[comparison]).contains("\"runs\": 2"));
    }
}
