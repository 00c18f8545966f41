//! What developers and CI run. Each command is one module; `ci` is all of them.
//!
//! It builds, tests and measures; nothing that a user needs lives here.

mod bench;
mod command;
mod demo;
mod dist;
mod errors;
mod fuzz;
mod gpu_tree;
mod peers;
mod suite;
mod tidy;
mod zdtm;

use std::process::ExitCode;

use lexopt::prelude::*;

const HELP: &str = "\
cargo xtask COMMAND

  demo      a process tree is checkpointed, killed, brought back, and goes on
  test      build everything and pass every test; what cannot run here is listed as skipped;
            the last line is `N passed, N failed, N skipped`
  ci        formatting, clippy, documentation, tidy rules, and all tests
  dist      a release: a static program, man pages, completions, checksums, in target/dist
  tidy      the rules of the house that no compiler checks
  errors    write docs/errors.md, the list of all errors, from the source
  peers     fetch the programs that we compare with into target/peers
  bench dump [--runs N] [--case small|tree|twenty] [--on-disk] [--thaw PROGRAM]
            compare with upstream on the same trees, alternating: whole time and time frozen
  bench restore [--runs N] [--case small|tree|twenty|vmas] [--thaw PROGRAM]
            compare with upstream on the same images, alternating; PROGRAM stands in for thaw
  bench node [--runs N]
            how long calls of an emulated node take, and how fast its memory is
  bench image [--runs N] [--case NAME] [--crit PROGRAM]
            compare with upstream's crit on large images; PROGRAM stands in for the one fetched
  fuzz [TARGET] [--seconds N] [--merge]
            hostile input for criu-image: image, typed, json, gpu, directory, or all of them;
            --merge adds what was found to the committed corpus
  zdtm-report --restores TABLE --dumps TABLE --both TABLE --refusals TABLE UPSTREAM
            write docs/zdtm.md from tables of results and the list of what upstream passes";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<ExitCode, String> {
    let mut parser = lexopt::Parser::from_env();
    let name = match parser.next().map_err(|error| error.to_string())? {
        None | Some(Short('h') | Long("help")) => {
            println!("{HELP}");
            return Ok(ExitCode::SUCCESS);
        }
        Some(Value(name)) => name,
        Some(other) => return Err(other.unexpected().to_string()),
    };
    std::env::set_current_dir(command::root()).map_err(|error| error.to_string())?;
    let done = |()| ExitCode::SUCCESS;
    match name.to_str() {
        Some("demo") => demo::run().map(done),
        Some("test") => Ok(suite::test()),
        Some("ci") => Ok(suite::ci()),
        Some("dist") => dist::run().map(done),
        Some("tidy") => tidy::run().map(done),
        Some("errors") => errors::run().map(done),
        Some("peers") => peers::show().map(done),
        Some("bench") => bench::run(parser).map(done),
        Some("fuzz") => fuzz::run(parser).map(done),
        Some("zdtm-report") => zdtm::report(parser).map(done),
        _ => Err(format!("unknown command {}\n{HELP}", name.display())),
    }
}
