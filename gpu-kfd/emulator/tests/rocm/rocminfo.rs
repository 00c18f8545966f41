//! AMD's `rocminfo`, unmodified: what it says of a node is what the node was made of.

use kfd_emulator::Topology;

use crate::peer::{Rocm, configured, node, topology, with_rocm};

/// What `rocminfo` prints of one agent, as far as we compare it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Agent {
    name: String,
    marketing_name: String,
    is_gpu: bool,
    chip_id: u32,
    compute_units: u32,
    /// Sizes of the pools in the global segment, in KiB.
    global_pools_kib: Vec<u64>,
    instruction_sets: Vec<String>,
}

/// Reads its output: `Key:   value` lines below a heading for each agent.
fn agents(text: &str) -> Vec<Agent> {
    let mut agents: Vec<Agent> = Vec::new();
    let mut in_global_pool = false;
    for line in text.lines() {
        if line.starts_with("Agent ") {
            agents.push(Agent::default());
        }
        let Some(agent) = agents.last_mut() else { continue };
        let Some((key, value)) = line.split_once(':') else { continue };
        let indent = key.len() - key.trim_start().len();
        let value = value.trim();
        match (indent, key.trim()) {
            (2, "Name") => agent.name = value.to_owned(),
            (2, "Marketing Name") => agent.marketing_name = value.to_owned(),
            (2, "Device Type") => agent.is_gpu = value == "GPU",
            (2, "Chip ID") => agent.chip_id = number(value) as u32,
            (2, "Compute Unit") => agent.compute_units = number(value) as u32,
            (6, "Segment") => in_global_pool = value.starts_with("GLOBAL"),
            (6, "Size") if in_global_pool => agent.global_pools_kib.push(number(value)),
            (6, "Name") => agent.instruction_sets.push(value.to_owned()),
            _ => {}
        }
    }
    agents
}

/// The decimal number in `64(0x40) KB`.
fn number(value: &str) -> u64 {
    let digits = value.split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or_else(|_| panic!("{value:?} begins with no number"))
}

/// What it says on a node, with an environment variable or without.
fn ask(rocm: &Rocm, topology: &Topology, variable: Option<(&str, &str)>) -> Vec<Agent> {
    let node = node(topology);
    let mut command = rocm.command(&node, rocm.program("rocminfo"));
    command.envs(variable);
    let ended = rocm.run(&node, command);
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.text.contains("*** Done ***"), "{}", ended.text);
    agents(&ended.text)
}

/// The GPUs among agents, after as many processors as the node has.
fn gpus(agents: &[Agent], topology: &Topology) -> Vec<Agent> {
    let is_gpu: Vec<bool> = agents.iter().map(|agent| agent.is_gpu).collect();
    let (cpus, gpus) = (topology.cpus().len(), topology.gpus().len());
    // An APU is one node for the driver and two agents for the runtime.
    assert_eq!(is_gpu, [vec![false; cpus], vec![true; gpus]].concat(), "{agents:#?}");
    agents[cpus..].to_vec()
}

/// One of so many. Memory appears as a second pool, of fine grain, if XGMI reaches another GPU.
fn mi250x(count: u32) -> Agent {
    let pools = if count > 1 { 2 } else { 1 };
    Agent {
        name: "gfx90a".to_owned(),
        marketing_name: "AMD Instinct MI250X".to_owned(),
        is_gpu: true,
        chip_id: 0x7408,
        compute_units: 110,
        global_pools_kib: vec![65520 << 10; pools],
        instruction_sets: vec!["amdgcn-amd-amdhsa--gfx90a:sramecc+:xnack-".to_owned()],
    }
}

fn check_mi250x(name: &str, count: u32) {
    with_rocm(name, |rocm| {
        let topology = topology("gfx90a", count);
        let agents = ask(rocm, &topology, None);
        for mut agent in gpus(&agents, &topology) {
            let expected = mi250x(count);
            // Later runtimes have more pools of the same memory, and generic instruction sets.
            agent.global_pools_kib.truncate(expected.global_pools_kib.len());
            agent.instruction_sets.truncate(1);
            assert_eq!(agent, expected);
        }
        let memory_kib = topology.cpus()[0].memory_bytes >> 10;
        assert!(agents[0].global_pools_kib.contains(&memory_kib), "{:#?}", agents[0]);
    });
}

#[test]
fn one_gpu_is_listed() {
    check_mi250x("rocminfo::one_gpu_is_listed", 1);
}

#[test]
fn two_gpus_are_listed() {
    check_mi250x("rocminfo::two_gpus_are_listed", 2);
}

#[test]
fn eight_gpus_are_listed() {
    check_mi250x("rocminfo::eight_gpus_are_listed", 8);
}

#[test]
fn changed_memory_and_missing_gpus_are_seen() {
    with_rocm("rocminfo::changed_memory_and_missing_gpus_are_seen", |rocm| {
        let topology = configured("gfx90a", 3, |config| {
            config.gpu(1).vram_bytes = Some(3 << 30);
            config.removed.insert(0);
        });
        let agents = ask(rocm, &topology, None);
        let found = gpus(&agents, &topology);
        let sizes: Vec<u64> = found.iter().map(|gpu| gpu.global_pools_kib[0]).collect();
        assert_eq!(sizes, [3 << 20, 65520 << 10]);
    });
}

#[test]
fn mi300x_is_listed_by_its_own_name_or_by_the_one_it_is_given() {
    with_rocm("rocminfo::mi300x_is_listed_by_its_own_name_or_by_the_one_it_is_given", |rocm| {
        let topology = topology("gfx942", 2);
        let mut agents = ask(rocm, &topology, None);
        let mut name = "gfx942";
        if !agents.iter().any(|agent| agent.is_gpu) {
            // ROCr 5.2 knows no gfx942 and passes over its agents.
            agents = ask(rocm, &topology, Some(("HSA_OVERRIDE_GFX_VERSION", "9.0.10")));
            name = "gfx90a";
        }
        for agent in gpus(&agents, &topology) {
            assert_eq!(agent.name, name);
            assert_eq!((agent.chip_id, agent.compute_units), (0x74a1, 304));
            assert_eq!(agent.global_pools_kib[0], 196_592 << 10);
        }
    });
}

#[test]
fn apu_is_listed() {
    with_rocm("rocminfo::apu_is_listed", |rocm| {
        let topology = topology("gfx90c", 1);
        let agents = ask(rocm, &topology, None);
        let found = gpus(&agents, &topology);
        assert_eq!(found[0].name, "gfx90c");
        assert_eq!((found[0].chip_id, found[0].compute_units), (0x1636, 8));
        assert_eq!(found[0].global_pools_kib[0], 512 << 10);
    });
}
