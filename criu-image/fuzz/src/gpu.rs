//! Any bytes as a file of the amdgpu plugin; the first chooses which.

use criu_image::record::CriuKfd;
use criu_image::{ImageReader, pack_kfd_private, unpack_kfd_private};

const NAMES: [&str; 5] = [
    "amdgpu-kfd-1.img",
    "amdgpu-renderD-1.img",
    "amdgpu-dmabuf_1.img",
    "amdgpu-pages-1-0001.img",
    "amdgpu-drm-pages-1-128-0000.img",
];

pub(crate) fn run(input: &[u8]) {
    let Some((&first, image)) = input.split_first() else { return };
    let name = NAMES[usize::from(first) % NAMES.len()];
    crate::comes_back(image, name);
    if name != NAMES[0] {
        return;
    }
    let Ok(mut reader) = ImageReader::new(image, name) else { return };
    let Ok(Some((_, kfd))) = reader.next_record::<CriuKfd>() else { return };
    if let Ok(private) = unpack_kfd_private(&kfd) {
        assert!(pack_kfd_private(&private).as_ref() == Some(&kfd.priv_data));
    }
}
