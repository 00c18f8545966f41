//! Where contradictions go: the first ends a strict reading, a verification gathers all.
//!
//! Checks are written once, for both: they report, and go on where that makes sense. What cannot be
//! known after a damage is not reported as another.

use std::collections::BTreeSet;

use crate::error::ImageError;
use crate::kind::ImageKind;

/// Most findings that are gathered; a damaged count can make a million of them.
pub(crate) const FINDINGS_MAX: usize = 1000;

/// What was found, if it is gathered.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    gathered: Option<Vec<ImageError>>,
    /// Kinds of images about which not everything is known, since something was damaged.
    unsure: BTreeSet<ImageKind>,
}

impl Findings {
    /// Gathers instead of ending with the first.
    pub(crate) fn gathering() -> Self {
        Self { gathered: Some(Vec::new()), unsure: BTreeSet::new() }
    }

    /// Takes a finding: an error if it ends the reading.
    pub(crate) fn report(&mut self, error: ImageError) -> Result<(), ImageError> {
        match &mut self.gathered {
            Some(gathered) if gathered.len() < FINDINGS_MAX => {
                gathered.push(error);
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// The value, or nothing if the error was taken.
    pub(crate) fn check<T>(
        &mut self,
        result: Result<T, ImageError>,
    ) -> Result<Option<T>, ImageError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => self.report(error).map(|()| None),
        }
    }

    /// From here on not everything about images of these kinds is known.
    pub(crate) fn doubt(&mut self, kinds: &[ImageKind]) {
        self.unsure.extend(kinds);
    }

    pub(crate) fn is_sure_of(&self, kind: ImageKind) -> bool {
        !self.unsure.contains(&kind)
    }

    /// Whether nothing was found so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.gathered.as_ref().is_none_or(Vec::is_empty)
    }

    /// Everything that was gathered.
    pub(crate) fn into_all(self) -> Vec<ImageError> {
        self.gathered.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{FINDINGS_MAX, Findings};
    use crate::error::ImageError;

    fn finding() -> ImageError {
        ImageError::UnknownKind { file: "x".to_owned() }
    }

    #[test]
    fn first_finding_ends_a_strict_reading() {
        assert!(Findings::default().report(finding()).is_err());
        assert!(Findings::default().check::<()>(Err(finding())).is_err());
    }

    #[test]
    fn findings_are_bounded() {
        let mut findings = Findings::gathering();
        for _ in 0..FINDINGS_MAX {
            findings.report(finding()).expect("there is room");
        }
        assert!(findings.report(finding()).is_err());
        assert_eq!(findings.into_all().len(), FINDINGS_MAX);
    }
}
