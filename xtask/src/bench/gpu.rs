//! `bench gpu`: how fast contents of buffers come back, how much two processes at once gain,
//! whether a device file costs the same in a large tree, and whether memory grows with VRAM.
//!
//! Everything runs on emulated nodes: a tree is dumped on one, and on a second one it is restored
//! again and again, in turn with the peer: plain parallel copies of as many bytes into new
//! buffers (gpu-kfd's example `copy_times`), or the same restore by one worker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use super::{Options, Spread, child, spread};
use crate::command;
use crate::gpu_tree::{self, next_pid};

/// Holds the case in the run that is inside a node.
const PART: &str = "XTASK_BENCH_GPU";

/// A tree: its name, GPUs, and processes.
struct Case {
    name: &'static str,
    gpus: u32,
    processes: usize,
    /// Words of each process after those that open its files.
    words: &'static str,
}

const CASES: [Case; 4] = [
    Case { name: "2x2x512M", gpus: 2, processes: 2, words: "vram:0:512M vram:1:512M" },
    Case { name: "2x2x64M", gpus: 2, processes: 2, words: "vram:0:64M vram:1:64M" },
    Case { name: "2x4 small", gpus: 4, processes: 2, words: SMALL },
    Case { name: "64x4 small", gpus: 4, processes: 64, words: SMALL },
];
const SMALL: &str = "vram:0:8K vram:1:8K vram:2:8K vram:3:8K";

impl Case {
    fn layout(&self) -> Vec<String> {
        let renders: Vec<String> = (0..self.gpus).map(|gpu| format!("render:{gpu}")).collect();
        let own = format!("kfd {} {}", renders.join(" "), self.words);
        let forks: Vec<String> =
            (1..self.processes).map(|process| format!("fork:{process}")).collect();
        let process = |number| match number {
            0 => format!("{} {own}", forks.join(" ")),
            _ => own.clone(),
        };
        (0..self.processes).map(process).collect()
    }

    /// Bytes of contents and number of buffers, if they are worth a comparison.
    fn buffers(&self) -> Option<(usize, usize)> {
        let size = self.words.split(' ').next()?.rsplit(':').next()?.strip_suffix('M')?;
        let size: usize = size.parse().ok()?;
        Some((self.processes * self.gpus as usize, size << 20))
    }
}

/// One restore, from its trace.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    whole_ms: f64,
    /// From the first device step until all contents had arrived.
    gpu_ms: f64,
    contents_ms: f64,
    contents_bytes: f64,
    /// Time of the device stage for each device file, in microseconds.
    file_us: f64,
    peak_mib: f64,
}

/// All runs of a case.
#[derive(Default)]
pub(super) struct Measured {
    name: &'static str,
    ours: Vec<Figures>,
    serial: Vec<Figures>,
    /// Nanoseconds of plain copies of the same bytes.
    plain_ns: Vec<f64>,
}

/// Measures all cases; inside a node it does the part that is asked for.
pub(super) fn measure(options: &Options) -> Result<Vec<Measured>, String> {
    for (package, kind) in [("restore-cli", "--examples"), ("gpu-kfd", "--examples")] {
        let mut build = command::cargo(&["build", "--release", "--locked", "--bins"]);
        command::run(build.args(["--package", package, kind]))?;
    }
    let chosen = |case: &&Case| options.case.as_ref().is_none_or(|name| name == case.name);
    CASES.iter().filter(chosen).map(|case| measure_case(case, options)).collect()
}

/// The part of a run inside a node.
pub(crate) fn inside() -> Option<Result<(), String>> {
    let order: Value = serde_json::from_str(&std::env::var(PART).ok()?).ok()?;
    let folder = PathBuf::from(order["folder"].as_str()?);
    let number = |name: &str| order[name].as_u64().unwrap_or(0) as usize;
    let part = Part { thaw: PathBuf::from(order["thaw"].as_str()?), folder };
    Some(match order["layout"].as_array() {
        Some(layout) => {
            let layout: Vec<&str> = layout.iter().filter_map(Value::as_str).collect();
            part.dump(&layout)
        }
        None => part.restores(number("runs"), (number("buffers"), number("size"))),
    })
}

