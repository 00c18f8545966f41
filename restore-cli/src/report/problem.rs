//! What went wrong, as it is shown: what, where, why as far as known, in which state the machine is
//! now, and what to do. One screen for people, the same in parts for programs.

use std::error::Error;
use std::io::{self, Write};

use criu_image::ImageError;
use restore_core::{DumpError, DumpFailure, Failure, Place, PlanError, Refusal, RestoreError};
use serde::Serialize;

use crate::codes::ErrorCode;
use crate::screen::{BAD, FAINT, TITLE, styled, wrap};
use crate::{BAD_IMAGES, FAILED, LEFTOVERS, UNFIT_HOST};

/// Things of a list that are shown on the screen; the log and the report have all.
const ITEMS_SHOWN_MAX: usize = 20;

/// What went wrong.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Problem {
    /// Stable name, as in docs/errors.md.
    pub(crate) code: &'static str,
    /// The error in a sentence.
    pub(crate) text: String,
    #[serde(flatten)]
    pub(crate) place: Where,
    /// What caused it, the nearest cause first.
    pub(crate) causes: Vec<String>,
    /// All that stands in the way, if it is more than one thing.
    pub(crate) items: Vec<Item>,
    /// In which state the machine is now.
    pub(crate) state: String,
    /// What can be done.
    pub(crate) help: Option<String>,
    /// Exit code of the command.
    pub(crate) exit_code: u8,
}

/// Where it happened, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Where {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) process: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) call: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) errno: Option<String>,
}

/// One of several things that stand in the way.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Item {
    pub(crate) code: &'static str,
    pub(crate) text: String,
}

impl From<Place> for Where {
    fn from(place: Place) -> Self {
        let Place { pid, step, file, call, errno } = place;
        Self { process: pid, step, file, call, errno: errno.map(|errno| format!("{errno:?}")) }
    }
}

impl From<&Refusal> for Item {
    fn from(refusal: &Refusal) -> Self {
        Self { code: refusal.code(), text: refusal.to_string() }
    }
}

/// Nothing was begun.
const UNTOUCHED: &str = "nothing was done: no process was made, and no file was changed";
/// A restore was undone.
const UNDONE: &str = "everything was undone: no process, file or GPU buffer of the tree is left";
/// A dump was undone.
const AS_IT_WAS: &str = "the tree goes on as it was, and there are no images of it";

impl Problem {
    fn new(code: &'static str, error: &dyn Error, exit_code: u8) -> Box<Self> {
        Box::new(Self {
            code,
            text: error.to_string(),
            place: Where::default(),
            causes: causes(error),
            items: Vec::new(),
            state: UNTOUCHED.to_owned(),
            help: None,
            exit_code,
        })
    }

    /// Something of this command itself.
    pub(crate) fn own(code: ErrorCode, text: impl Into<String>, exit_code: u8) -> Box<Self> {
        Box::new(Self {
            code: code.code,
            text: text.into(),
            place: Where::default(),
            causes: Vec::new(),
            items: Vec::new(),
            state: UNTOUCHED.to_owned(),
            help: Some(code.help.to_owned()),
            exit_code,
        })
    }

    /// The same with a cause.
    pub(crate) fn because(mut self: Box<Self>, error: &dyn Error) -> Box<Self> {
        self.causes.push(error.to_string());
        self.causes.extend(causes(error));
        self
    }

    /// The same, of several things of one kind.
    pub(crate) fn with_items(mut self: Box<Self>, code: ErrorCode, texts: &[String]) -> Box<Self> {
        if texts.len() > 1 {
            let item = |text: &String| Item { code: code.code, text: text.clone() };
            self.items = texts.iter().map(item).collect();
        }
        self
    }

    /// The same in another state.
    pub(crate) fn with_state(mut self: Box<Self>, state: impl Into<String>) -> Box<Self> {
        self.state = state.into();
        self
    }

    /// Images that are not taken.
    pub(crate) fn images(error: &ImageError) -> Box<Self> {
        let exit_code = if error.is_damage() { BAD_IMAGES } else { UNFIT_HOST };
        let mut problem = Self::new(error.code(), error, exit_code);
        problem.place.file = Some(error.file().to_owned());
        problem.help = error.help().map(Into::into);
        problem
    }

    /// GPUs of this host that are not understood.
    pub(crate) fn topology(error: &gpu_kfd::TopologyError) -> Box<Self> {
        let mut problem = Self::new(error.code(), error, UNFIT_HOST);
        problem.help = error.help().map(Into::into);
        problem
    }

    /// A restore that was not begun.
    pub(crate) fn plan(error: &PlanError) -> Box<Self> {
        let mut problem = Self::new(error.code(), error, UNFIT_HOST);
        problem.help = error.help().map(Into::into);
        if let PlanError::Refused(list) = error {
            problem.items = list.iter().map(Item::from).collect();
        }
        problem
    }

