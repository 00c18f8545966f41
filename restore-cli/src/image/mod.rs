//! `thaw image`: images as JSON and back, and what they say. crit's commands and options, and more.
//!
//! It parses and shows; what images are is known by criu-image.

mod convert;
mod look;

use std::path::PathBuf;

use clap::Args;
use criu_image::ViewKind;

/// As with crit, and with differences that `diff` finds.
const FAILED: u8 = 1;

/// Read and write CRIU images: crit's commands and options, and more
///
/// Without FILE it is standard input and output. A file that is written is replaced when all of it
/// is there.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 done, 1 failed, or there are differences, 2 usage, \
                        3 verify has found damage.")]
pub(crate) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Image to JSON
    Decode(Decode),
    /// JSON to image
    Encode(Encode),
    /// Readable JSON of an image
    Show(Show),
    /// Kind of an image and number of its entries
    Info(Info),
    /// Processes, open files, mappings, saved memory, or GPU memory of a checkpoint
    X(Explore),
    /// Everything that is wrong with a checkpoint, a line for each finding
    Verify(Verify),
    /// What differs between two images, or two checkpoints
    Diff(Diff),
}

#[derive(Debug, Args)]
struct Decode {
    /// The image
    #[arg(short = 'i', long = "in", alias = "input", value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where the JSON goes
    #[arg(short = 'o', long = "out", alias = "output", value_name = "FILE")]
    output: Option<PathBuf>,
    /// Indent, and write numbers as people read them
    #[arg(long)]
    pretty: bool,
    /// Leave out the data that follows records
    #[arg(long)]
    nopl: bool,
    /// What standard input is, where no magic number says it, as in pages-1.img
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

#[derive(Debug, Args)]
struct Encode {
    /// The JSON
    #[arg(short = 'i', long = "in", alias = "input", value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where the image goes
    #[arg(short = 'o', long = "out", alias = "output", value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Show {
    /// The image
    file: PathBuf,
    /// Leave out the data that follows records
    #[arg(long)]
    nopl: bool,
}

#[derive(Debug, Args)]
struct Info {
    /// The image; standard input if it is missing
    file: PathBuf,
}

#[derive(Debug, Args)]
struct Explore {
    /// Directory of a checkpoint
    dir: PathBuf,
    /// What to show: ps, fds, mems, rss, gpu
    #[arg(value_name = "WHAT", value_parser = look::kind)]
    kind: ViewKind,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Verify {
    /// Directory of a checkpoint
    dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Diff {
    /// An image, or the directory of a checkpoint
    first: PathBuf,
    /// Another one
    second: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Does it, and returns the exit code.
pub(crate) fn run(options: Options) -> u8 {
    let result = match options.command {
        Command::Decode(Decode { input, output, pretty, nopl, name }) => {
            let readable = pretty;
            convert::decode(&convert::Decode { input, output, readable, payloads: !nopl, name })
        }
        Command::Show(Show { file, nopl }) => convert::decode(&convert::Decode {
            input: Some(file),
            readable: true,
            payloads: !nopl,
            ..convert::Decode::default()
        }),
        Command::Encode(encode) => {
            convert::encode(encode.input.as_deref(), encode.output.as_deref())
        }
        Command::Info(info) => convert::info(&info.file),
        Command::X(explore) => look::explore(&explore.dir, explore.kind, explore.json),
        Command::Verify(verify) => look::verify(&verify.dir, verify.json),
        Command::Diff(diff) => look::diff(&diff.first, &diff.second, diff.json),
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
