//! The configuration file: options that are given without being written each time.
//!
//! `/etc/thaw.toml` if it is there, and the file of `--config`. At the top level stand options that
//! every command has; a table with the name of a command holds those of that command, by their long
//! names:
//!
//! ```toml
//! color = "never"
//! [restore]
//! manage-cgroups = "ignore"
//! shell-job = true
//! ```
//!
//! They are put before the options of the command line, which so have the last word. A name that is
//! no option is an error: it could have been meant to matter.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{ArgAction, ArgMatches, Command};
use toml::{Table, Value};

/// The file that is read if it is there.
const DEFAULT: &str = "/etc/thaw.toml";
/// Longest file, in bytes: it holds a line for each option at most.
const BYTES_MAX: u64 = 1 << 20;

/// What is wrong with a configuration file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is longer than any configuration.
    #[error("the configuration {} has more than {BYTES_MAX} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// It is no TOML.
    #[error("the configuration {} is no TOML", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// It names an option that there is not.
    #[error("the configuration {} sets {name}, which is no option of {command}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What it sets.
        name: String,
        /// The command.
        command: String,
    },
    /// A value is of a type that this option does not take.
    #[error("the configuration {} sets {name} to {found}, where {wanted} is expected",
            path.display())]
    Type {
        /// The file.
        path: PathBuf,
        /// What it sets.
        name: String,
        /// Type of the value.
        found: &'static str,
        /// Type of the option.
        wanted: &'static str,
    },
}

/// Arguments that the files add for the command of `matches`.
pub(super) fn added(
    definition: &Command,
    matches: &ArgMatches,
    chosen: Option<&Path>,
    no_default: bool,
) -> Result<Vec<OsString>, ConfigError> {
    let default = Path::new(DEFAULT);
    let default = (!no_default && default.exists()).then_some(default);
    let Some((name, _)) = matches.subcommand() else { return Ok(Vec::new()) };
    let mut added = Vec::new();
    for path in default.into_iter().chain(chosen) {
        let table = read(path)?;
        let file = File { path, definition };
        file.check(&table)?;
        for (key, value) in &table {
            if !value.is_table() {
                added.extend(file.arguments(definition, key, value)?);
            }
        }
        let command = definition.find_subcommand(name);
        if let (Some(command), Some(Value::Table(section))) = (command, table.get(name)) {
            for (key, value) in section {
                added.extend(file.arguments(command, key, value)?);
            }
        }
    }
    Ok(added)
}

/// Where in the arguments they go: behind the name of the command.
pub(super) fn place(args: &[OsString], matches: &ArgMatches) -> usize {
    let name = matches.subcommand_name().unwrap_or_default();
    args.iter().position(|arg| arg == name).map_or(args.len(), |index| index + 1)
}

fn read(path: &Path) -> Result<Table, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(failed)?.len() > BYTES_MAX {
        return Err(ConfigError::TooLong { path: path.to_owned() });
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    text.parse()
        .map_err(|source| ConfigError::Syntax { path: path.to_owned(), source: Box::new(source) })
}

/// A file while it is understood.
struct File<'a> {
    path: &'a Path,
    definition: &'a Command,
}

impl File<'_> {
    /// All of it must be right, also what is for other commands.
    fn check(&self, table: &Table) -> Result<(), ConfigError> {
        for (key, value) in table {
            match (value, self.definition.find_subcommand(key)) {
                (Value::Table(section), Some(command)) => {
                    for (key, value) in section {
                        self.arguments(command, key, value)?;
                    }
                }
                _ => drop(self.arguments(self.definition, key, value)?),
            }
        }
        Ok(())
    }

    /// The arguments that an entry stands for.
    fn arguments(
        &self,
        command: &Command,
        name: &str,
        value: &Value,
    ) -> Result<Vec<OsString>, ConfigError> {
        let path = || self.path.to_owned();
        let unknown = || ConfigError::Unknown {
            path: path(),
            name: name.to_owned(),
            command: command.get_name().to_owned(),
        };
        let mut args = command.get_arguments().chain(self.definition.get_arguments());
        let arg = args.find(|arg| arg.get_long() == Some(name) && !is_of_line(name));
        let arg = arg.ok_or_else(unknown)?;
        let is_flag = matches!(arg.get_action(), ArgAction::SetTrue);
        let mismatch = |value: &Value, wanted| ConfigError::Type {
            path: path(),
            name: name.to_owned(),
            found: value.type_str(),
            wanted,
        };
        let one = |value: &Value| match (value, is_flag) {
            (Value::Boolean(true), true) => Ok(Some(OsString::from(format!("--{name}")))),
            (Value::Boolean(false), true) => Ok(None),
            (_, true) => Err(mismatch(value, "true or false")),
            (Value::String(text), false) => Ok(Some(format!("--{name}={text}").into())),
            (Value::Integer(number), false) => Ok(Some(format!("--{name}={number}").into())),
            (_, false) => Err(mismatch(value, "a string or a whole number")),
        };
        match value {
            Value::Array(values) if matches!(arg.get_action(), ArgAction::Append) => {
                values.iter().filter_map(|value| one(value).transpose()).collect()
            }
            value => Ok(one(value)?.into_iter().collect()),
        }
    }
}

/// Options that only a command line can have.
fn is_of_line(name: &str) -> bool {
    ["config", "no-default-config", "help", "version"].contains(&name)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::io::Write;

    use crate::options::{Cli, Command, parse};

    fn with(config: &str, line: &str) -> Result<Cli, String> {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(config.as_bytes()).expect("it can be written");
        let words = line.split_whitespace().map(OsString::from);
        let mut args: Vec<OsString> = words.collect();
        args.extend(["--no-default-config".into(), "--config".into(), file.path().into()]);
        parse(args).map(|(cli, _)| cli).map_err(|error| error.to_string())
    }

    #[test]
    fn line_has_the_last_word() {
        let config = "[restore]\nmanage-cgroups = \"ignore\"\nworkers = 3\nshell-job = true\n\
                      restore-detached = false\nreport = [\"a\", \"b.html\"]\nverbosity = 4\n";
        let Command::Restore(restore) =
            with(config, "thaw restore -D a --workers 5").unwrap().command
        else {
            panic!("it is a restore");
        };
        assert_eq!(restore.planning.manage_cgroups, Some(true));
        assert_eq!((restore.planning.workers, restore.planning.shell_job), (5, true));
        assert_eq!((restore.detached, restore.reporting.report.len()), (false, 2));
        assert_eq!(restore.logging.level(), 4);
    }

    #[test]
    fn sections_of_other_commands_change_nothing_and_must_be_right() {
        let line = "thaw restore -D a";
        assert!(with("[dump]\nghost-limit = \"2M\"\n", line).is_ok());
        let error = with("[dump]\nghost-limits = \"2M\"\n", line).expect_err("no such option");
        assert!(error.contains("ghost-limits, which is no option of dump"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (config, said) in [
            ("colour = \"never\"", "colour, which is no option of thaw"),
            ("[restor]\nworkers = 3", "restor, which is no option of thaw"),
            ("[restore]\nworkers = 1.5", "sets workers to float"),
            ("[restore]\nshell-job = \"yes\"", "sets shell-job to string"),
            ("[restore]\nworkers = \"many\"", "invalid value 'many'"),
            ("[restore", "is no TOML"),
            ("config = \"other\"", "config, which is no option of thaw"),
        ] {
            let error = with(config, "thaw restore -D a").expect_err(config);
            assert!(error.contains(said), "{config}: {error}");
        }
    }
}
