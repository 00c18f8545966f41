//! What a dump or a restore says, and where: the log, the screen, programs, and reports.
//!
//! Lines as criu writes them go to the log file, and to standard error only if much is asked for
//! and there is no file. People see progress, a summary, or what went wrong, on standard error.
//! Standard output is for `--json`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::codes;
use crate::log::{Level, Log};
use crate::options::{Logging, Others, Reporting};
use crate::progress::{Descriptor, Progress};
use crate::report::{Problem, Report, Verb};
use crate::screen::{Screen, WARNING, styled, wrap};
use crate::{FAILED, USAGE};

/// From this level on the log is shown where there is no file for it.
const LEVEL_SHOWN: u8 = Level::Info as u8;

/// Everybody who is told.
pub(crate) struct Console {
    log: Log,
    log_path: Option<PathBuf>,
    level: u8,
    screen: Screen,
    json: bool,
    files: Vec<PathBuf>,
    pub(crate) progress: Progress,
    pub(crate) report: Report,
    verb: Verb,
    /// When the part of the work began that is under way.
    stage_begin: Instant,
}

/// The options that say who is told what.
pub(crate) struct Wishes<'a> {
    pub(crate) logging: &'a Logging,
    pub(crate) reporting: &'a Reporting,
    pub(crate) images_dir: &'a Path,
}

impl Console {
    /// Opens all of it, before anything is done. What is refused has been told, and the error is
    /// the exit code.
    pub(crate) fn open<T>(
        verb: Verb,
        wishes: &Wishes<'_>,
        others: &Others<T>,
        screen: Screen,
        start: Instant,
    ) -> Result<Self, u8> {
        let Wishes { logging, reporting, images_dir } = *wishes;
        let (level, log_path) = (logging.level(), logging.file(images_dir));
        let refuse = |problem: Box<Problem>| {
            let mut err = screen.err();
            let title = format!("{} failed", verb.name());
            let _ = problem.show(&title, None, screen.err_width, &mut err);
            problem.exit_code
        };
        let log = match &log_path {
            None if level < LEVEL_SHOWN => Ok(Log::nowhere(start)),
            path => Log::open(path.as_deref(), level, start),
        };
        let log = log.map_err(|error| {
            let path = log_path.clone().unwrap_or_default();
            let text = format!("cannot write the log {}", path.display());
            refuse(Problem::own(codes::LOG, text, FAILED).because(&error))
        })?;
        let descriptor = reporting.progress_fd.map(Descriptor::take).transpose();
        let descriptor = descriptor.map_err(|error| {
            let number = reporting.progress_fd.unwrap_or_default();
            let text = format!("descriptor {number} cannot take progress");
            refuse(Problem::own(codes::PROGRESS, text, USAGE).because(&error))
        })?;
        let shown = (1..LEVEL_SHOWN).contains(&level) || (level > 0 && log_path.is_some());
        let mut console = Self {
            log,
            log_path,
            level,
            screen,
            json: reporting.json,
            files: reporting.report.clone(),
            progress: Progress::new(verb, screen, shown, descriptor),
            report: Report::new(verb, images_dir, start),
            verb,
            stage_begin: start,
        };
        others.ignored.iter().for_each(|text| console.log(Level::Debug, text));
        if let Some(refused) = others.refused.first() {
            let problem = Problem::own(codes::REFUSED, refused.clone(), USAGE);
            return Err(console.fail(problem.with_items(codes::REFUSED, &others.refused)));
        }
        if let Err((path, error)) = Report::try_paths(&console.files) {
            let text = format!("cannot write the report {}", path.display());
            console.files.clear();
            let problem = Problem::own(codes::REPORT, text, FAILED);
            return Err(console.fail(problem.because(&error)));
        }
        Ok(console)
    }

    /// A line of the log.
    pub(crate) fn log(&mut self, level: Level, text: &str) {
        self.log.line(level, text);
    }

    /// A part of the work has ended.
    pub(crate) fn stage(&mut self, name: &'static str) {
        let now = Instant::now();
        let took = now - std::mem::replace(&mut self.stage_begin, now);
        self.report.stage(name, took);
        self.progress.ended(name, took);
        let text = format!("stage {name} is complete after {} us", took.as_micros());
        self.log(Level::Info, &text);
    }

    /// Something that had to be taken for granted.
    pub(crate) fn assumed(&mut self, text: &str) {
        self.log(Level::Warning, &format!("assumed: {text}"));
        self.report.assumptions.push(text.to_owned());
    }

    /// Something went wrong that does not matter to the tree.
    pub(crate) fn warn(&mut self, text: &str) {
        self.log(Level::Warning, text);
        self.report.warnings.push(text.to_owned());
    }

    /// It is done.
    pub(crate) fn conclude(&mut self) {
        self.report.done();
        self.progress.conclude(&self.report);
        self.write_reports();
        if self.level >= Level::Warning as u8 {
            let mut err = self.screen.err();
            let _ = self.report.summarise(self.screen.err_width, &mut err);
        }
        self.print();
    }

    /// It has failed; the exit code is returned.
    pub(crate) fn fail(&mut self, problem: Box<Problem>) -> u8 {
        for line in problem.log_lines() {
            self.log(Level::Error, &line);
        }
        let code = problem.exit_code;
        self.report.failed(problem.clone());
        self.progress.conclude(&self.report);
        self.write_reports();
        if self.level >= Level::Error as u8 {
            let title = format!("{} failed", self.verb.name());
            let log = self.log_path.as_ref().map(|path| path.display().to_string());
            let mut err = self.screen.err();
            let _ = problem.show(&title, log.as_deref(), self.screen.err_width, &mut err);
            for warning in &self.report.warnings {
                let lead = format!("  {}", styled(WARNING, "warning "));
                let _ = write!(err, "{}", wrap(&lead, warning, self.screen.err_width));
            }
        }
        self.print();
        code
    }

    /// Whoever asked for a report that cannot be written hears of it; the tree is what counts.
    fn write_reports(&mut self) {
        for path in std::mem::take(&mut self.files) {
            if let Err(error) = self.report.write(&path) {
                self.warn(&format!("cannot write the report {}: {error}", path.display()));
            }
        }
    }

    fn print(&mut self) {
        if self.json {
            let mut out = std::io::stdout().lock();
            let written = writeln!(out, "{}", self.report.json()).and_then(|()| out.flush());
            if let Err(error) = written {
                let text = format!("the report cannot be printed: {error}");
                self.log(Level::Error, &text);
                let _ = writeln!(self.screen.err(), "thaw: {text}");
            }
        }
    }
}
