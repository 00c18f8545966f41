//! The command line of `thaw node run`: which machine, which faults, which command.

use std::ffi::OsString;
use std::path::PathBuf;

use kfd_emulator::{FaultRule, NodeConfig, Product, Topology};
use lexopt::prelude::*;

/// The product that a node has unless another is asked for.
const PRODUCT: &str = "gfx90a";

/// What `thaw node run` was asked to do.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) topology: Topology,
    pub(crate) faults: Vec<FaultRule>,
    pub(crate) seed: u64,
    /// File that gets a line for each call.
    pub(crate) log: Option<PathBuf>,
    /// Programs get the library that makes device files look like character devices.
    pub(crate) preload: bool,
    pub(crate) command: Vec<OsString>,
}

/// Parses everything after `node run`.
pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Run, lexopt::Error> {
    let mut product = PRODUCT.to_owned();
    let mut gpus = 1;
    let mut knobs: Vec<(String, String)> = Vec::new();
    let (mut faults, mut log, mut preload) = (Vec::new(), None, true);
    let mut command = Vec::new();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("model") => product = parser.value()?.string()?,
            Long("gpus") => gpus = parser.value()?.parse()?,
            Long("fault") => faults.push(parser.value()?.parse()?),
            Long("log") => log = Some(parser.value()?.into()),
            Long("no-preload") => preload = false,
            Long(name) if KNOBS.iter().any(|(knob, _)| *knob == name) => {
                let name = name.to_owned();
                knobs.push((name, parser.value()?.string()?));
            }
            Value(program) => {
                command.push(program);
                command.extend(parser.raw_args()?);
            }
            other => return Err(other.unexpected()),
        }
    }
    if command.is_empty() {
        return Err("a command to run is missing".into());
    }
    let config = configure(&product, gpus, &knobs)?;
    let topology = config.topology().map_err(|error| error.to_string())?;
    Ok(Run { topology, faults, seed: config.seed, log, preload, command })
}

type Knob = fn(&mut NodeConfig, &str) -> Result<(), String>;

/// Options that change the machine, and how.
const KNOBS: &[(&str, Knob)] = &[
    ("seed", |config, value| {
        config.seed = number(value)?;
        Ok(())
    }),
    ("vram", |config, value| {
        each(config, value, size, |knobs, bytes| knobs.vram_bytes = Some(bytes))
    }),
    ("visible-vram", |config, value| {
        each(config, value, size, |knobs, bytes| knobs.vram_public_bytes = Some(bytes))
    }),
    ("gpu-ids", |config, value| each(config, value, small, |knobs, id| knobs.gpu_id = Some(id))),
    ("minors", |config, value| {
        each(config, value, small, |knobs, minor| knobs.render_minor = Some(minor))
    }),
    ("firmware", |config, value| {
        each(config, value, small, |knobs, version| knobs.mec_firmware = Some(version))
    }),
    ("sdma-firmware", |config, value| {
        each(config, value, small, |knobs, version| knobs.sdma_firmware = Some(version))
    }),
    ("cpu-nodes", |config, value| {
        config.cpu_nodes = Some(small(value)?);
        Ok(())
    }),
    ("remove-gpu", |config, value| {
        for index in value.split(',') {
            config.removed.insert(small(index)?);
        }
        Ok(())
    }),
];

fn configure(
    product: &str,
    gpus: u32,
    knobs: &[(String, String)],
) -> Result<NodeConfig, lexopt::Error> {
    let known = Product::by_name(product).ok_or_else(|| {
        let names: Vec<&str> = Product::all().iter().map(|product| product.name).collect();
        format!("there is no model {product:?}; there are {}", names.join(", "))
    })?;
    let mut config = NodeConfig::new(known, gpus);
    for (name, value) in knobs {
        let (_, turn) = KNOBS.iter().find(|(knob, _)| knob == name).expect("the parser looked");
        turn(&mut config, value).map_err(|error| format!("--{name}: {error}"))?;
    }
    Ok(config)
}

