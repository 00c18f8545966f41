//! What crit (CRIU 4.2, and go-criu 8.4) gets wrong, one test each: it crashes, miscounts, drops
//! data, or writes what nobody can read.

use criu_image::record::{
    BpfmapDataEntry, GhostChunkEntry, GhostFileEntry, IpcMsg, IpcMsgEntry, IpcSemEntry,
    IpcShmEntry, PipeDataEntry, RegFileEntry, RlimitEntry, SitEntry, TcpStreamEntry, UnixSkEntry,
};
use criu_image::{ImageReader, JsonError, count_entries};

use crate::{NO_PAYLOADS, PLAIN, READABLE, check, decode, encode, framed, framed_bytes, image};

const RLIMIT: u32 = 0x5711_3925;
const FDINFO: u32 = 0x5621_3732;
const PIPES_DATA: u32 = 0x5645_3709;
const BPFMAP_DATA: u32 = 0x6432_4033;
const IPCNS_SHM: u32 = 0x4628_3044;
const IPCNS_SEM: u32 = 0x5957_3019;
const IPCNS_MSG: u32 = 0x5545_3737;
const TCP_STREAM: u32 = 0x5146_5506;
const GHOST_FILE: u32 = 0x5258_3605;
const REG_FILES: u32 = 0x5036_3636;
const UNIXSK: u32 = 0x5437_3943;

fn pipe_data(data: &[u8]) -> Vec<u8> {
    let entry = PipeDataEntry { pipe_id: 1, bytes: data.len() as u32, size: None };
    [framed(&entry), data.to_vec()].concat()
}

fn count(image: &[u8]) -> u64 {
    let mut reader = ImageReader::new(image, "test.img").expect("an image");
    count_entries(&mut reader).expect("a good image").count
}

