//! `thaw show`: what is in a checkpoint, for people: its processes on one screen, or one of them in
//! detail.
//!
//! It reads leniently, as views do, so that images of later versions and incomplete ones can be
//! looked at.

mod detail;
mod detail_text;
mod json;
mod overview;
mod overview_text;

use std::io::{self, Write};
use std::path::PathBuf;

use criu_image::ImageError;

use crate::log::chain;
use crate::screen::Screen;
use crate::{BAD_IMAGES, USAGE};

/// Show what is in a checkpoint
///
/// Who dumped it and when, its GPUs, and the tree: what each process was, its memory, descriptors
/// and GPU memory. With --process, everything about one of them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 shown; 1 failed; 2 usage, or there is no such process; \
                        3 an image that is needed is missing or damaged.")]
pub(crate) struct Options {
    /// Directory of the images
    #[arg(short = 'D', long, value_name = "DIR")]
    images_dir: PathBuf,
    /// Show this process in detail
    #[arg(long, value_name = "PID", value_parser = crate::options::values::small)]
    process: Option<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Does it, and returns the exit code.
pub(crate) fn run(options: &Options, screen: Screen) -> u8 {
    let fail = |text: &str, code: u8| {
        let _ = writeln!(screen.err(), "thaw show: {text}");
        code
    };
    let text = match text(options, screen.width) {
        Ok(Some(text)) => text,
        Ok(None) => {
            let pid = options.process.unwrap_or_default();
            let dir = options.images_dir.display();
            return fail(&format!("there is no process {pid} in {dir}"), USAGE);
        }
        Err(error) => return fail(&chain(&error), BAD_IMAGES),
    };
    match print(screen, &text) {
        Ok(()) => 0,
        Err(error) => screen.unwritten("show", &error),
    }
}

/// What is printed; none if there is no such process.
fn text(options: &Options, width: usize) -> Result<Option<String>, ImageError> {
    let dir = &options.images_dir;
    let Some(pid) = options.process else {
        let overview = overview::read(dir)?;
        return Ok(Some(match options.json {
            true => json::overview(&overview),
            false => overview_text::render(&overview, width),
        }));
    };
    let Some(detail) = detail::read(dir, pid)? else { return Ok(None) };
    Ok(Some(match options.json {
        true => json::detail(dir, &detail),
        false => detail_text::render(&detail, width),
    }))
}

fn print(screen: Screen, text: &str) -> io::Result<()> {
    let mut out = screen.out();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A text of at most so many columns: what is left out is in the middle, where paths differ least.
fn shorten(text: &str, columns: usize) -> String {
    let count = text.chars().count();
    if count <= columns {
        return text.to_owned();
    }
    let kept = columns.saturating_sub(3);
    let tail = kept.div_ceil(2);
    let head: String = text.chars().take(kept - tail).collect();
    let tail: String = text.chars().skip(count - tail).collect();
    format!("{head}...{tail}")
}

/// A state of `task_core_entry` in a word.
fn state_name(state: u32) -> &'static str {
    use criu_image::task_state::{ALIVE, DEAD, STOPPED, ZOMBIE};
    match state {
        ALIVE => "running",
        STOPPED => "stopped",
        DEAD | ZOMBIE => "zombie",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::{shorten, state_name};

    #[test]
    fn what_is_too_long_loses_its_middle() {
        assert_eq!(shorten("/usr/bin/program", 40), "/usr/bin/program");
        assert_eq!(shorten("/usr/bin/program", 11), "/usr...gram");
        assert_eq!(shorten("/usr/bin/program", 10), "/us...gram");
        assert_eq!(shorten("ääääääää", 5), "ä...ä");
    }

    #[test]
    fn states_have_names() {
        assert_eq!(
            [1, 2, 3, 6, 9].map(state_name),
            ["running", "zombie", "stopped", "zombie", "unknown"]
        );
    }
}
