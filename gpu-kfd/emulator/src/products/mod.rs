//! Topologies of real products as data, and what a host shows of them.
//!
//! [`NodeConfig`] names a [`Product`] and what differs from it; it makes a [`Topology`], which is
//! the one description that everything else reads: the device model, the [`Sysfs`] tree, the
//! answers to the driver's queries. Everything here is pure: the same configuration gives the same
//! bytes.
//!
//! Where the data comes from is said beside it: captures of real machines where there are any
//! (nodes with 8 MI210, 8 MI300X and 8 MI308X whose `/sys/class/kfd` is published as test data of
//! ROCm's Kubernetes device plugin), the kernel's sources for everything that the driver computes
//! from them (amdkfd and amdgpu of Linux 6.18).

mod answers;
mod caches;
mod catalogue;
mod chip;
mod config;
mod gfx90a;
mod gfx90c;
mod gfx942;
mod identity;
mod links;
mod sysfs;
mod topology;

pub use caches::CacheEntry;
pub use catalogue::{Product, ProductSummary};
pub use chip::{
    CacheKind, Chip, Firmware, GfxVersion, PciIdentity, PcieBandwidth, Sdma, Shader, Vram,
    VramKind, XgmiPath,
};
pub use config::{ConfigError, GPUS_MAX, GpuKnobs, NodeConfig};
pub use links::{Link, LinkKind, NodeLinks};
pub use sysfs::{DRM_MAJOR, Entry, KFD_MAJOR, Sysfs, SysfsWriteError};
pub use topology::{ContextSave, CpuSpec, GpuSpec, Hive, PciAddress, Topology};
