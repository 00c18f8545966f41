//! `bench node`: how long calls of an emulated node take, and how fast its memory is.
//!
//! The example `call_times` of gpu-kfd measures inside a node; here it is run several times and its
//! figures are put together. The peer is a plain memory file, copied into in turn by the same
//! process, so that what is compared has the same machine at the same time.

use std::process::Command;

use serde_json::Value;

use super::{Options, Spread, spread};
use crate::command;

/// How many callers at once.
const CALLERS: [&str; 2] = ["1", "4"];
/// Calls of each kind that each caller makes.
const CALLS: &str = "20000";

/// All runs of one number of callers.
pub(super) struct Figures {
    callers: &'static str,
    kfd_us: Vec<f64>,
    drm_us: Vec<f64>,
    /// Speed of a mapped buffer against that of a memory file, in each run.
    memory: Vec<f64>,
}

/// Runs all cases.
pub(super) fn measure(options: &Options) -> Result<Vec<Figures>, String> {
    for (package, kind) in [("restore-cli", "--bins"), ("gpu-kfd", "--examples")] {
        let mut build = command::cargo(&["build", "--release", "--locked"]);
        command::run(build.args(["--package", package, kind]))?;
    }
    let thaw = options.thaw.clone().unwrap_or_else(|| command::release_folder().join("thaw"));
    let program = command::release_folder().join("examples/call_times");
    let measured = CALLERS.into_iter().map(|callers| {
        eprintln!("xtask: {} runs with {callers} callers", options.runs);
        let (kfd_us, drm_us, memory) = (Vec::new(), Vec::new(), Vec::new());
        let mut figures = Figures { callers, kfd_us, drm_us, memory };
        for _ in 0..options.runs {
            let mut run = Command::new(&thaw);
            run.args(["node", "run", "--gpus", "2", "--no-preload", "--"]);
            figures.add(&command::output(run.arg(&program).args([callers, CALLS]))?)?;
        }
        Ok(figures)
    });
    measured.collect()
}

impl Figures {
    fn add(&mut self, json: &str) -> Result<(), String> {
        let run: Value = serde_json::from_str(json).map_err(|error| format!("{error}: {json}"))?;
        let number = |name: &str| {
            let number = run[name].as_f64().filter(|number| *number > 0.0);
            number.ok_or_else(|| format!("no {name} in {json}"))
        };
        self.kfd_us.push(number("kfd_ns")? / 1e3);
        self.drm_us.push(number("drm_ns")? / 1e3);
        self.memory.push(number("buffer_mb_per_s")? / number("memfd_mb_per_s")?);
        Ok(())
    }

    fn columns(&self) -> [(&'static str, Spread); 3] {
        [
            ("kfd_us", spread(self.kfd_us.clone())),
            ("drm_us", spread(self.drm_us.clone())),
            ("memory_ratio", spread(self.memory.clone())),
        ]
    }
}

/// For people: each figure as least, middle and largest of the medians of the runs.
pub(super) fn table(all: &[Figures]) -> String {
    let mut text = format!(
        "{:>7} {:>4}  {:>22}  {:>22}  {:>22}\n{:>7} {:>4}  {:>22}  {:>22}  {:>22}\n",
        "callers",
        "runs",
        "KFD call us",
        "DRM call us",
        "buffer/memory file",
        "",
        "",
        "min / median / max",
        "min / median / max",
        "min / median / max",
    );
    for figures in all {
        text += &format!("{:>7} {:>4}", figures.callers, figures.kfd_us.len());
        for (_, Spread { min, median, max }) in figures.columns() {
            text += &format!("  {:>22}", format!("{min:.2} / {median:.2} / {max:.2}"));
        }
        text += "\n";
    }
    text
}

/// For programs.
pub(super) fn json(all: &[Figures]) -> String {
    let cases = all.iter().map(|figures| {
        let mut case = serde_json::Map::new();
        case.insert("callers".into(), figures.callers.into());
        case.insert("runs".into(), figures.kfd_us.len().into());
        for (name, Spread { min, median, max }) in figures.columns() {
            let value = serde_json::json!({"min": min, "median": median, "max": max});
            case.insert(name.into(), value);
        }
        Value::Object(case)
    });
    format!("{:#}\n", Value::Array(cases.collect()))
}

#[cfg(test)]
mod tests {
    use super::{Figures, json, table};

    #[test]
    fn figures_of_runs_are_put_together() {
        let (kfd_us, drm_us, memory) = (Vec::new(), Vec::new(), Vec::new());
        let mut figures = Figures { callers: "4", kfd_us, drm_us, memory };
        for (kfd, speed) in [(9000, 1000), (7000, 900), (8000, 950)] {
            let line = format!(
                "{{\"kfd_ns\":{kfd},\"drm_ns\":5000,\"buffer_mb_per_s\":{speed},\
                 \"memfd_mb_per_s\":1000}}"
            );
            figures.add(&line).expect("a good line");
        }
        figures.add("{\"kfd_ns\":1}").expect_err("the rest is missing");
        figures.kfd_us.truncate(3);
        let all = [figures];
        assert!(table(&all).contains("7.00 / 8.00 / 9.00"), "{}", table(&all));
        assert!(table(&all).contains("0.90 / 0.95 / 1.00"), "{}", table(&all));
        assert!(json(&all).contains("\"median\": 8.0"), "{}", json(&all));
    }
}
