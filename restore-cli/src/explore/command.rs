//! `thaw explore`: runs the legal orders of a checkpoint, each on a fresh emulated node, and
//! compares what they end in.
//!
//! For each order a node is started with this program inside, which restores the tree, left
//! stopped, and dumps it before it has run. The end state is the text of that checkpoint. Each
//! trace is judged as well.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use criu_image::{Checkpoint, state_text};
use restore_core::{Outline, StepId, check};

use super::{Report, Which, explore};
use crate::FAILED;
use crate::options::values;
use crate::schedule::order_text;
use crate::trace::Trace;

/// Orders beyond which not all are run unless they are asked for.
const ALL_MAX: u128 = 1000;
/// Orders that are drawn then.
const SAMPLE: usize = 100;
/// Ids between those of the tree and those of what restores it.
const PIDS_BETWEEN: i32 = 64;

/// Run the legal orders of a checkpoint on emulated nodes, and compare the end states
///
/// Each order in which its device files may be restored is run on a fresh node. The end states are
/// compared byte for byte, and each trace is judged by the contract.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 all orders end in one state, 1 they do not, or one failed, \
                        2 usage.")]
pub(crate) struct Options {
    /// Directory of the images
    #[arg(short = 'D', long = "images-dir", value_name = "DIR")]
    images: PathBuf,
    /// Options of thaw node run, in one text, such as '--gpus 2 --model gfx942'
    #[arg(
        long,
        value_name = "OPTIONS",
        allow_hyphen_values = true,
        default_value = "",
        hide_default_value = true
    )]
    node: String,
    /// So many orders, drawn by a seed (default: all, or 100 if there are more than 1000)
    #[arg(long, value_name = "N", value_parser = values::count)]
    orders: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The first seed
    #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = values::number)]
    seed: u64,
    // For tests: see `restore_core::Sabotage`.
    #[arg(long, hide = true)]
    sabotage: Option<String>,
    // The run inside a node: the order, where the new checkpoint goes, and its smallest new pid.
    #[arg(long, hide = true, requires = "into")]
    one: Option<PathBuf>,
    #[arg(long, hide = true)]
    into: Option<PathBuf>,
    #[arg(long, hide = true, default_value_t = 0, value_parser = clap::value_parser!(i32))]
    above: i32,
}

/// Does it, and returns the exit code.
pub(crate) fn run(options: &Options) -> u8 {
    let result = match options.one.as_deref().zip(options.into.as_deref()) {
        Some((order, into)) => carry_out(options, order, into).map(|()| true),
        None => all(options),
    };
    match result {
        Ok(true) => 0,
        Ok(false) => FAILED,
        Err(text) => {
            eprintln!("thaw explore: {text}");
            FAILED
        }
    }
}

/// Runs the orders, says what was found, and returns whether all end in one state.
fn all(options: &Options) -> Result<bool, String> {
    let outline = outline(options)?;
    let count = outline.count_orders();
    let which = match options.orders {
        Some(count) => Which::Sample { count, seed: options.seed },
        None if count.is_some_and(|count| count <= ALL_MAX) => Which::All,
        None => Which::Sample { count: SAMPLE, seed: options.seed },
    };
    let found = explore(&outline, which, |order| one(options, &outline, order));
    let report = Report { outline: &outline, found: &found };
    match options.json {
        true => println!("{}", report.json()),
        false => print!("{report}"),
    }
    Ok(found.is_one())
}

/// The steps, as they are planned on such a node.
fn outline(options: &Options) -> Result<Outline, String> {
    let mut node = node(options)?;
    node.args(["plan", "--json", "-D"]).arg(&options.images);
    let output = output(&mut node)?;
    let trace = Trace::parse(output.stdout.as_slice()).map_err(|error| error.to_string())?;
    Ok(trace.outline)
}

/// A node whose command is this program.
fn node(options: &Options) -> Result<Command, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut node = Command::new(&program);
    node.args(["node", "run"]).args(options.node.split_whitespace()).arg("--").arg(program);
    node.stdin(Stdio::null());
    Ok(node)
}

/// Runs a program; an error is what it said.
fn output(command: &mut Command) -> Result<Output, String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(format!("{}: {}", output.status, said.trim_end()))
}

/// One order on a node of its own: its trace must be legal, and its end state is returned.
fn one(options: &Options, outline: &Outline, order: &[StepId]) -> Result<Vec<u8>, String> {
    let text = |error: std::io::Error| error.to_string();
    let folder = tempfile::tempdir().map_err(text)?;
    let (file, images) = (folder.path().join("order"), folder.path().join("images"));
    fs::write(&file, order_text(outline, order)).map_err(text)?;
    fs::create_dir(&images).map_err(text)?;
    let above = outline.processes.iter().map(|process| process.pid).max().unwrap_or(0);
    let mut node = node(options)?;
    node.args(["explore", "--one"]).arg(&file).arg("--into").arg(&images);
    node.args(["--above", &(above + PIDS_BETWEEN).to_string(), "-D"]).arg(&options.images);
    node.args(options.sabotage.iter().flat_map(|what| ["--sabotage", what]));
    output(&mut node)?;
    let trace = Trace::read(&trace_of(&images)).map_err(|error| error.to_string())?;
    check(&trace.outline, &trace.events).map_err(|violation| violation.to_string())?;
    let checkpoint = Checkpoint::open(&images).map_err(|error| error.to_string())?;
    Ok(state_text(&checkpoint).map_err(text)?.into_bytes())
}

fn trace_of(images: &Path) -> PathBuf {
    images.with_file_name("trace.jsonl")
}

/// Inside a node: restores the tree, left stopped, and dumps it before it has run.
fn carry_out(options: &Options, order: &Path, into: &Path) -> Result<(), String> {
    let last_pid = "/proc/sys/kernel/ns_last_pid";
    fs::write(last_pid, options.above.to_string())
        .map_err(|error| format!("cannot write {last_pid}: {error}"))?;
    let thaw = |command: &str| -> Result<Command, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut thaw = Command::new(program);
        thaw.arg(command).stdin(Stdio::null());
        Ok(thaw)
    };
    let root = Checkpoint::open(&options.images).map_err(|error| error.to_string())?;
    let root = root.processes[0].pid.to_string();
    let mut restore = thaw("restore")?;
    restore.args(["-d", "-s", "--schedule", &format!("order:{}", order.display())]);
    restore.arg("--trace").arg(trace_of(into)).arg("-D").arg(&options.images);
    restore.args(options.sabotage.iter().flat_map(|what| ["--sabotage", what]));
    output(&mut restore)?;
    output(thaw("dump")?.args(["-t", &root, "-D"]).arg(into)).map(drop)
}
