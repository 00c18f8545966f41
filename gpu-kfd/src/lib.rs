//! AMD's compute driver (KFD) as a host offers it.
//!
//! So far: which GPUs there are and how they are named, read from the topology in sysfs. It knows
//! no image format; matching saved GPUs to these and talking to the device files build on it.
//!
//! ```
//! # fn main() -> Result<(), gpu_kfd::TopologyError> {
//! for gpu in gpu_kfd::Topology::read("/sys/class/kfd/kfd/topology")?.gpus() {
//!     println!("GPU {:#x} is renderD{}", gpu.gpu_id, gpu.render_minor);
//! }
//! # Ok(())
//! # }
//! ```

mod topology;
pub mod uapi;

pub use topology::{NODES_MAX, Node, Topology, TopologyError};
