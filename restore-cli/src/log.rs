//! The log file, in criu's manner: time since the start, process, text.
//!
//! Programs that run criu look for lines with `Error` in it, so that is how errors begin.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Instant;

use crate::options::{Logging, Others};
use crate::{FAILED, USAGE};

/// Lines of this level and below are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Error = 1,
    /// Something was taken for granted.
    Warning = 2,
    Info = 3,
    Debug = 4,
}

/// A log that always exists, wherever it goes.
pub(crate) struct Log {
    to: Box<dyn Write>,
    verbosity: u8,
    start: Instant,
}

impl Log {
    /// Opens the file anew, or takes standard error.
    pub(crate) fn open(path: Option<&Path>, verbosity: u8, start: Instant) -> io::Result<Self> {
        let to: Box<dyn Write> = match path {
            Some(path) => Box::new(BufWriter::new(File::create(path)?)),
            None => Box::new(io::stderr()),
        };
        Ok(Self { to, verbosity, start })
    }

    /// Writes one line. A log that cannot be written does not stop a restore.
    pub(crate) fn line(&mut self, level: Level, text: &str) {
        if level as u8 > self.verbosity {
            return;
        }
        let now = self.start.elapsed();
        let mark = match level {
            Level::Error => "Error (thaw): ",
            Level::Warning => "Warn  (thaw): ",
            Level::Info | Level::Debug => "",
        };
        let (seconds, micros) = (now.as_secs(), now.subsec_micros());
        let _ = writeln!(self.to, "({seconds:02}.{micros:06}) {mark}{text}");
        if level == Level::Error {
            let _ = self.to.flush();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let _ = self.to.flush();
    }
}

/// Opens the log that a command line asks for, a file of the work directory or standard error, and
/// says in it which options are refused. An error is the exit code.
pub(crate) fn begin<T>(
    logging: &Logging,
    images_dir: &Path,
    start: Instant,
    others: &Others<T>,
) -> Result<(Log, bool), u8> {
    let path = logging.file(images_dir);
    let mut log = Log::open(path.as_deref(), logging.level(), start).map_err(|error| {
        let path = path.clone().unwrap_or_default();
        eprintln!("thaw: cannot write the log {}: {error}", path.display());
        FAILED
    })?;
    let to_stderr = path.is_some();
    others.ignored.iter().for_each(|text| log.line(Level::Debug, text));
    if others.refused.is_empty() {
        return Ok((log, to_stderr));
    }
    let mut tell = Teller { log: &mut log, to_stderr };
    others.refused.iter().for_each(|refused| tell.error(refused));
    Err(USAGE)
}

/// Says errors in the log and, if that is a file, on standard error too.
pub(crate) struct Teller<'a> {
    pub(crate) log: &'a mut Log,
    pub(crate) to_stderr: bool,
}

impl Teller<'_> {
    pub(crate) fn error(&mut self, text: &str) {
        self.log.line(Level::Error, text);
        if self.to_stderr {
            eprintln!("thaw: {text}");
        }
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
