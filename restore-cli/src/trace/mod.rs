//! `thaw trace`: what happened in a restore, judged, drawn, and turned into a schedule.

mod check;
mod chrome;
#[cfg(test)]
pub(crate) mod example;
mod format;
mod outline;
#[cfg(test)]
mod tests;
mod text;
mod view;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use restore_core::{Outline, TraceEvent};

pub(crate) use format::{Trace, TraceWriter, values};
pub(crate) use outline::{json, labels};
pub(crate) use view::svg as picture;

use crate::log::chain;
use crate::output::Output;
use crate::screen::Screen;
use crate::{BAD_IMAGES, FAILED, schedule};

/// Look at the trace of a restore (thaw restore --trace FILE)
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 done, or legal; 1 illegal, or failed; 2 usage; \
                        3 the trace cannot be read.")]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// A picture
    Svg,
    /// A small picture for terminals
    Text,
    /// A file for Perfetto and chrome://tracing
    Chrome,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Whether the restore kept the contract
    ///
    /// If not, it says the first rule that was broken, and both events. The rules are in
    /// docs/contract.md.
    Check {
        /// The trace
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Draw who was at work when
    View {
        /// The trace
        file: PathBuf,
        /// Where the picture goes; standard output if it is missing
        #[arg(short = 'o', long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// What is drawn
        #[arg(long, value_enum, default_value = "svg", value_name = "FORMAT")]
        format: Format,
    },
    /// The order in which device files began, for thaw restore --schedule order:FILE
    Order {
        /// The trace
        file: PathBuf,
        /// Where the order goes; standard output if it is missing
        #[arg(short = 'o', long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
}

/// Does it, and returns the exit code.
pub(crate) fn run(options: Options, screen: Screen) -> u8 {
    match options.command {
        Command::Check { file, json } => with(&file, screen, |trace| {
            let (text, legal) = match json {
                false => check::report(&file, trace),
                true => check::json(trace),
            };
            print(None, &text)?;
            Ok(if legal { 0 } else { FAILED })
        }),
        Command::View { file, output, format } => with(&file, screen, |trace| {
            let text = match format {
                Format::Svg => view::svg(trace),
                Format::Text => text::picture(trace, screen.width),
                Format::Chrome => chrome::json(trace),
            };
            print(output.as_deref(), &text).map(|()| 0)
        }),
        Command::Order { file, output } => with(&file, screen, |trace| {
            let order = schedule::begun(&trace.outline, &trace.events);
            match order {
                Ok(order) => {
                    let text = schedule::order_text(&trace.outline, &order);
                    print(output.as_deref(), &text).map(|()| 0)
                }
                Err(error) => {
                    eprintln!("thaw trace: {}", chain(&error));
                    Ok(FAILED)
                }
            }
        }),
    }
}

fn with(file: &Path, screen: Screen, act: impl FnOnce(&Trace) -> io::Result<u8>) -> u8 {
    let trace = match Trace::read(file) {
        Ok(trace) => trace,
        Err(error) => {
            eprintln!("thaw trace: {}: {}", file.display(), chain(&error));
            return BAD_IMAGES;
        }
    };
    match act(&trace) {
        Ok(code) => code,
        Err(error) => screen.unwritten("trace", &error),
    }
}

fn print(output: Option<&Path>, text: &str) -> io::Result<()> {
    let mut to = Output::open(output)?;
    to.write_all(text.as_bytes())?;
    to.finish()
}

/// What a step is called in pictures: `F2`, and in a tree of a parent and its child `PF2` and
/// `CF2`, as people who discuss the order of restores write it.
fn short_name(outline: &Outline, event: &TraceEvent) -> String {
    let Some(step) = event.step else { return event.stage.name().to_owned() };
    let step = outline.step(step);
    format!("{}F{}", letter(outline, step.pid), step.position + 1)
}

/// `P` for the parent and `C` for the child, if that is all there is.
fn letter(outline: &Outline, pid: i32) -> &'static str {
    match outline.processes.as_slice() {
        [parent, child] if child.ppid == parent.pid => {
            if pid == parent.pid {
                "P"
            } else {
                "C"
            }
        }
        _ => "",
    }
}
