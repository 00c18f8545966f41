//! AMD's compute driver (KFD) and render nodes, as a host offers them.
//!
//! [`Topology`] is what GPUs there are, read from sysfs. [`KfdFd`] is an open `/dev/kfd` and
//! [`RenderNode`] an open render node: a method for each call of the driver, checkpoint and restore
//! included. [`BoMapping`] is a buffer mapped into this process, and [`BoContents`] what any
//! buffer holds, whether the host can map it or the GPU has to copy it. [`uapi`] has the numbers.
//!
//! A call can be made by this process ([`Local`]) or by another one on our behalf: that is the
//! trait [`DeviceFile`], and arguments ([`Block`]) move to wherever the call is made. Errors say
//! what was asked of which device, and what can be done about it. No image format is known here.
//!
//! ```
//! # fn main() -> Result<(), gpu_kfd::TopologyError> {
//! for (id, gpu) in gpu_kfd::Topology::read(gpu_kfd::Topology::SYSFS)?.gpus() {
//!     println!("GPU {id} is renderD{}", gpu.properties.drm_render_minor);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! ```
//! # fn main() -> Result<(), gpu_kfd::DeviceError> {
//! use gpu_kfd::{KFD_PATH, KfdFd};
//!
//! if std::path::Path::new(KFD_PATH).exists() {
//!     let mut kfd = KfdFd::open()?;
//!     println!("interface version {:?}", kfd.version()?);
//!     for gpu in kfd.process_apertures()? {
//!         println!("{} bytes free on GPU {:#x}", kfd.available_memory(gpu.gpu_id)?, gpu.gpu_id);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

#[macro_use]
pub mod uapi;

mod block;
mod bo;
mod contents;
mod criu;
pub mod emulated;
mod error;
mod ioctl;
mod kfd;
mod matching;
mod render;
mod submit;
#[cfg(test)]
mod tests;
mod topology;

pub use block::{Block, Part};
pub use bo::{BoError, BoMapping};
pub use contents::{
    BOUNCE_BYTES_DEFAULT, BoContents, ContentsAccess, ContentsError, HostContents, Purpose,
    SdmaContents, SdmaEngine, host_sees_vram,
};
pub use criu::{ProcessInfo, RestoreDevice, RestoredBo, SavedProcess};
pub use emulated::DeviceKind;
pub use error::{CallFailure, DeviceError};
pub use ioctl::{DeviceFile, FileNumber, Local, NewDescriptor};
pub use kfd::{KFD_PATH, KfdFd, TileConfig, Waited};
pub use matching::{
    CPUS_MAX, Comparison, Detail, GPUS_MAX, GpuId, GpuMatch, GpuProperties, Refusal, RefusalReason,
    RefusalRow, Rule, Rules, SavedCpu, SavedGpu, SavedLink, SavedTopology, SavedTopologyError,
    Subject, SwitchError, UserMap, UserMapError, Verdict, match_gpus,
};
pub use render::RenderNode;
pub use submit::Submission;
pub use topology::{
    BANKS_MAX, CACHES_MAX, Cache, HeapType, HostGpuId, Isa, LINKS_MAX, LineProblem, Link, LinkType,
    MemoryBank, NODES_MAX, Node, NodeProperties, PciAddress, SystemProperties, Topology,
    TopologyError,
};
