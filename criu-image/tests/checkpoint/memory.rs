//! Address spaces: mappings in order, every page in a mapping and in a pages file.

use criu_image::record::{MmEntry, PagemapHead, VmaEntry};
use criu_image::vma_status;
use prost::Message;

use crate::draft::{Draft, accepted, framed, head, pagemap, refused, vma};

fn vmas(edit: impl FnOnce(&mut Vec<VmaEntry>)) -> impl FnOnce(&mut Draft) {
    move |draft| draft.edit("mm-10.img", |mm: &mut MmEntry| edit(&mut mm.vmas))
}

/// Replaces the runs of `pagemap-10.img`, with a pages file that fits.
fn pages(runs: &'static [(u64, u64)]) -> impl FnOnce(&mut Draft) {
    move |draft| draft.put_pages("pagemap-10.img", 1, runs)
}

#[test]
fn mappings_are_ranges_of_pages() {
    refused(vmas(|vmas| vmas[1].end += 1), "mapping 0x500000-0x503001 is no range of pages");
    refused(vmas(|vmas| vmas[1].start = 0x50_3000), "is no range of pages");
    refused(vmas(|vmas| vmas[1].start = 0x60_0000), "is no range of pages");
}

#[test]
fn mappings_are_sorted_and_do_not_overlap() {
    refused(vmas(|vmas| vmas.swap(0, 1)), "overlaps the one before it");
    refused(vmas(|vmas| vmas[0].end = 0x50_1000), "overlaps the one before it");
}

#[test]
fn mappings_lie_below_the_end_of_user_addresses() {
    let high = |status: u32, start: u64| vmas(move |vmas| vmas.insert(3, vma(start, 1, status, 0)));
    let vsyscall = 0xffff_ffff_ff60_0000;
    accepted(high(vma_status::VSYSCALL, vsyscall));
    refused(high(vma_status::REGULAR, vsyscall), "lies outside user addresses");
    refused(high(vma_status::VSYSCALL, 1 << 57), "lies outside user addresses");
}

#[test]
fn status_bits_are_known() {
    for bit in [4, 18, 26, 28, 30, 31] {
        refused(vmas(|vmas| vmas[1].status |= 1 << bit), "has the unknown status");
    }
}

#[test]
fn offsets_of_mappings_do_not_wrap() {
    refused(vmas(|vmas| vmas[0].pgoff = u64::MAX - 0xfff), "of what it maps");
}

#[test]
fn guarded_ranges_end_the_list_and_lie_within_mappings() {
    let guard = |start: u64, pages: u64| vma(start, pages, vma_status::GUARD, 0);
    refused(vmas(|vmas| vmas.swap(2, 3)), "comes after guarded ranges");
    accepted(vmas(|vmas| vmas.push(guard(0x60_0000, 2))));
    let words = "is guarded, but not in order within mappings";
    refused(vmas(|vmas| vmas.push(guard(0x70_0000, 1))), words);
    refused(vmas(|vmas| vmas.push(guard(0x60_1000, 2))), words);
    refused(vmas(|vmas| vmas.push(guard(0x50_1000, 1))), words);
    refused(vmas(|vmas| vmas.push(guard(0x50_0000, 1))), words);
}

#[test]
fn pages_lie_in_mappings() {
    // The last page of one mapping and the first of nothing.
    refused(pages(&[(0x40_1000, 2)]), "page 0x402000 lies in no mapping");
    refused(pages(&[(0x10_0000, 1)]), "page 0x100000 lies in no mapping");
    refused(pages(&[(0x90_0000, 1)]), "page 0x900000 lies in no mapping");
}

#[test]
fn pages_may_span_mappings_that_touch() {
    accepted(|draft| {
        vmas(|vmas| vmas.insert(1, vma(0x40_2000, 1, vma_status::ANON_PRIVATE, 0)))(draft);
        pages(&[(0x40_0000, 3)])(draft);
    });
}

