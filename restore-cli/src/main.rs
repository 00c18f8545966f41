//! `thaw`: checkpoints of process trees, made and brought back to life. This crate only parses and
//! shows.

mod dump;
mod explore;
mod image;
mod log;
mod node;
mod options;
mod output;
mod plan;
mod restore;
mod schedule;
mod trace;

use std::process::ExitCode;
use std::time::Instant;

use lexopt::prelude::*;

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

const HELP: &str = "\
thaw makes checkpoints of process trees, in CRIU's format, and brings them back to life.

Usage: thaw dump -t PID -D DIR [options]
       thaw restore -D DIR [options]
       thaw plan -D DIR [options]   (see thaw plan --help)
       thaw node run|list-models|fault  (see thaw node --help)
       thaw image COMMAND           (see thaw image --help)
       thaw trace COMMAND           (see thaw trace --help)
       thaw explore -D DIR          (see thaw explore --help)

Both:
  -D, --images-dir DIR     directory of the images
  -W, --work-dir DIR       directory of log and pid file (default: that of the images)
  -o, --log-file FILE      log file (default: standard error)
  -v[N], --verbosity=N     how much is logged: 1 errors, 2 warnings, 3 steps, 4 all
  -j, --shell-job          the root is, or may be, in the session of a shell
      --manage-cgroups=ignore  leave the tree in the caller's control groups
      --workers N          most worker threads
  -s, --leave-stopped      leave every process stopped

Dump:
  -t, --tree PID           the root of the tree
  -R, --leave-running      let the tree go on; without it (and -s) it is killed
      --link-remap         give files that were renamed a link beside their old name
      --ghost-limit SIZE   largest deleted file that is saved (1M; K, M, G)
      --freeze-cgroup DIR  freeze this control group (version 2) until all of it is held
      --timeout SECONDS    give up after this time

Restore:
  -d, --restore-detached   do not wait for the tree
  -S, --restore-sibling    make the root a child of thaw's parent (with -d)
      --pidfile FILE       write the root's pid to FILE, which must not exist
      --huge-pages=never   do not fill whole 2 MiB blocks as huge pages

  -h, --help; --version

Exit codes: 0 done, 1 failed and undone, 2 usage, 3 bad images,
4 this host or version cannot take these images, or this tree, 5 failed with leftovers.
A restore without -d passes on the exit status of the root.";

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
            Ok(restore::run(options::restore::parse(parser)?, start))
        }
        Some(Value(command)) if command == "plan" => plan::run(parser, start),
        Some(Value(command)) if command == "dump" => {
            Ok(dump::run(options::dump::parse(parser)?, start))
        }
        Some(Value(command)) if command == "node" => node::run(parser),
        Some(Value(command)) if command == "image" => Ok(image::run(parser)),
        Some(Value(command)) if command == "explore" => Ok(explore::command::run(parser)),
        Some(Value(command)) if command == "trace" => Ok(trace::run(parser)),
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
