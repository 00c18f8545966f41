//! How fast plain copies fill the buffers of a node: what a restore of contents is compared with.
//!
//! `copy_times BUFFERS SIZE THREADS` makes so many buffers of VRAM of so many bytes, on the GPUs in
//! turn, and fills each from memory by so many threads at once. It prints one JSON object: the time
//! of all copies in nanoseconds, and the bytes. Buffers are new, as those of a restore are.

use std::error::Error;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use gpu_kfd::uapi::amdgpu::{GemCreateIn, create, domain};
use gpu_kfd::{BoMapping, RenderNode, Topology};

fn main() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<usize> =
        std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    let [buffers, size, threads] = numbers[..] else {
        return Err("usage: copy_times BUFFERS SIZE THREADS".into());
    };
    let threads = NonZeroUsize::new(threads).ok_or("at least one thread")?;
    let mut nodes = Vec::new();
    for (_, node) in Topology::read_without_caches(Topology::SYSFS)?.gpus() {
        nodes.push(RenderNode::open(node.properties.drm_render_minor)?);
    }
    let source: Vec<u8> = (0..size).map(|index| (index / 7) as u8).collect();
    let mut mappings = Vec::new();
    for index in 0..buffers {
        let place = index % nodes.len();
        let node = &mut nodes[place];
        let handle = node.gem_create(&GemCreateIn {
            bo_size: size as u64,
            alignment: 4096,
            domains: domain::VRAM,
            domain_flags: create::CPU_ACCESS_REQUIRED,
        })?;
        let offset = node.gem_mmap(handle)?;
        mappings.push(BoMapping::map(node.as_fd(), Path::new("render node"), offset, size as u64)?);
    }
    let begin = Instant::now();
    for mapping in &mappings {
        mapping.write_parallel(0, &source, threads)?;
    }
    let ns = begin.elapsed().as_nanos();
    println!("{{\"ns\":{ns},\"bytes\":{}}}", buffers * size);
    Ok(())
}