#[test]
fn pages_are_in_order_and_no_run_is_empty() {
    refused(pages(&[(0x50_0000, 1), (0x40_0000, 1)]), "are out of order");
    refused(pages(&[(0x50_0000, 2), (0x50_1000, 1)]), "are out of order");
    refused(pages(&[(0x50_0001, 1)]), "are out of order");
    let raw = |entry: criu_image::record::PagemapEntry| {
        move |draft: &mut Draft| {
            let mut bytes = head("pagemap-10.img");
            bytes.extend(framed(&PagemapHead { pages_id: 1 }));
            bytes.extend(framed(&entry));
            draft.files.insert("pagemap-10.img".to_owned(), bytes);
            draft.files.insert("pages-1.img".to_owned(), vec![0; 4096]);
        }
    };
    refused(raw(pagemap(0x50_0000, 0)), "0 pages at 0x500000 are no range");
    let huge = criu_image::record::PagemapEntry { nr_pages: Some(1 << 60), ..pagemap(0, 1) };
    refused(raw(huge), "are no range");
    let wide = criu_image::record::PagemapEntry { nr_pages: Some(1), ..pagemap(0x50_0000, 9) };
    accepted(raw(wide));
    for (flags, words) in [
        (1, "an incremental checkpoint (pages in a parent image) is not supported yet"),
        (5, "an incremental checkpoint (pages in a parent image) is not supported yet"),
        (2, "memory that another server holds (lazy pages) is not supported yet"),
        (12, "page flags 0xc are unknown"),
    ] {
        let entry = pagemap(0x50_0000, 1);
        refused(raw(criu_image::record::PagemapEntry { flags: Some(flags), ..entry }), words);
    }
    let in_parent = Some(true);
    let parent = criu_image::record::PagemapEntry { in_parent, ..pagemap(0x50_0000, 1) };
    refused(raw(parent), "an incremental checkpoint");
}

#[test]
fn compressed_pages_of_later_versions_are_refused_by_name() {
    let change = |draft: &mut Draft| {
        let mut entry = pagemap(0x50_0000, 1).encode_to_vec();
        entry.extend([6 << 3, 9]); // the compressed size
        let bytes = draft.files.get_mut("pagemap-10.img").expect("it");
        bytes.extend((entry.len() as u32).to_le_bytes());
        bytes.extend(entry);
    };
    refused(change, "pagemap-10.img: a pagemap with compressed pages");
}

#[test]
fn the_pages_file_has_the_size_that_is_listed() {
    for len in [0, 0x2fff, 0x3001, 0x4000] {
        let change = |draft: &mut Draft| {
            draft.files.insert("pages-1.img".to_owned(), vec![0; len]);
        };
        let words = format!("12288 bytes of pages are listed, pages-1.img has {len}");
        refused(change, &words);
    }
}

#[test]
fn a_pages_file_has_one_owner() {
    let change = |draft: &mut Draft| {
        draft.edit("pagemap-30.img", |head: &mut PagemapHead| head.pages_id = 1);
    };
    refused(change, "pagemap-30.img, byte 8: pages-1.img belongs to another pagemap too");
}

#[test]
fn a_pagemap_has_a_head() {
    let change = |draft: &mut Draft| {
        draft.files.insert("pagemap-30.img".to_owned(), head("pagemap-30.img"));
    };
    refused(change, "pagemap-30.img holds 0 record(s) where at least one is expected");
}

#[test]
fn shared_contents_lie_within_the_shared_memory() {
    // What the mapping reaches: two pages.
    accepted(|draft| draft.put_pages("pagemap-shmem-77.img", 2, &[(0x1000, 1)]));
    let beyond = |draft: &mut Draft| draft.put_pages("pagemap-shmem-77.img", 2, &[(0x1000, 2)]);
    refused(beyond, "contents up to 0x3000 exceed the 0x2000 bytes shared");
    // The memory file has 5000 bytes, so two pages as well.
    let beyond = |draft: &mut Draft| draft.put_pages("pagemap-shmem-99.img", 3, &[(0x2000, 1)]);
    refused(beyond, "contents up to 0x3000 exceed the 0x1388 bytes shared");
}
