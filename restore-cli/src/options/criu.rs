//! Options of criu that have no field of their own: those without effect here, and those that would
//! change the result and are not supported.
//!
//! A table for each command says how each is treated and why; parsing, help and man pages read it.

use std::marker::PhantomData;

use clap::{Arg, ArgAction, ArgMatches, Command};

/// How an option is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// Taken and without effect: harmless here.
    Ignored,
    /// Would change the result and is not supported.
    Refused,
}

/// Whether an option has a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    Nothing,
    /// Only with `=`, or right behind a short name.
    Perhaps,
    Value,
}

/// One such option: its long name, short name, value, what is done, and why.
pub(crate) type Other = (&'static str, Option<char>, Takes, Treatment, &'static str);

/// The table of a command.
pub(crate) trait Table {
    const OTHERS: &'static [Other];
}

/// What the command line has of such options.
#[derive(Clone, Debug)]
pub(crate) struct Others<T> {
    /// A line for each that is refused.
    pub(crate) refused: Vec<String>,
    /// A line for each that is ignored.
    pub(crate) ignored: Vec<String>,
    table: PhantomData<T>,
}

impl<T: Table> Others<T> {
    fn read(matches: &ArgMatches) -> Self {
        let (mut refused, mut ignored) = (Vec::new(), Vec::new());
        for &(name, _, takes, treatment, why) in T::OTHERS {
            let is_given = match takes {
                Takes::Nothing => matches.get_flag(name),
                Takes::Perhaps | Takes::Value => matches.contains_id(name),
            };
            match treatment {
                _ if !is_given => {}
                Treatment::Refused => {
                    refused.push(format!("--{name}: {why} are not supported yet"));
                }
                Treatment::Ignored => {
                    ignored.push(format!("--{name} has no effect here: {why}"));
                }
            }
        }
        Self { refused, ignored, table: PhantomData }
    }
}

impl<T: Table> clap::FromArgMatches for Others<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self::read(matches))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::read(matches);
        Ok(())
    }
}

impl<T: Table> clap::Args for Others<T> {
    fn augment_args(command: Command) -> Command {
        let arg = |&(name, short, takes, treatment, why): &Other| {
            let (heading, help) = match treatment {
                Treatment::Ignored => ("Options of criu without effect here", why.to_owned()),
                Treatment::Refused => {
                    ("Options of criu that are refused", format!("{why} are not supported yet"))
                }
            };
            let arg = Arg::new(name).long(name).help(help).help_heading(heading);
            let arg = arg.hide_short_help(true);
            let arg = match short {
                Some(short) => arg.short(short),
                None => arg,
            };
            match takes {
                Takes::Nothing => arg.action(ArgAction::SetTrue),
                Takes::Perhaps => arg
                    .value_name("VALUE")
                    .num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("")
                    .action(ArgAction::Append),
                Takes::Value => arg.value_name("VALUE").action(ArgAction::Append),
            }
        };
        command.args(T::OTHERS.iter().map(arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}
