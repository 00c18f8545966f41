//! `thaw`: checkpoints of process trees brought back to life. This crate only parses and shows.

mod image;
mod log;
mod node;
mod options;
mod restore;

use std::process::ExitCode;
use std::time::Instant;

use lexopt::prelude::*;

/// The restore failed and everything was undone.
pub(crate) const FAILED: u8 = 1;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;
/// The images are damaged or contradict themselves.
pub(crate) const BAD_IMAGES: u8 = 3;
/// The images are good, but this host or version cannot restore them.
pub(crate) const UNFIT_HOST: u8 = 4;
/// The restore failed, and something could not be undone.
pub(crate) const LEFTOVERS: u8 = 5;

const HELP: &str = "\
thaw brings process trees back to life from CRIU checkpoints.

Usage: thaw restore -D DIR [options]
       thaw node run|list-models    (see thaw node --help)
       thaw image COMMAND           (see thaw image --help)

Options of restore:

  -D, --images-dir DIR     directory of the images
  -W, --work-dir DIR       directory of log and pid file (default: that of the images)
  -o, --log-file FILE      log file (default: standard error)
  -v[N], --verbosity=N     how much is logged: 1 errors, 2 warnings, 3 steps, 4 all
  -d, --restore-detached   do not wait for the tree
  -s, --leave-stopped      leave every process stopped
  -S, --restore-sibling    make the root a child of thaw's parent (with -d)
  -j, --shell-job          let the root stay in the caller's session
      --pidfile FILE       write the root's pid to FILE, which must not exist
      --manage-cgroups=ignore  leave the tree in the caller's control groups
      --huge-pages=never   do not fill whole 2 MiB blocks as huge pages
      --workers N          most worker threads
  -h, --help; --version

Exit codes: 0 restored, 1 failed and undone, 2 usage, 3 bad images,
4 this host or version cannot take these images, 5 failed with leftovers.
Without -d, the exit status of the root is passed on.";

fn main() -> ExitCode {
    let start = Instant::now();
    match run(start) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("thaw: {error}\nSee thaw --help.");
            ExitCode::from(USAGE)
        }
    }
}

fn run(start: Instant) -> Result<u8, lexopt::Error> {
    let mut parser = lexopt::Parser::from_env();
    match parser.next()? {
        Some(Value(command)) if command == "restore" => {
            Ok(restore::run(options::parse(parser)?, start))
        }
        Some(Value(command)) if command == "node" => node::run(parser),
        Some(Value(command)) if command == "image" => Ok(image::run(parser)),
        Some(Short('h') | Long("help")) => {
            println!("{HELP}");
            Ok(0)
        }
        Some(Long("version")) => {
            println!("thaw {}", env!("CARGO_PKG_VERSION"));
            Ok(0)
        }
        Some(arg) => Err(arg.unexpected()),
        None => Err("a command is missing".into()),
    }
}

/// The error and everything that caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}
