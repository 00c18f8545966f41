//! What a check of a checkpoint finds: a section for each thing that was looked at, with findings.
//!
//! A finding of a library has that library's code and help; one of our own has an entry of the
//! table of codes.

use criu_image::ImageError;
use restore_core::{FilesError, PlanError, Refusal, RestoreError};

use crate::codes::ErrorCode;
use crate::log::chain;

/// What a finding means for a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Weight {
    /// Worth knowing; it stands in nobody's way.
    Note,
    /// It stands in the way.
    Blocks,
    /// The images are damaged.
    Damage,
}

impl Weight {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Blocks => "blocks",
            Self::Damage => "damage",
        }
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) weight: Weight,
    pub(super) code: &'static str,
    pub(super) text: String,
    pub(super) help: Option<String>,
    /// Processes of the checkpoint that it is about.
    pub(super) pids: Vec<u32>,
}

/// What was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    pub(super) what: &'static str,
    /// What there is of it, and how much.
    pub(super) found: String,
    pub(super) findings: Vec<Finding>,
    /// Lines that are shown as they are.
    pub(super) table: Option<String>,
}

impl Section {
    pub(super) fn new(
        what: &'static str,
        found: impl Into<String>,
        findings: Vec<Finding>,
    ) -> Self {
        Self { what, found: found.into(), findings, table: None }
    }

    /// The weightiest finding.
    pub(super) fn weight(&self) -> Option<Weight> {
        self.findings.iter().map(|finding| finding.weight).max()
    }
}

impl Finding {
    /// One that stands in the way. What helps may stand at the end of its text; it is said once.
    pub(super) fn of(code: &'static str, text: String, help: Option<&'static str>) -> Self {
        let bare = help.and_then(|help| text.strip_suffix(help));
        let bare = bare.map(|text| text.trim_end_matches([' ', ':', ';']).to_owned());
        let (text, help) = (bare.unwrap_or(text), help.map(str::to_owned));
        Self { weight: Weight::Blocks, code, text, help, pids: Vec::new() }
    }

    /// One of our own.
    pub(super) fn own(code: ErrorCode, text: impl Into<String>) -> Self {
        Self::of(code.code, text.into(), Some(code.help))
    }

    pub(super) fn with_weight(self, weight: Weight) -> Self {
        Self { weight, ..self }
    }

    pub(super) fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }

    pub(super) fn with_pids(self, pids: Vec<u32>) -> Self {
        Self { pids, ..self }
    }

    /// What is wrong with an image; of what could not be checked it is only told.
    pub(super) fn of_image(error: &ImageError) -> Self {
        let weight = match error {
            ImageError::Unsupported { .. } => Weight::Note,
            _ => Weight::Damage,
        };
        Self::of(error.code(), chain(error), error.help()).with_weight(weight)
    }

    pub(super) fn of_file(error: &FilesError, pids: Vec<u32>) -> Self {
        Self::of(error.code(), chain(error), error.help()).with_pids(pids)
    }

    pub(super) fn of_vdso(error: &RestoreError) -> Self {
        Self::of(error.code(), chain(error), error.help())
    }

    /// One for each thing that an error of planning is about.
    pub(super) fn of_plan(error: &PlanError) -> Vec<Self> {
        let text = match error {
            PlanError::Refused(list) => return list.iter().map(Self::of_refusal).collect(),
            // Its table is shown apart.
            PlanError::Gpus(refusal) => summary(refusal),
            error => chain(error),
        };
        vec![Self::of(error.code(), text, error.help())]
    }

    fn of_refusal(refusal: &Refusal) -> Self {
        let (code, text, help) = (refusal.code(), refusal.to_string(), refusal.help);
        Self::of(code, text, Some(help)).with_pids(refusal.pids.clone())
    }
}

/// The first paragraph of a refusal.
fn summary(refusal: &gpu_kfd::Refusal) -> String {
    refusal.to_string().split("\n\n").next().unwrap_or_default().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;
    use restore_core::FilesError;

    use super::Finding;

    #[test]
    fn what_helps_is_said_once() {
        let error =
            FilesError::Path { call: "stat", path: "/a".to_owned(), id: 7, errno: Errno::ENOENT };
        let finding = Finding::of_file(&error, vec![1]);
        assert_eq!(finding.code, "files.missing");
        let help = finding.help.expect("there is something");
        assert!(error.to_string().ends_with(&help) && !finding.text.contains(&help), "{error}");
        assert!(finding.text.ends_with(Errno::ENOENT.desc()), "{}", finding.text);
    }
}
