//! `bench image`: our `thaw image` and upstream's `crit` on the same large images.
//!
//! What both have written is compared, so that both have done the same work. Times are of whole
//! commands, with the start of an interpreter in crit's.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lexopt::prelude::*;

use super::child::{self, Run};
use super::{Comparison, spread};
use crate::{command, peers};

/// Pairs of runs, unless the command says otherwise: crit takes half a minute for one.
const RUNS: usize = 3;
/// Entries of the pagemap, and mappings of the address space (the kernel's usual limit).
const RUNS_OF_PAGES: u32 = 1_000_000;
const MAPPINGS: u32 = 65_530;
/// So much of two results is compared at a time.
const PIECE_BYTES: u64 = 64 << 10;
/// crit takes a minute for the longest case, on a machine that does nothing else.
const RUN_MAX: Duration = Duration::from_secs(600);

/// What is compared: name, image, arguments.
struct Case(&'static str, &'static str, &'static [&'static str]);

const CASES: [Case; 6] = [
    Case("pagemap to JSON", "pagemap-1.img", &["decode", "-i", "IMAGE", "-o", "OUT"]),
    Case("pagemap pretty", "pagemap-1.img", &["decode", "--pretty", "-i", "IMAGE", "-o", "OUT"]),
    Case("JSON to pagemap", "pagemap-1.img", &["encode", "-i", "JSON", "-o", "OUT"]),
    Case("mm to JSON", "mm-1.img", &["decode", "-i", "IMAGE", "-o", "OUT"]),
    Case("mm pretty", "mm-1.img", &["decode", "--pretty", "-i", "IMAGE", "-o", "OUT"]),
    Case("JSON to mm", "mm-1.img", &["encode", "-i", "JSON", "-o", "OUT"]),
];

/// What `bench image` was asked for.
struct Options {
    runs: usize,
    case: Option<String>,
    /// A program that stands in for the crit that is fetched.
    crit: Option<PathBuf>,
}

/// `bench image [--runs N] [--case NAME] [--crit PROGRAM]`.
pub(super) fn run(parser: lexopt::Parser) -> Result<(), String> {
    let options = parse(parser).map_err(|error| error.to_string())?;
    let mut build = command::cargo(&["build", "--release", "--locked", "--quiet"]);
    command::run(build.args(["--package", "restore-cli", "--bin", "thaw"]))?;
    let mut build = command::cargo(&["build", "--release", "--locked", "--quiet"]);
    command::run(build.args(["--package", "criu-image", "--example", "pagemap"]))?;
    let crit = match &options.crit {
        Some(program) => vec![program.display().to_string()],
        None => peers::crit()?,
    };
    let folder = command::root().join("target/bench/image");
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    make(&folder)?;
    typed(&folder, options.runs)?;
    let chosen = |case: &&Case| options.case.as_ref().is_none_or(|name| case.0.contains(name));
    let mut comparisons = Vec::new();
    for case in CASES.iter().filter(chosen) {
        eprintln!("xtask: {} run(s) of {}", options.runs, case.0);
        let compared = compare(case, &folder, &crit, options.runs);
        comparisons.push(compared.map_err(|error| format!("{}: {error}", case.0))?);
    }
    print!("{}", super::table("crit", &comparisons));
    super::write(&command::root().join("target/bench"), "image", &super::json("crit", &comparisons))
}

fn parse(mut parser: lexopt::Parser) -> Result<Options, lexopt::Error> {
    let mut options = Options { runs: RUNS, case: None, crit: None };
    while let Some(arg) = parser.next()? {
        match arg {
            Long("runs") => options.runs = parser.value()?.parse()?,
            Long("case") => options.case = Some(parser.value()?.string()?),
            Long("crit") => options.crit = Some(parser.value()?.into()),
            other => return Err(other.unexpected()),
        }
    }
    if options.runs == 0 {
        return Err("--runs must be at least 1".into());
    }
    Ok(options)
}

fn pagemap() -> Command {
    Command::new(command::release_folder().join("examples/pagemap"))
}

/// Makes the images, and our JSON of them.
fn make(folder: &Path) -> Result<(), String> {
    let (pages, mm) = (folder.join("pagemap-1.img"), folder.join("mm-1.img"));
    command::run(pagemap().arg("make").arg(&pages).arg(RUNS_OF_PAGES.to_string()))?;
    command::run(pagemap().arg("mappings").arg(&mm).arg(MAPPINGS.to_string()))?;
    for image in [pages, mm] {
        let mut decode = Command::new(command::release_folder().join("thaw"));
        let json = image.with_extension("json");
        command::run(decode.args(["image", "decode", "-i"]).arg(&image).arg("-o").arg(json))?;
    }
    Ok(())
}

/// Measures typed reading, which crit does not have.
fn typed(folder: &Path, runs: usize) -> Result<(), String> {
    let image = folder.join("pagemap-1.img");
    let mut times = Vec::new();
    let mut peak_kib = 0;
    for _ in 0..=runs {
        let mut read = pagemap();
        let run = child::measure(read.arg("read").arg(&image).arg(RUNS_OF_PAGES.to_string()))?;
        times.push(run.time.as_secs_f64() * 1e3);
        peak_kib = peak_kib.max(run.peak_kib);
    }
    times.remove(0); // it warmed up
    let times = spread(times);
    println!(
        "typed reading of {RUNS_OF_PAGES} records: {:.1} / {:.1} / {:.1} ms, peak {:.1} MiB\n",
        times.min,
        times.median,
        times.max,
        peak_kib as f64 / 1024.0
    );
    Ok(())
}

fn compare(case: &Case, folder: &Path, crit: &[String], runs: usize) -> Result<Comparison, String> {
    let thaw = [command::release_folder().join("thaw").display().to_string(), "image".to_owned()];
    let (theirs, ours) = (folder.join("out.crit"), folder.join("out.thaw"));
    let side = |program: &[String], out: &Path| {
        let mut command = Command::new(&program[0]);
        command.args(&program[1..]).stdin(Stdio::null());
        for arg in case.2 {
            match *arg {
                "IMAGE" => command.arg(folder.join(case.1)),
                "JSON" => command.arg(folder.join(case.1).with_extension("json")),
                "OUT" => command.arg(out),
                other => command.arg(other),
            };
        }
        measured(&mut command)
    };
    let compared = super::alternate(case.0, runs, || side(crit, &theirs), || side(&thaw, &ours))?;
    if !same(&theirs, &ours).map_err(|error| error.to_string())? {
        return Err("the two results differ".to_owned());
    }
    for path in [theirs, ours] {
        fs::remove_file(path).map_err(|error| error.to_string())?;
    }
    Ok(compared)
}

/// Whether two files have the same contents. They are not read whole: what this program has in
/// memory when it starts a child counts in the child's peak.
fn same(first: &Path, second: &Path) -> io::Result<bool> {
    let mut files = [fs::File::open(first)?, fs::File::open(second)?];
    loop {
        let [mut a, mut b] = [Vec::new(), Vec::new()];
        files[0].by_ref().take(PIECE_BYTES).read_to_end(&mut a)?;
        files[1].by_ref().take(PIECE_BYTES).read_to_end(&mut b)?;
        if a != b || a.is_empty() {
            return Ok(a == b);
        }
    }
}

fn measured(command: &mut Command) -> Result<Run, String> {
    child::measure_for(command, RUN_MAX)
}
