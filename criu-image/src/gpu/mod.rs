//! What files of the amdgpu plugin hold that no schema says, and all of them as one value.

mod images;
pub(crate) mod private;

pub use images::{
    GPU_HEAD_BYTES, GPU_STATE_VERSION, GpuImages, KfdImage, drm_pages_name, gpu_image,
    kfd_pages_name,
};
pub(crate) use images::{load as load_images, read as read_images};
pub use private::{PrivateError, pack as pack_kfd_private, unpack as unpack_kfd_private};
