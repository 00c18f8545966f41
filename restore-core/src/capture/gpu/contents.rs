//! What buffers hold, on its way to the disk: image by image, by a few threads, each of which keeps
//! one piece in memory whatever the size of a buffer.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use gpu_kfd::{ContentsAccess, ContentsError, Purpose};

use super::super::DumpError;
use super::super::staging::Folder;
use super::super::steps::Steps;
use crate::crew;
use crate::meter::Meter;

/// Bytes read, summed and written at a time, and the size of the buffer through which a copy engine
/// moves them: its two halves take an engine some 0.2 ms each, beside which giving it work (50 µs)
/// does not dominate, and eight GPUs pin 64 MiB.
const PIECE_BYTES: usize = 8 << 20;

/// A buffer whose contents are saved.
#[derive(Debug)]
pub(super) struct Part<'a> {
    pub(super) dmabuf: &'a OwnedFd,
    pub(super) size_bytes: u64,
    /// It is in memory of the GPU.
    pub(super) is_vram: bool,
}

/// An image with the contents of buffers of one GPU, one after the other.
#[derive(Debug)]
pub(super) struct Image<'a> {
    pub(super) name: String,
    /// Of the GPU's render node here.
    pub(super) minor: u32,
    /// Process that has the buffers.
    pub(super) pid: i32,
    pub(super) parts: Vec<Part<'a>>,
    /// Other images with the same contents.
    pub(super) also: Vec<String>,
}

impl Image<'_> {
    pub(super) fn size_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.size_bytes).sum()
    }
}

/// Writes all images, with so many threads at most. `tell` hears of bytes of a process.
pub(super) fn save(
    images: Vec<Image<'_>>,
    workers_max: usize,
    folder: &Folder,
    steps: &Steps,
    tell: &mut dyn FnMut((i32, u64)),
) -> Result<(), DumpError> {
    let images = in_turns(images);
    let workers = images.len().min(workers_max);
    let next = AtomicUsize::new(0);
    let run = |say: &mut dyn FnMut((i32, u64))| {
        let mut copier = Copier::default();
        while let Some(image) = images.get(next.fetch_add(1, Ordering::Relaxed)) {
            let mut say = |bytes| say((image.pid, bytes));
            copier.save(image, folder, steps, &mut Meter::new(&mut say)).inspect_err(|_| {
                next.store(images.len(), Ordering::Relaxed); // the others need not begin
            })?;
        }
        Ok(())
    };
    let results = crew::work(workers, tell, run).ok_or(DumpError::WorkerLost)?;
    results.into_iter().collect()
}

/// An order in which neighbours are of different GPUs as long as can be, and large images come
/// first: all GPUs work at once, and no thread is left with a large one in the end.
fn in_turns(images: Vec<Image<'_>>) -> Vec<Image<'_>> {
    let mut by_gpu: BTreeMap<u32, Vec<Image<'_>>> = BTreeMap::new();
    for image in images {
        by_gpu.entry(image.minor).or_default().push(image);
    }
    let mut placed = Vec::new();
    for of_gpu in by_gpu.into_values() {
        let mut of_gpu = of_gpu;
        of_gpu.sort_by_key(|image| std::cmp::Reverse(image.size_bytes()));
        placed.extend(of_gpu.into_iter().enumerate());
    }
    placed.sort_by_key(|(turn, _)| *turn);
    placed.into_iter().map(|(_, image)| image).collect()
}

/// What one thread has open.
#[derive(Default)]
struct Copier {
    gpus: BTreeMap<u32, ContentsAccess>,
    piece: Vec<u8>,
}

impl Copier {
    fn save(
        &mut self,
        image: &Image<'_>,
        folder: &Folder,
        steps: &Steps,
        meter: &mut Meter<'_>,
    ) -> Result<(), DumpError> {
        let fail = |source: ContentsError| {
            let (pid, image) = (image.pid, image.name.clone());
            DumpError::Contents { pid, image, source: Box::new(source) }
        };
        steps.next("create an image of buffer contents")?;
        let mut staged = folder.create(&image.name)?;
        staged.write(&image.size_bytes().to_le_bytes())?;
        let gpu = match self.gpus.entry(image.minor) {
            Entry::Occupied(gpu) => gpu.into_mut(),
            Entry::Vacant(place) => {
                steps.next("open a render node to copy from")?;
                place.insert(ContentsAccess::open(image.minor, PIECE_BYTES).map_err(fail)?)
            }
        };
        for part in &image.parts {
            steps.next("reach the contents of a buffer")?;
            let dmabuf = part.dmabuf.as_fd();
            let contents = gpu.reach(dmabuf, !part.is_vram, Purpose::Read);
            let mut contents = contents.map_err(fail)?;
            let mut at = 0;
            while at < part.size_bytes {
                steps.next("copy contents of a buffer")?;
                let len = (part.size_bytes - at).min(PIECE_BYTES as u64) as usize;
                self.piece.resize(len.max(self.piece.len()), 0);
                contents.read(at, &mut self.piece[..len]).map_err(fail)?;
                staged.write(&self.piece[..len])?;
                meter.add(len as u64);
                at += len as u64;
            }
        }
        folder.finish_as(staged, &image.also)
    }
}

#[cfg(test)]
mod tests {
    use super::{Image, in_turns};

    #[test]
    fn gpus_take_turns_and_large_images_come_first() {
        let dmabuf = std::fs::File::open("/dev/null").expect("it is there").into();
        let image = |minor: u32, size_bytes: u64| Image {
            name: format!("{minor}-{size_bytes}"),
            minor,
            pid: 1,
            parts: vec![super::Part { dmabuf: &dmabuf, size_bytes, is_vram: true }],
            also: Vec::new(),
        };
        let images = vec![image(128, 1), image(128, 9), image(129, 5), image(128, 3)];
        let names: Vec<String> = in_turns(images).into_iter().map(|image| image.name).collect();
        assert_eq!(names, ["128-9", "129-5", "128-3", "128-1"]);
    }
}
