//! `bench dump`: our dump and upstream's of the same trees, alternating.
//!
//! Each run starts a tree, dumps it, which ends it, and looks at what the log says of the time for
//! which it was frozen. The images go to a tmpfs: what is compared is the work, not the disk, which
//! only we wait for (upstream does not sync). `--on-disk` takes the disk all the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::mount::{MsFlags, mount};

use super::child::{self, Run};
use super::tree::{self, Case};
use super::{Comparison, Options};
use crate::{command, peers};

const CASES: [Case; 3] = [
    Case("small", &["1", "1", "0"], 1),
    Case("tree", &["3", "256", "3"], 3),
    Case("twenty", &["20", "1", "0"], 20),
];

/// Runs the chosen cases; of each, the whole time and the time frozen.
pub(super) fn compare(options: &Options) -> Result<Vec<Comparison>, String> {
    let cases = tree::chosen(&CASES, options)?;
    tree::build()?;
    let criu = peers::fetch()?;
    let thaw = options.thaw.clone().unwrap_or_else(|| command::release_folder().join("thaw"));
    tree::prepare().map_err(|errno| format!("/run of our own: {errno} (needs root)"))?;
    let folder = command::root().join("target/bench/dump");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
    if !options.on_disk {
        let none: Option<&str> = None;
        mount(Some("tmpfs"), &folder, Some("tmpfs"), MsFlags::empty(), none)
            .map_err(|errno| format!("a tmpfs for the images: {errno}"))?;
    }
    let mut comparisons = Vec::new();
    for case in cases {
        eprintln!("xtask: {} runs of {}", options.runs, case.0);
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        let whole = super::alternate(
            case.0,
            options.runs,
            || dump(case, &folder, &mut || peers::command(&criu), upstream_frozen, &mut theirs),
            || dump(case, &folder, &mut || Command::new(&thaw), own_frozen, &mut ours),
        );
        comparisons.push(whole.map_err(|error| format!("{}: {error}", case.0))?);
        let peak = |times: Vec<Duration>| times.into_iter().map(|time| Run { time, peak_kib: 0 });
        let pairs = peak(theirs).zip(peak(ours)).skip(1).collect(); // the first pair warms up
        comparisons.push(Comparison { case: frozen_name(case.0), pairs });
    }
    Ok(comparisons)
}

fn frozen_name(case: &str) -> &'static str {
    match case {
        "small" => "  frozen",
        "tree" => "  frozen ",
        _ => "  frozen  ",
    }
}

/// One run: start, dump, note how long the tree was frozen.
fn dump(
    case: &Case,
    folder: &Path,
    program: &mut dyn FnMut() -> Command,
    frozen: fn(&Path) -> Option<Duration>,
    times: &mut Vec<Duration>,
) -> Result<Run, String> {
    let Case(_, args, processes) = *case;
    let images: PathBuf = folder.join("images");
    let _ = fs::remove_dir_all(&images);
    fs::create_dir_all(&images).map_err(|error| error.to_string())?;
    let pids = tree::start(&command::release_folder(), &folder.join("status"), args)?;
    if pids.len() != processes {
        return Err(format!("{} of {processes} processes are ready", pids.len()));
    }
    let mut dump = program();
    dump.args(["dump", "-v3", "-o", "dump.log", "-t", &pids[0].to_string(), "-D"]);
    let run = child::measure(dump.arg(&images));
    let log = images.join("dump.log");
    let run = run.map_err(|failure| {
        let _ = tree::end(&pids);
        tree::explained(&failure, &log)
    })?;
    tree::reap(&pids)?;
    times.push(frozen(&images).ok_or("no word of the time frozen")?);
    Ok(run)
}

/// Upstream keeps it in its statistics; so do we, but the images are not yet in place then.
fn upstream_frozen(images: &Path) -> Option<Duration> {
    let bytes = fs::read(images.join("stats-dump")).ok()?;
    // Two magic numbers, the length, the entry (1, bytes), its length, then the fields.
    let mut fields = bytes.get(14..)?.iter();
    let mut number = || {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = *fields.next()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    };
    let mut values = [0; 2];
    for value in &mut values {
        number()?; // the field's number
        *value = number()?;
    }
    Some(Duration::from_micros(values[1]))
}

/// Our log says it at the end.
fn own_frozen(images: &Path) -> Option<Duration> {
    let log = fs::read_to_string(images.join("dump.log")).ok()?;
    let (_, rest) = log.rsplit_once("frozen for ")?;
    Some(Duration::from_micros(rest.split(' ').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{own_frozen, upstream_frozen};
    use std::time::Duration;

    #[test]
    fn time_frozen_is_found_in_statistics_and_log() {
        let dir = std::env::temp_dir().join(format!("xtask-frozen-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let mut stats = vec![0; 12];
        stats.extend([10, 6, 8, 100, 16, 0xe8, 7, 24]); // freezing 100 us, frozen 1000 us
        std::fs::write(dir.join("stats-dump"), stats).expect("room");
        let log = "(00.1) stopped within 7 us, frozen for 1234 us\n";
        std::fs::write(dir.join("dump.log"), log).expect("room");
        let found = (upstream_frozen(&dir), own_frozen(&dir));
        std::fs::remove_dir_all(&dir).expect("it is there");
        let micros = |us| Some(Duration::from_micros(us));
        assert_eq!(found, (micros(1000), micros(1234)));
    }
}
