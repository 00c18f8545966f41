//! A KFD node in user space.
//!
//! [`Model`] is the state of the driver: pure, with everything outside behind [`World`]. What GPUs
//! a node has, and what sysfs and the driver's queries say of them, is a [`Topology`]: one of the
//! real products in a table, with what a [`NodeConfig`] changes.
//!
//! ```
//! use kfd_emulator::{NodeConfig, Product};
//!
//! let config = NodeConfig::new(Product::by_name("gfx90a").expect("a product"), 2);
//! let topology = config.topology().expect("a good configuration");
//! assert_eq!(topology.gpus().len(), 2);
//! let sysfs = topology.sysfs();
//! assert!(sysfs.file("/sys/devices/virtual/kfd/kfd/topology/nodes/2/gpu_id").is_some());
//! ```

#![deny(missing_docs)]

mod call_log;
mod fake;
mod fault;
mod model;
mod node;
mod products;
mod script;

pub use call_log::{CallLog, CallLogWriter, CallRecord};
pub use fake::FakeWorld;
pub use fault::{DELAY_MAX, Decision, FaultRule, FaultRuleError, Faults};
pub use model::{
    BufferId, BuiltinKernel, Caller, DeviceNode, FileId, Finished, GpuConfig, GpuIndex,
    Inconsistent, InfoSource, InfoState, Model, Outcome, PROCESSES_MAX, PagesAt, Progress, SpaceId,
    Store, TOKEN_FIRST, Ticket, World,
};
pub use node::{
    Device, MountError, NamespaceError, Node, NodeFiles, Preload, RunOptions, StartError,
};
pub use products::{
    CacheEntry, CacheKind, Chip, ConfigError, ContextSave, CpuSpec, DRM_MAJOR, Entry, Firmware,
    GPUS_MAX, GfxVersion, GpuKnobs, GpuSpec, Hive, KFD_MAJOR, Link, LinkKind, NodeConfig,
    NodeLinks, PciAddress, PciIdentity, PcieBandwidth, Product, ProductSummary, Sdma, Shader,
    Sysfs, SysfsWriteError, Topology, Vram, VramKind, XgmiPath,
};
pub use script::{ScriptReport, run_script};
