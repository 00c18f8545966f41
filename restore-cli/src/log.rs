//! The log file, in criu's manner: time since the start, process, text.
//!
//! Programs that run criu look for lines with `Error` in it, so that is how errors begin.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::time::Instant;

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

    /// A log that nobody reads.
    pub(crate) fn nowhere(start: Instant) -> Self {
        Self { to: Box::new(io::sink()), verbosity: 0, start }
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
