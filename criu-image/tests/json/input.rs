//! JSON as people and other programs write it: any order, numbers as text, other base64.

use crate::{check, encode, image, refused};

const PAGEMAP: u32 = 0x5608_4025;
const RLIMIT: u32 = 0x5711_3925;

fn rlimit(json: &str) -> String {
    format!(r#"{{"magic": "RLIMIT", "entries": [{json}]}}"#)
}

/// The description of an object of System V IPC.
const DESC: &str = concat!(
    r#""desc": {"key": 1, "uid": 1, "gid": 1, "#,
    r#""cuid": 1, "cgid": 1, "mode": 1, "id": 1}"#
);

fn semaphores(count: u32) -> String {
    format!(r#"{DESC}, "nsems": {count}"#)
}

fn messages(count: u32) -> String {
    format!(r#"{DESC}, "qbytes": 9, "qnum": {count}"#)
}

fn tcp() -> String {
    let queues = r#""inq_len": 0, "inq_seq": 0, "outq_len": 1, "outq_seq": 0"#;
    format!(r#"{queues}, "opt_mask": 0, "snd_wscale": 0, "mss_clamp": 0"#)
}

fn same(json: &str, expected: &str) {
    assert_eq!(encode(json).expect(json), encode(expected).expect(expected), "{json}");
}

#[test]
fn names_may_come_in_any_order() {
    same(&rlimit(r#"{"max": 2, "cur": 1}"#), &rlimit(r#"{"cur": 1, "max": 2}"#));
    same(&rlimit(r#"{"7": 1, "max": 2, "cur": 1}"#), &rlimit(r#"{"cur": 1, "max": 2, "7": 1}"#));
    let plain = rlimit(r#"{"cur": 1, "max": 2}"#);
    same(r#"{"entries": [{"cur": 1, "max": 2}], "magic": "RLIMIT"}"#, &plain);
}

#[test]
fn data_may_come_before_its_entry() {
    for (magic, first, last) in [
        ("PIPES_DATA", r#""extra": "YWJj""#, r#""pipe_id": 1, "bytes": 3"#),
        ("IPCNS_SEM", r#""extra": [1, 2]"#, &semaphores(2)),
        ("IPCNS_MSG", r#""extra": [{"mtype": 1, "msize": 1}, "YQ=="]"#, &messages(1)),
        ("TCP_STREAM", r#""extra": {"outq": "YQ==", "inq": ""}"#, &tcp()),
    ] {
        let of = |a, b| format!(r#"{{"magic": "{magic}", "entries": [{{{a}, {b}}}]}}"#);
        same(&of(first, last), &of(last, first));
    }
}

#[test]
fn numbers_may_be_text_in_any_base() {
    let plain = rlimit(r#"{"cur": 255, "max": 8}"#);
    same(&rlimit(r#"{"cur": "0xff", "max": "8"}"#), &plain);
    same(&rlimit(r#"{"cur": "0b11111111", "max": "0o10"}"#), &plain);
    for value in ["\"\"", "\"ff\"", "\"1.0\"", "1.5", "null", "[]", "{}"] {
        refused(&rlimit(&format!(r#"{{"cur": {value}, "max": 8}}"#)), "");
    }
}

#[test]
fn readable_and_plain_values_may_be_mixed() {
    let of = |vaddr: &str, flags: &str| {
        let entry = format!(r#"{{"vaddr": {vaddr}, "compat_nr_pages": 1, "flags": {flags}}}"#);
        format!(r#"{{"magic": "PAGEMAP", "entries": [{{"pages_id": 1}}, {entry}]}}"#)
    };
    let plain = of("4096", "5");
    same(&of("\"0x1000\"", "\"PE_PARENT | PE_PRESENT\""), &plain);
    same(&of("\"4096\"", "\"0x1 | 4\""), &plain);
    refused(&of("1", "\"PE_NONSENSE\""), "PagemapEntry.flags has no such value");
}

#[test]
fn base64_of_other_programs_is_read() {
    let of = |extra: &str| {
        let entry = format!(r#"{{"pipe_id": 1, "bytes": 3, "extra": "{extra}"}}"#);
        format!(r#"{{"magic": "PIPES_DATA", "entries": [{entry}]}}"#)
    };
    // crit in Go writes no line breaks.
    same(&of("YWJj"), &of("YWJj\\n"));
    same(&of("Y W\\nJ-j"), &of("YWJj\\n"));
}

#[test]
fn numbers_that_do_not_fit_are_refused() {
    let of = |fields: &str| format!(r#"{{"magic": "FS", "entries": [{{{fields}}}]}}"#);
    assert!(encode(&of(r#""cwd_id": 4294967295, "root_id": 0"#)).is_ok());
    for value in ["4294967296", "-1", "\"0x100000000\"", "99999999999999999999"] {
        refused(&of(&format!(r#""cwd_id": {value}, "root_id": 0"#)), "");
    }
    let lock = |start: &str| {
        let rest = r#""flag": 0, "type": 0, "pid": -1, "fd": -2147483648, "len": 0"#;
        format!(r#"{{"magic": "FILE_LOCKS", "entries": [{{{rest}, "start": {start}}}]}}"#)
    };
    assert!(encode(&lock("-9223372036854775808")).is_ok());
    assert!(encode(&lock("9223372036854775807")).is_ok());
    refused(&lock("9223372036854775808"), "FileLockEntry.start cannot hold the value");
    refused(&lock("-9223372036854775809"), "FileLockEntry.start cannot hold the value");
}

#[test]
fn everything_is_there_once() {
    refused(&rlimit(r#"{"cur": 1, "max": 2, "cur": 1}"#), "RlimitEntry.cur is there twice");
    refused(&rlimit(r#"{"cur": 1}"#), "RlimitEntry.max is missing");
    refused(&rlimit(r#"{"1": 1, "max": 2}"#), "RlimitEntry.1 is no field");
    refused(&rlimit(r#"{"cur": 1, "max": 2, "7": 3, "7": 3}"#), "RlimitEntry.7 is there twice");
    refused(&rlimit(r#"{"7": 3, "cur": 1, "max": 2, "7": 3}"#), "RlimitEntry.7 is there twice");
    refused(r#"{"magic": "RLIMIT"}"#, "\"magic\" and \"entries\"");
    refused(r#"{"magic": "RLIMIT", "magic": "RLIMIT"}"#, "each once");
    refused(r#"{"magic": "RLIMIT", "entries": [], "entries": []}"#, "each once");
    refused(r#"{"entries": [], "entries": [], "magic": "RLIMIT"}"#, "each once");
    refused(r#"{"magic": "RLIMIT", "entries": [], "more": 1}"#, "each once");
    refused(r#"{"magic": "RLIMIT", "entries": []} x"#, "the end is expected");
    refused(r#"{"magic": "NONSENSE", "entries": []}"#, "no image has the magic \"NONSENSE\"");
}

/// After the last field there is no name to guess.
#[test]
fn empty_name_is_no_field() {
    refused(&rlimit(r#"{"cur": 1, "max": 2, "": 3}"#), "RlimitEntry. is no field");
    refused(&rlimit(r#"{"": 3}"#), "RlimitEntry. is no field");
}

/// The window is 64 KiB: names, numbers and escapes are cut by its end in every place.
#[test]
fn end_of_the_window_may_cut_anything() {
    for indent in 0..120 {
        let space = " ".repeat((64 << 10) - indent);
        let fields = r#""uid": 12, "gid": 345, "mode": 6789, "symlnk_target": "\u00e9\n""#;
        let entry = format!(r#"{{{fields}, "extra": "YWJj"}}"#);
        let of = |space: &str| format!(r#"{{"magic": "GHOST_FILE", "entries": [{space}{entry}]}}"#);
        same(&of(&space), &of(""));
    }
}

#[test]
fn data_of_the_wrong_shape_is_refused() {
    for (magic, fields, extra) in [
        ("PIPES_DATA", r#""pipe_id": 1, "bytes": 3"#, "[1]"),
        ("PIPES_DATA", r#""pipe_id": 1, "bytes": 3"#, "\"YWJ\""),
        ("IPCNS_SEM", &semaphores(2), "\"YQ==\""),
        ("IPCNS_SEM", &semaphores(2), "[1]"),
        ("IPCNS_SEM", &semaphores(2), "[1, 65536]"),
        ("IPCNS_SEM", &semaphores(2), "[1, -1]"),
        ("IPCNS_SEM", &semaphores(2), "[1, 2, 3]"),
        ("IPCNS_MSG", &messages(1), "[]"),
        ("IPCNS_MSG", &messages(1), r#"[{"mtype": 1, "msize": 1}]"#),
        ("IPCNS_MSG", &messages(1), r#"[{"mtype": 1, "msize": 1}, "YWI="]"#),
        ("IPCNS_MSG", &messages(0), r#"[{"mtype": 1, "msize": 0}, ""]"#),
        ("TCP_STREAM", &tcp(), r#"{"inq": ""}"#),
        ("TCP_STREAM", &tcp(), r#"{"inq": "YQ==", "outq": ""}"#),
        ("TCP_STREAM", &tcp(), r#"{"inq": "", "outq": "YQ==", "x": ""}"#),
    ] {
        refused(
            &format!(r#"{{"magic": "{magic}", "entries": [{{{fields}, "extra": {extra}}}]}}"#),
            "",
        );
    }
}

/// A socket queue between others, the semaphores of crit's list, messages of several lengths.
#[test]
fn data_of_every_kind_comes_back() {
    let texts = r#"[{"mtype": 5, "msize": 9}, "YWJjZGVmZ2hp\n", {"mtype": 6, "msize": 0}, ""]"#;
    for (magic, fields, extra) in [
        ("IPCNS_SEM", semaphores(3), "[1, 2, 65535]"),
        ("IPCNS_MSG", messages(2), texts),
        ("IPCNS_MSG", messages(0), "[]"),
        ("TCP_STREAM", tcp(), r#"{"inq": "", "outq": "YQ==\n"}"#),
        ("SK_QUEUES", r#""id_for": 1, "length": 1"#.to_owned(), r#""YQ==\n""#),
    ] {
        let entry = format!(r#"{{{fields}, "extra": {extra}}}"#);
        let json = format!(r#"{{"magic": "{magic}", "entries": [{entry}, {entry}]}}"#);
        check(&encode(&json).expect("good JSON"), &json);
    }
}

#[test]
fn empty_images_come_back() {
    check(&image(PAGEMAP, &[]), r#"{"magic": "PAGEMAP", "entries": []}"#);
    check(&image(RLIMIT, &[]), r#"{"magic": "RLIMIT", "entries": []}"#);
}
