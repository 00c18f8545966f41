//! The summary of a report for people: a line that says it, and a few that tell more.

use std::io::{self, Write};
use std::time::Duration;

use super::{Report, Verb};
use crate::screen::{GOOD, TITLE, WARNING, size, styled, time, wrap};

/// Processes that are named.
const NAMED_MAX: usize = 8;
/// A space at which no line ends.
const NO_BREAK: &str = "\u{a0}";

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
            // What must not be torn apart is held together until the lines are made.
            write!(to, "{}", wrap(&lead, text, width).replace(NO_BREAK, " "))
        };
        part("tree", &self.names())?;
        part("bytes", &self.bytes())?;
        if let Some(frozen) = self.frozen_ns {
            part("frozen", &time(Duration::from_nanos(frozen)))?;
        }
        if !self.gpus.is_empty() {
            let map =
                |gpu: &super::Gpu| format!("{:#x}{NO_BREAK}->{NO_BREAK}{:#x}", gpu.saved, gpu.here);
            let maps: Vec<String> = self.gpus.iter().map(map).collect();
            part("GPUs", &maps.join(", "))?;
        }
        if !self.stages.is_empty() {
            let stage = |stage: &super::Stage| {
                let text = format!("{} {}", stage.name, time(Duration::from_nanos(stage.ns)));
                text.replace(' ', NO_BREAK)
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
        let name = |process: &super::Process| format!("{}{NO_BREAK}{}", process.pid, process.name);
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
        parts.extend(rate(self.moved_bytes(), self.ns));
        let parts: Vec<String> = parts.iter().map(|part| part.replace(' ', NO_BREAK)).collect();
        parts.join(", ")
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use crate::report::{Gpu, Process, Report, Verb};

    fn summary(width: usize) -> String {
        let mut report = Report::new(Verb::Restore, Path::new("images"), Instant::now());
        report.ns = 1_234_567_890;
        let process = |pid: i32| Process {
            pid,
            ppid: i32::from(pid > 4711) * 4711,
            name: "trainer".to_owned(),
            threads: 3,
            memory_bytes: 1 << 30,
            gpu_bytes: 16 << 30,
        };
        report.processes = (4711..4721).map(process).collect();
        (report.memory_bytes, report.gpu_bytes) = (10 << 30, 160 << 30);
        let gpu = |index: u32| Gpu {
            saved: 0xa000 + index,
            here: 0xb000 + index,
            processes: 10,
            content_bytes: 80 << 30,
        };
        report.gpus = vec![gpu(0), gpu(1)];
        for (name, micros) in [("check", 900), ("let go", 12_300), ("contents", 1_100_000)] {
            report.stage(name, Duration::from_micros(micros));
        }
        report.assumptions.push("the vdso of both kernels is the same".to_owned());
        report.warnings.push("no stats-restore in images: read-only file system".to_owned());
        let mut text = Vec::new();
        report.summarise(width, &mut text).expect("memory has room");
        anstream::adapter::strip_str(std::str::from_utf8(&text).expect("text")).to_string()
    }

    #[test]
    fn lines_break_where_they_may() {
        let narrow = "\
thaw: restored 10 processes with 30
               threads in 1.23 s
  tree    4711 trainer, 4712 trainer,
          4713 trainer, 4714 trainer,
          4715 trainer, 4716 trainer,
          4717 trainer, 4718 trainer,
          and 2 more
  bytes   memory 10.0 GiB,
          GPU 160.0 GiB, 137.7 GiB/s
  GPUs    0xa000 -> 0xb000,
          0xa001 -> 0xb001
  stages  check 900 us, let go 12.3 ms,
          contents 1.10 s
  assumed the vdso of both kernels is
          the same
  warning no stats-restore in images:
          read-only file system
";
        assert_eq!(summary(40), narrow);
        let wide = "\
thaw: restored 10 processes with 30 threads in 1.23 s
  tree    4711 trainer, 4712 trainer, 4713 trainer, 4714 trainer, 4715 trainer, 4716 trainer,
          4717 trainer, 4718 trainer, and 2 more
  bytes   memory 10.0 GiB, GPU 160.0 GiB, 137.7 GiB/s
  GPUs    0xa000 -> 0xb000, 0xa001 -> 0xb001
  stages  check 900 us, let go 12.3 ms, contents 1.10 s
  assumed the vdso of both kernels is the same
  warning no stats-restore in images: read-only file system
";
        assert_eq!(summary(96), wide);
        assert_eq!(summary(usize::MAX).lines().count(), 7);
    }
}
