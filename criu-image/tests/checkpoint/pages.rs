//! Memory by address: across runs, in parents, and where there is none.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use criu_image::record::{PagemapEntry, PagemapHead};
use criu_image::{ImageError, ImageWriter, Memory, PagesAt};

const PRESENT: u32 = 4;
const PARENT: u32 = 1;
const LAZY: u32 = 2;

/// Writes a pagemap of runs (page, pages, flags) and a pages file; page N is filled with N, or with
/// N + 100 if `fill` says so.
fn write(dir: &Path, name: &str, runs: &[(u64, u64, u32)], fill: u8) {
    let mut image = ImageWriter::create(dir.join(name)).expect("a file");
    image.record(&PagemapHead { pages_id: 1 }).expect("a head");
    let mut contents = Vec::new();
    for &(page, pages, flags) in runs {
        let entry = PagemapEntry {
            vaddr: page << 12,
            compat_nr_pages: pages as u32,
            flags: Some(flags),
            nr_pages: Some(pages),
            ..Default::default()
        };
        image.record(&entry).expect("an entry");
        if flags == PRESENT {
            for page in page..page + pages {
                contents.extend([page as u8 + fill; 4096]);
            }
        }
    }
    image.finish().expect("a file");
    fs::write(dir.join("pages-1.img"), contents).expect("room");
}

fn pages_of(memory: &Memory) -> Vec<(u64, u8)> {
    let pages = memory.pages().map(|page| page.expect("it can be read"));
    pages
        .map(|(address, page)| {
            assert!(page.iter().all(|&byte| byte == page[0]));
            (address >> 12, page[0])
        })
        .collect()
}

#[test]
fn reads_go_across_runs_and_stop_at_a_gap() {
    let dir = tempfile::tempdir().expect("a folder");
    write(dir.path(), "pagemap-7.img", &[(1, 2, PRESENT), (3, 1, PRESENT), (5, 1, PRESENT)], 0);
    let memory = Memory::of_process(dir.path(), 7).expect("a pagemap");
    assert_eq!(memory.total_bytes(), 4 * 4096);
    assert_eq!(pages_of(&memory), [(1, 1), (2, 2), (3, 3), (5, 5)]);
    let mut bytes = [0; 3 * 4096];
    assert_eq!(memory.read(0x2fff, &mut bytes).expect("it can be read"), 1 + 4096);
    assert_eq!((bytes[0], bytes[1], bytes[4096]), (2, 3, 3));
    assert_eq!(memory.read(0x4000, &mut bytes).expect("a gap"), 0);
    assert_eq!(memory.read(0, &mut bytes).expect("a gap"), 0);
    assert_eq!(memory.read(u64::MAX, &mut bytes).expect("a gap"), 0);
    assert_eq!(memory.read(0x5ff0, &mut bytes).expect("it can be read"), 16);
}

#[test]
fn pages_of_a_parent_are_found_there() {
    let root = tempfile::tempdir().expect("a folder");
    let (older, newer) = (root.path().join("1"), root.path().join("2"));
    fs::create_dir(&older).expect("room");
    fs::create_dir(&newer).expect("room");
    symlink("../1", newer.join("parent")).expect("room");
    write(&older, "pagemap-7.img", &[(1, 3, PRESENT)], 0);
    write(&newer, "pagemap-7.img", &[(1, 1, PARENT), (2, 1, PRESENT), (3, 1, PARENT)], 100);
    let memory = Memory::of_process(&newer, 7).expect("a pagemap");
    assert_eq!(pages_of(&memory), [(1, 1), (2, 102), (3, 3)]);
    assert_eq!(memory.runs()[0].at, PagesAt::Parent);
    // A page that the parent does not have.
    write(&newer, "pagemap-7.img", &[(3, 2, PARENT)], 100);
    let memory = Memory::of_process(&newer, 7).expect("a pagemap");
    let pages: Vec<_> = memory.pages().collect();
    assert_eq!(pages.len(), 2, "it ends after the error");
    assert!(matches!(pages[1], Err(ImageError::Missing { .. })));
}

/// `parent` may lead to the folder itself.
#[test]
fn endless_chain_of_parents_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    symlink(".", dir.path().join("parent")).expect("room");
    write(dir.path(), "pagemap-7.img", &[(1, 1, PARENT)], 0);
    let error = Memory::of_process(dir.path(), 7).expect_err("it has no end");
    assert!(matches!(error, ImageError::Unsupported { .. }), "{error}");
}

#[test]
fn pages_that_are_nowhere_are_left_out() {
    let dir = tempfile::tempdir().expect("a folder");
    let runs = [(1, 1, LAZY), (2, 1, PRESENT), (3, 1, LAZY)];
    write(dir.path(), "pagemap-shmem-5.img", &runs, 0);
    let memory = Memory::of_shared(dir.path(), 5).expect("a pagemap");
    assert_eq!(pages_of(&memory), [(2, 2)]);
    let mut bytes = [0; 8192];
    assert_eq!(memory.read(0x1000, &mut bytes).expect("nowhere"), 0);
    assert_eq!(memory.read(0x2000, &mut bytes).expect("one page"), 4096);
}

#[test]
fn runs_out_of_order_and_short_files_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    for runs in [&[(2, 1, PRESENT), (1, 1, PRESENT)][..], &[(1, 2, PRESENT), (2, 1, PRESENT)]] {
        write(dir.path(), "pagemap-7.img", runs, 0);
        let error = Memory::of_process(dir.path(), 7).expect_err("no order").to_string();
        assert!(error.contains("are no range, or out of order"), "{error}");
    }
    write(dir.path(), "pagemap-7.img", &[(1, 0, PRESENT)], 0);
    assert!(Memory::of_process(dir.path(), 7).is_err());
    write(dir.path(), "pagemap-7.img", &[(1, 2, PRESENT)], 0);
    fs::write(dir.path().join("pages-1.img"), [0; 8191]).expect("room");
    let error = Memory::of_process(dir.path(), 7).expect_err("it is cut").to_string();
    assert_eq!(error, "pages-1.img is cut: 1 more byte(s) are needed at byte 8191");
}
