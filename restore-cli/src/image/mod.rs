//! `thaw image`: images as JSON and back, and what they say. crit's commands and options, and more.
//!
//! It parses and shows; what images are is known by criu-image.

mod convert;
mod look;

use std::path::PathBuf;

use lexopt::prelude::*;

use crate::USAGE;

/// As with crit, and with differences that `diff` finds.
const FAILED: u8 = 1;

const HELP: &str = "\
thaw image reads and writes CRIU images: crit's commands and options, and more.

Usage: thaw image COMMAND

  decode [-i FILE] [-o FILE] [--pretty] [--nopl] [--name NAME]
                  image to JSON; NAME says what standard input is, where no magic number does
  encode [-i FILE] [-o FILE]
                  JSON to image
  show FILE [--nopl]
                  readable JSON, without the data that follows records
  info FILE       kind of image and number of entries
  x DIR ps|fds|mems|rss|gpu [--json]
                  processes, open files, mappings, saved memory, GPU memory
  verify DIR [--json]
                  everything that is wrong with a checkpoint, a line for each finding
  diff A B [--json]
                  what differs between two images, or two checkpoints
  -h, --help

Without FILE it is standard input and output. A file that is written is replaced when all of
it is there.

Exit codes: 0 done, 1 failed, or there are differences, 2 usage, 3 verify has found damage.";

/// What `thaw image` was asked to do.
enum Command {
    Decode(convert::Decode),
    Encode { input: Option<PathBuf>, output: Option<PathBuf> },
    Info { input: PathBuf },
    Explore(look::Explore),
    Verify { dir: PathBuf, json: bool },
    Diff { first: PathBuf, second: PathBuf, json: bool },
    Help,
}

/// Parses everything after `image`, does it, and returns the exit code.
pub(crate) fn run(parser: lexopt::Parser) -> u8 {
    let command = match parse(parser) {
        Ok(command) => command,
        Err(error) => {
            eprintln!("thaw image: {error}\nSee thaw image --help.");
            return USAGE;
        }
    };
    let result = match command {
        Command::Decode(decode) => convert::decode(&decode),
        Command::Encode { input, output } => convert::encode(input.as_deref(), output.as_deref()),
        Command::Info { input } => convert::info(&input),
        Command::Explore(explore) => look::explore(&explore),
        Command::Verify { dir, json } => look::verify(&dir, json),
        Command::Diff { first, second, json } => look::diff(&first, &second, json),
        Command::Help => {
            println!("{HELP}");
            Ok(())
        }
    };
    match result {
        Ok(()) => 0,
        Err(failure) => {
            if let Some(text) = failure.text {
                eprintln!("{text}");
            }
            failure.code
        }
    }
}

/// Why a command did not succeed, and what to say; nothing if everything has been said.
struct Failure {
    code: u8,
    text: Option<String>,
}

impl Failure {
    fn new(error: &dyn std::error::Error) -> Self {
        Self { code: FAILED, text: Some(format!("thaw image: {}", crate::log::chain(error))) }
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let Some(arg) = parser.next()? else { return Err("a command is missing".into()) };
    match arg {
        Short('h') | Long("help") => Ok(Command::Help),
        Value(name) => match name.to_str() {
            Some("decode") => parse_decode(parser, false),
            Some("show") => parse_decode(parser, true),
            Some("encode") => parse_encode(parser),
            Some("info") => parse_info(parser),
            Some("x") => parse_explore(parser),
            Some("verify") => {
                let ([dir], json) = parse_paths(parser)?;
                Ok(Command::Verify { dir, json })
            }
            Some("diff") => {
                let ([first, second], json) = parse_paths(parser)?;
                Ok(Command::Diff { first, second, json })
            }
            _ => Err(format!("unknown command {}", name.display()).into()),
        },
        other => Err(other.unexpected()),
    }
}

fn parse_decode(mut parser: lexopt::Parser, show: bool) -> Result<Command, lexopt::Error> {
    let mut decode = convert::Decode { readable: show, payloads: true, ..Default::default() };
    while let Some(arg) = parser.next()? {
        match arg {
            Long("nopl") => decode.payloads = false,
            Value(file) if show && decode.input.is_none() => decode.input = Some(file.into()),
            Long("pretty") if !show => decode.readable = true,
            Long("name") if !show => decode.name = Some(parser.value()?.string()?),
            Short('i') | Long("in" | "input") if !show => {
                decode.input = Some(parser.value()?.into());
            }
            Short('o') | Long("out" | "output") if !show => {
                decode.output = Some(parser.value()?.into());
            }
            Short('h') | Long("help") => return Ok(Command::Help),
            other => return Err(other.unexpected()),
        }
    }
    if show && decode.input.is_none() {
        return Err("the file is missing".into());
    }
    Ok(Command::Decode(decode))
}

fn parse_encode(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let (mut input, mut output) = (None, None);
    while let Some(arg) = parser.next()? {
        match arg {
            Short('i') | Long("in" | "input") => input = Some(parser.value()?.into()),
            Short('o') | Long("out" | "output") => output = Some(parser.value()?.into()),
            Short('h') | Long("help") => return Ok(Command::Help),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Command::Encode { input, output })
}

fn parse_info(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let mut input = None;
    while let Some(arg) = parser.next()? {
        match arg {
            Value(file) if input.is_none() => input = Some(file.into()),
            Short('h') | Long("help") => return Ok(Command::Help),
            other => return Err(other.unexpected()),
        }
    }
    let input = input.ok_or("the file is missing")?;
    Ok(Command::Info { input })
}

fn parse_explore(mut parser: lexopt::Parser) -> Result<Command, lexopt::Error> {
    let (mut dir, mut kind, mut json) = (None, None, false);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("json") => json = true,
            Value(value) if dir.is_none() => dir = Some(value.into()),
            Value(value) if kind.is_none() => kind = Some(look::kind(&value)?),
            Short('h') | Long("help") => return Ok(Command::Help),
            other => return Err(other.unexpected()),
        }
    }
    let (Some(dir), Some(kind)) = (dir, kind) else {
        return Err("the directory, or what to show of it, is missing".into());
    };
    Ok(Command::Explore(look::Explore { dir, kind, json }))
}

/// So many paths, and whether JSON is asked for.
fn parse_paths<const N: usize>(
    mut parser: lexopt::Parser,
) -> Result<([PathBuf; N], bool), lexopt::Error> {
    let (mut paths, mut json) = (Vec::new(), false);
    while let Some(arg) = parser.next()? {
        match arg {
            Long("json") => json = true,
            Value(value) if paths.len() < N => paths.push(PathBuf::from(value)),
            other => return Err(other.unexpected()),
        }
    }
    let paths = paths.try_into().map_err(|_| format!("{N} path(s) are expected"))?;
    Ok((paths, json))
}
