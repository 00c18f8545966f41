//! Views of a checkpoint: crit's text, and what crit cannot show.

use std::path::Path;

use criu_image::record::{
    CriuRenderNode, DrmBoEntry, FdTypes, FileEntry, PipeEntry, RegFileEntry, UnixSkEntry,
};
use criu_image::{ImageWriter, View, ViewKind};

use crate::draft::{CHILD, Draft, FOLDER, PIPE, ROOT, ZOMBIE, framed, head, pstree};

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn text_of(dir: &Path, kind: ViewKind) -> String {
    let mut text = Vec::new();
    View::open(dir, kind).expect("a good checkpoint").write_text(&mut text).expect("memory");
    String::from_utf8_lossy(&text).into_owned()
}

fn json_of(dir: &Path, kind: ViewKind) -> String {
    let mut text = Vec::new();
    View::open(dir, kind).expect("a good checkpoint").write_json(&mut text).expect("memory");
    String::from_utf8(text).expect("JSON is ASCII")
}

/// The view of a draft that was changed.
fn text(change: impl FnOnce(&mut Draft), kind: ViewKind) -> String {
    let mut draft = Draft::new();
    change(&mut draft);
    let dir = tempfile::tempdir().expect("a folder");
    draft.write(dir.path());
    text_of(dir.path(), kind)
}

#[test]
fn text_is_crits_byte_for_byte() {
    for (name, kind) in &ViewKind::NAMES[..4] {
        let expected = std::fs::read_to_string(fixtures().join(format!("crit-x/{name}.txt")));
        assert_eq!(text_of(&fixtures().join("gpu-tree"), *kind), expected.expect("it"), "{name}");
    }
}

#[test]
fn gpu_memory_is_summed_by_process_and_device() {
    let gpus = text_of(&fixtures().join("gpu-tree"), ViewKind::Gpus);
    let rows: Vec<Vec<&str>> =
        gpus.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    let of = |pid, gpu| rows.iter().find(|row| row[0] == pid && row[1] == gpu).expect("a row");
    assert_eq!(rows.len(), 4);
    let first = ["28866", "5a01", "128", "10", "1024", "KiB", "32", "KiB", "2184", "KiB"];
    assert_eq!(of("28866", "5a01")[..10], first);
    assert_eq!(of("28870", "5a02")[..6], ["28870", "5a02", "129", "3", "1024", "KiB"]);
    let json = json_of(&fixtures().join("gpu-tree"), ViewKind::Gpus);
    assert!(json.contains("\"vram\": 1048576,"), "{json}");
}

#[test]
fn buffers_of_render_nodes_are_counted_and_imports_apart() {
    let dir = tempfile::tempdir().expect("a folder");
    Draft::new().write(dir.path());
    let put = |name: &str| ImageWriter::create(dir.path().join(name)).expect("a file");
    let mut fdinfo = put("fdinfo-2.img");
    let entry = criu_image::record::FdinfoEntry {
        id: 99,
        fd: 3,
        r#type: FdTypes::Ext as i32,
        ..Default::default()
    };
    fdinfo.record(&entry).expect("a record");
    fdinfo.finish().expect("a file");
    let bo = |size, preferred_domains, is_import| DrmBoEntry {
        size,
        preferred_domains,
        is_import,
        ..Default::default()
    };
    let node = CriuRenderNode {
        gpu_id: 0x77,
        drm_render_minor: 130,
        bo_entries: vec![bo(4096, 4, 0), bo(8192, 2, 0), bo(1024, 4, 1), bo(u64::MAX, 4, 0)],
        ..Default::default()
    };
    let mut image = put("amdgpu-renderD-99.img");
    image.record(&node).expect("a record");
    image.finish().expect("a file");
    let View::Gpus(rows) = View::open(dir.path(), ViewKind::Gpus).expect("a checkpoint") else {
        panic!("another view")
    };
    assert_eq!((rows.len(), rows[0].pid), (1, CHILD));
    let gpu = &rows[0].gpus[0];
    assert_eq!((gpu.gpu_id, gpu.render_minor, gpu.buffers), (0x77, Some(130), 4));
    assert_eq!((gpu.vram_bytes, gpu.gtt_bytes, gpu.imported_bytes), (u64::MAX, 8192, 1024));
}

