//! The summary of a report for people: a line that says it, and a few that tell more.

use std::io::{self, Write};
use std::time::Duration;

use super::{Report, Verb};
use crate::screen::{GOOD, TITLE, WARNING, size, styled, time, wrap};

/// Processes that are named.
const NAMED_MAX: usize = 8;

impl Report {
    /// Writes it.
    pub(crate) fn summarise(&self, width: usize, to: &mut dyn Write) -> io::Result<()> {
        let verb = match self.command {
            Verb::Dump => "dumped",
            Verb::Restore => "restored",
            Verb::Plan => "planned",
        };
        let threads: usize = self.processes.iter().map(|process| process.threads).sum();
        let took = time(Duration::from_nanos(self.ns));
        let text = format!(
            "{} with {} in {took}",
            counted(self.processes.len(), "process", "processes"),
            counted(threads, "thread", "threads"),
        );
        write!(to, "{}", wrap(&format!("thaw: {} ", styled(GOOD, verb)), &text, width))?;
        let mut part = |name: &str, text: &str| {
            let lead = format!("  {}", styled(TITLE, &format!("{name:<8}")));
            write!(to, "{}", wrap(&lead, text, width))
        };
        part("tree", &self.names())?;
        part("bytes", &self.bytes())?;
        if let Some(frozen) = self.frozen_ns {
            part("frozen", &time(Duration::from_nanos(frozen)))?;
        }
        if !self.gpus.is_empty() {
            let map = |gpu: &super::Gpu| format!("{:#x} -> {:#x}", gpu.saved, gpu.here);
            let maps: Vec<String> = self.gpus.iter().map(map).collect();
            part("GPUs", &maps.join(", "))?;
        }
        if !self.stages.is_empty() {
            let stage = |stage: &super::Stage| {
                format!("{}\u{a0}{}", stage.name, time(Duration::from_nanos(stage.ns)))
            };
            let stages: Vec<String> = self.stages.iter().map(stage).collect();
            part("stages", &stages.join(", "))?;
        }
        for assumption in &self.assumptions {
            part("assumed", assumption)?;
        }
        for warning in &self.warnings {
            let lead = format!("  {}", styled(WARNING, "warning "));
            write!(to, "{}", wrap(&lead, warning, width))?;
        }
        Ok(())
    }

    /// `4711 sh, 4712 worker, and 3 more`.
    fn names(&self) -> String {
        let name = |process: &super::Process| format!("{} {}", process.pid, process.name);
        let mut names: Vec<String> = self.processes.iter().take(NAMED_MAX).map(name).collect();
        if self.processes.len() > NAMED_MAX {
            names.push(format!("and {} more", self.processes.len() - NAMED_MAX));
        }
        names.join(", ")
    }

    fn bytes(&self) -> String {
        let mut parts = vec![format!("memory {}", size(self.memory_bytes))];
        if self.shared_bytes > 0 {
            parts.push(format!("shared {}", size(self.shared_bytes)));
        }
        if self.gpu_bytes > 0 {
            parts.push(format!("GPU {}", size(self.gpu_bytes)));
        }
        if let Some(bytes) = self.image_bytes {
            parts.push(format!("images {}", size(bytes)));
        }
        match rate(self.moved_bytes(), self.ns) {
            Some(rate) => format!("{}, {rate}", parts.join(", ")),
            None => parts.join(", "),
        }
    }
}

/// Bytes a second, if there were enough for that to mean something.
pub(super) fn rate(bytes: u64, ns: u64) -> Option<String> {
    const BYTES_MIN: u64 = 16 << 20;
    (bytes >= BYTES_MIN && ns > 0)
        .then(|| format!("{}/s", size((bytes as f64 / (ns as f64 / 1e9)) as u64)))
}

/// `1 process`, `2 processes`.
pub(super) fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}
