//! The command line of `thaw node run`: which machine, which faults, which command.

use std::ffi::OsString;
use std::path::PathBuf;

use kfd_emulator::{FaultRule, NodeConfig, Product, Topology};

use crate::options::values::{number, size, small};

/// Run a command on an emulated node: /dev/kfd, render nodes and their sysfs
///
/// The command is in a mount and pid namespace of its own. Nothing is left when it ends; thaw exits
/// with its status. A LIST is one value for all GPUs, or one for each, with commas between.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Which product: see thaw node list-models
    #[arg(long, value_name = "NAME", default_value = "gfx90a")]
    model: String,
    /// How many GPUs
    #[arg(long, value_name = "N", default_value = "1", value_parser = small)]
    gpus: u32,
    /// Device memory (K, M, G)
    #[arg(long, value_name = "LIST")]
    vram: Option<String>,
    /// The part of it that the host can map
    #[arg(long, value_name = "LIST")]
    visible_vram: Option<String>,
    /// Identifiers of the GPUs
    #[arg(long, value_name = "LIST")]
    gpu_ids: Option<String>,
    /// Minors of the render nodes
    #[arg(long, value_name = "LIST")]
    minors: Option<String>,
    /// Versions of the compute firmware
    #[arg(long, value_name = "LIST")]
    firmware: Option<String>,
    /// Versions of the SDMA firmware
    #[arg(long, value_name = "LIST")]
    sdma_firmware: Option<String>,
    /// NUMA nodes of the machine
    #[arg(long, value_name = "N", value_parser = small)]
    cpu_nodes: Option<u32>,
    /// GPUs, from 0, that are missing
    #[arg(long, value_name = "INDEX", value_delimiter = ',', value_parser = small)]
    remove_gpu: Vec<u32>,
    /// Which machine of its kind, and where faults with a chance fall
    #[arg(long, value_name = "NUMBER", value_parser = number)]
    seed: Option<u64>,
    // Not a doc comment: what stands in brackets would be a link.
    #[arg(long = "fault", value_name = "RULE", action = clap::ArgAction::Append,
          help = "CALL[@WHICH]=ACTION, such as ALLOC_MEMORY_OF_GPU@2=ENOMEM, \
                  CRIU_RESTORE=EINVAL, GEM_VA@10..=5ms, *@1%=EINTR")]
    pub(super) faults: Vec<FaultRule>,
    /// Write a JSON line for each call
    #[arg(long, value_name = "FILE")]
    pub(super) log: Option<PathBuf>,
    /// Do not make device files look like character devices to programs
    #[arg(long)]
    no_preload: bool,
    /// The command and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "COMMAND"
    )]
    pub(super) command: Vec<OsString>,
}

/// A machine, and the seed of what happens by chance on it.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(super) topology: Topology,
    pub(super) seed: u64,
}

type Knobs = kfd_emulator::GpuKnobs;

impl Run {
    /// Whether programs get the library that makes device files look like character devices.
    pub(super) fn preload(&self) -> bool {
        !self.no_preload
    }

    /// The machine; an error says which option is wrong.
    pub(super) fn configure(&self) -> Result<Machine, String> {
        let known = Product::by_name(&self.model).ok_or_else(|| {
            let names: Vec<&str> = Product::all().iter().map(|product| product.name).collect();
            format!("there is no model {:?}; there are {}", self.model, names.join(", "))
        })?;
        let mut config = NodeConfig::new(known, self.gpus);
        config.seed = self.seed.unwrap_or(config.seed);
        config.cpu_nodes = self.cpu_nodes.or(config.cpu_nodes);
        config.removed.extend(&self.remove_gpu);
        let config = &mut config;
        each(config, "vram", &self.vram, size, |gpu, v| gpu.vram_bytes = Some(v))?;
        each(config, "visible-vram", &self.visible_vram, size, |gpu, bytes| {
            gpu.vram_public_bytes = Some(bytes);
        })?;
        each(config, "gpu-ids", &self.gpu_ids, small, |gpu, id| gpu.gpu_id = Some(id))?;
        each(config, "minors", &self.minors, small, |gpu, v| gpu.render_minor = Some(v))?;
        each(config, "firmware", &self.firmware, small, |gpu, v| gpu.mec_firmware = Some(v))?;
        each(config, "sdma-firmware", &self.sdma_firmware, small, |gpu, version| {
            gpu.sdma_firmware = Some(version);
        })?;
        let topology = config.topology().map_err(|error| error.to_string())?;
        Ok(Machine { topology, seed: config.seed })
    }
}