/// crit looks for images that a zombie does not have.
#[test]
fn zombies_are_shown_without_files_and_memory() {
    let none = |_: &mut Draft| {};
    assert!(text(none, ViewKind::Processes).contains(&format!("\n{ZOMBIE:>7}")));
    for kind in [ViewKind::Files, ViewKind::Mappings, ViewKind::Runs] {
        let text = text(none, kind);
        assert!(text.contains(&format!("{ZOMBIE}\n{CHILD}\n")), "{text}");
    }
}

/// crit fails on a process without descriptors, which has no such image.
#[test]
fn empty_descriptor_table_has_no_image() {
    let remove = |draft: &mut Draft| drop(draft.files.remove("fdinfo-2.img"));
    assert!(text(remove, ViewKind::Files).contains(&format!("\n{CHILD}\n\t    cwd: /\n")));
}

/// crit takes the last root, or fails if a parent is missing.
#[test]
fn every_process_of_a_damaged_tree_is_shown_once() {
    for entries in [
        vec![pstree(ROOT, 0, &[]), pstree(CHILD, 0, &[])],
        vec![pstree(ROOT, 0, &[]), pstree(CHILD, 77, &[])],
        vec![pstree(ROOT, CHILD, &[]), pstree(CHILD, ROOT, &[])],
        vec![pstree(ROOT, ROOT, &[]), pstree(CHILD, ROOT, &[]), pstree(CHILD, ROOT, &[])],
        vec![pstree(ROOT, 0, &[]), pstree(CHILD, ROOT, &[]), pstree(CHILD, 0, &[])],
    ] {
        let count = 2;
        let put = |draft: &mut Draft| draft.put("pstree.img", &entries);
        assert_eq!(text(put, ViewKind::Processes).lines().count(), 1 + count, "{entries:?}");
    }
}

#[test]
fn files_are_shown_by_kind() {
    let change = |draft: &mut Draft| {
        draft.edit_all("files.img", |files: &mut Vec<FileEntry>| {
            let socket = UnixSkEntry { ino: 5, peer: 6, name: b"\0a".into(), ..Default::default() };
            let pipe = files.iter_mut().find(|file| file.id == PIPE).expect("it is there");
            *pipe = FileEntry { usk: Some(socket), ..pipe.clone() };
        });
        draft.edit_all("fdinfo-1.img", |table: &mut Vec<criu_image::record::FdinfoEntry>| {
            let first = table[0].clone();
            let of = |kind: i32, id| criu_image::record::FdinfoEntry {
                r#type: kind,
                id,
                ..first.clone()
            };
            table.push(of(FdTypes::Unixsk as i32, PIPE));
            table.push(of(FdTypes::Unixsk as i32, 999));
            table.push(of(FdTypes::Pipe as i32, 999));
            table.push(of(FdTypes::Eventfd as i32, 999));
            table.push(of(77, 999));
        });
    };
    let text = text(change, ViewKind::Files);
    for label in ["pipe[7]", "unix[5 (6) =00a]", "unix[?]", "pipe[?]", "EVENTFD.999", "77.999"] {
        assert!(text.contains(&format!(": {label}\n")), "{label} in {text}");
    }
}

