//! What files of the amdgpu plugin hold that no schema says.

pub(crate) mod private;

pub use private::{PrivateError, pack as pack_kfd_private, unpack as unpack_kfd_private};
