//! The command line: criu's names, checked whole before anything is done.
//!
//! One definition, of which parsing, help, man pages, completions and the configuration file are
//! made. Options that do not matter here, but that scripts pass all the same, are taken and
//! ignored; whatever would change the result and is not supported is an error.

mod config;
mod criu;
pub(crate) mod dump;
pub(crate) mod restore;
pub(crate) mod values;

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

pub(crate) use criu::Others;
pub(crate) use dump::Dump;
pub(crate) use restore::Restore;

use crate::codes;
use crate::screen::{Colors, Screen};

/// Checkpoints of Linux process trees that use AMD GPUs, made and brought back to life
///
/// thaw speaks CRIU's image format: what it writes, upstream's restore takes, and the other way
/// round. It checks everything before it touches anything, does all of a tree or nothing of it, and
/// says what it did.
#[derive(Debug, Parser)]
#[command(name = "thaw", version = crate::version::SHORT.as_str(),
          long_version = crate::version::LONG.as_str(),
          disable_help_subcommand = true, args_override_self = true, max_term_width = 100,
          after_long_help = EXIT_CODES, propagate_version = false)]
pub(crate) struct Cli {
    /// When colours are used
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        help_heading = "Everywhere"
    )]
    color: Colors,
    /// Columns of what is printed; by default those of the terminal, or 100
    #[arg(long, global = true, value_name = "COLUMNS", value_parser = values::width,
          help_heading = "Everywhere")]
    width: Option<usize>,
    /// Configuration file, beside /etc/thaw.toml
    #[arg(long, global = true, value_name = "FILE", help_heading = "Everywhere")]
    config: Option<PathBuf>,
    /// Do not read /etc/thaw.toml
    #[arg(long, global = true, help_heading = "Everywhere")]
    no_default_config: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Dump(Box<Dump>),
    Restore(Box<Restore>),
    /// Say what a restore would do with device files, without doing it
    ///
    /// Which there are, in which order, what waits for what, what may go on at the same time, and
    /// what had to be assumed. It changes nothing. With --json it is the line that a trace begins
    /// with.
    Plan(Box<Restore>),
    Check(Box<crate::check::Options>),
    Show(crate::show::Options),
    Trace(crate::trace::Options),
    Explore(crate::explore::command::Options),
    Image(crate::image::Options),
    Node(crate::node::Options),
    Generate(crate::generate::Options),
}

/// Where the log goes, and how much of it.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Log")]
pub(crate) struct Logging {
    /// Directory of log, pid file and statistics (default: that of the images)
    #[arg(short = 'W', long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Log file, in the work directory unless it is absolute
    #[arg(short = 'o', long, value_name = "FILE")]
    log_file: Option<PathBuf>,
    /// How much is logged: 0 nothing, 1 errors, 2 warnings (default), 3 steps, 4 all; -v alone is
    /// one more
    #[arg(short = 'v', long, value_name = "N", num_args = 0..=1, require_equals = true,
          default_missing_value = "", action = clap::ArgAction::Append,
          value_parser = values::verbosity_step)]
    verbosity: Vec<String>,
}

impl Logging {
    /// How much is logged.
    pub(crate) fn level(&self) -> u8 {
        values::verbosity(&self.verbosity)
    }

    /// The work directory, if it was chosen.
    pub(crate) fn chosen_dir(&self) -> Option<&Path> {
        self.work_dir.as_deref()
    }

    /// The work directory.
    pub(crate) fn dir<'a>(&'a self, images_dir: &'a Path) -> &'a Path {
        self.work_dir.as_deref().unwrap_or(images_dir)
    }

    /// The log file, if there is one.
    pub(crate) fn file(&self, images_dir: &Path) -> Option<PathBuf> {
        self.log_file.as_ref().map(|name| self.dir(images_dir).join(name))
    }
}

/// What is said, and to whom.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Report")]
pub(crate) struct Reporting {
    /// Write a report to FILE: JSON, or a page for browsers if its name ends in .html
    #[arg(long, value_name = "FILE", action = clap::ArgAction::Append)]
    pub(crate) report: Vec<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Write progress to this open file descriptor, as JSON lines
    #[arg(long, value_name = "FD")]
    pub(crate) progress_fd: Option<i32>,
}

pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done: the tree runs, or its images are in place
  1  it failed and everything was undone
  2  the command line is wrong
  3  the images are damaged or contradict themselves
  4  the images or the tree are good, but this host or version cannot take them
  5  it failed, and something could not be undone
A restore without -d passes on the exit status of the root; thaw node run, that of its command.";

/// The whole definition.
pub(crate) fn definition() -> clap::Command {
    Cli::command()
}

/// Parses a command line, with what the configuration files add to it.
pub(crate) fn parse(args: Vec<OsString>) -> Result<(Cli, Screen), clap::Error> {
    let args = spread(args);
    let definition = match early(&args, "--width").and_then(|text| values::width(text).ok()) {
        Some(width) => definition().term_width(width),
        None => definition(),
    };
    let definition = definition.color(match early_colors(&args) {
        Colors::Auto => clap::ColorChoice::Auto,
        Colors::Always => clap::ColorChoice::Always,
        Colors::Never => clap::ColorChoice::Never,
    });
    // Without the files first: they may be named there, and what is wrong there is their fault only
    // then.
    let matches = definition.clone().try_get_matches_from(&args)?;
    let cli = Cli::from_arg_matches(&matches)?;
    let added = config::added(&definition, &matches, cli.config.as_deref(), cli.no_default_config);
    let added = added.map_err(|error| wrong(codes::CONFIG, crate::log::chain(&error)))?;
    let cli = match added.is_empty() {
        true => cli,
        false => {
            let place = config::place(&args, &matches);
            let (before, after) = args.split_at(place);
            let args = before.iter().chain(&added).chain(after);
            Cli::from_arg_matches(&definition.clone().try_get_matches_from(args)?)?
        }
    };
    let screen = Screen::new(cli.color, cli.width);
    Ok((cli, screen))
}

/// The value of an option that matters to a help or to what is said of a wrong line, which are
/// printed before all options are known.
fn early<'a>(args: &'a [OsString], name: &str) -> Option<&'a str> {
    let texts = args.iter().map(|arg| arg.to_str().unwrap_or_default());
    let texts: Vec<&str> = texts.take_while(|text| *text != "--").collect();
    let is_it = |text: &&str| {
        text.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    let place = texts.iter().position(is_it)?;
    match texts[place].split_once('=') {
        Some((_, value)) => Some(value),
        None => texts.get(place + 1).copied(),
    }
}

fn early_colors(args: &[OsString]) -> Colors {
    let chosen = early(args, "--color").and_then(|text| Colors::from_str(text, false).ok());
    chosen.unwrap_or_default()
}

/// An error of the command line that clap does not find.
pub(crate) fn wrong(code: codes::ErrorCode, text: impl std::fmt::Display) -> clap::Error {
    wrong_of(code.code, Some(code.help), text)
}

/// A switch of the environment that is wrong.
pub(crate) fn wrong_switch(error: gpu_kfd::SwitchError) -> clap::Error {
    wrong_of(error.code(), error.help(), &error)
}

fn wrong_of(code: &str, help: Option<&str>, text: impl std::fmt::Display) -> clap::Error {
    use clap::error::{ContextKind, ContextValue};
    let help = help.map_or_else(String::new, |help| format!("Help: {help}\n"));
    let text = format!("{text}\n\n{help}");
    let mut error = clap::Error::raw(clap::error::ErrorKind::ValueValidation, text);
    error.insert(ContextKind::Custom, ContextValue::String(code.to_owned()));
    error.with_cmd(&definition())
}

/// Prints help that was asked for, or what is wrong with a command line and the code of that.
pub(crate) fn say(error: &clap::Error) {
    use clap::error::ErrorKind;
    let code = match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print(); // there is nobody else to tell
            return;
        }
        ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand => codes::OPTION,
        ErrorKind::MissingRequiredArgument | ErrorKind::MissingSubcommand => codes::MISSING,
        _ => codes::VALUE,
    };
    let code = match error.get(clap::error::ContextKind::Custom) {
        Some(clap::error::ContextValue::String(own)) => own,
        _ => code.code,
    };
    let text = error.render().ansi().to_string();
    let args: Vec<OsString> = std::env::args_os().collect();
    let mut err = Screen::new(early_colors(&args), None).err();
    let _ = write!(err, "{text}");
    let _ = writeln!(err, "Code: {code} (docs/errors.md)");
}