    /// A restore that was begun.
    pub(crate) fn restore(failure: &Failure) -> Box<Self> {
        let error = &failure.error;
        let exit_code = match error {
            _ if !failure.left.is_empty() => LEFTOVERS,
            RestoreError::Vdso { .. } => UNFIT_HOST,
            _ => FAILED,
        };
        let mut problem = Self::new(error.code(), error, exit_code);
        problem.place = error.place().into();
        problem.help = error.help().map(Into::into);
        problem.state = match failure.left.as_slice() {
            [] => UNDONE.to_owned(),
            left => {
                let list: Vec<String> = left.iter().map(ToString::to_string).collect();
                format!(
                    "all was undone but for process(es) {}, which do not end: they hang in the \
                     kernel (/proc/PID/stack says where) and are killed when that lets them go",
                    list.join(", ")
                )
            }
        };
        problem
    }

    /// A dump whose process could not be made.
    pub(crate) fn keeper(error: &restore_core::KeeperError, exit_code: u8) -> Box<Self> {
        let mut problem = Self::new(error.code(), error, exit_code);
        problem.help = error.help().map(Into::into);
        problem
    }

    /// A dump.
    pub(crate) fn dump(failure: &DumpFailure) -> Box<Self> {
        let error = &failure.error;
        let exit_code = match (&failure.undo, error) {
            (Some(_), _) => LEFTOVERS,
            (None, DumpError::Refused(_)) => UNFIT_HOST,
            (None, _) => FAILED,
        };
        let mut problem = Self::new(error.code(), error, exit_code);
        problem.place = error.place().into();
        problem.help = error.help().map(Into::into);
        if let DumpError::Refused(list) = error {
            problem.items = list.iter().map(Item::from).collect();
        }
        problem.state = match &failure.undo {
            None => AS_IT_WAS.to_owned(),
            Some(undo) => format!(
                "the tree could not be let go as it was: {}; there are no images of it",
                crate::log::chain(undo)
            ),
        };
        problem
    }

    /// The lines of the log: the error with all its causes first, as those expect who look for
    /// `Error`.
    pub(crate) fn log_lines(&self) -> Vec<String> {
        let mut first = self.text.clone();
        for cause in &self.causes {
            if !first.ends_with(cause.as_str()) {
                first = format!("{first}: {cause}");
            }
        }
        let mut lines = vec![format!("{first} [{}]", self.code)];
        let items = self.items.iter();
        lines.extend(items.map(|item| format!("not supported: {} [{}]", item.text, item.code)));
        lines.push(format!("state: {}", self.state));
        lines.extend(self.help.iter().map(|help| format!("help: {help}")));
        lines
    }

    /// The screen: `verb` is what failed, `log` where more is said.
    pub(crate) fn show(
        &self,
        verb: &str,
        log: Option<&str>,
        width: usize,
        to: &mut dyn Write,
    ) -> io::Result<()> {
        let (mut lines, more) = (self.text.lines(), self.text.lines().count() > 1);
        let first = lines.next().unwrap_or_default();
        let lead = format!("thaw: {} ", styled(BAD, &format!("{verb}:")));
        write!(to, "{}", wrap(&lead, first, width))?;
        // The lines of a table stay as they are.
        lines.try_for_each(|line| match line.contains("  ") {
            true => writeln!(to, "{line}"),
            false => write!(to, "{}", wrap("", line, width)),
        })?;
        if more || !self.items.is_empty() {
            writeln!(to)?;
        }
        for item in self.items.iter().take(ITEMS_SHOWN_MAX) {
            let text = format!("{} {}", item.text, styled(FAINT, &format!("[{}]", item.code)));
            write!(to, "{}", wrap("  - ", &text, width))?;
        }
        if self.items.len() > ITEMS_SHOWN_MAX {
            let text = format!("and {} more", self.items.len() - ITEMS_SHOWN_MAX);
            writeln!(to, "  - {text}: the log file (-o) and the report (--report) have all")?;
        }
        let mut part = |name: &str, text: &str| {
            let lead = format!("  {}", styled(TITLE, &format!("{name:<6}")));
            write!(to, "{}", wrap(&lead, text, width))
        };
        if let Some(place) = self.place.text() {
            part("where", &place)?;
        }
        for cause in self.causes.iter().filter(|cause| !self.text.contains(cause.as_str())) {
            part("why", cause)?;
        }
        part("now", &self.state)?;
        if let Some(help) = self.help.as_ref().filter(|help| !self.text.contains(help.as_str())) {
            part("do", help)?;
        }
        if let Some(log) = log {
            part("log", log)?;
        }
        part("code", &format!("{} (docs/errors.md)", self.code))
    }
}

impl Where {
    /// In words.
    fn text(&self) -> Option<String> {
        let parts = [
            self.process.map(|process| format!("process {process}")),
            self.step.clone(),
            self.file.clone(),
            self.call.clone(),
            self.errno.clone(),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}

/// What an error has below it.
fn causes(error: &dyn Error) -> Vec<String> {
    let mut causes = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    causes
}
