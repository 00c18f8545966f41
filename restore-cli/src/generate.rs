//! `thaw generate`: man pages and shell completions, of the definition that the command line is
//! parsed by.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap_complete::Shell;

use crate::screen::Screen;
use crate::{FAILED, options};

/// Write man pages, or completions for a shell
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
        What::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut options::definition(), "thaw", &mut text);
            io::stdout().lock().write_all(&text)
        }
    };
    match written {
        Ok(()) => 0,
        Err(error) => {
            let _ = writeln!(screen.err(), "thaw generate: cannot write: {error}");
            FAILED
        }
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
