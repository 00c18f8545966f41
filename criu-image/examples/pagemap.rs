//! Makes large images and reads them, for measuring: `pagemap make|mappings|read FILE N`.

use std::process::ExitCode;

use criu_image::record::{MmEntry, PagemapEntry, PagemapHead, VmaEntry};
use criu_image::{ImageReader, ImageWriter};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let ended = match &args[..] {
        [what, file, count] if what == "make" => number(count).and_then(|n| make(file, n)),
        [what, file, count] if what == "mappings" => number(count).and_then(|n| mappings(file, n)),
        [what, file, count] if what == "read" => number(count).and_then(|n| read(file, n)),
        _ => Err("pagemap make|mappings|read FILE N".into()),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pagemap: {error}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> Result<u64, Failure> {
    Ok(text.parse()?)
}

/// Length in pages of run `index`: 1 to 16, in no order.
fn pages(index: u64) -> u32 {
    (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as u32 + 1
}

/// A pagemap of so many runs, with a page between each two.
fn make(file: &str, runs: u64) -> Result<(), Failure> {
    let mut image = ImageWriter::create(file)?;
    image.record(&PagemapHead { pages_id: 1 })?;
    let mut vaddr = 0x5500_0000_0000;
    for index in 0..runs {
        let compat_nr_pages = pages(index);
        let nr_pages = Some(compat_nr_pages.into());
        let flags = Some(4);
        image.record(&PagemapEntry { vaddr, compat_nr_pages, in_parent: None, flags, nr_pages })?;
        vaddr += u64::from(compat_nr_pages + 1) * 4096;
    }
    image.finish()?;
    Ok(())
}

/// An address space of so many mappings.
fn mappings(file: &str, count: u64) -> Result<(), Failure> {
    let mut start = 0x7f00_0000_0000;
    let vmas = (0..count).map(|index| {
        let end = start + u64::from(pages(index)) * 4096;
        let (prot, flags, status) = (3, 0x22, 0x201);
        let vma = VmaEntry { start, end, prot, flags, status, fd: -1, ..Default::default() };
        start = end + 4096;
        vma
    });
    let mm = MmEntry { vmas: vmas.collect(), ..Default::default() };
    let mut image = ImageWriter::create(file)?;
    image.record(&mm)?;
    image.finish()?;
    Ok(())
}

/// Reads a pagemap with types and checks that all of it was read.
fn read(file: &str, runs: u64) -> Result<(), Failure> {
    let mut image = ImageReader::open(file)?;
    image.next_record::<PagemapHead>()?.ok_or("there is no head")?;
    let (mut count, mut sum) = (0, 0);
    for entry in image.records::<PagemapEntry>() {
        sum += entry?.1.nr_pages.unwrap_or_default();
        count += 1;
    }
    let expected: u64 = (0..runs).map(|index| u64::from(pages(index))).sum();
    if (count, sum) != (runs, expected) {
        return Err(format!("{count} runs of {sum} pages are not what was made").into());
    }
    Ok(())
}