/// One value for all GPUs, or one for each.
fn each<T: Copy>(
    config: &mut NodeConfig,
    list: &str,
    parse: impl Fn(&str) -> Result<T, String>,
    turn: impl Fn(&mut kfd_emulator::GpuKnobs, T),
) -> Result<(), String> {
    let values: Vec<T> = list.split(',').map(parse).collect::<Result<_, _>>()?;
    let gpus = config.gpus as usize;
    if values.len() != 1 && values.len() != gpus {
        return Err(format!("{} values for {gpus} GPUs", values.len()));
    }
    for index in 0..config.gpus {
        let value = values[if values.len() == 1 { 0 } else { index as usize }];
        turn(config.gpu(index), value);
    }
    Ok(())
}

/// A number, decimal or with `0x`.
fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text:?} is no number"))
}

fn small(text: &str) -> Result<u32, String> {
    number(text)?.try_into().map_err(|_| format!("{text} is too large"))
}

/// A size in bytes: a number, with `K`, `M` or `G` for powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    let unit = text.bytes().last().unwrap_or(0).to_ascii_uppercase();
    let shift = match unit {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        _ => return number(text),
    };
    let digits = &text[..text.len() - 1];
    let bytes = number(digits)?.checked_mul(1 << shift);
    bytes.ok_or_else(|| format!("{text} is too large"))
}

#[cfg(test)]
mod tests {
    use super::{Run, parse, size};

    fn parsed(line: &str) -> Result<Run, String> {
        let parser = lexopt::Parser::from_args(line.split_whitespace());
        parse(parser).map_err(|error| error.to_string())
    }

    fn error(line: &str) -> String {
        parsed(line).expect_err("the line is wrong")
    }

    #[test]
    fn options_after_the_command_are_the_commands() {
        let run = parsed("--gpus 2 rocminfo --gpus 3").expect("a good line");
        assert_eq!(run.command, ["rocminfo", "--gpus", "3"]);
        let run = parsed("--gpus=2 -- ls -l").expect("a good line");
        assert_eq!(run.command, ["ls", "-l"]);
        assert_eq!(run.topology.gpus().len(), 2);
    }

    #[test]
    fn one_value_is_for_all_gpus_and_a_list_for_each() {
        let run = parsed("--gpus 2 --vram 1G --gpu-ids 0x11,0x12 --minors 140,133 true");
        let run = run.expect("a good line");
        let gpus: Vec<_> = run.topology.gpus().iter().collect();
        assert!(gpus.iter().all(|gpu| gpu.vram.bytes == 1 << 30));
        assert_eq!([gpus[0].gpu_id, gpus[1].gpu_id], [0x11, 0x12]);
        assert_eq!([gpus[0].render_minor, gpus[1].render_minor], [140, 133]);
    }

    #[test]
    fn removed_gpu_is_missing_and_the_others_keep_their_ids() {
        let whole = parsed("--gpus 3 true").expect("a good line");
        let less = parsed("--gpus 3 --remove-gpu 1 true").expect("a good line");
        let ids = |run: &Run| run.topology.gpus().iter().map(|g| g.gpu_id).collect::<Vec<_>>();
        assert_eq!(ids(&less), [ids(&whole)[0], ids(&whole)[2]]);
    }

    #[test]
    fn wrong_lines_say_what_is_wrong() {
        assert!(error("--gpus 2").contains("command"));
        assert!(error("--model gfx803 true").contains("gfx942"));
        assert!(error("--gpus 9 true").contains("1 to 8"));
        assert!(error("--gpus 2 --vram 1G,2G,3G true").contains("3 values for 2 GPUs"));
        assert!(error("--vram many true").contains("no number"));
        assert!(error("--fault GEM_VA true").contains("GEM_VA"));
        assert!(error("--fault GEM_VA=ENOSUCH true").contains("ENOSUCH"));
    }

    #[test]
    fn sizes_have_units_of_1024() {
        assert_eq!(size("512m"), Ok(512 << 20));
        assert_eq!(size("0x1000"), Ok(4096));
        assert!(size("99999999999G").is_err());
    }
}
