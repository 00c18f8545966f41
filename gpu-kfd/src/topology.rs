//! The topology that the KFD shows in sysfs: one folder for each node, CPUs included.
//!
//! `nodes/<n>/gpu_id` is 0 for a node without a GPU; `nodes/<n>/properties` has a line `name value`
//! for each property (amdkfd, `kfd_topology.c`). A host without the driver has no such folder,
//! which is an empty topology and no error.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Most nodes that are read: the driver numbers them with 32 bits, but real hosts have tens.
pub const NODES_MAX: usize = 1024;

/// Why a topology could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// A line is not a name and a number.
    #[error("{}, line {line}: {text:?} is no property", path.display())]
    Property {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// More nodes than any host has.
    #[error("more than {NODES_MAX} nodes")]
    TooManyNodes,
}

/// One node: a CPU or a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Number of the node.
    pub index: u32,
    /// Identifier of the GPU on this host; 0 for a CPU.
    pub gpu_id: u32,
    /// Minor number of its render node (`/dev/dri/renderD<n>`); 0 for a CPU.
    pub render_minor: u32,
    /// All properties, as the driver names them.
    pub properties: BTreeMap<String, u64>,
}

/// All nodes of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// In ascending order of their numbers.
    pub nodes: Vec<Node>,
}

impl Topology {
    /// Reads a topology below `root` (`/sys/class/kfd/kfd/topology` on a host with the driver).
    ///
    /// # Errors
    /// [`TopologyError`]; a `root` without nodes is an empty topology.
    pub fn read(root: impl AsRef<Path>) -> Result<Self, TopologyError> {
        let folder = root.as_ref().join("nodes");
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(TopologyError::Read { path: folder, source }),
        };
        let mut nodes = Vec::new();
        for entry in entries {
            let entry =
                entry.map_err(|source| TopologyError::Read { path: folder.clone(), source })?;
            let Some(index) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            if nodes.len() == NODES_MAX {
                return Err(TopologyError::TooManyNodes);
            }
            nodes.push(node(index, &entry.path())?);
        }
        nodes.sort_by_key(|node: &Node| node.index);
        Ok(Self { nodes })
    }

    /// The nodes that are GPUs.
    pub fn gpus(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.gpu_id != 0)
    }
}

fn read(path: PathBuf) -> Result<(PathBuf, String), TopologyError> {
    match fs::read_to_string(&path) {
        Ok(text) => Ok((path, text)),
        Err(source) => Err(TopologyError::Read { path, source }),
    }
}

fn node(index: u32, folder: &Path) -> Result<Node, TopologyError> {
    let (path, text) = read(folder.join("gpu_id"))?;
    let gpu_id = text.trim().parse().map_err(|_| TopologyError::Property {
        path,
        line: 1,
        text: text.trim().to_owned(),
    })?;
    let (path, text) = read(folder.join("properties"))?;
    let mut properties = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let pair = line
            .split_once(' ')
            .and_then(|(name, value)| Some((name.to_owned(), value.trim().parse::<u64>().ok()?)));
        let Some((name, value)) = pair else {
            let (path, text) = (path.clone(), line.to_owned());
            return Err(TopologyError::Property { path, line: number + 1, text });
        };
        properties.insert(name, value);
    }
    let render_minor = properties.get("drm_render_minor").copied().unwrap_or(0) as u32;
    Ok(Node { index, gpu_id, render_minor, properties })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{Topology, TopologyError};

    fn write(root: &std::path::Path, node: u32, gpu_id: &str, properties: &str) {
        let folder = root.join(format!("nodes/{node}"));
        fs::create_dir_all(&folder).expect("a folder");
        fs::write(folder.join("gpu_id"), gpu_id).expect("a file");
        fs::write(folder.join("properties"), properties).expect("a file");
    }

    #[test]
    fn gpus_are_told_from_cpus_and_sorted() {
        let root = tempfile::tempdir().expect("a folder");
        write(root.path(), 2, "23042\n", "simd_count 416\ndrm_render_minor 129\n");
        write(root.path(), 1, "23041\n", "simd_count 416\ndrm_render_minor 128\n");
        write(root.path(), 0, "0\n", "cpu_cores_count 8\n");
        let topology = Topology::read(root.path()).expect("a good topology");
        let gpus: Vec<(u32, u32)> =
            topology.gpus().map(|gpu| (gpu.gpu_id, gpu.render_minor)).collect();
        assert_eq!(gpus, [(23041, 128), (23042, 129)]);
        assert_eq!(topology.nodes.len(), 3);
    }

    #[test]
    fn host_without_the_driver_has_no_gpus() {
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(Topology::read(root.path()).expect("no error"), Topology::default());
    }

    #[test]
    fn damaged_property_is_named_with_its_line() {
        let root = tempfile::tempdir().expect("a folder");
        write(root.path(), 0, "5\n", "simd_count 1\nnonsense\n");
        let error = Topology::read(root.path()).expect_err("it is damaged");
        assert!(matches!(error, TopologyError::Property { line: 2, .. }), "{error}");
    }
}
