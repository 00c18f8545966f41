//! What is written for people: how wide it may be, and in which colours.
//!
//! Colours only repeat what the text says. Everything is written with styles; the streams leave
//! them out where nobody could see them: not on a terminal, with `NO_COLOR`, or with `--color
//! never`.

use std::io::{self, IsTerminal, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// Titles and what is looked for first.
pub(crate) const TITLE: Style = Style::new().bold();
/// It is as it should be.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// It is not, and that stands in the way.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// It is worth knowing.
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default();
/// What helps to find the rest.
pub(crate) const FAINT: Style = Style::new().dimmed();

/// Columns where there is no terminal, and nobody says.
pub(crate) const WIDTH_DEFAULT: usize = 100;
/// Fewest and most columns of a text.
pub(crate) const WIDTHS: std::ops::RangeInclusive<usize> = 40..=1000;

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Colors {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Also in files and pipes
    Always,
    /// Nowhere
    Never,
}

/// How to write for people.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    colors: Colors,
    /// Columns that a text may have.
    pub(crate) width: usize,
    /// The same of what goes to standard error: where nobody watches, lines are not broken, so that
    /// they can be searched.
    pub(crate) err_width: usize,
}

impl Screen {
    /// As the options say, else as the terminal is.
    pub(crate) fn new(colors: Colors, width: Option<usize>) -> Self {
        let terminal = || {
            let (width, _) = terminal_size::terminal_size()?;
            Some(usize::from(width.0).clamp(*WIDTHS.start(), *WIDTHS.end()))
        };
        let watched = if Self::is_watched() { terminal() } else { Some(usize::MAX) };
        Self {
            colors,
            width: width.or_else(terminal).unwrap_or(WIDTH_DEFAULT),
            err_width: width.or(watched).unwrap_or(WIDTH_DEFAULT),
        }
    }

    /// Standard output, for results.
    pub(crate) fn out(self) -> AutoStream<io::StdoutLock<'static>> {
        AutoStream::new(io::stdout().lock(), self.choice(&io::stdout()))
    }

    /// Standard error, for everything about the command itself.
    pub(crate) fn err(self) -> AutoStream<io::StderrLock<'static>> {
        AutoStream::new(io::stderr().lock(), self.choice(&io::stderr()))
    }

    /// Says that a result cannot be printed, unless whoever reads it has seen enough, and gives the
    /// exit code.
    pub(crate) fn unwritten(self, command: &str, error: &io::Error) -> u8 {
        if error.kind() != io::ErrorKind::BrokenPipe {
            // There is nobody else to tell.
            let _ = writeln!(self.err(), "thaw {command}: cannot write: {error}");
        }
        crate::FAILED
    }

    fn choice(self, stream: &impl anstream::stream::RawStream) -> ColorChoice {
        match self.colors {
            Colors::Auto => AutoStream::choice(stream),
            Colors::Always => ColorChoice::AlwaysAnsi,
            Colors::Never => ColorChoice::Never,
        }
    }

    /// Whether standard error shows colours.
    pub(crate) fn has_colors_on_err(self) -> bool {
        self.choice(&io::stderr()) != ColorChoice::Never
    }

    /// Whether somebody watches what is written to standard error.
    pub(crate) fn is_watched() -> bool {
        io::stderr().is_terminal()
    }
}

/// A text in a style.
pub(crate) fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// Lines of at most so many columns; further ones begin as far to the right as the first text.
///
/// A word that is longer than a line is not broken: paths and addresses stay whole. Nor is one with
/// a no-break space in it.
pub(crate) fn wrap(lead: &str, text: &str, width: usize) -> String {
    let indent = " ".repeat(columns(lead));
    let (mut lines, mut line, mut is_empty) = (String::new(), lead.to_owned(), true);
    for word in text.split([' ', '\t', '\n']).filter(|word| !word.is_empty()) {
        if !is_empty && columns(&line) + 1 + columns(word) > width {
            lines.push_str(line.trim_end());
            lines.push('\n');
            (line, is_empty) = (indent.clone(), true);
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines.push_str(line.trim_end());
    lines.push('\n');
    lines
}

/// Columns that a text takes, without the marks of its styles.
pub(crate) fn columns(text: &str) -> usize {
    anstream::adapter::strip_str(text).map(|piece| piece.chars().count()).sum()
}

/// A number of bytes in the greatest unit of which there is at least one.
pub(crate) fn size(bytes: u64) -> String {
    for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
        if bytes >> shift > 0 {
            return format!("{:.1} {unit}", bytes as f64 / (1_u64 << shift) as f64);
        }
    }
    format!("{bytes} bytes")
}

/// A time with three digits that matter.
pub(crate) fn time(time: std::time::Duration) -> String {
    let micros = time.as_micros();
    match micros {
        0..1000 => format!("{micros} us"),
        1000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BAD, columns, size, styled, time, wrap};

    #[test]
    fn lines_break_between_words_and_go_on_below_the_first() {
        assert_eq!(wrap("  - ", "one two three", 9), "  - one\n    two\n    three\n");
        assert_eq!(wrap("", "/a/very/long/path x", 8), "/a/very/long/path\nx\n");
        assert_eq!(wrap("why  ", "", 40), "why\n");
        assert_eq!(wrap("", "one two\u{a0}three", 9), "one\ntwo\u{a0}three\n");
    }

    #[test]
    fn styles_take_no_columns() {
        assert_eq!(columns(&styled(BAD, "no")), 2);
        assert_eq!(wrap(&styled(BAD, "no "), "a b", 4), format!("{}a\n   b\n", styled(BAD, "no ")));
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(3 << 29), "1.5 GiB");
        assert_eq!(time(Duration::from_micros(999)), "999 us");
        assert_eq!(time(Duration::from_micros(3_640)), "3.6 ms");
        assert_eq!(time(Duration::from_millis(12_340)), "12.34 s");
    }
}
