//! Progress on a terminal: a bar for all, and one for each process if those are few.

use std::collections::BTreeMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Bytes;
use crate::report::Verb;

/// Processes that have a bar of their own.
const PROCESSES_MAX: usize = 8;

/// Bars on standard error; they are gone when this is dropped.
pub(super) struct Bars {
    all: MultiProgress,
    whole: ProgressBar,
    processes: BTreeMap<i32, ProgressBar>,
}

impl Bars {
    pub(super) fn new(verb: Verb, expected: &BTreeMap<i32, Bytes>, colors: bool) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        let colored = |name: &str| if colors { format!(".{name}") } else { String::new() };
        let (blue, dim) = (colored("blue"), colored("dim"));
        let style = |text: &str| {
            let style = ProgressStyle::with_template(text).expect("a template of our own");
            style.progress_chars("=> ")
        };
        let whole = all.add(ProgressBar::new(0));
        whole.set_style(style(&format!(
            "{{prefix}} [{{bar:24{blue}}}] {{binary_bytes}} of {{binary_total_bytes}}, \
             {{binary_bytes_per_sec}}, {{elapsed}}: {{msg}}"
        )));
        whole.set_prefix(verb.name());
        let mut processes = BTreeMap::new();
        if (2..=PROCESSES_MAX).contains(&expected.len()) {
            for (&pid, bytes) in expected {
                let bar = all.add(ProgressBar::new(bytes.sum()));
                let text = "  {prefix:>10} [{bar:20";
                let rest = "}] {binary_bytes} of {binary_total_bytes}";
                bar.set_style(style(&format!("{text}{dim}{rest}")));
                bar.set_prefix(pid.to_string());
                processes.insert(pid, bar);
            }
        }
        Self { all, whole, processes }
    }

    pub(super) fn show(
        &self,
        stage: &'static str,
        (done, expected): (u64, u64),
        of: &BTreeMap<i32, Bytes>,
    ) {
        self.whole.set_length(expected);
        self.whole.set_position(done);
        self.whole.set_message(stage);
        for (pid, bar) in &self.processes {
            bar.set_position(of.get(pid).copied().unwrap_or_default().sum());
        }
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
