//! How long calls of a node take, and how fast the host reaches its buffers.
//!
//! `call_times CALLERS COUNT` prints one JSON object: medians of a KFD call and of a DRM call in
//! nanoseconds with that many callers at once, each a process of its own file, and the speed of
//! copies into a mapped buffer and into a plain memory file, taken in turn.

use std::error::Error;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sys::memfd::{MFdFlags, memfd_create};

use gpu_kfd::uapi::amdgpu::{GemCreateIn, create, domain};
use gpu_kfd::{BoMapping, KfdFd, RenderNode, Topology};

const MEMORY_BYTES: u64 = 64 << 20;
const MEMORY_ROUNDS: usize = 15;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn first_gpu() -> Result<(u32, u32)> {
    let topology = Topology::read(Topology::SYSFS)?;
    let (id, node) = topology.gpus().next().ok_or("this node has no GPU")?;
    Ok((id.0, node.properties.drm_render_minor))
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}

/// One caller: the medians of its KFD and DRM calls in nanoseconds.
fn caller(count: usize) -> Result<(u64, u64)> {
    let (gpu_id, minor) = first_gpu()?;
    let (mut kfd, mut render) = (KfdFd::open()?, RenderNode::open(minor)?);
    let handle = render.gem_create(&GemCreateIn {
        bo_size: 4096,
        alignment: 4096,
        domains: domain::GTT,
        ..Default::default()
    })?;
    let (mut kfd_ns, mut drm_ns) = (Vec::new(), Vec::new());
    for round in 0..count + count / 10 {
        let start = Instant::now();
        kfd.available_memory(gpu_id)?;
        let middle = Instant::now();
        render.gem_mmap(handle)?;
        let end = Instant::now();
        // The first tenth warms up.
        if round >= count / 10 {
            kfd_ns.push((middle - start).as_nanos() as u64);
            drm_ns.push((end - middle).as_nanos() as u64);
        }
    }
    Ok((median(kfd_ns), median(drm_ns)))
}

/// Callers at once: each in a process of its own, which prints its two medians.
fn callers(callers: usize, count: usize) -> Result<(u64, u64)> {
    let program = std::env::current_exe()?;
    let start = || {
        let mut one = Command::new(&program);
        one.args(["caller", &count.to_string()]).stdout(Stdio::piped()).spawn()
    };
    let children: Vec<_> = (0..callers).map(|_| start()).collect::<std::io::Result<_>>()?;
    let (mut kfd, mut drm) = (Vec::new(), Vec::new());
    for child in children {
        let output = child.wait_with_output()?;
        let text = String::from_utf8(output.stdout)?;
        let numbers: Vec<u64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [kfd_ns, drm_ns] = numbers[..] else { return Err("a caller failed".into()) };
        kfd.push(kfd_ns);
        drm.push(drm_ns);
    }
    Ok((median(kfd), median(drm)))
}

/// Medians of copies into a buffer and into a memory file, in MB/s, taken in turn.
fn memory() -> Result<(u64, u64)> {
    let (_, minor) = first_gpu()?;
    let mut render = RenderNode::open(minor)?;
    let handle = render.gem_create(&GemCreateIn {
        bo_size: MEMORY_BYTES,
        alignment: 4096,
        domains: domain::VRAM,
        domain_flags: create::CPU_ACCESS_REQUIRED,
    })?;
    let offset = render.gem_mmap(handle)?;
    let buffer = BoMapping::map(render.as_fd(), Path::new("buffer"), offset, MEMORY_BYTES)?;
    let plain = memfd_create(c"plain", MFdFlags::MFD_CLOEXEC)?;
    let plain = File::from(plain);
    plain.set_len(MEMORY_BYTES)?;
    let plain = BoMapping::map(plain.as_fd(), Path::new("memfd"), 0, MEMORY_BYTES)?;
    let bytes = vec![0x5a; MEMORY_BYTES as usize];
    let (mut buffer_ns, mut plain_ns) = (Vec::new(), Vec::new());
    for round in 0..=MEMORY_ROUNDS {
        for (memory, times) in [(&buffer, &mut buffer_ns), (&plain, &mut plain_ns)] {
            let start = Instant::now();
            memory.write_parallel(0, &bytes, NonZeroUsize::MIN)?;
            let took = start.elapsed().as_nanos() as u64;
            // The first round finds the pages.
            if round > 0 {
                times.push(took);
            }
        }
    }
    let speed = |times| MEMORY_BYTES * 1000 / median(times).max(1);
    Ok((speed(buffer_ns), speed(plain_ns)))
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["caller", count] => {
            let (kfd, drm) = caller(count.parse()?)?;
            println!("{kfd} {drm}");
        }
        [several, count] => {
            let (kfd_ns, drm_ns) = callers(several.parse()?, count.parse()?)?;
            let (buffer, plain) = memory()?;
            println!(
                "{{\"callers\":{several},\"kfd_ns\":{kfd_ns},\"drm_ns\":{drm_ns},\
                 \"buffer_mb_per_s\":{buffer},\"memfd_mb_per_s\":{plain}}}"
            );
        }
        _ => return Err("usage: call_times CALLERS COUNT".into()),
    }
    Ok(())
}
