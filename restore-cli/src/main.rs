//! `thaw`: checkpoints of process trees, made and brought back to life. This crate only parses and
//! shows.

mod check;
mod codes;
mod console;
mod dump;
mod explore;
mod generate;
mod image;
mod log;
mod markup;
mod node;
mod options;
mod output;
mod plan;
mod progress;
mod report;
mod restore;
mod schedule;
mod screen;
mod show;
mod trace;
mod version;

use std::process::ExitCode;
use std::time::Instant;

use options::Command;

/// It failed and everything was undone.
pub(crate) const FAILED: u8 = 1;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;
/// The images are damaged or contradict themselves.
pub(crate) const BAD_IMAGES: u8 = 3;
/// The images or the tree are good, but this host or version cannot take them.
pub(crate) const UNFIT_HOST: u8 = 4;
/// It failed, and something could not be undone.
pub(crate) const LEFTOVERS: u8 = 5;

fn main() -> ExitCode {
    let start = Instant::now();
    match run(start) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            options::say(&error);
            ExitCode::from(error.exit_code() as u8)
        }
    }
}

fn run(start: Instant) -> Result<u8, clap::Error> {
    let (cli, screen) = options::parse(std::env::args_os().collect())?;
    match cli.command {
        Command::Restore(options) => restore::run(&options, screen, start),
        Command::Plan(options) => plan::run(&options, screen, start),
        Command::Dump(options) => Ok(dump::run(&options, screen, start)),
        Command::Node(options) => node::run(options, screen),
        Command::Image(options) => Ok(image::run(options)),
        Command::Explore(options) => Ok(explore::command::run(&options)),
        Command::Trace(options) => Ok(trace::run(options, screen)),
        Command::Check(options) => check::run(&options, screen),
        Command::Show(options) => Ok(show::run(&options, screen)),
        Command::Generate(options) => Ok(generate::run(&options, screen)),
    }
}
