//! Topologies as the driver writes them, whole and damaged, from memory and from files.
//!
//! The numbers of the MI300X, of the MI350X and of their hosts are those of captures that ROCm's
//! own tests use; the folders are made here, since they would be hundreds of small files.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::sysfs::{FILE_BYTES_MAX, Source};
use super::{
    Depth, HostGpuId, LINKS_MAX, LineProblem, LinkType, NODES_MAX, Topology, TopologyError, read,
};

const ROOT: &str = "/t";

const CPU: &str = "\
cpu_cores_count 96
simd_count 0
mem_banks_count 1
caches_count 0
io_links_count 5
p2p_links_count 3
cpu_core_id_base 0
simd_id_base 0
max_waves_per_simd 0
lds_size_in_kb 0
gds_size_in_kb 0
num_gws 0
wave_front_size 0
array_count 0
simd_arrays_per_engine 0
cu_per_simd_array 0
simd_per_cu 0
max_slots_scratch_cu 0
gfx_target_version 0
vendor_id 0
device_id 0
location_id 0
domain 0
drm_render_minor 0
hive_id 0
num_sdma_engines 0
num_sdma_xgmi_engines 0
num_sdma_queues_per_engine 0
num_cp_queues 0
max_engine_clk_ccompute 2400
";

const MI300X: &str = "\
cpu_cores_count 0
simd_count 1216
mem_banks_count 1
caches_count 626
io_links_count 8
p2p_links_count 1
cpu_core_id_base 0
simd_id_base 2147487784
max_waves_per_simd 8
lds_size_in_kb 64
gds_size_in_kb 0
num_gws 64
wave_front_size 64
array_count 32
simd_arrays_per_engine 1
cu_per_simd_array 10
simd_per_cu 4
max_slots_scratch_cu 32
gfx_target_version 90402
vendor_id 4098
device_id 29857
location_id 18176
domain 0
drm_render_minor 128
hive_id 10631624818852212319
num_sdma_engines 2
num_sdma_xgmi_engines 14
num_sdma_queues_per_engine 8
num_cp_queues 24
max_engine_clk_fcompute 2100
local_mem_size 0
fw_version 166
capability 746037888
debug_prop 1511
sdma_fw_version 22
unique_id 4376936076086227261
num_xcc 8
max_engine_clk_ccompute 2400
";

/// Files in memory. A file whose text is [`HIDDEN`] answers as a device cgroup makes it answer.
#[derive(Default)]
struct Files {
    texts: BTreeMap<PathBuf, String>,
    /// From which read on the generation is another one; `None` for never.
    changes_at: Option<usize>,
    reads: Cell<usize>,
}

const HIDDEN: &str = "\u{0}hidden";

impl Files {
    fn put(&mut self, path: &str, text: &str) -> &mut Self {
        self.texts.insert(Path::new(ROOT).join(path), text.to_owned());
        self
    }

    fn without(&mut self, folder: &str) -> &mut Self {
        let folder = Path::new(ROOT).join(folder);
        self.texts.retain(|path, _| !path.starts_with(&folder));
        self
    }

    fn read(&self) -> Result<Topology, TopologyError> {
        read(self, Path::new(ROOT), Depth::Everything)
    }

    fn node(&mut self, index: u32, gpu_id: u32, name: &str, properties: &str) -> &mut Self {
        let node = format!("nodes/{index}");
        self.put(&format!("{node}/gpu_id"), &format!("{gpu_id}\n"));
        self.put(&format!("{node}/name"), &format!("{name}\n"));
        self.put(&format!("{node}/properties"), properties);
        for folder in ["mem_banks", "caches", "io_links", "p2p_links"] {
            // A name that is no number stands for the folder itself.
            self.put(&format!("{node}/{folder}/uevent"), "");
        }
        self
    }

    fn bank(&mut self, node: u32, heap_type: u32, size_bytes: u64) -> &mut Self {
        let text = format!(
            "heap_type {heap_type}\nsize_in_bytes {size_bytes}\nflags 0\nwidth 8192\n\
             mem_clk_max 1300\n"
        );
        self.put(&format!("nodes/{node}/mem_banks/0/properties"), &text)
    }

    fn link(&mut self, folder: &str, from: u32, to: u32, kind: u32, weight: u32) -> &mut Self {
        let folder = format!("nodes/{from}/{folder}");
        let start = Path::new(ROOT).join(&folder);
        let count = self.texts.keys().filter(|path| path.starts_with(&start)).count() - 1;
        let text = format!(
            "type {kind}\nversion_major 0\nversion_minor 0\nnode_from {from}\nnode_to {to}\n\
             weight {weight}\nmin_latency 0\nmax_latency 0\nmin_bandwidth 0\nmax_bandwidth 64000\n\
             recommended_transfer_size 0\nrecommended_sdma_engine_id_mask 16384\nflags 1\n"
        );
        self.put(&format!("{folder}/{count}/properties"), &text)
    }
}

