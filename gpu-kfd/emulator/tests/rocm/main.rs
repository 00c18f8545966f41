//! Programs that were not written for the node, on the node: AMD's `rocminfo` and libhsakmt as
//! distributions ship them, our C programs against those libraries, and gpu-kfd's own example.
//!
//! AMD's libraries are not in the repository: `cargo xtask test` says where they are (`THAW_ROCM`).
//! Without them these tests are skipped and say so.

mod buffers;
mod peer;
mod rocminfo;
#[path = "../node/support/mod.rs"]
mod support;
mod thunk;
mod worker;
