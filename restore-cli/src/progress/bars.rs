//! Progress on a terminal: a bar for all, and one for each process if those are few.
//!
//! A line is never wider than the terminal: what has no room is left out.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{Bytes, SHARED, total};
use crate::report::Verb;
use crate::screen::size;

/// Processes that have a bar of their own.
const PROCESSES_MAX: usize = 8;
/// Most columns of the line of all beside its bar: bytes, rate, seconds and the stage.
const WORDS_WIDTH: usize = 68;
/// Columns of a bar.
const BAR_WIDTHS: (usize, usize) = (10, 24);

/// How bars look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) colors: bool,
    /// Of the terminal.
    pub(super) width: usize,
}

impl Look {
    /// Whether there is room for a share only.
    fn is_narrow(self) -> bool {
        self.width < WORDS_WIDTH + BAR_WIDTHS.0
    }

    /// What a bar with these words before and behind it looks like.
    fn style(self, before: &str, behind: &str, color: &str) -> ProgressStyle {
        let (least, most) = BAR_WIDTHS;
        let width = self.width.saturating_sub(WORDS_WIDTH).clamp(least, most);
        let color = if self.colors { format!(".{color}") } else { String::new() };
        let text = format!("{before} [{{bar:{width}{color}}}] {behind}");
        let style = ProgressStyle::with_template(&text).expect("a template of our own");
        style.progress_chars("=> ")
    }
}

/// Bars on a terminal; they are gone when this is dropped.
pub(super) struct Bars {
    all: MultiProgress,
    whole: ProgressBar,
    processes: BTreeMap<i32, ProgressBar>,
    look: Look,
}

impl Bars {
    pub(super) fn new(
        verb: Verb,
        expected: &BTreeMap<i32, Bytes>,
        look: Look,
        target: ProgressDrawTarget,
    ) -> Self {
        let all = MultiProgress::with_draw_target(target);
        // A bar is drawn when it is added: by then it must be what it is.
        let bar = |bytes: u64, name: String, style: ProgressStyle| {
            let bar = ProgressBar::hidden();
            bar.set_style(style);
            bar.set_prefix(name);
            // One of nothing counts as full.
            bar.set_length(bytes.max(1));
            all.add(bar)
        };
        let style = look.style("{prefix}", "{msg}", "blue");
        let whole = bar(total(expected), verb.name().to_owned(), style);
        let mut processes = BTreeMap::new();
        if (2..=PROCESSES_MAX).contains(&expected.len()) {
            let of_some = |(pid, bytes): &(&i32, &Bytes)| **pid != SHARED || bytes.sum() > 0;
            for (&pid, bytes) in expected.iter().filter(of_some) {
                let style = look.style("  {prefix:>10}", "{msg}", "dim");
                let name = if pid == SHARED { "shared".to_owned() } else { pid.to_string() };
                processes.insert(pid, bar(bytes.sum(), name, style));
            }
        }
        Self { all, whole, processes, look }
    }

    /// Shows how much is done of how much.
    pub(super) fn show(
        &self,
        stage: &'static str,
        elapsed: Duration,
        done: &BTreeMap<i32, Bytes>,
        expected: &BTreeMap<i32, Bytes>,
    ) {
        let sums = (total(done), total(expected));
        let rate = (sums.0 as f64 / elapsed.as_secs_f64()) as u64;
        let rest = match self.look.is_narrow() {
            true => format!(" {stage}"),
            false => format!(", {}/s, {} s: {stage}", size(rate), elapsed.as_secs()),
        };
        self.set(&self.whole, sums, &rest);
        for (pid, bar) in &self.processes {
            let of = |map: &BTreeMap<i32, Bytes>| map.get(pid).copied().unwrap_or_default().sum();
            self.set(bar, (of(done), of(expected)), "");
        }
    }

    fn set(&self, bar: &ProgressBar, (done, expected): (u64, u64), rest: &str) {
        let share = match self.look.is_narrow() {
            true => format!("{:3}%", done.min(expected) * 100 / expected.max(1)),
            false => format!("{} of {}", size(done), size(expected)),
        };
        bar.set_length(expected.max(1));
        bar.set_message(share + rest);
        bar.set_position(done);
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        for bar in self.processes.values().chain([&self.whole]) {
            bar.finish_and_clear();
        }
        let _ = self.all.clear(); // a terminal that is gone shows nothing anyway
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use indicatif::{InMemoryTerm, ProgressDrawTarget};

    use super::{Bars, Look};
    use crate::progress::Bytes;
    use crate::report::Verb;

    fn bytes(of: &[(i32, u64)]) -> BTreeMap<i32, Bytes> {
        of.iter().map(|&(pid, memory)| (pid, Bytes { memory, gpu: 0 })).collect()
    }

    /// What stands on a terminal of this width when half of the second process is done, and
    /// afterwards.
    fn shown(width: u16) -> (String, String) {
        let terminal = InMemoryTerm::new(10, width);
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 255);
        let look = Look { colors: false, width: usize::from(width) };
        let expected = bytes(&[(0, 1 << 29), (4711, 5 << 29), (4712, 1 << 30)]);
        let bars = Bars::new(Verb::Restore, &expected, look, target);
        let done = bytes(&[(4711, 1 << 30), (4712, 1 << 29)]);
        bars.show("contents", Duration::from_secs(2), &done, &expected);
        bars.all.println("").expect("it draws now");
        let during = terminal.contents().trim_start().to_owned();
        drop(bars);
        (during, terminal.contents().trim().to_owned())
    }

    #[test]
    fn bars_fit_the_terminal_and_go_away() {
        let wide = "\
restore [=========>              ] 1.5 GiB of 4.0 GiB, 768.0 MiB/s, 2 s: contents
      shared [                        ] 0 bytes of 512.0 MiB
        4711 [=========>              ] 1.0 GiB of 2.5 GiB
        4712 [============>           ] 512.0 MiB of 1.0 GiB";
        let narrow = "\
restore [===>      ]  37% contents
      shared [          ]   0%
        4711 [====>     ]  40%
        4712 [=====>    ]  50%";
        assert_eq!(shown(100), (wide.to_owned(), String::new()));
        assert_eq!(shown(40), (narrow.to_owned(), String::new()));
        for width in [40, 60, 77, 78, 80, 140] {
            let columns = |line: &str| line.chars().count();
            let (text, _) = shown(width);
            assert_eq!(text.lines().count(), 4, "{text}");
            assert!(text.lines().all(|line| columns(line) <= usize::from(width)), "{text}");
        }
    }
}
