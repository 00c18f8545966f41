//! What differs between two checkpoints, told by what things are and not by where they stand.

use std::path::Path;

use criu_image::record::{FdinfoEntry, FileEntry, MmEntry};
use criu_image::{Difference, diff};

use crate::draft::{Draft, PIPE, ROOT, framed, head, vma};

fn text(difference: &Difference) -> String {
    let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "-".to_owned());
    let Difference { file, place, first, second } = difference;
    format!("{file}: {place}: {} -> {}", side(first), side(second))
}

fn all(first: &Path, second: &Path) -> Vec<String> {
    let mut found = Vec::new();
    diff(first, second, &mut |difference| {
        found.push(text(&difference));
        true
    })
    .expect("both can be read");
    found
}

/// Checks what differs between the draft and the draft that was changed.
#[track_caller]
fn check(change: impl FnOnce(&mut Draft), expected: &[&str]) {
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut draft = Draft::new();
    draft.write(first.path());
    change(&mut draft);
    draft.write(second.path());
    assert_eq!(all(first.path(), second.path()), expected);
    assert_eq!(all(second.path(), first.path()).len(), expected.len());
    assert!(all(second.path(), second.path()).is_empty());
}

#[test]
fn equal_checkpoints_have_no_differences() {
    check(|_| {}, &[]);
}

#[test]
fn fields_are_told_with_their_place_and_both_values() {
    check(
        |draft| {
            draft.edit_task(ROOT, |task| {
                task.comm = b"other".to_vec();
                task.cg_set = Some(3);
                task.sigactions[5].mask = 0x10;
            });
        },
        &[
            "core-10.img: entry[0].tc.comm: \"draft\" -> \"other\"",
            "core-10.img: entry[0].tc.cg_set: - -> 3",
            "core-10.img: entry[0].tc.sigactions[5].mask: \"0x0\" -> \"0x10\"",
        ],
    );
}

#[test]
fn entries_are_matched_by_what_names_them() {
    check(
        |draft| {
            draft.edit_all("files.img", |files: &mut Vec<FileEntry>| {
                files.rotate_left(3);
                let pipe = files.iter_mut().find(|file| file.id == PIPE).expect("it is there");
                pipe.pipe.as_mut().expect("a pipe").flags = 0o4000;
            });
            draft.edit("mm-10.img", |mm: &mut MmEntry| {
                mm.vmas.insert(0, vma(0x10_0000, 1, 1, 0));
            });
        },
        &[
            "files.img: id=3.pipe.flags: \"0x0\" -> \"0x800\"",
            "mm-10.img: entry[0].vmas[start=\"0x100000\"]: - -> {\"start\": \"0x100000\", \
             \"end\": \"0x101000\", \"pgoff\": 0, \"shmid\": 0, \"prot\": \"\", \"flags\": \"\", \
             \"status\": \"VMA_AREA_REGULAR\", \"fd\": 0}",
        ],
    );
}

#[test]
fn entries_of_one_side_are_told_whole() {
    check(
        |draft| {
            draft.edit_all("fdinfo-2.img", |table: &mut Vec<FdinfoEntry>| table.clear());
            draft.files.remove("seccomp.img");
        },
        &[
            "fdinfo-2.img: fd=5: {\"id\": 6, \"flags\": 0, \"type\": \"MEMFD\", \"fd\": 5} -> -",
            "seccomp.img: : seccomp filters -> -",
        ],
    );
}

#[test]
fn data_after_records_is_compared() {
    check(
        |draft| *draft.files.get_mut("pipes-data.img").expect("it").last_mut().expect("it") = b'X',
        &["pipes-data.img: pipe_id=7.extra: 3 bytes of data, differing from byte 2 on -> 3 bytes \
           of data, differing from byte 2 on"],
    );
}

/// Pages files have numbers that mean nothing, and pages lie where there is room.
#[test]
fn memory_is_compared_by_address() {
    check(
        |draft| {
            let pages = draft.files.get_mut("pages-1.img").expect("it");
            pages[4096] = 1;
            pages[2 * 4096] = 1;
            draft.files.get_mut("pages-2.img").expect("it")[7] = 1;
        },
        &[
            "memory of process 10: 0x500000-0x502000: 2 page(s) -> 2 page(s)",
            "shared memory 77: 0x0-0x1000: 1 page(s) -> 1 page(s)",
        ],
    );
    let renumber = |draft: &mut Draft| {
        draft.put_pages("pagemap-10.img", 9, &[(0x40_0000, 1), (0x50_0000, 2)]);
        draft.files.remove("pages-1.img");
    };
    check(renumber, &["pagemap-10.img: entry[0].pages_id: 1 -> 9"]);
}

#[test]
fn fields_of_a_later_version_are_compared() {
    let put = |draft: &mut Draft, value: u8| {
        let payload = [8, 2, 16, 2, 0xf8, 1, value];
        let record = [&(payload.len() as u32).to_le_bytes()[..], &payload].concat();
        draft.files.insert("fs-30.img".to_owned(), [head("fs-30.img"), record].concat());
    };
    let [first, second] = [5, 6].map(|value| {
        let dir = tempfile::tempdir().expect("a folder");
        let mut draft = Draft::new();
        put(&mut draft, value);
        draft.write(dir.path());
        dir
    });
    assert_eq!(all(first.path(), second.path()), ["fs-30.img: entry[0].31: 5 -> 6"]);
}

#[test]
fn single_files_are_compared_whatever_they_are_called() {
    let dir = tempfile::tempdir().expect("a folder");
    let file = |name: &str, bytes: &[u8]| {
        std::fs::write(dir.path().join(name), bytes).expect("room");
        dir.path().join(name)
    };
    let limit = |cur: u64| {
        let record = framed(&criu_image::record::RlimitEntry { cur, max: 9 });
        [&0x5456_4319u32.to_le_bytes()[..], &0x5711_3925u32.to_le_bytes(), &record].concat()
    };
    let [a, b] = [file("a", &limit(1)), file("b", &limit(2))];
    assert_eq!(all(&a, &b), ["a: entry[0].cur: 1 -> 2"]);
    let other = file("c", &[head("fs-1.img")].concat());
    assert_eq!(all(&a, &other), ["a: magic: RLIMIT -> FS"]);
    let [raw, long] = [file("pages-1.img", b"abc"), file("pages-2.img", b"abdef")];
    let expected = ["pages-1.img: byte 2: 0x63 -> 0x64", "pages-1.img: size: 3 bytes -> 5 bytes"];
    assert_eq!(all(&raw, &long), expected);
    assert!(diff(&a, dir.path().join("none"), &mut |_| true).is_err());
}

#[test]
fn search_ends_when_enough_was_seen() {
    let [first, second] = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut draft = Draft::new();
    draft.write(first.path());
    draft.edit_task(ROOT, |task| {
        task.comm = b"other".to_vec();
        task.cg_set = Some(3);
    });
    draft.write(second.path());
    let mut count = 0;
    let each = &mut |_| {
        count += 1;
        false
    };
    diff(first.path(), second.path(), each).expect("both can be read");
    assert_eq!(count, 1);
}
