//! `thaw generate`: man pages and shell completions, of the definition that the command line is
//! parsed by.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap_complete::Shell;

use crate::options;
use crate::screen::Screen;

/// Write man pages, completions for a shell, or a list of all options
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Write man pages, one for each command, into a directory
    Man {
        /// The directory, which must exist
        dir: PathBuf,
    },
    /// Print all commands with their options, as JSON
    Options,
    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Does it and returns the exit code.
pub(crate) fn run(options: &Options, screen: Screen) -> u8 {
    let written = match &options.what {
        What::Man { dir } => man(dir),
        What::Options => {
            let mut commands = Vec::new();
            let mut definition = options::definition();
            definition.build();
            describe(&definition, "thaw", &mut commands);
            let list = serde_json::json!({
                "format": "thaw options", "version": 1, "commands": commands,
            });
            writeln!(io::stdout().lock(), "{list}")
        }
        What::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut options::definition(), "thaw", &mut text);
            io::stdout().lock().write_all(&text)
        }
    };
    match written {
        Ok(()) => 0,
        Err(error) => screen.unwritten("generate", &error),
    }
}

/// A command and those below it, each with its own options.
fn describe(command: &clap::Command, name: &str, into: &mut Vec<serde_json::Value>) {
    let option = |arg: &clap::Arg| {
        serde_json::json!({
            "name": arg.get_id().as_str(),
            "long": arg.get_long(),
            "short": arg.get_short(),
            "takes_value": arg.get_action().takes_values(),
            "required": arg.is_required_set(),
            "help": arg.get_help().map(ToString::to_string),
        })
    };
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    into.push(serde_json::json!({
        "command": name,
        "about": command.get_about().map(ToString::to_string),
        "options": shown.map(option).collect::<Vec<_>>(),
    }));
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        describe(inner, &format!("{name} {}", inner.get_name()), into);
    }
}

/// `thaw.1`, `thaw-dump.1`, `thaw-image-diff.1` and so on.
fn man(dir: &Path) -> io::Result<()> {
    let mut definition = options::definition().disable_help_flag(true);
    definition.build();
    pages(&definition, "thaw", dir)
}

fn pages(command: &clap::Command, name: &str, dir: &Path) -> io::Result<()> {
    let mut text = Vec::new();
    let page = clap_mangen::Man::new(command.clone()).title(name).source(version());
    page.render(&mut text)?;
    fs::write(dir.join(format!("{name}.1")), text)?;
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        pages(inner, &format!("{name}-{}", inner.get_name()), dir)?;
    }
    Ok(())
}

fn version() -> String {
    format!("thaw {}", *crate::version::SHORT)
}