fn measure_case(case: &Case, options: &Options) -> Result<Measured, String> {
    eprintln!("xtask: {} runs of {}", options.runs, case.name);
    let folder = command::root().join("target/bench-gpu");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("images")).map_err(text)?;
    let thaw = options.thaw.clone().unwrap_or_else(|| command::release_folder().join("thaw"));
    let node = |order: Value| {
        let program = std::env::current_exe().map_err(text)?;
        let mut node = Command::new(&thaw);
        node.args(["node", "run", "--gpus", &case.gpus.to_string(), "--"]).arg(program);
        node.args(["bench", "gpu"]).env(PART, order.to_string()).stdin(Stdio::null());
        command::run(&mut node)
    };
    let (buffers, size) = case.buffers().unwrap_or_default();
    node(serde_json::json!({ "thaw": thaw, "folder": folder, "layout": case.layout() }))?;
    node(serde_json::json!({
        "thaw": thaw, "folder": folder, "runs": options.runs, "buffers": buffers, "size": size,
    }))?;
    let lines = fs::read_to_string(folder.join("figures")).map_err(text)?;
    let mut measured = Measured { name: case.name, ..Measured::default() };
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).map_err(text)?;
        let figures = |name: &str| Figures::of(&line[name]);
        measured.ours.extend(figures("ours"));
        measured.serial.extend(figures("serial"));
        measured.plain_ns.extend(line["plain_ns"].as_f64());
    }
    let _ = fs::remove_dir_all(&folder);
    Ok(measured)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

struct Part {
    thaw: PathBuf,
    folder: PathBuf,
}

impl Part {
    fn images(&self) -> PathBuf {
        self.folder.join("images")
    }

    fn dump(&self, layout: &[&str]) -> Result<(), String> {
        next_pid(400)?;
        let status = self.folder.join("status");
        let root = gpu_tree::start(&command::release_folder(), &status, layout)?.to_string();
        next_pid(2000)?;
        let mut dump = Command::new(&self.thaw);
        dump.args(["dump", "-v1", "-t", &root, "-D"]).arg(self.images());
        command::run(dump.stdin(Stdio::null()))
    }

    /// Alternating runs; the first of each warms up.
    fn restores(&self, runs: usize, (buffers, size): (usize, usize)) -> Result<(), String> {
        nix::sys::prctl::set_child_subreaper(true).map_err(text)?;
        next_pid(2000)?;
        let mut lines = String::new();
        for round in 0..=runs {
            let mut line = serde_json::json!({});
            line["ours"] = self.restore(&[])?;
            if size > 0 {
                line["plain_ns"] = self.plain(buffers, size)?;
                line["serial"] = self.restore(&["--workers", "1", "--schedule", "serial"])?;
            }
            if round > 0 {
                lines += &format!("{line}\n");
            }
        }
        fs::write(self.folder.join("figures"), lines).map_err(text)
    }

    fn plain(&self, buffers: usize, size: usize) -> Result<Value, String> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let mut plain = Command::new(command::release_folder().join("examples/copy_times"));
        plain.args([buffers, size, threads].map(|number| number.to_string()));
        let line = command::output(&mut plain)?;
        let value: Value = serde_json::from_str(&line).map_err(text)?;
        Ok(value["ns"].clone())
    }

    fn restore(&self, args: &[&str]) -> Result<Value, String> {
        let trace = self.folder.join("trace.jsonl");
        let mut restore = Command::new(&self.thaw);
        restore.args(["restore", "-d", "-s", "-v1", "-D"]).arg(self.images());
        restore.arg("--trace").arg(&trace).args(args).stdin(Stdio::null());
        let run = child::measure(&mut restore)?;
        end_tree()?;
        let mut figures = of_trace(&trace)?;
        figures["whole_ms"] = (run.time.as_secs_f64() * 1e3).into();
        figures["peak_mib"] = (run.peak_kib as f64 / 1024.0).into();
        Ok(figures)
    }
}

/// Times of one restore.
fn of_trace(trace: &Path) -> Result<Value, String> {
    let text_of = fs::read_to_string(trace).map_err(text)?;
    let lines: Vec<Value> =
        text_of.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let head = lines.first().ok_or("an empty trace")?;
    let steps = head["steps"].as_array().map_or(0, Vec::len).max(1);
    let bytes: u64 = head["steps"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|step| step["content_bytes"].as_u64())
        .sum();
    let span = |stages: &[&str]| {
        let of = |line: &&Value| stages.iter().any(|stage| line["stage"] == *stage);
        let times = |field: &str| -> Vec<u64> {
            lines.iter().filter(of).filter_map(|line| line[field].as_u64()).collect()
        };
        let (begin, end) = (times("begin_ns"), times("end_ns"));
        let begin = begin.into_iter().min().unwrap_or(0);
        end.into_iter().max().unwrap_or(begin).saturating_sub(begin) as f64 / 1e6
    };
    Ok(serde_json::json!({
        "gpu_ms": span(&["device", "contents"]),
        "contents_ms": span(&["contents"]),
        "contents_bytes": bytes,
        "file_us": span(&["device"]) * 1e3 / steps as f64,
    }))
}

