//! The command lines: criu's names, checked whole before anything is done.
//!
//! Options that do not matter here, but that scripts pass all the same, are taken and ignored;
//! whatever would change the result and is not supported is an error.

pub(crate) mod dump;
pub(crate) mod restore;

use std::ffi::OsString;

pub(crate) use dump::Dump;
pub(crate) use restore::Restore;

/// How an option is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// Taken and without effect: harmless here.
    Ignored,
    /// The same, with a value.
    IgnoredValue,
    /// Would change the result and is not supported.
    Refused,
    /// The same, with a value.
    RefusedValue,
}

/// An option that has no effect or is not supported: its name, what is done, and why.
type Other = (&'static str, Treatment, &'static str);

/// `-v` is one more than the default, `-v4` and `--verbosity=4` are a number, `-vv` counts.
fn verbosity(now: u8, value: Option<OsString>) -> Result<u8, lexopt::Error> {
    let Some(value) = value else {
        return Ok(now.saturating_add(1));
    };
    let text = value.to_string_lossy();
    if !text.is_empty() && text.bytes().all(|byte| byte == b'v') {
        return Ok(now.saturating_add(1 + text.len() as u8));
    }
    text.parse().map_err(|_| format!("verbosity {text:?} is no number").into())
}

/// Whether the control groups are left out (`--manage-cgroups=ignore`).
fn ignores_cgroups(mode: Option<OsString>) -> Result<bool, lexopt::Error> {
    match mode.as_deref().and_then(|mode| mode.to_str()) {
        Some("ignore") => Ok(true),
        None | Some("none" | "props" | "soft" | "full" | "strict") => Ok(false),
        Some(mode) => Err(format!("unknown cgroup mode {mode:?}").into()),
    }
}

/// Takes an option of a table; the text says why it is refused, if it is.
fn other(
    others: &[Other],
    name: &str,
    parser: &mut lexopt::Parser,
) -> Result<Option<String>, lexopt::Error> {
    let Some((_, treatment, what)) = others.iter().find(|(other, ..)| *other == name) else {
        return Err(format!("unknown option --{name}").into());
    };
    if matches!(treatment, Treatment::IgnoredValue | Treatment::RefusedValue) {
        parser.value()?;
    }
    let refused = matches!(treatment, Treatment::Refused | Treatment::RefusedValue);
    Ok(refused.then(|| format!("--{name}: {what} are not supported yet")))
}
