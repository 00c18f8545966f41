//! What developers and CI run. Each command is one file; `ci` is all of them.

mod bench;
mod command;
mod peers;
mod suite;
mod tidy;
mod zdtm;

use std::process::ExitCode;

use lexopt::prelude::*;

const HELP: &str = "\
cargo xtask COMMAND

  test      build everything and pass every test; what cannot run here is listed as skipped
  ci        formatting, clippy, documentation, tidy rules, and all tests
  tidy      the rules of the house that no compiler checks
  peers     fetch the programs that we compare with into target/peers
  bench restore [--runs N] [--case NAME]
            compare with upstream on the same images, alternating
  zdtm-report TABLE UPSTREAM
            write docs/zdtm.md from a table of results and the list of what upstream passes";

fn main() -> ExitCode {
    let result = run();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut parser = lexopt::Parser::from_env();
    let Some(Value(name)) = parser.next().map_err(|error| error.to_string())? else {
        println!("{HELP}");
        return Ok(());
    };
    std::env::set_current_dir(command::root()).map_err(|error| error.to_string())?;
    match name.to_str() {
        Some("test") => suite::test(),
        Some("ci") => suite::ci(),
        Some("tidy") => tidy::run(),
        Some("peers") => peers::fetch().map(|path| println!("{}", path.display())),
        Some("bench") => bench::run(parser),
        Some("zdtm-report") => zdtm::report(parser),
        _ => Err(format!("unknown command {}\n{HELP}", name.display())),
    }
}