impl Source for Files {
    fn read(&self, path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
        self.reads.set(self.reads.get() + 1);
        let changed = self.changes_at.is_some_and(|at| self.reads.get() >= at);
        if path.ends_with("generation_id") && changed {
            return Ok(b"3\n".to_vec());
        }
        match self.texts.get(path) {
            Some(text) if text == HIDDEN => Err(io::Error::from_raw_os_error(1)),
            Some(text) => Ok(text.bytes().take(bytes_max).collect()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let inside = self.texts.keys().filter_map(|key| key.strip_prefix(path).ok());
        let mut names: Vec<String> = inside
            .filter_map(|rest| Some(rest.components().next()?.as_os_str().to_str()?.to_owned()))
            .collect();
        names.dedup();
        if names.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(names) }
    }
}

/// Two sockets with four MI300X each, all eight in one hive.
fn mi300x_host() -> Files {
    let mut files = Files::default();
    files.put("generation_id", "2\n");
    files.put(
        "system_properties",
        "platform_oem 35498446626881\nplatform_id 19522\nplatform_rev 1\n",
    );
    for cpu in 0..2 {
        files.node(cpu, 0, "", CPU).bank(cpu, 0, 1_621_851_013_120);
        files.link("io_links", cpu, 1 - cpu, 1, 32);
    }
    for gpu in 2..10 {
        let minor = format!("drm_render_minor {}", 128 + 8 * (gpu - 2));
        let properties = MI300X.replace("drm_render_minor 128", &minor);
        files.node(gpu, 40_000 + gpu, "ip discovery", &properties).bank(gpu, 1, 206_141_652_992);
        let cpu = u32::from(gpu >= 6);
        files.link("io_links", gpu, cpu, 2, 20).link("io_links", cpu, gpu, 2, 20);
        files.link("p2p_links", gpu, 1 - cpu, 2, 52).link("p2p_links", 1 - cpu, gpu, 2, 52);
        for peer in (2..10).filter(|&peer| peer != gpu) {
            files.link("io_links", gpu, peer, 11, 15);
        }
        files.put(
            &format!("nodes/{gpu}/caches/0/properties"),
            "processor_id_low 4136\nlevel 1\nsize 32\ncache_line_size 128\n\
             cache_lines_per_tag 1\nassociation 64\nlatency 0\ntype 9\nsibling_map 1,1,0,0\n",
        );
        files.put(&format!("nodes/{gpu}/mem_banks/0/used_memory"), "297209856\n");
    }
    files
}

#[test]
fn every_property_of_an_mi300x_host_has_its_field() {
    let topology = mi300x_host().read().expect("a good topology");
    assert_eq!((topology.generation, topology.nodes.len()), (2, 10));
    assert_eq!(topology.system.platform_id, 19_522);
    assert!(topology.hidden.is_empty());
    assert_eq!(topology.cpus().map(|cpu| cpu.index).collect::<Vec<_>>(), [0, 1]);

    let gpu = topology.gpu(HostGpuId(40_006)).expect("a GPU");
    let properties = &gpu.properties;
    assert!(properties.unknown.is_empty(), "{:?}", properties.unknown);
    assert_eq!(gpu.index, 6);
    assert_eq!(gpu.name, "ip discovery");
    assert_eq!(properties.drm_render_minor, 160);
    assert_eq!(properties.hive_id, 10_631_624_818_852_212_319);
    assert_eq!((properties.simd_count, properties.num_xcc), (1216, 8));
    assert_eq!((properties.fw_version, properties.sdma_fw_version), (166, 22));
    assert_eq!(gpu.isa().expect("an ISA").to_string(), "gfx942");
    assert_eq!(gpu.pci_address().expect("an address").to_string(), "0000:47:00.0");

    let vram = gpu.vram().expect("a bank");
    assert_eq!((vram.size_in_bytes, vram.width), (206_141_652_992, 8192));
    assert!(gpu.is_vram_public());
    assert!(vram.unknown.is_empty());
    assert_eq!(gpu.caches[0].cache_type, 9);
    assert_eq!(gpu.caches[0].sibling_map, [true, true, false, false]);
    assert_eq!(gpu.links_of(LinkType::XGMI).count(), 7);
    let link = topology.numa_link(gpu).expect("a link to a CPU");
    assert_eq!((link.node_from, link.node_to, link.weight), (6, 1, 20));
    assert!(link.is_enabled() && link.has_atomics_64_bit() && !link.is_non_coherent());
    assert_eq!(link.recommended_sdma_engine_id_mask, 1 << 14);
    assert!(link.unknown.is_empty());
    assert_eq!(gpu.p2p_links.len(), 1);
    assert_eq!(topology.node(0).expect("a CPU").pci_address(), None);
}

#[test]
fn caches_are_left_out_where_nobody_asks_for_them() {
    let mut files = mi300x_host();
    let whole = files.read().expect("a good topology");
    let reads = files.reads.replace(0);
    let mut short = read(&files, Path::new(ROOT), Depth::NoCaches).expect("a good topology");
    assert_eq!(files.reads.get(), reads - 8);
    assert!(short.nodes.iter().all(|node| node.caches.is_empty()));
    for (node, with) in short.nodes.iter_mut().zip(&whole.nodes) {
        node.caches.clone_from(&with.caches);
    }
    assert_eq!(short, whole);
    files.without("nodes/2/caches");
    files.read().expect_err("caches are missing");
    read(&files, Path::new(ROOT), Depth::NoCaches).expect("nobody asked");
}

#[test]
fn property_of_a_newer_kernel_is_kept_as_text() {
    let mut files = mi300x_host();
    files.put("nodes/0/properties", &format!("{CPU}numa_flavour sweet and sour\n"));
    let topology = files.read().expect("no reason to refuse");
    let unknown = &topology.nodes[0].properties.unknown;
    assert_eq!(unknown.get("numa_flavour").map(String::as_str), Some("sweet and sour"));
    assert_eq!(unknown.len(), 1);
}

#[test]
fn older_kernel_without_p2p_links_and_newer_properties_is_read() {
    let mut files = mi300x_host();
    let newer = ["p2p_links_count", "gfx_target_version", "debug_prop", "num_xcc"];
    let old: String = MI300X
        .lines()
        .filter(|line| !newer.iter().any(|name| line.starts_with(name)))
        .flat_map(|line| [line, "\n"])
        .collect();
    files.without("nodes/5/p2p_links").put("nodes/5/properties", &old);
    let topology = files.read().expect("an older kernel");
    let gpu = topology.node(5).expect("a GPU");
    assert!(gpu.p2p_links.is_empty());
    assert_eq!((gpu.isa(), gpu.properties.num_xcc), (None, 0));
    // A folder with an entry that cannot be read is something else.
    files.without("nodes/6/p2p_links/0").put("nodes/6/p2p_links/0/uevent", "");
    let error = files.read().expect_err("a file is missing");
    assert_eq!(error.to_string(), "cannot read /t/nodes/6/p2p_links/0/properties");
}

#[test]
fn gpu_hidden_by_a_device_cgroup_is_listed_apart() {
    for file in ["gpu_id", "properties", "mem_banks/0/properties", "io_links/3/properties"] {
        let mut files = mi300x_host();
        files.put(&format!("nodes/4/{file}"), HIDDEN);
        let topology = files.read().expect("what is hidden is no error");
        assert_eq!(topology.hidden, [4], "{file}");
        assert_eq!(topology.gpus().count(), 7);
        assert_eq!(topology.node(4), None);
        // Links to it stay, as the driver shows them.
        assert_eq!(topology.nodes[3].io_links.len(), 8);
    }
}

#[test]
fn apu_is_a_gpu_with_cpu_cores_and_perhaps_without_vram() {
    let mut files = Files::default();
    files.put("generation_id", "1\n").put("system_properties", "platform_id 0\n");
    let properties = MI300X.replace("cpu_cores_count 0", "cpu_cores_count 16");
    files.node(0, 7, "renoir", &properties).bank(0, 0, 1 << 30);
    let topology = files.read().expect("a good topology");
    let (id, node) = topology.gpus().next().expect("a GPU");
    assert_eq!((id, node.properties.cpu_cores_count), (HostGpuId(7), 16));
    assert_eq!((node.vram(), node.is_vram_public()), (None, false));
    assert_eq!(topology.numa_link(node), None);
    assert_eq!(topology.cpus().count(), 0);
}

#[test]
fn topology_that_changes_under_the_reader_is_refused() {
    let reads = {
        let files = mi300x_host();
        files.read().expect("a good topology");
        files.reads.get()
    };
    // The last read is that of the generation after all nodes.
    for changes_at in [2, reads / 2, reads] {
        let files = Files { changes_at: Some(changes_at), ..mi300x_host() };
        let error = files.read().expect_err("it changed");
        let changed = matches!(error, TopologyError::Changed { before: 2, after: 3 });
        assert!(changed, "from read {changes_at} on: {error}");
    }
    let mut files = Files { changes_at: Some(2), ..mi300x_host() };
    files.without("nodes/9/name");
    let error = files.read().expect_err("a GPU went");
    assert!(matches!(error, TopologyError::Changed { .. }), "{error}");
}

#[test]
fn damage_is_named_with_file_and_line() {
    let cases = [
        ("nodes/2/gpu_id", "many\n", 1, LineProblem::NotANumber { bits: 32 }),
        ("nodes/2/gpu_id", "", 1, LineProblem::NotANumber { bits: 32 }),
        ("generation_id", "-1\n", 1, LineProblem::NotANumber { bits: 32 }),
        ("nodes/2/properties", "simd_count 1\nnonsense\n", 2, LineProblem::NotAPair),
        ("nodes/2/properties", "simd_count 1\n\nhive_id 1\n", 2, LineProblem::NotAPair),
        ("nodes/2/properties", " 1\n", 1, LineProblem::NotAPair),
        ("nodes/2/properties", "hive_id 1\nhive_id 1\n", 2, LineProblem::Twice),
        ("nodes/2/properties", "simd_count +1\n", 1, LineProblem::NotANumber { bits: 32 }),
        ("nodes/2/properties", "simd_count 0x1\n", 1, LineProblem::NotANumber { bits: 32 }),
        ("nodes/2/properties", "domain 4294967296\n", 1, LineProblem::NotANumber { bits: 32 }),
        (
            "nodes/2/mem_banks/0/properties",
            "heap_type 1\nsize_in_bytes 18446744073709551616\n",
            2,
            LineProblem::NotANumber { bits: 64 },
        ),
        ("nodes/2/io_links/7/properties", "type XGMI\n", 1, LineProblem::NotANumber { bits: 32 }),
        ("nodes/2/caches/0/properties", "sibling_map 1,2\n", 1, LineProblem::NotAMap),
    ];
    for (path, text, line, problem) in cases {
        let mut files = mi300x_host();
        files.put(path, text);
        match files.read() {
            Err(TopologyError::Line { path: at, line: number, problem: found, .. }) => {
                let found = (at.as_path(), number, found);
                assert_eq!(found, (Path::new(ROOT).join(path).as_path(), line, problem));
            }
            other => panic!("{path}: {text:?}: {other:?}"),
        }
    }
    let mut files = mi300x_host();
    files.put("nodes/2/properties", "simd_count 1\nnonsense\n");
    let error = files.read().expect_err("it is damaged").to_string();
    assert_eq!(error, "/t/nodes/2/properties, line 2: \"nonsense\": not a name and a value");
}

#[test]
fn missing_file_of_a_visible_node_is_an_error() {
    for file in ["gpu_id", "name", "properties", "mem_banks", "caches", "io_links"] {
        let mut files = mi300x_host();
        files.without(&format!("nodes/3/{file}"));
        let error = files.read().expect_err("it is missing");
        assert!(error.to_string().contains(&format!("nodes/3/{file}")), "{error}");
    }
}

#[test]
fn limits_hold() {
    let mut files = mi300x_host();
    files.put("nodes/2/properties", &"a".repeat(FILE_BYTES_MAX + 1));
    let error = files.read().expect_err("too long");
    assert_eq!(error.to_string(), "/t/nodes/2/properties has more than 65536 bytes");
    for index in 0..NODES_MAX {
        files.put(&format!("nodes/{}/gpu_id", 10 + index), "0\n");
    }
    let error = files.read().expect_err("too many");
    assert_eq!(error.to_string(), "/t/nodes has more than 1024 entries");
    let mut files = mi300x_host();
    for index in 0..=LINKS_MAX {
        files.put(&format!("nodes/2/io_links/{index}/properties"), "type 2\n");
    }
    let error = files.read().expect_err("too many");
    assert_eq!(error.to_string(), "/t/nodes/2/io_links has more than 1024 entries");
}

#[test]
fn gpu_ids_are_unique() {
    let mut files = mi300x_host();
    files.put("nodes/9/gpu_id", "40002\n");
    let error = files.read().expect_err("two GPUs have one id").to_string();
    assert_eq!(error, "nodes 2 and 9 both have GPU id 0x9c42");
}

#[test]
fn host_without_the_driver_has_no_gpus() {
    let root = tempfile::tempdir().expect("a folder");
    assert_eq!(Topology::read(root.path()).expect("no error"), Topology::default());
    let nowhere = root.path().join("nowhere");
    assert_eq!(Topology::read(nowhere).expect("no error"), Topology::default());
}

#[test]
fn files_on_disk_give_what_they_give_in_memory() {
    let files = mi300x_host();
    let root = tempfile::tempdir().expect("a folder");
    for (path, text) in &files.texts {
        let path = root.path().join(path.strip_prefix(ROOT).expect("below the root"));
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    let topology = Topology::read(root.path()).expect("a good topology");
    assert_eq!(topology, files.read().expect("a good topology"));
    let short = Topology::read_without_caches(root.path()).expect("a good topology");
    assert_eq!(short.gpus().count(), 8);
    fs::write(root.path().join("nodes/3/name"), b"\xff\n").expect("a file");
    let error = Topology::read(root.path()).expect_err("it is no text");
    assert!(matches!(error, TopologyError::NotText { .. }), "{error}");
}