impl Figures {
    fn of(value: &Value) -> Option<Self> {
        let number = |name: &str| value[name].as_f64();
        Some(Self {
            whole_ms: number("whole_ms")?,
            gpu_ms: number("gpu_ms")?,
            contents_ms: number("contents_ms")?,
            contents_bytes: number("contents_bytes")?,
            file_us: number("file_us")?,
            peak_mib: number("peak_mib")?,
        })
    }
}

/// Ends the tree, which is left stopped, and collects it.
fn end_tree() -> Result<(), String> {
    gpu_tree::wait_until("the tree ends", || {
        let flags = Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL);
        while waitpid(None, flags).is_ok_and(|status| status.pid().is_some()) {}
        let pids = gpu_tree::pids();
        for &pid in &pids {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        pids.is_empty()
    })
}

impl Measured {
    fn column(&self, of: fn(&Figures) -> f64) -> Spread {
        spread(self.ours.iter().map(of).collect())
    }

    /// Speed of contents against plain copies, run by run.
    fn against_plain(&self) -> Option<Spread> {
        let pairs = self.ours.iter().zip(&self.plain_ns);
        let ratios: Vec<f64> = pairs.map(|(our, plain)| plain / 1e6 / our.contents_ms).collect();
        (!ratios.is_empty()).then(|| spread(ratios))
    }

    /// Time of device files and contents against the same one after the other, run by run.
    fn against_serial(&self) -> Option<Spread> {
        let pairs = self.ours.iter().zip(&self.serial);
        let ratios: Vec<f64> = pairs.map(|(our, serial)| our.gpu_ms / serial.gpu_ms).collect();
        (!ratios.is_empty()).then(|| spread(ratios))
    }

    fn columns(&self) -> [(&'static str, Option<Spread>); 6] {
        let rate = |figures: &Figures| {
            let seconds = figures.contents_ms / 1e3;
            if seconds > 0.0 { figures.contents_bytes / seconds / 1e9 } else { 0.0 }
        };
        [
            ("whole ms", Some(self.column(|figures| figures.whole_ms))),
            ("contents GB/s", Some(self.column(rate))),
            ("speed / plain copies", self.against_plain()),
            ("time / one worker", self.against_serial()),
            ("us a device file", Some(self.column(|figures| figures.file_us))),
            ("peak MiB", Some(self.column(|figures| figures.peak_mib))),
        ]
    }
}

/// For people.
pub(super) fn table(all: &[Measured]) -> String {
    let mut text = String::new();
    for measured in all {
        text += &format!("{} ({} runs; min / median / max)\n", measured.name, measured.ours.len());
        for (name, spread) in measured.columns() {
            if let Some(Spread { min, median, max }) = spread {
                text += &format!("  {name:22} {min:9.2} / {median:9.2} / {max:9.2}\n");
            }
        }
    }
    text
}

/// For programs.
pub(super) fn json(all: &[Measured]) -> String {
    let cases = all.iter().map(|measured| {
        let mut case = serde_json::Map::new();
        case.insert("case".into(), measured.name.into());
        case.insert("runs".into(), measured.ours.len().into());
        for (name, spread) in measured.columns() {
            if let Some(Spread { min, median, max }) = spread {
                let value = serde_json::json!({ "min": min, "median": median, "max": max });
                case.insert(name.replace(' ', "_"), value);
            }
        }
        Value::Object(case)
    });
    format!("{:#}\n", Value::Array(cases.collect()))
}

#[cfg(test)]
mod tests {
    use super::{CASES, Figures, Measured, table};

    #[test]
    fn layouts_fork_every_process_once() {
        let layout = CASES[3].layout();
        assert_eq!(layout.len(), 64);
        assert_eq!(layout[0].matches("fork:").count(), 63);
        assert!(layout[63].starts_with("kfd render:0 render:1 render:2 render:3 vram:0:8K"));
        assert_eq!(CASES[0].buffers(), Some((4, 512 << 20)));
        assert_eq!(CASES[3].buffers(), None);
    }

    #[test]
    fn ratios_are_those_of_pairs() {
        let figures = |ms| Figures { contents_ms: ms, gpu_ms: ms, ..Figures::default() };
        let measured = Measured {
            name: "a case",
            ours: vec![figures(10.0), figures(100.0)],
            serial: vec![figures(20.0), figures(200.0)],
            plain_ns: vec![9e6, 90e6],
        };
        assert_eq!(measured.against_plain().expect("pairs").median, 0.9);
        assert_eq!(measured.against_serial().expect("pairs").median, 0.5);
        assert!(table(&[measured]).contains("a case (2 runs"));
    }
}