/// `-v4` becomes `-v=4`: of a short option whose value may be missing, it is the only value that
/// scripts write. What follows `--`, or the command of `node run`, is not ours.
fn spread(args: Vec<OsString>) -> Vec<OsString> {
    let is_ours = |arg: &OsString| arg != "--" && arg != "node";
    let ours = args.iter().take_while(|arg| is_ours(arg)).count();
    let split = |(index, arg): (usize, OsString)| {
        let level = arg.to_str().and_then(|arg| arg.strip_prefix("-v"));
        match level.filter(|level| index < ours && level.parse::<u8>().is_ok()) {
            Some(level) => format!("-v={level}").into(),
            None => arg,
        }
    };
    args.into_iter().enumerate().map(split).collect()
}

#[cfg(test)]
mod tests {
    use restore_core::Leave;

    use super::{Cli, Command, Dump, Restore, definition, parse};

    fn parsed(line: &str) -> Result<Cli, clap::Error> {
        let words = ["thaw", "--no-default-config"].into_iter().chain(line.split_whitespace());
        parse(words.map(Into::into).collect()).map(|(cli, _)| cli)
    }

    fn dump(line: &str) -> Dump {
        match parsed(line).expect("a good line").command {
            Command::Dump(dump) => *dump,
            other => panic!("{other:?}"),
        }
    }

    fn restore(line: &str) -> Restore {
        match parsed(line).expect("a good line").command {
            Command::Restore(restore) => *restore,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn definition_contradicts_itself_nowhere() {
        definition().debug_assert();
    }

    #[test]
    fn dumps_have_the_options_of_criu() {
        let line = "dump --log-file dump.log --images-dir a --verbosity=4 --tree 7 --timeout 10 \
                    --pre-dump-mode splice -l -x";
        let options = dump(line);
        assert_eq!((options.root, options.logging.level()), (7, 4));
        assert!(options.others.refused.is_empty());
        assert_eq!(options.others.ignored.len(), 3);
        assert_eq!(dump("dump -t 7 -D a --track-mem").others.refused.len(), 1);
        let with_root = dump("dump -t 7 -D a --root 8");
        assert_eq!((with_root.root, with_root.others.refused.len()), (7, 1));
        for wrong in ["dump -t 7", "dump -D a", "dump -t 0 -D a", "dump -t 7 -D a --no-such-option"]
        {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn restores_have_the_options_of_criu() {
        let options = restore("restore -d -S -D a -vvvv --manage-cgroups=ignore -j --cpu-cap=all");
        assert!(options.detached && options.restore_sibling);
        assert_eq!(options.logging.level(), 6);
        assert_eq!(options.planning.manage_cgroups, Some(true));
        assert!(parsed("restore -S -D a").is_err(), "a sibling needs -d");
        assert!(parsed("restore").is_err());
        assert_eq!(restore("restore -D a --manage-cgroups").planning.manage_cgroups, Some(false));
    }

    #[test]
    fn verbosity_is_written_as_scripts_do() {
        for (line, level) in [
            ("dump -t 7 -D a", 2),
            ("dump -v -t 7 -D a", 3),
            ("dump -vv -t 7 -D a", 4),
            ("dump -v4 -t 7 -D a", 4),
            ("dump -v0 -t 7 -D a", 0),
            ("dump --verbosity=1 -t 7 -D a", 1),
            ("dump --verbosity -t 7 -D a", 3),
        ] {
            assert_eq!(dump(line).logging.level(), level, "{line}");
        }
    }

    #[test]
    fn last_word_counts() {
        assert_eq!(dump("dump -t 7 -D a -t 8").root, 8);
        assert_eq!(dump("dump -t 7 -D a -R -s").leave(), Leave::Stopped);
        assert_eq!(dump("dump -t 7 -D a -R").leave(), Leave::Running);
    }

    #[test]
    fn arguments_of_a_command_are_its_own() {
        let Command::Node(_) = parsed("node run -- sh -v4").expect("a good line").command else {
            panic!("it is a node");
        };
    }
}