/// A name may be as long as a record, and be that of every descriptor.
#[test]
fn names_longer_than_a_path_are_cut() {
    let path = |len: usize| {
        let change = move |draft: &mut Draft| {
            let name = vec![b'x'; len];
            draft.edit_all("files.img", move |files: &mut Vec<FileEntry>| {
                let folder = files.iter_mut().find(|file| file.id == FOLDER);
                let reg = folder.and_then(|file| file.reg.as_mut()).expect("it is there");
                reg.name.clone_from(&name);
            });
        };
        let text = text(change, ViewKind::Files);
        let line = text.lines().find(|line| line.contains("cwd: ")).expect("it has one");
        line.trim_start().trim_start_matches("cwd: ").to_owned()
    };
    assert_eq!(path(4096), "x".repeat(4096));
    assert_eq!(path(4097), "x".repeat(4096) + "...");
}

/// Written as in CRIU before 3.0, which had an image for each kind of file.
#[test]
fn files_of_old_checkpoints_are_named() {
    let put = |draft: &mut Draft, name: &str, magic: u32, record: Vec<u8>| {
        let head = [0x5456_4319u32.to_le_bytes(), magic.to_le_bytes()].concat();
        draft.files.insert(name.to_owned(), [head, record].concat());
    };
    let change = |draft: &mut Draft| {
        draft.files.remove("files.img");
        let reg = RegFileEntry { id: 2, name: b"/old".into(), ..Default::default() };
        put(draft, "reg-files.img", 0x5036_3636, framed(&reg));
        let pipe = PipeEntry { id: PIPE, pipe_id: 4, ..Default::default() };
        put(draft, "pipes.img", 0x5651_3555, framed(&pipe));
    };
    let text = text(change, ViewKind::Files);
    assert!(text.contains("cwd: /old\n") && text.contains(": pipe[4]\n"), "{text}");
}

/// Fields of a later version are no reason to show nothing.
#[test]
fn checkpoint_of_a_later_version_can_be_looked_at() {
    let change = |draft: &mut Draft| {
        let name = "pstree.img";
        let entry = [8, ROOT as u8, 16, 0, 24, 1, 32, 1, 0xf8, 1, 5];
        let record = [&(entry.len() as u32).to_le_bytes()[..], &entry].concat();
        draft.files.insert(name.to_owned(), [head(name), record].concat());
    };
    assert_eq!(text(change, ViewKind::Processes).lines().count(), 2);
}

#[test]
fn names_that_are_not_utf8_are_escaped_in_json() {
    let mut draft = Draft::new();
    draft.edit_task(ROOT, |task| task.comm = b"\xff\"".to_vec());
    let dir = tempfile::tempdir().expect("a folder");
    draft.write(dir.path());
    let json = json_of(dir.path(), ViewKind::Processes);
    assert!(json.contains(r#""comm": "\udcff\"","#), "{json}");
    for (_, kind) in ViewKind::NAMES {
        let json = json_of(dir.path(), kind);
        assert!(json.starts_with('[') && json.ends_with("]\n"), "{json}");
    }
}

#[test]
fn what_a_view_needs_and_is_missing_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = |kind| View::open(dir.path(), kind).expect_err("it is missing").to_string();
    assert!(open(ViewKind::Processes).starts_with("pstree.img is missing"));
    let mut draft = Draft::new();
    draft.files.remove("core-30.img");
    draft.write(dir.path());
    assert_eq!(open(ViewKind::Processes), "core-30.img is missing: process 30");
}

/// crit walks backwards from the first mapping and shows the last.
#[test]
fn memory_before_the_first_mapping_belongs_to_none() {
    let change = |draft: &mut Draft| {
        draft.put_pages("pagemap-10.img", 1, &[(0x1000, 1), (0x40_0000, 1), (0x40_1000, 1)]);
    };
    let text = text(change, ViewKind::Runs);
    let runs: Vec<&str> = text.lines().filter(|line| line.contains(" / 1")).collect();
    assert_eq!(runs.len(), 3, "{text}");
    assert_eq!(runs[0].trim(), "1000 / 1");
    assert!(runs[1].ends_with("00400000 / 2        /bin/program"), "{text}");
    assert!(runs[2].ends_with(" ~"), "{text}");
}
