//! Values of options: text in, a value or a sentence about what is expected out.

use std::time::Duration;

use crate::screen::WIDTHS;

/// A size in bytes: a number, decimal or with `0x`, with `K`, `M` or `G` for powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let shift = match text.bytes().last().unwrap_or(0).to_ascii_uppercase() {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        _ => return number(text),
    };
    let digits = &text[..text.len() - 1];
    let bytes = number(digits)?.checked_mul(1 << shift);
    bytes.ok_or_else(|| format!("{text} is too large"))
}

/// A number, decimal or with `0x`.
pub(crate) fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text:?} is no number"))
}

/// A number of at most 32 bits.
pub(crate) fn small(text: &str) -> Result<u32, String> {
    number(text)?.try_into().map_err(|_| format!("{text} is too large"))
}

/// A number of things.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    number(text)?.try_into().map_err(|_| format!("{text} is too large"))
}

/// Whole seconds.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    number(text).map(Duration::from_secs)
}

/// A process id.
pub(crate) fn pid(text: &str) -> Result<i32, String> {
    let pid = text.parse().ok().filter(|&pid: &i32| pid > 0);
    pid.ok_or_else(|| format!("{text:?} is no process id"))
}

/// A number of columns.
pub(crate) fn width(text: &str) -> Result<usize, String> {
    let width = text.parse().ok().filter(|width| WIDTHS.contains(width));
    width.ok_or_else(|| {
        format!("{text:?} is no width: it is {} to {} columns", WIDTHS.start(), WIDTHS.end())
    })
}

/// `auto` or `never`: whether huge pages may be used.
pub(crate) fn huge_pages(text: &str) -> Result<bool, String> {
    match text {
        "auto" => Ok(true),
        "never" => Ok(false),
        _ => Err("it is auto or never".to_owned()),
    }
}

/// What becomes of control groups; whether they are left out.
pub(crate) fn ignores_cgroups(mode: &str) -> Result<bool, String> {
    match mode {
        "ignore" => Ok(true),
        "" | "none" | "props" | "soft" | "full" | "strict" => Ok(false),
        mode => Err(format!("unknown mode {mode:?}")),
    }
}

/// How much is logged: the default is 2; each `-v` alone adds one, a number says it.
pub(crate) fn verbosity(given: &[String]) -> u8 {
    given.iter().fold(2, |now: u8, value| match value.parse() {
        Ok(level) => level,
        Err(_) => now.saturating_add(1),
    })
}

/// One `-v`: nothing, a number, or more of the letter.
pub(crate) fn verbosity_step(text: &str) -> Result<String, String> {
    if text.is_empty() || text.parse::<u8>().is_ok() {
        return Ok(text.to_owned());
    }
    Err(format!("verbosity {text:?} is no number"))
}

#[cfg(test)]
mod tests {
    use super::{pid, size, verbosity, width};

    #[test]
    fn sizes_have_units_of_1024() {
        assert_eq!(size("1M"), Ok(1 << 20));
        assert_eq!(size("512m"), Ok(512 << 20));
        assert_eq!(size("0x1000"), Ok(4096));
        assert!(size("M").is_err() && size("-1").is_err() && size("20000000000G").is_err());
    }

    #[test]
    fn verbosity_is_counted_or_said() {
        let given = |values: &[&str]| {
            verbosity(&values.iter().map(|&value| value.to_owned()).collect::<Vec<_>>())
        };
        assert_eq!([given(&[]), given(&[""]), given(&["", ""]), given(&["4"])], [2, 3, 4, 4]);
        assert_eq!(given(&["0"]), 0);
    }

    #[test]
    fn ids_and_widths_have_bounds() {
        assert!(pid("0").is_err() && pid("-3").is_err() && pid("x").is_err());
        assert_eq!(pid("7"), Ok(7));
        assert!(width("39").is_err() && width("1001").is_err());
        assert_eq!(width("40"), Ok(40));
    }
}
