//! Files of the amdgpu plugin, in a JSON of our own: they have no magic number, so names decide.

use std::fs;
use std::path::Path;

use criu_image::record::{CriuKfd, KfdPrivate};
use criu_image::{
    ImageReader, PrivateError, count_entries, decode_json, pack_kfd_private, unpack_kfd_private,
};

use crate::{NO_PAYLOADS, PLAIN, READABLE, encode, fixtures};

fn decode(path: &Path, options: criu_image::JsonOptions) -> String {
    let mut json = Vec::new();
    let mut image = ImageReader::open(path).expect("an image");
    decode_json(&mut image, &mut json, options).expect("a good image");
    String::from_utf8(json).expect("JSON is ASCII")
}

#[track_caller]
fn round_trip(path: &Path) {
    for options in [PLAIN, READABLE] {
        let json = decode(path, options);
        let again = encode(&json).expect("JSON of ours");
        assert!(again == fs::read(path).expect("it is there"), "{}", path.display());
    }
}

fn kfd() -> CriuKfd {
    let mut image = ImageReader::open(fixtures().join("gpu-tree/amdgpu-kfd-19.img"));
    let image = image.as_mut().expect("an image");
    let (_, kfd) = image.next_record::<CriuKfd>().expect("a good image").expect("a record");
    assert!(image.next_record::<CriuKfd>().expect("the end").is_none());
    kfd
}

#[test]
fn files_of_a_checkpoint_come_back() {
    let mut count = 0;
    for file in fs::read_dir(fixtures().join("gpu-tree")).expect("it is there") {
        let path = file.expect("a file").path();
        if path.display().to_string().contains("amdgpu") {
            round_trip(&path);
            count += 1;
        }
    }
    assert_eq!(count, 6);
}

#[test]
fn private_data_of_the_driver_is_taken_apart() {
    let json = decode(&fixtures().join("gpu-tree/amdgpu-kfd-19.img"), PLAIN);
    let begin =
        r#""priv_data": {"version": 1, "xnack_mode": 0, "devices": [0, 0], "bos": [{"user_addr": "#;
    assert!(json.contains(begin), "{json}");
    let private = unpack_kfd_private(&kfd()).expect("version 1");
    let counts = (private.bos.len(), private.queues.len(), private.events.len());
    assert_eq!(counts, (13, 2, 1));
    assert_eq!(private.queues[0].gpu_id, 0x5a01);
    assert_eq!(pack_kfd_private(&private), Some(kfd().priv_data));
}

#[test]
fn private_data_of_another_version_is_kept_as_bytes() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("amdgpu-kfd-1.img");
    let mut changed = kfd();
    changed.priv_data[0] = 2;
    let version = Err(PrivateError::Version { found: 2 });
    assert_eq!(unpack_kfd_private(&changed), version);
    let mut image = criu_image::ImageWriter::create(&path).expect("a file");
    image.record(&changed).expect("a record");
    image.finish().expect("a file");
    assert!(decode(&path, PLAIN).contains(r#""priv_data": "AgAAAA"#));
    round_trip(&path);
}

/// The length before the contents of a render node's buffers is whatever was in memory.
#[test]
fn contents_keep_the_length_that_they_claim() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, claimed) in
        [("amdgpu-pages-19-5a01.img", 5u64), ("amdgpu-drm-pages-21-128-0000.img", u64::MAX)]
    {
        let path = dir.path().join(name);
        let bytes = [&claimed.to_le_bytes()[..], b"hello"].concat();
        fs::write(&path, bytes).expect("room");
        let json = decode(&path, PLAIN);
        assert!(json.ends_with(&format!(r#"{{"size": {claimed}, "extra": "aGVsbG8=\n"}}]}}"#)));
        assert!(decode(&path, NO_PAYLOADS).ends_with(r#""extra": "... <5B>"}]}"#));
        round_trip(&path);
        let mut image = ImageReader::open(&path).expect("an image");
        assert_eq!(count_entries(&mut image).expect("a good image").count, 1);
    }
}

#[test]
fn buffers_shared_between_processes_come_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("amdgpu-dmabuf_7.img");
    let node = criu_image::record::CriuDmabufNode { gem_handle: 3 };
    let mut image = criu_image::ImageWriter::create(&path).expect("a file");
    image.record(&node).expect("a record");
    assert!(image.record(&node).is_err(), "there is one record");
    image.finish().expect("a file");
    let expected = r#"{"magic": "AMDGPU_DMABUF", "entries": [{"gem_handle": 3}]}"#;
    assert_eq!(decode(&path, PLAIN), expected);
    round_trip(&path);
}

#[test]
fn files_without_their_only_record_are_refused() {
    for kind in ["KFD", "RENDER_NODE", "DMABUF", "PAGES", "DRM_PAGES"] {
        let json = format!("{{\"magic\": \"AMDGPU_{kind}\", \"entries\": []}}");
        crate::refused(&json, &format!("AMDGPU_{kind} has one record, and none was written"));
    }
    let twice = r#"{"gem_handle": 1}, {"gem_handle": 2}"#;
    let json = format!("{{\"magic\": \"AMDGPU_DMABUF\", \"entries\": [{twice}]}}");
    crate::refused(&json, "entry 1: ");
}

#[test]
fn damaged_files_are_errors() {
    let dir = tempfile::tempdir().expect("a folder");
    let whole = fs::read(fixtures().join("gpu-tree/amdgpu-renderD-21.img")).expect("it");
    let path = dir.path().join("amdgpu-renderD-1.img");
    let fails = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("room");
        let mut image = ImageReader::open(&path).expect("the head is checked with the record");
        decode_json(&mut image, std::io::sink(), PLAIN).expect_err("it is damaged").to_string()
    };
    for len in 0..whole.len() {
        fails(&whole[..len]);
    }
    let more = fails(&[&whole[..], b"x"].concat());
    assert!(more.ends_with("there is more than the record"), "{more}");
    let mut long = whole.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(fails(&long).contains("claims 18446744073709551615 bytes"));
}

#[test]
fn private_data_that_the_driver_has_no_room_for_is_refused() {
    let json = decode(&fixtures().join("gpu-tree/amdgpu-kfd-19.img"), PLAIN);
    let ids = (0..65).map(|_| "1").collect::<Vec<_>>().join(", ");
    let long =
        json.replacen(r#""mapped_gpu_ids": [23041]"#, &format!(r#""mapped_gpu_ids": [{ids}]"#), 1);
    assert_ne!(long, json);
    crate::refused(&long, "CriuKfd.priv_data holds more than the driver can take");
    let mut private = KfdPrivate { version: 1, ..Default::default() };
    assert!(pack_kfd_private(&private).is_some());
    private.events.push(Default::default());
    assert!(pack_kfd_private(&private).is_none());
}
