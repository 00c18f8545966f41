//! Any bytes as JSON: an error with its place, or an image that says the same.

pub(crate) fn run(input: &[u8]) {
    let Ok(image) = crate::to_image(input) else { return };
    let name = match () {
        () if input.windows(10).any(|name| name == b"AMDGPU_KFD") => "amdgpu-kfd-1.img",
        () if input.windows(13).any(|name| name == b"AMDGPU_DMABUF") => "amdgpu-dmabuf_1.img",
        () if input.windows(18).any(|name| name == b"AMDGPU_RENDER_NODE") => "amdgpu-renderD-1.img",
        () => "fuzz.img",
    };
    let Ok(json) = crate::to_json(&image, name, crate::PLAIN) else {
        // Files of the plugin have no number, so JSON may say another kind than we think.
        assert!(name.starts_with("amdgpu") || is_gpu(input), "our image is read");
        return;
    };
    assert!(crate::to_image(&json).expect("our JSON is read") == image);
}

fn is_gpu(input: &[u8]) -> bool {
    let escaped = input.windows(2).any(|two| two == b"\\u");
    escaped || input.windows(6).any(|name| name == b"AMDGPU")
}