/// Dropped without a word.
#[test]
fn field_of_a_later_version_is_kept() {
    let payload = [8, 1, 16, 2, 0xb8, 1, 150, 1, 0xc2, 1, 2, 7, 8];
    let image = image(RLIMIT, &[&framed_bytes(&payload)]);
    let json = r#"{"cur": 1, "max": 2, "23": 150, "24": "Bwg=\n"}"#;
    check(&image, &format!(r#"{{"magic": "RLIMIT", "entries": [{json}]}}"#));
}

#[test]
fn unknown_fields_of_every_wire_type_are_kept() {
    let varint = [0xb8, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    let fixed64 = [0xc1, 1, 1, 0, 0, 0, 0, 0, 0, 0x80];
    let fixed32 = [0xcd, 1, 1, 0, 0, 0x80];
    let twice = [0xd0, 1, 5, 0xd0, 1, 6];
    let payload = [&[8, 1, 16, 2], &varint[..], &fixed64, &fixed32, &twice].concat();
    let image = image(RLIMIT, &[&framed_bytes(&payload)]);
    let known = r#""cur": 1, "max": 2, "23": 18446744073709551615"#;
    let fixed = r#""24": {"fixed64": 9223372036854775809}, "25": {"fixed32": 2147483649}"#;
    let entry = format!(r#"{{{known}, {fixed}, "26": [5, 6]}}"#);
    check(&image, &format!(r#"{{"magic": "RLIMIT", "entries": [{entry}]}}"#));
}

/// The field was left out.
#[test]
fn enum_value_of_a_later_version_is_kept() {
    let image = image(FDINFO, &[&framed_bytes(&[8, 1, 16, 0, 24, 99, 32, 3])]);
    let json = r#"{"id": 1, "flags": 0, "type": 99, "fd": 3}"#;
    check(&image, &format!(r#"{{"magic": "FDINFO", "entries": [{json}]}}"#));
}

/// Accepted: `{"pid": 1}` and the like from what was there.
#[test]
fn cut_payload_is_an_error_with_its_place() {
    let mut bytes = image(RLIMIT, &[&500u32.to_le_bytes(), &[8, 1]]);
    let error = decode(&bytes, PLAIN).expect_err("it is cut").to_string();
    assert_eq!(error, "test.img is cut: 498 more byte(s) are needed at byte 12");
    bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    let error = decode(&bytes, PLAIN).expect_err("-1 is no length").to_string();
    assert!(error.starts_with("record at byte 8 of test.img claims 4294967295 bytes"), "{error}");
}

/// A Python traceback.
#[test]
fn file_without_a_whole_head_is_cut() {
    for bytes in [&b""[..], &[0x19, 0x43, 0x56], &[0x19, 0x43, 0x56, 0x54]] {
        let error = decode(bytes, PLAIN).expect_err("it is cut");
        assert!(error.to_string().starts_with("test.img is cut"), "{error}");
    }
}

/// `TypeError: expected bytes-like object, not str`
#[test]
fn contents_of_bpf_maps_are_encoded() {
    let entry = BpfmapDataEntry { map_id: 1, keys_bytes: 2, values_bytes: 3, count: 1 };
    let image = image(BPFMAP_DATA, &[&framed(&entry), b"kkvvv"]);
    let fields = r#""map_id": 1, "keys_bytes": 2, "values_bytes": 3, "count": 1"#;
    let json = |extra: &str| {
        format!(r#"{{"magic": "BPFMAP_DATA", "entries": [{{{fields}, "extra": "{extra}"}}]}}"#)
    };
    check(&image, &json(r"a2t2dnY=\n"));
    // `AttributeError: bytes`
    assert_eq!(decode(&image, NO_PAYLOADS).expect("a good image"), json("... <5B>"));
}

/// `TypeError: expected bytes-like object, not str`
#[test]
fn contents_of_shared_memory_segments_are_encoded() {
    let entry = IpcShmEntry { size: 5, ..Default::default() };
    let image = image(IPCNS_SHM, &[&framed(&entry), b"hello\0\0\0"]);
    let json = decode(&image, PLAIN).expect("a good image");
    assert!(json.ends_with(r#""size": 5, "extra": "aGVsbG8=\n"}]}"#), "{json}");
    crate::round_trip(&image);
}

/// What follows a segment in a pagemap was read as its contents.
#[test]
fn segment_in_a_pagemap_does_not_eat_the_next() {
    let entry = IpcShmEntry { size: 4096, in_pagemaps: Some(true), ..Default::default() };
    let image = image(IPCNS_SHM, &[&framed(&entry), &framed(&entry)]);
    let json = decode(&image, PLAIN).expect("a good image");
    assert_eq!(json.matches(r#""in_pagemaps": true, "extra": ""}"#).count(), 2, "{json}");
    crate::round_trip(&image);
}

/// Data was counted as records.
#[test]
fn data_is_not_counted_as_entries() {
    assert_eq!(count(&image(PIPES_DATA, &[&pipe_data(b"four"), &pipe_data(&[0; 100])])), 2);
}

/// `AttributeError: no attribute 'count'`
#[test]
fn ghost_files_are_counted() {
    let whole = GhostFileEntry { mode: 0o100_644, ..Default::default() };
    assert_eq!(count(&image(GHOST_FILE, &[&framed(&whole), b"contents"])), 1);
    let sparse = GhostFileEntry { chunks: Some(true), size: Some(9), ..whole };
    let chunk = GhostChunkEntry { len: 4, off: 0 };
    assert_eq!(count(&image(GHOST_FILE, &[&framed(&sparse), &framed(&chunk), b"four"])), 2);
}

/// Shown as `"b'/x/\\xff\\xfe'"`, and saved so.
#[test]
fn path_that_is_not_utf8_comes_back() {
    let entry = RegFileEntry { name: b"/x/\xff\xfe".to_vec(), ..Default::default() };
    let image = image(REG_FILES, &[&framed(&entry)]);
    let json = decode(&image, PLAIN).expect("a good image");
    assert!(json.contains(r#""name": "/x/\udcff\udcfe""#), "{json}");
    crate::round_trip(&image);
}

/// All line breaks were made alike.
#[test]
fn socket_name_with_both_kinds_of_line_breaks_comes_back() {
    let entry = UnixSkEntry { name: b"\0a\r\nb\nc".to_vec(), ..Default::default() };
    let image = image(UNIXSK, &[&framed(&entry)]);
    let json = decode(&image, PLAIN).expect("a good image");
    assert!(json.contains(r#""name": "=00a=0D=0Ab=0Ac""#), "{json}");
    crate::round_trip(&image);
}

/// `IndexError` with two words; words after the fourth were dropped.
#[test]
fn address_of_an_odd_length_is_shown_as_numbers() {
    for len in [2, 3, 5, 8] {
        let entry = SitEntry { local: (1..=len).collect(), ..Default::default() };
        let link = criu_image::record::NetDeviceEntry {
            r#type: 8,
            sit: Some(entry),
            ..Default::default()
        };
        let image = image(0x5737_3951, &[&framed(&link)]);
        let json = decode(&image, READABLE).expect("a good image");
        assert!(json.contains(&format!("{len}\n                ]")), "{json}");
        crate::round_trip(&image);
    }
}

/// Written, although no reader gets past it.
#[test]
fn data_of_another_length_than_its_entry_says_is_refused() {
    let json = |extra: &str| {
        let entry = format!(r#"{{"pipe_id": 1, "bytes": 3, "extra": "{extra}"}}"#);
        format!(r#"{{"magic": "PIPES_DATA", "entries": [{entry}]}}"#)
    };
    assert!(encode(&json("YWJj\\n")).is_ok());
    for extra in ["YWI=", "YWJjZA==", ""] {
        assert!(matches!(encode(&json(extra)), Err(JsonError::Entry { index: 0 | 1, .. })));
    }
}

/// Passed over without a word, so that a mistake in a name lost the value.
#[test]
fn unknown_name_is_refused() {
    let json = r#"{"magic": "RLIMIT", "entries": [{"cur": 1, "max": 2, "macs": 3}]}"#;
    crate::refused(json, "RlimitEntry.macs is no field of this message");
    let json = r#"{"magic": "RLIMIT", "entries": [{"cur": 1, "max": 2, "extra": "YQ=="}]}"#;
    crate::refused(json, "entry 0: 1 byte(s) of data where 0 belong");
}

/// `bool("false")` is true.
#[test]
fn false_as_text_does_not_become_true() {
    let json = r#"{"magic": "TUNFILE", "entries": [{"id": 1, "detached": "false"}]}"#;
    crate::refused(json, "TunfileEntry.detached has no such value");
}

/// Known by number, but `No handler found for image with magic PIDFD`.
#[test]
fn images_that_crit_knows_by_number_only_are_read() {
    let names = [(0x5443_5556, "PIDFD"), (0x5925_5647, "SIGNAL"), (0x6734_3323, "BINFMT_MISC")];
    for (magic, name) in names {
        check(&image(magic, &[]), &format!(r#"{{"magic": "{name}", "entries": []}}"#));
    }
    let kdat = [&0x5702_3458u32.to_le_bytes()[..], b"\x01\x02\x03"].concat();
    check(&kdat, r#"{"magic": "KDAT", "entries": [{"extra": "AQID\n"}]}"#);
}

/// Two fields of one number would be merged, and an empty record accepted.
#[test]
fn records_that_criu_itself_cannot_read_are_refused() {
    let of = |payload: &[u8]| image(RLIMIT, &[&framed_bytes(payload)]);
    for (payload, words) in [
        (&[8, 1, 8, 2, 16, 3][..], "RlimitEntry.cur occurs twice"),
        (&[8, 1], "RlimitEntry.max is missing"),
        (&[10, 0, 16, 1], "RlimitEntry.cur has wire type 2"),
        (&[8, 1, 16], "RlimitEntry is cut short"),
    ] {
        let error = decode(&of(payload), PLAIN).expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    }
    let entry = RlimitEntry { cur: 1, max: u64::MAX };
    check(
        &of(&prost::Message::encode_to_vec(&entry)),
        r#"{"magic": "RLIMIT", "entries": [{"cur": 1, "max": 18446744073709551615}]}"#,
    );
}

/// crit in Go pads by a whole unit where nothing is to be padded, and segments not at all.
#[test]
fn data_that_fills_its_unit_is_not_padded() {
    let semaphores = |nsems: u32| {
        let set = IpcSemEntry { nsems, ..Default::default() };
        let values: Vec<u8> = (0..nsems as u16).flat_map(u16::to_le_bytes).collect();
        let padding = vec![0; values.len().next_multiple_of(8) - values.len()];
        image(IPCNS_SEM, &[&framed(&set), &values, &padding, &framed(&set), &values, &padding])
    };
    (0..10).for_each(|nsems| crate::round_trip(&semaphores(nsems)));
    let segment = |size: u64| {
        let entry = IpcShmEntry { size, ..Default::default() };
        let data = vec![7; size as usize];
        let padding = vec![0; (size.next_multiple_of(4) - size) as usize];
        image(IPCNS_SHM, &[&framed(&entry), &data, &padding, &framed(&entry), &data, &padding])
    };
    (0..9).for_each(|size| crate::round_trip(&segment(size)));
}

/// crit in Go mixes up records and data from the second message on.
#[test]
fn many_messages_of_a_queue_come_back() {
    for count in 0..5u32 {
        let queue = IpcMsgEntry { qnum: count, ..Default::default() };
        let mut parts = vec![framed(&queue)];
        for index in 0..count {
            let msize = index * 4;
            parts.push(framed(&IpcMsg { mtype: index.into(), msize }));
            let mut data = vec![index as u8; msize as usize];
            data.resize((msize as usize).next_multiple_of(8), 0);
            parts.push(data);
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        crate::round_trip(&image(IPCNS_MSG, &parts));
    }
}

/// crit in Go writes the length of a chunk's data where that of its record belongs.
#[test]
fn chunks_of_deleted_files_come_back() {
    let entry = GhostFileEntry { chunks: Some(true), size: Some(1 << 40), ..Default::default() };
    let chunk = |off, len: u64| framed(&GhostChunkEntry { len, off });
    let data = vec![9; 1000];
    let parts: [&[u8]; 5] = [&framed(&entry), &chunk(0, 3), b"abc", &chunk(1 << 39, 1000), &data];
    crate::round_trip(&image(GHOST_FILE, &parts));
}

/// crit in Go splices data into JSON as text, which breaks it where data is not one string.
#[test]
fn data_of_any_shape_is_json() {
    let stream = TcpStreamEntry { inq_len: 1, outq_len: 2, ..Default::default() };
    let json = decode(&image(TCP_STREAM, &[&framed(&stream), b"\"\\\n"]), PLAIN);
    let json = json.expect("a good image");
    assert!(json.ends_with(r#""extra": {"inq": "Ig==\n", "outq": "XAo=\n"}}]}"#), "{json}");
}

/// crit in Go takes what one call of the kernel gives as all that there is.
#[test]
fn short_reads_are_completed() {
    struct OneByte<'a>(&'a [u8]);
    impl std::io::Read for OneByte<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            let len = into.len().min(1);
            self.0.read(&mut into[..len])
        }
    }
    let bytes = image(PIPES_DATA, &[&pipe_data(b"four"), &pipe_data(&[7; 100])]);
    let mut reader = ImageReader::new(OneByte(&bytes), "test.img").expect("an image");
    let mut json = Vec::new();
    criu_image::decode_json(&mut reader, &mut json, PLAIN).expect("a good image");
    assert_eq!(json, decode(&bytes, PLAIN).expect("a good image").into_bytes());
    let mut again = Vec::new();
    criu_image::encode_json(OneByte(&json), &mut again).expect("JSON of ours");
    assert_eq!(again, bytes);
}