/// One value for all GPUs, or one for each.
fn each<T: Copy>(
    config: &mut NodeConfig,
    name: &str,
    list: &Option<String>,
    parse: impl Fn(&str) -> Result<T, String>,
    turn: impl Fn(&mut Knobs, T),
) -> Result<(), String> {
    let Some(list) = list else { return Ok(()) };
    let wrong = |text: String| format!("--{name}: {text}");
    let values: Vec<T> = list.split(',').map(parse).collect::<Result<_, _>>().map_err(wrong)?;
    let gpus = config.gpus as usize;
    if values.len() != 1 && values.len() != gpus {
        return Err(wrong(format!("{} values for {gpus} GPUs", values.len())));
    }
    for index in 0..config.gpus {
        let value = values[if values.len() == 1 { 0 } else { index as usize }];
        turn(config.gpu(index), value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{Machine, Run};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        run: Run,
    }

    fn parsed(line: &str) -> Result<(Run, Machine), String> {
        let words = std::iter::once("run").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let machine = line.run.configure()?;
        Ok((line.run, machine))
    }

    fn error(line: &str) -> String {
        parsed(line).expect_err("the line is wrong")
    }

    #[test]
    fn options_after_the_command_are_the_commands() {
        let (run, _) = parsed("--gpus 2 rocminfo --gpus 3").expect("a good line");
        assert_eq!(run.command, ["rocminfo", "--gpus", "3"]);
        let (run, machine) = parsed("--gpus=2 -- ls -l").expect("a good line");
        assert_eq!(run.command, ["ls", "-l"]);
        assert_eq!(machine.topology.gpus().len(), 2);
    }

    #[test]
    fn one_value_is_for_all_gpus_and_a_list_for_each() {
        let line = "--gpus 2 --vram 1G --gpu-ids 0x11,0x12 --minors 140,133 true";
        let (_, machine) = parsed(line).expect("a good line");
        let gpus: Vec<_> = machine.topology.gpus().iter().collect();
        assert!(gpus.iter().all(|gpu| gpu.vram.bytes == 1 << 30));
        assert_eq!([gpus[0].gpu_id, gpus[1].gpu_id], [0x11, 0x12]);
        assert_eq!([gpus[0].render_minor, gpus[1].render_minor], [140, 133]);
    }

    #[test]
    fn removed_gpu_is_missing_and_the_others_keep_their_ids() {
        let (_, whole) = parsed("--gpus 3 true").expect("a good line");
        let (_, less) = parsed("--gpus 3 --remove-gpu 1 true").expect("a good line");
        let ids = |machine: &Machine| {
            machine.topology.gpus().iter().map(|g| g.gpu_id).collect::<Vec<_>>()
        };
        assert_eq!(ids(&less), [ids(&whole)[0], ids(&whole)[2]]);
    }

    #[test]
    fn wrong_lines_say_what_is_wrong() {
        assert!(error("--gpus 2").contains("COMMAND"));
        assert!(error("--model gfx803 true").contains("gfx942"));
        assert!(error("--gpus 9 true").contains("1 to 8"));
        assert!(error("--gpus 2 --vram 1G,2G,3G true").contains("3 values for 2 GPUs"));
        assert!(error("--vram many true").contains("no number"));
        assert!(error("--fault GEM_VA true").contains("GEM_VA"));
        assert!(error("--fault GEM_VA=ENOSUCH true").contains("ENOSUCH"));
    }
}
