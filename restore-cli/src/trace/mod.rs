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

use lexopt::prelude::*;
use restore_core::{Outline, TraceEvent};

pub(crate) use format::{Trace, TraceWriter};
pub(crate) use outline::{json, labels};

use crate::log::chain;
use crate::output::Output;
use crate::{BAD_IMAGES, FAILED, USAGE, schedule};

const HELP: &str = "\
thaw trace looks at the trace of a restore (thaw restore --trace FILE).

Usage: thaw trace COMMAND FILE

  check FILE      whether the restore kept the contract (docs/contract.md); if not, the first
                  broken rule, and both events
  view FILE [-o FILE] [--format svg|text|chrome] [--width COLUMNS]
                  a picture (svg), a small one for terminals (text), or a file for Perfetto
                  and chrome://tracing (chrome)
  order FILE [-o FILE]
                  the order in which device files began, for thaw restore --schedule order:FILE
  -h, --help

Exit codes: 0 done, or legal; 1 illegal, or failed; 2 usage; 3 the trace cannot be read.";

/// Columns of a text if nobody says; terminals have as many.
const WIDTH_DEFAULT: usize = 100;
/// Fewest and most columns of a text.
const WIDTHS: std::ops::RangeInclusive<usize> = 40..=1000;

#[derive(Clone, Copy)]
enum Format {
    Svg,
    Text,
    Chrome,
}

enum Command {
    Check(PathBuf),
    View { file: PathBuf, output: Option<PathBuf>, format: Format, width: usize },
    Order { file: PathBuf, output: Option<PathBuf> },
    Help,
}

/// Parses everything after `trace`, does it, and returns the exit code.
pub(crate) fn run(parser: lexopt::Parser) -> u8 {
    let command = match parse(parser) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("thaw trace: {error}\nSee thaw trace --help.");
            return USAGE;
        }
    };
    match command {
        Command::Help => {
            println!("{HELP}");
            0
        }
        Command::Check(file) => with(&file, |trace| {
            let (text, legal) = check::report(&file, trace);
            print(None, &text)?;
            Ok(if legal { 0 } else { FAILED })
        }),
        Command::View { file, output, format, width } => with(&file, |trace| {
            let text = match format {
                Format::Svg => view::svg(trace),
                Format::Text => text::picture(trace, width),
                Format::Chrome => chrome::json(trace),
            };
            print(output.as_deref(), &text).map(|()| 0)
        }),
        Command::Order { file, output } => with(&file, |trace| {
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

fn parse(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let name = match parser.next()? {
        None => return Err("a command is missing".into()),
        Some(Short('h') | Long("help")) => return Ok(Command::Help),
        Some(Value(name)) => name.string()?,
        Some(other) => return Err(other.unexpected()),
    };
    if !["check", "view", "order"].contains(&name.as_str()) {
        return Err(format!("unknown command {name}").into());
    }
    let (mut file, mut output, mut format, mut width) = (None, None, Format::Svg, WIDTH_DEFAULT);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('o') | Long("output") if name != "check" => output = Some(parser.value()?.into()),
            Long("format") if name == "view" => format = parse_format(&parser.value()?.string()?)?,
            Long("width") if name == "view" => width = parse_width(&parser.value()?.string()?)?,
            Value(value) if file.is_none() => file = Some(PathBuf::from(value)),
            other => return Err(other.unexpected()),
        }
    }
    let file = file.ok_or("the file of the trace is missing")?;
    Ok(match name.as_str() {
        "check" => Command::Check(file),
        "view" => Command::View { file, output, format, width },
        _ => Command::Order { file, output },
    })
}

fn parse_format(name: &str) -> Result<Format, lexopt::Error> {
    match name {
        "svg" => Ok(Format::Svg),
        "text" => Ok(Format::Text),
        "chrome" => Ok(Format::Chrome),
        _ => Err(format!("there is no format {name}: it is svg, text, or chrome").into()),
    }
}

/// A number of columns.
pub(crate) fn parse_width(text: &str) -> Result<usize, lexopt::Error> {
    let width = text.parse().ok().filter(|width| WIDTHS.contains(width));
    width.ok_or_else(|| {
        format!("{text:?} is no width: it is {} to {} columns", WIDTHS.start(), WIDTHS.end()).into()
    })
}

fn with(file: &Path, act: impl FnOnce(&Trace) -> io::Result<u8>) -> u8 {
    let trace = match Trace::read(file) {
        Ok(trace) => trace,
        Err(error) => {
            eprintln!("thaw trace: {}: {}", file.display(), chain(&error));
            return BAD_IMAGES;
        }
    };
    match act(&trace) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("thaw trace: cannot write: {error}");
            FAILED
        }
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
